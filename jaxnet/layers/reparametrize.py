"""Weight normalization and spectral normalization: a layer whose kernels are made from others.

Both take a layer and give a layer, of any kind: they act on every entry of its params whose own
name is `kernel` or ends in `_kernel`, and hand the layer itself the kernels that it knows.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, checked, child_key, path_name


def weight_norm(layer: Layer, *, name: str | None = None) -> Layer:
    """The layer with each kernel written as g * v / |v|: its length apart from its direction.

    The norm is over all axes but the last, so every output feature has one length g, as in
    `torch.nn.utils.parametrizations.weight_norm`. The new layer starts as the same function as
    the old one with the same key: v is the kernel that the layer's init draws, g is its norm.
    A kernel that starts at zero has no direction: it stays zero, as does its gradient.

    Args:
      layer: with at least one kernel.
      name: of the new layer, by default that of the old one.

    Params:
      As the layer's, with a dict in the place of each kernel (..., features): g (features,) and
      v (..., features).

    Raises:
      ValueError: at init, for a layer without a kernel.

    Example:
      >>> layer = weight_norm(jn.dense(3))
      >>> params, state = layer.init(jax.random.key(0), jn.spec((2, 5)))
      >>> jax.tree.map(jnp.shape, params)
      {'bias': (3,), 'kernel': {'g': (3,), 'v': (5, 3)}}

    Reference: Salimans and Kingma 2016, "Weight Normalization".
    """

    def split(kernel):
        return {"g": _norm(_wide(kernel)).astype(kernel.dtype), "v": kernel}

    def init(key, x):
        params, state = layer.init(key, x)
        kernels = _kernels(params, layer, "weight_norm")
        return _merge(params, jax.tree.map(split, kernels)), state

    def apply(params, state, x, *, key=None, train=False):
        return layer.apply(_join(params), state, x, key=key, train=train)

    return checked(Layer(init, apply, name or layer.name))


def spectral_norm(
    layer: Layer, *, iterations: int = 1, epsilon: float = 1e-12, name: str | None = None
) -> Layer:
    """The layer with each kernel divided by its largest singular value, by power iteration.

    A kernel is taken as a matrix from all its other axes to the last one, as PyTorch does for its
    own layout; for a convolution this bounds the map of one patch. The singular vectors u and v
    live in the state, and each call in training improves them by `iterations`; 15 come at init, so
    that an untrained layer is already near its bound. They count as constants in gradients.

    Args:
      layer: with at least one kernel.
      iterations: of the power method at each call in training, at least 1.
      epsilon: least length that a vector is divided by.
      name: of the new layer, by default that of the old one.

    Params:
      As the layer's.

    State:
      The layer's, and "spectral_norm" with u (features,) and v (inputs,) in the place of each
      kernel.

    Raises:
      ValueError: for iterations below 1; at init, for a layer without a kernel.

    Example:
      >>> layer = spectral_norm(jn.dense(3, use_bias=False))
      >>> params, state = layer.init(jax.random.key(0), jn.spec((5, 5)))
      >>> kernel, _ = layer.apply(params, state, jnp.eye(5))
      >>> 0.99 < float(jnp.linalg.norm(kernel, 2)) < 1.01
      True

    Reference: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks".
    """
    if iterations < 1:
        raise ValueError(f"spectral_norm: iterations must be at least 1, got {iterations}")
    own = "spectral_norm"

    def init(key, x):
        params, state = layer.init(key, x)
        if own in state:
            raise ValueError(f"{own}: {layer.name} has its kernels normalized already")

        def draw(path, kernel):
            here = child_key(child_key(key, own), path_name(path))
            matrix = _matrix(kernel)
            u = jax.random.normal(child_key(here, "u"), matrix.shape[1:], matrix.dtype)
            v = jax.random.normal(child_key(here, "v"), matrix.shape[:1], matrix.dtype)
            return _power(matrix, {"u": u, "v": v}, 15, epsilon)

        kernels = _kernels(params, layer, own)
        return params, state | {own: jax.tree_util.tree_map_with_path(draw, kernels)}

    def apply(params, state, x, *, key=None, train=False):
        kernels = _kernels(params, layer, own)

        def turn(kernel, vectors):
            return _power(jax.lax.stop_gradient(_matrix(kernel)), vectors, iterations, epsilon)

        def divide(kernel, vectors):
            sigma = vectors["v"] @ _matrix(kernel) @ vectors["u"]
            return (kernel / sigma).astype(kernel.dtype)

        vectors = jax.lax.stop_gradient(state[own])
        if train:
            vectors = jax.tree.map(turn, kernels, vectors)
        inner = {name: entry for name, entry in state.items() if name != own}
        divided = _merge(params, jax.tree.map(divide, kernels, vectors))
        y, inner = layer.apply(divided, inner, x, key=key, train=train)
        return y, inner | {own: vectors}

    return checked(Layer(init, apply, name or layer.name))


def _is_kernel(name: str) -> bool:
    return name == "kernel" or name.endswith("_kernel")


def _find(params: Params) -> Params:
    """The entries of params that are kernels, and nothing else."""
    inside = {
        name: _find(entry) if isinstance(entry, dict) else entry
        for name, entry in params.items()
        if isinstance(entry, dict) or _is_kernel(name)
    }
    return {name: entry for name, entry in inside.items() if not isinstance(entry, dict) or entry}


def _kernels(params: Params, layer: Layer, who: str) -> Params:
    kernels = _find(params)
    if not kernels:
        raise ValueError(
            f"{who}: {layer.name} has no parameter called kernel or ..._kernel; "
            f"it has {', '.join(params) or 'none'}"
        )
    return kernels


def _merge(params: Params, changed: Params) -> Params:
    """The params with the changed kernels in their places."""
    return {
        name: _merge(entry, changed.get(name, {}))
        if isinstance(entry, dict)
        else changed.get(name, entry)
        for name, entry in params.items()
    }


def _join(params: Params) -> Params:
    """The params with each pair of g and v multiplied out."""

    def whole(name: str, entry: Any) -> Any:
        if not isinstance(entry, dict):
            return entry
        if not (_is_kernel(name) and set(entry) == {"g", "v"}):
            return _join(entry)
        g, v = entry["g"], _wide(entry["v"])
        norm = _norm(v)
        # Where v is 0 the quotient has no value: both it and its gradient are set to 0.
        factor = jnp.where(norm > 0, g / jnp.where(norm > 0, norm, 1), 0)
        return (v * factor).astype(entry["v"].dtype)

    return {name: whole(name, entry) for name, entry in params.items()}


def _norm(v: jax.Array) -> jax.Array:
    """The length of each output feature, (..., features) -> (features,); gradient 0 at 0."""
    squares = jnp.square(v).sum(tuple(range(v.ndim - 1)))
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def _matrix(kernel: jax.Array) -> jax.Array:
    return _wide(kernel).reshape(-1, kernel.shape[-1])  # (..., features) -> (inputs, features)


def _power(matrix: jax.Array, vectors: Params, iterations: int, epsilon: float) -> Params:
    """Singular vectors after some turns of the power method: u of the outputs, v of the inputs."""

    def turn(_, vectors):
        u = _unit(vectors["v"] @ matrix, epsilon)
        return {"u": u, "v": _unit(matrix @ u, epsilon)}

    return jax.lax.fori_loop(0, iterations, turn, vectors)


def _unit(vector: jax.Array, epsilon: float) -> jax.Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), epsilon)


def _wide(x: jax.Array) -> jax.Array:
    """At least float32: bfloat16 has too few digits for sums."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
