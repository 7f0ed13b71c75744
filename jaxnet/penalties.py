"""Penalties on weights: functions params -> scalar, added to the loss.

    objective = supervised(net, loss, penalty=l2(1e-4))

They act on kernels alone, that is on entries whose own name is `kernel` or ends in `_kernel`, at
any depth. Biases, the scales of norms and embedding tables are left out: a penalty on them does
not keep the function simple, it moves it. `where` chooses other entries by their path. An elastic
net is a sum: `lambda params: l1(1e-4)(params) + l2(1e-3)(params)`.

`optax.adamw` and `optax.add_decayed_weights` decay weights in the update instead, outside of the
gradient's rescaling; with plain SGD both are the same.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Where = Callable[[tuple[str, ...]], bool]
Penalty = Callable[[Any], jax.Array]


def is_kernel(path: tuple[str, ...]) -> bool:
    """Whether a path ends in a kernel's name: `kernel`, `recurrent_kernel` and the like.

    Example:
      >>> is_kernel(("dense", "kernel")), is_kernel(("dense", "bias"))
      (True, False)
    """
    return path[-1] == "kernel" or path[-1].endswith("_kernel")


def l1(strength: float, *, where: Where = is_kernel) -> Penalty:
    """strength * Σ|W|. Its gradient at 0 is 0.

    By gradient steps weights jump about 0 without landing on it; for weights that are exactly 0
    see `proximal_l1`.

    Args:
      strength: at least 0.
      where: which entries are penalized, by path, such as `lambda path: path[0] == "head"`.

    Raises:
      ValueError: for a negative strength; in the call, where no entry of params is chosen.

    Example:
      >>> params = {"dense": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([5.0])}}
      >>> float(l1(0.5)(params))
      1.5
    """
    return _penalty("l1", strength, where, _sizes)


def l2(strength: float, *, where: Where = is_kernel) -> Penalty:
    """strength * ΣW², without a half: the gradient is 2 * strength * W. See `weight_decay`.

    Args:
      strength: at least 0.
      where: which entries are penalized, by path, such as `lambda path: path[0] == "head"`.

    Raises:
      ValueError: for a negative strength; in the call, where no entry of params is chosen.

    Example:
      >>> params = {"dense": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([5.0])}}
      >>> float(l2(0.5)(params))
      2.5
    """
    return _penalty("l2", strength, where, _squares)


def weight_decay(strength: float, *, where: Where = is_kernel) -> Penalty:
    """strength / 2 * ΣW²: the gradient is strength * W.

    Args:
      strength: at least 0.
      where: which entries are penalized, by path, such as `lambda path: path[0] == "head"`.

    Raises:
      ValueError: for a negative strength; in the call, where no entry of params is chosen.

    Example:
      >>> params = {"dense": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([5.0])}}
      >>> jax.grad(weight_decay(0.5))(params)["dense"]["kernel"].tolist()
      [[0.5, -1.0]]
    """
    return _penalty("weight_decay", strength, where, lambda w: _squares(w) / 2)


class ProximalState(NamedTuple):
    """The number of steps taken, which a schedule of learning rates needs."""

    step: jax.Array


def proximal_l1(
    strength: float, learning_rate: optax.ScalarOrSchedule, *, where: Where = is_kernel
) -> optax.GradientTransformation:
    """An L1 penalty that makes weights exactly 0, as the last entry of an `optax.chain`.

    After each step a weight moves towards 0 by strength * learning_rate and stops there. With
    `optax.sgd` of the same learning rate this is proximal gradient descent on
    loss + strength * Σ|W|. After other optimizers, which rescale the gradient, the zeros are exact
    too, but `strength` is then relative to the rescaled gradient. The penalty is not part of the
    reported loss.

    Args:
      strength: at least 0.
      learning_rate: a number or a schedule, the same as the optimizer's.
      where: which entries are thresholded, by path, such as `lambda path: path[0] == "head"`.

    Raises:
      ValueError: for a negative strength; where no entry of params is chosen; where `update` is
        called without params.

    Example:
      >>> optimizer = optax.chain(optax.sgd(0.1), proximal_l1(2.0, 0.1))
      >>> params = {"kernel": jnp.array([1.0, -0.15]), "bias": jnp.array([0.15])}
      >>> zero = jax.tree.map(jnp.zeros_like, params)
      >>> updates, _ = optimizer.update(zero, optimizer.init(params), params)
      >>> jax.tree.map(lambda w: w.tolist(), optax.apply_updates(params, updates))
      {'bias': [0.15...], 'kernel': [0.8..., 0.0]}

    Reference: Beck and Teboulle 2009, "A Fast Iterative Shrinkage-Thresholding Algorithm".
    """
    _check_strength("proximal_l1", strength)

    def init(params):
        _chosen("proximal_l1", params, where)
        return ProximalState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(
                "proximal_l1: needs params; write optimizer.update(grads, state, params)"
            )
        rate = learning_rate(state.step) if callable(learning_rate) else learning_rate

        def shrink(path, update, w):
            if not where(_names(path)):
                return update
            after = w + update
            size = jnp.abs(after)
            # w + (0 - w) is exactly 0, so apply_updates lands on it
            near = size <= strength * rate
            return jnp.where(near, -w, update - strength * rate * jnp.sign(after)).astype(w.dtype)

        updates = jax.tree_util.tree_map_with_path(shrink, updates, params)
        return updates, ProximalState(state.step + 1)

    return optax.GradientTransformation(init, update)


def _penalty(who: str, strength: float, where: Where, of: Callable) -> Penalty:
    _check_strength(who, strength)

    def penalty(params):
        # bfloat16 has too few digits for sums
        wide = [w.astype(jnp.promote_types(w.dtype, jnp.float32)) for w in chosen(params)]
        return jnp.asarray(strength * sum(of(w) for w in wide))

    def chosen(params):
        return _chosen(who, params, where)

    return penalty


def _sizes(w: jax.Array) -> jax.Array:
    # jnp.abs has slope 1 at 0, which would push weights away from it.
    sign = jax.lax.stop_gradient(jnp.sign(w))
    return jnp.real(sign.conj() * w).sum()


def _squares(w: jax.Array) -> jax.Array:
    return jnp.square(jnp.real(w)).sum() + (jnp.square(w.imag).sum() if jnp.iscomplexobj(w) else 0)


def _chosen(who: str, params: Any, where: Where) -> list[jax.Array]:
    entries = jax.tree_util.tree_flatten_with_path(params)[0]
    chosen = [leaf for path, leaf in entries if where(_names(path))]
    if not chosen:
        names = ", ".join("/".join(_names(path)) for path, _ in entries) or "no entries"
        raise ValueError(
            f"{who}: nothing to penalize; where chose none of {names}; by default these are the "
            "entries called kernel or ..._kernel, others are given as where=lambda path: path[-1] "
            '== "weights"'
        )
    return chosen


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _check_strength(who: str, strength: Any) -> None:
    if isinstance(strength, int | float) and strength < 0:
        raise ValueError(f"{who}: strength must be at least 0, got {strength}")
