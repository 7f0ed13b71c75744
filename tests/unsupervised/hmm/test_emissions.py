import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.unsupervised.hmm import categorical, gaussian_mixture, uniform_segments
from jaxnet.unsupervised.hmm.emissions import shares

KEYS_MAY_REPEAT = True


@pytest.mark.slow
def test_symbols_out_of_range():
    emission = categorical(3)
    x = jnp.array([[0, 3]])
    params = emission.init(jax.random.key(0), x, 2)
    with pytest.raises(ValueError, match=r"symbols must be in \[0, 3\), got 3"):
        emission.score(params, x)
    for wrong in (3, -1):
        scores = jax.jit(emission.score)(params, jnp.array([[0, wrong]]))
        assert np.isfinite(scores[0, 0]).all()
        assert np.isnan(scores[0, 1]).all()


def test_symbols_of_8_bits_count_beyond_127():
    emission = categorical(200)
    x = np.array([[0, 99]], np.int8)
    params = emission.init(jax.random.key(0), x, 2)
    wide = emission.score(params, x.astype(int))
    np.testing.assert_array_equal(emission.score(params, x), wide)


def test_fit_is_the_weighted_mean_and_variance():
    """In float32 too, where the data lie far from 0."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(4, 50, 2)) * [0.1, 3] + 1000
    x = x.astype(np.float32)
    posterior = draw.dirichlet(np.ones(3), (4, 50)).astype(np.float32)
    posterior[3, 20:] = 0
    emission = gaussian_mixture(1)
    params = emission.init(jax.random.key(0), jnp.asarray(x), 3)
    fitted = jax.jit(emission.fit)(params, jnp.asarray(x), jnp.asarray(posterior))
    p = posterior.reshape(-1, 3).astype(float)
    flat = x.reshape(-1, 2).astype(float)
    mean = p.T @ flat / p.sum(0)[:, None]
    variance = []
    for weight, center in zip(p.T, mean, strict=True):
        squares = (flat - center) ** 2
        variance.append(weight @ squares / weight.sum())
    found = np.exp(fitted["log_variance"][:, 0])
    np.testing.assert_allclose(fitted["mean"][:, 0], mean, rtol=1e-6)
    np.testing.assert_allclose(found, variance, rtol=1e-3)


@pytest.mark.slow
def test_fit_of_mixtures_is_that_of_numpy():
    """With padding, a state without visits, a floor that holds, and a feature that is constant."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2, 6, 3)) * [1, 3, 0] + [0, 9, 4]
    posterior = draw.dirichlet(np.ones(2), (2, 6))
    posterior = np.concatenate([posterior, np.zeros((2, 6, 1))], -1)
    posterior[1, 4:] = 0
    old = {
        "weight": draw.normal(size=(3, 2)),
        "mean": draw.normal(size=(3, 2, 3)) + [0, 9, 4],
        "log_variance": draw.normal(size=(3, 2, 3)),
    }
    given = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (old, x, posterior))
    found = jax.jit(gaussian_mixture(2, floor=0.4).fit)(*given)
    flat = x.reshape(-1, 3)
    p = posterior.reshape(-1, 3)
    away = np.square(flat[:, None, None] - old["mean"]) / np.exp(old["log_variance"])
    log_p = -0.5 * (away + old["log_variance"]).sum(-1) + old["weight"]
    total = np.logaddexp.reduce(log_p, -1)[..., None]
    member = p[..., None] * np.exp(log_p - total)
    visited = slice(2)
    member = member[:, visited]  # (steps, states, mixtures)
    count = member.sum(0)
    mean = np.einsum("nsm,nf->smf", member, flat) / count[..., None]
    np.testing.assert_allclose(found["mean"][visited], mean, rtol=1e-4)
    squares = np.square(flat[:, None, None] - mean)
    variance = (member[..., None] * squares).sum(0) / count[..., None]
    spread = flat[p.any(1)].var(0)
    least = 0.4 * np.where(flat[0] == flat[1], 1, spread)
    assert 0 < (variance < least)[..., :2].sum() < 8
    assert (variance < least)[..., 2].all()
    wanted = np.log(np.maximum(variance, least))
    np.testing.assert_allclose(found["log_variance"][visited], wanted, rtol=1e-3, atol=1e-5)
    share = count / count.sum(1, keepdims=True)
    weight = jax.nn.softmax(found["weight"])
    np.testing.assert_allclose(weight[visited], share, rtol=1e-4)
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf[2], old[name][2], rtol=1e-6)


def test_means_are_drawn_as_of_normalized_features():
    params = gaussian_mixture(40).init(jax.random.key(0), jnp.ones((1, 2, 30)), 5)
    assert abs(params["mean"].std() - 1) < 0.03
    assert abs(params["mean"].mean()) < 0.03
    assert not params["weight"].any()
    assert not params["log_variance"].any()


