"""Nothing is kept alive by a cache: a net that was used and dropped leaves nothing behind."""

import gc
import threading
import weakref
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.services.trees import Memo, memo_of

KEY = jax.random.key(0)
X = np.ones((2, 4), np.float32)
IMAGES = np.ones((2, 8, 8, 1), np.float32)
LOSS = optax.softmax_cross_entropy_with_integer_labels


def drawn(net, x):
    return (net, *net.init(KEY, x))


def text(run):
    def use():
        net = jn.models.decoder(11, depth=1, width=8, heads=2, mlp_features=8)
        net, params, _ = drawn(net, jn.spec((1, 1), int))
        run(net, params)
        return net

    return use


def trained(run):
    def use():
        objective = jn.supervised(jn.dense(2), LOSS)
        run(objective, (X, np.array([0, 1])))
        return objective

    return use


def images(run):
    def use():
        net = jn.serial(jn.conv(2, 3, name="maps"), jn.global_avg_pool(), jn.dense(2))
        run(*drawn(net, IMAGES))
        return net

    return use


def fit(objective, data):
    trainer = jn.trainer(objective, optax.sgd(0.1))
    start = trainer.init(KEY, data)
    for _ in jn.fit(trainer, start, data, epochs=1, evaluate=data, progress=False):
        pass
    trainer.step(start, data)


def sequence():
    net = jn.serial(jn.rnn(3, activation=lambda z: jnp.sin(z)), jn.dense(2))
    net, params, state = drawn(net, np.ones((2, 5, 3), np.float32))
    net.apply(params, state, np.ones((2, 5, 3), np.float32))
    return net


def pair():
    layer = jn.Layer(
        lambda key, x: ({}, {}), lambda p, s, x, *, key=None, train=False: (x, s), "own"
    )
    net = jn.serial(layer, jn.dense(2))
    net, params, state = drawn(net, X)
    net.apply(params, state, X)
    return layer


USES = {
    "apply": images(lambda net, params, state: net.apply(params, state, IMAGES)),
    "jit": images(lambda net, params, state: jax.jit(net.apply)(params, state, IMAGES)),
    "predict": images(lambda net, params, state: jn.predict(net, params, state, IMAGES)),
    "summary": images(lambda net, params, state: str(jn.summary(net, IMAGES))),
    "saliency": images(lambda *net: jn.inspect.saliency(*net, IMAGES)),
    "integrated_gradients": images(lambda *net: jn.inspect.integrated_gradients(*net, IMAGES)),
    "occlusion": images(lambda *net: jn.inspect.occlusion(*net, IMAGES, size=4)),
    "class_activation_map": images(
        lambda *net: jn.inspect.class_activation_map(*net, IMAGES, path="maps")
    ),
    "activations": images(lambda *net: jn.inspect.activations(*net, IMAGES)),
    "generate": text(
        lambda net, params: jn.decoding.generate(net, params, [[1, 2]], KEY, length=3)
    ),
    "greedy": text(lambda net, params: jn.decoding.generate(
        net, params, [[1, 2]], KEY, length=3, temperature=0.0)),
    "evaluate": trained(lambda objective, data: jn.evaluate(
        objective, *objective.init(KEY, data), data)),
    "fit": trained(fit),
    "sweep": trained(lambda objective, data: jn.sweep(
        objective, lambda: optax.sgd(0.1), data, epochs=1, seeds=2, progress=False)),
    "recurrence": sequence,
    "pair": pair,
}  # fmt: skip


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in ("apply", "pair") else pytest.mark.slow)
    for name in USES
])  # fmt: skip
def test_what_was_used_and_dropped_is_gone(name):
    alive = [weakref.ref(USES[name]().apply) for _ in range(2)]
    gc.collect()
    assert not any(one() is not None for one in alive)


def test_programs_are_kept_while_the_net_lives():
    net = jn.models.decoder(11, depth=1, width=8, heads=2, mlp_features=8)
    params, _ = net.init(KEY, jn.spec((1, 1), int))
    write = partial(jn.decoding.generate, net, params, [[1, 2]], length=3)
    write(KEY)
    entries = len(memo_of(net.apply)._entries)
    write(jax.random.key(1))
    assert len(memo_of(net.apply)._entries) == entries > 0


def test_threads_share_a_memo():
    memo, failed = Memo(), []

    def hammer(seed):
        rng = np.random.default_rng(seed)
        try:
            for k in rng.integers(0, 100, 5_000):
                assert memo.of(int(k), lambda k=k: int(k)) == k
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=hammer, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and 0 < len(memo._entries) <= memo.size


@pytest.mark.parametrize("layer", [
    jn.compose(lambda m, x: m(jn.lora(jn.dense(2), 1, where="kernel"), x)),
    jn.unsupervised.autoencoder.with_code(jn.models.autoencoder(jn.dense(3), jn.dense(4))),
], ids=["lora", "with_code"])  # fmt: skip
def test_no_value_of_a_trace_stays(layer):
    with jax.checking_leaks():
        layer.init(KEY, X)
