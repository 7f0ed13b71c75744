"use strict";
// A filter that slides over a digit: how far it steps, and how many zeros are around the digit.
{
const FILTERS = [[-1, -1, -1, 2, 2, 2, -1, -1, -1], [-1, 2, -1, -1, 2, -1, -1, 2, -1], Array(9).fill(1 / 9)];

// Each output is the sum of a 3x3 filter times the pixels that it covers.
function slide(image, side, filter, stride, padding) {
  const positions = Math.floor((side + 2 * padding - 3) / stride) + 1, map = [];
  const pixel = (r, c) => r < 0 || c < 0 || r >= side || c >= side ? 0 : image[r * side + c];
  for (let r = 0; r < positions; r++)
    for (let c = 0; c < positions; c++)
      map.push(sum(filter.map((weight, i) =>
        weight * pixel(r * stride - padding + Math.floor(i / 3), c * stride - padding + i % 3))));
  return {map, positions};
}

toy("stride", ["toys/data/mnist"], ({filter, stride, padding, number}, [data], find) => {
  const images = data.unpacked ??= unpacked(data.pixels), image = row(images, number - 1);
  const {map, positions} = slide(image, 28, FILTERS[filter - 1], stride, padding);
  const context = picture(find("canvas"), 320, 170), cell = 150 / (28 + 2 * padding);
  const ink = context.strokeStyle;
  context.strokeRect(0.5, 0.5, 149, 149);
  squares(context, image, 28, [padding * cell, padding * cell], cell);
  context.strokeStyle = ORANGE;
  context.lineWidth = 2;
  for (let i = 0; i < Math.min(positions, 3); i++)  // the first windows
    context.strokeRect(i * stride * cell + 1, 1, 3 * cell, 3 * cell);
  squares(context, map, positions, [165, 0], 150 / Math.max(positions, 1), Math.max(...map.map(Math.abs)) || 1);
  context.fillStyle = ink;
  context.fillText(`${28 + 2 * padding}×${28 + 2 * padding} with its zeros`, 0, 166);
  context.fillText(`${positions}×${positions}`, 165, 166);
  const edges = (positions - 1) * stride + 3 < 28 + 2 * padding;
  return {
    said: `The map has ${positions}×${positions} = ${positions ** 2} numbers for 784 pixels.` +
      (stride > 3 ? ` The windows are ${stride} apart and 3 wide, so they skip pixels.` :
        padding > 2 ? " Windows at the border see nothing but zeros." :
        edges ? " The last pixels fit no window." : ""),
    numbers: {map, positions},
  };
});
}
