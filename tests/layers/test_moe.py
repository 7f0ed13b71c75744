"""`moe` against the mixture that computes every expert for every token."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import KEY, close, jit_apply, refuses


def gated(m, x):
    hidden = jax.nn.silu(m(jn.dense(6, use_bias=False, name="w1"), x))
    hidden *= m(jn.dense(6, use_bias=False, name="w3"), x)
    return m(jn.dense(x.shape[-1], use_bias=False, name="w2"), hidden)


GATED = jn.compose(gated)


def drawn(net, shape=(3, 7, 4), *, skewed=0.0):
    x = jax.random.normal(jax.random.key(1), shape)
    params, state = net.init(KEY, x)
    if skewed:  # all tokens choose the same expert first
        x = jnp.abs(x)
        params["router"]["kernel"] = params["router"]["kernel"].at[:, 1].set(skewed)
    return params, state, x


def dense_mixture(params, x, k, divide=True):
    """Mixtral's formula: a softmax over the k largest logits; all experts are computed."""
    logits = x @ params["router"]["kernel"]
    if divide:
        least = jnp.sort(logits, -1)[..., -k, None]
        weights = jax.nn.softmax(jnp.where(logits >= least, logits, -jnp.inf))
    else:
        weights = jax.nn.softmax(logits)
        weights = jnp.where(weights >= jnp.sort(weights, -1)[..., -k, None], weights, 0)
    w1, w2, w3 = (params["experts"][name]["kernel"] for name in ("w1", "w2", "w3"))
    hidden = jax.nn.silu(jnp.einsum("...d,edh->...eh", x, w1))
    hidden = hidden * jnp.einsum("...d,edh->...eh", x, w3)
    return jnp.einsum("...e,...eh,ehd->...d", weights, hidden, w2)


@pytest.mark.fast_cases("usual-skewed")
@pytest.mark.parametrize("skewed", [0.0, 9.0], ids=["drawn", "skewed"])
@pytest.mark.parametrize(
    ("n", "k", "shape"),
    [
        (5, 2, (3, 7, 4)),
        (8, 3, (1, 2, 4)),
        (3, 1, (11, 4)),
    ],
    ids=["usual", "few tokens", "one expert each"],
)
def test_values_and_gradients_are_those_of_the_dense_mixture(x64, n, k, shape, skewed):
    net = jn.moe(GATED, n, k, renormalize=True)
    params, state, x = drawn(net, shape, skewed=skewed)
    mark = jax.random.normal(jax.random.key(2), x.shape)

    def both(run):
        def total(params, x):
            y = run(params, x)
            return (y * mark).sum(), y

        return jax.jit(jax.grad(total, (0, 1), has_aux=True))(params, x)

    ours = both(lambda params, x: net.apply(params, state, x)[0])
    close(ours, both(lambda params, x: dense_mixture(params, x, k)), 1e-9, 1e-12)


@pytest.mark.slow
def test_probabilities_that_are_not_renormalized():
    net = jn.moe(GATED, 5, 2, renormalize=False)
    params, state, x = drawn(net)
    y, _ = jit_apply(net, params, state, x)
    np.testing.assert_allclose(y, dense_mixture(params, x, 2, divide=False), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [0.4, 1.25])
