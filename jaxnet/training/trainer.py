"""A trainer: `init(key, batch) -> train_state` and `step(train_state, batch)`."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.core import Layer, Params, child_key
from jaxnet.services import checks, preemption
from jaxnet.services.checks.keywords import explain_keywords
from jaxnet.services.functions import function_name
from jaxnet.services.trees import Memo, PyTree, describe, floats_of, leaves_of
from jaxnet.training import memory
from jaxnet.training.axes import check_axes
from jaxnet.training.batching import check_has_rows
from jaxnet.training.interrupts import uninterrupted
from jaxnet.training.loss_scale import started
from jaxnet.training.mixing import check_mixing_of
from jaxnet.training.objective import Average, hint_of_batch
from jaxnet.training.objective_trace import check_captured, trace_objective, trace_or_none
from jaxnet.training.placement import (
    Where,
    agree_on_step,
    check_processes,
    is_named,
    placed,
    shardings_of,
)
from jaxnet.training.report import RATE, check_report, learning_rate
from jaxnet.training.targets import check_targets
from jaxnet.training.train_state import Objectives, TrainState, as_stored, only, without_weak_types
from jaxnet.training.update import Update
from jaxnet.training.watch import Watcher, explain_reuse

Metrics = dict[str, jax.Array]
ENDS = (
    "what was trained since the last save is lost, unless the program catches SystemExit, whose "
    "train_state is the newest, and saves it"
)


@dataclass(frozen=True)
class TrainerCache:
    """What a trainer keeps between calls: who warns about its programs, and the programs."""

    watcher: Watcher = field(default_factory=Watcher)
    programs: Memo = field(default_factory=Memo)


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False, repr=False)
class Trainer:
    """A pair of functions that train an objective; made by `jn.trainer`.

    `jn.Trainer(init, step)` is a trainer of your own; pass the other fields by name. `fit` compiles
    its `step` and drives it. In a loop of your own, call `jax.jit(step, donate_argnums=0)`. Metrics
    need one number as "loss".

    Fields:
      init: Function `(key, batch) -> train_state`.
      step: Function `(train_state, batch) -> (train_state, metrics)`.
      update: The step with all that `fit` needs: `(train_state, batch, mask) -> (train_state,
        averages, finite)`, pure. By default it is made from `step`.
      objective: Layer that is trained; None in a trainer of your own.
      optimizer: Optax optimizer; None in a trainer of your own.
    """

    init: Callable[..., TrainState]
    step: Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]
    _: KW_ONLY
    update: Callable[..., tuple[TrainState, dict[str, Average], jax.Array]] = None  # type: ignore
    objective: Any = None
    optimizer: optax.GradientTransformation | None = None
    _cache: TrainerCache = field(default_factory=TrainerCache)
    _parts: dict[str, "Trainer"] = field(default_factory=dict)  # that `jn.alternate` makes one
    _objectives: Objectives | None = None  # of these parts

    def __post_init__(self) -> None:
        if self.update is None:
            object.__setattr__(self, "update", _update_by(self.step))
            object.__setattr__(self, "_cache", TrainerCache(programs=Memo((self.init, self.step))))

    def __repr__(self) -> str:
        return f"Trainer({self.objective!r})"


def objectives_of(trainer: Trainer) -> Objectives:
    """Return the function that binds the objectives of a trainer to a train_state.

    `jn.alternate` has several. A trainer of your own has none, unless it names one.
    """
    return trainer._objectives or only(trainer.objective)


def takes_mask(trainer: Trainer) -> bool:
    """Return whether the update of a trainer takes a mask, which a step of your own does not.

    Example:
      >>> takes_mask(jn.Trainer(lambda key, batch: None, lambda train_state, batch: None))
      False
    """
    if trainer._parts:
        return all(map(takes_mask, trainer._parts.values()))
    return trainer.optimizer is not None


def _update_by(step: Callable) -> Callable:
    """Return an update made from the step of a user's own trainer."""

    def update(train_state, batch, mask=None):
        if mask is not None:
            raise ValueError(
                "fit: the last batch is padded, and this trainer's step takes no mask; choose a "
                "batch_size that divides the number of examples"
            )
        train_state, metrics = step(train_state, batch)
        loss = metrics.get("loss") if isinstance(metrics, dict) else None
        if loss is None or np.shape(loss):
            got = describe(metrics) if loss is None else f"a loss {describe(loss)}"
            raise ValueError(
                "fit: the step of the trainer must return (train_state, metrics), and metrics must "
                f"be a dict with one number as its 'loss', got {got:.100}"
            )
        averages = {name: Average(value, jnp.float32(1)) for name, value in metrics.items()}
        return train_state, averages, jnp.ones(0, bool)

    return update


