"""Tries to lose work, to hang a run or to run a file, and prints a table of what came of it.

    python -m tools.stress --runs 200 --at-once 4
    python -m tools.stress --only signals --runs 500

The kinds are KeyboardInterrupt at lines that are drawn, real signals at times that are drawn,
requests to stop, processes of one run that differ, checkpoints and datasets with false contents,
files of strangers, calls with one bad argument, kills, and programs that call LAPACK, of which
several at once stood still once (`jaxnet/ops/linalg.py`). Outcomes:

    fine      the work goes on, or an error of ours says what happened
    named     the work is gone, and the error says so and what to write instead
    lost      the work is gone
    foreign   an error that is not ours
    deaf      the signal was lost, as Python loses those that come in a destructor
    imported  what was read made Python import a module
    silent    processes that did not do the same, and no word of it
    aborted   a process that was ended by a signal
    hanging   no outcome in time: the stacks are printed, and the rest is not tried
"""

import argparse
import atexit
import faulthandler
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments import random_projections
from jaxnet.inspect.gabor import gabor_fit
from jaxnet.services import preemption
from jaxnet.services.saving import read_tensors, write_file
from jaxnet.training.lock import Held
from jaxnet.unsupervised import sparse_coding
from tools import kills, scenarios

Program = tuple[Callable, tuple[Any, ...]]
Outcomes = Iterator[str]
OUTCOMES = "fine", "named", "lost", "foreign", "deaf", "imported", "silent", "aborted", "hanging"


# Programs that call LAPACK or FFT.


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def pursuit() -> Program:
    """A batch of matrices, as experiments.compressed_sensing has it."""
    solve = jax.vmap(partial(random_projections.basis_pursuit, steps=5))
    return solve, (normal(20, 15, 40), normal(20, 8, 15))


def codes() -> Program:
    """Two ensembles of sparse codes, independent of each other."""
    fista = jax.vmap(partial(sparse_coding.fista, penalty=0.1, steps=3))
    return (lambda d, x: (fista(d, x), fista(2 * d, x))), (normal(6, 12, 9), normal(6, 5, 9))


def drawn() -> Program:
    """Orthogonal kernels of several LSTMs for several keys."""
    net = jn.ensemble(jn.bidirectional(jn.lstm(6)), 4)
    return (lambda key: net.init(key, jn.spec((2, 5, 4)))), (jax.random.key(0),)


def warped() -> Program:
    """The augmentation of a training step."""
    change = jn.data.elastic(rotation=20, shear=10, scale=(0.8, 1.2), shift=2.0)
    return change, (jax.random.key(0), jnp.asarray(normal(16, 12, 12, 1)))


PROGRAMS: dict[str, Callable[[], Program]] = {
    "basis pursuit": pursuit,
    "sparse codes": codes,
    "orthogonal kernels": drawn,
    "elastic": warped,
}


def gabors() -> None:
    gabor_fit(normal(6, 8, 8))


def lapack(name: str, runs: int, rng: random.Random) -> Outcomes:
    run: Callable[[], Any] = gabors
    if name != "gabors":
        function, args = PROGRAMS[name]()
        run = partial(jax.jit(function), *args)
    for _ in range(runs):
        jax.block_until_ready(run())
        yield "fine"


# Interrupts.


class Work(NamedTuple):
    """What is interrupted, a check that raises if something is lost, and the files of the lines."""

    run: Callable[[], Any]
    check: Callable[[], Any]
    files: tuple[str, ...]


DEAF = 10  # seconds after which a signal counts as lost
DATA = np.ones((8, 3), np.float32), np.zeros((8, 2), np.float32)
LOOP = "trainer.py", "interrupts.py", "watch.py", "trees.py"


def small() -> tuple[jn.Trainer, jn.TrainState]:
    trainer = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.sgd(0.1))
    return trainer, trainer.init(jax.random.key(0), DATA)


def own_loop(folder: Path) -> Work:
    """A loop in the cell of a notebook, which is run again."""
    trainer, start = small()
    now = [start]

    def run():
        try:
            for _ in range(3):
                now[0], _ = trainer.step(now[0], DATA)
        except BaseException as error:
            sys.last_value = error
            raise

    def check():
        try:
            run()
        except RuntimeError as error:
            now[0] = jn.training.recover(error)
            if now[0] is None:
                now[0] = small()[1]
                raise

    return Work(run, check, LOOP)


