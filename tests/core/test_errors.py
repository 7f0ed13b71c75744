"""Messages by their exact words; where they arise is tested in test_compose.py."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.core.errors import Misfit, call, compare
from jaxnet.profile.program import layer_of, parse
from jaxnet.services.checks import abstract

pytestmark = pytest.mark.usefixtures("names_are_those_of_this_program")


def test_compare_lists_all_that_differs():
    needed = {"a": jn.spec((2,)), "b": {"c": jn.spec((3,))}, "d": jn.spec(())}
    given = {"a": jnp.ones(2), "b": {"c": jnp.ones(4)}, "e": jnp.ones(1)}
    with pytest.raises(Misfit) as error, call("net", None), call("x", None, child=True):
        compare("params", needed, given, jn.spec((5, 2)))
    assert str(error.value) == (
        "params do not fit net/x for an input of (5, 2) float32:\n"
        "  net/x/b/c: expected (3,), got (4,)\n"
        "  net/x/d: expected (), got nothing\n"
        "  net/x/e: unknown entry"
    )


SEQUENCE = (2, 5)
LENGTHS = jnp.array([3, 5])
BOTH_WAYS = jn.bidirectional(jn.lstm(4))


@pytest.mark.parametrize(
    ("shape", "made_for", "given", "layer", "form"),
    [
        ((2,), 4, 5, jn.dense(3), lambda x: x),
        ((2, 6, 6), 1, 3, jn.conv(8, 3), lambda x: x),
        ((2, 6, 6), 8, 4, jn.conv(8, 3, groups=2), lambda x: x),
        (SEQUENCE, 1, 2, BOTH_WAYS, lambda x: x),
        (SEQUENCE, 1, 2, BOTH_WAYS, lambda x: (x, LENGTHS)),
        (SEQUENCE, 1, 2, BOTH_WAYS, lambda x: {"x": x, "lengths": LENGTHS}),
    ],
)
def test_params_for_another_number_of_features(shape, made_for, given, layer, form):
    params, state = layer.init(jax.random.key(0), form(jnp.ones((*shape, made_for))))
    with pytest.raises(Misfit) as error:
        layer.apply(params, state, form(jnp.ones((*shape, given))))
    words = f"expect {made_for} input features, but this input has {given}"
    assert words in error.value.__notes__[0]


@pytest.mark.parametrize(
    ("needed", "kernel"),
    [
        ((4, 3), (4, 5)),
        ((4, 3), (5, 2)),
        ((3, 3, 4, 8), (5, 5, 2, 8)),
        ((4,), (5,)),
        ((0, 3), (4, 3)),
    ],
)
def test_no_other_kernel_has_a_hint_about_features(needed, kernel):
    needed = {"kernel": jn.spec(needed)}
    given = {"kernel": jnp.ones(kernel)}
    with pytest.raises(Misfit) as error, call("net", None):
        compare("params", needed, given, jn.spec((2, 4)))
    assert not any("input features" in note for note in error.value.__notes__)


@pytest.mark.parametrize(
    ("x", "write"),
    [
        ((16, 28, 28, 1), r"jn\.spec\(\(16, 28, 28, 1\)\)"),
        ([4, 7], r"jn\.spec\(\(4, 7\)\)"),
        ({"x": 3}, r"jn\.spec\(\(32, 784\)\)"),
    ],
)
def test_a_shape_in_place_of_an_input(x, write):
    with pytest.raises(TypeError, match=f"got int in it; for a shape write {write}"):
        abstract(x, "summary")


def test_compare_lets_other_dtypes_pass():
    needed = {"a": jn.spec((2,))}
    given = {"a": jnp.ones(2, jnp.bfloat16)}
    compare("params", needed, given, None)


def test_abstract_keeps_keys_and_narrows_what_jax_narrows():
    found = abstract((np.ones(2), jax.random.key(0)), "net")
    assert found[0].dtype == jnp.float32
    assert found[1].dtype == jax.random.key(0).dtype


def test_the_innermost_call_is_noted_once_after_other_notes():
    raised = RuntimeError()
    raised.add_note("mine")
    with pytest.raises(RuntimeError) as error:
        with call("net", jn.spec((2,))), call("block", jn.spec((3,)), child=True):
            raise raised
    assert error.value.__notes__ == ["mine", "in net/block, input (3,) float32"]


def test_the_layer_inside_a_transform_has_its_name():
    with pytest.raises(RuntimeError) as error:
        with call("net", None), call("remat", None, child=True), call("block", jn.spec((3,))):
            raise RuntimeError
    assert error.value.__notes__ == ["in net/remat, input (3,) float32"]


@pytest.mark.parametrize(
    "layers", [[jn.conv(4, 3)], [jn.flatten(), jn.dense(4)]], ids=["conv", "flatten"]
)
def test_a_missing_batch_axis_is_guessed(layers):
    net = jn.serial(*layers)
    params, state = net.init(jax.random.key(0), jn.spec((1, 5, 6, 2)))
    with pytest.raises(ValueError, match=r"For a single example, pass x\[None\]"):
        net.apply(params, state, jnp.ones((5, 6, 2)))
    with pytest.raises(ValueError) as raised:
        net.apply(params, state, jnp.ones((1, 5, 6, 3)))
    assert not any("x[None]" in note for note in raised.value.__notes__)


def paths(function, *args):
    """The layers of all operations that come from layers, forward and backward."""
    program = parse(jax.jit(function).lower(*args).compile().as_text())
    found = {layer_of(run.instruction.op_name) for run in program.runs()}
    return {("/".join(path), backward) for path, backward in found if path}


CHANGES = {
    "plain": lambda layer: layer,
    "remat": jn.remat,
    "freeze": jn.freeze,
    "cast": lambda layer: jn.cast(layer, jnp.bfloat16),
    "repeat": lambda layer: jn.repeat(layer, 3),
    "ensemble": lambda layer: jn.serial(jn.ensemble(layer, 3), lambda x: x.sum(0), name="block"),
    "tap": lambda layer: jn.tap(jn.serial(layer, jnp.sin, name="block"), "block"),
    "nested": lambda layer: jn.repeat(jn.remat(jn.serial(jn.remat(layer), name="block")), 3),
    "loops": lambda layer: jn.remat(jn.repeat(jn.serial(jn.repeat(layer, 2), name="block"), 3)),
}


@pytest.mark.fast_cases("plain-train", "tap-eval", "nested-train")
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("change", CHANGES)
def test_operations_are_named_as_messages_name_layers(change, train):
    block = jn.serial(jn.dense(5), jax.nn.relu, jn.dense(5), name="block")
    net = jn.serial(jn.dense(5), jn.dense(5), CHANGES[change](block), name="net")
    params, state = net.init(jax.random.key(0), jn.spec((7, 5)))

    def loss(params, x):
        return net.apply(params, state, x, train=train)[0].astype(jnp.float32).sum()

    x = jn.spec((7, 5))
    rows = {f"net/{row.path}".rstrip("/") for row in jn.summary(net, x).rows}
    forward = paths(loss, params, x)
    assert {path for path, _ in forward} <= rows
    assert not any(back for _, back in forward)
    assert {"net/dense", "net/dense_1"} <= {path for path, _ in forward}
    assert any(path.endswith("block/dense_1") for path, _ in forward)
    backward = paths(jax.grad(loss, (0, 1)), params, x)
    assert {path for path, _ in backward} <= rows
    assert ("net/dense_1", True) in backward
    assert any(path.endswith("block/dense_1") and back for path, back in backward)


def test_a_transform_and_a_leaf_by_themselves_are_named():
    for net in (jn.dense(5), jn.cast(jn.dense(5), jnp.bfloat16), jn.repeat(jn.dense(5), 3)):
        params, state = net.init(jax.random.key(0), jn.spec((7, 5)))
        found = paths(lambda p, x, net=net: net.apply(p, {}, x)[0], params, jn.spec((7, 5)))
        assert found == {("dense", False)}


def test_names_end_with_the_call():
    net = jn.serial(jn.dense(5), name="net")
    with pytest.raises(ValueError, match="params do not fit"):
        net.apply({}, {}, jnp.ones((7, 5)))
    params, state = net.init(jax.random.key(0), jn.spec((7, 5)))

    def twice(params, x):
        x, _ = net.apply(params, state, x)
        return net.apply(params, state, x)[0] * 3.5

    assert paths(twice, params, jn.spec((7, 5))) == {("net/dense", False)}


def test_a_step_names_the_loss_and_the_update():
    trainer = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.adam(0.1))
    batch = jn.spec((7, 3)), jn.spec((7, 2))
    train_state = jax.eval_shape(lambda: trainer.init(jax.random.key(0), batch))
    found = {path for path, _ in paths(trainer.step, train_state, batch)}
    assert {"dense", "dense/loss", "optimizer"} <= found
    assert found <= {"dense", "dense/loss", "loss", "optimizer"}


def test_an_initializer_that_uses_another_param():
    def forward(m, x):
        v = m.param("v", jn.initializers.ones, x.shape[-1:])
        return x * v * m.param("gain", lambda key, shape, dtype: jnp.linalg.norm(v)[None], (1,))

    with pytest.raises(ValueError, match="forward: the initializer of 'gain' uses an array from"):
        jn.compose(forward).init(jax.random.key(0), jnp.ones((2, 3)))


def test_a_layer_in_front_moves_the_default_names():
    x = jnp.ones((2, 3))
    params, state = jn.serial(jn.dense(4), jnp.tanh, jn.dense(2)).init(jax.random.key(0), x)
    longer = jn.serial(jn.dense(3), jn.dense(4), jnp.tanh, jn.dense(2))
    with pytest.raises(jn.Misfit) as error:
        longer.apply(params, state, x)
    hint = "dense_1 has the shapes of the old dense: default names are counted"
    assert [note for note in error.value.__notes__ if note.startswith(hint)]
    named = jn.serial(jn.dense(3), jn.dense(4, name="first"), jnp.tanh, jn.dense(2, name="last"))
    with pytest.raises(jn.Misfit) as error:
        named.apply(params, state, x)
    assert not [note for note in error.value.__notes__ if "counted" in note]


NOT_FLOATS = {
    "permutation": ((3,), "jnp.int32", lambda key, shape, dtype: jax.random.permutation(key, 3)),
    "key": ((), "jax.random.key(0).dtype", lambda key, shape, dtype: key),
    "booleans": ((3,), "bool", lambda key, shape, dtype: jax.random.bernoulli(key, 0.5, shape)),
    "integers": ((3,), "jnp.int32", lambda key, shape, dtype: jnp.arange(3)),
}


def used(name, entry, x):
    """A value that needs the entry in its own dtype, as a model with such an entry does."""
    if name == "permutation":
        return x[:, entry]
    if name == "key":
        return x + jax.random.normal(entry, x.shape)
    return x * entry


@pytest.mark.parametrize("name", NOT_FLOATS)
def test_an_entry_that_is_not_trained_says_that_it_is_state(name):
    shape, dtype, initializer = NOT_FLOATS[name]
    net = jn.compose(lambda m, x: used(name, m.param("entry", initializer, shape), x), name="net")
    line = f"m.state('entry', initializer, {shape}, {dtype})"
    with pytest.raises(TypeError, match=re.escape(line)):
        net.init(jax.random.key(0), jn.spec((2, 3)))

    def forward(m, x):  # the line that the message says to write
        return used(
            name, eval(line, {"m": m, "initializer": initializer, "jnp": jnp, "jax": jax}), x
        )

    net = jn.compose(forward, name="net")
    params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
    y, after = jax.jit(net.apply)(params, state, jnp.ones((2, 3)))
    assert (y.shape, after["entry"].dtype) == ((2, 3), state["entry"].dtype)
