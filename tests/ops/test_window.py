"""Sizes, steps and padding as a user writes them."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.ops.window import pad_pairs, padded, per_axis, taps


@pytest.mark.parametrize("space", [5, 6])
@pytest.mark.parametrize("window, strides, dilation", [(3, 1, 1), (3, 2, 1), (2, 3, 2), (1, 2, 1)])
def test_same_gives_as_many_positions_as_inputs_over_strides(space, window, strides, dilation):
    ((low, high),) = pad_pairs("a", "SAME", (space,), (window,), (strides,), (dilation,))
    span = (window - 1) * dilation + 1
    assert (space + low + high - span) // strides + 1 == -(-space // strides)
    assert high - low in (0, 1), "an odd zero comes behind"


@pytest.mark.parametrize("padding, pairs", [
    ("VALID", ((0, 0), (0, 0))), (2, ((2, 2), (2, 2))), ((1, (2, 3)), ((1, 1), (2, 3))),
    ([np.int64(1), 0], ((1, 1), (0, 0))), (-1, ((-1, -1), (-1, -1))),
])  # fmt: skip
def test_padding_in_words_numbers_and_pairs(padding, pairs):
    assert pad_pairs("a", padding, (7, 6), (3, 2), (1, 1)) == pairs


def test_causal_padding_is_before_and_zeros_go_between_positions_alone():
    assert pad_pairs("a", "CAUSAL", (7,), (3,), (2,), (2,)) == ((4, 0),)
    x = np.arange(1.0, 13).reshape(2, 3, 2)
    found = np.zeros((2, 7, 2))
    found[:, 1:6:2] = x
    np.testing.assert_array_equal(padded(jnp.asarray(x), ((1, 1),), (2,)), found)


@pytest.mark.parametrize("padding", ["CAUSAL", True, (1,), (1, 1.5)], ids=str)
def test_padding_that_is_none_of_these(padding):
    words = 'a: padding must be "SAME", "VALID".* each of the 2 spatial'
    with pytest.raises(ValueError, match=words):
        pad_pairs("a", padding, (7, 6), (3, 2), (1, 1))


def named(value):
    """The name of a wrong value in the id of a test, without the address of an object."""
    return "object" if type(value) is object else repr(value)


@pytest.fixture(
    params=[
        pytest.param(partial(jn.conv, 3, 3), id="conv"),
        pytest.param(partial(jn.depthwise_conv, 3), id="depthwise"),
        pytest.param(partial(jn.conv_transpose, 3, 3), id="transpose"),
        pytest.param(partial(jn.max_pool, 2), id="max"),
        pytest.param(partial(jn.avg_pool, 2), id="avg"),
        pytest.param(partial(jn.layers.lp_pool, 3, 2), id="lp"),
    ]
)
def windowed(request):
    """A function that makes a layer with a window, from options by name."""
    return request.param


@pytest.mark.parametrize("wrong", [0, 1.5, "ab", object(), (1, -1), np.nan], ids=named)
@pytest.mark.parametrize("option", ["strides", "dilation"])
def test_numbers_of_a_window_raise_where_the_layer_is_made(windowed, option, wrong):
    with pytest.raises(ValueError, match=f"{option} must be whole numbers of at least 1, got"):
        windowed(**{option: wrong})


@pytest.mark.parametrize(
    "wrong", ["EVEN", 1.5, object(), ((1, 2, 3), 1), None, ["SAME"]], ids=named
)
def test_padding_raises_where_the_layer_is_made(windowed, wrong):
    with pytest.raises(ValueError, match='padding must be "SAME", "VALID", "CAUSAL"'):
        windowed(padding=wrong)


@pytest.mark.parametrize("right", ["SAME", 1, (1, 2), ((0, 1), 2), [np.int64(1), 0]], ids=named)
def test_padding_of_every_form_makes_a_layer(windowed, right):
    windowed(padding=right, strides=(2, 1), dilation=np.array([1, 2]))


@pytest.mark.parametrize("wrong", [0, "abc", np.nan, (2, 0)], ids=named)
@pytest.mark.parametrize("make", [
    partial(jn.conv, 3), jn.depthwise_conv, partial(jn.conv_transpose, 3), jn.max_pool, jn.avg_pool,
    partial(jn.layers.lp_pool, 2), jn.layers.adaptive_avg_pool,
    partial(jn.layers.locally_connected, 3),
])  # fmt: skip
def test_sizes_of_a_window_raise_where_the_layer_is_made(make, wrong):
    with pytest.raises(ValueError, match="(window|size) must be whole numbers of at least 1"):
        make(wrong)


def test_one_number_or_one_for_each_axis():
    assert per_axis("a", "strides", np.int32(2), 3) == (2, 2, 2)
    assert per_axis("a", "strides", [1, 2], 2) == (1, 2)


@pytest.mark.parametrize(
    "wrong, axes", [(True, 2), (0, 2), (1.5, 2), ("2", 1), ((1, 0), 2)], ids=named
)
def test_what_is_not_a_whole_number_for_each_axis(wrong, axes):
    with pytest.raises(ValueError, match="a: strides must be whole numbers"):
        per_axis("a", "strides", wrong, axes)


def test_taps_see_what_a_convolution_sees():
    x = jnp.arange(1.0, 7).reshape(1, 6, 1)
    seen = [t.ravel().tolist() for t in taps(x, (2,), (2,), ((1, 0),), (3,))]
    assert seen == [[0, 2], [3, 5]]
