"""Functions that hold weights, such as modules of other libraries, which nothing would train."""

import functools
from types import FunctionType
from typing import Any

import jax
import numpy as np

from jaxnet.services.functions import used_by

# What to write instead of a module, by the package of its class; "" is anything else.
INSTEAD = {
    "flax.nnx": (
        "from_nnx(lambda rngs: nnx.Linear(3, 4, rngs=rngs)), after "
        "from jaxnet.interop.flax import from_nnx"
    ),
    "flax.linen": "from_linen(module), after from jaxnet.interop.flax import from_linen",
    "torch.nn": (
        "the same net in jaxnet, and its weights with from_torch(net, weights, x), after "
        "from jaxnet.interop.torch import from_torch"
    ),
    "keras": "the same net in jaxnet with jn.interop.by_names(net, weights, x, table)",
    "equinox": (
        "params, rest = eqx.partition(module, eqx.is_inexact_array) and "
        'jn.stateless(lambda key, x: {"module": jax.tree.map(jnp.copy, params)}, '
        'lambda p, x: jax.vmap(eqx.combine(p["module"], rest))(x))'
    ),
    "": "jn.stateless(init, apply), where init(key, x) returns the arrays as params",
}


def check_holds_no_weights(who: str, name: str, function: Any) -> None:
    """Raise if a plain function holds weights, which would be constants of the net."""
    if held := holder_of_weights(function):
        holder, instead = held
        raise TypeError(
            f"{who or 'the net'}: {name} holds the weights of a {type(holder).__name__}, which "
            f"would not be trained. Write {instead}. If they are constants on purpose, pass a "
            "function that calls jax.lax.stop_gradient on them"
        )


def holder_of_weights(function: Any) -> tuple[Any, str] | None:
    """Return what has weights among what a function is and calls, and what to write instead.

    These are modules of other libraries, and objects and partials that hold float arrays of two
    axes or more. A function that calls `stop_gradient` holds what it holds on purpose.

    Example:
      >>> import functools
      >>> holder_of_weights(functools.partial(jnp.matmul, jnp.ones((2, 3))))[1]
      'jn.stateless(init, apply), where init(key, x) returns the arrays as params'
      >>> holder_of_weights(jnp.tanh)
    """
    for value in used_by(function, unless="stop_gradient"):
        if not callable(value) or hasattr(value, "__wrapped__") or isinstance(value, FunctionType):
            continue
        held: Any = getattr(value, "__self__", value)
        if isinstance(value, functools.partial):
            held = value.args, value.keywords
        package = _package_of(held)
        needed_axes = 1 if package else 2
        if package not in ("", "equinox") or _most_axes(held) >= needed_axes:
            return held if package else value, INSTEAD[package]
    return None


def _package_of(held: Any) -> str:
    """Return the package that the class of a value comes from, of those in the table; or ""."""
    modules = [f"{kind.__module__}." for kind in type(held).__mro__]
    for package in INSTEAD:
        if package and any(f"{package}." in module for module in modules):
            return package
    return ""


def _most_axes(held: Any) -> int:
    """Return the largest number of axes of the arrays of floats that a value holds."""
    attributes = list(getattr(held, "__dict__", {}).values())
    most = 0
    for leaf in jax.tree.leaves([held, attributes]):
        is_array = isinstance(leaf, jax.Array | np.ndarray)
        if is_array and jax.numpy.issubdtype(leaf.dtype, np.floating):
            most = max(most, leaf.ndim)
    return most
