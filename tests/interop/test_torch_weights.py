"""Each kind of weights, by the outputs of small networks in PyTorch, there and back."""

import copy
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.interop.torch import first_difference, from_torch, to_torch
from jaxnet.interop.torch_weights import ENTRIES, KINDS
from tests.compiled import jit_apply

torch = pytest.importorskip("torch", reason="compares with PyTorch")  # torch 2.13.0
nn = torch.nn


def lively(theirs):
    """Weights, biases and statistics that leave no entry without effect."""
    torch.manual_seed(0)
    for p in theirs.parameters():
        nn.init.normal_(p, 0, 0.5)
    for part in theirs.modules():
        if getattr(part, "running_mean", None) is not None:
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
    return theirs.eval()


def value(y):
    return (y[0] if isinstance(y, tuple) else y).detach().numpy()


def agree(net, theirs, shape, *, names=None, maps=True, ids=None, atol=1e-4):
    """Equal outputs after from_torch, and after to_torch into other weights of the module."""
    theirs = lively(theirs)
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape).astype(np.float32) if ids is None else rng.integers(0, ids, shape)
    given = torch.tensor(np.moveaxis(x, -1, 1) if maps and x.ndim > 2 else x)
    with torch.no_grad():
        wanted = value(theirs(given))
    params, state = from_torch(net, theirs.state_dict(), x, names=names)
    y, _ = jit_apply(net, params, state, x)
    moved = np.moveaxis(wanted, 1, -1) if maps and wanted.ndim > 2 else wanted
    assert y.shape == moved.shape
    np.testing.assert_allclose(y, moved, rtol=1e-4, atol=atol * abs(wanted).max())
    fresh = copy.deepcopy(theirs)
    for p in fresh.parameters():
        nn.init.ones_(p)
    back = to_torch(net, params, state, fresh.state_dict(), x, names=names)
    fresh.load_state_dict({name: torch.tensor(a) for name, a in back.items()})
    with torch.no_grad():
        again = value(fresh(given))
    np.testing.assert_allclose(again, wanted, rtol=1e-5, atol=1e-5 * abs(wanted).max())
    return params, state, theirs, x


class Recurrent(nn.Module):
    """A recurrent module, and a linear layer on its last step."""

    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = kind(3, 4, batch_first=True, **options)
        self.out = nn.Linear(8 if options.get("bidirectional") else 4, 5)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


@pytest.mark.fast_cases("rnn", "lstm", "gru", "gru-plain")
@pytest.mark.parametrize(
    ("kind", "layer", "options"),
    [
        (nn.RNN, jn.rnn(4), {}),
        (nn.RNN, jn.rnn(4, activation=jax.nn.relu), {"nonlinearity": "relu"}),
        (nn.LSTM, jn.lstm(4), {}),
        (nn.GRU, jn.gru(4), {}),
        (nn.LSTM, jn.lstm(4, use_bias=False), {"bias": False}),
        (nn.GRU, jn.gru(4, use_bias=False), {"bias": False}),
        (nn.LSTM, jn.layers.stack_rnn(jn.lstm(4), jn.lstm(4)), {"num_layers": 2}),
        (nn.GRU, jn.bidirectional(jn.gru(4)), {"bidirectional": True}),
        (
            nn.LSTM,
            jn.serial(jn.bidirectional(jn.lstm(4)), jn.bidirectional(jn.lstm(4), name="second")),
            {"num_layers": 2, "bidirectional": True},
        ),
        (nn.LSTM, jn.recurrent(jn.layers.lstm_cell(4)), {}),
    ],
    ids="rnn relu lstm gru lstm-plain gru-plain two both-ways two-both-ways recurrent".split(),
)
def test_recurrent_layers(kind, layer, options):
    net = jn.serial(layer, jn.dense(5))
    params, state, theirs, x = agree(net, Recurrent(kind, **options), (2, 6, 3), maps=False)
    found = first_difference(net, params, state, theirs, x)
    assert found.path is None and found.layers == (
        2 if options.keys() <= {"bias", "nonlinearity"} else 1
    )
    params["dense"]["bias"] += 1
    assert first_difference(net, params, state, theirs, x).path == "dense"


