"""Numerical against automatic gradients."""

import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.inspect import numerical_gradient
from jaxnet.inspect.gradients import STEP, compare
from tests.helpers import refuses

X = np.array([0.5, -0.2])  # the input of the lecture's neuron
W = np.array([-0.8, 0.3])
HERE = 7.0  # height of a function at the coordinate that is checked
TOLERANCE = 1e-4
NOISE = 100 * 2.0**-52 / STEP  # rounding of a slope at height 1


def neuron(w):
    return jax.nn.sigmoid(jnp.dot(w, X))


def exact():
    s = 1 / (1 + np.exp(0.46))  # w.x = -0.8 * 0.5 - 0.3 * 0.2
    return s * (1 - s) * X


def test_numerical_gradient_of_numpy_functions_and_any_shape():
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(numerical_gradient(lambda x: (x**2).sum(), x), 2 * x, atol=1e-8)
    assert numerical_gradient(lambda x: x**3, 2.0).shape == ()


@pytest.mark.parametrize("dtype, eps, method, best", [
    (np.float64, 1.1e-16, "forward", 1 / 2), (np.float32, 6e-8, "central", 1 / 3),
])  # fmt: skip
def test_rounding_takes_over_below_some_step(dtype, eps, method, best):
    """Below eps^best its error, about eps/h, is all that is seen."""
    steps = np.geomspace(100 * eps, eps**best / 10, 30)
    gradients = [numerical_gradient(neuron, W, h, method, dtype=dtype) for h in steps]
    errors = np.abs(np.array(gradients) - exact()).max(1)
    slope, _ = np.polyfit(np.log(steps), np.log(errors), 1)
    assert -1.2 < slope < -0.8
    assert 0.03 < np.median(errors * steps / eps) < 1


def test_numerical_gradient_in_float32():
    gradient = numerical_gradient(neuron, W, 1e-2, dtype=np.float32)
    assert gradient.dtype == np.float32
    assert 1e-8 < np.abs(gradient - exact()).max() < 1e-4
    coarse = np.abs(numerical_gradient(neuron, W, 1e-6, dtype=jnp.float32) - exact()).max()
    assert 1e-3 < coarse < 0.1  # the default step is for float64
    assert numerical_gradient(neuron, W).dtype == np.float64
    w = jnp.asarray(W, jnp.float32)  # differences of 1e-6 need float64: the function's own context
    np.testing.assert_allclose(numerical_gradient(neuron, w), exact(), atol=1e-8)


def net():
    return jn.serial(jn.dense(7), jnp.tanh, jn.batch_norm(), jn.dense(3), name="net")


@pytest.mark.fast_cases("train")
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_entries(train):
    check = jn.inspect.check_gradients(net(), jn.spec((4, 5)), train=train)
    found = [(e.path, e.size, e.checked, e.kinks) for e in check.entries]
    assert found == [
        ("params/batch_norm/bias", 7, 7, 0),
        ("params/batch_norm/scale", 7, 7, 0),
        ("params/dense/bias", 7, 7, 0),
        ("params/dense/kernel", 35, 20, 0),
        ("params/dense_1/bias", 3, 3, 0),
        ("params/dense_1/kernel", 21, 20, 0),
        ("input", 20, 20, 0),
    ]
    assert all(0 < e.error < 1e-6 for e in check.entries)
    assert all(abs(e.numeric - e.automatic) < 1e-6 for e in check.entries)
    assert any(abs(e.numeric) > 0.1 for e in check.entries)  # something was there to compare


def test_table():
    check = jn.inspect.check_gradients(jn.dense(3, name="d"), jn.spec((4, 2)), samples=5)
    lines = str(check).splitlines()
    assert lines[0] == "Gradients of d, numeric against automatic"
    assert lines[1] == "entry          size  checked  kinks  largest error"
    assert lines[4].split()[:3] == ["params/kernel", "6", "5"]
    assert lines[7].split()[:4] == ["total", "17", "13", "0"]
    assert lines[8] == "relative errors, allowed 1e-05"
    ElementTree.fromstring(check._repr_html_())


def off_by(factor):
    @jax.custom_vjp
    def square(x):
        return x**2

    def forward(x):
        return x**2, x

    def backward(x, g):
        return (2 * factor * x * g,)

    square.defvjp(forward, backward)
    return square


