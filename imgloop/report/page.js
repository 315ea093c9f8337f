"use strict";
// Without this script, the sheets of all generations are shown one below the other.
const reveal = () => {  // browsers that do not open the <details> around the target of a link
  const target = location.hash && document.getElementById(location.hash.slice(1)), around = target && target.closest("details");
  if (around && !around.open) { around.open = true; target.scrollIntoView(); }
};
addEventListener("hashchange", reveal);
addEventListener("DOMContentLoaded", reveal);
addEventListener("beforeprint", () => document.querySelectorAll("details.printed").forEach((d) => { d.open = true; }));
// The generation that the reader chose; stored, so that it stays when the page is loaded again.
let choice = null;
const chosen = (t) => {
  const key = `generation:${document.title}`;
  if (t !== undefined) choice = t;
  try {
    if (t !== undefined) sessionStorage.setItem(key, t);
    return sessionStorage.getItem(key);
  } catch { return choice; /* storage is disabled */ }
};
const slide = () => {
  const evolution = document.getElementById("evolution"), slider = document.getElementById("generation");
  if (!evolution || !slider || evolution.classList.contains("sliding")) return;
  const sections = [...evolution.querySelectorAll(".generation")], output = document.getElementById("generation-shown");
  const show = () => {
    const i = Number(slider.value), t = sections[i].dataset.generation;
    sections.forEach((section, k) => section.classList.toggle("shown", k === i));
    output.textContent = `generation ${t} of ${sections[sections.length - 1].dataset.generation}`;
    slider.setAttribute("aria-valuetext", output.textContent);
  };
  const i = sections.findIndex((section) => section.dataset.generation === chosen());
  if (i >= 0) slider.value = i;
  slider.addEventListener("input", () => { show(); chosen(sections[slider.value].dataset.generation); });
  evolution.classList.add("sliding");
  slider.closest(".slider").hidden = false;
  show();
};
slide();
