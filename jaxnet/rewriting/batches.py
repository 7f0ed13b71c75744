"""Whether the examples of a batch are computed by themselves, by what a program does.

A program is followed from its inputs, whose first axis counts examples, to its results. Each step
has a rule that says which axis of its results counts them; a step without a rule, or one that mixes
examples, ends it.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.rewriting.steps import Step, Steps, Variable

# Steps that are chosen by the number of rows, or that broadcast what is known to one row.
_BY_SIZE = {"broadcast_in_dim", "dot_general", "native_call", "reshape", "squeeze"}
USUAL_CACHE = 32 * 2**20  # bytes
Axis = int | None  # the axis that counts examples; None for what does not depend on them


class Mixed(Exception):
    """A step mixes examples, or may."""


def examples_apart(whole: Steps, more: Steps, part: Steps, counts: tuple[int, int]) -> bool:
    """Return whether a program of a batch computes each example by itself.

    Args:
      whole: Program of inputs whose first axis counts examples.
      more: The same function of more examples, which tells whether it computes with their number.
      part: The same function of those examples that will be computed at once.
      counts: Numbers of examples of `whole` and of `part`.

    Example:
      >>> def programs(f):
      ...     return [Steps(jax.make_jaxpr(f)(jnp.ones((n, 3)))) for n in (4, 5, 2)]
      >>> examples_apart(*programs(lambda x: jnp.exp(x).sum(1)), (4, 2))
      True
      >>> examples_apart(*programs(lambda x: x - x.mean(0)), (4, 2))
      False
      >>> examples_apart(*programs(lambda x: x / len(x)), (4, 2))
      False
    """
    batch, _ = counts
    origins = _origins(whole, more, part)
    for kind in ("steps", "early"):
        of_whole, of_more, of_part = (getattr(each, kind) for each in (whole, more, part))
        if not _same_steps(of_whole, of_more, (batch, batch + 1), origins):
            return False
        if not _same_steps(_sure(of_whole), _sure(of_part), counts, origins):
            return False
    if not _only_numbers_of(whole, part):
        return False
    of_whole, of_part = ([v.shape[1:] for v in program.results] for program in (whole, part))
    if of_whole != of_part:
        return False
    try:
        found = _followed(whole, [0 if variable.shape else None for variable in whole.inputs])
    except Mixed:
        return False
    return all(axis == 0 for axis in found)


def _sure(steps: Sequence[Step]) -> list[Step]:
    """Return the steps but those of which few examples may have others."""
    return [step for step in steps if step.name not in _BY_SIZE]


def _only_numbers_of(whole: Steps, part: Steps) -> bool:
    """Whether all known arrays of one program are some of the other."""
    arrays = [variable for step in (*whole.steps, *whole.early) for variable in step.inputs]
    arrays = [variable for variable in arrays if isinstance(variable.value, np.ndarray)]
    for step in (*part.steps, *part.early):
        for variable in step.inputs:
            if isinstance(variable.value, np.ndarray):
                if not any(_same_elements(variable.value, other.value) for other in arrays):
                    return False
    return True


def _same_elements(one: Any, other: Any) -> bool:
    """Whether two arrays have the same numbers in the same order, in any shape."""
    if one.size != other.size or one.dtype != other.dtype:
        return False
    return one.ctypes.data == other.ctypes.data or np.array_equal(one.ravel(), other.ravel())


def at_once(program: Steps, batch: int) -> int:
    """Return how many examples to compute at once, so that their arrays stay in the last cache.

    If the weights do not fit into it too, all are computed at once, since each part would read
    them from memory again.

    Args:
      program: Program of a batch, on a CPU.
      batch: Number of examples.

    Example:
      >>> kernel = jnp.ones((9, 4))
      >>> at_once(Steps(jax.make_jaxpr(lambda x: x @ kernel)(jnp.ones((6, 9)))), 6)
      6
    """
    weights, arrays = 0, 1
    for step in program.steps:
        if step.name in ("convolution", "dot_general"):
            sizes = [_bytes(v) for v in (*step.inputs, *step.outputs) if not v.is_known]
            arrays = max(arrays, sum(sizes) / batch)
            weights += sum(_bytes(variable) for variable in step.inputs if variable.is_known)
    if weights > last_cache():
        return batch
    most = max(1, int(last_cache() / 4 / arrays))
    return max(size for size in range(1, batch + 1) if batch % size == 0 and size <= most)


def _bytes(variable: Variable) -> int:
    return variable.aval.size * variable.aval.dtype.itemsize


@cache
def last_cache() -> int:
    """Return the bytes of the processor's last cache, or what is usual.

    Example:
      >>> last_cache() >= 2**20
      True
    """
    with suppress(OSError, ValueError):
        text = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text("ascii").strip()
        return max(2**20, int(text.removesuffix("K")) * 2**10)
    return USUAL_CACHE


def _same_steps(
    whole: Sequence[Step], other: Sequence[Step], counts: tuple[int, int], origins: Callable
) -> bool:
    """Whether two programs have the same steps with the same known numbers."""
    if len(whole) != len(other):
        return False
    for one, another in zip(whole, other, strict=True):
        if one.name != another.name or len(one.inputs) != len(another.inputs):
            return False
        shapes, others = ([v.shape for v in step.outputs] for step in (one, another))
        if not all(_alike(a, b, counts) for a, b in zip(shapes, others, strict=True)):
            return False
        params, others = _plain_params(one), _plain_params(another)
        if params.keys() != others.keys():
            return False
        if not all(_alike(value, others[name], counts) for name, value in params.items()):
            return False
        if not all(map(_equal, origins(one), origins(another))):
            return False
    return True


def _origins(*programs: Steps) -> Callable[[Step], list[Variable]]:
    """Return the function of a step's inputs, with the known arrays that were broadcast to some."""
    known: dict[Variable, Variable] = {}
    for program in programs:
        for step in program.steps:
            if step.name in _BY_SIZE and len(step.inputs) == 1:
                origin = known.get(step.inputs[0], step.inputs[0])
                if origin.is_known:
                    known[step.outputs[0]] = origin
    return lambda step: [known.get(variable, variable) for variable in step.inputs]


