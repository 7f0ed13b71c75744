"""Objectives: an objective is a layer whose input is a batch and whose output is a loss.

Its `apply(params, state, batch, key=..., train=...)` returns `((values, metrics), state)`. `values`
takes one of three forms, and so does each entry of the dict `metrics`:

    values              (batch,)            one per example; the loss is their mean
    (totals, weights)   (batch,) each       the loss is sum(totals) / sum(weights)
    value               scalar              if padding is not needed

Any layer of this form is an objective, such as a `compose` of eight lines; this file has the common
objectives.
"""

import contextlib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, State, as_layer, compose, transformed
from jaxnet.services.checks import LOADER, WrongValues, a_function, check_type, is_list_of_batches
from jaxnet.services.checks.keywords import explain_keywords
from jaxnet.services.functions import function_name
from jaxnet.services.jaxprs import follow
from jaxnet.services.trees import PyTree, describe, flat, shapes_of

Compare = Callable[[PyTree, PyTree], Any]  # (outputs, targets) -> values


@explain_keywords
def supervised(
    net: Layer,
    loss: Compare,
    *,
    metrics: Mapping[str, Compare] | None = None,
    penalty: Callable[[Params], jax.Array] | None = None,
    inputs: str | tuple[str, ...] | None = None,
    targets: str | tuple[str, ...] | None = None,
) -> Layer:
    """Return the objective of learning from pairs: `loss(net(x), y)` for a batch `(x, y)`.

    For batches that are dicts, as grain and TFDS give them, `inputs` and `targets` name the
    entries.

    Params and state are the params and state of `net`, without an extra level. `loss` and the
    metrics return one value per example, (batch,) or (batch, ...), as optax losses do; further axes
    are averaged. A pair (totals, weights) or a scalar is passed through.

    Args:
      net: Layer to train.
      loss: Function `(outputs, targets) -> values`, such as `jn.losses.cross_entropy`. Set options
        of a loss or metric by `functools.partial`.
      metrics: Metrics to report by name, such as `{"accuracy": jn.metrics.accuracy}`.
      penalty: Function of the parameters, added to the loss, in evaluation too; see
        `jaxnet.penalties`.
      inputs, targets: Names of the entries of a batch that is a dict. A name gives the array, and
        a tuple of names a dict of these. None of both is for pairs.

    Returns:
      An objective: a layer whose input is a batch (inputs, targets), or a dict with the named
      entries. It returns the loss of each example and a dict of metrics.

    Raises:
      TypeError: If a batch is not a pair or, with names, not a dict; or if only one of `inputs`
        and `targets` is given.
      ValueError: If a dict lacks an entry.
      ValueError: If a metric is called "loss".
      ValueError: If outputs and targets broadcast against each other, such as (32, 1) against
        (32,), which would compare every example with every other.

    Example:
      >>> metrics = {"absolute": lambda outputs, targets: abs(outputs - targets)}
      >>> objective = jn.supervised(jn.dense(1), optax.squared_error, metrics=metrics)
      >>> params = {"kernel": jnp.array([[2.0]]), "bias": jnp.zeros(1)}  # outputs 2 x
      >>> batch = jnp.array([[1.0], [2.0]]), jnp.array([[3.0], [6.0]])
      >>> (values, metrics), state = objective.apply(params, {}, batch)
      >>> values.tolist(), metrics["absolute"].tolist()
      ([1.0, 4.0], [1.0, 2.0])
      >>> names = {"inputs": "image", "targets": "label"}
      >>> objective = jn.supervised(jn.dense(1), optax.squared_error, **names)
      >>> (values, _), state = objective.apply(params, {}, dict(image=batch[0], label=batch[1]))
      >>> values.tolist()
      [1.0, 4.0]
    """
    net = as_layer(net, "supervised", "net")
    metrics = {} if metrics is None else metrics
    words = "a dict from names to functions of (outputs, targets)"
    check_type("supervised", "metrics", metrics, dict, words)
    if "loss" in metrics:
        raise ValueError("supervised: 'loss' is the name of the loss; give the metric another name")
    compared = {name: _comparison(name, metric) for name, metric in metrics.items()}
    checks_targets = str(getattr(getattr(loss, "func", loss), "__module__", "")).startswith(
        "jaxnet."
    )
    entries = None if inputs is None and targets is None else Entries.named(inputs, targets)
    forward = Supervised(net, _comparison("loss", loss), compared, penalty, checks_targets, entries)
    return compose(forward, name=net.name, kind="supervised")


