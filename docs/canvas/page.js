"use strict";
// The weights of a moment come in a script of their own, which calls `arrived`, because pages that
// are read from the disk cannot fetch.
const waiting = {}, moments = {};

function load(name, unpack) {
  return moments[name] ??= new Promise(resolve => {
    waiting[name] = base64 => resolve(unpack(base64));
    const script = document.createElement("script");
    script.src = `home/${name}.js`;
    script.onerror = () => {
      delete moments[name];
      document.getElementById("said").textContent = "These weights did not load.";
    };
    document.head.append(script);
  });
}

window.arrived = (name, base64) => waiting[name](base64);

// The board of the home page. RUN holds the steps of the moments of the training, their accuracies
// on MNIST's test digits, and the strokes of each digit.
{
const find = id => document.getElementById(id);
const board = find("board"), ink = board.getContext("2d", {willReadFrequently: true});
const slider = find("slider"), last = RUN.steps.length - 1;
const BLUE = [64, 112, 240], ORANGE = [230, 120, 0], GRAY = [128, 128, 128];
// Paint numbers in [-1, 1] on a canvas, in orange and blue: maps of one side, so many in a row.
function paint(canvas, maps, side, columns) {
  const gap = maps.length > 1 && side > 1 ? 1 : 0, cell = side + gap;
  canvas.width = columns * cell - gap;
  canvas.height = Math.ceil(maps.length / columns) * cell - gap;
  const context = canvas.getContext("2d");
  maps.forEach((map, number) => {
    const data = context.createImageData(side, side);
    map.forEach((value, i) => {
      const strength = 255 * Math.min(Math.abs(value), 1);
      data.data.set(strength < 30 ? GRAY : value < 0 ? ORANGE : BLUE, 4 * i);
      data.data[4 * i + 3] = Math.max(strength, 30);  // the paper
    });
    context.putImageData(data, number % columns * cell, Math.floor(number / columns) * cell);
  });
}

// The maps of a layer as arrays, each divided by the largest value of all.
function maps(values, count) {
  const top = Math.max(...values) || 1;
  return Array.from({length: count}, (_, map) =>
    Float32Array.from({length: values.length / count}, (_, i) => values[i * count + map] / top));
}

function drawing() {
  const {data, width, height} = ink.getImageData(0, 0, board.width, board.height);
  return preprocess(Float32Array.from({length: width * height}, (_, i) => data[4 * i + 3] / 255), width, height);
}

let later = 0, asked = 0, image = null;

// Classify the drawing with the weights of the slider's moment, and show all layers.
async function answer() {
  const mine = ++asked, moment = Number(slider.value);
  find("moment").textContent = `step ${RUN.steps[moment].toLocaleString("en")} of ` +
    `${RUN.steps[last].toLocaleString("en")}, ${(100 * RUN.accuracies[moment]).toFixed(1)}% of MNIST's test digits`;
  const weights = await load(`moment${moment}`, unpack);
  if (mine !== asked) return;  // the drawing or the slider has moved on
  image = drawing();
  const found = values(image || new Float32Array(784), weights);
  const shares = image ? probabilities(found.at(-1)) : Array(10).fill(0);
  const best = image ? shares.indexOf(Math.max(...shares)) : -1;
  find("bars").innerHTML = shares.map((share, digit) =>
    `<div class="${digit === best ? "best" : ""}">${digit}<i style="width: ${70 * share}%"></i>` +
    `${image ? (100 * share).toFixed(1) + "%" : ""}</div>`).join("");
  find("said").textContent = image ? `This is a ${best}.` : "Draw a digit.";
  const blank = !image;
  paint(find("c1"), maps(blank ? found[1].fill(0) : found[1], 6), 28, 6);
  paint(find("c3"), maps(blank ? found[3].fill(0) : found[3], 16), 10, 8);
  paint(find("c5"), maps(blank ? found[5].fill(0) : found[5], 120), 1, 40);
  clearTimeout(later);
  later = setTimeout(explain, 60, best, weights);  // 16 gradients: not with each move of the pen
}

function explain(best, weights) {
  const found = image ? contributions(image, best, weights) : new Float32Array(784);
  const top = Math.max(...found.map(Math.abs)) || 1;
  paint(find("why"), [found.map(value => value / top)], 28, 1);
  find("because").innerHTML = image ? `The pixels that spoke <b style="color: rgb(${BLUE})">for</b> a ${best} and ` +
    `<b style="color: rgb(${ORANGE})">against</b> it` : "The pixels that decided";
  board.dataset.answers = Number(board.dataset.answers || 0) + 1;
}

// A change of the drawing is answered with the next picture of the screen.
let due = false;
function changed() {
  if (!due) requestAnimationFrame(() => { due = false; answer(); });
  due = true;
}

let example = false, pen = null;  // pen: the place of a lowered pen
function clear() {
  ink.clearRect(0, 0, board.width, board.height);
  example = false;
  pen = null;
  changed();
}

function line(from, to) {
  if (example) clear();
  ink.strokeStyle = "#fff"; ink.lineWidth = 22; ink.lineCap = ink.lineJoin = "round";
  ink.beginPath(); ink.moveTo(...from); ink.lineTo(...to); ink.stroke();
  changed();
}

function show(digit) {
  clear();
  for (const stroke of RUN.strokes[digit])
    stroke.forEach((point, i) => line(...[stroke[Math.max(i - 1, 0)], point].map(p => p.map(x => x * board.width))));
  example = true;  // the first stroke of one's own begins an empty board
}

function place(event) {
  const box = board.getBoundingClientRect(), scale = board.width / board.clientWidth;
  return [(event.clientX - box.left - board.clientLeft) * scale, (event.clientY - box.top - board.clientTop) * scale];
}

board.addEventListener("pointerdown", event => {
  if (event.isTrusted) board.setPointerCapture(event.pointerId);
  if (example) clear();
  pen = place(event);
  line(pen, pen);
});
board.addEventListener("pointermove", event => {
  if (!pen || down) return;
  const here = place(event);
  line(pen, here);
  pen = here;
});
for (const end of ["pointerup", "pointercancel"]) board.addEventListener(end, () => { pen = null; });

// Keys: a point moves over the board; it is drawn as a ring, which is not ink.
const STEPS = {ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, -10], ArrowDown: [0, 10]};
let cursor = [140, 140], down = false;
board.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (STEPS[event.key]) {
    const before = cursor;
    cursor = cursor.map((x, axis) => Math.min(Math.max(x + STEPS[event.key][axis], 10), 270));
    if (down) line(before, cursor);
  } else if (event.key === " ") {
    down = !down;
    if (down) line(cursor, cursor);
  } else if (event.key === "Delete" || event.key === "Backspace") clear();
  else if (/^\d$/.test(event.key)) show(Number(event.key));
  else return;
  event.preventDefault();
  ring();
});
function ring() {
  const [x, y] = cursor, shown = document.activeElement === board && board.matches(":focus-visible");
  board.style.backgroundImage = shown ? `radial-gradient(circle at ${x / 2.8}% ${y / 2.8}%, ` +
    `transparent 8px, ${down ? "#f90" : "#4070f0"} 9px 12px, transparent 13px)` : "";
}
board.addEventListener("focus", ring);
board.addEventListener("blur", () => { down = false; ring(); });

find("clear").addEventListener("click", clear);
slider.max = slider.value = last;
slider.addEventListener("input", changed);
show(3);
// The other moments come one after another, the latest first: then the slider needs no network.
load(`moment${last}`, unpack).then(async () => {
  for (let moment = last - 1; moment >= 0; moment--) await load(`moment${moment}`, unpack);
});
}
