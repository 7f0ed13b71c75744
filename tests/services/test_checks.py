"""Checks of arguments: what passes, and the words of what does not."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.core import as_layer
from jaxnet.core.contract import child_key
from jaxnet.services import checks
from jaxnet.services.checks import as_array, at_least, check_data, on_host, within
from jaxnet.services.jax_versions import enable_x64
from tests.helpers import KEY, refused, refuses

X = jnp.ones(3)


@pytest.mark.parametrize("value", [1, np.int32(3), jnp.int32(2)], ids=repr)
def test_counts_pass(value):
    at_least("dense", "features", value)


@refused([
    (0, "dense: features must be at least 1, got 0"),
    (2**31, r"dense: features must be below 2\*\*31, got 2147483648"),
    (10**30, r"dense: features must be below 2\*\*31, got 10000"),
    (2.5, TypeError, "dense: features must be an integer, got 2.5"),
    (True, TypeError, "an integer, got True"),
    ("3", TypeError, "an integer, got '3'"),
    (np.array(3.0), TypeError, r"an integer, got array\(3.\)"),
    (np.ones(3, int), TypeError, r"an integer, got array\("),
])  # fmt: skip
def test_what_is_no_count_is_answered(value):
    at_least("dense", "features", value)


@pytest.mark.parametrize("options", [
    {"use_bias": 1}, {"use_bias": jnp.array(True)}, {"kernel_init": None},
], ids=str)  # fmt: skip
def test_options_of_another_kind_raise(options):
    checks.check_options("conv", use_bias=np.bool_(True), kernel_init=jn.initializers.zeros)
    with pytest.raises(TypeError, match=f"conv: {next(iter(options))} must be "):
        checks.check_options("conv", **options)


@refused([
    ((), "expected an array or a tuple of arrays"),
    ([1.0, 2.0], TypeError, r"one example per row, got 1.0 \(0\); for a list, pass np.asarray"),
    ((np.ones(3), np.ones(4)), "the same leading dimension, got 0: 3, 1: 4"),
    ({"x": np.ones((0, 3))}, r"at least one example, got arrays of shape \(0, 3\)"),
    ((np.array([1, np.nan, np.inf]),), "fit/0: 2 of 3 .* the first at index 1"),
    (np.full((2, 3), np.nan), "fit: 2 of 2 examples contain NaN or Inf"),
])  # fmt: skip
def test_data_that_cannot_be_used_are_answered(data):
    check_data(data, "fit")


def test_data_are_counted():
    assert check_data({"x": np.ones((7, 2)), "y": (np.arange(7), jnp.ones((7, 3)))}, "fit") == 7


def test_tracers_are_recognized():
    seen = []

    def run(x):
        seen.append(checks.is_traced({"a": x, "b": 1.0}))
        return x

    jax.jit(run)(X), jax.vmap(run)(X), jax.grad(lambda x: run(x).sum())(X)
    jax.lax.scan(lambda c, x: (c, run(x)), 0, X)
    assert all(seen)
    assert len(seen) >= 4
    assert not checks.is_traced({"a": X, "b": np.ones(2), "c": 1.0, "d": KEY})


def test_each_type_of_tracer_raises_once(monkeypatch):
    """JAX's error says where an array comes from, for which it reads all operations before."""
    raised = []
    begin = jax.errors.ConcretizationTypeError.__init__
    monkeypatch.setattr(
        jax.errors.ConcretizationTypeError,
        "__init__",
        lambda error, *args: (raised.append(1), begin(error, *args))[1],
    )

    def run(x, key):
        for number in range(20):
            assert checks.is_traced(x)
            child_key(key, f"a{number}")
        return x

    for _ in range(2):
        jax.eval_shape(run, X, KEY)
        jax.vmap(run, (0, None))(X, KEY)
    assert len(raised) <= 4


def test_numbers_within():
    for value in (0, 0.999, np.float32(0.5), jnp.float32(0.5)):
        within("a", "rate", value, "[0, 1)")
    within("a", "scale", 2.0**40, "(0, inf)")
    jax.jit(lambda rate: within("a", "rate", rate, "[0, 1)"))(7.0)  # its value is not known


@pytest.mark.parametrize(("value", "interval"), [
    (-0.1, "[0, 1)"), (1.0, "[0, 1)"), (0, "(0, 1]"), (float("inf"), "[0, inf)"),
    (np.float32("nan"), "[-inf, inf]"),
], ids=repr)  # fmt: skip
def test_numbers_outside(value, interval):
    with pytest.raises(ValueError, match=f"a: rate must be in {re.escape(interval)}, got "):
        within("a", "rate", value, interval)


@pytest.mark.parametrize("value", ["1", True, [0.5], 1j, KEY], ids=repr)
def test_what_is_no_number(value):
    with pytest.raises(TypeError, match=r"a: rate must be a number in \[0, 1\), got "):
        within("a", "rate", value, "[0, 1)")


