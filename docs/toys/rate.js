"use strict";
// Gradient descent in the valley of lesson 2: 60 students, a weight for their hours and a bias.
{
const START = [-1, 2], WEIGHTS = [-1.5, 4], BIASES = [-8, 3];
const softplus = z => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));

function risk([w, b], {hours, passed}) {
  const losses = hours.map((x, i) => softplus(w * x + b) - passed[i] * (w * x + b));
  return average(losses) + 0.01 * w * w / 2;
}

function gradient([w, b], {hours, passed}) {
  const errors = hours.map((x, i) => 1 / (1 + Math.exp(-(w * x + b))) - passed[i]);
  return [average(errors.map((e, i) => e * hours[i])) + 0.01 * w, average(errors)];
}

function descent(rate, momentum, steps, data) {
  const path = [START];
  let step = [0, 0];
  for (let n = 0; n < steps; n++) {
    const slope = gradient(path[n], data);
    step = step.map((s, i) => momentum * s + slope[i]);
    path.push(path[n].map((x, i) => x - rate * step[i]));
  }
  return path;
}

let map = null;  // the heights of the surface, which stay as they are
function surface(data) {
  const cells = 60, found = [];
  for (let r = 0; r < cells; r++)
    for (let c = 0; c < cells; c++)
      found.push(risk([WEIGHTS[0] + (c + 0.5) / cells * 5.5, BIASES[1] - (r + 0.5) / cells * 11], data));
  const low = Math.min(...found), shades = found.map(h => Math.log10(h - low + 0.01));
  const floor = Math.min(...shades), range = Math.max(...shades) - floor;
  return shades.map(shade => Math.floor(12 * (shade - floor) / range) / 12 + 0.001);
}

toy("rate", ["toys/data/students"], ({rate, momentum, steps}, [data], find) => {
  const points = descent(rate, momentum, steps, data), end = points.at(-1), height = risk(end, data);
  const context = picture(find("canvas"), 300, 300);
  squares(context, map ??= surface(data), 60, [0, 0], 5, 1.2);
  const at = ([w, b]) => [(w - WEIGHTS[0]) / 5.5 * 300, (BIASES[1] - b) / 11 * 300];
  path(context, points.map(at), ORANGE);
  for (const point of points) circle(context, at(point), 3, ORANGE);
  const away = !(Math.abs(end[0]) < 20 && Math.abs(end[1]) < 20);
  const verdict = height > risk(START, data) ? "higher than where it began" :
    height > 0.5 ? "still far from the floor" : height > 0.38 ? "in the valley, not at its lowest point" :
    "close to the lowest point";
  return {
    said: `Risk after ${steps} steps: ${height.toFixed(4)}, ${away ? "and it has left the map" : verdict}. ` +
      `The lowest risk is ${data.lowest.toFixed(4)}.`,
    numbers: {risk: height, weight: end[0], bias: end[1]},
  };
});
}
