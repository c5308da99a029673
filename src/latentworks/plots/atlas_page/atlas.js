"use strict";
// The data of the page as arrays, and the point of latent space that is shown.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);

function bytes(text) {
  const raw = atob(text), array = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) array[i] = raw.charCodeAt(i);
  return array;
}
const floats = (text) => new Float32Array(bytes(text).buffer);

const points = floats(data.points); // [N, 2], the position of each image in the plane
const errors = floats(data.errors); // [N]
const labels = new Int32Array(bytes(data.labels).buffer); // [N], -1 for none
const latents = unpacked(data.latents); // [N, D]
const num = errors.length, dim = data.origin.length;
const strip = dim === 1; // with one latent, the second axis has no meaning
const classes = new Map(data.classes.map((each) => [each.label, each]));
const sorted = errors.slice().sort();
const visible = new Uint8Array(num).fill(1);

function unpacked({ low, step, values }) {
  const whole = new Uint16Array(bytes(values).buffer);
  return Float32Array.from(whole, (value, i) => low[i % low.length] + value * step[i % low.length]);
}

const latentsOf = (point) => latents.subarray(point * dim, (point + 1) * dim);
const dot = (a, b) => a.reduce((sum, each, i) => sum + each * b[i], 0);
const centred = (z) => Array.from(z, (each, i) => each - data.origin[i]);
const lift = (at) => Float32Array.from(data.origin, (each, i) =>
  each + at[0] * data.directions[0][i] + (strip ? 0 : at[1] * data.directions[1][i]));
const project = (z) => [dot(centred(z), data.directions[0]), strip ? 0.5 : dot(centred(z), data.directions[1])];

// The percentage of images that are reconstructed better.
function percentile(error) {
  let low = 0, high = num;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < error) low = middle + 1; else high = middle;
  }
  return Math.round(100 * low / num);
}

// The visible image nearest in latent space, -1 if none is visible.
function nearest(z) {
  let best = -1, least = Infinity;
  for (let point = 0; point < num; point++) {
    if (!visible[point]) continue;
    let distance = 0;
    for (let i = 0, at = point * dim; i < dim && distance < least; i++) distance += (latents[at + i] - z[i]) ** 2;
    if (distance < least) { least = distance; best = point; }
  }
  return best;
}

// The point that is shown: its latents, the class for the decoder, its image (or -1), and its
// position in the plane.
const shown = { z: new Float32Array(dim), label: -1, point: -1, at: [0, 0] };
const listeners = []; // functions that are called after `shown` changes

function go(z, change = {}) {
  Object.assign(shown, { z, point: -1, at: project(z) }, change);
  for (const listener of listeners) listener();
}

function take(point) {
  const at = [points[2 * point], points[2 * point + 1]];
  go(latentsOf(point).slice(), { point, at, label: labels[point] });
}

// All images in one picture.
let sprite = null;
const spriteReady = createImageBitmap(new Blob([bytes(data.sprite.png)], { type: "image/png" }))
  .then((bitmap) => { sprite = bitmap; });

function drawImageOf(point, context, x, y, width, height) {
  const { columns, height: h, width: w } = data.sprite;
  if (!sprite) return;
  context.drawImage(sprite, (point % columns) * w, Math.floor(point / columns) * h, w, h, x, y, width, height);
}
