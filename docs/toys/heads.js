"use strict";
// The GPT of the home page with some of its heads switched off.
toy("heads", ["home/letters5"], ({on}, [base64], find) => {
  const weights = GPT.weights ??= unpackLetters(base64);
  const ids = [...UNREAD].map(letter => LETTERS.alphabet.indexOf(letter));
  const logits = readAll(ids.slice(0, -1), weights, {on});
  const costs = logits.map((z, t) => -Math.log2(probabilities(z)[ids[t + 1]])), bits = average(costs);
  orange(find(".text"), UNREAD, [0, ...costs]);
  const off = on.filter(head => !head).length;
  return {
    said: `With ${off} of 12 heads off, a letter costs ${bits.toFixed(3)} bits. A guess costs 6.02.`,
    numbers: {bits, logits: [...logits.at(-1)]},
  };
});