class Entries(NamedTuple):
    """Which entries of a batch, which is a dict, are inputs and targets.

    Fields:
      inputs, targets: Name of an entry, or a tuple of names.
    """

    inputs: str | tuple[str, ...]
    targets: str | tuple[str, ...]

    @classmethod
    def named(cls, inputs: Any, targets: Any) -> "Entries":
        for what, names in (("inputs", inputs), ("targets", targets)):
            each = names if isinstance(names, tuple) else (names,)
            if not (each and all(isinstance(name, str) for name in each)):
                raise TypeError(
                    f"supervised: {what} must be the name of an entry, or a tuple of names, got "
                    f'{names!r:.60}. Name both, as in inputs="image", targets="label"'
                )
        return cls(inputs, targets)

    def split(self, batch: Any) -> tuple[PyTree, PyTree]:
        """Return the inputs and the targets of a batch."""
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"supervised: expected a dict with {self._words()}, got {describe(batch):.200}"
            )
        return self._of(batch, self.inputs), self._of(batch, self.targets)

    def with_targets(self, batch: Mapping[str, Any], targets: PyTree) -> dict[str, Any]:
        """Return the batch with other targets."""
        changed = targets if isinstance(self.targets, tuple) else {self.targets: targets}
        return {**batch, **changed}

    def _of(self, batch: Mapping[str, Any], names: str | tuple[str, ...]) -> PyTree:
        each = names if isinstance(names, tuple) else (names,)
        for name in each:
            if name not in batch:
                got = ", ".join(map(str, batch)) or "none"
                raise ValueError(f"supervised: the batch has no entry {name!r}; it has {got}")
        return {name: batch[name] for name in names} if isinstance(names, tuple) else batch[names]

    def _words(self) -> str:
        return f"inputs {self.inputs!r} and targets {self.targets!r}"


@dataclass(eq=False)
class Supervised:
    """The `forward(m, batch)` of `supervised`, of which a program can read the parts.

    Fields:
      net: Layer to train.
      loss: Layer of (outputs, targets).
      metrics: Layers of (outputs, targets), by name.
      penalty: Function of the parameters.
      checks_targets: Whether the loss is of this library, which checks its targets.
      entries: Names of the entries of a batch that is a dict; None for pairs.
    """

    net: Layer
    loss: Layer
    metrics: dict[str, Layer]
    penalty: Callable[[Params], jax.Array] | None
    checks_targets: bool
    entries: Entries | None = None

    def split(self, batch: PyTree) -> tuple[PyTree, PyTree]:
        """Return the inputs and the targets of a batch."""
        if self.entries is not None:
            return self.entries.split(batch)
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            of = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
            if isinstance(batch, dict):
                of = f" of {', '.join(map(str, batch))}; name its entries, as in jn.supervised("
                of += 'net, loss, inputs="image", targets="label")'
            if is_list_of_batches(batch):
                of += f"; {LOADER}"
            raise TypeError(
                f"supervised: expected a batch (inputs, targets), got {type(batch).__name__}{of}"
            )
        x, targets = batch
        return x, targets

    def __call__(self, m: Any, batch: PyTree) -> Any:
        x, targets = self.split(batch)
        pair = m._inline(self.net, x), targets
        values = m(self.loss, pair)
        if self.penalty is not None:
            values = _add(values, m._penalize(self.penalty))
        return values, {name: m(layer, pair) for name, layer in self.metrics.items()}


def objectives_in(objective: Layer | None) -> Iterator[Layer]:
    """Yield an objective and those inside it, as in `augmented` and in transforms."""
    while objective is not None:
        yield objective
        inside = objective.inside
        objective = getattr(inside, "objective", None) or getattr(inside, "layer", None)


