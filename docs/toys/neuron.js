"use strict";
// A net with one hidden layer of 32 units on the digits of scikit-learn: switch its units off.
toy("neuron", ["toys/data/digits"], ({on, number}, [data], find) => {
  const pixels = data.unpacked ??= unpacked(data.pixels), [first, last] = layersOf(data);
  const hidden = i => relu(dense(row(pixels, i), first)).map((value, unit) => value * on[unit]);
  const answers = data.labels.map((_, i) => best([...dense(hidden(i), last)]));
  const right = answers.filter((answer, i) => answer === data.labels[i]).length;

  const shown = number - 1, units = hidden(shown), parts = softmax(dense(units, last));
  const context = picture(find("canvas"), 300, 130);
  squares(context, row(pixels, shown), 8, [0, 0], 16);
  squares(context, units, 8, [150, 20], 18, Math.max(...units) || 1);
  context.globalAlpha = 1;
  context.fillStyle = getComputedStyle(find("canvas")).color;
  context.fillText("the 32 units", 150, 110);
  bars(find(".bars"), [..."0123456789"], parts);
  const off = on.filter(unit => !unit).length;
  return {
    said: `With ${off} of 32 units off, ${percent(right / answers.length)} of ${answers.length} digits are right. ` +
      `This ${data.labels[shown]} is classified as ${answers[shown]}.`,
    numbers: {right, parts},
  };
});
