// Keys for the queue, local times, what is marked and kept while one reads and types, a picture that is dropped, forms
// that go once; without this script every page works by its buttons.
"use strict";

const opened = performance.now();

const keys = document.getElementById("keys");
if (keys) {
  keys.checked = localStorage.getItem("keys") !== "off";
  keys.closest("label").hidden = false;
  keys.addEventListener("change", () => localStorage.setItem("keys", keys.checked ? "on" : "off"));
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (localStorage.getItem("keys") === "off") return;
  const target = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (!target) return;
  // A second press that was meant for the post before must not judge this one, which nobody has seen yet.
  if (target.matches(".allow, .block") && performance.now() - opened < 700) return;
  event.preventDefault();
  target.click();
});

// One press is one verdict.
let sent = false;
for (const form of document.querySelectorAll("main form[method=post]")) {
  form.addEventListener("submit", (event) => {
    if (sent) event.preventDefault();
    sent = true;
    const button = form.querySelector("[data-busy]");
    if (!button) return;
    button.textContent = button.dataset.busy;
    button.setAttribute("aria-busy", "true");
  });
}

// Moments as this machine's clock has them; how long ago they were goes on.
const told = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

function tellTimes() {
  for (const one of document.querySelectorAll("time")) {
    const at = new Date(one.dateTime);
    const minutes = Math.floor((Date.now() - at) / 60000);
    one.title = told.format(at);
    if (one.className === "clock") one.textContent = clock.format(at);
    else if (minutes < 1) one.textContent = "just now";
    else if (minutes < 60) one.textContent = `${minutes} min ago`;
    else if (minutes < 24 * 60) one.textContent = `${Math.floor(minutes / 60)} h ago`;
    else if (minutes < 14 * 24 * 60) one.textContent = `${Math.floor(minutes / 60 / 24)} d ago`;
    else one.textContent = day.format(at);
  }
}
tellTimes();
setInterval(tellTimes, 20000);

// What made the decision takes many passes of the models: it is asked for once the post is there to be read.
const marked = document.getElementById("post");
const mark = async (link) => {
  const asked = link.textContent;
  link.textContent = "Marking what made the decision…";
  link.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(link.dataset.from);
    if (!answer.ok) throw new Error(answer.status === 422 ? "not possible" : "");
    const drawn = new DOMParser().parseFromString(await answer.text(), "text/html");
    const [seen, focus] = [document.getElementById("show")?.checked, document.activeElement?.id];
    marked.replaceChildren(...drawn.body.childNodes);
    const show = document.getElementById("show");
    if (show && seen) show.checked = true;
    if (focus && !document.activeElement?.id) document.getElementById(focus)?.focus({ preventScroll: true });
  } catch (error) {
    link.textContent = `${asked}: ${error.message === "not possible" ? "not asked of this post" : "no time for it just now, try again"}`;
    link.removeAttribute("aria-busy");
  }
};
if (marked) {
  marked.addEventListener("click", (event) => {
    const link = event.target.closest("[data-from]");
    if (link) event.preventDefault();
    if (link && !link.ariaBusy) mark(link);
  });
  const first = document.getElementById("marks");
  if (first) mark(first);
}

// What is typed outlives a look at another page; whoever types, or reads on, keeps the post in hand.
const why = document.querySelector("[data-draft]");
if (why) {
  const name = `why-${why.dataset.draft}`;
  if (!why.value) why.value = sessionStorage.getItem(name) ?? "";
  why.addEventListener("input", () => sessionStorage.setItem(name, why.value));
  why.form.addEventListener("submit", () => sessionStorage.removeItem(name));
}

const left = document.getElementById("left");
if (left) {
  const whole = 300; // seconds that a claim holds
  const [until, kept, longer] = [left.parentElement.querySelector("time"), document.getElementById("kept"), document.getElementById("longer")];
  let [end, busy, asked] = [Date.now() + 1000 * left.dataset.left, false, 0];
  const keep = async () => {
    [busy, asked] = [false, Date.now()];
    try {
      const answer = await fetch(left.dataset.keep, { method: "POST" });
      if (answer.ok) {
        end = Date.now() + 1000 * (await answer.json()).left;
        until.dateTime = new Date(end).toISOString();
        tellTimes();
        kept.textContent = "";
      } else if (answer.status === 401) {
        kept.textContent = "You are signed out. Give your verdict all the same: what you typed comes back.";
      } else if (answer.status === 409) {
        end = 0;
        kept.textContent = "This post is in other hands now: copy what you typed.";
      }
    } catch { /* no answer: asked again while one types */ }
  };
  const tick = () => {
    const seconds = Math.max(0, Math.round((end - Date.now()) / 1000));
    left.textContent = seconds ? `, ${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} left` : ": that is over, and another may take it";
    left.parentElement.classList.toggle("short", seconds < 60);
    if (busy && seconds < whole - 45 && Date.now() - asked > 15000) keep();
  };
  for (const kind of ["input", "keydown", "pointerdown", "scroll"]) {
    document.addEventListener(kind, () => { busy = true; }, { passive: true });
  }
  longer.addEventListener("click", (event) => { event.preventDefault(); keep(); });
  setInterval(tick, 1000);
}

// The browser's Back shows a page as it was left: sent, and of a post that is judged. Fetched anew, by GET, it is true.
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.replace(location.pathname + location.search);
});

const drop = document.getElementById("drop");
if (drop) {
  const input = drop.querySelector("input");
  const chosen = document.getElementById("chosen");
  const tell = () => {
    const [file] = input.files;
    const large = file && file.size > input.dataset.most
      ? `${Math.ceil(file.size / 1e6)} MB; at most ${Math.floor(input.dataset.most / 1e6)} MB: make it smaller` : "";
    input.setCustomValidity(large); // the browser sends no form with it, and says so at the field
    chosen.textContent = file ? `${file.name}, ${large || `${Math.ceil(file.size / 1024)} KiB`}` : "";
  };
  input.addEventListener("change", tell);
  for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const kind of ["dragleave", "drop"]) {
    drop.addEventListener(kind, () => drop.classList.remove("over"));
  }
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (!event.dataTransfer.files.length) return;
    const one = new DataTransfer();
    one.items.add(event.dataTransfer.files[0]);
    input.files = one.files;
    tell();
  });
}
