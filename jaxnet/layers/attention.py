"""Multi-head attention: each query takes a weighted mean of a memory, in several heads."""

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, as_layer, compose
from jaxnet.initializers import Initializer, lecun_normal, zeros
from jaxnet.layers.dropout import check_rate
from jaxnet.layers.embedding import counted
from jaxnet.layers.embedding import rotary as turn
from jaxnet.layers.kv_cache import update_cache
from jaxnet.ops import attention as ops
from jaxnet.ops.blockwise import blockwise_attention, in_blocks, see
from jaxnet.ops.product import add_bias, product
from jaxnet.ops.ring import ring, ring_attention
from jaxnet.services import checks
from jaxnet.services.checks.keywords import explain_keywords
from jaxnet.services.trees import describe

Rotation = Callable[[jax.Array, Any], jax.Array]  # (x, positions) -> x, as `rotary`
PROJECTIONS = ("query", "key", "value", "out")
MOST_IN_TABLE = 4096**2  # scores of a mask that cuDNN is given, which keeps a number for each


@explain_keywords
def multi_head_attention(
    heads: int,
    *,
    features: int | None = None,
    head_size: int | None = None,
    value_size: int | None = None,
    kv_heads: int | None = None,
    causal: bool = False,
    window: int | tuple[int, int] | None = None,
    rotary: bool | Rotation = False,
    bias: Layer | Callable | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: bool = False,
    qk_norm: Callable[..., Layer] | None = None,
    use_bias: bool | Collection[str] = True,
    dropout_rate: float = 0.0,
    return_weights: bool = False,
    fused: bool | None = None,
    kernel_init: Initializer = lecun_normal(),
    name: str = "multi_head_attention",
) -> Layer:
    """Apply multi-head attention to a sequence, or from a sequence to a memory.

    Each head computes softmax(q k / sqrt(head_size)) v, and the projection `out` combines the
    heads. If a query may not attend to any position, its output and its gradients are zero.

    Inputs:
      x       The queries (batch, time, width), which attend to each other (self-attention), or to
              the memory.
      mask    Which positions a query may attend to. All by default.
      memory  Array (batch, positions, width') that the queries attend to instead (cross-attention).
    Write x, or (x, mask), or a dict by name: {"x": x, "memory": memory}; inside a model
    `m(layer, x, mask=mask, memory=memory)`. A mask is one of these:
      lengths   Integers (batch,). Positions from the length on are padding. A length outside
                [0, positions] raises an error; inside `jit` it is clipped.
      padding   Booleans or integers 0 and 1, (batch, positions): which positions count.
      segments  `jn.Segments(numbers)`, for self-attention on packed rows: each position attends to
                the run of equal numbers around it, as in `jn.data.packed`. 0 is padding.
      booleans  (batch or 1, time or 1, positions) or (batch or 1, heads or 1, time or 1,
                positions). True if the query at `time` may attend to the position.
      floats    (batch or 1, heads or 1, time or 1, positions). They are added to the scores. -inf
                masks a position, and NaN gives NaN. For numbers that depend on positions alone,
                such as ALiBi's slopes, write `bias=`, which also works in a stream.
    A mask of two axes is padding, a row per sequence. For one row per query write mask[None].
    NaN at a masked position does not reach the outputs of queries that may not attend to it. But it
    reaches the gradients of the projections, because 0 times NaN is NaN: before the net, replace it
    by jnp.where(mask[..., None], x, 0). In a stream, the layer keeps the keys and values of earlier
    chunks of x. It gets the whole memory at each call.

    From about 512 positions on, or 64 on a CPU, the weights are computed in blocks and not kept, so
    that memory grows with the length and not with its square. Blocks outside of `causal`, `window`,
    lengths and segments are skipped. Masks of booleans or floats are as large as they are given.

    Args:
      heads: Number of heads, at least 1.
      features: Width of the output, by default the width of the queries.
      head_size: Width of a head, by default the queries' width / heads, which must be an integer.
      value_size: Width of a head of the values, by default the width for queries and keys.
      kv_heads: Number of heads of keys and values, each shared by heads / kv_heads heads of the
        queries (grouped queries), by default `heads`. 1 is multi-query attention.
      causal: Whether each position attends only to itself and to earlier positions. For
        self-attention only.
      window: How many positions before and after its own each query attends to: one number for
        both, or (before, after). All by default. For self-attention only. Write (n - 1, 0) for
        Mistral's window of n.
      rotary: Whether to rotate queries and keys by their positions, or a function of (x, positions)
        that rotates them, such as `partial(jn.rotary, base=5e5)`. For self-attention only.
      bias: Function or layer that adds numbers to the scores, by the positions of queries and keys.
        It gets the pair (queries, keys) of integers, (time,) and (positions,), or in a stream
        (batch, time) and (batch, positions), and returns (heads, time, positions) or (batch, heads,
        time, positions); an axis of heads or time may be 1, and -inf masks. In blocks it gets the
        positions of a block, so it must treat each pair of positions by itself. For self-attention
        only.
      scale: Factor of the scores; 1 / sqrt(head_size) by default.
      softcap: Bound c of the scores before masking, c * tanh(scores / c). Not bounded by default.
      sinks: Whether the weights of a head sum to less than 1: softmax gets one more score, a param,
        without a value, as in gpt-oss.
      qk_norm: Function that makes the norms of queries and keys (batch, time, heads, head_size)
        before they are rotated, such as `jn.rms_norm`, which normalizes each head. Not normalized
        by default.
      use_bias: Whether the four projections have biases, or the names of the projections with a
        bias, such as ("query", "key", "value").
      dropout_rate: Fraction of the weights to drop in training, in [0, 1).
      return_weights: Whether to return (y, weights) instead of y. The weights (batch, heads, time,
        positions) are the weights before dropout. They need memory for the square of the length.
      fused: Whether a program for an NVIDIA GPU uses cuDNN's fused attention instead of XLA, in 16
        bits and with a head_size that cuDNN allows. By default it does if the GPU of this machine
        has the compute capability 8.0 (a T4 has 7.5), or if there is none here; write False to
        compile or export for a T4 elsewhere, True for a newer GPU than the one here. It does not
        apply to dropout in training, return_weights, value_size, softcap, sinks, bias, masks of
        floats, or a window without causal.
      kernel_init: Initializer of the kernels, as matrices (inputs, outputs).
      name: Name of the layer.

    Params:
      query, key, value: kernel (width, heads, head_size), bias (heads, head_size);
      out: kernel (heads, value_size, features), bias (features,);
      query_norm, key_norm: params of the norms of `qk_norm`;
      sinks: scores (heads,), zeros at first;
      and the params of the layer of `bias`, by its name.

    Returns:
      A layer with outputs (batch, time, features), or (y, weights) with `return_weights`.

    Raises:
      ValueError: If `heads` is not a multiple of `kv_heads`.
      ValueError: If the queries' width is not a multiple of `heads`, and `head_size` is not given.
      ValueError: If a shape or the mask does not have one of the forms above.
      ValueError: If a key is missing in training with dropout.

    Example:
      >>> layer = multi_head_attention(2, causal=True)
      >>> x = jax.random.normal(jax.random.key(1), (3, 5, 8))
      >>> params, state = layer.init(jax.random.key(0), x)
      >>> y, state = layer.apply(params, state, x)
      >>> y.shape
      (3, 5, 8)

      With `return_weights=True`, it returns the attention weights as well:

      >>> layer = multi_head_attention(2, causal=True, return_weights=True)
      >>> (y, weights), _ = layer.apply(params, state, x)
      >>> weights.shape, weights[0, 0, 0].tolist()
      ((3, 2, 5, 5), [1.0, 0.0, 0.0, 0.0, 0.0])

      ALiBi's slopes, with which MPT and BLOOM also read texts longer than in training:

      >>> def alibi(positions):
      ...     queries, keys = positions
      ...     slopes = 2.0 ** -jnp.arange(1, 3)  # one per head
      ...     distance = queries[..., :, None] - keys[..., None, :]
      ...     return -slopes[:, None, None] * distance[..., None, :, :]
      >>> layer = multi_head_attention(2, causal=True, bias=alibi)
      >>> layer.apply(params, state, x)[0].shape
      (3, 5, 8)

      One table of distances that all blocks share, as in T5: the function that the blocks get reads
      a param of the net around them.

      >>> def net(m, x):
      ...     table = m.param("distances", jn.initializers.normal(1.0), (9, 2))
      ...     def bias(positions):
      ...         queries, keys = positions
      ...         distance = keys[..., None, :] - queries[..., :, None]
      ...         return jnp.moveaxis(table[jnp.clip(distance, -4, 4) + 4], -1, -3)
      ...     for i in range(12):
      ...         x = m(jn.transformer_block(2, bias=bias, name=f"block_{i}"), x)
      ...     return x
      >>> params, state = jax.eval_shape(jn.compose(net).init, jax.random.key(0), x)
      >>> params["distances"].shape, sorted(params["block_0"]["attention"])
      ((9, 2), ['key', 'out', 'query', 'value'])

    Reference: Vaswani et al. 2017, "Attention Is All You Need"; grouped queries: Ainslie et al.
    2023, "GQA"; windows: Beltagy et al. 2020, "Longformer"; softcap: Gemma Team 2024, "Gemma 2";
    sinks: Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks"; biases:
    Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified
    Text-to-Text Transformer" (T5), Press et al. 2022, "Train Short, Test Long" (ALiBi).
    """
    sizes = {"head_size": head_size, "value_size": value_size, "features": features}
    checks.all_at_least(name, heads=heads)
    checks.all_at_least(name, optional=True, kv_heads=kv_heads, **sizes)
    if kv_heads is not None and heads % kv_heads:
        raise ValueError(
            f"{name}: heads must be a multiple of kv_heads, got heads={heads}, kv_heads={kv_heads}"
        )
    check_rate(name, "dropout_rate", dropout_rate)
    checks.all_within(name, "(0, inf)", optional=True, scale=scale, softcap=softcap)
    checks.a_function(name, "qk_norm", qk_norm, "name=...", optional=True)
    words = "True, False or a function of (x, positions), such as jn.rotary"
    checks.check_type(name, "rotary", rotary, bool | Callable, words)
    rotate: Any = turn if rotary is True else rotary or None
    span = checks.a_pair(name, "window", window, "a pair (before, after)", 0, optional=True)
    biased = with_bias(name, use_bias, PROJECTIONS)
    flags = {"causal": causal, "sinks": sinks, "return_weights": return_weights}
    flags["fused"] = False if fused is None else fused
    checks.check_options(name, **flags, kernel_init=kernel_init)
    groups = heads if kv_heads is None else kv_heads
    placed = None if bias is None else as_layer(bias, name, "bias")
    form = _Form(name, causal, span, rotate, placed, fused, return_weights)

    def projected(m, part, x, groups, size):
        """Project (batch, time, width) to (batch, time, groups, size)."""
        y = m(_projection(part, (groups, size), part in biased, kernel_init), x)
        if qk_norm is None or part == "value":
            return y
        return m(qk_norm(name=f"{part}_norm"), y)

    def scoring(m):
        key = m.key() if m._in_training and dropout_rate else None
        beside = m.param("sinks", zeros, (heads,)) if sinks else None
        return ops.Scoring(scale, softcap, None, dropout_rate, key, sinks=beside)

    def forward(m, x, mask=None, memory=None):
        check_mask(name, mask)
        _check_sequences(x, memory, form)
        width = x.shape[-1]
        size = head_size or _head_size(name, width, heads)
        if rotary is True and size % 2:
            raise ValueError(f"{name}: rotary=True needs an even head_size, got {size}")
        scores = scoring(m)
        source = x if memory is None else memory
        q = projected(m, "query", x, heads, size)
        k = projected(m, "key", source, groups, size)
        v = projected(m, "value", source, groups, value_size or size)
        mixed, weights, rows = _attend(m, form, q, k, v, memory, mask, scores)
        out = _projection("out", (features or width,), "out" in biased, kernel_init, inputs=2)
        y = m(out, mixed)
        if rows is not None:  # otherwise the other rows would get the bias of `out`
            missing = 0 if m.stream is None or memory is not None else jnp.nan
            y = jnp.where(rows[..., None], y, missing)
        return (y, weights) if return_weights else y

    return compose(forward, name=name, kind="multi_head_attention")


