"""Graphs, sets, mixtures, memories, routes: inputs that are more than an array."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.helpers import close, draw
from tests.programs.common import agree, dense, mlp

KEYS_MAY_REPEAT = True  # both programs draw with one key
KEY = jax.random.key(17)
X = jnp.asarray(draw(5, 4), jnp.float32)


class Graph(NamedTuple):
    nodes: jax.Array
    senders: jax.Array
    receivers: jax.Array


GRAPH = Graph(X, jnp.array([0, 1, 2, 2, 4, 3]), jnp.array([1, 2, 0, 3, 3, 4]))


@pytest.mark.slow
def test_messages_on_a_graph():
    """A graph is a record, so it is one input; two rounds share no params."""

    def round_(m, graph):
        ends = [graph.nodes[graph.senders], graph.nodes[graph.receivers]]
        messages = jnp.tanh(m(jn.dense(6, name="message"), jnp.concatenate(ends, -1)))
        sums = jax.ops.segment_sum(messages, graph.receivers, len(graph.nodes))
        both = jnp.concatenate([graph.nodes, sums], -1)
        return graph._replace(nodes=m(jn.dense(4, name="update"), both))

    rounds = [jn.compose(round_, name=f"round_{i}") for i in range(2)]
    net = jn.compose(lambda m, graph: m(rounds[1], m(rounds[0], graph)).nodes.mean(0), name="net")
    params, state = net.init(KEY, GRAPH)

    def by_hand(params):
        x = X
        adjacent = np.zeros((5, 5), np.float32)
        adjacent[np.asarray(GRAPH.receivers), np.asarray(GRAPH.senders)] = 1
        for i in range(2):
            part = params[f"round_{i}"]
            pairs = jnp.concatenate(
                [jnp.broadcast_to(x, (5, 5, 4)), jnp.broadcast_to(x[:, None], (5, 5, 4))], -1
            )
            sums = (adjacent[..., None] * jnp.tanh(dense(part["message"], pairs))).sum(1)
            x = dense(part["update"], jnp.concatenate([x, sums], -1))
        return x.mean(0)

    agree(lambda params: net.apply(params, state, GRAPH)[0], by_hand, params)


@pytest.mark.slow
def test_rounds_on_a_graph_share_params_by_scan():
    """The state of the nodes is carried, the edges come from outside of the loop."""

    def forward(m, nodes, senders, receivers):
        def turn(m, x, _):
            sums = jax.ops.segment_sum(
                m(jn.dense(4, name="message"), x)[senders], receivers, len(x)
            )
            return m(jn.layers.gru_cell(4, name="update"), (x, sums))[1], None

        return m.scan(turn, nodes, length=2)[0]

    net = jn.compose(forward)
    params, state = net.init(KEY, tuple(GRAPH))
    cell = jn.layers.gru_cell(4)

    def by_hand(params):
        x = X
        for _ in range(2):
            messages = dense(params["message"], x)
            pairs = zip(GRAPH.senders.tolist(), GRAPH.receivers.tolist(), strict=True)
            sums = jnp.zeros((5, 4))
            for sender, receiver in pairs:
                sums = sums.at[receiver].add(messages[sender])
            x = cell.apply(params["update"], {}, (x, sums))[0][1]
        return x

    agree(lambda params: net.apply(params, state, tuple(GRAPH))[0], by_hand, params)


def test_a_set_with_a_mask():
    sets = jnp.asarray(draw(3, 5, 4), jnp.float32)
    mask = jnp.asarray([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], bool)

    def deep_set(m, elements, mask):
        codes = m(jn.serial(jn.dense(6), jnp.tanh, name="phi"), elements)
        return m(jn.dense(2, name="rho"), jnp.where(mask[..., None], codes, 0).sum(1))

    net = jn.compose(deep_set)
    params, state = net.init(KEY, (sets, mask))

    def by_hand(params):
        each = [
            jnp.tanh(dense(params["phi"]["dense"], x[:n])).sum(0)
            for x, n in zip(sets, (2, 5, 1), strict=True)
        ]
        return dense(params["rho"], jnp.stack(each))

    agree(lambda params: net.apply(params, state, (sets, mask))[0], by_hand, params)


@pytest.mark.slow
def test_a_mixture_of_densities():
    targets = jnp.asarray(draw(5), jnp.float32)

    def mixture(m, x):
        hidden = jnp.tanh(m(jn.dense(6), x))
        names = "logits", "mean", "log_scale"
        return {name: m(jn.dense(3, name=name), hidden) for name in names}

    net = jn.compose(mixture)
    params, state = net.init(KEY, X)

    def ours(params):
        found, _ = net.apply(params, state, X)
        each = jax.scipy.stats.norm.logpdf(
            targets[:, None], found["mean"], jnp.exp(found["log_scale"])
        )
        return -jax.nn.logsumexp(jax.nn.log_softmax(found["logits"]) + each, axis=-1)

    def by_hand(params):
        hidden = jnp.tanh(dense(params["dense"], X))
        weight = jax.nn.softmax(dense(params["logits"], hidden))
        scale = jnp.exp(dense(params["log_scale"], hidden))
        z = (targets[:, None] - dense(params["mean"], hidden)) / scale
        return -jnp.log((weight * jnp.exp(-(z**2) / 2) / scale / jnp.sqrt(2 * jnp.pi)).sum(-1))

    agree(ours, by_hand, params, bound=1e-4)


def attention_by_hand(params, x, memory, mask):
    """Attention with a kernel (features, heads, size) for each of queries, keys and values."""
    q, k, v = (
        jnp.einsum("btd,dhf->bthf", a, params[name]["kernel"]) + params[name]["bias"]
        for name, a in (("query", x), ("key", memory), ("value", memory))
    )
    logits = jnp.einsum("bqhf,bkhf->bhqk", q, k) / jnp.sqrt(q.shape[-1])
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], logits, -1e30))
    y = jnp.einsum("bhqk,bkhf->bqhf", weights, v)
    return jnp.einsum("bqhf,hfd->bqd", y, params["out"]["kernel"]) + params["out"]["bias"]


@pytest.mark.slow
def test_attention_to_a_memory_with_a_mask():
    """Queries of one's own, a memory by name, lengths as a mask of booleans."""
    memory = jnp.asarray(draw(2, 5, 4), jnp.float32)
    mask = jnp.arange(5) < jnp.array([[2], [5]])

    def read(m, memory, mask):
        slots = m.param("slots", jn.initializers.normal(1.0), (3, 4))
        queries = jnp.broadcast_to(slots, (len(memory), 3, 4))
        whole = jnp.broadcast_to(mask[:, None], (len(memory), 3, 5))
        return m(jn.multi_head_attention(2), queries, memory=memory, mask=whole)

    net = jn.compose(read)
    params, state = net.init(KEY, (memory, mask))

    def by_hand(params):
        queries = jnp.broadcast_to(params["slots"], (2, 3, 4))
        return attention_by_hand(params["multi_head_attention"], queries, memory, mask)

    agree(lambda params: net.apply(params, state, (memory, mask))[0], by_hand, params)