@pytest.mark.parametrize("cell", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells(cell):
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.cell = nn.Conv2d(3, 2, 2), getattr(nn, cell)(24, 4)

        def forward(self, x):  # the rows of the kernel are permuted, as those of a dense layer
            return self.cell(self.conv(x).flatten(1))

    ours = {
        "RNNCell": jn.layers.rnn_cell,
        "LSTMCell": jn.layers.lstm_cell,
        "GRUCell": jn.layers.gru_cell,
    }[cell](4)

    def forward(m, x):
        x = m(jn.flatten(), m(jn.conv(2, 2, padding="VALID"), x))
        return m(ours, (None, x))[1]

    agree(jn.compose(forward), Step(), (2, 5, 4, 3))


def test_the_biases_of_a_recurrent_layer():
    """Theirs are summed; ours are written to the first, and zeros to the second."""
    theirs = lively(Recurrent(nn.GRU))
    kept = {n: a.numpy().copy() for n, a in theirs.state_dict().items()}
    net, x = jn.serial(jn.gru(4), jn.dense(5)), jn.spec((2, 6, 3))
    params, state = from_torch(net, theirs.state_dict(), x)
    both = kept["rnn.bias_ih_l0"] + kept["rnn.bias_hh_l0"]
    np.testing.assert_allclose(params["gru"]["bias"][:8], both[:8], rtol=1e-6)
    np.testing.assert_array_equal(params["gru"]["bias"][8:], kept["rnn.bias_ih_l0"][8:])
    np.testing.assert_array_equal(params["gru"]["recurrent_bias"], kept["rnn.bias_hh_l0"][8:])
    back = to_torch(net, params, state, theirs.state_dict(), x)
    np.testing.assert_array_equal(back["rnn.bias_hh_l0"][:8], np.zeros(8))
    np.testing.assert_array_equal(back["rnn.bias_hh_l0"][8:], kept["rnn.bias_hh_l0"][8:])
    np.testing.assert_array_equal(back["rnn.bias_ih_l0"], params["gru"]["bias"])
    # the weights that were given are unchanged
    for name, array in theirs.state_dict().items():
        np.testing.assert_array_equal(array, kept[name])


def test_a_projection_is_refused():
    theirs = nn.LSTM(3, 4, proj_size=2)
    with pytest.raises(ValueError, match="lstm and l0: expected .*, got .*weight_hr"):
        from_torch(jn.serial(jn.lstm(4)), theirs.state_dict(), jn.spec((2, 6, 3)))


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.mha = nn.MultiheadAttention(8, 2, batch_first=True, **options)
        self.out = nn.Linear(40, 3)

    def forward(self, x):
        return self.out((x + self.mha(x, x, x)[0]).flatten(1))


@pytest.mark.fast_cases("True")
@pytest.mark.parametrize("bias", [True, False])
def test_attention(bias):
    """The sum and the flattening keep the order of a sequence, which is PyTorch's."""

    def forward(m, x):
        x = x + m(jn.multi_head_attention(2, use_bias=bias), x)
        return m(jn.dense(3), m(jn.flatten(), x))

    net = jn.compose(forward)
    params, state, theirs, x = agree(net, Attention(bias=bias), (2, 5, 8), maps=False)
    found = first_difference(net, params, state, theirs, x)
    assert found.path is None and found.layers == 2


def test_attention_to_a_memory_of_another_width():
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(8, 6)
            self.mha = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True)

        def forward(self, x):
            memory = self.proj(x)
            return self.mha(x, memory, memory)[0]

    def forward(m, x):
        return m(jn.multi_head_attention(2), (x, m(jn.dense(6), x)))

    params, *_ = agree(jn.compose(forward), Cross(), (2, 5, 8), maps=False)
    assert params["multi_head_attention"]["key"]["kernel"].shape == (6, 2, 4)


def test_attention_of_other_sizes_is_refused():
    weights = Attention(add_bias_kv=True).state_dict()
    net = jn.compose(lambda m, x: m(jn.dense(3), m(jn.flatten(), m(jn.multi_head_attention(2), x))))
    with pytest.raises(ValueError, match="multi_head_attention and mha: expected .* got bias_k"):
        from_torch(net, weights, jn.spec((2, 5, 8)))
    weights = Attention().state_dict()
    net = jn.serial(jn.multi_head_attention(2, kv_heads=1), jn.flatten(), jn.dense(3))
    with pytest.raises(
        ValueError, match=r"in_proj_weight must have shape \(16, 8\), got \(24, 8\)"
    ):
        from_torch(net, weights, jn.spec((2, 5, 8)))


@pytest.mark.slow
def test_a_transformer_encoder():
    theirs = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(
            8, 2, 16, norm_first=True, activation="gelu", batch_first=True, dropout=0.0
        ),
        2,
        enable_nested_tensor=False,
    )

    def block(i):
        return jn.transformer_block(
            2, 16, activation=lambda x: jax.nn.gelu(x, approximate=False),
            norm=lambda name: jn.layer_norm(epsilon=1e-5, name=name), name=f"block_{i}",
        )  # fmt: skip

    pairs = {"attention": "self_attn", "attention_norm": "norm1", "mlp_norm": "norm2",
             "mlp_in": "linear1", "mlp_out": "linear2"}  # fmt: skip
    names = {f"block_{i}/{a}": f"layers.{i}.{b}" for i in range(2) for a, b in pairs.items()}
    net = jn.serial(block(0), block(1))
    agree(net, theirs, (2, 5, 8), maps=False, names=names)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False)
        self.rnn, self.head.weight = nn.LSTM(4, 4, batch_first=True), self.words.weight

    def forward(self, x):
        return self.head(self.rnn(self.words(x))[0])


