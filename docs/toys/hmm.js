"use strict";
// A hidden Markov model of two coins, as in lesson 13: which coin was tossed?
{
// Probabilities of the tosses up to each step and of a coin there; then of the tosses after it.
function passes(seen, first, move, coin) {
  const alphas = [first.map((p, s) => p * coin[s][seen[0]])];
  for (const x of seen.slice(1))
    alphas.push([0, 1].map(s => coin[s][x] * sum(alphas.at(-1).map((a, from) => a * move[from][s]))));
  const betas = [[1, 1]];
  for (const x of seen.slice(1).reverse())
    betas.unshift([0, 1].map(from => sum(betas[0].map((b, s) => move[from][s] * coin[s][x] * b))));
  return {alphas, betas, total: sum(alphas.at(-1))};
}

function viterbi(seen, first, move, coin) {
  let scores = first.map((p, s) => p * coin[s][seen[0]]), cameFrom = [];
  for (const x of seen.slice(1)) {
    const from = [0, 1].map(s => scores[0] * move[0][s] >= scores[1] * move[1][s] ? 0 : 1);
    scores = from.map((f, s) => scores[f] * move[f][s] * coin[s][x]);
    cameFrom.push(from);
  }
  const path = [scores[0] >= scores[1] ? 0 : 1];
  for (const from of cameFrom.reverse()) path.unshift(from[path[0]]);
  return path;
}

toy("hmm", [], ({stay, back, one, two, tosses}, _, find) => {
  const move = [[stay, 1 - stay], [1 - back, back]], coin = [[1 - one, one], [1 - two, two]];
  const first = [0.6, 0.4], {alphas, betas, total} = passes(tosses, first, move, coin);
  const posterior = alphas.map((alpha, t) => alpha[0] * betas[t][0] / total);
  const path = viterbi(tosses, first, move, coin);

  const context = picture(find("canvas"), 330, 150), ink = context.fillStyle;
  posterior.forEach((p, t) => {
    context.fillStyle = BLUE;
    context.fillRect(27 * t, 100 * (1 - p), 24, 100 * p);
    context.fillStyle = ORANGE;
    context.fillRect(27 * t, 0, 24, 100 * (1 - p));
    context.fillStyle = ink;
    context.fillText(`${tosses[t]}`, 27 * t + 9, 116);
    context.fillText("AB"[path[t]], 27 * t + 8, 134);
  });
  context.fillText("above: the tosses · below: the best path", 0, 148);
  const moves = path.filter((coin, t) => t && coin !== path[t - 1]).length;
  return {
    said: `These tosses have the probability ${total.toExponential(2)}. ` +
      `Changes of the coin on the best path: ${moves}. Blue is the probability of coin A.`,
    numbers: {total: Math.log(total), posterior, path},
  };
});
}
