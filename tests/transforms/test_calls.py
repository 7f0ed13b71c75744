"""Every transform under every call of a whole net: it works, or the message says what to write."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.interop.export import export
from tests.helpers import close

KEYS_MAY_REPEAT = True
KEY = jax.random.key(2)
X = np.random.default_rng(0).normal(size=(8, 5, 4)).astype(np.float32)
Y = np.arange(40).reshape(8, 5) % 3
EVERYWHERE = "*/kernel"


def net():
    return jn.serial(jn.gru(6), jn.dense(3), name="net")


def of_steps():
    """The net for one sequence of a batch of them."""
    return jn.serial(jn.dense(6), jnp.tanh, jn.dense(3), name="net")


TRANSFORMS = {
    "cast": lambda: jn.cast(net(), jnp.bfloat16),
    "ensemble": lambda: jn.ensemble(net(), 3),
    "freeze": lambda: jn.freeze(net(), where="gru/*"),
    "lora": lambda: jn.lora(net(), rank=2, where=EVERYWHERE),
    "mapped": lambda: jn.transforms.mapped(of_steps()),
    "observe": lambda: jn.observe(net(), lambda path, layer, x, y: y),
    "quantized": lambda: jn.quantized(net()),
    "remat": lambda: jn.remat(net()),
    "repeat": lambda: jn.serial(jn.repeat(jn.residual(jn.dense(4)), 2), net()),
    "spectral_norm": lambda: jn.transforms.spectral_norm(net()),
    "weight_norm": lambda: jn.transforms.weight_norm(net()),
}


def loss(outputs, targets):
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
    return losses.mean(-1)


def fit(layer, params, state):
    trainer = jn.trainer(jn.supervised(layer, loss), optax.sgd(0.1))
    train_state = trainer.init(KEY, (X, Y))
    *_, epoch = jn.fit(trainer, train_state, (X, Y), epochs=2, batch_size=4, progress=False)
    assert np.isfinite(epoch.train["loss"])


def evaluate(layer, params, state):
    objective = jn.supervised(layer, loss)
    found = jn.evaluate(objective, params, state, (X, Y), batch_size=3)
    y, _ = jax.jit(layer.apply)(params, state, X)
    close(found["loss"], loss(y, Y).mean(), 1e-4)


def predict(layer, params, state):
    y, _ = jax.jit(layer.apply)(params, state, X)
    close(jn.predict(layer, params, state, X, batch_size=3), y, 1e-5)


def exported(layer, params, state):
    y, _ = jax.jit(layer.apply)(params, state, X)
    close(export(layer, params, state, jn.spec(X.shape))(X), y, 1e-5)


def stream(layer, params, state):
    y, _ = jax.jit(layer.apply)(params, state, X)
    streamed = jn.stream(layer, 5)
    now, outputs = jn.start_stream(streamed, X[:, :1], state), []
    for start, stop in ((0, 2), (2, 5)):
        part, now = streamed.apply(params, now, X[:, start:stop])
        outputs.append(part)
    close(jnp.concatenate(outputs, y.ndim - 2), y, 1e-5)


CALLS = [fit, evaluate, predict, exported, stream]
AXIS = "The outputs have an axis of 3 before that of the examples, as those of jn.ensemble"
SAID = {
    ("ensemble", fit): AXIS,
    ("ensemble", evaluate): AXIS,
    (
        "ensemble",
        predict,
    ): r"write jn.predict\(jn.serial\(net, lambda y: y.mean\(0\)\), {'net': params}",
}


@pytest.mark.fast_cases("predict-spectral_norm", "predict-ensemble", "stream-remat")
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("call", CALLS)
def test_every_transform_works_or_says_what_to_write(call, name):
    layer = TRANSFORMS[name]()
    params, state = layer.init(KEY, X)
    if (name, call) not in SAID:
        call(layer, params, state)
        return
    with pytest.raises(ValueError, match=SAID[name, call]):
        call(layer, params, state)


def test_what_the_message_of_an_ensemble_says_to_write():
    layer = TRANSFORMS["ensemble"]()
    params, state = layer.init(KEY, X)
    mean = jn.serial(layer, lambda y: y.mean(0))
    found = jn.predict(mean, {"net": params}, {"net": state}, X, batch_size=3)
    y, _ = layer.apply(params, state, X)
    close(found, y.mean(0), 1e-5)
