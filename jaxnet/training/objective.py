"""What is minimized: an objective is `(params, state, batch, *, key, train)` -> a loss and more.

An objective returns `(loss, (state, metrics))`: a scalar, the layer's next state, and a dict of
scalars worth watching. One that also takes `mask` is told which examples of a padded batch count:
a (batch,) array of 0 and 1, or None where all do. `supervised` makes the usual one, `carried` one
for long sequences, `learning_rule` one of an update that is no gradient of a loss; any other
function of this form will do.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, PyTree, State, describe

Metrics = dict[str, jax.Array]
Compare = Callable[[PyTree, PyTree], jax.Array]  # (outputs, targets) -> a value an example


class Objective(Protocol):
    """(params, state, batch, *, key, train) -> (loss, (state, metrics))."""

    def __call__(
        self, params: Params, state: State, batch: PyTree, /, *, key: jax.Array, train: bool
    ) -> tuple[jax.Array, tuple[State, Metrics]]: ...


def supervised(
    net: Layer,
    loss: Compare,
    *,
    penalty: Callable[[Params], jax.Array] | None = None,
    metrics: Mapping[str, Compare] | None = None,
) -> Callable[..., tuple[jax.Array, tuple[State, Metrics]]]:
    """The objective of learning from pairs: the mean of `loss(net(x), y)` over a batch `(x, y)`.

    `loss` and the metrics give one value an example, (batch,) or (batch, ...), as those of optax
    do; further axes are averaged. A loss that takes the mean itself works too, but not on a padded
    batch, where it could not leave the padding out.

    Args:
      net: the layer to train.
      loss: `(outputs, targets) -> values`, e.g. `optax.softmax_cross_entropy_with_integer_labels`.
      penalty: of the parameters, added to the loss; see `jaxnet.penalties`.
      metrics: further values to watch by name, e.g. `{"accuracy": jn.metrics.accuracy}`.

    Raises:
      ValueError: where outputs and targets broadcast against each other, such as (32, 1) against
        (32,), which would compare every example with every other.

    Example:
      >>> objective = jn.supervised(jn.dense(1), optax.squared_error)
      >>> batch = jnp.ones((5, 3)), jnp.ones((5, 1))
      >>> params, state = jn.dense(1).init(jax.random.key(0), batch[0])
      >>> loss, (state, metrics) = objective(params, state, batch, key=None, train=True)
      >>> loss.shape
      ()
    """
    if not isinstance(net, Layer):
        raise TypeError(f"supervised: the net must be a layer, got {type(net).__name__}")
    metrics = dict(metrics or {})

    def compared(who, function, outputs, targets, mask):
        try:
            values = function(outputs, targets)
        except Exception as error:
            error.add_note(f"in {who}, outputs {describe(outputs)}, targets {describe(targets)}")
            raise
        return average(values, mask, who, outputs, targets)

    def objective(params, state, batch, *, key=None, train=False, mask=None):
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise TypeError(
                f"supervised: a batch is a pair (inputs, targets), got {type(batch).__name__}"
                + (f" of {len(batch)}" if isinstance(batch, tuple | list) else "")
            )
        x, targets = batch
        outputs, state = net.apply(params, state, x, key=key, train=train)
        value = compared("loss", loss, outputs, targets, mask)
        if penalty is not None:
            value = value + penalty(params)
        watched = {
            name: compared(name, metric, outputs, targets, mask) for name, metric in metrics.items()
        }
        return value, (state, watched)

    return objective


def carried(net: Layer, loss: Compare) -> Callable[..., tuple[jax.Array, tuple[State, Metrics]]]:
    """The objective of truncated backpropagation: each batch goes on where the last one stopped.

    Row i of a batch goes on from row i of the one before, from what the net carried out of it; no
    gradient goes back there. So `fit` must keep the order, with `shuffle=False` and a batch_size
    that divides the rows; `jaxnet.data.windows` cuts a text so. The training state is
    {"net": the net's own, "carry": of the last batch}, and is set before the first step.

    Args:
      net: {"x": x, "initial": carry} -> {"x": outputs, "final": carry}, as recurrent layers and
        what `serial` makes of them.
      loss: `(outputs, targets) -> (batch,)`, such as `jaxnet.losses.masked()`. A batch is
        ((x, start), targets), where `start` (batch,) says which rows begin anew, from zeros.

    Example:
      >>> text = jn.data.windows(np.arange(29) % 7, streams=2, steps=5)
      >>> layers = jn.embedding(7, 3), jn.dense(7)
      >>> net = jn.serial(jn.time_distributed(layers[0]), jn.gru(4), jn.time_distributed(layers[1]))
      >>> optimizer, carry = optax.adam(0.01), jnp.zeros((2, 4))
      >>> given = {"x": text.x[:2], "initial": carry}
      >>> train_state = jn.init_training(net, optimizer, jax.random.key(0), given)
      >>> train_state = train_state._replace(state={"net": train_state.state, "carry": carry})
      >>> step = jn.make_step(jn.carried(net, jn.losses.masked()), optimizer)
      >>> data = (text.x, text.start), (text.y, text.counts)
      >>> for epoch in jn.fit(train_state, step, data, epochs=1, batch_size=2, shuffle=False):
      ...     print(epoch.train_state.state["carry"].shape)
      (2, 4)

    Reference: Williams and Peng 1990, "An Efficient Gradient-Based Algorithm for On-Line Training
    of Recurrent Network Trajectories".
    """

    def objective(params, state, batch, *, key, train):
        (x, start), targets = batch

        def begin(carry):
            return jnp.where(start.reshape(-1, *[1] * (carry.ndim - 1)), 0, carry)

        given = {"x": x, "initial": jax.tree.map(begin, state["carry"])}
        out, inner = net.apply(params, state["net"], given, key=key, train=train)
        state = {"net": inner, "carry": out["final"]}
        return average(loss(out["x"], targets), None), (state, {})

    return objective


def average(
    values: jax.Array,
    mask: jax.Array | None,
    who: str = "loss",
    outputs: PyTree = None,
    targets: PyTree = None,
) -> jax.Array:
    """The mean over examples that count, and over all further axes.

    Args:
      values: (batch, ...).
      mask: (batch,) of 0 and 1, or None where all count.
      who: named in errors.
      outputs, targets: what was compared, to catch a broadcast.

    Example:
      >>> float(average(jnp.array([1.0, 3.0, 9.0]), jnp.array([1, 1, 0])))
      2.0
    """
    compared = [jnp.shape(leaf) for leaf in jax.tree.leaves((outputs, targets))]
    if compared and values.size > max(map(math.prod, compared)):
        outputs, targets = (jax.tree.map(jnp.shape, tree) for tree in (outputs, targets))
        raise ValueError(
            f"{who}: outputs {outputs} against targets {targets} give values of "
            f"{values.shape}; bring them to one shape, e.g. targets[:, None] or outputs[:, 0]"
        )
    if mask is None:
        return values.mean()
    if values.ndim == 0:
        raise ValueError(
            f"{who}: needs one value an example, (batch,), since the last batch is padded and the "
            "padding must not count; got the mean already. Leave the mean out, or take a "
            "batch_size that divides the number of examples"
        )
    each = values.reshape(values.shape[0], -1).mean(1)
    # where, not a product: what stands in the padding may be NaN
    return jnp.where(mask > 0, each, 0).sum() / jnp.maximum(mask.sum(), 1).astype(each.dtype)


def learning_rule(
    rule: Callable[..., tuple[PyTree, tuple[State, Metrics]]],
) -> Callable[..., tuple[Any, tuple[State, Metrics]]]:
    """An objective from a rule that gives an update tree in place of a loss.

    The perceptron's rule and contrastive divergence are gradients of no loss. Such a rule says what
    stands in the place of the gradient, with its sign (an optimizer subtracts it), and then takes
    part in `make_step`, `fit` and every optax optimizer.

    Args:
      rule: `(params, state, batch, *, key, train) -> (tree like params, (state, metrics))`.
        A metric called "loss" becomes the value of the objective, which is 0 otherwise.

    Example:
      >>> def toward_zero(params, state, batch, *, key, train):
      ...     return jax.tree.map(jnp.sign, params), (state, {})
      >>> objective = jn.learning_rule(toward_zero)
      >>> jax.grad(lambda p: objective(p, {}, (), key=None, train=True)[0])({"w": jnp.float32(-7)})
      {'w': Array(-1., dtype=float32)}
    """

    def objective(params, state, batch, *, key, train):
        held = jax.lax.stop_gradient(params)
        tree, (state, metrics) = rule(held, state, batch, key=key, train=train)
        tree = jax.lax.stop_gradient(tree)
        metrics = dict(metrics)
        # Zero in value, and its gradient is the tree.
        zero = sum(
            jnp.vdot(g, p - h)
            for g, p, h in zip(*map(jax.tree.leaves, (tree, params, held)), strict=True)
        )
        return zero + jax.lax.stop_gradient(metrics.pop("loss", 0.0)), (state, metrics)

    return objective