def supervised_in(objective: Layer | None) -> Supervised | None:
    """Return the parts of `supervised`, also inside `augmented` or a transform; None without it."""
    forwards = (each.inside for each in objectives_in(objective))
    return next((inside for inside in forwards if isinstance(inside, Supervised)), None)


def _comparison(name: str, function: Compare) -> Layer:
    """Make a loss or metric a layer of (outputs, targets), so that summaries and errors show it."""
    what = name if name == "loss" else f"metrics[{name!r}]"
    compare_checked = _checked(function, "supervised", what)

    def compare(m, pair):
        outputs, targets = pair
        try:
            values = compare_checked(outputs, targets)
        except WrongValues:  # the shapes fit
            raise
        except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
            error.add_note(
                f"supervised: {what} runs inside a compiled program: write it in jax.numpy, or "
                "give the outputs of jn.predict to NumPy or scikit-learn"
            )
            raise
        except (AssertionError, IndexError, TypeError, ValueError) as error:
            hint = _fitting(outputs, targets)
            if re.match(r"[\w.]+: ", str(error)) or type(error).__module__ != "builtins":
                if "rite " not in str(error):
                    error.add_note(hint)
                raise
            got = f"outputs {describe(outputs)} with targets {describe(targets)}"
            raise (TypeError if isinstance(error, TypeError) else ValueError)(
                f"supervised: {what} {function_name(function)} cannot compare {got}. "
                + (hint or f"It raised: {error}")
            ) from error
        if name == "loss":
            check_loss("supervised", values)
        return per_example(values, name, outputs, targets, compare_checked)

    return compose(compare, name=name, kind=function_name(function))


def _fitting(outputs: PyTree, targets: PyTree) -> str:
    """Return what to write if the shapes come from a common mistake; otherwise ""."""
    got: tuple[int, ...] = getattr(outputs, "shape", ())
    wanted: tuple[int, ...] = getattr(targets, "shape", ())
    single = "if they are labels; for one number each, end the net with jn.dense(1)"
    if got == (*wanted, 1):
        write = "targets[..., None] or outputs[..., 0]"
    elif wanted == (*got, 1):
        write = "targets[..., 0] or outputs[..., None]"
    elif got[:-1] == wanted[:-1] and wanted[-1:] == (1,) != got[-1:]:
        write = f"targets[..., 0] {single}"
    elif got[:-1] == wanted and len(got) > 1 and jnp.issubdtype(targets.dtype, jnp.integer):
        labels = "optax.softmax_cross_entropy_with_integer_labels"
        write = f"a loss of labels, such as {labels}, or jax.nn.one_hot(targets, {got[-1]})"
    elif got[:-1] == wanted and len(got) > 1:
        write = f"targets.astype(int) {single}"
    elif words := _unequal_counts(got, wanted):
        return words
    elif len(got) > 2 and wanted and wanted[1:] in ((), got[-1:]):
        return (
            f"The outputs {got} still have the axes of images or sequences. Did you forget "
            "jn.flatten() or jn.global_avg_pool() before the last jn.dense?"
        )
    elif got and got == wanted:
        write = "targets.argmax(-1) if the loss takes labels"
    else:
        return ""
    return f"Write {write}."


