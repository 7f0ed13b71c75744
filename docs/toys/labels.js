"use strict";
// Softmax regression on digits whose labels are stolen or swapped, trained here by 50 steps.
{
const STEPS = 50, RATE = 1;

function trained(pixels, labels) {
  const layer = {kernel: new Float64Array(64 * 10), bias: new Float64Array(10)};
  for (let step = 0; step < STEPS; step++) {
    const kernel = new Float64Array(64 * 10), bias = new Float64Array(10);
    labels.forEach((label, n) => {
      const x = row(pixels, n), error = softmax(dense(x, layer));
      error[label] -= 1;
      for (let i = 0; i < 64; i++)
        if (x[i]) for (let o = 0; o < 10; o++) kernel[i * 10 + o] += x[i] * error[o];
      for (let o = 0; o < 10; o++) bias[o] += error[o];
    });
    layer.kernel.forEach((_, i) => { layer.kernel[i] -= RATE * kernel[i] / labels.length; });
    layer.bias.forEach((_, i) => { layer.bias[i] -= RATE * bias[i] / labels.length; });
  }
  return layer;
}

toy("labels", ["toys/data/taught", "toys/data/digits"], ({stolen, swapped}, [taught, tested], find) => {
  const pixels = taught.unpacked ??= unpacked(taught.pixels);
  const known = tested.unpacked ??= unpacked(tested.pixels);
  const labels = taught.labels.slice(0, 300 - stolen)
    .map((label, i) => i < swapped ? taught.swaps[i] : label);
  const layer = trained(pixels, labels);
  const answers = tested.labels.map((_, i) => best([...dense(row(known, i), layer)]));
  const accuracy = average(answers.map((answer, i) => Number(answer === tested.labels[i])));

  const context = picture(find("canvas"), 330, 150), top = Math.max(...layer.kernel.map(Math.abs));
  for (let digit = 0; digit < 10; digit++) {
    const weights = Array.from({length: 64}, (_, i) => layer.kernel[i * 10 + digit]);
    squares(context, weights, 8, [digit % 5 * 66, Math.floor(digit / 5) * 74], 7.5, top);
  }
  const wrong = Math.min(swapped, labels.length);
  return {
    said: `Trained on ${labels.length} labels, of which ${wrong} are wrong: ${percent(accuracy)} of 200 new digits ` +
      "are right. The squares are the weights of the digits 0 to 9.",
    numbers: {accuracy, bias: [...layer.bias], weights: [...layer.kernel].slice(270, 290)},
  };
});
}
