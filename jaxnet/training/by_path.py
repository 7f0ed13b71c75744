"""Optimizers by the paths of parameters."""

from collections.abc import Mapping

import jax
import optax

from jaxnet.core import Params
from jaxnet.services.checks import check_type
from jaxnet.services.paths import check_patterns, first_fits
from jaxnet.services.trees import flat


def by_path(
    optimizers: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformationExtraArgs:
    """Return an optimizer that treats parameters by their paths.

    Each array is changed only by the first optimizer whose pattern fits its path. The weight decay,
    norms and moments of this optimizer apply to these arrays alone. So an array whose optimizer is
    `optax.set_to_zero()` does not change at all.

    Args:
      optimizers: Optax optimizers by pattern, such as "encoder/*", "*/bias" or
        "*/attention/(query|value)/kernel"; "*" fits all. The first that fits counts.

    Returns:
      An optax optimizer for the whole tree of params.

    Raises:
      TypeError: If `optimizers` is not a dict of optax optimizers.
      ValueError: In `init`, if an array matches no pattern, or if a pattern is the first match
        of no array.

    Example:
      >>> decayed = optax.adamw(0.1, weight_decay=5.0)
      >>> optimizer = by_path({"old/*": optax.set_to_zero(), "*": decayed})
      >>> params = {"old": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
      >>> opt_state = optimizer.init(params)
      >>> zeros = jax.tree.map(jnp.zeros_like, params)
      >>> updates, opt_state = optimizer.update(zeros, opt_state, params)
      >>> jax.tree.map(lambda leaf: leaf.tolist(), updates)  # of the decay alone
      {'head': {'kernel': [-0.5, -0.5]}, 'old': {'kernel': [0.0, 0.0]}}
    """
    if not isinstance(optimizers, Mapping) or not optimizers:
        raise TypeError(
            "by_path: optimizers must be a dict from patterns to optax optimizers, such as "
            f'{{"old/*": optax.set_to_zero(), "*": optax.adamw(1e-3)}}, got {optimizers!r:.60}'
        )
    check_patterns("by_path", "optimizers", optimizers)
    for pattern, optimizer in optimizers.items():
        what = f"the optimizer of {pattern!r}"
        words = "an optax optimizer, such as optax.adamw(1e-3)"
        check_type("by_path", what, optimizer, optax.GradientTransformation, words)

    def labels(params: Params) -> Params:
        paths = [path for path, _ in flat(params, None)]
        if None in (patterns := first_fits("by_path", optimizers, paths)):
            raise ValueError(
                f"by_path: no pattern fits {paths[patterns.index(None)]}; add one for the rest, "
                "such "
                'as {"*": optax.adamw(1e-3)}'
            )
        return jax.tree.unflatten(jax.tree.structure(params), map(number.get, patterns))

    # Numbers, since a checkpoint has no names with a "/".
    number: dict[str | None, str] = {pattern: str(i) for i, pattern in enumerate(optimizers)}
    return optax.multi_transform({number[p]: optimizers[p] for p in optimizers}, labels)
