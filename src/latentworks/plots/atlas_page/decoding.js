"use strict";
// The queue of the decoder. It runs in a worker, made of the script `decoder`, so that the page
// never waits. If the browser allows no worker, it runs in the page, one image in a frame.

const decoding = { job: null, newest: null, others: [] }; // `newest` runs before all others
const live = data.program !== null;
let run = null; // starts a job: {z, label, then}

function startDecoding() {
  const { weights, ...program } = data.program;
  const values = floats(weights);
  try {
    const worker = new Worker(URL.createObjectURL(new Blob([$("decoder").textContent, `
      let decoder = null;
      onmessage = ({ data: [first, second] }) => {
        if (!decoder) { decoder = new Decoder(first, second); return; }
        const began = performance.now();
        const pixels = decoder.decode(first, second);
        postMessage([pixels, performance.now() - began], [pixels.buffer]);
      };`], { type: "text/javascript" })));
    worker.onmessage = ({ data: answer }) => decoded(...answer);
    worker.onerror = () => { decodeHere(program, values); if (decoding.job) run(decoding.job); };
    worker.postMessage([program, values]);
    run = ({ z, label }) => worker.postMessage([z, label]);
  } catch {
    decodeHere(program, values);
  }
}

function decodeHere(program, values) {
  const decoder = new Decoder(program, values);
  run = ({ z, label }) => requestAnimationFrame(() => {
    const began = performance.now();
    const pixels = decoder.decode(z, label);
    decoded(pixels, performance.now() - began);
  });
}

function decodeNext() {
  if (decoding.job) return;
  decoding.job = decoding.newest ?? decoding.others.shift() ?? null;
  if (decoding.job === decoding.newest) decoding.newest = null;
  if (decoding.job) run(decoding.job);
}

function decoded(pixels, took) {
  const { then } = decoding.job;
  decoding.job = null;
  then(pixels, took);
  decodeNext();
}

// Decodes for the point under the pointer. An older job that has not started is dropped.
function decodeNewest(z, label, then) {
  decoding.newest = { z, label, then };
  decodeNext();
}

// Queues other jobs. They replace jobs of the same owner that have not started.
function decodeOthers(owner, jobs) {
  const kept = decoding.others.filter((job) => job.owner !== owner);
  decoding.others = [...kept, ...jobs.map((job) => ({ ...job, owner }))];
  decodeNext();
}

function asCanvas(pixels) {
  const [height, width] = data.program.image_shape;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  return canvas;
}
