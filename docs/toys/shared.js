"use strict";
// What all toys share: their inputs, the link that holds their state, their data, and drawing.
//
// toy(name, files, compute) connects the section `name` of the page. When an input moves, it calls
// compute(state, data, show). `state` has the value of each input by its name, and an array for a
// row of checkboxes. `data` has what the files hold. compute returns {said, numbers}: a sentence,
// and what the tests compare with Python.

const toys = {}, BLUE = "#4070f0", ORANGE = "#e67800", GRAY = "#888";

// Data come in scripts that call `arrived`, because pages that are read from the disk cannot fetch.
const arrivals = {}, waiting = {};
window.arrived = (name, value) => waiting[name](value);
function load(file) {
  return arrivals[file] ??= new Promise((resolve, reject) => {
    waiting[file.split("/").at(-1)] = resolve;
    const script = document.createElement("script");
    script.src = `${file}.js`;
    script.onerror = reject;
    document.head.append(script);
  });
}

function toy(name, files, compute) {
  const section = document.getElementById(`toy-${name}`), find = what => section.querySelector(what);
  const inputs = [...section.querySelectorAll("input")];
  const first = written(inputs);
  let data = null, due = false;

  async function play() {
    due = false;
    data ??= await Promise.all(files.map(load));
    const state = stateOf(inputs), {said, numbers} = compute(state, data, find);
    for (const input of inputs)
      if (input.type === "range") find(`[data-value="${input.name}"]`).textContent = input.value;
    for (const code of section.querySelectorAll("[data-python]"))
      code.textContent = code.dataset.python.replace(/{(\w+):?(\w*)}/g, (_, name, how) =>
        python(state[name], how));
    find("output").textContent = said;
    find(".invitation").hash = `${name}?${written(inputs)}`;
    Object.assign(section.dataset, {
      numbers: JSON.stringify(numbers), answers: Number(section.dataset.answers || 0) + 1});
  }

  function changed() {  // many moves of a slider are one picture of the screen
    if (!due) requestAnimationFrame(play);
    due = true;
  }

  function set(query) {
    setInputs(inputs, query);
    changed();
  }

  const address = () => history.replaceState(null, "", `#${name}?${written(inputs)}`);
  for (const input of inputs) {
    input.addEventListener("input", changed);
    input.addEventListener("change", address);
  }
  for (const button of section.querySelectorAll("button"))
    button.addEventListener("click", () => {
      set(button.dataset.state || first);
      address();
    });
  toys[name] = {section, set, again: () => { if (data) changed(); }};
  // A toy that nobody has scrolled to needs no weights.
  const seen = new IntersectionObserver(([entry]) => {
    if (entry.isIntersecting) { seen.disconnect(); changed(); }
  }, {rootMargin: "400px"});
  seen.observe(section);
}

// The state of the inputs, by name.
function stateOf(inputs) {
  const state = {};
  for (const input of inputs) {
    const value = Number(input.type === "checkbox" ? input.checked : input.value);
    if ("many" in input.dataset) (state[input.name] ??= []).push(value);
    else state[input.name] = value;
  }
  return state;
}

// The same as the end of a link: "rate=0.5&on=1101".
function written(inputs) {
  return Object.entries(stateOf(inputs)).map(([name, value]) =>
    `${name}=${Array.isArray(value) ? value.join("") : value}`).join("&");
}

function setInputs(inputs, query) {
  const given = new URLSearchParams(query), seen = {};
  for (const input of inputs) {
    const text = given.get(input.name);
    if (text === null) continue;
    const place = seen[input.name] = (seen[input.name] ?? -1) + 1;
    if (input.type === "checkbox") input.checked = text["many" in input.dataset ? place : 0] === "1";
    else input.value = text;
  }
}

// A value as Python writes it: a number, a list, the places of what is switched off, a truth value.
function python(value, how) {
  if (how === "zero") return value === 0 ? "True" : "False";
  if (how === "bool") return value ? "True" : "False";
  if (!Array.isArray(value)) return value;
  const list = how === "off" ? [...value.keys()].filter(i => !value[i]) : value;
  return `[${list.join(", ")}]`;
}

// A link such as #perceptron?w=1 opens a toy in a state.
function visit() {
  const [name, query] = decodeURIComponent(location.hash.slice(1)).split("?");
  if (!toys[name] || query === undefined) return;
  toys[name].set(query);
  document.getElementById(name).scrollIntoView();
}
addEventListener("hashchange", visit);
addEventListener("DOMContentLoaded", visit);

