"use strict";
// Without this, every generation's sheets are shown one below the other.
addEventListener("beforeprint", () => document.querySelectorAll("details.printed").forEach((d) => { d.open = true; }));
(() => {
  const ages = document.getElementById("ages"), slider = document.getElementById("generation");
  if (!ages || !slider) return;
  const sections = [...ages.querySelectorAll(".generation")], said = document.getElementById("generation-said");
  const show = () => {
    const i = Number(slider.value), t = sections[i].dataset.generation;
    sections.forEach((section, k) => section.classList.toggle("shown", k === i));
    said.textContent = `generation ${t} of ${sections[sections.length - 1].dataset.generation}`;
    slider.setAttribute("aria-valuetext", said.textContent);
  };
  const kept = `generation:${document.title}`;
  try {
    const before = sessionStorage.getItem(kept);
    if (before !== null && Number(before) < sections.length) slider.value = before;
  } catch { /* a browser that keeps nothing */ }
  slider.addEventListener("input", () => {
    show();
    try { sessionStorage.setItem(kept, slider.value); } catch { /* as above */ }
  });
  ages.classList.add("sliding");
  slider.closest(".slider").hidden = false;
  show();
})();
