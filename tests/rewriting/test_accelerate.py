"""What `accelerate` promises: its arguments, platforms, derivatives, and what it leaves alone."""

import jax
import jax.export
import jax.numpy as jnp
import pytest
from jax import lax

import jaxnet as jn
from jaxnet.interop.lax import OURS, evaluate
from jaxnet.services.jax_versions import enable_x64
from tests.helpers import near, traced
from tests.rewriting.test_bodies import PROGRAMS, conv, kernel_and_x, max_pool


@pytest.mark.slow
def test_other_derivatives():
    kernel, x = kernel_and_x()

    def f(scale):
        return jnp.sin(max_pool(jax.nn.relu(conv(x, scale * kernel)))).sum()

    fast = jn.accelerate(f)
    value, tangent = jax.jvp(f, (1.0,), (1.0,))
    near(jax.jit(jax.jvp, static_argnums=0)(fast, (1.0,), (1.0,)), (value, tangent), 1e-5)
    _, push = jax.linearize(fast, 1.0)
    near(push(1.0), tangent, 1e-5)
    near(jax.hessian(fast)(1.0), jax.hessian(f)(1.0), 1e-5)

    def linear(x):
        return conv(x, kernel)

    (found,) = jax.linear_transpose(jn.accelerate(linear), x)(x)
    (expected,) = jax.linear_transpose(linear, x)(x)
    near(found, expected, 1e-5)


def test_a_function_without_kernels_stays_as_it_was():
    def mlp(w, x):
        y = lax.fori_loop(0, 3, lambda _, y: jax.nn.relu(y @ w), x)
        return jax.jit(jax.nn.softmax)(y).sum()

    args = jnp.ones((3, 3)), jnp.ones((2, 3))
    assert traced(jn.accelerate(mlp), *args) == traced(mlp, *args)
    near_loss = jax.jit(jax.grad(jn.accelerate(mlp))).lower(*args).as_text()
    assert near_loss == jax.jit(jax.grad(mlp)).lower(*args).as_text()


@pytest.mark.parametrize("dtype", ["float64", "int32", "complex64"])
def test_other_dtypes_stay(dtype):
    with enable_x64(True):
        kernel, x = (jnp.asarray(a, dtype) for a in kernel_and_x())
        assert traced(jn.accelerate(conv), x, kernel) == traced(conv, x, kernel)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_a_default_backend_that_is_no_cpu_gets_the_function_itself(monkeypatch, platform):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    for f in (PROGRAMS["first"], PROGRAMS["in_scan"]):
        assert traced(jn.accelerate(f), *kernel_and_x()) == traced(f, *kernel_and_x())


@pytest.mark.fast_cases("nested_jit", "in_scan")
@pytest.mark.parametrize("name", ["first", "nested_jit", "in_scan"])
def test_lowered_for_accelerators(name):
    """The convolutions are as many as before, and the values those of the function."""

    def convolutions(f, platform):
        exported = jax.export.export(jax.jit(f), platforms=[platform])(*kernel_and_x())
        return exported.mlir_module().count("stablehlo.convolution")

    plain = jax.value_and_grad(PROGRAMS[name], (0, 1))
    fast = jax.value_and_grad(jn.accelerate(PROGRAMS[name]), (0, 1))
    for platform in ("cuda", "tpu"):
        assert convolutions(fast, platform) == convolutions(plain, platform) > 0
    program, results = jax.make_jaxpr(fast, return_shape=True)(*kernel_and_x())
    found = evaluate(program, kernel_and_x(), OURS)  # by JAX's own operations, as on an accelerator
    near(jax.tree.unflatten(jax.tree.structure(results), found), plain(*kernel_and_x()), 1e-5)


def test_flags_and_other_leaves_reach_the_function_unchanged():
    kernel, x = kernel_and_x()

    def f(params, x, train, *, activation, name="net"):
        assert train is True and params["name"] == "conv"
        return {"y": activation(conv(x, params["kernel"])), "name": name, "rate": 0.5, "no": None}

    result = jn.accelerate(f)({"kernel": kernel, "name": "conv"}, x, True, activation=jax.nn.relu)
    near(result["y"], jax.nn.relu(conv(x, kernel)), 1e-5)
    assert result["name"] == "net"
    assert result["no"] is None
    assert float(result["rate"]) == 0.5
    assert jn.accelerate(f).__name__ == "f"


def test_what_is_not_a_function_is_refused():
    with pytest.raises(TypeError, match="accelerate: f must be a function of arrays, got int"):
        jn.accelerate(3)
