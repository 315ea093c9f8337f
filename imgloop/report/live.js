"use strict";
// Keeps a served page up to date: what has changed is replaced, and the reader's place, folds and slider stay.
(() => {
  const EVERY = 1000, LOST = 10000;  // milliseconds
  const parts = (page) => [...page.querySelectorAll("body > header, main > section")];
  const id = (part) => part.id || part.tagName;
  const remember = (page) => new Map(parts(page).map((part) => [id(part), part.cloneNode(true)]));
  const same = (page) => [document.title, policy(document)].join() === [page.title, policy(page)].join();
  const policy = (page) => page.querySelector("meta[http-equiv=Content-Security-Policy]").content;
  const text = (node) => node.textContent.trim().replace(/\d+/g, "0").slice(0, 80);

  // [name, element] of each element: the section, what it is and what it says, numbered where several are alike.
  const named = (selector) => {
    const seen = {};
    return [...document.querySelectorAll(selector)].filter((e) => e.getClientRects().length).map((e) => {
      const figure = e.closest("figure"), head = figure && figure.querySelector("h3, figcaption");
      const own = e.dataset.fold || text(e.querySelector("summary, h3, th, figcaption") || e);
      const section = e.closest("section[id]");
      const name = [section && section.id, e.tagName, head && text(head), own].join("|");
      seen[name] = (seen[name] || 0) + 1;
      return [`${name}|${seen[name]}`, e];
    });
  };
  const folds = () => {  // those inside closed ones, too
    const closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((d) => { d.open = true; });
    const all = named("details");
    closed.forEach((d) => { d.open = false; });
    return all;
  };
  const marks = () => named("main > section, main h3, main figure, main details, main tr");
  const place = () => {
    if (scrollY < 8) return () => {};
    const above = marks().map(([name, e]) => [name, e.getBoundingClientRect().top]).filter(([, top]) => top < innerHeight / 2);
    return () => {
      const now = new Map(marks());
      const [name, top] = above.reverse().find(([n]) => now.has(n)) || [];
      if (name) scrollBy({ top: now.get(name).getBoundingClientRect().top - top, behavior: "instant" });
    };
  };
  const focused = () => {
    const e = document.activeElement, list = () => [...document.querySelectorAll("a, summary, input, .scroll")];
    const i = list().indexOf(e), href = e && e.getAttribute && e.getAttribute("href");
    return () => {
      if (i < 0 || document.contains(e)) return;
      const again = (e.id && document.getElementById(e.id)) || list().find((a) => href && a.getAttribute("href") === href) || list()[i];
      if (again) again.focus({ preventScroll: true });
    };
  };
  const aside = () => {
    const lefts = named(".scroll").map(([name, e]) => [name, e.scrollLeft]);
    return () => { const now = new Map(named(".scroll")); lefts.forEach(([n, x]) => { if (now.has(n)) now.get(n).scrollLeft = x; }); };
  };

  let before = remember(document), tag = "", lost = false;
  const replace = (page) => {
    const after = remember(page), main = document.querySelector("main");
    const open = new Set(folds().filter(([, d]) => d.open).map(([name]) => name));
    const restore = [aside(), place(), focused()];
    const here = new Map(parts(document).map((part) => [id(part), part]));
    let next = main.firstElementChild;
    for (const [key, fresh] of after) {
      let part = here.get(key);
      if (!part || !before.has(key) || !before.get(key).isEqualNode(fresh)) {
        const other = document.importNode(fresh, true);
        if (part) { if (next === part) next = other; part.replaceWith(other); }
        part = other;
      }
      if (key === "HEADER") continue;
      if (part === next) next = next.nextElementSibling;
      else main.insertBefore(part, next);
    }
    here.forEach((part, key) => { if (!after.has(key)) part.remove(); });
    before = after;
    folds().forEach(([name, d]) => { if (open.has(name)) d.open = true; });
    slide();
    restore.forEach((again) => again());
  };

  const line = document.getElementById("live"), usual = line.textContent;
  const tell = (gone) => {
    if (gone === lost) return;
    lost = gone;
    line.classList.toggle("notice", gone);
    line.textContent = gone ? `No connection since ${new Date().toLocaleTimeString()}: this is the last state. It goes on when the command is started again.` : usual;
  };
  const look = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch("/", { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
        if (answer.status === 200) {
          const page = new DOMParser().parseFromString(await answer.text(), "text/html");
          if (!same(page)) return location.reload();
          replace(page);
          tag = answer.headers.get("ETag");
        } else if (answer.status !== 304) throw new Error(answer.statusText);
        tell(false);
      } catch { tell(true); }
    }
    setTimeout(look, lost ? LOST : EVERY);
  };
  document.documentElement.style.overflowAnchor = "none";
  if (location.protocol !== "file:") addEventListener("DOMContentLoaded", () => setTimeout(look, EVERY / 2));
})();