@explain_keywords
def trainer(
    objective: Layer,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    loss_scale: float | None = None,
    shapes: int = 1,
    donate: bool = True,
    report: Sequence[str] = (),
) -> Trainer:
    """Return the trainer of an objective.

    `init(key, batch)` initializes params, state and the optimizer's state. Only the shapes and
    dtypes of the batch are used, so it may be the whole data set, or `jn.spec`s. To start from
    trained params, pass `init(key, batch, params=trained)`. `trained` may be a part of the params,
    such as `{"encoder": encoder_params}`; missing entries are initialized, and entries that the
    net does not have raise an error. The values are copied, in the dtypes of the net.

    `step(train_state, batch)` computes the gradient and the update, and returns the new train_state
    with the loss and metrics of the batch. Called directly, it is jitted and donates the
    train_state (its memory is reused), so always continue with the train_state that `step`
    returned. Inside the user's own `jit`, `grad`, `scan` or `vmap` it is a pure function.
    Optimizers with a line search, such as `optax.lbfgs`, also get value, gradient and function.
    Gradients of complex params are the conjugates of `jax.grad`'s, so that descent lowers the loss.

    It warns, with paths, about recompilations, about state that does not change in training, and
    about gradients or losses that are not finite. In a loop of your own, the last warning comes up
    to 256 steps late; `fit` checks every step.

    On CPU under Linux, `jn.reuse_memory()` may make steps faster.

    Args:
      objective: Layer `batch -> (values, metrics)`, such as `jn.supervised(net, loss)`.
      optimizer: Optax optimizer, such as `optax.adam(1e-3)`.
      accumulate: Number of parts into which each batch is cut by rows. One step then needs the
        memory of a part, and makes one update with the gradient of the whole batch, whatever its
        masks and padding are. A loss that compares examples, such as SimCLR's, compares those of a
        part. Batch norm normalizes by the statistics of a part. Its running averages, and the
        targets of `moving_average`, move once per part.
      loss_scale: Number by which the loss is multiplied while gradients are computed, so that they
        stay in the range of float16. By default, if the objective computes anything in float16, as
        a net from `jn.cast(net, jnp.float16)` does, the scale is dynamic: it starts at 65,536, is
        halved after an overflow, not below 1, and doubled after 2,000 steps without one. Otherwise
        nothing is scaled. A number is a constant scale, whatever the dtypes are.
      shapes: Number of batch shapes to expect, such as `jn.data.bucketed(...).shapes`. Up to this
        number of compilations, there is no warning.
      donate: Whether `step` reuses the memory of the train_state, so that the one it was given is
        gone. False keeps it, for twice the memory. Ctrl-C in a loop of steps, in a cell or at the
        top of a program, loses nothing: it is handled before the next step donates. In a function
        of your own the variables end with it, and `jn.training.recover()` finds the train_state
        among them.
      report: What else the metrics of a step, and so the lines of `jn.fit`, have: "gradient_norm",
        of all params together, and "learning_rate", for an optimizer made by
        `optax.inject_hyperparams`. An epoch has the means over its steps.

    Returns:
      A `Trainer`: `init(key, batch, params=None)` returns a train state, and `step(train_state,
      batch)` the next one and the metrics.

    Raises:
      TypeError: If `objective` is not a layer, or if `optimizer` is not an optax optimizer.
      ValueError: If `accumulate` or `shapes` is below 1, or `report` has another name.
      ValueError: In `init`, if a learning rate is to be reported and the optimizer holds none.
      ValueError: In the step, if a batch is accumulated whose loss is one value per batch and whose
        rows `accumulate` does not divide, or whose weights depend on the params.

    Example:
      >>> batch = jnp.eye(3), jnp.array([0, 1, 0])
      >>> loss = optax.softmax_cross_entropy_with_integer_labels
      >>> trainer = jn.trainer(jn.supervised(jn.dense(2), loss), optax.adam(0.1))
      >>> train_state = trainer.init(jax.random.key(0), batch)
      >>> for step in range(21):
      ...     train_state, metrics = trainer.step(train_state, batch)
      ...     if step % 10 == 0:
      ...         print(f"step {step}: loss {metrics['loss']:.2f}")
      step 0: loss 0.60
      step 10: loss 0.11
      step 20: loss 0.03

      Transfer learning: start from the trained layer below a new one.

      >>> net = jn.serial(jn.dense(2), jax.nn.relu, jn.dense(5, name="head"))
      >>> tuned = jn.trainer(jn.supervised(net, loss), optax.adam(0.1))
      >>> params = {"dense": train_state.params}
      >>> start = tuned.init(jax.random.key(1), batch, params=params)
      >>> for params in (train_state.params, start.params["dense"]):
      ...     print(np.asarray(params["bias"]).round(2))
      [ 0.62 -0.62]
      [ 0.62 -0.62]
    """
    _check(objective, optimizer)
    checks.all_at_least("trainer", accumulate=accumulate, shapes=shapes)
    checks.check_options("trainer", donate=donate)
    checks.within("trainer", "loss_scale", loss_scale, "(0, inf)", optional=True)
    report = check_report(report)
    optimizer = optax.with_extra_args_support(optimizer)
    cache = TrainerCache(Watcher(shapes), Memo((objective, optimizer)))
    # Eager zeros would compile for each shape.
    start = jax.jit(lambda params: without_weak_types(optimizer.init(floats_of(params))))

    @explain_reuse()
    def init(key: jax.Array, batch: PyTree, params: Params | None = None) -> TrainState:
        checks.check_key(key, "trainer.init")
        with hint_of_batch(objective, batch):
            specs = _specs(batch)
            drawn, state = without_weak_types(objective.init(child_key(key, "init"), specs))
        filled = drawn if params is None else _filled("params", drawn, params)
        seen = trace_or_none(trace_objective, objective, filled, state, specs)
        check_captured(objective, filled, seen)
        check_axes(objective, filled, state, specs)
        check_mixing_of("trainer.init", objective, filled, state, specs)
        opt_state = start(filled)
        if RATE in report:
            learning_rate(opt_state)  # raises if there is none
        if loss_scale is not None or (seen and seen.uses_float16):
            opt_state = started(loss_scale, opt_state, filled)
        return TrainState(
            step=checks.on_device(np.zeros((), np.int32)),
            params=filled,
            state=state,
            opt_state=opt_state,
            key=as_stored(child_key(key, "train")),
        )

    update = Update(objective, optimizer, accumulate, loss_scale, cache.watcher, report)
    step = step_of(update, objective, cache, donate)
    return Trainer(
        init, step, update=update, objective=objective, optimizer=optimizer, _cache=cache
    )


