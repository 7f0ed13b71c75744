"""The results that `fit` yields, and the position of the run."""

from typing import Any, NamedTuple

import numpy as np

from jaxnet.services.table import html_table
from jaxnet.training.train_state import TrainState


class Position(NamedTuple):
    """The position of a run in its data. With the train_state it is all you need to resume a run.

    Fields:
      epoch: Number of finished passes.
      done: Number of steps made in the current pass; 0 between two passes.
      start: Step of the train_state with which the run began.
      size: Number of examples in a batch, 0 before the first.
      key: Key data (n,) uint32, from which the order of this pass is drawn; None for a stream and
        between two passes.
      loader: State of the iterator behind a stream, if it has one (grain's have); else None.
      run: Description of the objective, the optimizer and the data, which `fit` compares when the
        run is resumed; None without one.
    """

    epoch: int
    done: int
    start: int
    size: int
    key: np.ndarray | None = None
    loader: Any = None
    run: dict[str, Any] | None = None


class Epoch(NamedTuple):
    """The result of one pass over the data, or of `every` steps; prints as one line.

    Fields:
      number: Number of the pass, from 1; a resumed train_state continues the count.
      epochs: Number of the last pass, None if it is not known.
      train_state: Train_state after this epoch; it stays valid, whatever `fit` does later.
      train: Mean of each metric over the epoch's examples, while the parameters changed.
      evaluation: The same on the `evaluate` data, with the parameters after the epoch; else None.
      losses: Loss of every step, (steps,).
      seconds: Seconds of training, evaluation included, compilation too in the first epoch.
      step: Number of updates that the train_state has had.
      steps: Number of updates at the end of the run, None if it is not known.
      position: Position of the run in its data, for `fit(..., position=...)`.
      skipped: Number of steps that changed nothing but the loss scale, since their gradient was not
        finite; None if the loss is not scaled, see `jn.trainer`.
    """

    number: int
    epochs: int | None
    train_state: TrainState
    train: dict[str, float]
    evaluation: dict[str, float] | None
    losses: np.ndarray
    seconds: float
    step: int = 0
    steps: int | None = None
    position: Position | None = None
    skipped: int | None = None

    def scalars(self) -> dict[str, float]:
        """Return the epoch's numbers by name, for logs, such as "train/loss" and "evaluation/loss".

        Metrics that are arrays are left out.

        Example:
          >>> Epoch(2, 9, None, {"loss": 0.5}, None, np.ones(3), 1.5, step=6).scalars()
          {'epoch': 2, 'step': 6, 'train/loss': 0.5, 'seconds': 1.5}
        """
        numbers: dict[str, float] = {"epoch": self.number, "step": self.step}
        for part, metrics in (("train", self.train), ("evaluation", self.evaluation or {})):
            for name, value in metrics.items():
                if np.ndim(value) == 0:
                    numbers[f"{part}/{name}"] = float(value)
        if self.skipped is not None:
            numbers["skipped"] = self.skipped
        return numbers | {"seconds": self.seconds}

    def __str__(self) -> str:
        parts = [self._where(), _words(self.train)]
        if self.evaluation is not None:
            parts.append("evaluation " + _words(self.evaluation))
        if self.skipped:
            parts.append(f"{self.skipped} steps skipped")
        return "  |  ".join([*parts, f"{self.seconds:.3g} s"])

    __repr__ = __str__  # the arrays would fill pages

    def _repr_html_(self) -> str:
        parts = {"train": self.train}
        if self.evaluation:
            parts["evaluation"] = self.evaluation
        names = list(dict.fromkeys(name for metrics in parts.values() for name in metrics))
        rows = []
        for part, metrics in parts.items():
            rows.append([part, *(_number(metrics.get(name)) for name in names)])
        right = [False, *[True] * len(names)]
        title = f"{self._where()}  |  {self.seconds:.3g} s"
        return html_table(["", *names], rows, right=right, caption=title)

    def _where(self) -> str:
        """Return the epoch or step that was reached, in words."""
        inside_a_pass = self.position is not None and self.position.done
        if self.epochs is None or inside_a_pass:
            word, at, last = "step", self.step, self.steps
        else:
            word, at, last = "epoch", self.number, self.epochs
        if last is None:
            return f"{word} {at}"
        return f"{word} {at:{len(str(last))}}/{last}"


def _words(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {_number(value)}" for name, value in metrics.items())


def _number(value: Any) -> str:
    if value is None:
        return ""
    return np.array2string(np.asarray(value), precision=4, floatmode="fixed")
