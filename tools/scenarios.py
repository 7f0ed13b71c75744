"""What must not cost a checkpoint: kills in a save, a full disk, a second writer, a reader.

    python -m tools.kills --scenario full_disk --runs 50

Each run ends with a check that `newest` returns a whole train_state, at least as new as the last
one of which a later save, or the end of the block, had said that it was written. The arrays are a
function of the step, so a mixture of two checkpoints is found.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn

ROOT = Path(__file__).parent.parent
SHAPE = 128, 64


def state(step: int) -> jn.TrainState:
    """A train_state whose arrays tell its step."""
    noise = np.random.default_rng(step).normal(size=SHAPE).astype(np.float32)  # nothing to compress
    return jn.TrainState(
        jnp.int32(step),
        {"kernel": jnp.asarray(noise), "bias": jnp.full(7, step, jnp.float32)},
        {},
        (optax.EmptyState(),),
        jnp.array([0, step], jnp.uint32),
    )


def epoch(step: int) -> jn.Epoch:
    position = jn.training.Position(step, 0, 0, 1)
    loss = {"loss": 1 / step}
    return jn.Epoch(step, None, state(step), loss, None, np.ones(1), 0.0, step, position=position)


def look(kept: jn.Checkpoints) -> int:
    """The newest step, 0 without one; raises unless it is whole and of one piece."""
    found, position = kept.newest(state(0))
    step = int(found.step)
    assert (position is None) == (step == 0)
    assert position is None or position.epoch == step
    jax.tree.map(np.testing.assert_array_equal, found, state(step))
    return step


# Kills in a save.


def write(folder: str) -> None:
    """Continues and saves without end; says which step it found, and which ones are written."""
    with jn.Checkpoints(folder, keep=2) as kept:
        step = look(kept)
        print("found", step, flush=True)
        while True:
            step += 1
            assert kept.save(epoch(step))
            print("saving", step, time.time(), flush=True)


def kill_in_save(folder: Path, runs: int, seed: int) -> None:
    rng = random.Random(seed)
    written = 0
    for _ in range(runs):
        with worker("--write", str(folder)) as process:
            wait = rng.randint(1, 4)
            for line in process.stdout or ():
                kind, number, *_ = line.split()
                if kind == "found":
                    assert int(number) >= written, f"{written} was written, found {number}"
                elif kind == "saving":
                    written = max(written, int(number) - 1)  # each save waits for the one before
                    wait -= 1
                if not wait:
                    break
            else:
                raise AssertionError("the writer ended by itself")
            time.sleep(rng.uniform(0, 0.06))  # somewhere in the save that goes on
            process.send_signal(signal.SIGKILL)
    assert not list(folder.glob("*.damaged"))
    assert look(jn.Checkpoints(folder)) >= written


# A full disk.


@contextmanager
def disk(place: Path, size: int) -> Iterator[Callable[[], Any]]:
    """A file system of a size, or a limit of a file's size where the user may not mount one.

    Yields a function that makes room.
    """
    options = f"size={size}"
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", place], capture_output=True
    ).returncode
    if mounted:
        try:
            yield lambda: subprocess.check_call(["mount", "-o", "remount,size=64m", place])
        finally:
            subprocess.run(["umount", "-l", place], check=True)
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size % 30_000, before[1]))
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full_disk(folder: Path, runs: int, seed: int) -> None:
    rng = random.Random(seed)
    for run in range(runs):
        place = folder / str(run)
        place.mkdir(parents=True)
        with disk(place, rng.randint(4, 400) * 4096) as make_room:
            written = step = 0
            try:
                with jn.Checkpoints(place / "kept", keep=100) as kept:
                    for step in range(1, 100):
                        kept.save(epoch(step))
                        written = step - 1
            except OSError as error:
                assert "cannot be written: " in str(error), error
            assert step < 99, "the disk was not full"
            make_room()
            with jn.Checkpoints(place / "kept", keep=100) as kept:
                found = look(kept)
                assert found >= written, f"{written} was written, found {found}"
                assert kept.save(epoch(found + 1))
            assert look(jn.Checkpoints(place / "kept")) == found + 1
            left = [p.name for p in (place / "kept").iterdir() if not p.name.isdecimal()]
            assert left == [".lock"], left


# Two writers, and a reader: workers that wait for orders, since JAX takes seconds to start.


def obey() -> None:
    """Does what the lines of the input say, and answers each with a line."""
    kept: Any = None
    for line in sys.stdin:
        what, folder = json.loads(line)
        try:
            if what == "write":
                kept = jn.Checkpoints(folder, keep=1)
                first = look(kept)
                for step in range(first + 1, first + 4):
                    kept.save(epoch(step))
                answer = "wrote"
            elif what == "close":
                kept.close()
                answer = "closed"
            else:
                reader = jn.Checkpoints(folder)
                answer = str(look(reader))
        except BlockingIOError as error:
            answer = str(error)
        print(json.dumps(answer), flush=True)


def two_writers(folder: Path, runs: int, seed: int) -> None:
    with worker("--obey") as first, worker("--obey") as second:
        both = first, second
        last = 0
        for _ in range(runs):
            for process in both:
                order(process, "write", folder)
            said = [answer(process) for process in both]
            assert sorted(words == "wrote" for words in said) == [False, True], said
            winner, loser = both if said[0] == "wrote" else both[::-1]
            told = said[both.index(loser)]
            assert f"is being written by process {winner.pid} on " in told, told
            order(winner, "close", folder)
            assert answer(winner) == "closed"
            found = look(jn.Checkpoints(folder))
            assert found == last + 3, f"{last + 3} was written, found {found}"
            last = found


def reader(folder: Path, runs: int, seed: int) -> None:
    with worker("--obey") as process:
        for _ in range(runs):
            with jn.Checkpoints(folder, keep=1) as kept:
                before = look(kept)
                order(process, "look", folder)
                for step in range(before + 1, before + 4):
                    assert kept.save(epoch(step))
                found = int(answer(process))
            assert before <= found <= before + 3
            assert look(jn.Checkpoints(folder)) == before + 3
            assert sorted(p.name for p in folder.iterdir()) == [".lock", str(before + 3)]


@contextmanager
def worker(*arguments: str) -> Iterator[subprocess.Popen]:
    paths = os.pathsep.join([str(ROOT), *sys.path])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "tools.scenarios", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def order(process: subprocess.Popen, what: str, folder: Path) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps([what, str(folder)]) + "\n")
    process.stdin.flush()


def answer(process: subprocess.Popen) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the worker died"
    return json.loads(line)


SCENARIOS: dict[str, Callable[[Path, int, int], None]] = {
    "kill_in_save": kill_in_save,
    "full_disk": full_disk,
    "two_writers": two_writers,
    "reader": reader,
}


def main(name: str, runs: int, seed: int) -> None:
    """Runs a scenario in a temporary folder, and says so."""
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        SCENARIOS[name](Path(place) / "runs", runs, seed)
        print(f"{name}: {runs} runs, nothing lost, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Checkpoints: .* is incomplete")
    obey() if sys.argv[1] == "--obey" else write(sys.argv[2])
