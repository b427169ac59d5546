// Keys for the queue, and dropping a picture; without this script every page works by its buttons.
"use strict";

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const target = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (!target) return;
  event.preventDefault();
  target.click();
});

const drop = document.getElementById("drop");
if (drop) {
  const input = document.getElementById("image");
  const chosen = document.getElementById("chosen");
  const tell = () => { chosen.textContent = input.files.length ? `${input.files[0].name}, ${Math.ceil(input.files[0].size / 1024)} KiB` : ""; };
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

// One press is one verdict.
for (const form of document.querySelectorAll("form.verdict")) {
  let sent = false;
  form.addEventListener("submit", (event) => { if (sent) event.preventDefault(); sent = true; });
}
