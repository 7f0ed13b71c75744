"""Every function that fits features runs in float64 and keeps the dtype of its data."""

from functools import partial

import jax
import numpy as np
import pytest

import jaxnet as jn

u = jn.unsupervised
X = np.random.default_rng(0).normal(size=(20, 4))
FEW = {"epochs": 1, "batch_size": 8, "progress": False}
ROUNDS = {"iterations": 2, "progress": False}


def binary(fit):
    """The fit to units of 0 and 1."""
    return lambda key, x, *args, **options: fit(key, (x > 0).astype(x.dtype), *args, **options)


def hidden_states(mixtures, key, x, **options):
    emission = u.hmm.gaussian_mixture(mixtures)
    return u.hmm.fit_hmm(key, x.reshape(4, 5, 4), 2, emission=emission, **options, **ROUNDS)


def pretrained(key, x):
    net = jn.models.mlp([3, 2])
    fit = partial(u.autoencoder.fit_sparse_autoencoder, **FEW)
    return u.pretrain.pretrain_greedy(net, x, fit, key=key, progress=False)


FITS = {
    "kmeans": partial(u.kmeans.kmeans, features=2), "pretrain_greedy": pretrained,
    "fit_kmeans": partial(u.kmeans.fit_kmeans, features=2),
    "fit_random_vectors": partial(u.kmeans.fit_random_vectors, features=2),
    "fit_dictionary": partial(u.sparse_coding.fit_dictionary, features=2, penalty=0.1, epochs=1),
    "fit_sparse_coding": partial(
        u.sparse_coding.fit_sparse_coding, features=2, epochs=1),
    "fit_pca": partial(u.whitening.fit_pca, features=2), "fit_whitening": u.whitening.fit_whitening,
    "fit_sparse_autoencoder": partial(u.autoencoder.fit_sparse_autoencoder, features=2, **FEW),
    "fit_rbm": partial(binary(u.rbm.fit_rbm), features=2, **FEW),
    "fit_dbn": partial(binary(u.dbn.fit_dbn), sizes=[3, 2], **FEW),
    "fit_hmm": partial(hidden_states, 1),
    "fit_hmm, mixtures": partial(hidden_states, 2, lengths=np.array([5, 4, 5, 5])),
    "fit_hmm, segments": partial(hidden_states, 2, align=u.hmm.uniform_segments),
}  # fmt: skip


def test_no_fit_is_left_out():
    names = set()
    for field in vars(u).values():
        if hasattr(field, "__name__"):
            names.update(getattr(field, "__all__", vars(field)))
    fits = {name for name in names if name.startswith(("fit_", "pretrain_"))}
    assert fits <= set(FITS)


@pytest.mark.fast_cases("kmeans-wide", "fit_hmm, mixtures-wide")  # where float64 was lost once
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", FITS)
def test_fits_keep_the_dtype_of_their_data(name, dtype, x64):
    fitted = FITS[name](jax.random.key(0), X.astype(dtype))
    leaves = jax.tree.leaves(fitted)
    leaves = [leaf for leaf in leaves if not np.issubdtype(leaf.dtype, np.integer)]
    assert leaves
    assert {leaf.dtype for leaf in leaves} == {np.dtype(dtype)}
    assert all(np.isfinite(leaf).all() for leaf in leaves)
