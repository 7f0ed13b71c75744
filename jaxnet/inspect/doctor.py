"""Diagnosis of a training run: dead units, wrong learning rates, stale state."""

import warnings
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer
from jaxnet.inspect.activations import activations
from jaxnet.services.checks import all_native, check_input
from jaxnet.services.jaxprs import depends_on
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.table import Table, Tabular
from jaxnet.services.trees import PyTree, differences, flat, floats_of, with_floats
from jaxnet.training.objective import averaged, supervised_in
from jaxnet.training.train_state import TrainState, check_train_state
from jaxnet.training.trainer import Trainer
from jaxnet.training.watch import explain_reuse

FAST, SLOW = 0.1, 1e-6  # update / weight; usually near 1e-3
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
        notes = [f"{i}. {finding}" for i, finding in enumerate(self.findings, 1)]
        return Table(
            f"{len(self.findings) or 'no'} finding{'s' * (len(self.findings) != 1)}",
            ("entry", "size", "weight", "gradient", "update/weight"),
            [(path, *figures) for path, figures in self.entries.items()],
            notes=notes or ["no problems found"],
        )


@explain_reuse()
@on_auto_axes
def doctor(trainer: Trainer, train_state: TrainState, *batches: PyTree) -> Report:
    """Make a trial step on each batch and report problems.

    It reports: programs compiled more than once, and batches that would cause it; gradients that
    are 0 or not finite; updates that are far too large or small for their weights; state that
    training does not change; running statistics that still have their initial values although the
    network was trained; an evaluation loss far above the training loss on the same batch; units
    that are 0 on every example (if they depend on parameters: pixels may be blank), except inside
    `repeat` and `ensemble`; and, for `jn.supervised`, layers in which the examples of a batch
    influence each other in evaluation, and a sigmoid or softmax before a loss or metric of logits.

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
    objective, update = trainer.objective, trainer.update
    findings = _compilations(trainer._kept.watcher.traces, batches)

    @jax.jit
    def trial(train_state, key, batch):
        def loss(floats, train):
            params = with_floats(train_state.params, floats)
            given = objective, params, train_state.state, batch, None, key
            return averaged(*given, train=train)[0]["loss"].mean

        # Integers, such as the params of `quantized`, do not change.
        floats = floats_of(train_state.params)
        gradients = jax.grad(loss)(floats, True)
        after, found, _ = update(train_state, batch)
        measured = loss(floats, False)
        return gradients, floats_of(after.params), after.state, found["loss"].mean, measured

    tried = []
    for i, batch in enumerate(batches):
        with warnings.catch_warnings(action="ignore"):  # the findings below replace those of a step
            now = train_state._replace(key=jax.random.clone(train_state.key))
            tried.append(jax.device_get(trial(now, jax.random.key(i), batch)))
    gradients, params, states, losses, measured = zip(*tried, strict=True)
    before = jax.device_get((floats_of(train_state.params), train_state.state))

    entries = _entries(before[0], gradients, params)
    findings += _moves(entries)
    findings += _stale(before[1], states, int(train_state.step))
    for name, value in (("training", losses), ("evaluation", measured)):
        if not np.isfinite(value).all():
            findings.append(f"the loss in {name} mode is not finite: {[float(v) for v in value]}")
    train_loss, eval_loss = float(np.mean(losses)), float(np.mean(measured))
    if eval_loss > 2 * train_loss + 1e-3 and before[1]:
        findings.append(
            f"on the same batches the loss is {train_loss:.3g} in training and {eval_loss:.3g} in "
            "evaluation mode: the running statistics do not describe the data (yet)"
        )
    if dead := _dead(objective, train_state, batches):
        words = ", ".join(f"{path} {n} of {units}" for path, (n, units) in dead.items())
        findings.append(f"dead units, 0 on all examples: {words}")
    findings += _mixed(objective, train_state, batches[0])
    findings += _squashed(objective, train_state, batches[0])
    return Report(findings, entries, dead)


def _compilations(traces_of: dict[str, list[dict[str, str]]], batches: tuple) -> list[str]:
    found = []
    for program, traces in traces_of.items():
        if len(traces) > 1:
            steps = zip(traces, traces[1:], strict=False)
            changes = [change for old, new in steps for change in _changes(old, new)]
            words = "; ".join(changes[:8]) or "for no change of shapes or dtypes"
            found.append(f"{program} was compiled {len(traces)} times: {words}")
    first = _types(batches[0])
    for i, batch in enumerate(batches[1:], 1):
        if changes := _changes(first, _types(batch)):
            found.append(f"batch {i} makes the step compile again: {'; '.join(changes)}")
    return found


def _changes(old: dict[str, str], new: dict[str, str]) -> list[str]:
    found = differences(old, new).items()
    return [f"{path} {a or 'nothing'} -> {b or 'nothing'}" for path, (a, b) in found]


def _types(batch: PyTree) -> dict[str, str]:
    return {path or "batch": str(jax.typeof(leaf)) for path, leaf in flat(batch, None)}


def _entries(before: PyTree, gradients: tuple, after: tuple) -> dict[str, tuple]:
    """Return size and norms by path, with the largest gradient and update over the batches."""
    entries = {}
    others = [zip(*map(jax.tree.leaves, trees), strict=True) for trees in (gradients, after)]
    for (path, old), grads, news in zip(flat(before, None), *others, strict=True):
        weight, gradient = _norm(old), max(map(_norm, grads), key=_bad)
        update = max((_norm(_wide(new) - _wide(old)) for new in news), key=_bad)
        entries[path] = (old.size, weight, gradient, update / weight if weight else None)
    return entries


def _norm(a: np.ndarray) -> float:
    return float(np.linalg.norm(_wide(a)))


def _wide(a: np.ndarray) -> np.ndarray:
    return np.asarray(a, np.promote_types(a.dtype, np.float64))


def _moves(entries: dict[str, tuple]) -> list[str]:
    """Return findings about the gradients and the sizes of the updates."""
    largest = max((e[2] for e in entries.values() if np.isfinite(e[2])), default=0)
    nothing = {path for path, e in entries.items() if e[2] <= ROUNDING * largest}
    ratios = {path: e[3] for path, e in entries.items() if e[3] is not None and e[1] > 0}
    judged = {p: r for p, r in ratios.items() if p not in nothing and not p.endswith("bias")}
    fast = [path for path, ratio in judged.items() if ratio > FAST]
    slow = [path for path, ratio in judged.items() if ratio < SLOW]
    found = {
        "the gradient is not finite": [p for p, e in entries.items() if not np.isfinite(e[2])],
        "the gradient is 0, or rounding, on all batches": sorted(nothing),
        f"an update moves the weights by more than {FAST:.0%}": fast,
        f"an update moves the weights by less than {SLOW:.0e} of their size": slow,
    }
    return [f"{sentence}: {', '.join(bad)}" for sentence, bad in found.items() if bad]


def _bad(value: float) -> float:
    return np.inf if np.isnan(value) else value


def _stale(before: PyTree, states: tuple, steps: int) -> list[str]:
    """Return findings about state that a step does not change and statistics never updated."""
    entries, found, still = flat(before, None), [], []
    for (path, old), *news in zip(entries, *map(jax.tree.leaves, states), strict=True):
        if old.dtype != bool and all(np.array_equal(old, new, equal_nan=True) for new in news):
            still.append(path)
    if still:
        found.append(
            f"training does not change the state {', '.join(still)}: is the net applied with "
            "train=train, and is its new state returned?"
        )
    init = {"mean": 0, "var": 1}
    named = [(path, path.rpartition("/")[2], old) for path, old in entries]
    fresh = [path for path, name, old in named if name in init and np.all(old == init[name])]
    if fresh and steps > 0:
        found.append(
            f"after {steps} steps these statistics still have their initial values, and evaluation "
            f"uses them: {', '.join(fresh)}"
        )
    return found


def _mixed(objective: Layer, train_state: TrainState, batch: PyTree) -> list[str]:
    """Return a finding if the outputs of an example change with the other examples of its batch."""
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    size = sizes.pop() if len(sizes) == 1 else ()
    if supervised_in(objective) is None or not size or size[0] < 2:
        return []  # other objectives may compare examples
    half, paths = size[0] // 2, []

    def outputs(params, state, batch):
        found = activations(objective, params, state, batch, key=jax.random.key(0))
        paths[:] = [path for path, y in found.items() if jnp.shape(y)[:1] == size]
        return {path: found[path][:half] for path in paths}

    # The same shapes, so that rounding is the same: only the second half differs.
    others = jax.tree.map(lambda a: jnp.asarray(a).at[-half:].set(a[:half]), batch)
    run = jax.jit(outputs)
    one, two = (jax.device_get(run(*train_state[1:3], each)) for each in (batch, others))
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
    x, targets = batch
    floats = jax.tree.map(lambda p: 30 * p, floats_of(train_state.params))
    large = with_floats(train_state.params, floats)
    of = lambda layer, y: jax.tree.leaves(layer.apply({}, {}, (y, targets))[0])[0]  # noqa: E731
    run = jax.jit(lambda params, x: parts.net.apply(params, train_state.state, x)[0])
    y, larger = run(train_state.params, x), run(large, x)
    floats = hasattr(y, "dtype") and jnp.issubdtype(y.dtype, jnp.floating)
    if not (floats and y.any() and all(0 <= a.min() and a.max() <= 1 for a in (y, larger))):
        return []
    corner = (jax.grad(lambda y: of(parts.loss, y).mean())(y) < 0).astype(y.dtype)
    near, far = (float(of(parts.loss, each).mean()) for each in (corner, 3 * corner - 1))
    u = jax.random.uniform(jax.random.key(0), y.shape, y.dtype, 1e-3, 1 - 1e-3)
    same = [n for n, m in parts.metrics.items() if (of(m, u) == of(m, 1 - u)).all()]
    names = ["the loss"] * (far < near > 1e-3) + [f"metrics[{name!r}]" for name in same]
    write = "leave out the sigmoid or softmax at the end of the net"
    if not far < near > 1e-3:
        write += ", or write functools.partial(jn.metrics.binary_accuracy, threshold=0.5)"
    told = f"all outputs are in [0, 1], but logits are expected by {' and '.join(names)}: {write}"
    return [told] if names else []


def _dead(objective: Layer, train_state: TrainState, batches: tuple) -> dict[str, tuple[int, int]]:
    """Return by path the number of units (along the last axis) that are 0 on all examples, and of
    all.

    Layers before the first parameters, such as flattened pixels, are left out.
    """

    def alive(params, state, key, batch):
        return {
            path: (y != 0).any(tuple(range(y.ndim - 1)))
            for path, y in activations(objective, params, state, batch, key=key).items()
            if hasattr(y, "ndim") and y.ndim > 1 and jnp.issubdtype(y.dtype, jnp.floating)
        }

    given = *train_state[1:3], jax.random.key(0)
    run = jax.jit(alive)
    seen = [jax.device_get(run(*given, batch)) for batch in batches]
    program, found = jax.make_jaxpr(alive, return_shape=True)(*given, batches[0])
    count = len(jax.tree.leaves(train_state.params))
    learned = depends_on(program.jaxpr, [i < count for i in range(len(program.jaxpr.invars))])
    paths = [path for path, own in zip(sorted(found), learned, strict=True) if own]
    units = {path: np.any([s[path] for s in seen], axis=0) for path in paths}
    return {path: (int((~u).sum()), u.size) for path, u in units.items() if not u.all()}
