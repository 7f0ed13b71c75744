"""Receptive fields known by arithmetic."""

import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.inspect import receptive_fields
from jaxnet.inspect.receptive import positive_params, stride_between

IMAGE = jn.spec((1, 33, 47, 2))


def last(net, x=IMAGE):
    found = receptive_fields(net, x)
    name = list(found.fields)[-1]
    return found.fields[name], found.strides[name], name in found.cut


def conv(size, **options):
    return jn.conv(2, size, **options)


@pytest.mark.fast_cases("dilated: 1 + 2 * 3", "3 + 2 * 2")
@pytest.mark.parametrize(("layers", "field", "stride"), [
    pytest.param([conv(3)] * 1, (3, 3), (1, 1), id="one 3x3"),
    pytest.param([conv(3), conv(3), conv(3)], (7, 7), (1, 1), id="three 3x3 = 7x7"),
    pytest.param([conv((3, 5))], (3, 5), (1, 1), id="oblong"),
    pytest.param([conv(3, dilation=3)], (7, 7), (1, 1), id="dilated: 1 + 2 * 3"),
    pytest.param([conv(3, strides=2), conv(3)], (7, 7), (2, 2), id="3 + 2 * 2"),
    pytest.param([conv(3), jax.nn.relu, jn.max_pool(2), conv(3), jn.max_pool(2)], (10, 10), (4, 4),
     id="3, 4, 8, 10"),
    pytest.param([conv(5, padding="VALID"), jn.avg_pool(2)], (6, 6), (2, 2), id="valid"),
    pytest.param([jn.batch_norm(), jnp.tanh, conv(1)], (1, 1), (1, 1), id="a point"),
    pytest.param([jn.residual(conv(3)), jn.residual(conv(5))], (7, 7), (1, 1), id="residual"),
    pytest.param([jn.parallel(conv(3), conv(5)), lambda ys: ys[0] + ys[1]], (5, 5), (1, 1),
     id="the larger branch"),
])  # fmt: skip
def test_fields(layers, field, stride):
    assert last(jn.serial(*layers)) == (field, stride, False)


def test_one_dimension_and_three():
    """Only the past: the field of WaveNet's first block is 2 + 2 + 4."""
    field, _, _ = last(jn.serial(conv((3, 1, 2))), jn.spec((1, 7, 8, 9, 2)))
    assert field == (3, 1, 2)
    layers = [jn.conv(2, (2,), dilation=d, padding=((d, 0),)) for d in (1, 2, 4)]
    field, _, _ = last(jn.serial(*layers), jn.spec((1, 40, 2)))
    assert field == (8,)


@pytest.mark.slow
def test_a_field_cut_by_the_border():
    net = jn.serial(conv(7), conv(7), conv(7), name="net")
    found = receptive_fields(net, jn.spec((1, 12, 60, 1)))
    assert found.fields["conv_2"] == (12, 19)
    assert found.cut == {"conv_1", "conv_2"}
    lines = str(found).splitlines()
    assert lines[-2].split() == ["conv_2", "12×60", "–×1", "≥", "12×19"]
    assert lines[-1] == "≥: reaches the border; pass a larger input"
    ElementTree.fromstring(found._repr_html_())


def test_the_stride_where_the_neighbor_is_cut():
    """Of 6 places the middle unit sees 1 to 5 and the next one 2 to 5."""
    assert last(jn.serial(conv(5)), jn.spec((1, 6, 6, 2))) == ((5, 5), (1, 1), True)


@pytest.mark.parametrize(("here", "beside", "stride"), [
    ({3, 4, 5}, {5, 6, 7}, 2),
    ({3, 4, 5}, {4, 5, 6, 7, 8}, 3),  # at the end that the border leaves whole
    ({1, 5, 9}, {4, 9}, 3),
    ({0, 5}, {3, 9}, None),
    ({0, 5}, {3, 8}, 3),
    ({3, 4}, {3, 4}, None), (set(), {3}, None), ({3}, set(), None),
])  # fmt: skip
def test_the_stride_is_between_whole_ends(here, beside, stride):
    assert stride_between(here, beside, 10) == stride


def test_parameters_that_let_everything_through():
    spec = {"kernel": (3, 2, 5), "bias": (5,), "scale": (5,), "empty": (0, 0)}
    spec |= {"dense": (4, 5), "one": (6, 1), "single": (1, 5)}
    specs = {name: jn.spec(shape) for name, shape in spec.items()}
    found = jax.tree_util.tree_map_with_path(positive_params, specs)
    assert {name: a.shape for name, a in found.items()} == spec
    assert (found["kernel"] == np.float32(1 / 6)).all()
    assert found["kernel"].dtype == np.float32
    assert (found["bias"] == 0).all()
    assert (found["scale"] == 1).all()
    for name, wanted in (("dense", 1 / 4), ("one", 1 / 6), ("single", 1)):
        assert (found[name] == np.float32(wanted)).all()


def test_layers_without_space_have_no_row():
    net = jn.serial(conv(3), lambda x: x.mean((1, 2)), jn.dense(3))
    assert list(receptive_fields(net, IMAGE).fields) == ["conv"]
    words = r"must have shape \(batch, \*space, channels\), got \(2, 3"
    with pytest.raises(ValueError, match=words):
        receptive_fields(jn.dense(3), jn.spec((2, 3)))


def test_one_unit_has_no_stride():
    _, stride, cut = last(jn.serial(jn.conv(2, (33, 47), padding="VALID")))
    assert stride == (None, None)
    assert cut


def test_the_parameters_play_no_part():
    """Kernels that start at 0 see as much as others."""
    field, _, _ = last(jn.serial(conv(3, kernel_init=jn.initializers.zeros)))
    assert field == (3, 3)
