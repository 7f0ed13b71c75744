"""Arrays in memory: a held-out split, and batches for a loop of your own.

Data is an array or a pytree of arrays, such as the tuple (x, y), with one example per row. `jn.fit`
takes it directly; `batches` is for a training loop of your own. Rows are chosen by position, also
those of a pandas Series, and their values are not looked at: missing ones can be filled afterwards.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxnet.services.checks import as_rows, at_least, check_options, to_numpy, within
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.trees import PyTree, describe


def split(
    data: PyTree, test_fraction: float = 0.2, *, seed: int = 0, labels: Any = None
) -> tuple[PyTree, PyTree]:
    """Split the data into two parts at random, the second held out.

    Args:
      data: Array or pytree of arrays, one example per row. Columns and data frames become arrays.
      test_fraction: Fraction of the examples to hold out, in (0, 1).
      seed: Seed of the draw. The same seed and number of examples always give the same parts.
      labels: Classes (examples,) for a stratified split, which holds out the same fraction of each
        class, but at least one example, so that both parts contain rare classes. A class of one
        example stays in the first part.

    Returns:
      (rest, held out), each with the structure and the order of `data`.

    Raises:
      TypeError: If `test_fraction` or `seed` is not a number.
      ValueError: If `test_fraction` is outside (0, 1) or leaves a part empty.
      ValueError: If the arrays have different lengths, or zero examples.

    Example:
      >>> x, y = np.arange(12.0).reshape(6, 2), np.array([0, 0, 0, 1, 1, 1])
      >>> train, test = split((x, y), 1 / 3, labels=y)
      >>> train[0].shape, test[1]
      ((4, 2), array([0, 1]))
    """
    data, n = _rows(data, "split")
    within("split", "test_fraction", test_fraction, "(0, 1)", "the part to hold out")
    at_least("split", "seed", seed, 0)
    stratified = labels is not None
    if labels is None:
        labels = np.zeros(n, int)  # one class
    classes = to_numpy("split", "labels", labels)
    if classes.dtype == object and all(isinstance(word, str) for word in classes.flat):
        classes = classes.astype(str)  # a column of words
    are_classes = classes.dtype.kind in "biufSU" and (classes == classes).all()
    if classes.shape != (n,) or not are_classes:
        raise ValueError(
            f"split: labels must hold one class per example, ({n},), got {describe(labels):.60}"
        )
    draw = np.random.default_rng(seed)
    held = np.zeros(n, bool)
    orders = [draw.permutation(np.flatnonzero(classes == label)) for label in np.unique(classes)]
    for rows in orders:
        held[rows[: round(test_fraction * len(rows))]] = True
    if held.all() or not held.any():
        smallest = 1 / max(len(rows) for rows in orders)  # of the largest class
        other = f"most {1 - smallest:.2g}" if held.all() else f"least {smallest:.2g}"
        raise ValueError(
            f"split: a fraction of {test_fraction} of {n} examples leaves a part empty; hold out "
            f"at {other}"
        )
    if stratified:
        for rows in orders:
            held[rows[0]] = True
            held[rows[-1]] = False
    return _take(data, np.flatnonzero(~held)), _take(data, np.flatnonzero(held))


def batches(
    data: PyTree, batch_size: int, *, seed: int | None = None, drop_last: bool = False
) -> Iterator[PyTree]:
    """Return an iterator over one pass of the data in batches.

    The last batch is smaller if the batch size does not divide the number of examples, and a
    jitted function is compiled again for it; `drop_last=True` omits it.

    Args:
      data: Array or pytree of arrays, one example per row. Columns and data frames become arrays.
      batch_size: Number of examples per batch, at least 1.
      seed: Seed that shuffles the examples; pass another seed for each epoch. None keeps the order.
      drop_last: Whether to omit a smaller last batch.

    Returns:
      An iterator of batches, pytrees like `data` of NumPy arrays with `batch_size` rows.

    Raises:
      TypeError: If `batch_size` or `seed` is not an integer.
      ValueError: If `batch_size` is below 1, or above the number of examples with `drop_last`.
      ValueError: If the arrays have different lengths, or zero examples.

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
    data, n = _rows(data, "batches")
    at_least("batches", "batch_size", batch_size)
    check_options("batches", drop_last=drop_last)
    at_least("batches", "seed", seed, 0, optional=True)
    if drop_last and batch_size > n:
        raise ValueError(
            f"batches: {n} examples give no full batch of {batch_size}; "
            "pass a smaller batch_size, or drop_last=False"
        )
    rows = np.arange(n)
    if seed is not None:
        rows = np.random.default_rng(seed).permutation(n)
    stop = n - n % batch_size if drop_last else n
    return (_take(data, rows[i : i + batch_size]) for i in range(0, stop, batch_size))


def _rows(data: PyTree, who: str) -> tuple[PyTree, int]:
    """Return data as arrays, and the number of rows."""
    data = as_rows(data, who, finite=False)
    return data, jax.tree.leaves(data)[0].shape[0]


@on_auto_axes
def _take(data: PyTree, rows: np.ndarray) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[rows], data)
