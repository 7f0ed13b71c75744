"""Attention in blocks of queries and places, in memory that grows with the length.

On TPUs, and on GPUs without cuDNN's attention, it is a loop of XLA and not a kernel of Pallas. For
a v5e, the gradient at 2 x 4,096 positions and 16 heads of 128 needs 408 MB of temporaries in
blocks, 168 MB with JAX's splash attention and 4.3 GB with all scores (`python -m tools.elsewhere
v5e "long attention"`). But XLA cannot divide a kernel of Pallas over the devices of a mesh by
itself, it has first derivatives in reverse mode alone, and it knows no bias and no dropout. JAX's
kernel for GPUs is deprecated and cannot be compiled for a GPU that is not there.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.tree_util import Partial

from jaxnet.ops.attention import Placed, Scoring, runs
from jaxnet.ops.native import attention
from jaxnet.ops.native.call import native_call
from jaxnet.ops.native.keep import bernoulli
from jaxnet.ops.varying import varying
from jaxnet.services.jax_versions import linear

# On a CPU, attention in blocks takes less time than with all scores from 512 queries and places on
# (forward 0.3 to 0.5 of the time, gradient 0.5 to 0.9), whatever the batch, and more below. In a
# chunk of a stream, 128 queries are enough to make up for cutting all places into blocks.
FEW = 128
FEW_SCORES = 2**18
FEW_IN_C = 64  # queries and places from which C takes 0.5 to 0.8 of the time of all scores


class Ranges(NamedTuple):
    """The places that each query sees, first <= place < last.

    Fields:
      first, last: Integers (batch or 1, time); a query with first >= last sees nothing.
      near: Bounds that hold for all queries, if known before the program runs: query t sees no
        place before t + near[0] and none after t + near[1]. None is no bound.
    """

    first: Any
    last: Any
    near: tuple[int, int] | None = None


def in_blocks(q: jax.Array, k: jax.Array, *, only_ranges: bool = False) -> bool:
    """Return whether attention should be computed in blocks, which saves memory and time.

    Args:
      q, k: Queries (batch, time, ...) and keys (batch, places, ...).
      only_ranges: Whether there is no mask but ranges, no bias and no dropout.

    Example:
      >>> in_blocks(jnp.ones((1, 20, 1, 4)), jnp.ones((1, 20, 1, 4)))
      False
    """
    sizes = q.shape[1], k.shape[1]
    if not all(isinstance(size, int) for size in sizes):  # symbolic sizes of an export
        return False
    if jax.typeof(q).sharding.mesh.explicit_axes:
        return False  # a loop over blocks would need the sharding of each of its arrays
    if only_ranges and jax.default_backend() == "cpu" and attention.supports(q, k, k):
        return min(sizes) >= FEW_IN_C
    return min(sizes) >= FEW and math.prod(sizes) >= FEW_SCORES


def see(
    time: int,
    places: int,
    *,
    causal: bool = False,
    window: tuple[int, int] | None = None,
    lengths: jax.Array | None = None,
    segments: jax.Array | None = None,
) -> Ranges:
    """Return the ranges of places that queries see, counted from the same start.

    Args:
      time, places: Numbers of queries and places.
      causal: Whether a query sees no later place than its own.
      window: Numbers of places before and after its own that a query sees; None is all.
      lengths: Numbers of places that the queries of each sequence see, (batch,); None is all.
      segments: Integers (batch, time) whose runs of equal numbers see only themselves, see `runs`.

    Example:
      >>> first, last, near = see(4, 4, window=(1, 1), lengths=jnp.array([3]))
      >>> first.tolist(), last.tolist(), near
      ([[0, 0, 1, 2]], [[2, 3, 3, 3]], (-1, 1))
    """
    at = np.arange(time, dtype=np.int32)[None]
    before, after = window or (places + time, places)
    if causal:
        after = 0
    first = np.maximum(at - before, 0)
    last = np.minimum(at + after + 1, places)
    near = None if window is None else (-before, after)
    if lengths is not None:
        last = jnp.minimum(last, lengths[:, None])
    if segments is not None:
        start, end = runs(segments)
        first = jnp.maximum(first, start)
        last = jnp.minimum(last, end)
    return Ranges(first, last, near)


class _How(NamedTuple):
    """What is known before the program runs, see `blockwise_attention`."""

    scoring: Scoring  # without its arrays
    rows: int  # queries of a block
    columns: int  # places of a block
    near: tuple[int, int] | None
    in_c: tuple[float, float] | None  # form for C, which knows no mask, bias or dropout


class _Grid(NamedTuple):
    """The blocks, and which of them are computed."""

    rows: int  # blocks of queries
    columns: int  # blocks of places
    start: int | None  # row i begins with column i + start; None is column 0
    length: int  # columns of a row


def blockwise_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    ranges: Ranges | None = None,
    mask: jax.Array | None = None,
    scoring: Scoring = Scoring(),
    *,
    block: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return `dot_product_attention` without its weights, in blocks that are not kept.

    The result is exact. Derivatives of any order, forward and reverse, compute the blocks again.
    Blocks that no query sees are skipped, but below `vmap` only if all examples skip them. Dropout
    draws other weights than `dot_product_attention`. On one CPU, values and gradients are computed
    in C unless there is a mask, bias, dropout or `block`.

    Args:
      q, k, v: Queries (batch, time, heads, size), keys and values (batch, places, kv_heads, size
        or width), as in `dot_product_attention`.
      ranges: Places that each query sees; None is all.
      mask: Booleans (batch or 1, heads or 1, time or 1, places), True where a query may attend to
        a place within its range; None is all True.
      scoring: How scores are made.
      block: Largest number of queries and places of a block, by default for the device.

    Returns:
      The values (batch, time, heads, width), zeros if a query sees nothing; and the logarithm of
      the sum of exp(scores) (batch, heads, time), -inf if it sees nothing.

    Example:
      >>> q, k = jnp.ones((2, 30, 4, 6)), jnp.ones((2, 50, 2, 6))
      >>> y, total = blockwise_attention(q, k, k, block=16)
      >>> y.shape, round(float(total[0, 0, 0]), 3)  # log(50 exp(6 / sqrt(6)))
      ((2, 30, 4, 6), 6.362)

    Reference: Rabe and Staats 2021, "Self-attention Does Not Need O(n^2) Memory"; Dao et al. 2022,
    "FlashAttention".
    """
    time = q.shape[1]
    places = k.shape[1]
    if ranges is None:
        none = np.zeros((1, time), np.int32)
        every = np.full((1, time), places, np.int32)
        ranges = Ranges(none, every)
    first = jnp.clip(jnp.asarray(ranges.first), 0, places)
    last = jnp.clip(jnp.asarray(ranges.last), 0, places)
    rows, columns = sizes_of_blocks(q, k, ranges.near, block)
    key = scoring.key if scoring.dropout_rate else None
    scale = scoring.scale
    if scale is None:
        scale = 1 / math.sqrt(q.shape[3])
    bias = scoring.bias
    positions = None
    if isinstance(bias, Placed):
        queries, keys = bias.queries, bias.keys
        bias, read = bias.hoisted(rows, columns)
        positions = queries, keys, read
    in_c = None
    if bias is None and mask is None and key is None and block is None:
        in_c = float(scale), float(scoring.softcap or 0)
    without_arrays = scoring._replace(scale=scale, bias=None, key=None, sinks=None)
    how = _How(without_arrays, rows, columns, ranges.near, in_c)
    moving = q, k, v, bias
    fixed = first, last, mask, key, positions
    return _traced_once(how, moving, fixed)


