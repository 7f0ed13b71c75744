import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.unsupervised import sparse_coding
from tests.helpers import close, jit_apply

DRAW = np.random.default_rng(0)
WIDE = DRAW.normal(size=(9, 6))  # more atoms than inputs: by the Gram matrix
WIDER = DRAW.normal(size=(17, 6))  # by two products
X = DRAW.normal(size=(5, 6))


def sparse_cost(dictionary, x, codes, penalty):
    """½‖x − codes @ dictionary‖² + penalty · ‖codes‖₁ of each example."""
    return ((x - codes @ dictionary) ** 2).sum(-1) / 2 + (penalty * abs(codes)).sum(-1)


def ista(dictionary, x, penalty, steps):
    """Gradient steps with a soft threshold, as Daubechies et al. 2004 have them."""
    codes = np.zeros((*np.shape(x)[:-1], len(dictionary)))
    size = 1 / np.linalg.norm(dictionary, 2) ** 2
    for _ in range(steps):
        moved = codes + size * (x - codes @ dictionary) @ np.transpose(dictionary)
        codes = np.sign(moved) * np.maximum(abs(moved) - size * penalty, 0)
    return codes


def restarted(dictionary, x, penalty, steps):
    """`fista` of one example, in NumPy."""
    curvature = np.linalg.eigvalsh(dictionary @ dictionary.T)[-1]
    old = np.zeros(len(dictionary))
    ahead = np.zeros(len(dictionary))
    t = 1.0
    for _ in range(steps):
        moved = ahead + (x - ahead @ dictionary) @ dictionary.T / curvature
        new = np.sign(moved) * np.maximum(abs(moved) - penalty / curvature, 0)
        t = 1.0 if (ahead - new) @ (new - old) > 0 else t
        later = (1 + np.sqrt(1 + 4 * t**2)) / 2
        ahead = new + (t - 1) / later * (new - old)
        old = new
        t = later
    return old


@pytest.mark.slow
def test_two_steps_of_fista_by_hand(x64):
    """One input, one atom of 1 among one of 2: the second step starts ahead of the first."""
    atoms = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    x = jnp.array([0.0, 8.0])
    # ista: z1 = 2, z2 = 2 + (8 - 2)/4 = 3.5; fista's momentum in step 2 is (1 - 1)/t = 0, in
    # step 3 (t2 - 1)/t3 with t2 = (1 + √5)/2, t3 = (1 + √(1 + 4 t2²))/2.
    t2 = (1 + 5**0.5) / 2
    t3 = (1 + (1 + 4 * t2**2) ** 0.5) / 2
    ahead = 3.5 + (t2 - 1) / t3 * 1.5
    np.testing.assert_allclose(ista(atoms, x, 0.0, 2), [0, 3.5], atol=1e-12)
    np.testing.assert_allclose(sparse_coding.fista(atoms, x, 0.0, 2), [0, 3.5], atol=1e-12)
    steps = sparse_coding.fista(WIDE, X, 0.5, 7, momentum=False)
    np.testing.assert_allclose(steps, ista(WIDE, X, 0.5, 7), atol=1e-12)
    third = [0, ahead + (8 - ahead) / 4]
    np.testing.assert_allclose(sparse_coding.fista(atoms, x, 0.0, 3), third, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dictionary", [WIDE, WIDER, WIDE[:4]], ids=["gram", "products", "few"])
@pytest.mark.parametrize("positive", [False, True])
def test_codes_are_those_of_lasso(dictionary, positive, x64):
    linear = pytest.importorskip("sklearn.linear_model", reason="the extra data")
    options = {"fit_intercept": False, "tol": 1e-14, "max_iter": 100_000}
    lasso = linear.Lasso(0.7 / 6, positive=positive, **options)  # ours over the number of inputs
    known = np.array([lasso.fit(dictionary.T, x).coef_ for x in X])  # scikit-learn 1.9.1
    assert 0.1 < (known == 0).mean() < 0.9
    codes = sparse_coding.fista(dictionary, X, 0.7, 3000, positive=positive)
    np.testing.assert_allclose(codes, known, atol=1e-10)
    np.testing.assert_array_equal(codes == 0, known == 0)


@pytest.mark.slow
def test_conditions_of_the_minimum_with_a_penalty_a_feature(x64):
    penalty = np.linspace(0.2, 1.5, 9)
    codes = np.asarray(sparse_coding.fista(WIDE, X, penalty, 3000))
    pull = (X - codes @ WIDE) @ WIDE.T
    used = codes != 0
    np.testing.assert_allclose(pull[used], (penalty * np.sign(codes))[used], atol=1e-9)
    assert (np.abs(pull) < penalty + 1e-9).all()
    assert 0 < (codes != 0).mean() < 1
    more_axes = sparse_coding.fista(WIDE, X[:, None], penalty, 3000)
    np.testing.assert_allclose(more_axes[:, 0], codes, atol=1e-12)


@pytest.mark.slow
def test_orders_of_convergence(x64):
    """Ill conditioned: far from the minimum, ista's excess falls as 1/k, fista's as 1/k²."""
    draw = np.random.default_rng(1)
    orthogonal, _ = np.linalg.qr(draw.normal(size=(60, 60)))
    dictionary = orthogonal * np.linspace(1, 60, 60) ** -1.0
    x = draw.normal(size=60)
    start = np.zeros(60)
    best = sparse_coding.fista(dictionary, x, 1e-4, 30_000)

    def excess(method, steps):
        at = sparse_cost(dictionary, x, method(dictionary, x, 1e-4, steps), 1e-4)
        return float(at - sparse_cost(dictionary, x, best, 1e-4))

    away = float(((best - start) ** 2).sum())
    curvature = np.linalg.norm(dictionary, 2) ** 2
    for steps in (10, 40, 160):  # the theorems of Beck and Teboulle
        assert 0 < excess(ista, steps) < curvature * away / (2 * steps)
        assert 0 < excess(sparse_coding.fista, steps) < 2 * curvature * away / (steps + 1) ** 2
    assert excess(sparse_coding.fista, 160) < excess(ista, 160) / 5
    costs = [excess(ista, steps) for steps in range(6)]
    assert (np.diff(costs) < 0).all()


def test_no_atoms_no_codes():
    np.testing.assert_array_equal(sparse_coding.fista(jnp.zeros((3, 2)), jnp.ones((4, 2)), 0.1), 0)


def test_the_layer_and_steps_with_restarts(x64):
    params = {"dictionary": jnp.asarray(WIDE)}
    codes, _ = jit_apply(sparse_coding.sparse_code(9, 0.5, steps=40), params, {}, X)
    np.testing.assert_allclose(codes, [restarted(WIDE, x, 0.5, 40) for x in X], atol=1e-10)


@pytest.fixture(scope="module")
def planted():
    """2000 sums of 3 of 20 atoms in 16 dimensions, with some noise."""
    draw = np.random.default_rng(4)
    atoms = draw.normal(size=(20, 16))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = np.zeros((2000, 20))
    for row in codes:
        chosen = draw.choice(20, 3, replace=False)
        row[chosen] = draw.choice([-1, 1], 3) * draw.uniform(1, 2, 3)
    x = codes @ atoms + 0.02 * draw.normal(size=(2000, 16))
    return atoms, x.astype(np.float32)


@pytest.mark.slow
def test_an_epoch_is_that_of_numpy():
    """Five equal examples in batches of two: their order makes no difference."""
    draw = np.random.default_rng(0)
    row = np.array([2.0, -1, 0.5, 0])
    atoms = draw.normal(size=(3, 4))
    atoms[1] = [0, 0, 0, 1]  # of no use
    sums = 0.3 * np.eye(3), draw.normal(size=(3, 4))
    for part in sums:
        part[1] = 0
    given = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (atoms, sums))
    x = jnp.tile(jnp.float32(row), (5, 1))
    found = sparse_coding._epoch(jax.random.key(0), *given, x, 0.4, 2, 3, False)
    for _ in range(2):
        z = restarted(atoms, row, 0.4, 3)
        codes, examples = sums
        codes = 0.6 * codes + 2 * np.outer(z, z)
        examples = 0.6 * examples + 2 * np.outer(z, row)
        for j in range(3):
            moved = codes[j, j] * atoms[j] + examples[j] - codes[j] @ atoms
            if codes[j, j] == 0:
                moved = row
            atoms[j] = moved / np.linalg.norm(moved)
        sums = codes, examples
    assert 0 < (z != 0).mean() < 1
    close(found, (atoms, sums), 1e-4, 1e-5)


