"""Each kind of weights, by the outputs of small networks in PyTorch, there and back."""

import copy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.interop.torch import first_difference, from_torch, to_torch
from jaxnet.interop.torch_weights import ENTRIES, KINDS
from tests.helpers import jit_apply, refuses

torch = pytest.importorskip("torch", reason="compares with PyTorch")  # torch 2.13.0
nn = torch.nn
NORM = partial(jn.layer_norm, epsilon=1e-5)  # PyTorch's


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
    for name, array in theirs.state_dict().items():
        if "bias_ih" not in name and "bias_hh" not in name:  # these two are summed
            np.testing.assert_array_equal(back[name], array.numpy(), err_msg=name)
    fresh.load_state_dict({name: torch.tensor(a) for name, a in back.items()})
    with torch.no_grad():
        again = value(fresh(given))
    np.testing.assert_allclose(again, wanted, rtol=1e-5, atol=1e-5 * abs(wanted).max())
    return params, state, theirs, x


class ModuleOfParts(nn.Module):
    """A module of parts by name, in the order of PyTorch's declarations, and their forward."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return self.run(self, x)


def with_output(kind, **options):
    """A recurrent module, and a linear layer on its steps."""
    out = nn.Linear(8 if options.get("bidirectional") else 4, 5)
    rnn = kind(3, 4, batch_first=True, **options)
    return ModuleOfParts(lambda self, x: self.out(self.rnn(x)[0]), rnn=rnn, out=out)


BOTH_WAYS = jn.bidirectional(jn.lstm(4))


@pytest.mark.fast_cases("rnn", "lstm", "gru", "gru-plain")
@pytest.mark.parametrize(("kind", "layer", "options"), [
    (nn.RNN, jn.rnn(4), {}),
    (nn.RNN, jn.rnn(4, activation=jax.nn.relu), {"nonlinearity": "relu"}),
    (nn.LSTM, jn.lstm(4), {}),
    (nn.GRU, jn.gru(4), {}),
    (nn.LSTM, jn.lstm(4, use_bias=False), {"bias": False}),
    (nn.GRU, jn.gru(4, use_bias=False), {"bias": False}),
    (nn.LSTM, jn.layers.stack_rnn(jn.lstm(4), jn.lstm(4)), {"num_layers": 2}),
    (nn.LSTM, jn.serial(BOTH_WAYS, jn.bidirectional(jn.lstm(4), name="second")),
     {"num_layers": 2, "bidirectional": True}),
    (nn.LSTM, jn.recurrent(jn.layers.lstm_cell(4)), {}),
], ids="rnn relu lstm gru lstm-plain gru-plain two two-both-ways recurrent".split())  # fmt: skip
def test_recurrent_layers(kind, layer, options):
    net = jn.serial(layer, jn.dense(5))
    params, state, theirs, x = agree(net, with_output(kind, **options), (2, 6, 3), maps=False)
    found = first_difference(net, params, state, theirs, x)
    assert found.path is None
    assert found.layers == (2 if options.keys() <= {"bias", "nonlinearity"} else 1)
    params["dense"]["bias"] += 1
    assert first_difference(net, params, state, theirs, x).path == "dense"


@pytest.mark.parametrize(("cell", "ours"), [
    (nn.RNNCell, jn.layers.rnn_cell(4)), (nn.LSTMCell, jn.layers.lstm_cell(4)),
    (nn.GRUCell, jn.layers.gru_cell(4)),
], ids=["rnn", "lstm", "gru"])  # fmt: skip
def test_cells(cell, ours):
    """The rows of the kernel are permuted, as those of a dense layer."""

    def step(self, x):
        return self.cell(self.conv(x).flatten(1))

    def forward(m, x):
        x = m(jn.flatten(), m(jn.conv(2, 2, padding="VALID"), x))
        return m(ours, (None, x))[1]

    theirs = ModuleOfParts(step, conv=nn.Conv2d(3, 2, 2), cell=cell(24, 4))
    agree(jn.compose(forward), theirs, (2, 5, 4, 3))


def test_the_biases_of_a_recurrent_layer():
    """Theirs are summed; ours are written to the first, and zeros to the second."""
    theirs = lively(with_output(nn.GRU))
    kept = {n: a.numpy().copy() for n, a in theirs.state_dict().items()}
    net = jn.serial(jn.gru(4), jn.dense(5))
    x = jn.spec((2, 6, 3))
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


def attention(**options):
    mha = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def run(self, x):
        return self.out((x + self.mha(x, x, x)[0]).flatten(1))

    return ModuleOfParts(run, mha=mha, out=nn.Linear(40, 3))


@pytest.mark.fast_cases("True")
@pytest.mark.parametrize("bias", [True, False])
def test_attention(bias):
    """The sum and the flattening keep the order of a sequence, which is PyTorch's."""

    def forward(m, x):
        x = x + m(jn.multi_head_attention(2, use_bias=bias), x)
        return m(jn.dense(3), m(jn.flatten(), x))

    net = jn.compose(forward)
    params, state, theirs, x = agree(net, attention(bias=bias), (2, 5, 8), maps=False)
    found = first_difference(net, params, state, theirs, x)
    assert found.path is None
    assert found.layers == 2


