"""Checks of arguments: what passes, and the words of what does not."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.core import as_layer
from jaxnet.services.checks import (
    a_function,
    as_array,
    at_least,
    check_data,
    check_finite,
    check_floats,
    check_input,
    check_options,
    check_range,
    check_rank,
    is_traced,
    needs_key,
    on_host,
    one_of,
    to_device,
    within,
)
from jaxnet.services.jax_versions import enable_x64


@pytest.mark.parametrize("value", [1, np.int32(3), jnp.int32(2)], ids=repr)
def test_counts_pass(value):
    at_least("dense", "features", value)


@pytest.mark.parametrize(("value", "error", "words"), [
    (0, ValueError, "dense: features must be at least 1, got 0"),
    (2.5, TypeError, "dense: features must be an integer, got 2.5"),
    (True, TypeError, "an integer, got True"),
    ("3", TypeError, "an integer, got '3'"),
    (None, TypeError, "an integer, got None"),
    (np.array(3.0), TypeError, r"an integer, got array\(3.\)"),
    (np.ones(3, int), TypeError, r"an integer, got array\("),
], ids=repr)  # fmt: skip
def test_what_is_no_count_is_answered(value, error, words):
    with pytest.raises(error, match=words):
        at_least("dense", "features", value)


@pytest.mark.parametrize("value", [2**31, 10**30])
def test_counts_beyond_any_size_raise(value):
    with pytest.raises(ValueError, match=rf"dense: features must be below 2\*\*31, got {value}"):
        at_least("dense", "features", value)


@pytest.mark.parametrize("options", [
    {"use_bias": 1}, {"use_bias": None}, {"use_bias": jnp.array(True)}, {"kernel_init": None},
    {"bias_init": 0.5}, {"bias_init": jnp.ones(3)},
], ids=str)  # fmt: skip
def test_options_of_another_kind_raise(options):
    check_options("conv", use_bias=np.bool_(True), kernel_init=jn.initializers.zeros)
    with pytest.raises(TypeError, match=f"conv: {next(iter(options))} must be "):
        check_options("conv", **options)


@pytest.mark.parametrize(("data", "error", "words"), [
    ((), ValueError, "expected an array or a tuple of arrays"),
    ([1.0, 2.0], TypeError, r"one example per row, got 1.0 \(0\); for a list, pass np.asarray"),
    ((np.ones(3), np.ones(4)), ValueError, "the same leading dimension, got 0: 3, 1: 4"),
    ({"x": np.ones((0, 3))}, ValueError, r"at least one example, got arrays of shape \(0, 3\)"),
    ((np.array([1, np.nan, np.inf]),), ValueError, "fit/0: 2 of 3 .* the first at index 1"),
    (np.full((2, 3), np.nan), ValueError, "fit: 2 of 2 examples contain NaN or Inf"),
], ids=str)  # fmt: skip
def test_data_that_cannot_be_used_are_answered(data, error, words):
    with pytest.raises(error, match=words):
        check_data(data, "fit")


def test_data_are_counted():
    assert check_data({"x": np.ones((7, 2)), "y": (np.arange(7), jnp.ones((7, 3)))}, "fit") == 7


def test_tracers_are_recognized():
    seen = []

    def run(x):
        seen.append(is_traced({"a": x, "b": 1.0}))
        return x

    x = jnp.ones(3)
    jax.jit(run)(x), jax.vmap(run)(x), jax.grad(lambda x: run(x).sum())(x)
    jax.lax.scan(lambda c, x: (c, run(x)), 0, x)
    assert all(seen) and len(seen) >= 4
    assert not is_traced({"a": x, "b": np.ones(2), "c": 1.0, "d": jax.random.key(0)})


@pytest.mark.parametrize("value", [0, 0.0, 0.999, np.float32(0.5), jnp.float32(0.5)], ids=repr)
def test_numbers_within(value):
    within("a", "rate", value, "[0, 1)")


@pytest.mark.parametrize(("value", "interval"), [
    (-0.1, "[0, 1)"), (1.0, "[0, 1)"), (0, "(0, 1]"), (1.1, "(0, 1]"), (float("nan"), "[0, inf)"),
    (float("inf"), "[0, inf)"), (np.float32("nan"), "[-inf, inf]"),
], ids=repr)  # fmt: skip
def test_numbers_outside(value, interval):
    with pytest.raises(ValueError, match=f"a: rate must be in {re.escape(interval)}, got "):
        within("a", "rate", value, interval)


@pytest.mark.parametrize(
    "value",
    ["1", None, True, [0.5], np.ones(2), 1j, np.bool_(True), np.str_("a"), jax.random.key(0)],
    ids=repr,
)
def test_what_is_no_number(value):
    with pytest.raises(TypeError, match=r"a: rate must be a number in \[0, 1\), got "):
        within("a", "rate", value, "[0, 1)")


def test_traced_numbers_pass():
    jax.jit(lambda rate: within("a", "rate", rate, "[0, 1)"))(7.0)


def test_a_number_is_no_integer_that_overflows():
    within("a", "scale", 2.0**40, "(0, inf)")
    with pytest.raises(ValueError, match=r"a: scale must be below 2\*\*31 or a float, got 1099"):
        within("a", "scale", 2**40, "(0, inf)")


def test_one_of():
    one_of("a", "mode", "b", ["b", "c"])
    with pytest.raises(ValueError, match="a: mode must be 'b', 'c' or None, got 1"):
        one_of("a", "mode", 1, ["b", "c", None])
    with pytest.raises(ValueError, match="got True"):
        one_of("a", "mode", True, [1, 2])
    with pytest.raises(ValueError, match="got array"):
        one_of("a", "mode", np.ones(2), ["b"])


def test_a_function():
    a_function("a", "f", len, "(x)")
    with pytest.raises(TypeError, match=r"a: f must be a function of \(x\), got NoneType"):
        a_function("a", "f", None, "(x)")


@pytest.mark.parametrize(("value", "form", "dtype", "error", "words"), [
    ([1.0], "(n,)", "floats", TypeError, "a: x must be a JAX or NumPy array, got list; write jnp"),
    (None, "(n,)", "floats", TypeError, "got NoneType$"),
    (np.ones(3, int), "(n,)", "floats", TypeError, r"hold floats; write x.astype.*, got int64"),
    (np.ones(3), "(n,)", "integers", TypeError, r"hold integers; .*argmax\(-1\), got float64"),
    (np.ones(3, bool), "(n,)", "integers", TypeError, "got bool"),
    (np.ones(3, complex), "(n,)", "reals", TypeError, "got complex"),
    (np.array(["a"]), "(n,)", "reals", TypeError, "got <U1"),
    (np.array([None]), "(n,)", "reals", TypeError, "got object"),
    (np.ones(3), "(batch, n)", "floats", ValueError, r"\(batch, n\), got \(3,\). Is the batch"),
    (np.ones((3, 5)), "(..., n, 4)", "floats", ValueError, r"\(..., n, 4\), got \(3, 5\)$"),
    (np.ones(4), "(..., n, 4)", "floats", ValueError, r"got \(4,\)$"),
    (np.array([-(2**31) - 1]), "(n,)", "integers", ValueError, "-2147483649, which int32 cannot"),
], ids=str)  # fmt: skip
def test_arrays_that_do_not_fit(value, form, dtype, error, words):
    with pytest.raises(error, match=words):
        as_array("a", "x", value, form, dtype)


def test_arrays_that_fit():
    x = jnp.ones((2, 3, 4))
    assert as_array("a", "x", x, "(..., n, 4)", "floats") is x
    assert as_array("a", "x", np.ones((5, 4), np.uint16), "(..., n, 4)", "reals").dtype == "float32"
    assert as_array("a", "x", np.array([200], ">i4"), "(n,)", "integers").tolist() == [200]
    assert as_array("a", "x", np.ones(3, bool), "(n,)", "reals").tolist() == [1, 1, 1]
    assert as_array("a", "x", jnp.bfloat16(3), "()", "floats").dtype == jnp.bfloat16
    jax.jit(lambda x: as_array("a", "x", x, "(n, 3, 4)", "floats"))(x)


def test_named_axes_agree():
    sizes: dict = {}
    as_array("a", "boxes", np.ones((2, 3, 5, 4)), "(..., n, 4)", "floats", sizes)
    as_array("a", "scores", np.ones((2, 3, 5)), "(..., n)", "floats", sizes)
    with pytest.raises(ValueError, match=r"a: scores must have shape .* with n = 5, got \(2, 3, 6"):
        as_array("a", "scores", np.ones((2, 3, 6)), "(..., n)", "floats", sizes)
    with pytest.raises(ValueError, match=r"with ... = \(2, 3\), got \(3, 5\)"):
        as_array("a", "scores", np.ones((3, 5)), "(..., n)", "floats", sizes)


def test_wide_integers_move_or_are_answered():
    assert to_device("a", "y", np.array([2**31 - 1])).tolist() == [2**31 - 1]
    with pytest.raises(ValueError, match="a: y hold 4294967297, which int32 cannot hold"):
        to_device("a", "y", np.array([1, 2**32 + 1]))
    with enable_x64(True):
        assert to_device("a", "y", np.array([2**32 + 1])).tolist() == [2**32 + 1]


def test_floats_only():
    check_floats("a", jn.spec((3,), jnp.bfloat16))
    with pytest.raises(TypeError, match="a: expected an input of floats, got uint8"):
        check_floats("a", jn.spec((3,), jnp.uint8))


def test_a_missing_batch_axis():
    wanted = (
        r"dense: expected an input of shape \(batch, ..., features\), got \(5,\). "
        r"Is the batch axis missing\? For a single example, pass x\[None\]"
    )
    with pytest.raises(ValueError, match=wanted):
        check_rank("dense", jn.spec((5,)), 2)
    check_rank("dense", jn.spec((3, 5)), 2)
    check_rank("dense", jnp.ones((2, 3, 5)), 2)


def test_ids():
    check_range(jnp.array([0, 4]), 5, "ids")
    check_range(jnp.zeros((0,), int), 5, "ids")
    for wrong in (5, -1):
        with pytest.raises(ValueError, match=rf"ids must be in \[0, 5\), got {wrong}"):
            check_range(jnp.array([0, wrong]), 5, "ids")
    jax.jit(lambda ids: check_range(ids, 5, "ids"))(jnp.array([7]))  # values are not known


def test_a_missing_key():
    with pytest.raises(ValueError, match=r"a: needs a key in training. Pass one, as in net.apply"):
        needs_key(None, "a")
    key = jax.random.key(0)
    assert needs_key(key, "a") is key


@pytest.mark.parametrize(("value", "dtype", "error", "words"), [
    (None, "reals", TypeError, r"a: x must be an array of shape \(n, 2\), got NoneType"),
    ("ab", "reals", TypeError, "an array of shape .*, got str"),
    ([[1, 2], [3]], "reals", TypeError, "an array of shape .*, got list"),
    ([["a", "b"]], "reals", TypeError, "an array of shape .*, got list"),
    (np.array([["a", "b"]]), "reals", TypeError, "a: x must hold real numbers, got <U1"),
    ([[1, 2.5]], "integers", TypeError, "a: x must hold integers; .*, got float64"),
    ([1, 2], "reals", ValueError, r"a: x must have shape \(n, 2\), got \(2,\)"),
    ([[1, 2j]], "reals", TypeError, "got complex128"),
    (jax.random.key(0), "reals", TypeError, "got "),
], ids=str)  # fmt: skip
def test_arrays_on_the_host_that_do_not_fit(value, dtype, error, words):
    with pytest.raises(error, match=words):
        on_host("a", "x", value, "(n, 2)", dtype)


def test_arrays_on_the_host_that_fit():
    for value in ([[True, 2]], np.ones((1, 2), ">i2"), jnp.ones((1, 2), jnp.bfloat16)):
        assert on_host("a", "x", value, "(n, 2)").dtype == np.float64
    assert on_host("a", "x", [[1, 2]], "(n, 2)", "integers").dtype == np.int64
    assert on_host("a", "x", [], "(n,)", "integers").shape == (0,)
    with pytest.raises(TypeError, match="a: x must be an array .*got DynamicJaxprTracer"):
        jax.jit(lambda x: on_host("a", "x", x))(1.0)


@pytest.mark.parametrize("value", [None, 3, "a", (jn.dense(3),)], ids=repr)
def test_what_is_no_layer(value):
    with pytest.raises(TypeError, match=r"a: net must be a layer, such as jn.dense\(3\), got "):
        as_layer(value, "a", "net")
    assert as_layer(layer := jn.dense(3)) is layer


def test_inputs_as_shapes():
    assert check_input("a", [np.ones(3, np.float32)]) == [jn.spec((3,))]


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_rows_must_be_finite(make):
    rows = np.ones((4, 2, 3), np.float32)
    check_finite("a", make(rows))
    check_finite("a", make(rows.astype(int)))
    check_finite("a", make(rows[:, :0]))
    rows[1, 0, 2], rows[3, 1, 1] = np.nan, np.inf
    with pytest.raises(ValueError, match="a: 2 of 4 rows contain NaN or Inf, the first at index 1"):
        check_finite("a", make(rows), "rows")


@pytest.mark.parametrize(("init", "words"), [
    (lambda key, shape, dtype: jnp.zeros(3), r"must return .* of shape \(4, 3\), got \(3,\) "),
    (lambda key, shape, dtype: None, r"must return an array of shape \(4, 3\), got NoneType"),
    (lambda key, shape, dtype: 0.0, r"must return an array of shape \(4, 3\), got float"),
])  # fmt: skip
def test_an_initializer_gives_the_shape_it_got(init, words):
    with pytest.raises(ValueError, match=f"dense: the initializer of 'kernel' {words}"):
        jn.dense(3, kernel_init=init).init(jax.random.key(0), jn.spec((2, 4)))


@pytest.mark.parametrize(("layer", "shape", "what"), [
    (jn.dense(3, kernel_init=lambda: 0.0), (2, 4), "'kernel' of dense"),
    (jn.dense(3, bias_init=lambda: 0.0), (2, 4), "'bias' of dense"),
    (jn.conv(3, (3, 3), kernel_init=lambda: 0.0), (2, 4, 4, 1), "'kernel' of conv"),
    (jn.batch_norm(scale_init=lambda: 0.0), (2, 4), "'scale' of batch_norm"),
])  # fmt: skip
def test_an_initializer_that_fails_is_named(layer, shape, what):
    with pytest.raises(TypeError) as error:
        layer.init(jax.random.key(0), jn.spec(shape))
    assert f"in the initializer of {what}, which gets (key, shape, dtype)" in error.value.__notes__
