// Two things that the page does beside standing there: unveil a post on a click, and follow the threshold slider.
"use strict";
document.addEventListener("click", (event) => {
  const veil = event.target.closest("button.veiled");
  if (veil) veil.setAttribute("aria-pressed", veil.getAttribute("aria-pressed") !== "true");
});
const slider = document.getElementById("threshold");
if (slider) {
  const splits = {};
  for (const prefix of ["explorer", "tested"]) {
    const data = document.getElementById(`${prefix}-data`);
    if (data) splits[prefix] = JSON.parse(data.textContent);
  }
  const percent = (part, whole) => (whole ? `${(100 * part / whole).toFixed(1)}%` : "n/a");
  const show = () => {
    for (const [prefix, rows] of Object.entries(splits)) {
      const row = rows[Number(slider.value)];
      const flagged = row.tp + row.fp, positives = row.tp + row.fn, all = flagged + row.fn + row.tn;
      const put = (name, text) => { document.getElementById(`${prefix}-${name}`).textContent = text; };
      put("precision", percent(row.tp, flagged));
      put("recall", percent(row.tp, positives));
      put("fpr", percent(row.fp, row.fp + row.tn));
      put("flagged", percent(flagged, all));
      put("review", percent(row.review, all));
      put("counts", `${row.tp} true and ${row.fp} false positives, ${row.fn} false and ${row.tn} true negatives`);
      if (prefix === "explorer") put("threshold", row.threshold.toFixed(2));
    }
  };
  slider.addEventListener("input", show);
  show();
}
