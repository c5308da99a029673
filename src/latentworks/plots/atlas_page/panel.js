"use strict";
// The panel beside the map, and the connections between the parts of the page.

const number = (value) => value.toLocaleString("en");
const make = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};
const swatch = (label) => make("i", { className: "swatch", style: `--colour: ${classes.get(label)?.colour}` });

function described(point) {
  const name = classes.get(labels[point])?.name;
  const worse = make("small", {}, `reconstructed worse than ${percentile(errors[point])}%`);
  return name === undefined ? [worse] : [swatch(labels[point]), name, worse];
}

function drawSmall(small, point) {
  Object.assign(small, { width: data.sprite.width, height: data.sprite.height, hidden: point < 0 });
  if (point >= 0) drawImageOf(point, small.getContext("2d"), 0, 0, small.width, small.height);
  small.dataset.point = point;
}

// --- the pictures ---------------------------------------------------------------------------------

let took = null; // milliseconds of the last decoding
listeners.push(() => {
  if (live) decodeNewest(shown.z, shown.label, drawDecodedLarge);
  const point = shown.point >= 0 ? shown.point : nearest(shown.z);
  drawSmall($("real"), point);
  const name = classes.get(labels[point])?.name;
  $("which").textContent = shown.point >= 0 ? "original" : point >= 0 ? "nearest image" : "";
  $("of").textContent = name ?? "";
  sayWhere();
  for (const slider of sliders) slider.follow();
  redraw(false);
});

function drawDecodedLarge(pixels, milliseconds) {
  const [height, width] = data.program.image_shape, large = $("decoded");
  if (large.width !== width || large.height !== height) Object.assign(large, { width, height });
  large.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  took = milliseconds;
  sayWhere();
}

function sayWhere() {
  const first = [...shown.z.slice(0, 4)].map((each) => each.toFixed(2).replace("-", "−"));
  const said = [`z = (${first.join(", ")}${dim > 4 ? ", …" : ""})`];
  if (shown.point >= 0) {
    const error = errors[shown.point];
    said.push(`mean squared error ${error.toFixed(4)}, worse than ${percentile(error)}% of the images`);
  } else if (took !== null) {
    said.push(`decoded here in ${took < 10 ? took.toFixed(1) : Math.round(took)} ms`);
  }
  $("where").textContent = said.join(" · ");
}

// --- sliders: one latent each, or one principal component -----------------------------------------

const sliders = !live ? [] : data.sliders.map(({ name, direction, low, high }) => {
  const margin = 0.1 * (high - low) || 1;
  const input = make("input", { type: "range", min: low - margin, max: high + margin, step: "any" });
  const value = make("output");
  input.setAttribute("aria-label", name);
  const along = () => dot(centred(shown.z), direction);
  input.addEventListener("input", () => {
    const far = Number(input.value) - along();
    go(shown.z.map((each, i) => each + far * direction[i]));
  });
  $("sliders").append(make("label", {}, make("span", {}, name), input, value));
  return { follow: () => { input.value = along(); value.textContent = along().toFixed(2).replace("-", "−"); } };
});

// --- the class for a conditional decoder ----------------------------------------------------------

const numLabels = data.program?.inputs.labels ?? 0;
if (numLabels) {
  $("class").hidden = false;
  const select = $("class").querySelector("select");
  for (let label = 0; label < numLabels; label++) {
    select.append(make("option", { value: label }, classes.get(label)?.name ?? `class ${label}`));
  }
  select.append(make("option", { value: -1 }, "no class"));
  shown.label = 0;
  select.addEventListener("change", () => go(shown.z, { at: shown.at, label: Number(select.value) }));
  let last = 0;
  listeners.push(() => {
    if (last === shown.label) return;
    select.value = last = shown.label;
    redraw(); // all decoded images change with the class
  });
}

// --- which images are shown -----------------------------------------------------------------------

const chosen = new Set(classes.keys());
const boxes = [...classes.values()].map(({ label, name, count }) => {
  const input = make("input", { type: "checkbox", checked: true });
  input.addEventListener("change", () => {
    if (input.checked) chosen.add(label); else chosen.delete(label);
    filter();
  });
  $("classes").append(make("label", {}, input, swatch(label), make("span", {}, name), make("small", {}, number(count))));
  return { label, input };
});
$("choose").hidden = !boxes.length;

function chooseAll(checked) {
  for (const { label, input } of boxes) {
    input.checked = checked;
    if (checked) chosen.add(label); else chosen.delete(label);
  }
  filter();
}
$("all").addEventListener("click", () => chooseAll(true));
$("none").addEventListener("click", () => chooseAll(false));
$("worst").addEventListener("input", filter);

