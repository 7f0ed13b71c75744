"use strict";
// The net of 32 units with few bits per weight, and with one weight of each unit that is too large.
{
// Each column is rounded to integers times its scale; first one of its weights is multiplied.
function rounded({kernel, bias}, bits, outlier) {
  const changed = kernel.slice(), columns = bias.length, top = 2 ** (bits - 1) - 1;
  for (let o = 0; o < columns; o++) {
    changed[o] *= outlier;  // the weight of the first input, which is always 0 in these digits
    let largest = 0;
    for (let i = o; i < changed.length; i += columns) largest = Math.max(largest, Math.abs(changed[i]));
    const scale = largest / top;
    for (let i = o; i < changed.length; i += columns) changed[i] = Math.round(changed[i] / scale) * scale;
  }
  return {kernel: changed, bias};
}

toy("bits", ["toys/data/digits"], ({bits, outlier, number}, [data], find) => {
  const pixels = data.unpacked ??= unpacked(data.pixels), [first, last] = layersOf(data);
  const layers = [rounded(first, bits, outlier), rounded(last, bits, 1)];
  const logits = i => dense(relu(dense(row(pixels, i), layers[0])), layers[1]);
  const answers = data.labels.map((_, i) => best([...logits(i)])), shown = number - 1;
  const accuracy = average(answers.map((answer, i) => Number(answer === data.labels[i])));
  const parts = softmax(logits(shown));

  const context = picture(find("canvas"), 300, 150);
  for (let unit = 0; unit < 8; unit++) {
    const weights = Array.from({length: 64}, (_, i) => layers[0].kernel[32 * i + unit]);
    squares(context, weights, 8, [unit % 4 * 74, Math.floor(unit / 4) * 76], 8.5, 0.6);
  }
  bars(find(".bars"), [..."0123456789"], parts);
  return {
    said: `With ${bits} bits per weight, ${percent(accuracy)} of 200 digits are right. ` +
      `Each weight is one of ${2 ** bits - 1} numbers, and the squares are the weights of eight units.`,
    numbers: {accuracy, parts},
  };
});
}
