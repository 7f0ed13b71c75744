"""Checks of what a layer's functions are called with: params, state, keys, initializers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.checks.native import all_native
from jaxnet.services.checks.options import check_options, check_type
from jaxnet.services.checks.tracing import is_traced
from jaxnet.services.trees import PyTree, describe


def explain_spent(error: BaseException | None) -> None:
    """Add to JAX's error about a deleted array, once, what to write instead.

    Example:
      >>> explain_spent(RuntimeError("Array has been deleted with shape=float32[3]."))
    """
    note = (
        "a train_state goes into one step only, which reuses its memory; continue with the "
        "train_state that it returned: train_state, metrics = trainer.step(train_state, ...). If "
        "an error or a signal came before this assignment, both are lost: jn.fit yields "
        "train_states that stay valid, and jn.trainer(..., donate=False) keeps the one that a step "
        "was given"
    )
    if error is None or "has been deleted" not in str(error):
        return
    if note not in getattr(error, "__notes__", ()) and not hasattr(error, "train_state"):
        error.add_note(note)


def explain_memory(error: BaseException | None) -> None:
    """Add to JAX's error about exhausted memory, once, what holds it and what takes less.

    Example:
      >>> explain_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes."))
    """
    begin = "memory is exhausted"
    told = any(note.startswith(begin) for note in getattr(error, "__notes__", ()))
    words = "RESOURCE_EXHAUSTED", "Out of memory"
    if error is None or told or not any(word in str(error) for word in words):
        return
    arrays = jax.live_arrays()
    gigabytes = sum(array.nbytes for array in arrays) / 1e9
    error.add_note(
        f"{begin}. The {len(arrays)} arrays of this process hold {gigabytes:.3g} GB; "
        "most of the rest are activations, which grow with the batch. Write a smaller batch_size, "
        "jn.trainer(..., accumulate=n) for the gradient of a larger one, jn.remat(layer), or "
        "jn.cast(net, jnp.bfloat16). jn.inspect.memory(net, x, bytes) says what a step needs"
    )


def is_key(value: Any) -> bool:
    """Return whether this holds typed random keys, not the uint32 of older ones.

    Example:
      >>> is_key(jax.random.key(0)), is_key(jax.random.PRNGKey(0)), is_key(None)
      (True, False, False)
    """
    return jnp.issubdtype(getattr(value, "dtype", object), jax.dtypes.prng_key)


def check_key(key: Any, who: str) -> None:
    """Raise unless this is a single random key."""
    if not isinstance(key, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        got = type(key).__name__
    elif is_key(key):
        if key.shape == ():
            return
        got = f"keys of shape {key.shape}; use jax.vmap over them"
    else:
        older = jax.eval_shape(jax.random.PRNGKey, 0)
        if (key.shape, key.dtype) == (older.shape, older.dtype):
            return
        got = f"an array {key.shape} {key.dtype}"
    raise TypeError(f"{who}: expected a single key, such as jax.random.key(0), got {got}")


def check_call(who: str, params: PyTree, state: PyTree, x: PyTree, key: Any, train: Any) -> PyTree:
    """Return params, state and input of a call of `apply`, with host arrays converted by `native`.

    Raises:
      TypeError: If x is left out (`...` marks that), or if one of them has the wrong type.
    """
    if x is ...:
        write = "write y, state = net.apply(params, state, x)"
        raise TypeError(f"{who}: apply needs params, state and x; {write}")
    if key is not None:
        check_key(key, who)
    if is_traced(train):
        raise TypeError(
            f"{who}: train is traced, so the mode is not known; write "
            'jax.jit(net.apply, static_argnames="train")'
        )
    check_options(who, train=train)
    return all_native(params, who, "params"), all_native(state, who, "state"), all_native(x, who)


def check_dict(who: str, kind: str, tree: PyTree) -> None:
    """Raise unless params or state are a dict of names."""
    hint = "write params, state = net.init(key, x), then net.apply(params, state, x)"
    check_type(who, kind, tree, dict, "the dict that init returns", hint)
    for name in tree:
        if not isinstance(name, str):
            raise TypeError(
                f"{who}: {kind} has the name {name!r} ({type(name).__name__}), but the names that "
                "init returns are strings; for entries of another library, write "
                "jn.interop.by_names(net, weights, x, table)"
            )


def as_dict(who: str, kind: str, tree: PyTree) -> Any:
    """Return params or state with host arrays as JAX has them; raise unless they are a dict."""
    check_dict(who, kind, tree)
    return all_native(tree, who, kind)


def initialized(
    who: str, name: str, initializer: Callable, key: jax.Array, needed: Any
) -> jax.Array:
    """Return the array of an initializer; raise if it has the wrong shape or kind of numbers.

    Example:
      >>> needed = jax.ShapeDtypeStruct((3,), jnp.float32)
      >>> initialized("dense", "bias", lambda key, shape, dtype: 0.0, None, needed)
      Traceback (most recent call last):
      ...
      ValueError: dense: the initializer of 'bias' must return an array of shape (3,), got float
    """
    try:
        value = initializer(key, needed.shape, needed.dtype)
    except Exception as error:
        if isinstance(error, jax.errors.UnexpectedTracerError) or "Tracer" in str(error):
            raise ValueError(
                f"{who}: the initializer of {name!r} uses an array from the function around it, "
                "such as another parameter. It may only use key, shape and dtype. If one parameter "
                "starts from another, write both in one init: jn.stateless(init, apply)"
            ) from None
        error.add_note(f"in the initializer of {name!r} of {who}, which gets (key, shape, dtype)")
        raise
    if getattr(value, "shape", None) != needed.shape:
        got = describe(value) if jax.tree.leaves(value) else type(value).__name__
        raise ValueError(
            f"{who}: the initializer of {name!r} must return an array of shape {needed.shape}, "
            f"got {got}"
        )
    if _is_inexact(value.dtype) != _is_inexact(needed.dtype):
        dtype = "bool" if value.dtype == bool else f"jnp.{value.dtype}"
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            dtype = "jax.random.key(0).dtype"
        raise TypeError(
            f"{who}: the initializer of {name!r} must return {needed.dtype}, got {value.dtype}. "
            "A parameter is trained, so it holds floats. For other arrays write "
            f"m.state({name!r}, initializer, {needed.shape}, {dtype})"
        )
    return value


def _is_inexact(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)
