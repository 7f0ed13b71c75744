"""Pooling: means by hand, gradients at ties, and parity with PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.helpers import close, compiled, jit_apply, jit_pull, refused


def pooled(layer, x):
    """One map in, one map out."""
    x = jnp.asarray(x)
    return jit_apply(layer, {}, {}, x[None, ..., None])[0][0, ..., 0]


def test_dilated_means_by_hand():
    """Windows of entries 0 and 2, with one zero of padding before."""
    x = [[1.0, 2, 4, 8, 16]]
    options = {"strides": 1, "dilation": (1, 2), "padding": ((0, 0), (1, 0))}
    np.testing.assert_allclose(pooled(jn.avg_pool((1, 2), **options), x), [[1, 2.5, 5, 10]])
    without = pooled(jn.avg_pool((1, 2), **options, count_include_pad=False), x)
    np.testing.assert_allclose(without, [[2, 2.5, 5, 10]])
    close(pooled(jn.layers.lp_pool(2, (1, 2), **options), x), np.sqrt([[4, 17, 68, 272]]), 1e-6, 0)


@pytest.mark.fast_cases("global")
@pytest.mark.parametrize(
    "layer",
    [
        jn.max_pool(2, strides=1),
        jn.layers.global_max_pool(),
    ],
    ids=["overlapping", "global"],
)
def test_the_first_of_equal_maxima_gets_the_gradient(layer):
    gradient = jax.jit(jax.grad(lambda x: jit_apply(layer, {}, {}, x)[0].sum()))
    found = gradient(jnp.zeros((1, 2, 2, 1)))
    np.testing.assert_array_equal(found[0, ..., 0], [[1, 0], [0, 0]])


def test_l2_at_zero_has_a_gradient():
    channels = jnp.array([[0.0, 0, 3, 0]])
    layers = jn.layers.lp_pool(2, 2), jn.layers.l2_pool_channels(2)
    for layer, x in zip(layers, (channels[..., None], channels), strict=True):
        gradient = jax.jit(jax.grad(lambda x, layer=layer: jit_apply(layer, {}, {}, x)[0].sum()))(x)
        np.testing.assert_array_equal(gradient.ravel(), [0, 0, 1, 0])


@pytest.mark.slow
@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_nan_stays(place):
    x = jnp.array([[1.0, 2], [3, 4]]).at[place].set(jnp.nan)
    for layer in (jn.max_pool(2), jn.layers.global_max_pool(), jn.avg_pool(2)):
        assert np.isnan(jit_apply(layer, {}, {}, x[None, ..., None])[0]).all()


def test_padding_never_wins():
    y = pooled(jn.max_pool(2, padding=1), -jnp.ones((2, 2)))
    np.testing.assert_array_equal(y, -np.ones((2, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.bfloat16], ids=str)
def test_dtypes(dtype):
    x = jnp.array([[1, 2], [3, 5]], dtype)
    for padding in (0, ((1, 0), (1, 0))):
        y = pooled(jn.max_pool(2, padding=padding), x)
        assert y.dtype == dtype
        assert int(y.max()) == (5 if padding == 0 else 1)
    mean = pooled(jn.avg_pool(2), x)
    assert float(mean[0, 0]) == 2.75
    assert mean.dtype == (dtype if dtype == jnp.bfloat16 else jnp.float32)


def test_narrow_floats_are_summed_in_float32():
    x = jnp.array([[256, 1, 1, 1, 1]], jnp.bfloat16)  # where 256 + 1 is 256
    assert float(pooled(jn.avg_pool((1, 5)), x)[0, 0]) == 52


POOLS = ["max", "mean", "uncounted", "l2"]
FORMS = {"tiled": (2, 2, 0), "overlap": (3, 2, 1)}
CASES = [
    pytest.param(form, kind, axes, id=f"{name}-{kind}-{axes}")
    for name, form in FORMS.items()
    for kind in POOLS
    for axes in (1, 2, 3)
    if kind != "l2" or (name == "tiled" and axes < 3)  # PyTorch's lp_pool has no padding
]


@pytest.mark.fast_cases(*(f"tiled-{kind}-1" for kind in POOLS))
@pytest.mark.parametrize(("form", "kind", "axes"), CASES)
def test_pools_are_those_of_pytorch(x64, form, kind, axes, torch):
    window, strides, padding = form
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(2, 3, 7, 6, 5)[: axes + 2]), requires_grad=True)
    functional = torch.nn.functional
    options = dict(strides=strides, padding=padding)
    if kind == "max":
        layer = jn.max_pool(window, **options)
        y = getattr(functional, f"max_pool{axes}d")(x, *form)
    elif kind == "l2":
        layer = jn.layers.lp_pool(2, window, **options)
        y = getattr(functional, f"lp_pool{axes}d")(x, 2.0, window, strides)
    else:
        counted = kind == "mean"
        layer = jn.avg_pool(window, count_include_pad=counted, **options)
        y = getattr(functional, f"avg_pool{axes}d")(x, *form, count_include_pad=counted)
    cotangent = rng.normal(size=y.shape)
    y.backward(torch.tensor(cotangent))

    def last(a):
        return np.moveaxis(np.asarray(a), 1, -1)

    found = jit_pull(lambda x: layer.apply({}, {}, x)[0], last(x.detach()), last(cotangent))
    close(found, (last(y.detach()), last(x.grad)), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("features", [2, 16])  # in JAX, in C
def test_second_derivatives_and_vmap(features):
    x = jax.random.normal(jax.random.key(0), (3, 2, 5, 4, features))

    def energy(x):
        return (jit_apply(jn.max_pool(2, strides=1), {}, {}, x)[0] ** 2).sum()

    many = jax.jit(jax.vmap(jax.grad(energy)))(x)
    for i in range(3):
        np.testing.assert_allclose(many[i], jax.jit(jax.grad(energy))(x[i]), 1e-6)
        # The energy is x² where an entry wins, so that H x = ∇E.
        np.testing.assert_allclose(jax.jvp(jax.grad(energy), (x[i],), (x[i],))[1], many[i], 1e-5)


@pytest.mark.parametrize("size", [1e16, 1e-17])
@pytest.mark.parametrize("layer", [jn.layers.lp_pool(2, 2), jn.layers.l2_pool_channels(2)])
def test_roots_of_squares_in_the_range_of_the_docstring(layer, size):
    x = jax.random.normal(jax.random.key(0), (2, 6, 4))
    small, large = (jit_apply(layer, {}, {}, a)[0] for a in (x, size * x))
    np.testing.assert_allclose(large, size * small, 1e-4, 2e-19)


def test_odd_powers_keep_their_sign_in_pytorch_alone(torch):
    x = torch.tensor([[[1, 2, -1, 3, 1, -3.0]]])
    for p, wanted in ((1.0, [3, 2, -2]), (3.0, [9 ** (1 / 3), 26 ** (1 / 3), np.nan])):
        np.testing.assert_allclose(torch.nn.functional.lp_pool1d(x, p, 2)[0, 0], wanted, 1e-6)


def test_complex_numbers_have_real_squares():
    x = np.complex64([[[1 + 1j, 2 - 1j]]])
    sizes = jit_apply(jn.layers.lp_pool(2, 1), {}, {}, x)[0]
    np.testing.assert_allclose(sizes[0, 0], np.sqrt([2, 5]), 1e-6)
    both = jit_apply(jn.layers.l2_pool_channels(2), {}, {}, x)[0]
    np.testing.assert_allclose(both[0, 0], np.sqrt([7]), 1e-6)
    y = jit_apply(jn.layers.local_response_norm(1), {}, {}, x)[0]
    np.testing.assert_allclose(y[0, 0], x[0, 0] * (2 + 1e-4 * np.array([2, 5])) ** -0.75, 1e-5)


def test_no_scatter_in_the_compiled_gradient():
    layer = jn.max_pool(3, strides=2)
    slope = jax.grad(lambda x: layer.apply({}, {}, x)[0].sum())
    assert "scatter(" not in compiled(slope, jnp.ones((2, 9, 9, 3))).as_text()


@refused(
    [
        (lambda: jn.max_pool(2), (5, 3), r"max_pool: expected .* \(batch, \*space, features\)"),
        (lambda: jn.max_pool((2, 2)), (2, 5, 3), "window needs 1 entries"),
        (lambda: jn.avg_pool(6), (2, 5, 3), r"avg_pool: a window of \(6,\) needs an input at"),
        (lambda: jn.max_pool(2, padding=2), (2, 5, 3), "padding smaller than the window"),
        (lambda: jn.max_pool(2, padding=2, dilation=3), (1, 1, 1), "needs an input at least as la"),
        (lambda: jn.layers.l2_pool_channels(0), None, "size must be at least 1"),
        (lambda: jn.layers.l2_pool_channels(2), (2, 5, 3), "a multiple of 2 features"),
        (lambda: jn.layers.global_max_pool(), (2, 5), "global_max_pool: expected an input"),
        (lambda: jn.layers.lp_pool(0.5, 2), None, "p must be in"),
    ]
)
def test_messages(make, shape):
    make().apply({}, {}, jnp.ones(shape))


@pytest.mark.fast_cases("1d", "SAME")
@pytest.mark.parametrize(
    "space, size, padding",
    [
        ((7,), 3, "VALID"),
        ((6, 5), 2, "VALID"),
        ((6, 7), (3, 2), "SAME"),
        ((4, 5, 3), (2, 1, 3), "VALID"),
    ],
    ids=["1d", "a rest", "SAME", "3d"],
)
def test_windows_side_by_side_are_those_of_reduce_window(space, size, padding):
    """With ties, a rest that is left out, and windows of -inf alone."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, size=(2, *space, 3)).astype(np.float32)
    x[0] = np.where(x[0] == 0, -np.inf, x[0])
    x[1, 0] = -np.inf
    window = (1, *np.broadcast_to(size, len(space)), 1)

    def theirs(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, padding)

    def ours(x):
        return jn.max_pool(size, padding=padding).apply({}, {}, x)[0]

    g = rng.normal(size=jax.eval_shape(ours, x).shape).astype(np.float32)
    found = jit_pull(ours, x, g)
    wanted = jit_pull(theirs, x, g)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    dx = rng.normal(size=x.shape).astype(np.float32)
    _, pushed = jax.jit(lambda x, dx: jax.jvp(ours, (x,), (dx,)))(x, dx)
    np.testing.assert_allclose(np.vdot(pushed, g), np.vdot(dx, found[1]), 1e-4)


def test_a_nan_takes_the_gradient():
    x = np.float32([[1.0, np.nan, np.nan, 3.0, 5.0, 4.0]])[..., None]
    ones = np.ones((1, 3, 1), np.float32)
    y, slope = jit_pull(lambda x: jn.max_pool(2).apply({}, {}, x)[0], x, ones)
    np.testing.assert_array_equal(y[0, :, 0], [np.nan, np.nan, 5])
    np.testing.assert_array_equal(slope[0, :, 0], [0, 1, 1, 0, 1, 0])
