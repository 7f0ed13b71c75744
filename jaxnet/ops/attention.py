"""Attention: scaled dot products, masks, and when cuDNN's fused kernel applies."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.tree_util import Partial

from jaxnet.ops.native.attention import one
from jaxnet.ops.native.call import native_call
from jaxnet.ops.native.keep import bernoulli
from jaxnet.services.checks import check_range, is_traced
from jaxnet.services.trees import among, joined, without
from jaxnet.services.warn import warn


class Segments(NamedTuple):
    """A mask of packed rows, `jn.Segments(numbers)`: each position sees its own sequence alone.

    Fields:
      numbers: Index of the sequence at each position, integers (batch, time), as
        `jn.data.packed(...).segments`. Equal numbers side by side are one sequence; 0 is padding.

    Example:
      >>> rows = jn.data.packed([[1, 5], [0], [2]], 4)
      >>> layer = jn.multi_head_attention(2, causal=True)
      >>> given = jax.random.normal(jax.random.key(0), (1, 4, 8)), jn.Segments(rows.segments)
      >>> params, state = layer.init(jax.random.key(1), given)
      >>> layer.apply(params, state, given)[0].shape
      (1, 4, 8)
    """

    numbers: jax.Array

    def positions(self) -> jax.Array:
        """Return the position of each place in its own sequence, from 0; (batch, time).

        Example:
          >>> Segments(jnp.array([[1, 1, 2, 0]])).positions().tolist()
          [[0, 1, 0, 0]]
        """
        first, _ = runs(self.numbers)
        return jnp.arange(self.numbers.shape[1]) - first


Mask = jax.Array | Segments | None


class Placed(NamedTuple):
    """A bias that is a function of positions, so that a block has a part of its own.

    Fields:
      of: Function (queries, keys) -> numbers (batch or 1, heads or 1, time or 1, places).
      queries, keys: Positions (time,) and (places,), or (batch, time) and (batch, places).
    """

    of: Callable[..., jax.Array]
    queries: jax.Array
    keys: jax.Array

    def table(self) -> jax.Array:
        """Return the numbers of all positions."""
        return self.of(self.queries, self.keys)

    def hoisted(self, rows: int, columns: int) -> tuple[Partial, list[jax.Array]]:
        """Return the function for blocks of these sizes, and the integers and booleans it reads.

        The floats that it reads are its leaves. It gets positions and then the list.
        """
        blocks = _first_of(self.queries, rows), _first_of(self.keys, columns)
        closed = jax.make_jaxpr(self.of)(*blocks)
        read = [jnp.asarray(array) for array in closed.consts]
        moving = [jnp.issubdtype(array.dtype, jnp.inexact) for array in read]

        def run(*arguments):
            *floats, queries, keys, fixed = arguments
            program = jaxpr_as_fun(closed.replace(consts=joined(moving, floats, fixed)))
            return program(queries, keys)[0]

        return Partial(run, *among(moving, read)), without(moving, read)


def _first_of(positions, size):
    """Return zeros like the positions of a block of this size."""
    return jnp.zeros((*positions.shape[:-1], size), positions.dtype)


class Scoring(NamedTuple):
    """How attention makes scores of queries and keys, and which weights it drops.

    Fields:
      scale: Factor of the products; None is 1 / sqrt(size).
      softcap: Bound c of the scores before the bias, c * tanh(scores / c); None is unbounded.
      bias: Numbers (batch or 1, heads or 1, time or 1, places) to add to the scores, or a function
        of positions, of which -inf masks; None is zeros.
      dropout_rate: Fraction of the weights to drop, in [0, 1), if there is a key.
      key: Random key for dropout; None turns dropout off.
      finite: Whether all keys and values are finite, so that none has to be left out.
      sinks: Numbers (heads,), scores of a place without a value to which every query attends.
    """

    scale: float | None = None
    softcap: float | None = None
    bias: Any = None
    dropout_rate: float = 0.0
    key: Any = None
    finite: bool = False
    sinks: Any = None

    def capped(self, scores: jax.Array, bias: jax.Array | None) -> jax.Array:
        """Return bounded scores plus a bias, such as the bias of a block."""
        if self.softcap is not None:
            scores = self.softcap * jnp.tanh(scores / self.softcap)
        if bias is None:
            return scores
        return scores + bias.astype(scores.dtype)

    def sunk(self, y: jax.Array, total: jax.Array) -> jax.Array:
        """Return values (batch, time, heads, width) without the share of the sinks.

        Args:
          y: Values without sinks.
          total: Logarithm of the sum of exp(scores), (batch, heads, time).
        """
        if self.sinks is None:
            return y
        share = jax.nn.sigmoid(total - self.sinks[:, None])  # of the places, without the sinks
        return (y * share.mT[..., None]).astype(y.dtype)


def masked_softmax(scores: jax.Array, mask: jax.Array | None, beside: Any = None) -> jax.Array:
    """Return the softmax over the mask's True entries of the last axis; zeros if there are none.

    Args:
      scores: Floats of any shape.
      mask: Booleans that broadcast against the scores; None is all True.
      beside: Scores of one more entry, which is not returned, (..., 1); None is no such entry.

    Example:
      >>> masked_softmax(jnp.zeros((2, 3)), jnp.array([[True, True, False], [False] * 3])).tolist()
      [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """
    all_scores = scores
    if mask is not None:
        # A finite number, since a row of only -inf would give an intermediate NaN, at which
        # jax_debug_nans stops.
        least = jnp.finfo(scores.dtype).min
        all_scores = jnp.where(mask, scores, least)
    if beside is not None:
        of_each_row = jnp.broadcast_to(beside, (*scores.shape[:-1], 1))
        all_scores = jnp.concatenate([all_scores, of_each_row.astype(scores.dtype)], -1)
    entries = scores.shape[-1]
    weights = jax.nn.softmax(all_scores, axis=-1)[..., :entries]
    if mask is None:
        return weights
    return jnp.where(mask, weights, 0)


def expand_mask(
    who: str, mask: Mask, scores: tuple[int, int, int, int]
) -> tuple[jax.Array | None, jax.Array | None]:
    """Return the booleans and numbers of a mask, which broadcast against (batch, heads, time,
    places).

    Args:
      who: Name of the layer, for the message.
      mask: Lengths, integers (batch,); padding, booleans or integers 0 and 1 (batch, places);
        `Segments` of self-attention; booleans (batch or 1, time or 1, places) or (batch or 1, heads
        or 1, time or 1, places); floats with these four axes; or None.
      scores: Shape of the scores.

    Returns:
      Booleans with four axes, True where a query may attend, and floats to add to the scores; None
      if the mask has no booleans or no numbers.

    Raises:
      ValueError: If the mask has the wrong shape or dtype.
      ValueError: If integers (batch, places) are known and not 0 or 1.
      ValueError: If lengths are beyond the places; inside `jit` such lengths count as 0 or as all
        places.

    Example:
      >>> seen, _ = expand_mask("attention", jnp.array([2, 1]), (2, 4, 5, 3))
      >>> seen[:, 0, 0].tolist()
      [[True, True, False], [True, False, False]]
    """
    if mask is None:
        return None, None
    batch, heads, time, places = scores
    if isinstance(mask, Segments):
        return _of_segments(who, mask.numbers, scores), None
    if jnp.issubdtype(mask.dtype, jnp.integer):
        if mask.shape == (batch,):
            return _of_lengths(who, mask, places), None
        if mask.shape == (batch, places):
            _check_padding(who, mask)
            return _of_padding(who, mask != 0, time), None
    elif mask.dtype == jnp.bool_:
        if mask.shape == (batch, places):
            return _of_padding(who, mask, time), None
        full_mask = mask[:, None] if mask.ndim == 3 else mask
        if fits(full_mask, scores):
            return full_mask, None
    elif jnp.issubdtype(mask.dtype, jnp.floating) and fits(mask, scores):
        return add_table(None, None, mask)
    raise ValueError(
        f"{who}: a mask is lengths, integers ({batch},), or padding, booleans or integers 0 and 1 "
        f"({batch}, {places}), or jn.Segments, or booleans ({batch} or 1, {time} or 1, {places}), "
        f"as mask[None] has with a row per query, or ({batch} or 1, {heads} or 1, {time} or 1, "
        f"{places}), or floats with these four axes to add to the scores, got {mask.shape} "
        f"{mask.dtype}"
    )


def _of_lengths(who, lengths, places):
    """Return the booleans (batch, 1, 1, places) of lengths."""
    check_range(lengths, places + 1, f"{who}: lengths")
    seen = jnp.arange(places)[None] < lengths[:, None]
    return seen[:, None, None]


def _check_padding(who: str, mask: jax.Array) -> None:
    """Raise for integers of known values that are neither 0 nor 1."""
    if is_traced(mask) or isinstance(mask, jax.ShapeDtypeStruct) or not mask.size:
        return
    values = np.asarray(mask)
    if values.min() < 0 or values.max() > 1:
        wrong = values[(values < 0) | (values > 1)][0]
        raise ValueError(
            f"{who}: a mask of integers {values.shape} is padding, 1 where a position counts and "
            f"0 where it does not, got {wrong}. For the sequences of packed rows write "
            "jn.Segments(mask)"
        )


def _of_padding(who, mask, time):
    """Return the booleans (batch, 1, 1, places) of padding (batch, places)."""
    square = mask.shape[0] == time > 1
    known = not is_traced(mask) and not isinstance(mask, jax.ShapeDtypeStruct)
    if (
        square
        and known
        and np.array_equal(np.asarray(mask), np.tri(time, mask.shape[1], dtype=bool))
    ):
        warn(
            f"{who}: the mask {mask.shape} is read as padding, a row per sequence. If it is "
            "meant to be causal, a row per query, write causal=True or mask[None]"
        )
    return mask[:, None, None]  # type: ignore[index]


def _of_segments(who, segments, scores):
    """Return the booleans (batch, 1, time, places) of segments."""
    batch, _, time, places = scores
    are_integers = jnp.issubdtype(segments.dtype, jnp.integer)
    if not are_integers or segments.shape != (batch, places) or time != places:
        raise ValueError(
            f"{who}: jn.Segments are for self-attention, integers (batch, time) = ({batch}, "
            f"{time}), got {segments.shape} {segments.dtype} for {places} places"
        )
    first, last = runs(segments)
    first = first[:, None, :, None]
    last = last[:, None, :, None]
    return (first <= jnp.arange(places)) & (jnp.arange(places) < last)


def add_table(seen: Any, bias: Any, table: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the booleans and numbers of a mask to which a table of numbers is added.

    Args:
      seen, bias: Booleans and numbers, as `expand_mask` returns them, or None.
      table: Numbers with four axes; -inf masks.

    Example:
      >>> seen, bias = add_table(None, None, jnp.array([2.0, -jnp.inf]))
      >>> seen.tolist(), bias.tolist()
      ([True, False], [2.0, 0.0])
    """
    free = table != -jnp.inf  # NaN does not mask: it must reach the output
    numbers = jnp.where(free, table, 0)
    if seen is not None:
        free = seen & free
    if bias is not None:
        numbers = numbers + bias
    return free, numbers


def fits(mask: jax.Array, scores: tuple[int, int, int, int]) -> bool:
    """Return whether a mask with four axes broadcasts against the scores, with all their places.

    Example:
      >>> fits(jnp.ones((1, 2, 1, 5)), (3, 2, 4, 5)), fits(jnp.ones((1, 2, 1, 1)), (3, 2, 4, 5))
      (True, False)
    """
    if mask.ndim != 4 or mask.shape[3] != scores[3]:
        return False
    return all(size in (1, full) for size, full in zip(mask.shape, scores, strict=True))


def runs(segments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the ranges of equal neighbors, first <= place < last; 0 is padding and sees nothing.

    Args:
      segments: Integers (batch, places).

    Example:
      >>> first, last = runs(jnp.array([[1, 1, 2, 0]]))
      >>> first.tolist(), last.tolist()
      ([[0, 0, 2, 3]], [[2, 2, 3, 0]])
    """
    places = segments.shape[1]
    at = jnp.arange(places)
    same = segments[:, 1:] == segments[:, :-1]
    as_before = jnp.pad(same, ((0, 0), (1, 0)))
    first = jnp.where(as_before, 0, at)
    as_after = jnp.pad(same, ((0, 0), (0, 1)))
    last = jnp.where(as_after, places, at + 1)
    last = jax.lax.cummin(last, axis=1, reverse=True)
    first = jax.lax.cummax(first, axis=1)
    return first, jnp.where(segments == 0, 0, last)


def in_window(time: int, places: int, window: tuple[int, int]) -> jax.Array:
    """Return whether each place is within a number of places before and after the query's place.

    Args:
      time, places: Numbers of queries and places, counted from the same start.
      window: Numbers of places before and after the query's place, which is not counted.

    Returns:
      Booleans (time, places).

    Example:
      >>> in_window(3, 3, (1, 0)).astype(int).tolist()
      [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    before, after = window
    distance = jnp.arange(places)[None] - jnp.arange(time)[:, None]
    return (distance >= -before) & (distance <= after)


def rotate_pairs(
    x: jax.Array, cos: jax.Array, sin: jax.Array, *, interleaved: bool = False
) -> jax.Array:
    """Rotate pairs of the first features by angles; the others stay as they are.

    Args:
      x: Array (..., size).
      cos, sin: Cosines and sines of the angles, (..., pairs), which broadcast against x.
      interleaved: Whether pair i is features 2i and 2i + 1 instead of i and i + pairs.

    Returns:
      An array with the shape and dtype of x.

    Example:
      >>> rotate_pairs(jnp.array([1.0, 2, 3, 4, 5]), jnp.zeros(2), jnp.ones(2)).tolist()
      [-3.0, -4.0, 1.0, 2.0, 5.0]
    """
    size = 2 * cos.shape[-1]
    pairs = x[..., :size]
    rest = x[..., size:]
    if interleaved:
        a, b = pairs[..., ::2], pairs[..., 1::2]
        join = jnp.stack
    else:
        a, b = jnp.split(pairs, 2, axis=-1)
        join = jnp.concatenate
    turned_a = a * cos - b * sin
    turned_b = b * cos + a * sin
    rotated = join([turned_a, turned_b], axis=-1)
    rotated = rotated.reshape(pairs.shape).astype(x.dtype)
    return jnp.concatenate([rotated, rest], axis=-1)


def dot_product_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None = None,
    scoring: Scoring = Scoring(),
) -> tuple[jax.Array, jax.Array]:
    """Return softmax(q k * scale + bias) v by heads; keys and values may have fewer heads.

    Unlike `jax.nn.dot_product_attention`, it returns the weights, gives zeros where everything is
    masked (not equal weights), and computes the softmax in float64 for float64. A key or value that
    is not finite makes NaN of the queries that may attend to it, and reaches no other query.

    Args:
      q: Queries (batch, time, heads, size).
      k: Keys (batch, places, kv_heads, size); kv_heads divides heads.
      v: Values (batch, places, kv_heads, width).
      mask: Booleans (batch, heads or 1, time or 1, places) or (time, places), True where a query
        may attend.
      scoring: How scores are made.

    Returns:
      The values (batch, time, heads, width), and the weights before dropout (batch, heads, time,
      places).

    Example:
      >>> q, k = jnp.ones((2, 3, 4, 6)), jnp.ones((2, 5, 2, 6))
      >>> y, weights = dot_product_attention(q, k, k)
      >>> y.shape, weights.shape
      ((2, 3, 4, 6), (2, 4, 3, 5))

    Reference: Vaswani et al. 2017, "Attention Is All You Need", 3.2.1; softcap: Gemma Team 2024,
    "Gemma 2".
    """
    bias = scoring.bias
    if isinstance(bias, Placed):
        mask, bias = add_table(mask, None, bias.table())
    values = functools.partial(_with_weights, scoring)
    unusual = scoring.key is not None or scoring.sinks is not None
    maybe_strange = mask is not None and not scoring.finite
    if q.shape[1] != 1 or unusual or maybe_strange:
        return values(q, k, v, mask, bias)
    scale = scoring.scale
    if scale is None:
        scale = q.shape[-1] ** -0.5
    in_c = one((scale, scoring.softcap or 0.0))
    return native_call(values, in_c, q, k, v, mask, bias)


def _with_weights(scoring, q, k, v, mask, bias):
    batch, time, heads, size = q.shape
    places, groups = k.shape[1:3]
    q = q.reshape(batch, time, groups, heads // groups, size)
    finite = None
    # 0 times NaN is NaN, so that a place with a weight of 0 could reach any query.
    if mask is not None and not scoring.finite:
        finite = jnp.isfinite(k).all(-1) & jnp.isfinite(v).all(-1)  # (batch, places, groups)
        k = jnp.where(finite[..., None], k, 0)
        v = jnp.where(finite[..., None], v, 0)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = _scaled_products(scoring, q, k, wide)
    if finite is not None:
        between = [1] * (scores.ndim - 3)
        of_groups = finite.mT.reshape(batch, groups, *between, places)
        scores = jnp.where(of_groups, scores, jnp.nan)
    scores = scoring.capped(scores.reshape(batch, heads, time, places), bias)
    sinks = None if scoring.sinks is None else scoring.sinks[:, None, None]
    weights = masked_softmax(scores, mask, sinks).astype(v.dtype)
    after_dropout = _dropped(scoring, weights)
    after_dropout = after_dropout.reshape(batch, groups, heads // groups, time, places)
    y = _weighted(after_dropout, v, wide)
    return y.reshape(batch, time, heads, v.shape[-1]), weights


def _scaled_products(scoring, q, k, wide):
    """Return the products of `_products` times the scale."""
    size = q.shape[-1]
    scale = 1 / math.sqrt(size) if scoring.scale is None else scoring.scale
    if q.shape[1] == 1:
        q = q.astype(wide)  # as `_products` does
    if q.dtype != wide:
        return _products(q, k, wide) * scale
    # The queries are scaled, not the scores: XLA multiplies scores by a number anew where it
    # subtracts their maximum, with another rounding. Of scores of 1e10 the largest would then not
    # be 0 but 600 or -600, and the softmax NaN.
    scores = _products(q * scale, k, wide)
    return jax.lax.optimization_barrier(scores) if size == 1 else scores


def _products(q, k, wide):
    """Return the products of q (batch, time, groups, heads / groups, size) and k, in a wide dtype.

    They are (batch, groups, heads / groups, time, places), without the axis of time for one query.
    """
    if q.shape[1] == 1:
        # Sums read the keys as they are stored, and matrix products would copy them on CPU.
        query = q[:, 0, :, :, None].astype(wide)
        keys = k.swapaxes(1, 2)[:, :, None].astype(wide)
        return (query * keys).sum(-1)
    return jnp.einsum("btghd,bsgd->bghts", q, k, preferred_element_type=wide)


def _dropped(scoring, weights):
    """Return the weights after dropout."""
    if scoring.key is None:
        return weights
    keep = 1 - scoring.dropout_rate
    stays = bernoulli(scoring.key, keep, weights.shape)
    return jnp.where(stays, weights / keep, 0).astype(weights.dtype)


def _weighted(weights, v, wide):
    """Return the sums (batch, time, groups, heads / groups, width) of the values by weights.

    One query's sums are computed in the dtype `wide`.
    """
    if weights.shape[3] == 1:
        values = v.swapaxes(1, 2)[:, :, None].astype(wide)
        of_query = weights[:, :, :, 0, :, None].astype(wide)
        return (of_query * values).sum(3).astype(v.dtype)
    return jnp.einsum("bghts,bsgd->btghd", weights, v)


def fits_cudnn(capability: float, dtype: Any, head_size: int) -> bool:
    """Return whether cuDNN's fused attention applies, which JAX's call of it does not ask.

    Args:
      capability: CUDA compute capability: 8.0 is Ampere (A100), 9.0 Hopper; 7.5 (T4) is too old.
      dtype: Dtype of queries, keys and values.
      head_size: Width of a head.

    Example:
      >>> fits_cudnn(8.0, jnp.bfloat16, 64), fits_cudnn(7.5, jnp.bfloat16, 64)
      (True, False)
    """
    if capability < 8 or jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return False
    largest = 256 if capability >= 9 else 128
    return head_size % 8 == 0 and head_size <= largest


def cuda_capability() -> float:
    """Return the CUDA compute capability that programs made here are for; 0 without CUDA.

    It is that of the first GPU here. Where there is none, JAX compiles for one that is elsewhere if
    its plugin for CUDA and cuDNN are installed; that GPU counts as 8.0.

    Example:
      >>> cuda_capability() >= 0
      True
    """
    try:
        return float(jax.devices()[0].compute_capability)
    except AttributeError:
        return 8.0 if _has_cudnn() else 0.0
    except ValueError:  # AMD's are not numbers
        return 0.0


@functools.cache
def _has_cudnn() -> bool:
    shapes = [jax.ShapeDtypeStruct((1, 8, 1, 8), jnp.bfloat16)] * 3
    call = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    try:
        return jax.eval_shape(call, *shapes) is not None
    except RuntimeError:
        return False


def fused_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    *,
    lengths: jax.Array | None,
    causal: bool,
    before: int | None,
    scale: float | None,
    implementation: Any = "cudnn",
) -> jax.Array:
    """Call `jax.nn.dot_product_attention` with lengths; a length of 0 counts as 1 (else maybe NaN).

    Args:
      q, k, v: Queries, keys and values (batch, time or places, heads or kv_heads, size).
      mask: Booleans (batch or 1, 1, time or 1, places), or None.
      lengths: Numbers of places that may be attended to, integers (batch,); None is all.
      causal: Whether each query attends only to its own position and earlier positions.
      before: Number of earlier positions that it attends to; None is all.
      scale: Factor of the scores; None is 1 / sqrt(size).
      implementation: Name of the implementation, "cudnn" or "xla".

    Example:
      >>> q, lengths = jnp.ones((2, 3, 4, 6)), jnp.array([3, 0])
      >>> options = {"causal": True, "before": None, "scale": None, "implementation": "xla"}
      >>> fused_attention(q, q, q, None, lengths=lengths, **options).shape
      (2, 3, 4, 6)
    """
    if lengths is not None:
        lengths = jnp.clip(lengths.astype(jnp.int32), 1, k.shape[1])
    if mask is not None:
        batch, heads, *_ = mask.shape
        mask = jnp.broadcast_to(mask, (batch, heads, q.shape[1], k.shape[1]))
    window = None if before is None else (before, 0)
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        mask=mask,
        is_causal=causal,
        scale=scale,
        key_value_seq_lengths=lengths,
        local_window_size=window,
        implementation=implementation,
    )
