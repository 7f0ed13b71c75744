"""Labels of no class, found before training: a lookup would take -1 for the last class."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Memo, Params, PyTree, State, key_spec
from jaxnet.core.contract import shapes_of
from jaxnet.look import observe

TRIED = 3  # labels of no class that are tried


def check_labels(
    objective: Layer | None,
    memo: Memo,
    params: Params,
    state: State,
    data: PyTree,
    who: str,
    *,
    train: bool = False,
) -> None:
    """Raises for integer labels of no class that the loss takes for a class.

    Labels are the targets of `jn.supervised` where they are integers, one for each row of outputs:
    (batch, ...) for outputs (batch, ..., classes). A label that the loss leaves out, such as that
    of unlabelled pixels, passes, and so do integers that are quantities.

    Args:
      objective: of the trainer; without a `jn.supervised` in it nothing is checked.
      memo: keeps what was found out about the objective.
      params, state: of the objective.
      data: (x, labels), all examples or a batch.
      who: the function, for the message.
      train: whether the data are augmented, which may give them another form.

    Raises:
      ValueError: naming the label and the number of classes.

    Example:
      >>> objective = jn.supervised(jn.dense(3), optax.softmax_cross_entropy_with_integer_labels)
      >>> data = jnp.ones((2, 4)), jnp.array([0, -1])
      >>> check_labels(objective, {}, *objective.init(jax.random.key(0), data), data, "fit")
      Traceback (most recent call last):
      ...
      ValueError: fit: labels must be in [0, 3) for 3 outputs, got -1
    """
    pair = isinstance(data, tuple | list) and len(data) == 2 and hasattr(data[1], "dtype")
    if objective is None or not pair or not jnp.issubdtype(data[1].dtype, jnp.integer):
        return
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), data)
    place = ("labels", objective, str(one), train)
    if place not in memo:
        memo[place] = _compared(objective, params, state, one, train)
    if memo[place] is None:
        return
    loss, outputs, targets = memo[place]
    classes, labels = outputs.shape[-1], data[1]
    if isinstance(labels, jax.Array) and not labels.is_fully_addressable:
        labels = jnp.array([labels.min(), labels.max()])  # the same in all processes
    labels = np.asarray(labels)
    outside = np.unique(labels[(labels < 0) | (labels >= classes)])
    for label in outside[:TRIED].tolist():
        if _is_taken(loss, outputs, targets, label):
            raise ValueError(
                f"{who}: labels must be in [0, {classes}) for {classes} outputs, got {label}"
            )


def _compared(objective: Layer, params: Params, state: State, one: PyTree, train: bool) -> Any:
    """The loss of an objective as a layer, and specs of the outputs and labels it gets, or None."""
    found = []

    def see(path, layer, x, y):
        if layer.name == "loss" and isinstance(x, tuple) and len(x) == 2:
            found.append((layer, x))
        return y

    def run(params, state, batch, key):
        return observe(objective, see).apply(params, state, batch, key=key, train=train)[0]

    jax.eval_shape(run, shapes_of(params), shapes_of(state), one, key_spec())
    if len(found) != 1:
        return None
    loss, (outputs, targets) = found[0]
    if not (hasattr(outputs, "shape") and hasattr(targets, "shape")):
        return None
    if outputs.shape[:-1] != targets.shape or targets.dtype != one[1].dtype:
        return None
    return loss, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (outputs, targets))


def _is_taken(loss: Layer, outputs: Any, targets: Any, label: int) -> bool:
    """Whether a loss takes a label of no class for one of the classes, or is NaN.

    Not where the label is left out, or where the integers are quantities: their values differ.
    """
    values = jnp.asarray(np.random.default_rng(0).normal(size=outputs.shape), outputs.dtype)
    classes = outputs.shape[-1]

    def total(label):
        found = loss.apply({}, {}, (values, jnp.full(targets.shape, label, targets.dtype)))[0]
        return float(sum(leaf.sum() for leaf in jax.tree.leaves(found)[:1]))

    first, last = total(0), total(classes - 1)
    if first == last:  # the loss does not look at the labels, or there is one output
        return False
    value = total(label)
    return np.isnan(value) or value in (first, last, total(label % classes))
