"use strict";
// The page around the GPT of gpt.js, which reads one letter after another.
{
// `text` is all that is written, `costs` the bits of each letter; `next` has the
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
}