def sizes_of_blocks(q: Any, k: Any, near: Any = None, most: int | None = None) -> tuple[int, int]:
    """Return the numbers of queries and places of a block of `blockwise_attention`.

    Args:
      q, k: Queries and keys, or their shapes.
      near: Bounds of `Ranges`.
      most: Largest numbers; None is the best for the device.

    Example:
      >>> sizes_of_blocks(jnp.ones((1, 5, 1, 4)), jnp.ones((1, 7, 1, 4)))
      (5, 7)
    """
    batch, time, heads, _ = q.shape
    matrices = batch * heads if isinstance(batch, int) else heads  # not the symbol of an export
    return _sizes(matrices, time, k.shape[1], near, most)


def _sizes(matrices, time, places, near, most) -> tuple[int, int]:
    """Return the numbers of queries and places of a block."""
    if most is None:
        if time * places < FEW_SCORES:
            return time, places
        most = _most_of_block(matrices, near)
    rows = _even(time, most)
    columns = rows if near is not None else _even(places, most)
    return rows, columns


def _most_of_block(matrices, near) -> int:
    """Return the largest number of queries and places of a block, the best for the device."""
    # The scores of a block stay in a CPU's cache (256 with 8 heads), measured with 128 to 1024.
    # Other devices have more to gain from fewer steps.
    if jax.default_backend() == "cpu":
        most, scores = 512, 2**19
    else:
        most, scores = 1024, 2**24
    if near is not None:  # small windows need small blocks
        first, last = near
        most = min(most, last - first)
    while most > 128 and matrices * most**2 > scores:
        most //= 2
    return max(most, 128)


