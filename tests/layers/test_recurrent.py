"""The recurrent layers against PyTorch, against their own cells, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import initializers
from jaxnet.layers.recurrent import forget_bias, orthogonal_blocks

KINDS = {
    "rnn": (jn.rnn, jn.rnn_cell),
    "lstm": (jn.lstm, jn.lstm_cell),
    "gru": (jn.gru, jn.gru_cell),
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


def test_simple_rnn_and_readout_by_hand(x64):
    """h = sigma(W x + U h + b), o = sigma(V h + c): 1 input, 2 features, 1 output, 3 steps."""
    net = jn.serial(jn.rnn(2, activation=jax.nn.sigmoid), jn.dense(1), jax.nn.sigmoid)
    params = {
        "rnn": {
            "kernel": jnp.array([[1.0, -2.0]]),
            "recurrent_kernel": jnp.array([[0.5, 1.0], [-1.0, 0.0]]),
            "bias": jnp.array([0.0, 1.0]),
        },
        "dense": {"kernel": jnp.array([[2.0], [-1.0]]), "bias": jnp.array([0.25])},
    }
    y, _ = net.apply(params, {}, jnp.array([[[1.0], [0.0], [-1.0]]]))

    def sigma(z):
        return 1 / (1 + np.exp(-z))

    # by hand: row t holds x_t W + h_{t-1} U + b written out
    a1, b1 = sigma(1.0), sigma(-2.0 + 1.0)
    a2, b2 = sigma(0.5 * a1 - b1), sigma(a1 + 1.0)
    a3, b3 = sigma(-1.0 + 0.5 * a2 - b2), sigma(2.0 + a2 + 1.0)
    o = [sigma(2 * a - b + 0.25) for a, b in ((a1, b1), (a2, b2), (a3, b3))]
    np.testing.assert_allclose(y[0, :, 0], o, rtol=1e-14)
    assert abs(a1 - 0.7310585786) < 1e-10  # sigma(1)


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
    net = jn.stack_rnn(
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
    d_params, d_x, d_initial = jax.grad(objective, (0, 1, 2))(params, x, carry(h0, c0))
    close(d_params, entries(gradients_from_torch, lambda name: weights[name].grad))
    close(d_x, tx.grad.numpy())
    close(d_initial, carry(th.grad.numpy(), tc.grad.numpy() if kind == "lstm" else c0))


@each
def test_without_bias_is_with_biases_of_zero(kind, x64):
    params = random_params(kind)
    params |= {name: jnp.zeros_like(params[name]) for name in params if "bias" in name}
    x = random(BATCH, TIME, INPUTS)
    y, _ = KINDS[kind][0](FEATURES).apply(params, {}, x)
    bare = {name: leaf for name, leaf in params.items() if "bias" not in name}
    close(KINDS[kind][0](FEATURES, use_bias=False).apply(bare, {}, x)[0], y)


# Derivatives: the rule for tangents against a plain loop over the cell


@pytest.mark.parametrize(
    "kind, lengths", [("gru", None), ("rnn", (4, 6, 0)), ("lstm", (4, 6, 0)), ("gru", (4, 6, 0))]
)
def test_every_derivative_is_that_of_a_plain_loop(kind, lengths, x64):
    fast = KINDS[kind][0](FEATURES)
    plain = jn.recurrent(KINDS[kind][1](FEATURES))
    at = random_params(kind), jnp.asarray(random(BATCH, TIME, INPUTS)), random_carry(kind)
    along = jax.tree.map(lambda leaf: jnp.asarray(random(*leaf.shape, seed=11)), at)
    rest = {"lengths": jnp.array(lengths)} if lengths else {}

    def derivatives(layer):
        def loss(at):
            params, x, initial = at
            out, _ = layer.apply(params, {}, {"x": x, "initial": initial, **rest})
            weights = jax.tree.map(lambda leaf: random(*leaf.shape, seed=12), out["final"])
            final = jax.tree.map(lambda a, b: (jnp.sin(a) * b).sum(), out["final"], weights)
            return (jnp.sin(out["x"]) * random(BATCH, TIME, FEATURES)).sum() + sum(
                jax.tree.leaves(final)
            )

        def slope(at):
            return jax.tree.reduce(
                jnp.add, jax.tree.map(lambda a, b: (a * b).sum(), jax.grad(loss)(at), along)
            )

        @jax.jit
        def run(at):
            return {
                "value": loss(at),
                "reverse": jax.grad(loss)(at),
                "forward": jax.jvp(loss, (at,), (along,))[1],
                "forward of reverse": jax.jvp(jax.grad(loss), (at,), (along,))[1],
                "reverse of reverse": jax.grad(slope)(at),
            }

        return run(at)

    close(derivatives(fast), derivatives(plain))


def test_gradients_under_other_transformations(x64):
    kind, layer = "lstm", jn.lstm(FEATURES)
    given = jnp.asarray(random(BATCH, TIME, INPUTS)), jnp.array([6, 2, 5])

    def loss(params, layer=layer):
        (y, _), _ = layer.apply(params, {}, given)
        return (jnp.sin(y) * random(BATCH, TIME, FEATURES)).sum()

    many = [random_params(kind, seed=seed) for seed in (1, 20)]
    wanted = [jax.jit(jax.grad(loss))(params) for params in many]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    wanted = jax.tree.map(lambda *leaves: jnp.stack(leaves), *wanted)
    close(jax.jit(jax.vmap(jax.grad(loss)))(together), wanted)
    looped = jax.lax.scan(lambda c, params: (c, jax.grad(loss)(params)), 0.0, together)[1]
    close(looped, wanted)
    close(jax.lax.map(jax.grad(jax.checkpoint(loss)), together), wanted)
    again = jn.remat(layer)
    close(jax.lax.map(jax.grad(lambda params: loss(params, again)), together), wanted)
    # without jit around it
    close(jax.tree.map(lambda leaf: leaf[0], wanted), jax.grad(loss)(many[0]))


def scans(jaxpr):
    """Every scan in a jaxpr, at any depth."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            yield eqn
        for value in eqn.params.values():
            if hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
                yield from scans(inner)


