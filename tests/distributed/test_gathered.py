"""Params that come together before a layer runs; experiments.scaling measures what it saves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn

MESH = jax.make_mesh((1,), ("data",))

PROGRAM = """
x, y = np.random.default_rng(0).normal(size=(2, 16, 8)).astype(np.float32)
for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
    mesh = jax.make_mesh((8,), ("data",), (kind,))
    found = {}
    for name, whole in {"left": lambda layer: layer,
                        "gathered": lambda layer: jn.distributed.gathered(layer, mesh)}.items():
        block = jn.serial(jn.dense(32), jax.nn.relu, jn.dense(8))
        net = jn.repeat(jn.remat(whole(block)), 3)
        trainer = jn.trainer(jn.supervised(net, optax.squared_error), optax.sgd(0.1))
        train_state = trainer.init(jax.random.key(0), (x, y))
        rule = lambda path, shape: P(None, None, "data") if len(shape) == 3 else P()
        train_state = jn.distributed.put(train_state, mesh, rule)
        losses = []
        for epoch in jn.fit(trainer, train_state, jn.distributed.put((x, y), mesh, P("data")),
                            epochs=3, batch_size=16):
            losses.append(epoch.train["loss"])
        kernel = epoch.train_state.params["dense"]["kernel"]
        assert kernel.addressable_shards[0].data.size * 8 == kernel.size
        found[name] = losses
    np.testing.assert_allclose(found["left"], found["gathered"], rtol=1e-5)
"""


def test_params_and_outputs_are_those_of_the_layer():
    layer = jn.dense(3)
    params, state = layer.init(jax.random.key(0), jn.spec((5, 4)))
    other = jn.distributed.gathered(layer, MESH)
    x = jnp.arange(20.0).reshape(5, 4)
    np.testing.assert_array_equal(*(each.apply(params, state, x)[0] for each in (other, layer)))
    assert (other.name, other.kind, other.inside.layer) == ("dense", "gathered", layer)


@pytest.mark.long
def test_on_eight_devices(on_devices):
    on_devices(PROGRAM, 8)
