"use strict";
// LeNet-5 in plain JavaScript: its values, and the gradients of its inputs.
//
// A layer is {name, forward(x, weights) -> y, backward(dy, x, y, weights) -> dx}. Arrays are flat,
// in the order (row, column, feature), as in jaxnet. A dense layer is a convolution whose window is
// the whole image, so two kinds of layers are enough.

function conv(name, size, inputs, window, outputs, relu = true) {
  const side = size - window + 1, area = window * window * inputs;
  const eachWeight = visit => {  // visit(input, first output, first weight)
    for (let row = 0; row < side; row++)
      for (let column = 0; column < side; column++)
        for (let i = 0; i < area; i++) {
          const part = i % (window * inputs), down = (i - part) / (window * inputs);
          visit(((row + down) * size + column) * inputs + part, (row * side + column) * outputs,
                i * outputs);
        }
  };
  return {
    name, weights: area * outputs, outputs,
    forward(x, {kernel, bias}) {
      const y = new Float32Array(side * side * outputs);
      for (let i = 0; i < y.length; i++) y[i] = bias[i % outputs];
      eachWeight((from, to, weight) => {
        const value = x[from];
        if (value) for (let o = 0; o < outputs; o++) y[to + o] += value * kernel[weight + o];
      });
      return relu ? y.map(value => Math.max(value, 0)) : y;
    },
    backward(dy, x, y, {kernel}) {
      const dz = relu ? dy.map((value, i) => y[i] > 0 ? value : 0) : dy;
      const dx = new Float32Array(size * size * inputs);
      eachWeight((from, to, weight) => {
        let sum = 0;
        for (let o = 0; o < outputs; o++) sum += dz[to + o] * kernel[weight + o];
        dx[from] += sum;
      });
      return dx;
    },
  };
}

function maxPool(name, size, features) {  // the largest of 2x2 values
  const side = size / 2;
  const largest = (x, i) => {
    const feature = i % features, column = (i - feature) / features % side;
    const row = Math.floor(i / features / side), corner = 2 * (row * size + column) * features + feature;
    return [corner, corner + features, corner + size * features, corner + (size + 1) * features]
      .reduce((best, place) => x[place] > x[best] ? place : best);
  };
  return {
    name, weights: 0, outputs: 0,
    forward: x => Float32Array.from({length: side * side * features}, (_, i) => x[largest(x, i)]),
    backward(dy, x) {
      const dx = new Float32Array(x.length);
      dy.forEach((value, i) => { dx[largest(x, i)] += value; });
      return dx;
    },
  };
}

const LENET5 = [
  conv("c1", 32, 1, 5, 6), maxPool("s2", 28, 6), conv("c3", 14, 6, 5, 16), maxPool("s4", 10, 16),
  conv("c5", 5, 16, 5, 120), conv("f6", 1, 120, 1, 84), conv("output", 1, 84, 1, 10, false),
];

// The weights of a moment, from base64. Of each layer: its kernel in 8 bits, and float32 numbers,
// the kernel's scale of each output and its bias. All floats come first.
function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
  const outputs = LENET5.reduce((sum, layer) => sum + layer.outputs, 0);
  const floats = new Float32Array(bytes.buffer, 0, 2 * outputs);
  let integers = new Int8Array(bytes.buffer, 8 * outputs), place = 0;
  return LENET5.map(layer => {
    const scale = floats.subarray(place, place + layer.outputs);
    const bias = floats.subarray(outputs + place, outputs + place + layer.outputs);
    const kernel = Float32Array.from(
      integers.subarray(0, layer.weights), (value, i) => value * scale[i % layer.outputs]);
    integers = integers.subarray(layer.weights);
    place += layer.outputs;
    return {kernel, bias};
  });
}

// The values of all layers for 784 pixels in [0, 1]: first the image with two rows and columns of
// zeros around it, last the ten logits.
function values(image, weights) {
  const padded = new Float32Array(32 * 32);
  for (let row = 0; row < 28; row++)
    padded.set(image.subarray(28 * row, 28 * row + 28), 32 * (row + 2) + 2);
  const found = [padded];
  LENET5.forEach((layer, i) => found.push(layer.forward(found[i], weights[i])));
  return found;
}

function probabilities(logits) {
  const top = Math.max(...logits), exp = Array.from(logits, z => Math.exp(z - top));
  return exp.map(e => e / exp.reduce((a, b) => a + b));
}

// Integrated gradients (Sundararajan, Taly and Yan 2017): what each pixel adds to the logit of a
// digit, compared with blank paper. The mean gradient on the way from there, times the pixel.
function contributions(image, digit, weights, steps = 16) {
  const sum = new Float32Array(784);
  for (let step = 0; step < steps; step++) {
    const found = values(image.map(pixel => pixel * (step + 0.5) / steps), weights);
    let gradient = new Float32Array(10);
    gradient[digit] = 1;
    for (let i = LENET5.length - 1; i >= 0; i--)
      gradient = LENET5[i].backward(gradient, found[i], found[i + 1], weights[i]);
    for (let i = 0; i < 784; i++)
      sum[i] += gradient[32 * (Math.floor(i / 28) + 2) + i % 28 + 2] / steps;
  }
  return sum.map((mean, i) => mean * image[i]);
}

// As MNIST was made: the digit is cropped, scaled to fit 20x20 pixels with its aspect kept, and put
// into 28x28 pixels with its center of mass in the middle of pixel 14, as in MNIST's files.
// pixels: width * height numbers in [0, 1], 1 for ink. Returns 784 of them, or null without ink.
function preprocess(pixels, width, height) {
  let left = width, right = -1, top = height, bottom = -1;
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      if (pixels[y * width + x] > 0) {
        left = Math.min(left, x); right = Math.max(right, x);
        top = Math.min(top, y); bottom = Math.max(bottom, y);
      }
  if (right < 0) return null;
  const w = right - left + 1, h = bottom - top + 1, scale = 20 / Math.max(w, h);
  const columns = Math.max(1, Math.round(w * scale)), rows = Math.max(1, Math.round(h * scale));
  const digit = new Float32Array(rows * columns);
  let mass = 0, massX = 0, massY = 0;
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) {
      const value = mean(pixels, width, left + c * w / columns, left + (c + 1) * w / columns,
                         top + r * h / rows, top + (r + 1) * h / rows);
      digit[r * columns + c] = value;
      mass += value; massX += value * (c + 0.5); massY += value * (r + 0.5);
    }
  const x0 = Math.min(Math.max(Math.round(14.5 - massX / mass), 0), 28 - columns);
  const y0 = Math.min(Math.max(Math.round(14.5 - massY / mass), 0), 28 - rows);
  const image = new Float32Array(784);
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) image[(y0 + r) * 28 + x0 + c] = digit[r * columns + c];
  return image;
}

// The mean of the pixels in a rectangle, those at its edges by the part of them inside it.
function mean(pixels, width, x0, x1, y0, y1) {
  let sum = 0, area = 0;
  for (let y = Math.floor(y0); y < y1; y++)
    for (let x = Math.floor(x0); x < x1; x++) {
      const part = (Math.min(x + 1, x1) - Math.max(x, x0)) * (Math.min(y + 1, y1) - Math.max(y, y0));
      const value = pixels[y * width + x];
      if (part > 0 && value !== undefined) { sum += part * value; area += part; }
    }
  return sum / area;
}