def dots(jaxpr):
    count = 0
    for eqn in jaxpr.eqns:
        count += eqn.primitive.name == "dot_general"
        for value in eqn.params.values():
            if hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
                count += dots(inner)
    return count


@each
def test_a_training_step_has_one_product_in_each_loop(kind):
    """Neither the inputs' product nor a sum over the kernel's gradient is left in a loop."""
    layer = KINDS[kind][0](7)
    params, _ = layer.init(jax.random.key(0), jn.spec((2, 5, 3)))

    def loss(params, x):
        return layer.apply(params, {}, x)[0].sum()

    loops = list(scans(jax.make_jaxpr(jax.grad(loss))(params, jnp.ones((2, 5, 3))).jaxpr))
    backward = [loop for loop in loops if loop.params["reverse"]]
    assert [dots(loop.params["jaxpr"].jaxpr) for loop in backward] == [1]
    assert sum(dots(loop.params["jaxpr"].jaxpr) for loop in loops) == 2
    made = [v.aval.shape for loop in loops for v in loop.outvars]
    assert params["recurrent_kernel"].shape not in made, "a loop sums up the kernel's gradient"


# Lengths


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
        alone, _ = layer.apply(params, {}, {"x": jnp.asarray(x[i : i + 1, :n])})
        close(out["x"][i, :n], alone["x"][0], 1e-13)
        close(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], out["final"]), alone["final"], 1e-13)

    def loss(params, x):
        return jnp.sin(run(params, x)["x"]).sum()

    d_params, d_x = jax.grad(loss, (0, 1))(params, padded)
    clean_params, clean_x = jax.grad(loss, (0, 1))(
        params, jnp.asarray(np.where(beyond[..., None], 0, x))
    )
    close(d_params, clean_params)
    assert (np.asarray(d_x)[beyond] == 0).all()
    close(d_x, clean_x)
    assert (np.asarray(d_x)[~beyond] != 0).all()


