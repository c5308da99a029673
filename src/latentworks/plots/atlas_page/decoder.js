"use strict";
// The decoder runs the steps of a program on typed arrays. Images are [H, W, C], row by row.

const size = (shape) => shape.reduce((all, length) => all * length, 1);

// The matrix product a [m, k] times w [n, k], transposed, to out [m, n]; it takes most of the time.
// Two rows of `a` by four of `w` at once, so that each value is read once for several products.
// `a` and `w` have room for a multiple of four rows.
function product(a, w, bias, out, m, n, k) {
  const put = (row, column, sum) => {
    if (row < m && column < n) out[row * n + column] = sum + bias[column];
  };
  for (let i = 0; i < m; i += 2) {
    const a0 = i * k, a1 = a0 + k;
    for (let j = 0; j < n; j += 4) {
      const w0 = j * k, w1 = w0 + k, w2 = w1 + k, w3 = w2 + k;
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0, t0 = 0, t1 = 0, t2 = 0, t3 = 0;
      for (let p = 0; p < k; p++) {
        const x = a[a0 + p], y = a[a1 + p];
        const u0 = w[w0 + p], u1 = w[w1 + p], u2 = w[w2 + p], u3 = w[w3 + p];
        s0 += x * u0; s1 += x * u1; s2 += x * u2; s3 += x * u3;
        t0 += y * u0; t1 += y * u1; t2 += y * u2; t3 += y * u3;
      }
      put(i, j, s0); put(i, j + 1, s1); put(i, j + 2, s2); put(i, j + 3, s3);
      put(i + 1, j, t0); put(i + 1, j + 1, t1); put(i + 1, j + 2, t2); put(i + 1, j + 3, t3);
    }
  }
}

const room = (rows, k) => new Float32Array(4 * Math.ceil(rows / 4) * k);

function padded(values, rows, k) {
  const packed = room(rows, k);
  packed.set(values);
  return packed;
}

// Calls `each` for every pixel of the smaller image and every position of its window. The argument
// is the offset of the pixel in the larger image, or -1 outside of that image.
function windows(small, large, { kernel, strides, before, dilation = [1, 1] }, each) {
  const [height, width, channels] = large;
  let window = 0;
  for (let i = 0; i < small[0]; i++) for (let j = 0; j < small[1]; j++) {
    for (let u = 0; u < kernel[0]; u++) for (let v = 0; v < kernel[1]; v++) {
      const y = i * strides[0] + u * dilation[0] - before[0];
      const x = j * strides[1] + v * dilation[1] - before[1];
      each(window++, y >= 0 && y < height && x >= 0 && x < width ? (y * width + x) * channels : -1);
    }
  }
}

// The error function, to seven digits: Abramowitz and Stegun, 7.1.26.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const sum = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}

