"use strict";
// How the next letter is drawn: the temperature, and how many of the best letters may be drawn.
{
const PROMPT = "ROMEO:\n", LENGTH = 120;

// Probabilities after both filters; letters below the best k get 0.
function filtered(logits, temperature, k) {
  const limit = [...logits].sort((a, b) => b - a)[k - 1];
  return probabilities(Array.from(logits, z => z < limit ? -Infinity : z / temperature));
}

function generator(seed) {  // mulberry32: numbers in [0, 1) that are the same for each visit
  return () => {
    seed = seed + 0x6D2B79F5 | 0;
    let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
}

toy("temperature", ["home/letters5"], ({temperature, k, draw}, [base64], find) => {
  const weights = GPT.weights ??= unpackLetters(base64), memory = {blocks: [], position: 0};
  const random = generator(draw), costs = [];
  let text = PROMPT, logits = null;
  for (const letter of PROMPT) logits = read(memory, LETTERS.alphabet.indexOf(letter), weights);
  const parts = filtered(logits, temperature, k);
  while (text.length < LENGTH) {
    let rest = random();
    const now = filtered(logits, temperature, k), id = Math.max(0, now.findIndex(p => (rest -= p) < 0));
    costs.push(-Math.log2(probabilities(logits)[id]));
    text += LETTERS.alphabet[id];
    logits = read(memory, id, weights);
  }
  orange(find(".text"), text, [...Array(PROMPT.length).fill(0), ...costs]);
  const order = [...parts.keys()].sort((a, b) => parts[b] - parts[a]).slice(0, 6);
  bars(find(".bars"), order.map(id => LETTERS.alphabet[id]), order.map(id => parts[id]));
  const entropy = -sum(parts.map(p => p ? p * Math.log2(p) : 0)), choices = 2 ** entropy;
  return {
    said: `The first letter is chosen as if from ${choices.toFixed(1)} equally likely ones. What was drawn costs ` +
      `${average(costs).toFixed(2)} bits per letter.`,
    numbers: {parts, entropy},
  };
});
}
