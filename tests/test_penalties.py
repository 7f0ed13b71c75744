import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet import penalties
from jaxnet.services.jax_versions import enable_x64
from tests.helpers import refuses

PARAMS = {
    "dense": {"kernel": jnp.array([[1.0, -2.0], [0.0, 3.0]]), "bias": jnp.array([10.0, 20.0])},
    "lstm": {"cell": {"recurrent_kernel": jnp.array([[0.5, -0.5]]), "bias": jnp.array([30.0])}},
    "norm": {"scale": jnp.array([40.0]), "bias": jnp.array([50.0])},
    "embedding": {"embedding": jnp.array([[60.0]])},
    "kernel": {"b": jnp.array([70.0])},  # the bias of a layer named kernel is no kernel
}


@pytest.mark.parametrize("penalty, value, slope", [
    pytest.param(penalties.l1(0.1), 0.7, lambda w: 0.1 * jnp.sign(w), id="1+2+0+3+0.5+0.5"),
    pytest.param(penalties.l2(0.1), 1.45, lambda w: 0.2 * w, id="1+4+0+9+0.25+0.25"),
])  # fmt: skip
def test_values_by_hand_on_kernels_alone(penalty, value, slope):
    np.testing.assert_allclose(penalty(PARAMS), value, 1e-6)
    grads = jax.jit(jax.grad(penalty))(PARAMS)
    for name, grad in jax.tree_util.tree_leaves_with_path(grads):
        if not name[-1].key.endswith("kernel"):
            assert (grad == 0).all(), name
    np.testing.assert_allclose(grads["dense"]["kernel"], slope(PARAMS["dense"]["kernel"]), 1e-6)
    cell = grads["lstm"]["cell"]
    want = slope(jnp.array([[0.5, -0.5]]))
    np.testing.assert_allclose(cell["recurrent_kernel"], want, 1e-6)


def test_where_chooses_by_path():
    assert penalties.l2(1.0, where="embedding/embedding")(PARAMS) == 3600
    # The pattern is of the whole path, with the names above the layer.
    assert penalties.l1(1.0, where="norm/*")(PARAMS) == 90


@pytest.mark.slow
def test_a_bare_layer_and_a_net_are_penalized_alike():
    x, key = jn.spec((2, 3)), jax.random.key(0)
    params, _ = jn.dense(4).init(key, x)
    assert penalties.l2(2.0)(params) == 2 * jnp.square(params["kernel"]).sum()
    params, _ = jn.serial(jn.dense(4), jn.batch_norm(), jn.dense(5)).init(key, x)
    want = sum(jnp.square(params[name]["kernel"]).sum() for name in ("dense", "dense_1"))
    np.testing.assert_allclose(penalties.l2(1.0)(params), want, 1e-6)


def test_a_strength_may_be_traced():
    values = jax.jit(jax.vmap(lambda s: penalties.l2(s)(PARAMS)))(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(values, [1.45, 2.9], 1e-6)


def test_sums_are_wide():
    """4097 ones: bfloat16 has 8 binary digits and rounds it to 4096."""
    assert float(penalties.l2(1.0)({"kernel": jnp.ones(4097, jnp.bfloat16)})) == 4097


@pytest.mark.slow
def test_complex_weights():
    params = {"kernel": jnp.array([3 + 4j])}
    assert penalties.l2(1.0)(params) == 25
    assert penalties.l1(1.0)(params) == 5
    assert jax.jit(jax.grad(penalties.l2(1.0)))(params)["kernel"] == 6 - 8j


def step(optimizer, params, grads, state=None):
    state = optimizer.init(params) if state is None else state
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def test_proximal_l1_by_hand():
    """SGD to 0.9, -0.55, 0.05, -0.3, then 0.2 towards zero and no further; the bias stays."""
    params = {"kernel": jnp.array([1.0, -0.5, 0.1, 0.1]), "bias": jnp.array([0.1])}
    grads = {"kernel": jnp.array([1.0, 0.5, 0.5, 4.0]), "bias": jnp.array([0.5])}
    after, _ = step(optax.chain(optax.sgd(0.1), penalties.proximal_l1(2.0, 0.1)), params, grads)
    np.testing.assert_allclose(after["kernel"], [0.7, -0.35, 0.0, -0.1], 1e-6)
    assert after["kernel"][2] == 0
    np.testing.assert_allclose(after["bias"], [0.05], 1e-6)


def test_proximal_l1_matches_scikit_learns_lasso():
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is the reference")
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 8))
    y = x @ np.array([2.0, 0, 0, -1, 0, 0.5, 0, 0]) + 0.1 * rng.normal(size=60)
    lasso = linear.Lasso(alpha=0.2, fit_intercept=False, tol=1e-12, max_iter=100000).fit(x, y)
    with enable_x64(True):
        x, y = jnp.array(x), jnp.array(y)
        params = {"kernel": jnp.zeros(8)}
        optimizer = optax.chain(optax.sgd(0.3), penalties.proximal_l1(0.2, 0.3))

        def body(_, carry):
            params, state = carry
            grads = jax.jit(jax.grad(lambda p: jnp.square(x @ p["kernel"] - y).mean() / 2))(params)
            return step(optimizer, params, grads, state)

        start = params, optimizer.init(params)
        params, _ = jax.jit(lambda start: jax.lax.fori_loop(0, 2000, body, start))(start)
        np.testing.assert_allclose(params["kernel"], lasso.coef_, atol=1e-9)
        assert ((params["kernel"] == 0) == (lasso.coef_ == 0)).all()
        assert 0 < (lasso.coef_ == 0).sum() < 8


