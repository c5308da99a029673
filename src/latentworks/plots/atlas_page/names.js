"use strict";
// The names of classes on the map: each at the median of the images of its class that are shown, or
// as near to it as other names leave room.

const NAME = { font: "600 13px system-ui, sans-serif", height: 19, swatch: 9, gap: 5 };
const FAR = 110; // pixels from the median, beyond which a name is left out until the map is larger
const OFFSETS = []; // [right, down] in pixels, the nearest first
for (let right = -FAR; right <= FAR; right += 10) for (let down = -FAR; down <= FAR; down += 10) OFFSETS.push([right, down]);
OFFSETS.sort((one, other) => Math.hypot(...one) - Math.hypot(...other));

let medians = []; // of classes with images that are shown: {label, name, at}; the largest class first
let names = []; // those on the map: {label, name, from, left, top, width}, in pixels

function findMedians() {
  const of = new Map([...classes.keys()].map((label) => [label, [[], []]]));
  of.delete(-1); // images without a label are no cluster
  for (let point = 0; point < num; point++) {
    if (!visible[point]) continue;
    of.get(labels[point])?.forEach((values, axis) => values.push(points[2 * point + axis]));
  }
  const middle = (values) => Float32Array.from(values).sort()[values.length >> 1];
  medians = [...of].filter(([, [values]]) => values.length)
    .sort(([, [one]], [, [other]]) => other.length - one.length)
    .map(([label, values]) => ({ label, name: classes.get(label).name, at: values.map(middle) }));
}

function placeNames() {
  const context = layers.map;
  context.font = NAME.font;
  names = [];
  for (const { label, name, at } of medians) {
    const from = toScreen(...at), [x, y] = from;
    if (x < 0 || y < 0 || x > box.width || y > box.height) continue;
    const width = context.measureText(name).width + NAME.swatch + NAME.gap;
    for (const [right, down] of OFFSETS) {
      const left = x - width / 2 + right, top = y - NAME.height / 2 + down;
      const inside = left >= 4 && top >= ROOM.top - 8 && left + width <= box.width - 4 && top + NAME.height <= box.height - 4;
      if (!inside || names.some((other) => left < other.left + other.width + 8 && other.left < left + width + 8
        && Math.abs(top - other.top) < NAME.height)) continue;
      names.push({ label, name, from, left, top, width });
      break;
    }
  }
}

function drawNames() {
  const context = layers.map, ink = style("--ink"), halo = style("--card");
  const disc = (at, radius, label) => {
    context.beginPath();
    context.arc(...at, radius, 0, 7);
    Object.assign(context, { strokeStyle: halo, lineWidth: 5, fillStyle: classes.get(label).colour });
    context.stroke();
    context.fill();
  };
  Object.assign(context, { font: NAME.font, textAlign: "left", textBaseline: "middle", lineJoin: "round" });
  for (const { label, from, left, top, width } of names) { // lines to names that are away from their median
    const to = [Math.min(Math.max(from[0], left), left + width), Math.min(Math.max(from[1], top), top + NAME.height)];
    if (Math.hypot(to[0] - from[0], to[1] - from[1]) < 4) continue;
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    for (const [colour, thick] of [[halo, 4], [ink, 1.5]]) {
      Object.assign(context, { strokeStyle: colour, lineWidth: thick });
      context.stroke();
    }
    disc(from, 3, label);
  }
  for (const { label, name, left, top } of names) {
    const middle = top + NAME.height / 2, start = left + NAME.swatch + NAME.gap;
    context.lineWidth = 5;
    context.strokeStyle = halo;
    context.strokeText(name, start, middle);
    disc([left + NAME.swatch / 2, middle], NAME.swatch / 2, label);
    context.fillStyle = ink;
    context.fillText(name, start, middle);
  }
}
