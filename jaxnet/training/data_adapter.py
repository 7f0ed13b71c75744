"""Check data against an objective before anything is computed, and prepare them for it.

`fit`, `evaluate`, `predict` and `sweep` all use a `DataAdapter`. So they make the same checks in
the same order, and raise the same errors. They get `PreparedData`: arrays on the device, and how
these become batches.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.services.checks import as_rows, rows_not_finite, to_device
from jaxnet.services.peers import Stopped
from jaxnet.services.trees import PyTree, path_name
from jaxnet.training import placement
from jaxnet.training.batching import Batching, batching_of, rows_in
from jaxnet.training.objective_trace import rows_are_in_order, trace_objective, trace_or_none
from jaxnet.training.targets import check_metrics, check_targets
from jaxnet.training.train_state import Objectives


class PreparedData(NamedTuple):
    """Data that were checked, and are ready for a program.

    Fields:
      data: Arrays on the device, one example per row.
      batching: How they become batches.
      carried: Whether each batch continues the previous batch, row by row, as the carries of
        `truncated_bptt` do.
    """

    data: PyTree
    batching: Batching
    carried: bool


@dataclass
class DataAdapter:
    """Checks and prepares the data of one call, such as `fit`.

    `variables` below is a train_state or `Variables`.

    Fields:
      who: Name of the function, for messages.
      objectives: Function (variables, data) -> objectives that get the data. Without any, as in
        `predict` and for a trainer of your own, only the arrays and their placement are checked.
      batch_size: Largest number of rows in a batch; by default all rows are one batch.
      data_name: Name of the data in messages; by default `who` and "data".
      rows_per_pass: Number of rows that a run reads in each pass; by default all rows of the data.
      train: Whether the objective is applied in training mode.
      shuffle: Whether the order of the rows is shuffled.
      stream: Whether the data are batches that follow each other.
    """

    who: str
    objectives: Objectives
    batch_size: int = sys.maxsize
    data_name: str = ""
    rows_per_pass: int | None = None
    train: bool = False
    shuffle: bool = False
    stream: bool = False
    _batches: int = 0  # number of batches checked, since `prepare_all` if it was called
    # Integers among the targets of a stream, for each objective.
    _accepted: dict[int, list[frozenset[int]]] = field(default_factory=lambda: defaultdict(list))

    def prepare(self, variables: Any, data: PyTree) -> PreparedData:
        """Check arrays, and return them with their batching.

        Raises:
          ValueError: If the data do not fit the objective, the call or the mesh.

        Example:
          >>> from jaxnet.training.train_state import only
          >>> objective = jn.supervised(jn.dense(1), optax.squared_error)
          >>> data = jnp.ones((7, 3)), jnp.ones((7, 1))
          >>> trainer = jn.trainer(objective, optax.sgd(0.1))
          >>> adapter = DataAdapter("evaluate", only(objective), 4)
          >>> adapter.prepare(trainer.init(jax.random.key(0), data), data).batching
          Batching(size=4, shardings=None)
        """
        return self._batched(variables, self.checked(variables, data))

    def prepare_on_device(self, variables: Any, data: PyTree) -> PreparedData:
        """Return what `prepare` does, of arrays that `data_on_device` has moved."""
        self._check_finite(variables, data, data)
        self._check(variables, data)
        return self._batched(variables, data)

    def prepare_all(self, variables: Any, data: PyTree) -> Iterable[PreparedData]:
        """Return the prepared parts of arrays as a list, or those of a stream as an iterator.

        A stream has a part for each batch. Arrays are one part, unless a value of the objective is
        one number per batch, from which no padding can be left out. Then the rows that are left
        after the last whole batch are a part of their own. A stream raises `Stopped` if its loader
        fails while a signal asks the run to stop.
        """
        if self.stream:
            return self._prepare_each(variables, data)
        return list(self._prepare_each(variables, [data]))

    def _prepare_each(self, variables: Any, batches: Iterable[PyTree]) -> Iterator[PreparedData]:
        self._batches, batches = 0, iter(batches)
        while (batch := placement.next_of(self.who, batches, variables)) is not placement.END:
            if batch is placement.STOPPED:
                raise Stopped
            prepared = self.prepare(variables, batch)
            if self._can_pad(variables, prepared):
                yield prepared
            else:
                for part in prepared.batching.full_batches_and_rest(prepared.data):
                    yield self._batched(variables, part)

    def _can_pad(self, variables: Any, prepared: PreparedData) -> bool:
        """Return whether the last batch is whole, or a mask can leave its padding out."""
        if not prepared.batching.needs_padding(prepared.data):
            return True
        objectives = self.objectives(variables, prepared.data)
        return all(trace_objective(*each, prepared.data).per_row for each in objectives)

    def checked(self, variables: Any, data: PyTree) -> PyTree:
        """Check arrays or a batch of a stream, and return them on the device.

        Raises:
          ValueError: If the data do not fit the objective or the processes.
        """
        moved = data_on_device(data, self._name_of_data(), finite=False)
        self._check_finite(variables, data, moved)
        self._check(variables, moved)
        return moved

    def _name_of_data(self) -> str:
        return self.data_name or f"{self.who}: data"

    def _check_finite(self, variables: Any, data: PyTree, moved: PyTree) -> None:
        """Raise for rows with NaN or Inf, unless the objective leaves them out of its values.

        Arrays of a stream that are on the device already are not looked at, since that would wait
        for the device in each step.

        Args:
          variables: Train_state or `Variables`.
          data: Arrays as they were given.
          moved: The same on the device.
        """
        wrong = rows_not_finite(data, on_device=not self.stream)
        if wrong is None:
            return
        some = np.flatnonzero(wrong)[: self.batch_size]
        rows = jax.tree.map(lambda a: a[some], moved)
        objectives = list(self.objectives(variables, moved))
        if objectives and all(trace_or_none(_is_finite, *each, rows) for each in objectives):
            return
        as_rows(jax.tree.map(np.asarray, moved), self._name_of_data())

    def _check(self, variables: Any, data: PyTree) -> None:
        """Raise unless arrays on the device fit the objective and the processes."""
        who = self.who
        placement.check_processes(who, variables, data)
        self._batches += 1
        rows = self.rows_per_pass or rows_in(data)
        averages = self.batch_size < rows or self._batches == 2  # over several batches
        for i, each in enumerate(self.objectives(variables, data)):
            accepted = self._accepted[i] if self.stream else None
            check_targets(*each, data, who, accepted, train=self.train)
            if averages:
                check_metrics(who, *each, data)

    def _batched(self, variables: Any, data: PyTree) -> PreparedData:
        """Return data with their batching; raise if rows that continue others are shuffled."""
        batching = batching_of(self.who, data, self.batch_size)
        carried = any(
            rows_are_in_order(each.objective, each.state, data, batching.size)
            for each in self.objectives(variables, data)
        )
        if carried and self.shuffle:
            raise ValueError(
                f"{self.who}: the state has an entry for each row of a batch, such as the carry of "
                "truncated_bptt, so each batch must continue the previous batch. Pass "
                "shuffle=False"
            )
        return PreparedData(data, batching, carried)


def is_stream(data: Any) -> bool:
    """Return whether data is an iterable of batches rather than arrays in memory.

    Containers that JAX knows, such as registered dataclasses, hold arrays.
    """
    if hasattr(data, "shape") or not jax.tree_util.all_leaves([data]):
        return False
    if isinstance(data, Mapping) or not hasattr(data, "__iter__"):
        hint = "; write dict(data)" if isinstance(data, Mapping) else ""
        raise TypeError(
            "data must be arrays, such as (x, y), or an iterable of batches, got "
            f"{type(data).__name__}{hint}"
        )
    return True


def _is_finite(objective: Layer, params: Params, state: State, rows: PyTree) -> bool:
    """Return whether the values of an objective are finite for some rows."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves((params, state))):
        params, state = objective.init(jax.random.key(0), rows)  # before the params are drawn
    (values, _), _ = objective.apply(params, state, rows, key=jax.random.key(0))
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(values))


def data_on_device(
    data: PyTree, who: str, items: str = "examples", *, finite: bool = True
) -> PyTree:
    """Check the arrays and move them to the default device; `finite`: whether NaN and Inf raise."""

    def move(path, leaf):
        return to_device(who, path_name(path) or "the array", leaf)

    rows = as_rows(data, who, items, finite=finite)
    return jax.tree_util.tree_map_with_path(move, rows)
