"""Several trainers that share params, such as of a generator and its critic, as one trainer."""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import child_key
from jaxnet.services.checks import at_least
from jaxnet.services.trees import Memo, PyTree, describe, flat, key_spec, shapes_of, signature
from jaxnet.training.objective import Average
from jaxnet.training.objective_trace import trace_or_none
from jaxnet.training.train_state import BoundObjective, TrainState, as_stored, step_key
from jaxnet.training.trainer import Trainer, TrainerCache, objectives_of, step_of

_INITIALIZE = "Initialize with this trainer: trainer.init(key, batch)"


def alternate(**trainers: Trainer | tuple[Trainer, int]) -> Trainer:
    """Return a trainer whose step is a step of each of several trainers, one after another.

    Params and state of the trainers are joined by path. An entry that several of them have is one
    entry, so each trainer continues with what the trainer before it has changed. Freeze in each
    objective what it does not train, see `jn.freeze`. Each trainer keeps its own optimizer, and
    `opt_state` is a dict of their states. All get the same batch, and draw from keys of their own.
    Data are checked against the objective of each trainer.

    A step counts once. Its metrics have the names "critic/loss" and so on, and "loss" is the sum of
    all losses.

    Args:
      trainers: Trainers by name, in the order of their steps. A pair `(trainer, n)` makes n steps
        per batch.

    Returns:
      A `Trainer`, whose `step` makes a step of each trainer.

    Raises:
      TypeError: If a value is not a trainer, or a trainer and a number.
      ValueError: If there is no trainer.
      ValueError: In `init`, if trainers have entries of one path and different shapes.

    Example:
      >>> generator, critic = jn.dense(2, name="generator"), jn.dense(1, name="critic")
      >>> def judge(m, real):
      ...     fake = m(jn.freeze(generator), jax.random.normal(m.key("z"), (len(real), 3)))
      ...     return jax.nn.softplus(m(critic, fake) - m(critic, real))[:, 0], {}
      >>> def fool(m, real):
      ...     fake = m(generator, jax.random.normal(m.key("z"), (len(real), 3)))
      ...     return jax.nn.softplus(-m(jn.freeze(critic), fake))[:, 0], {}
      >>> trainers = [jn.trainer(jn.compose(loss), optax.adam(1e-3)) for loss in (judge, fool)]
      >>> gan = jn.alternate(critic=(trainers[0], 2), generator=trainers[1])
      >>> data = jnp.ones((8, 2))
      >>> train_state = gan.init(jax.random.key(0), data)
      >>> for epoch in jn.fit(gan, train_state, data, epochs=1):
      ...     print(sorted(epoch.train))
      ['critic/loss', 'generator/loss', 'loss']

    Reference: Goodfellow et al. 2014, "Generative adversarial nets".
    """
    if not trainers:
        raise ValueError("alternate: needs trainers by name, such as critic=..., generator=...")
    pairs = {name: _pair(name, value) for name, value in trainers.items()}
    cache = TrainerCache(
        programs=Memo([trainer._cache.programs.uses for trainer, _ in pairs.values()])
    )
    alternation = _Alternation(pairs, cache.programs)
    step = step_of(alternation.update, None, cache, objectives=alternation.objectives)
    return Trainer(
        alternation.init,
        step,
        update=alternation.update,
        _cache=cache,
        _parts={name: trainer for name, (trainer, _) in pairs.items()},
        _objectives=alternation.objectives,
    )


def _pair(name: str, value: Any) -> tuple[Trainer, int]:
    """Return a trainer and the number of its steps, 1 if there is none."""
    pair = (value, 1) if isinstance(value, Trainer) else value
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], Trainer)):
        raise TypeError(
            f"alternate: {name} must be a trainer or a pair (trainer, steps), got "
            f"{describe(pair):.60}"
        )
    trainer, steps = pair
    at_least("alternate", f"the steps of {name}", steps)
    return trainer, steps


