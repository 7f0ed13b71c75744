"""The trunk of a network: outputs from its middle, and the params that belong to them."""

from collections import Counter

from jaxnet.core import Layer, as_layer, compose
from jaxnet.core.mode import Watch
from jaxnet.services.trees import Memo, PyTree


def tap(layer: Layer, *paths: str) -> Layer:
    """Return the trunk of a network: the outputs of layers inside instead of the last layer's.

    Layers after the last of them are skipped, in `init` too: params and state belong to the layers
    that run, under the names that they have in the network. The trunk also takes the params and
    state of the whole network. It is a layer like any other: put a head after it, or `freeze` it.

    Args:
      layer: Composed layer, such as a model or an objective.
      paths: Names below it, such as "block_3" or "block_3/conv_1", as `inspect.activations` lists
        them: "relu#2" is the second call of a layer or function.

    Returns:
      A layer whose output is the output at the one path, or a tuple with one entry per path.

    Raises:
      TypeError: If `layer` is not composed.
      ValueError: If `paths` is empty.
      ValueError: In `init` and `apply`, if a path does not exist.

    Example:
      >>> double = jn.stateless(lambda key, x: {"w": jnp.ones(3)}, lambda p, x: 2 * x, "double")
      >>> net = jn.serial(double, jnp.sin, jn.serial(jnp.cos, jnp.exp, name="inner"), name="net")
      >>> trunk = jn.tap(net, "double", "inner/cos")
      >>> params, state = trunk.init(jax.random.key(0), jn.spec((2, 3)))
      >>> (doubled, cos), _ = trunk.apply(params, state, jnp.ones((2, 3)))
      >>> print(f"{doubled[0, 0]:.3f} {cos[0, 0]:.3f}")  # 2 x, and cos(sin(2 x))
      2.000 0.614
    """
    layer = as_layer(layer, "tap", "layer")
    if not all(isinstance(path, str) for path in paths):
        raise TypeError(f"tap: paths must be words such as 'block_3/conv_1', got {paths!r:.60}")
    if not paths:
        raise ValueError(f"tap: expected at least one path, such as tap({layer.name}, 'conv_1')")
    if layer.kind == "pretrained":  # the same net, which knows its configuration
        layer = layer.inside.layer
    if not callable(layer.inside):
        raise TypeError(
            f"tap: {layer.name} is not composed, so it has no layers inside; tap the network "
            "first and transform it then, as in freeze(tap(net, 'block_3'))"
        )
    inside = layer.inside
    skipped = Memo()

    def forward(m, x):
        outputs_by_path: dict[str, PyTree] = {}
        calls: Counter[str] = Counter()
        passed: list[str] = []

        def see(path, layer, x, y):
            name = "/".join(path)
            calls[name] += 1
            if calls[name] > 1:
                name = f"{name}#{calls[name]}"
            passed.append(name)
            if name in paths:
                outputs_by_path[name] = y
            return y

        def done():
            return outputs_by_path.keys() == set(paths)

        inside(m._watched(Watch(see, done, skipped=skipped)), x)
        missing = [path for path in paths if path not in outputs_by_path]
        if missing:
            raise ValueError(
                f"tap: {layer.name} has no layer {', '.join(map(repr, missing))}; "
                f"it has {', '.join(passed)}. For layers inside transforms, see "
                "jn.observe(layer, see, transforms=True)"
            )
        outputs = [outputs_by_path[path] for path in paths]
        return tuple(outputs) if len(paths) > 1 else outputs[0]

    return compose(forward, name=layer.name, kind="tap")