def test_attention_to_a_memory_of_another_width():
    mha = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True)

    def run(self, x):
        return self.mha(x, *[self.proj(x)] * 2)[0]

    def forward(m, x):
        return m(jn.multi_head_attention(2), x, memory=m(jn.dense(6), x))

    theirs = ModuleOfParts(run, proj=nn.Linear(8, 6), mha=mha)
    params, *_ = agree(jn.compose(forward), theirs, (2, 5, 8), maps=False)
    assert params["multi_head_attention"]["key"]["kernel"].shape == (6, 2, 4)


@pytest.mark.slow
def test_a_transformer_encoder():
    options = {"norm_first": True, "activation": "gelu", "batch_first": True, "dropout": 0.0}
    layer = nn.TransformerEncoderLayer(8, 2, 16, **options)
    theirs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    gelu = partial(jax.nn.gelu, approximate=False)
    block = partial(jn.transformer_block, 2, 16, activation=gelu, norm=NORM)

    pairs = {
        "attention": "self_attn",
        "attention_norm": "norm1",
        "mlp_norm": "norm2",
        "mlp_in": "linear1",
        "mlp_out": "linear2",
    }
    names = {f"block_{i}/{a}": f"layers.{i}.{b}" for i in range(2) for a, b in pairs.items()}
    net = jn.serial(block(name="block_0"), block(name="block_1"))
    agree(net, theirs, (2, 5, 8), maps=False, names=names)


def tied():
    head = nn.Linear(4, 11, bias=False)
    words = nn.Embedding(11, 4)
    head.weight = words.weight

    def run(self, x):
        return self.head(self.rnn(self.words(x))[0])

    return ModuleOfParts(run, words=words, head=head, rnn=nn.LSTM(4, 4, batch_first=True))


@pytest.mark.slow
def test_tied_embeddings():
    """PyTorch lists the shared array twice, wherever the module that shares it is defined."""
    words = jn.embedding(11, 4, tied=True)
    agree(jn.serial(words, jn.lstm(4), words), tied(), (2, 5), ids=11, maps=False)
    apart = jn.serial(jn.embedding(11, 4), jn.lstm(4), jn.dense(11, use_bias=False))
    agree(apart, tied(), (2, 5), ids=11, maps=False, names={"dense": "head"})


