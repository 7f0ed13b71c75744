"""Operations between two convolutions keep the order in which the kernel stored its result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxnet as jn
from jaxnet.rewriting.layout import Permuted, carry, in_order, in_program_order, like, stored
from tests.helpers import compiled, equations, near
from tests.rewriting.test_bodies import FIRST, conv, max_pool

SHAPE = (2, 4, 6, 6)

KEEP = {
    "activation": lambda x: jnp.tanh(x) * 2 + x,
    "argmax": lambda x: jnp.argmax(x, 1),
    "barrier": lambda x: lax.optimization_barrier(x),
    "broadcast": lambda x: x + jnp.arange(4.0)[:, None, None],
    "clip": lambda x: jnp.clip(x, -1, 1),
    "concatenate": lambda x: jnp.concatenate([x, x[:, :2]], 1),
    "cumsum": lambda x: jnp.cumsum(x, 2),
    "flip": lambda x: x[:, :, ::-1],
    "groups": lambda x: (x.reshape(2, 2, 2, 6, 6) - x[:, :1, None]).reshape(SHAPE),
    "index": lambda x: x[:, 1:3] * 2,
    "mean": lambda x: x - x.mean((2, 3), keepdims=True),
    "pad": lambda x: jnp.pad(x, ((0, 0), (0, 1), (2, 0), (0, 0))),
    "pool": lambda x: lax.reduce_window(x, -np.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), "SAME"),
    "select": lambda x: jnp.where(x > 0, x, 0.1 * x),
    "slice": lambda x: lax.slice(x, (0, 1, 0, 0), (2, 3, 6, 6), (1, 1, 2, 1)),
    "slice at an index": lambda x: lax.dynamic_slice_in_dim(x, jnp.int32(x[0, 0, 0, 0]) % 2, 2, 1),
    "split": lambda x: jnp.split(x, 2, axis=1)[1],
    "squeeze": lambda x: jnp.squeeze(x[:, None] * 2, 1) + 1,
    "squares": lambda x: lax.rsqrt(jnp.square(x).sum(1) + 1),
    "transpose": lambda x: jnp.transpose(x, (1, 0, 2, 3)),
    "unit axes": lambda x: x[:, None] * 2,
    "update": lambda x: lax.dynamic_update_slice_in_dim(x, x[:, :1], 1, 1),
    "variance": lambda x: (
        (x - x.mean((0, 2, 3), keepdims=True)) / (1 + x.var((0, 2, 3), keepdims=True))
    ),
}


def copies(f, *args):
    """The transposes of a program that move numbers: those of axes of length 1 do not."""
    for one in equations(jax.make_jaxpr(f)(*args).jaxpr):
        if one.primitive.name == "transpose":
            sizes = one.invars[0].aval.shape
            order = [axis for axis in one.params["permutation"] if sizes[axis] > 1]
            if order != sorted(order):
                yield sizes


@pytest.mark.fast_cases("barrier", "flip", "argmax", "unit axes")
@pytest.mark.parametrize("name", KEEP)
def test_operations_keep_the_order(name):
    f = KEEP[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE), jnp.float32)
    kernel = jnp.ones((4, 4, 1, 1)) / 4

    def net(x):
        y = f(conv(x, kernel, FIRST))
        if y.ndim != 4 or y.dtype != x.dtype:
            return y
        return conv(y, jnp.ones((3, y.shape[1], 1, 1)), FIRST)

    def loss(net, x):
        return jnp.sin(net(x)).sum()

    fast = jn.accelerate(net)
    # Those of the input, the kernels and the result; XLA makes none of that of a broadcast.
    most = 4 if net(x).shape[1] == 3 else 3
    if name in ("broadcast", "groups", "transpose"):
        most += 1
    assert len(list(copies(fast, x))) <= most
    near(fast(x), net(x), 1e-5)
    near(jax.grad(loss, 1)(fast, x), jax.grad(loss, 1)(net, x), 1e-5)


def test_an_index_with_steps_computes_the_same():
    """JAX 0.7 writes it as a gather, for which the layout is not kept."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE), jnp.float32)
    kernel = jnp.ones((4, 4, 1, 1)) / 4

    def net(x):
        return conv(x, kernel, FIRST)[:, 1:3, ::2]

    fast = jn.accelerate(net)
    near(fast(x), net(x), 1e-5)
    slopes = [jax.grad(lambda x, f=f: jnp.sin(f(x)).sum())(x) for f in (fast, net)]
    near(*slopes, 1e-5)


def test_channels_first_cost_no_transposes_between_convolutions():
    """Those of the input, of each kernel and of the result are left."""

    def net(x, *kernels):
        for kernel in kernels:
            x = max_pool(jax.nn.silu(conv(x, kernel, FIRST) + 1), (2, 3))
        return x

    kernels = [jnp.ones((4, 4, 3, 3))] * 3
    moved = list(copies(jn.accelerate(net), jnp.ones((2, 4, 16, 16)), *kernels))
    assert len(moved) == 1 + len(kernels) + 1


def test_a_reshape_that_mixes_axes_is_computed_in_the_order_of_the_program():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    value = stored(jnp.transpose(x, (0, 2, 1)), (0, 2, 1))
    (eqn,) = jax.make_jaxpr(lambda x: x.reshape(2, 12))(x).eqns
    assert isinstance(value, Permuted)
    assert carry(eqn, [value]) is None


def test_values_are_stored_as_another():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    value = stored(jnp.transpose(x, (2, 0, 1)), (2, 0, 1))
    other = stored(jnp.transpose(x, (0, 2, 1)), (0, 2, 1))
    assert like(value, other).order == other.order
    assert like(value, value) is value
    for one in (value, like(value, other), like(value, x)):
        near(in_program_order(one), x, 0)
    near(in_order(value, (1, 0, 2)), jnp.transpose(x, (1, 0, 2)), 0)


def test_nets_side_by_side_cost_no_transposes():
    """The axis of `vmap` stays in front, where independent convolutions have it."""

    def net(kernels, x):
        for kernel in kernels:
            x = jax.nn.relu(conv(x, kernel))
        return x.mean()

    kernels = [jnp.ones((5, 3, 3, 4, 4))] * 3
    fast = jn.accelerate(jax.vmap(net))
    x = jnp.ones((5, 2, 8, 8, 4))
    program = compiled(jax.grad(lambda *args: fast(*args).sum()), kernels, x)
    assert " transpose(" not in program.as_text()
