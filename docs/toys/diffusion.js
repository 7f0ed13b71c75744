"use strict";
// Diffusion on 8x8 digits: eight samples from noise, and how much new noise each step adds.
{
const STEPS = 40, NO_LABEL = 10;

// The noise that the net sees in an image, given the time and a label.
function predicted(x, t, label, layers) {
  const angles = Array.from({length: 8}, (_, i) => Math.PI * 2 ** i * t / STEPS);
  const given = [...x, ...angles.map(Math.sin), ...angles.map(Math.cos)];
  for (let i = 0; i <= NO_LABEL; i++) given.push(Number(i === label));
  const silu = values => values.map(z => z / (1 + Math.exp(-z)));
  return dense(silu(dense(silu(dense(given, layers[0])), layers[1])), layers[2]);
}

function sample(normal, {digit, noise, guidance}, {beta, kept}, layers) {
  let x = normal(STEPS);
  for (let t = STEPS - 1; t >= 0; t--) {
    const before = t ? kept[t - 1] : 1, label = predicted(x, t, digit, layers);
    const none = guidance ? predicted(x, t, NO_LABEL, layers) : label;
    const deviation = Math.sqrt((1 - before) / (1 - kept[t]) * beta[t]), z = normal(t);
    x = x.map((value, i) => {
      const epsilon = label[i] + guidance * (label[i] - none[i]);
      const clean = (value - Math.sqrt(1 - kept[t]) * epsilon) / Math.sqrt(kept[t]);
      const image = Math.min(Math.max(clean, -1), 1);
      const middle = (Math.sqrt(before) * beta[t] * image + Math.sqrt(1 - beta[t]) * (1 - before) * value) / (1 - kept[t]);
      return middle + noise * deviation * z[i];
    });
  }
  return x.map(value => (value + 1) / 2);
}

toy("diffusion", ["toys/data/diffusion", "toys/data/digits"], (state, [data, digits], find) => {
  const table = data.unpacked ??= unpacked(data.noise), layers = layersOf(data);
  const [first, last] = layersOf(digits);
  const samples = Array.from({length: 8}, (_, n) =>
    sample(t => row(table, n * (STEPS + 1) + t), state, data, layers));
  const parts = samples.map(x => softmax(dense(relu(dense(x.map(v => Math.min(Math.max(v, 0), 1)), first)), last)));
  const confidence = average(parts.map(p => p[state.digit])), middle = samples[0].map((_, i) => average(samples.map(x => x[i])));
  const variety = Math.sqrt(average(samples.map(x => average(x.map((value, i) => (value - middle[i]) ** 2)))));
  const context = picture(find("canvas"), 320, 160);
  samples.forEach((x, n) => squares(context, x, 8, [n % 4 * 80, Math.floor(n / 4) * 80], 9));
  return {
    said: `A classifier gives the ${state.digit} a probability of ${percent(confidence)} on average in these ` +
      `eight samples. A pixel differs between them by ${variety.toFixed(3)} (standard deviation).`,
    numbers: {confidence, variety, pixels: [...samples[0]]},
  };
});
}
