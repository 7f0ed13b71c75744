"""The effective receptive field of a unit."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.core.meshes import on_auto_axes
from jaxnet.inspect.attribution import output_at, saliency
from jaxnet.nets import check_net
from jaxnet.services.checks import as_array, at_least, check_type


@on_auto_axes
def effective_field(
    net: Layer,
    params: Params,
    state: State,
    x: jax.Array | np.ndarray,
    path: str,
    *,
    unit: int | None = None,
) -> jax.Array:
    """Return the effective receptive field of a layer's middle unit: mean absolute gradients.

    It is about Gaussian and much smaller than the theoretical field (`receptive_fields`). It
    depends on the parameters and the inputs, so pass many inputs.

    Args:
      net: Network.
      params, state: Params and state of the network.
      x: Images of floats, (batch, height, width, channels).
      path: Path of a layer with maps, as `activations` names it.
      unit: Number of the map; None sums over all maps.

    Returns:
      (height, width), at least 0, scaled to a largest value of 1 (all 0 if no pixel has an effect).

    Raises:
      TypeError, ValueError: As in `net.apply` and `saliency`.
      ValueError: If `path` or `unit` does not exist, or the layer has no maps.

    Example:
      >>> net = jn.serial(jn.conv(2, 3), jn.conv(2, 3))
      >>> x = jnp.ones((1, 9, 9, 1))
      >>> params, state = net.init(jax.random.key(0), x)
      >>> effective_field(net, params, state, x, "conv")[4].round(2) > 0
      Array([False, False, False,  True,  True,  True, False, False, False], dtype=bool)

    Reference: Luo, Li, Urtasun and Zemel 2016, "Understanding the Effective Receptive Field in Deep
    Convolutional Neural Networks".
    """
    net, params, state = check_net("effective_field", net, params, state, x)
    x = as_array("effective_field", "x", x, "(batch, height, width, channels)", "floats")
    check_type("effective_field", "path", path, str, "the name of a layer")
    at_least("effective_field", "unit", unit, 0, optional=True)
    y = jax.eval_shape(lambda x: output_at(net, params, state, x, path), x)
    shape = getattr(y, "shape", ())
    if len(shape) != 4:
        raise ValueError(
            f"effective_field: expected a layer with maps, got an output of {net.name}/{path} of "
            f"shape {shape}"
        )
    middle = (shape[1] // 2, shape[2] // 2, slice(None) if unit is None else unit)
    return _scaled(saliency(net, params, state, x, middle, path=path))


@jax.jit
def _scaled(gradient: jax.Array) -> jax.Array:
    size = jnp.abs(gradient).sum(-1).mean(0)
    return size / jnp.where(size.max() > 0, size.max(), 1)