VALID = {"padding": "VALID"}
CONVOLUTIONS = {
    "grouped": (
        [jn.conv(6, 3, groups=3), jnp.tanh, jn.conv(4, 2, groups=2, **VALID)],
        lambda: [nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.Tanh(), nn.Conv2d(6, 4, 2, groups=2)],
        (2, 5, 4, 3),
    ),
    "depthwise": (
        [jn.depthwise_conv(3, multiplier=2), jn.batch_norm(), jn.conv(5, 1)],
        lambda: [nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 1)],
        (2, 5, 4, 3),
    ),
    # The groups are along the inputs in PyTorch, along the features here.
    "grouped-transpose": (
        [jn.conv_transpose(6, 3, strides=2, groups=2, **VALID), jnp.tanh, jn.conv(3, 1)],
        lambda: [nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.Tanh(), nn.Conv2d(6, 3, 1)],
        (2, 5, 4, 4),
    ),
    "conv-1d": (
        [jn.conv(4, 3, **VALID), jn.batch_norm(), jn.flatten(), jn.dense(3)],
        lambda: [nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(20, 3)],
        (2, 7, 2),
    ),
    "conv-3d": (
        [
            jn.conv(4, (2, 3, 1), **VALID),
            jn.layers.instance_norm(epsilon=1e-5),
            jn.flatten(),
            NORM(),
            jn.dense(3),
        ],
        lambda: [
            nn.Conv3d(2, 4, (2, 3, 1)),
            nn.InstanceNorm3d(4, affine=True),
            nn.Flatten(),
            nn.LayerNorm(48),
            nn.Linear(48, 3),
        ],
        (2, 4, 4, 2, 2),
    ),
    "conv-transpose-1d": (
        [jn.conv_transpose(3, 3, strides=2, **VALID), jn.group_norm(3, epsilon=1e-5)],
        lambda: [nn.ConvTranspose1d(3, 3, 3, stride=2), nn.GroupNorm(3, 3)],
        (2, 5, 3),
    ),
    "norm-behind-flatten-1d": (
        [jn.conv(4, 2, **VALID), jn.flatten(), jn.batch_norm(), jn.dense(4)],
        lambda: [nn.Conv1d(2, 4, 2), nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 4)],
        (3, 4, 2),
    ),
    # A square kernel: no shape shows that PyTorch has inputs first, and the window reversed.
    "as many inputs as features": (
        [jn.conv_transpose(4, 3, strides=2, padding=1), jn.conv_transpose(2, 2, **VALID)],
        lambda: [nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1), nn.ConvTranspose2d(4, 2, 2)],
        (2, 5, 6, 4),
    ),
}


