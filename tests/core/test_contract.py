"""The contract of a leaf: what its constructor checks, and what plain functions become."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.core import as_layer, param_dtype
from jaxnet.services.functions import function_name
from tests.helpers import KEY, refused


def pair(name, params={}, state={}, apply=lambda p, x: x):  # noqa: B006 (never changed)
    """A layer that draws these entries."""

    def run(p, s, x, *, key=None, train=False):
        return (apply(p, x), s)

    return jn.Layer(lambda key, x: (params, state), run, name)


def test_kind_is_the_name_by_default():
    layer = pair("a")
    assert as_layer(layer).kind == "a"
    assert layer.inside is None
    named = jn.stateless(lambda key, x: {}, lambda p, x: x, name="b")
    assert (named.name, named.kind) == ("b", "b")


def test_in_a_notebook_a_layer_is_a_line():
    name = "&#x27;&lt;a&gt;&#x27;"
    assert pair("<a>")._repr_html_() == f"<code>Layer({name}, kind={name})</code>"


@pytest.mark.parametrize(
    "layer",
    [
        jn.dense(2, name="net"),
        jn.serial(jn.dense(2), name="net"),
        jn.freeze(jn.dense(2, name="net")),
        jn.repeat(jn.dense(3, name="net"), 2),
    ],
    ids=["leaf", "composed", "transform", "repeat"],
)
def test_a_state_that_was_forgotten(layer):
    x = jnp.ones((2, 3))
    params, state = layer.init(KEY, x)
    words = r"net: apply needs params, state and x; write y, state = net\.apply\(params, state, x\)"
    with pytest.raises(TypeError, match=words):
        layer.apply(params, x)
    with pytest.raises(TypeError, match="state must be the dict that init returns, got"):
        layer.apply(params, x, state)


def test_the_params_of_a_pair_are_checked():
    net = jn.serial(pair("mine", {"w": jnp.ones(3)}, {}, lambda p, x: x * p["w"]), name="net")
    with pytest.raises(ValueError, match=r"net/mine/w: expected \(3,\), got \(1,\)"):
        net.apply({"mine": {"w": jnp.ones(1)}}, {}, jnp.ones((2, 3)))  # would broadcast silently


@pytest.mark.parametrize("name", ["", "a/b", 3, None])
def test_names_are_words(name):
    with pytest.raises((TypeError, ValueError), match="^Layer: name must be a word without '/'"):
        jn.stateless(lambda key, x: {}, lambda p, x: x, name)
    with pytest.raises((TypeError, ValueError), match="^dense: name must be a word without '/'"):
        jn.dense(3, name=name)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: jn.stateless(None, jnp.tanh, "a"), r"a: init must be a function of \(key, x\), got N"),
    (lambda: jn.stateless(jnp.add, 3, "a"), r"a: apply must be a function of \(params, x\), "),
    (lambda: as_layer(jn.Layer(None, jnp.tanh, "a")), r"Layer: init must be a function"),
    (lambda: as_layer(jn.Layer(jnp.add, {}, "a")), r"Layer: apply must be a"),
    (lambda: jn.compose(lambda m, x: x, name=3), "compose: name must be a word"),
    (lambda: jn.compose(lambda: 0), r"compose: expected a function forward\(m, x\), got lambda; f"),
    (lambda: jn.compose(jnp.tanh), r"compose: .* got tanh; .* of x alone, write jn.serial\(funct"),
    (lambda: jn.serial(lambda: 0).apply({}, {}, jnp.ones(3)),
        "^lambda: must be a function of one argument, x"),
    (lambda: jn.spec(3), "spec: the shape must be a tuple of integers, got 3"),
    (lambda: jn.spec((2.5,)), r"spec: the shape must be a tuple of integers, got \(2.5,\)"),
    (lambda: jn.spec((3,), "wide"), "spec: dtype must be one of JAX, such as jnp.float32, got 'wi"),
    (lambda: jn.spec((3,), object), "spec: dtype must be one of JAX"),
    (lambda: jn.spec((3, -1)), r"spec: the shape .* of at least 0, got \(3, -1\)"),
    (lambda: jn.child_key(0, "a"), "child_key: expected a single key"),
    (lambda: jn.child_key(KEY, 0), "child_key: name must be a word, got 0"),
])  # fmt: skip
def test_what_a_layer_cannot_be_made_of(make, words):
    with pytest.raises(ValueError if "at least" in words else TypeError, match=f"^{words}"):
        make()


@refused(
    [
        ({"w": None}, {}, "net/a: params/w must be an array, got NoneType; is that what its init"),
        ({}, {"v": 2.0}, "net/a: state/v must be an array, got float"),
        ([], {}, "net/a: init must return params as a dict, got list"),
    ],
    TypeError,
)
def test_init_returns_dicts_of_arrays(params, state):
    jn.serial(pair("a", params, state), name="net").init(KEY, jn.spec((2, 3)))


def nets(leaf):
    return pytest.mark.parametrize("net", [leaf, jn.serial(leaf)], ids=["leaf", "composed"])


NETS = nets(jn.embedding(2, 3))


@NETS
@pytest.mark.parametrize("train", [None, 1, "yes", jnp.array(True)], ids=str)
def test_the_mode_is_a_boolean(net, train):
    with pytest.raises(TypeError, match="train must be True or False, got "):
        net.apply(*net.init(KEY, jn.spec((4,), jnp.int32)), jnp.zeros(4, jnp.int32), train=train)


@NETS
def test_integers_that_would_wrap_raise(net):
    params, state = net.init(KEY, jn.spec((4,), jnp.int32))
    with pytest.raises(ValueError, match=f"the input hold {2**32}, which int32 cannot hold"):
        net.apply(params, state, np.array([0, 1, 0, 2**32]))


@nets(jn.dense(3))
def test_another_byte_order_is_the_same_input(net):
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    params, state = net.init(KEY, x.astype(">f4"))
    y, _ = net.apply(params, state, x)
    np.testing.assert_array_equal(net.apply(params, state, x.astype(">f4"))[0], y)


@NETS
@pytest.mark.parametrize(("x", "words"), [
    (np.array(["cat", "dog"]), r"hold numbers that JAX has, got dtype <U3; .* return_inverse=True"),
    (np.array([None, 1]), "hold numbers that JAX has, got dtype object"),
    (np.ones(2, np.longdouble), "hold numbers that JAX has, got dtype "),
    (np.ma.masked_array([0, 1], [True, False]), "must be a plain array, got a masked one"),
], ids=["words", "objects", "long doubles", "masked"])  # fmt: skip
def test_input_without_plain_numbers_raises(net, x, words):
    with pytest.raises(TypeError, match=words):
        net.init(KEY, x)
    with pytest.raises(TypeError, match=words):
        net.apply(*net.init(KEY, jn.spec((2,), jnp.int32)), x)


@pytest.mark.parametrize("words", [3, 1, 4])
def test_raw_keys_of_another_length_raise(words):
    with pytest.raises(TypeError, match=rf"single key, .* got an array \({words},\) uint32"):
        jn.dense(3).init(np.zeros(words, np.uint32), jn.spec((2, 3)))


def test_functions_become_layers():
    half = functools.partial(jnp.multiply, 0.5)
    names = [as_layer(f).name for f in (jnp.tanh, half, lambda x: x)]
    assert names == ["tanh", "multiply", "lambda"]
    assert as_layer(half).kind == "function"
    assert function_name(half) == "multiply"
    with pytest.raises(TypeError, match="expected a layer or a function, got list"):
        as_layer([jn.dense(3)])  # type: ignore[arg-type]


def test_param_dtype_is_float32_or_wider():
    dtypes = [jnp.uint8, jnp.bfloat16, jnp.float32, jnp.complex64]
    found = [param_dtype(jn.spec((2,), dtype)) for dtype in dtypes]
    assert found == [jnp.float32, jnp.float32, jnp.float32, jnp.complex64]


def test_a_net_is_a_value_of_jax():
    """A static part of a pytree, equal to itself alone."""

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Agent:
        net: jn.Layer
        params: dict

    net, x = jn.serial(jn.dense(4), jnp.tanh), jnp.ones((2, 3))
    params, state = net.init(KEY, x)
    y, _ = net.apply(params, state, x)
    run = jax.jit(lambda net, params: net.apply(params, state, x)[0])
    np.testing.assert_allclose(run(net, params), y, 1e-6)
    agent = jax.tree.map(lambda a: 2 * a, Agent(net, params))
    assert agent.net is net and jax.tree.leaves(net) == []
    np.testing.assert_array_equal(agent.params["dense"]["kernel"], 2 * params["dense"]["kernel"])
    of_agent = jax.jit(lambda a: a.net.apply(a.params, state, x)[0])
    np.testing.assert_allclose(of_agent(Agent(net, params)), y, 1e-6)
    assert run._cache_size() == 1 and not isinstance(net, tuple)
    assert net != jn.serial(jn.dense(4), jnp.tanh) and {net: 1}[net] == 1


def test_a_net_is_copied_as_itself():
    net = jn.dense(3)
    assert copy.deepcopy({"net": net})["net"] is net and copy.copy(net) is net
    with pytest.raises(dataclasses.FrozenInstanceError):
        net.name = "other"
    named = net.replace(name="other")
    assert named.name == "other" and named.inside is net.inside
    for other in (net.replace(apply=named.apply), dataclasses.replace(net, apply=named.apply)):
        assert other.inside is None  # which would be run instead
