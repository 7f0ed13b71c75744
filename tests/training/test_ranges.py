"""A student's slips: probabilities for logits, pixels from 0 to 255, a run that nobody iterates."""

import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training.ranges import last_function, pixel_hint

RNG = np.random.default_rng(0)
X = RNG.random((32, 8, 8, 1)).astype(np.float32)
LABELS = RNG.integers(0, 3, 32)
ONE_OF_TWO = (LABELS > 0).astype(np.float32)[:, None]


def started(net, loss, data):
    """A trainer of a net, and its train_state."""
    trainer = jn.trainer(jn.supervised(net, loss), optax.sgd(1e-3))
    return trainer, trainer.init(jax.random.key(0), data)


def fitted(net, loss, data):
    trainer, train_state = started(net, loss, data)
    for epoch in jn.fit(trainer, train_state, data, epochs=1, batch_size=16, progress=False):
        train_state = epoch.train_state
    return trainer, train_state


def said(call) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught]


def ending_in(function, outputs=3):
    return jn.serial(jn.flatten(), jn.dense(outputs), function)


def own_softmax(z):
    e = jnp.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


SQUASHED = {
    "sigmoid": (jax.nn.sigmoid, 3, jn.losses.cross_entropy, LABELS),
    "softmax": (jax.nn.softmax, 3, jn.losses.cross_entropy, LABELS),
    "softmax of optax's": (
        jax.nn.softmax, 3, optax.softmax_cross_entropy_with_integer_labels, LABELS,
    ),
    "softmax of our own": (own_softmax, 3, jn.losses.cross_entropy, LABELS),
    "softmax in a net": (jn.serial(jax.nn.softmax), 3, jn.losses.cross_entropy, LABELS),
    "sigmoid for two classes": (jax.nn.sigmoid, 1, jn.losses.sigmoid_cross_entropy, ONE_OF_TWO),
    "sigmoid under optax's": (jax.nn.sigmoid, 1, optax.sigmoid_binary_cross_entropy, ONE_OF_TWO),
}  # fmt: skip


@pytest.mark.parametrize("name", SQUASHED)
@pytest.mark.parametrize("call", ["fit", "step"])
def test_probabilities_for_a_loss_of_logits_are_said(name, call):
    function, outputs, loss, targets = SQUASHED[name]
    data = X, targets

    def run():
        trainer, train_state = started(ending_in(function, outputs), loss, data)
        if call == "fit":
            next(jn.fit(trainer, train_state, data, epochs=1, progress=False))
        else:
            for _ in range(2):
                train_state, _ = trainer.step(train_state, data)

    (message,) = said(run)
    assert message.startswith(f"{call}: the net ends in a {name.split()[0]}, but ")
    assert "takes logits" in message and "Leave the function out" in message


def half(y):
    return y / 2


RIGHT = {
    "logits": (half, 3, jn.losses.cross_entropy, LABELS),
    "a sigmoid inside": (
        jn.serial(jax.nn.sigmoid, jn.dense(3)), 3, jn.losses.cross_entropy, LABELS,
    ),
    "a gate": (lambda z: z * jax.nn.sigmoid(z), 3, jn.losses.cross_entropy, LABELS),
    "log_softmax": (jax.nn.log_softmax, 3, jn.losses.cross_entropy, LABELS),
    "errors of probabilities": (jax.nn.sigmoid, 1, optax.squared_error, ONE_OF_TWO),
    "a loss of probabilities": (
        jax.nn.sigmoid, 1,
        lambda y, t: -(t * jnp.log(y + 1e-6) + (1 - t) * jnp.log(1 - y + 1e-6)), ONE_OF_TWO,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_not_said(name):
    function, outputs, loss, targets = RIGHT[name]
    assert not said(lambda: fitted(ending_in(function, outputs), loss, (X, targets)))


def test_last_function_of_several_outputs_is_none():
    net = jn.stateless(lambda key, x: {}, lambda p, x: (jax.nn.sigmoid(x), x))
    assert last_function(net, {}, {}, jn.spec((2, 3))) == ""


PIXELS = np.float32(255 * X).round()


@pytest.mark.parametrize("data", [PIXELS, PIXELS.astype(np.uint8)], ids=["floats", "bytes"])
@pytest.mark.parametrize("call", ["fit", "step"])
def test_pixels_from_0_to_255_are_said_where_the_loss_is_high(data, call):
    net = jn.serial(jn.conv(16, 3), jax.nn.relu, jn.flatten(), jn.dense(3))

    def run():
        trainer, train_state = started(net, jn.losses.cross_entropy, (data, LABELS))
        if call == "fit":
            list(jn.fit(trainer, train_state, (data, LABELS), epochs=2, progress=False))
        else:
            for _ in range(3):
                train_state, _ = trainer.step(train_state, (data, LABELS))

    (message,) = [text for text in said(run) if "pixels" in text]
    assert message.startswith(f"{call}: the first loss is ")
    assert "x holds whole numbers from 0 to 255, like pixels: write x / 255" in message


def test_the_doctor_says_both():
    net = jn.serial(jn.conv(16, 3), jax.nn.relu, jn.flatten(), jn.dense(3))
    trainer, train_state = started(net, jn.losses.cross_entropy, (PIXELS, LABELS))
    report = str(jn.inspect.doctor(trainer, train_state, (PIXELS, LABELS)))
    assert "write x / 255" in report
    trainer, train_state = started(ending_in(jax.nn.sigmoid), jn.losses.cross_entropy, (X, LABELS))
    report = str(jn.inspect.doctor(trainer, train_state, (X, LABELS)))
    assert "logits are expected by the loss" in report


def test_a_net_that_divides_by_itself_is_not_told():
    net = jn.serial(lambda x: x / 255, jn.flatten(), jn.dense(3))
    assert not said(lambda: fitted(net, jn.losses.cross_entropy, (PIXELS, LABELS)))


@pytest.mark.parametrize(
    "x",
    [
        X,
        X - 0.5,
        PIXELS + 0.5,
        PIXELS - 1,
        2 * PIXELS,
        LABELS[:, None],
        np.zeros((0, 3)),
        np.arange(240.0).reshape(80, 3),
        np.minimum(PIXELS, 99),
    ],
)
def test_what_is_not_pixels(x):
    assert pixel_hint(x) == ""


@pytest.mark.slow
def test_a_run_that_nobody_iterates_is_said_at_the_end_of_the_program():
    """Without the TypeError of a module that is gone."""
    program = """
import jax, jax.numpy as jnp, optax, jaxnet as jn
data = jnp.ones((8, 2)), jnp.zeros((8, 1))
trainer = jn.trainer(jn.supervised(jn.dense(1), optax.squared_error), optax.sgd(0.1))
history = jn.fit(trainer, trainer.init(jax.random.key(0), data), data, epochs=3)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "fit was never iterated, so nothing was trained" in done.stderr
    assert "Exception ignored" not in done.stderr
