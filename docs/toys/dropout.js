"use strict";
// Dropout in the net of 32 units, at test time: each pass drops other units, and the passes vote.
toy("dropout", ["toys/data/digits", "toys/data/draws"], ({rate, passes}, [data, draws], find) => {
  const pixels = data.unpacked ??= unpacked(data.pixels), [first, last] = layersOf(data);
  const hidden = data.labels.map((_, i) => relu(dense(row(pixels, i), first)));
  const means = hidden.map(() => Array(10).fill(0)), accuracies = [];
  for (const draw of draws.slice(0, passes)) {
    const factors = draw.map(u => Number(u < 1 - rate) / (1 - rate));
    let right = 0;
    hidden.forEach((units, i) => {
      const parts = softmax(dense(units.map((value, unit) => value * factors[unit]), last));
      right += best(parts) === data.labels[i];
      parts.forEach((part, digit) => { means[i][digit] += part / passes; });
    });
    accuracies.push(right / hidden.length);
  }
  const together = average(means.map((parts, i) => Number(best(parts) === data.labels[i])));

  const context = picture(find("canvas"), 300, 150);
  accuracies.forEach((accuracy, i) => {
    context.fillStyle = BLUE;
    context.fillRect(15 * i, 120 * (1 - accuracy), 12, 120 * accuracy);
  });
  path(context, [[0, 120 * (1 - together)], [300, 120 * (1 - together)]], ORANGE);
  context.fillStyle = getComputedStyle(find("canvas")).color;
  context.fillText("blue: each pass · orange: all passes together", 0, 142);
  return {
    said: `Of 200 digits, one pass gets ${percent(average(accuracies))} right` + (passes === 1 ? "." :
      ` on average, and ${passes} together get ${percent(together)}.`),
    numbers: {accuracies, together, parts: means[0]},
  };
});
