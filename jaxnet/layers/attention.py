"""Attention: each query takes a weighted mean of a memory."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, PyTree, checked, child_key, param_dtype
from jaxnet.initializers import Initializer, lecun_normal, zeros
from jaxnet.layers.dropout import needs_key
from jaxnet.layers.embedding import check_range
from jaxnet.layers.embedding import rotary as rotate


def additive_attention(
    features: int,
    *,
    return_weights: bool = False,
    kernel_init: Initializer = lecun_normal(),
    name: str = "additive_attention",
) -> Layer:
    """Bahdanau's attention: softmax over the memory of v · tanh(W query + U memory).

    The output is the mean of the memory itself under these weights. A query that may look nowhere
    gets zeros.

    Args:
      features: width of the hidden layer that scores a query against an entry of the memory.
      return_weights: True gives (y, weights), weights (batch, queries, memory), to be drawn.
      kernel_init: draws the three kernels.
      name: of the layer.

    Input: (queries, memory) or (queries, memory, mask). Queries are (batch, time, width), or
    (batch, width) for one query an example, as in a decoder's step; y has the same axes and the
    width of the memory. The mask is as in `multi_head_attention`.

    Params:
      query/kernel (width of queries, features); key/kernel (width of memory, features);
      score/kernel (features, 1).

    Raises:
      ValueError: for features below 1, or an input of another form.

    Example:
      >>> layer = additive_attention(10, return_weights=True)
      >>> queries, memory = jnp.ones((2, 3, 4)), jnp.ones((2, 5, 7))
      >>> lengths = jnp.array([5, 2])
      >>> params, state = layer.init(jax.random.key(0), (queries, memory, lengths))
      >>> (y, weights), _ = layer.apply(params, state, (queries, memory, lengths))
      >>> y.shape, weights[1, 0].tolist()
      ((2, 3, 7), [0.5, 0.5, 0.0, 0.0, 0.0])

    Reference: Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to Align and
    Translate".
    """
    if features < 1:
        raise ValueError(f"{name}: features must be at least 1, got {features}")

    def init(key, given):
        queries, memory, _ = _split(given, name)
        sequence = hasattr(memory, "shape") and len(memory.shape) == 3
        if not sequence or len(queries.shape) not in (2, 3):
            raise ValueError(
                f"{name}: needs (queries, memory) with memory (batch, time, width), got "
                f"{[part.shape for part in jax.tree.leaves(given)]}"
            )

        def kernel(part, shape):
            return {"kernel": kernel_init(child_key(key, part), shape, param_dtype(given))}

        return {
            "query": kernel("query", (queries.shape[-1], features)),
            "key": kernel("key", (memory.shape[-1], features)),
            "score": kernel("score", (features, 1)),
        }, {}

    def apply(params, state, given, *, key=None, train=False):
        queries, memory, mask = _split(given, name)
        single = queries.ndim == 2
        if single:
            queries = queries[:, None]  # (batch, width) -> (batch, 1, width)
        q = queries @ params["query"]["kernel"]  # (batch, time, features)
        k = memory @ params["key"]["kernel"]  # (batch, memory, features)
        hidden = jnp.tanh(q[:, :, None] + k[:, None])  # (batch, time, memory, features)
        scores = (hidden @ params["score"]["kernel"])[..., 0]  # (batch, time, memory)
        mask = _mask(mask, (q.shape[0], 1, q.shape[1], k.shape[1]), name)
        weights = masked_softmax(scores, None if mask is None else mask[:, 0]).astype(memory.dtype)
        y = weights @ memory  # (batch, time, width of memory)
        if single:
            y, weights = y[:, 0], weights[:, 0]
        return (y, weights) if return_weights else y, state

    return checked(Layer(init, apply, name))


def multi_head_attention(
    heads: int,
    *,
    features: int | None = None,
    head_size: int | None = None,
    kv_heads: int | None = None,
    causal: bool = False,
    rotary: bool = False,
    use_bias: bool = True,
    dropout_rate: float = 0.0,
    return_weights: bool = False,
    step: bool = False,
    fused: bool | None = None,
    kernel_init: Initializer = lecun_normal(),
    name: str = "multi_head_attention",
) -> Layer:
    """Scaled dot-product attention by several heads: softmax(q k / sqrt(size)) v, joined by `out`.

    A query that may look nowhere gets zeros, in values and in gradients.

    Input, where a mask is always the last entry and is known by its dtype, which is not floating:
      x                        each place of x looks at each place of x (self-attention)
      (x, mask)                the same, at the places that the mask allows
      (queries, memory)        each query looks at each place of the memory (cross-attention)
      (queries, memory, mask)  the same, at the places that the mask allows
    x, queries (batch, time, width); memory (batch, places, width'). The mask is one of
      lengths, integers (batch,): places from there on are padding, which nobody looks at;
      booleans (batch, places), (batch, time, places) or (batch, heads or 1, time, places), True
      where the query at `time` may look at the place.
    What is masked must still be finite numbers. Where queries come one after another, as in a
    decoder, `precompute_kv` projects a memory once, and what it gives stands for the memory.

    With `step=True` the layer takes one moment of x at a time, (cache, x_t) -> (cache, y_t), with
    x_t (batch, width) and the same params. The cache holds the keys and values of the moments
    before; `attention_cache` makes an empty one. The outputs are those of the whole sequence with
    `causal=True`. A step beyond the cache's length raises, or gives NaN inside `jit`.

    Args:
      heads: number of heads.
      features: width of the output; None is that of the queries.
      head_size: width of a head; None is the queries' width / heads, which must be whole.
      kv_heads: heads of keys and values, each shared by heads / kv_heads queries' heads (grouped
        queries); None is as many as heads, 1 is multi-query attention.
      causal: whether each place sees itself and those before it alone; for self-attention.
      rotary: whether queries and keys are turned by their positions, see `rotary`; for
        self-attention.
      use_bias: whether the four projections have biases.
      dropout_rate: share of the weights that is dropped in training.
      return_weights: True gives (y, weights) with weights (batch, heads, time, places) before
        dropout, to be drawn.
      step: see above.
      fused: whether cuDNN's fused attention is used, which has neither weights to return, nor
        dropout, nor masks other than lengths. None asks `fits_cudnn`; False keeps to XLA.
      kernel_init: draws the kernels, as matrices (inputs, outputs).
      name: of the layer.

    Params: as in Flax,
      query, key, value: kernel (width, heads, head_size), bias (heads, head_size);
      out: kernel (heads, head_size, features), bias (features,).

    Raises:
      ValueError: for sizes that do not divide, an input of another form, and in training with
        dropout without a key.

    Example:
      >>> layer = multi_head_attention(2, causal=True, return_weights=True)
      >>> x = jax.random.normal(jax.random.key(1), (3, 5, 8))
      >>> params, state = layer.init(jax.random.key(0), x)
      >>> (y, weights), _ = layer.apply(params, state, x)
      >>> y.shape, weights.shape, weights[0, 0, 0].tolist()
      ((3, 5, 8), (3, 2, 5, 5), [1.0, 0.0, 0.0, 0.0, 0.0])

      The same, one moment at a time:

      >>> step = multi_head_attention(2, step=True)
      >>> cache = attention_cache(3, 5, heads=2, head_size=4)
      >>> for t in range(5):
      ...     (cache, y_t), _ = step.apply(params, state, (cache, x[:, t]))
      >>> bool(jnp.allclose(y_t, y[:, 4], atol=1e-5))
      True

    Reference: Vaswani et al. 2017, "Attention Is All You Need"; grouped queries: Ainslie et al.
    2023, "GQA".
    """
    groups = heads if kv_heads is None else kv_heads
    if heads < 1 or groups < 1 or heads % groups:
        raise ValueError(
            f"{name}: heads must be at least 1 and a multiple of kv_heads, "
            f"got heads={heads}, kv_heads={kv_heads}"
        )
    if not 0 <= dropout_rate < 1:
        raise ValueError(f"{name}: dropout_rate must be in [0, 1), got {dropout_rate}")

    def init(key, given):
        cache = None
        if step:
            cache, queries = _check_step(given, name)
            memory = None
        else:
            queries, memory, _ = _split(given, name)
            _check_sequences(queries, memory, causal, rotary, name)
        width = queries.shape[-1]
        if head_size is None and width % heads:
            raise ValueError(
                f"{name}: {heads} heads must divide the queries' width {width}, or give head_size"
            )
        size = head_size or width // heads
        if cache is not None and cache["key"].shape[2:] != (groups, size):
            raise ValueError(
                f"{name}: needs a cache of {groups} heads of {size}, got "
                f"{cache['key'].shape[2:]}; write attention_cache(batch, max_length, "
                f"heads={groups}, head_size={size})"
            )
        out = features or width
        dtype = param_dtype(given)

        def part(name, shape, bias):
            # Drawn as a matrix, so that any initializer sees how many inputs there are.
            matrix = (math.prod(shape[: len(shape) - len(bias)]), math.prod(bias))
            here = child_key(key, name)
            kernel = kernel_init(child_key(here, "kernel"), matrix, dtype).reshape(shape)
            return {"kernel": kernel} | ({"bias": zeros(here, bias, dtype)} if use_bias else {})

        if isinstance(memory, dict) and memory["key"].shape[2:] != (groups, size):
            raise ValueError(
                f"{name}: needs a memory projected to {groups} heads of {size}, got "
                f"{memory['key'].shape[2:]}; write precompute_kv(params, memory) with the "
                "params of this layer"
            )
        like = memory["like"] if isinstance(memory, dict) else memory
        inputs = width if like is None else like.shape[-1]
        return {
            "query": part("query", (width, heads, size), (heads, size)),
            "key": part("key", (inputs, groups, size), (groups, size)),
            "value": part("value", (inputs, groups, size), (groups, size)),
            "out": part("out", (heads, size, out), (out,)),
        }, {}

    def finish(params, mixed, weights):
        y = jnp.einsum("bthd,hdf->btf", mixed, params["out"]["kernel"])
        y = y + params["out"]["bias"] if use_bias else y
        return y, weights

    def whole(params, given, key):
        queries, memory, mask = _split(given, name)
        memory = queries if memory is None else memory
        q = _project(params["query"], queries)  # (batch, time, heads, size)
        if not isinstance(memory, dict):
            memory = precompute_kv(params, memory)
        k, v = memory["key"], memory["value"]  # (batch, places, groups, size)
        if rotary:
            q, k = rotate(q), rotate(k)
        seen = _mask(mask, (q.shape[0], heads, q.shape[1], k.shape[1]), name)
        if causal:
            before = jnp.tril(jnp.ones((q.shape[1], k.shape[1]), bool))
            seen = before if seen is None else seen & before
        # The fused kernel knows lengths and causality; other masks would cost it a full bias.
        plain = mask is None or mask.ndim == 1
        may = fused is not False and not return_weights and key is None and plain
        if may and (fused or fits_cudnn(*_hardware(), q.dtype, q.shape[-1])):
            mixed, weights = fused_attention(q, k, v, mask, causal, "cudnn"), None
        else:
            mixed, weights = _attend(q, k, v, seen, dropout_rate, key)
        y, weights = finish(params, mixed, weights)
        if mask is not None and seen is not None:
            # Heads that see nothing give zeros, but the bias of `out` would still be added.
            somewhere = jnp.broadcast_to(seen.any((1, 3)), y.shape[:2])  # (batch, time)
            y = jnp.where(somewhere[..., None], y, 0)
        return (y, weights) if return_weights else y

    def one(params, given, key):
        cache, x = _check_step(given, name)
        position, length = cache["index"], cache["key"].shape[1]
        check_range(position, length, f"{name}: cache is full, its index")
        x = x[:, None]  # (batch, width) -> (batch, 1, width)
        q, k, v = (_project(params[part], x) for part in ("query", "key", "value"))
        if rotary:
            q, k = rotate(q, position[:, None]), rotate(k, position[:, None])
        rows = jnp.arange(x.shape[0])

        def put(old, new):
            return old.at[rows, position].set(new[:, 0].astype(old.dtype))

        cache = {"key": put(cache["key"], k), "value": put(cache["value"], v)}
        seen = jnp.arange(length) <= position[:, None]  # (batch, length)
        mixed, weights = _attend(
            q, cache["key"], cache["value"], seen[:, None, None], dropout_rate, key
        )
        y, weights = finish(params, mixed, weights)
        y = jnp.where((position < length)[:, None], y[:, 0], jnp.nan)
        cache["index"] = position + 1
        return cache, (y, weights[:, :, 0]) if return_weights else y

    def apply(params, state, given, *, key=None, train=False):
        key = needs_key(key, name) if train and dropout_rate else None
        return (one if step else whole)(params, given, key), state

    return checked(Layer(init, apply, name))


def attention_cache(
    batch: int, max_length: int, *, heads: int, head_size: int, dtype: Any = jnp.float32
) -> dict[str, jax.Array]:
    """An empty cache for `multi_head_attention(..., step=True)`.

    A tree of arrays of fixed shapes: it can be carried through `lax.scan` and `while_loop`, and
    its first axis is the batch, so that beams are reordered by indexing.

    Args:
      batch: number of sequences.
      max_length: number of steps that fit in.
      heads: of keys and values: kv_heads where there are fewer of them.
      head_size: width of a head.
      dtype: of keys and values.

    Returns:
      key, value (batch, max_length, heads, head_size) of zeros; index (batch,), the number of
      moments that each sequence holds.

    Example:
      >>> jax.tree.map(jnp.shape, attention_cache(3, 50, heads=2, head_size=4))
      {'index': (3,), 'key': (3, 50, 2, 4), 'value': (3, 50, 2, 4)}
    """
    shape = (batch, max_length, heads, head_size)
    return {
        "key": jnp.zeros(shape, dtype),
        "value": jnp.zeros(shape, dtype),
        "index": jnp.zeros(batch, jnp.int32),
    }


def precompute_kv(params: Params, memory: jax.Array) -> dict[str, jax.Array]:
    """The keys and values of a memory, made once for queries that come one after another.

    `multi_head_attention` takes it in place of the memory, with the same result. As with
    `attention_cache`, the first axis of all entries is the batch.

    Args:
      params: of the `multi_head_attention` that will look at it.
      memory: (batch, places, width).

    Returns:
      key, value (batch, places, heads, head_size), and like (batch, 0, width), which is empty and
      tells how wide the memory was.

    Example:
      >>> layer = multi_head_attention(2)
      >>> queries, memory = jnp.ones((3, 4, 8)), jnp.ones((3, 5, 6))
      >>> params, state = layer.init(jax.random.key(0), (queries, memory))
      >>> projected = precompute_kv(params, memory)
      >>> y, _ = layer.apply(params, state, (queries[:, :1], projected))
      >>> whole, _ = layer.apply(params, state, (queries, memory))
      >>> bool((y == whole[:, :1]).all())
      True
    """
    return {
        "key": _project(params["key"], memory),
        "value": _project(params["value"], memory),
        "like": memory[:, :0],
    }


def fits_cudnn(backend: str, capability: float, dtype: Any, head_size: int) -> bool:
    """Whether cuDNN's fused attention takes it; `jax.nn.dot_product_attention` never asks itself.

    Args:
      backend: as `jax.default_backend()` gives it.
      capability: CUDA compute capability: 8.0 is Ampere (A100), 9.0 Hopper; 7.5 (T4) has none.
      dtype: of queries, keys and values.
      head_size: width of a head.

    Example:
      >>> fits_cudnn("gpu", 8.0, jnp.bfloat16, 64), fits_cudnn("gpu", 7.5, jnp.bfloat16, 64)
      (True, False)
    """
    narrow = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    largest = 256 if capability >= 9 else 128
    fits = head_size % 8 == 0 and head_size <= largest
    return backend == "gpu" and capability >= 8 and narrow and fits


def fused_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array | None,
    causal: bool,
    implementation: Any,
) -> jax.Array:
    """`jax.nn.dot_product_attention`; a length of 0 counts as 1, since the kernel may give NaN."""
    if lengths is None:
        return jax.nn.dot_product_attention(
            q, k, v, is_causal=causal, implementation=implementation
        )
    some = jnp.clip(lengths, 1, k.shape[1]).astype(jnp.int32)
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, key_value_seq_lengths=some, implementation=implementation
    )


def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, rate: float, key
) -> tuple[jax.Array, jax.Array]:
    """The values mixed by each query's weights, and the weights (batch, heads, time, places).

    Not `jax.nn.dot_product_attention`: it gives no weights, spreads them evenly where everything
    is masked, and has its softmax in float32 even for float64.
    """
    batch, time, heads, size = q.shape
    places, groups = k.shape[1:3]
    q = q.reshape(batch, time, groups, heads // groups, size)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("btghd,bsgd->bghts", q, k, preferred_element_type=wide) / math.sqrt(size)
    weights = masked_softmax(scores.reshape(batch, heads, time, places), mask).astype(v.dtype)
    kept = weights
    if key is not None:
        kept = jnp.where(jax.random.bernoulli(key, 1 - rate, kept.shape), kept / (1 - rate), 0)
        kept = kept.astype(v.dtype)
    kept = kept.reshape(batch, groups, heads // groups, time, places)
    y = jnp.einsum("bghts,bsgd->btghd", kept, v)
    return y.reshape(batch, time, heads, size), weights


def masked_softmax(scores: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Over the last axis, among the places of the mask; zeros where there are none.

    Example:
      >>> masked_softmax(jnp.zeros((2, 3)), jnp.array([[True, True, False], [False] * 3])).tolist()
      [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """
    if mask is None:
        return jax.nn.softmax(scores, axis=-1)
    # Finite, since a row of -inf alone would be NaN on the way, which jax_debug_nans stops at.
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min), axis=-1)
    return jnp.where(mask, weights, 0)