def _unequal_counts(got: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Return what to write if outputs and targets are of other numbers of examples, else ""."""
    if got[1:2] == wanted[:1] != got[:1] and len(got) > len(wanted):
        return (
            f"The outputs have an axis of {got[0]} before that of the examples, as those of "
            "jn.ensemble. Write the sum of the members' losses: lambda outputs, targets: "
            "jax.vmap(loss, (0, None))(outputs, targets).sum(0)"
        )
    if got and wanted and got[0] != wanted[0]:
        return (
            f"There are {got[0]:,} outputs, but {wanted[0]:,} targets. Inputs and targets need "
            "the same number of examples."
        )
    return ""


def _checked(loss: Compare, who: str, what: str = "loss") -> Compare:
    """Return the loss with a check for targets that it would misread; losses load when used."""
    from jaxnet.losses.targets import checked

    return checked(loss, who, what)


def check_loss(who: str, values: Any) -> None:
    """Raise if a loss consists of booleans or integers, whose gradient would be 0.

    Example:
      >>> check_loss("supervised", jnp.array([[True, False]]))
      Traceback (most recent call last):
      ...
      TypeError: supervised: the loss must be of floats, got (1, 2) bool; a fraction of ...
    """
    totals = jax.tree.leaves(values)[:1]
    if not totals or not jnp.issubdtype(jnp.result_type(*totals), jnp.floating):
        raise TypeError(
            f"{who}: the loss must be of floats, got {describe(values)}; a fraction of "
            "correct outputs has no gradient, so it is a metric: metrics={...}"
        )


def per_example(values: Any, who: str, outputs: PyTree, targets: PyTree, function: Compare) -> Any:
    """Return one value per example, the mean over all further axes; pairs and scalars as they are.

    Args:
      values: Array (batch, ...), a pair (totals, weights) or a scalar.
      who: Name for errors.
      outputs, targets: Arrays that were compared, to detect a broadcast.
      function: Function that compared them. If it reduces, the broadcast is inside.

    Example:
      >>> outputs, targets = jnp.array([[1.0, 3.0], [9.0, 9.0]]), jnp.zeros((2, 2))
      >>> per_example(outputs - targets, "loss", outputs, targets, jnp.subtract).tolist()
      [2.0, 9.0]
    """
    array = None if isinstance(values, tuple) or jnp.ndim(values) == 0 else values
    if array is not None and _is_broadcast(array, (outputs, targets)):
        broadcast_shape = array.shape
    else:  # the function may reduce what it broadcast
        broadcast_shape = crossed(function, outputs, targets)
    if broadcast_shape is not None:
        outputs, targets = (jax.tree.map(jnp.shape, tree) for tree in (outputs, targets))
        raise ValueError(
            f"{who}: outputs {outputs} and targets {targets} broadcast to values of "
            f"{broadcast_shape}; give them the same shape, e.g. targets[:, None] or outputs[:, 0]"
        )
    if array is None or array.ndim == 1:
        return values
    return array.mean(range(1, array.ndim), dtype=_at_least_32(array))


def _is_broadcast(array: jax.Array, compared: PyTree) -> bool:
    """Return whether values have more entries than all that was compared, or its common shape."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(compared)]
    if shapes and array.size > max(map(math.prod, shapes)):
        return True
    return len(shapes) == 2 and array.shape == _broadcast(*shapes)


def _at_least_32(values: jax.Array) -> Any:
    """Return the dtype of a mean: averages of averages in 16 bits would lose digits."""
    return jnp.promote_types(values.dtype, jnp.float32)


def crossed(function: Compare, outputs: PyTree, targets: PyTree) -> tuple[int, ...] | None:
    """Return the shape to which a function broadcasts outputs and targets against each other.

    A loss that reduces, such as `jnp.mean((outputs - targets) ** 2)` for outputs (n, 1) and targets
    (n,), shows in its values nothing of the (n, n) pairs inside. So its operations are looked at,
    but only if the shapes are such that one grows along an axis of the other.

    Args:
      function: Function of (outputs, targets).
      outputs, targets: Its arguments.

    Returns:
      None if no operation does so.

    Example:
      >>> loss = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)
      >>> crossed(loss, jnp.ones((5, 1)), jnp.ones(5)), crossed(loss, jnp.ones(5), jnp.ones(5))
      ((5, 5), None)
    """
    sides = shapes_of([outputs, targets])
    shapes = [[leaf.shape for leaf in jax.tree.leaves(side)] for side in sides]
    if not any(_grows(a, b) for a, b in itertools.product(*shapes)):
        return None
    crossings = []

    def rule(eqn, of, inside):
        """Return the sides that a result depends on, and its shape before it was broadcast."""
        results = [now for now in inside if len(now) == len(eqn.outvars)]
        if results:
            return results[0]
        out = eqn.outvars[0].aval.shape if eqn.outvars else ()
        operand_sides = {side for side, _ in of if side}
        sides = "".join(sorted(set("".join(operand_sides))))
        origin = of[0][1] if eqn.primitive.name == "broadcast_in_dim" else out
        if sides == "ot" and len(operand_sides) > 1:
            largest = max(math.prod(shape) for side, shape in of if side)
            if math.prod(out) > largest and all(_broadcasts(v.aval.shape, out) for v in eqn.invars):
                crossings.append(out)
        return [(sides, origin)] * len(eqn.outvars)

    origins = [(side, shape) for side, of in zip("ot", shapes, strict=True) for shape in of]
    follow(jax.make_jaxpr(function)(*sides), origins, rule, ("", ()))
    return next(iter(crossings), None)


def _grows(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    both = _broadcast(a, b)
    return both is not None and math.prod(both) > max(math.prod(a), math.prod(b))


def _broadcasts(a: tuple[int, ...], out: tuple[int, ...]) -> bool:
    if not a:
        return True
    if len(a) != len(out):
        return False
    return all(m in (1, n) for m, n in zip(a, out, strict=True))


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the common shape of two different shapes; None if they are equal or have none."""
    if a == b or not (a and b):
        return None
    pairs = zip(a[::-1], b[::-1], strict=False)
    if all(m == n or 1 in (m, n) for m, n in pairs):
        return jnp.broadcast_shapes(a, b)
    return None


def _add(values: Any, penalty: jax.Array) -> Any:
    if isinstance(values, tuple):
        totals, weights = values
        return totals + weights * penalty, weights
    return values + penalty


def augmented(objective: Layer, f: Callable[[jax.Array, PyTree], PyTree]) -> Layer:
    """Return an objective whose batches are changed at random in training.

    Args:
      objective: Any objective.
      f: Function `(key, batch) -> batch`, such as `jn.data.on_inputs(jn.data.random_shift(2))`. It
        keeps the shapes of the batch and runs inside the compiled program; in evaluation it does
        not run.

    Returns:
      An objective with the params, the state and the metrics of `objective`.

    Example:
      >>> objective = jn.supervised(jn.dense(1), optax.squared_error)
      >>> noisy = lambda key, batch: (batch[0] + jax.random.normal(key, batch[0].shape), batch[1])
      >>> objective = jn.augmented(objective, noisy)
      >>> batch = jnp.ones((5, 3)), jnp.ones((5, 1))
      >>> params, state = objective.init(jax.random.key(0), batch)
      >>> key = jax.random.key(1)
      >>> (values, _), _ = objective.apply(params, state, batch, key=key, train=True)
      >>> len(set(values.tolist()))
      5
    """

    objective = as_layer(objective, "augmented", "objective")
    a_function("augmented", "f", f, "(key, batch)")
    return compose(Augmented(objective, f), name=objective.name, kind="augmented")


@dataclass(eq=False)
class Augmented:
    """The `forward(m, batch)` of `augmented`.

    Fields:
      objective: Objective that gets the batches.
      f: Function `(key, batch) -> batch`.
    """

    objective: Layer
    f: Callable[[jax.Array, PyTree], PyTree]

    def __call__(self, m: Any, batch: PyTree) -> Any:
        if m._in_training:
            key = m.key("augment")
            try:
                batch = self.f(key, batch)
            except Exception as error:
                error.add_note(
                    f"in the augmentation, which gets (key, batch), batch {describe(batch)}; for "
                    "one that takes (key, images), write jn.data.on_inputs(...)"
                )
                raise
        return m._inline(self.objective, batch)


def learning_rule(net: Layer, rule: Callable[..., tuple[PyTree, tuple[Any, dict]]]) -> Layer:
    """Return an objective from a rule that returns an update instead of a loss.

    The perceptron's rule and contrastive divergence are not gradients of a loss. Such a rule
    returns the tree that replaces the gradient, with its sign (an optimizer subtracts it); so it
    works with `jn.trainer`, `fit` and every optax optimizer. The tree belongs to a whole batch, so
    `batch_size` must divide the number of examples.

    Args:
      net: Layer whose params and state are trained; it is initialized with the first entry of a
        batch that is a tuple, else with the batch.
      rule: Function `(params, state, batch, *, key, train) -> (tree like params, (state,
        metrics))`. A metric called "loss" becomes the value of the objective, which is 0 otherwise.

    Returns:
      An objective whose gradient is the update of the rule.

    Example:
      >>> def toward_zero(params, state, batch, *, key, train):
      ...     return jax.tree.map(jnp.sign, params), (state, {})
      >>> objective = jn.training.learning_rule(jn.dense(1, use_bias=False), toward_zero)
      >>> value = lambda params: objective.apply(params, {}, jnp.ones((5, 1)))[0][0]
      >>> jax.grad(value)({"kernel": jnp.float32([[-7]])})
      {'kernel': Array([[-1.]], dtype=float32)}
    """

    net = as_layer(net, "learning_rule", "net")
    a_function("learning_rule", "rule", rule, "(params, state, batch, *, key, train)")

    def init(key, batch):
        return net.init(key, batch[0] if isinstance(batch, tuple | list) else batch)

    def apply(params, state, batch, *, key=None, train=False):
        held = jax.lax.stop_gradient(params)
        try:
            tree, (state, metrics) = rule(held, state, batch, key=key, train=train)
        except (TypeError, ValueError) as error:  # also of a rule without key and train
            error.add_note(
                "learning_rule: the rule is called as rule(params, state, batch, key=key, "
                "train=train), and returns (update, (state, metrics)), with a dict of metrics"
            )
            raise
        tree, metrics = jax.lax.stop_gradient(tree), dict(metrics)
        if jax.tree.structure(tree) != jax.tree.structure(params):
            raise ValueError(
                f"learning_rule: expected an update of the structure of params, "
                f"{jax.tree.structure(params)}, got {jax.tree.structure(tree)}"
            )
        # Zero in value, and its gradient is the tree.
        leaves = zip(*map(jax.tree.leaves, (tree, params, held)), strict=True)
        zero = sum(jnp.vdot(g, p - h) for g, p, h in leaves)
        loss = jax.lax.stop_gradient(metrics.pop("loss", 0.0))
        return (zero + jnp.mean(loss), metrics), state

    return as_layer(Layer(init, apply, net.name, "learning_rule"))


def truncated_bptt(net: Layer, loss: Compare) -> Layer:
    """Return the objective of truncated backpropagation through time: batches continue each other.

    Row i of a batch continues row i of the batch before, from the carry that the net returned;
    gradients do not flow back there. So `fit` must keep the order, with `shuffle=False` and a
    batch_size that divides the rows; `jn.data.windows` cuts a text accordingly. The state is
    {"net": state of the net, "carry": carry of the last batch, zeros at first}, so initialize with
    one batch.

    Args:
      net: Layer {"x": x, "initial": carry} -> {"x": outputs, "final": carry}, as recurrent layers
        and what `serial` makes of them.
      loss: Function `(outputs, targets) -> values`, such as `jn.losses.masked()`. A batch is ((x,
        start), targets), where `start` (batch,) marks the rows that begin a text, from zeros.

    Returns:
      An objective whose state has the recurrent state of the last batch.

    Raises:
      ValueError: If the numbers of rows of batch and carry differ.

    Example:
      >>> text = jn.data.windows(np.arange(29) % 7, streams=2, steps=5)
      >>> layers = jn.embedding(7, 3), jn.dense(7)
      >>> first, last = map(jn.layers.time_distributed, layers)
      >>> objective = truncated_bptt(jn.serial(first, jn.gru(4), last), jn.losses.masked())
      >>> trainer = jn.trainer(objective, optax.adam(0.01))
      >>> data = (text.x, text.start), (text.y, text.counts)
      >>> train_state = trainer.init(jax.random.key(0), jax.tree.map(lambda a: a[:2], data))
      >>> for epoch in jn.fit(trainer, train_state, data, epochs=1, batch_size=2, shuffle=False):
      ...     print(epoch.train_state.state["carry"].shape)
      (2, 4)

    Reference: Williams and Peng 1990, "An Efficient Gradient-Based Algorithm for On-Line Training
    of Recurrent Network Trajectories".
    """

    net = as_layer(net, "truncated_bptt", "net")
    loss = _checked(loss, "truncated_bptt")

    def parts(batch):
        try:
            (x, start), targets = batch
        except (TypeError, ValueError):
            raise TypeError(
                f"truncated_bptt: expected a batch ((x, start), targets), got {describe(batch)}"
            ) from None
        return x, start, targets

    def init(run, key, batch):
        x, _, _ = parts(batch)
        params, state = run.init(key, {"x": x})
        out = jax.eval_shape(lambda p, s, x: run(p, s, {"x": x})[0], params, state, x)
        if not isinstance(out, dict) or "final" not in out:
            raise ValueError(
                f"truncated_bptt: {run.layer.name} must return a dict with 'x' and 'final' for a "
                f"dict with 'x' and 'initial', got {describe(out)}"
            )
        carry = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), out["final"])
        return params, {"net": state, "carry": carry}

    def apply(run, params, state, batch):
        x, start, targets = parts(batch)
        first, *_ = jax.tree.leaves(state["carry"])
        rows = first.shape[0]
        if rows != start.shape[0]:
            raise ValueError(
                f"truncated_bptt: the carry has {rows} rows, the batch {start.shape[0]}; "
                "initialize with one batch, trainer.init(key, batch), and keep its batch_size"
            )

        def begin(carry):
            return jnp.where(start.reshape(-1, *[1] * (carry.ndim - 1)), 0, carry)

        net_input = {"x": x, "initial": jax.tree.map(begin, state["carry"])}
        out, inner = run(params, state["net"], net_input)
        values = loss(out["x"], targets)
        check_loss("truncated_bptt", values)
        values = per_example(values, "loss", out["x"], targets, loss)
        return (values, {}), {"net": inner, "carry": out["final"]}

    return transformed(net, apply, kind="truncated_bptt", init=init, inputs=())


def examples(batch: PyTree, who: str) -> int:
    """Return the number of examples of a batch, in which all its arrays agree.

    Raises:
      ValueError: If they do not, with their names.

    Example:
      >>> examples({"x": jnp.ones((5, 2)), "y": jnp.ones(5)}, "net")
      5
      >>> examples({"params": jnp.ones(3), "x": jnp.ones((5, 2))}, "net")
      Traceback (most recent call last):
      ...
      ValueError: net: all arrays of a batch must have one row per example, but params has 3 and ...
    """
    rows = {path or "the batch": jnp.shape(leaf)[:1] for path, leaf in flat(batch, None)}
    counts = set(rows.values())
    if len(counts) == 1:
        [count] = counts
        if count:
            return count[0]
    got = " and ".join(f"{name} has {n[0] if n else 'no axis'}" for name, n in rows.items())
    raise ValueError(
        f"{who}: all arrays of a batch must have one row per example, but {got or 'it is empty'}. "
        "Give what belongs to no example to the objective when it is made, or repeat it per example"
    )


class Average(NamedTuple):
    """A mean and its weight, so that means of several batches can be combined.

    Fields:
      mean: Mean over the examples that count.
      weight: Number of examples, or sum of their weights.
    """

    mean: jax.Array
    weight: jax.Array


def mean_of(total: Any, weight: jax.Array) -> jax.Array:
    """Return the mean of a sum over examples of this weight, 0 if no example counts.

    Example:
      >>> mean_of(jnp.array([6.0, 0.0]), jnp.array([4.0, 0.0]))
      Array([1.5, 0. ], dtype=float32)
    """
    return total / jnp.where(weight == 0, 1, weight)


def added(sums: dict[str, Average], averages: dict[str, Average]) -> dict[str, Average]:
    """Add averages to sums of mean * weight and of weight, by name.

    Example:
      >>> sums = added({"loss": Average(1.0, 2.0)}, {"loss": Average(3.0, 4.0)})
      >>> sums["loss"]
      Average(mean=13.0, weight=6.0)
    """
    after = {}
    for name, before in sums.items():
        now = averages[name]
        total = before.mean + now.mean * now.weight
        after[name] = Average(total, before.weight + now.weight)
    return after


def averaged(
    objective: Layer,
    params: Params,
    state: State,
    batch: PyTree,
    weights: jax.Array | None = None,
    key: jax.Array | None = None,
    *,
    train: bool = False,
) -> tuple[dict[str, Average], State]:
    """Return the averages of an objective over the examples of a batch, and the state after it.

    Args:
      objective: Layer that returns the pair `(values, metrics)`, see the top of this file.
      params, state: Its params and state.
      batch: Batch. Its arrays agree in their first axis, the number of examples.
      weights: Weight of each example, (batch,), 0 for padding; None if all count alike.
      key: Random key.
      train: Whether in training mode.

    Raises:
      TypeError: If the output has the wrong form, or if the loss is not of floats.
      ValueError: If the values have the wrong shape, or the arrays of the batch do not agree.
      ValueError: If a scalar is returned and examples have weights.

    Example:
      >>> objective = jn.compose(lambda m, x: (x, {}), name="objective")
      >>> weights = jnp.array([1.0, 1.0, 0.0])
      >>> found, _ = averaged(objective, {}, {}, jnp.array([1.0, 3.0, 9.0]), weights)
      >>> float(found["loss"].mean)
      2.0
    """
    with hint_of_batch(objective, batch):
        output, after = objective.apply(params, state, batch, key=key, train=train)
    return jax.named_scope("loss")(_averages)(output, batch, weights, objective.name), after


@contextlib.contextmanager
def hint_of_batch(objective: Layer, batch: PyTree) -> Iterator[None]:
    """Say that a batch needs an objective where a net gets one, or that several are one too many.

    A list of two batches has the form of a pair, so it reaches the first layer.
    """
    try:
        yield
    except Exception as error:
        if is_list_of_batches(batch) and LOADER not in str(error):
            raise TypeError(f"expected one batch, got {describe(batch):.200}; {LOADER}") from error
        if objective.kind == "serial" and isinstance(batch, tuple):
            error.add_note(
                f"{objective.name} got the whole batch. Is it a net? Then pass an objective, "
                "jn.supervised(net, loss)"
            )
        raise


def _averages(output: Any, batch: PyTree, weights: Any, who: str) -> dict[str, Average]:
    if not (isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], dict)):
        raise TypeError(
            f"{who}: an objective must return (values, metrics), values (batch,) and a dict, such "
            f"as (values, {{}}), got {describe(output)}"
        )
    values, metrics = output
    if "loss" in metrics:
        raise ValueError(f"{who}: 'loss' is the name of the loss; give the metric another name")
    if isinstance(values, float):
        raise TypeError(f"{who}: the loss is the number {values}, which has no gradient")
    check_loss(who, values)
    rows = examples(batch, who)
    averages = {}
    for name, value in ({"loss": values} | metrics).items():
        averages[name] = _average(name, value, rows, weights, who)
    return averages


def _average(name: str, values: Any, rows: int, weights: Any, who: str) -> Average:
    counted = None
    if isinstance(values, tuple):
        shapes = [jnp.shape(leaf) for leaf in values]
        if shapes != [(rows,), (rows,)]:
            raise ValueError(
                f"{who}: {name} must be a pair (totals, weights), {(rows,)} each, got {shapes}"
            )
        dtype = jnp.result_type(values[0], jnp.float32)
        values, counted = (jnp.asarray(v, dtype) for v in values)
    values = jnp.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.inexact):
        values = values.astype(jnp.float32)
    if values.ndim == 0:
        if weights is not None:
            raise ValueError(
                f"{who}: the last batch is padded, and {name} is one value per batch, from which "
                "the padding cannot be left out; leave out .mean(), so that there is one value per "
                "example, (batch,), or choose a batch_size that divides the number of examples"
            )
        return Average(values, jnp.float32(rows))
    if values.shape != (rows,) and counted is None:
        raise ValueError(
            f"{who}: {name} must be (batch,), one value per example, {(rows,)}, got "
            f"{values.shape}; take the mean over the other axes"
        )
    if weights is not None:

        def weighted(numbers):  # padding may be NaN, and 0 times NaN is NaN
            return jnp.where(weights > 0, numbers * weights, 0)

        values = weighted(values)
        counted = weights if counted is None else weighted(counted)
    weight = jnp.float32(rows) if counted is None else counted.sum()
    total = values.sum(dtype=_at_least_32(values))
    return Average(mean_of(total, weight), weight)
