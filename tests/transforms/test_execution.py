"""`remat`, `cast` and `freeze` against the plain layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.compiled import jit_apply
from tests.helpers import close, refused
from tests.transforms.test_copies import KEY, X, block


@pytest.mark.slow
def test_remat_changes_nothing_but_recomputes():
    layer, net = block(), jn.remat(block())
    params, state = net.init(KEY, X)
    close((params, state), layer.init(KEY, X), 0)

    def loss(layer):
        return lambda p: (jit_apply(layer, p, state, X, key=KEY, train=True)[0] ** 2).sum()

    close(*(jax.jit(jax.value_and_grad(loss(each)))(params) for each in (net, layer)))
    count = {n: str(jax.make_jaxpr(jax.grad(loss(n)))(params)).count("tanh") for n in (net, layer)}
    assert count[net] > count[layer]


def gradient(make):
    """The compiled gradient of eight blocks, made by a function of one block, and its value."""
    mlp = jn.serial(jn.dense(64, name="mlp_in"), jax.nn.gelu, jn.dense(16, name="mlp_out"))
    net, x = make(jn.residual(mlp, name="block")), jnp.ones((128, 16))
    params, state = net.init(KEY, x)
    loss = lambda params: (net.apply(params, state, x)[0] ** 2).mean()  # noqa: E731
    traced = jax.jit(jax.grad(loss)).trace(params)
    compiled = traced.lower().compile()
    return traced, compiled.memory_analysis().temp_size_in_bytes, compiled(params)


def test_remat_keeps_by_path():
    made = {
        name: gradient(lambda block, options=options: jn.repeat(jn.remat(block, **options), 8))
        for name, options in {
            "none": {}, "in": {"keep": "*/mlp_in"}, "all": {"keep": "*"},
            "policy": {"keep": "*/mlp_in", "policy": jax.checkpoint_policies.everything_saveable},
        }.items()
    }  # fmt: skip
    made["plain"] = gradient(lambda block: jn.repeat(block, 8))
    for _, _, grads in made.values():
        close(grads, made["plain"][2])
    memory = {name: temporary for name, (_, temporary, _) in made.items()}
    one = 8 * 128 * 64 * 4  # bytes of the outputs of mlp_in
    assert 0.9 * one < memory["in"] - memory["none"] < 1.2 * one
    assert memory["none"] < memory["in"] < memory["all"] < memory["plain"]
    assert memory["policy"] > 2 * memory["in"]
    dots = {name: str(traced.jaxpr).count("dot_general") for name, (traced, *_) in made.items()}
    assert dots["none"] == dots["plain"] + 1 and dots["in"] == dots["plain"]


def test_names_cost_nothing_unless_asked_for():
    counts = []
    for keep in (None, "*/mlp_in"):
        traced, _, _ = gradient(lambda block, keep=keep: jn.remat(block, keep=keep))
        counts.append(str(traced.jaxpr).count("name["))
    assert counts == [0, 1]


def test_remat_offloads_by_path():
    traced, _, grads = gradient(lambda block: jn.remat(block, offload="*/mlp_in"))
    close(grads, gradient(lambda block: block)[2])
    assert "pinned_host" in traced.lower(lowering_platforms=("cuda",)).as_text()


@refused([
    ({"keep": "*/mlp"}, r"remat: no layer needs keep='\*/mlp'; paths: serial/mlp_in, "),
    ({"keep": "*", "offload": "*/mlp_in"}, "no layer needs offload='\\*/mlp_in'"),
    ({"keep": "(a"}, "remat: keep must hold patterns"),
    ({"offload": 3}, TypeError, "remat: offload must hold patterns"),
])  # fmt: skip
def test_remat_of_no_layer(options):
    gradient(lambda block: jn.remat(block, **options))


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


@pytest.mark.parametrize("kind", [list, dict])
def test_params_in_containers_are_frozen(kind):
    made = {"x": jnp.ones(3), "y": jnp.ones(3)} if kind is dict else kind([jnp.ones(3)] * 2)

    def apply(params, x):
        return sum(jax.tree.leaves(params["w"])) * params["b"] * x

    net = jn.stateless(lambda key, x: {"w": made, "b": jnp.ones(3)}, apply)
    params, state = net.init(KEY, jnp.ones((2, 3)))
    frozen = jn.freeze(net, "w/*")
    found = jax.grad(lambda p: frozen.apply(p, state, jnp.ones((2, 3)))[0].sum())(params)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(found["w"])) and found["b"].all()


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
