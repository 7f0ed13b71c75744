"""The networks: a frame classifier, pretrained or not, and a bidirectional LSTM with CTC."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.speech.config import Config
from experiments.speech.utterances import Utterances, padded
from jaxnet.typing import Augmentation
from jaxnet.unsupervised import hmm, pretrain, rbm

CONTEXT = 5  # frames on each side of the classified frame
STRIDE = 2  # frames per step of the LSTM
FRAME_BATCH = 128
BLANK = 0  # of CTC; digit d is class d + 1
BOUNDS = [(28, 1), (60, 1), (140, 7), (220, 7)]  # steps and digits of the LSTM's batches
BEAMS = 8

# Features of n utterances to (n, time, states or classes), and their numbers of steps (n,).
Scores = Callable[[list[np.ndarray]], tuple[jax.Array, jax.Array]]


def windows(frames: np.ndarray) -> np.ndarray:
    """Join each frame with its context: (frames, features) to (frames, 11 * features)."""
    wide = np.pad(frames, ((CONTEXT, CONTEXT), (0, 0)), mode="edge")
    return np.concatenate([wide[i : i + len(frames)] for i in range(2 * CONTEXT + 1)], 1)


def frame_net(config: Config) -> jn.Layer:
    """Return sigmoid units from windows of frames to the states of hidden Markov models."""
    layers = []
    for n in config.hidden:
        layers += [jn.dense(n, kernel_init=jn.initializers.glorot_uniform()), jax.nn.sigmoid]
    return jn.serial(*layers, jn.dense(10 * config.states + 1, name="output"), name="frame_net")


def boltzmann(key: jax.Array, x: Any, features: int, *, inputs: int, epochs: int) -> Any:
    """Return a restricted Boltzmann machine, with Gaussian visible units in the first layer."""
    if x.shape[1] == inputs:
        options: dict[str, Any] = {"visible": rbm.gaussian, "learning_rate": 0.002}
    else:
        options = {"learning_rate": 0.05}
    return rbm.fit_rbm(key, x, features, **options, epochs=epochs, progress=False)


def frame_trainer(config: Config) -> Callable[..., Scores]:
    """Return (seed, data, alignment, pretrain) -> scores of the states; runs share one program."""
    net, outputs = frame_net(config), 10 * config.states + 1
    steps = config.epochs * -(-config.frames // FRAME_BATCH)
    objective = jn.supervised(net, optax.softmax_cross_entropy_with_integer_labels)
    optimizer = optax.adam(optax.cosine_decay_schedule(config.net_rate, steps))
    trainer = jn.trainer(objective, optimizer)

    def train(seed: int, data: Utterances, alignment: list[np.ndarray], pretrained: bool) -> Scores:
        y = np.concatenate(alignment)
        known = np.flatnonzero(y >= 0)
        rng = np.random.default_rng(seed)
        chosen = rng.choice(known, config.frames, replace=len(known) < config.frames)
        x = np.concatenate([windows(f) for f in data.features])[chosen]
        y = y[chosen].astype(np.int32)
        key, params = jax.random.key(seed), None
        if pretrained:
            fit = partial(boltzmann, inputs=x.shape[1], epochs=config.pretraining)
            params, _ = pretrain.pretrain_greedy(net, x, fit, key=key, progress=False)
        trained = trainer.init(key, (x, y), params=params)
        for epoch in jn.fit(trainer, trained, (x, y), epochs=config.epochs, batch_size=FRAME_BATCH):
            trained = epoch.train_state
        log_prior = np.log(np.bincount(y, minlength=outputs) / len(y) + 1e-9)

        def scores(features: list[np.ndarray]) -> tuple[jax.Array, jax.Array]:
            x = np.concatenate([windows(f) for f in features])
            logits = jn.predict(net, trained.params, trained.state, x, batch_size=4096)
            each = np.split(logits, np.cumsum([len(f) for f in features])[:-1])
            logits, lengths = padded(each)
            return hmm.scaled_likelihoods(logits, log_prior), lengths

        return scores

    return train


def ctc_net(config: Config) -> jn.Layer:
    """Return bidirectional LSTM layers with dropout, and logits of ten digits and the blank."""
    layers: list[jn.Layer] = []
    for _ in range(config.layers):
        layers.append(jn.bidirectional(jn.lstm(config.features)))
        layers.append(jn.layers.time_distributed(jn.dropout(config.dropout)))
    return jn.serial(
        *layers, jn.layers.time_distributed(jn.dense(11, name="output")), name="ctc_net"
    )


def steps_of(features: list[np.ndarray]) -> list[np.ndarray]:
    """Join two frames per step: (frames, 39) to (frames // 2, 78)."""
    return [f[: len(f) // STRIDE * STRIDE].reshape(-1, STRIDE * f.shape[1]) for f in features]


def noise_and_mask(noise: float, mask: int) -> Augmentation:
    """Add Gaussian noise to the inputs, and set some consecutive steps of each to zero."""

    def augment(key, batch):
        (x, lengths), targets = batch
        k1, k2, k3 = jax.random.split(key, 3)
        x = x + noise * jax.random.normal(k1, x.shape)
        start = jax.random.uniform(k2, (x.shape[0], 1)) * lengths[:, None]
        width = jax.random.uniform(k3, (x.shape[0], 1)) * jnp.minimum(mask, lengths[:, None] / 4)
        t = jnp.arange(x.shape[1])
        masked = (t >= start) & (t < start + width)  # (batch, time)
        return (jnp.where(masked[..., None], 0, x), lengths), targets

    return augment


def ctc_trainer(config: Config) -> Callable[[int, Utterances], Scores]:
    """Return (seed, data) -> logits of the classes; all runs share one program per shape."""
    net = ctc_net(config)
    objective = jn.augmented(
        jn.supervised(net, partial(jn.losses.ctc, blank=BLANK)),
        noise_and_mask(config.noise, config.mask),
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.updates)),
    )
    trainer = jn.trainer(objective, optimizer, shapes=len(BOUNDS))
    apply = jax.jit(net.apply)

    def train(seed: int, data: Utterances) -> Scores:
        batches = jn.data.bucketed(
            (steps_of(data.features), [d + 1 for d in data.digits]),
            32,
            bounds=BOUNDS,
            drop_longer=True,
            seed=seed,
        )
        trained = trainer.init(jax.random.key(seed), next(iter(batches)))
        epochs = -(-config.updates // len(batches))
        for epoch in jn.fit(trainer, trained, batches, epochs=epochs):
            trained = epoch.train_state

        def logits(features: list[np.ndarray]) -> tuple[jax.Array, jax.Array]:
            return apply(trained.params, trained.state, padded(steps_of(features)))[0]

        return logits

    return train


@jax.jit
def one_label(logits: jax.Array, lengths: jax.Array) -> jax.Array:
    """Return the most probable digit, given that exactly one is spoken: (n,)."""
    n = len(lengths)

    def cost(digit):
        labels = jnp.full((n, 1), digit + 1), jnp.ones(n, int)
        return jn.losses.ctc((logits, lengths), labels, blank=BLANK)

    return jax.lax.map(cost, jnp.arange(10)).argmin(0)


def many_labels(logits: jax.Array, lengths: jax.Array) -> list[list[int]]:
    """Return the digits of each utterance by beam search."""
    labels, n = map(np.asarray, _beam_search(logits, lengths))
    return [(row[:k] - 1).tolist() for row, k in zip(labels, n, strict=True)]


@jax.jit
def _beam_search(logits, lengths):
    labels, n, _ = jn.decoding.ctc_beam_search(logits, lengths, beams=BEAMS, blank=BLANK)
    return labels[:, 0], n[:, 0]