def step_of(
    update: Callable,
    objective: Layer | None,
    cache: TrainerCache,
    donate: bool = True,
    objectives: Objectives | None = None,
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]:
    """Return the step made from an update, compiled unless its arguments are traced.

    Args:
      update: Function `(train_state, batch) -> (train_state, averages, finite)`.
      objective: Objective whose loss is watched; None if there are several.
      cache: What the trainer keeps.
      donate: Whether the memory of the train_state is reused.
      objectives: Objectives whose targets are checked; by default `objective` alone.
    """
    objectives = objectives or only(objective)

    def pure_step(train_state, batch):
        after, averages, _ = update(train_state, batch)  # unused results are not computed
        return after, {name: average.mean for name, average in averages.items()}

    def one_step(train_state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        # Not the whole train_state, since flattening it costs microseconds. If only state or
        # opt_state is traced, the results are the same, but the buffers of the others are reused.
        if checks.is_traced((train_state.step, train_state.params, train_state.key, batch)):
            return pure_step(train_state, batch)
        batch = checks.all_native(batch, "step")
        with explain_reuse(train_state):
            if "step" not in cache.watcher.traces:  # later batches are taken to be like the first
                check_has_rows("step", batch)
                for each in objectives(train_state, batch):
                    check_targets(*each, batch, "step", train=True)
            # One check suffices, since a train_state is on a mesh as a whole; flattening costs
            # microseconds.
            shardings = shardings_of(train_state) if is_named(train_state.step) else None
            check_processes("step", train_state, batch)
            agree_on_step(train_state)
            preemption.leave("step", ENDS, train_state)
            run = driver(cache, ("step", "batch"), pure_step, shardings, (0,) * donate)
            compile_first(cache, "step", run, train_state, batch)
            after, metrics = run(train_state, batch)
            cache.watcher.stepped(after, metrics["loss"], objective)  # may read what failed
        return after, metrics

    def step(train_state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        return uninterrupted(one_step, train_state, batch)

    return step


def driver(
    cache: TrainerCache, key: tuple, run: Callable, shardings: Where, donate: tuple = (0,)
) -> Callable:
    """Return the program of one update or more, compiled once; the train_state keeps its shardings.

    Args:
      cache: What the trainer keeps: its programs and this one, and the watcher of each trace.
      key: Name of the program, name of its second argument, and all that the program depends on.
      run: Function `(train_state, data, ...) -> (train_state, results)`.
      shardings: Shardings of the train_state.
      donate: Positions of the arguments whose memory is reused.
    """

    def make():
        name, what = key[:2]

        @functools.wraps(run)
        def watched(train_state, data, *rest):
            cache.watcher.traced(name, (key, shardings), train_state=train_state, **{what: data})
            return run(train_state, data, *rest)

        return placed(watched, shardings, donate_argnums=donate)

    return cache.programs.of((*key, shardings), make)


def compile_first(cache: TrainerCache, name: str, program: Any, *args: PyTree) -> None:
    """Compile a program of `driver` before its first call, if the trainer has none of this name.

    Args:
      cache: What the trainer keeps.
      name: Name of the program.
      program: The program.
      args: Arguments of its first call.
    """
    if name not in cache.watcher.traces:
        memory.compile_for(program, *args)


def _filled(path: str, drawn: PyTree, passed: PyTree) -> PyTree:
    """Return a copy of the given values, and of the initial values if none are given."""
    if isinstance(drawn, dict):
        if not isinstance(passed, dict):
            raise TypeError(
                f"trainer.init: {path} must be a dict with entries among {', '.join(drawn)}, got "
                f"{describe(passed)}"
            )
        unknown = [str(name) for name in passed if name not in drawn]
        if unknown:
            raise ValueError(
                f"trainer.init: {path} has unknown entries: {', '.join(unknown)}. The net has "
                f"{', '.join(drawn)}"
            )
        filled = dict(drawn)
        for name, entry in passed.items():
            filled[name] = _filled(f"{path}/{name}", drawn[name], entry)
        return filled
    if not isinstance(passed, jax.Array | np.ndarray):
        raise TypeError(
            f"trainer.init: {path} must be an array {describe(drawn)}, got {describe(passed)}"
        )
    floats = all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in (drawn, passed))
    if passed.shape != drawn.shape or not (floats or passed.dtype == drawn.dtype):
        raise ValueError(
            f"trainer.init: {path} must be {describe(drawn)}, got {describe(passed)}. Leave out "
            "the entries that should be initialized"
        )
    # Copied, since a step donates its arrays.
    return jnp.array(checks.all_native(passed, "trainer.init"), drawn.dtype)


def _check(objective: Any, optimizer: Any) -> None:
    words = "a layer, such as jn.supervised(net, loss)"
    checks.check_type("trainer", "the objective", objective, Layer, words)
    if isinstance(optimizer, optax.GradientTransformation):
        return
    got = type(optimizer).__name__
    hint = ""
    if hasattr(optimizer, "gradient_transformation"):  # optax.MultiSteps
        hint = "; write optimizer.gradient_transformation()"
    elif callable(optimizer):
        got = f"the function {function_name(optimizer)}"
        hint = f"; did you forget to call it: {function_name(optimizer)}(1e-3)?"
    raise TypeError(
        "trainer: the optimizer must be an optax optimizer, such as optax.adam(1e-3), got "
        f"{got}{hint}"
    )


def _specs(batch: PyTree) -> PyTree:
    for leaf in leaves_of(batch):
        if not getattr(leaf, "shape", ()):
            checks.to_numpy("trainer.init", "the batch", leaf)  # it knows loaders
            raise TypeError(
                "trainer.init: the batch must be arrays or specs with one example per row, such as "
                f"(inputs, targets), got {describe(leaf)}; for a list, write np.asarray(list)"
            )
    return checks.abstract(batch, "trainer.init")
