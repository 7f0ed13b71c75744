"""rnn, lstm and gru against their own cells, with padding and states, and layers of any cell.

The values of all three are in tests/layer_values.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import initializers
from jaxnet.layers.lstm import forget_bias
from jaxnet.layers.recurrent import orthogonal_blocks
from tests.helpers import close, jit_apply, refused, refuses

KINDS = {
    "rnn": (jn.rnn, jn.layers.rnn_cell),
    "lstm": (jn.lstm, jn.layers.lstm_cell),
    "gru": (jn.gru, jn.layers.gru_cell),
}
each = pytest.mark.parametrize("kind", list(KINDS))
BATCH, TIME, INPUTS, FEATURES = 3, 6, 5, 4
GATES = {"rnn": 1, "lstm": 4, "gru": 3}


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def random_params(kind, inputs=INPUTS, features=FEATURES, seed=1):
    wide = GATES[kind] * features
    shapes = {"kernel": (inputs, wide), "recurrent_kernel": (features, wide), "bias": (wide,)}
    if kind == "gru":
        shapes["recurrent_bias"] = (features,)
    values = [0.5 * random(*shape, seed=seed + i) for i, shape in enumerate(shapes.values())]
    return dict(zip(shapes, map(jnp.asarray, values), strict=True))


def random_carry(kind, batch=BATCH, features=FEATURES, seed=7):
    h = random(batch, features, seed=seed)
    c = random(batch, features, seed=seed + 1)
    return {"c": jnp.asarray(c), "h": jnp.asarray(h)} if kind == "lstm" else jnp.asarray(h)


@pytest.mark.fast_cases("gru")
@each
def test_without_bias_is_with_biases_of_zero(kind, x64):
    params = random_params(kind)
    params |= {name: jnp.zeros_like(params[name]) for name in params if "bias" in name}
    x = random(BATCH, TIME, INPUTS)
    y, _ = jit_apply(KINDS[kind][0](FEATURES), params, {}, x)
    bare = {name: leaf for name, leaf in params.items() if "bias" not in name}
    close(jit_apply(KINDS[kind][0](FEATURES, use_bias=False), bare, {}, x)[0], y, 1e-10)


# Lengths


@pytest.mark.slow
@each
def test_padding_changes_nothing(kind, x64):
    """Not even NaN: the same numbers as each sequence alone, and no gradient beyond its end."""
    layer = KINDS[kind][0](FEATURES)
    params = random_params(kind)
    x = random(BATCH, TIME, INPUTS)
    lengths = np.array([4, 6, 1])
    beyond = np.arange(TIME) >= lengths[:, None]
    padded = jnp.asarray(np.where(beyond[..., None], np.nan, x))

    @jax.jit
    def run(params, x):
        return layer.apply(params, {}, {"x": x, "lengths": jnp.asarray(lengths)})[0]

    out = run(params, padded)
    assert (np.asarray(out["x"])[beyond] == 0).all()
    assert out["lengths"].tolist() == lengths.tolist()
    for i, n in enumerate(lengths):
        alone, _ = jit_apply(layer, params, {}, {"x": jnp.asarray(x[i : i + 1, :n])})
        close(out["x"][i, :n], alone["x"][0], 1e-13)
        close(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], out["final"]), alone["final"], 1e-13)

    def loss(params, x):
        return jnp.sin(run(params, x)["x"]).sum()

    slopes = jax.jit(jax.grad(loss, (0, 1)))
    found = slopes(params, padded)
    close(found, slopes(params, jnp.asarray(np.where(beyond[..., None], 0, x))), 1e-10)
    assert (np.asarray(found[1] != 0).all(-1) == ~beyond).all()
    assert not found[1][beyond].any()


@each
def test_a_sequence_of_length_0_keeps_its_initial_carry(kind, x64):
    layer = KINDS[kind][0](FEATURES)
    params = random_params(kind)
    initial = random_carry(kind)
    given = {"x": random(BATCH, TIME, INPUTS), "lengths": np.array([0, 6, 0]), "initial": initial}
    out, _ = jit_apply(layer, params, {}, given)
    assert (out["x"][0] == 0).all()
    assert (out["x"][2] == 0).all()
    kept = [jax.tree.map(lambda leaf: leaf[np.array([0, 2])], c) for c in (out["final"], initial)]
    close(*kept, 0)


# States


@pytest.mark.fast_cases("rnn")
@each
def test_two_halves_with_states_are_the_whole(kind, x64):
    layer = KINDS[kind][0](FEATURES)
    params = random_params(kind)
    x = random(BATCH, TIME, INPUTS)
    whole, _ = jit_apply(layer, params, {}, {"x": x, "initial": random_carry(kind)})
    a, _ = jit_apply(layer, params, {}, {"x": x[:, :2], "initial": random_carry(kind)})
    b, _ = jit_apply(layer, params, {}, {"x": x[:, 2:], "initial": a["final"]})
    close(jnp.concatenate([a["x"], b["x"]], 1), whole["x"], 1e-13)
    close(b["final"], whole["final"], 1e-13)
    kept = jn.start_stream(jn.stream(layer), jn.spec((BATCH, TIME, INPUTS)), {})
    assert {leaf.shape for leaf in jax.tree.leaves(kept)} == {(BATCH, FEATURES)}


@pytest.mark.fast_cases("gru")
@each
def test_cell_and_layer_draw_the_same_params(kind):
    layer, cell = KINDS[kind]
    key = jax.random.key(0)
    x = jn.spec((3, 6, 5))
    drawn = layer(4).init(key, x)[0]
    close(drawn, cell(4).init(key, (None, jn.spec((3, 5))))[0], 0)
    close(drawn, jn.recurrent(cell(4)).init(key, x)[0], 0)


@pytest.mark.slow
@each
def test_dtypes(kind):
    """The carry takes the dtype of the computation, whatever the initial carry's."""
    layer = KINDS[kind][0](FEATURES)
    params, _ = layer.init(jax.random.key(0), jn.spec((BATCH, TIME, INPUTS)))
    carry = jax.tree.map(lambda leaf: leaf.astype(np.float32), random_carry(kind))
    x = random(BATCH, TIME, INPUTS).astype(jnp.bfloat16)
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    for p, dtype in ((narrow, jnp.bfloat16), (params, jnp.float32)):
        out, _ = jit_apply(layer, p, {}, {"x": x, "initial": carry})
        assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype(dtype)}
    counts, _ = jit_apply(layer, params, {}, np.ones((BATCH, TIME, INPUTS), np.int32))
    assert counts.dtype == jnp.float32


