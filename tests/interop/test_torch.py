"""Weights from PyTorch give PyTorch's outputs, and mismatches are reported."""

import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxnet as jn
from jaxnet.interop.torch import first_difference, from_torch, to_torch
from tests.compiled import jit_apply


def small_net(padding=1, groups=2):
    return jn.serial(
        jn.conv(4, 3, padding=padding, use_bias=False),
        jn.batch_norm(),
        jax.nn.relu,
        jn.conv(6, (3, 2), strides=2, padding="VALID", groups=groups),
        jnp.tanh,
        jn.flatten(),
        jn.dropout(0.5),
        jn.dense(5),
        jn.layer_norm(),
        jn.dense(7),
    )


def weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "0.weight": (4, 3, 3, 3),
        "1.weight": (4,), "1.bias": (4,), "1.running_mean": (4,), "1.running_var": (4,),
        "1.num_batches_tracked": (),
        "3.weight": (6, 2, 3, 2), "3.bias": (6,),
        "7.weight": (5, 6 * 3 * 3), "7.bias": (5,),
        "8.weight": (5,), "8.bias": (5,),
        "9.weight": (7, 5), "9.bias": (7,),
    }  # fmt: skip
    return {n: rng.uniform(0.5, 1.5, s).astype(np.float32) for n, s in shapes.items()}


X = jn.spec((2, 8, 6, 3))


def module(torch):
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (3, 2), stride=2, groups=2), nn.Tanh(), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(54, 5), nn.LayerNorm(5), nn.Linear(5, 7),
    ).eval()  # fmt: skip


def test_layouts_by_hand():
    w = weights()
    params, state = from_torch(small_net(), w, X)
    assert params["conv"]["kernel"][2, 1, 0, 3] == w["0.weight"][3, 0, 2, 1]
    assert params["conv_1"]["kernel"][2, 1, 1, 5] == w["3.weight"][5, 1, 2, 1]
    # pixel (2, 1) of channel 4 in maps of 3x3: ours 2 * 18 + 1 * 6 + 4, PyTorch's 4 * 9 + 2 * 3 + 1
    assert params["dense"]["kernel"][46, 3] == w["7.weight"][3, 43]
    assert params["dense_1"]["kernel"][4, 6] == w["9.weight"][6, 4]
    np.testing.assert_array_equal(state["batch_norm"]["var"], w["1.running_var"])
    np.testing.assert_array_equal(params["layer_norm"]["scale"], w["8.weight"])


def test_there_and_back(tmp_path):
    w, net = weights(), small_net()
    params, state = from_torch(net, w, X)
    back = to_torch(net, params, state, weights(1), X)
    assert set(back) == set(w)
    for name, array in back.items():
        if name != "1.num_batches_tracked":
            np.testing.assert_array_equal(array, w[name])
    save_file(w, tmp_path / "weights.safetensors")
    again, _ = from_torch(net, tmp_path / "weights.safetensors", X)
    jax.tree.map(np.testing.assert_array_equal, params, again)


@pytest.mark.slow
def test_the_same_input_gives_the_same_output():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")  # torch 2.13.0
    theirs = module(torch)
    theirs.load_state_dict({n: torch.tensor(a) for n, a in weights().items()})
    x = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
    net = small_net()
    params, state = from_torch(net, theirs.state_dict(), x)
    y, _ = jit_apply(net, params, state, x)
    wanted = theirs(torch.tensor(np.moveaxis(x, -1, 1))).detach().numpy()
    np.testing.assert_allclose(y, wanted, rtol=2e-5, atol=2e-5)
    found = first_difference(net, params, state, theirs, x)
    assert found.path is None and found.layers == 6 and "6 layers agree" in str(found)
    # the one option that is not in the weights
    net = small_net(padding=((2, 0), (1, 1)))
    found = first_difference(net, params, state, theirs, x)
    assert (found.path, found.module) == ("conv", "0") and found.error > 0.01
    params["dense"] = {**params["dense"], "bias": params["dense"]["bias"] + 0.5}
    assert first_difference(small_net(), params, state, theirs, x).path == "dense"


def test_names_say_what_belongs_together():
    w = weights()
    swapped = {n: w[n] for n in sorted(w, key=lambda n: (n[0] != "9", n))}  # the last one first
    with pytest.raises(
        ValueError, match="serial/conv and 9: expected weight, got bias, weight. If the orders"
    ):
        from_torch(small_net(), swapped, X)  # fmt: skip
    params, _ = from_torch(small_net(), swapped, X, names={"dense_1": "9"})
    np.testing.assert_array_equal(params["dense_1"]["bias"], w["9.bias"])