@pytest.mark.parametrize(("net", "build", "shape"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions_and_norms(net, build, shape):
    net = jn.serial(*net)
    params, state, theirs, x = agree(net, nn.Sequential(*build()), shape)
    assert first_difference(net, params, state, theirs, x).path is None


def test_pixels_in_a_row_are_not_flattened_unseen():
    """There the order in PyTorch may be either; as the mean of all, it does not matter."""

    def run(self, x):  # an image as a sequence of pixels, as vision transformers have it
        x = self.conv(x).flatten(2).transpose(1, 2)
        return self.out((x + self.mix(x)).mean(1))

    def tokens(width):
        parts = {"mix": nn.Linear(4, 4), "out": nn.Linear(width, 5)}
        return ModuleOfParts(run, conv=nn.Conv2d(3, 4, 2), **parts)

    def net(end):
        def forward(m, x):
            x = m(jn.conv(4, 2, padding="VALID"), x).reshape(x.shape[0], -1, 4)
            return m(jn.dense(5, name="out"), m(end, x + m(jn.dense(4), x)))

        return jn.compose(forward)

    with pytest.raises(ValueError, match="/out: the order of its input's features"):
        from_torch(net(jn.flatten()), tokens(24).state_dict(), jn.spec((2, 4, 3, 3)))
    agree(net(lambda x: x.mean(1)), tokens(4), (2, 4, 3, 3))


def test_columns_of_an_image_as_features_of_a_sequence():
    """CRNN: a convolution, then an LSTM over the columns, whose features mix rows and channels."""

    def net(columns):
        def forward(m, x):
            x = columns(m(jn.conv(4, 1), x))  # from (batch, height, width, channels)
            return m(jn.lstm(5), x.reshape(len(x), x.shape[1], -1))

        return jn.compose(forward)

    def run(self, x):
        y = self.rnn(self.conv(x).permute(0, 3, 1, 2).flatten(2))[0]
        return y.transpose(1, 2)  # channels first, as `agree` expects

    theirs = ModuleOfParts(run, conv=nn.Conv2d(3, 4, 1), rnn=nn.LSTM(12, 5, batch_first=True))
    with pytest.raises(ValueError, match="/lstm: the order of its input's features"):
        ours = net(lambda x: x.transpose(0, 2, 1, 3))
        from_torch(ours, theirs.state_dict(), jn.spec((2, 3, 6, 3)))
    channels_first = net(lambda x: x.transpose(0, 3, 1, 2).transpose(0, 3, 1, 2))
    agree(channels_first, theirs, (2, 3, 6, 3))


def test_images_without_channels_are_flattened_as_in_pytorch():
    x = np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32)
    for first, theirs in ((), ()), ((jn.layer_norm(epsilon=1e-5),), (nn.LayerNorm(5),)):
        module = nn.Sequential(*theirs, nn.Flatten(), nn.Linear(35, 3))
        net = jn.serial(*first, jn.flatten(), jn.dense(3))
        params, state = from_torch(net, module.state_dict(), x)
        with torch.no_grad():
            wanted = module(torch.tensor(x)).numpy()
        np.testing.assert_allclose(net.apply(params, state, x)[0], wanted, 1e-4, 1e-4)


def test_layer_norm_leaves_the_order_unknown():
    """PyTorch's acts on the last axis, so that the channels were moved there, and perhaps back."""
    norms = jn.serial(jn.layer_norm(), jn.flatten(), jn.dense(3))
    theirs = nn.Sequential(nn.LayerNorm(4), nn.Flatten(), nn.Linear(120, 3))
    with pytest.raises(ValueError, match="serial/dense: the order .* with jn.interop.by_names"):
        from_torch(norms, theirs.state_dict(), jn.spec((2, 5, 6, 4)))

    def written(m, x):  # in the axes of PyTorch
        x = m(jn.layer_norm(epsilon=1e-5), m(jn.conv(4, 1), x))
        return m(jn.dense(3), jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1))

    def run(self, x):
        return self.out(self.norm(self.conv(x).mT).mT.flatten(1))

    parts = {"conv": nn.Conv1d(4, 4, 1), "norm": nn.LayerNorm(4), "out": nn.Linear(20, 3)}
    agree(jn.compose(written), ModuleOfParts(run, **parts), (2, 5, 4))


KINDS_IN_A_ROW = {
    "lstm": (lambda: nn.LSTM(4, 4, batch_first=True), lambda name: jn.lstm(4, name=name)),
    "bidirectional": (
        lambda: nn.GRU(4, 2, batch_first=True, bidirectional=True),
        lambda name: jn.bidirectional(jn.gru(2), name=name),
    ),
    "dense": (lambda: nn.Linear(4, 4), lambda name: jn.dense(4, name=name)),
    "conv": (lambda: nn.Conv1d(4, 4, 3, padding=1), lambda name: jn.conv(4, 3, name=name)),
    "attention": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda name: jn.multi_head_attention(2, name=name),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS_IN_A_ROW)
@pytest.mark.parametrize("names", [("a", "b", "c"), ("x", "y", "z"), ("fc1", "fc2", "fc3")])
def test_layers_are_never_exchanged(kind, names):
    """In any order of declaration, below any wrapper: right, or an error."""
    make, layer = KINDS_IN_A_ROW[kind]
    net, x = jn.serial(*map(layer, "abc")), jn.spec((2, 5, 4))
    for order in [names, names[::-1], names[1:] + names[:1]]:
        theirs = lively(nn.ModuleDict({name: make() for name in order}))
        right = [theirs[name].state_dict() for name in names]
        for prefix in ("", "model.", "module._orig_mod."):
            weights = {prefix + name: array for name, array in theirs.state_dict().items()}
            try:
                params, _ = from_torch(net, weights, x)
            except ValueError as error:
                assert order != names or names == ("x", "y", "z"), error
                assert "names={" in str(error)
                continue
            for ours, arrays in zip("abc", right, strict=True):
                found, _ = from_torch(layer(ours), arrays, x)
                jax.tree.map(np.testing.assert_array_equal, params[ours], found)


