"""One row a layer and model: what the laws in test_laws.py run on.

A new layer adds one row here. Sizes all differ, so that a swapped axis shows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxnet as jn
from jaxnet import Layer, spec


class Row(NamedTuple):
    """A layer and what is special about it.

    id: shown by pytest; begins with the name of the public function that it covers.
    make: builds the layer anew.
    x: specs of an input; a float leaf is filled with well separated values of both signs.
    high: integer leaves are drawn from [0, high).
    train: "same" as evaluation, "differs" (running statistics), or "random" (needs a key).
    smooth: False where no gradient is to be checked (rounding, sampling).
    rows: whether each example of a batch is treated on its own in evaluation.
    batch_axis: False where leaves have no common batch axis to cut (then rows is not tested).
    """

    id: str
    make: Callable[[], Layer]
    x: Any
    high: int = 3
    train: str = "same"
    smooth: bool = True
    rows: bool = True


def fill(row: Row, dtype: Any = jnp.float32) -> Any:
    """An input for the row: floats of this dtype, no two equal and none near 0."""
    leaves, tree = jax.tree.flatten(row.x)
    filled = []
    for i, leaf in enumerate(leaves):
        key = jax.random.key(17 + i)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            n = max(leaf.size, 2)
            steps = (jnp.arange(leaf.size) - (n - 1) / 2 + 0.25) * (3.0 / n)
            filled.append(jax.random.permutation(key, steps).reshape(leaf.shape).astype(dtype))
        elif leaf.dtype == jnp.bool_:
            filled.append(jax.random.bernoulli(key, 0.7, leaf.shape).at[..., 0].set(True))
        else:
            filled.append(jax.random.randint(key, leaf.shape, 0, row.high, leaf.dtype))
    return jax.tree.unflatten(tree, filled)


IMAGE = spec((2, 8, 6, 3))

ROWS = [
    # core
    Row(
        "stateless",
        lambda: jn.stateless(
            lambda key, x: {"w": jax.random.normal(key, x.shape[1:])}, lambda p, x: p["w"] * x, "w"
        ),
        spec((3, 4)),
        rows=True,
    ),  # fmt: skip
    Row(
        "compose",
        lambda: jn.compose(
            lambda m, x: m(jn.dense(4), x) * m(jnp.tanh, m(jn.dense(4), x)), name="gate"
        ),
        spec((3, 5)),
    ),  # fmt: skip
    Row("serial", lambda: jn.serial(jn.dense(7), jnp.tanh, jn.dense(4)), spec((3, 5))),
    Row("parallel", lambda: jn.parallel(jn.dense(7), jn.dense(4)), spec((3, 5))),
    Row("parallel-tuple", lambda: jn.parallel(jn.dense(7), jnp.tanh), (spec((3, 5)), spec((3, 2)))),
    Row("residual", lambda: jn.residual(jn.dense(5)), spec((3, 5))),
    Row("residual-shortcut", lambda: jn.residual(jn.dense(4), jn.dense(4)), spec((3, 5))),
    # layers
    Row("dense", lambda: jn.dense(4), spec((3, 5))),
    Row("dense-no-bias", lambda: jn.dense(4, use_bias=False), spec((2, 3, 5))),
    Row("batch_norm", jn.batch_norm, IMAGE, train="differs"),
    Row(
        "batch_norm-plain",
        lambda: jn.batch_norm(use_scale=False, use_bias=False),
        spec((7, 3)),
        train="differs",
    ),  # fmt: skip
    Row("dropout", lambda: jn.dropout(0.4), spec((50, 7)), train="random"),
    Row("flatten", jn.flatten, IMAGE),
]
