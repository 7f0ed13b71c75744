"""Weights from PyTorch give PyTorch's outputs, and mismatches are reported."""

import functools
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxnet as jn
from jaxnet.interop.torch import first_difference, from_torch, to_torch
from tests.helpers import jit_apply, refused, refuses, shapes


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
        "0.weight": (4, 3, 3, 3), "1.weight": (4,), "1.bias": (4,), "1.running_mean": (4,),
        "1.running_var": (4,), "1.num_batches_tracked": (), "3.weight": (6, 2, 3, 2),
        "3.bias": (6,), "7.weight": (5, 6 * 3 * 3), "7.bias": (5,), "8.weight": (5,),
        "8.bias": (5,), "9.weight": (7, 5), "9.bias": (7,),
    }  # fmt: skip
    return {n: rng.uniform(0.5, 1.5, s).astype(np.float32) for n, s in shapes.items()}


X = jn.spec((2, 8, 6, 3))


def module(torch):
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (3, 2), stride=2, groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(54, 5),
        nn.LayerNorm(5),
        nn.Linear(5, 7),
    ).eval()


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
def test_the_same_input_gives_the_same_output(torch):
    theirs = module(torch)
    theirs.load_state_dict({n: torch.tensor(a) for n, a in weights().items()})
    x = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
    net = small_net()
    params, state = from_torch(net, theirs.state_dict(), x)
    y, _ = jit_apply(net, params, state, x)
    wanted = theirs(torch.tensor(np.moveaxis(x, -1, 1))).detach().numpy()
    np.testing.assert_allclose(y, wanted, rtol=2e-5, atol=2e-5)
    found = first_difference(net, params, state, theirs, x)
    assert found.path is None
    assert found.layers == 6
    assert "6 layers agree" in str(found)
    # the one option that is not in the weights
    net = small_net(padding=((2, 0), (1, 1)))
    found = first_difference(net, params, state, theirs, x)
    assert (found.path, found.module) == ("conv", "0")
    assert found.error > 0.01
    params["dense"] = {**params["dense"], "bias": params["dense"]["bias"] + 0.5}
    assert first_difference(small_net(), params, state, theirs, x).path == "dense"


def test_names_say_what_belongs_together():
    w = weights()
    swapped = {n: w[n] for n in sorted(w, key=lambda n: (n[0] != "9", n))}  # the last one first
    words = "serial/conv and 9: expected weight, got bias, weight. If the orders"
    with pytest.raises(ValueError, match=words):
        from_torch(small_net(), swapped, X)
    params, _ = from_torch(small_net(), swapped, X, names={"dense_1": "9"})
    np.testing.assert_array_equal(params["dense_1"]["bias"], w["9.bias"])


def small(changes):
    """With some of the weights changed, and without those that are None."""
    given = {n: a for n, a in (weights() | changes).items() if a is not None}
    return from_torch(small_net(), given, X)


DENSE = jn.dense(4)
ROW = jn.spec((2, 3))
GOOD = {"weight": np.ones((4, 3), np.float32), "bias": np.zeros(4, np.float32)}
PARAMS = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}


def dense(net=DENSE, weights=GOOD, x=ROW, **options):
    return from_torch(net, weights, x, **options)


def back(params=PARAMS, weights=GOOD, **options):
    return to_torch(DENSE, params, {}, weights, ROW, **options)


test_refusals = refuses([
    (lambda: small({"0.weight": np.ones((4, 3, 3, 5))}),
     r"serial/conv and 0: weight must have shape \(4, 3, 3, 3\), got \(4, 3, 3, 5\)"),
    (lambda: small({"9.weight": None, "9.bias": None}),
     "serial/dense_1 has no counterpart; the weights end after 5"),
    (lambda: small({"aux.weight": np.ones(2)}), "unused: aux; serial has 6 layers"),
    (lambda: small({"1.running_var": None}),
     "expected bias, running_mean, running_var, weight, got bias, running_mean, weight"),
    (lambda: from_torch(small_net(), weights(), X, names={"dens": "fc"}),
     "unknown entries: dens, fc; layers: conv,"),
    (lambda: dense(names=[1]), TypeError, "names must be a dict of paths of layers .*, got list"),
    (lambda: back(names=[1]), TypeError, "to_torch: names must be a dict of paths of layers"),
    (lambda: dense(weights=GOOD | {"bias": np.ones(4, int)}), TypeError,
     "bias must hold floats; .* int64"),
    (lambda: dense(weights=None), TypeError, "from_torch: weights must be a state_dict"),
    (lambda: back(weights=[1]), TypeError, "to_torch: weights must be a state_dict .*got list"),
    (lambda: dense(x="a"), TypeError, "from_torch: the input must be an array, "),
    (lambda: dense(jn.serial(jn.layers.locally_connected(4, 2)), x=jn.spec((2, 5, 3))),
     "serial/locally_connected/.*has no counterpart; .* layers of kind dense, "),
    (lambda: back({}), "params do not fit dense"),
    (lambda: back(PARAMS | {"kernel": jnp.ones((4, 3))}), "params do not fit dense"),
    (lambda: dense(jn.serial(jn.repeat(jn.serial(jn.dense(3), jnp.tanh, name="block"), 2))),
     "got repeat, whose entries differ.*without it"),
])  # fmt: skip


