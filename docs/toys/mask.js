"use strict";
// The mask of attention: how many letters each letter sees before and after itself.
toy("mask", ["home/letters5"], ({back, ahead}, [base64], find) => {
  const weights = GPT.weights ??= unpackLetters(base64);
  const ids = [...UNREAD].map(letter => LETTERS.alphabet.indexOf(letter)), count = 32;
  const logits = readAll(ids.slice(0, -1), weights, {back, ahead});
  const costs = logits.map((z, t) => -Math.log2(probabilities(z)[ids[t + 1]])), bits = average(costs);
  orange(find(".text"), UNREAD, [0, ...costs]);

  const context = picture(find("canvas"), 330, 275), ink = context.fillStyle, cells = [];
  for (let t = 0; t < count; t++)
    for (let s = 0; s < count; s++) cells.push(t - s <= back && s - t <= ahead ? (s > t ? -1 : 1) : 0);
  squares(context, cells, count, [0, 0], 8, 1.3);
  context.fillStyle = ink;
  context.fillText("each row: what a letter sees before it and after it", 0, 270);
  return {
    said: `A letter costs ${bits.toFixed(3)} bits. ` + (ahead ? "It sees the future, which training hid from it." :
      back === 64 ? "It sees what it saw in training." : "It sees less than in training."),
    numbers: {bits, logits: [...logits.at(-1)]},
  };
});
