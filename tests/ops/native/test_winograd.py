"""Winograd's convolutions in C against plain loops in float64, the direct kernels and XLA."""

import itertools
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops.convolution import convolve
from jaxnet.ops.native import conv, instructions
from tests.ops.native.test_conv import OPERANDS, arrays, exact, form_of

pytestmark = pytest.mark.skipif(instructions() is None, reason="needs the kernels in C")

TARGET = "jaxnet_winograd"
same = partial(convolve, strides=(1, 1), padding=((1, 1), (1, 1)))


@partial(jax.jit, static_argnames=("wanted", "form", "tile"))
def by_tiles(a, b, *, wanted, form, tile):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "_tile", lambda *args: tile)
        return conv.convolution(a, b, wanted=wanted, form=form)


def computed(wanted, form, given, tile):
    """The wanted array of the other two, by tiles of this size, or directly."""
    a, b = (given[name] for name in OPERANDS[wanted])
    return np.asarray(by_tiles(a, b, wanted=wanted, form=form, tile=tile))


CASES = {
    "features that fill vectors": (form_of((16, 16), (3, 3), low=1, high=1), 1, 4, 16, 16),
    "features that no vector divides": (form_of((13, 18), (3, 3), low=1, high=1), 1, 5, 9, 33),
    "many features": (form_of((8, 8), (3, 3), low=1, high=1), 1, 36, 64, 72),
    "nets": (form_of((18, 15), (3, 3)), 3, 9, 12, 40),
    "uneven padding": (form_of((11, 30), (3, 3), low=2, high=0), 2, 6, 20, 16),
}


def root_mean_square(array):
    return np.sqrt(np.mean(np.square(array)))


@pytest.mark.fast_cases(
    "features that fill vectors-y",
    "features that fill vectors-x",
    "features that fill vectors-w",
    "features that no vector divides-y",
)
@pytest.mark.parametrize("wanted", OPERANDS)
@pytest.mark.parametrize("case", CASES)
def test_errors_by_those_of_direct_convolution(case, wanted):
    form, *sizes = CASES[case]
    given = arrays(form, *sizes)
    expected = exact(wanted, form, **given)
    off = {tile: computed(wanted, form, given, tile) - expected for tile in (0, 2, 4)}
    errors = {tile: root_mean_square(error) for tile, error in off.items()}
    assert 0 < errors[2] <= 1.2 * errors[0]
    assert errors[0] < errors[4] <= 3 * errors[0]
    assert np.abs(off[4]).max() < 2e-5 * root_mean_square(expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("wanted", OPERANDS)
def test_one_pixel(wanted, tile, dtype):
    form = form_of((1, 1), (3, 3), low=1, high=1)
    given = arrays(form, 2, 3, 40, 8, dtype=dtype)
    expected = exact(wanted, form, **given)
    found = computed(wanted, form, given, tile)
    rounding = 2**-8 if dtype == "bfloat16" else 0
    assert found.dtype == dtype
    np.testing.assert_allclose(np.float64(found), expected, rtol=rounding, atol=2e-5)


def test_what_is_not_a_number_stays_in_its_tile():
    form = form_of((9, 14), (3, 3), low=1, high=1)
    kinds = itertools.product(OPERANDS, "xwy", (2, 4), (np.nan, np.inf))
    for wanted, name, tile, value in kinds:
        if name == wanted:
            continue
        given = arrays(form, 1, 2, 8, 9)
        given[name].flat[0] = value
        direct = np.isfinite(computed(wanted, form, given, 0))
        found = np.isfinite(computed(wanted, form, given, tile))
        assert not (found & ~direct).any(), f"{value} in {name} for {wanted}"
        if "w" not in (name, wanted):
            assert found[:, 1].all() and found[:, :, tile:].all()


@pytest.mark.parametrize("batch, inputs", [(0, 8), (3, 0)])
def test_an_empty_batch_or_no_inputs(batch, inputs):
    x = jnp.ones((1, batch, 6, 7, inputs))
    w = jnp.ones((1, 3, 3, inputs, 9))
    y = jax.ShapeDtypeStruct((1, batch, 4, 5, 9), x.dtype)
    call = jax.ffi.ffi_call(TARGET, y)
    assert not call(x, w, form=np.array([0, 4, 0, 0], np.int64)).any()


@pytest.mark.parametrize("change, message", [
    (dict(x=(1, 2, 6, 8, 8)), "after"), (dict(x=(1, 2, 7, 7, 8)), "after"),
    (dict(w=(1, 3, 5, 8, 9)), "w, F32"), (dict(y=(1, 3, 4, 5, 9)), "y, numbers"),
    (dict(form=[0, 4, -1, 0]), "before"), (dict(form=[0, 3, 0, 0]), "TILE"),
    (dict(form=[3, 4, 0, 0]), "WHICH"), (dict(form=[0, 4, 0]), "NUMBERS"),
])  # fmt: skip
def test_arrays_that_do_not_fit_are_errors(change, message):
    usual = dict(x=(1, 2, 6, 7, 8), w=(1, 3, 3, 8, 9), y=(1, 2, 4, 5, 9), form=[0, 4, 0, 0])
    given = usual | change
    call = jax.ffi.ffi_call(TARGET, jax.ShapeDtypeStruct(given["y"], np.float32))
    x, w = (np.ones(given[n], np.float32) for n in "xw")
    with pytest.raises(Exception, match=f"jaxnet.*: .*{message}"):
        call(x, w, form=np.array(given["form"], np.int64))


@pytest.mark.slow
def test_a_place_in_its_tile_changes_last_bits_alone():
    """Translation and padding with zeros change nothing else."""
    rng = np.random.default_rng(0)
    x, w = (jnp.float32(rng.normal(size=s)) for s in [(8, 20, 20, 16), (3, 3, 16, 16)])
    expected = np.asarray(same(x, w))
    for before in range(1, 5):
        wide = jnp.pad(x, ((0, 0), (before, 2), (0, before), (0, 0)))
        found = same(wide, w)[:, before : before + 20, :20]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())


