"""A decoder that is trained on a mesh with axes for its batch, its heads and its time."""

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn
from tests.helpers import close

TRAINED = """
from jax.sharding import AxisType

put, tensor_parallel = jn.distributed.put, jn.distributed.tensor_parallel
rng = np.random.default_rng(0)
ids = rng.integers(0, 12, (4, 17))
batch = ids[:, :-1], ids[:, 1:]
sizes = dict(width=8, heads=4, kv_heads=2, mlp_features=16)
block = jn.transformer_block(4, 16, causal=True, rotary=True, window=9)
nets = {
    "decoder": jn.models.decoder(12, depth=2, **sizes),
    "repeat": jn.serial(jn.embedding(12, 8), jn.repeat(block, 2), jn.dense(12, name="head")),
}
loss = optax.softmax_cross_entropy_with_integer_labels

def train(net, place=lambda train_state: train_state, data=batch):
    trainer = jn.trainer(jn.supervised(net, loss), optax.sgd(0.5, momentum=0.9))
    train_state, losses = place(trainer.init(jax.random.key(0), batch)), []
    for step in (trainer.step, trainer.step, jax.jit(trainer.step)):
        train_state, metrics = step(train_state, data)
        losses.append(float(metrics["loss"]))
    return losses, train_state

for kind in (AxisType.Explicit, AxisType.Auto):
    mesh = jax.make_mesh((2, 2, 2), ("data", "model", "time"), (kind,) * 3)
    rule = tensor_parallel("model")
    for name, net in nets.items():
        expected, alone = train(net)
        for part in ("model", "model and time"):
            here, spec = net, jax.P("data")
            if part != "model":
                here = jn.distributed.context_parallel(net, mesh, "time")
                spec = jax.P("data", "time")
            got, trained = train(here, lambda s: put(s, mesh, rule), put(batch, mesh, spec))
            np.testing.assert_allclose(got, expected, 1e-4, err_msg=f"{name}, {part}, {kind}")
            close = lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-4)
            jax.tree.map(close, *jax.device_get((alone.params, trained.params)))
        split = [leaf for leaf in jax.tree.leaves(trained.params)
                 if not leaf.sharding.is_fully_replicated]
        assert len(split) == (16 if name == "decoder" else 13), (name, len(split))
"""


@pytest.mark.long
def test_a_decoder_is_trained_as_on_one_device(on_devices):
    on_devices(TRAINED, 8)


MEMORY = """
time = 4096
mesh = jax.make_mesh((8,), ("time",))
block = jn.transformer_block(8, causal=True, rotary=True)
net = jn.serial(jn.embedding(64, 64), jn.repeat(block, 2), jn.dense(64))
for layer in (net, jn.distributed.context_parallel(net, mesh, "time")):
    objective = jn.supervised(layer, optax.softmax_cross_entropy_with_integer_labels)
    trainer = jn.trainer(objective, optax.sgd(1.0))
    batch = (jn.spec((1, time), jnp.int32),) * 2
    train_state = jax.eval_shape(lambda: trainer.init(jax.random.key(0), batch))
    if layer is not net:
        train_state = jn.distributed.put(train_state, mesh)
        batch = jn.distributed.put(batch, mesh, jax.P(None, "time"))
    step = jax.jit(trainer.step, donate_argnums=0).lower(train_state, batch).compile()
    print(step.memory_analysis().temp_size_in_bytes)
"""


@pytest.mark.long
def test_memory_of_each_device(on_devices):
    """Of 32,768 tokens, four blocks of width 512: 11.30 GB on one device, 1.40 GB on each of 8."""
    one, each = map(int, on_devices(MEMORY, 8).split())
    assert each < one / 4, (one, each)


@pytest.mark.slow
def test_context_parallel_is_the_layer_on_one_device():
    net = jn.multi_head_attention(2, causal=True, sinks=True)
    mesh = jax.make_mesh((1,), ("time",))
    x = jax.random.normal(jax.random.key(1), (2, 6, 8))
    params, state = net.init(jax.random.key(0), x)
    ringed = jn.distributed.context_parallel(net, mesh, "time")
    there = jn.distributed.put((params, x), mesh)

    def total(net, params, x):
        return jnp.sin(net.apply(params, state, (x, jnp.array([6, 4])))[0]).sum()

    expected = jax.jit(jax.value_and_grad(lambda *given: total(net, *given)))(params, x)
    got = jax.jit(jax.value_and_grad(lambda *given: total(ringed, *given)))(*there)
    close(expected, got, 1e-4, 1e-5)