def in_function(folder: Path) -> Work:
    """A loop in a function, whose caller has the train_state only at its end."""
    trainer, start = small()
    now = [start]

    def train(train_state):
        for _ in range(3):
            train_state, metrics = trainer.step(train_state, DATA)
            float(metrics["loss"])
        return train_state

    def run():
        try:
            now[0] = train(now[0])
        except BaseException as error:
            now[0] = jn.training.recover(error) or now[0]
            raise

    def check():
        try:
            run()
        except RuntimeError:
            now[0] = small()[1]
            raise

    return Work(run, check, LOOP)


def in_fit(folder: Path) -> Work:
    trainer, start = small()
    fit = partial(jn.fit, trainer, data=DATA, epochs=3, batch_size=4, progress=False)
    *_, calm = fit(train_state=start)
    seen: list[jn.Epoch] = []

    def run():
        seen.clear()
        for epoch in fit(train_state=start):
            seen.append(epoch)

    def check():
        if len(seen) < 3:
            last = seen[-1] if seen else calm._replace(train_state=start, position=None)
            seen.extend(fit(train_state=last.train_state, position=last.position))
        jax.tree.map(np.testing.assert_array_equal, seen[-1].train_state, calm.train_state)

    return Work(run, check, (*LOOP, "loop.py", "source.py"))


def in_save(folder: Path) -> Work:
    kept, last = jn.Checkpoints(folder / "kept", keep=2), [0]

    def run():
        last[0] += 1
        kept.save(scenarios.epoch(last[0]))

    def check():
        run()
        kept.close()
        assert scenarios.look(jn.Checkpoints(folder / "kept")) == last[0]
        Held("the next run", folder / "kept").close()

    files = "checkpoints.py", "lock.py", "threading.py", "saving.py", "stored.py", "files.py"
    return Work(run, check, files)


def in_generate(folder: Path) -> Work:
    net = jn.serial(jn.embedding(5, 8), jn.gru(8), jn.dense(5))
    params, _ = net.init(jax.random.key(0), jn.spec((1, 4), jnp.int32))
    run = partial(jn.decoding.generate, net, params, [[3]], length=6, temperature=0, progress=False)
    calm = run().tokens

    def check():
        np.testing.assert_array_equal(run().tokens, calm)

    return Work(run, check, ("generate.py", "stream.py", "trees.py", "memory.py"))


