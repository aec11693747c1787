"use strict";
// Images by class, kind of mistake and run: shown is an image with a mistake that fits all choices.
for (const form of document.querySelectorAll("form.filter")) {
  const cases = Array.from(form.closest("section").querySelectorAll(".case"));
  const chosen = (name) => form.elements.namedItem(name)?.value ?? "";
  const fits = (mark) => {
    const parts = mark.split(":");
    return ["class", "kind", "run"].every((name, i) => ["", parts[i]].includes(chosen(name)));
  };
  const filter = () => {
    const all = ["class", "kind", "run"].every((name) => chosen(name) === "");
    for (const item of cases) {
      item.hidden = !all && !item.dataset.mistakes.split(" ").some(fits);
    }
    const shown = cases.filter((item) => !item.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${cases.length} images shown`;
  };
  form.addEventListener("change", filter);
  // The fields have their first values again only after the event.
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  // A browser may bring back the choices of an earlier visit.
  form.reset();
}