@pytest.mark.parametrize("factor", [1.0001, 0.0, 2, np.nan])
def test_a_wrong_gradient_raises(factor):
    """The message has both values; a right custom gradient passes."""
    with pytest.raises(AssertionError) as error:
        net = jn.serial(off_by(factor), name="net")
        jn.inspect.check_gradients(net, np.array([[3.0]]))
    first, line = str(error.value).splitlines()[:2]
    assert first == "check_gradients: net for an input of (1, 1) float64, allowed error 1e-05:"
    words = line.replace(",", "").split()
    assert words[:2] == ["input[0", "0]:"]
    assert float(words[5]) == pytest.approx(factor * float(words[3]), rel=1e-5, nan_ok=True)
    assert factor != 2 or words[-1] == "5.0e-01"
    jn.inspect.check_gradients(jn.serial(off_by(1.0)), np.array([[3.0], [0.5]]))


@pytest.mark.parametrize("factor", [1, 99])
def test_both_parts_of_complex_numbers_are_compared(factor):
    """Of params, inputs and outputs, in a function that is not holomorphic."""

    def draw(key, shape, dtype):
        return jnp.full(shape, 1 - 2j, dtype)

    def times_size(w):
        return w * jnp.abs(w)

    def derivative(w, dw):
        y, dy = jax.jvp(times_size, w, dw)
        return y, factor * dy

    scaled = jax.custom_jvp(times_size)
    scaled.defjvp(derivative)
    layer = jn.compose(lambda m, x: x * scaled(m.param("w", draw, (2,))), name="net")
    x = jn.spec((3, 2), jnp.complex64)
    if factor == 1:
        paths = [entry.path for entry in jn.inspect.check_gradients(layer, x).entries]
        assert paths == ["params/w/real", "params/w/imag", "input/real", "input/imag"]
    else:
        with pytest.raises(AssertionError, match="(?s)params/w/real.*params/w/imag"):
            jn.inspect.check_gradients(layer, x)


def test_kinks_are_counted():
    x = np.array([[1.0, 0.0, -1.0, 1e-8]])
    (entry,) = jn.inspect.check_gradients(jn.serial(jax.nn.relu), x).entries
    assert (entry.checked, entry.kinks) == (2, 2)


def test_float32_is_refused():
    layer = jn.serial(lambda x: x.astype(jnp.float32), name="narrow")
    with pytest.raises(TypeError) as error:
        jn.inspect.check_gradients(layer, jn.spec((2, 3)))
    assert str(error.value) == (
        "check_gradients: narrow must return float64 for float64, got float32; "
        "check a layer with a cast without it"
    )


@pytest.mark.slow
def test_dropout_uses_one_mask():
    net = jn.serial(jn.dense(4), jn.dropout(0.5))
    jn.inspect.check_gradients(net, jn.spec((3, 2)), train=True)


def test_integer_inputs_have_no_row():

    def draw(key, x):
        return {"table": jax.random.normal(key, (5, 3))}

    layer = jn.stateless(draw, lambda p, x: p["table"][x], "e")
    for ids in (np.array([0, 3, 3]), jn.spec((3,), jnp.int32)):
        (entry,) = jn.inspect.check_gradients(layer, ids).entries
        assert entry.path == "params/table"


def test_scales_of_zero_hide_nothing():
    """A branch that starts at 0 would have gradients of 0 in all that comes before it."""
    zero = jn.dense(3, kernel_init=jn.initializers.zeros)
    with pytest.raises(AssertionError):
        jn.inspect.check_gradients(jn.serial(off_by(2), zero), jn.spec((2, 4)))


def test_the_program_stays_in_float32():
    jn.inspect.check_gradients(jn.dense(3), jn.spec((4, 2)))
    assert jnp.ones(1).dtype == jnp.float32
    assert not jax.config.jax_enable_x64