def test_first_params_by_hand(monkeypatch):
    """Two steps of a state at least; a variance of a thousandth of that of all at least."""
    x = np.float32([[0, 5, 1], [4, 5, 1], [10, 9, 1], [10, 9, 1], [10, 9, 1], [6, 0, 1]])
    labels = np.array([0, 0, 1, 1, 1, 2])
    spec = {"weight": jnp.ones((3, 1)), "mean": jnp.zeros((3, 1, 3))}
    first = gaussian_mixture(floor=1e-5).begin(None, spec, x, labels)
    means = [[2, 5, 1], [10, 9, 1], x.mean(0)]
    np.testing.assert_allclose(first["mean"][:, 0], means, rtol=1e-6)
    a, b, _ = x.var(0)
    variances = [[4, b / 1000, 1], [a / 1000, b / 1000, 1], [a, b, 1]]
    np.testing.assert_allclose(np.exp(first["log_variance"][:, 0]), variances, rtol=1e-5)
    assert (first["weight"] == 1).all()
    high = gaussian_mixture(floor=0.5).begin(None, spec, x, labels)
    found = np.exp(high["log_variance"][1, 0])
    np.testing.assert_allclose(found, [a / 2, b / 2, 1], rtol=1e-5)


def test_first_means_of_mixtures_are_clusters_of_some_steps(monkeypatch):
    x = np.float32([[0, 5, 1], [4, 5, 1], [10, 9, 1], [10, 9, 1], [10, 9, 1], [6, 0, 1]])
    labels = np.array([0, 0, 1, 1, 1, 2])
    seen = []

    def centers(key, some, mixtures):
        seen.append((len(some), mixtures))
        return some[:mixtures]

    monkeypatch.setattr("jaxnet.unsupervised.hmm.emissions.kmeans", centers)
    monkeypatch.setattr("jaxnet.unsupervised.hmm.emissions.SOME", 2)
    spec = {"mean": jnp.zeros((3, 2, 3))}
    pairs = gaussian_mixture(2).begin(jax.random.key(0), spec, x, labels)["mean"]
    assert seen == [(2, 2), (2, 2), (2, 2)]
    np.testing.assert_array_equal(pairs, x[[[0, 1], [2, 4], [0, 3]]])


def test_first_params_of_symbols_by_hand():
    x = np.array([0, 0, 2])
    labels = np.array([0, 0, 1])
    counted = categorical(3).begin(None, {"logits": jnp.zeros((2, 3))}, x, labels)
    wanted = [[0.6, 0.2, 0.2], [0.25, 0.25, 0.5]]
    np.testing.assert_allclose(np.exp(counted["logits"]), wanted, rtol=1e-6)


def test_alignments():
    mask = np.arange(7) < np.array([[7], [2], [0]])
    labels = uniform_segments(jax.random.key(0), np.zeros((3, 7)), mask, 3)
    np.testing.assert_array_equal(labels[0], [0, 0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(labels[1, :2], [0, 1])
    halves = np.arange(7)[:, None] // 4 * 9.0
    x = np.where(mask[..., None], halves, np.nan)
    clusters = gaussian_mixture().align(jax.random.key(0), x, mask, 2)
    assert len(set(clusters[0, :4])) == len(set(clusters[0, 4:])) == 1
    assert clusters[0, 0] != clusters[0, 4]
    assert clusters[1, 0] == clusters[0, 0]


def test_shares_of_rows_without_counts():
    old = jnp.array([[5.0, 6], [7, 8]])
    new = shares(jnp.array([[0.0, 2], [0, 0]]), old)
    np.testing.assert_array_equal(new, np.float32([[-1e30, 0], [7, 8]]))


def test_emissions_are_the_same_value_each_time():
    assert categorical(3) is categorical(3)
    assert gaussian_mixture(2) is gaussian_mixture(2)
    assert repr(categorical(3)) == "categorical(3)" != repr(gaussian_mixture(3))


FLOATS = jn.spec((2, 5, 3))
IDS = jn.spec((2, 5), jnp.int32)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: categorical(1), "symbols must be at least 2, got 1"),
    (lambda: gaussian_mixture(0), "mixtures must be at least 1, got 0"),
    (lambda: gaussian_mixture(floor=-1.0), r"floor must be in \[0, inf\), got -1.0"),
    (lambda: categorical(3).init(jax.random.key(0), FLOATS, 2), r"integers, got \(2, 5, 3\)"),
    (lambda: gaussian_mixture().init(jax.random.key(0), IDS, 2), r"got \(2, 5\) int32"),
    (lambda: gaussian_mixture().score({"mean": jnp.zeros((2, 1, 4))}, jnp.ones((2, 5, 3))),
     r"\(batch, time, 4\) floats, got \(2, 5, 3\)"),
])  # fmt: skip
def test_what_does_not_fit(call, words):
    with pytest.raises(ValueError, match=words):
        call()
