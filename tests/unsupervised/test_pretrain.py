"""Layer by layer, each on what the layers below it make of the data."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.unsupervised import autoencoder, kmeans, rbm, sparse_coding
from jaxnet.unsupervised.pretrain import pretrain_greedy
from tests.helpers import close, shapes


def noting(seen):
    """A method that notes what it was given, and gives params that can be told apart."""

    def method(key, x, features):
        seen.append((key, x, features))
        return {"kernel": x[:features].T, "bias": 0.1 * jnp.arange(features)}

    return method


def data(shape=(20, 6), seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


@pytest.mark.slow
def test_each_layer_sees_what_comes_to_it():
    x = data((20, 3, 2))
    seen = []
    net = jn.models.mlp([5, 4, 3], activation=jax.nn.sigmoid)
    params, state = pretrain_greedy(net, x, noting(seen), key=jax.random.key(7), batch_size=8)
    assert state == {}
    flat = x.reshape(20, 6)
    kernels = [flat[:5].T]
    hidden = 1 / (1 + np.exp(-(flat @ kernels[0] + 0.1 * np.arange(5))))
    np.testing.assert_array_equal(seen[0][1], flat)
    np.testing.assert_allclose(seen[1][1], hidden, rtol=1e-5)
    np.testing.assert_array_equal(params["dense"]["kernel"], flat[:5].T)
    np.testing.assert_allclose(params["dense_1"]["kernel"], hidden[:4].T, rtol=1e-5)
    assert [features for _, _, features in seen] == [5, 4]
    drawn, _ = pretrain_greedy(net, x, None, key=jax.random.key(7))
    np.testing.assert_array_equal(params["output"]["kernel"], drawn["output"]["kernel"])
    assert shapes(params) == shapes(drawn)


@pytest.mark.slow
def test_each_layer_has_a_key_of_its_own_and_the_same_key_gives_the_same():
    net = jn.models.mlp([5, 4, 3])
    x = data()

    def method(key, x, features):
        kernel = jax.random.normal(key, (x.shape[1], features))
        return {"kernel": kernel, "bias": jnp.zeros(features)}

    one, two = (pretrain_greedy(net, x, method, key=jax.random.key(3))[0] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert not np.allclose(one["dense"]["kernel"][:5, :4], one["dense_1"]["kernel"])


def test_nested_layers_batch_norm_and_a_layer_without_bias():
    inner = jn.serial(jn.dense(5, use_bias=False), jn.batch_norm(), jnp.tanh, name="encoder")
    net = jn.serial(inner, jn.dropout(0.5), jn.dense(4), jax.nn.relu, jn.dense(3))
    x = data()
    seen = []
    params, state = pretrain_greedy(net, x, noting(seen), key=jax.random.key(1))
    assert set(params["encoder"]["dense"]) == {"kernel"}
    np.testing.assert_array_equal(params["encoder"]["dense"]["kernel"], x[:5].T)
    assert [s[1].shape for s in seen] == [(20, 6), (20, 5)]
    assert state["encoder"]["batch_norm"]["mean"].shape == (5,)


@pytest.mark.slow
def test_some_layers_alone():
    net = jn.models.mlp([5, 4, 3])
    x = data()
    seen = []
    params, _ = pretrain_greedy(net, x, noting(seen), layers=["output", "dense_1"])
    drawn, _ = pretrain_greedy(net, x, None)
    assert [s[2] for s in seen] == [4, 3]
    np.testing.assert_array_equal(params["dense"]["kernel"], drawn["dense"]["kernel"])


def test_dense_layers_are_known_by_their_kind():
    """Neither a kernel of two axes nor a name makes a layer dense."""
    x = data()
    seen = []

    def init(key, x):
        return {"kernel": jnp.ones((6, 6))}

    table = jn.stateless(init, lambda params, x: x @ params["kernel"], "dense")
    layers = jn.dense(5, name="conv"), jnp.tanh, jn.dense(4)
    net = jn.serial(table.replace(kind="table"), *layers)
    params, _ = pretrain_greedy(net, x, noting(seen))
    assert [s[2] for s in seen] == [5]
    np.testing.assert_array_equal(params["dense"]["kernel"], 1)
    np.testing.assert_allclose(params["conv"]["kernel"].T, (x @ np.ones((6, 6)))[:5], rtol=1e-5)


def test_further_axes_are_examples():
    """A dense layer maps the last axis, so the patches of all images are its examples."""
    x = data((20, 3, 6))
    seen = []
    net = jn.serial(jn.dense(5), jn.flatten(), jn.dense(2))
    params, _ = pretrain_greedy(net, x, noting(seen))
    np.testing.assert_array_equal(seen[0][1], x.reshape(60, 6))
    np.testing.assert_array_equal(params["dense"]["kernel"], x.reshape(60, 6)[:5].T)


@pytest.mark.parametrize(("sizes", "options", "error", "words"), [
    ([5, 3], {"layers": ["conv"]}, ValueError,
     "mlp has no dense layer 'conv'; its dense layers: dense, output"),
    ([3], {}, ValueError, "no dense layer before its output; its dense layers: output"),
    ([5, 3], {"method": lambda key, x, n: {"kernel": x}}, ValueError, "return params of dense"),
    ([5, 3], {"layers": "dense"}, TypeError, "layers must be a list of paths, .* got 'dense'"),
    ([5, 3], {"method": lambda: 0}, TypeError,
     r"method must be a function of \(key, x, features\), got one of \(\)"),
])  # fmt: skip
def test_refusals(sizes, options, error, words):
    options = {"method": noting([])} | options
    with pytest.raises(error, match=words):
        pretrain_greedy(jn.models.mlp(sizes), data(), **options)


@pytest.mark.long
def test_the_five_methods_of_the_lectures():
    x = data((60, 8))
    net = jn.models.mlp([6, 5, 3], activation=jax.nn.sigmoid)
    once: dict = {"epochs": 1, "progress": False}
    methods = [
        partial(rbm.fit_rbm, **once),
        partial(autoencoder.fit_sparse_autoencoder, **once),
        partial(sparse_coding.fit_sparse_coding, epochs=1, standardize=True),
        kmeans.fit_kmeans,
        kmeans.fit_random_vectors,
    ]
    for method in methods:
        params, state = pretrain_greedy(net, x, method, progress=False)
        first = method(jn.child_key(jax.random.key(0), "dense"), x, 6)
        np.testing.assert_allclose(params["dense"]["kernel"], first["kernel"], rtol=1e-5)
        hidden = jax.nn.sigmoid(x @ first["kernel"] + first["bias"])
        second = method(jn.child_key(jax.random.key(0), "dense_1"), hidden, 5)
        close(params["dense_1"]["kernel"], second["kernel"], 1e-3, 1e-4)