@pytest.mark.slow
def test_an_expert_is_chosen_by_switch():
    """One example takes one route, by `lax.switch`; all of them exist."""
    experts = [jn.dense(3, name=f"expert_{i}") for i in range(3)]

    def routed(m, x):
        logits = m(jn.dense(3, name="router"), x)
        weight = jax.nn.softmax(logits)

        def one(x, choice):
            return jax.lax.switch(choice, [lambda x, e=e: m(e, x[None])[0] for e in experts], x)

        choice = logits.argmax(-1)
        chosen = jnp.take_along_axis(weight, choice[:, None], 1)
        return chosen * jax.lax.map(lambda pair: one(*pair), (x, choice))

    net = jn.compose(routed)
    params, state = net.init(KEY, X)
    assert set(params) == {"router", "expert_0", "expert_1", "expert_2"}

    def by_hand(params):
        weight = jax.nn.softmax(dense(params["router"], X))
        each = jnp.stack([dense(params[f"expert_{i}"], X) for i in range(3)], 1)
        chosen = jax.nn.one_hot(weight.argmax(-1), 3) * weight
        return (chosen[..., None] * each).sum(1)

    agree(lambda params: net.apply(params, state, X)[0], by_hand, params)


def test_a_branch_that_drops_gets_its_key_from_outside():
    """In training the message says what to write; that line runs then in both modes."""
    drop = jn.dropout(0.5)

    def skipped(m, x, key=0):
        keys = m.keys("dropout") if key else None
        call = (lambda x: m(drop, x, key=keys)) if key else (lambda x: m(drop, x))
        return jax.lax.cond(x.sum() > 0, call, lambda x: -x, x)

    x = jnp.ones((4, 6))
    with pytest.raises(ValueError, match=r"write m\(dropout, x, key=key\), with key = m.keys\("):
        jn.compose(skipped).apply({}, {}, x, key=KEY, train=True)
    net = jn.compose(lambda m, x: skipped(m, x, key=1), name="net")
    wanted, _ = drop.apply({}, {}, x, key=jn.child_key(KEY, "key/dropout"), train=True)
    close(net.apply({}, {}, x, key=KEY, train=True)[0], wanted)
    close(net.apply({}, {}, -x, key=KEY, train=True)[0], x)
    close(net.apply({}, {}, x)[0], x)