def test_tokens_beyond_the_capacity_are_dropped_in_training(capacity):
    n, k = 4, 2
    net = jn.moe(GATED, n, k, capacity=capacity)
    params, state, x = drawn(net, (13, 4))
    (y, values), _ = jit_apply(jn.collect(net), params, state, x, train=True)
    room = [int(np.ceil(capacity * 13 * k / n))] * n
    logits = np.asarray(x @ params["router"]["kernel"], float)
    chosen = np.argsort(-logits, -1)[:, :k]
    weights = np.exp(np.take_along_axis(logits, chosen, -1))
    weights /= weights.sum(-1, keepdims=True)
    wanted, dropped = np.zeros(x.shape), 0
    for choice in range(k):  # first choices first
        for token in range(13):
            expert = chosen[token, choice]
            if not room[expert]:
                dropped += 1
                continue
            room[expert] -= 1
            here = jax.tree.map(lambda leaf, e=expert: leaf[e], params["experts"])
            wanted[token] += weights[token, choice] * GATED.apply(here, {}, x[token][None])[0][0]
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values["dropped"], dropped / 26, atol=1e-6)
    assert dropped > 0 or capacity > 1
    exact, _ = jit_apply(net, params, state, x)
    np.testing.assert_allclose(exact, dense_mixture(params, x, k), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_reported_values_and_padding():
    net = jn.moe(GATED, 5, 2)
    params, state, x = drawn(net)
    lengths = jnp.array([7, 3, 0])
    (y, values), _ = jit_apply(jn.collect(net), params, state, (x, lengths))
    mask = np.arange(7) < np.asarray(lengths)[:, None]
    logits = np.asarray(x @ params["router"]["kernel"], float)[mask]  # (tokens, experts)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    counts = np.bincount(np.argsort(-logits, -1)[:, :2].ravel(), minlength=5)
    shares = counts / counts.sum()
    z = (np.log(np.exp(logits).sum(-1)) ** 2).mean()
    balance = 5 * (shares * probabilities.mean(0)).sum()
    close(values, {"balance": balance, "z": z, "shares": shares, "dropped": 0}, 1e-5, 1e-7)
    whole, _ = jit_apply(net, params, state, x)
    np.testing.assert_allclose(y, np.where(mask[..., None], whole, 0), rtol=1e-5, atol=1e-6)
    same, _ = jit_apply(net, params, state, (x, jnp.asarray(mask)))
    np.testing.assert_array_equal(same, y)


@pytest.mark.slow
def test_padding_may_be_nan():
    net = jn.moe(jn.dense(3), 2, 1)
    x = jnp.ones((2, 3, 3))
    lengths = jnp.array([0, 3])
    params, state = net.init(jax.random.key(0), (x, lengths))
    run = jax.jit(lambda p, x: net.apply(p, state, (x, lengths))[0])
    value, slope = jax.value_and_grad(lambda p: jnp.sum(run(p, x.at[0].set(jnp.nan))[0]))(params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((value, slope)))


@pytest.mark.slow
def test_padding_takes_no_room():
    net = jn.moe(GATED, 2, 1, capacity=1.0)
    params, state, x = drawn(net, (1, 8, 4), skewed=9.0)
    mask = jnp.arange(8)[None] >= 4  # the four tokens of padding come first
    (_, values), _ = jit_apply(jn.collect(net), params, state, (x, mask), train=True)
    assert float(values["dropped"]) == 0
    assert values["shares"].tolist() == [0, 1]


def flops(net, rows=512, **mode):
    args = *jax.eval_shape(net.init, KEY, jn.spec((rows, 32))), jn.spec((rows, 32))
    return jax.jit(partial(net.apply, **mode)).lower(*args).cost_analysis()["flops"]


@pytest.mark.slow
def test_only_the_chosen_experts_are_computed():
    wide = jn.models.mlp([256, 32])
    one = flops(wide)
    assert flops(jn.moe(wide, 32, 1)) < 1.8 * one < flops(jn.ensemble(wide, 32)) / 10

    assert flops(jn.moe(wide, 32, 1, capacity=1.0), train=True) < 1.5 * one


@pytest.mark.slow
def test_many_tokens_take_a_fifth_more_rows_than_there_are():
    mlp = jn.models.mlp([64, 32])
    assert flops(jn.moe(mlp, 4, 2), 4096) < 1.22 * flops(mlp, 2 * 4096)


@pytest.mark.slow
def test_below_cast_and_repeat():
    net = jn.repeat(jn.cast(jn.residual(jn.moe(GATED, 4, 2)), jnp.bfloat16), 3)
    params, state, x = drawn(net)
    (y, values), _ = jit_apply(jn.collect(net), params, state, x)
    assert y.dtype == x.dtype
    assert values["moe/shares"].shape == (3, 4)
    for i in range(3):
        here = jax.tree.map(lambda leaf, i=i: leaf[i], params)
        x = x + dense_mixture(here["moe"], x, 2)
    np.testing.assert_allclose(y, x, rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_experts_draw_their_own_numbers():
    net = jn.moe(jn.serial(jn.dropout(0.5), jn.dense(4)), 3, 1, capacity=3.0)
    params, state, x = drawn(net)
    y, _ = jit_apply(net, params, state, x, key=KEY, train=True)
    other, _ = jit_apply(net, params, state, x, key=jax.random.key(5), train=True)
    assert not np.allclose(y, other)


@pytest.mark.slow
def test_an_objective_balances_the_experts():
    net = jn.moe(jn.dense(3), 4, 1)

    def objective(m, batch):
        x, labels = batch
        logits, values = m(jn.collect(net), x)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return loss + values["balance"] + 0.001 * values["z"], {}

    params, _, x = drawn(net, (64, 4), skewed=2.0)
    trainer = jn.trainer(jn.compose(objective), optax.adam(0.1))
    batch = x, jnp.arange(64) % 3
    train_state = trainer.init(KEY, batch, params={"moe": params})

    def shares(train_state):
        (_, values), _ = jit_apply(jn.collect(net), train_state.params["moe"], {}, x)
        return values["shares"]

    assert float(shares(train_state)[1]) > 0.95
    for _ in range(40):
        train_state, _ = trainer.step(train_state, batch)
    assert float(shares(train_state).max()) < 0.6


test_what_does_not_fit = refuses([
    (lambda: jn.moe(GATED, 3, 4), "moe: k must be 1 to 3, the number of experts, got 4"),
    (lambda: drawn(jn.moe(jn.batch_norm(), 3, 2)),
     "moe: expert must have no state, got batch_norm with mean, var"),
    (lambda: drawn(jn.moe(lambda x: x[0], 3, 2)), "expert must map"),
    (lambda: jn.moe(GATED, 3, 2).init(KEY, (jn.spec((2, 5, 4)), jn.spec((2, 5)))),
     r"a mask is lengths, integers \(2,\)"),
])  # fmt: skip


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, optax, jaxnet as jn
from jax.sharding import PartitionSpec as P

net = jn.moe(jn.models.mlp([16, 8], jax.nn.silu), 4, 2, capacity=1.5, name="mixture")
x = jax.random.normal(jax.random.key(1), (16, 8))
def objective(m, batch):
    y, values = m(jn.collect(net), batch)
    return jnp.square(y - jnp.roll(batch, 1, -1)).sum(-1) + 0.01 * values["balance"], {}

trainer = jn.trainer(jn.compose(objective), optax.adam(0.01))
def run(place):
    train_state, batch = place(trainer.init(jax.random.key(0), x), x)
    for _ in range(3):
        train_state, metrics = trainer.step(train_state, batch)
    y, _ = jax.jit(net.apply)(train_state.params["mixture"], {}, batch)
    return metrics["loss"], y, train_state.params

mesh = jax.make_mesh((2,), ("both",))
rules = {"*/experts/*": P("both"), "*": P()}
def place(train_state, x):
    train_state = jn.distributed.put(train_state, mesh, rules)
    return train_state, jn.distributed.put(x, mesh, P("both"))

alone, shared = run(lambda *both: both), run(place)
kernel = shared[2]["mixture"]["experts"]["dense"]["kernel"]
assert kernel.addressable_shards[0].data.shape == (2, 8, 16), kernel.sharding
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), alone, shared)
"""


@pytest.mark.slow
def test_experts_are_sharded(on_devices):
    on_devices(SHARDED, 2)
