"""Layers on meshes with Explicit axes; `tests/test_laws.py` traces the types of every layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import jaxnet as jn

ROWS = """
import jax, jax.numpy as jnp, numpy as np, optax, jaxnet as jn
from tests.catalogue import ROWS, fill

mesh, key = jax.make_mesh((8,), ("data",)), jax.random.key(3)
put = jn.distributed.put

def close(a, b, what):
    a, b = jax.device_get((a, b))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5, err_msg=what), a, b)

for row in ROWS[PART::8]:
    net, x = row.make(), jax.tree.map(lambda a: jnp.concatenate([a] * 8), fill(row))

    def objective(m, x):
        ys = [y for y in jax.tree.leaves(m(net, x)) if jnp.issubdtype(y.dtype, jnp.floating)]
        return sum((jnp.sin(y).mean() for y in ys), jnp.float32(0)), {}

    trainer = jn.trainer(jn.compose(objective, name="objective"), optax.sgd(0.1))
    start = trainer.init(key, x)
    params, state = net.init(key, x)

    def loss(params, state, x):
        y, state = net.apply(params, state, x, key=key, train=True)
        floats = [leaf for leaf in jax.tree.leaves(y) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum(jnp.sin(leaf).mean() for leaf in floats), (y, state)

    runs = jax.jit(jax.value_and_grad(loss, has_aux=True)), jax.jit(trainer.step)
    on_mesh = put((params, state), mesh), put(start, mesh), put(x, mesh, jax.P("data"))
    for run, given, there in zip(runs, ((params, state), (start,)), (on_mesh[0], on_mesh[1:2])):
        close(run(*given, x), run(*there, on_mesh[2]), row.id)
    y = net.apply(*on_mesh[0], on_mesh[2], key=key)
    close(net.apply(params, state, x, key=key), y, row.id)
    with jax.set_mesh(mesh):
        close(runs[0](params, state, x), runs[0](*on_mesh[0], on_mesh[2]), row.id)
"""


@pytest.mark.long
@pytest.mark.parametrize("part", range(8))
def test_all_layers_on_eight_devices(on_devices, part):
    on_devices(ROWS.replace("PART", str(part)), 8)
