"""Watch the calls of a network, or collect the values that its layers report."""

from collections.abc import Callable

from jaxnet.core import Layer, as_layer, transformed
from jaxnet.core.run import SOWN
from jaxnet.services.checks import a_function, check_options
from jaxnet.services.trees import Path, PyTree


def observe(
    layer: Layer, see: Callable[[Path, Layer, PyTree, PyTree], PyTree], *, transforms: bool = False
) -> Layer:
    """Return a layer in which `see(path, layer, x, y) -> y` watches every call.

    Parameters, state and keys are the layer's. The value that `see` returns replaces
    the output, so it may read (`return y`), record or change. Calls come in the order in which they
    end: calls inside a composed layer come before its own. A shared layer is seen at each call.
    Inside `jax.lax.scan` and the like `see` gets tracers, which must not outlive the call.

    Args:
      layer: Any layer; one that is not composed is a single call.
      see: Function of the names below `layer` (none for `layer` itself), the layer that was called
        (a plain function as a layer of kind "function"), its input and its output.
      transforms: Whether to look inside `repeat`, `cast` and the like as well. Their entries have
        the paths of the layer inside, which may run in a loop or under `vmap`: `see` gets tracers.
        Layers inside `lora` and `quantized`, which change params alone, are always seen.

    Returns:
      A layer with the same params and state.

    Example:
      >>> net = jn.serial(jnp.sin, jn.serial(jnp.cos, name="inner"))
      >>> def see(path, layer, x, y):
      ...     print("/".join(path), layer.kind, x.shape)
      ...     return y
      >>> y, _ = jn.observe(net, see).apply({}, {}, jnp.zeros((2, 3)))
      sin function (2, 3)
      inner/cos function (2, 3)
      inner serial (2, 3)
       serial (2, 3)
    """
    layer = as_layer(layer, "observe", "layer")
    a_function("observe", "see", see, "(path, layer, x, y)")
    check_options("observe", transforms=transforms)

    def apply(run, params, state, x):
        y, state = run.watched(see, transforms=transforms)(params, state, x)
        return see((), run.layer, x, y), state

    return transformed(layer, apply, kind=layer.kind, clear=True)


def collect(layer: Layer) -> Layer:
    """Return a layer whose output is `(y, sown)`: what `m.sow` reports inside it, by path.

    Params and state are the layer's. Below `repeat` and `ensemble` the values are stacked. A layer
    that is called again has its values under the next name, such as "block_1/balance".

    Args:
      layer: Any layer, such as a model or an objective.

    Returns:
      A layer that returns (y, values) instead of y.

    Example:
      >>> def gated(m, x):
      ...     share = jax.nn.sigmoid(m(jn.dense(1), x))
      ...     m.sow("share", share[:, 0])
      ...     return x * share
      >>> net = jn.serial(jn.compose(gated), jn.dense(2))
      >>> params, state = net.init(jax.random.key(0), jn.spec((4, 3)))
      >>> (y, sown), state = jn.collect(net).apply(params, state, jnp.ones((4, 3)))
      >>> y.shape, jax.tree.map(jnp.shape, sown)
      ((4, 2), {'gated/share': (4,)})

      In an objective, here to keep the gates open:

      >>> def objective(m, batch):
      ...     x, y = batch
      ...     outputs, sown = m(jn.collect(net), x)
      ...     loss = optax.softmax_cross_entropy_with_integer_labels(outputs, y)
      ...     return loss - 0.01 * jnp.log(sown["gated/share"]), {"share": sown["gated/share"]}
      >>> trainer = jn.trainer(jn.compose(objective), optax.adam(0.1))
    """

    def apply(run, params, state, x):
        y, after = run.watched(transforms=True, sown=True)(params, state, x)
        sown, remaining = {}, {}
        for name, value in after.items():
            if name.startswith(SOWN):
                sown[name.removeprefix(SOWN)] = value
            else:
                remaining[name] = value
        return (y, sown), remaining

    return transformed(layer, apply, kind="collect")