def test_names_of_the_directions():
    net = jn.bidirectional(jn.gru(4))
    theirs = nn.GRU(3, 4, batch_first=True, bidirectional=True)
    agree(net, theirs, (2, 6, 3), maps=False, names={"backward": "l0_reverse"})
    params, _ = from_torch(net, theirs.state_dict(), jn.spec((2, 6, 3)))
    swapped = {"backward": "l0", "forward": "l0_reverse"}
    others, _ = from_torch(net, theirs.state_dict(), jn.spec((2, 6, 3)), names=swapped)
    np.testing.assert_array_equal(params["forward"]["kernel"], others["backward"]["kernel"])


def test_every_kind_has_its_entries():
    assert set(KINDS) == set(ENTRIES)


def refused(net, theirs, shape):
    return from_torch(net, theirs.state_dict(), jn.spec(shape))


def attentive(**options):
    return jn.serial(jn.multi_head_attention(2, **options), jn.flatten(), jn.dense(3))


test_refusals = refuses(
    [
        (
            lambda: refused(jn.serial(jn.lstm(4)), nn.LSTM(3, 4, proj_size=2), (2, 6, 3)),
            "lstm and l0: expected .*, got .*weight_hr",
        ),
        (
            lambda: refused(attentive(), attention(add_bias_kv=True), (2, 5, 8)),
            "multi_head_attention and mha: expected .* got bias_k",
        ),
        (
            lambda: refused(attentive(kv_heads=1), attention(), (2, 5, 8)),
            r"in_proj_weight must have shape \(16, 8\), got \(24, 8\)",
        ),
        # Norms whose weights are all ones are not shared.
        (
            lambda: refused(
                jn.serial(jn.dense(3), jn.layer_norm()),
                nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.LayerNorm(3)),
                (2, 3),
            ),
            "unused: 2",
        ),
        # Weights of the paper's GRU have the same shapes; its reset gate acts before the product.
        (
            lambda: refused(jn.gru(4, reset_after=False), nn.GRU(3, 4), (2, 5, 3)),
            "got gru, whose entries differ",
        ),
        (
            lambda: first_difference(jn.dense(4), {}, {}, {}, np.ones((2, 3))),
            TypeError,
            "first_difference: module must be a torch.nn.Module, got ",
        ),
        (
            lambda: first_difference(
                jn.dense(4),
                {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)},
                {},
                nn.Linear(3, 4),
                np.ones((2, 3)),
                tolerance=-1,
            ),
            r"first_difference: tolerance must be in \[0, inf\), got -1",
        ),
    ]
)


# The order of features, by the logits of both.


def test_a_flatten_of_the_input_and_two_of_one_size():
    """3*6*2 and 1*6*6 are both 36."""

    def run(self, x):
        return self.a(x.flatten(1)) * self.b(self.conv(x).flatten(1))

    parts = {"a": nn.Linear(36, 3), "conv": nn.Conv2d(2, 6, (3, 1)), "b": nn.Linear(36, 3)}

    def forward(m, x):
        a = m(jn.dense(3, name="a"), m(jn.flatten(), x))
        conv = m(jn.conv(6, (3, 1), padding="VALID"), x)
        return a * m(jn.dense(3, name="b"), m(jn.flatten(), conv))

    agree(jn.compose(forward), ModuleOfParts(run, **parts), (2, 3, 6, 2))


