"use strict";
// LeNet-5 of the home page, with a hole in the filters of its first layer.
{
// The weights with zeros in a square of one filter, or of all six.
function holed(weights, {row, column, size, filter, all}) {
  const kernel = weights[0].kernel.slice();  // (5 rows, 5 columns, 1 input, 6 filters)
  for (let r = row; r < Math.min(row + size, 5); r++)
    for (let c = column; c < Math.min(column + size, 5); c++)
      for (let f = 0; f < 6; f++)
        if (all || f === filter) kernel[(5 * r + c) * 6 + f] = 0;
  return [{kernel, bias: weights[0].bias}, ...weights.slice(1)];
}

toy("filters", ["home/moment23", "toys/data/mnist"], (state, [base64, data], find) => {
  const images = data.unpacked ??= unpacked(data.pixels), weights = data.weights ??= unpack(base64);
  const changed = holed(weights, state);
  const logits = data.labels.map((_, i) => [...values(Float32Array.from(row(images, i)), changed).at(-1)]);
  const answers = logits.map(best), right = answers.filter((answer, i) => answer === data.labels[i]).length;

  const context = picture(find("canvas"), 330, 310), ink = context.fillStyle;
  const top = Math.max(...weights[0].kernel.map(Math.abs));
  for (let f = 0; f < 6; f++) {
    const filter = Array.from({length: 25}, (_, i) => changed[0].kernel[6 * i + f]);
    squares(context, filter, 5, [55 * f, 0], 10, top);
  }
  data.labels.forEach((label, i) => {
    const left = i % 5 * 66, upper = 62 + Math.floor(i / 5) * 62;
    squares(context, row(images, i), 28, [left, upper], 1.6);
    context.fillStyle = answers[i] === label ? ink : ORANGE;
    context.fillText(answers[i] === label ? label : `${label}→${answers[i]}`, left, upper + 56);
  });
  return {
    said: `${right} of 20 digits are right. Wrong answers are orange, after an arrow.`,
    numbers: {right, logits: logits[0]},
  };
});
}
