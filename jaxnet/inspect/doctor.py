"""Diagnosis of a training run: dead units, wrong learning rates, stale state."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.core import Layer
from jaxnet.inspect.activations import activations
from jaxnet.services.checks import all_native, check_input
from jaxnet.services.jaxprs import depends_on
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.table import Table, Tabular
from jaxnet.services.trees import PyTree, differences, flat, floats_of, with_floats
from jaxnet.services.warn import without_warnings
from jaxnet.training import memory
from jaxnet.training.axes import axes_hint
from jaxnet.training.objective import averaged, supervised_in
from jaxnet.training.ranges import (
    HIGH_LOSS,
    pixel_hint,
    pixel_sentence,
    takes_logits,
    values_of,
)
from jaxnet.training.train_state import TrainState, check_train_state
from jaxnet.training.trainer import Trainer
from jaxnet.training.watch import explain_reuse

FAST = 0.1  # update / weight, which is usually near 1e-3
SLOW = 1e-6
FAULTS = 0.1  # of the processors' time in a step
MEASURED_STEPS = 3  # the best counts, since memory that is kept grows in the first steps
ROUNDING = 1e-6  # relative to the largest gradient: the size of rounding errors of 0 in float32


@dataclass(repr=False)
class Report(Tabular):
    """The findings of `doctor`; prints in a terminal and in a notebook.

    Fields:
      findings: One sentence per problem; empty if none was found.
      entries: Dict from the path of each float parameter to (size, weight norm, gradient norm,
        update / weight). The last is None if the weight is 0.
      dead: Dict from the path of each layer that has or follows parameters to the number of units
        that are 0 on all examples, and the number of all units.
    """

    findings: list[str]
    entries: dict[str, tuple]
    dead: dict[str, tuple[int, int]]

    def table(self) -> Table:
        count = len(self.findings)
        notes = [f"{i}. {finding}" for i, finding in enumerate(self.findings, 1)]
        return Table(
            "1 finding" if count == 1 else f"{count or 'no'} findings",
            ("entry", "size", "weight", "gradient", "update/weight"),
            [(path, *figures) for path, figures in self.entries.items()],
            notes=notes or ["no problems found"],
        )


class _Trial(NamedTuple):
    """What one step did on one batch."""

    gradients: PyTree
    params: PyTree  # after the step
    state: PyTree  # after the step
    train_loss: Any
    eval_loss: Any


@explain_reuse()
@on_auto_axes
def doctor(trainer: Trainer, train_state: TrainState, *batches: PyTree) -> Report:
    """Make a trial step on each batch and report problems.

    It reports: programs compiled more than once, and batches that would cause it; gradients that
    are 0 or not finite; updates that are far too large or small for their weights; state that
    training does not change; running statistics that still have their initial values although the
    network was trained; an evaluation loss far above the training loss on the same batch; units
    that are 0 on every example (if they depend on parameters: pixels may be blank), except inside
    `repeat` and `ensemble`; page faults that take over a tenth of a step on CPU; and, for
    `jn.supervised`, axes of pictures that a convolution takes for others, layers in which the
    examples of a batch influence each other in evaluation, and a sigmoid or softmax before a loss
    or metric of logits.

    Nothing is donated or changed: `train_state` can be used afterwards.

    Args:
      trainer: Trainer made by `jn.trainer`.
      train_state: Training state, as passed to `trainer.step`.
      batches: One batch or more, as passed to `trainer.step`; each trial starts from `train_state`.

    Returns:
      A `Report`, which prints as a list. Its `findings` are sentences, none if all is well.

    Raises:
      ValueError: If there are no batches.
      TypeError: If `trainer` is not from `jn.trainer`, `train_state` is not a training state, or a
        batch is not of arrays.

    Example:
      >>> net = jn.serial(jn.dense(4), jax.nn.relu, jn.dense(1))
      >>> trainer = jn.trainer(jn.supervised(net, optax.squared_error), optax.sgd(0.01))
      >>> batch = jnp.ones((8, 3)), jnp.ones((8, 1))
      >>> train_state = trainer.init(jax.random.key(0), batch)
      >>> dead = train_state.params["dense"] | {"bias": jnp.full(4, -9.0)}
      >>> train_state = train_state._replace(params=train_state.params | {"dense": dead})
      >>> for finding in doctor(trainer, train_state, batch).findings:
      ...     print(finding)
      the gradient is 0, or rounding, on all batches: dense/bias, dense/kernel, dense_1/kernel
      dead units, 0 on all examples: dense_1 1 of 1, relu 4 of 4
    """
    if not batches:
        raise ValueError(
            "doctor: expected at least one batch, as in doctor(trainer, train_state, batch), got "
            f"a {type(trainer).__name__} and a {type(train_state).__name__}"
        )
    if not isinstance(trainer, Trainer) or trainer.objective is None:
        raise TypeError("doctor: expected a trainer from jn.trainer(objective, optimizer)")
    check_train_state("doctor", train_state)
    np.asarray(train_state.step)  # raises if a step has used it up
    for batch in batches:
        check_input("doctor", batch)
    train_state, batches = all_native((train_state, batches), "doctor")
    findings = compilation_findings(trainer._cache.watcher.traces, batches)
    trial = _trial_step(trainer)
    trials = _trials(trial, train_state, batches)
    params, state = jax.device_get((floats_of(train_state.params), train_state.state))
    entries = figures_by_path(
        params, [trial.gradients for trial in trials], [trial.params for trial in trials]
    )
    findings += update_findings(entries)
    findings += state_findings(state, [trial.state for trial in trials], int(train_state.step))
    findings += _losses(trials, has_state=bool(state))
    findings += memory_findings(lambda: _trials(trial, train_state, batches[:1]))
    dead = _dead(trainer.objective, train_state, batches)
    if dead:
        words = ", ".join(f"{path} {n} of {units}" for path, (n, units) in dead.items())
        findings.append(f"dead units, 0 on all examples: {words}")
    findings += _axes(trainer.objective, train_state, batches[0])
    findings += _mixed(trainer.objective, train_state, batches[0])
    findings += _squashed(trainer.objective, train_state, batches[0])
    findings += _schedule_free(train_state.opt_state)
    findings += _pixels(trainer.objective, trials, batches[0])
    return Report(findings, entries, dead)


def _trial_step(trainer: Trainer) -> Callable[..., _Trial]:
    """Return a compiled step that also returns what it did, and donates nothing."""
    objective, update = trainer.objective, trainer.update

    def trial(train_state, key, batch):
        state = train_state.state

        def loss(floats, train):
            params = with_floats(train_state.params, floats)
            metrics, _ = averaged(objective, params, state, batch, None, key, train=train)
            return metrics["loss"].mean

        # Integers, such as the params of `quantized`, do not change.
        floats = floats_of(train_state.params)
        gradients = jax.grad(loss)(floats, True)
        after, metrics, _ = update(train_state, batch)
        eval_loss = loss(floats, False)
        params = floats_of(after.params)
        return _Trial(gradients, params, after.state, metrics["loss"].mean, eval_loss)

    return memory.jit(trial)


def _trials(trial: Callable[..., _Trial], train_state: TrainState, batches: tuple) -> list[_Trial]:
    """Make a step on each batch, each from `train_state`."""
    trials = []
    for i, batch in enumerate(batches):
        with without_warnings():  # the findings replace those of a step
            now = train_state._replace(key=jax.random.clone(train_state.key))
            trials.append(jax.device_get(trial(now, jax.random.key(i), batch)))
    return trials


def compilation_findings(traces_of: dict[str, list[dict[str, str]]], batches: tuple) -> list[str]:
    findings = []
    for program, traces in traces_of.items():
        if len(traces) > 1:
            changes = []
            for old, new in itertools.pairwise(traces):
                changes += _changes(old, new)
            words = "; ".join(changes[:8]) or "for no change of shapes or dtypes"
            findings.append(f"{program} was compiled {len(traces)} times: {words}")
    first = _types(batches[0])
    for i, batch in enumerate(batches[1:], 1):
        changes = _changes(first, _types(batch))
        if changes:
            findings.append(f"batch {i} makes the step compile again: {'; '.join(changes)}")
    return findings


def _changes(old: dict[str, str], new: dict[str, str]) -> list[str]:
    changed = differences(old, new).items()
    return [f"{path} {a or 'nothing'} -> {b or 'nothing'}" for path, (a, b) in changed]


def _types(batch: PyTree) -> dict[str, str]:
    return {path or "batch": str(jax.typeof(leaf)) for path, leaf in flat(batch, None)}


def figures_by_path(
    before: PyTree, gradients: Sequence[PyTree], after: Sequence[PyTree]
) -> dict[str, tuple]:
    """Return size and norms by path, with the largest gradient and update over the batches."""
    gradients_of = zip(*map(jax.tree.leaves, gradients), strict=True)
    params_of = zip(*map(jax.tree.leaves, after), strict=True)
    paths = flat(before, None)
    entries = {}
    for (path, old), grads, news in zip(paths, gradients_of, params_of, strict=True):
        weight = _norm(old)
        gradient = max((_norm(grad) for grad in grads), key=_bad)
        update = max((_norm(_wide(new) - _wide(old)) for new in news), key=_bad)
        ratio = update / weight if weight else None
        entries[path] = (old.size, weight, gradient, ratio)
    return entries


def _norm(a: np.ndarray) -> float:
    return float(np.linalg.norm(_wide(a)))


def _wide(a: np.ndarray) -> np.ndarray:
    return np.asarray(a, np.promote_types(a.dtype, np.float64))


def update_findings(entries: dict[str, tuple]) -> list[str]:
    """Return findings about the gradients and the sizes of the updates."""
    gradients = {path: gradient for path, (_, _, gradient, _) in entries.items()}
    largest = max((g for g in gradients.values() if np.isfinite(g)), default=0)
    infinite = [path for path, g in gradients.items() if not np.isfinite(g)]
    nothing = sorted(path for path, g in gradients.items() if g <= ROUNDING * largest)
    fast = []
    slow = []
    for path, (_, weight, _, ratio) in entries.items():
        if ratio is None or not weight > 0 or path in nothing or path.endswith("bias"):
            continue
        if ratio > FAST:
            fast.append(path)
        elif ratio < SLOW:
            slow.append(path)
    findings = {
        "the gradient is not finite": infinite,
        "the gradient is 0, or rounding, on all batches": nothing,
        f"an update moves the weights by more than {FAST:.0%}": fast,
        f"an update moves the weights by less than {SLOW:.0e} of their size": slow,
    }
    return [f"{sentence}: {', '.join(bad)}" for sentence, bad in findings.items() if bad]


def _bad(value: float) -> float:
    return np.inf if np.isnan(value) else value


def state_findings(before: PyTree, states: Sequence[PyTree], steps: int) -> list[str]:
    """Return findings about state that a step does not change and statistics never updated."""
    findings = []
    still = []
    fresh = []
    initial = {"mean": 0, "var": 1}
    after = zip(*map(jax.tree.leaves, states), strict=True)
    for (path, old), news in zip(flat(before, None), after, strict=True):
        unchanged = all(np.array_equal(old, new, equal_nan=True) for new in news)
        if unchanged and old.dtype != bool:
            still.append(path)
        name = path.rpartition("/")[2]
        if name in initial and np.all(old == initial[name]):
            fresh.append(path)
    if still:
        findings.append(
            f"training does not change the state {', '.join(still)}: is the net applied with "
            "train=train, and is its new state returned?"
        )
    if fresh and steps > 0:
        findings.append(
            f"after {steps} steps these statistics still have their initial values, and evaluation "
            f"uses them: {', '.join(fresh)}"
        )
    return findings


def _losses(trials: list[_Trial], has_state: bool) -> list[str]:
    """Return findings about the losses in training and in evaluation mode."""
    findings = []
    in_training = [float(trial.train_loss) for trial in trials]
    in_evaluation = [float(trial.eval_loss) for trial in trials]
    if not np.isfinite(in_training).all():
        findings.append(f"the loss in training mode is not finite: {in_training}")
    if not np.isfinite(in_evaluation).all():
        findings.append(f"the loss in evaluation mode is not finite: {in_evaluation}")
    train_loss, eval_loss = np.mean(in_training), np.mean(in_evaluation)
    if has_state and eval_loss > 2 * train_loss + 1e-3:
        findings.append(
            f"on the same batches the loss is {train_loss:.3g} in training and {eval_loss:.3g} in "
            "evaluation mode: the running statistics do not describe the data (yet)"
        )
    return findings


def _faults_of(step: Callable[[], Any], seconds_each: float) -> tuple[float, int]:
    """Return the page faults of a step: their share of its time, and how many they are."""
    before = memory.page_faults()
    start = time.process_time()  # of all threads, so that other programs do not count
    step()
    seconds = time.process_time() - start
    faults = memory.page_faults() - before
    return faults * seconds_each / seconds if faults else 0.0, faults


def memory_findings(step: Callable[[], Any]) -> list[str]:
    """Return a finding if the system spends much of a step on giving memory to the process.

    Args:
      step: Makes a step that has been compiled, and waits for it.
    """
    seconds_each = memory.seconds_per_fault()
    share, faults = _faults_of(step, seconds_each)
    for _ in range(MEASURED_STEPS - 1):
        if share >= FAULTS:
            share, faults = min((share, faults), _faults_of(step, seconds_each))
    if share < FAULTS:
        return []
    return [
        f"about {min(share, 1):.0%} of a step goes into {faults:,} page faults, since freed memory "
        "goes back to the system: write jn.reuse_memory() before the first computation"
    ]


def _axes(objective: Layer, train_state: TrainState, batch: PyTree) -> list[str]:
    """Return a finding if the net takes the axes of pictures for others."""
    parts = supervised_in(objective)
    if parts is None:
        return []
    x, _ = parts.split(batch)
    hint = axes_hint(parts.net, train_state.params, train_state.state, x)
    return [hint] if hint else []


def _mixed(objective: Layer, train_state: TrainState, batch: PyTree) -> list[str]:
    """Return a finding if the outputs of an example change with the other examples of its batch."""
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    size = sizes.pop() if len(sizes) == 1 else ()
    if supervised_in(objective) is None or not size or size[0] < 2:
        return []  # other objectives may compare examples
    half = size[0] // 2
    paths = []

    @jax.jit
    def outputs(params, state, batch):
        outputs_by_path = activations(objective, params, state, batch, key=jax.random.key(0))
        paths[:] = [path for path, y in outputs_by_path.items() if jnp.shape(y)[:1] == size]
        return {path: outputs_by_path[path][:half] for path in paths}

    # The same shapes, so that rounding is the same: only the second half differs.
    others = jax.tree.map(lambda a: jnp.asarray(a).at[-half:].set(a[:half]), batch)
    params, state = train_state.params, train_state.state
    one = jax.device_get(outputs(params, state, batch))
    two = jax.device_get(outputs(params, state, others))
    for path in paths:
        if not np.allclose(one[path], two[path], rtol=1e-4, atol=1e-6, equal_nan=True):
            return [
                "in evaluation, the outputs of an example depend on the other examples of its "
                f"batch, first at {path}: does it mix values along the batch axis?"
            ]
    return []


def _squashed(objective: Layer, train_state: TrainState, batch: PyTree) -> list[str]:
    """Return findings if a loss or metric takes logits, and the net ends in a sigmoid or softmax.

    The loss tells by its values: from the best corner of [0, 1] it falls further only if it takes
    logits. A metric of logits is the same for all outputs in (0, 1).
    """
    parts = supervised_in(objective)
    if parts is None or objective.kind not in ("supervised", "augmented"):
        return []
    x, targets = parts.split(batch)

    @jax.jit
    def outputs(params, x):
        y, _ = parts.net.apply(params, train_state.state, x)
        return y

    larger_floats = jax.tree.map(lambda p: 30 * p, floats_of(train_state.params))
    y = outputs(train_state.params, x)
    larger = outputs(with_floats(train_state.params, larger_floats), x)
    if not (_in_unit_interval(y) and y.any() and _in_unit_interval(larger)):
        return []
    loss_takes_logits = takes_logits(parts.loss, y, targets)
    names = ["the loss"] if loss_takes_logits else []
    random = jax.random.uniform(jax.random.key(0), y.shape, y.dtype, 1e-3, 1 - 1e-3)
    for name, metric in parts.metrics.items():
        one, other = (values_of(metric, a, targets) for a in (random, 1 - random))
        if (one == other).all():
            names.append(f"metrics[{name!r}]")
    if not names:
        return []
    write = "leave out the sigmoid or softmax at the end of the net"
    if not loss_takes_logits:
        write += ", or write functools.partial(jn.metrics.binary_accuracy, threshold=0.5)"
    return [f"all outputs are in [0, 1], but logits are expected by {' and '.join(names)}: {write}"]


def _schedule_free(opt_state: PyTree) -> list[str]:
    """Return a finding about an optimizer whose params in training are not its result."""
    kind = optax.contrib.ScheduleFreeState

    def is_one(part: Any) -> bool:
        return isinstance(part, kind)

    if not any(map(is_one, jax.tree.leaves(opt_state, is_leaf=is_one))):
        return []
    return [
        "the optimizer is schedule-free, whose params in training are not those to evaluate by: "
        "before evaluate, predict and save write train_state._replace(params="
        "optax.contrib.schedule_free_eval_params(train_state.opt_state, train_state.params))"
    ]


def _pixels(objective: Layer, trials: list[_Trial], batch: PyTree) -> list[str]:
    parts = supervised_in(objective)
    first = float(trials[0].train_loss)
    if parts is None or not first > HIGH_LOSS:
        return []
    hint = pixel_hint(parts.split(batch)[0])
    return [pixel_sentence(first, hint)] if hint else []


def _in_unit_interval(y: PyTree) -> bool:
    if not hasattr(y, "dtype") or not jnp.issubdtype(y.dtype, jnp.floating) or not y.size:
        return False
    return bool(y.min() >= 0 and y.max() <= 1)


def _dead(objective: Layer, train_state: TrainState, batches: tuple) -> dict[str, tuple[int, int]]:
    """Return by path the number of units (along the last axis) that are 0 on all examples, and of
    all.

    Layers before the first parameters, such as flattened pixels, are left out.
    """

    def alive(params, state, key, batch):
        alive_by_path = {}
        for path, y in activations(objective, params, state, batch, key=key).items():
            if hasattr(y, "ndim") and y.ndim > 1 and jnp.issubdtype(y.dtype, jnp.floating):
                examples = tuple(range(y.ndim - 1))
                alive_by_path[path] = (y != 0).any(examples)
        return alive_by_path

    arguments = train_state.params, train_state.state, jax.random.key(0)
    run = jax.jit(alive)
    seen = [jax.device_get(run(*arguments, batch)) for batch in batches]
    program, alive_outputs = jax.make_jaxpr(alive, return_shape=True)(*arguments, batches[0])
    params_count = len(jax.tree.leaves(train_state.params))
    is_param = [i < params_count for i in range(len(program.jaxpr.invars))]
    learned = depends_on(program.jaxpr, is_param)
    dead = {}
    for path, depends_on_params in zip(sorted(alive_outputs), learned, strict=True):
        units = np.any([alive_in[path] for alive_in in seen], axis=0)
        if depends_on_params and not units.all():
            dead[path] = int((~units).sum()), units.size
    return dead