@each
def test_padding_changes_nothing_in_float32(kind):
    layer = KINDS[kind][0](FEATURES)
    params, _ = layer.init(jax.random.key(0), jn.spec((2, TIME, INPUTS)))
    x = random(2, TIME, INPUTS).astype(np.float32)
    (y, _), _ = layer.apply(params, {}, (x, np.array([3, 6])))
    alone, _ = layer.apply(params, {}, x[:1, :3])
    close(y[:1, :3], alone, 1e-6)


@each
def test_a_sequence_of_length_0_keeps_its_initial_carry(kind, x64):
    layer, params, initial = KINDS[kind][0](FEATURES), random_params(kind), random_carry(kind)
    given = {"x": random(BATCH, TIME, INPUTS), "lengths": np.array([0, 6, 0]), "initial": initial}
    out, _ = layer.apply(params, {}, given)
    assert (out["x"][0] == 0).all() and (out["x"][2] == 0).all()
    for i in (0, 2):
        close(
            jax.tree.map(lambda leaf, i=i: leaf[i], out["final"]),
            jax.tree.map(lambda leaf, i=i: leaf[i], initial),
            0,
        )


def test_long_padding_after_a_layer_that_blows_up(x64):
    """relu and a kernel above 1: 400 steps of padding would overflow, were they taken."""
    layer = jn.rnn(1, activation=jax.nn.relu)
    params = {
        "kernel": jnp.ones((1, 1)),
        "recurrent_kernel": jnp.full((1, 1), 9.0),
        "bias": jnp.ones(1),
    }

    def loss(params):
        given = {"x": jnp.ones((1, 402, 1)), "lengths": jnp.array([2])}
        return layer.apply(params, {}, given)[0]["final"].sum()

    value, gradient = jax.value_and_grad(loss)(params)
    assert value == 9 * 2 + 2  # by hand: h1 = 1 + 1, h2 = 1 + 9 h1 + 1
    assert gradient["recurrent_kernel"] == 2 and gradient["kernel"] == 9 * 1 + 1


# States


@each
def test_two_halves_with_states_are_the_whole(kind, x64):
    layer, params = KINDS[kind][0](FEATURES), random_params(kind)
    x = random(BATCH, TIME, INPUTS)
    whole, _ = layer.apply(params, {}, {"x": x, "initial": random_carry(kind)})
    a, _ = layer.apply(params, {}, {"x": x[:, :2], "initial": random_carry(kind)})
    b, _ = layer.apply(params, {}, {"x": x[:, 2:], "initial": a["final"]})
    close(jnp.concatenate([a["x"], b["x"]], 1), whole["x"], 1e-13)
    close(b["final"], whole["final"], 1e-13)


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
    wanted, _ = net.apply(params, {}, x)
    start = jn.initial_carry(a, x[:, 0]), jn.initial_carry(b, jn.spec((BATCH, FEATURES), x.dtype))

    def body(carry, x):
        return step.apply(params, {}, (carry, x))[0]

    final, y = jax.lax.scan(body, start, x.swapaxes(0, 1))
    close(y.swapaxes(0, 1), wanted, 1e-12)
    carry = (None, None)  # zeros
    for t in range(TIME):
        (carry, y), _ = step.apply(params, {}, (carry, x[:, t]))
        close(y, wanted[:, t], 1e-12)
    close(carry, final, 1e-12)


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