def _even(length, most) -> int:
    """Return the size of blocks of one size, a multiple of 8, that a length is divided into."""
    blocks = math.ceil(length / most)
    return 8 * math.ceil(math.ceil(length / blocks) / 8)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attend(how, moving, fixed):
    attended = partial(_attended, how)
    if how.in_c is None:
        return attended(moving, fixed)
    return native_call(attended, attention.values(how.in_c), moving, fixed)


def _attended(how, moving, fixed):
    q, k, v, _ = moving
    grid = _grid(how, q, k, near=True)
    q_blocks, k_blocks, v_blocks, bias_blocks = _cut_all(_cuts(how, k), moving)
    part, allowed, bounds = _fixed(how, k, fixed)
    key = fixed[3]
    wide = jnp.promote_types(q.dtype, jnp.float32)
    least = jnp.finfo(wide).min

    def step(carry, i, j, *_):
        total, top, sums = carry
        seen = allowed(i, j)
        scores = _scores(how, q_blocks[i], k_blocks[j], part(bias_blocks, i, j))
        scores = jnp.where(seen, scores, least)
        new_top = jnp.maximum(top, scores.max(-1))
        p = jnp.where(seen, jnp.exp(scores - new_top[..., None]), 0)
        shrink = jnp.exp(top - new_top)
        dropped = _drop(how, key, p, i * grid.columns + j)
        total = total * shrink[..., None] + _mix(dropped, v_blocks[j])
        sums = sums * shrink + p.sum(-1)
        return total, new_top, sums

    shape = q_blocks.shape[1:-1]
    zeros = jnp.zeros((*shape, v.shape[-1]), wide)
    start = zeros, jnp.full(shape, least), jnp.zeros(shape, wide)
    start = varying(start, moving, fixed)
    total, top, sums = _loop(grid, bounds, step, start)
    some = jnp.where(sums == 0, 1, sums)
    lse = jnp.where(sums == 0, -jnp.inf, top + jnp.log(some))
    y = _join(total / some[..., None], q)
    lse = _join(lse[..., None], q)[..., 0]
    strange = _strange(q, k, v, *fixed[:3])
    y = jnp.where(strange[..., None], jnp.nan, y)
    y = y.astype(v.dtype)
    lse = jnp.where(strange, jnp.nan, lse)
    return y, lse.mT


def _tangents(how, moving, fixed, y, lse, d_moving):
    """Return the tangents of y and lse, linear in the tangents of the arrays (None is zero).

    The transpose, which JAX makes, is the gradient by blocks: five products, none of them kept.
    """
    q, k, v, bias = moving
    cuts = _cuts(how, k)
    blocks = _cut_all(cuts, moving)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    d_q, d_k, d_v, d_bias = (
        _cut_tangent(cut, x, d, wide) for cut, x, d in zip(cuts, moving, d_moving, strict=True)
    )
    d_function = None
    if isinstance(bias, Partial):
        d_function, d_bias = d_bias, None
    grid = _grid(how, q, k, near=d_bias is None)
    step, bounds = _step_of_tangents(how, moving, fixed, blocks, grid, lse)

    shape = blocks[0].shape[1:-1]
    no_total = jnp.zeros((*shape, v.shape[-1]), wide)
    no_sums = jnp.zeros(shape, wide)
    start = varying((no_total, no_sums), moving, fixed, d_moving)
    by_row = by_column = None
    if d_bias is not None:
        if len(d_bias) > 1:
            by_row = d_bias
        else:
            by_column = d_bias[0]

    def run(row, column, d_function):
        return _loop(grid, bounds, partial(step, d_function), start, row, column)

    total, sums = linear(run, (d_q, by_row), (d_k, d_v, by_column), d_function)
    total = _join(total, q)
    sums = _join(sums[..., None], q)
    return (total - sums * y).astype(v.dtype), sums[..., 0].mT