@pytest.mark.slow
def test_examples_of_other_lengths_one_by_one():
    """A net for one sequence, mapped over a batch: `vmap` around `apply`."""
    net = jn.compose(lambda m, x, n: m(jn.gru(4), (x[None], n[None]))[0][0], name="net")
    x, n = jnp.asarray(draw(3, 5, 2), jnp.float32), jnp.array([2, 5, 3])
    params, state = net.init(KEY, (x[0], n[0]))
    whole = jn.gru(4)

    def ours(params):
        return jax.vmap(lambda x, n: net.apply(params, state, (x, n))[0])(x, n)

    agree(ours, lambda params: whole.apply(params["gru"], {}, (x, n))[0][0], params)


@pytest.mark.slow
def test_a_neural_process_reads_a_context():
    def process(m, context, target):
        codes = m(jn.serial(jn.dense(6), jnp.tanh, jn.dense(3), name="encoder"), context).mean(1)
        wide = jnp.broadcast_to(codes[:, None], (*target.shape[:2], 3))
        return m(jn.dense(2, name="decoder"), jnp.concatenate([target, wide], -1))

    context, target = (jnp.asarray(draw(2, n, f), jnp.float32) for n, f in ((5, 2), (3, 1)))
    net = jn.compose(process)
    params, state = net.init(KEY, (context, target))

    def by_hand(params):
        code = mlp(params["encoder"], context).mean(1)
        first, rest = params["decoder"]["kernel"][:1], params["decoder"]["kernel"][1:]
        return target @ first + (code @ rest)[:, None] + params["decoder"]["bias"]

    agree(lambda params: net.apply(params, state, (context, target))[0], by_hand, params)


def test_weights_are_pruned_and_scored_by_a_straight_through_mask():
    """A lottery ticket: the mask is a param of one's own layer around a kernel."""

    def pruned(m, x):
        kernel = m.param("kernel", jn.initializers.normal(1.0), (4, 3))
        scores = m.param("scores", jn.initializers.normal(1.0), (4, 3))
        hard = (scores > 0).astype(x.dtype)
        soft = jax.nn.sigmoid(scores)
        return x @ (kernel * (soft + jax.lax.stop_gradient(hard - soft)))

    net = jn.compose(pruned)
    params, state = net.init(KEY, X)

    @jax.custom_jvp
    def step(scores):
        return jnp.heaviside(scores, 0.0)

    @step.defjvp
    def slope(primals, tangents):
        gate = jax.nn.sigmoid(primals[0])
        return step(*primals), gate * (1 - gate) * tangents[0]

    agree(
        lambda params: net.apply(params, state, X)[0],
        lambda params: X @ (params["kernel"] * step(params["scores"])),
        params,
    )