def changed(**entries):
    return {n: a for n, a in (weights() | entries).items() if a is not None}


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        (
            changed(**{"0.weight": np.ones((4, 3, 3, 5))}), {},
            r"serial/conv and 0: weight must have shape \(4, 3, 3, 3\), got \(4, 3, 3, 5\)",
        ),
        (
            changed(**{"9.weight": None, "9.bias": None}), {},
            "serial/dense_1 has no counterpart; the weights end after 5",
        ),
        (changed(**{"aux.weight": np.ones(2)}), {}, "unused: aux; serial has 6 layers"),
        (
            changed(**{"1.running_var": None}), {},
            "expected bias, running_mean, running_var, weight, got bias, running_mean, weight",
        ),
        (weights(), {"names": {"dens": "fc"}}, "unknown entries: dens, fc; layers: conv,"),
    ],
)  # fmt: skip
def test_errors(given, options, words):
    with pytest.raises(ValueError, match=words):
        from_torch(small_net(), given, X, **options)


DENSE = jn.dense(4)
ROW = jn.spec((2, 3))
GOOD = {"weight": np.ones((4, 3), np.float32), "bias": np.zeros(4, np.float32)}


def test_weights_of_a_file(tmp_path):
    save_file(GOOD, tmp_path / "a")
    assert from_torch(DENSE, tmp_path / "a", ROW)[0]["kernel"].shape == (3, 4)
    with pytest.raises(FileNotFoundError, match="from_torch: there is no file .*none"):
        from_torch(DENSE, tmp_path / "none", ROW)
    with pytest.raises(IsADirectoryError, match="from_torch: .* is a folder"):
        from_torch(DENSE, str(tmp_path), ROW)
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        file.writestr("a/data.pkl", b"")
    with pytest.raises(
        ValueError, match=r"a.pt is not a safetensors file.*pass torch.load\(...\) it"
    ):
        from_torch(DENSE, tmp_path / "a.pt", ROW)


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"net": None}, TypeError, "net must be a layer"),
    ({"weights": None}, TypeError, "weights must be a state_dict or the path of a "),
    ({"weights": [np.ones(3)]}, TypeError, "weights must be a state_dict .*got list"),
    ({"weights": GOOD | {"bias": 3}}, TypeError, "hold arrays or tensors, got int for bias"),
    ({"weights": GOOD | {"bias": None}}, TypeError, "got NoneType for bias"),
    ({"weights": {1: np.ones(3)}}, TypeError, "weights must have names, got 1"),
    ({"weights": GOOD | {"bias": np.ones(4, int)}}, TypeError, "bias must hold floats; .* int64"),
    ({"x": None}, TypeError, "the input must be an array, "),
    ({"x": "a"}, TypeError, "the input must be an array, "),
    ({"names": [1]}, TypeError, "names must be a dict of paths of layers .*, got list"),
    ({"names": {"dense": 3}}, ValueError, "names has unknown entries"),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("who", ["from_torch", "to_torch"])
def test_arguments_of_other_types(who, change, error, words):
    given = {"net": DENSE, "weights": GOOD, "x": ROW, "names": None} | change
    net, weights, x, names = given.values()
    with pytest.raises(error, match=f"^({who}|torch weights): .*{words}"):
        if who == "from_torch":
            from_torch(net, weights, x, names=names)
        else:
            params = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}
            to_torch(net, params, {}, weights, x, names=names)


@pytest.mark.parametrize("params", [
    None, [], {}, {"kernel": jnp.ones((3, 4))}, {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(4)},
    {"kernel": None, "bias": jnp.ones(4)},
], ids=str)  # fmt: skip
def test_params_of_another_net_are_not_exported(params):
    with pytest.raises((TypeError, ValueError), match="params (do not fit dense|must be the dict)"):
        to_torch(DENSE, params, {}, GOOD, ROW)


def test_a_module_that_is_none(torch):
    params = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}
    with pytest.raises(TypeError, match="first_difference: module must be a torch.nn.Module, got "):
        first_difference(DENSE, params, {}, GOOD, np.ones((2, 3)))
    module = torch.nn.Linear(3, 4)
    with pytest.raises(
        ValueError, match=r"first_difference: tolerance must be in \[0, inf\), got -1"
    ):
        first_difference(DENSE, params, {}, module, np.ones((2, 3)), tolerance=-1)