def test_weights_of_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="from_torch: there is no file .*none"):
        dense(weights=tmp_path / "none")
    with pytest.raises(IsADirectoryError, match="from_torch: .* is a folder"):
        dense(weights=str(tmp_path))
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        file.writestr("a/data.pkl", b"")
    words = r"a.pt is not a safetensors file.*pass torch.load\(...\) it"
    with pytest.raises(ValueError, match=words):
        dense(weights=tmp_path / "a.pt")


def test_half_precision_of_pytorch(torch):
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn):
        module = torch.nn.Linear(3, 4).to(dtype)
        params, _ = dense(weights=module.state_dict())
        expected = module.weight.detach().float().numpy().T
        np.testing.assert_array_equal(params["kernel"], expected)
        weight = back(params, module.state_dict())["weight"]
        np.testing.assert_array_equal(weight.astype(np.float32), expected.T)


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
    assert shapes(params) == shapes(jax.eval_shape(net.init, jax.random.key(0), SEQUENCE)[0])
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


@refused([
    ({"token": np.ones((1, 1, 4))}, r"net/token and token: token must have shape \(1, 1, 3\), got"),
    ({"blocks.1.gamma": None, "moved.delta": None},
     "net/a/layer_scale has no counterpart; the weights end after 3 parameters outside of layers"),
    ({"mask": np.ones(3)}, "unused: mask; net has 5 parameters outside of layers"),
    ({"token": np.ones((1, 1, 3), int)}, "token must hold floats"),
], (ValueError, TypeError))  # fmt: skip
def test_parameters_outside_of_layers_that_do_not_fit(change):
    w = {n: a for n, a in (scaled_weights() | change).items() if a is not None}
    from_torch(scaled_net(), w, SEQUENCE)


@pytest.mark.parametrize("inside", [False, True])
def test_a_parameter_for_flattened_features(inside):
    """Their order differs in PyTorch."""

    def gain(m, x):
        x = m(jn.flatten(), x) if inside else x
        return x * m.param("gain", jn.initializers.ones, x.shape[-1:])

    net = jn.serial(*[jn.flatten()] * (not inside), jn.compose(gain, name="gain"), name="net")
    with pytest.raises(ValueError, match="net/gain/gain has an entry per flattened feature"):
        from_torch(net, {"gain": np.ones(12)}, jn.spec((2, 2, 3, 2)))


def test_layers_of_equal_names_are_not_exchanged():
    """PyTorch declares `key` first, this net calls `query` first; their shapes agree."""

    def forward(m, x):
        return m(jn.dense(3, name="query"), x) * m(jn.dense(3, name="key"), x)

    net, x = jn.compose(forward), jn.spec((2, 3))
    weights = {
        f"{name}.{entry}": np.full(shape, i, np.float32)
        for i, name in enumerate(["key", "query"])
        for entry, shape in {"weight": (3, 3), "bias": (3,)}.items()
    }
    with pytest.raises(ValueError, match="/query would get the weights of key, although") as error:
        from_torch(net, weights, x)
    assert 'names={"query": "query", "key": "key"}' in str(error.value)
    params, _ = from_torch(net, weights, x, names={"query": "query", "key": "key"})
    assert params["key"]["bias"][0] == 0
    assert params["query"]["bias"][0] == 1
    params, _ = from_torch(net, weights, x, names={"query": "key", "key": "query"})  # on purpose
    assert params["key"]["bias"][0] == 1


def test_nan_in_a_later_output_is_noticed():
    net = jn.compose(lambda m, x: (y := m(jn.dense(2, name="a"), x), jnp.log(y - 100)), name="net")
    weights = {"a.weight": np.ones((2, 3), np.float32), "a.bias": np.zeros(2, np.float32)}
    right = np.full((4, 2), 3.0, np.float32)
    with pytest.raises(ValueError, match="differs from PyTorch's outputs by nan"):
        from_torch(net, weights, np.ones((4, 3), np.float32), outputs=(right, right))


@pytest.mark.parametrize(("approximate", "warns"), [(True, False), (False, True)])
def test_another_form_of_gelu_is_told(approximate, warns, recwarn):
    """Its outputs differ by 1e-4 of the largest value, which rounding would not explain."""
    net = jn.serial(jn.dense(8), functools.partial(jax.nn.gelu, approximate=approximate))
    x = np.linspace(-3, 3, 5 * 4, dtype=np.float32).reshape(5, 4)
    kernel = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32) / 4
    weights = {"0.weight": kernel.T, "0.bias": np.zeros(8, np.float32)}
    theirs = np.asarray(jax.nn.gelu(x @ kernel, approximate=True))
    from_torch(net, weights, x, outputs=theirs)
    messages = [str(warning.message) for warning in recwarn.list]
    assert len(messages) == warns
    assert all("GELU's other form" in message for message in messages)