def signalled(call: Callable, seconds: float, number: int) -> bool:
    """Whether a signal that comes after some seconds ends calls that follow each other."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
    end = time.monotonic() + DEAF
    try:
        timer.start()
        while time.monotonic() < end:
            call()
        return False
    except (KeyboardInterrupt, Expired):
        timer.join()
        return True


class Expired(Exception):
    """What the handler of a user raises who limits the time."""


def expired(*_: Any) -> None:
    raise Expired


def interrupts(make: Callable, number: int, runs: int, rng: random.Random) -> Outcomes:
    """Signals of a number, or KeyboardInterrupt at lines if it is 0."""
    if number not in (0, signal.SIGINT):
        signal.signal(number, expired)
    from tests.training.test_interrupts import interrupted  # begins to use JAX, before any fork

    with tempfile.TemporaryDirectory() as folder:
        work = make(Path(folder))
        work.check()
        at, stride = 0, 1 if runs > 1000 else 7  # lines of a run; all of them, if runs suffice
        for _ in range(runs):
            outcome = "fine"
            try:
                if number:
                    heard = signalled(work.run, rng.uniform(0, 0.05), number)
                    outcome = "fine" if heard else "deaf"
                else:
                    hit = interrupted(work.run, work.files, at)
                    at = at + stride if hit else rng.randrange(stride)
            except Exception as error:
                outcome = f"foreign {error!r}"
            try:
                work.check()
            except Exception as error:
                named = "both are lost" in "".join(getattr(error, "__notes__", ()))
                outcome = "named" if named else f"lost {error!r}"
            yield outcome


# Requests to stop, while checkpoints are open.


class Workers:
    """Batches of a loader whose workers a signal ends too."""

    def __iter__(self) -> Iterator[Any]:
        for _ in range(10_000):
            yield DATA
            if preemption.asked():
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated")


def stopped(what: str, runs: int, rng: random.Random) -> Outcomes:
    """Each run saves what it has when SIGTERM or SIGHUP comes, and ends."""
    trainer, start = small()
    options: dict[str, Any] = {"epochs": 10**6, "batch_size": 8}
    if what in ("workers", "a loader"):
        options = {"steps": 10_000, "every": 5_000}
    if what == "arrays":
        options = {"steps": 10**6, "every": 10**5, "batch_size": 8}
    for _ in range(runs):
        number = rng.choice(preemption.SIGNALS)
        seen, folder, code = 0, Path(tempfile.mkdtemp()), None
        timer = threading.Timer(rng.uniform(0.005, 0.1), os.kill, (os.getpid(), number))
        batches = Workers() if what == "workers" else iter([DATA] * 10_000)
        passed: Any = DATA if what in ("arrays", "short passes") else batches
        found = None
        try:
            with jn.Checkpoints(folder) as kept:
                timer.start()
                if what == "an own loop":
                    found = alone_until_stopped(trainer)
                else:
                    for epoch in jn.fit(trainer, start, passed, progress=False, **options):
                        kept.save(epoch)
                        seen = epoch.step
        except SystemExit as error:
            code = error.code
        timer.join()
        if what != "an own loop":
            found, position = jn.Checkpoints(folder).newest(start)
            whole = position is not None and int(found.step) == seen
        else:
            whole = found is not None
        fine = whole and code == 128 + number
        yield "fine" if fine else f"lost code {code}, step {seen}"
        shutil.rmtree(folder, ignore_errors=True)


def alone_until_stopped(trainer: jn.Trainer) -> Any:
    """Train in a loop of one's own, and return what the exit leaves."""
    train_state = trainer.init(jax.random.key(0), DATA)
    try:
        while True:
            train_state, _ = trainer.step(train_state, DATA)
    except SystemExit as error:
        return jn.training.recover(error)


STOPS = "arrays", "short passes", "a loader", "workers", "an own loop"


# Processes that differ.

COUNTS = 2, 4


class Uneven:
    """The batches of a process, the last of which differs from the others."""

    def __init__(self, what: str, odd: bool, rows: int, mark: Callable):
        self.what, self.rows, self.mark = what if odd else "", rows, mark

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for i in range(6 if self.what == "more batches" else 5):
            rows = self.rows
            if i == 5 or (i == 3 and self.what in ("an error", "fewer rows")):
                self.mark()
                if self.what == "an error":
                    raise OSError("the disk is gone")
                rows //= 2 if self.what == "fewer rows" else 1
            yield np.ones((rows, 3), np.float32), np.zeros((rows, 2), np.float32)


