"""The deletion test of attribution maps: accuracy without the most important pixels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.inspect.attribution import filling
from jaxnet.nets import check_net
from jaxnet.services.checks import as_array, check_range, check_values, on_host
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.trees import compiled_for, describe

CHUNK = 500  # images per forward pass


@on_auto_axes
def deletion(
    net: Layer,
    params: Params,
    state: State,
    x: jax.Array | np.ndarray,
    labels: jax.Array | np.ndarray,
    importance: jax.Array | np.ndarray,
    shares: Sequence[float],
    *,
    value: float | Sequence[float] = 0.0,
) -> np.ndarray:
    """Return the accuracy on images without their most important pixels.

    The faster it falls, the better the map describes what the network uses; compare it with the
    accuracy for pixels in random order. Of pixels of equal importance, upper left ones are removed
    first.

    Args:
      net: Network with logits (batch, classes).
      params, state: Params and state of the network.
      x: Images, (batch, height, width, channels).
      labels: Classes, (batch,).
      importance: Importance of each pixel, (batch, height, width), such as `occlusion` returns.
      shares: Fractions of the pixels to remove, each in [0, 1].
      value: Value of removed pixels: a number, or one per channel.

    Returns:
      Accuracies, (shares,).

    Raises:
      TypeError, ValueError: As in `net.apply`.
      ValueError: If `importance` has NaN or does not have the images' shape, `labels` has values
        that are not classes of the network, or `shares` is empty or outside [0, 1].

    Example:
      >>> net = jn.serial(lambda x: x[:, 0, :, 0])  # reads the brightest of three pixels
      >>> x = jnp.array([[0.1, 0.9, 0.5], [0.8, 0.2, 0.3]])[:, None, :, None]
      >>> deletion(net, {}, {}, x, [1, 0], x[..., 0], shares=[0, 1 / 3]).tolist()
      [1.0, 0.0]

    Reference: Samek et al. 2017, "Evaluating the Visualization of What a Deep Neural Network Has
    Learned" (region perturbation); Petsiuk, Das and Saenko 2018, "RISE" (deletion).
    """
    net, params, state = check_net("deletion", net, params, state, x)
    sizes: dict[str, int] = {}
    x = as_array(
        "deletion", "x", x, "(batch, height, width, channels)", "floats", sizes, empty=False
    )
    labels = on_host("deletion", "labels", labels, "(batch,)", "integers", sizes)
    importance = on_host("deletion", "importance", importance)
    if importance.shape != x.shape[:3]:
        raise ValueError(
            f"deletion: expected importance (batch, height, width) for x {x.shape}, got "
            f"{importance.shape}; for a coarse map use jax.image.resize"
        )
    given = on_host("deletion", "shares", shares, "(shares,)", empty=False)
    check_values("deletion", "shares", given, "[0, 1]")
    if np.isnan(importance).any():
        raise ValueError("deletion: importance has NaN")
    y = jax.eval_shape(lambda x: net.apply(params, state, x)[0], x)
    if np.ndim(y) != 2:
        raise ValueError(f"deletion: the net must return (batch, classes), got {describe(y)}")
    check_range(labels, y.shape[1], "deletion: labels")
    filled = filling("deletion", value, x)
    importance, labels = jnp.asarray(importance, jnp.float32), jnp.asarray(labels)
    pixels = x.shape[1] * x.shape[2]
    counts = jnp.asarray([round(share * pixels) for share in given])
    correct = sum(
        _correct(net, params, state, x[i : i + CHUNK], labels[i : i + CHUNK],
               importance[i : i + CHUNK], counts, filled)
        for i in range(0, len(x), CHUNK)
    )  # fmt: skip
    return np.asarray(correct) / len(x)


@compiled_for()
def _correct(net, params, state, x, labels, importance, counts, value):
    """Return the number of images classified correctly, (counts,)."""
    order = jnp.argsort(-importance.reshape(len(x), -1), axis=1)
    rank = jnp.argsort(order, axis=1).reshape(importance.shape)  # 0 for the most important pixel

    def correct(count):
        rest = jnp.where((rank < count)[..., None], value, x)
        return (net.apply(params, state, rest)[0].argmax(-1) == labels).sum()

    return jax.lax.map(correct, counts)
