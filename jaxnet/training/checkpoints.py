"""Save checkpoints of a run atomically and in the background, with orbax.

Orbax writes each process's part of the arrays, and renames the folder of a step at the end. This
module decides who may write and which steps are kept, and finds steps that are damaged or belong to
another run.
"""

import errno
import gc
import logging
import math
import os
import shutil
import threading
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.checks import at_least, check_type, one_of
from jaxnet.services.extras import extra
from jaxnet.services.files import file_path, told
from jaxnet.services.lock import Held
from jaxnet.services.trees import PyTree
from jaxnet.services.warn import warn
from jaxnet.training import preemption
from jaxnet.training.epoch import Epoch, Position
from jaxnet.training.placement import agreed
from jaxnet.training.stored import (
    SUMS,
    by_first,
    check_like,
    damage,
    position_from_json,
    read_run,
    run_to_json,
    seal,
)
from jaxnet.training.trainer import TrainState

HALF = ".orbax-checkpoint-tmp"  # how orbax marks unfinished folders
LOGGERS = "absl", "asyncio"  # loggers of orbax's threads
REMOVED = ".removed"  # how we mark folders that are being removed
_LIKE = "a TrainState, as trainer.init returns it"


class Checkpoints:
    """A context manager that saves the checkpoints of a run in a folder and restores them.

    `save` copies the train_state and writes it in the background while the loop continues. If a run
    has several processes, each writes its own part. All of them must call `save`, and all must have
    access to the folder.

    Inside the `with` block, SIGTERM (sent by Slurm, Kubernetes or a preempted machine) does not
    kill the process. `fit` finishes the current step and yields once more. Pending checkpoints are
    written, and the process exits with code 143.

    Only one run at a time can write to a folder. The first `save` takes a lock until `close` or
    until the process ends, even if it is killed. If a second run saves, it raises an error that
    names the first. The lock also works between hosts if the file system supports it, as NFS 4
    does. Reading needs no lock and changes nothing in the folder.

    Args:
      folder: Folder such as "runs/a"; the first `save` creates it.
      keep: Number of newest checkpoints to keep.
      best: Name of an entry of `epoch.scalars()`, such as "evaluation/loss". The checkpoint with
        the best value is kept as well.
      mode: Whether the lowest ("min", the default) or the highest ("max") value of `best` is the
        best.

    Raises:
      ImportError: If orbax-checkpoint (extra "runs") is not installed.
      NotADirectoryError: If `folder` is a file.
      ValueError: If `mode` is not "min" or "max".
      ValueError: If `keep` is below 1.

    Example:
      >>> import tempfile
      >>> data = jnp.ones((8, 3)), jnp.ones((8, 2))
      >>> trainer = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.sgd(0.1))
      >>> train_state = trainer.init(jax.random.key(0), data)
      >>> with Checkpoints(tempfile.mkdtemp(), best="train/loss") as kept:
      ...     train_state, position = kept.newest(train_state)
      ...     for epoch in jn.fit(trainer, train_state, data, epochs=2, position=position):
      ...         _ = kept.save(epoch)
      ...     train_state, position = kept.newest(train_state)
      >>> int(train_state.step), position.epoch
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
        for path in (self.folder, *self.folder.parents):
            if path.exists() and not path.is_dir():
                raise NotADirectoryError(f"Checkpoints: {path} is a file; name a folder")
        self._keep, self._name, self._mode = keep, best, mode
        self._at: int | None = None  # the step that the run of this object has reached
        self._damaged: set[int] = set()  # steps that `newest` skipped
        self._scores: dict[int, float] = {}
        self._held: Held | None = None  # held by the first process
        self._writer: Any = None  # orbax's manager, created by the first save
        self._writing = 0  # the step that is being saved
        self._thread: threading.Thread | None = None  # waits until the step is written
        self._error: BaseException | None = None  # raised in that thread
        self._stack = ExitStack()

    def save(self, epoch: Epoch) -> bool:
        """Save the train_state and position of an epoch.

        Args:
          epoch: Epoch of `fit`.

        Returns:
          True if it was saved, False if the folder already has this train_state.

        Raises:
          TypeError: If `epoch` is not an Epoch.
          ValueError: If the epoch does not have the metric `best`.
          ValueError: If the folder has checkpoints of another run, or later ones, that the epoch
            does not continue: name a new folder, or continue from `newest`.
          BlockingIOError: If another run is writing to the folder; an OSError in several processes.
          OSError: If the folder cannot be written, or this or the last checkpoint could not, for
            example because the disk is full. The earlier ones stay whole.
        """
        if not isinstance(epoch, Epoch):
            raise TypeError(f"Checkpoints.save: expected an Epoch, got {type(epoch).__name__}")
        scalars = epoch.scalars()
        if self._name is not None and self._name not in scalars:
            raise ValueError(
                f"Checkpoints.save: best={self._name!r} is not among the epoch's scalars: "
                f"{', '.join(scalars)}"
            )
        self._wait()
        if not self._is_new(epoch, by_first(self._prepared)):
            return False
        position = epoch.position or Position(epoch.number, 0, epoch.step, 0)
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        run = run_to_json(epoch.train_state, position, finite)
        self._scores.pop(epoch.step, None)
        args = self._orbax.args
        args = args.Composite(
            train_state=args.StandardSave(epoch.train_state), run=args.JsonSave(run)
        )
        self._writing = epoch.step
        self._clear()  # in case Ctrl-C interrupted an earlier save
        try:
            self._open().save(self.folder / str(epoch.step), args=args)
        except Exception as error:
            self._error = error
            self._clear()
            self._wait()
        self._thread = threading.Thread(target=self._finish)
        self._thread.start()
        return True

    def newest(self, like: TrainState) -> tuple[TrainState, Position | None]:
        """Return the newest train_state and its position, or `like` and None in an empty folder.

        A damaged checkpoint is named in a warning and skipped; the next `save` renames it to end in
        ".damaged".

        Args:
          like: Train_state, or its specs, of the same structure and shapes; arrays are put on the
            devices of the arrays of `like`.

        Raises:
          TypeError: If `like` is not a TrainState.
          ValueError: If the checkpoints belong to a different model, optimizer or version of
            jaxnet.
          ValueError: If all of them are damaged.
        """
        check_type("Checkpoints", "like", like, TrainState, _LIKE)
        self._wait()
        passed: set[int] = set()
        while steps := [step for step in self._steps() if step not in passed]:
            # Listed again each time, since a run that is writing may have removed some.
            step = max(steps)
            passed.add(step)
            found = self._read(step, like)
            if not isinstance(found, str):
                return found
            if step in self._steps():
                self._damaged.add(step)
                warn(
                    f"Checkpoints: {self.folder / str(step)} is damaged and skipped ({found}); "
                    f"the next save renames it to {step}.damaged"
                )
        if passed:
            raise ValueError(
                f"Checkpoints: all checkpoints in {self.folder} are damaged. Name another folder, "
                "or remove this one, to start from the beginning"
            )
        return like, None

    def best(self, like: TrainState) -> tuple[TrainState, Position | None]:
        """Return the train_state with the best value of the metric, and its position.

        Args:
          like: As for `newest`.

        Raises:
          TypeError: If `like` is not a TrainState.
          ValueError: If no metric was named, or if there is no checkpoint.
          ValueError: If the best checkpoint is damaged, or does not fit, as in `newest`.
        """
        check_type("Checkpoints", "like", like, TrainState, _LIKE)
        if self._name is None:
            raise ValueError(
                'Checkpoints.best: name a metric: Checkpoints(..., best="evaluation/loss")'
            )
        self._wait()
        while True:
            step = by_first(lambda: self._best_of(self._listed()))
            if step is None:
                raise ValueError(f"Checkpoints.best: there is no checkpoint in {self.folder}")
            found = self._read(step, like)
            if not isinstance(found, str):
                return found
            if step in self._steps():  # not removed meanwhile by a run that is writing
                path = self.folder / str(step)
                raise ValueError(f"Checkpoints.best: {path} is damaged: {found}")

    def close(self) -> None:
        """Wait until all is written, and release the lock.

        Raises:
          OSError: If the last checkpoint could not be written.
        """
        try:
            self._wait()
        finally:
            if self._writer is not None:
                self._drop()
            if self._held is not None:
                self._held.close()
                self._held = None

    def __enter__(self) -> "Checkpoints":
        self._stack.enter_context(preemption.listening())
        return self

    def __exit__(self, *error: Any) -> None:
        with self._stack:  # exits the process if it was asked to stop
            self.close()

    def _listed(self) -> list[int]:
        with suppress(FileNotFoundError):
            folders = [path for path in self.folder.iterdir() if path.is_dir()]
            return sorted(int(path.name) for path in folders if path.name.isdecimal())
        return []

    def _steps(self) -> list[int]:
        """Return the steps in the folder, the same in all processes."""
        return by_first(self._listed)

    def _score(self, step: int) -> float:
        """Return the value of the named metric, larger is better; if not finite, the worst."""
        if step not in self._scores:
            self._scores[step] = -math.inf
            with suppress(OSError, ValueError, KeyError, TypeError):
                found = float(read_run(self.folder / str(step))["scalars"][self._name])
                self._scores[step] = found if self._mode == "max" else -found
        return self._scores[step]

    def _best_of(self, steps: list[int]) -> int | None:
        return max(steps, key=self._score, default=None)

    def _prepared(self) -> list[int]:
        """Return the steps in the folder, after taking the lock and moving broken ones aside."""
        if self._held is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._told(error) from None
            self._held = Held("Checkpoints.save", self.folder)
            self._clean()
        for step in self._damaged:
            path = self.folder / str(step)
            aside = path.with_name(f"{step}.damaged")
            # Another run may have rewritten the step since it was found damaged.
            if damage(path) is not None:
                shutil.rmtree(aside, ignore_errors=True)  # the same step was damaged before
                with suppress(FileNotFoundError):
                    path.rename(aside)
        self._damaged.clear()
        return self._listed()

    def _clean(self) -> None:
        """Remove what stopped processes left."""
        for path in sorted(self.folder.iterdir()):
            if HALF in path.name:
                warn(
                    f"Checkpoints: {path} is incomplete because its writer was stopped; it is "
                    "removed, and the previous checkpoint is used"
                )
            if HALF in path.name or path.name.endswith(REMOVED):
                shutil.rmtree(path, ignore_errors=True)

    def _is_new(self, epoch: Epoch, steps: list[int]) -> bool:
        """Return whether to save an epoch; raise if another run's checkpoints would hide it."""
        if not steps:
            return True
        last = steps[-1]
        if epoch.step in steps and self._holds(epoch):
            return False
        began = epoch.position.start if epoch.position is not None else epoch.step
        if epoch.step > last and (self._at == last or began >= last):
            return True
        raise ValueError(
            f"Checkpoints.save: {self.folder} has a checkpoint of step {last}, and the epoch to be "
            f"saved, at step {epoch.step}, does not continue from it, so `newest` would return the "
            "other run. For a new run, name a new folder. To continue that run, begin with "
            "train_state, position = kept.newest(train_state) and pass both to fit"
        )

    def _holds(self, epoch: Epoch) -> bool:
        """Return whether the folder has this very train_state."""
        try:
            stored, _ = self._restore(epoch.step, epoch.train_state)
            other = _bits(stored) != _bits(epoch.train_state)
        except (_Unreadable, ValueError):
            other = True
        return not agreed(0, other)[1]

    def _open(self) -> Any:
        if self._writer is None:
            options = self._orbax.AsyncOptions(
                # Runs in the first process before orbax renames the folder, so a checkpoint exists
                # only with its checksums.
                post_finalization_callback=lambda: seal(self._half()),
                create_directories_asynchronously=False,  # so that a full disk raises immediately
            )
            handler = self._orbax.CompositeCheckpointHandler()
            self._writer = self._orbax.AsyncCheckpointer(handler, async_options=options)
            for name in LOGGERS:
                logging.getLogger(name).addFilter(_is_heard)
        return self._writer

    def _half(self) -> Path:
        name = f"{self._writing}{HALF}"
        return next(self.folder.glob(f"{name}*"), self.folder / name)

    def _drop(self) -> None:
        with suppress(Exception):  # `save` has already raised its errors
            if self._writer is not None:
                self._writer.close()
        self._writer = None
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(_is_heard)

    def _finish(self) -> None:
        """Wait until a checkpoint is written and remove old ones, in a thread."""
        try:
            self._writer.wait_until_finished()
            self._at = self._writing
            if jax.process_index() == 0:
                self._prune()
        except BaseException as error:
            self._error = error
            self._clear()

    def _prune(self) -> None:
        steps = self._listed()
        kept = set(steps[-self._keep :])
        if self._name is not None:
            kept.add(self._best_of(steps))  # type: ignore[arg-type]
        for step in set(steps) - kept:
            # Renamed first, so that a reader never sees half a checkpoint.
            gone = self.folder / f"{step}{REMOVED}"
            with suppress(OSError):  # if it fails, the new checkpoint is still valid
                (self.folder / str(step)).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _clear(self) -> None:
        """Remove what a failed save left."""
        if jax.process_index() == 0:
            shutil.rmtree(self._half(), ignore_errors=True)

    def _wait(self) -> None:
        """Wait for the last save; raise if it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            # The error of orbax has hundreds of lines.
            error = self._told(self._error, self._writing)
            self._error = None
            with warnings.catch_warnings(action="ignore"):
                gc.collect()  # asyncio reports unread errors when they are collected
            self._drop()
            self._clear()  # again, since threads of orbax may have continued to write
            raise error

    def _told(self, error: BaseException, step: int | None = None) -> BaseException:
        """Return an error about a file as one sentence, and any other error unchanged."""
        number = _errno_of(error)
        if number is None:
            return error
        reason, lost = os.strerror(number), ""
        if step is not None:
            whole = [str(s) for s in self._listed() if damage(self.folder / str(s)) is None]
            lost = f"; step {step} was not saved. Whole checkpoints: {', '.join(whole) or 'none'}"
        reason = reason[0].lower() + reason[1:] + lost
        return told(OSError(number, reason), f"Checkpoints: {self.folder} cannot be written")

    def _read(self, step: int, like: TrainState) -> tuple[TrainState, Position] | str:
        """Return a checkpoint, which the run then continues, or what is wrong with it."""
        path = self.folder / str(step)
        if (problem := by_first(lambda: damage(path))) is not None:
            return problem
        try:
            found = self._restore(step, like)
        except _Unreadable as error:
            return str(error)
        self._at = step
        return found

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, Position]:
        path = self.folder / str(step)
        try:
            stored = by_first(lambda: read_run(path))
        except OSError as error:
            raise _Unreadable(f"it cannot be read: {error}") from None
        check_like(path, stored, like)
        args = self._orbax.args
        wanted = args.Composite(train_state=args.StandardRestore(jax.tree.map(_spec, like)))
        reader = self._orbax.Checkpointer(self._orbax.CompositeCheckpointHandler())
        try:
            train_state = reader.restore(path, args=wanted)["train_state"]
        except Exception:
            if (path / SUMS).exists():  # the files are unchanged, so the error is not damage
                raise
            raise _Unreadable("it was removed") from None
        return train_state, position_from_json(stored)


class _Unreadable(Exception):
    """The error for a checkpoint that was removed while it was read."""


def _is_heard(record: logging.LogRecord) -> bool:
    """Return False for messages of orbax's threads about a disk that `_wait` raises anyway."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or _errno_of(error) is None


# Messages of errors of orbax and tensorstore that are not an OSError.
_WORDS = {
    errno.ENOSPC: ("RESOURCE_EXHAUSTED", "No space left"),
    errno.EDQUOT: ("quota exceeded",),
    errno.EFBIG: ("File too large",),
    errno.EROFS: ("Read-only file system",),
    errno.EACCES: ("PERMISSION_DENIED", "Permission denied"),
}


def _errno_of(error: BaseException) -> int | None:
    """Return the errno behind an error; None if there is none."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno is not None:
            return chain.errno
        for number, words in _WORDS.items():
            if any(word in str(chain) for word in words):
                return number
        chain = chain.__cause__ or chain.__context__
    return None


def _bits(tree: PyTree) -> list[bytes]:
    """Return the bytes of all arrays; for sharded arrays, the part of this process."""

    def plain(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else jnp.asarray(leaf)

    shards = (shard for a in map(plain, jax.tree.leaves(tree)) for shard in a.addressable_shards)
    return [np.asarray(shard.data).tobytes() for shard in shards]


def _spec(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))