def one_of(folder: Path, index: int, where: str, what: str, port: int, count: int) -> None:
    """What a process does."""
    jax.distributed.initialize(f"localhost:{port}", count, index, heartbeat_timeout_seconds=10)
    mesh, odd = jax.make_mesh((jax.device_count(),), ("data",)), index == count - 1

    def mark():
        (folder / "mark").write_text(str(time.time()), encoding="utf-8")

    loader = Uneven(what, odd, 8 // count, mark)
    data = jn.distributed.feed(loader, mesh, jax.P("data"))
    trainer, start = small()
    train_state = jn.distributed.put(start, mesh)

    def leaves(turn: int) -> bool:
        if turn < 1 or not odd or what not in LEAVES:
            return False
        mark()
        LEAVES[what]()
        return True

    if where == "fit":
        epochs = enumerate(jn.fit(trainer, train_state, data, epochs=3, progress=False))
        any(leaves(turn) for turn, _ in epochs)
        return
    for turn in range(3):
        if where == "evaluate":
            jn.evaluate(trainer.objective, train_state.params, train_state.state, data)
        else:
            for i, batch in enumerate(data):
                if i == 3 and leaves(turn):  # it owes the others a step
                    return
                train_state, _ = trainer.step(train_state, batch)
        if leaves(turn):
            break


# What one process alone does, or does otherwise than the others.
ALONE = "a save", "newest", "a constructor", "a put"
OTHERS = "shapes", "net", "seed", "data", "steps", "epochs", "folder", "end"
SLIPS = *(f"{what} of process 0" for what in ALONE), *(f"other {what}" for what in OTHERS)


def slip(folder: Path, index: int, what: str, port: int, count: int) -> None:
    """What a process does in a run in which one of them is elsewhere."""
    jax.distributed.initialize(f"localhost:{port}", count, index, heartbeat_timeout_seconds=10)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    other = what.removeprefix("other ") if index == count - 1 else ""
    alone = what.removesuffix(" of process 0") if index == 0 else ""
    x = np.ones((8, 4 if other == "shapes" else 3), np.float32) * (2 if other == "data" else 1)
    y = np.zeros((8, 2), np.float32)
    net = jn.serial(jn.dense(5 if other == "net" else 4), jn.dense(2))
    trainer = jn.trainer(jn.supervised(net, optax.squared_error), optax.sgd(0.1))
    start = trainer.init(jax.random.key(int(other == "seed")), (x, y))
    train_state, data = jn.distributed.put((start, (x, y)), mesh)
    length: dict[str, int] = {"epochs": 2 if other == "epochs" else 3}
    if "steps" in what:
        length = {"steps": 2 if other == "steps" else 3}
    kept = None
    if "constructor" not in what or alone:
        kept = jn.Checkpoints(folder / (f"kept{index}" if other == "folder" else "kept"))
    for epoch in jn.fit(trainer, train_state, data, batch_size=8, progress=False, **length):
        if alone == "a put":
            jn.distributed.put(start, mesh)
        elif alone == "newest":
            kept.newest(train_state)
        elif other == "end":
            break
        elif kept is not None and (alone or "a save" not in what):
            kept.save(epoch)
    if kept is not None:
        kept.close()


LEAVES: dict[str, Callable[[], Any]] = {
    "the end of its loop": lambda: None,
    "sys.exit": lambda: sys.exit(3),
    "os._exit": lambda: os._exit(3),
    "a kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}
UNEVEN = "more batches", "fewer rows", "an error", *LEAVES


def forked(folder: Path, index: int, *args: Any) -> int:
    """Starts a process, which needs no seconds to import JAX, and ends it as Python does."""
    if pid := os.fork():
        return pid
    said = os.open(folder / f"output.{index}", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(said, stream)

    def say(words):
        (folder / f"said.{index}").write_text(f"{time.time()} {words}", encoding="utf-8")

    code = 1
    try:
        (slip if len(args) == 3 else one_of)(folder, index, *args)
        say("nothing")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        sys.last_value = error
        say(f"{type(error).__name__}: {error} {getattr(error, '__notes__', '')}")
    atexit._run_exitfuncs()
    os._exit(code)


def processes(what: str, runs: int, rng: random.Random) -> Outcomes:
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    for run in range(runs):
        where, count = ("fit", "evaluate", "own loop")[run % 3], COUNTS[run % 4 == 3]
        kind: tuple[str, ...] = (where, what)
        if what in SLIPS:
            kind, count = (what,), COUNTS[run % 2]
        folder = Path(tempfile.mkdtemp())
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        begun = time.time()
        pids = [forked(folder, i, *kind, port, count) for i in range(count)]
        ends, by_signal = awaited(pids, begun)
        mark = begun
        if (folder / "mark").exists():
            mark = float((folder / "mark").read_text(encoding="utf-8"))
        texts = [
            path.read_text(encoding="utf-8").split(" ", 1) for path in sorted(folder.glob("said.*"))
        ]
        said = [words for _, words in texts]
        outcome, wrong = judged(what, said, len(ends) < count, by_signal and what != "a kill")
        seconds = max([float(at) for at, _ in texts], default=mark) - mark
        if what in SLIPS:
            seconds = max(ends, default=begun) - begun
        yield f"{outcome} {seconds:.1f} seconds, {kind} of {count}: {wrong}"
        shutil.rmtree(folder)


def awaited(pids: list[int], begun: float) -> tuple[list[float], bool]:
    """When each process ended, and whether a signal ended one; those that hang are killed."""
    ends: dict[int, float] = {}
    by_signal = False
    while len(ends) < len(pids) and time.time() < begun + QUIET:
        for pid in set(pids) - set(ends):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                ends[pid] = time.time()
                by_signal = by_signal or os.WIFSIGNALED(status)
        time.sleep(0.05)
    for pid in set(pids) - set(ends):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return [*ends.values()], by_signal


DIFFER = "the processes differ", "must share the folder", "another process ended"


def judged(what: str, said: list[str], hangs: bool, aborted: bool) -> tuple[str, list[str]]:
    """The outcome of a run by what its processes said, and what was not ours of it."""
    ours = *DIFFER, "the disk is gone", "nothing"
    wrong = [words for words in said if not any(one in words for one in ours)]
    told = any(one in words for words in said for one in DIFFER)
    kinds = {"hanging": hangs, "aborted": aborted, "foreign": wrong}
    kinds["silent"] = what in SLIPS and not told
    return next((name for name, is_so in kinds.items() if is_so), "fine"), wrong


# Files with false contents.


def falsified(value: Any, rng: random.Random) -> Any:
    """JSON with one entry, somewhere within, that is another value."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        return value | {name: falsified(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        i = rng.randrange(len(value))
        return [*value[:i], falsified(value[i], rng), *value[i + 1 :]]
    return rng.choice([None, 3, -1, "x", [], {}, [1], {"a": 1}, 10**9, True, 1.5, "evil.Feature",
                       "../../evil", "/etc/passwd", ["json:{"], [2**40]])  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    kind = rng.randrange(3)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    return content[:at] + rng.randbytes(9) + content[at:]


def checkpoints(runs: int, rng: random.Random) -> Outcomes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with jn.Checkpoints(folder / "good") as kept:
            for step in (1, 2):
                kept.save(scenarios.epoch(step))
        for _ in range(runs):
            shutil.rmtree(folder / "false", ignore_errors=True)
            shutil.copytree(folder / "good", folder / "false")
            file = folder / "false/2/0.safetensors"
            if rng.random() < 0.5:
                file.write_bytes(damaged(file.read_bytes(), rng))
            else:  # sealed: its checksums are right
                arrays, words = read_tensors("stress", file)
                notes, run = json.loads(words["jaxnet"]), json.loads(words["config"])
                what = rng.randrange(3)
                if what == 0:
                    name = rng.choice(list(arrays))
                    arrays[name] = np.ones(rng.choice([(), (1, 1), (3,), (9, 9)]), np.float32)
                write_file(
                    "stress",
                    file,
                    dict(arrays),
                    falsified(notes, rng) if what == 1 else notes,
                    falsified(run, rng) if what == 2 else run,
                )
            try:
                with warnings.catch_warnings(action="ignore"):
                    scenarios.look(jn.Checkpoints(folder / "false"))
                yield "fine"
            except (ValueError, OSError) as error:
                yield "fine" if str(error).startswith("Checkpoints") else f"foreign {error!r}"
            except AssertionError as error:
                yield f"lost {error!r}"
            except Exception as error:
                yield f"foreign {error!r}"


def datasets(runs: int, rng: random.Random) -> Outcomes:
    good = Path(os.environ["TFDS_DATA_DIR"]) / "orl_faces"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(good, folder / "orl_faces")
        (folder / "evil.py").write_text("class Feature: pass", encoding="utf-8")
        sys.path.insert(0, name)
        os.chdir(name)
        for _ in range(runs):
            file = folder / "orl_faces/2.0.0" / rng.choice(["features.json", "dataset_info.json"])
            content = file.read_bytes()
            changed = json.dumps(falsified(json.loads(content), rng)).encode()
            file.write_bytes(changed if rng.random() < 0.7 else damaged(content, rng))
            outcome = "fine"
            try:
                jn.data.tfds.load("orl_faces", "train[:2]", data_dir=name)
            except Exception as error:
                outcome = "fine" if str(error).startswith("tfds") else f"foreign {error!r}"
            yield "imported" if "evil" in sys.modules else outcome
            file.write_bytes(content)


def killed(name: str, runs: int, rng: random.Random) -> Outcomes:
    with tempfile.TemporaryDirectory() as folder:
        try:
            if name in kills.KINDS:
                kills.check(name, runs, rng.randrange(10**6), Path(folder))
            else:
                scenarios.SCENARIOS[name](Path(folder) / "runs", runs, rng.randrange(10**6))
            yield from ["fine"] * runs
        except AssertionError as error:
            yield f"lost {error!r}"


# Files of strangers, and calls with one bad argument.


def strangers(runs: int, rng: random.Random) -> Outcomes:
    """Every reader with every file of `tests.readers`, under an audit hook."""
    command = [sys.executable, "-m", "tests.readers", tempfile.mkdtemp()]
    environment = {name: value for name, value in os.environ.items() if name != "TFDS_DATA_DIR"}
    done = subprocess.run(command, cwd=kills.ROOT, env=environment, capture_output=True, text=True)
    for case, seen in json.loads(done.stdout.splitlines()[-1]).items():
        yield f"imported {case}: {seen}" if seen else "fine"


def bad_arguments(runs: int, rng: random.Random) -> Outcomes:
    """Calls of `tools.hostile`: an error of ours, a value that is right, or neither."""
    from tools import hostile

    everything = hostile.cases(hostile.good_calls())
    for case in rng.sample(everything, min(runs, len(everything))):
        found = hostile.outcome(case)
        kinds = {"foreign": "foreign", "wrong": "silent"}
        told = hostile.told(case, found) if found.what in kinds else ""
        yield f"{kinds.get(found.what, 'fine')} {told}".strip()


WORKS = {
    "own loops": own_loop,
    "functions": in_function,
    "fit": in_fit,
    "save": in_save,
    "generate": in_generate,
}
TRIES: dict[str, Callable[[int, random.Random], Outcomes]] = {
    **{f"lines of {name}": partial(interrupts, make, 0) for name, make in WORKS.items()},
    **{
        f"Ctrl-C in {name}": partial(interrupts, make, signal.SIGINT)
        for name, make in WORKS.items()
    },
    **{
        f"SIGALRM in {name}": partial(interrupts, make, signal.SIGALRM)
        for name, make in WORKS.items()
    },
    **{f"stopped: {what}": partial(stopped, what) for what in STOPS},
    **{f"processes: {what}": partial(processes, what) for what in (*UNEVEN, *SLIPS)},
    "false checkpoints": checkpoints,
    "false datasets": datasets,
    "files of strangers": strangers,
    "bad arguments": bad_arguments,
    **{f"kills: {name}": partial(killed, name) for name in [*kills.KINDS, *scenarios.SCENARIOS]},
    **{f"LAPACK: {name}": partial(lapack, name) for name in [*PROGRAMS, "gabors"]},
}
SECONDS = "seconds until all have raised: median, longest"
QUIET = 300  # seconds without an outcome, on a machine that others use too


def attempt(name: str, runs: int, seed: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup does
    for outcome in TRIES[name](runs, random.Random(seed)):
        if "processes" not in name:  # they are watched, and a fork would copy the watcher's locks
            faulthandler.dump_traceback_later(QUIET, exit=True)
        print(">", outcome.replace("\n", " ")[:400], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--only", default="", help="part of the names of the kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attempt", help="a kind, in this process")
    options = parser.parse_args()
    if options.attempt:
        attempt(options.attempt, options.runs, options.seed)
        return
    print(f"{'per 1,000':32}{'tried':>9}", *(f"{name:>9}" for name in OUTCOMES[1:]), "  ", SECONDS)
    bad = 0
    for name in [name for name in TRIES if options.only in name]:
        each = -(-options.runs // options.at_once)
        command = [sys.executable, "-m", "tools.stress", "--attempt", name, "--runs", str(each)]
        running = [
            subprocess.Popen(
                [*command, "--seed", str(options.seed + i)],
                stdout=subprocess.PIPE,
                text=True,
                cwd=kills.ROOT,
            )
            for i in range(options.at_once)
        ]
        tally: Counter[str] = Counter()
        seconds: list[float] = []
        for process in running:
            for line in process.stdout or ():
                if not line.startswith("> "):
                    continue
                _, outcome, *more = line.split()
                tally[outcome] += 1
                seconds += [float(more[0])] if more[1:2] == ["seconds,"] else []
                if outcome != "fine" and more:
                    print(line.rstrip(), file=sys.stderr, flush=True)
            tally["hanging"] += process.wait() != 0
        tried = max(sum(tally.values()), 1)
        shares = [f"{1000 * tally[one] / tried:9.3g}" for one in OUTCOMES[1:]]
        took = f"{np.median(seconds):.1f}, {max(seconds):.1f}" if seconds else ""
        print(f"{name:32}{tried:9,}", *shares, " ", took, flush=True)
        bad += sum(tally[one] for one in ("lost", "imported", "silent", "aborted", "hanging"))
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
