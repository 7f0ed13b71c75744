"""How much of its receptive field a unit uses."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.inspect.attribution import output_at, saliency


def effective_field(
    net: Layer,
    params: Params,
    state: State,
    x: jax.Array | np.ndarray,
    path: str,
    *,
    unit: int | None = None,
) -> jax.Array:
    """How strongly each pixel moves the unit in the middle of a layer: the mean size of gradients.

    The effective receptive field: about a Gaussian, much smaller than the theoretical one, which
    `receptive_fields` tells. It depends on the parameters and on the inputs, and on the rectifiers
    that these shut; take many inputs.

    Args:
      net: the network; params, state: of it.
      x: images of floats, (batch, height, width, channels).
      path: of a layer with maps, as `activations` names it.
      unit: the map whose middle it is; None takes the sum over all maps.

    Returns:
      (height, width), at least 0, the largest 1 (all 0 where nothing moves the unit).

    Raises:
      TypeError: for an x that is not of floats.
      ValueError: for a path or unit that is not there, or a layer without maps.

    Example:
      >>> net = jn.serial(jn.conv(2, 3), jn.conv(2, 3))
      >>> x = jnp.ones((1, 9, 9, 1))
      >>> params, state = net.init(jax.random.key(0), x)
      >>> effective_field(net, params, state, x, "conv")[4].round(2) > 0
      Array([False, False, False,  True,  True,  True, False, False, False], dtype=bool)

    Reference: Luo, Li, Urtasun and Zemel 2016, "Understanding the Effective Receptive Field in Deep
    Convolutional Neural Networks".
    """
    shape = jax.eval_shape(lambda x: output_at(net, params, state, x, path), x).shape
    if len(shape) != 4 or np.ndim(x) != 4:
        raise ValueError(
            "effective_field: needs images (batch, height, width, channels) and a layer with maps; "
            f"got {np.shape(x)}, and {net.name}/{path} gives {shape}"
        )
    middle = (shape[1] // 2, shape[2] // 2, slice(None) if unit is None else unit)
    size = jnp.abs(saliency(net, params, state, x, middle, path=path)).sum(-1).mean(0)
    return size / jnp.where(size.max() > 0, size.max(), 1)