class _Form(NamedTuple):
    """What `multi_head_attention` attends to, and what it returns."""

    name: str
    causal: bool
    span: tuple[int, int] | None
    rotate: Any
    bias: Layer | None
    fused: bool | None
    return_weights: bool


def _head_size(name: str, width: int, heads: int) -> int:
    """Return the size of each head if it is not given."""
    if width % heads:
        raise ValueError(
            f"{name}: {heads} heads must divide the queries' width {width}, or give head_size"
        )
    return width // heads


def _attend(m, form, q, k, v, memory, mask, scoring):
    """Attend to a memory, to the own sequence, or to a stream's own chunks, see `_to_all`."""
    if memory is not None:
        return _to_all(form, q, k, v, mask, scoring)
    if m.stream is None:
        return _to_itself(m, form, q, k, v, mask, scoring)
    return _to_cache(m, form, q, k, v, mask, scoring)


def _to_itself(m, form, q, k, v, mask, scoring):
    """Attend to all positions of the queries' own sequence, see `_to_all`."""
    positions = counted(q.shape[1])
    if form.rotate is not None:
        q, k = form.rotate(q, positions), form.rotate(k, positions)
    placed = _placed(m, form, q, positions, positions)
    return _to_all(form, q, k, v, mask, scoring._replace(bias=placed))


