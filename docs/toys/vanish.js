"use strict";
// How large values are in a deep net, and how large the gradients on the way back, by initialization.
{
const SIGMOID = z => 1 / (1 + Math.exp(-z));
// An activation function, and its slope by its value.
const FUNCTIONS = [
  [Math.tanh, y => 1 - y * y], [SIGMOID, y => y * (1 - y)], [z => Math.max(z, 0), y => Number(y > 0)]];
const size = rows => Math.sqrt(average(rows.map(row => average(row.map(value => value * value)))));

function product(x, kernel, scale) {
  const y = new Float64Array(32);
  for (let i = 0; i < 32; i++)
    for (let o = 0; o < 32; o++) y[o] += x[i] * kernel[32 * i + o] * scale;
  return y;
}

function back(dz, kernel, scale) {
  const dx = new Float64Array(32);
  for (let i = 0; i < 32; i++)
    for (let o = 0; o < 32; o++) dx[i] += dz[o] * kernel[32 * i + o] * scale;
  return dx;
}

toy("vanish", ["toys/data/layers"], ({activation, scale, depth}, [data], find) => {
  const [f, slope] = FUNCTIONS[activation - 1], kernels = data.ready ??= data.kernels.map(unpacked);
  const inputs = data.unpacked ??= unpacked(data.inputs), factor = scale / Math.sqrt(32);
  let rows = Array.from({length: 16}, (_, i) => row(inputs, i));
  const values = [], sizes = [size(rows)];
  for (const kernel of kernels.slice(0, depth)) {
    rows = rows.map(x => product(x, kernel, factor).map(f));
    values.push(rows);
    sizes.push(size(rows));
  }
  let gradients = rows.map(() => Array(32).fill(1));
  const slopes = [1];
  for (let layer = depth - 1; layer >= 0; layer--) {
    gradients = gradients.map((dy, n) =>
      back(dy.map((value, o) => value * slope(values[layer][n][o])), kernels[layer], factor));
    slopes.unshift(size(gradients));
  }
  const context = picture(find("canvas"), 330, 180), ink = context.fillStyle;
  const height = value => 80 - 10 * Math.max(-8, Math.min(8, Math.log10(value || 1e-9)));
  for (const [line, color] of [[sizes, BLUE], [slopes, ORANGE]])
    path(context, line.map((value, i) => [5 + 320 * i / depth, height(value)]), color, 3);
  context.globalAlpha = 0.4;
  path(context, [[5, 80], [325, 80]], ink, 1);
  context.globalAlpha = 1;
  context.fillStyle = ink;
  context.fillText("blue: values · orange: gradients · from 1e-8 to 1e8", 5, 176);
  const shown = slopes[0] < 0.001 ? "The gradient vanishes." : slopes[0] < 0.1 ? "Little of it arrives." :
    slopes[0] > 1000 ? "The gradient explodes." : "The gradient arrives.";
  return {
    said: `After ${depth} layers the values have a size of ${sizes.at(-1).toPrecision(3)}. A gradient of 1 comes back ` +
      `as ${slopes[0].toPrecision(3)}. ${shown}`,
    numbers: {values: sizes.map(Math.log), gradients: slopes.map(Math.log)},
  };
});
}
