"""`accelerate`: any function of JAX, with our kernels instead of XLA's convolutions and pools.

The function is traced, and its jaxpr is computed again, operation by operation. If an operation
contains programs, such as the body of a loop or a function with its own derivative, they are
rewritten too, and the operation stays what it was.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import jax
import numpy as np

from jaxnet.rewriting.bodies import run
from jaxnet.rewriting.layout import in_program_order
from jaxnet.rewriting.objects import with_values
from jaxnet.services.checks import a_function
from jaxnet.services.trees import PyTree

F = TypeVar("F", bound=Callable)


def accelerate(f: F) -> F:
    """Return the function with our kernels instead of XLA's convolutions and pools on a CPU.

    It computes the same, up to rounding, and is a transform like `jax.checkpoint`: it works inside
    and around `jit`, `grad`, `vmap`, `scan`, `shard_map` and the others, of functions in Flax,
    Equinox, Haiku or plain JAX. Compile the result, or what you make of it, by `jax.jit`.

    Convolutions of one to three axes in 32 or 16 bits are replaced, in every layout and with their
    gradients, also in the bodies of loops, where XLA's are up to a hundred times slower; so are
    pools, and large matrix products in 16 bits. Everything else stays as it is. If JAX's default
    backend is a GPU or a TPU, the function is called unchanged.

    Args:
      f: Function of pytrees. Arrays in its arguments are traced; all other leaves, such as flags,
        strings and functions, reach `f` unchanged.

    Returns:
      A function of the same arguments with the same results.

    Raises:
      TypeError: If `f` is not a function.

    Example:
      >>> layout = ("NCHW", "OIHW", "NCHW")  # channels first, as in PyTorch and Equinox
      >>> def loss(kernel, x):
      ...     y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
      ...     return jax.nn.relu(y).mean()
      >>> kernel, x = jnp.ones((16, 3, 3, 3)), jnp.ones((8, 3, 32, 32))
      >>> step = jax.jit(jax.value_and_grad(jn.accelerate(loss)))
      >>> print(f"{step(kernel, x)[0]:.3f}")
      25.887
    """
    a_function("accelerate", "f", f, "arrays")

    @wraps(f)
    def accelerated(*args, **kwargs):
        if jax.default_backend() != "cpu":
            return f(*args, **kwargs)

        def of_both(arguments):
            args, kwargs = arguments
            return f(*args, **kwargs)

        return with_values(of_both, (args, kwargs), _by_kernels)

    return accelerated  # type: ignore[return-value]


def _by_kernels(function: Callable, arguments: PyTree) -> PyTree:
    """Return function(given), in which arrays alone are traced, computed by our kernels."""
    leaves, structure = jax.tree.flatten(arguments)
    others: dict[str, Any] = {}

    def of_arrays(arrays):
        remaining = iter(arrays)
        every = [next(remaining) if _is_array(leaf) else leaf for leaf in leaves]
        result = function(jax.tree.unflatten(structure, every))
        results, others["structure"] = jax.tree.flatten(result)
        others["leaves"] = [None if _is_result(leaf) else leaf for leaf in results]
        return [leaf for leaf in results if _is_result(leaf)]

    arrays = [leaf for leaf in leaves if _is_array(leaf)]
    outputs = iter(run(of_arrays, arrays))
    results = [
        in_program_order(next(outputs)) if leaf is None else leaf for leaf in others["leaves"]
    ]
    return jax.tree.unflatten(others["structure"], results)


def _is_array(leaf: Any) -> bool:
    """Whether an argument is traced: Python's numbers stay, since a function may branch on them."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _is_result(leaf: Any) -> bool:
    return _is_array(leaf) or isinstance(leaf, bool | int | float | complex)