# Fresh layers


@pytest.mark.slow
def test_recurrent_kernels_are_orthogonal_for_each_gate():
    kernel = orthogonal_blocks(jax.random.key(0), (6, 24))
    for gate in np.split(np.asarray(kernel), 4, 1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(6), atol=1e-6)
    a, b = np.split(np.asarray(kernel), 4, 1)[:2]
    assert np.abs(a - b).max() > 0.1
    close(jax.jit(lambda key: orthogonal_blocks(key, (6, 24)))(jax.random.key(0)), kernel, 1e-5)
    # Uniformly distributed, so of mean 0: the sign of R matters, without which the mean is not.
    many = np.stack([orthogonal_blocks(jax.random.key(i), (2, 2)) for i in range(1, 400)])
    assert np.abs(many.mean(0)).max() < 4 / np.sqrt(2 * 399)


# Any cell


def test_recurrent_keys_and_state_by_hand():
    def cell(m, given):
        total, x = given
        y = m(jn.dropout(0.5), m(jn.batch_norm(momentum=0.5, use_scale=False, use_bias=False), x))
        return (x if total is None else total + x), y

    layer = jn.recurrent(jn.compose(cell, name="cell"))
    x = jnp.asarray(np.stack([np.full((40, 3), v) for v in (1.0, 5.0)], 1).astype(np.float32))
    x = x + 0.1 * random(40, 2, 3).astype(np.float32)
    params, state = layer.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="key"):
        layer.apply(params, state, x, train=True)
    y, after = jit_apply(layer, params, state, x, key=jax.random.key(1), train=True)
    dropped = np.asarray(y == 0)
    assert 0.3 < dropped.mean() < 0.7
    assert (dropped[:, 0] != dropped[:, 1]).any(), "each step has a key of its own"
    # by hand: 0 -> 0.5 * 1 -> 0.5 * 0.5 + 0.5 * 5
    np.testing.assert_allclose(after["batch_norm"]["mean"], 2.75, atol=0.1)