@dataclass(frozen=True, eq=False)
class _Alternation:
    """The functions of a trainer that alternates several.

    Fields:
      pairs: Trainer and number of its steps, by name.
      memo: Cache of what is traced.
    """

    pairs: dict[str, tuple[Trainer, int]]
    memo: Memo

    def init(self, key: jax.Array, batch: PyTree) -> TrainState:
        """Return the first train_state, with the entries of all trainers."""
        states = self._each(key, batch)
        _check_shared(states)
        first, *_ = states.values()
        opt_state = {name: one.opt_state for name, one in states.items()}
        shared = reduce(_joined, map(_shared, states.values()))
        return first._replace(opt_state=opt_state, **shared)

    def update(self, train_state: TrainState, batch: PyTree, mask: jax.Array | None = None):
        """Make the updates of each trainer, one after another."""
        self._check_names(train_state)
        outlines = self._outlines(batch)
        all_averages = {}
        finite = jax.tree.map(lambda _: jnp.bool_(True), train_state.params)
        drawn = step_key(train_state)
        for name, (trainer, steps) in self.pairs.items():
            key = as_stored(child_key(drawn, name))
            part_state = _train_state_of(train_state, name, outlines[name])._replace(key=key)
            part_state, averages, flags = _updates(trainer, steps, part_state, batch, mask)
            all_averages |= {f"{name}/{metric}": value for metric, value in averages.items()}
            if flags.size:
                fine = jax.tree.unflatten(jax.tree.structure(part_state.params), list(flags))
                finite = _joined(finite, jax.tree.map(jnp.logical_and, _part(finite, fine), fine))
            opt_state = train_state.opt_state | {name: part_state.opt_state}
            shared = _joined(_shared(train_state), _shared(part_state))
            train_state = train_state._replace(opt_state=opt_state, **shared)
        losses = [all_averages[f"{name}/loss"] for name in self.pairs]
        total = Average(jnp.stack([loss.mean for loss in losses]).sum(), losses[0].weight)
        flags = jnp.array(jax.tree.leaves(finite), bool)
        return (
            train_state._replace(step=train_state.step + 1),
            {"loss": total} | all_averages,
            flags,
        )

    def objectives(self, train_state: Any, batch: PyTree) -> list[BoundObjective]:
        """Return the objectives of all trainers, each with its own entries of the train_state.

        If the trainers cannot initialize for such a batch, there are none: the step will raise, and
        says where.
        """
        self._check_names(train_state)

        def trace():
            # An init of your own may compute with the batch, so the batch is an argument.
            return trace_or_none(jax.eval_shape, self._each, key_spec(), shapes_of(batch))

        outlines = self.memo.of(("outlines", signature(batch)), trace)
        if outlines is None:
            return []
        bound_objectives = []
        for name, (trainer, _) in self.pairs.items():
            part_state = _train_state_of(train_state, name, outlines[name])
            bound_objectives += objectives_of(trainer)(part_state, batch)
        return bound_objectives

    def _check_names(self, train_state: TrainState) -> None:
        """Raise unless the state of each trainer's optimizer is in a train_state, and no other."""
        opt_state = train_state.opt_state
        if isinstance(opt_state, dict) and opt_state.keys() == self.pairs.keys():
            return
        got = (
            f"a dict of {', '.join(sorted(opt_state))}"
            if isinstance(opt_state, dict)
            else type(opt_state).__name__
        )
        raise ValueError(
            "step: opt_state belongs to another trainer: it must be a dict with an entry for each "
            f"of {', '.join(self.pairs)}, got {got}. {_INITIALIZE}"
        )

    def _each(self, key: jax.Array, batch: PyTree) -> dict[str, TrainState]:
        """Return the first train_state of each trainer."""
        return {name: trainer.init(key, batch) for name, (trainer, _) in self.pairs.items()}

    def _outlines(self, batch: PyTree) -> dict[str, TrainState]:
        """Return the shapes of the first train_states; they say which entries each trainer has."""
        return jax.eval_shape(lambda key: self._each(key, batch), key_spec())


def _updates(
    trainer: Trainer, steps: int, train_state: TrainState, batch: PyTree, mask: jax.Array | None
) -> tuple[TrainState, dict[str, Average], jax.Array]:
    """Make several updates on one batch, and return what the last one returns."""
    if steps > 1:

        def update(_, train_state):
            return trainer.update(train_state, batch, mask)[0]

        train_state = jax.lax.fori_loop(1, steps, update, train_state)
    return trainer.update(train_state, batch, mask)


def _train_state_of(train_state: TrainState, name: str, outline: TrainState) -> TrainState:
    """Return the train_state of one trainer, whose entries its outline has."""
    part = _part(_shared(train_state), _shared(outline))
    return train_state._replace(opt_state=train_state.opt_state[name], **part)


def _shared(train_state: TrainState) -> dict[str, PyTree]:
    """Return the fields of which several trainers may have the same entries."""
    return {"params": train_state.params, "state": train_state.state}


def _joined(old: PyTree, new: PyTree) -> PyTree:
    """Return nested dicts with the entries of both; the new ones count."""
    if not isinstance(old, dict):
        return new
    joined = dict(old)
    for name, entry in new.items():
        joined[name] = _joined(old[name], entry) if name in old else entry
    return joined


def _part(tree: PyTree, like: PyTree, path: str = "train_state") -> PyTree:
    """Return the entries of nested dicts that another one has; raise if one is missing."""
    if not isinstance(like, dict):
        return tree
    part = {}
    for name, entry in like.items():
        place = f"{path}/{name}"
        if not isinstance(tree, dict) or name not in tree:
            raise ValueError(f"step: {place} is missing. {_INITIALIZE}")
        part[name] = _part(tree[name], entry, place)
    return part


def _check_shared(states: dict[str, TrainState]) -> None:
    """Raise unless all trainers agree in the entries that they share."""
    seen: dict[str, tuple[str, str]] = {}
    for name, one in states.items():
        for path, leaf in flat(_shared(one)):
            first, form = seen.setdefault(path, (name, describe(leaf)))
            if form != describe(leaf):
                raise ValueError(
                    f"alternate: {path} is {form} in {first} and {describe(leaf)} in {name}. Share "
                    "one net, or give the nets different names"
                )
