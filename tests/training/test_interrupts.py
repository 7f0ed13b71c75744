"""Ctrl-C at any line: the next call is right, or says what is lost."""

import itertools
import os
import signal
import sys
import threading
import time

import jax
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training import interrupts, preemption
from jaxnet.training.lock import Held
from tests.training.conftest import Batches, started

DATA = np.ones((4, 3), np.float32), np.zeros((4, 2), np.float32)


def interrupted(call, files, at):
    """Whether `call` ran so far that KeyboardInterrupt could be raised at its line number `at`."""
    left = [at]

    def trace(frame, event, _):
        if not frame.f_code.co_filename.endswith(files):
            return None
        left[0] -= event == "line"
        if event == "line" and left[0] < 0:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.fixture
def trainer():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever ran before in this process
    yield jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.sgd(0.1))
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def train_state(trainer):
    return trainer.init(jax.random.key(0), DATA)


def test_an_interrupt_at_every_line_of_a_step(trainer):
    for at in itertools.count():
        train_state = trainer.init(jax.random.key(0), DATA)
        files = "trainer.py", "interrupts.py", "watch.py"
        if not interrupted(lambda start=train_state: trainer.step(start, DATA), files, at):
            break
        try:
            trainer.step(train_state, DATA)
        except (RuntimeError, ValueError) as error:  # by the version of JAX
            assert "both are lost: jn.fit yields" in "".join(error.__notes__)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert at > 20


def test_a_signal_after_the_donation_waits_for_the_next_step(trainer, train_state, monkeypatch):
    def interrupt(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trainer._cache.watcher, "stepped", interrupt)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train_state, _ = trainer.step(train_state, DATA)
            trainer.step(train_state, DATA)
    with pytest.raises(KeyboardInterrupt):  # or comes by itself
        train_state, _ = trainer.step(train_state, DATA)
        time.sleep(60)
    assert int(train_state.step) == 3 and not interrupts.is_spent(train_state)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_while_a_step_compiles_comes_at_once():
    ready = []

    def loss(outputs, targets):
        if ready:
            signal.raise_signal(signal.SIGINT)
        return optax.squared_error(outputs, targets)

    trainer, train_state = started(jn.dense(2), DATA, loss)
    ready.append(True)
    with pytest.raises(KeyboardInterrupt):
        trainer.step(train_state, DATA)
    assert not interrupts.is_spent(train_state)


def test_a_handler_of_the_user_is_called_as_late(trainer, train_state, monkeypatch):
    called = []
    before = signal.signal(signal.SIGINT, lambda *_: called.append(1))
    try:
        monkeypatch.setattr(trainer._cache.watcher, "stepped", lambda *_: os.kill(os.getpid(), 2))
        train_state, _ = trainer.step(train_state, DATA)
        assert not called
        trainer.step(train_state, DATA)
        assert called == [1]
    finally:
        time.sleep(3 * interrupts.LATE)
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("trainer")  # for its signals
def test_a_step_that_does_not_donate_or_runs_in_a_thread():
    trainer, train_state = started(jn.dense(2), DATA, optax.squared_error, donate=False)
    found = []
    thread = threading.Thread(target=lambda: found.append(trainer.step(train_state, DATA)))
    thread.start()
    thread.join()
    [(after, _)] = found
    assert int(after.step) == 1
    assert not interrupts.is_spent(train_state)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file left open
def test_an_interrupt_at_every_line_of_a_save(trainer, train_state, tmp_path):
    epochs = list(jn.fit(trainer, train_state, DATA, epochs=3))
    files = "checkpoints.py", "lock.py", "threading.py", "saving.py", "stored.py", "files.py"

    def save(kept):
        kept.save(epochs[1])

    def best(kept):
        kept.best(train_state)

    for number, call in enumerate((save, best, jn.Checkpoints.close)):
        for at in itertools.count(number, 7):
            folder = tmp_path / f"{number}.{at}"
            kept = jn.Checkpoints(folder, best="train/loss")
            kept.save(epochs[0])
            hit = interrupted(lambda call=call, kept=kept: call(kept), files, at)
            kept.save(epochs[2])
            kept.close()
            newest, _ = jn.Checkpoints(folder).newest(train_state)
            assert int(newest.step) == 3
            Held("the next run", folder).close()
            if not hit:
                break


def test_an_interrupt_at_every_line_of_feed():
    mesh = jax.make_mesh((1,), ("data",))
    for at in itertools.count():
        fed = iter(jn.distributed.feed([np.ones((4, 3))] * 2, mesh, jax.P("data")))
        hit = interrupted(lambda fed=fed: list(fed), ("feed.py", "threading.py"), at)
        assert len(list(fed)) <= 2 and not list(fed)
        if not hit:
            break


def build():
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    data = x, x[:, :1]
    return *started(jn.dense(1), data, optax.squared_error, optax.sgd(0.01)), data


@pytest.mark.parametrize(
    ("stream", "number"),
    [(False, signal.SIGTERM), (True, signal.SIGTERM), (False, signal.SIGHUP)],
)
def test_the_run_saves_and_ends(tmp_path, stream, number):
    trainer, train_state, data = build()
    if stream:
        data = Batches(*[tuple(a[i : i + 4] for a in data) for i in range(0, 64, 4)])
    seen, after = [], False
    with pytest.raises(SystemExit) as stopped:
        with jn.Checkpoints(tmp_path) as kept:
            options = {"every": 5, "batch_size": 4, "steps_per_dispatch": 1}
            for epoch in jn.fit(trainer, train_state, data, steps=10**6, **options):
                kept.save(epoch)
                seen.append(epoch.step)
                if epoch.step == 10:
                    os.kill(os.getpid(), number)
        after = True
    assert stopped.value.code == 128 + number and not after
    assert seen == [5, 10, 11]  # one more step, and its epoch
    assert not preemption.asked() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with jn.Checkpoints(tmp_path) as kept:
        resumed, position = kept.newest(train_state)
    assert int(resumed.step) == 11
    assert position is not None
    assert position.done == 11


def test_a_signal_that_is_ignored_stays_so():
    """As SIGHUP is under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with preemption.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not preemption.asked()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


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
