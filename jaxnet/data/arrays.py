"""Data as arrays in memory: checks, a held-out part, batches for a loop of your own.

Data is an array or a pytree of arrays, such as the tuple (x, y), whose first axes count the same
examples. `jn.fit` takes it as it is; `batches` is for those who write the loop themselves.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

PyTree = Any


def check(data: PyTree, who: str = "data") -> int:
    """The number of examples, or an error that says what is wrong with the data.

    Args:
      data: an array or a pytree of arrays, examples along the first axis.
      who: named in the message.

    Raises:
      ValueError: where there is nothing in it, the lengths differ, or a value is NaN or infinite.
      TypeError: where a leaf is no array, such as a list of numbers.

    Example:
      >>> check((np.zeros((7, 2, 3)), np.arange(7)))
      7
      >>> check((np.zeros((7, 2, 3)), np.arange(5)))
      Traceback (most recent call last):
      ...
      ValueError: data: all arrays need the same number of examples, got [0]: 7, [1]: 5
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(data)
    named = [(jax.tree_util.keystr(path) or "the array", leaf) for path, leaf in leaves]
    if not named:
        raise ValueError(f"{who}: needs an array or a tuple of arrays such as (x, y), got {data!r}")
    for name, leaf in named:
        if not hasattr(leaf, "shape") or leaf.shape == ():
            raise TypeError(
                f"{who}: {name} must be an array with examples along its first axis, got "
                f"{leaf!r:.40}; for a list write np.asarray(list) first"
            )
    lengths = {name: len(leaf) for name, leaf in named}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name}: {n}" for name, n in lengths.items())
        raise ValueError(f"{who}: all arrays need the same number of examples, got {got}")
    n = next(iter(lengths.values()))
    if n == 0:
        raise ValueError(f"{who}: needs at least one example, got none")
    for name, leaf in named:
        _check_finite(np.asarray(leaf), name, who)
    return n


def _check_finite(leaf: np.ndarray, name: str, who: str) -> None:
    if not np.issubdtype(leaf.dtype, np.inexact):
        return
    wrong = ~np.isfinite(leaf)
    if wrong.any():
        where = ", ".join(str(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{who}: {wrong.sum()} of the {leaf.size} values of {name} are NaN or infinite, the "
            f"first at [{where}]; find out why, or write np.nan_to_num(x) if 0 is what they mean"
        )


def split(
    data: PyTree, share: float = 0.2, *, seed: int = 0, labels: Any = None
) -> tuple[PyTree, PyTree]:
    """The data in two parts, the second of which is held out: drawn at random, by the seed.

    Args:
      data: as in `check`.
      share: of the examples that are held out, in (0, 1).
      seed: the same seed and number of examples give the same parts, always.
      labels: (examples,) classes; each class then gives the same share (a stratified split), so
        that a rare one is in both parts.

    Returns:
      (rest, held out), each with the structure of `data`, in the order of `data`.

    Raises:
      ValueError: for a share outside of (0, 1), or one that leaves a part empty.

    Example:
      >>> x, y = np.arange(12.0).reshape(6, 2), np.array([0, 0, 0, 1, 1, 1])
      >>> train, test = split((x, y), 1 / 3, labels=y)
      >>> train[0].shape, test[1]
      ((4, 2), array([0, 1]))
    """
    n = check(data, "split")
    if not 0 < share < 1:
        raise ValueError(f"split: share is the part that is held out, in (0, 1), got {share}")
    labels = np.zeros(n, int) if labels is None else np.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(f"split: labels needs one class an example, ({n},), got {labels.shape}")
    draw = np.random.default_rng(seed)
    held = np.zeros(n, bool)
    for label in np.unique(labels):
        rows = draw.permutation(np.flatnonzero(labels == label))
        held[rows[: round(share * len(rows))]] = True
    if held.all() or not held.any():
        raise ValueError(
            f"split: a share of {share} of {n} examples leaves a part empty; "
            f"hold out at least {1 / n:.2g}"
        )
    return _take(data, np.flatnonzero(~held)), _take(data, np.flatnonzero(held))


def batches(
    data: PyTree, batch_size: int, *, seed: int | None = None, drop_last: bool = False
) -> Iterator[PyTree]:
    """One pass over the data, a batch at a time.

    The last batch is short where the batch size does not divide the number of examples: a jitted
    function is compiled once more for it. `drop_last=True` leaves it out.

    Args:
      data: as in `check`.
      batch_size: examples a batch, at least 1.
      seed: shuffles the examples; give each epoch a seed of its own. None keeps the order.
      drop_last: whether a short last batch is left out.

    Raises:
      ValueError: for a batch size below 1, or data that `check` refuses.

    Example:
      >>> x, y = np.zeros((7, 2)), np.arange(7)
      >>> for epoch in range(2):
      ...     for x_batch, y_batch in batches((x, y), 3, seed=epoch):
      ...         print(epoch, x_batch.shape, y_batch)
      0 (3, 2) [...]
      0 (3, 2) [...]
      0 (1, 2) [...]
      1 (3, 2) [...]
      1 (3, 2) [...]
      1 (1, 2) [...]
    """
    n = check(data, "batches")
    if batch_size < 1:
        raise ValueError(f"batches: batch_size must be at least 1, got {batch_size}")
    if drop_last and batch_size > n:
        raise ValueError(
            f"batches: {n} examples give no full batch of {batch_size}; "
            "write a smaller batch_size, or drop_last=False"
        )
    rows = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n)
    stop = n - n % batch_size if drop_last else n
    return (_take(data, rows[i : min(i + batch_size, stop)]) for i in range(0, stop, batch_size))


def _take(data: PyTree, rows: np.ndarray) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[rows], data)
