"""rnn, lstm and gru against PyTorch and against their own cells, and layers of any cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.layers.recurrent import orthogonal_blocks
from tests.compiled import jit_apply

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
    return {
        k: jnp.asarray(0.5 * random(*s, seed=seed + i)) for i, (k, s) in enumerate(shapes.items())
    }


def random_carry(kind, batch=BATCH, features=FEATURES, seed=7):
    h, c = random(batch, features, seed=seed), random(batch, features, seed=seed + 1)
    return {"c": jnp.asarray(c), "h": jnp.asarray(h)} if kind == "lstm" else jnp.asarray(h)


def close(a, b, tolerance=1e-10):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance), a, b)


# Values


def torch_module(kind, torch, **options):
    module = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind]
    module = module(INPUTS, FEATURES, batch_first=True, dtype=torch.float64, **options)
    for i, weight in enumerate(module.parameters()):
        weight.data = torch.tensor(0.5 * random(*weight.shape, seed=i))
    return module


def from_torch(kind, get, suffix):
    """Our params of one layer and direction from PyTorch's four weights."""
    w_ih, w_hh, b_ih, b_hh = (
        np.asarray(get(f"{word}_{suffix}"))
        for word in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    params = {"kernel": w_ih.T, "recurrent_kernel": w_hh.T, "bias": b_ih + b_hh}
    if kind == "gru":
        gates = np.arange(3 * FEATURES) < 2 * FEATURES  # r and u; the rest is the candidate
        params |= {"bias": b_ih + gates * b_hh, "recurrent_bias": b_hh[2 * FEATURES :]}
    return jax.tree.map(jnp.asarray, params)


def gradients_from_torch(kind, get, suffix):
    w_ih, w_hh, b_ih, b_hh = (
        np.asarray(get(f"{word}_{suffix}"))
        for word in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    gradients = {"kernel": w_ih.T, "recurrent_kernel": w_hh.T, "bias": b_ih}
    if kind == "gru":
        gradients["recurrent_bias"] = b_hh[2 * FEATURES :]
    return gradients


@pytest.mark.slow
@each
@pytest.mark.parametrize("lengths", [None, (4, 6, 1)], ids=["whole", "lengths"])
@pytest.mark.parametrize("layers, both_ways", [(1, False), (2, True)], ids=["one", "two-both-ways"])
def test_values_and_gradients_are_those_of_torch(kind, lengths, layers, both_ways, x64):
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")  # torch 2.13.0
    module = torch_module(kind, torch, num_layers=layers, bidirectional=both_ways)
    directions = ["", "_reverse"] if both_ways else [""]
    suffixes = [[f"l{i}{direction}" for direction in directions] for i in range(layers)]
    x = random(BATCH, TIME, INPUTS)
    h0 = random(layers * len(directions), BATCH, FEATURES, seed=5)
    c0 = random(layers * len(directions), BATCH, FEATURES, seed=6)
    weight_y = random(BATCH, TIME, FEATURES * len(directions), seed=7)
    weight_h, weight_c = random(*h0.shape, seed=8), random(*c0.shape, seed=9)

    # PyTorch
    tx, th, tc = (torch.tensor(a, requires_grad=True) for a in (x, h0, c0))
    given = tx
    if lengths:
        given = torch.nn.utils.rnn.pack_padded_sequence(
            tx, torch.tensor(lengths), batch_first=True, enforce_sorted=False
        )
    ty, tfinal = module(given, (th, tc) if kind == "lstm" else th)
    if lengths:
        ty, _ = torch.nn.utils.rnn.pad_packed_sequence(ty, batch_first=True, total_length=TIME)
    tfinal = tfinal if kind == "lstm" else (tfinal,)
    loss = (torch.sin(ty) * torch.tensor(weight_y)).sum()
    for last, weight in zip(tfinal, (weight_h, weight_c), strict=False):
        loss = loss + (last * torch.tensor(weight)).sum()
    loss.backward()

    # jaxnet
    one = KINDS[kind][0](FEATURES)
    net = jn.layers.stack_rnn(
        *[jn.bidirectional(one) if both_ways else one._replace() for _ in range(layers)]
    )

    def nest(leaf_of):
        """Something of each layer and direction, in the layout of the stacked layers' carries."""
        parts = [[leaf_of(i, j) for j in range(len(directions))] for i in range(layers)]
        if both_ways:
            return tuple({"forward": a, "backward": b} for a, b in parts)
        return tuple(a for (a,) in parts)

    def carry(h, c):
        def one(i, j):
            at = i * len(directions) + j
            return (
                {"c": jnp.asarray(c[at]), "h": jnp.asarray(h[at])}
                if kind == "lstm"
                else jnp.asarray(h[at])
            )

        return nest(one)

    def entries(translate, get):
        name = "bidirectional" if both_ways else kind
        whole = nest(lambda i, j: translate(kind, get, suffixes[i][j]))
        return {name if i == 0 else f"{name}_{i}": part for i, part in enumerate(whole)}

    weights = dict(module.named_parameters())
    params = entries(from_torch, lambda name: weights[name].detach())

    @jax.jit
    def run(params, x, initial):
        given = {"x": x, "initial": initial}
        if lengths:
            given["lengths"] = jnp.array(lengths)
        out, _ = net.apply(params, {}, given)
        return out["x"], out["final"]

    def objective(params, x, initial):
        y, final = run(params, x, initial)
        last = jax.tree.map(lambda a, b: (a * b).sum(), final, carry(weight_h, weight_c))
        return (jnp.sin(y) * weight_y).sum() + sum(jax.tree.leaves(last))

    y, final = run(params, x, carry(h0, c0))
    close(y, ty.detach().numpy())
    close(final, carry(*(a.detach().numpy() for a in (*tfinal, *tfinal)[:2])))
    d_params, d_x, d_initial = jax.jit(jax.grad(objective, (0, 1, 2)))(params, x, carry(h0, c0))
    close(d_params, entries(gradients_from_torch, lambda name: weights[name].grad))
    close(d_x, tx.grad.numpy())
    close(d_initial, carry(th.grad.numpy(), tc.grad.numpy() if kind == "lstm" else c0))


@pytest.mark.fast_cases("gru")
@each
def test_without_bias_is_with_biases_of_zero(kind, x64):
    params = random_params(kind)
    params |= {name: jnp.zeros_like(params[name]) for name in params if "bias" in name}
    x = random(BATCH, TIME, INPUTS)
    y, _ = jit_apply(KINDS[kind][0](FEATURES), params, {}, x)
    bare = {name: leaf for name, leaf in params.items() if "bias" not in name}
    close(jit_apply(KINDS[kind][0](FEATURES, use_bias=False), bare, {}, x)[0], y)


# Lengths


@pytest.mark.slow
@each
def test_padding_changes_nothing(kind, x64):
    """Not even NaN: the same numbers as each sequence alone, and no gradient beyond its end."""
    layer, params = KINDS[kind][0](FEATURES), random_params(kind)
    x, lengths = random(BATCH, TIME, INPUTS), np.array([4, 6, 1])
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

    d_params, d_x = jax.jit(jax.grad(loss, (0, 1)))(params, padded)
    clean_params, clean_x = jax.jit(jax.grad(loss, (0, 1)))(
        params, jnp.asarray(np.where(beyond[..., None], 0, x))
    )
    close(d_params, clean_params)
    assert (np.asarray(d_x)[beyond] == 0).all()
    close(d_x, clean_x)
    assert (np.asarray(d_x)[~beyond] != 0).all()


@pytest.mark.slow
@each
def test_padding_changes_nothing_in_float32(kind):
    layer = KINDS[kind][0](FEATURES)
    params, _ = layer.init(jax.random.key(0), jn.spec((2, TIME, INPUTS)))
    x = random(2, TIME, INPUTS).astype(np.float32)
    (y, _), _ = jit_apply(layer, params, {}, (x, np.array([3, 6])))
    alone, _ = jit_apply(layer, params, {}, x[:1, :3])
    close(y[:1, :3], alone, 1e-6)


@each
def test_a_sequence_of_length_0_keeps_its_initial_carry(kind, x64):
    layer, params, initial = KINDS[kind][0](FEATURES), random_params(kind), random_carry(kind)
    given = {"x": random(BATCH, TIME, INPUTS), "lengths": np.array([0, 6, 0]), "initial": initial}
    out, _ = jit_apply(layer, params, {}, given)
    assert (out["x"][0] == 0).all() and (out["x"][2] == 0).all()
    for i in (0, 2):
        close(
            jax.tree.map(lambda leaf, i=i: leaf[i], out["final"]),
            jax.tree.map(lambda leaf, i=i: leaf[i], initial),
            0,
        )


# States


@pytest.mark.fast_cases("rnn")
@each
def test_two_halves_with_states_are_the_whole(kind, x64):
    layer, params = KINDS[kind][0](FEATURES), random_params(kind)
    x = random(BATCH, TIME, INPUTS)
    whole, _ = jit_apply(layer, params, {}, {"x": x, "initial": random_carry(kind)})
    a, _ = jit_apply(layer, params, {}, {"x": x[:, :2], "initial": random_carry(kind)})
    b, _ = jit_apply(layer, params, {}, {"x": x[:, 2:], "initial": a["final"]})
    close(jnp.concatenate([a["x"], b["x"]], 1), whole["x"], 1e-13)
    close(b["final"], whole["final"], 1e-13)


@pytest.mark.slow
@each
def test_cells_step_by_step_are_the_layer(kind, x64):
    """With the same params, in a model too, and in a loop of one's own."""
    layer, cell = KINDS[kind]
    net = jn.serial(layer(FEATURES), layer(FEATURES + 3), jn.dense(2))
    a, b, c = cell(FEATURES), cell(FEATURES + 3), jn.dense(2)

    def one(m, given):
        (one, two), x = given
        one, x = m(a, (one, x))
        two, x = m(b, (two, x))
        return (one, two), m(c, x)

    step = jn.compose(one, name="serial")
    x = jnp.asarray(random(BATCH, TIME, INPUTS))
    params, _ = net.init(jax.random.key(0), x)
    wanted, _ = jit_apply(net, params, {}, x)
    start = (
        jn.layers.initial_carry(a, x[:, 0]),
        jn.layers.initial_carry(b, jn.spec((BATCH, FEATURES), x.dtype)),
    )

    def body(carry, x):
        return jit_apply(step, params, {}, (carry, x))[0]

    final, y = jax.lax.scan(body, start, x.swapaxes(0, 1))
    close(y.swapaxes(0, 1), wanted, 1e-12)
    carry = (None, None)  # zeros
    for t in range(TIME):
        (carry, y), _ = jit_apply(step, params, {}, (carry, x[:, t]))
        close(y, wanted[:, t], 1e-12)
    close(carry, final, 1e-12)


@pytest.mark.fast_cases("gru")
@each
def test_cell_and_layer_draw_the_same_params(kind):
    layer, cell = KINDS[kind]
    close(
        layer(4).init(jax.random.key(0), jn.spec((3, 6, 5)))[0],
        cell(4).init(jax.random.key(0), (None, jn.spec((3, 5))))[0],
        0,
    )
    close(
        layer(4).init(jax.random.key(0), jn.spec((3, 6, 5)))[0],
        jn.recurrent(cell(4)).init(jax.random.key(0), jn.spec((3, 6, 5)))[0],
        0,
    )


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
    close(
        jit_apply(layer, narrow, {}, x)[0].astype(jnp.float32),
        jit_apply(layer, params, {}, x.astype(jnp.float32))[0],
        0.03,
    )
    gradient = jax.jit(jax.grad(lambda p: jit_apply(layer, p, {}, x)[0].astype(jnp.float32).sum()))(
        narrow
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.bfloat16)}
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
    assert y.shape == (2, 5, 4) and (y[0, 3:] == 0).all() and (y[0, 2] != 0).all()


def test_messages():
    with pytest.raises(ValueError, match=r"lstm: a cell takes \(carry, x\)"):
        jn.layers.lstm_cell(4).init(jax.random.key(0), jn.spec((3, 5)))
    with pytest.raises(ValueError, match=r"of one step, \(batch, features\), got \(3, 6, 5\)"):
        jn.layers.lstm_cell(4).init(jax.random.key(0), (None, jn.spec((3, 6, 5))))
    params, _ = jn.gru(4).init(jax.random.key(0), jn.spec((3, 6, 5)))
    given = {"x": jnp.ones((3, 6, 5)), "initial": jnp.ones((3, 7))}
    with pytest.raises(ValueError, match=r"the initial carry must have the shapes \(3, 4\)"):
        jn.recurrent(jn.layers.gru_cell(4)).apply(params, {}, given)


def test_observe_looks_inside():
    """A transform around the cell: with transforms=True its calls are seen, as tracers."""
    seen = []

    def see(path, layer, x, y):
        seen.append(("/".join(path), layer.kind))
        return y

    net = jn.serial(jn.recurrent(jn.layers.gru_cell(4, name="cell")))
    params, _ = net.init(jax.random.key(0), jn.spec((2, 3, 5)))
    jit_apply(jn.observe(net, see, transforms=True), params, {}, jnp.ones((2, 3, 5)))
    assert ("cell", "recurrent") in seen and net.kind == "serial"


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


@pytest.mark.parametrize("make", [jn.rnn, jn.layers.rnn_cell], ids=["layer", "cell"])
@pytest.mark.parametrize("activation", [None, "tanh", [jnp.tanh]], ids=["None", "word", "list"])
def test_an_activation_is_a_function(make, activation):
    with pytest.raises(TypeError, match="rnn: activation must be a function of an array, got"):
        make(3, activation=activation)


@pytest.mark.parametrize("cell", [None, 3, [jn.layers.gru_cell(3)]], ids=str)
def test_a_cell_is_a_layer(cell):
    with pytest.raises(TypeError, match="recurrent: cell must be a layer"):
        jn.recurrent(cell)
    with pytest.raises(TypeError, match="initial_carry: cell must be a layer"):
        jn.layers.initial_carry(cell, jn.spec((2, 3)))
    with pytest.raises(TypeError, match="initial_carry: the input must be an array"):
        jn.layers.initial_carry(jn.layers.gru_cell(3), None)
