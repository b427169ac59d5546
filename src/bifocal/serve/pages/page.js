// Keys for the queue, a picture that is dropped, forms that go once; without this script every page works by its buttons.
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

// The browser's Back shows a page as it was left: sent, and of a post that is judged. Fetched anew, by GET, it is true.
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.replace(location.pathname + location.search);
});

const drop = document.getElementById("drop");
if (drop) {
  const input = document.getElementById("image");
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
