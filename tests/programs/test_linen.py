"""The same programs in Flax's Linen, with copied weights: values, gradients, running averages."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import close, draw
from tests.programs.common import agree

pytest.importorskip("flax")
from flax import linen as nn  # noqa: E402
from flax.training.train_state import TrainState  # noqa: E402

KEY = jax.random.key(18)


def array(*shape, seed=0):
    return jnp.asarray(draw(*shape, seed=seed), jnp.float32)


class LinenResidual(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        y = nn.Conv(3, (3, 3), name="conv")(x)
        y = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name="norm")(y)
        return nn.Dense(2, name="head")((x + nn.relu(y)).mean((1, 2)))


def residual(m, x):
    y = m(jn.conv(3, 3, name="conv"), x)
    y = m(jn.batch_norm(name="norm"), y)
    return m(jn.dense(2, name="head"), (x + jax.nn.relu(y)).mean((1, 2)))


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_a_residual_net_with_batch_norm(train):
    """The new averages are compared as values: only Linen's have a gradient."""
    x, net, linen = array(4, 5, 5, 3), jn.compose(residual), LinenResidual()
    params, state = net.init(KEY, x)

    def ours(params):
        y, after = net.apply(params, state, x, train=train)
        return y, jax.lax.stop_gradient(after["norm"])

    def theirs(params):
        variables = {"params": params, "batch_stats": state}
        y, after = linen.apply(variables, x, train, mutable=["batch_stats"])
        return y, jax.lax.stop_gradient(after["batch_stats"]["norm"])

    agree(ours, theirs, params, bound=1e-4)


@pytest.mark.slow
def test_attention_of_two_sequences_with_a_mask():
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x, memory, mask):
            return nn.MultiHeadDotProductAttention(2, name="attention")(
                x, memory, mask=mask[:, None]
            )

    def forward(m, x, memory, mask):
        return m(jn.multi_head_attention(2, name="attention"), x, memory=memory, mask=mask)

    x, memory = array(2, 3, 4), array(2, 5, 4, seed=1)
    mask = jnp.broadcast_to(jnp.arange(5) < jnp.array([2, 5])[:, None, None], (2, 3, 5))
    net = jn.compose(forward)
    params, state = net.init(KEY, (x, memory, mask))
    agree(
        lambda params, x: net.apply(params, state, (x, memory, mask))[0],
        lambda params, x: Linen().apply({"params": params}, x, memory, mask),
        params,
        x,
    )


def test_a_loop_that_shares_its_params():
    """`nn.scan` with params broadcast, and `m.scan`."""

    class Turn(nn.Module):
        @nn.compact
        def __call__(self, x, step):
            return nn.tanh(nn.Dense(4, name="cell")(x) + step), x.mean()

    loop = nn.scan(Turn, variable_broadcast="params", split_rngs={"params": False})

    def turn(m, x, step):
        return jnp.tanh(m(jn.dense(4, name="cell"), x) + step), x.mean()

    net = jn.compose(lambda m, x, steps: m.scan(turn, x, steps), name="net")
    x, steps = array(3, 4), jnp.arange(3.0)
    params, state = net.init(KEY, (x, steps))
    agree(
        lambda params, x: net.apply(params, state, (x, steps))[0],
        lambda params, x: loop().apply({"params": params}, x, steps),
        params,
        x,
    )


def test_a_recurrent_net_over_time():
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="head")(nn.RNN(nn.SimpleCell(4, name="cell"))(x))

    def forward(m, x):
        carry = jnp.zeros((len(x), 4))

        def turn(m, h, x):
            h = jnp.tanh(m(jn.dense(4, use_bias=False, name="h"), h) + m(jn.dense(4, name="i"), x))
            return h, h

        _, y = m.scan(turn, carry, x.swapaxes(0, 1))
        return m(jn.dense(2, name="head"), y.swapaxes(0, 1))

    x, net = array(2, 5, 3), jn.compose(forward)
    params, state = net.init(KEY, x)

    def theirs(params):
        cell = {"h": params["h"], "i": params["i"]}
        return Linen().apply({"params": {"cell": cell, "head": params["head"]}}, x)

    agree(lambda params: net.apply(params, state, x)[0], theirs, params)