@each
def test_dtypes(kind):
    """The carry takes the dtype of the computation, whatever the initial carry's."""
    layer = KINDS[kind][0](FEATURES)
    params, _ = layer.init(jax.random.key(0), jn.spec((BATCH, TIME, INPUTS)))
    carry = jax.tree.map(lambda leaf: leaf.astype(np.float32), random_carry(kind))
    x = random(BATCH, TIME, INPUTS).astype(jnp.bfloat16)
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    for p, dtype in ((narrow, jnp.bfloat16), (params, jnp.float32)):
        out, _ = layer.apply(p, {}, {"x": x, "initial": carry})
        assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype(dtype)}
    close(
        layer.apply(narrow, {}, x)[0].astype(jnp.float32),
        layer.apply(params, {}, x.astype(jnp.float32))[0],
        0.03,
    )
    gradient = jax.grad(lambda p: layer.apply(p, {}, x)[0].astype(jnp.float32).sum())(narrow)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.bfloat16)}
    counts, _ = layer.apply(params, {}, np.ones((BATCH, TIME, INPUTS), np.int32))
    assert counts.dtype == jnp.float32


# Fresh layers


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


def test_a_fresh_layer_keeps_variance():
    layer = jn.rnn(200, activation=lambda z: z)
    x = random(64, 1, 300).astype(np.float32)
    params, _ = layer.init(jax.random.key(1), x)
    y, _ = layer.apply(params, {}, np.concatenate([x, np.zeros((64, 9, 300), np.float32)], 1))
    assert 0.9 < y[:, 0].var() < 1.1
    np.testing.assert_allclose(y[:, 9].var(), y[:, 0].var(), rtol=0.01)  # orthogonal: carried whole


def test_a_fresh_lstm_remembers():
    """With the forget gate's bias at 1 the first input's gradient reaches the 20th step."""

    def reach(bias_init):
        layer = jn.lstm(30, bias_init=bias_init)
        x = random(2, 20, 10).astype(np.float32)
        params, _ = layer.init(jax.random.key(0), x)
        slope = jax.grad(lambda x: layer.apply(params, {}, x)[0][:, -1].sum())(x)
        return jnp.abs(slope[:, 0]).mean() / jnp.abs(slope[:, -1]).mean()

    # 19 steps of sigmoid(1) = 0.73 against sigmoid(0) = 0.5: about (0.73 / 0.5)^19 = 1350 times
    assert 50 < reach(forget_bias(1.0)) / reach(initializers.zeros) < 50_000
    assert forget_bias(2.0)(jax.random.key(0), (12,)).tolist() == [0] * 3 + [2] * 3 + [0] * 6


def test_params():
    params, state = jn.lstm(4).init(jax.random.key(0), jn.spec((2, 6, 5)))
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == {"bias": (16,), "kernel": (5, 16), "recurrent_kernel": (4, 16)} and state == {}
    params, _ = jn.gru(4).init(jax.random.key(0), jn.spec((2, 6, 5)))
    assert jax.tree.map(jnp.shape, params) == {
        "bias": (12,),
        "kernel": (5, 12),
        "recurrent_bias": (4,),
        "recurrent_kernel": (4, 12),
    }
    params, _ = jn.gru(4, use_bias=False).init(jax.random.key(0), jn.spec((2, 6, 5)))
    assert set(params) == {"kernel", "recurrent_kernel"}


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
    y, after = layer.apply(params, state, x, key=jax.random.key(1), train=True)
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
    out, _ = layer.apply({}, {}, given)
    assert out["final"][0].tolist() == [5, 0, 2]
    assert out["final"][1][:, 0].tolist() == [5, 0, 2]
    assert out["x"][:, :, 0].tolist() == [[1, 2, 3, 4, 5], [0] * 5, [1, 2, 0, 0, 0]]
    out, _ = layer.apply({}, {}, given | {"initial": (jnp.ones(3), jnp.ones((3, 2)))})
    assert out["final"][0].tolist() == [6, 1, 3]


