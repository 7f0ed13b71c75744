"use strict";
// One unit and the four corners: weights by hand, and then by Rosenblatt's rule.
{
const CORNERS = [[0, 0], [0, 1], [1, 0], [1, 1]];
const output = ([p, q], [w1, w2, b]) => Number(p * w1 + q * w2 + b > 0);

// Passes of Rosenblatt's rule; it stops after a pass without a mistake.
function learned(weights, labels, passes) {
  let w = weights, mistakes = [];
  while (mistakes.length < passes && mistakes.at(-1) !== 0) {
    mistakes.push(0);
    CORNERS.forEach((corner, i) => {
      const error = labels[i] - output(corner, w);
      if (error) mistakes[mistakes.length - 1]++;
      w = [w[0] + error * corner[0], w[1] + error * corner[1], w[2] + error];
    });
  }
  return {weights: w, mistakes};
}

function sentence(right, labels, mistakes) {
  const names = {"0001": "AND", "0111": "OR", "0110": "XOR", "1110": "NAND", "1001": "XNOR"};
  const name = names[labels.join("")], said = `${right} of 4 corners of ${name ?? "your task"} are right.`;
  const crossed = name === "XOR" || name === "XNOR";
  if (mistakes.length && mistakes.at(-1) === 0) return `${said} The rule found it in ${mistakes.length} passes.`;
  if (right === 4) return `${said} The line divides them.`;
  if (crossed && mistakes.length > 3)
    return `${said} Each pass makes ${mistakes.at(-1)} mistakes, forever: no line divides them.`;
  return crossed ? `${said} Try: no line gets all four.` : `${said} A line gets all four.`;
}

function draw(canvas, [w1, w2, b], labels, outputs) {
  const side = 300, context = picture(canvas, side, side), at = v => 60 + 180 * v;
  const place = ([p, q]) => [at(p), side - at(q)];
  for (let x = 0; x < 60; x++)  // the side on which the unit says 1
    for (let y = 0; y < 60; y++) {
      const p = (5 * x + 2.5 - 60) / 180, q = (side - 5 * y - 2.5 - 60) / 180;
      context.fillStyle = output([p, q], [w1, w2, b]) ? BLUE : ORANGE;
      context.globalAlpha = 0.25;
      context.fillRect(5 * x, 5 * y, 5, 5);
    }
  context.globalAlpha = 1;
  const ink = getComputedStyle(canvas).color;
  CORNERS.forEach((corner, i) => {
    const [x, y] = place(corner);
    context.lineWidth = 4;
    circle(context, [x, y], 13, labels[i] ? BLUE : ORANGE, labels[i] !== outputs[i]);
    context.fillStyle = ink;
    context.fillText(`(${corner})${labels[i] === outputs[i] ? "" : " wrong"}`, x - 16, y + 32);
  });
}

toy("perceptron", [], ({w1, w2, b, y, passes}, _, find) => {
  const {weights, mistakes} = learned([w1, w2, b], y, passes);
  const outputs = CORNERS.map(corner => output(corner, weights));
  const right = outputs.filter((o, i) => o === y[i]).length;
  draw(find("canvas"), weights, y, outputs);
  const shown = weights.map(w => w.toFixed(2));
  return {
    said: `Weights ${shown[0]} and ${shown[1]}, bias ${shown[2]}: ${sentence(right, y, mistakes)}`,
    numbers: {weights, mistakes, outputs},
  };
});
}
