"""`repeat` and `ensemble` against the loop that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.helpers import KEY, close, jit_apply, refused

X = jax.random.normal(jax.random.key(9), (4, 3))


def block():
    body = jn.serial(jn.dense(3), jn.batch_norm(), jnp.tanh, jn.dropout(0.3))
    return jn.residual(body, name="block")


def at(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("transform", [jn.repeat, jn.ensemble], ids=lambda f: f.__name__)
def test_copies_are_a_loop(transform, train):
    """Each layer of `repeat` gets the output of the one before, each of `ensemble` the input."""
    layer, net = block(), transform(block(), 4)
    params, state = net.init(KEY, X)
    y, after = jit_apply(net, params, state, X, key=KEY, train=train)
    x, outputs = X, []
    for i in range(4):
        here = jax.random.fold_in(KEY, i)
        close(at((params, state), i), layer.init(here, X), 0)
        z, s = jit_apply(layer, at(params, i), at(state, i), x, key=here, train=train)
        close(at(after, i), s)
        outputs.append(z)
        x = z if transform is jn.repeat else x
    close(y, x if transform is jn.repeat else np.stack(outputs))


def test_repeat_keeps_names_and_paths():
    params, _ = jn.serial(jn.repeat(jn.dense(3, name="c"), 4), jn.dense(2)).init(KEY, X)
    assert jax.tree.map(jnp.shape, params["c"]) == {"kernel": (4, 3, 3), "bias": (4, 3)}


@pytest.mark.slow
def test_repeat_compiles_one_body_for_any_depth():
    def size(n):
        net = jn.repeat(block(), n)
        params, state = net.init(KEY, X)
        return len(jax.jit(net.apply).lower(params, state, X).as_text())

    assert size(40) < 1.05 * size(4)


@pytest.mark.parametrize("transform", [jn.repeat, jn.ensemble], ids=lambda f: f.__name__)
@pytest.mark.parametrize("layer", [jn.dense(3), jn.serial(jn.dense(3))], ids=["leaf", "composed"])
def test_params_of_another_n_are_named(transform, layer):
    x = jnp.ones((2, 3))
    params, state = transform(layer, 5).init(jax.random.key(0), x)
    (params if layer.name == "dense" else params["dense"]).pop("bias")
    words = rf"{transform.__name__}: params/(dense/)?kernel must .* n = 4, got \(5, 3, 3\)"
    with pytest.raises(ValueError, match=words):
        transform(layer, 4).apply(params, state, x)
    with pytest.raises(TypeError, match=f"{transform.__name__}: params must be the dict"):
        transform(layer, 4).apply(None, state, x)


@pytest.mark.slow
def test_mapped_is_the_layer_for_each_entry_with_its_own_key():
    layer = jn.serial(jn.dense(3), jn.dropout(0.5))
    x = np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32)
    for axis in (0, 1):
        net = jn.transforms.mapped(layer, axis)
        params, state = net.init(jax.random.key(0), x)
        y, _ = jit_apply(net, params, state, x, key=jax.random.key(1), train=True)
        for i in range(x.shape[axis]):
            key = jax.random.fold_in(jax.random.key(1), i)
            one, _ = jit_apply(layer, params, state, x.take(i, axis), key=key, train=True)
            np.testing.assert_allclose(np.asarray(y).take(i, axis), one, rtol=1e-5, atol=1e-6)
    wanted, _ = layer.init(jax.random.key(0), x[:, 0])
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, wanted)


@pytest.mark.fast_cases("freeze", "remat")
@pytest.mark.parametrize("wrap", [jn.freeze, jn.remat, lambda layer: jn.repeat(layer, 1)])
def test_mapped_takes_layers_that_return_their_state_as_it_is(wrap):
    backbone = jn.serial(jn.dense(3), jn.batch_norm(), name="backbone")
    net = jn.serial(jn.transforms.mapped(wrap(backbone), 1), name="net")
    x = jnp.stack([X, 2 * X], 1)  # (batch, frames, features)
    params, state = net.init(KEY, x)
    y, after = jit_apply(net, params, state, x)
    inner = wrap(backbone)
    own = params["backbone"], state["backbone"]
    close(y, jnp.stack([inner.apply(*own, x[:, i])[0] for i in range(2)], 1))
    close(after, state)
    if wrap is not jn.freeze:
        with pytest.raises(ValueError, match="changes its state"):
            net.apply(params, state, x, train=True)


@refused([
    (lambda x: jn.repeat(jn.dense(3), 0), "n must be at least 1, got 0"),
    (lambda x: jn.ensemble(jn.dense(3), 0), "n must be at least 1, got 0"),
    (lambda x: jn.repeat(jn.dense(3), True), TypeError, "repeat: n must be an integer, got"),
    (lambda x: jn.ensemble(jn.dense(3), 2.5), TypeError, "ensemble: n must be an integer, got"),
    (lambda x: jn.repeat(jn.dense(2), 4).init(KEY, X),
     r"must keep the shape and dtype of its input, \(4, 3\) float32"),
    (lambda x: jn.transforms.mapped(jnp.tanh, 3).init(KEY, x),
     "every array must have axis 3 of one size"),
    (lambda x: jn.transforms.mapped(jn.parallel(jnp.tanh, jnp.tanh)).init(KEY, (x, x[:, :2])),
     "every array must have axis 1"),
])  # fmt: skip
def test_refusals(call):
    call(np.ones((4, 5, 2), np.float32))
