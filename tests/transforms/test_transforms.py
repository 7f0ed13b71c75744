"""What all transforms have in common: nesting, paths of errors, checks of arguments."""

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn
from tests.helpers import refuses
from tests.transforms.test_copies import KEY, X


@pytest.mark.parametrize("make", [
    lambda layer: jn.repeat(layer, 2), lambda layer: jn.ensemble(layer, 2), jn.remat, jn.freeze,
    lambda layer: jn.cast(layer, jnp.bfloat16),
], ids=["repeat", "ensemble", "remat", "freeze", "cast"])  # fmt: skip
def test_errors_keep_the_whole_path(make):
    def fail(x):
        if x.shape[0] == 4:
            raise RuntimeError("boom")
        return x

    net = jn.serial(make(jn.serial(fail, name="stage")), name="net")
    params, state = net.init(KEY, X[:2])
    with pytest.raises(RuntimeError) as error:
        jax.jit(net.apply)(params, state, X)
    assert "in net/stage/fail, input (4, 3)" in "\n".join(error.value.__notes__)


@pytest.mark.parametrize("look", [
    jn.collect, lambda net: jn.observe(net, lambda path, layer, x, y: y), jn.remat,
], ids=["collect", "observe", "remat"])  # fmt: skip
@pytest.mark.parametrize("nested", [False, True])
def test_the_state_of_a_pair_is_kept(look, nested):
    def apply(params, state, x, *, key=None, train=False):
        return x, {"count": state["count"] + train}

    counter = jn.Layer(lambda key, x: ({}, {"count": jnp.zeros(())}), apply, "counter")
    net = jn.serial(counter) if nested else counter
    params, state = jn.serial(net).init(KEY, jn.spec((2, 3)))
    _, state = look(jn.serial(net)).apply(params, state, jnp.ones((2, 3)), train=True)
    assert [float(leaf) for leaf in jax.tree.leaves(state)] == [1.0]


@pytest.mark.parametrize("transform", [
    jn.freeze, jn.remat, lambda f: jn.repeat(f, 2), lambda f: jn.ensemble(f, 2),
    lambda f: jn.cast(f, jnp.bfloat16), jn.transforms.weight_norm, jn.transforms.spectral_norm,
    lambda f: jn.tap(f, "dense"), lambda f: jn.observe(f, lambda *a: a[-1]),
])  # fmt: skip
def test_what_is_no_layer_is_named(transform):
    with pytest.raises(TypeError, match=r"^\w+: layer must be a layer, such as jn.dense\(3\), got"):
        transform([jn.dense(3)])


test_options_of_another_kind_are_named = refuses([
    (lambda: jn.cast(jn.dense(3), "abc"), "cast: dtype must be one of JAX"),
    (lambda: jn.remat(jn.dense(3), policy=3), "remat: policy must be a function"),
    (lambda: jn.observe(jn.dense(3), print, transforms=1), "observe: transforms must be True or"),
    (lambda: jn.tap(jn.serial(jn.dense(3)), 3), r"tap: paths must be words .* got \(3,\)"),
], TypeError)  # fmt: skip