def _to_all(form, q, k, v, mask, scoring):
    """Attend to all positions of a sequence or a memory.

    Returns the values (batch, time, heads, size), the weights (batch, heads, time, places) or
    None if they were not computed, and the queries that see something; None is all.
    """
    batch, time, heads, size = q.shape
    places = k.shape[1]
    seen, added = ops.expand_mask(form.name, mask, (batch, heads, time, places))
    limits = _Limits.of(mask)
    parts = ring() if time == places and limits.are_all else None
    fuse = parts is None and added is None and _fuses(form, q, k, v, scoring, limits, seen)
    only_ranges = limits.are_all and scoring.key is None and scoring.bias is None
    by_block = parts is not None or in_blocks(q, k, only_ranges=only_ranges)
    by_block = by_block and not form.return_weights
    table = None if limits.lengths is not None else seen
    if added is not None:
        if scoring.bias is not None:
            seen, added = ops.add_table(seen, added, scoring.bias.table())
        scoring = scoring._replace(bias=added)
    rest = None if limits.are_all else seen
    rows = None
    if not by_block or fuse:
        seen = _near(form, time, places, seen)
        if mask is not None and seen is not None:
            rows = jnp.broadcast_to(seen.any((1, 3)), (batch, time))

    def anywhere(q, k, v):
        if not by_block:
            y, weights = ops.dot_product_attention(q, k, v, seen, scoring)
            return y, weights, rows
        y, total = _by_block(form, q, k, v, limits, rest, parts, scoring)
        return y, None, None if mask is None else (total != -jnp.inf).any(1)

    if not fuse:
        return anywhere(q, k, v)

    def on_cuda(q, k, v):
        options = {"lengths": limits.lengths, "causal": form.causal, "scale": scoring.scale}
        before = None if form.span is None else form.span[0]
        return ops.fused_attention(q, k, v, table, before=before, **options), rows

    def elsewhere(q, k, v):
        y, _, rows = anywhere(q, k, v)
        return y, rows

    # The machine that traces need not be the one that the program is compiled for.
    y, rows = jax.lax.platform_dependent(q, k, v, cuda=on_cuda, default=elsewhere)
    return y, None, rows