def _equal(one: Variable, other: Variable) -> bool:
    """Whether variables are known and equal, or both unknown; equal steps compute equal ones."""
    if one.is_known != other.is_known or one.aval.size != other.aval.size:
        return not (one.is_known or other.is_known)
    if one.value is other.value or not one.is_known:
        return True
    if not isinstance(one.value, np.ndarray) or not isinstance(other.value, np.ndarray):
        return False
    return _same_elements(one.value, other.value)


def _alike(one: Any, other: Any, counts: tuple[int, int]) -> bool:
    """Whether shapes or params are equal, but for the number of examples in one of a tuple."""
    if not isinstance(one, tuple | list) or len(_entries(one)) != len(_entries(other)):
        return one == other
    pairs = zip(_entries(one), _entries(other), strict=True)
    return [pair for pair in pairs if pair[0] != pair[1]] in ([], [counts])


def _entries(value: Any) -> list:
    """Return what nested tuples consist of."""
    if not isinstance(value, tuple | list):
        return [value]
    return [entry for part in value for entry in _entries(part)]


def _plain_params(step: Step) -> dict[str, Any]:
    """Return the params of a step that consist of numbers and texts."""
    params = step.eqn.params.items()
    kinds = int | float | str | np.dtype | None
    return {
        name: value
        for name, value in params
        if all(isinstance(entry, kinds) for entry in _entries(value))
    }


def _followed(program: Steps, axes: Sequence[Axis]) -> list[Axis]:
    known: dict[Variable, Axis] = dict(zip(program.inputs, axes, strict=True))
    for step in program.steps:
        given = [known.get(variable) for variable in step.inputs]
        rule = _RULES.get(step.name, _mixed)
        results = [None] * len(step.outputs)
        if any(axis is not None for axis in given):
            results = rule(step, given)
        known |= zip(step.outputs, results, strict=True)
    return [known.get(variable) for variable in program.results]


def _mixed(step: Step, axes: list[Axis]) -> list[Axis]:
    raise Mixed(step.name)


def _only(axes: Sequence[Axis]) -> int:
    """Return the one axis of all operands that have one."""
    found = {axis for axis in axes if axis is not None}
    if len(found) != 1:
        raise Mixed
    return found.pop()


def _elementwise(step: Step, axes: list[Axis]) -> list[Axis]:
    return [_only(axes)] * len(step.outputs)


def _broadcast(step: Step, axes: list[Axis]) -> list[Axis]:
    axis = _only(axes)
    after = step.eqn.params["broadcast_dimensions"][axis]
    if step.inputs[0].shape[axis] != step.outputs[0].shape[after]:
        raise Mixed
    return [after]


