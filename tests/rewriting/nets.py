"""Random nets of forms that users write: signals, images, volumes, words, trees of inputs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn

KINDS = "signal", "image", "volume", "words", "tree"
VOCABULARY = 11

ACTIVATIONS = [
    jax.nn.relu, jax.nn.relu6, jax.nn.silu, jax.nn.gelu, jax.nn.hard_swish, jax.nn.sigmoid,
    jnp.tanh, jax.nn.hard_sigmoid, jax.nn.leaky_relu, jax.nn.softplus, jax.nn.elu, jnp.abs, jnp.sin,
    jnp.square, jax.nn.softmax,
    lambda x: jax.nn.gelu(x, approximate=False), lambda x: jnp.clip(x, -1, 2), lambda x: 2 - x,
    lambda x: x / 3, lambda x: jnp.minimum(jnp.maximum(x, 1), 0), lambda x: 1 / (1 + x * x),
    lambda x: x * jax.nn.sigmoid(x + 1), lambda x: jnp.where(x > 0, x, 0.1 * x),
]  # fmt: skip


class Part:
    """What a random part of a net may read: m, random numbers, a name, x and values before it."""

    def __init__(self, m: Any, rng: np.random.Generator, name: str, x: Any, values: list) -> None:
        self.m, self.rng, self.name, self.x = m, rng, name, x
        self.before = [value for value in values if value.shape == x.shape] or [x]
        self.channels = x.shape[-1]

    def numbers(self, *shape: int, scale: float = 1.0) -> Any:
        name = f"{self.name}_{len(shape)}"
        return self.m.param(name, jn.initializers.normal(scale), shape)

    def maybe(self) -> bool:
        return bool(self.rng.integers(2))

    def earlier(self) -> Any:
        return self.before[self.rng.integers(len(self.before))]


def conv(part: Part) -> Any:
    window = int(part.rng.integers(1, 4))
    if part.maybe():
        window = tuple(int(size) for size in part.rng.integers(1, 4, part.x.ndim - 2))
    features = int(part.rng.choice([part.channels, 16, 20, 24]))
    strides = int(part.rng.choice([1, 1, 2]))
    layer = jn.conv(features, window, strides=strides, use_bias=part.maybe())
    return part.m(layer, part.x)


def grouped_conv(part: Part) -> Any:
    groups = part.channels if part.maybe() else 4
    return part.m(jn.conv(part.channels, 3, groups=groups, use_bias=part.maybe()), part.x)


def shared_conv(part: Part) -> Any:
    layer = jn.conv(part.channels, 3, name=f"{part.name}_shared")
    return part.m(layer, jax.nn.relu(part.m(layer, part.x)))


def batch_norm(part: Part) -> Any:
    return part.m(jn.batch_norm(use_scale=part.maybe(), use_bias=part.maybe()), part.x)


def other_norm(part: Part) -> Any:
    return part.m(jn.layer_norm() if part.maybe() else jn.group_norm(4), part.x)


def activation(part: Part) -> Any:
    return ACTIVATIONS[part.rng.integers(len(ACTIVATIONS))](part.x)


def residual(part: Part) -> Any:
    return part.x + part.earlier()


def joined(part: Part) -> Any:
    """Channels of two values, each other one if there would be too many."""
    both = jnp.concatenate([part.x, part.earlier()], -1)
    return both[..., :: 2 if both.shape[-1] > 48 or part.maybe() else 1]


def scaled(part: Part) -> Any:
    return part.x * part.numbers(part.channels)


def shifted(part: Part) -> Any:
    return part.numbers(part.channels) - part.x


def gated(part: Part) -> Any:
    means = part.x.mean(tuple(range(1, part.x.ndim - 1)), keepdims=True)
    return part.x * jax.nn.sigmoid(means)


def dense(part: Part) -> Any:
    return part.m(jn.dense(int(part.rng.choice([part.channels, 12]))), part.x)


def einsum(part: Part) -> Any:
    """A product whose kernel is itself a product of params."""
    kernel = part.numbers(part.channels, 3, part.channels, scale=0.5)
    return jnp.einsum("...c,ckd,k->...d", part.x, kernel, part.numbers(3))


def recurrent(part: Part) -> Any:
    """A hand-written RNN over all positions, by `lax.scan`."""
    kernel = part.numbers(part.channels, part.channels, scale=0.2)
    steps = part.x.reshape(len(part.x), -1, part.channels).swapaxes(0, 1)

    def step(carry: Any, x: Any) -> tuple[Any, Any]:
        carry = jnp.tanh(carry @ kernel + x)
        return carry, carry

    _, outputs = jax.lax.scan(step, jnp.zeros_like(steps[0]), steps)
    return outputs.swapaxes(0, 1).reshape(part.x.shape)


def repeated(part: Part) -> Any:
    kernel = part.numbers(part.channels, part.channels, scale=0.5)
    return jax.lax.fori_loop(0, 2, lambda _, x: jnp.tanh(x @ kernel), part.x)


def branched(part: Part) -> Any:
    """A condition on params, or on the input."""
    decides = part.numbers(1)[0] if part.maybe() else part.x.sum()
    return jax.lax.cond(decides > 0, lambda x: x * 2, jnp.tanh, part.x)


def moved(part: Part) -> Any:
    """The same numbers in other places."""
    turned = jnp.moveaxis(jnp.moveaxis(part.x, -1, 1) * 2, 1, -1)
    ways = jnp.flip(part.x, 1), jnp.roll(part.x, 1, axis=1), part.x.at[:, 0].set(0), turned
    return ways[part.rng.integers(len(ways))]


def computed_again(part: Part) -> Any:
    return jax.checkpoint(lambda x: jax.nn.relu(x) * 0.5)(part.x)


PARTS = [
    conv, conv, conv, grouped_conv, shared_conv, batch_norm, batch_norm, other_norm, activation,
    activation, residual, joined, scaled, shifted, gated, dense, einsum, recurrent, repeated,
    branched, moved, computed_again,
]  # fmt: skip


def ending(m: Any, rng: np.random.Generator, x: Any) -> Any:
    """The form of a result: an array, a tree, or the best of some scores."""
    kind = rng.integers(4)
    if kind == 0:
        return m(jn.dense(7), x.reshape(len(x), -1))
    if kind == 1:
        return {"values": x, "more": (x.mean(), jnp.sort(x, axis=-1))}
    if kind == 2:
        means = x.mean(tuple(range(1, x.ndim - 1)))
        return jax.lax.top_k(m(jn.dense(9), means), 3)[0]
    return x


def random_net(seed: int, kind: str) -> jn.Layer:
    """A net of 3 to 10 random parts, for inputs of a kind."""

    def net(m: Any, inputs: Any) -> Any:
        rng = np.random.default_rng(seed)  # the same in each call
        x = inputs
        if kind == "words":
            x = m(jn.embedding(VOCABULARY, 8), inputs)
        if kind == "tree":
            vector = inputs["vector"][:, None, None]
            x = inputs["image"] * vector + m(jn.dense(8), vector)
        values: list = []
        for number in range(int(rng.integers(3, 11))):
            write = PARTS[rng.integers(len(PARTS))]
            x = write(Part(m, rng, f"part_{number}", x, values))
            values.append(x)
        return ending(m, rng, x)

    return jn.compose(net)


def random_input(seed: int, kind: str) -> Any:
    """A small batch: arrays of 8 channels, or words."""
    rng = np.random.default_rng(seed)
    batch = int(rng.choice([1, 2, 3, 8]))

    def normal(axes: int) -> jax.Array:
        sizes = (int(size) for size in rng.integers(4, 10, axes))
        return jnp.asarray(rng.normal(size=(batch, *sizes, 8)), jnp.float32)

    if kind == "words":
        return jnp.asarray(rng.integers(0, VOCABULARY, (batch, 6)), jnp.int32)
    if kind == "tree":
        return {"image": normal(2), "vector": normal(0)}
    return normal(KINDS.index(kind) + 1)


def made(net: jn.Layer, x: Any, seed: int = 0) -> tuple[Any, Any]:
    """Params and state with norms as after training."""
    params, state = net.init(jax.random.key(seed), x)
    rng = np.random.default_rng(seed)

    def trained(path: Any, leaf: jax.Array) -> jax.Array:
        if leaf.ndim != 1:
            return leaf
        name = jax.tree_util.keystr(path)
        numbers = rng.uniform(0.5, 2, leaf.shape) if "var" in name else rng.normal(size=leaf.shape)
        return jnp.asarray(numbers, leaf.dtype)

    return tuple(jax.tree_util.tree_map_with_path(trained, tree) for tree in (params, state))
