"""Upsampling against `torch.nn.functional.interpolate`, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.helpers import close, jit_apply, jit_pull, refuses

RESIZED = [
    ("nearest", {}),
    ("nearest-exact", {}),
    ("bilinear", {}),
    ("bilinear", {"align_corners": True}),
    ("bicubic", {}),
    ("bicubic", {"align_corners": True}),
    ("bilinear", {"antialias": True}),
    ("bicubic", {"antialias": True}),
    ("area", {}),
]


@pytest.mark.parametrize(("method", "options"), RESIZED)
def test_resize_is_that_of_pytorch(x64, method, options, torch):
    """To larger and smaller sizes, by factors too: values and gradients."""
    rng = np.random.default_rng(3)
    data = rng.normal(size=(2, 3, 7, 5))
    mode = {"mode": method} | options
    for wanted in (
        {"size": (3, 8)},
        {"size": (9, 2)},
        {"scale_factor": (1.7, 0.6)},
        {"scale_factor": (2, 3)},
    ):
        x = torch.tensor(data, requires_grad=True)
        y = torch.nn.functional.interpolate(x, **wanted, **mode)
        ours = {"size": wanted.get("size"), "scale": wanted.get("scale_factor")}
        layer = jn.resize(**ours, method=method, **options)
        cotangent = rng.normal(size=y.shape)
        y.backward(torch.tensor(cotangent))
        last = [np.moveaxis(a.detach().numpy(), 1, -1) for a in (x, y, x.grad)]

        def run(x, layer=layer):
            return layer.apply({}, {}, x)[0]

        found = jit_pull(run, last[0], np.moveaxis(cotangent, 1, -1))
        close(found, (last[1], last[2]), 1e-9)


@pytest.mark.slow
def test_resize_of_signals_and_volumes():
    """By hand, and as `jax.image.resize` [jax 0.10.2], whose cubic kernel has another slope."""
    x = jax.random.normal(jax.random.key(0), (2, 6, 3))
    y = jit_apply(jn.resize(4, method="area"), {}, {}, x)[0]
    wanted = [x[:, 0:2].mean(1), x[:, 1:3].mean(1), x[:, 3:5].mean(1), x[:, 4:6].mean(1)]
    np.testing.assert_allclose(y, np.stack(wanted, 1), 1e-6)
    x = jax.random.normal(jax.random.key(1), (2, 3, 4, 5, 2))
    for method, name in {"bilinear": "linear", "nearest-exact": "nearest"}.items():
        y = jit_apply(jn.resize((6, 3, 5), method=method, antialias=name == "linear"), {}, {}, x)[0]
        wanted = jax.image.resize(x, (2, 6, 3, 5, 2), name)
        np.testing.assert_allclose(y, wanted, 1e-5, 1e-5)


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_factor_one_changes_nothing_and_a_constant_stays(method):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 1))
    np.testing.assert_allclose(jit_apply(jn.resize(scale=1, method=method), {}, {}, x)[0], x, 1e-6)
    ones = jit_apply(jn.resize(scale=(2, 5), method=method), {}, {}, jnp.ones((1, 1, 3, 2)))[0]
    np.testing.assert_allclose(ones, np.ones((1, 2, 15, 2)), 1e-6)


@pytest.mark.parametrize(
    "inputs, scale, outputs",
    [
        (88, 120 / 88, 119),
        (100, 0.29, 28),
        (50, 2.3, 114),
        (90, 0.7, 62),
        (10, 1.1, 11),
    ],
)
def test_sizes_by_a_factor_are_those_of_pytorch(inputs, scale, outputs):  # torch 2.13.0
    assert resized(scale=scale, x=(1, inputs, 1))[0].shape == (1, outputs, 1)


def test_integers():
    x = jnp.array([0, 255], jnp.uint8).reshape(1, 2, 1)
    assert jit_apply(jn.resize(scale=2, method="nearest"), {}, {}, x)[0].dtype == jnp.uint8
    y, _ = jit_apply(jn.resize(scale=2), {}, {}, x)
    np.testing.assert_allclose(y.ravel(), [0, 63.75, 191.25, 255])


def resized(*args, x=(1, 2, 2, 1), **options):
    return jn.resize(*args, **options).apply({}, {}, jnp.ones(x))


test_refusals = refuses([
    (lambda: jn.resize(), "expected size or scale, got size=None, scale=None"),
    (lambda: jn.resize(3, scale=2), "expected size or scale"),
    (lambda: jn.resize(3, method="linear"), "method must be 'nearest', .* got 'linear'"),
    (lambda: jn.resize(3, method="area", align_corners=True),
     "align_corners is for bilinear and bicubic"),
    (lambda: jn.resize(3, antialias=True, align_corners=True),
     "antialias needs align_corners=False"),
    (lambda: jn.resize((3, -1)), "size must be whole numbers of at least 1"),
    (lambda: jn.resize(scale=(2, 0)), r"scale must be in \(0, inf\), got 0"),
    (lambda: resized(scale=(1, 2, 3)), "scale needs 2 entries"),
    (lambda: resized(scale=0.3), r"need at least one position, got .* and \(0, 0\)"),
    (lambda: resized(3, x=(1, 0, 2, 1)), r"need at least one position, got \(1, 0, 2, 1\)"),
    (lambda: resized((1, 2, 3)), "size needs 2 entries"),
])  # fmt: skip
