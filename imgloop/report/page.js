"use strict";
// Without this script, the sheets of all generations are shown one below the other.
const reveal = () => {  // browsers that do not open the <details> around the target of a link
  const target = location.hash && document.getElementById(location.hash.slice(1)), around = target && target.closest("details");
  if (around && !around.open) { around.open = true; target.scrollIntoView(); }
};
addEventListener("hashchange", reveal);
addEventListener("DOMContentLoaded", reveal);
addEventListener("beforeprint", () => document.querySelectorAll("details.printed").forEach((d) => { d.open = true; }));
(() => {
  const evolution = document.getElementById("evolution"), slider = document.getElementById("generation");
  if (!evolution || !slider) return;
  const sections = [...evolution.querySelectorAll(".generation")], output = document.getElementById("generation-shown");
  const show = () => {
    const i = Number(slider.value), t = sections[i].dataset.generation;
    sections.forEach((section, k) => section.classList.toggle("shown", k === i));
    output.textContent = `generation ${t} of ${sections[sections.length - 1].dataset.generation}`;
    slider.setAttribute("aria-valuetext", output.textContent);
  };
  const key = `generation:${document.title}`;
  try {
    const stored = sessionStorage.getItem(key);
    if (stored !== null && Number(stored) < sections.length) slider.value = stored;
  } catch { /* storage is disabled */ }
  slider.addEventListener("input", () => {
    show();
    try { sessionStorage.setItem(key, slider.value); } catch { /* storage is disabled */ }
  });
  evolution.classList.add("sliding");
  slider.closest(".slider").hidden = false;
  show();
})();