def _project(params: Params, x: jax.Array) -> jax.Array:
    y = jnp.einsum("btf,fhd->bthd", x, params["kernel"])
    return y + params["bias"] if "bias" in params else y


def _hardware() -> tuple[str, float]:
    """The backend, and the compute capability of its first device (0 where it has none)."""
    try:
        capability = float(getattr(jax.devices()[0], "compute_capability", 0))
    except ValueError:  # AMD's are no numbers
        capability = 0.0
    return jax.default_backend(), capability


def _split(given: PyTree, name: str) -> tuple[Any, Any, Any]:
    """Queries, memory (None for self-attention) and mask (None where all may be seen)."""
    parts = list(given) if isinstance(given, tuple | list) else [given]
    queries, *rest = parts
    mask = rest.pop() if rest and _is_mask(rest[-1]) else None
    memory = rest.pop() if rest else None
    if rest or isinstance(queries, dict) or _is_mask(queries):
        kinds = ", ".join(f"{tuple(part.shape)} {part.dtype}" for part in jax.tree.leaves(parts))
        raise ValueError(
            f"{name}: needs x, (x, mask), (queries, memory) or (queries, memory, mask), where the "
            f"mask is of lengths (integers) or of booleans, got {kinds}"
        )
    return queries, memory, mask