def test_half_precision_of_pytorch(torch):
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn):
        module = torch.nn.Linear(3, 4).to(dtype)
        params, _ = from_torch(DENSE, module.state_dict(), ROW)
        expected = module.weight.detach().float().numpy().T
        np.testing.assert_array_equal(params["kernel"], expected)
        back = to_torch(DENSE, params, {}, module.state_dict(), ROW)
        np.testing.assert_array_equal(back["weight"].astype(np.float32), expected.T)


def test_a_layer_that_has_no_counterpart():
    net = jn.serial(jn.layers.locally_connected(4, 2))
    with pytest.raises(
        ValueError, match="serial/locally_connected/.*has no counterpart; .* layers of kind dense, "
    ):
        from_torch(net, GOOD, jn.spec((2, 5, 3)))


# Parameters outside of layers.


def scaled_net():
    """A class token and a bias of the whole net, and blocks with a scale; a pair of functions."""

    def block(m, x):
        return x + m.param("layer_scale", jn.initializers.ones, x.shape[-1:]) * m(jn.dense(3), x)

    def shift(key, x):
        return {"shift": jnp.zeros(x.shape[-1])}, {}

    def apply(params, state, x, *, key=None, train=False):
        return x + params["shift"], state

    def net(m, x):
        token = m.param("token", jn.initializers.zeros, (1, 1, 3))  # declared before "places"
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, 3)), x], 1)
        x = x + m.param("places", jn.initializers.zeros, (5, 3))
        for name in ("b", "a"):
            x = m(jn.compose(block, name=name), x)
        return m(jn.dense(2), m(jn.Layer(shift, apply, "moved"), x)[:, 0])

    return jn.compose(net, name="net")


def scaled_weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "token": (1, 1, 3), "encoder.places": (1, 5, 3),
        "blocks.0.gamma": (3, 1, 1), "blocks.0.fc.weight": (3, 3), "blocks.0.fc.bias": (3,),
        "blocks.1.gamma": (3, 1, 1), "blocks.1.fc.weight": (3, 3), "blocks.1.fc.bias": (3,),
        "moved.delta": (3,), "head.weight": (2, 3), "head.bias": (2,),
    }  # fmt: skip
    return {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}


SEQUENCE = jn.spec((2, 4, 3))


def test_parameters_outside_of_layers():
    net, w = scaled_net(), scaled_weights()
    params, state = from_torch(net, w, SEQUENCE)
    np.testing.assert_array_equal(params["token"], w["token"])
    np.testing.assert_array_equal(params["places"], w["encoder.places"][0])
    for ours, theirs in (("b", "blocks.0"), ("a", "blocks.1")):
        np.testing.assert_array_equal(params[ours]["layer_scale"], w[f"{theirs}.gamma"].ravel())
        np.testing.assert_array_equal(params[ours]["dense"]["kernel"], w[f"{theirs}.fc.weight"].T)
    np.testing.assert_array_equal(params["moved"]["shift"], w["moved.delta"])
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        jnp.shape, jax.eval_shape(net.init, jax.random.key(0), SEQUENCE)[0]
    )
    back = to_torch(net, params, state, scaled_weights(1), SEQUENCE)
    assert list(back) == list(w)
    for name in w:
        np.testing.assert_array_equal(back[name], w[name], err_msg=name)


def test_a_parameter_by_name():
    """Also one whose name is that of an entry of a layer."""
    net, w = scaled_net(), scaled_weights()
    w = {"blocks.1.gamma": w.pop("blocks.1.gamma"), **w}  # first, out of its order
    w["norm.weight"] = w.pop("moved.delta")
    names = {"a/layer_scale": "blocks.1.gamma", "moved/shift": "norm.weight"}
    params, state = from_torch(net, w, SEQUENCE, names=names)
    np.testing.assert_array_equal(params["a"]["layer_scale"], w["blocks.1.gamma"].ravel())
    np.testing.assert_array_equal(params["b"]["layer_scale"], w["blocks.0.gamma"].ravel())
    np.testing.assert_array_equal(params["moved"]["shift"], w["norm.weight"])
    back = to_torch(net, params, state, w, SEQUENCE, names=names)
    np.testing.assert_array_equal(back["norm.weight"], w["norm.weight"])


