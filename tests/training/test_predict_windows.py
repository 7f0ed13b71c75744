"""Outputs of large inputs, put together from windows."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.training.predict_windows import BLENDS, _cut
from tests.helpers import draw, refused

SPACES = {"series": (23,), "pictures": (17, 12), "volumes": (9, 8, 11)}


def inputs(space, n=3, channels=2):
    return draw(n, *space, channels, dtype=np.float32)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize(
    ("window", "overlap", "batch_size"), [(8, 0.5, 4), (7, 0.3, 5), (5, 0.9, 64), (8, 0, 1)]
)
def test_a_net_of_single_pixels_is_exact(space, blend, window, overlap, batch_size):
    """All windows agree, and weights sum to 1, so not a bit is lost."""
    x = inputs(space)
    options = {"overlap": overlap, "blend": blend, "batch_size": batch_size}
    y = jn.predict_windows(jn.serial(jnp.square), {}, {}, x, window, **options)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, x * x)


@pytest.mark.slow
@pytest.mark.parametrize("space", [(60,), (40, 30), (20, 18, 22)], ids=SPACES)
def test_crop_equals_the_whole_if_half_the_overlap_holds_what_an_output_sees(space):
    """Three convolutions see 3 pixels to each side: 6 of 12 are shared."""
    layers = [jn.conv(4, 3), jax.nn.relu, jn.conv(4, 3), jax.nn.relu, jn.conv(2, 3)]
    net, x = jn.serial(*layers), inputs(space, n=2)
    params, state = net.init(jax.random.key(0), x)
    whole = jn.predict(net, params, state, x)
    found = jn.predict_windows(net, params, state, x, 12, overlap=0.5, blend="crop")
    np.testing.assert_allclose(found, whole, atol=2e-6)
    for blend, overlap in (("crop", 0.25), ("gaussian", 0.5), ("uniform", 0.5)):
        near = jn.predict_windows(net, params, state, x, 12, overlap=overlap, blend=blend)
        assert 1e-4 < np.abs(near - whole).max()


@pytest.mark.slow
def test_crop_of_a_net_with_strides_whose_windows_are_on_its_grid():
    net = jn.models.unet(3, features=4, levels=2)
    x = inputs((64, 48), n=2)
    params, state = net.init(jax.random.key(0), x)
    found = jn.predict_windows(net, params, state, x, 32, overlap=0.75, blend="crop")
    np.testing.assert_allclose(found, jn.predict(net, params, state, x), atol=1e-5)


@pytest.mark.parametrize("blend", BLENDS)
def test_outputs_that_are_finer_than_inputs(blend):
    finer = jn.serial(lambda x: x.repeat(2, 1).repeat(3, 2))
    x = inputs((17, 12))
    y = jn.predict_windows(finer, {}, {}, x, (6, 5), blend=blend)
    np.testing.assert_array_equal(y, x.repeat(2, 1).repeat(3, 2))


def test_trees_of_outputs_and_labels():
    def both(x):
        return {"labels": x[..., 0] > 0, "halves": x.astype(jnp.bfloat16), "more": x[..., None]}

    x = inputs((17, 12))
    y = jn.predict_windows(jn.serial(both), {}, {}, x, 8, blend="crop")
    wanted = both(x)
    for name, leaf in wanted.items():
        assert y[name].dtype == leaf.dtype
        np.testing.assert_array_equal(y[name], leaf)


def test_weights_are_those_of_the_blend():
    """Each window returns its own number, the mean of its input."""
    own = jn.serial(lambda x: jnp.zeros_like(x) + x.mean(1, keepdims=True))
    x = np.array([0.0, 0, 1, 1, 5, 5]).reshape(1, 6, 1).astype(np.float32)
    means = [0.5, 3.0]  # of windows of 4

    def found(blend):
        return jn.predict_windows(own, {}, {}, x, 4, overlap=0.5, blend=blend)[0, :, 0]

    np.testing.assert_allclose(found("uniform"), [0.5, 0.5, 1.75, 1.75, 3, 3])
    np.testing.assert_allclose(found("crop"), [0.5, 0.5, 0.5, 3, 3, 3])
    a, b = np.exp(-(np.array([0.5, 1.5]) ** 2) / 2 / 0.5**2)
    near, far = (a * means[0] + b * means[1]) / (a + b), (b * means[0] + a * means[1]) / (a + b)
    np.testing.assert_allclose(found("gaussian"), [0.5, 0.5, near, far, 3, 3], rtol=1e-6)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("overlap", [0, 0.3, 0.5, 0.99])
@pytest.mark.parametrize(("side", "size"), [(10, 10), (10, 1), (23, 7), (64, 32), (11, 10)])
def test_windows_cover_each_place_with_weights_that_sum_to_1(side, size, overlap, blend):
    cut = _cut(side, size, overlap, blend)
    assert cut.starts[0] == 0
    assert cut.starts[-1] == side - size
    steps = np.diff(cut.starts)
    assert (steps > 0).all()
    assert (size - steps >= overlap * size - 1e-6).all() or steps.max() == 1
    total = np.zeros(side)
    for start, weights in zip(cut.starts, cut.weights, strict=True):
        total[start : start + size] += weights
    np.testing.assert_allclose(total, 1, rtol=1e-12)
    assert cut.weights.any(1).all() or blend == "crop"


def test_one_program_for_all_batches():
    traces = []

    def net(x):
        traces.append(x.shape)
        return 2 * x

    layer = jn.serial(net)
    x = inputs((17, 12))
    with warnings.catch_warnings(action="error"):
        jn.predict_windows(layer, {}, {}, x, 8, batch_size=5)
    first = len(traces)
    jn.predict_windows(layer, {}, {}, x, 8, batch_size=5)
    assert len(traces) <= first + 1  # the shapes of outputs
    assert (5, 8, 8, 2) in traces


X = np.ones((2, 8, 6, 3), np.float32)


def predicted(net=jnp.square, x=X, window=4, **options):
    return jn.predict_windows(net, {}, {}, x, window, **options)


@refused([
    ({"window": (8, 8)}, r"window must have one size for each spatial axis of x \(2, 8, 6, 3\), at"
     r" most its side, got \(8, 8\). Pad x"),
    ({"window": (4, 4, 4)}, r"one size for each spatial axis .*, got \(4, 4, 4\)"),
    ({"window": 0}, "window must be at least 1, got 0"),
    ({"overlap": 1}, r"overlap must be in \[0, 1\), got 1"),
    ({"blend": "hann"}, "blend must be"),
    ({"batch_size": 0}, "batch_size must be at least 1"),
    ({"x": np.ones((2, 3), np.float32)},
     r"x must have shape \(batch, height, width, channels\), or .*, got \(2, 3\)"),
    ({"x": X * np.nan}, "predict_windows: x"),
    ({"net": lambda x: x[:, ::2]}, r"multiple of each, got \(1, 2, 4, 3\) for a window \(1, 4, 4"),
    ({"net": lambda x: x.mean((1, 2))}, r"got \(1, 3\) for .* for one output per input, use jn.pr"),
    ({"net": lambda x: x.argmax(-1)}, TypeError,
     'must be floats, got int32. Return logits or probabilities, or pass blend="crop"'),
])  # fmt: skip
def test_refusals(options):
    with warnings.catch_warnings(action="ignore"):
        predicted(**options)
