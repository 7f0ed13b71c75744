"""A SIGTERM while checkpoints are kept: the run saves, its loop ends, and the process exits."""

import os
import signal
import threading

import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training import preemption
from tests.training.conftest import KEY, Batches


def build():
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    trainer = jn.trainer(jn.supervised(jn.dense(1), optax.squared_error), optax.sgd(0.01))
    return trainer, trainer.init(KEY, (x, x[:, :1])), (x, x[:, :1])


@pytest.mark.parametrize("stream", [False, True])
def test_the_run_saves_and_ends(tmp_path, stream):
    trainer, train_state, data = build()
    if stream:
        data = Batches(*[tuple(a[i : i + 4] for a in data) for i in range(0, 64, 4)])
    seen, after = [], False
    with pytest.raises(SystemExit) as stopped:
        with jn.Checkpoints(tmp_path) as kept:
            run = jn.fit(trainer, train_state, data, steps=10**6, every=5, batch_size=4,
                         steps_per_dispatch=1)  # fmt: skip
            for epoch in run:
                kept.save(epoch)
                seen.append(epoch.step)
                if epoch.step == 10:
                    os.kill(os.getpid(), signal.SIGTERM)
        after = True
    assert stopped.value.code == 143 and not after
    assert seen == [5, 10, 11]  # one more step, and its epoch
    assert not preemption.asked() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with jn.Checkpoints(tmp_path) as kept:
        resumed, position = kept.newest(train_state)
    assert int(resumed.step) == 11 and position is not None and position.done == 11


def test_without_a_signal_nothing_happens():
    with preemption.listening():
        assert not preemption.asked()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_other_threads_are_left_alone():
    found = []

    def run():
        with preemption.listening():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
