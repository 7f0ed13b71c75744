"""Weight normalization and spectral normalization: transforms that reparametrize kernels.

Both transform a layer of any kind. They act on every entry of its params whose name is `kernel` or
ends in `_kernel`, and pass ordinary kernels to the layer.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, child_key, transformed
from jaxnet.ops import at_least_float32, broadcast
from jaxnet.ops.scaling import length, powers, root, within_range
from jaxnet.services.checks import at_least, within
from jaxnet.services.nodes import materialized
from jaxnet.services.paths import is_kernel
from jaxnet.services.trees import flat, path_name
from jaxnet.transforms.kernels import Axes, axes_of, replaced


def weight_norm(layer: Layer, *, name: str | None = None) -> Layer:
    """Return a layer with each kernel written as g * v / |v|, which separates length and direction.

    The norm is over all axes but the last, so every output feature has one length g, as in
    `torch.nn.utils.parametrizations.weight_norm`; the copies of `jn.repeat` have their own. With
    the same key the new layer starts as the same function as `layer`: v is the kernel drawn by its
    init, g the norm of v. A kernel of zeros does not have a direction: it stays zero, and its
    gradient is zero.

    Args:
      layer: Layer with at least one kernel.
      name: Name of the new layer; the name of `layer` by default.

    Params:
      The layer's params, with a dict instead of each kernel (*copies, ..., features): g (*copies,
      features) and v, of the kernel's shape.

    Returns:
      A layer whose params have a dict of g and v instead of each kernel.

    Raises:
      ValueError: In `init`, if the layer does not have a kernel.

    Example:
      >>> layer = weight_norm(jn.dense(3))
      >>> params, state = layer.init(jax.random.key(0), jn.spec((2, 5)))
      >>> jax.tree.map(jnp.shape, params)
      {'bias': (3,), 'kernel': {'g': (3,), 'v': (5, 3)}}

    Reference: Salimans and Kingma 2016, "Weight Normalization".
    """

    def init(run, key, x):
        params, state = run.init(key, x)
        kernels = dict(flat(_kernels(params, run.layer, "weight_norm")))
        axes = axes_of(run.layer, kernels, x)

        parts = {}
        for path, v in kernels.items():
            g = _norm(at_least_float32(v), axes[path].copies)
            parts[path] = {"g": g.astype(v.dtype), "v": v}
        return replaced(params, parts), state

    def apply(run, params, state, x):
        return run(_join(materialized(params)), state, x)

    return transformed(layer, apply, kind="weight_norm", init=init, name=name, new_entries=True)


def spectral_norm(
    layer: Layer, *, iterations: int = 1, epsilon: float = 1e-12, name: str | None = None
) -> Layer:
    """Return a layer with each kernel divided by its largest singular value, by power iteration.

    A kernel is treated as the matrix that multiplies the inputs; for a convolution this bounds the
    map of one patch. Each copy of `jn.repeat` is divided by its own value. The state holds
    the singular vectors u and v; each call in training runs `iterations` steps of the power method,
    and `init` runs 15, so that an untrained layer is already near its bound. Gradients treat u and
    v as constants.

    Args:
      layer: Layer with at least one kernel. A kernel of zeros stays zero.
      iterations: Number of steps of the power method per call in training, at least 1.
      epsilon: Lower bound on the length by which a vector is divided, positive.
      name: Name of the new layer; the name of `layer` by default.

    Params:
      The layer's params.

    State:
      The layer's state, and "spectral_norm" with u (*copies, outputs) and v (*copies, inputs)
      instead of each kernel.

    Returns:
      A layer with the same params, and the vectors of the iteration in its state.

    Raises:
      ValueError: If `iterations` is below 1.
      ValueError: In `init`, if the layer does not have a kernel.

    Example:
      >>> layer = spectral_norm(jn.dense(3, use_bias=False))
      >>> params, state = layer.init(jax.random.key(0), jn.spec((5, 5)))
      >>> kernel, _ = layer.apply(params, state, jnp.eye(5))
      >>> print(f"largest singular value {jnp.linalg.norm(kernel, 2):.2f}")
      largest singular value 1.00

    Reference: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks".
    """
    who = "spectral_norm"
    at_least(who, "iterations", iterations)
    within(who, "epsilon", epsilon, "(0, inf)")

    def init(run, key, x):
        params, state = run.init(key, x)
        if who in state:
            raise ValueError(f"{who}: the kernels of {run.layer.name} are already normalized")

        kernels = _kernels(params, run.layer, who)
        axes = axes_of(run.layer, dict(flat(kernels)), x)

        vectors_key = child_key(key, who)

        def draw(path, kernel):
            name = path_name(path)
            vectors = _drawn(child_key(vectors_key, name), kernel, axes[name])
            return _power(kernel, vectors, 15, epsilon)

        vectors = jax.tree_util.tree_map_with_path(draw, kernels)
        return params, state | {who: vectors}

    def improve(kernel, vectors):
        return _power(jax.lax.stop_gradient(kernel), vectors, iterations, epsilon)

    def apply(run, params, state, x):
        params = materialized(params)
        kernels = _kernels(params, run.layer, who)
        vectors = state[who]  # the same arrays in evaluation, where nothing changes
        if run.train:
            vectors = jax.tree.map(improve, kernels, jax.lax.stop_gradient(vectors))
        inner = {name: entry for name, entry in state.items() if name != who}
        divided = jax.tree.map(_divided, kernels, jax.lax.stop_gradient(vectors))
        params = replaced(params, dict(flat(divided)))
        y, inner = run(params, inner, x)
        return y, inner | {who: vectors}

    return transformed(layer, apply, kind=who, init=init, name=name, new_entries=True)


def _find(params: Params) -> Params:
    """Return the entries of params that are kernels."""
    kernels = {}
    for name, entry in params.items():
        if isinstance(entry, dict):
            inside = _find(entry)
            if inside:
                kernels[name] = inside
        elif is_kernel(name):
            kernels[name] = entry
    return kernels


def _kernels(params: Params, layer: Layer, who: str) -> Params:
    kernels = _find(params)
    if not kernels:
        raise ValueError(
            f"{who}: {layer.name} has no parameter named kernel or ..._kernel; its parameters: "
            f"{', '.join(params) or 'none'}"
        )
    return kernels


def _join(params: Params) -> Params:
    """Return the params with each pair of g and v multiplied out."""

    def join_entry(name: str, entry: Any) -> Any:
        if not isinstance(entry, dict):
            return entry
        if not (is_kernel(name) and set(entry) == {"g", "v"}):
            return _join(entry)
        g = entry["g"]
        v = at_least_float32(entry["v"])
        # The quotient's gradient has the square of the length, which must be a float.
        axes = _axes_of_length(v, g.ndim - 1)
        v, _ = within_range(v, axes)
        norm = root(powers(v).sum(axes))
        # If v is 0, the quotient is undefined: the quotient and its gradient are set to 0.
        positive = norm > 0
        factor = jnp.where(positive, g / jnp.where(positive, norm, 1), 0)
        ones = [1] * (v.ndim - g.ndim)
        factor = factor.reshape(*g.shape[:-1], *ones, g.shape[-1])
        return (v * broadcast(factor, v.shape)).astype(entry["v"].dtype)

    return {name: join_entry(name, entry) for name, entry in params.items()}


def _norm(v: jax.Array, copies: int) -> jax.Array:
    """Return the length of each feature, (*copies, ..., features) -> (*copies, features).

    Its gradient is 0 at 0.
    """
    return length(v, _axes_of_length(v, copies))


def _axes_of_length(v: jax.Array, copies: int) -> tuple[int, ...]:
    """Return the axes of one feature, which are all but those of copies and features."""
    return tuple(range(copies, v.ndim - 1))


def _drawn(key: jax.Array, kernel: jax.Array, axes: Axes) -> Params:
    """Return random vectors of length 1: u of the outputs, v of the inputs."""
    copies, inputs, outputs = axes.split(kernel.shape)
    dtype = at_least_float32(kernel).dtype
    vectors = {}
    for name, sizes in (("u", outputs), ("v", inputs)):
        shape = (*copies, math.prod(sizes))
        vector = jax.random.normal(child_key(key, name), shape, dtype)
        vectors[name] = vector / length(vector, -1, keepdims=True)
    return vectors


def _divided(kernel: jax.Array, vectors: Params) -> jax.Array:
    """Return the kernel divided by its largest singular value."""

    def value(matrix, v, u):
        return v @ matrix @ u

    matrix = _matrix(kernel, vectors)
    sigma = _of_copies(value, matrix, **vectors)[..., None, None]
    # The largest singular value of a zero kernel is 0, so it cannot be divided and stays zero.
    divisor = jnp.where(sigma == 0, 1, sigma)
    return (matrix / divisor).reshape(kernel.shape).astype(kernel.dtype)


def _matrix(kernel: jax.Array, vectors: Params) -> jax.Array:
    """Return the matrices of a kernel, (*copies, inputs, outputs), within the range of squares."""
    *copies, outputs = vectors["u"].shape
    inputs = vectors["v"].shape[-1]
    matrix = at_least_float32(kernel).reshape(*copies, inputs, outputs)
    return within_range(matrix, (-2, -1))[0]


def _of_copies(function: Callable, matrix: jax.Array, v: jax.Array, u: jax.Array) -> Any:
    """Return the function of each copy's matrix and vectors."""
    for _ in range(u.ndim - 1):
        function = jax.vmap(function)
    return function(matrix, v, u)


def _power(kernel: jax.Array, vectors: Params, iterations: int, epsilon: float) -> Params:
    """Return singular vectors by the power method: u of the outputs, v of the inputs."""

    def improve(matrix, v, u):
        u = _unit(v @ matrix, epsilon, u)
        return {"u": u, "v": _unit(matrix @ u, epsilon, v)}

    matrix = _matrix(kernel, vectors)

    def turn(_, vectors):
        return _of_copies(improve, matrix, **vectors)

    return jax.lax.fori_loop(0, iterations, turn, vectors)


def _unit(vector: jax.Array, epsilon: float, before: jax.Array) -> jax.Array:
    """Return the vector with length 1, or the previous vector if it is 0, which would remain 0."""
    norm = length(vector, 0)
    unit = vector / jnp.maximum(norm, epsilon)
    return jnp.where(norm > 0, unit, before)
