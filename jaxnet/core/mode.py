"""What all layers of one call share: training or evaluation, a stream, views of the calls."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.core.contract import Layer
from jaxnet.core.errors import calls
from jaxnet.services.nodes import is_stored
from jaxnet.services.trees import Path, PyTree


class Watch(NamedTuple):
    """A view of the calls inside a layer.

    Fields:
      see: `(path, layer, x, y) -> y`, with the path below the watched layer.
      done: Whether the remaining calls are skipped; their outputs are then zeros.
      transforms: Whether to look inside transforms that change more than params.
      sown: Whether to keep sown values.
      depth: Number of calls around the watched layer, including its own.
      skipped: Shapes of skipped outputs, by path and input.
    """

    see: Callable[[Path, Layer, PyTree, PyTree], PyTree] = lambda path, layer, x, y: y
    done: Callable[[], bool] = lambda: False
    transforms: bool = False
    sown: bool = False
    depth: int = 0
    skipped: Any = None


class Stream(NamedTuple):
    """How a sequence arrives, for the layers inside `jn.stream`.

    Fields:
      length: Largest number of steps in all chunks together; None if nothing needs it.
      dtype: Dtype of kept keys and values; None is the dtype of the computation.
      steps: Number of steps of this chunk that count, (batch,); None is all.
      chunk: Shape (batch, time) of this chunk.
    """

    length: int | None
    dtype: Any
    steps: Any
    chunk: tuple[int, ...]


class Mode(NamedTuple):
    """What all layers of one call share.

    Fields:
      train: Whether in training.
      dtype: Dtype of the computation below `jn.cast`; None leaves it to the params and the input.
      cache_dtype: Dtype in which a stream keeps keys below `jn.cast`; `init` knows it, unlike
        `dtype`.
      stream: How a sequence arrives; None is as a whole.
      watches: Views of the calls inside, innermost first.
      keeps_state: Whether a returned state goes on; False inside a function that JAX traces, such
        as that of `jax.grad`, where it ends with that function.
    """

    train: bool = False
    dtype: Any = None
    cache_dtype: Any = None
    stream: Stream | None = None
    watches: tuple[Watch, ...] = ()
    keeps_state: bool = True

    def rounded(self, tree: PyTree, axes: int = 0) -> PyTree:
        """Return the tree with its floats, of this many axes or more, in `dtype`."""
        if self.dtype is None:
            return tree

        def each(a):
            dtype = getattr(a, "dtype", self.dtype)
            is_other = dtype != self.dtype and jnp.issubdtype(dtype, jnp.floating)
            if is_other and len(a.shape) >= axes:
                return a.astype(self.dtype)
            return a

        return jax.tree.map(each, tree, is_leaf=is_stored)

    def watched(self, watch: Watch) -> "Mode":
        """Return the mode with one more watch, on the calls below the one that runs now."""
        inner = watch._replace(depth=len(calls()))
        return self._replace(watches=(inner, *self.watches))