// Pictures have the color of the text, which the reader may change.
new MutationObserver(() => Object.values(toys).forEach(toy => toy.again()))
  .observe(document.body, {attributeFilter: ["data-md-color-scheme"]});

// Numbers that Python wrote as bytes: {bytes, shape, scale}, the scale one number or one per column.
function unpacked({bytes, shape, scale, signed}) {
  const raw = Uint8Array.from(atob(bytes), letter => letter.charCodeAt(0));
  const values = signed ? new Int8Array(raw.buffer) : raw, columns = shape.at(-1);
  const found = Float64Array.from(values, (value, i) => value * (scale[i % columns] ?? scale));
  return Object.assign(found, {rows: found.length / columns, columns});
}

const row = (matrix, i) => matrix.subarray(i * matrix.columns, (i + 1) * matrix.columns);
const sum = values => values.reduce((a, b) => a + b, 0);
const average = values => sum(values) / values.length;
const best = values => values.indexOf(Math.max(...values));
const percent = part => `${(100 * part).toFixed(1)}%`;

// x @ kernel + bias, for one row.
function dense(x, {kernel, bias}) {
  const y = Float64Array.from(bias);
  for (let i = 0; i < x.length; i++)
    if (x[i]) for (let o = 0; o < y.length; o++) y[o] += x[i] * kernel[i * y.length + o];
  return y;
}
const relu = values => values.map(value => Math.max(value, 0));
function softmax(logits) {
  const top = Math.max(...logits), exp = Array.from(logits, z => Math.exp(z - top));
  return exp.map(e => e / sum(exp));
}

// Drawing. A picture is empty, as sharp as the screen, and has the color of the page's text.
function picture(canvas, width, height) {
  const scale = devicePixelRatio || 1, context = canvas.getContext("2d");
  canvas.width = width * scale;
  canvas.height = height * scale;
  context.scale(scale, scale);
  context.strokeStyle = context.fillStyle = getComputedStyle(canvas).color;
  context.font = "12px system-ui, sans-serif";
  return context;
}

// Numbers in [-1, 1] as squares, blue above 0 and orange below; `top` scales them.
function squares(context, values, columns, [left, upper], size, top = 1) {
  values.forEach((value, i) => {
    context.globalAlpha = 0.08 + 0.92 * Math.min(Math.abs(value) / top, 1);
    context.fillStyle = Math.abs(value) < 1e-9 ? GRAY : value < 0 ? ORANGE : BLUE;
    context.fillRect(left + i % columns * size, upper + Math.floor(i / columns) * size, size, size);
  });
  context.globalAlpha = 1;
}

// Bars of parts in [0, 1], each with its label.
function bars(element, labels, parts, chosen = best(parts)) {
  element.replaceChildren(...parts.map((part, i) => {
    const line = document.createElement("div"), bar = document.createElement("i");
    line.className = i === chosen ? "best" : "";
    bar.style.width = `${65 * Math.min(part, 1)}%`;
    line.append(labels[i], bar, percent(part));
    return line;
  }));
}

function circle(context, [x, y], radius, color, ring) {
  context.beginPath();
  context.arc(x, y, radius, 0, 7);
  context.fillStyle = color;
  context.fill();
  if (ring) context.stroke();
}

function path(context, points, color, width = 2) {
  context.beginPath();
  for (const point of points) context.lineTo(...point);
  context.strokeStyle = color;
  context.lineWidth = width;
  context.stroke();
}

// The dense layers of a file of data, unpacked once.
function layersOf(data) {
  return data.ready ??= data.layers.map(({kernel, bias}) => ({kernel: unpacked(kernel), bias}));
}

const GPT = {};  // its weights, once for three toys
// A text that the GPT has not read, and a text whose unexpected letters are orange.
const UNREAD = "KATHARINA:\nThe moon! the sun: it is not moonlight now.\n\nPETRUCHIO:\nI say it is the moon that " +
  "shines so bright.\n";
function orange(element, text, costs) {
  element.replaceChildren(...Array.from(text, (letter, i) => {
    const span = document.createElement("span");
    span.textContent = letter;
    span.style.background = `rgb(230 120 0 / ${Math.min(costs[i] / 8, 1) * 0.7})`;
    return span;
  }));
}
