"""Embeddings of tokens, and encodings of positions in a sequence."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, compose
from jaxnet.initializers import Initializer, normal, variance_scaling, zeros
from jaxnet.ops.attention import rotate_pairs
from jaxnet.ops.precision import output_dtype
from jaxnet.ops.product import add_bias, product, rows
from jaxnet.services import checks
from jaxnet.services.checks.keywords import explain_keywords
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.trees import describe

# The variance is 1 / features, so that tied logits start with the variance of their inputs.
_one_over_features = variance_scaling(1.0, "fan_in", "normal", in_axis=-1, out_axis=-2)


@explain_keywords
def embedding(
    vocabulary: int,
    features: int,
    *,
    tied: bool = False,
    padding_idx: int | None = None,
    embedding_init: Initializer = _one_over_features,
    name: str = "embedding",
) -> Layer:
    """Look up a learned vector per id: integers of any shape get a last axis of `features`.

    With `tied`, the layer also maps floats (..., features) to logits (..., vocabulary), their
    products with every vector of the table. One layer object at both ends of a model then shares
    one table (see the example). Without `tied`, floats raise.

    An id outside [0, vocabulary) raises if its value is known. Inside `jit` values are not
    known; there such an id gets a vector of NaN and does not change the gradient of the table.

    Args:
      vocabulary: Number of ids, at least 1.
      features: Width of the vectors, at least 1.
      tied: Whether to accept floats, which give logits.
      padding_idx: Id whose vector starts as zeros and gets no gradient, such as the id of the
        padding; as in PyTorch.
      embedding_init: Initializer of the table; variance 1 / features by default.
      name: Name of the layer.

    Params:
      embedding (vocabulary, features), float32 for integer input.

    Returns:
      A layer from integers (...) to vectors (..., features).

    Raises:
      TypeError: If ids are float, unless `tied`.
      ValueError: If ids are out of range.
      ValueError: If tied vectors have the wrong width.

    Example:
      >>> layer = embedding(3, 2)
      >>> params = {"embedding": jnp.array([[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]])}
      >>> layer.apply(params, {}, jnp.array([2, 0, 2]))[0].tolist()
      [[2.0, 2.5], [0.0, 0.5], [2.0, 2.5]]

      A language model whose first and last layer share a table:

      >>> words = embedding(11, 4, tied=True)
      >>> net = jn.serial(words, jn.dense(4), words)
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3), jnp.int32))
      >>> jax.tree.map(jnp.shape, params["embedding"])
      {'embedding': (11, 4)}
      >>> logits, _ = net.apply(params, state, jnp.array([[1, 5, 0], [10, 5, 2]]))
      >>> logits.shape
      (2, 3, 11)

    Reference: Press and Wolf 2017, "Using the Output Embedding to Improve Language Models", on tied
    tables.
    """
    checks.all_at_least(name, vocabulary=vocabulary, features=features)
    checks.check_options(name, tied=tied, embedding_init=embedding_init)
    if padding_idx is not None:
        checks.between(name, "padding_idx", padding_idx, 0, vocabulary - 1, "the last id")

    def table_init(key, shape, dtype):
        table = jnp.asarray(embedding_init(key, shape, dtype))
        return table if padding_idx is None else table.at[padding_idx].set(0)

    def forward(m, x):
        checks.check_rank(name, x, 0, "(...)")
        are_ids = jnp.issubdtype(x.dtype, jnp.integer)
        if not are_ids and not tied:
            raise TypeError(
                f"{name}: ids must be integers, got {x.dtype}. Pass x.astype(int), or write "
                "embedding(..., tied=True) to map vectors to logits"
            )
        are_vectors = jnp.issubdtype(x.dtype, jnp.floating) and x.shape[-1:] == (features,)
        if not are_ids and not are_vectors:
            raise ValueError(
                f"{name}: expected integer ids, or floats (..., {features}) that become logits, "
                f"got {describe(x)}"
            )
        table = m.kernel("embedding", table_init, (vocabulary, features))
        if are_vectors:
            return product(x, table, transposed=True)  # (..., features) -> (..., vocabulary)
        checks.check_range(x, vocabulary, f"{name}: ids")
        y = rows(table, x)  # (...) -> (..., features)
        if padding_idx is not None:
            is_padding = (x == padding_idx)[..., None]
            y = jnp.where(is_padding, jax.lax.stop_gradient(y), y)
        return y

    return compose(forward, name=name, kind="embedding")


def learned_positions(
    max_length: int, *, embedding_init: Initializer = normal(0.02), name: str = "learned_positions"
) -> Layer:
    """Add a learned vector per position to a sequence.

    The positions are 0, 1, ... along the second axis; an input (x, positions) gives others, for
    example the positions of several texts in one row.

    Args:
      max_length: Number of positions with a vector, at least 1.
      embedding_init: Initializer of the vectors, normal with standard deviation 0.02 as in BERT and
        GPT-2.
      name: Name of the layer.

    Input: x (batch, time, features), or (x, positions) with integers of the shape of x without its
    last axis. Positions out of range raise, or inside `jit` give NaN.

    Params:
      embedding (max_length, features).

    Returns:
      A layer from a sequence to its sum with the positions, (batch, time, features).

    Raises:
      ValueError: If a sequence is longer than `max_length`.

    Example:
      >>> layer = learned_positions(100)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((1, 3, 2)))
      >>> y, _ = layer.apply(params, state, jnp.zeros((1, 3, 2)))
      >>> np.asarray(y).round(3)
      array([[[ 0.014, -0.005],
              [-0.03 , -0.01 ],
              [-0.02 ,  0.047]]], dtype=float32)
      >>> y, _ = layer.apply(params, state, (jnp.zeros((1, 2)), jnp.array([2])))  # of position 2
      >>> np.asarray(y).round(3)
      array([[-0.02 ,  0.047]], dtype=float32)

    Reference: Gehring et al. 2017, "Convolutional Sequence to Sequence Learning".
    """
    checks.at_least(name, "max_length", max_length)
    checks.check_options(name, embedding_init=embedding_init)

    def forward(m, inputs):
        x, positions = _positions(m, inputs, name)
        are_counted = m.stream is None and not isinstance(inputs, tuple | list)
        if are_counted and x.shape[1] > max_length:
            raise ValueError(
                f"{name}: has {max_length} positions, got a sequence of length {x.shape[1]}"
            )
        checks.check_range(positions, max_length, f"{name}: positions")
        table = m.kernel("embedding", embedding_init, (max_length, x.shape[-1]))
        return add_bias(x, rows(table, positions))

    return compose(forward, name=name, kind="learned_positions")


def sinusoidal_positions(*, base: float = 10000.0, name: str = "sinusoidal_positions") -> Layer:
    """Add sines and cosines of the position to a sequence, with geometric wavelengths.

    Features 2i and 2i + 1 get the sine and cosine of position / base^(2i / features). The positions
    are 0, 1, ... along the second axis; an input (x, positions) gives others.

    Args:
      base: Base of the wavelengths; the longest is about 2π * base.
      name: Name of the layer.

    Input: x (batch, time, features), features even, or (x, positions) with numbers of the shape of
    x without its last axis.

    Returns:
      A layer from a sequence to its sum with the positions, (batch, time, features).

    Raises:
      TypeError: If the input is not float.
      ValueError: If the number of features is odd, or `base` is not positive.

    Example:
      >>> y, _ = sinusoidal_positions().apply({}, {}, jnp.zeros((1, 3, 2)))
      >>> np.asarray(y[0]).round(2)  # sine and cosine of 0, 1 and 2
      array([[ 0.  ,  1.  ],
             [ 0.84,  0.54],
             [ 0.91, -0.42]], dtype=float32)

    Reference: Vaswani et al. 2017, "Attention Is All You Need", 3.5.
    """

    checks.within(name, "base", base, "(0, inf)")

    def forward(m, inputs):
        x, positions = _positions(m, inputs, name)
        checks.check_floats(name, x)
        if x.shape[-1] % 2:
            raise ValueError(f"{name}: expected an even number of features, got {x.shape}")
        waves = _waves(positions, x.shape[-1], base, x.dtype)
        return add_bias(x, waves.astype(x.dtype))

    return compose(forward, name=name, kind="sinusoidal_positions")


def sinusoidal(t: jax.Array, features: int, *, base: float = 10000.0) -> jax.Array:
    """Return sines and cosines of a number, such as a time in a diffusion model, as features.

    Features 2i and 2i + 1 are the sine and cosine of t / base^(2i / features), the formula of
    `sinusoidal_positions`. If t is in [0, 1], scale it, as in `sinusoidal(1000 * t, 64)`.

    Args:
      t: Numbers of any shape.
      features: Number of features, even.
      base: Base of the wavelengths; the longest is about 2π * base.

    Returns:
      (..., features), in at least float32.

    Raises:
      TypeError: If `t` is not an array of real numbers.
      ValueError: If `features` is odd.

    Example:
      >>> np.asarray(sinusoidal(jnp.array([0, 1]), 2)).round(2)
      array([[0.  , 1.  ],
             [0.84, 0.54]], dtype=float32)

    Reference: Vaswani et al. 2017, "Attention Is All You Need", 3.5; as an embedding of time: Ho et
    al. 2020, "Denoising Diffusion Probabilistic Models".
    """
    checks.at_least("sinusoidal", "features", features)
    checks.within("sinusoidal", "base", base, "(0, inf)")
    if features % 2:
        raise ValueError(f"sinusoidal: features must be even, got {features}")
    t = checks.as_array("sinusoidal", "t", t, "(...)", "reals")
    return _waves(t, features, base, output_dtype(t))


def _waves(positions: jax.Array, features: int, base: float, dtype: Any) -> jax.Array:
    angles = _angles(positions, features, base, dtype)  # (..., features / 2)
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return waves.reshape(*positions.shape, features)


@on_auto_axes
def rotary(
    x: jax.Array,
    positions: jax.Array | None = None,
    *,
    base: float = 10000.0,
    size: int | None = None,
    interleaved: bool = False,
    scaling: Callable[[np.ndarray], np.ndarray] | None = None,
) -> jax.Array:
    """Rotate pairs of features by angles proportional to the position (rotary embedding).

    The product of a rotated query and a rotated key depends on their positions only through the
    distance. It is a function, not a layer: `multi_head_attention(heads, rotary=True)` applies it
    to queries and keys, and `rotary=partial(jn.rotary, size=16)` with options.

    Args:
      x: Queries or keys, (batch, time, heads, head_size).
      positions: Positions (batch, time) or (time,); 0, 1, ... by default.
      base: Base of the angles; pair i is rotated by position / base^(2i / size) radians.
      size: Number of features that are rotated, even; the features after them stay as they are.
        All by default.
      interleaved: Whether feature 2i is paired with 2i + 1, as in the paper and GPT-J, instead of
        i with i + size / 2, as in Llama and GPT-NeoX.
      scaling: Function of the angles per position (size / 2,) that gives the angles to use, for
        sequences longer than in training, such as `lambda angles: angles / 2`.

    Returns:
      Rotated queries or keys, with the shape and dtype of x.

    Raises:
      TypeError: If x is not float.
      ValueError: If `size` is odd.
      ValueError: If `positions`, `base` or `scaling` do not fit.

    Example:
      >>> q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 6))
      >>> for i, j in ((5, 3), (45, 43), (45, 3)):
      ...     product = (rotary(q, jnp.array([i])) * rotary(k, jnp.array([j]))).sum()
      ...     print(f"distance {i - j}: {product:.3f}")
      distance 2: 2.265
      distance 2: 2.265
      distance 42: 6.990

    Reference: Su et al. 2021, "RoFormer".
    """
    sizes = {}
    x = checks.as_array("rotary", "x", x, "(batch, time, heads, size)", "floats", sizes)
    checks.within("rotary", "base", base, "(0, inf)")
    checks.check_options("rotary", interleaved=interleaved)
    checks.at_least("rotary", "size", size, optional=True)
    size = x.shape[-1] if size is None else size
    if size % 2 or size > x.shape[-1]:
        raise ValueError(
            f"rotary: expected an even size of at most the size of the heads, got {size} for "
            f"{x.shape}"
        )
    if positions is None:
        positions = counted(x.shape[1])
    form = "(time,)" if np.ndim(positions) == 1 else "(batch, time)"
    positions = checks.as_array("rotary", "positions", positions, form, "numbers", sizes)
    angles = _angles(positions, size, base, x.dtype, scaling)[..., None, :]
    if angles.ndim == 3:
        angles = angles[None]  # (batch or 1, time, 1, size / 2)
    return rotate_pairs(x, jnp.cos(angles), jnp.sin(angles), interleaved=interleaved)


def counted(length: Any) -> Any:
    """Return positions 0, 1, ... as a NumPy array, known inside `jit`, if the length is known.

    Args:
      length: Number of positions, which is symbolic in an export with an open time axis.

    Example:
      >>> counted(3)
      array([0, 1, 2])
    """
    return np.arange(length) if isinstance(length, int) else jnp.arange(length)


def stream_positions(m: Any, batch: int, time: int) -> jax.Array:
    """Return the positions of the steps of this chunk of a stream, (batch, time).

    Returns:
      Integers (batch, time), which go on from the chunk before.
    """
    index = m.state("index", zeros, (batch,), jnp.int32)
    steps = time if m.stream.steps is None else m.stream.steps.astype(index.dtype)
    m.update("index", index + steps)
    return index[:, None] + counted(time)[None]


def _positions(m: Any, inputs, name: str):
    """Return the input and the positions of its vectors, 0, 1, ... by default."""
    if isinstance(inputs, tuple | list):
        if len(inputs) != 2 or not all(hasattr(part, "shape") for part in inputs):
            raise ValueError(f"{name}: expected x or (x, positions), got {describe(inputs)}")
        x, positions = inputs
        if positions.shape != x.shape[:-1]:
            raise ValueError(
                f"{name}: expected one position per vector, {x.shape[:-1]}, got {positions.shape}"
            )
        return x, positions
    checks.check_rank(name, inputs, 0, "(batch, time, features)")
    if len(inputs.shape) != 3:
        raise ValueError(
            f"{name}: expected an input of shape (batch, time, features), got {inputs.shape}. "
            "For other shapes, pass (x, positions)"
        )
    if m.stream is not None:
        return inputs, stream_positions(m, *inputs.shape[:2])
    return inputs, counted(inputs.shape[1])


def _angles(positions, size: int, base: float, dtype, scaling=None) -> jax.Array:
    """Return position / base^(2i / size), in float32 at least: bfloat16 lacks odd integers above
    256."""
    dtype = jnp.promote_types(dtype, jnp.float32)
    frequencies = np.exp(-math.log(base) * np.arange(0, size, 2) / size)
    if scaling is not None:
        checks.a_function("rotary", "scaling", scaling, "the angles per position (size / 2,)")
        shape = frequencies.shape
        frequencies = np.asarray(scaling(frequencies))
        if frequencies.shape != shape:
            raise ValueError(
                f"rotary: scaling must give an array of shape {shape}, got {frequencies.shape}"
            )
    positions = jnp.asarray(positions, dtype)
    return jnp.multiply.outer(positions, jnp.asarray(frequencies, dtype))
