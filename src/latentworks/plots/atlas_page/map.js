"use strict";
// The plane on the screen, and the input of pointers and keys.

const canvas = $("map");
// The middle, pixels per unit of latent space, and true while all images are in view.
const view = { x: 0, y: 0, scale: 1, fitting: 1, whole: true };
const box = { width: 1, height: 1, ratio: 1 };
const ROOM = { left: 48, right: 28, top: 64, bottom: 44 }; // pixels beside the images: buttons, names of axes
const NEAR = 12; // pixels around a point within which the pointer selects it

const toScreen = (x, y) => [
  (x - view.x) * view.scale + box.width / 2,
  strip ? box.height * (0.75 - y / 2) : box.height / 2 - (y - view.y) * view.scale,
];
const toWorld = (left, top) => [
  (left - box.width / 2) / view.scale + view.x,
  strip ? 1.5 - 2 * top / box.height : (box.height / 2 - top) / view.scale + view.y,
];

// Fits all images into the view, those that the panel hides, too.
function fit() {
  const range = (axis) => {
    const values = points.filter((_, i) => i % 2 === axis).sort();
    return [values[0], values[num - 1]];
  };
  const [[left, right], [bottom, top]] = [range(0), range(1)];
  const across = Math.max(box.width - ROOM.left - ROOM.right, 1) / (right - left || 1);
  const up = Math.max(box.height - ROOM.top - ROOM.bottom, 1) / (top - bottom || 1);
  view.scale = view.fitting = strip ? across : Math.min(across, up);
  view.x = (left + right - (ROOM.left - ROOM.right) / view.scale) / 2;
  view.y = (bottom + top + (ROOM.top - ROOM.bottom) / view.scale) / 2;
  view.whole = true;
  redraw();
}

function zoom(factor, left = box.width / 2, top = box.height / 2) {
  const [x, y] = toWorld(left, top);
  view.scale = Math.min(Math.max(view.scale * factor, view.fitting / 8), view.fitting * 2000);
  const [nextX, nextY] = toWorld(left, top);
  move((x - nextX) * view.scale, (nextY - y) * view.scale);
}

function move(right, down) {
  view.x += right / view.scale;
  view.y -= down / view.scale;
  view.whole = false;
  redraw();
}

// --- pointers and keys ----------------------------------------------------------------------------

// The visible image at a position on the canvas, -1 for none.
function pointAt(left, top) {
  if (mode === "images") {
    const { place, middle, pixels } = cells();
    const [i, j] = place(...toWorld(left, top)), [x, y] = middle(i, j);
    const within = Math.abs(x - left) < pixels / 2 && Math.abs(y - top) < pixels / 2;
    return within ? representatives.get(`${i} ${j}`) ?? -1 : -1;
  }
  let best = -1, least = NEAR ** 2;
  eachInView((point, x, y) => {
    const distance = (x - left) ** 2 + (y - top) ** 2;
    if (distance < least) { least = distance; best = point; }
  });
  return best;
}

function hover(left, top) {
  const point = left === undefined ? -1 : pointAt(left, top);
  if (point === hovered && point < 0) return;
  hovered = point;
  const tip = $("tip");
  tip.hidden = point < 0;
  if (point >= 0) {
    drawSmall(tip.querySelector("canvas"), point);
    tip.querySelector("p").replaceChildren(...described(point));
    const { offsetWidth: w, offsetHeight: h } = tip;
    tip.style.left = `${left + 18 + w < box.width ? left + 18 : Math.max(left - 18 - w, 0)}px`;
    tip.style.top = `${Math.min(Math.max(top - h / 2, 4), box.height - h - 4)}px`;
  }
  redraw(false);
}

const held = new Map(); // pointers that are down, with their positions
let panning = false, pressed = null; // true while the map is dragged; where the pointer went down
const where = ({ clientX, clientY }) => {
  const { left, top } = canvas.getBoundingClientRect();
  return [clientX - left, clientY - top];
};

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  held.set(event.pointerId, where(event));
  pressed = held.size === 1 ? where(event) : null;
  panning = event.button > 0 || event.shiftKey || $("pan").ariaPressed === "true";
  if (panning || !pressed) return;
  const point = pointAt(...where(event));
  hover();
  if (point >= 0) take(point); else if (live) reach(where(event));
});

canvas.addEventListener("pointermove", (event) => {
  const now = where(event), before = held.get(event.pointerId);
  if (!before) {
    if (event.pointerType !== "touch") hover(...now);
    return;
  }
  if (held.size === 2) {
    const [other] = [...held].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    const apart = (at) => Math.hypot(at[0] - other[0], at[1] - other[1]);
    move((before[0] - now[0]) / 2, (before[1] - now[1]) / 2);
    zoom(apart(now) / Math.max(apart(before), 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  } else if (panning) {
    move(before[0] - now[0], before[1] - now[1]);
  } else if (pressed && live && Math.hypot(now[0] - pressed[0], now[1] - pressed[1]) > 3) {
    pressed = [-9, -9]; // the gesture is now a drag, not a click
    reach(now);
  }
  held.set(event.pointerId, now);
});

for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => { held.delete(event.pointerId); pressed = null; });
}
canvas.addEventListener("pointerleave", () => hover());
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), ...where(event));
  hover(...where(event));
}, { passive: false });

const reach = (at) => { const place = toWorld(...at); go(lift(place), { at: place }); };

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const [left, top] = toScreen(...shown.at);
  const keys = {
    "+": () => zoom(1.4, left, top),
    "=": () => zoom(1.4, left, top),
    "-": () => zoom(1 / 1.4, left, top),
    0: fit,
    Enter: () => { const point = nearest(shown.z); if (point >= 0) take(point); },
    a: () => $("a")?.click(),
    b: () => $("b")?.click(),
  };
  const step = STEPS[event.key], act = keys[event.key.toLowerCase()] ?? keys[event.key];
  if (!step && !act) return;
  event.preventDefault();
  if (!step) { act(); return; }
  const far = event.shiftKey ? 40 : 8;
  const next = [left + far * step[0], top + far * step[1]];
  if (!live) { move(far * step[0], far * step[1]); return; }
  reach(next);
  const out = next.map((at, axis) => at - Math.min(Math.max(at, 30), (axis ? box.height : box.width) - 30));
  if (out[0] || out[1]) move(...out);
});

function resize() {
  Object.assign(box, { width: canvas.clientWidth, height: canvas.clientHeight, ratio: devicePixelRatio });
  for (const { canvas: layer } of Object.values(layers)) {
    layer.width = Math.round(box.width * box.ratio);
    layer.height = Math.round(box.height * box.ratio);
  }
  if (view.whole) fit(); else redraw();
}
