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
from jaxnet.services import preemption
from jaxnet.training import interrupts
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


@pytest.fixture
def heard():
    """Take a signal that the process ignores, as under nohup, for the time of a test."""
    before = {}

    def hear(number):
        before[number] = signal.signal(number, signal.SIG_DFL)

    yield hear
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("stream", "number"),
    [(False, signal.SIGTERM), (True, signal.SIGTERM), (False, signal.SIGHUP)],
)
def test_the_run_saves_and_ends(tmp_path, stream, number, heard):
    heard(number)
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


def in_a_function(trainer, train_state, end, steps=10**6):
    """A usual form of loop, whose caller has the train_state only at its end."""
    for number in range(steps):
        train_state, metrics = trainer.step(train_state, DATA)
        float(metrics["loss"])
        end(number)
    return train_state


def test_an_interrupt_in_a_function_leaves_the_train_state(trainer, train_state):
    def end(number):
        if number == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        train_state = in_a_function(trainer, train_state, end)
    found = jn.training.recover(caught.value)
    assert int(found.step) == 5
    in_a_function(trainer, found, end, steps=2)
    assert jn.training.recover(ValueError()) is None


def test_a_used_up_train_state_is_told_with_the_newest(trainer, train_state, monkeypatch):
    """As in a notebook, where the cell is run again after Ctrl-C."""
    try:
        in_a_function(trainer, train_state, lambda number: number < 2 or 1 / 0)
    except ZeroDivisionError as error:
        monkeypatch.setattr(sys, "last_value", error, raising=False)
    with pytest.raises((RuntimeError, ValueError)) as told:
        trainer.step(train_state, DATA)
    notes = "".join(told.value.__notes__)
    assert "of step 3 is not lost; write train_state = jn.training.recover" in notes
    assert int(jn.training.recover(told.value).step) == 3


def test_the_train_state_of_another_net_is_not_offered(trainer, train_state, monkeypatch):
    _, another = started(jn.serial(jn.dense(5), jn.dense(2)), DATA, optax.squared_error)
    error = KeyboardInterrupt()
    error.train_state = another
    monkeypatch.setattr(sys, "last_value", error, raising=False)
    trainer.step(train_state, DATA)
    with pytest.raises((RuntimeError, ValueError)) as told:
        trainer.step(train_state, DATA)
    assert not interrupts.is_spent(another)
    assert "both are lost" in "".join(told.value.__notes__)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM, signal.SIGUSR1, signal.SIGTERM])
def test_a_handler_that_raises_loses_no_train_state(number, trainer, train_state):
    """For example a limit of time, and an exit on SIGTERM."""

    def end(*_):
        raise TimeoutError

    before = signal.signal(number, end)
    interrupts._handled.calls = 0  # look for new handlers
    try:
        for turn in range(20):
            try:
                threading.Timer(0.005 + 0.001 * turn, os.kill, (os.getpid(), number)).start()
                in_a_function(trainer, train_state, lambda number: None)
            except TimeoutError as error:
                train_state = jn.training.recover(error)
    finally:
        signal.signal(number, before)
    assert not interrupts.is_spent(train_state)


def test_a_loop_of_ones_own_ends_inside_open_checkpoints(trainer, train_state, tmp_path, capsys):
    def end(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped, jn.Checkpoints(tmp_path):
        try:
            in_a_function(trainer, train_state, end)
        except SystemExit as error:
            found = jn.training.recover(error)
            raise
    assert int(found.step) == 4 and stopped.value.code == 143
    assert "step: SIGTERM asked this run to stop; what was trained since" in capsys.readouterr().err


@pytest.mark.parametrize("late", [False, True])
def test_a_loader_that_a_signal_ends_with_its_workers_stops_the_run(
    late, trainer, train_state, tmp_path
):
    class Workers(Batches):
        def __iter__(self):
            yield from [*super().__iter__()][:3]
            kill = threading.Timer(0.1 * late, os.kill, (os.getpid(), signal.SIGTERM))
            kill.start()
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated")

    data = Workers(*[tuple(a for a in DATA)] * 9)
    with pytest.warns(UserWarning, match="worker .* so the run stops before it"):
        with pytest.raises(SystemExit), jn.Checkpoints(tmp_path) as kept:
            for epoch in jn.fit(trainer, train_state, data, epochs=2, progress=False):
                kept.save(epoch)
    found, position = jn.Checkpoints(tmp_path).newest(train_state)
    assert int(found.step) == position.done == 3


@pytest.mark.parametrize("name", ["evaluate", "predict", "generate", "sweep"])
def test_other_drivers_say_what_is_lost(name, trainer, train_state, tmp_path, capsys):
    objective = jn.supervised(jn.dense(2), optax.squared_error)
    ids = jn.serial(jn.embedding(5, 8), jn.gru(8), jn.dense(5))
    words, _ = ids.init(jax.random.key(0), jn.spec((1, 4), jax.numpy.int32))
    params = train_state.params
    calls = {
        "evaluate": lambda: jn.evaluate(objective, params, {}, Batches(DATA, DATA)),
        "predict": lambda: jn.predict(jn.dense(2), params, {}, DATA[0]),
        "generate": lambda: jn.decoding.generate(ids, words, [[3]], length=6, temperature=0),
        "sweep": lambda: jn.sweep(
            objective, optax.sgd, DATA, epochs=2, grid={"learning_rate": [0.1]}, batch_size=4
        ),
    }
    with pytest.raises(SystemExit) as stopped, jn.Checkpoints(tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
        calls[name]()
    assert stopped.value.code == 143
    assert f"{name}: SIGTERM asked this run to stop; " in capsys.readouterr().err