@pytest.mark.slow
def test_tied_embeddings():
    """PyTorch lists the shared array twice, wherever the module that shares it is defined."""
    words = jn.embedding(11, 4, tied=True)
    net = jn.serial(words, jn.lstm(4), words)
    agree(net, Tied(), (2, 5), ids=11, maps=False)
    apart = jn.serial(jn.embedding(11, 4), jn.lstm(4), jn.dense(11, use_bias=False))
    names = {"dense": "head"}
    agree(apart, Tied(), (2, 5), ids=11, maps=False, names=names)


def test_equal_arrays_are_not_tied():
    """Norms whose weights are all ones are not shared."""
    theirs = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.LayerNorm(3))
    with pytest.raises(ValueError, match="unused: 2"):
        from_torch(jn.serial(jn.dense(3), jn.layer_norm()), theirs.state_dict(), jn.spec((2, 3)))


@pytest.mark.parametrize(
    ("net", "build", "shape"),
    [
        pytest.param(
            [jn.conv(6, 3, groups=3), jnp.tanh, jn.conv(4, 2, groups=2, padding="VALID")],
            lambda: [nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.Tanh(),
                     nn.Conv2d(6, 4, 2, groups=2)],
            (2, 5, 4, 3), id="grouped",
        ),
        pytest.param(
            [jn.depthwise_conv(3, multiplier=2), jn.batch_norm(), jn.conv(5, 1)],
            lambda: [nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.BatchNorm2d(6),
                     nn.Conv2d(6, 5, 1)],
            (2, 5, 4, 3), id="depthwise",
        ),
        pytest.param(
            [jn.conv(4, 3, padding="VALID"), jn.batch_norm(), jn.flatten(), jn.dense(3)],
            lambda: [nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(20, 3)],
            (2, 7, 2), id="conv-1d",
        ),
        pytest.param(
            [jn.conv(4, (2, 3, 1), padding="VALID"), jn.layers.instance_norm(epsilon=1e-5),
             jn.flatten(),
             jn.layer_norm(epsilon=1e-5), jn.dense(3)],
            lambda: [nn.Conv3d(2, 4, (2, 3, 1)), nn.InstanceNorm3d(4, affine=True), nn.Flatten(),
                     nn.LayerNorm(48), nn.Linear(48, 3)],
            (2, 4, 4, 2, 2), id="conv-3d",
        ),
        pytest.param(
            [jn.conv_transpose(3, 3, strides=2, padding="VALID"), jn.group_norm(3, epsilon=1e-5)],
            lambda: [nn.ConvTranspose1d(3, 3, 3, stride=2), nn.GroupNorm(3, 3)],
            (2, 5, 3), id="conv-transpose-1d",
        ),
        pytest.param(
            [jn.conv(4, 2, padding="VALID"), jn.flatten(), jn.batch_norm(), jn.dense(4)],
            lambda: [nn.Conv1d(2, 4, 2), nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 4)],
            (3, 4, 2), id="norm-behind-flatten-1d",
        ),
    ],
)  # fmt: skip
def test_convolutions_and_norms(net, build, shape):
    agree(jn.serial(*net), nn.Sequential(*build()), shape)


@pytest.mark.skipif(
    "groups" not in inspect.signature(jn.conv_transpose).parameters, reason="needs groups"
)
def test_grouped_transposed_convolution():
    """The groups are along the inputs in PyTorch, along the features here."""
    layer: Any = jn.conv_transpose
    net = [layer(6, 3, strides=2, padding="VALID", groups=2), jnp.tanh, jn.conv(3, 1)]
    theirs = [nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.Tanh(), nn.Conv2d(6, 3, 1)]
    agree(jn.serial(*net), nn.Sequential(*theirs), (2, 5, 4, 4))


class Tokens(nn.Module):
    """An image as a sequence of pixels, as vision transformers have it."""

    def __init__(self):
        super().__init__()
        self.conv, self.mix = nn.Conv2d(3, 4, 2), nn.Linear(4, 4)
        self.out = nn.Linear(24, 5)

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        x = x + self.mix(x)
        return self.out(x.flatten(1))


