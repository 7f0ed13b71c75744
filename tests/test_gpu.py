"""On a GPU: the layers' values and gradients are the CPU's, and cuDNN's paths are taken."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.catalogue import ROWS, fill
from tests.helpers import KEY, close

if jax.default_backend() != "gpu":
    pytest.skip("needs a GPU; experiments.benchmarks.gpu runs it there", allow_module_level=True)


def on_both(function, *given):
    """Results on the GPU and on the CPU, in float32 without TF32."""
    found = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        here = jax.device_put(given, device)
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            found.append(jax.device_get(jax.jit(function)(*here)))
    return found


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS])
def test_values_and_gradients_are_those_of_the_cpu(row):
    layer = row.make()
    with jax.default_device(jax.devices("cpu")[0]):
        params, state = jax.device_get(layer.init(KEY, row.x))
        x = jax.device_get(fill(row))

    def run(params, state, x):
        def loss(params):
            y, _ = layer.apply(params, state, x)
            floats = [a for a in jax.tree.leaves(y) if jnp.issubdtype(a.dtype, jnp.floating)]
            return sum((jnp.sin(a).sum() for a in floats), jnp.zeros(())), y

        (_, y), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return y, grads

    there, here = on_both(run, params, state, x)
    close(there, here, 2e-3, 2e-4)


def test_training_gives_the_losses_of_the_cpu():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 28, 28, 1)).astype(np.float32)
    batch = x, rng.integers(0, 10, 32).astype(np.int32)
    objective = jn.supervised(jn.models.lenet5(10), optax.softmax_cross_entropy_with_integer_labels)
    trainer = jn.trainer(objective, optax.adam(1e-3))
    with jax.default_device(jax.devices("cpu")[0]):
        train_state = jax.device_get(trainer.init(KEY, batch))

    def losses(train_state, batch):
        def step(train_state, _):
            train_state, metrics = trainer.step(train_state, batch)
            return train_state, metrics["loss"]

        return jax.lax.scan(step, train_state, None, length=10)[1]

    there, here = on_both(losses, train_state, batch)
    assert here[-1] < here[0]
    np.testing.assert_allclose(there, here, rtol=2e-3)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_bfloat16_is_that_of_cudnn(causal):
    layer = jn.multi_head_attention(4, causal=causal)
    x = np.random.default_rng(0).normal(size=(2, 64, 256)).astype(np.float32)
    params, state = layer.init(KEY, x)

    def loss(params, x):
        half = jn.cast(layer, jnp.bfloat16)
        return (half.apply(params, state, x)[0] ** 2).mean()

    program = jax.jit(jax.value_and_grad(loss)).lower(params, x).compile().as_text()
    assert "__cudnn$fmha" in program, "attention was computed without cuDNN"
    value, grads = jax.value_and_grad(loss)(params, x)
    with jax.default_matmul_precision("highest"):
        wanted, like = jax.value_and_grad(
            lambda params: (layer.apply(params, state, x)[0] ** 2).mean()
        )(params)
    np.testing.assert_allclose(value, wanted, rtol=2e-2)
    # Gradients of the keys' biases are 0 but for rounding, so errors are judged by the largest.
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(like))
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(like), strict=True):
        assert np.abs(a - b).max() <= 5e-2 * np.abs(b).max() + 1e-2 * largest


def test_lstm_is_that_of_cudnn():
    from experiments.benchmarks.peers import hand

    layer = jn.lstm(24)
    x = np.random.default_rng(0).normal(size=(3, 7, 5)).astype(np.float32)
    params, state = layer.init(KEY, x)
    params = {name: p + 0.1 for name, p in params.items()}
    output = {"kernel": jnp.eye(24), "bias": jnp.zeros(24)}
    weights = {"lstm": params, "output": output}
    with jax.default_matmul_precision("highest"):
        there, _ = hand.cudnn_lstm(24)(weights, {}, x)
        y, _ = layer.apply(params, state, x)
    np.testing.assert_allclose(there, y[:, -1], rtol=1e-3, atol=1e-4)