@pytest.mark.parametrize(("change", "words"), [
    ({"token": np.ones((1, 1, 4))}, r"net/token and token: token must have shape \(1, 1, 3\), got"),
    ({"blocks.1.gamma": None, "moved.delta": None},
     "net/a/layer_scale has no counterpart; the weights end after 3 parameters outside of layers"),
    ({"mask": np.ones(3)}, "unused: mask; net has 5 parameters outside of layers"),
    ({"token": np.ones((1, 1, 3), int)}, "token must hold floats"),
], ids=str)  # fmt: skip
def test_parameters_outside_of_layers_that_do_not_fit(change, words):
    w = {n: a for n, a in (scaled_weights() | change).items() if a is not None}
    with pytest.raises((ValueError, TypeError), match=words):
        from_torch(scaled_net(), w, SEQUENCE)


@pytest.mark.parametrize("inside", [False, True])
def test_a_parameter_for_flattened_features(inside):
    """Their order differs in PyTorch."""

    def gain(m, x):
        x = m(jn.flatten(), x) if inside else x
        return x * m.param("gain", jn.initializers.ones, x.shape[-1:])

    layers = [jn.compose(gain, name="gain")]
    net = jn.serial(*([] if inside else [jn.flatten()]), *layers, name="net")
    with pytest.raises(ValueError, match="net/gain/gain has an entry for each flattened feature"):
        from_torch(net, {"gain": np.ones(12)}, jn.spec((2, 2, 3, 2)))


# The order of features, by the logits of both.


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")  # torch 2.13.0
    torch.manual_seed(0)
    return torch


def random_statistics(theirs, torch):
    for part in theirs.modules():
        if getattr(part, "running_mean", None) is not None:
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
        if getattr(part, "weight", None) is not None:
            torch.nn.init.normal_(part.weight)
    return theirs.eval()


def compare(net, theirs, shape, torch, forward=None):
    """Equal outputs of both, there and back."""
    theirs = random_statistics(theirs, torch)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    params, state = from_torch(net, theirs.state_dict(), x)
    y, _ = jit_apply(net, params, state, x)
    inputs = torch.tensor(np.moveaxis(x, -1, 1))
    wanted = (forward or theirs)(inputs).detach().numpy()
    wanted = np.moveaxis(wanted, 1, -1) if wanted.ndim > 2 else wanted
    assert y.shape == wanted.shape
    np.testing.assert_allclose(y, wanted, rtol=2e-4, atol=2e-4 * abs(wanted).max())
    back = to_torch(net, params, state, theirs.state_dict(), x)
    for name, array in theirs.state_dict().items():
        np.testing.assert_array_equal(back[name], array.numpy(), err_msg=name)


def test_conv_transpose_with_as_many_inputs_as_features(torch):
    """A square kernel: no shape shows that PyTorch has inputs first, and the window reversed."""
    theirs = torch.nn.Sequential(
        torch.nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1), torch.nn.ConvTranspose2d(4, 2, 2)
    )
    net = jn.serial(
        jn.conv_transpose(4, 3, strides=2, padding=1), jn.conv_transpose(2, 2, padding="VALID")
    )
    compare(net, theirs, (2, 5, 6, 4), torch)


def test_depthwise_conv(torch):
    theirs = torch.nn.Sequential(torch.nn.Conv2d(3, 6, (3, 2), groups=3))
    net = jn.serial(jn.depthwise_conv((3, 2), multiplier=2, padding="VALID"))
    compare(net, theirs, (2, 5, 6, 3), torch)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch_norm", "layer_norm"])
def test_norms_behind_a_flatten(norm, torch):
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Dropout(0.5),
        nn.BatchNorm1d(48) if norm == "batch_norm" else nn.LayerNorm(48),
        nn.ReLU(), nn.Linear(48, 5), nn.BatchNorm1d(5), nn.Linear(5, 2),
    )  # fmt: skip
    ours = jn.batch_norm() if norm == "batch_norm" else jn.layer_norm(epsilon=1e-5)
    net = jn.serial(
        jn.conv(4, 3, padding="VALID"), jn.flatten(), jn.dropout(0.5), ours,
        jax.nn.relu, jn.dense(5), jn.batch_norm(name="last"), jn.dense(2),
    )  # fmt: skip
    compare(net, theirs, (2, 5, 6, 3), torch)
    x = np.random.default_rng(2).normal(size=(2, 5, 6, 3)).astype(np.float32)
    params, state = from_torch(net, theirs.state_dict(), x)
    assert first_difference(net, params, state, theirs, x).path is None


