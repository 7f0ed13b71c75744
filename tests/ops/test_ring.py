"""Attention on a ring of devices, against attention in blocks on one device."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from jaxnet.ops.attention import Scoring
from jaxnet.ops.blockwise import blockwise_attention, see
from jaxnet.ops.ring import Ring, attend_ring, ring_attention

VALUES = """
import jax, jax.numpy as jnp, numpy as np
from jaxnet.ops.attention import Placed, Scoring
from jaxnet.ops.blockwise import blockwise_attention, see
from jaxnet.ops.ring import Ring, ring_attention

mesh = jax.make_mesh((2, 2), ("data", "time"), (jax.sharding.AxisType.Auto,) * 2)
keys = jax.random.split(jax.random.key(0), 3)
shapes = (2, 16, 4, 8), (2, 16, 2, 8), (2, 16, 2, 6)
arrays = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]
there = jax.device_put(arrays, jax.NamedSharding(mesh, jax.P("data", "time")))
segments = jnp.array([[1] * 5 + [2] * 9 + [0] * 2] * 2)

at, dropped = jnp.arange(16), Scoring(dropout_rate=0.5, key=keys[0])

def biased(q):  # the gradient by q goes through the bias, too
    slope = jnp.sin(q).mean()
    bias = lambda q, k: slope * (k - q[:, None])[None, None]
    return Scoring(softcap=3.0, bias=Placed(bias, at, at))

def total(run, *arrays):
    y, lse = run(*arrays)
    return jnp.sin(y).sum() + jnp.where(lse == -jnp.inf, 0, jnp.sin(lse)).sum(), (y, lse)

for options in {}, {"window": (3, 2)}, {"causal": True, "lengths": jnp.array([16, 5])}, {
    "segments": segments}:
    ranges = see(16, 16, **options)
    runs = (lambda *given: blockwise_attention(*given, ranges, None, biased(given[0])),
            lambda *given: ring_attention(Ring(mesh, "time"), *given, ranges, biased(given[0])))
    found = [
        jax.jit(jax.value_and_grad(lambda *given: total(run, *given), (0, 1, 2), has_aux=True))(*at)
        for run, at in zip(runs, (arrays, there))
    ]
    close = lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5, err_msg=str(options))
    jax.tree.map(close, *jax.device_get(found))

ring = Ring(mesh, "time")
run = jax.jit(lambda *given: ring_attention(ring, *given, ranges, dropped)[0])
ones = [*there[:2], jnp.ones_like(there[2])]
y = run(*ones)
assert 0.8 < y[:, :14].mean() < 1.2 and len(np.unique(np.round(y, 4))) > 100
"""


@pytest.mark.slow
def test_values_and_gradients_on_four_members_of_vmap():
    """A named axis of `vmap` passes parts around as devices do."""
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 16, 2, 4))
    ranges = see(16, 16, window=(3, 2))

    def parts(a):
        return jnp.stack(jnp.split(a, 4, axis=1))

    here = [parts(jnp.asarray(edge)) for edge in ranges[:2]]
    how = "time", Scoring()

    def full_attention(q, k, v):
        return jnp.sin(blockwise_attention(q, k, v, ranges)[0]).sum()

    def part(q, k, v, first, last):
        return jnp.sin(attend_ring(how, q, k, v, None, first, last, None)[0]).sum()

    ring = jax.vmap(jax.value_and_grad(part, (0, 1, 2)), axis_name="time")
    totals, gradients = jax.jit(ring)(parts(q), parts(k), parts(v), *here)
    total, wanted = jax.jit(jax.value_and_grad(full_attention, (0, 1, 2)))(q, k, v)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(totals.sum(), total)
    jax.tree.map(close, gradients, tuple(map(parts, wanted)))


@pytest.mark.long
def test_values_and_gradients_on_four_devices(on_devices):
    on_devices(VALUES, 4)


def test_time_that_cannot_be_divided():
    ring = Ring(AbstractMesh((4,), ("time",)), "time")  # type: ignore
    x = jnp.ones((1, 6, 2, 8))
    with pytest.raises(ValueError, match="6 steps cannot be divided among the 4 devices along"):
        ring_attention(ring, x, x, x, see(6, 6), Scoring())