def _is_mask(part: Any) -> bool:
    return not isinstance(part, dict) and not jnp.issubdtype(part.dtype, jnp.inexact)


def _mask(mask: jax.Array | None, scores: tuple[int, int, int, int], name: str):
    """The mask as booleans (batch, heads or 1, time or 1, places), for scores of this shape."""
    if mask is None:
        return None
    batch, heads, time, places = scores
    if jnp.issubdtype(mask.dtype, jnp.integer) and mask.shape == (batch,):
        return (jnp.arange(places) < mask[:, None])[:, None, None]
    if mask.dtype == jnp.bool_:
        if mask.shape == (batch, places):
            return mask[:, None, None]
        if mask.shape == (batch, time, places):
            return mask[:, None]
        if mask.shape in ((batch, heads, time, places), (batch, 1, time, places)):
            return mask
    raise ValueError(
        f"{name}: a mask is lengths, integers ({batch},), or booleans ({batch}, {places}), "
        f"({batch}, {time}, {places}) or ({batch}, {heads} or 1, {time}, {places}), "
        f"got {mask.shape} {mask.dtype}"
    )


def _check_sequences(queries, memory, causal: bool, rotary: bool, name: str) -> None:
    if isinstance(memory, dict):
        if set(memory) != {"key", "value", "like"}:
            raise ValueError(
                f"{name}: a memory is an array (batch, places, width), or what precompute_kv "
                f"gives, got a dict of {sorted(memory)}"
            )
        memory = memory["like"]
    for what, part in (("queries", queries), ("memory", memory)):
        if part is not None and len(part.shape) != 3:
            raise ValueError(f"{name}: {what} must be (batch, time, width), got {part.shape}")
    if memory is None:
        return
    if memory.shape[0] != queries.shape[0]:
        raise ValueError(
            f"{name}: queries {queries.shape} and memory {memory.shape} need the same batch"
        )
    if causal or rotary:
        which = "causal" if causal else "rotary"
        raise ValueError(
            f"{name}: {which}=True is for self-attention, whose input is x or (x, mask): "
            "queries and memory have no common time"
        )


def _check_step(given: PyTree, name: str) -> tuple[Any, Any]:
    fine = isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], dict)
    if not fine or set(given[0]) != {"key", "value", "index"} or len(given[1].shape) != 2:
        raise ValueError(
            f"{name}: with step=True needs (cache, x_t), a cache from attention_cache and x_t "
            "(batch, width)"
        )
    return given[0], given[1]