def test_atoms_of_small_codes_are_in_use():
    atoms = jnp.eye(2, 3)
    examples = 1e-4 * jnp.array([[0.0, 1, 0], [0, 0, 1]])
    moved = sparse_coding._better_atoms(atoms, 1e-4 * jnp.eye(2), examples, -atoms)
    np.testing.assert_allclose(moved, jnp.eye(3)[1:], atol=1e-6)


@pytest.mark.slow
def test_atoms_begin_as_examples_with_some_noise():
    x = np.random.default_rng(0).normal(size=(30, 60)).astype(np.float32)
    atoms = np.asarray(sparse_coding._first_atoms(jax.random.key(0), x, 30))
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, rtol=1e-5)
    cosines = atoms @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T
    assert sorted(cosines.argmax(1)) == list(range(30))
    np.testing.assert_allclose(cosines.max(1), 1 / np.sqrt(1.01), atol=8e-3)
    near = x[cosines.argmax(1)]
    noise = atoms * np.linalg.norm(near, axis=1, keepdims=True) - near
    assert abs(noise.mean()) < 0.01
    assert 0.09 < noise.std() / x.std() < 0.11


@pytest.mark.slow
def test_a_planted_dictionary_is_recovered(planted):
    atoms, x = planted
    found = sparse_coding.fit_dictionary(jax.random.key(0), x, 20, penalty=0.2, epochs=20, steps=20)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    cosines = np.abs(atoms @ np.asarray(found).T).max(1)
    assert (cosines > 0.95).mean() >= 0.9
    assert np.median(cosines) < 1  # not the planted ones themselves
    shuffled = np.random.default_rng(0).permuted(atoms, axis=1)
    cosines = np.abs(shuffled @ np.asarray(found).T).max(1)
    assert (cosines > 0.95).mean() < 0.1  # no dictionary would do by chance


@pytest.mark.slow
def test_params_of_dense_are_one_step_of_ista(planted):
    _, x = planted
    x = x[:300]
    params = sparse_coding.fit_sparse_coding(jax.random.key(0), x, 4, epochs=1)
    atoms = params["kernel"].T
    penalty = 1.2 * np.sqrt((x**2).mean())
    y, _ = jit_apply(jn.dense(4), params, {}, x)
    step = np.maximum(x @ atoms.T - penalty, 0)
    np.testing.assert_allclose(jax.nn.relu(y), step, atol=1e-5)
    scaled = sparse_coding.fit_sparse_coding(jax.random.key(0), x, 4, epochs=1, standardize=True)
    y = x @ params["kernel"]
    np.testing.assert_allclose(scaled["kernel"], params["kernel"] / y.std(), rtol=1e-4)
    np.testing.assert_allclose(scaled["bias"], -y.mean() / y.std(), atol=1e-4)
