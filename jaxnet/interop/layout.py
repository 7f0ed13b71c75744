"""The order of axes in a net compared with PyTorch's, traced through every operation.

PyTorch keeps the channels of images and signals at axis 1, jaxnet at the last axis. So flattening
gives the features in another order, and the rows of the next dense kernel must be permuted.
`follow` finds the order at the input of each layer.

The layout of an array is one of

    None         no order to compare: parameters and constants
    SAME         the axes are as in PyTorch: (batch, features), and (batch, time, features)
                 after an embedding or a dense layer
    LAST         channels are last here and at axis 1 in PyTorch: images, outputs of convolutions
    FIRST        the axes are as in PyTorch although the array holds maps, after a reshape
    EITHER       SAME or LAST, as for positions of an image in a row, the sum of a SAME and a LAST
                 array, and layer norm, before which PyTorch's channels are moved to the end: no
                 matter until it is flattened
    (h, w, c)    flattened from a LAST array of this shape, so PyTorch has another order
    LOST         unknown
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxnet.services.jaxprs import is_literal, jaxprs_among
from jaxnet.services.trees import PyTree

SAME, LAST, FIRST, EITHER, LOST = "same", "last", "first", "either", "lost"
Layout = str | tuple[int, ...] | None
Shaped = tuple[tuple[int, ...], Layout]  # an operand: its shape and its layout

MARK = "jaxnet.interop.layout"
GIVEN: dict[str, Layout] = {  # layouts of outputs, by the kind of the layer
    "conv": LAST, "depthwise_conv": LAST, "conv_transpose": LAST, "dense": SAME, "embedding": SAME,
    "multi_head_attention": SAME, "rnn": SAME, "lstm": SAME, "gru": SAME,
}  # fmt: skip


def mark(call: int, x: PyTree, y: PyTree) -> PyTree:
    """Return the output y of a call, with marks for `follow` at its input and its output.

    Args:
      call: Number of the call.
      x, y: Input and output; of a pytree, the first array is marked.
    """
    inputs = jax.tree.leaves(x)
    outputs, structure = jax.tree.flatten(y)
    if not inputs or not outputs:
        return y
    marked = checkpoint_name(inputs[0], f"{MARK} in {call}")
    # The barrier keeps the mark of the input in the program.
    _, output = jax.lax.optimization_barrier((marked, outputs[0]))
    outputs[0] = checkpoint_name(output, f"{MARK} out {call}")
    return jax.tree.unflatten(structure, outputs)


def follow(jaxpr: Any, layouts: Sequence[Layout], kinds: Sequence[str]) -> dict[int, Layout]:
    """Return the layout at the input of each marked call.

    Args:
      jaxpr: Jaxpr of a function whose layers are marked.
      layouts: Layouts of its arguments.
      kinds: Kind of the layer, by call.
    """
    inputs: dict[int, Shaped] = {}

    def run(jaxpr: Any, input_layouts: Sequence[Layout]) -> list[Layout]:
        environment: dict[Any, Layout] = dict(zip(jaxpr.invars, input_layouts, strict=True))

        def read(variable):
            return None if is_literal(variable) else environment.get(variable)

        for equation in jaxpr.eqns:
            operands = [(variable.aval.shape, read(variable)) for variable in equation.invars]
            layouts = [layout for _, layout in operands]
            body = _body(equation)
            side, call = _read_mark(equation)
            if body is not None:
                layouts = run(body, layouts)
            elif side == "in":
                inputs[call] = operands[0]
            elif side == "out":
                layouts = [_output(kinds[call], *inputs[call], operands[0])]
            elif equation.primitive.name != "optimization_barrier":
                shapes = [variable.aval.shape for variable in equation.outvars]
                layouts = [_result(equation, operands, shape) for shape in shapes]
            environment.update(zip(equation.outvars, layouts, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    run(jaxpr, layouts)
    return {call: layout for call, (_, layout) in inputs.items()}


def _body(equation: Any) -> Any:
    """Return the program inside jit, remat, scan or a custom derivative; None if there is none."""
    for body in jaxprs_among(equation.params.values()):
        if len(body.invars) == len(equation.invars):
            return body
    return None


def _read_mark(equation: Any) -> tuple[str, int]:
    """Return "in" or "out" and the number of the call, from `mark`; "" for another equation."""
    words = str(equation.params.get("name", "")).split()
    if words[:1] != [MARK]:
        return "", 0
    return words[1], int(words[2])


def flat_order(shape: tuple[int, ...]) -> np.ndarray:
    """Return our index of each of PyTorch's features, after flattening this shape.

    Example:
      >>> flat_order((1, 3, 2)).tolist()  # three pixels of two channels
      [0, 2, 4, 1, 3, 5]
    """
    ours = np.arange(np.prod(shape)).reshape(shape)
    return np.moveaxis(ours, -1, 0).ravel()


def _output(kind: str, shape: tuple[int, ...], layout: Layout, operand: Shaped) -> Layout:
    """Return the layout of a layer's output, by its kind and its input."""
    if kind == "flatten" and layout == LAST:
        channels, positions = shape[-1], np.prod(shape[1:-1])
        return tuple(shape[1:]) if min(channels, positions) > 1 else SAME
    if kind == "flatten" and layout in (SAME, FIRST, EITHER):
        return LOST if layout == EITHER else SAME
    if kind in ("adaptive_avg_pool", "resize"):  # products over positions
        return layout
    if kind in ("dense", "layer_norm", "rms_norm") and layout == LAST:
        return EITHER  # PyTorch may have moved the channels, and back
    out_shape, out_layout = operand
    if kind not in GIVEN:
        return out_layout
    return GIVEN[kind] if len(out_shape) > 2 else SAME


