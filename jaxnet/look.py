"""Looking inside: watch the calls of a network, or take outputs from its middle."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, State, as_layer, compose, transform
from jaxnet.core.compose import SOWN, Watch, recompose, watched
from jaxnet.services.checks import a_function, check_options
from jaxnet.services.trees import Memo, Path, PyTree, flat


def observe(
    layer: Layer, see: Callable[[Path, Layer, PyTree, PyTree], PyTree], *, transforms: bool = False
) -> Layer:
    """A layer in which `see(path, layer, x, y) -> y` watches every call.

    Parameters, state and keys are those of the layer itself. The value that `see` returns replaces
    the output, so it may read (`return y`), record or change. Calls come in the order in which they
    end: those inside a composed layer before its own. A shared layer is seen at each call. Inside
    `jax.lax.scan` and the like `see` gets tracers, which must not outlive the call.

    Args:
      layer: any layer; one that is not composed is a single call.
      see: gets the names below `layer` (none for `layer` itself), the layer that was called (a
        plain function as a layer of kind "function"), its input and its output.
      transforms: whether to look inside `repeat`, `cast` and the like too. Their entries have the
        paths of the layer inside, which may run in a loop or under `vmap`: `see` gets tracers.

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
    watch = Watch(see, transforms=transforms)
    if callable(layer.inside):
        whole = lambda m, x: see((), layer, x, layer.inside(m.watched(watch), x))  # noqa: E731
        return recompose(layer, whole)
    inner = watched(layer, watch)

    def apply(params, state, x, *, key=None, train=False):
        y, state = inner.apply(params, state, x, key=key, train=train)
        return see((), layer, x, y), state

    return layer._replace(apply=apply)


def collect(layer: Layer) -> Layer:
    """Return a layer whose output is `(y, sown)`: what `m.sow` reports inside it, by path.

    Params and state are those of the layer. Below `repeat` and `ensemble` the values are stacked. A
    layer that is called again has its values under the next name, such as "block_1/balance".

    Args:
      layer: Any layer, such as a model or an objective.

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
    layer = as_layer(layer, "collect", "layer")
    inner = watched(layer, Watch(transforms=True, sown=True))

    def apply(params, state, x, *, key=None, train=False):
        y, after = inner.apply(params, state, x, key=key, train=train)
        sown = {n.removeprefix(SOWN): after[n] for n in after if n.startswith(SOWN)}
        return (y, sown), {n: value for n, value in after.items() if not n.startswith(SOWN)}

    return transform(layer, apply, collect, kind="collect")


def tap(layer: Layer, *paths: str) -> Layer:
    """The trunk of a network: the outputs of layers inside, in place of the last one's.

    What would run after the last of them is skipped, in `init` too: params and state are those of
    the layers that run, under the names that they have in the network. The trunk is a layer like
    any other: put a head behind it, or `freeze` it.

    Args:
      layer: a composed layer, such as a model or an objective.
      paths: names below it, such as "block_3" or "block_3/conv_1", as `inspect.activations` lists
        them; of a layer that is called several times, its first call.

    Returns:
      A layer whose output is that of the one path, or a tuple with one entry per path.

    Raises:
      TypeError: for a layer that is not composed.
      ValueError: for no path, or, in `init` and `apply`, a path that does not exist.

    Example:
      >>> double = jn.stateless(lambda key, x: {"w": jnp.ones(3)}, lambda p, x: 2 * x, "double")
      >>> net = jn.serial(double, jnp.sin, jn.serial(jnp.cos, jnp.exp, name="inner"), name="net")
      >>> trunk = jn.tap(net, "double", "inner/cos")
      >>> params, state = trunk.init(jax.random.key(0), jn.spec((2, 3)))
      >>> (doubled, cos), _ = trunk.apply(params, state, jnp.ones((2, 3)))
      >>> float(doubled[0, 0]), bool((cos == jnp.cos(jnp.sin(2.0))).all())
      (2.0, True)
    """
    layer = as_layer(layer, "tap", "layer")
    if not all(isinstance(path, str) for path in paths):
        raise TypeError(f"tap: paths must be words such as 'block_3/conv_1', got {paths!r:.60}")
    if not paths:
        raise ValueError(f"tap: expected at least one path, such as tap({layer.name}, 'conv_1')")
    if not callable(layer.inside):
        raise TypeError(
            f"tap: {layer.name} is not composed, so it has no layers inside; tap the network "
            "first and transform it then, as in freeze(tap(net, 'block_3'))"
        )
    inside, skipped = layer.inside, Memo()

    def forward(m, x):
        found: dict[str, PyTree] = {}
        passed: list[str] = []

        def see(path, layer, x, y):
            name = "/".join(path)
            passed.append(name)
            if name in paths:
                found.setdefault(name, y)
            return y

        done = lambda: found.keys() == set(paths)  # noqa: E731
        inside(m.watched(Watch(see, done, skipped=skipped)), x)
        if missing := [path for path in paths if path not in found]:
            raise ValueError(
                f"tap: {layer.name} has no layer {', '.join(map(repr, missing))}; "
                f"it has {', '.join(dict.fromkeys(passed))}"
            )
        outputs = [found[path] for path in paths]
        return tuple(outputs) if len(paths) > 1 else outputs[0]

    return compose(forward, name=layer.name, kind="tap")


def pick(tree: Params | State, like: Params | State) -> dict[str, Any]:
    """The entries of a tree that another tree has too, by path: what a trunk takes from a network.

    Args:
      tree: params or state that hold more.
      like: those of the trunk, from its `init`, as arrays or shapes.

    Raises:
      ValueError: for entries that are missing or of another shape; the message lists them all.

    Example:
      >>> params = {"conv": {"kernel": jnp.ones((3, 4))}, "output": {"bias": jnp.ones(2)}}
      >>> jn.pick(params, {"conv": {"kernel": jn.spec((3, 4))}})["conv"]["kernel"].shape
      (3, 4)
    """
    for what, part in (("tree", tree), ("like", like)):
        if not isinstance(part, dict):
            raise TypeError(f"pick: {what} must be a dict of arrays, got {type(part).__name__}")
    have, wanted = dict(flat(tree)), flat(like)
    got = {name: jnp.shape(have[name]) for name, _ in wanted if name in have}
    lines = [
        f"  tree/{name}: expected {jnp.shape(a)}, got {got.get(name, 'nothing')}"
        for name, a in wanted
        if got.get(name) != jnp.shape(a)
    ]
    if lines:
        raise ValueError("\n".join(["pick: the tree lacks entries:", *lines]))
    return jax.tree.unflatten(jax.tree.structure(like), [have[name] for name, _ in wanted])