def test_recurrent_over_tokens():
    """Steps may be integers, without an axis of features."""

    def cell(m, given):
        h, token = given
        return m(jn.gru_cell(4), (h, m(jn.embedding(7, 3), token)))

    layer = jn.recurrent(jn.compose(cell))
    tokens = jnp.array([[1, 2, 3, 0, 0], [6, 5, 4, 3, 2]])
    params, state = layer.init(jax.random.key(0), tokens)
    (y, _), _ = layer.apply(params, state, (tokens, jnp.array([3, 5])))
    assert y.shape == (2, 5, 4) and (y[0, 3:] == 0).all() and (y[0, 2] != 0).all()


# Messages

X = jn.spec((3, 6, 5))
PARAMS = random_params("lstm")


@pytest.mark.parametrize(
    "given, error, words",
    [
        (jnp.ones((6, 5)), ValueError, r"lstm: needs x \(batch, time, features\), got \(6, 5\)"),
        (jnp.ones((3, 6, 5, 1)), ValueError, r"needs x \(batch, time, features\)"),
        (jnp.ones((3, 0, 5)), ValueError, "at least one time step"),
        ((jnp.ones((3, 6, 5)),) * 3, ValueError, r"a tuple is \(x, lengths\), got 3"),
        ((jnp.ones((3, 6, 5)), jnp.ones(3)), TypeError, "lengths must be an array of integers"),
        ((jnp.ones((3, 6, 5)), jnp.ones(2, int)), ValueError, r"must be \(batch,\) = \(3,\)"),
        ((jnp.ones((3, 6, 5)), jnp.array([7, 1, 2])), ValueError, r"in \[0, 6\].*got 1 to 7"),
        ((jnp.ones((3, 6, 5)), jnp.array([-1, 1, 2])), ValueError, r"in \[0, 6\].*got -1 to 2"),
        ({"lengths": jnp.ones(3, int)}, ValueError, "a dict needs 'x'"),
        ({"x": jnp.ones((3, 6, 5)), "length": jnp.ones(3, int)}, ValueError, "'length'"),
        (
            {"x": jnp.ones((3, 6, 5)), "initial": jnp.ones((3, 4))},
            ValueError,
            r"a dict of c and h, each \(batch, features\) = \(3, 4\), got \(3, 4\)",
        ),
        (
            {"x": jnp.ones((3, 6, 5)), "initial": {"c": jnp.ones((3, 4)), "h": jnp.ones((1, 4))}},
            ValueError,
            r"initial carry must be .* got \{'c': \(3, 4\), 'h': \(1, 4\)\}",
        ),
    ],
)  # fmt: skip
def test_wrong_inputs_of_a_layer(given, error, words):
    with pytest.raises(error, match=words):
        jn.lstm(4).apply(jax.tree.map(jnp.float32, PARAMS), {}, given)


def test_other_wrong_calls():
    with pytest.raises(ValueError, match="gru: features must be at least 1, got 0"):
        jn.gru(0)
    with pytest.raises(ValueError, match=r"lstm: a cell takes \(carry, x\)"):
        jn.lstm_cell(4).init(jax.random.key(0), jn.spec((3, 5)))
    with pytest.raises(ValueError, match=r"of one step, \(batch, features\), got \(3, 6, 5\)"):
        jn.lstm_cell(4).init(jax.random.key(0), (None, X))
    h = jnp.ones((3, 7))
    params, _ = jn.gru(4).init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=r"must be an array \(batch, features\) = \(3, 4\)"):
        jn.gru_cell(4).apply(params, {}, (h, jnp.ones((3, 5))))
    with pytest.raises(ValueError, match=r"the initial carry must have the shapes \(3, 4\)"):
        jn.recurrent(jn.gru_cell(4)).apply(params, {}, {"x": jnp.ones((3, 6, 5)), "initial": h})
    # Where lengths are not known they cannot be checked; they act as if cut to [0, time].
    given = jnp.ones((3, 6, 5)), jnp.array([7, -1, 6])
    (y, _), _ = jax.jit(lambda given: jn.gru(4).apply(params, {}, given))(given)
    assert (y[0] == y[2]).all() and (y[1] == 0).all()