@refused([
    ([1.0], "(n,)", "floats", TypeError, "a: x must be a JAX or NumPy array, got list; write jnp"),
    (None, "(n,)", "floats", TypeError, "got NoneType$"),
    (np.ones(3, int), "(n,)", "floats", TypeError, r"hold floats; write x.astype.*, got int64"),
    (np.ones(3), "(n,)", "integers", TypeError, r"hold integers; .*argmax\(-1\), got float64"),
    (np.ones(3, bool), "(n,)", "integers", TypeError, "got bool"),
    (np.ones(3, complex), "(n,)", "reals", TypeError, "got complex"),
    (np.array([None]), "(n,)", "reals", TypeError, "got object"),
    (np.ones(3), "(batch, n)", "floats", r"\(batch, n\), got \(3,\). Is the batch"),
    (np.ones((3, 5)), "(..., n, 4)", "floats", r"\(..., n, 4\), got \(3, 5\)$"),
    (np.ones(4), "(..., n, 4)", "floats", r"got \(4,\)$"),
    (np.array([-(2**31) - 1]), "(n,)", "integers", "-2147483649, which int32 cannot"),
])  # fmt: skip
def test_arrays_that_do_not_fit(value, form, dtype):
    as_array("a", "x", value, form, dtype)


def test_arrays_that_fit():
    x = jnp.ones((2, 3, 4))
    assert as_array("a", "x", x, "(..., n, 4)", "floats") is x
    assert as_array("a", "x", np.ones((5, 4), np.uint16), "(..., n, 4)", "reals").dtype == "float32"
    assert as_array("a", "x", np.array([200], ">i4"), "(n,)", "integers").tolist() == [200]
    assert as_array("a", "x", np.ones(3, bool), "(n,)", "reals").tolist() == [1, 1, 1]
    assert as_array("a", "x", jnp.bfloat16(3), "()", "floats").dtype == jnp.bfloat16
    jax.jit(lambda x: as_array("a", "x", x, "(n, 3, 4)", "floats"))(x)


def test_a_spent_array_is_explained_once():
    error = RuntimeError("Array has been deleted with shape=float32[3].")
    checks.explain_spent(error), checks.explain_spent(error)
    assert len(error.__notes__) == 1


def test_named_axes_agree():
    sizes: dict = {}
    as_array("a", "boxes", np.ones((2, 3, 5, 4)), "(..., n, 4)", "floats", sizes)
    as_array("a", "scores", np.ones((2, 3, 5)), "(..., n)", "floats", sizes)
    with pytest.raises(ValueError, match=r"a: scores must have shape .* with n = 5, got \(2, 3, 6"):
        as_array("a", "scores", np.ones((2, 3, 6)), "(..., n)", "floats", sizes)
    with pytest.raises(ValueError, match=r"with ... = \(2, 3\), got \(3, 5\)"):
        as_array("a", "scores", np.ones((3, 5)), "(..., n)", "floats", sizes)


def test_what_fits_passes():
    checks.one_of("a", "mode", "b", ["b", "c"])
    checks.check_values("a", "p", np.array([-1e-7, 1 + 1e-7]), "[0, 1]", rounding=1e-6)
    checks.a_function("a", "f", len, "(x)")
    checks.check_floats("a", jn.spec((3,), jnp.bfloat16))
    for fits in (jn.spec((3, 5)), jnp.ones((2, 3, 5))):
        checks.check_rank("dense", fits, 2)
    for ids in (jnp.array([0, 4]), jnp.zeros((0,), int)):
        checks.check_range(ids, 5, "ids")
    jax.jit(lambda ids: checks.check_range(ids, 5, "ids"))(jnp.array([7]))  # values are not known
    assert as_layer(layer := jn.dense(3)) is layer
    assert checks.check_input("a", [np.ones(3, np.float32)]) == [jn.spec((3,))]
    assert checks.to_device("a", "y", np.array([2**31 - 1])).tolist() == [2**31 - 1]
    with enable_x64(True):
        assert checks.to_device("a", "y", np.array([2**32 + 1])).tolist() == [2**32 + 1]


NO_BATCH = (
    r"dense: expected an input of shape \(batch, ..., features\), got \(5,\). "
    r"Is the batch axis missing\? For a single example, pass x\[None\]"
)


