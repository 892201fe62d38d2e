"use strict";
// One state for all pictures of the page: window and level in parts of the grey range, zoom, place, inversion, maps.
const start = { width: 1, level: 0.5, zoom: 1, x: 0, y: 0, inverted: false, maps: false };
const state = { ...start };
const part = (id) => document.getElementById(id);
const root = document.documentElement;

function show() {
  // Shown grey is (grey - level) / width + 1/2, cut to 0..1: PS3.3 C.11.2.1.2, as a straight line.
  let slope = 1 / state.width, intercept = 0.5 - state.level / state.width;
  if (state.inverted) { slope = -slope; intercept = 1 - intercept; }
  for (const line of document.querySelectorAll("#window feComponentTransfer > *")) {
    line.setAttribute("slope", slope);
    line.setAttribute("intercept", intercept);
  }
  const most = 50 * (state.zoom - 1);
  state.x = Math.max(-most, Math.min(most, state.x));
  state.y = Math.max(-most, Math.min(most, state.y));
  root.style.setProperty("--zoom", state.zoom);
  root.style.setProperty("--x", state.x);
  root.style.setProperty("--y", state.y);
  document.body.classList.toggle("no-maps", !state.maps);
  part("width").value = 100 * state.width;
  part("level").value = 100 * state.level;
  part("zoom").value = 100 * state.zoom;
  part("invert").setAttribute("aria-pressed", state.inverted);
  part("maps").setAttribute("aria-pressed", state.maps);
}

function set(change) { Object.assign(state, change); show(); }

function zoomBy(factor) { set({ zoom: Math.max(1, Math.min(6, state.zoom * factor)) }); }

function choose(query, hit) {
  for (const one of query.querySelectorAll(".hits > li")) {
    one.classList.toggle("chosen", one === hit);
    one.querySelector(".choose").setAttribute("aria-pressed", one === hit);
  }
  const right = query.querySelector(".found .view"), map = query.querySelector(".asked .map");
  right.replaceChildren(hit.querySelector(".layer").cloneNode(true));
  if (map && hit.dataset.queryMap) map.src = hit.dataset.queryMap;
  query.querySelector(".found figcaption").textContent = hit.dataset.caption;
}

function step(by) {
  // The query whose comparison is nearest to the middle of the window.
  const middle = window.innerHeight / 2;
  const away = (query) => Math.abs(query.querySelector(".pair").getBoundingClientRect().top - middle);
  const query = [...document.querySelectorAll(".query")].filter((one) => one.querySelector(".pair"))
    .sort((a, b) => away(a) - away(b))[0];
  if (!query) return;
  const hits = [...query.querySelectorAll(".hits > li")];
  const at = hits.findIndex((hit) => hit.classList.contains("chosen"));
  choose(query, hits[Math.max(0, Math.min(hits.length - 1, at + by))]);
}

part("width").addEventListener("input", (event) => set({ width: event.target.value / 100 }));
part("level").addEventListener("input", (event) => set({ level: event.target.value / 100 }));
part("zoom").addEventListener("input", (event) => set({ zoom: event.target.value / 100 }));
part("invert").addEventListener("click", () => set({ inverted: !state.inverted }));
part("maps").addEventListener("click", () => set({ maps: !state.maps }));
part("reset").addEventListener("click", () => set(start));

for (const query of document.querySelectorAll(".query")) {
  for (const hit of query.querySelectorAll(".hits > li")) {
    hit.querySelector(".choose").addEventListener("click", () => choose(query, hit));
    hit.querySelector(".view").addEventListener("click", () => choose(query, hit));
  }
  for (const view of query.querySelectorAll(".pair .view")) {
    view.addEventListener("wheel", (event) => { event.preventDefault(); zoomBy(Math.exp(-event.deltaY / 500)); }, { passive: false });
    view.addEventListener("pointerdown", (event) => view.setPointerCapture(event.pointerId));
    view.addEventListener("pointermove", (event) => {
      if (!view.hasPointerCapture(event.pointerId)) return;
      set({ x: state.x + 100 * event.movementX / view.clientWidth, y: state.y + 100 * event.movementY / view.clientHeight });
    });
  }
}

const keys = {
  ArrowLeft: () => step(-1), ArrowRight: () => step(1), m: () => set({ maps: !state.maps }),
  i: () => set({ inverted: !state.inverted }), r: () => set(start), "+": () => zoomBy(1.25), "-": () => zoomBy(0.8),
};
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = keys[event.key];
  if (act) { event.preventDefault(); act(); }
});
window.addEventListener("beforeprint", () => {
  for (const text of document.querySelectorAll("details")) text.open = true; // paper has nothing to click
});
show();
