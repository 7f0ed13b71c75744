"""Params in another form than their array: a node in the tree of params, which counts as one leaf.

A transform such as `jn.quantized` puts nodes in the place of kernels. A layer that asks for
`m.kernel` gets a node as it is and uses it by `jn.product`; all other code gets its array.
"""

from typing import Any

import jax
import jax.numpy as jnp


class Stored:
    """A param in another form; a subclass is a pytree of arrays with the same leading axes.

    Fields:
      shape, dtype: Shape and dtype of the array.
    """

    shape: Any
    dtype: Any

    def array(self) -> jax.Array:
        """Return the array."""
        raise NotImplementedError

    def astype(self, dtype: Any) -> "Stored":
        """Return the same param in another dtype."""
        raise NotImplementedError

    def product(self, x: jax.Array, inputs: int, transposed: bool) -> jax.Array:
        """Return the product of x with the array; see `jn.product`."""
        raise NotImplementedError

    def rows(self, ids: jax.Array) -> jax.Array:
        """Return rows of the array; see `jn.rows`."""
        raise NotImplementedError

    def frozen(self) -> "Stored":
        """Return the same param without a gradient of the kernel."""
        return jax.lax.stop_gradient(self)


def is_stored(entry: Any) -> bool:
    """Return whether an entry of params is in another form.

    Example:
      >>> is_stored(jnp.ones(3))
      False
    """
    return isinstance(entry, Stored)


def frozen(tree: Any) -> Any:
    """Return the tree without gradients, but with those of factors which `jn.lora` puts around it.

    Example:
      >>> float(jax.grad(lambda tree: frozen(tree)["kernel"])({"kernel": 2.0})["kernel"])
      0.0
    """

    def leaf(entry: Any) -> Any:
        return entry.frozen() if is_stored(entry) else jax.lax.stop_gradient(entry)

    return jax.tree.map(leaf, tree, is_leaf=is_stored)


def materialized(tree: Any, x: Any = ()) -> Any:
    """Return the tree with arrays instead of params in other forms.

    Example:
      >>> materialized({"kernel": 2.0})
      {'kernel': 2.0}
    """

    def leaf(entry: Any) -> Any:
        return _after(x, entry).array() if is_stored(entry) else entry

    return jax.tree.map(leaf, tree, is_leaf=is_stored)


def _after(x: Any, node: Stored) -> Stored:
    """Return a node that is read after x is computed; else a compiler reads all nodes first."""
    numbers = [a for a in jax.tree.leaves(x) if jnp.issubdtype(a.dtype, jnp.number)]
    if not numbers:
        return node
    first = jax.lax.stop_gradient(numbers[0])
    node, _ = jax.lax.optimization_barrier((node, first))
    return node