def test_a_flatten_of_the_input_and_two_of_one_size(torch):
    nn = torch.nn

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.conv, self.b = nn.Linear(36, 3), nn.Conv2d(2, 6, (3, 1)), nn.Linear(36, 3)

        def forward(self, x):  # 3*6*2 and 1*6*6 are both 36
            return self.a(x.flatten(1)) * self.b(self.conv(x).flatten(1))

    def forward(m, x):
        a = m(jn.dense(3, name="a"), m(jn.flatten(), x))
        conv = m(jn.conv(6, (3, 1), padding="VALID"), x)
        return a * m(jn.dense(3, name="b"), m(jn.flatten(), conv))

    compare(jn.compose(forward), Two(), (2, 3, 6, 2), torch)


def test_functions_between_the_layers_keep_the_order(torch):
    """Inline activations, sums and pooling, and transforms, need no help."""
    nn = torch.nn

    class Theirs(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.wide = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 4)
            self.norm, self.a, self.b = nn.BatchNorm1d(120), nn.Linear(120, 7), nn.Linear(7, 7)

        def forward(self, x):
            x = torch.relu(self.conv(x))
            x = x * torch.sigmoid(self.wide(x.mean((2, 3))))[:, :, None, None]
            x = 2 * torch.tanh(self.norm(x.flatten(1))) + 1
            x = x / x.abs().mean(1, keepdim=True)
            x = torch.relu(self.a(x))
            return x + self.b(x)

    def forward(m, x):
        x = jax.nn.relu(m(jn.conv(4, 3), x))
        x = (
            x
            * jax.nn.sigmoid(m(jn.freeze(jn.dense(4, name="wide")), x.mean((1, 2))))[:, None, None]
        )
        x = 2 * jnp.tanh(m(jn.batch_norm(), m(jn.flatten(), x))) + 1
        x = x / jnp.abs(x).mean(1, keepdims=True)
        x = jax.nn.relu(m(jn.remat(jn.serial(jn.dense(7), name="a")), x))
        return x + m(jn.cast(jn.dense(7, name="b"), jnp.float32), x)

    compare(jn.compose(forward), Theirs(), (2, 5, 6, 3), torch)


def test_an_embedding_flattens_as_in_torch(torch):
    """(batch, time, features) has the same axes in both, so nothing is permuted."""
    nn = torch.nn
    theirs = random_statistics(
        nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Linear(12, 5)), torch
    )
    net = jn.serial(jn.embedding(11, 4), jn.flatten(), jn.dense(5))
    x = np.array([[1, 5, 10], [0, 2, 2]])
    params, state = from_torch(net, theirs.state_dict(), x)
    wanted = theirs(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(jit_apply(net, params, state, x)[0], wanted, rtol=1e-4, atol=1e-4)


def inline(flatten):
    def net(m, x):
        x = flatten(m(jn.conv(4, 3, padding="VALID"), x))
        return m(jn.dense(2), jax.nn.relu(m(jn.batch_norm(), x)))

    return jn.compose(net)


def test_an_inline_reshape(torch):
    """Its order in PyTorch is not known: it raises, or follows PyTorch's axes where written so."""
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Flatten(), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 2)
    )
    weights = theirs.state_dict()
    for reshape in (
        lambda x: x.reshape(len(x), -1),
        lambda x: jax.nn.relu(x[:, ::1]).reshape(len(x), -1),
        lambda x: jax.jit(lambda x: x.reshape(len(x), -1))(x),
    ):
        with pytest.raises(
            ValueError, match=r"net/batch_norm: the order .* not known.*m\(jn.flatten\(\), x\)"
        ):
            from_torch(inline(reshape), weights, jn.spec((2, 5, 6, 3)))
    channels_first = inline(lambda x: jnp.moveaxis(x, -1, 1).reshape(len(x), -1))
    compare(channels_first, theirs, (2, 5, 6, 3), torch)


def test_a_decoder(torch):
    """From features to maps the order is known only where it is written in PyTorch's axes."""
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Linear(5, 24), nn.ReLU(), nn.Unflatten(1, (4, 3, 2)), nn.ConvTranspose2d(4, 2, 2)
    )

    def decoder(shape):
        def net(m, x):
            x = m(jn.dense(24), x)
            x = shape(jax.nn.relu(x))
            return m(jn.conv_transpose(2, 2, padding="VALID"), x)

        return jn.compose(net)

    compare(decoder(lambda x: jnp.moveaxis(x.reshape(-1, 4, 3, 2), 1, -1)), theirs, (7, 5), torch)
    with pytest.raises(ValueError, match="net/conv_transpose: the order"):
        from_torch(decoder(lambda x: x.reshape(-1, 3, 2, 4)), theirs.state_dict(), jn.spec((7, 5)))


