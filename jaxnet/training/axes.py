"""Pictures whose axes a convolution takes for others: without channels, or with channels first."""

import jax

from jaxnet.core import Layer, Params, State
from jaxnet.services.checks.spatial import SMALLEST_SIDE, without_channels
from jaxnet.services.trees import PyTree, shapes_of
from jaxnet.services.warn import warn
from jaxnet.training.objective import supervised_in
from jaxnet.training.objective_trace import trace_or_none
from jaxnet.transforms.observing import observe

OF_PICTURES = {"conv", "depthwise_conv", "locally_connected"}


def axes_hint(net: Layer, params: Params, state: State, x: PyTree) -> str:
    """Return what to write if a net takes the axes of pictures for others; otherwise "".

    A convolution over (batch, 28, 28) has one spatial axis, and 28 channels.

    Args:
      net: Any layer.
      params, state: Its params and state, or their shapes.
      x: Its input, or the shapes of it.

    Example:
      >>> net, x = jn.serial(jn.conv(4, 3), jn.global_avg_pool()), jn.spec((2, 28, 28))
      >>> axes_hint(net, *net.init(jax.random.key(0), x), x)
      'conv is over one axis of 28, with 28 channels. For pictures write x[..., None]'
    """
    remedies = {leaf.shape: _remedy(leaf.shape) for leaf in jax.tree.leaves(x)}
    if not any(remedies.values()):
        return ""
    hints = []

    def see(path, layer, x, y):
        shape = getattr(x, "shape", ())
        if layer.kind in OF_PICTURES and len(shape) > 2 and remedies.get(shape):
            over = " × ".join(map(str, shape[1:-1]))
            axes = f"one axis of {over}" if len(shape) == 3 else f"axes of {over}"
            name = "/".join(path) or layer.name
            hints.append(f"{name} is over {axes}, with {shape[-1]} channels. {remedies[shape]}")
        return y

    watched = observe(net, see)
    trace_or_none(jax.eval_shape, watched.apply, *shapes_of((params, state, x)))
    return hints[0] if hints else ""


def _remedy(shape: tuple[int, ...]) -> str:
    """Return what to write for an input of this shape if it may be one of pictures."""
    if without_channels(shape):
        return "For pictures write x[..., None]"
    if len(shape) == 4 and shape[2] == shape[3] >= SMALLEST_SIDE and shape[1] < shape[2]:
        return "For pictures with channels first write x.transpose(0, 2, 3, 1)"
    return ""


def check_axes(objective: Layer, params: Params, state: State, batch: PyTree) -> None:
    """Warn if the net of an objective takes the axes of pictures for others."""
    parts = supervised_in(objective)
    if parts is None:
        return
    x, _ = parts.split(batch)
    if hint := axes_hint(parts.net, params, state, x):
        warn(f"trainer.init: {hint}")
