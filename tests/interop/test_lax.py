"""Nets in JAX's own operations: same numbers, no primitive of ours, Taylor mode against jvp."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.jet import jet

import jaxnet as jn
from tests.catalogue import ROWS, cases, fill
from tests.helpers import close, equations

CONVOLUTIONS = [row for row in ROWS if row.id.startswith(("conv", "depthwise"))]


def drawn(row, x):
    net = row.make()
    params, state = jax.device_get(net.init(jax.random.key(0), x))
    rng = np.random.default_rng(5)
    return net, jax.tree.map(lambda a: a + rng.random(a.shape, np.float32) / 4, params), state


def primitives(net, params, state, x):
    """The primitives of a net and of all jaxprs in it."""
    jaxpr = jax.make_jaxpr(lambda p, s, x: net.apply(p, s, x)[0])(params, state, x)
    return {equation.primitive.name for equation in equations(jaxpr.jaxpr)}


@pytest.mark.fast_cases("conv_transpose", "conv_transpose-padded", "conv-strided")
@pytest.mark.parametrize("row", cases(CONVOLUTIONS))
def test_values_and_gradients_are_those_of_the_net(row, x64):
    x = fill(row, jnp.float64)
    net, params, state = drawn(row, x)

    @partial(jax.jit, static_argnums=0)
    def everything(net, params, x):
        def run(p, x):
            return net.apply(p, state, x)[0]

        def loss(p, x):
            return jnp.sin(run(p, x)).sum()

        return run(params, x), jax.grad(loss, (0, 1))(params, x)

    close(everything(net, params, x), everything(jn.interop.without_kernels(net), params, x), 1e-10)


@pytest.mark.fast_cases("adaline", "conv-video", "gru-states", "lstm", "perceptron", "rnn_cell")
@pytest.mark.parametrize("row", cases())
def test_no_primitive_of_ours_is_left(row):
    net = row.make()
    params, state = jax.eval_shape(lambda key: net.init(key, row.x), jax.random.key(0))
    ours = primitives(net, params, state, row.x)
    theirs = primitives(jn.interop.without_kernels(net), params, state, row.x)
    assert "convolution" not in theirs
    assert row not in CONVOLUTIONS or "convolution" in ours
    assert not theirs & {"jit", "custom_jvp_call", "custom_vmap_call", "remat2"}
    assert theirs - ours <= {"conv_general_dilated"}


def test_inside_a_compiled_function():
    conv = jn.conv(4, 3)
    inner = jax.jit(lambda p, x: conv.apply(p, {}, x)[0])
    net = jn.stateless(lambda key, x: conv.init(key, x)[0], inner)
    x = jnp.ones((2, 7, 3))
    params, state = net.init(jax.random.key(0), x)
    assert "convolution" in primitives(net, params, state, x)
    assert "convolution" not in primitives(jn.interop.without_kernels(net), params, state, x)


@pytest.mark.slow
@pytest.mark.parametrize("row", cases(row for row in ROWS if row.id in ("bidirectional", "hmm")))
def test_loops_compute_the_same(row):
    x = fill(row)
    net, params, state = drawn(row, x)
    run = jax.jit(lambda net, p: net.apply(p, state, x)[0], static_argnums=0)
    close(run(net, params), run(jn.interop.without_kernels(net), params))


@pytest.mark.long
def test_loops_branches_and_gradients_inside_a_net():
    """A convolution in a scan in a branch, and one gradient by x: the energy of a net."""
    conv = jn.conv(3, 3, padding="VALID")

    def energy(m, x):
        params = m.param("kernel", jn.initializers.lecun_normal(), (3, 3, 3))
        params = {"kernel": params, "bias": jnp.ones(3)}

        def run(x):
            return jnp.tanh(conv.apply(params, {}, x)[0])

        def twice(x):
            steps = jax.lax.scan(lambda x, _: (jnp.pad(run(x), ((0, 0), (1, 1), (0, 0))), 0), x, x)
            return steps[0]

        slope = jax.grad(lambda x: run(x).sum())(x)
        return jax.lax.cond(x.sum() > 0, twice, jnp.sin, x) + slope, jax.lax.while_loop(
            lambda x: x.sum() < 1, lambda x: x + jax.nn.relu(x), jnp.abs(x)
        )

    net = jn.compose(energy)
    x = jnp.linspace(-1, 1.5, 2 * 5 * 3).reshape(2, 5, 3)
    params, state = net.init(jax.random.key(0), x)
    assert {"convolution", "scan", "cond", "while"} <= primitives(net, params, state, x)
    assert "convolution" not in primitives(jn.interop.without_kernels(net), params, state, x)
    for sign in (1, -1):
        close(
            *(
                each.apply(params, state, sign * x)[0]
                for each in (net, jn.interop.without_kernels(net))
            )
        )


@pytest.mark.slow
def test_it_is_a_transform():
    net = jn.serial(jn.conv(4, 3), jn.dropout(0.5), jn.flatten(), jn.dense(3))
    plain = jn.interop.without_kernels(net)
    x = jnp.ones((2, 5, 6, 1))
    params, state = plain.init(jax.random.key(0), x)
    assert (plain.name, plain.kind, plain.inside.layer) == (net.name, "without_kernels", net)
    assert jax.tree.structure(params) == jax.tree.structure(net.init(jax.random.key(0), x)[0])
    options = {"key": jax.random.key(1), "train": True}
    close(*(each.apply(params, state, x, **options)[0] for each in (net, plain)), 1e-5, 1e-6)
    with pytest.raises(TypeError, match="without_kernels: net"):
        jn.interop.without_kernels(3)


NETS = {
    "mlp": (lambda: jn.models.mlp([7, 4], jnp.tanh), (3, 5)),
    # Rectified units are linear between their kinks: softmax gives higher derivatives.
    "lenet5": (lambda: jn.serial(jn.models.lenet5(classes=7), jax.nn.softmax), (2, 28, 28, 1)),
}


@pytest.mark.parametrize("name", ["mlp", pytest.param("lenet5", marks=pytest.mark.long)])
def test_taylor_mode_agrees_with_nested_jvp(name, x64):
    make, shape = NETS[name]
    net, rng = make(), np.random.default_rng(3)
    x, direction = (jnp.asarray(rng.normal(size=shape)) for _ in range(2))
    params, state = net.init(jax.random.key(0), x)
    params = jax.tree.map(lambda a: jnp.asarray(a + 0.1 * rng.normal(size=a.shape)), params)
    plain = jn.interop.without_kernels(net)

    def along(net):
        return lambda t: net.apply(params, state, x + t * direction)[0]

    def derivative(f):
        return lambda t: jax.jvp(f, (t,), (jnp.ones_like(t),))[1]

    @jax.jit
    def nested(t):
        first = derivative(along(net))
        second = derivative(first)
        return [first(t), second(t), derivative(second)(t)]

    @jax.jit
    def taylor(t):
        one, none = jnp.ones_like(t), jnp.zeros_like(t)
        return jet(along(plain), (t,), ([one, none, none],))

    value, series = taylor(jnp.asarray(0.3))
    np.testing.assert_allclose(value, along(net)(0.3), rtol=1e-10)
    expected = nested(jnp.asarray(0.3))
    assert np.abs(expected[2]).max() > 1e-3
    close(series, expected, 1e-7, 1e-9)
