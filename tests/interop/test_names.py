"""Tables of names: made-up weights by hand; Keras by outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxnet as jn
from jaxnet.interop import by_names, reshaped, take_part, transposed
from tests.helpers import jit_apply, refuses

ROW = jn.spec((2, 3))
DENSE = {"kernel": ("fc.weight", transposed), "bias": "fc.bias"}
WEIGHTS = {"fc.weight": np.arange(12.0).reshape(4, 3), "fc.bias": np.arange(4.0)}


def test_values_by_hand(tmp_path):
    params, state = by_names(jn.dense(4), WEIGHTS, ROW, DENSE)
    assert params["kernel"][2, 1] == 5
    assert params["kernel"].dtype == jnp.float32
    assert params["bias"].tolist() == [0, 1, 2, 3]
    assert state == {}
    save_file({n: a.astype(np.float32) for n, a in WEIGHTS.items()}, tmp_path / "a.safetensors")
    again, _ = by_names(jn.dense(4), tmp_path / "a.safetensors", ROW, DENSE)
    jax.tree.map(np.testing.assert_array_equal, params, again)


def blocks(n):
    layers = [jn.serial(jn.dense(3), jn.batch_norm(), name=f"block_{i}") for i in range(n)]
    return jn.serial(*layers, jn.dense(4, name="head"))


NUMBERED = {
    "block_{i}/dense/kernel": ("h.{i}.w", transposed), "block_{i}/dense/bias": "h.{i}.b",
    "block_{i}/batch_norm/scale": "h.{i}.scale", "block_{i}/batch_norm/bias": "h.{i}.bias",
    "block_{i}/batch_norm/mean": "h.{i}.mean", "block_{i}/batch_norm/var": "h.{i}.var",
    "head/kernel": "head.w", "head/bias": "head.b",
}  # fmt: skip


def numbered(n, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"head.w": (3, 4), "head.b": (4,)}
    for i in range(n):
        shapes |= {f"h.{i}.w": (3, 3), f"h.{i}.b": (3,)}
        shapes |= {f"h.{i}.{entry}": (3,) for entry in ("scale", "bias", "mean", "var")}
    return {name: rng.uniform(0.5, 1.5, shape) for name, shape in shapes.items()}


def test_numbers_in_paths():
    """Two digits too; and one row more for a single layer, which takes precedence."""
    given = numbered(12)
    params, state = by_names(blocks(12), given, ROW, NUMBERED)
    np.testing.assert_allclose(params["block_11"]["dense"]["kernel"], given["h.11.w"].T, rtol=1e-6)
    np.testing.assert_allclose(state["block_1"]["batch_norm"]["var"], given["h.1.var"], rtol=1e-6)
    table = {**NUMBERED, "block_1/dense/bias": ("h.1.b", np.negative)}
    params, _ = by_names(blocks(12), given, ROW, table)
    np.testing.assert_allclose(params["block_1"]["dense"]["bias"], -given["h.1.b"], rtol=1e-6)
    np.testing.assert_allclose(params["block_2"]["dense"]["bias"], given["h.2.b"], rtol=1e-6)


def test_layers_of_a_repeat_are_stacked():
    block = jn.serial(jn.dense(3), jn.batch_norm(), name="block")
    net = jn.serial(jn.repeat(block, 3), jn.dense(4, name="head"))
    table = {path.replace("block_{i}", "block"): row for path, row in NUMBERED.items()}
    given = numbered(3)
    params, state = by_names(net, given, ROW, table)
    np.testing.assert_allclose(params["block"]["dense"]["kernel"][2], given["h.2.w"].T, rtol=1e-6)
    apart = by_names(blocks(3), given, ROW, NUMBERED)
    x = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    y, _ = jit_apply(net, params, state, x)
    np.testing.assert_allclose(y, jit_apply(blocks(3), *apart, x)[0], rtol=1e-5)


def test_parts_and_several_names():
    given = {"qkv": np.arange(9.0).reshape(3, 3), "b1": np.ones(1), "b2": np.full(1, 2.0)}
    net = jn.dense(1)
    table = {"kernel": ("qkv", transposed, take_part(1, 3)), "bias": ("b1", "b2", np.add)}
    params, _ = by_names(net, given, ROW, table)
    assert params["kernel"].tolist() == [[3], [4], [5]]
    assert params["bias"].tolist() == [3]
    assert take_part((2, 0), 3, axis=0)(given["qkv"]).tolist() == [[6, 7, 8], [0, 1, 2]]
    assert reshaped(3, -1, 1)(given["qkv"]).shape == (3, 3, 1)
    assert transposed(np.zeros((4, 3, 5))).shape == (5, 3, 4)


def test_what_is_left_out():
    """Of ours it is drawn from the key; names that are left out are not used."""
    given = {name: a for name, a in numbered(2).items() if "head" not in name}
    given |= {"old_head.w": np.ones((3, 9)), "step": np.array(7)}
    key = jax.random.key(3)
    options = {"leave": ["head/*", "old_head.*", "step"]}
    params, _ = by_names(blocks(2), given, ROW, NUMBERED, **options, key=key)
    drawn, _ = blocks(2).init(key, ROW)
    np.testing.assert_array_equal(params["head"]["kernel"], drawn["head"]["kernel"])
    np.testing.assert_allclose(params["block_1"]["dense"]["bias"], given["h.1.b"], rtol=1e-6)
    with pytest.raises(ValueError, match="needs a key to draw head/bias, head/kernel, which are"):
        by_names(blocks(2), given, ROW, NUMBERED, **options)


def test_fractions_are_no_counts():
    def init(key, x):
        return {}, {"count": jnp.zeros(2, jnp.int32)}

    net = jn.Layer(init, lambda params, state, x, **options: (x, state), name="counting")
    _, state = by_names(net, {"n": np.array([3, 4])}, ROW, {"count": "n"})
    assert state["count"].tolist() == [3, 4]
    assert state["count"].dtype == jnp.int32
    with pytest.raises(ValueError, match=r"count \(2,\): expected int32, got float64"):
        by_names(net, {"n": np.array([0.5, 4])}, ROW, {"count": "n"})


def named(weights=WEIGHTS, table=DENSE, leave=()):
    return by_names(jn.dense(4), weights, ROW, table, leave=leave)


def arrays(changes):
    """The weights with some changed, and without those that are None."""
    return {name: a for name, a in (WEIGHTS | changes).items() if a is not None}


test_refusals = refuses([
    (lambda: named(table={"bias": "fc.bias"}),
     r'kernel \(3, 4\): no row .*\n.*not used: "fc.weight" \(4, 3\)'),
    (lambda: named(arrays({"fc.bias": None})), r'bias \(4,\): the weights have no "fc.bias"'),
    (lambda: named(arrays({"fc.bias": None, "fc.bais": np.ones(4)})),
     r'no "fc.bias"; there is "fc.bais"\n  not used: "fc.bais"'),
    (lambda: named(table=DENSE | {"kernel": "fc.weight"}),
     r'kernel \(3, 4\): got \(4, 3\) from "fc.weight"; write \(name, transposed\)'),
    (lambda: named(arrays({"fc.weight": np.ones(12)}), DENSE | {"kernel": "fc.weight"}),
     r'got \(12,\) from "fc.weight"; reshaped\(3, 4\) would fit'),
    (lambda: named(arrays({"fc.weight": np.ones((4, 5))})),
     r'kernel \(3, 4\): got \(5, 4\) from "fc.weight"$'),
    (lambda: named(table=DENSE | {"kernle": "a"}),
     'no entry for the row "kernle"; there is "kernel"'),
    (lambda: named(leave=["stpe"]), 'nothing to leave out fits "stpe"'),
    (lambda: named(table=DENSE | {"bias": ("fc.bias", take_part(1, 3))}),
     r'take fails for "fc.bias" \(4,\): take_part: expected axis -1 to be a multiple of 3'),
    (lambda: named(table=DENSE | {"bias": "{j}.{i}"}), "i, j of its names are not in the path"),
    (lambda: named({f"w.{i}": np.ones(i) for i in range(30)}),
     r"(?s)by_names: weights do not fit dense:.*and 12 more"),
    (lambda: named(arrays({"fc.bias": np.array(list("abcd"))})), TypeError, "must hold numbers"),
    (lambda: named(table=[1]), TypeError, "table must be a dict of paths of entries to names, got"),
    (lambda: named(table={"kernel": 3}), TypeError, "'kernel' must be a name, or a tuple"),
    (lambda: named(table={"kernel": ("a", "b")}), TypeError,
     "has 2 names and no function that joins them"),
    (lambda: named(leave="head/*"), TypeError, "leave must be a list of patterns"),
    (lambda: named(leave=[3]), TypeError, "leave must hold patterns like .*, got 3"),
    (lambda: take_part(3, 3), r"take_part: i must be 0 to 2, got 3"),
    (lambda: take_part(0, 0), "take_part: n must be at least 1, got 0"),
    (lambda: take_part((0, -1), 2), "take_part: i must be at least 0, got -1"),
    (lambda: transposed(None), TypeError, "transposed: a must be an array of shape .*, got None"),
    (lambda: transposed(np.ones(3)), r"transposed: a must have shape \(outputs, inputs, ...\)"),
])  # fmt: skip


# Keras 3: kernels have our layout, so most rows are names only.


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras", reason="compares with Keras")  # keras 3.15.1


def check_keras(model, net, x, table):
    """Equal outputs, with random weights and statistics."""
    rng = np.random.default_rng(0)
    for w in model.weights:
        spread = rng.uniform(0.5, 2, w.shape) if "variance" in w.path else rng.normal(size=w.shape)
        w.assign((0.5 * spread).astype(np.float32))
    weights = {w.path.removeprefix(f"{model.name}/"): w.numpy() for w in model.weights}
    params, state = by_names(net, weights, x, table)
    y, _ = jit_apply(net, params, state, x)
    wanted = np.asarray(model(x))
    assert y.shape == wanted.shape
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=2e-5 * abs(wanted).max())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of Keras's variables
def test_keras_convolutions_and_norms(keras):
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((9, 6, 3)),
        layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.DepthwiseConv2D((3, 2), depth_multiplier=2, name="depthwise"),
        layers.Conv2DTranspose(5, 3, strides=2, padding="valid", name="up"),
        layers.Flatten(),
        layers.Dense(7, activation="gelu", name="dense"),
        layers.LayerNormalization(name="layer_norm"),
        layers.Dense(2, name="head"),
    ])  # fmt: skip
    net = jn.serial(
        jn.conv(4, 3, strides=2),
        jax.nn.relu,
        jn.batch_norm(epsilon=1e-3),  # Keras's
        jn.depthwise_conv((3, 2), multiplier=2, padding="VALID"),
        jn.conv_transpose(5, 3, strides=2, padding="VALID", name="up"),
        jn.flatten(),
        jn.dense(7),
        lambda x: jax.nn.gelu(x, approximate=False),
        jn.layer_norm(epsilon=1e-3),
        jn.dense(2, name="head"),
    )
    table = {
        **{f"{name}/{entry}": f"{name}/{entry}"
           for name in ("conv", "dense", "head") for entry in ("kernel", "bias")},
        "batch_norm/scale": "norm/gamma", "batch_norm/bias": "norm/beta",
        "batch_norm/mean": "norm/moving_mean", "batch_norm/var": "norm/moving_variance",
        "depthwise_conv/kernel": ("depthwise/kernel", reshaped(3, 2, 1, 8)),
        "depthwise_conv/bias": "depthwise/bias",
        # a gradient, as in PyTorch: (*window, features, inputs), reversed
        "up/kernel": ("up/kernel", lambda a: np.flip(a, (0, 1)).swapaxes(2, 3)),
        "up/bias": "up/bias",
        "layer_norm/scale": "layer_norm/gamma", "layer_norm/bias": "layer_norm/beta",
    }  # fmt: skip
    x = np.random.default_rng(1).normal(size=(2, 9, 6, 3)).astype(np.float32)
    check_keras(model, net, x, table)


def gru_bias(a):
    """Both biases of the gates, and that of the input for the candidate."""
    first, second = a
    return np.concatenate([(first + second)[: 2 * len(first) // 3], first[2 * len(first) // 3 :]])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of Keras's variables
def test_keras_sequences(keras):
    layers = keras.layers
    ids = keras.Input((5,), dtype="int32")
    x = layers.Embedding(11, 6, name="words")(ids)
    x = layers.LSTM(4, return_sequences=True, name="lstm")(x)
    x = layers.GRU(8, return_sequences=True, name="gru")(x)
    x = x + layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both")(x)
    model = keras.Model(ids, layers.SimpleRNN(2, return_sequences=True, name="rnn")(x))

    def forward(m, x):
        x = m(jn.gru(8), m(jn.lstm(4), m(jn.embedding(11, 6, name="words"), x)))
        x = x + m(jn.multi_head_attention(2, head_size=3, name="attention"), x)
        return m(jn.rnn(2), m(jn.bidirectional(jn.lstm(3), name="both"), x))

    swapped = take_part((1, 0, 2), 3)  # Keras has the update gate first
    table = {"words/embedding": "words/embeddings"}
    for entry in ("kernel", "recurrent_kernel", "bias"):
        table[f"lstm/{entry}"] = f"lstm/lstm_cell/{entry}"
        table[f"rnn/{entry}"] = f"rnn/simple_rnn_cell/{entry}"
        for side in ("forward", "backward"):
            table[f"both/{side}/{entry}"] = name_in(model, f"both/{side}_", entry)
    for entry in ("kernel", "recurrent_kernel"):
        table[f"gru/{entry}"] = (f"gru/gru_cell/{entry}", swapped)
    table["gru/bias"] = "gru/gru_cell/bias", gru_bias, swapped
    table["gru/recurrent_bias"] = "gru/gru_cell/bias", lambda a: a[1], take_part(2, 3)
    for part_of in ("query", "key", "value", "out"):
        theirs = "attention_output" if part_of == "out" else part_of
        for entry in ("kernel", "bias"):
            table[f"attention/{part_of}/{entry}"] = f"attention/{theirs}/{entry}"
    x = np.random.default_rng(1).integers(0, 11, (2, 5)).astype(np.int32)
    check_keras(model, jn.compose(forward), x, table)


def name_in(model, start, entry):
    """Keras numbers the layers inside `Bidirectional`."""
    (name,) = (
        w.path for w in model.weights if w.path.startswith(start) and w.path.endswith(f"/{entry}")
    )
    return name