def test_recurrent_with_lengths_freezes_any_carry():
    def cell(m, given):
        carry, x = given
        count, total = carry or (jnp.zeros(x.shape[:1]), jnp.zeros_like(x))
        carry = count + 1, total + x
        return carry, carry[1]

    layer = jn.recurrent(jn.compose(cell))
    given = {"x": jnp.ones((3, 5, 2)), "lengths": jnp.array([5, 0, 2])}
    out, _ = jit_apply(layer, {}, {}, given)
    assert out["final"][0].tolist() == [5, 0, 2]
    assert out["final"][1][:, 0].tolist() == [5, 0, 2]
    assert out["x"][:, :, 0].tolist() == [[1, 2, 3, 4, 5], [0] * 5, [1, 2, 0, 0, 0]]
    out, _ = jit_apply(layer, {}, {}, given | {"initial": (jnp.ones(3), jnp.ones((3, 2)))})
    assert out["final"][0].tolist() == [6, 1, 3]


def test_recurrent_over_tokens():
    """Steps may be integers, without an axis of features."""

    def cell(m, given):
        h, token = given
        return m(jn.layers.gru_cell(4), (h, m(jn.embedding(7, 3), token)))

    layer = jn.recurrent(jn.compose(cell))
    tokens = jnp.array([[1, 2, 3, 0, 0], [6, 5, 4, 3, 2]])
    params, state = layer.init(jax.random.key(0), tokens)
    (y, _), _ = jit_apply(layer, params, state, (tokens, jnp.array([3, 5])))
    assert y.shape == (2, 5, 4)
    assert (y[0, 3:] == 0).all()
    assert (y[0, 2] != 0).all()


def test_observe_looks_inside():
    """A transform around the cell: with transforms=True its calls are seen, as tracers."""
    seen = []

    def see(path, layer, x, y):
        seen.append(("/".join(path), layer.kind))
        return y

    net = jn.serial(jn.recurrent(jn.layers.gru_cell(4, name="cell")))
    params, _ = net.init(jax.random.key(0), jn.spec((2, 3, 5)))
    jit_apply(jn.observe(net, see, transforms=True), params, {}, jnp.ones((2, 3, 5)))
    assert ("cell", "recurrent") in seen
    assert net.kind == "serial"


@pytest.mark.slow
def test_the_cell_of_an_activation_is_dropped_with_it():
    """JAX keeps a bounded number of traced functions, so its caches are cleared first."""
    import gc
    import weakref

    def drop(x):
        return jnp.tanh(x)

    kept = weakref.ref(drop)
    jn.rnn(3, activation=drop).init(jax.random.key(0), jn.spec((2, 5, 4)))
    del drop
    jax.clear_caches()
    gc.collect()
    assert kept() is None


def cell(make, *given):
    return make(4).init(jax.random.key(0), given if len(given) > 1 else given[0])


STEP = jn.spec((3, 5))
WHOLE = jn.spec((3, 6, 5))


test_refusals = refuses([
    (lambda: cell(jn.layers.lstm_cell, STEP), r"lstm: a cell takes \(carry, x\)"),
    (lambda: cell(jn.layers.lstm_cell, None, WHOLE),
     r"of one step, \(batch, features\), got \(3, 6, 5\)"),
    (lambda: jn.recurrent(jn.layers.gru_cell(4)).apply(
        cell(jn.gru, WHOLE)[0], {}, {"x": jnp.ones((3, 6, 5)), "initial": jnp.ones((3, 7))}),
     r"the initial carry must have the shapes \(3, 4\)"),
    (lambda: cell(jn.layers.gru_cell, jn.spec((3, 7)), STEP),
     r"must be an array \(batch, features\) = \(3, 4\)"),
    (lambda: jn.rnn(3, activation="tanh"), TypeError,
     "rnn: activation must be a function of an array, got"),
    (lambda: jn.layers.initial_carry(3, STEP), TypeError, "initial_carry: cell must be a layer"),
    (lambda: jn.layers.initial_carry(jn.layers.gru_cell(3), None), TypeError,
     "initial_carry: the input must be an array"),
])  # fmt: skip


