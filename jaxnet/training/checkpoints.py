"""Checkpoints of a run: written by orbax while training goes on, whole or not at all.

Orbax writes each process's part of the arrays and makes a checkpoint appear at once. What is here
decides which are kept, notes a checksum of each, and says which one is damaged, half written or of
another model.
"""

import base64
import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxnet.checks import at_least, one_of
from jaxnet.core import path_name
from jaxnet.extras import extra
from jaxnet.files import file_path, replacing
from jaxnet.training import preemption
from jaxnet.training.epoch import Epoch, Place
from jaxnet.training.placement import agreed
from jaxnet.training.trainer import TrainState
from jaxnet.warn import warn

SUMS = "checksums.json"  # of the files of a checkpoint, beside them
HALF = ".orbax-checkpoint-tmp"  # how orbax names what it has not finished


class Checkpoints:
    """The checkpoints of a run, one folder each, in a folder; a context manager.

    `save` copies the train_state and lets the loop go on while it is written. In several processes
    each writes its own part, so all must call it, and the folder must be one that all see.

    While the `with` block is open, a SIGTERM (of Slurm, Kubernetes, a preempted machine) does not
    end the process: `fit` yields once more at the next step, its loop ends, what was saved is
    written, and the process exits with code 143.

    Args:
      folder: such as "runs/a"; made where it is missing.
      keep: number of newest checkpoints to keep.
      best: a name among `epoch.scalars()`, such as "test/loss": the best by it is kept as well.
      mode: "min" or "max", which values of `best` are better.

    Raises:
      ImportError: without orbax-checkpoint, of the extra "runs".
      ValueError: for another mode, and less than one checkpoint to keep.

    Example:
      >>> import tempfile
      >>> data = jnp.ones((8, 3)), jnp.ones((8, 2))
      >>> trainer = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.sgd(0.1))
      >>> train_state = trainer.init(jax.random.key(0), data)
      >>> with Checkpoints(tempfile.mkdtemp(), best="train/loss") as kept:
      ...     train_state, place = kept.newest(train_state)
      ...     for epoch in jn.fit(trainer, train_state, data, epochs=2, place=place):
      ...         _ = kept.save(epoch)
      ...     train_state, place = kept.newest(train_state)
      >>> int(train_state.step), place.epoch
      (2, 2)
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        keep: int = 3,
        best: str | None = None,
        mode: str = "min",
    ):
        at_least("Checkpoints", "keep", keep)
        one_of("Checkpoints", "mode", mode, ["min", "max"])
        if not (best is None or isinstance(best, str)):
            raise TypeError(f"Checkpoints: best must name a metric, got {best!r:.60}")
        self._orbax = extra("orbax.checkpoint", "orbax-checkpoint", "Checkpoints", "runs")
        self.folder = Path(os.path.abspath(file_path("Checkpoints", folder, "folder")))
        self._name, self._mode = best, mode
        self._report_half_written()
        policy = self._orbax.checkpoint_managers
        policies = [policy.LatestN(keep)]
        if best is not None:
            of = {"get_metric_fn": self._score, "reverse": mode == "min", "n": 1}
            policies.append(policy.BestN(**of))
        options = self._orbax.CheckpointManagerOptions(
            preservation_policy=policy.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
        )
        self._manager = self._orbax.CheckpointManager(self.folder, options=options)
        self._sums: threading.Thread | None = None
        self._stack = ExitStack()

    def save(self, epoch: Epoch) -> bool:
        """Saves the train_state and place of an epoch; returns whether it was not there yet.

        Raises:
          TypeError: for something else than an Epoch.
          ValueError: where the epoch has no metric of the name that `best` asks for.
        """
        if not isinstance(epoch, Epoch):
            raise TypeError(f"Checkpoints.save: expected an Epoch, got {type(epoch).__name__}")
        scalars = epoch.scalars()
        if self._name is not None and self._name not in scalars:
            raise ValueError(
                f"Checkpoints.save: best={self._name!r} is not among the epoch's scalars: "
                f"{', '.join(scalars)}"
            )
        if epoch.step in self._manager.all_steps():
            return False
        place = epoch.place or Place(epoch.number, 0, 0, 0)
        run = {
            "place": _place_to_json(place),
            "leaves": _described(epoch.train_state),
            "processes": jax.process_count(),
        }
        args = self._orbax.args
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        self._join()
        saved = self._manager.save(
            epoch.step,
            args=args.Composite(
                train_state=args.StandardSave(epoch.train_state), run=args.JsonSave(run)
            ),
            metrics=finite,
            force=True,
        )
        if jax.process_index() == 0:
            self._sums = threading.Thread(target=self._note_sums, args=(epoch.step,), daemon=True)
            self._sums.start()
        return bool(saved)

    def newest(self, like: TrainState) -> tuple[TrainState, Place | None]:
        """The newest train_state and its place; `like` and None where there is no checkpoint.

        Args:
          like: a train_state, or its specs, of the same structure and shapes; arrays come to where
            those of `like` lie.

        Raises:
          ValueError: for checkpoints of another model, by the paths that differ, and where all of
            them are damaged; one that is damaged is named in a warning, set aside and passed over.
        """
        steps = sorted(self._steps(), reverse=True)
        for step in steps:
            if (problem := self._damage(step)) is None:
                return self._restore(step, like)
            self._set_aside(step, problem)
        if steps:
            raise ValueError(
                f"Checkpoints: all checkpoints in {self.folder} were damaged; they were renamed to "
                "end in .damaged, so that another call starts from the beginning"
            )
        return like, None

    def best(self, like: TrainState) -> tuple[TrainState, Place | None]:
        """The train_state with the best value of the metric, and its place; else as `newest`.

        Raises:
          ValueError: as `newest`; where no metric was named, where there is no checkpoint, and
            where the best one is damaged.
        """
        if self._name is None:
            raise ValueError('Checkpoints.best: name a metric: Checkpoints(..., best="test/loss")')
        steps = self._steps()
        if not steps:
            raise ValueError(f"Checkpoints.best: there is no checkpoint in {self.folder}")
        sign = 1 if self._mode == "max" else -1
        step = max(steps, key=lambda step: sign * self._score(self._manager.metrics(step)))
        if (problem := self._damage(step)) is not None:
            raise ValueError(f"Checkpoints.best: {self.folder / str(step)} is damaged: {problem}")
        return self._restore(step, like)

    def close(self) -> None:
        """Waits until all is written."""
        self._join()
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        self._stack.enter_context(preemption.listening())
        return self

    def __exit__(self, *error: Any) -> None:
        with self._stack:  # which exits the process where it was asked to stop
            self.close()

    def _score(self, metrics: Any) -> float:
        """The value of the named metric; one that is not finite is the worst."""
        worst = math.inf if self._mode == "min" else -math.inf
        return float((metrics or {}).get(self._name, worst))

    def _steps(self) -> list[int]:
        self._join()
        self._manager.wait_until_finished()
        return list(self._manager.all_steps())

    def _join(self) -> None:
        if self._sums is not None:
            self._sums.join()

    def _note_sums(self, step: int) -> None:
        """Writes the checksums of a checkpoint once it is whole, in a thread."""
        while self._manager.is_saving_in_progress():
            time.sleep(0.02)
        with suppress(OSError):  # such as where it was removed meanwhile
            place = self.folder / str(step)
            sums = json.dumps(dict(_sums(place))).encode()
            with replacing("Checkpoints", place / SUMS) as file:
                file.write(sums)

    def _damage(self, step: int) -> str | None:
        """What is wrong with the files of a checkpoint, the same in all processes."""
        problem = _difference(self.folder / str(step)) if jax.process_index() == 0 else None
        damaged, _ = agreed(problem is not None, False)
        return (problem or "its files were changed") if damaged else None

    def _set_aside(self, step: int, problem: str) -> None:
        place = self.folder / str(step)
        aside = place.with_name(f"{step}.damaged")
        warn(
            f"Checkpoints: {place} is damaged and passed over ({problem}); it is renamed to "
            f"{aside.name}"
        )
        if jax.process_index() == 0:
            place.rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("a damaged checkpoint was set aside")
        self._manager.reload()

    def _report_half_written(self) -> None:
        for place in sorted(self.folder.glob(f"*{HALF}*")):
            warn(
                f"Checkpoints: {place} is half written, since its writer was stopped; it is "
                "removed, and the one before it counts"
            )

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, Place]:
        if not isinstance(like, TrainState):
            raise TypeError(
                "Checkpoints: like must be a TrainState, as trainer.init returns it, got "
                f"{type(like).__name__}"
            )
        args = self._orbax.args
        only_run = args.Composite(run=args.JsonRestore())
        run = self._manager.restore(step, args=only_run)["run"]
        if differences := _compared(run["leaves"], _described(like)):
            raise ValueError(
                f"Checkpoints: {self.folder / str(step)} is of another model:\n"
                + "\n".join(f"  {line}" for line in differences)
                + "\nName another folder for this one"
            )
        wanted = args.Composite(train_state=args.StandardRestore(jax.tree.map(_spec, like)))
        train_state = self._manager.restore(step, args=wanted)["train_state"]
        return train_state, _place_from_json(run["place"], run["processes"])


def _spec(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _described(train_state: TrainState) -> dict[str, str]:
    """Shape and dtype of each array, by path."""
    named = jax.tree_util.tree_leaves_with_path(train_state)
    return {path_name(path): f"{tuple(leaf.shape)} {leaf.dtype}" for path, leaf in named}


def _compared(stored: dict[str, str], wanted: dict[str, str]) -> list[str]:
    found = []
    for path in wanted | stored:  # in the order of the train_state
        have, need = (of.get(path, "nothing") for of in (stored, wanted))
        if have != need:
            found.append(f"{path}: needs {need}, has {have}")
    return found[:8] + ([f"and {len(found) - 8} more"] if len(found) > 8 else [])


def _sums(place: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(place.rglob("*")):
        if file.is_file() and file.name != SUMS:
            with open(file, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            yield file.relative_to(place).as_posix(), digest


def _difference(place: Path) -> str | None:
    """How a checkpoint differs from its checksums; without them orbax alone vouches for it."""
    try:
        stored = json.loads((place / SUMS).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return f"{SUMS} is broken"
    found = dict(_sums(place))
    missing = sorted(stored.keys() - found.keys())
    changed = sorted(name for name in stored if name in found and stored[name] != found[name])
    for word, names in (("is missing", missing), ("was changed", changed)):
        if names:
            return f"{names[0]} {word}" + (f", and {len(names) - 1} more" if names[1:] else "")
    return None


def _place_to_json(place: Place) -> dict[str, Any]:
    key = None if place.key is None else np.asarray(place.key).tolist()
    return place._asdict() | {"key": key, "loader": _of_all_processes(_state_to_text(place.loader))}


def _place_from_json(stored: dict[str, Any], processes: int) -> Place:
    key, loaders = stored["key"], stored["loader"]
    now = jax.process_count()
    if processes != now and any(loader is not None for loader in loaders):
        raise ValueError(
            f"Checkpoints: the run read its data in {processes} processes, each at its own place, "
            f"and there are {now}; resume with {processes}, or pass place=None to start its pass "
            "again"
        )
    loader = loaders[jax.process_index()] if processes == now else None
    return Place(**stored)._replace(
        key=None if key is None else np.array(key, np.uint32),
        loader=None if loader is None else _state_from_text(loader),
    )


def _state_to_text(state: Any) -> str | None:
    """The state of an iterator: bytes, or what JSON holds."""
    if state is None:
        return None
    if isinstance(state, bytes):
        return "bytes:" + base64.b64encode(state).decode()
    try:
        return "json:" + json.dumps(state, default=_number)
    except TypeError as error:
        raise TypeError(
            f"Checkpoints.save: the state of the loader must be bytes or JSON: {error}"
        ) from None


def _number(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"got {type(value).__name__}")


def _state_from_text(text: str) -> Any:
    kind, _, words = text.partition(":")
    return base64.b64decode(words) if kind == "bytes" else json.loads(words)


def _of_all_processes(text: str | None) -> list[str | None]:
    """The text of each process, by its index."""
    if jax.process_count() == 1:
        return [text]
    words = np.frombuffer(b"" if text is None else text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(words))).ravel()
    padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
    padded[: len(words)] = words
    rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    texts = [bytes(row[:n]).decode() for row, n in zip(rows, lengths, strict=True)]
    return [each or None for each in texts]
