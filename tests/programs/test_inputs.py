"""Nets of several inputs, and batches that are dicts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import close

KEY = jax.random.key(3)
RNG = np.random.default_rng(3)
X = jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32)
T = jnp.asarray(RNG.uniform(size=4), jnp.float32)
LABEL = jnp.array([0, 2, 1, 2])


def denoise(m: jn.Scope, x, t, label=None):
    """A step of a diffusion, conditioned on time and perhaps on a label."""
    hidden = m(jn.dense(8, name="x"), x) + m(jn.dense(8, name="t"), t[:, None])
    if label is not None:
        hidden = hidden + m(jn.embedding(3, 8), label)
    return m(jn.dense(6, name="out"), jax.nn.silu(hidden))


def by_hand(params, x, t, label=None):
    hidden = x @ params["x"]["kernel"] + params["x"]["bias"]
    hidden = hidden + t[:, None] @ params["t"]["kernel"] + params["t"]["bias"]
    if label is not None:
        hidden = hidden + params["embedding"]["embedding"][label]
    return jax.nn.silu(hidden) @ params["out"]["kernel"] + params["out"]["bias"]


NET = jn.compose(denoise)


@pytest.mark.parametrize("given", [
    (X, T, LABEL),
    [X, T, LABEL],
    {"x": X, "t": T, "label": LABEL},
    {"label": LABEL, "t": T, "x": X},
], ids=["tuple", "list", "dict", "dict in another order"])  # fmt: skip
def test_parts_come_in_order_or_by_name(given):
    params, state = NET.init(KEY, given)
    y, _ = NET.apply(params, state, given)
    close(y, by_hand(params, X, T, LABEL))


def test_a_part_may_be_missing():
    params, state = NET.init(KEY, (X, T))
    assert "embedding" not in params
    close(NET.apply(params, state, (X, T))[0], by_hand(params, X, T))
    close(NET.apply(params, state, (X, T, None))[0], by_hand(params, X, T))


@pytest.mark.parametrize("call", [
    lambda m, x: m(NET, x, T, LABEL),
    lambda m, x: m(NET, x, T, label=LABEL),
    lambda m, x: m(NET, x=x, t=T, label=LABEL),
    lambda m, x: m(jn.remat(NET), x, T, label=LABEL),
    lambda m, x: m(jn.cast(NET, jnp.float32), x, t=T, label=LABEL),
], ids=["in order", "one by name", "all by name", "remat", "cast"])  # fmt: skip
def test_inside_a_model_parts_are_arguments(call):
    net = jn.compose(call, name="model")
    params, state = net.init(KEY, X)
    y, _ = net.apply(params, state, X)
    close(y, by_hand(params["denoise"], X, T, LABEL))


def test_a_sampler_calls_the_net_in_a_loop():
    def sample(m, noise):
        def turn(m, x, t):
            return x - 0.1 * m(NET, x, jnp.full(4, t)), None

        x, _ = m.scan(turn, noise, jnp.linspace(1, 0, 5))
        return x

    net = jn.compose(sample)
    params, state = net.init(KEY, X)
    x = X
    for t in jnp.linspace(1, 0, 5):
        x = x - 0.1 * by_hand(params["denoise"], x, jnp.full(4, t))
    close(net.apply(params, state, X)[0], x, 1e-5)


@pytest.mark.parametrize(("given", "words"), [
    ((X,), "needs the inputs"),
    (X, "without t"),
    ({"x": X, "time": T}, "no input of that name: time"),
    ((X, T, LABEL, X), "has the inputs \\(x, t, label\\), got 4"),
], ids=["one of a tuple", "an array", "another name", "too many"])  # fmt: skip
def test_what_does_not_fit_is_answered(given, words):
    with pytest.raises(TypeError, match=words):
        NET.init(KEY, given)


def test_a_default_is_an_option_and_not_a_part():
    nets = [jn.compose(lambda m, x, i=i: x * i, name="scaled") for i in (2.0, 3.0)]
    found = [net.apply({}, {}, X)[0] for net in nets]
    close(found[0] / 2, found[1] / 3)


DATA = {"image": np.asarray(X), "label": np.asarray(LABEL), "weight": np.ones(4, np.float32)}


def test_a_batch_that_is_a_dict_trains_as_a_pair():
    net = jn.dense(3)
    loss = jn.losses.cross_entropy
    named = jn.supervised(net, loss, inputs="image", targets="label")
    pairs = jn.supervised(net, loss)
    found = []
    for objective, data in ((named, DATA), (pairs, (DATA["image"], DATA["label"]))):
        trainer = jn.trainer(objective, optax.sgd(0.5))
        train_state = trainer.init(KEY, data)
        options = {"epochs": 3, "batch_size": 3, "progress": False}
        *_, last = jn.fit(trainer, train_state, data, **options)
        found.append((last.train_state.params, list(last.losses)))
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_a_tuple_of_names_gives_a_dict():
    def forward(m, image, weight):
        return m(jn.dense(3), image) * weight[:, None]

    net = jn.compose(forward)
    objective = jn.supervised(
        net, jn.losses.cross_entropy, inputs=("image", "weight"), targets="label"
    )
    params, state = objective.init(KEY, DATA)
    (values, _), _ = objective.apply(params, state, DATA)
    wanted = jn.losses.cross_entropy(net.apply(params, {}, (X, jnp.ones(4)))[0], LABEL)
    close(values, wanted)


def test_what_the_messages_say_to_write_runs():
    """A missing input, a name for a layer of one input, a first input that is a dict."""
    params, state = NET.init(KEY, (X, T, LABEL))
    with pytest.raises(TypeError, match=r"Write net.apply\(params, state, \(x, t, label\)\)"):
        NET.apply(params, state, X)
    x, t, label = X, T, LABEL
    close(NET.apply(params, state, (x, t, label))[0], by_hand(params, X, T, LABEL))

    def total(m, pair):
        return m(jn.dense(3), pair[0] + pair[1])

    single = jn.compose(total)
    with pytest.raises(TypeError, match=r"m\(total, \(x, y\)\), or make it by jn.compose from"):
        jn.compose(lambda m, x: m(single, x, y=x), name="outer").init(KEY, X)
    outer = jn.compose(lambda m, x: m(single, (x, x)), name="outer")
    named = jn.compose(lambda m, x, y: m(jn.dense(3), x + y), name="total")
    by_name = jn.compose(lambda m, x: m(named, x, y=x), name="outer")
    params, state = outer.init(KEY, X)
    close(outer.apply(params, state, X)[0], by_name.apply(params, state, X)[0], 0)

    record = jn.compose(lambda m, fields, scale: fields["a"] * scale, name="record")
    fields, scale = {"a": X}, jnp.ones(())
    with pytest.raises(TypeError, match=r"is a dict itself goes into a tuple, as in \(fields,\)"):
        record.apply({}, {}, fields)
    close(record.apply({}, {}, ({"a": X}, scale))[0], X)
