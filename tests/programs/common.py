"""What the programs here share: layers in plain JAX, and the comparison with our program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tests.helpers import close


def dense(entries: dict, x: jax.Array) -> jax.Array:
    return x @ entries["kernel"] + entries["bias"]


def mlp(params: dict, x: jax.Array, activation: Callable = jnp.tanh) -> jax.Array:
    """`jn.serial(jn.dense(a), activation, jn.dense(b), ...)`, whose layers have default names."""
    names = [name for name in ("dense", "dense_1", "dense_2", "dense_3") if name in params]
    for name in names[:-1]:
        x = activation(dense(params[name], x))
    return dense(params[names[-1]], x)


def agree(ours: Callable, theirs: Callable, *args: Any, bound: float = 2e-5) -> Any:
    """Two programs have the same values, and the same gradients by all arguments.

    Both are one compiled program. Returns the values of ours.
    """

    def both(*args):
        return [_with_gradients(program, args) for program in (ours, theirs)]

    (found, slopes), (wanted, right) = jax.device_get(jax.jit(both)(*args))
    close(found, wanted, bound)
    close(slopes, right, bound)
    return found


def _with_gradients(program: Callable, args: tuple) -> tuple[Any, Any]:
    def total(args):
        values = program(*args)
        return sum(jnp.sum(jnp.sin(leaf) + leaf) for leaf in jax.tree.leaves(values)), values

    slopes, values = jax.grad(total, has_aux=True)(args)
    return values, slopes