def test_long_padding_after_a_layer_that_blows_up(x64):
    """relu and a kernel above 1: 400 steps of padding would overflow."""
    layer = jn.rnn(1, activation=jax.nn.relu)
    params = {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}
    params["recurrent_kernel"] = jnp.full((1, 1), 9.0)

    def loss(params):
        given = {"x": jnp.ones((1, 402, 1)), "lengths": jnp.array([2])}
        return jit_apply(layer, params, {}, given)[0]["final"].sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert value == 9 * 2 + 2  # by hand: h1 = 1 + 1, h2 = 1 + 9 h1 + 1
    assert gradient["recurrent_kernel"] == 2
    assert gradient["kernel"] == 9 * 1 + 1


@pytest.mark.slow
def test_a_fresh_layer_keeps_variance():
    layer = jn.rnn(200, activation=lambda z: z)
    x = random(64, 1, 300).astype(np.float32)
    params, _ = layer.init(jax.random.key(1), x)
    y, _ = jit_apply(layer, params, {}, np.concatenate([x, np.zeros((64, 9, 300), np.float32)], 1))
    assert 0.9 < y[:, 0].var() < 1.1
    np.testing.assert_allclose(y[:, 9].var(), y[:, 0].var(), rtol=0.01)  # orthogonal: carried whole


@pytest.mark.slow
def test_a_fresh_lstm_remembers():
    """With the forget gate's bias at 1 the first input's gradient reaches the 20th step."""

    def reach(bias_init):
        layer = jn.lstm(30, bias_init=bias_init)
        x = random(2, 20, 10).astype(np.float32)
        params, _ = layer.init(jax.random.key(0), x)
        slope = jax.jit(jax.grad(lambda x: jit_apply(layer, params, {}, x)[0][:, -1].sum()))(x)
        return jnp.abs(slope[:, 0]).mean() / jnp.abs(slope[:, -1]).mean()

    # 19 steps of sigmoid(1) = 0.73 against sigmoid(0) = 0.5: about (0.73 / 0.5)^19 = 1350 times
    assert 50 < reach(forget_bias(1.0)) / reach(initializers.zeros) < 50_000
    assert forget_bias(2.0)(jax.random.key(0), (12,)).tolist() == [0] * 3 + [2] * 3 + [0] * 6


PARAMS = random_params("lstm")


@refused([
    (jnp.ones((6, 5)), r"lstm: .* \(batch, time, features\), got \(6, 5\)\. For"),
    (jnp.ones((3, 6, 5, 1)), r"expected x of shape \(batch, time, features\)"),
    (jnp.ones((3, 0, 5)), "at least one time step"),
    ((jnp.ones((3, 6, 5)),) * 3, r"a tuple is \(x, lengths\), got 3"),
    ((jnp.ones((3, 6, 5)), jnp.ones(3)), TypeError, "lengths must be an array of integers"),
    ((jnp.ones((3, 6, 5)), jnp.ones(2, int)), r"must be \(batch,\) = \(3,\)"),
    ((jnp.ones((3, 6, 5)), jnp.array([7, 1, 2])), r"in \[0, 6\].*got 1 to 7"),
    ((jnp.ones((3, 6, 5)), jnp.array([-1, 1, 2])), r"in \[0, 6\].*got -1 to 2"),
    ({"lengths": jnp.ones(3, int)}, "a dict needs 'x'"),
    ({"x": jnp.ones((3, 6, 5)), "length": jnp.ones(3, int)}, "'length'"),
    ({"x": jnp.ones((3, 6, 5)), "initial": jnp.ones((3, 4))},
     r"a dict of c and h, each \(batch, features\) = \(3, 4\), got \(3, 4\)"),
    ({"x": jnp.ones((3, 6, 5)), "initial": {"c": jnp.ones((3, 4)), "h": jnp.ones((1, 4))}},
     r"initial carry must be .* got \{'c': \(3, 4\), 'h': \(1, 4\)\}"),
])  # fmt: skip
def test_wrong_inputs_of_a_layer(given):
    jn.lstm(4).apply(jax.tree.map(jnp.float32, PARAMS), {}, given)
