"use strict";
// Drawing of the map in three layers: images or decoded squares, dots, and marks on top.

const layers = Object.fromEntries(["below", "dots", "map"].map((id) => [id, $(id).getContext("2d")]));
const CELL = 34; // smallest side, in pixels, of the squares that hold images
const MAX_TILES = 4000; // decoded squares in memory
const MODE = { points: () => drawDots(dotRadius(), 0.75), images: drawImages, decoded: drawDecoded };
const pins = { a: null, b: null };
let mode = "points", hovered = -1;

let waiting = false, whole = false;
function redraw(all = true) {
  whole ||= all;
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw(whole);
    whole = false;
  });
}

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
const colourOf = (point) => classes.get(labels[point])?.colour ?? data.unlabelled;

function draw(all) {
  for (const [id, context] of Object.entries(layers)) {
    if (!all && id !== "map") continue;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    context.setTransform(box.ratio, 0, 0, box.ratio, 0, 0);
    context.imageSmoothingEnabled = false;
  }
  if (all) {
    MODE[mode]();
    placeNames();
  }
  drawNames();
  drawMarks();
}

function eachInView(each) {
  for (let point = 0; point < num; point++) {
    if (!visible[point]) continue;
    const [left, top] = toScreen(points[2 * point], points[2 * point + 1]);
    if (left > -9 && top > -9 && left < box.width + 9 && top < box.height + 9) each(point, left, top);
  }
}

// --- dots -----------------------------------------------------------------------------------------

// The fewer images are in view, the larger are their dots.
function dotRadius() {
  let inView = 0;
  eachInView(() => { inView += 1; });
  return Math.min(Math.max(0.14 * Math.sqrt(box.width * box.height / (inView + 1)), 2), 6);
}

// Writes pixels directly: ten thousand circles drawn by the canvas take longer than a frame.
function drawDots(radius, opacity) {
  const { width, height } = layers.dots.canvas;
  if (!width || !height) return;
  const picture = layers.dots.createImageData(width, height), pixels = picture.data;
  const { right, down, share } = disc(radius * box.ratio);
  eachInView((point, left, top) => {
    const x = Math.round(left * box.ratio), y = Math.round(top * box.ratio);
    const red = colours[3 * point], green = colours[3 * point + 1], blue = colours[3 * point + 2];
    for (let i = 0; i < share.length; i++) {
      const column = x + right[i], row = y + down[i];
      if (column < 0 || row < 0 || column >= width || row >= height) continue;
      const at = 4 * (row * width + column);
      const above = share[i] * opacity, below = (pixels[at + 3] / 255) * (1 - above), part = above / (above + below);
      pixels[at] += (red - pixels[at]) * part;
      pixels[at + 1] += (green - pixels[at + 1]) * part;
      pixels[at + 2] += (blue - pixels[at + 2]) * part;
      pixels[at + 3] = 255 * (above + below);
    }
  });
  layers.dots.putImageData(picture, 0, 0);
}

const colours = new Uint8Array(3 * num); // [N, 3]
for (let point = 0; point < num; point++) {
  const colour = colourOf(point);
  for (let c = 0; c < 3; c++) colours[3 * point + c] = parseInt(colour.slice(1 + 2 * c, 3 + 2 * c), 16);
}

// The pixels of a disc, relative to its middle, and the share of each that the disc covers.
function disc(radius) {
  const reach = Math.ceil(radius), right = [], down = [], share = [];
  for (let y = -reach; y <= reach; y++) for (let x = -reach; x <= reach; x++) {
    const covered = Math.min(radius + 0.5 - Math.hypot(x, y), 1);
    if (covered > 0) { right.push(x); down.push(y); share.push(covered); }
  }
  return { right: Int32Array.from(right), down: Int32Array.from(down), share: Float64Array.from(share) };
}

// --- squares of the plane, each of which shows an image -------------------------------------------

// Squares are fixed in the plane: they move with the view, and halve when zooming doubles them. A
// strip has several rows only of images, since decoded images are the same at every height.
function cells() {
  const level = Math.ceil(Math.log2(CELL / view.scale)), side = 2 ** level, pixels = side * view.scale;
  const rows = mode === "images" ? Math.max(Math.floor(box.height / 2 / pixels), 1) : 1;
  const row = (y) => strip ? Math.min(Math.max(Math.floor(y * rows), 0), rows - 1) : Math.floor(y / side);
  const place = (x, y) => [Math.floor(x / side), row(y)];
  const middle = (i, j) => toScreen((i + 0.5) * side, strip ? (j + 0.5) / rows : (j + 0.5) * side);
  return { level, side, place, middle, pixels };
}

