"use strict";
// The explorer of latent space. All its images and numbers come from the server of the page.

const $ = (id) => document.getElementById(id);
const TILES = 16; // decoded images of the map, along a side
const SHARP = 1024; // least pixels along the longer side of the map
const POINTS = 400; // samples, whose latents set the range of the map

const AGAIN = 2000; // milliseconds between two requests for the state of the server

let model = null; // the answer of /version
let shown = ""; // the version that the page shows
let range = []; // [low, high] of each latent
let point = []; // the latents that are shown
let draw = () => {}; // shows `point` on the map or the sliders

async function ask(verb, body, accept = "application/json") {
  const plain = body instanceof Blob;
  const send = () => reach(verb, {
    method: "POST",
    body: plain ? body : JSON.stringify({ ...body, ...chosenLabel(verb) }),
    headers: { "Content-Type": plain ? body.type : "application/json", Accept: accept },
  });
  let answer = await send();
  while (answer.status === 503) { // the server is overloaded, and says when to try again
    $("fault").textContent = (await answer.json()).error;
    await pause(1000 * Number(answer.headers.get("Retry-After") || 1));
    answer = await send();
    if (answer.ok) $("fault").textContent = "";
  }
  if (plain && answer.status === 400) throw new Error("This file is not a PNG, JPEG or WebP.");
  if (!answer.ok) throw new Error((await answer.json()).error);
  return accept === "application/json" ? (await answer.json()).outputs : answer.blob();
}

// The chosen class as a param, for the verbs that take one. Without it, images are of any class.
function chosenLabel(verb) {
  const label = $("class").value;
  return label && (verb === "sample" || model.conditional) ? { label } : {};
}

async function reach(...request) {
  try {
    return await fetch(...request);
  } catch {
    throw new Error("The server does not answer.");
  }
}

const pause = (milliseconds) => new Promise((over) => setTimeout(over, milliseconds));

// Wraps `work` so that its errors are shown at the bottom of the page.
const reporting = (work) => async (...given) => {
  try {
    $("fault").textContent = "";
    await work(...given);
  } catch (error) {
    $("fault").textContent = error.message;
  }
};

// Decodes the newest point. One request runs at a time, and points in between are skipped.
let asking = false, waiting = false;
const show = reporting(async () => {
  if (asking) { waiting = true; return; }
  asking = true;
  try {
    const started = performance.now();
    const at = [...point];
    replace($("decoded"), await ask("decode", { inputs: [at] }, "image/png"));
    $("point").textContent = named(at);
    $("took").textContent = `· ${(performance.now() - started).toFixed(0)} ms`;
  } finally {
    asking = false;
  }
  if (waiting) { waiting = false; await show(); }
});

const named = (z) => z.length > 4 ? `${z.length} latents`
  : `z = (${z.map((each) => each.toFixed(2)).join(", ")})`;

function replace(image, blob) {
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
}

function move(latents) {
  point = latents;
  draw();
  show();
}

// --- the map or the sliders of latent space ------------------------------------------------------

// Asks for the state of the server, again and again. Starts the page anew for each new version, and
// after the server was away.
async function look() {
  try {
    const state = await (await reach("ready")).json();
    if (!state.ready) $("about").textContent = `waiting for a version of ${state.alias} …`;
    if (state.ready && state.model !== shown) {
      await begin();
      shown = state.model;
    }
  } catch (error) {
    shown = "";
    $("about").textContent = error.message;
  }
  setTimeout(look, AGAIN);
}

async function begin() {
  model = await (await reach("version")).json();
  classes();
  await explore();
  const [height, width, channels] = model.image_shape;
  $("about").textContent = `${model.model} version ${model.version} · `
    + `${width} × ${height} ${channels === 1 ? "grey" : "colour"} images · `
    + `${model.latent_dim} ${model.latent_dim === 1 ? "latent" : "latents"}`;
  $("pair").hidden = true; // its reconstruction was of the previous version
}

// Lists the classes of the version. The chosen class stays chosen if the version has it.
function classes() {
  const chosen = $("class").value;
  $("class").replaceChildren(new Option("any", ""), ...model.labels.map((name) => new Option(name)));
  $("class").value = model.labels.includes(chosen) ? chosen : "";
  $("classes").hidden = !model.labels.length;
}

async function explore() {
  const images = await ask("sample", { num: POINTS, seed: 0, images: "base64" });
  const latents = await ask("encode", { inputs: images, prepared: true });
  range = latents[0].map((_, d) => {
    const values = latents.map((z) => z[d]).sort((a, b) => a - b);
    const at = (share) => values[Math.round(share * (values.length - 1))];
    const margin = 0.15 * (at(0.99) - at(0.01)) || 1;
    return [at(0.01) - margin, at(0.99) + margin];
  });
  await (model.latent_dim === 2 ? plane(latents) : sliders(latents));
  move(latents[0]);
  await samples();
}