def test_proximal_l1_follows_a_schedule():
    """The same rate at the same step as the optimizer: 0.1 first, then 0.01."""
    schedule = optax.piecewise_constant_schedule(0.1, {1: 0.1})
    rates = [float(schedule(i)) for i in range(3)]
    optimizer = penalties.proximal_l1(1.0, schedule)
    params, state = {"kernel": jnp.array([1.0])}, None
    zero, want = {"kernel": jnp.zeros(1)}, 1.0
    for rate in rates:
        params, state = step(optimizer, params, zero, state)
        want -= rate
        np.testing.assert_allclose(params["kernel"], [want], 1e-6)
    assert len(set(rates)) == 2
    assert state.count == 3


def test_proximal_l1_needs_params():
    optimizer = penalties.proximal_l1(1.0, 0.1)
    with pytest.raises(ValueError, match=r"optimizer.update\(grads, state, params\)"):
        optimizer.update({"kernel": jnp.ones(2)}, optimizer.init({"kernel": jnp.ones(2)}))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_proximal_l1_keeps_the_dtype_and_zeros_exactly(dtype):
    params = {"kernel": jax.random.normal(jax.random.key(0), (50,)).astype(dtype)}
    grads = {"kernel": jax.random.normal(jax.random.key(1), (50,)).astype(dtype)}
    after, _ = step(optax.chain(optax.adam(0.1), penalties.proximal_l1(5.0, 0.1)), params, grads)
    assert after["kernel"].dtype == dtype
    assert 10 < (after["kernel"] == 0).sum() < 50


test_what_cannot_be_penalized = refuses([
    (lambda: penalties.l2(1.0)({"norm": {"scale": jnp.ones(3)}}),
     "l2: no entry to penalize, got norm/scale"),
    (lambda: penalties.l1(1.0)({}), "got no entries"),
    (lambda: penalties.proximal_l1(1.0, 0.1).init({"bias": jnp.ones(3)}),
     "proximal_l1: no entry to penalize, got bias"),
    (lambda: penalties.l1(-1), r"l1: strength must be in \[0, inf\), got -1"),
    (lambda: penalties.l2(-1), r"l2: strength must be in \[0, inf\), got -1"),
    (lambda: penalties.proximal_l1(-1, 0.1),
     r"proximal_l1: strength must be in \[0, inf\), got -1"),
    (lambda: penalties.l1("1"), TypeError, "l1: strength must be a number"),
    (lambda: penalties.l2(float("nan")), r"strength must be in \[0, inf\), got nan"),
    (lambda: penalties.l2(1.0, where=3), TypeError, "l2: where must hold patterns"),
    (lambda: penalties.l2(1.0, where="(a"), "l2: where must hold patterns"),
    (lambda: penalties.l1(1.0, where=len), r"where=.\*/weights"),
    (lambda: penalties.proximal_l1(1.0, None), TypeError, "learning_rate must be a number"),
    (lambda: penalties.proximal_l1(1.0, -1.0), "learning_rate must be in"),
    (lambda: penalties.l1(1.0)(jnp.ones(3)), TypeError, "params must be nested dicts of arrays"),
    (lambda: penalties.l1(1.0)({"kernel": "a"}), TypeError, "l1: params/kernel must be an array"),
])  # fmt: skip