def _result(equation: Any, operands: list[Shaped], shape: tuple[int, ...]) -> Layout:
    """Return the layout of an operation's output."""
    with_layout = [(size, layout) for size, layout in operands if layout is not None]
    if not with_layout or not shape:
        return None
    name = equation.primitive.name
    first_shape, layout = with_layout[0]
    if name == "dot_general":
        return SAME
    if layout == LAST and _drops_axis(equation, len(first_shape) - 1):
        return SAME  # a map without channels
    if name == "reshape":
        return _reshaped(first_shape, layout, shape)
    if name == "transpose":
        axes, n = tuple(equation.params["permutation"]), len(shape)
        if layout in (LAST, EITHER) and axes == (0, n - 1, *range(1, n - 1)):
            return FIRST
        if layout == FIRST and axes == (0, *range(2, n), 1):
            return LAST
    layouts = {layout for _, layout in with_layout}
    flat = any(isinstance(layout, tuple) for layout in layouts)
    one_number = len(shape) < 2 or shape[1:] == (1,)  # per example
    if one_number and (flat or LOST in layouts):
        return SAME
    if LOST in layouts or layouts >= {FIRST, LAST}:
        return LOST
    if flat:
        return _flat_result(with_layout, shape)
    if len(shape) < 3:
        return SAME
    if name == "broadcast_in_dim" and len(first_shape) < 3:
        return None  # the same vector at each position
    # An axis after the channels, as in a shuffle.
    behind = shape != first_shape == shape[: len(first_shape)]
    if LAST in layouts and (behind or SAME in layouts):
        return EITHER
    return next(layout for layout in (EITHER, FIRST, LAST, SAME) if layout in layouts)


def _drops_axis(equation: Any, axis: int) -> bool:
    """Return whether an operation reduces an axis, or removes it."""
    if not equation.primitive.name.startswith(("reduce_", "arg", "squeeze")):
        return False
    return axis in equation.params.get("axes", equation.params.get("dimensions", ()))


def _flat_result(with_layout: Sequence[Shaped], shape: tuple[int, ...]) -> Layout:
    """Return the layout of an output if some inputs are flattened.

    It is theirs if they are one by one in the output, and the others have the same value for all
    features.
    """
    flat = {layout for _, layout in with_layout if isinstance(layout, tuple)}
    if len(flat) > 1:
        return LOST
    for size, layout in with_layout:
        fits = size == shape if layout in flat else size[-1:] != shape[-1:]
        if not fits:
            return LOST
    return flat.pop()


def _reshaped(old_shape: tuple[int, ...], layout: Layout, shape: tuple[int, ...]) -> Layout:
    """Return the layout of a reshaped array."""
    if isinstance(layout, tuple):
        if shape[1:] == layout:
            return LAST
        return layout if shape == old_shape else LOST
    if layout in (LAST, EITHER) and len(shape) == 2:
        # (batch, 1, c), (batch, h, 1) and (batch * h, c) keep their order
        return SAME if old_shape[-1] in (1, shape[-1]) else LOST
    if layout == LAST and len(shape) < len(old_shape):
        if old_shape[-1] not in (1, shape[-1]):
            # Channels and positions share an axis, and PyTorch may have either of them first.
            return LOST
        if shape[0] == old_shape[0]:
            return EITHER
    if layout == LAST and np.prod(shape[len(old_shape) - 1 :]) == old_shape[-1]:
        # The channels are split, for example into heads.
        return EITHER if len(shape) > len(old_shape) else LAST
    if layout == SAME and len(old_shape) == 2 and len(shape) > 2 and shape[-1] != old_shape[-1]:
        return FIRST
    return SAME if len(shape) < 3 and layout != LOST else layout
