"""Penalties on weights: functions params -> scalar, added to the loss.

    objective = jn.supervised(net, loss, penalty=jn.penalties.l2(1e-4))

They apply to kernels only: entries named `kernel` or `..._kernel`, at any depth. Biases, scales of
normalization layers and embedding tables are left out, since a penalty on them moves the function
instead of simplifying it. `where` chooses other entries by a pattern of their paths, such as
"head/*". An elastic net is a sum: `lambda params: l1(1e-4)(params) + l2(1e-3)(params)`.

`optax.adamw` and `optax.add_decayed_weights` decay weights in the update instead, after the
gradient is rescaled. Under plain SGD, a decay of `d` equals the penalty `l2(d / 2)`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.ops.precision import at_least_float32
from jaxnet.services.checks import all_native, within
from jaxnet.services.paths import KERNEL as _KERNEL
from jaxnet.services.paths import check_patterns, fits
from jaxnet.services.trees import flat, path_name

Penalty = Callable[[Any], jax.Array]


def l1(strength: float, *, where: str = _KERNEL) -> Penalty:
    """Return the penalty strength * Σ|W|, with gradient 0 at 0.

    Gradient steps make weights oscillate around 0. For weights that are exactly 0, use
    `proximal_l1`.

    Args:
      strength: Factor of the penalty, at least 0.
      where: Pattern of the paths of the penalized entries, such as "head/*/kernel".

    Returns:
      A function of params that returns a scalar.

    Raises:
      ValueError: If `strength` is negative.
      ValueError: If `where` chooses no entry of params, when the function is called.

    Example:
      >>> params = {"dense": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([5.0])}}
      >>> float(l1(0.5)(params))
      1.5
    """
    return _penalty("l1", strength, where, _sizes)


def l2(strength: float, *, where: str = _KERNEL) -> Penalty:
    """Return the penalty strength * ΣW², with gradient 2 * strength * W.

    For a weight decay (λ/2) ΣW², pass strength λ/2.

    Args:
      strength: Factor of the penalty, at least 0.
      where: Pattern of the paths of the penalized entries, such as "head/*/kernel".

    Returns:
      A function of params that returns a scalar.

    Raises:
      ValueError: If `strength` is negative.
      ValueError: If `where` chooses no entry of params, when the function is called.

    Example:
      >>> params = {"dense": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([5.0])}}
      >>> float(l2(0.5)(params))
      2.5
    """
    return _penalty("l2", strength, where, _squares)


def proximal_l1(
    strength: float, learning_rate: optax.ScalarOrSchedule, *, where: str = _KERNEL
) -> optax.GradientTransformation:
    """Return the last transform of an `optax.chain`: an L1 penalty that makes weights exactly 0.

    It moves each weight towards 0 by strength * learning_rate after each step, and stops at 0.
    After `optax.sgd` with the same learning rate, this is proximal gradient descent on
    loss + strength * Σ|W|. After other optimizers, which rescale the gradient, zeros are exact too,
    but `strength` is relative to the rescaled gradient. The reported loss excludes the penalty.

    Args:
      strength: Factor of the penalty, at least 0.
      learning_rate: Number or a schedule, the same as the optimizer's.
      where: Pattern of the paths of the thresholded entries, such as "head/*/kernel".

    Returns:
      An optax transform, whose `update` needs the params.

    Raises:
      ValueError: If `strength` is negative.
      ValueError: If `where` chooses no entry of params, in `init`.
      ValueError: If params are missing, in `update`.

    Example:
      >>> optimizer = optax.chain(optax.sgd(0.1), proximal_l1(2.0, 0.1))
      >>> params = {"kernel": jnp.array([1.0, -0.15]), "bias": jnp.array([0.15])}
      >>> zero = jax.tree.map(jnp.zeros_like, params)
      >>> updates, _ = optimizer.update(zero, optimizer.init(params), params)
      >>> jax.tree.map(lambda w: w.tolist(), optax.apply_updates(params, updates))
      {'bias': [0.15...], 'kernel': [0.8..., 0.0]}

    Reference: Beck and Teboulle 2009, "A Fast Iterative Shrinkage-Thresholding Algorithm".
    """
    _check_options("proximal_l1", strength, where)
    if not callable(learning_rate):
        within("proximal_l1", "learning_rate", learning_rate, "[0, inf)")

    def init(params):
        _chosen("proximal_l1", params, where)
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(
                "proximal_l1: update needs params. Write optimizer.update(grads, state, params)"
            )
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def shrink(path, update, w):
            if not fits(where, path_name(path)):
                return update
            after = w + update
            is_near_0 = jnp.abs(after) <= strength * rate
            shrunk = update - strength * rate * jnp.sign(after)
            # apply_updates computes w + (-w), which is exactly 0.
            return jnp.where(is_near_0, -w, shrunk).astype(w.dtype)

        updates = jax.tree_util.tree_map_with_path(shrink, updates, params)
        return updates, optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformation(init, update)


def _penalty(who: str, strength: float, where: str, norm: Callable) -> Penalty:
    _check_options(who, strength, where)

    def penalty(params):
        norms = [norm(at_least_float32(w)) for w in _chosen(who, params, where)]
        return jnp.asarray(strength * sum(norms))

    return penalty


def _sizes(w: jax.Array) -> jax.Array:
    # jnp.abs has slope 1 at 0, which would move weights away from 0.
    sign = jax.lax.stop_gradient(jnp.sign(w))
    return jnp.real(sign.conj() * w).sum()


def _squares(w: jax.Array) -> jax.Array:
    total = jnp.square(jnp.real(w)).sum()
    if jnp.iscomplexobj(w):
        total += jnp.square(w.imag).sum()
    return total


def _chosen(who: str, params: Any, where: str) -> list[jax.Array]:
    entries = flat(params)
    for path, leaf in entries:
        got = type(leaf).__name__
        if not path:
            raise TypeError(f"{who}: params must be nested dicts of arrays, got {got}")
        if not hasattr(leaf, "dtype"):
            raise TypeError(f"{who}: params/{path} must be an array, got {got}")
    chosen = all_native([leaf for path, leaf in entries if fits(where, path)], who, "params")
    if not chosen:
        names = ", ".join(path for path, _ in entries) or "no entries"
        raise ValueError(
            f"{who}: no entry to penalize, got {names}. By default, entries named kernel or "
            '..._kernel are penalized; to choose others, write where="*/weights"'
        )
    return chosen


def _check_options(who: str, strength: Any, where: Any) -> None:
    within(who, "strength", strength, "[0, inf)")
    if callable(where):
        raise ValueError(
            f"{who}: where must be a pattern of paths, got a function; instead of "
            'lambda path: path[-1] == "weights" write where="*/weights"'
        )
    check_patterns(who, "where", [where])
