import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.models import deepface
from tests import layer_values as values
from tests.models.sizes import count, shapes


def test_parameters_and_stages_are_those_of_the_paper():
    local = (55 * 55 * (81 * 16 + 1) + 25 * 25 * (49 * 16 + 1) + 21 * 21 * (25 * 16 + 1)) * 16
    ends = 32 * (121 * 3 + 1) + 16 * (81 * 32 + 1) + 4096 * (7056 + 1) + 4030 * (4096 + 1)
    assert count(deepface(classes=4030), (2, 152, 152, 3)) == local + ends == 118_923_774
    found, wanted = shapes(deepface(), (2, 152, 152, 3)), {
        "c1": (142, 142, 32), "m2": (71, 71, 32), "c3": (63, 63, 16), "l4": (55, 55, 16),
        "l5": (25, 25, 16), "l6": (21, 21, 16), "f7": (4096,), "output": (4030,),
    }  # fmt: skip
    assert {name: found[name][1:] for name in wanted} == wanted


@pytest.mark.long
def test_values_of_the_smallest_faces(x64):
    """Written out in NumPy; dropout is off."""
    net, x = deepface(5), np.random.default_rng(0).normal(size=(2, 71, 71, 3))
    params, state = net.init(jax.random.key(0), jnp.asarray(x))
    p = jax.tree.map(np.asarray, params)
    pads = ((0, 0), (0, 0))

    def local(p, x, k, stride):
        seen = values.seen_by(x, (k, k), (stride, stride), pads).reshape(
            *x.shape[:1], *p["bias"].shape[:2], -1
        )
        return np.maximum(np.einsum("nhwi,hwio->nhwo", seen, p["kernel"]) + p["bias"], 0)

    y = np.maximum(values.conv(p["c1"], x, (1, 1), pads), 0)
    y = values.pool(np.max, y, (3, 3), (2, 2), ((1, 1), (1, 1)))
    y = np.maximum(values.conv(p["c3"], y, (1, 1), pads), 0)
    y = local(p["l6"], local(p["l5"], local(p["l4"], y, 9, 1), 7, 2), 5, 1)
    y = np.maximum(values.dense(p["f7"], y.reshape(2, -1)), 0)
    found, _ = jax.jit(net.apply)(params, state, x)
    np.testing.assert_allclose(found, values.dense(p["output"], y), rtol=1e-9, atol=1e-12)


def test_faces_that_are_too_small():
    with pytest.raises(ValueError, match="l6: a window of .* is larger than the input"):
        jax.eval_shape(deepface().init, jax.random.key(0), jn.spec((2, 70, 70, 3)))
