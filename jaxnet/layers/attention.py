"""Multi-head attention: each query takes a weighted mean of a memory, in several heads."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, compose
from jaxnet.initializers import Initializer, lecun_normal, zeros
from jaxnet.layers.embedding import counted
from jaxnet.layers.embedding import rotary as turn
from jaxnet.layers.kept_keys import keep
from jaxnet.ops.attention import (
    dot_product_attention,
    expand_mask,
    fits_cudnn,
    fused_attention,
    hardware,
    in_window,
)
from jaxnet.services.checks import (
    all_native,
    as_array,
    at_least,
    check_dict,
    check_dtype,
    check_options,
    check_range,
    within,
)
from jaxnet.services.keywords import explain_keywords
from jaxnet.services.trees import PyTree, describe

Rotation = Callable[[jax.Array, Any], jax.Array]  # (x, positions) -> x, as `rotary`


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
    scale: float | None = None,
    softcap: float | None = None,
    use_bias: bool = True,
    dropout_rate: float = 0.0,
    return_weights: bool = False,
    step: bool = False,
    fused: bool | None = None,
    kernel_init: Initializer = lecun_normal(),
    name: str = "multi_head_attention",
) -> Layer:
    """Scaled dot-product attention in several heads: softmax(q k / sqrt(size)) v, joined by `out`.

    A query that may attend nowhere gets zeros, in values and in gradients.

    Input; a mask is always the last entry:
      x                        every place of x attends to every place of x (self-attention)
      (x, mask)                the same within the mask
      (queries, memory)        every query attends to every place of the memory (cross-attention)
      (queries, memory, mask)  the same within the mask
    x, queries (batch, time, width); memory (batch, places, width'). The mask is one of
      lengths, integers (batch,): the places from there on are padding. Lengths below 0 or beyond
        the places raise; inside `jit`, where they are not known, they count as 0 or as all places;
      booleans (batch, places), (batch or 1, time or 1, places) or (batch or 1, heads or 1, time or
        1, places), True where the query at `time` may attend to the place. If batch and time are
        equal, two axes could also be (time, places), so such a mask raises: write mask[:, None] for
        padding and mask[None] for one row per query;
      floats of four axes, (batch or 1, heads or 1, time or 1, places), which are added to the
        scores, such as ALiBi's slopes or learned relative positions; -inf masks, NaN gives NaN.
    Masked entries must still be finite. Where queries arrive one after another, as in a decoder,
    `precompute_kv` projects the memory once, and its result replaces the memory.

    With `step=True` the layer takes one time step of x, (cache, x_t) -> (cache, y_t), with x_t
    (batch, width) and the same params. The cache holds the keys and values of the steps before;
    `attention_cache` makes an empty one. The outputs are those of the whole sequence with
    `causal=True`. A step beyond the length of the cache raises, or gives NaN inside `jit`.

    Args:
      heads: number of heads, at least 1.
      features: width of the output; None is that of the queries.
      head_size: width of a head; None is the queries' width / heads, which must be whole.
      value_size: width of a head of the values; None is that of queries and keys.
      kv_heads: number of heads of keys and values, each shared by heads / kv_heads heads of the
        queries (grouped queries); None is `heads`, 1 is multi-query attention.
      causal: whether each place attends only to itself and those before it; for self-attention.
      window: number of places before and after its own that each query attends to, one number or
        (before, after); for self-attention. None is all. Mistral's window of n is (n - 1, 0).
      rotary: whether queries and keys are rotated by their positions, or a function of (x,
        positions) that rotates them, such as `partial(jn.rotary, base=5e5)`; for self-attention.
      scale: of the scores; 1 / sqrt(head_size) by default.
      softcap: a bound c of the scores before the mask, as c * tanh(scores / c); None is no bound.
      use_bias: whether the four projections have biases.
      dropout_rate: share of the weights to drop in training, in [0, 1).
      return_weights: True returns (y, weights), weights (batch, heads, time, places) before
        dropout, for plots.
      step: see above.
      fused: whether to use cuDNN's fused attention, which has no weights to return, no dropout, no
        masks other than lengths, and none of value_size, window, scale and softcap. None uses it
        where `fits_cudnn`; False uses XLA.
      kernel_init: draws the kernels, as matrices (inputs, outputs).
      name: of the layer.

    Params: as in Flax,
      query, key, value: kernel (width, heads, head_size), bias (heads, head_size);
      out: kernel (heads, value_size, features), bias (features,).

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

      The same, step by step:

      >>> step = multi_head_attention(2, step=True)
      >>> cache = attention_cache(3, 5, heads=2, head_size=4)
      >>> for t in range(5):
      ...     (cache, y_t), _ = step.apply(params, state, (cache, x[:, t]))
      >>> bool(jnp.allclose(y_t, y[:, 4], atol=1e-5))
      True

    Reference: Vaswani et al. 2017, "Attention Is All You Need"; grouped queries: Ainslie et al.
    2023, "GQA"; windows: Beltagy et al. 2020, "Longformer"; softcap: Gemma Team 2024, "Gemma 2".
    """
    rotate, span = check_attention(
        name,
        heads,
        dropout_rate=dropout_rate,
        kv_heads=kv_heads,
        head_size=head_size,
        value_size=value_size,
        window=window,
        rotary=rotary,
        scale=scale,
        softcap=softcap,
    )
    flags = {"causal": causal, "use_bias": use_bias, "step": step}
    flags |= {"return_weights": return_weights, "fused": fused is not None and fused}
    check_options(name, **flags, kernel_init=kernel_init)
    if features is not None:
        at_least(name, "features", features)
    groups = heads if kv_heads is None else kv_heads
    plain = value_size is None and span is None and scale is None and softcap is None
    scoring: dict[str, Any] = {"scale": scale, "softcap": softcap, "dropout_rate": dropout_rate}

    def projected(m, part, x, groups, size):
        """(batch, time, width) -> (batch, time, groups, size)."""
        return m(_projection(part, (groups, size), use_bias, kernel_init), x)

    def forward(m, given):
        cache = memory = mask = None
        if step:
            cache, queries = _check_step(given, name)
            check_range(cache["index"], cache["key"].shape[1], f"{name}: cache is full, its index")
            queries = queries[:, None]  # (batch, width) -> (batch, 1, width)
        else:
            queries, memory, mask = split_inputs(name, given)
            own = {"causal=True": causal, "rotary": rotate, "window": span}
            _check_sequences(queries, memory, [what for what, on in own.items() if on], name)
        width = queries.shape[-1]
        if head_size is None and width % heads:
            raise ValueError(
                f"{name}: {heads} heads must divide the queries' width {width}, or give head_size"
            )
        size = head_size or width // heads
        values = value_size or size
        if rotary is True and size % 2:
            raise ValueError(f"{name}: rotary=True needs an even size of heads, got {size}")
        expected = (groups, size), (groups, values)
        if cache is not None and _heads(cache) != expected:
            more = "" if values == size else f", value_size={values}"
            raise ValueError(
                f"{name}: expected a cache of {groups} heads of size {size}, got "
                f"{cache['key'].shape[2:]}. Pass attention_cache(batch, max_length, "
                f"heads={groups}, head_size={size}{more})"
            )
        if isinstance(memory, dict) and _heads(memory) != expected:
            raise ValueError(
                f"{name}: expected a memory projected to {groups} heads of size {size}, got "
                f"{memory['key'].shape[2:]}. Pass precompute_kv(params, memory) with the params of "
                "this layer"
            )
        key = m.key() if m.train and dropout_rate else None
        source = queries if memory is None else memory
        done = isinstance(source, dict)  # of precompute_kv: the params are those of the empty like
        like = source["like"] if done else source
        q = projected(m, "query", queries, heads, size)
        k = projected(m, "key", like, groups, size)
        v = projected(m, "value", like, groups, values)
        if done:
            k, v = source["key"], source["value"]
        out = _projection("out", (features or width,), use_bias, kernel_init, inputs=2)
        if cache is not None:
            cache, mixed, weights = one(cache, q, k, v, key)
            fits = (cache["index"] <= cache["key"].shape[1])[:, None]
            y = jnp.where(fits, m(out, mixed)[:, 0], jnp.nan)
            return cache, (y, weights[:, :, 0]) if return_weights else y
        if m.stream is not None and memory is None:
            if not causal and (span is None or span[1]):
                m.not_in_stream("attends to later places; with causal=True it would not")
            if mask is not None:
                m.not_in_stream("has a mask; with ragged=True the steps that count are the input's")
            before = None if span is None else span[0]
            kept = keep(m, q, k, v, before=before, rotate=rotate, name=name)
            mixed, weights = dot_product_attention(
                kept.q, kept.k, kept.v, kept.seen, key=key, **scoring
            )
            y = jnp.where(kept.fits[..., None], m(out, mixed), jnp.nan)
            return (y, weights) if return_weights else y
        mixed, weights, seen = whole(q, k, v, mask, key)
        y = m(out, mixed)
        if mask is not None and seen is not None:
            # Heads without any place give zeros, but the bias of `out` would still be added.
            somewhere = jnp.broadcast_to(seen.any((1, 3)), y.shape[:2])  # (batch, time)
            y = jnp.where(somewhere[..., None], y, 0)
        return (y, weights) if return_weights else y

    def whole(q, k, v, mask, key):
        if rotate is not None:
            places = counted(q.shape[1])
            q, k = rotate(q, places), rotate(k, places)
        seen, bias = expand_mask(name, mask, (q.shape[0], heads, q.shape[1], k.shape[1]))
        if causal or span is not None:
            before, after = span or (q.shape[1], q.shape[1])
            near = in_window(q.shape[1], k.shape[1], (before, 0 if causal else after))
            seen = near if seen is None else seen & near
        # The fused kernel supports lengths and causality; other masks would cost it a full bias.
        simple = plain and (mask is None or mask.ndim == 1)
        may_fuse = fused is not False and not return_weights and key is None and simple
        if may_fuse and (fused or fits_cudnn(*hardware(), q.dtype, q.shape[-1])):
            mixed = fused_attention(q, k, v, mask, causal=causal, implementation="cudnn")
            return mixed, None, seen
        mixed, weights = dot_product_attention(q, k, v, seen, bias=bias, key=key, **scoring)
        return mixed, weights, seen

    def one(cache, q, k, v, key):
        position, length = cache["index"], cache["key"].shape[1]
        if rotate is not None:
            q, k = rotate(q, position[:, None]), rotate(k, position[:, None])
        rows = jnp.arange(q.shape[0])

        def put(old, new):
            return old.at[rows, position].set(new[:, 0].astype(old.dtype))

        keys, values = put(cache["key"], k), put(cache["value"], v)
        seen = jnp.arange(length) <= position[:, None]  # (batch, length)
        if span is not None:
            seen &= jnp.arange(length) >= position[:, None] - span[0]
        mixed, weights = dot_product_attention(
            q, keys, values, seen[:, None, None], key=key, **scoring
        )
        return {"key": keys, "value": values, "index": position + 1}, mixed, weights

    return compose(forward, name=name, kind="multi_head_attention")


def _projection(
    name: str, outputs: tuple[int, ...], use_bias: bool, kernel_init: Initializer, inputs: int = 1
) -> Layer:
    """A dense layer from the last `inputs` axes of (batch, time, ...) to the axes of `outputs`."""

    def matrix_init(key, shape, dtype):  # so that the initializer gets the fan-in
        matrix = math.prod(shape[:inputs]), math.prod(outputs)
        return kernel_init(key, matrix, dtype).reshape(shape)

    def forward(m, x):
        kernel = m.param("kernel", matrix_init, (*x.shape[-inputs:], *outputs))
        formula = "btf,fhd->bthd" if inputs == 1 else "bthd,hdf->btf"
        y = jnp.einsum(formula, x, kernel)
        return y + m.param("bias", zeros, outputs) if use_bias else y

    return compose(forward, name=name, kind="projection")


def segment_mask(segments: jax.Array) -> jax.Array:
    """Return the mask of attention within the sequences of packed rows, see `jn.data.packed`.

    Args:
      segments: Number of the sequence of each place, (batch, time) integers; 0 is padding.

    Returns:
      Booleans (batch, time, time), True where both places belong to the same sequence.

    Raises:
      TypeError: If the segments are not integers.
      ValueError: If they do not have two axes.

    Example:
      >>> segment_mask(jnp.array([[1, 1, 2, 0]]))[0].astype(int).tolist()
      [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    """
    segments = as_array("segment_mask", "segments", segments, "(batch, time)", "integers")
    return (segments[:, :, None] == segments[:, None]) & (segments != 0)[:, None]


def check_attention(
    who: str,
    heads: Any,
    *,
    dropout_rate: Any,
    kv_heads: Any = None,
    window: Any = None,
    rotary: Any = False,
    scale: Any = None,
    softcap: Any = None,
    **sizes: Any,
) -> tuple[Rotation | None, tuple[int, int] | None]:
    """Checks the options of attention in several heads, for the layers that have them.

    Args:
      who: name of the layer, for messages.
      heads, dropout_rate, kv_heads, window, rotary, scale, softcap: of `multi_head_attention`.
      sizes: of heads; None is a default.

    Returns:
      The function that rotates queries and keys, and the places before and after a query that it
      sees; None for none and for all.
    """
    at_least(who, "heads", heads)
    for what, size in {"kv_heads": kv_heads, **sizes}.items():
        if size is not None:
            at_least(who, what, size)
    if kv_heads is not None and heads % kv_heads:
        raise ValueError(
            f"{who}: heads must be a multiple of kv_heads, got heads={heads}, kv_heads={kv_heads}"
        )
    within(who, "dropout_rate", dropout_rate, "[0, 1)", "the share to drop")
    for what, number in (("scale", scale), ("softcap", softcap)):
        if number is not None:
            within(who, what, number, "(0, inf)")
    return _rotation(who, rotary), _span(who, window)


def _rotation(who: str, rotary: Any) -> Rotation | None:
    if isinstance(rotary, bool):
        return turn if rotary else None
    if not callable(rotary):
        raise TypeError(
            f"{who}: rotary must be True, False or a function of (x, positions), such as "
            f"jn.rotary, got {type(rotary).__name__}"
        )
    rotate: Any = rotary
    return rotate


def _span(who: str, window: Any) -> tuple[int, int] | None:
    if window is None:
        return None
    pair = tuple(window) if isinstance(window, tuple | list) else (window, window)
    if len(pair) != 2:
        raise ValueError(f"{who}: window must be a number or a pair (before, after), got {window}")
    for number in pair:
        at_least(who, "window", number, 0)
    return pair


def attention_cache(
    batch: int,
    max_length: int,
    *,
    heads: int,
    head_size: int,
    value_size: int | None = None,
    dtype: Any = jnp.float32,
) -> dict[str, jax.Array]:
    """An empty cache for `multi_head_attention(..., step=True)`.

    A tree of arrays of fixed shapes: it can be carried through `lax.scan` and `while_loop`, and
    its first axis is the batch, so beams are reordered by indexing.

    Args:
      batch: number of sequences.
      max_length: capacity in steps.
      heads: number of heads of keys and values: kv_heads where that is given.
      head_size: width of a head.
      value_size: width of a head of the values; None is head_size.
      dtype: of keys and values.

    Returns:
      key, value (batch, max_length, heads, head_size or value_size) of zeros; index (batch,), the
      number of steps stored per sequence.

    Example:
      >>> jax.tree.map(jnp.shape, attention_cache(3, 50, heads=2, head_size=4))
      {'index': (3,), 'key': (3, 50, 2, 4), 'value': (3, 50, 2, 4)}
    """
    values = head_size if value_size is None else value_size
    sizes = {"batch": batch, "max_length": max_length, "heads": heads, "head_size": head_size}
    for what, size in (sizes | {"value_size": values}).items():
        at_least("attention_cache", what, size)
    check_dtype("attention_cache", dtype)
    return {
        "key": jnp.zeros((batch, max_length, heads, head_size), dtype),
        "value": jnp.zeros((batch, max_length, heads, values), dtype),
        "index": jnp.zeros(batch, jnp.int32),
    }


def precompute_kv(params: Params, memory: jax.Array) -> dict[str, jax.Array]:
    """The keys and values of a memory, computed once for queries that arrive one after another.

    `multi_head_attention` takes the result in place of the memory, with the same output. As in
    `attention_cache`, the first axis of all entries is the batch.

    Args:
      params: of the `multi_head_attention` that attends to the memory.
      memory: (batch, places, width).

    Returns:
      key, value (batch, places, heads, head_size), and like (batch, 0, width), which is empty and
      records the width of the memory.

    Example:
      >>> layer = multi_head_attention(2)
      >>> queries, memory = jnp.ones((3, 4, 8)), jnp.ones((3, 5, 6))
      >>> params, state = layer.init(jax.random.key(0), (queries, memory))
      >>> projected = precompute_kv(params, memory)
      >>> y, _ = layer.apply(params, state, (queries[:, :1], projected))
      >>> whole, _ = layer.apply(params, state, (queries, memory))
      >>> bool(jnp.allclose(y, whole[:, :1], atol=1e-6))
      True
    """
    check_dict("precompute_kv", "params", params)
    params = all_native(params, "precompute_kv")
    memory = as_array("precompute_kv", "memory", memory, "(batch, places, width)")
    if not {"key", "value"} <= set(params):
        raise ValueError(
            "precompute_kv: expected the params of a multi_head_attention, with key and value, "
            f"got {sorted(params)}"
        )
    sizes = {"width": memory.shape[-1]}
    for name in ("key", "value"):
        check_dict("precompute_kv/params", name, params[name])
        what = f"params['{name}']['kernel']"
        kernel, form = params[name].get("kernel"), "(width, heads, head_size)"
        as_array("precompute_kv", what, kernel, form, "reals", dict(sizes))
    return {
        "key": _project(params["key"], memory),
        "value": _project(params["value"], memory),
        "like": memory[:, :0],
    }


def split_inputs(who: str, given: PyTree) -> tuple[Any, Any, Any]:
    """Splits the input of an attention layer into queries, memory and mask.

    Args:
      who: name of the layer, for messages.
      given: x, (x, mask), (queries, memory) or (queries, memory, mask).

    Returns:
      Queries, memory (None for self-attention) and mask (None without one).

    Raises:
      ValueError: for another form.

    Example:
      >>> given = jnp.ones((2, 5, 3)), jnp.array([5, 2])
      >>> queries, memory, mask = split_inputs("attention", given)
      >>> queries.shape, memory, mask.tolist()
      ((2, 5, 3), None, [5, 2])
    """
    rest = list(given) if isinstance(given, tuple | list) else [given]
    fits = bool(rest) and all(isinstance(part, dict) or hasattr(part, "dtype") for part in rest)
    queries = rest.pop(0) if fits else None
    mask = rest.pop() if fits and rest and _is_mask(rest[-1]) else None
    memory = rest.pop() if fits and rest else None
    if not fits or rest or isinstance(queries, dict) or _is_mask(queries):
        raise ValueError(
            f"{who}: expected x, (x, mask), (queries, memory) or (queries, memory, mask), where a "
            "mask is lengths (integers), booleans, or floats of four axes to add to the scores, "
            f"got {describe(given)}"
        )
    return queries, memory, mask


def _is_mask(part: Any) -> bool:
    if isinstance(part, dict):
        return False
    return not jnp.issubdtype(part.dtype, jnp.inexact) or len(part.shape) == 4


def _heads(entries: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Number and size of the heads of keys, and of values."""
    return entries["key"].shape[2:], entries["value"].shape[2:]


def _project(params: Params, x: jax.Array) -> jax.Array:
    y = jnp.einsum("btf,fhd->bthd", x, params["kernel"])
    return y + params["bias"] if "bias" in params else y


def _check_sequences(queries, memory, own: list[str], name: str) -> None:
    if isinstance(memory, dict):
        if set(memory) != {"key", "value", "like"}:
            raise ValueError(
                f"{name}: expected a memory (batch, places, width) or the result of precompute_kv, "
                f"got a dict of {sorted(memory)}"
            )
        memory = memory["like"]
    for what, part in (("queries", queries), ("memory", memory)):
        if part is not None and len(part.shape) != 3:
            raise ValueError(f"{name}: {what} must be (batch, time, width), got {part.shape}")
    if memory is None:
        return
    if memory.shape[0] != queries.shape[0]:
        raise ValueError(
            f"{name}: queries {queries.shape} and memory {memory.shape} must have the same batch "
            "size"
        )
    if own:
        raise ValueError(
            f"{name}: {own[0]} is for self-attention, whose input is x or (x, mask); queries "
            "and memory have different time axes"
        )


def _check_step(given: PyTree, name: str) -> tuple[Any, Any]:
    fine = isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], dict)
    fine = fine and set(given[0]) == {"key", "value", "index"} and hasattr(given[1], "shape")
    shapes: list[Any] = (
        [getattr(part, "shape", ()) for part in jax.tree.leaves(given)] if fine else []
    )
    if not fine or [len(shape) for shape in shapes] != [1, 4, 4, 2]:
        raise ValueError(
            f"{name}: with step=True expected (cache, x_t), with a cache from attention_cache and "
            f"x_t (batch, width), got {describe(given)}"
        )
    if len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"{name}: cache and x_t must have the same batch size, got {describe(given)}"
        )
    return given[0], given[1]
