"""An output depends on what it sees, and on nothing else: a law over every layer.

One entry of an input is replaced by a wild number. What does not see it, in values and gradients,
stays as it was. `ops/native/test_winograd_local` has the same law for the tiles of convolutions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.catalogue import Row, cases, fill
from tests.helpers import drawn

KEYS_MAY_REPEAT = True  # the law compares two uses of one key
WILD = [0.0, -9999.0, 1e6, 1e10, 1e30, np.inf, -np.inf, np.nan]
# Inputs are within 1.5: an output changes by one of these if it sees the entry.
MILD = [0.3, -0.3, 50.0, -50.0]
# In these, the gradient of what is seen is a product of numbers. Elsewhere, an intermediate number
# may be infinite, and its product with the gradient 0 of an output that is left out NaN.
WINDOWED = (
    "conv", "depthwise_conv", "locally_connected", "max_pool", "avg_pool", "adaptive_avg_pool",
    "lp_pool", "resize",
)  # fmt: skip
# Their outputs are the same for many inputs: all outputs of an example are taken to see it.
STEPS = ("lenet5_1998", "perceptron", "quantized")
NEAR = {"float32": 1e-5, "bfloat16": 2**-8, "float16": 2**-11}  # of the largest output before


class Probe:
    """A layer, and which of its outputs see one entry of its input."""

    def __init__(self, row: Row, dtype: str):
        self.layer, self.x = row.make(), fill(row, jnp.dtype(dtype))
        self.params, self.state = drawn(self.layer, self.x)
        leaves, self.structure = jax.tree.flatten(self.x)
        self.leaves = leaves
        shapes = [a.shape if jnp.issubdtype(a.dtype, jnp.floating) else () for a in leaves]
        self.leaf = next((i for i, shape in enumerate(shapes) if shape), None)
        if self.leaf is None:
            pytest.skip("has no input of floats")
        self.entry = tuple(size // 2 for size in shapes[self.leaf])
        self.run = jax.jit(self._floats)
        self.gradient = jax.jit(jax.grad(self._unseen_total, argnums=(0, 1)))
        self.before = self.run(self.params, self._with(None))
        self.seen = [np.zeros(y.shape, bool) for y in self.before]
        for value in MILD:
            after = self.run(self.params, self._with(value))
            for seen, old, new in zip(self.seen, self.before, after, strict=True):
                seen |= np.asarray(old) != np.asarray(new)
        if row.id.startswith(STEPS):
            for seen in self.seen:
                seen[self.entry[0]] = True

    def _with(self, value: float | None) -> Any:
        """The input with another entry."""
        leaves = list(self.leaves)
        if value is not None:
            leaves[self.leaf] = leaves[self.leaf].at[self.entry].set(value)
        return leaves

    def _floats(self, params: Any, leaves: list) -> list:
        y, _ = self.layer.apply(params, self.state, jax.tree.unflatten(self.structure, leaves))
        return [a for a in jax.tree.leaves(y) if jnp.issubdtype(a.dtype, jnp.floating)]

    def _unseen_total(self, params: Any, leaf: jax.Array) -> jax.Array:
        leaves = list(self.leaves)
        leaves[self.leaf] = leaf
        total = 0.0
        for y, seen in zip(self._floats(params, leaves), self.seen, strict=True):
            weights = jnp.linspace(1, 2, y.size).reshape(y.shape)
            total += jnp.where(seen, 0, y * weights.astype(y.dtype)).sum().astype(jnp.float32)
        return total

    def values(self, value: float | None) -> list:
        return self.run(self.params, self._with(value))

    def slopes(self, value: float | None) -> tuple:
        return self.gradient(self.params, self._with(value)[self.leaf])


def same(after: Any, before: Any, most: float, where: Any = True) -> None:
    after, before = np.asarray(after, np.float64), np.asarray(before, np.float64)
    most *= np.abs(before).max(initial=0, where=np.isfinite(before))
    kept = np.where(where, before, 0)
    np.testing.assert_allclose(np.where(where, after, 0), kept, rtol=0, atol=most)


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("row", cases(one_per_kind=True))
def test_what_an_output_does_not_see_does_not_change_it(row: Row, dtype: str):
    probe = Probe(row, dtype)
    if all(seen.all() for seen in probe.seen):
        pytest.skip("all outputs see all of the input")
    slopes = probe.slopes(None) if row.id.startswith(WINDOWED) else None
    for value in WILD:
        for after, before, seen in zip(probe.values(value), probe.before, probe.seen, strict=True):
            same(after, before, NEAR[dtype], ~seen)
        if slopes is None:
            continue
        is_finite = bool(jnp.isfinite(jnp.asarray(value, jnp.float32).astype(dtype)))
        if (
            row.id == "lp_pool" and not is_finite
        ):  # its length is in the gradient of all that it sees
            continue
        by_params, by_x = probe.slopes(value)
        same(by_x, slopes[1], NEAR[dtype])
        if is_finite:  # 0 times infinity is NaN
            jax.tree.map(lambda a, b: same(a, b, NEAR[dtype]), by_params, slopes[0])