class _Limits(NamedTuple):
    """What a mask says by lengths or segments.

    Fields:
      lengths: Integers (batch,), or None.
      segments: Integers (batch, places), or None.
      are_all: Whether the mask says nothing else.
    """

    lengths: jax.Array | None
    segments: jax.Array | None
    are_all: bool

    @classmethod
    def of(cls, mask: ops.Mask) -> "_Limits":
        if mask is None:
            return cls(None, None, True)
        if isinstance(mask, ops.Segments):
            return cls(None, mask.numbers, True)
        are_lengths = jnp.issubdtype(mask.dtype, jnp.integer) and mask.ndim == 1
        return cls(mask, None, True) if are_lengths else cls(None, None, False)


def _near(form: _Form, time: Any, places: Any, seen: jax.Array | None) -> jax.Array | None:
    """Return which places a query may attend to, by the mask and by its window."""
    if not form.causal and form.span is None:
        return seen
    before, after = form.span or (time, time)
    window = before, 0 if form.causal else after
    near = ops.in_window(time, places, window)[None, None]
    return near if seen is None else seen & near


def _by_block(form, q, k, v, limits, rest, parts, scoring):
    """Return the values, computed in blocks of places, and the logarithms of the sums."""
    limits_of_keys = {"lengths": limits.lengths, "segments": limits.segments}
    ranges = see(q.shape[1], k.shape[1], causal=form.causal, window=form.span, **limits_of_keys)
    if parts is not None:
        y, total = ring_attention(parts, q, k, v, ranges, scoring)
    else:
        y, total = blockwise_attention(q, k, v, ranges, rest, scoring)
    return scoring.sunk(y, total), total


