"""Transforms against the loop, the copy or the plain layer that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.compiled import jit_apply

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(9), (4, 3))


def block():
    body = jn.serial(jn.dense(3), jn.batch_norm(), jnp.tanh, jn.dropout(0.3))
    return jn.residual(body, name="block")


def close(a, b, tolerance=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance), a, b)


def at(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_repeat_is_a_loop(train):
    layer, net = block(), jn.repeat(block(), 4)
    params, state = net.init(KEY, X)
    y, after = jit_apply(net, params, state, X, key=KEY, train=train)
    x = X
    for i in range(4):
        here = jax.random.fold_in(KEY, i)
        close(at((params, state), i), layer.init(here, X), 0)
        x, s = jit_apply(layer, at(params, i), at(state, i), x, key=here, train=train)
        close(at(after, i), s)
    close(y, x)


def test_repeat_keeps_names_and_paths():
    params, _ = jn.serial(jn.repeat(jn.dense(3, name="c"), 4), jn.dense(2)).init(KEY, X)
    assert jax.tree.map(jnp.shape, params["c"]) == {"kernel": (4, 3, 3), "bias": (4, 3)}


@pytest.mark.slow
def test_repeat_needs_a_layer_that_keeps_the_shape():
    with pytest.raises(ValueError, match=r"must keep the shape of its input, \(4, 3\) float32"):
        jn.repeat(jn.dense(2), 4).init(KEY, X)


@pytest.mark.slow
def test_repeat_compiles_one_body_for_any_depth():
    def size(n):
        net = jn.repeat(block(), n)
        params, state = net.init(KEY, X)
        return len(jax.jit(net.apply).lower(params, state, X).as_text())

    assert size(40) < 1.05 * size(4)


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_ensemble_is_its_members(train):
    layer, net = block(), jn.ensemble(block(), 3)
    params, state = net.init(KEY, X)
    y, after = jit_apply(net, params, state, X, key=KEY, train=train)
    assert y.shape == (3, 4, 3)
    for i in range(3):
        here = jax.random.fold_in(KEY, i)
        close(at((params, state), i), layer.init(here, X), 0)
        found = jit_apply(layer, at(params, i), at(state, i), X, key=here, train=train)
        close((y[i], at(after, i)), found)


def test_members_differ():
    params, _ = jn.ensemble(jn.dense(3), 2).init(KEY, X)
    assert not jnp.array_equal(params["kernel"][0], params["kernel"][1])


@pytest.mark.slow
def test_remat_changes_nothing_but_recomputes():
    layer, net = block(), jn.remat(block())
    params, state = net.init(KEY, X)
    close((params, state), layer.init(KEY, X), 0)

    def loss(layer):
        return lambda p: (jit_apply(layer, p, state, X, key=KEY, train=True)[0] ** 2).sum()

    close(
        jax.jit(jax.value_and_grad(loss(net)))(params),
        jax.jit(jax.value_and_grad(loss(layer)))(params),
    )
    count = {n: str(jax.make_jaxpr(jax.grad(loss(n)))(params)).count("tanh") for n in (net, layer)}
    assert count[net] > count[layer]


@pytest.mark.slow
def test_cast_computes_in_the_dtype_and_keeps_params():
    seen = []

    def spy(x):
        seen.append(x.dtype)
        return x

    net = jn.cast(jn.serial(jn.dense(5), spy, jn.batch_norm()), jnp.bfloat16)
    params, state = net.init(KEY, X)
    seen.clear()
    y, after = jit_apply(net, params, state, X, train=True)
    assert set(seen) == {jnp.dtype(jnp.bfloat16)}
    leaves = jax.tree.leaves((params, after, y))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}
    grads = jax.jit(jax.grad(lambda p: net.apply(p, state, X)[0].sum()))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype(jnp.float32)}
    plain, _ = jit_apply(jn.serial(jn.dense(5), spy, jn.batch_norm()), params, state, X, train=True)
    close(y, plain, 0.05)
    assert not jnp.array_equal(y, plain)


def test_cast_leaves_integers_alone():
    net = jn.cast(jn.compose(lambda m, x: x["a"] * x["i"]), jnp.bfloat16)
    y, _ = jit_apply(net, {}, {}, {"a": jnp.ones((2, 3)), "i": jnp.full((2, 3), 300)})
    assert y.dtype == jnp.float32 and (y == 300).all()
    with pytest.raises(ValueError, match="must be a float"):
        jn.cast(jn.dense(2), jnp.int32)


@pytest.mark.slow
def test_freeze_stops_params_and_state_but_not_the_input():
    net = jn.serial(jn.dense(3, name="below"), jn.freeze(block()), jn.dense(2, name="head"))
    trainer = jn.trainer(jn.supervised(net, lambda h, y: (h - y) ** 2), optax.adam(0.1))
    before = trainer.init(KEY, (X, X[:, :2]))
    train_state = jax.device_put(before, may_alias=False)
    for _ in range(3):
        train_state, _ = trainer.step(train_state, (X, X[:, :2]))
    close(train_state.params["block"], before.params["block"], 0)
    close(train_state.state["block"], before.state["block"], 0)
    for name in ("below", "head"):
        moved = jnp.abs(train_state.params[name]["kernel"] - before.params[name]["kernel"])
        assert moved.max() > 0.01


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


@pytest.mark.slow
def test_transforms_nest():
    net = jn.cast(jn.remat(jn.repeat(jn.ensemble(jn.dense(3), 2), 1)), jnp.bfloat16)
    with pytest.raises(ValueError, match="must keep the shape"):  # the members' axis is new
        net.init(KEY, X)
    net = jn.ensemble(jn.cast(jn.remat(jn.repeat(block(), 2)), jnp.bfloat16), 3)
    params, state = net.init(KEY, X)
    y, _ = jax.jit(net.apply)(params, state, X)
    assert y.shape == (3, 4, 3) and params["serial"]["dense"]["kernel"].shape == (3, 2, 3, 3)


@pytest.mark.parametrize("make", [jn.repeat, jn.ensemble])
def test_none_is_no_number_of_layers(make):
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        make(jn.dense(3), 0)


@pytest.mark.parametrize("transform", [jn.repeat, jn.ensemble], ids=lambda f: f.__name__)
def test_params_of_another_n_are_named(transform):
    x = jnp.ones((2, 3))
    for layer in (jn.dense(3), jn.serial(jn.dense(3))):
        params, state = transform(layer, 5).init(jax.random.key(0), x)
        name = "kernel" if layer.name == "dense" else "dense/kernel"
        words = rf"{transform.__name__}: params/{name} must .* n = 4, got \(5, 3, 3\)"
        with pytest.raises(ValueError, match=words):
            transform(layer, 4).apply({name: params[name]} if name in params else {
                "dense": {"kernel": params["dense"]["kernel"]}}, state, x)  # fmt: skip
        with pytest.raises(TypeError, match=f"{transform.__name__}: params must be the dict"):
            transform(layer, 4).apply(None, state, x)


@pytest.mark.parametrize("n", [2.5, None, "3", True], ids=repr)
@pytest.mark.parametrize("transform", [jn.repeat, jn.ensemble], ids=lambda f: f.__name__)
def test_n_is_an_integer(transform, n):
    with pytest.raises(TypeError, match=f"{transform.__name__}: n must be an integer, got"):
        transform(jn.dense(3), n)


@pytest.mark.parametrize("layer", [None, 3, [jn.dense(3)]], ids=str)
@pytest.mark.parametrize("transform", [
    jn.freeze, jn.remat, lambda f: jn.repeat(f, 2), lambda f: jn.ensemble(f, 2),
    lambda f: jn.cast(f, jnp.bfloat16), jn.weight_norm, jn.spectral_norm,
    lambda f: jn.tap(f, "dense"), lambda f: jn.observe(f, lambda *a: a[-1]),
])  # fmt: skip
def test_what_is_no_layer_is_named(transform, layer):
    with pytest.raises(TypeError, match=r"^\w+: layer must be a layer, such as jn.dense\(3\), got"):
        transform(layer)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: jn.cast(jn.dense(3), "abc"), "cast: dtype must be one of JAX"),
    (lambda: jn.cast(jn.dense(3), None), "cast: dtype must be one of JAX"),
    (lambda: jn.remat(jn.dense(3), policy=3), "remat: policy must be a function"),
    (lambda: jn.observe(jn.dense(3), None), "observe: see must be a function of"),
    (lambda: jn.observe(jn.dense(3), print, transforms=1), "observe: transforms must be True or"),
    (lambda: jn.tap(jn.serial(jn.dense(3)), 3), r"tap: paths must be words .* got \(3,\)"),
    (lambda: jn.pick(None, {}), "pick: tree must be a dict of arrays, got NoneType"),
    (lambda: jn.pick({}, []), "pick: like must be a dict of arrays, got list"),
])  # fmt: skip
def test_options_of_another_kind_are_named(make, words):
    with pytest.raises(TypeError, match=words):
        make()


def test_params_frozen_by_path():
    """Only these get no gradient; the layer stays in the mode of its parent."""
    net = jn.serial(jn.dense(4), jn.batch_norm(), jn.dense(2, name="head"))
    some = jn.freeze(net, "*/kernel")
    x = jnp.arange(6.0).reshape(3, 2)
    params, state = some.init(KEY, x)
    jax.tree.map(np.testing.assert_array_equal, params, net.init(KEY, x)[0])

    def total(layer, params):
        y, after = layer.apply(params, state, x, train=True)
        return (y**2).sum(), after

    grads, after = jax.grad(lambda p: total(some, p), has_aux=True)(params)
    whole, same = jax.grad(lambda p: total(net, p), has_aux=True)(params)
    jax.tree.map(np.testing.assert_array_equal, after, same)
    for name in params:
        for part, grad in grads[name].items():
            expected = 0 * grad if part == "kernel" else whole[name][part]
            np.testing.assert_allclose(grad, expected, 1e-6)
    with pytest.raises(ValueError, match="freeze: no array needs the pattern 'tail/.'"):
        jn.freeze(net, "tail/*").apply(params, state, x)