def test_a_shared_layer(torch):
    """On features and on pixels, which needs no order; on two different ones it raises."""
    nn = torch.nn

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return self.a(self.a(x.permute(0, 2, 3, 1)).mean((1, 2)))

    shared = jn.dense(4)
    net = jn.compose(lambda m, x: m(shared, m(shared, x).mean((1, 2))))
    compare(net, Shared(), (2, 5, 6, 4), torch)
    two = jn.serial(jn.flatten(), shared := jn.dense(12), shared)
    with pytest.raises(ValueError, match="serial/dense: the order"):
        from_torch(two, nn.Linear(12, 12).state_dict(), jn.spec((2, 2, 3, 2)))


def test_layers_inside_a_repeat_are_refused(torch):
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    net = jn.repeat(jn.serial(jn.dense(3), jnp.tanh, name="block"), 2)
    with pytest.raises(ValueError, match="got repeat, whose entries differ.*without it"):
        from_torch(jn.serial(net), theirs.state_dict(), jn.spec((2, 3)))


@pytest.mark.slow
def test_resnet_18_trains_as_torchvisions(torch, x64):
    """Batch statistics and gradients, in float64."""
    from experiments.torchvision_logits import lively, torchvision

    try:
        models = torchvision().models  # torchvision 0.28.0
    except ImportError:
        pytest.skip("compares with torchvision")
    theirs = lively(models.resnet18(num_classes=5), torch).double()
    net, x = jn.models.resnet(18, 5), np.random.default_rng(0).normal(size=(3, 48, 40, 3))
    params, state = from_torch(net, theirs.state_dict(), x)
    params, state = jax.tree.map(lambda a: a.astype(jnp.float64), (params, state))

    @jax.jit
    def run(params, state):
        def loss(params):
            y, new = net.apply(params, state, x, train=True)
            return (y**2).sum(), (y, new)

        return jax.grad(loss, has_aux=True)(params)

    gradient, (y, new) = run(params, state)
    theirs.train()
    output = theirs(torch.tensor(np.moveaxis(x, -1, 1)))
    (output**2).sum().backward()
    np.testing.assert_allclose(y, output.detach().numpy(), rtol=1e-9)
    kept = theirs.state_dict()
    wanted = {name: p.grad for name, p in theirs.named_parameters()}
    found = to_torch(net, gradient, new, kept, x)
    for name, grad in wanted.items():
        np.testing.assert_allclose(found[name], grad.numpy(), rtol=1e-6, atol=1e-8, err_msg=name)
    for name, array in kept.items():
        if name.endswith("running_mean"):
            np.testing.assert_allclose(found[name], array.numpy(), rtol=1e-7, atol=1e-10)


def test_layers_of_equal_names_are_not_exchanged():
    """PyTorch declares `key` first, this net calls `query` first; their shapes agree."""

    def forward(m, x):
        return m(jn.dense(3, name="query"), x) * m(jn.dense(3, name="key"), x)

    net, x = jn.compose(forward), jn.spec((2, 3))
    weights = {f"{name}.{entry}": np.full(shape, i, np.float32)
               for i, name in enumerate(["key", "query"])
               for entry, shape in {"weight": (3, 3), "bias": (3,)}.items()}  # fmt: skip
    with pytest.raises(ValueError, match="/query would get the weights of key, although") as error:
        from_torch(net, weights, x)
    assert 'names={"query": "query", "key": "key"}' in str(error.value)
    params, _ = from_torch(net, weights, x, names={"query": "query", "key": "key"})
    assert params["key"]["bias"][0] == 0 and params["query"]["bias"][0] == 1
    params, _ = from_torch(net, weights, x, names={"query": "key", "key": "query"})  # on purpose
    assert params["key"]["bias"][0] == 1


def test_nan_in_a_later_output_is_noticed():
    net = jn.compose(lambda m, x: (y := m(jn.dense(2, name="a"), x), jnp.log(y - 100)), name="net")
    weights = {"a.weight": np.ones((2, 3), np.float32), "a.bias": np.zeros(2, np.float32)}
    right = np.full((4, 2), 3.0, np.float32)
    with pytest.raises(ValueError, match="differs from PyTorch's outputs by nan"):
        from_torch(net, weights, np.ones((4, 3), np.float32), outputs=(right, right))
