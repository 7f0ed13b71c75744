"""Describe a run in a few words and numbers, so that resuming another one raises.

The description is JSON, part of `Epoch.position`, and costs milliseconds once per run.
"""

import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.core import Layer
from jaxnet.services.trees import PyTree, describe, flat
from jaxnet.services.warn import warn, without_warnings
from jaxnet.training.objective import Supervised, objectives_in
from jaxnet.training.trainer import Trainer

ROWS = 8  # number of examples that the description includes
MOST = 4096  # number of values per example that it uses
# Another machine may have computed the same data with different rounding errors.
CLOSE = 1e-3
NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")


def describe_run(trainer: Trainer, data: PyTree, shuffle: bool | None) -> dict[str, Any]:
    """Describe what a run trains, how and on what.

    Args:
      trainer: Trainer of the run.
      data: Arrays on the device with one example per row; None for a stream.
      shuffle: Value given to `fit`; None for a stream.

    Returns:
      A dict that JSON can hold.

    Example:
      >>> trainer = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.sgd(0.1))
      >>> describe_run(trainer, jnp.ones((3, 2)), True)["objective"]
      'supervised with squared_error'
    """

    def in_words():
        return _objective_of(trainer), _optimizer_of(trainer)

    objective, optimizer = trainer._cache.programs.of("described", in_words)
    if data is not None:  # also a number of each of the first examples
        data = {path: [describe(leaf), _numbers(leaf)] for path, leaf in flat(data, None)}
    return {"objective": objective, "optimizer": optimizer, "data": data, "shuffle": shuffle}


def check_run(before: dict[str, Any] | None, now: dict[str, Any]) -> None:
    """Raise if a run is resumed with another objective, other data or another order.

    It warns if the optimizer is a different one, for example `optax.radam` instead of `optax.adam`.
    Different numbers, such as a new learning rate, are allowed.

    Args:
      before: Description that the run was started with; None passes.
      now: Description of the resumed run.

    Raises:
      ValueError: If the two are not the same run.

    Example:
      >>> trainer = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.sgd(0.1))
      >>> begun, now = (describe_run(trainer, jnp.ones((3, 2)), on) for on in (True, False))
      >>> check_run(begun, now)
      Traceback (most recent call last):
      ...
      ValueError: fit: the run was started with shuffle=True and is resumed with shuffle=False. ...
    """
    if before is None:
        return
    difference = None
    if before["objective"] != now["objective"]:
        difference = f"the objective {before['objective']}", f"the objective {now['objective']}"
    elif before["data"] is not None and now["data"] is not None:
        difference = other_data(before["data"], now["data"])
    if difference is None and before["shuffle"] != now["shuffle"]:
        difference = f"shuffle={before['shuffle']}", f"shuffle={now['shuffle']}"
    if difference is not None:
        raise ValueError(
            f"fit: the run was started with {difference[0]} and is resumed with {difference[1]}. "
            "To continue the run, pass what it was started with; to start another run from this "
            "train_state, leave out position=. If both mean the same, pass "
            "position._replace(run=None)"
        )
    old, new = before["optimizer"], now["optimizer"]
    if old and new and old[:2] == new[:2] and old != new:
        warn(
            "fit: the run is resumed with another optimizer, whose state has the same form: it "
            "computes something else than the optimizer that the run was started with"
        )


def _objective_of(trainer: Trainer) -> str | None:
    """Return the objective of a trainer in words, or the objectives of those that alternate."""
    if not trainer._parts:
        return _objective(trainer.objective)
    words = []
    for name, part in trainer._parts.items():
        words.append(f"{name}: {_objective_of(part) or 'a step of its own'}")
    return f"alternate of ({', '.join(words)})"


def _optimizer_of(trainer: Trainer) -> list[Any] | None:
    """Return what the optimizer of a trainer computes, or the optimizers of those that alternate.

    None if one of them is not known.
    """
    if not trainer._parts:
        return _computed(trainer.optimizer)
    checksums = []
    for part in trainer._parts.values():
        description = _optimizer_of(part)
        if description is None:
            return None
        *_, checksum = description
        checksums.append(checksum)
    return [jax.__version__, optax.__version__, checksums]


def _objective(layer: Layer | None) -> str | None:
    """Return the kinds of an objective from outside to inside, and the name of its loss."""
    kinds: list[str] = []
    for each in objectives_in(layer):
        if isinstance(each.inside, Supervised):
            kinds.append(f"{each.kind} with {each.inside.loss.kind}")
        else:
            kinds.append(each.kind)
        if each.kind == "truncated_bptt":  # what is inside is a net
            break
    return " of ".join(kinds) or None


def _computed(optimizer: optax.GradientTransformation | None) -> list[Any] | None:
    """Return the versions of JAX and optax, and a checksum of what an optimizer computes.

    Numbers do not count in the checksum. The state of radam has the form of adam's, so nothing else
    tells them apart. None if the optimizer only takes the params of its net.
    """
    if optimizer is None:
        return None
    params = {"kernel": jax.ShapeDtypeStruct((2, 2), "float32")}

    def update(grads, state, params):
        value = jnp.float32(0)
        extra = {"value": value, "grad": grads, "value_fn": lambda params: value}
        return optax.with_extra_args_support(optimizer).update(grads, state, params, **extra)

    try:
        with without_warnings():
            state = jax.eval_shape(optimizer.init, params)
            words = str(jax.make_jaxpr(update)(params, state, params))
    except Exception:  # a user's optimizer may raise anything for other params
        return None
    return [jax.__version__, optax.__version__, zlib.crc32(NUMBER.sub("#", words).encode())]


def _numbers(leaf: Any) -> list[float]:
    """Return a number of each of the first examples; none of an array spread over devices."""
    device, *others = leaf.sharding.device_set
    if others or jax.process_count() > 1 or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return []
    # On CPU this makes no copy. Elsewhere it takes a slice, so that not all data are transferred.
    rows = np.asarray(leaf)[:ROWS] if device.platform == "cpu" else np.asarray(leaf[:ROWS])
    return [number_of(row) for row in rows]


def number_of(row: Any) -> float:
    """Return the sum of an example's values with fixed weights, which tells examples apart."""
    values = np.ravel(row)
    values = np.real(values[:: 1 + len(values) // MOST]).astype(np.float64)
    return float(values @ np.cos(np.arange(len(values))))


def _shapes(data: dict[str, Any]) -> dict[str, str]:
    """Return the shapes of described data by path."""
    return {path: words for path, (words, _) in data.items()}


def _in_words(shapes: dict[str, str]) -> str:
    return ", ".join(f"{path or 'data'} {words}" for path, words in shapes.items())


def other_data(before: dict[str, Any], now: dict[str, Any]) -> tuple[str, str] | None:
    """Say in words how two data differ; rows are compared only if both have a number."""
    old_shapes, new_shapes = _shapes(before), _shapes(now)
    if old_shapes != new_shapes:
        return f"data of {_in_words(old_shapes)}", f"data of {_in_words(new_shapes)}"
    for path, (words, old) in before.items():
        pairs = np.array(list(zip(old, now[path][1], strict=False)), float).reshape(-1, 2)
        size = np.abs(np.nan_to_num(pairs, posinf=0, neginf=0)).max(initial=0)
        # Also sums of integers round differently on other CPUs.
        near = size * (CLOSE if "float" in words or "complex" in words else 1e-9)
        if not np.allclose(*pairs.T, rtol=0, atol=near, equal_nan=True):
            return "other data", f"data whose first examples differ{path and f' ({path})'}"
    return None