def test_functions_between_the_layers_keep_the_order():
    """Inline activations, sums and pooling, and transforms, need no help."""

    def run(self, x):
        x = torch.relu(self.conv(x))
        x = x * torch.sigmoid(self.wide(x.mean((2, 3))))[:, :, None, None]
        x = 2 * torch.tanh(self.norm(x.flatten(1))) + 1
        x = x / x.abs().mean(1, keepdim=True)
        x = torch.relu(self.a(x))
        return x + self.b(x)

    def forward(m, x):
        x = jax.nn.relu(m(jn.conv(4, 3), x))
        gate = m(jn.freeze(jn.dense(4, name="wide")), x.mean((1, 2)))
        x = x * jax.nn.sigmoid(gate)[:, None, None]
        x = 2 * jnp.tanh(m(jn.batch_norm(), m(jn.flatten(), x))) + 1
        x = x / jnp.abs(x).mean(1, keepdims=True)
        x = jax.nn.relu(m(jn.remat(jn.serial(jn.dense(7), name="a")), x))
        return x + m(jn.cast(jn.dense(7, name="b"), jnp.float32), x)

    parts = {"conv": nn.Conv2d(3, 4, 3, padding=1), "wide": nn.Linear(4, 4)}
    parts |= {"norm": nn.BatchNorm1d(120), "a": nn.Linear(120, 7), "b": nn.Linear(7, 7)}
    agree(jn.compose(forward), ModuleOfParts(run, **parts), (2, 5, 6, 3))


def test_an_embedding_flattens_as_in_torch():
    """(batch, time, features) has the same axes in both, so nothing is permuted."""
    net = jn.serial(jn.embedding(11, 4), jn.flatten(), jn.dense(5))
    theirs = nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Linear(12, 5))
    agree(net, theirs, (2, 3), ids=11, maps=False)


def inline(flatten):
    def net(m, x):
        x = flatten(m(jn.conv(4, 3, padding="VALID"), x))
        return m(jn.dense(2), jax.nn.relu(m(jn.batch_norm(), x)))

    return jn.compose(net)


def test_an_inline_reshape():
    """Its order in PyTorch is not known: it raises, or follows PyTorch's axes where written so."""
    rest = nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 2)
    theirs = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), *rest)
    weights = theirs.state_dict()

    def flat(x):
        return jax.nn.relu(x).reshape(len(x), -1)

    words = r"net/batch_norm: the order .* not known.*m\(jn.flatten\(\), x\)"
    for reshape in (flat, jax.jit(flat)):
        with pytest.raises(ValueError, match=words):
            from_torch(inline(reshape), weights, jn.spec((2, 5, 6, 3)))
    channels_first = inline(lambda x: jnp.moveaxis(x, -1, 1).reshape(len(x), -1))
    agree(channels_first, theirs, (2, 5, 6, 3))


def test_a_decoder():
    """From features to maps the order is known only where it is written in PyTorch's axes."""
    maps = nn.Unflatten(1, (4, 3, 2)), nn.ConvTranspose2d(4, 2, 2)
    theirs = nn.Sequential(nn.Linear(5, 24), nn.ReLU(), *maps)

    def decoder(shape):
        def net(m, x):
            x = m(jn.dense(24), x)
            x = shape(jax.nn.relu(x))
            return m(jn.conv_transpose(2, 2, padding="VALID"), x)

        return jn.compose(net)

    agree(decoder(lambda x: jnp.moveaxis(x.reshape(-1, 4, 3, 2), 1, -1)), theirs, (7, 5))
    with pytest.raises(ValueError, match="net/conv_transpose: the order"):
        from_torch(decoder(lambda x: x.reshape(-1, 3, 2, 4)), theirs.state_dict(), jn.spec((7, 5)))


def test_a_shared_layer():
    """On features and on pixels, which needs no order; on two different ones it raises."""

    def run(self, x):
        return self.a(self.a(x.permute(0, 2, 3, 1)).mean((1, 2)))

    shared = jn.dense(4)
    net = jn.compose(lambda m, x: m(shared, m(shared, x).mean((1, 2))))
    agree(net, ModuleOfParts(run, a=nn.Linear(4, 4)), (2, 5, 6, 4))
    two = jn.serial(jn.flatten(), shared := jn.dense(12), shared)
    with pytest.raises(ValueError, match="serial/dense: the order"):
        from_torch(two, nn.Linear(12, 12).state_dict(), jn.spec((2, 2, 3, 2)))