def test_a_diffusion_net_with_a_time_and_a_label():
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x, t, label):
            h = nn.Dense(6, name="x")(x) + nn.Dense(6, name="t")(t)
            h = nn.LayerNorm(epsilon=1e-5, name="norm")(h + nn.Embed(3, 6, name="label")(label))
            return nn.Dense(4, name="out")(nn.silu(h))

    def denoise(m, x, t, label):
        h = m(jn.dense(6, name="x"), x) + m(jn.dense(6, name="t"), t)
        h = m(jn.layer_norm(name="norm"), h + m(jn.embedding(3, 6, name="label"), label))
        return m(jn.dense(4, name="out"), jax.nn.silu(h))

    given = array(5, 4), array(5, 1, seed=1), jnp.array([0, 1, 2, 1, 0])
    net = jn.compose(denoise)
    params, state = net.init(KEY, given)
    agree(
        lambda params: net.apply(params, state, given)[0],
        lambda params: Linen().apply({"params": params}, *given),
        params,
        bound=1e-4,
    )


def test_one_table_reads_and_writes_words():
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            words = nn.Embed(7, 4, name="words")
            return words.attend(nn.tanh(nn.Dense(4, name="mix")(words(tokens))))

    words = jn.embedding(7, 4, tied=True, name="words")
    net = jn.compose(
        lambda m, tokens: m(words, jnp.tanh(m(jn.dense(4, name="mix"), m(words, tokens)))),
        name="language_model",
    )
    tokens = jnp.array([[0, 3, 5], [6, 1, 2]])
    params, state = net.init(KEY, tokens)
    agree(
        lambda params: net.apply(params, state, tokens)[0],
        lambda params: Linen().apply({"params": params}, tokens),
        params,
    )


def test_copies_of_a_net_by_vmap():
    class Member(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="last")(nn.tanh(nn.Dense(5, name="first")(x)))

    ensemble = nn.vmap(
        Member, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=3
    )
    member = jn.serial(jn.dense(5, name="first"), jnp.tanh, jn.dense(2, name="last"))
    net, x = jn.ensemble(member, 3), array(4, 3)
    params, state = net.init(KEY, x)
    agree(
        lambda params: net.apply(params, state, x)[0],
        lambda params: ensemble().apply({"params": params}, x),
        params,
    )


@pytest.mark.slow
def test_a_train_state_of_flax_holds_our_apply():
    net, linen = jn.serial(jn.dense(5), jnp.tanh, jn.dense(2)), None
    x, y = array(6, 3), array(6, 2, seed=1)
    params, _ = net.init(KEY, x)

    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="dense_1")(nn.tanh(nn.Dense(5, name="dense")(x)))

    linen = Linen()

    def trained(apply):
        @jax.jit
        def step(state):
            def loss(params):
                return jnp.mean((state.apply_fn(params, x) - y) ** 2)

            return state.apply_gradients(grads=jax.grad(loss)(state.params))

        state = TrainState.create(apply_fn=apply, params=params, tx=optax.adam(1e-2))
        for _ in range(3):
            state = step(state)
        return state.params

    ours = trained(lambda params, x: net.apply(params, {}, x)[0])
    close(ours, trained(lambda params, x: linen.apply({"params": params}, x)), 1e-5)


def test_a_struct_of_flax_holds_a_net():
    from flax import struct

    @struct.dataclass
    class Agent:
        params: dict
        steps: jax.Array
        net: jn.Layer = struct.field(pytree_node=False)

    net, x = jn.dense(2), array(3, 4)
    agent = Agent(net.init(KEY, x)[0], jnp.int32(0), net)

    @jax.jit
    def act(agent, x):
        y, _ = agent.net.apply(agent.params, {}, x)
        return y, agent.replace(steps=agent.steps + 1)

    y, after = act(agent, x)
    close(y, nn.Dense(2).apply({"params": agent.params}, x))
    assert after.net is net and int(after.steps) == 1


def test_dropout_of_a_loop_keeps_its_rate_as_theirs():
    """Their keys are others, so it is the numbers of entries that agree: none twice alike."""

    class Turn(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x, nn.Dropout(0.25, deterministic=False)(x)

    loop = nn.scan(Turn, variable_broadcast="params", split_rngs={"dropout": True}, length=4)
    x = jnp.ones(500)
    _, theirs = loop().apply({}, x, None, rngs={"dropout": KEY})
    net = jn.compose(lambda m, x: m.scan(lambda m, x, _: (x, m(jn.dropout(0.25), x)), x, length=4))
    (_, ours), _ = net.apply({}, {}, x, key=KEY, train=True)
    for masks in (np.asarray(theirs), np.asarray(ours)):
        assert set(np.unique(masks)) == {0, np.float32(1 / 0.75)}
        assert len(np.unique(masks, axis=0)) == 4
        assert abs((masks == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / masks.size)
