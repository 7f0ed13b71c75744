"""Both lowerings compute the same, and compiled CPU programs contain fast forms only."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxnet as jn
from jaxnet.ops.convolution import convolve
from jaxnet.ops.convolution_lowering import Form, accelerator, cpu
from tests.helpers import close, compiled
from tests.ops.test_convolution import CASES, oracle, random


@pytest.mark.fast_cases(
    "1-strides, dilation", "1-large strides", "1-rows of y", "1-wide window", "2-wide window"
)
@pytest.mark.parametrize("x_shape, w_shape, options", CASES)
@pytest.mark.parametrize("many", [1, 2])
def test_each_platform_computes_the_same(x64, x_shape, w_shape, options, many):
    axes = (1,) * (len(x_shape) - 2)
    defaults = dict(dilation=axes, input_dilation=axes, groups=1)
    form = Form(**(defaults | options), inputs=x_shape[1:-1], window=w_shape[:-2])
    y_shape = (x_shape[0], *form.outputs, w_shape[-1])
    x, w, y = random((many, *x_shape), (many, *w_shape), (many, *y_shape))

    @partial(jax.jit, static_argnums=0)
    def everything(run, x, w, y):
        operands = {"y": (x, w), "x": (w, y), "w": (x, y)}
        return {wanted: run(*two, wanted=wanted, form=form) for wanted, two in operands.items()}

    close(everything(cpu, x, w, y), everything(accelerator, x, w, y), 1e-10)


# Inside loops XLA on CPU does not convert slow forms, so all must be in the fast form there.


def training_step(conv):
    """Forms of all kinds: strides, blocks, dilation, 1x1 and a plain one."""

    def loss(params, x):
        a, b, c, d = params.values()
        y = jnp.tanh(conv(x, a, strides=(2, 2), padding=((1, 1), (0, 1))))
        y = jnp.tanh(conv(y, b, strides=(1, 1), padding=((1, 1), (1, 1))))
        y = jnp.tanh(conv(y, c, strides=(1, 1), padding=((2, 2), (2, 2)), dilation=(2, 2)))
        return (conv(y, d, strides=(2, 2), padding=((0, 0), (0, 0))) ** 2).sum()

    def step(params, x):
        gradient = jax.grad(loss)(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    return step


LOOPS = {
    "alone": lambda step, p, x: step(p, x),
    "inner jit": lambda step, p, x: jax.jit(step)(jax.jit(step)(p, x), x),
    "scan": lambda step, p, x: lax.scan(lambda p, _: (step(p, x), None), p, None, length=3)[0],
    "while": lambda step, p, x: lax.while_loop(lambda p: p["a"].sum() < 3, lambda p: step(p, x), p),
    "cond": lambda step, p, x: lax.cond(x.sum() > 0, step, lambda p, x: p, p, x),
}


ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="shows programs for CPU")


def forms_in(run, *args) -> list[str]:
    """The convolutions of the compiled program, as XLA writes them."""
    return re.findall(r" convolution\(.*", compiled(run, *args).as_text())


def canonical(form: str) -> bool:
    return "dim_labels=b01f_01io->b01f" in form and "rhs_reversal" not in form


def step_arguments():
    shapes = {"a": (3, 3, 20, 24), "b": (3, 5, 24, 5), "c": (3, 3, 5, 24), "d": (1, 1, 24, 20)}
    params = {name: jnp.full(shape, 0.01) for name, shape in shapes.items()}
    return params, jnp.ones((2, 8, 6, 20))


@pytest.mark.fast_cases("cond", "scan")
@ON_CPU
@pytest.mark.parametrize("loop", LOOPS)
def test_compiled_convolutions_are_canonical(convolutions_by_xla, loop):
    found = forms_in(partial(LOOPS[loop], training_step(convolve)), *step_arguments())
    # Three values, two gradients of inputs and one of a kernel; the others are no convolutions.
    assert len(found) >= 6 and all(map(canonical, found)), "\n".join(found)


@pytest.mark.slow
@ON_CPU
def test_compiled_convolutions_are_canonical_in_remat_and_forward_mode(convolutions_by_xla):
    def run(params, x):
        def remade(x, w, **options):
            return jax.checkpoint(partial(convolve, **options))(x, w)

        def step(params):
            return training_step(remade)(params, x)

        def tangent(params, _):
            _, moved = jax.jvp(step, (params,), (params,))
            return moved, None

        final, _ = lax.scan(tangent, params, None, length=2)
        return final

    found = forms_in(run, *step_arguments())
    assert len(found) >= 11 and all(map(canonical, found)), "\n".join(found)


@ON_CPU
def test_the_check_sees_what_jax_does_by_itself():
    found = forms_in(partial(LOOPS["scan"], training_step(oracle)), *step_arguments())
    assert not all(map(canonical, found))


@pytest.mark.slow
@ON_CPU
def test_a_training_step_passes_over_memory_few_times(convolutions_by_xla):
    """XLA computes cheap operations again for each use unless the forms here prevent it."""

    def block():
        return jn.serial(jn.conv(16, 3), jn.batch_norm(), jax.nn.relu)

    net = jn.serial(block(), block(), jn.max_pool(2), jn.conv(16, 3))
    x = jn.spec((64, 32, 32, 16))
    params, state = net.init(jax.random.key(0), x)

    def loss(params, x):
        return jnp.square(net.apply(params, state, x, train=True)[0]).sum()

    cost = compiled(jax.grad(loss), params, x).cost_analysis()
    # 55 sizes of x; more with x less its mean as an array, and with pooling axis by axis.
    assert cost["bytes accessed"] < 64 * x.size * x.dtype.itemsize
