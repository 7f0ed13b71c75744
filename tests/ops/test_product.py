"""Products with kernels, biases and tables: plain formulas, and sums of gradients in float32."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.ops.product import add_bias, broadcast, product, rows
from jaxnet.services.nodes import materialized
from jaxnet.transforms.adapt import Adapted
from jaxnet.transforms.integers import Quantized
from tests.helpers import refused

RNG = np.random.default_rng(0)
NARROW = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])


@pytest.mark.parametrize(("shape", "kernel", "inputs"), [
    ((2, 5, 3), (3, 4, 6), 1), ((2, 5, 3, 4), (3, 4, 6), 2), ((3,), (3, 2), 1),
])  # fmt: skip
def test_products_are_those_of_tensordot(shape, kernel, inputs):
    x = RNG.normal(size=shape)
    w = RNG.normal(size=kernel)
    found = jax.jit(product, static_argnums=2)(x, w, inputs)
    np.testing.assert_allclose(found, np.tensordot(x, w, inputs), 1e-5, 1e-5)


def test_both_summands_may_broadcast():
    a = np.arange(6.0).reshape(2, 1, 3)
    b = np.arange(4.0)[:, None]
    np.testing.assert_array_equal(jax.jit(add_bias)(a, b), a + b)
    assert add_bias(a, None) is a


@refused([
    (lambda x, w: product(x, w, transposed=True), r"x \(2, 3\) does not fit the kernel \(3, 4\)"),
    (lambda x, w: product(x, w, 0), "inputs must be at least 1, got 0"),
    (lambda x, w: product(jn.spec((2, 3)), w), r"product: x must be a JAX or NumPy array"),
    (lambda x, w: rows(w, x), "rows: ids must hold integers, got float32"),
], (TypeError, ValueError))  # fmt: skip
def test_what_does_not_fit_is_named(call):
    call(jnp.ones((2, 3)), jnp.ones((3, 4)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int32", "uint8"])
def test_rows_out_of_range_are_nan_whatever_the_table_holds(dtype):
    table = jnp.arange(6).reshape(3, 2).astype(dtype)
    found = rows(table, jnp.array([[2, -1], [3, 0]]))
    assert found.dtype == (dtype if "float" in dtype else "float32")
    wanted = [[[4, 5], [np.nan] * 2], [[np.nan] * 2, [0, 1]]]
    np.testing.assert_array_equal(found.astype(jnp.float32), wanted)


def test_rows_of_integers_are_float32_in_double_precision_too(x64):
    assert rows(jnp.arange(3), jnp.array([2, 7])).dtype == "float32"


def test_rows_of_a_table_of_one_axis_are_numbers():
    found = rows(jnp.arange(3), jnp.array([2, 0, 3]))
    np.testing.assert_array_equal(found, [2, 0, np.nan])
    of_numpy = np.arange(3.0, dtype=np.float32)
    assert rows(of_numpy, jnp.array([2, 0])).tolist() == [2, 0]


@NARROW
@pytest.mark.parametrize(("function", "shape"), [
    (lambda a: add_bias(jnp.zeros((30, 400, 3), a.dtype), a), (3,)),
    (lambda a: broadcast(a, (12_000, 3)), (3,)),
    (lambda a: rows(a, jnp.zeros(12_000, jnp.int32)), (2, 3)),
    (lambda a: product(jnp.ones((30, 400, 2), a.dtype), a), (2, 3)),
], ids=["plus", "spread", "rows", "product"])  # fmt: skip
def test_gradients_are_summed_in_float32(function, shape, dtype):
    found = jax.jit(jax.grad(lambda a: function(a).sum()))(jnp.ones(shape, dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(np.float32(found)[0], 12_000, rtol=0.004)


def test_the_rows_of_a_table_are_read_as_they_are():
    """A table in 16 bits becomes one in float32 only for its gradient."""
    table = jn.spec((2**16, 8), jnp.bfloat16)
    ids = jn.spec((3,), jnp.int32)

    def gradient(table, ids):
        return jax.value_and_grad(lambda table: rows(table, ids).sum())(table)

    assert "65536x8xf32" not in jax.jit(rows).lower(table, ids).as_text()
    assert "65536x8xf32" in jax.jit(gradient).lower(table, ids).as_text()


def test_the_tangent_of_a_row_out_of_range_is_0():
    ones = jnp.ones((2, 3))
    _, tangent = jax.jvp(lambda table: rows(table, jnp.array([1, 9])), [ones], [ones])
    assert tangent.tolist() == [[1] * 3, [0] * 3]


def test_no_copy_in_float32_of_an_activation_is_kept():
    """What a step of a net in bfloat16 holds between its passes has 16 bits."""
    net = jn.serial(jn.dense(64), jax.nn.gelu, jn.dense(64), jax.nn.gelu, jn.dense(1))
    net = jn.cast(net, jnp.bfloat16)
    x = jn.spec((8192, 64), jnp.bfloat16)
    params, state = jax.eval_shape(net.init, jax.random.key(0), x)

    def total(params, x):
        y, _ = net.apply(params, state, x)
        return y.astype(jnp.float32).sum()

    def pulled(params, x):
        return jax.vjp(lambda params: total(params, x), params)

    _, pull = jax.eval_shape(pulled, params, x)
    for kept in jax.tree.leaves(pull):
        assert kept.dtype != jnp.float32 or kept.size < 8192 * 64


def floats(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def integers(shape, scale, low=-127, high=128, dtype=jnp.int8):
    numbers = jnp.asarray(RNG.integers(low, high, shape), dtype)
    return Quantized(numbers, abs(floats(*scale)), jnp.dtype("float32"))


FORMS = {
    "int8": lambda: integers((6, 4), (1, 4)),
    "groups": lambda: integers((6, 4), (3, 4)),
    "int4": lambda: integers((6, 2), (1, 4), 0, 256, jnp.uint8),
    "lora": lambda: Adapted(floats(6, 4), floats(6, 2), floats(2, 4), 0.5),
    "qlora": lambda: Adapted(integers((6, 4), (1, 4)), floats(6, 2), floats(2, 4), 0.5),
    "table": lambda: integers((6, 4), (6, 1)),
    "lora of a table": lambda: Adapted(integers((6, 4), (6, 2)), floats(6, 2), floats(2, 4), 0.5),
}


@pytest.mark.fast_cases("groups", "int8", "lora of a table")
@pytest.mark.parametrize("form", FORMS)
def test_products_and_rows_are_those_of_the_array(form):
    kernel = FORMS[form]()
    whole = np.asarray(materialized(kernel), np.float64)
    assert whole.shape == kernel.shape == (6, 4)
    assert kernel.dtype == jnp.float32
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3)
    x, wide = floats(3, 6), floats(3, 4)
    close(product(x, kernel), x @ whole)
    close(product(wide, kernel, transposed=True), wide @ whole.T)
    found = np.asarray(rows(kernel, jnp.array([[5, 0], [6, -1]])))
    close(found[0], whole[[5, 0]])
    assert np.isnan(found[1]).all()
    dx = jax.grad(lambda x: product(x, kernel).sum())(x)
    close(dx, np.ones((3, 4)) @ whole.T)


def test_several_axes_of_inputs():
    kernel = Adapted(integers((2, 3, 4), (1, 1, 4)), floats(2, 3, 2), floats(2, 4), 1.0)
    x = floats(5, 2, 3)
    right = np.tensordot(x, materialized(kernel), 2)
    np.testing.assert_allclose(product(x, kernel, 2), right, rtol=1e-4, atol=1e-3)


def test_arrays_of_another_byte_order_are_read():
    x = np.arange(6.0).reshape(2, 3)
    kernel = np.arange(12.0).reshape(3, 4)
    swapped_x = x.astype(">f4")
    swapped_kernel = kernel.astype(">f4")
    ids = np.array([2, 0], ">i4")
    np.testing.assert_allclose(product(swapped_x, swapped_kernel), x @ kernel)
    np.testing.assert_allclose(rows(swapped_kernel, ids), kernel[[2, 0]])
    np.testing.assert_allclose(add_bias(swapped_x, swapped_x[0]), x + x[0])
    stored = Quantized(jnp.ones((3, 4), jnp.int8), jnp.ones((3, 1)), jnp.dtype("float32"))
    np.testing.assert_allclose(rows(stored, ids), np.ones((2, 4)))


@pytest.mark.fast_cases("float32-float32", "bfloat16-float32", "bfloat16-bfloat16", "float32-int8")
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("dtype", ["uint8", "bfloat16", "float32"])
def test_the_number_of_rows_changes_neither_dtype_nor_values(kind, dtype):
    """A kernel of so many numbers takes another way for one row than for sixteen."""
    net = jn.dense(256, use_bias=False)
    params = {"kernel": jnp.asarray(RNG.normal(size=(256, 256)), jnp.float32)}
    x = RNG.integers(0, 3, (16, 256)).astype(jnp.dtype(dtype))
    x = jax.device_put(x)
    if kind.startswith("int"):
        net = jn.quantized(net, int(kind[3:]))
        params = jn.quantize(net, params, x)
    else:
        params = jax.tree.map(lambda a: a.astype(kind), params)
    run = jax.jit(lambda x: net.apply(params, {}, x)[0])
    whole = run(x)
    alone = run(x[:1])
    assert whole.dtype == alone.dtype
    assert jnp.issubdtype(whole.dtype, jnp.floating)
    error = np.abs(np.asarray(whole[:1] - alone, np.float32)).max()
    assert error < (0.3 if whole.dtype == jnp.bfloat16 else 1e-3)


def test_ids_of_eight_bits_find_rows_of_a_large_table():
    table = jnp.arange(400.0).reshape(200, 2)
    found = rows(table, jnp.array([3, -1], jnp.int8))
    assert found[0].tolist() == [6, 7]
    assert np.isnan(found[1]).all()


def test_an_embedding_of_ids_of_eight_bits_has_all_its_rows():
    params, _ = jn.embedding(200, 2).init(jax.random.key(0), jn.spec((3,), jnp.int8))
    assert params["embedding"].shape == (200, 2)