async function plane(latents) {
  const canvas = document.createElement("canvas");
  const [height, width] = model.image_shape;
  const larger = Math.ceil(SHARP / (TILES * Math.max(width, height)));
  canvas.width = TILES * width * larger;
  canvas.height = TILES * height * larger;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", "latent space; arrow keys move the point");
  $("space").className = "";
  $("space").replaceChildren(canvas);
  $("hint").textContent = "Move over the map, or use the arrow keys. Blue: where samples lie.";
  const at = (column, row) => [
    range[0][0] + ((column + 0.5) / TILES) * (range[0][1] - range[0][0]),
    range[1][1] - ((row + 0.5) / TILES) * (range[1][1] - range[1][0]),
  ];
  // Tiles from left to right, rows from top to bottom: the layout of the answer.
  const places = Array.from({ length: TILES * TILES }, (_, n) => at(n % TILES, Math.floor(n / TILES)));
  const map = await createImageBitmap(await ask("decode", { inputs: places }, "image/png"));
  const context = canvas.getContext("2d");
  const scale = (z) => [
    ((z[0] - range[0][0]) / (range[0][1] - range[0][0])) * canvas.width,
    ((range[1][1] - z[1]) / (range[1][1] - range[1][0])) * canvas.height,
  ];
  const unit = Math.max(canvas.width, canvas.height) / 512;
  // Points outside are drawn at the edge.
  const onto = (at, axis) => Math.min(Math.max(at, 10 * unit), (axis ? canvas.height : canvas.width) - 10 * unit);
  draw = () => {
    context.globalAlpha = 0.75;
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    context.drawImage(map, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 0.7;
    context.fillStyle = "#5cc8ff";
    for (const z of latents) {
      context.beginPath();
      context.arc(...scale(z), 2 * unit, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
    context.lineWidth = 3 * unit;
    context.strokeStyle = "#fff";
    context.fillStyle = "#d9480f";
    context.beginPath();
    context.arc(...scale(point).map(onto), 8 * unit, 0, 7);
    context.fill();
    context.stroke();
  };
  const follow = (event) => {
    const box = canvas.getBoundingClientRect();
    move([
      range[0][0] + ((event.clientX - box.left) / box.width) * (range[0][1] - range[0][0]),
      range[1][1] - ((event.clientY - box.top) / box.height) * (range[1][1] - range[1][0]),
    ]);
  };
  canvas.addEventListener("pointermove", follow);
  canvas.addEventListener("pointerdown", follow); // a touch starts without a move
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  canvas.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    move(point.map((z, d) => z + (step[d] * (range[d][1] - range[d][0])) / 50));
  });
}

async function sliders() {
  $("space").className = "sliders";
  $("hint").textContent = "Each slider is one latent, within the range of the samples.";
  const inputs = range.map(([low, high], d) => {
    const label = document.createElement("label");
    const input = document.createElement("input");
    const value = document.createElement("span");
    Object.assign(input, { type: "range", min: low, max: high, step: (high - low) / 200 });
    input.setAttribute("aria-label", `latent ${d}`);
    input.addEventListener("input", () => move(point.with(d, Number(input.value))));
    label.append(`z${d}`, input, value);
    return [label, input, value];
  });
  $("space").replaceChildren(...inputs.map(([label]) => label));
  draw = () => inputs.forEach(([, input, value], d) => {
    input.value = point[d];
    value.textContent = point[d].toFixed(2);
  });
}

// --- samples, and images of the user -------------------------------------------------------------

async function samples() {
  const seed = Math.floor(Math.random() * 2 ** 31);
  const images = await ask("sample", { num: 24, seed, images: "base64" });
  $("seed").textContent = `Seed ${seed}.`;
  $("samples").replaceChildren(...images.map((image, n) => {
    const button = document.createElement("button");
    button.setAttribute("aria-label", `sample ${n + 1}`);
    const picture = document.createElement("img");
    Object.assign(picture, { src: `data:image/png;base64,${image}`, className: "pixels", alt: "" });
    button.append(picture);
    button.addEventListener("click", reporting(async () => {
      move((await ask("encode", { inputs: [image], prepared: true }))[0]);
    }));
    return button;
  }));
}

// Draws a picture over the grey that its transparent pixels have for the model.
async function opaque(file) {
  const picture = await createImageBitmap(file);
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d");
  context.fillStyle = `rgb(${Array(3).fill(model.background)})`;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0);
  return canvas.convertToBlob();
}

const given = reporting(async (file) => {
  const [[latents], again, score] = await Promise.all([
    ask("encode", file), ask("reconstruct", file, "image/png"), ask("anomaly_score", file),
  ]);
  replace($("given"), await opaque(file));
  replace($("again"), again);
  $("place").textContent = named(latents);
  $("score").textContent = `Reconstructed worse than ${score.percentile[0].toFixed(0)} of 100 test `
    + `images (mean squared error ${score.error[0].toFixed(4)}).`;
  $("pair").hidden = false;
  move(latents);
});

$("draw").addEventListener("click", reporting(samples));
$("class").addEventListener("change", reporting(explore));
$("file").addEventListener("change", () => $("file").files[0] && given($("file").files[0]));
const drop = $("drop");
for (const name of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) given(event.dataTransfer.files[0]);
  });
}
look();