def calls(function, *args):
    return jax.jit(function).lower(*args).as_text().count(f"@{TARGET}(")


def test_who_wants_direct_convolution(monkeypatch):
    x, w = jnp.ones((8, 16, 16, 16)), jnp.ones((3, 3, 16, 16))

    def gradients(x, w, precision=None):
        with jax.default_matmul_precision(precision):
            y, pull = jax.vjp(same, x, w)
        return pull(y)

    exactly = partial(gradients, precision="highest")

    assert calls(gradients, x, w) == 3
    assert calls(exactly, x, w) == 0
    exported = jax.export.export(jax.jit(exactly), platforms=["tpu"])(x, w)
    assert "HIGHEST" in exported.mlir_module()
    assert calls(same, x[:1], w) == 0
    assert calls(same, x[..., :4], w[..., :4, :]) == 0
    monkeypatch.setenv("JAXNET_WINOGRAD", "0")
    assert calls(lambda *args: gradients(*args), x, w) == 0
    monkeypatch.setenv("JAXNET_WINOGRAD", "no")
    with pytest.raises(ValueError, match="JAXNET_WINOGRAD must be 0 or 1, got 'no'"):
        calls(lambda *args: same(*args), x, w)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("wanted", ["y", "x"])
def test_what_sees_zeros_alone_is_zero(wanted, tile, dtype):
    """Also in a tile that has other numbers: a relu lets no gradient through at 0."""
    form = form_of((13, 18), (3, 3), low=1, high=1)
    given = arrays(form, 1, 3, 9, 33, dtype=dtype)
    read = "x" if wanted == "y" else "y"
    seldom = np.random.default_rng(1).random(given[read].shape[:-1]) < 0.1
    given[read] = given[read] * seldom[..., None].astype(dtype)
    found = computed(wanted, form, given, tile)
    expected = exact(wanted, form, **given)
    assert (found[expected == 0] == 0).all()
    assert (found == 0).mean() > 0.2