function filter() {
  const share = Number($("worst").value) / 100;
  const least = share < 1 ? sorted[Math.min(Math.floor((1 - share) * num), num - 1)] : -Infinity;
  let count = 0;
  for (let point = 0; point < num; point++) {
    visible[point] = errors[point] >= least && (!boxes.length || chosen.has(labels[point]));
    count += visible[point];
  }
  findMedians();
  $("share").textContent = share < 1 ? `${$("worst").value}%` : "all";
  $("count").textContent = `${number(count)} of ${number(num)} images`;
  redraw();
}

// --- the line from A to B -------------------------------------------------------------------------

const FRAMES = 8, SECONDS = 4; // from A to B
for (const name of ["a", "b"]) {
  $(name).addEventListener("click", () => {
    pins[name] = { z: shown.z.slice(), at: [...shown.at], label: shown.label };
    const both = pins.a !== null && pins.b !== null;
    $("along").disabled = $("play").disabled = !both;
    $("along").value = name === "a" ? 0 : 1;
    $("film").hidden = !both;
    if (both) drawFilm();
    redraw(false);
  });
}

function between(share) {
  const mix = (a, b) => a + share * (b - a);
  const z = pins.a.z.map((each, i) => mix(each, pins.b.z[i]));
  return { z, label: pins.a.label, at: pins.a.at.map((each, i) => mix(each, pins.b.at[i])) };
}

function drawFilm() {
  const [height, width] = data.program.image_shape;
  const frames = Array.from({ length: FRAMES }, () => make("canvas", { width, height, className: "pixels" }));
  $("film").replaceChildren(...frames);
  decodeOthers("film", frames.map((frame, n) => {
    const { z, label } = between(n / (FRAMES - 1));
    return { z, label, then: (pixels) => frame.getContext("2d").drawImage(asCanvas(pixels), 0, 0) };
  }));
}

function goAlong() {
  const { z, ...change } = between(Number($("along").value));
  go(z, change);
}
$("along").addEventListener("input", () => { play(false); goAlong(); });

let playing = 0;
function play(on) {
  cancelAnimationFrame(playing);
  $("play").ariaPressed = on;
  $("play").textContent = on ? "Stop" : "Play";
  if (!on) return;
  let last = performance.now(), at = Number($("along").value), way = at < 1 ? 1 : -1;
  const step = (now) => {
    at += way * (now - last) / (1000 * SECONDS);
    last = now;
    if (at > 1 || at < 0) way = at > 1 ? -1 : 1;
    at = Math.min(Math.max(at, 0), 1);
    $("along").value = at;
    goAlong();
    playing = requestAnimationFrame(step);
  };
  playing = requestAnimationFrame(step);
}
$("play").addEventListener("click", () => play($("play").ariaPressed !== "true"));

// --- the start of the page ------------------------------------------------------------------------

$("title").textContent = data.title;
for (const [name, value] of Object.entries(data.facts)) $("facts").append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
const LEAD = {
  points: `Each point is one of ${number(num)} images, where the encoder puts it${boxes.length ? "; its colour is its class" : ""}.`,
  images: "Each square shows a real image that lies in it.",
  decoded: "Each square shows what the decoder makes of its middle; the dots are the images.",
};
function sayWhatIsSeen() {
  $("lead").textContent = LEAD[mode] + (live ? " Drag over the map: the decoder draws that place, here in your browser." : "");
}
sayWhatIsSeen();
$("across").textContent = data.axes[0];
$("up").textContent = strip ? "" : data.axes[1];
if (!live) for (const each of document.querySelectorAll(".live")) each.remove();
else startDecoding();

for (const input of document.querySelectorAll("[name=mode]")) {
  input.addEventListener("change", () => {
    mode = input.value;
    if (live && mode !== "decoded") decodeOthers("tiles", []);
    hover();
    sayWhatIsSeen();
    redraw();
  });
}
$("in").addEventListener("click", () => zoom(1.5));
$("out").addEventListener("click", () => zoom(1 / 1.5));
$("fit").addEventListener("click", fit);
$("pan").addEventListener("click", () => { $("pan").ariaPressed = $("pan").ariaPressed !== "true"; });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
new ResizeObserver(resize).observe(canvas);
filter();
spriteReady.then(() => {
  // At first, the image nearest to the mean is shown.
  const middle = points.reduce((sum, each, i) => { sum[i % 2] += each / num; return sum; }, [0, 0]);
  take(Math.max(nearest(lift(middle)), 0));
  document.body.dataset.ready = Math.round(performance.now()); // milliseconds
});