function inCell([left, top], pixels, image, [height, width], paint) {
  const larger = (pixels - 3) / Math.max(height, width);
  const w = width * larger, h = height * larger;
  paint(image, left - w / 2, top - h / 2, w, h);
}

let representatives = new Map(); // square -> the image that it shows

// Draws in each square the image whose point is nearest to the middle.
function drawImages() {
  const { place, middle, pixels } = cells();
  const best = new Map();
  eachInView((point, left, top) => {
    const [i, j] = place(points[2 * point], points[2 * point + 1]);
    const [x, y] = middle(i, j), distance = (x - left) ** 2 + (y - top) ** 2;
    const key = `${i} ${j}`, known = best.get(key);
    if (!known || distance < known.distance) best.set(key, { point, distance, at: [x, y] });
  });
  representatives = new Map([...best].map(([key, { point }]) => [key, point]));
  const context = layers.below;
  context.lineWidth = 2;
  for (const { point, at } of best.values()) {
    inCell(at, pixels, point, [data.sprite.height, data.sprite.width], (_, x, y, w, h) => {
      drawImageOf(point, context, x, y, w, h);
      context.strokeStyle = colourOf(point);
      context.strokeRect(x, y, w, h);
    });
  }
}

// Draws in each square the decoded image of its middle. Missing squares are decoded from the middle
// of the map outwards. Until then, the next larger square around them is shown.
const tiles = new Map();
let drawn = 0; // number of the drawing, so that a late tile is not painted on another view
function drawDecoded() {
  const { level, side, place, middle, pixels } = cells();
  const [[west, south], [east, north]] = [toWorld(0, box.height), toWorld(box.width, 0)].map((at) => place(...at));
  const label = data.program.inputs.labels ? shown.label : -1; // other decoders take no class
  const keyOf = (l, i, j) => `${label} ${l} ${i} ${j}`;
  const missing = [], turn = ++drawn;
  const paint = (at, tile) => inCell(at, pixels, tile, data.program.image_shape, (...all) => layers.below.drawImage(...all));
  for (let i = west; i <= east; i++) for (let j = south; j <= north; j++) {
    const key = keyOf(level, i, j), at = middle(i, j), tile = tiles.get(key);
    const around = tiles.get(keyOf(level + 1, i >> 1, j >> 1));
    layers.below.globalAlpha = tile ? 1 : 0.4;
    if (tile ?? around) paint(at, tile ?? around);
    if (!tile) missing.push({ key, at, z: lift([(i + 0.5) * side, (j + 0.5) * side]) });
  }
  layers.below.globalAlpha = 1;
  const far = ({ at: [x, y] }) => (x - box.width / 2) ** 2 + (y - box.height / 2) ** 2;
  missing.sort((one, other) => far(one) - far(other));
  decodeOthers("tiles", missing.map(({ key, z, at }) => ({
    z, label, then: (image) => {
      if (tiles.size >= MAX_TILES) tiles.delete(tiles.keys().next().value); // the oldest
      tiles.set(key, asCanvas(image));
      if (turn === drawn && mode === "decoded") paint(at, tiles.get(key));
    },
  })));
  drawDots(1.5, 0.85);
}

// --- marks on top ---------------------------------------------------------------------------------

function drawMarks() {
  const context = layers.map;
  const ring = (at, radius, fill) => {
    context.beginPath();
    context.arc(...at, radius, 0, 7);
    context.lineWidth = 5;
    context.strokeStyle = style("--card");
    context.stroke();
    context.lineWidth = 2.5;
    context.strokeStyle = style("--accent");
    context.stroke();
    if (fill) { context.fillStyle = fill; context.fill(); }
  };
  if (pins.a && pins.b) {
    context.beginPath();
    context.moveTo(...toScreen(...pins.a.at));
    context.lineTo(...toScreen(...pins.b.at));
    context.lineWidth = 4;
    context.strokeStyle = style("--card");
    context.stroke();
    context.lineWidth = 2;
    context.strokeStyle = style("--ink");
    context.setLineDash([6, 5]);
    context.stroke();
    context.setLineDash([]);
  }
  for (const [name, pin] of Object.entries(pins)) {
    if (!pin) continue;
    const at = toScreen(...pin.at);
    ring(at, 10, style("--card"));
    Object.assign(context, { fillStyle: style("--ink"), textAlign: "center", textBaseline: "middle", font: "bold 12px system-ui" });
    context.fillText(name.toUpperCase(), at[0], at[1] + 0.5);
  }
  if (hovered >= 0 && mode !== "images") ring(toScreen(points[2 * hovered], points[2 * hovered + 1]), 7);
  if (live || shown.point >= 0) {
    const at = toScreen(...shown.at);
    ring(at, 9, shown.point < 0 ? style("--accent") : null);
  }
}
