"""Mixture of experts: a router sends each token to a few of many layers."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, as_layer, compose, transformed
from jaxnet.initializers import Initializer, lecun_normal
from jaxnet.layers.dense import dense
from jaxnet.ops.precision import at_least_float32
from jaxnet.ops.product import rows as rows_of
from jaxnet.services import checks
from jaxnet.services.checks.keywords import explain_keywords
from jaxnet.services.trees import describe
from jaxnet.transforms.copies import stacked_init


@explain_keywords
def moe(
    expert: Layer,
    experts: int,
    k: int,
    *,
    capacity: float | None = None,
    renormalize: bool | None = None,
    use_bias: bool = False,
    kernel_init: Initializer = lecun_normal(),
    name: str = "moe",
) -> Layer:
    """Return a mixture of experts: k of many copies of a layer process each token.

    A token is a vector along the last axis. The router, a dense layer, computes for
    each token the probability of each expert. The output is the sum of the outputs of the k most
    probable experts, weighted by these probabilities. An expert receives an array (tokens, width)
    and must process each token independently.

    Only the chosen experts are computed. Without `capacity`, the result is exact; it takes at most
    1.5 times the necessary rows, and copies of the experts' params. With `capacity`, each expert
    takes a fixed number of tokens in training, and adds nothing to the tokens beyond it. First
    choices come before second choices, and earlier tokens before later ones. Params are not copied
    then, so you can shard the experts over a mesh. In evaluation, no token is dropped.

    Input:
      x          (batch, ..., width)
      (x, mask)  lengths, integers (batch,) for x (batch, time, width), or booleans of the shape of
                 x without its last axis. Masked tokens are not sent to an expert, do not count in
                 the values below, and give zeros.

    `jn.collect` reports these values; add the first two to the loss, with factors such as 0.01
    and 0.001:
      balance  experts * sum(fraction of the choices * mean probability), 1 if experts are used
               equally and up to `experts` if they are not
      z        mean squared logsumexp of the router's logits, which keeps the logits small
      shares   fraction of all choices that each expert got, (experts,), before any are dropped
      dropped  fraction of the choices that were dropped

    Args:
      expert: Layer without state, such as an MLP; its output may have another width.
      experts: Number of experts, at least 1.
      k: Number of experts per token, at most `experts`.
      capacity: Number of tokens that an expert takes in training, as a multiple of an equal share,
        tokens * k / experts; for example 1.25. By default, no tokens are dropped.
      renormalize: Whether to divide the k probabilities by their sum, as in Mixtral. By default
        they are divided if k is above 1. With k = 1 the result would always be 1, and the router
        would not be trained.
      use_bias: Whether the router has a bias.
      kernel_init: Initializer of the router's kernel.
      name: Name of the layer.

    Params:
      router: kernel (width, experts), bias (experts,) with `use_bias`;
      experts: params of `expert`, with a leading axis of `experts`.

    Returns:
      A layer with outputs of the shape of x.

    Raises:
      ValueError: If `k` is above `experts`.
      ValueError: If `expert` has state.
      ValueError: If `expert` changes the number of tokens.

    Example:
      >>> def mlp(m, x):  # as in Mixtral: w1, w3 and w2
      ...     hidden = jax.nn.silu(m(jn.dense(16, use_bias=False, name="w1"), x))
      ...     hidden *= m(jn.dense(16, use_bias=False, name="w3"), x)
      ...     return m(jn.dense(x.shape[-1], use_bias=False, name="w2"), hidden)
      >>> net = moe(jn.compose(mlp), 8, 2)
      >>> x = jax.random.normal(jax.random.key(1), (3, 5, 4))
      >>> params, state = net.init(jax.random.key(0), x)
      >>> params["experts"]["w1"]["kernel"].shape, params["router"]["kernel"].shape
      ((8, 4, 16), (4, 8))
      >>> (y, values), _ = jn.collect(net).apply(params, state, x)
      >>> y.shape, sorted(values)
      ((3, 5, 4), ['balance', 'dropped', 'shares', 'z'])

    Reference: Shazeer et al. 2017, "Outrageously Large Neural Networks"; balance: Fedus et al.
    2021, "Switch Transformers"; z: Zoph et al. 2022, "ST-MoE"; blocks: Gale et al. 2022,
    "MegaBlocks"; layout: Jiang et al. 2024, "Mixtral of Experts".
    """
    expert = as_layer(expert, name, "expert")
    checks.at_least(name, "experts", experts)
    checks.between(name, "k", k, 1, experts, "the number of experts")
    checks.within(name, "capacity", capacity, "(0, inf)", optional=True)
    divide = k > 1 if renormalize is None else renormalize
    checks.check_options(name, renormalize=divide, use_bias=use_bias, kernel_init=kernel_init)
    router = dense(experts, use_bias=use_bias, kernel_init=kernel_init, name="router")
    copies = _experts(expert, experts, name)

    def forward(m, inputs):
        x, counts = _split(name, m, inputs)
        width = x.shape[-1]
        tokens = x.reshape(math.prod(x.shape[:-1]), width)
        number = tokens.shape[0]
        real = counts.reshape(number)
        tokens = jnp.where(real[:, None], tokens, 0)  # even if one is NaN
        logits = at_least_float32(m(router, tokens))  # (tokens, experts)
        probabilities = jax.nn.softmax(logits)
        _, chosen = jax.lax.top_k(jax.lax.stop_gradient(probabilities), k)  # (tokens, k)
        weights = jnp.take_along_axis(probabilities, chosen, -1)
        if divide:
            weights = weights / weights.sum(-1, keepdims=True)
        chosen = jnp.where(real[:, None], chosen, experts)
        # First choices of all tokens come before second ones.
        chosen = chosen.T.reshape(k * number)
        ranks, sizes = _ranks(chosen, experts)
        if m._in_training and capacity is not None:
            plan = _fixed(chosen, ranks, experts, capacity)
        else:
            plan = _blocks(chosen, ranks, sizes, experts)
        _report(m, k, real, logits, probabilities, sizes, plan)
        place = jnp.arange(k * number) % max(number, 1)
        source = jnp.zeros(plan.blocks * plan.rows, place.dtype)
        # Rows without a token compute the first token again; their outputs are not used.
        source = source.at[plan.slots].set(place, mode="drop", unique_indices=True)
        filled = tokens[source].reshape(plan.blocks, plan.rows, width)
        y = m.whole(copies, (filled, plan.owners))  # (blocks, rows, features)
        features = y.shape[-1]
        y = y.reshape(plan.blocks * plan.rows, features)
        y = y.at[plan.slots].get(mode="fill", fill_value=0)
        y = y.reshape(k, number, features)
        y = jnp.einsum("tk,ktf->tf", weights.astype(y.dtype), y)
        return y.reshape(*x.shape[:-1], features)

    return compose(forward, name=name, kind="moe")


ROWS = 128  # in a block; with fewer, copying its kernel takes longer than the rows saved


class _Plan(NamedTuple):
    """How the experts compute in blocks.

    Fields:
      slots: Row of each choice among the rows of all blocks; beyond them if it is dropped.
      blocks: Number of blocks.
      rows: Number of rows in each block.
      owners: Expert of each block; None if there is one block per expert, in order.
    """

    slots: jax.Array
    blocks: int
    rows: int
    owners: jax.Array | None


def _report(m, k: int, real, logits, probabilities, sizes, plan: _Plan) -> None:
    """Sow the losses of the router and how it divides the tokens."""
    experts = probabilities.shape[-1]
    total = jnp.maximum(real.sum(), 1)
    shares = sizes / (total * k)
    mean = jnp.where(real[:, None], probabilities, 0).sum(0) / total
    m.sow("balance", experts * (shares * mean).sum())
    z = jnp.square(jax.nn.logsumexp(logits, -1))
    m.sow("z", jnp.where(real, z, 0).sum() / total)
    m.sow("shares", shares)
    routed = (plan.slots < plan.blocks * plan.rows).sum()
    m.sow("dropped", 1 - routed / (total * k))


def _ranks(chosen: jax.Array, experts: int) -> tuple[jax.Array, jax.Array]:
    """Return how many earlier choices are of the same expert, and the number of choices of each.

    Args:
      chosen: Expert of each choice; the number of experts if there is none.
      experts: Number of experts.
    """
    sizes = jnp.zeros(experts + 1, jnp.int32).at[chosen].add(1)
    order = jnp.argsort(chosen, stable=True)
    starts = jnp.cumsum(sizes) - sizes
    sorted_ranks = jnp.arange(chosen.shape[0], dtype=jnp.int32) - starts[chosen[order]]
    ranks = jnp.zeros_like(sorted_ranks)
    ranks = ranks.at[order].set(sorted_ranks, unique_indices=True)
    return ranks, sizes[:experts]


def _fixed(chosen: jax.Array, ranks: jax.Array, experts: int, capacity: float) -> _Plan:
    """Plan one block per expert, with a fixed number of rows."""
    rows = max(math.ceil(capacity * chosen.shape[0] / experts), 1)
    fits = (ranks < rows) & (chosen < experts)
    slots = _apart(chosen * rows + ranks, fits, experts * rows)
    return _Plan(slots, experts, rows, None)


def _blocks(chosen: jax.Array, ranks: jax.Array, sizes: jax.Array, experts: int) -> _Plan:
    """Plan as many blocks per expert as its choices need; the total suffices for any division."""
    total = chosen.shape[0]
    rows = max(-(-total // (2 * experts)), 1)
    if isinstance(total, int):
        # Smaller blocks leave fewer rows empty, and copy more kernels.
        rows = max(min(rows, ROWS), -(-total // (5 * experts)))
        blocks = experts + (total - experts) // rows if total else 0
    else:  # symbolic in an export: at most one block of each expert is not full
        blocks = 3 * experts
    needed = -(-sizes // rows)
    ends = jnp.cumsum(needed)
    first = (ends - needed)[jnp.minimum(chosen, experts - 1)]
    slots = _apart(first * rows + ranks, chosen < experts, blocks * rows)
    owners = (ends[None] <= jnp.arange(blocks)[:, None]).sum(-1)
    return _Plan(slots, blocks, rows, jnp.minimum(owners, experts - 1))


def _apart(slots: jax.Array, fits: jax.Array, beyond: int) -> jax.Array:
    """Return the slots of choices that fit; each other choice gets its own slot beyond the last."""
    return jnp.where(fits, slots, beyond + jnp.arange(slots.shape[0]))


def _experts(expert: Layer, n: int, who: str) -> Layer:
    """Return copies of a layer, each of which computes one block (rows, width)."""

    def init(run, key, inputs):
        rows, _ = inputs
        one = jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype)
        params, state = stacked_init(run.init, key, one, n)
        if state:
            raise ValueError(
                f"{who}: expert must have no state, got {run.layer.name} with {', '.join(state)}; "
                "instead of batch norm use jn.layer_norm or jn.rms_norm"
            )
        return params, state

    def apply(run, params, state, inputs):
        rows, which = inputs
        if which is not None:
            params = jax.tree.map(lambda leaf: rows_of(leaf, which), params)

        def block(i, params, rows):
            y, after = run(params, state, rows, turn=i)
            if getattr(y, "ndim", 0) != 2 or y.shape[0] != rows.shape[0]:
                raise ValueError(
                    f"{who}: expert must map (tokens, width) to (tokens, features), got "
                    f"{describe(rows)} to {describe(y)}"
                )
            return y, after

        return jax.vmap(block)(jnp.arange(rows.shape[0]), params, rows)

    return transformed(expert, apply, kind="experts", init=init, name="experts", copies=n)


def _split(who: str, m: Any, inputs: Any) -> tuple[jax.Array, jax.Array]:
    """Return the tokens, and which of them count."""
    x, mask = inputs, None
    if isinstance(inputs, tuple | list):
        if len(inputs) != 2:
            raise ValueError(f"{who}: expected x or (x, mask), got {len(inputs)} entries")
        x, mask = inputs
    checks.check_rank(who, x, 2)
    checks.check_floats(who, x)
    if m.stream is not None:
        if mask is not None:
            m._not_in_stream(
                "has a mask; with ragged=True the input already says which steps count"
            )
        mask = m.stream.steps
    if mask is None:
        return x, jnp.ones(x.shape[:-1], bool)
    if getattr(mask, "dtype", None) == jnp.bool_ and mask.shape == x.shape[:-1]:
        return x, mask
    are_lengths = hasattr(mask, "dtype") and jnp.issubdtype(mask.dtype, jnp.integer)
    if x.ndim != 3 or not are_lengths or mask.shape != x.shape[:1]:
        raise ValueError(
            f"{who}: a mask is lengths, integers ({x.shape[0]},) for x (batch, time, width), or "
            f"booleans {x.shape[:-1]}, got {describe(mask)} for x {describe(x)}"
        )
    checks.check_range(mask, x.shape[1] + 1, f"{who}: lengths")
    return x, jnp.arange(x.shape[1])[None] < mask[:, None]