def test_pixels_in_a_row_are_not_flattened_unseen():
    """There the order in PyTorch may be either; as the mean of all, it does not matter."""

    def forward(m, x, end):
        x = m(jn.conv(4, 2, padding="VALID"), x).reshape(x.shape[0], -1, 4)
        x = x + m(jn.dense(4), x)
        return m(jn.dense(5, name="out"), end(m, x))

    flat = jn.compose(lambda m, x: forward(m, x, lambda m, x: m(jn.flatten(), x)))
    with pytest.raises(ValueError, match="/out: the order of its input's features"):
        from_torch(flat, Tokens().state_dict(), jn.spec((2, 4, 3, 3)))
    mean = jn.compose(lambda m, x: forward(m, x, lambda m, x: x.mean(1)))

    class Mean(Tokens):
        def forward(self, x):
            x = self.conv(x).flatten(2).transpose(1, 2)
            return self.out((x + self.mix(x)).mean(1))

    theirs = Mean()
    theirs.out = nn.Linear(4, 5)
    agree(mean, theirs, (2, 4, 3, 3))


def test_columns_of_an_image_as_features_of_a_sequence():
    """CRNN: a convolution, then an LSTM over the columns, whose features mix rows and channels."""

    def net(columns):
        def forward(m, x):
            x = columns(m(jn.conv(4, 1), x))  # from (batch, height, width, channels)
            return m(jn.lstm(5), x.reshape(len(x), x.shape[1], -1))

        return jn.compose(forward)

    class Theirs(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.rnn = nn.Conv2d(3, 4, 1), nn.LSTM(12, 5, batch_first=True)

        def forward(self, x):
            y = self.rnn(self.conv(x).permute(0, 3, 1, 2).flatten(2))[0]
            return y.transpose(1, 2)  # channels first, as `agree` expects

    with pytest.raises(ValueError, match="/lstm: the order of its input's features"):
        ours = net(lambda x: x.transpose(0, 2, 1, 3))
        from_torch(ours, Theirs().state_dict(), jn.spec((2, 3, 6, 3)))
    channels_first = net(lambda x: x.transpose(0, 3, 1, 2).transpose(0, 3, 1, 2))
    agree(channels_first, Theirs(), (2, 3, 6, 3))


def test_layer_norm_leaves_the_order_unknown():
    """PyTorch's acts on the last axis, so that the channels were moved there, and perhaps back."""
    norms = jn.serial(jn.layer_norm(), jn.flatten(), jn.dense(3))
    theirs = nn.Sequential(nn.LayerNorm(4), nn.Flatten(), nn.Linear(20, 3))
    words = "serial/dense: the order .* with jn.interop.by_names"
    with pytest.raises(ValueError, match=words):
        from_torch(norms, theirs.state_dict(), jn.spec((2, 5, 4)))

    def written(m, x):  # in the axes of PyTorch
        x = m(jn.layer_norm(epsilon=1e-5), m(jn.conv(4, 1), x))
        return m(jn.dense(3), jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1))

    class Theirs(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.out = nn.Conv1d(4, 4, 1), nn.LayerNorm(4), nn.Linear(20, 3)

        def forward(self, x):
            return self.out(self.norm(self.conv(x).mT).mT.flatten(1))

    agree(jn.compose(written), Theirs(), (2, 5, 4))


def test_names_of_the_directions():
    net = jn.bidirectional(jn.gru(4))
    theirs = nn.GRU(3, 4, batch_first=True, bidirectional=True)
    names = {"backward": "l0_reverse"}
    agree(net, theirs, (2, 6, 3), maps=False, names=names)
    params, _ = from_torch(net, theirs.state_dict(), jn.spec((2, 6, 3)))
    swapped = {"backward": "l0", "forward": "l0_reverse"}
    others, _ = from_torch(net, theirs.state_dict(), jn.spec((2, 6, 3)), names=swapped)
    np.testing.assert_array_equal(params["forward"]["kernel"], others["backward"]["kernel"])


def test_every_kind_has_its_entries():
    assert set(KINDS) == set(ENTRIES)


def test_the_grus_of_pytorch_and_of_the_paper_are_not_confused():
    """Their weights have the same shapes; the paper's reset gate acts before the product."""
    weights = {
        "weight_ih_l0": np.ones((12, 3)), "weight_hh_l0": np.ones((12, 4)),
        "bias_ih_l0": np.ones(12), "bias_hh_l0": np.ones(12),
    }  # fmt: skip
    x = jn.spec((2, 5, 3))
    from_torch(jn.gru(4), weights, x)
    with pytest.raises(ValueError, match="got gru, whose entries differ"):
        from_torch(jn.gru(4, reset_after=False), weights, x)
