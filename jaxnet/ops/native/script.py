"""Small steps of a program as a list of numbers, which C runs in one call; see script.h.

XLA needs longer to begin a step than a processor needs for a few hundred numbers. A policy, or a
step of an RNN, has dozens of such steps.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np

from jaxnet.ops.native import compute
from jaxnet.ops.native.fused import LINE

# In the order of script_tiles.h.
MAPS = ("neg", "abs", "exp", "tanh", "logistic", "sqrt", "rsqrt", "erf")
COMBINATIONS = ("add", "sub", "mul", "div", "max", "min", "gt", "ge", "lt", "le", "eq", "ne")
REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min")

MAP, COMBINE, SELECT, MOVE, REDUCE, TIMES = range(6)
AXES = 4  # of a move
SPACE = 40  # bits of a place below the number of its space


class Unsupported(Exception):
    """C has nothing for a step."""


class Script:
    """Writes steps, each of which reads and writes arrays of float32 at places.

    Args:
      operands: Number of operands of the call, whose spaces are 1, 2 and so on.

    Attributes:
      numbers: The steps.
      size: Floats of the working memory that they use.

    Example:
      >>> script = Script(operands=1)
      >>> script.map("tanh", 3, script.operand(0), script.result(0))
      >>> len(script.numbers), script.size
      (5, 0)
    """

    def __init__(self, operands: int):
        self.operands = operands
        self.numbers: list[int] = []
        self.size = 0

    def operand(self, number: int, before: int = 0) -> int:
        """Return the place in an operand that so many floats come before."""
        return (1 + number << SPACE) + before

    def result(self, number: int) -> int:
        """Return the place where a result begins."""
        return 1 + self.operands + number << SPACE

    def memory(self, count: int) -> int:
        """Return the place of so many floats that nothing else uses."""
        place = self.size
        self.size += -(-count // LINE) * LINE
        return place

    def map(self, name: str, count: int, x: int, to: int) -> None:
        """Write a function of `MAPS`."""
        self.numbers += [MAP, MAPS.index(name), count, x, to]

    def combine(self, name: str, count: int, first: Sequence[int], second: Sequence[int], to: int):
        """Write a function of `COMBINATIONS`.

        Args:
          name: Its name.
          count: Size of the result.
          first, second: Place and size of the operands; the size is 1 or `count`.
          to: Place of the result.
        """
        (a, many_a), (b, many_b) = first, second
        many = [int(size == count) for size in (many_a, many_b)]
        self.numbers += [COMBINE, COMBINATIONS.index(name), count, a, many[0], b, many[1], to]

    def select(self, count: int, which: int, no: int, yes: int, to: int) -> None:
        """Write a choice between two arrays, where `which` is 0 or not."""
        self.move((count,), (1,), (1,), yes, to)
        self.numbers += [SELECT, count, which, no, to]

    def move(
        self,
        sizes: Sequence[int],
        steps: Sequence[int],
        steps_to: Sequence[int],
        x: int,
        to: int,
    ) -> None:
        """Write a copy of an array whose neighbors are these steps apart, by axis.

        Raises:
          Unsupported: If it has too many axes that cannot be merged.
        """
        axes = _merged(sizes, steps, steps_to)
        if len(axes) > AXES:
            raise Unsupported
        axes = [(1, 0, 0)] * (AXES - len(axes)) + axes
        self.numbers += [MOVE, x, to]
        for numbers in zip(*axes, strict=True):
            self.numbers += numbers

    def reduce(self, name: str, rows: int, count: int, x: int, to: int) -> None:
        """Write a function of `REDUCTIONS` of each of these rows."""
        self.numbers += [REDUCE, REDUCTIONS.index(name), rows, count, x, to]

    def times(
        self, sizes: Sequence[int], x: int, w: int, to: int, *, turned: bool, batched: bool
    ) -> None:
        """Write a matrix product.

        Args:
          sizes: Batch, rows of x, their length, and outputs.
          x, w, to: Places of x (batch, rows, inner), of w and of the result.
          turned: Whether w is (outputs, inner) instead of (inner, outputs).
          batched: Whether there is a w for each entry of the batch.
        """
        _, _, inner, outputs = sizes
        step = inner * outputs if batched else 0
        self.numbers += [TIMES, int(turned), *sizes, x, w, step, to]


def _merged(
    sizes: Sequence[int], steps: Sequence[int], steps_to: Sequence[int]
) -> list[tuple[int, int, int]]:
    """Return the axes of a copy, as few as it needs."""
    axes: list[tuple[int, int, int]] = []
    for size, step, to in zip(sizes, steps, steps_to, strict=True):
        if size == 1:
            continue
        if axes:
            before, step_before, to_before = axes[-1]
            if step_before == size * step and to_before == size * to:
                axes[-1] = before * size, step, to
                continue
        axes.append((size, step, to))
    return axes


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Return how far apart neighbors of an array lie, by axis.

    Example:
      >>> contiguous((2, 3, 4))
      (12, 4, 1)
    """
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def run(script: Script, shapes: Sequence[tuple[int, ...]], operands: Sequence) -> list[jax.Array]:
    """Return the results of a script.

    Args:
      script: The steps.
      shapes: Shapes of the results.
      operands: Arrays of float32.
    """
    steps = np.array([script.size, *script.numbers], np.int64)
    return compute("jaxnet_script", shapes, *operands, steps=steps)