def _fuses(form, q, k, v, scoring, limits, seen):
    """Return whether a program for CUDA calls cuDNN's attention."""
    time, places = q.shape[1], k.shape[1]
    if form.fused is False or form.return_weights or v.shape[-1] != q.shape[-1]:
        return False
    if form.span is not None and not form.causal:
        return False
    if any(
        each is not None for each in (scoring.key, scoring.bias, scoring.softcap, scoring.sinks)
    ):
        return False
    if limits.lengths is None and seen is not None:  # cuDNN reads a whole table, of even sides
        is_small = time * places <= MOST_IN_TABLE
        if not is_small or time % 2 or places % 2 or seen.shape[1] != 1:
            return False
    capability = ops.cuda_capability()
    if form.fused and capability:  # for another GPU than the one here
        capability = max(capability, 8.0)
    return ops.fits_cudnn(capability, q.dtype, q.shape[-1])


def _to_cache(m, form, q, k, v, mask, scoring):
    """Attend from a chunk of a stream to itself and to the kept keys of earlier chunks."""
    if not form.causal and (form.span is None or form.span[1]):
        m._not_in_stream("attends to later places; with causal=True it would not")
    if mask is not None:
        m._not_in_stream(
            "has a mask; with ragged=True the input already says which steps count, and bias= adds "
            "numbers to the scores by position"
        )
    before = None if form.span is None else form.span[0]
    cache = update_cache(m, q, k, v, before=before, rotate=form.rotate, name=form.name)
    if not form.return_weights and in_blocks(cache.q, cache.k, only_ranges=scoring.key is None):
        k, v, ranges, empty = cache.in_order()
        bias = _placed(m, form, q, cache.at, counted(k.shape[1]), empty)
        scoring = scoring._replace(bias=bias)
        y, total = blockwise_attention(cache.q, k, v, ranges, None, scoring)
        return scoring.sunk(y, total), None, cache.fits
    bias = _placed(m, form, q, cache.at, cache.places)
    # What is kept begins as zeros, and a pass over all of it for each token would copy it.
    scoring = scoring._replace(bias=bias, finite=True)
    y, weights = ops.dot_product_attention(cache.q, cache.k, cache.v, cache.seen, scoring)
    return y, weights, cache.fits


def _placed(m, form, q, queries, keys, before=0):
    """Return the bias of a layer, if it has one, by positions after `before`."""
    if form.bias is None:
        return None

    def of(queries, keys):
        wanted = q.shape[2], queries.shape[-1], keys.shape[-1]
        y = m.whole(form.bias, (queries, keys))
        table = y[None] if getattr(y, "ndim", 0) == 3 else y
        if hasattr(table, "dtype") and ops.fits(table, (q.shape[0], *wanted)):
            return table
        raise ValueError(
            f"{form.name}: bias must return numbers (heads, time, places) or (batch, heads, time, "
            f"places) for the pair (queries, keys) of positions, here {wanted}, got {describe(y)}"
        )

    keys = jnp.maximum(keys - before, 0)  # positions of empty slots are negative
    return ops.Placed(of, jnp.asarray(queries, jnp.int32), keys.astype(jnp.int32))


def _projection(
    name: str, outputs: tuple[int, ...], use_bias: bool, kernel_init: Initializer, inputs: int = 1
) -> Layer:
    """A dense layer from the last `inputs` axes of (batch, time, ...) to the axes of `outputs`."""

    def matrix_init(key, shape, dtype):  # a matrix, so that the initializer knows the fan-in
        matrix = math.prod(shape[:inputs]), math.prod(outputs)
        return kernel_init(key, matrix, dtype).reshape(shape)

    def forward(m, x):
        kernel = m.kernel("kernel", matrix_init, (*x.shape[-inputs:], *outputs))
        y = product(x, kernel, inputs)
        return add_bias(y, m.param("bias", zeros, outputs) if use_bias else None)

    return compose(forward, name=name, kind="projection")