def _cut_tangent(cut, x, d, dtype):
    """Return the blocks of a tangent in this dtype; None stays None."""
    if d is None:
        return None
    _, blocks = jax.jvp(cut, (x,), (d,))
    return jax.tree.map(lambda block: block.astype(dtype), blocks)


def _step_of_tangents(how, moving, fixed, blocks, grid, lse):
    """Return the step of the loop over the tangents of blocks, and its bounds.

    Args:
      how, moving, fixed, lse: Arguments of `_tangents`.
      blocks: Blocks of queries, keys, values and bias.
      grid: The blocks that are computed.
    """
    q, k, v, bias = moving
    q_blocks, k_blocks, v_blocks, bias_blocks = blocks
    part, allowed, bounds = _fixed(how, k, fixed)
    key = fixed[3]
    least = jnp.finfo(jnp.promote_types(q.dtype, jnp.float32)).min
    finite_lse = jnp.where(lse == -jnp.inf, 0, lse)
    finite_lse = _rows(how, k.shape[2], finite_lse.mT[..., None])[..., 0]

    def along_function(d_function, i, j):
        """The tangent of the bias of a block, if the bias is a function of positions."""
        d_arrays = jax.tree.map(lambda d, x: d.astype(x.dtype), d_function, bias)
        of_block = partial(part, i=i, j=j)
        _, d_block = jax.jvp(of_block, (bias,), (d_arrays,))
        return d_block

    def step(d_function, carry, i, j, d_q, d_k, d_v, d_bias):
        total, sums = carry
        at: Any = q_blocks[i], k_blocks[j], part(bias_blocks, i, j)
        if d_function is not None:
            d_bias = along_function(d_function, i, j)
        # Tangents are float32, so that cotangents are added in float32.
        moved = {
            number: d.astype(at[number].dtype)
            for number, d in enumerate((d_q, d_k, d_bias))
            if d is not None
        }
        seen = allowed(i, j)

        def scores(*now):
            operands = list(at)
            for number, operand in zip(moved, now, strict=True):
                operands[number] = operand
            return jnp.where(seen, _scores(how, *operands), least)

        primals = [at[number] for number in moved]
        s, d_s = jax.jvp(scores, primals, list(moved.values()))
        p = jnp.where(seen, jnp.exp(s - finite_lse[i][..., None]), 0)
        drop = partial(_drop, how, key, at=i * grid.columns + j)
        if moved:
            d_s = p * d_s
            total = total + _mix(drop(d_s), v_blocks[j])
            sums = sums + d_s.sum(-1)
        if d_v is not None:
            total = total + _mix(drop(p), d_v.astype(v.dtype))
        return total, sums

    return step, bounds


@partial(_attend.defjvp, symbolic_zeros=True)
def _attend_jvp(how, primals, tangents):
    moving, fixed = primals
    d_moving = tuple(map(_instantiated, moving, tangents[0]))
    y, lse = _attend(how, moving, fixed)
    # The outer checkpoint keeps the arrays as they came, not their blocks.
    push = jax.checkpoint(partial(_tangents, how))
    if how.in_c is not None:
        wanted = tuple(number for number, d in enumerate(d_moving) if d is not None)
        push = partial(native_call, push, attention.tangents(how.in_c, wanted))
    return (y, lse), push(moving, fixed, y, lse, d_moving)


def _instantiated(x, d):
    """Return a tangent without symbolic zeros, or None if all of it is zero."""
    if isinstance(d, SymbolicZero):
        return None

    def zeros_if_symbolic(x, d):
        return jnp.zeros_like(x) if isinstance(d, SymbolicZero) else d

    return jax.tree.map(zeros_if_symbolic, x, d)


# Layers with the same shapes, and calls outside jit, share the traces of values and derivatives.
_traced_once = jax.jit(_attend, static_argnums=0)


