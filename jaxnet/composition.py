"""Composition of layers: in series, in parallel, around a shortcut."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, as_layer, compose
from jaxnet.core.inputs import call_with, first_and_further, inputs_of_all
from jaxnet.core.names import free_name
from jaxnet.services.checks import check_type


def serial(*layers: Layer | Callable[..., Any], name: str = "serial") -> Layer:
    """Apply layers one after another: each gets the output of the previous layer.

    Args:
      layers: Layers or plain functions, such as `jax.nn.relu`.
      name: Name of the layer.

    Input:
      The input of the first layer. If layers have inputs behind the first, such as the mask of
      `transformer_block`, they are inputs of `serial` too: (x, mask), or a dict by name. Each layer
      that has an input of such a name gets it unchanged. A layer that reads sequences, such as
      `gru`, gets a mask as its lengths.

    Returns:
      A layer, from the input of the first layer to the output of the last one.

    Example:
      >>> net = jn.serial(jn.dense(4), jax.nn.relu, jn.dense(2))
      >>> print(jn.summary(net, jn.spec((5, 3))))
      serial for an input of (5, 3) float32
      layer      kind      output  parameters  state  FLOPs
      ─────────────────────────────────────────────────────
      serial     serial    (5, 2)          26           200
        dense    dense     (5, 4)          16           120
        relu     function  (5, 4)
        dense_1  dense     (5, 2)          10            80
      ─────────────────────────────────────────────────────
      total                                26      0    200
      104 B of parameters, 0 B of state, 200 B of activations
      >>> params, state = net.init(jax.random.key(0), jn.spec((5, 3)))
      >>> y, state = net.apply(params, state, jnp.ones((5, 3)))
      >>> np.asarray(y[0]).round(3)
      array([ 0.202, -0.1  ], dtype=float32)
    """
    _check_layers("serial", layers)
    names = inputs_of_all(layers)

    def forward(m, inputs):
        x, further = first_and_further(names, inputs)
        for layer in layers:
            x = call_with(m, layer, x, further)
        return x

    return compose(Calls(layers, forward), name=name, kind="serial").replace(inputs=names)


def parallel(*layers: Layer | Callable[..., Any], name: str = "parallel") -> Layer:
    """Apply layers in parallel; the output is the tuple of their outputs.

    An input that is an array (or a dict) goes to every layer. An input that is a tuple or list has
    one entry per layer, as in stax. To give one tuple to all layers, write a `compose`.

    Args:
      layers: Layers or plain functions.
      name: Name of the layer.

    Returns:
      A layer whose output is a tuple with one entry per layer.

    Raises:
      ValueError: If the length of a tuple is not the number of layers.

    Example:
      >>> net = jn.parallel(jnp.sin, jnp.cos)
      >>> (s, c), _ = net.apply({}, {}, jnp.zeros((1, 3)))  # both get the array
      >>> s.tolist(), c.tolist()
      ([[0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]])
      >>> (s, c), _ = net.apply({}, {}, (jnp.zeros(1), jnp.full(2, jnp.pi)))  # an entry each
      >>> s.tolist(), c.tolist()
      ([0.0], [-1.0, -1.0])
    """
    _check_layers("parallel", layers)

    def forward(m, x):
        if not isinstance(x, tuple | list):
            return tuple(m(layer, x) for layer in layers)
        if len(x) != len(layers):
            raise ValueError(
                f"{name}: expected one input per layer, {len(layers)}, got a tuple of {len(x)}; "
                "an array goes to every layer, and compose can give a tuple to any of them"
            )
        return tuple(m(layer, entry) for layer, entry in zip(layers, x, strict=True))

    return compose(Calls(layers, forward), name=name, kind="parallel")


def residual(
    layer: Layer | Callable[..., Any],
    shortcut: Layer | Callable[..., Any] | None = None,
    *,
    name: str = "residual",
) -> Layer:
    """Add a shortcut: layer(x) + shortcut(x), or layer(x) + x without `shortcut`.

    Args:
      layer: Layer that keeps the shape of x, or changes it as `shortcut` does.
      shortcut: Layer, for example a 1x1 convolution if `layer` changes the shape.
      name: Name of the layer.

    Returns:
      A layer with the output layer(x) + shortcut(x).

    Raises:
      ValueError: If the shapes differ, which are never broadcast, or for a tuple of arrays.

    Example:
      >>> net = jn.residual(jnp.square)
      >>> net.apply({}, {}, jnp.array([[1.0, 2.0, 3.0]]))[0].tolist()  # x + x²
      [[2.0, 6.0, 12.0]]
    """
    layers = (layer,) if shortcut is None else (layer, shortcut)
    _check_layers("residual", layers)
    names = inputs_of_all(layers)

    def forward(m, inputs):
        x, further = first_and_further(names, inputs)
        y = call_with(m, layer, x, further)
        x = x if shortcut is None else call_with(m, shortcut, x, further)
        added, skipped = jax.tree.map(jnp.shape, y), jax.tree.map(jnp.shape, x)
        if added != skipped or isinstance(
            y, tuple | list | dict
        ):  # the sum of two tuples joins them
            raise ValueError(
                f"{name}: expected two arrays of equal shapes, got {added} from the layer and "
                f"{skipped} from the shortcut; pass a shortcut of the layer's output shape, "
                "such as residual(layer, conv(features, 1, strides=2))"
            )
        return y + x

    return compose(Calls(layers, forward), name=name, kind="residual").replace(inputs=names)


class Calls(NamedTuple):
    """A forward function that calls its layers in this order, whatever its input is.

    Fields:
      members: The layers, as they were given.
      forward: The function of `m` and `x`.
    """

    members: tuple[Layer | Callable[..., Any], ...]
    forward: Callable[[Any, Any], Any]

    def __call__(self, m: Any, x: Any) -> Any:
        return self.forward(m, x)

    @property
    def layers(self) -> tuple[tuple[str, Layer], ...]:
        """The layers with the names that their entries have; a layer that repeats has one name."""
        names: dict[int, str] = {}
        named_layers = []
        for member in self.members:
            layer = as_layer(member)
            if id(member) not in names:
                names[id(member)] = free_name(layer.name, names.values())
            named_layers.append((names[id(member)], layer))
        return tuple(named_layers)


def _check_layers(who: str, layers: tuple) -> None:
    for i, layer in enumerate(layers):
        hint = f"pass several layers one by one, as in {who}(a, b, c)"
        check_type(who, f"argument {i}", layer, Layer | Callable, "a layer or a function", hint)
