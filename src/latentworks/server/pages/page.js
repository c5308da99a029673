"use strict";
// Everything on the page is asked of the server that sent it.

const $ = (id) => document.getElementById(id);
const TILES = 16; // of the map, along a side
const SHARP = 1024; // pixels of the map, at least
const POINTS = 400; // samples whose latents say where the model is at home

const AGAIN = 2000; // milliseconds until the page looks again who answers

let model = null; // what /version says
let shown = ""; // the version that the page is about
let range = []; // [low, high] of each latent
let point = []; // the latents that are shown
let draw = () => {}; // brings the chosen point onto the map or the sliders

async function ask(verb, body, accept = "application/json") {
  const plain = body instanceof Blob;
  const send = () => reach(verb, {
    method: "POST",
    body: plain ? body : JSON.stringify({ ...body, ...wanted(verb) }),
    headers: { "Content-Type": plain ? body.type : "application/json", Accept: accept },
  });
  let answer = await send();
  while (answer.status === 503) { // too much at once: it says when to come again
    $("fault").textContent = (await answer.json()).error;
    await pause(1000 * Number(answer.headers.get("Retry-After") || 1));
    answer = await send();
    if (answer.ok) $("fault").textContent = "";
  }
  if (plain && answer.status === 400) throw new Error("this file is no PNG, JPEG or WebP.");
  if (!answer.ok) throw new Error((await answer.json()).error);
  return accept === "application/json" ? (await answer.json()).outputs : answer.blob();
}

// The class that is chosen; what a verb is not told of a class is of any.
function wanted(verb) {
  const label = $("class").value;
  return label && (verb === "sample" || model.conditional) ? { label } : {};
}

async function reach(...request) {
  try {
    return await fetch(...request);
  } catch {
    throw new Error("the server does not answer.");
  }
}

const pause = (milliseconds) => new Promise((over) => setTimeout(over, milliseconds));

const told = (work) => async (...given) => {
  try {
    $("fault").textContent = "";
    await work(...given);
  } catch (error) {
    $("fault").textContent = error.message;
  }
};

// One request at a time, for the newest point: the picture follows the hand.
let asking = false, waiting = false;
const show = told(async () => {
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

// --- where the model is at home ------------------------------------------------------------------

// Begins anew with each version that takes over, and when the server is back.
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
  $("pair").hidden = true; // it was of the one before
}

// Those that the version knows; the one that was chosen stays so where it is among them.
function classes() {
  const chosen = $("class").value;
  $("class").replaceChildren(new Option("any", ""), ...model.labels.map((name) => new Option(name)));
  $("class").value = model.labels.includes(chosen) ? chosen : "";
  $("classes").hidden = !model.labels.length;
}

async function explore() {
  const images = await ask("sample", { num: POINTS, seed: 0, images: "base64" });
  const latents = await ask("encode", { inputs: images });
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
  // Tiles from left to right, rows from above: as the answer lays them out.
  const places = Array.from({ length: TILES * TILES }, (_, n) => at(n % TILES, Math.floor(n / TILES)));
  const map = await createImageBitmap(await ask("decode", { inputs: places }, "image/png"));
  const context = canvas.getContext("2d");
  const scale = (z) => [
    ((z[0] - range[0][0]) / (range[0][1] - range[0][0])) * canvas.width,
    ((range[1][1] - z[1]) / (range[1][1] - range[1][0])) * canvas.height,
  ];
  const unit = canvas.width / 512;
  const onto = (at) => Math.min(Math.max(at, 10 * unit), canvas.width - 10 * unit); // what lies outside: its edge
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
  canvas.addEventListener("pointerdown", follow); // a finger comes without having moved
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

// --- samples, and images from outside ------------------------------------------------------------

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
    button.addEventListener("click", told(async () => {
      move((await ask("encode", { inputs: [image] }))[0]);
    }));
    return button;
  }));
}

const given = told(async (file) => {
  const [[latents], again, score] = await Promise.all([
    ask("encode", file), ask("reconstruct", file, "image/png"), ask("anomaly_score", file),
  ]);
  replace($("given"), file);
  replace($("again"), again);
  $("place").textContent = named(latents);
  $("score").textContent = `Reconstructed worse than ${score.percentile[0].toFixed(0)} of 100 test `
    + `images (mean squared error ${score.error[0].toFixed(4)}).`;
  $("pair").hidden = false;
  move(latents);
});

$("draw").addEventListener("click", told(samples));
$("class").addEventListener("change", told(explore));
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
