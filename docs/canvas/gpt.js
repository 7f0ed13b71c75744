"use strict";
// A small GPT in plain JavaScript. LETTERS holds the alphabet, the steps of the moments of the
// training, their bits per letter, and the names and sizes of a moment's weights.
{
const HEADS = 4, WINDOW = 64, DEPTH = 3;

// The weights by name, from base64: all of 32 bits, then the kernels in 8 bits, whose scales are of
// each output; of the table of letters, of each letter.
function unpackLetters(base64) {
  const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0)), weights = {};
  let place = 0;
  for (const [name, size] of LETTERS.layout) {
    if (!name.endsWith(".int8")) {
      weights[name] = new Float32Array(bytes.buffer, place, size);
      place += 4 * size;
      continue;
    }
    const kernel = name.slice(0, -".int8".length), scale = weights[kernel + ".scale"];
    const row = kernel.startsWith("embedding") ? size / scale.length : 1;
    weights[kernel] = Float32Array.from(
      new Int8Array(bytes.buffer, place, size),
      (value, i) => value * scale[Math.floor(i / row) % scale.length]);
    place += size;
  }
  return weights;
}

function product(x, kernel, bias) {
  const y = Float32Array.from(bias), outputs = y.length;
  for (let i = 0; i < x.length; i++) {
    const value = x[i], from = i * outputs;
    for (let o = 0; o < outputs; o++) y[o] += value * kernel[from + o];
  }
  return y;
}

function normalized(x, scale, bias) {
  const mean = x.reduce((a, b) => a + b) / x.length;
  const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
  return x.map((value, i) => (value - mean) / Math.sqrt(variance + 1e-6) * scale[i] + bias[i]);
}

const gelu = z => z / 2 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (z + 0.044715 * z ** 3)));

// Rotate each head's pairs (i, i + half) by angles proportional to the position.
function rotated(x, position) {
  const size = x.length / HEADS, half = size / 2;
  return x.map((value, place) => {
    const i = place % size, angle = position / 10000 ** (i % half / half);
    const other = i < half ? -x[place + half] : x[place - half];
    return value * Math.cos(angle) + other * Math.sin(angle);
  });
}

// Read one letter: remember its keys and values, and return the logits of the next letter.
function read(memory, id, weights) {
  const table = weights["embedding.embedding"], width = table.length / LETTERS.alphabet.length;
  let x = table.slice(id * width, (id + 1) * width);
  for (let block = 0; block < DEPTH; block++) {
    const of = name => weights[`block_${block}.${name}`];
    const dense = (input, name) => product(input, of(name + ".kernel"), of(name + ".bias"));
    const norm = name => normalized(x, of(name + ".scale"), of(name + ".bias"));
    const input = norm("attention_norm"), kept = memory.blocks[block] ??= [];
    const query = rotated(dense(input, "attention.query"), memory.position);
    kept.push([rotated(dense(input, "attention.key"), memory.position), dense(input, "attention.value")]);
    if (kept.length > WINDOW + 1) kept.shift();
    const mixed = new Float32Array(width), size = width / HEADS;
    for (let head = 0; head < HEADS; head++) {
      const parts = Array.from({length: size}, (_, i) => head * size + i);
      const shares = probabilities(kept.map(([key]) =>
        parts.reduce((sum, i) => sum + query[i] * key[i], 0) / Math.sqrt(size)));
      kept.forEach(([, value], t) => { for (const i of parts) mixed[i] += shares[t] * value[i]; });
    }
    const seen = dense(mixed, "attention.out");
    x = x.map((value, i) => value + seen[i]);
    const found = dense(dense(norm("mlp_norm"), "mlp_in").map(gelu), "mlp_out");
    x = x.map((value, i) => value + found[i]);
  }
  memory.position++;
  const last = normalized(x, weights["norm.scale"], weights["norm.bias"]);
  return Float32Array.from({length: LETTERS.alphabet.length}, (_, letter) =>
    last.reduce((sum, value, i) => sum + value * table[letter * width + i], 0));
}

// The logits after each letter of a text, for those who switch parts of the net off: `on` says which
// heads of which blocks are used, and each letter sees `back` letters before and `ahead` after it.
function readAll(ids, weights, {on = Array(DEPTH * HEADS).fill(1), back = WINDOW, ahead = 0} = {}) {
  const table = weights["embedding.embedding"], width = table.length / LETTERS.alphabet.length;
  const size = width / HEADS, near = (t, s) => t - s <= back && s - t <= ahead;
  let rows = ids.map(id => table.slice(id * width, (id + 1) * width));
  for (let block = 0; block < DEPTH; block++) {
    const of = name => weights[`block_${block}.${name}`];
    const dense = (input, name) => product(input, of(name + ".kernel"), of(name + ".bias"));
    const norm = (x, name) => normalized(x, of(name + ".scale"), of(name + ".bias"));
    const inputs = rows.map(x => norm(x, "attention_norm"));
    const queries = inputs.map((x, t) => rotated(dense(x, "attention.query"), t));
    const keys = inputs.map((x, t) => rotated(dense(x, "attention.key"), t));
    const found = inputs.map(x => dense(x, "attention.value"));
    rows = rows.map((x, t) => {
      const mixed = new Float32Array(width), seen = [...keys.keys()].filter(s => near(t, s));
      for (let head = 0; head < HEADS; head++) {
        if (!on[block * HEADS + head]) continue;
        const parts = Array.from({length: size}, (_, i) => head * size + i);
        const shares = probabilities(seen.map(s =>
          parts.reduce((sum, i) => sum + queries[t][i] * keys[s][i], 0) / Math.sqrt(size)));
        seen.forEach((s, n) => { for (const i of parts) mixed[i] += shares[n] * found[s][i]; });
      }
      const attended = dense(mixed, "attention.out"), y = x.map((value, i) => value + attended[i]);
      const added = dense(dense(norm(y, "mlp_norm"), "mlp_in").map(gelu), "mlp_out");
      return y.map((value, i) => value + added[i]);
    });
  }
  return rows.map(x => {
    const last = normalized(x, weights["norm.scale"], weights["norm.bias"]);
    return Float32Array.from({length: LETTERS.alphabet.length}, (_, letter) =>
      last.reduce((sum, value, i) => sum + value * table[letter * width + i], 0));
  });
}
Object.assign(window, {unpackLetters, read, readAll, LOOKS_BACK: DEPTH * WINDOW});  // letters that can change the next one
}