def _reshape(step: Step, axes: list[Axis]) -> list[Axis]:
    axis, before, after = _only(axes), step.inputs[0].shape, step.outputs[0].shape
    if step.eqn.params.get("dimensions") is not None:
        raise Mixed
    for place, size in enumerate(after):
        if math.prod(after[:place]) == math.prod(before[:axis]) and size == before[axis]:
            return [place]
    raise Mixed


def _squeeze(step: Step, axes: list[Axis]) -> list[Axis]:
    axis, gone = _only(axes), step.eqn.params["dimensions"]
    if axis in gone:
        raise Mixed
    return [axis - sum(other < axis for other in gone)]


def _transpose(step: Step, axes: list[Axis]) -> list[Axis]:
    return [list(step.eqn.params["permutation"]).index(_only(axes))]


def _reduced(step: Step, axes: list[Axis]) -> list[Axis]:
    axis, gone = _only(axes), step.eqn.params["axes"]
    if axis in gone:
        raise Mixed
    return [axis - sum(other < axis for other in gone)] * len(step.outputs)


def _along(name: str) -> Callable[[Step, list[Axis]], list[Axis]]:
    """Return the rule of a step along one axis, which a param names."""

    def rule(step: Step, axes: list[Axis]) -> list[Axis]:
        axis = _only(axes)
        if step.eqn.params[name] == axis or None in axes:
            raise Mixed
        return [axis] * len(step.outputs)

    return rule


def _stack(step: Step, axes: list[Axis]) -> list[Axis]:
    if None in axes:
        raise Mixed
    axis = _only(axes)
    return [axis + (step.eqn.params["axis"] <= axis)]


def _slice(step: Step, axes: list[Axis]) -> list[Axis]:
    axis = _only(axes)
    if step.inputs[0].shape[axis] != step.outputs[0].shape[axis]:
        raise Mixed
    return [axis]


def _pad(step: Step, axes: list[Axis]) -> list[Axis]:
    axis = _only(axes)
    if step.eqn.params["padding_config"][axis] != (0, 0, 0):
        raise Mixed
    return [axis]


def _convolution(step: Step, axes: list[Axis]) -> list[Axis]:
    if axes != [1, None] or step.eqn.params["wanted"] != "y":
        raise Mixed
    return [1]


def _product(step: Step, axes: list[Axis]) -> list[Axis]:
    (lhs, rhs), (lhs_batch, rhs_batch) = step.eqn.params["dimension_numbers"]
    first, second = axes
    if first is not None and second is not None:
        place = list(lhs_batch).index(first) if first in lhs_batch else -1
        if place < 0 or rhs_batch[place] != second:
            raise Mixed
        return [place]
    is_right = first is None
    axis = _only(axes)
    used = (*rhs, *rhs_batch) if is_right else (*lhs, *lhs_batch)
    if axis in used:
        raise Mixed
    free = [place for place in range(len(step.inputs[is_right].shape)) if place not in used]
    before = len(lhs_batch)
    if is_right:  # behind what is left of the first operand
        before = len(step.inputs[0].shape) - len(lhs)
    return [before + free.index(axis)]


def _window(step: Step, axes: list[Axis]) -> list[Axis]:
    axis, params = _only(axes), step.eqn.params
    if params["window_dimensions"][axis] != 1 or params["window_strides"][axis] != 1:
        raise Mixed
    if tuple(params["padding"][axis]) != (0, 0):
        raise Mixed
    return [axis]


def _native(step: Step, axes: list[Axis]) -> list[Axis]:
    return _followed(Steps(step.eqn.params["jaxpr"]), axes)


_ELEMENTWISE = {
    "abs", "add", "add_any", "and", "cbrt", "ceil", "clamp", "convert_element_type", "copy", "cos",
    "div", "eq", "erf", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow",
    "is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not",
    "or", "pow", "reduce_precision", "rem", "round", "rsqrt", "select_n", "sign", "sin", "sqrt",
    "square", "stop_gradient", "sub", "tan", "tanh", "xor",
}  # fmt: skip
_RULES: dict[str, Callable[[Step, list[Axis]], list[Axis]]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "argmax", "argmin"), _reduced),
    **dict.fromkeys(("reduce_window_max", "reduce_window_sum"), _window),
    "broadcast_in_dim": _broadcast,
    "concatenate": _along("dimension"),
    "convolution": _convolution,
    "dot_general": _product,
    "native_call": _native,
    "pad": _pad,
    "reshape": _reshape,
    "slice": _slice,
    "split": _along("axis"),
    "squeeze": _squeeze,
    "stack": _stack,
    "transpose": _transpose,
}