const ACTIVATIONS = {
  elu: () => (x) => x > 0 ? x : Math.expm1(x),
  gelu: () => (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  leaky_relu: ({ slope }) => (x) => x > 0 ? x : slope * x,
  relu: () => (x) => x > 0 ? x : 0,
  relu6: () => (x) => Math.min(Math.max(x, 0), 6),
  sigmoid: () => (x) => 1 / (1 + Math.exp(-x)),
  silu: () => (x) => x / (1 + Math.exp(-x)),
  softplus: () => (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  tanh: () => Math.tanh,
};

// Each function prepares an operation and returns the function that runs it: (inputs, out).
const OPERATIONS = {
  dense({ of: [shape] }, weights, bias) {
    const k = shape.at(-1), rows = size(shape) / k, n = bias.length;
    const packed = padded(weights, n, k), given = room(rows, k);
    return ([x], out) => {
      given.set(x);
      product(given, packed, bias, out, rows, n, k);
    };
  },

  conv(step, weights, bias) {
    const [from] = step.of, { shape } = step;
    const depth = from[2], k = weights.length / bias.length, pixels = shape[0] * shape[1];
    const packed = padded(weights, bias.length, k), columns = room(pixels, k);
    const places = new Int32Array(pixels * step.kernel[0] * step.kernel[1]);
    windows(shape, from, step, (window, place) => { places[window] = place; });
    return ([x], out) => {
      for (let window = 0, to = 0; window < places.length; window++, to += depth) {
        const place = places[window]; // pixels outside the image stay zero
        if (place >= 0) for (let c = 0; c < depth; c++) columns[to + c] = x[place + c];
      }
      product(columns, packed, bias, out, pixels, bias.length, k);
    };
  },

  conv_transpose(step, weights, bias) {
    const [from] = step.of, { shape } = step;
    const k = from[2], pixels = from[0] * from[1], depth = shape[2], n = weights.length / k;
    const packed = padded(weights, n, k), given = room(pixels, k);
    const columns = new Float32Array(pixels * n), none = new Float32Array(n);
    const places = new Int32Array(pixels * step.kernel[0] * step.kernel[1]);
    windows(from, shape, step, (window, place) => { places[window] = place; });
    return ([x], out) => {
      given.set(x);
      product(given, packed, none, columns, pixels, n, k);
      for (let place = 0; place < out.length; place += depth) out.set(bias, place);
      for (let window = 0, at = 0; window < places.length; window++, at += depth) {
        const place = places[window];
        if (place >= 0) for (let c = 0; c < depth; c++) out[place + c] += columns[at + c];
      }
    };
  },

  activate(step) {
    const f = ACTIVATIONS[step.function](step);
    return ([x], out) => { for (let i = 0; i < out.length; i++) out[i] = f(x[i]); };
  },

  affine(step, scale, offset) {
    const depth = scale.length;
    return ([x], out) => {
      for (let i = 0; i < out.length; i += depth) {
        for (let c = 0; c < depth; c++) out[i + c] = x[i + c] * scale[c] + offset[c];
      }
    };
  },

  round(step, highest) {
    const depth = highest.length; // numbers of a place, from -1 to 1, with equal steps
    return ([x], out) => {
      for (let i = 0; i < out.length; i += depth) for (let c = 0; c < depth; c++) {
        const level = Math.round((x[i + c] + 1) / 2 * highest[c]);
        out[i + c] = Math.min(Math.max(level, 0), highest[c]) / highest[c] * 2 - 1;
      }
    };
  },

  normalise({ of: [shape], groups, each, epsilon }, scale, offset) {
    const depth = shape.at(-1), length = depth / groups;
    const block = each ? depth : size(shape); // values that are normalised together
    return ([x], out) => {
      for (let start = 0; start < out.length; start += block) for (let g = 0; g < depth; g += length) {
        const over = (f) => {
          let sum = 0;
          for (let i = start; i < start + block; i += depth) {
            for (let c = g; c < g + length; c++) sum += f(x[i + c]);
          }
          return sum / (block / groups);
        };
        const mean = over((value) => value);
        const factor = 1 / Math.sqrt(over((value) => (value - mean) ** 2) + epsilon);
        for (let i = start; i < start + block; i += depth) for (let c = g; c < g + length; c++) {
          out[i + c] = (x[i + c] - mean) * factor * scale[c] + offset[c];
        }
      }
    };
  },

  pad({ of: [from], shape, before }) {
    const window = { kernel: [1, 1], strides: [1, 1], before };
    return gather(shape, (take) => windows(shape, from, window, (pixel, place) => take(pixel, place)));
  },

  repeat({ of: [from], shape, times }) {
    return gather(shape, (take) => {
      for (let y = 0; y < shape[0]; y++) for (let x = 0; x < shape[1]; x++) {
        const place = Math.floor(y / times[0]) * from[1] + Math.floor(x / times[1]);
        take(y * shape[1] + x, place * from[2]);
      }
    });
  },

  permute({ of: [from], shape, axes }) {
    const strides = axes.map((axis) => size(from.slice(axis + 1)));
    const places = offsets(shape, strides);
    return ([x], out) => { for (let i = 0; i < out.length; i++) out[i] = x[places[i]]; };
  },

  concatenate({ lengths }) {
    const whole = lengths.reduce((sum, length) => sum + length);
    return (inputs, out) => {
      let at = 0;
      inputs.forEach((x, number) => {
        const length = lengths[number];
        for (let i = 0, to = at; i < x.length; i += length, to += whole) out.set(x.subarray(i, i + length), to);
        at += length;
      });
    };
  },

  add: (step) => elementwise(step, (a, b) => a + b),
  multiply: (step) => elementwise(step, (a, b) => a * b),
};

// Copies whole pixels. Pixels from outside, at -1, are zero.
function gather(shape, fill) {
  const depth = shape[2], places = new Int32Array(shape[0] * shape[1]);
  fill((pixel, place) => { places[pixel] = place; });
  return ([x], out) => {
    for (let pixel = 0; pixel < places.length; pixel++) {
      const place = places[pixel];
      if (place >= 0) for (let c = 0; c < depth; c++) out[pixel * depth + c] = x[place + c];
    }
  };
}

// The offset of each element of `shape`, counted row by row, in an array with these strides.
function offsets(shape, strides) {
  return Int32Array.from({ length: size(shape) }, (_, index) => {
    let place = 0;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      place += (index % shape[axis]) * strides[axis];
      index = Math.floor(index / shape[axis]);
    }
    return place;
  });
}

// An axis of length one, or a missing first axis, is broadcast: its stride is 0.
function elementwise({ of, shape }, f) {
  const places = of.map((from) => {
    const whole = [...Array(shape.length - from.length).fill(1), ...from];
    return offsets(shape, whole.map((n, axis) => n === 1 ? 0 : size(whole.slice(axis + 1))));
  });
  return (inputs, out) => {
    for (let i = 0; i < out.length; i++) out[i] = inputs[0][places[0][i]];
    for (let n = 1; n < inputs.length; n++) {
      const x = inputs[n], from = places[n];
      for (let i = 0; i < out.length; i++) out[i] = f(out[i], x[from[i]]);
    }
  };
}

class Decoder {
  constructor({ inputs, image_shape, steps }, weights) {
    this.shape = image_shape;
    this.order = Object.keys(inputs);
    this.numClasses = inputs.labels ?? 0;
    this.values = []; // the inputs, then the result of each step, in arrays that are reused
    this.steps = steps.map((step, number) => {
      const own = step.weights.map(([start, length]) => weights.subarray(start, start + length));
      const out = this.values[this.order.length + number] = new Float32Array(size(step.shape));
      const run = OPERATIONS[step.operation](step, ...own);
      return () => run(step.inputs.map((input) => this.values[input]), out);
    });
  }

  // Decodes latents, and a class for a conditional model, to an image as RGBA for a canvas.
  decode(latents, label = -1) {
    const given = { latents: Float32Array.from(latents), labels: new Float32Array(this.numClasses) };
    if (label >= 0) given.labels[label] = 1;
    this.order.forEach((name, number) => { this.values[number] = given[name]; });
    for (const step of this.steps) step();
    const image = this.values.at(-1), [height, width, depth] = this.shape;
    const pixels = new Uint8ClampedArray(4 * height * width).fill(255); // rounds and clips
    for (let pixel = 0; pixel < height * width; pixel++) for (let c = 0; c < 3; c++) {
      pixels[4 * pixel + c] = 255 * image[pixel * depth + (depth === 1 ? 0 : c)];
    }
    return pixels;
  }
}