def _loop(grid, bounds, step, start, row=(None, None), column=(None, None, None)):
    """Return the results of all rows of blocks, each of which adds its columns.

    Args:
      grid: The blocks.
      bounds: First column that each row sees, and the column after its last, (rows,) each.
      step: (carry, row's number, column's number, d_q, d_k, d_v, d_bias) -> carry.
      start: First carry of a row.
      row: Blocks of d_q, and of d_bias by rows and columns.
      column: Blocks of d_k, d_v and d_bias by columns.
    """
    if grid.rows == grid.columns == 1:
        return _only_block(step, start, row, column)
    near = grid.start is not None
    new = None
    if near:
        column, new = _window_of_columns(grid, column)
    low, high = bounds

    def by_row(window, now):
        i, (d_q, d_bias), new = now
        if near:
            window = jax.tree.map(lambda w, x: jnp.concatenate([w, x[None]]), window, new)

        @partial(jax.checkpoint, prevent_cse=False)
        def by_column(carry, now):
            n, (d_k, d_v, d_any), d_block_bias = now
            j = n + i + grid.start if near else n
            seen = (low[i] <= j) & (j < high[i])
            d_of_block = d_any if d_block_bias is None else d_block_bias

            def add(carry):
                return step(carry, i, j, d_q, d_k, d_v, d_of_block)

            return lax.cond(seen, add, lambda carry: carry, carry), None

        numbers = jnp.arange(grid.length)
        total, _ = lax.scan(by_column, start, (numbers, window, d_bias))
        if near:
            window = jax.tree.map(lambda w: w[1:], window)
        return window, total

    _, totals = lax.scan(by_row, column, (jnp.arange(grid.rows), row, new))
    return totals


def _only_block(step, start, row, column):
    """Return `_loop` of a single block."""
    (d_q, d_block_bias), (d_k, d_v, d_any) = jax.tree.map(lambda x: x[0], (row, column))
    d_bias = d_any if d_block_bias is None else d_block_bias[0]
    gradients = step(start, 0, 0, d_q, d_k, d_v, d_bias)
    return jax.tree.map(lambda x: x[None], gradients)


def _window_of_columns(grid, column):
    """Return the columns of the first row without its last, and the column that each row adds.

    A row's columns are those of the row before, moved by one. Kept in a carry, they have a gradient
    that costs as much as the columns that a row sees, not as many as there are.
    """
    ends = grid.rows + grid.length - 1 - grid.columns + grid.start

    def cut(x):
        widths = [(0, 0, 0)] * x.ndim
        widths[0] = (-grid.start, ends, 0)
        zero = jnp.zeros((), x.dtype)
        return lax.pad(x, zero, widths)

    every = jax.tree.map(cut, column)
    remaining = grid.length - 1
    added = jax.tree.map(lambda x: x[remaining:], every)
    return jax.tree.map(lambda x: x[:remaining], every), added


def _grid(how, q, k, near):
    rows = math.ceil(q.shape[1] / how.rows)
    columns = math.ceil(k.shape[1] / how.columns)
    if near and how.near is not None:
        first, last = how.near
        start = first // how.columns
        end = (how.rows - 1 + last) // how.columns + 1
        if end - start < columns:
            return _Grid(rows, columns, start, end - start)
    return _Grid(rows, columns, None, columns)


def _cuts(how, k):
    """Return the functions that cut queries, keys, values and bias into blocks."""
    groups = k.shape[2]
    queries = partial(_rows, how, groups)
    bias = partial(_table, how, groups)

    def places(x):
        # A product with NaN is NaN even if its weight is 0.
        finite = jnp.where(jnp.isfinite(x), x, 0)
        blocks = _blocks(finite, 1, how.columns)
        return blocks.transpose(1, 0, 3, 2, 4)  # (columns, batch, groups, places, size)

    return queries, places, places, bias


def _cut_all(cuts, arrays) -> list[Any]:
    return [x if x is None else cut(x) for cut, x in zip(cuts, arrays, strict=True)]


def _strange(q, k, v, first, last, mask):
    """Return which queries see a place that is not finite, (batch, time, heads or 1)."""
    finite = jnp.isfinite(k).all(-1) & jnp.isfinite(v).all(-1)
    strange = ~finite  # (batch, places, groups)
    if mask is not None and mask.shape[2] == 1:  # padding: no time x places
        strange &= mask.any((1, 2))[..., None]
    elif mask is not None:
        at = jnp.arange(k.shape[1])[None, None]
        in_range = (first[..., None] <= at) & (at < last[..., None])
        seen = mask & in_range[:, None]
        of_places = strange.any(-1)[:, None, None]
        return (seen & of_places).any(-1).mT
    counts = jnp.cumsum(strange, axis=1)
    counts = jnp.pad(counts, ((0, 0), (1, 0), (0, 0)))
    before = jnp.take_along_axis(counts, first[..., None], 1)
    until = jnp.take_along_axis(counts, last[..., None], 1)
    of_groups = jnp.less(before, until)
    heads_of_group = q.shape[2] // k.shape[2]
    return jnp.repeat(of_groups, heads_of_group, 2)