test_what_does_not_raises = refuses([
    (lambda: within("a", "scale", 2**40, "(0, inf)"),
     r"a: scale must be below 2\*\*31 or a float, got 1099"),
    (lambda: within("a", "scale", -(2**40), "(-inf, inf)"), "below 2.*31 or a float, got -1099"),
    (lambda: checks.check_list("a", "names", np.array("b"), "str"), TypeError, "got ndarray"),
    (lambda: checks.a_function("a", "f", jn.dense(3), "(x)"), TypeError, "got Layer"),
    (lambda: checks.one_of("a", "mode", 1, ["b", "c", None]),
     "a: mode must be 'b', 'c' or None, got 1"),
    (lambda: checks.one_of("a", "mode", True, [1, 2]), "got True"),
    (lambda: checks.one_of("a", "mode", np.ones(2), ["b"]), "got array"),
    (lambda: checks.a_function("a", "f", None, "(x)"), TypeError,
     r"a: f must be a function of \(x\), got NoneType"),
    (lambda: checks.a_function("a", "f", lambda: 0, "(x)"), TypeError,
     r"a: f must be a function of \(x\), got one of \(\)"),
    (lambda: checks.a_function("a", "f", lambda x: x, "(x, *, key=None)"), TypeError,
     r"of \(x, \*, key=None\), got one of \(x\)"),
    (lambda: checks.all_native({"kernel": b"abc"}, "a", "params"), TypeError,
     "a: params must hold numbers that JAX has, got dtype .S3"),
    (lambda: checks.to_device("a", "y", np.array([1, 2**32 + 1])),
     "a: y hold 4294967297, which int32 cannot hold"),
    (lambda: checks.to_device("a", "y", np.array([np.inf, -1e300])),
     r"a: y hold -1e\+300, which float32 cannot hold"),
    (lambda: checks.check_floats("a", jn.spec((3,), jnp.uint8)), TypeError,
     "a: expected an input of floats, got uint8"),
    (lambda: checks.check_rank("dense", jn.spec((5,)), 2), NO_BATCH),
    (lambda: checks.check_range(jnp.array([0, 5]), 5, "ids"), r"in \[0, 5\), got 5"),
    (lambda: checks.check_range(jnp.array([0, -1]), 5, "ids"), "ids must .*got -1"),
    (lambda: as_layer((jn.dense(3),), "a", "net"), TypeError,
     r"a: net must be a layer, such as jn.dense\(3\), got "),
    (lambda: jax.jit(lambda x: on_host("a", "x", x))(1.0), TypeError,
     "a: x is traced by JAX, but a computes in NumPy and has no derivatives"),
])  # fmt: skip


@refused([
    (None, "reals", TypeError, r"a: x must be an array of shape \(n, 2\), got NoneType"),
    ([[1, 2], [3]], "reals", TypeError, "an array of shape .*, got list"),
    (np.array([["a", "b"]]), "reals", TypeError, "a: x must hold real numbers, got <U1"),
    ([[1, 2.5]], "integers", TypeError, "a: x must hold integers; .*, got float64"),
    ([1, 2], "reals", r"a: x must have shape \(n, 2\), got \(2,\)"),
    ([[1, 2j]], "reals", TypeError, "got complex128"),
    (KEY, "reals", TypeError, "got "),
])  # fmt: skip
def test_arrays_on_the_host_that_do_not_fit(value, dtype):
    on_host("a", "x", value, "(n, 2)", dtype)


def test_arrays_on_the_host_that_fit():
    for value in ([[True, 2]], np.ones((1, 2), ">i2"), jnp.ones((1, 2), jnp.bfloat16)):
        assert on_host("a", "x", value, "(n, 2)").dtype == np.float64
    assert on_host("a", "x", [[1, 2]], "(n, 2)", "integers").dtype == np.int64
    assert on_host("a", "x", [], "(n,)", "integers").shape == (0,)


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_rows_must_be_finite(make):
    rows = np.ones((4, 2, 3), np.float32)
    for fine in (rows, rows.astype(int), rows[:, :0]):
        checks.check_finite("a", make(fine))
    rows[1, 0, 2], rows[3, 1, 1] = np.nan, np.inf
    with pytest.raises(ValueError, match="a: 2 of 4 rows contain NaN or Inf, the first at index 1"):
        checks.check_finite("a", make(rows), "rows")


@pytest.mark.parametrize(("init", "words"), [
    (lambda key, shape, dtype: jnp.zeros(3), r"must return .* of shape \(4, 3\), got \(3,\) "),
    (lambda key, shape, dtype: None, r"must return an array of shape \(4, 3\), got NoneType"),
])  # fmt: skip
def test_an_initializer_gives_the_shape_it_got(init, words):
    with pytest.raises(ValueError, match=f"dense: the initializer of 'kernel' {words}"):
        jn.dense(3, kernel_init=init).init(KEY, jn.spec((2, 4)))


@pytest.mark.parametrize(("layer", "shape", "what"), [
    (jn.dense(3, bias_init=lambda *_: len(0)), (2, 4), "'bias' of dense"),
    (jn.conv(3, (3, 3), kernel_init=lambda *_: len(0)), (2, 4, 4, 1), "'kernel' of conv"),
])  # fmt: skip
def test_an_initializer_that_fails_is_named(layer, shape, what):
    with pytest.raises(TypeError) as error:
        layer.init(KEY, jn.spec(shape))
    assert f"in the initializer of {what}, which gets (key, shape, dtype)" in error.value.__notes__


def test_times_with_a_zone_are_told_apart():
    import datetime

    noon = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
    with pytest.raises(TypeError, match=r"pd.DatetimeIndex\(times\).tz_convert\(None\)"):
        checks.check_numbers("fit", "x", np.array([noon, noon]))
