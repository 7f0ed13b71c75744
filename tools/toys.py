"""Trains the two small nets of the page "Break it" on the digits of scikit-learn.

    python -m tools.toys

writes docs/toys/nets.npz: kernels in 8 bits with a scale for each output, biases, and the first 20
test digits of MNIST. It takes about a minute.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from docs.toy_data import NETS, NO_LABEL, STEPS, classifier, denoiser, schedule, seen


def main() -> None:
    """Train both nets, round their kernels, and write them."""
    (x, y), test = jn.data.digits()
    x, x_test = x.reshape(-1, 64), test[0].reshape(-1, 64)
    found = {"classifier": classify(x, y), "denoiser": denoise(2 * x - 1, y)}
    arrays = {}
    for net, params in found.items():
        for layer, entry in params.items():
            scale = np.abs(entry["kernel"]).max(0) / 127
            arrays[f"{net}.{layer}.int8"] = np.round(entry["kernel"] / scale).astype(np.int8)
            arrays[f"{net}.{layer}.scale"] = np.asarray(scale, np.float32)
            arrays[f"{net}.{layer}.bias"] = np.asarray(entry["bias"], np.float32)
    images, arrays["mnist.labels"] = (a[:20] for a in jn.data.mnist(download=True)[1])
    arrays["mnist.pixels"] = np.round(255 * images).astype(np.uint8).reshape(20, 784)
    np.savez_compressed(NETS, **arrays)
    logits, _ = classifier().apply(found["classifier"], {}, x_test)
    right = (np.argmax(logits, -1) == test[1]).mean()
    print(f"{right:.1%} of the test digits, {NETS.stat().st_size:,} bytes")


def classify(x: np.ndarray, y: np.ndarray) -> Any:
    loss = optax.softmax_cross_entropy_with_integer_labels
    trainer = jn.trainer(jn.supervised(classifier(), loss), optax.adam(2e-3))
    return trained(trainer, (x, y), 60)


def denoise(x: np.ndarray, y: np.ndarray) -> Any:
    """Train to predict the noise; a fifth of the labels are hidden."""
    net, kept = denoiser(), jnp.asarray(schedule()[1], jnp.float32)

    def forward(m: Any, batch: Any) -> Any:
        x0, label = batch
        ask = jax.random.split(m.key(), 3)
        t = jax.random.randint(ask[0], (len(x0),), 0, STEPS)
        epsilon = jax.random.normal(ask[1], x0.shape)
        hidden = jax.random.bernoulli(ask[2], 0.2, label.shape)
        label = jnp.where(hidden, NO_LABEL, label)
        a = kept[t][:, None]
        given = seen(jnp.sqrt(a) * x0 + jnp.sqrt(1 - a) * epsilon, t, label)
        return ((m(net, given) - epsilon) ** 2).mean(-1)

    objective = jn.supervised(jn.compose(forward), lambda error, _: error)
    epochs = 1500
    rate = optax.cosine_decay_schedule(2e-3, epochs * -(-len(x) // 128))
    params = trained(jn.trainer(objective, optax.adam(rate)), ((x, y), y), epochs)
    return params[net.name]


def trained(trainer: Any, data: Any, epochs: int) -> Any:
    start = trainer.init(jax.random.key(0), data)
    *_, last = jn.fit(trainer, start, data, epochs=epochs, batch_size=128, progress=False)
    return last.train_state.params


if __name__ == "__main__":
    main()
