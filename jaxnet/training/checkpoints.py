"""Save checkpoints of a run atomically and in the background.

Each process writes a file with its part of the arrays into a folder, which gets the name of the
step when all files are there. This module decides who may write and which steps are kept, and finds
steps that are damaged or belong to another run.
"""

import atexit
import math
import os
import re
import shutil
import sys
import threading
import time
import weakref
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxnet.services import peers, preemption
from jaxnet.services.checks import at_least, check_type, one_of
from jaxnet.services.files import exists, file_path, is_folder, told
from jaxnet.services.saving import write_file
from jaxnet.services.warn import warn
from jaxnet.training import stored
from jaxnet.training.checkpoint import packed, unpacked
from jaxnet.training.epoch import Epoch, Position
from jaxnet.training.lock import Held
from jaxnet.training.train_state import TrainState

SEEN = 10  # seconds after which a shared file system shows what another host wrote
HALF, REMOVED = ".half", ".removed"  # suffixes of folders that are being written or removed
_LIKE = "a TrainState, as trainer.init returns it"


class Checkpoints:
    """A context manager that saves the checkpoints of a run in a folder and restores them.

    `save` copies the train_state and writes it in the background while the loop continues. If a run
    has several processes, each writes its own part. All of them must call `save`, and all must
    share the folder: with disks of their own, the next call raises an OSError in all.

    Inside the `with` block, SIGTERM (sent by Slurm, Kubernetes or a preempted machine) and SIGHUP
    (sent when a terminal is closed) do not kill the process. `fit` finishes the current step and
    yields once more. Pending checkpoints are written, and the process exits with code 143 or 129.
    A program whose last save failed ends with code 1, also without a `with` block.

    Only one run at a time can write to a folder. The first `save` takes a lock until `close` or
    until the process ends, even if it is killed. If a second run saves, it raises an error that
    names the first. The lock also works between hosts if the file system supports it, as NFS 4
    does. Reading needs no lock and changes nothing in the folder.

    Args:
      folder: Folder such as "runs/a"; the first `save` creates it.
      keep: Number of newest checkpoints to keep.
      best: Name of an entry of `epoch.scalars()`, such as "evaluation/loss". The checkpoint with
        the best value is kept as well.
      mode: Whether the lowest ("min") or the highest ("max") value of `best` is the best. Needed
        unless `best` names a loss, whose lowest value is the best.

    Raises:
      NotADirectoryError: If `folder` is a file.
      ValueError: If `mode` is not "min" or "max", or left out if `best` does not name a loss.
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
        mode: str | None = None,
    ):
        at_least("Checkpoints", "keep", keep)
        check_type("Checkpoints", "best", best, str | None, "the name of a metric")
        mode = best_mode("Checkpoints", best or "loss", mode)
        self.folder = Path(os.path.abspath(file_path("Checkpoints", folder, "folder")))
        for path in (self.folder, *self.folder.parents):
            if exists("Checkpoints", path) and not path.is_dir():
                raise NotADirectoryError(f"Checkpoints: {path} is a file; name a folder")
        self._keep, self._name, self._mode = keep, best, mode
        self._at: int | None = None  # the step that the run of this object has reached
        # Steps that `newest` skipped, and whether their files are whole, but false.
        self._damaged: dict[int, bool] = {}
        self._held: Held | None = None  # held by the first process
        self._closing = False  # whether who still writes releases the lock
        self._last: list[_Saving] = []  # the last save, until it is known how it ended
        weakref.finalize(self, _end, self._last).atexit = False
        _OPEN.add(self)
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
        check_type("Checkpoints.save", "", epoch, Epoch, "an Epoch")
        scalars = epoch.scalars()
        # A signal may have ended the loader of the evaluation.
        unmeasured = epoch.evaluation is None and preemption.asked()
        if self._name is not None and self._name not in scalars and not unmeasured:
            raise ValueError(
                f"Checkpoints.save: best={self._name!r} is not among the epoch's scalars: "
                f"{', '.join(scalars)}"
            )
        self._closing = False
        _agree(f"saves step {epoch.step}")
        self._wait()
        position = epoch.position or Position(epoch.number, 0, epoch.step, 0)
        if not self._is_new(epoch, position.start, stored.by_first(self._prepared)):
            return False
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        run = stored.run_to_json(epoch.train_state, position, finite)
        arrays, notes = packed("Checkpoints.save", epoch.train_state, parts=True)
        arrays = {name: array.copy() for name, array in arrays.items()}  # a step may reuse them
        stored.by_first(lambda: self._begin(epoch.step))
        # If Ctrl-C comes before the thread has started, `_wait` writes the file.
        saving = _Saving(epoch.step, partial(self._write, epoch.step, arrays, notes, run))
        self._last.append(saving)
        start_new_thread(saving.write, (False,))  # a Thread waits, with locks, for its start
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
        _agree("reads the newest step")
        self._wait()
        passed: dict[int, str] = {}
        while steps := [step for step in self._steps() if step not in passed]:
            # Listed again each time, since a run that is writing may have removed some.
            step = max(steps)
            passed[step] = "it is gone"
            try:
                return self._read(step, like)
            except OSError as error:
                passed[step] = str(error)
                if step in self._steps():
                    path = self.folder / str(step)
                    self._damaged[step] = stored.by_first(partial(stored.damage, path)) is None
                    warn(
                        f"Checkpoints: {path} is damaged and skipped ({error}); "
                        f"the next save renames it to {step}.damaged"
                    )
        if passed:
            raise ValueError(
                f"Checkpoints: all checkpoints in {self.folder} are damaged, the newest because "
                f"{passed[max(passed)]}. Name another folder to start from the beginning"
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
        _agree("reads the best step")
        self._wait()
        while True:
            step = stored.by_first(lambda: self._best_of(self._listed()))
            if step is None:
                raise ValueError(f"Checkpoints.best: there is no checkpoint in {self.folder}")
            has = self._scalars(step)
            if self._name not in has:
                raise ValueError(f"Checkpoints.best: {self._name!r} is not among {', '.join(has)}")
            try:
                return self._read(step, like)
            except OSError as error:
                if step in self._steps():  # not removed meanwhile by a run that is writing
                    what = f"{self.folder / str(step)} is damaged ({error}); remove it to go on"
                    raise ValueError(f"Checkpoints.best: {what}") from None

    def close(self) -> None:
        """Wait until all is written, and release the lock.

        Raises:
          OSError: If the last checkpoint could not be written.
        """
        try:
            self._wait()
        finally:
            self._closing = True
            for saving in self._last:  # Ctrl-C ended the wait: who writes releases the lock
                start_new_thread(saving.write, (False,))
            if all(saving.done for saving in self._last):
                self._unlock()

    def __enter__(self) -> "Checkpoints":
        self._stack.enter_context(preemption.listening())
        return self

    def __exit__(self, *error: Any) -> None:
        with self._stack:  # exits the process if it was asked to stop
            if error[0] is not None and jax.process_count() > 1:
                for saving in self._last:  # but do not ask the other processes, which may go on
                    saving.write()
                self._last.clear()
            self.close()

    def _listed(self) -> list[int]:
        paths = self.folder.iterdir() if is_folder("Checkpoints", self.folder) else ()
        names = [path.name for path in paths if path.name.isdecimal() and path.is_dir()]
        return sorted(int(name) for name in names if str(int(name)) == name)  # not "007"

    def _steps(self) -> list[int]:
        """Return the steps in the folder, the same in all processes."""
        return stored.by_first(self._listed)

    def _score(self, step: int) -> float:
        """Return the value of the named metric, larger is better; if not finite, the worst."""
        with suppress(ValueError, KeyError, TypeError):
            value = float(self._scalars(step)[self._name])
            return value if self._mode == "max" else -value
        return -math.inf

    def _scalars(self, step: int) -> dict[Any, float]:
        with suppress(OSError, ValueError, KeyError, TypeError):
            return stored.read_run(self.folder / str(step))["scalars"]
        return {self._name: math.nan}  # of a damaged one

    def _best_of(self, steps: list[int]) -> int | None:
        return max(steps, key=self._score, default=None)

    def _prepared(self) -> list[int]:
        """Return the steps in the folder, after taking the lock and moving broken ones aside."""
        if self._held is None:
            with self._telling():
                self.folder.mkdir(parents=True, exist_ok=True)
            self._held = Held("Checkpoints.save", self.folder)
            self._clean()
        for step, false in self._damaged.items():
            path = self.folder / str(step)
            aside = path.with_name(f"{step}.damaged")
            # Another run may have rewritten the step since it was found damaged.
            if false or stored.damage(path) is not None:
                _remove(aside)  # the same step was damaged before
                with self._telling(), suppress(FileNotFoundError):
                    path.rename(aside)
        self._damaged.clear()
        return self._listed()

    def _clean(self) -> None:
        """Remove what stopped processes left."""
        for path in sorted(self.folder.iterdir()):
            if path.suffix not in (HALF, REMOVED) or not path.stem.isdecimal():
                continue
            if path.suffix == HALF:
                warn(
                    f"Checkpoints: {path} is incomplete because its writer was stopped; it is "
                    "removed, and the previous checkpoint is used"
                )
            _remove(path)

    def _is_new(self, epoch: Epoch, began: int, steps: list[int]) -> bool:
        """Return whether to save an epoch; raise if another run's checkpoints would hide it."""
        last = max(steps, default=-math.inf)  # every epoch continues from an empty folder
        if epoch.step in steps and self._holds(epoch):
            return False
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
        other = True
        with suppress(OSError, ValueError):
            before, _ = self._restored(epoch.step, epoch.train_state)
            a, b = (packed("Checkpoints", t, parts=True)[0] for t in (before, epoch.train_state))
            other = any(a[name].tobytes() != b[name].tobytes() for name in a)
        return not _any_process(other)

    def _half(self, step: int) -> Path:
        return self.folder / f"{step}{HALF}"

    def _files(self, step: int) -> list[Path]:
        """Return the files of all processes in the folder in which a step is written."""
        half = self._half(step)
        return [stored.file_of(half, process) for process in range(jax.process_count())]

    def _begin(self, step: int) -> None:
        """Create the folder in which all processes write a step."""
        # An earlier save may have been interrupted by Ctrl-C.
        _remove(self._half(step))
        with self._telling(step):
            self._half(step).mkdir()

    def _write(self, step: int, *contents: Any) -> None:
        """Write the file of this process; the last process names the folder."""
        half, path = self._half(step), self.folder / str(step)
        if path.is_dir():  # it was named, and Ctrl-C came before that was noted
            return
        files = self._files(step)
        try:
            with self._telling(step):
                write_file(
                    "Checkpoints", files[jax.process_index()], *contents, must_be_regular=True
                )
                if all(file.exists() for file in files):
                    with suppress(FileNotFoundError):  # another process was the last one too
                        half.rename(path)
        finally:
            if self._closing:
                self._unlock()

    def _unlock(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def _wait(self) -> None:
        """Wait for the last save; raise in all processes if it failed in one.

        Ctrl-C may end it anywhere, and it can be called again.
        """
        if not self._last or self._last[-1].writer != os.getpid():  # a fork leaves it to its parent
            return
        saving = self._last[-1]
        error = saving.write()
        _agree(f"has written step {saving.step}")
        said = error and (str(error) or repr(error))  # a MemoryError may have no words
        errors = [words for words in peers.of_all("Checkpoints", said) if words]
        try:
            if errors:
                raise error or OSError(errors[0])
            stored.by_first(lambda: self._finish(saving.step))
            self._at = saving.step
        except Exception as raised:  # in all processes, of which each may have a disk of its own
            if raised is not error and not failed(raised):
                raise
            shutil.rmtree(self._half(saving.step), ignore_errors=True)
            self._last.clear()
            raise
        self._last.clear()

    def _finish(self, step: int) -> None:
        """Remove old checkpoints, after all processes wrote a new one."""
        if self._held is None:  # another run may write by now
            return
        path = self.folder / str(step)
        if not path.exists():  # no process saw the files of all others
            self._check_shared(step)
            with self._telling(step):
                self._half(step).rename(path)
        steps = self._listed()
        steps_to_keep = set(steps[-self._keep :])
        if self._name is not None:
            steps_to_keep.add(self._best_of(steps))  # type: ignore[arg-type]
        for step in set(steps) - steps_to_keep:
            # Renamed first, so that a reader never sees half a checkpoint.
            gone = self.folder / f"{step}{REMOVED}"
            with suppress(OSError):  # if it fails, the new checkpoint is still valid
                (self.folder / str(step)).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _check_shared(self, step: int) -> None:
        """Raise unless this process sees the files of all, which have written them."""
        half, files = self._half(step), self._files(step)
        end = time.monotonic() + SEEN
        while missing := [i for i, file in enumerate(files) if not file.exists()]:
            if time.monotonic() > end:
                processes = ", ".join(map(str, missing))
                raise OSError(
                    f"Checkpoints: the files of processes {processes} are not in {self.folder}, so "
                    f"step {step} was not saved. All processes must share the folder; choose one "
                    "on a disk that all hosts see, such as NFS"
                )
            time.sleep(0.1)
            with suppress(OSError):
                os.listdir(half)  # NFS then looks again

    @contextmanager
    def _telling(self, step: int | None = None) -> Iterator[None]:
        """Raise an error about a file as one sentence, and any other error unchanged."""
        try:
            yield
        except OSError as error:
            if error.errno is None:
                raise
            what = f"Checkpoints: {self.folder} cannot be written"
            reason = os.strerror(error.errno)
            reason = reason[0].lower() + reason[1:]
            where = error.filename2 or error.filename
            if where:
                reason += f": {where}"
            if step is not None:
                steps = map(str, self._listed())
                undamaged = [s for s in steps if stored.damage(self.folder / s) is None]
                reason += f"; step {step} was not saved. Whole checkpoints: "
                reason += ", ".join(undamaged) or "none"
            raise told(OSError(error.errno, reason), what, advice=False) from None

    def _read(self, step: int, like: TrainState) -> tuple[TrainState, Position]:
        """Return a checkpoint, which the run then continues; raise an OSError if it is damaged."""
        path = self.folder / str(step)
        problem = stored.by_first(lambda: stored.damage(path))
        if problem is not None:
            raise OSError(problem)
        restored = self._restored(step, like)
        self._at = step
        return restored

    def _restored(self, step: int, like: TrainState) -> tuple[TrainState, Position]:
        path = self.folder / str(step)
        run = stored.by_first(lambda: stored.read_run(path))
        stored.check_like(path, run, like)
        files = [stored.file_of(path, process) for process in range(run["processes"])]
        position = stored.position_from_json(run)
        problem = None
        train_state = like
        try:
            train_state = unpacked("Checkpoints", files, like)
            if int(train_state.step) != step:
                problem = f"its train_state is of step {int(train_state.step)}"
        # Whole files with other contents than a save writes can fail anywhere.
        except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
            problem = str(error) or type(error).__name__
        if _any_process(problem is not None):
            raise OSError(problem or "another process could not read it")
        return train_state, position


def _agree(words: str) -> None:
    """Raise in all processes unless all are here."""
    peers.agree("Checkpoints", peers.everyone(), f"Checkpoints {words}")


def _any_process(flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    words = "Checkpoints has read a step"
    return any(peers.agree("Checkpoints", peers.everyone(), words, int(flag)).numbers)


def failed(error: Exception) -> bool:
    """Return whether a save has failed; else a signal's handler raised, and it can be repeated.

    Example:
      >>> failed(OSError("the disk is full"))
      True
    """
    return isinstance(error, OSError | ValueError | MemoryError | RuntimeError)


def best_mode(who: str, name: str, mode: str | None) -> str:
    """Return "min" or "max" for the best value of a metric; raise if only the user can know.

    Example:
      >>> best_mode("Checkpoints", "evaluation/loss", None)
      'min'
    """
    if mode is None and re.split(r"[/_ ]", name)[-1] != "loss":
        raise ValueError(
            f"{who}: is the highest {name!r} the best, or the lowest? Write mode='max', as for an "
            "accuracy, or mode='min', as for an error"
        )
    one_of(who, "mode", "min" if mode is None else mode, ["min", "max"])
    return mode or "min"


def _remove(path: Path) -> None:
    """Remove a folder, or a file or a link that has its name."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


class _Saving:
    """The file of a step that this process writes, in a thread or where somebody waits for it."""

    def __init__(self, step: int, write: Callable[[], None]):
        self.step = step
        self.writer = os.getpid()
        self.done = False
        self._write = write
        self._error: Exception | None = None
        # Ctrl-C may leave it locked, but then it is the same thread that waits.
        self._lock = threading.RLock()

    def write(self, wait: bool = True) -> Exception | None:
        """Write the file unless it is done, or wait until it is; return the error, if any."""
        if not self.done and self.writer == os.getpid() and self._lock.acquire(wait):
            try:
                if not self.done:
                    self._write()
                    self.done = True
            except Exception as error:
                if threading.current_thread() is threading.main_thread() and not failed(error):
                    raise
                self._error, self.done = error, True
            finally:
                self._lock.release()
        if self.done:
            self._write = list  # without the arrays, and the checkpoints
        return self._error


# Of which the last save may still be written when Python ends.
_OPEN: weakref.WeakSet[Checkpoints] = weakref.WeakSet()
_FAILED: list[int] = []  # steps of last saves that failed, which nobody waited for


def _end(last: list[_Saving]) -> None:
    """Wait for the last save of checkpoints that are gone, and tell of it if it fails."""
    for saving in last:
        if error := saving.write():
            _FAILED.append(saving.step)
            print(error, file=sys.stderr)


@atexit.register
def _end_all() -> None:
    """Do so when Python ends. A program whose last save failed does not end with code 0."""
    for checkpoints in list(_OPEN):
        _end(checkpoints._last)
    if _FAILED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # nothing else changes the code at this time