def segment_mask(segments: jax.Array) -> jax.Array:
    """Return the mask of attention within the sequences of packed rows, see `jn.data.packed`.

    `multi_head_attention` also takes `jn.Segments(segments)` as mask, which needs less memory for
    long rows.

    Args:
      segments: Index of the sequence at each position, (batch, time) integers; 0 is padding.

    Returns:
      Booleans (batch, time, time), True if both places belong to the same sequence.

    Raises:
      TypeError: If the segments are not integers.
      ValueError: If they do not have two axes.

    Example:
      >>> segment_mask(jnp.array([[1, 1, 2, 0]]))[0].astype(int).tolist()
      [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    """
    segments = checks.as_array("segment_mask", "segments", segments, "(batch, time)", "integers")
    are_same = segments[:, :, None] == segments[:, None]
    is_token = segments != 0
    return are_same & is_token[:, None]


def with_bias(who: str, use_bias: Any, names: Collection[str]) -> Collection[str]:
    """Return the names of the parts that have a bias: all, none or the given ones.

    Args:
      who: Name of the layer, for messages.
      use_bias: True, False or some of the names.
      names: Names of all parts that can have a bias.

    Raises:
      TypeError: If `use_bias` is neither a boolean nor names.
      ValueError: If one of its names is not among `names`.

    Example:
      >>> with_bias("attention", True, ("key", "value")), with_bias("attention", ["key"], ("key",))
      (('key', 'value'), ('key',))
    """
    if isinstance(use_bias, bool):
        return tuple(names) if use_bias else ()
    one = f'True, False or some of {", ".join(names)}, such as ("{next(iter(names))}",)'
    if not isinstance(use_bias, list | tuple | set | frozenset):
        raise TypeError(f"{who}: use_bias must be {one}, got {use_bias!r:.60}")
    if not all(isinstance(part, str) and part in names for part in use_bias):
        raise ValueError(f"{who}: use_bias must be {one}, got {use_bias!r:.60}")
    return tuple(name for name in names if name in use_bias)


def check_mask(who: str, mask: Any) -> None:
    """Raise for a mask that is neither an array nor `jn.Segments`, such as a memory.

    Example:
      >>> check_mask("attention", [2, 1])
      Traceback (most recent call last):
      ...
      TypeError: attention: a mask must be an array or jn.Segments, got list. A memory is given by
      name: {"x": x, "memory": memory}
    """
    if mask is None or isinstance(mask, ops.Segments):
        return
    advice = 'A memory is given by name: {"x": x, "memory": memory}'
    if not hasattr(mask, "dtype"):
        got = type(mask).__name__
        raise TypeError(f"{who}: a mask must be an array or jn.Segments, got {got}. {advice}")
    if jnp.issubdtype(mask.dtype, jnp.inexact) and len(mask.shape) != 4:
        raise ValueError(
            f"{who}: a mask of floats has the axes (batch, heads, time, positions), got "
            f"{tuple(mask.shape)}. {advice}"
        )


def _check_sequences(queries, memory, form: _Form) -> None:
    name = form.name
    if isinstance(memory, dict):
        raise ValueError(
            f"{name}: expected a memory (batch, places, width), got a dict of {sorted(memory)}"
        )
    for what, part in (("queries", queries), ("memory", memory)):
        if part is not None and len(part.shape) != 3:
            raise ValueError(
                f"{name}: {what} must be (batch, time, width), got {part.shape}. For one example, "
                "pass x[None]"
            )
    if memory is None:
        return
    if memory.shape[0] != queries.shape[0]:
        raise ValueError(
            f"{name}: queries {queries.shape} and memory {memory.shape} must have the same batch "
            "size"
        )
    self_attention_options = {
        "causal=True": form.causal,
        "rotary": form.rotate,
        "window": form.span,
        "bias": form.bias,
    }
    for option, value in self_attention_options.items():
        if value:
            raise ValueError(
                f"{name}: {option} is for self-attention; queries and memory have different time "
                "axes"
            )
