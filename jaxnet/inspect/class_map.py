"""Class activation maps: the regions of an image that contribute to a class."""

from typing import Any

import jax

from jaxnet.core import Layer, Params, State
from jaxnet.inspect.scores import array_at, choose, score
from jaxnet.services.checks import check_type
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.trees import PyTree, compiled_for


@on_auto_axes
def class_activation_map(
    net: Layer,
    params: Params,
    state: State,
    x: PyTree,
    path: str,
    target: Any = None,
) -> jax.Array:
    """Return the feature maps of a layer, summed with their weights for a class (Grad-CAM).

    The weight of a map is the mean over its positions of the gradient of the class's logit. The
    maps may be of any layer. For a network that ends in global average pooling and a dense layer,
    the weight is the dense layer's weight divided by the number of positions (CAM). Then the sum
    over the positions is the logit without its bias. The result is signed; the paper of Grad-CAM
    shows the positive part, `jnp.maximum(found, 0)`.

    Args:
      net: Network with logits (batch, classes).
      params, state: Params and state of the network.
      x: Input of the network: an array, or a tuple or dict of arrays, such as (x, lengths).
      path: Path of the layer with the maps, as `activations` names it; usually the last one before
        global pooling.
      target: Class, or one per example, (batch,); None takes the class of the largest logit.

    Returns:
      (batch, *space of the maps), coarser than x if the network has pooled.

    Raises:
      TypeError, ValueError: As in `net.apply` and `saliency`.
      ValueError: If the path or class does not exist, or the layer has no maps.

    Example:
      >>> head = jn.serial(jn.global_avg_pool(), jn.dense(3), name="head")
      >>> net = jn.serial(jn.conv(5, 3, strides=2), jax.nn.relu, head)
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 8, 6, 1)))
      >>> class_activation_map(net, params, state, jnp.ones((2, 8, 6, 1)), "relu").shape
      (2, 4, 3)

    References: Zhou et al. 2016, "Learning Deep Features for Discriminative Localization" (CAM);
    Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization".
    """
    who = "class_activation_map"
    check_type(who, "path", path, str, "the name of a layer")
    chosen = choose(who, net, params, state, x, target, None, at=path)
    if len(chosen.array.shape) < 3:
        raise ValueError(
            f"{who}: expected maps (batch, *space, features) from {chosen.net.name}/{path}, got "
            f"{chosen.array.shape}; choose a layer before global pooling or flattening"
        )
    return _map(*chosen.arguments)


@compiled_for(static_argnums=4)
def _map(net, params, state, x, mask, place):
    maps = array_at(net, params, state, x, place)
    gradient = jax.grad(lambda maps: score(net, params, state, x, mask, place, maps).sum())(maps)
    weights = gradient.mean(tuple(range(1, maps.ndim - 1)), keepdims=True)  # (batch, 1, 1, maps)
    return (weights * maps).sum(-1)
