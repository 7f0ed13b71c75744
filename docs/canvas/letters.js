"use strict";
// A small GPT in plain JavaScript, which reads one letter after another, and the page around it.
// LETTERS holds the alphabet, the steps of the moments of the training, their bits per letter, and
// the names and sizes of a moment's weights.
{
const HEADS = 4, WINDOW = 64, DEPTH = 3;
const LOOKS_BACK = DEPTH * WINDOW;  // letters that can change the next one

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
  x.forEach((value, i) => {
    for (let o = 0; o < outputs; o++) y[o] += value * kernel[i * outputs + o];
  });
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

// The page. `text` is all that is written, `costs` the bits of each letter; `next` has the
// probabilities of the next one.
const find = id => document.getElementById(id), last = LETTERS.steps.length - 1;
const shown = letter => ({"\n": "↵", " ": "␣"})[letter] ?? letter;
let weights = null, memory = null, next = [], text = "", costs = [], running = null, asked = 0;

function take(letter) {
  const id = LETTERS.alphabet.indexOf(letter);
  if (id < 0) return;  // a letter that the plays do not have
  costs.push(next.length ? -Math.log2(next[id]) : 0);
  text += letter;
  next = probabilities(read(memory, id, weights).map(z => z / Number(find("temperature").value)));
}

// Read the text again: after another beginning, moment or temperature.
function again(letters) {
  find("warmth").textContent = find("temperature").value;
  memory = {blocks: [], position: 0};
  [text, costs, next] = ["", [], []];
  for (const letter of letters.slice(-LOOKS_BACK) || "\n") take(letter);
  if (!text) take("\n");
  show();
}

function show() {
  const order = Array.from(next.keys()).sort((a, b) => next[b] - next[a]).slice(0, 8);
  find("next").replaceChildren(...order.map(id => {
    const row = document.createElement("button"), bar = document.createElement("i");
    row.type = "button";
    bar.style.width = `${60 * next[id]}%`;
    row.append(shown(LETTERS.alphabet[id]), bar, (100 * next[id]).toFixed(1) + "%");
    row.addEventListener("click", () => { take(LETTERS.alphabet[id]); show(); });
    return row;
  }));
  find("written").replaceChildren(...Array.from(text, (letter, i) => {
    const span = document.createElement("span");
    span.textContent = letter;
    span.style.background = `rgb(230 120 0 / ${Math.min(costs[i] / 8, 1) * 0.7})`;
    return span;
  }));
  find("written").scrollTop = find("written").scrollHeight;
  find("letters").dataset.answers = Number(find("letters").dataset.answers || 0) + 1;
}

function drawn() {  // one letter by its probability
  let rest = Math.random();
  const id = next.findIndex(share => (rest -= share) < 0);
  return LETTERS.alphabet[id < 0 ? 0 : id];
}

function stop() {
  clearInterval(running);
  running = null;
  find("write").textContent = "Write";
}

function write() {
  if (running) return stop();
  find("write").textContent = "Stop";
  running = setInterval(() => {
    take(drawn());
    if (text.length > 2000) again(text);
    show();
  }, 40);
}

async function moved(letters) {
  const mine = ++asked, moment = Number(find("age").value);
  find("learned").textContent = `step ${LETTERS.steps[moment].toLocaleString("en")} of ` +
    `${LETTERS.steps[last].toLocaleString("en")}, ${LETTERS.bits[moment].toFixed(2)} bits per letter of unread plays`;
  const found = await load(`letters${moment}`, unpackLetters);
  if (mine !== asked) return;  // the slider has moved on
  weights = found;
  again(letters);
}

find("age").max = find("age").value = last;
find("write").addEventListener("click", write);
find("age").addEventListener("input", () => moved(text));
find("temperature").addEventListener("input", () => { if (weights) again(text); });
find("begin").addEventListener("input", () => { stop(); if (weights) again(find("begin").value); });

// The tabs: the weights of the letters come when their tab is first opened.
const tabs = [...document.querySelectorAll("#tabs button")];
for (const [i, tab] of tabs.entries()) {
  tab.addEventListener("click", () => {
    for (const other of tabs) {
      other.setAttribute("aria-selected", other === tab);
      other.tabIndex = other === tab ? 0 : -1;
      find(other.getAttribute("aria-controls")).hidden = other !== tab;
    }
    stop();
    if (tab.id === "write-tab" && !weights) moved(find("begin").value);
  });
  tab.addEventListener("keydown", event => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = tabs[(i + 1) % tabs.length];
    other.focus();
    other.click();
  });
}
Object.assign(window, {unpackLetters, read});  // for the tests
}