def _fixed(how, k, fixed):
    """Return the bias of a block, the places its queries may see, and the blocks a row sees."""
    first, last, mask, _, positions = fixed
    first = _blocks(first, 1, how.rows)
    last = _blocks(last, 1, how.rows)
    bounds = _bounds(how, k.shape[1], first, last)
    table = None if mask is None else _table(how, k.shape[2], mask)

    def allowed(i, j):
        place = (j * how.columns + jnp.arange(how.columns))[None, None]
        after_first = first[:, i, :, None] <= place
        before_last = place < last[:, i, :, None]
        seen = after_first & before_last
        seen = seen[:, None, None]  # (batch or 1, 1, 1, queries, places)
        if table is None:
            return seen
        return seen & _at(table, i, j)

    if positions is None:
        return _at, allowed, bounds
    queries, keys, read = positions
    queries = _blocks_of_positions(queries, how.rows)
    keys = _blocks_of_positions(keys, how.columns)

    def of_positions(bias, i, j):
        return _grouped(k.shape[2], bias(queries[i], keys[j], read))

    return of_positions, allowed, bounds


def _scores(how, q, k, bias):
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scale = how.scoring.scale
    if q.dtype == wide:  # as in `attention._scaled_products`, for scores of 1e10 and more
        q = q * scale
        scale = 1
    products = jnp.einsum("bgrqd,bgkd->bgrqk", q, k, preferred_element_type=wide)
    return how.scoring.capped(products * scale, bias)


def _mix(p, v):
    return jnp.einsum("bgrqk,bgkd->bgrqd", p.astype(v.dtype), v, preferred_element_type=p.dtype)


def _bounds(how, places, first, last):
    """Return the first column that each row of blocks sees, and the column after its last."""
    some = first < last
    lowest = jnp.where(some, first, places).min((0, 2), initial=places)
    start = lowest // how.columns
    highest = jnp.where(some, last, 0).max((0, 2), initial=0)
    end = -(-highest // how.columns)
    return start, end


def _blocks_of_positions(at, size):
    """Return (blocks, ..., size) of positions (..., time)."""
    return jnp.moveaxis(_blocks(at, at.ndim - 1, size), -2, 0)


def _drop(how, key, p, at):
    if key is None:
        return p
    keep = 1 - how.scoring.dropout_rate
    stays = bernoulli(jax.random.fold_in(key, at), keep, p.shape)
    return jnp.where(stays, p / keep, 0)


def _blocks(x, axis, block):
    """Pad an axis with zeros and divide it into (blocks, block)."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % block)
    x = jnp.pad(x, widths)
    count = x.shape[axis] // block
    before = x.shape[:axis]
    after = x.shape[axis + 1 :]
    return x.reshape(*before, count, block, *after)


def _rows(how, groups, x):
    """(batch, time, heads, size) -> (rows, batch, groups, heads / groups, queries, size)."""
    x = _blocks(x, 1, how.rows)
    *before, heads, size = x.shape
    x = x.reshape(*before, groups, heads // groups, size)
    return x.transpose(1, 0, 3, 4, 2, 5)


def _join(x, q):
    """(rows, batch, groups, heads / groups, queries, size) -> (batch, time, heads, size)."""
    x = x.transpose(1, 0, 4, 2, 3, 5)
    x = lax.collapse(x, 3, 5)  # groups and heads of a group
    x = lax.collapse(x, 1, 3)  # rows and queries
    return x[:, : q.shape[1]]


def _table(how, groups, x):
    """(batch, heads, time, places) -> (rows, columns, batch, groups, heads / groups, ...)."""
    if isinstance(x, Partial):  # a function of positions
        return x
    rows = how.rows if x.shape[2] > 1 else 1
    x = _blocks(x, 3, how.columns)
    x = _blocks(x, 2, rows)
    return _grouped(groups, x).transpose(3, 5, 0, 1, 2, 4, 6)


def _grouped(groups, x):
    """(batch, heads, ...) -> (batch, groups, heads / groups, ...)."""
    batch, heads, *rest = x.shape
    if heads == 1:
        groups = 1
    return x.reshape(batch, groups, heads // groups, *rest)


def _at(table, i, j):
    if table is None:
        return None
    row = i if len(table) > 1 else 0
    return table[row, j]