def test_an_entry_by_hand():
    """Heights of a line of slope 3, of one of slope 1e-8, of a kink, and of a slope that is off."""
    value = np.zeros((3, 4))
    right = np.array([3, 1e-8, 2, 4.0])
    left = np.array([3, 1e-8, 0, 4.0])
    heights = HERE - STEP * left, HERE, HERE + STEP * right
    automatic = np.array([3, 0, 1, 5.0])
    found = compare("a", value, np.array([0, 2, 5, 7]), heights, automatic, TOLERANCE)
    assert (found.path, found.size, found.checked, found.kinks) == ("a", 12, 3, 1)
    assert found.place == (1, 3)
    assert found.automatic == 5
    assert found.numeric == pytest.approx(4, rel=1e-6)
    assert found.error == pytest.approx(0.2)


def test_an_entry_of_an_empty_array():
    nothing = np.zeros(0)
    places = np.zeros(0, int)
    found = compare("a", nothing, places, [nothing, 7.0, nothing], nothing, TOLERANCE)
    assert found == ("a", 0, 0, 0, 0.0, (), 0.0, 0.0)


def compare_one(right, left, automatic, here=HERE):
    """The entry of one coordinate with two slopes."""
    heights = (here - STEP * np.array([left]), here, here + STEP * np.array([right]))
    place = np.array([0])
    return compare("a", np.zeros(1), place, heights, np.array([automatic]), TOLERANCE)


def test_slopes_within_rounding_count_for_little():
    """The rounding is 100 epsilon of the height, over the step."""
    assert compare_one(0.0, 0.0, NOISE, 0.5).error == pytest.approx(TOLERANCE)
    assert compare_one(0.0, 0.0, NOISE, 8.0).error == pytest.approx(TOLERANCE / 8)
    large = NOISE / TOLERANCE * 3
    assert compare_one(0.0, 0.0, large, 0.5).error == pytest.approx(1)


def test_a_kink_is_more_than_a_thousandth_of_the_slope_plus_rounding():
    bound = 10 * TOLERANCE * 3 + 2 * HERE * NOISE
    flat_bound = 2 * HERE * NOISE
    assert compare_one(3, 3 - 0.97 * bound, 0.0).kinks == 0
    assert compare_one(3, 3 - 1.03 * bound, 0.0).kinks == 1
    assert compare_one(-3 + 0.97 * bound, -3, 0.0).kinks == 0
    assert compare_one(-3 + 1.03 * bound, -3, 0.0).kinks == 1
    assert compare_one(0.97 * flat_bound, 0, 0.0).kinks == 0
    assert compare_one(1.03 * flat_bound, 0, 0.0).kinks == 1


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_integers_stay(bits):
    net = jn.lora(jn.quantized(jn.dense(6), bits), 2, where="kernel", trainable="*")
    check = jn.inspect.check_gradients(net, jn.spec((3, 4)))
    paths = [entry.path for entry in check.entries]
    scale = {8: "scale", 4: "scale16"}[bits]
    names = "bias", "kernel_lora_a", "kernel_lora_b", f"kernel/{scale}"
    assert set(paths) == {f"params/{name}" for name in names} | {"input"}


test_refusals = refuses([
    (lambda: numerical_gradient(neuron, W, dtype=np.int32),
     "dtype must be float64 or float32, got int32"),
    (lambda: numerical_gradient(neuron, W, 0), r"h must be in \(0, inf\), got 0"),
    (lambda: numerical_gradient(neuron, W, method="both"),
     "numerical_gradient: method must be 'central' or 'forward', got 'both'"),
    (lambda: numerical_gradient(lambda w: w, W), r"f must return one number, got \(2,\)"),
    (lambda: numerical_gradient(lambda w: "a", W), TypeError, "the output of f must be an array"),
    (lambda: jn.inspect.check_gradients(jn.dense(2), jn.spec((0, 3))),
     r"check_gradients: the input must not be empty, got \(0, 3\) float32"),
    (lambda: jn.inspect.check_gradients(jn.dense(2), jn.spec((2, 3)), samples=0),
     "samples must be at least 1"),
    (lambda: jn.inspect.check_gradients(jn.dense(2), jn.spec((2, 3)), tolerance=0),
     r"tolerance must be in \(0, inf\)"),
    (lambda: jn.inspect.check_gradients(jn.serial(jnp.abs), np.zeros((1, 3))), AssertionError,
     "input: all 3 sampled coordinates are kinks"),
])  # fmt: skip
