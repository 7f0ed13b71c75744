"""Looking inside: `observe`, `tap`, `pick`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.services.trees import path_name

KEY = jax.random.key(0)


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


@pytest.mark.fast_cases("remat", "freeze", "cast")
@pytest.mark.parametrize("make", [
    lambda layer: jn.repeat(layer, 2), lambda layer: jn.ensemble(layer, 2), jn.remat, jn.freeze,
    lambda layer: jn.cast(layer, jnp.bfloat16),
], ids=["repeat", "ensemble", "remat", "freeze", "cast"])  # fmt: skip
def test_observe_looks_inside_transforms_where_asked(make):
    net = jn.serial(make(jn.serial(jn.dense(3), jnp.tanh, name="stage")), name="net")
    seen: list[str] = []

    def see(path, layer, x, y):
        seen.append("/".join(path))
        return y

    params, state = net.init(KEY, jn.spec((2, 3)))
    plain, _ = net.apply(params, state, jnp.ones((2, 3)))
    for transforms, inside in ((False, []), (True, ["stage/dense", "stage/tanh"])):
        seen.clear()
        y, _ = jn.observe(net, see, transforms=transforms).apply(params, state, jnp.ones((2, 3)))
        np.testing.assert_allclose(y, plain, rtol=1e-6)
        assert seen == [*inside, "stage", ""]


def block(name):
    return jn.serial(jn.dense(3), jn.batch_norm(), jnp.tanh, name=name)


def trunk_and_net():
    shared = block("shared")
    net = jn.serial(block("a"), shared, jn.serial(block("b"), block("c"), name="deep"), shared)
    return net, jax.random.normal(jax.random.key(1), (5, 3))


@pytest.mark.fast_cases("paths2-layers2")
@pytest.mark.parametrize(
    "paths, layers",
    [
        (("a",), {"a"}),
        (("deep/b/dense", "shared"), {"a", "shared", "deep/b/dense"}),
        (("shared", "a", "shared"), {"a", "shared"}),
        (("deep",), {"a", "shared", "deep"}),
    ],
)
def test_tap_gives_what_the_net_computes_and_no_more(paths, layers):
    net, x = trunk_and_net()
    params, state = net.init(KEY, x)
    trunk = jn.tap(net, *paths)
    trunk_params, trunk_state = trunk.init(KEY, x)

    def leaves(tree):
        found = jax.tree_util.tree_leaves_with_path(tree)
        return {path_name(path): leaf for path, leaf in found}

    kept = {
        path: leaf
        for path, leaf in leaves(params).items()
        if any(path.startswith(layer + "/") for layer in layers)
    }
    assert kept and leaves(trunk_params).keys() == kept.keys()
    jax.tree.map(np.testing.assert_array_equal, leaves(trunk_params), kept)
    outputs, new = trunk.apply(trunk_params, trunk_state, x, train=True)
    found = jn.inspect.activations(net, params, state, x, train=True)
    outputs = outputs if len(paths) > 1 else (outputs,)
    assert len(outputs) == len(paths)
    for path, y in zip(paths, outputs, strict=True):
        np.testing.assert_array_equal(y, found[path])
    # running statistics inside a layer that was left half-way are kept
    assert jax.tree.structure(new) == jax.tree.structure(trunk_state)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), trunk_state, new)
    assert all(jax.tree.leaves(changed))


def test_tap_keeps_the_state_of_a_layer_that_is_left_half_way():
    inner = jn.serial(jn.batch_norm(), jn.dense(4), jn.dense(2), name="inner")
    trunk = jn.tap(jn.serial(inner, jn.dense(7)), "inner/dense")
    x = jnp.arange(6.0).reshape(2, 3)
    params, state = trunk.init(KEY, x)
    assert list(params["inner"]) == ["batch_norm", "dense"]
    _, new = trunk.apply(params, state, x, train=True)
    assert (new["inner"]["batch_norm"]["mean"] != state["inner"]["batch_norm"]["mean"]).any()


@pytest.mark.slow
def test_tap_trains_behind_frozen_layers_and_under_jit():
    net, x = trunk_and_net()
    model = jn.serial(jn.freeze(jn.tap(net, "deep/b")), jn.dense(2))
    params, state = model.init(KEY, x)
    loss = jax.jit(lambda p: model.apply(p, state, x)[0].sum())
    trunk, head = [jax.grad(loss)(params)[name] for name in ("serial", "dense")]
    assert not any(leaf.any() for leaf in jax.tree.leaves(trunk))
    assert all(leaf.any() for leaf in jax.tree.leaves(head))


def test_tap_of_a_path_that_is_not_there_lists_those_that_are():
    net, x = trunk_and_net()
    with pytest.raises(ValueError, match="no layer 'deep/x'; it has a/dense, a/batch_norm, a/tanh"):
        jn.tap(net, "a", "deep/x").init(KEY, x)
    with pytest.raises(ValueError, match="at least one path"):
        jn.tap(net)
    with pytest.raises(TypeError, match="tap the network first"):
        jn.tap(jn.freeze(net), "a")


def test_tap_wants_the_params_of_its_own_layers_only():
    net, x = trunk_and_net()
    params, state = net.init(KEY, x)
    with pytest.raises(ValueError, match="unused entries: params/shared, params/deep"):
        jn.tap(net, "a").apply(params, state, x)


def test_pick_hands_a_trunk_the_params_of_its_net():
    net, x = trunk_and_net()
    params, state = net.init(KEY, x)
    trunk = jn.tap(net, "deep/b", "shared")
    like = trunk.init(jax.random.key(7), x)
    picked = jn.pick(params, like[0]), jn.pick(state, jax.eval_shape(trunk.init, KEY, x)[1])
    assert shapes(picked) == shapes(like)
    outputs, _ = trunk.apply(*picked, x)
    found = jn.inspect.activations(net, params, state, x)
    np.testing.assert_array_equal(outputs[0], found["deep/b"])


def test_pick_lists_all_that_does_not_fit():
    tree = {"a": {"kernel": jnp.ones((3, 4))}, "b": jnp.ones(2)}
    like = {"a": {"kernel": jn.spec((4, 3)), "bias": jn.spec((4,))}, "b": {"c": jn.spec((2,))}}
    with pytest.raises(ValueError) as error:
        jn.pick(tree, like)
    for words in (
        "a/kernel: expected (4, 3), got (3, 4)",
        "a/bias: expected (4,), got nothing",
        "b/c: expected (2,), got nothing",
    ):
        assert words in str(error.value)


def test_what_is_skipped_is_neither_drawn_nor_run():
    """The forward goes on with zeros behind the last path, and its layers do not run."""
    ran = []

    def spy(params, state, x, *, key=None, train=False):
        ran.append(x.shape)
        return x, state

    late = jn.Layer(lambda key, x: ({"w": jnp.ones(3)}, {}), spy, "late")
    net = jn.serial(jn.dense(3), jn.serial(jnp.tanh, late, name="inner"), late)
    params, state = net.init(KEY, jn.spec((2, 3)))
    trunk = jn.tap(net, "inner/tanh")
    kept, _ = trunk.init(KEY, jn.spec((2, 3)))
    assert list(kept) == ["dense"]
    trunk.apply(kept, {}, jnp.ones((2, 3)))  # outlines what follows once
    ran.clear()
    y, _ = trunk.apply(kept, {}, jnp.ones((2, 3)))
    assert y.shape == (2, 3) and not ran


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


def test_tap_of_an_objective_gives_what_is_inside():
    net = jn.serial(jn.dense(4, name="hidden"), jnp.tanh, jn.dense(1))
    objective = jn.supervised(net, lambda outputs, targets: (outputs - targets) ** 2)
    batch = jnp.ones((5, 3)), jnp.ones((5, 1))
    params, state = objective.init(KEY, batch)
    trunk = jn.tap(objective, "hidden")
    y, _ = trunk.apply(jn.pick(params, trunk.init(KEY, batch)[0]), state, batch)
    assert y.shape == (5, 4)


def test_observers_nest():
    """The outer one sees what the inner one left, each below its own layer."""
    inner = jn.observe(jn.serial(jnp.sin, name="inner"), lambda path, layer, x, y: y + 1)
    seen = {}

    def note(path, layer, x, y):
        seen["/".join(path)] = float(y[0, 0])
        return y

    jn.observe(jn.serial(inner), note).apply({}, {}, jnp.zeros((1, 1)))
    assert seen == {"inner/sin": 1.0, "inner": 2.0, "": 2.0}


# Values from inside


def gate(m, x):
    share = jax.nn.sigmoid(m(jn.dense(1), x))
    m.sow("share", share[:, 0])
    return x * share


def collected(net, x, **options):
    params, state = net.init(KEY, x)
    (y, sown), after = jn.collect(net).apply(params, state, x, key=KEY, **options)
    plain, same = net.apply(params, state, x, key=KEY, **options)
    jax.tree.map(np.testing.assert_array_equal, (y, after), (plain, same))
    return sown


def test_sown_values_come_out_by_path():
    x = jnp.arange(8.0).reshape(4, 2)
    shared = jn.compose(gate, name="shared")
    net = jn.serial(jn.compose(gate), jn.serial(jn.compose(gate), name="inner"), shared, shared)
    sown = collected(net, x)
    assert list(sown) == ["gate/share", "inner/gate/share", "shared/share", "shared/share_1"]
    assert not np.array_equal(sown["shared/share"], sown["shared/share_1"])
    params, state = net.init(KEY, x)
    y, _ = jn.dense(1).apply(params["gate"]["dense"], {}, x)
    np.testing.assert_allclose(sown["gate/share"], jax.nn.sigmoid(y)[:, 0], 1e-6)


@pytest.mark.parametrize(("wrap", "shape"), [
    (lambda f: jn.repeat(f, 3), (3, 4)),
    (lambda f: jn.ensemble(f, 3), (3, 4)),
    (jn.remat, (4,)),
    (lambda f: jn.cast(f, jnp.bfloat16), (4,)),
    (jn.freeze, (4,)),
    (jn.weight_norm, (4,)),
    (jn.spectral_norm, (4,)),
    (lambda f: jn.repeat(jn.remat(jn.serial(f, jn.batch_norm())), 3), (3, 4)),
])  # fmt: skip
def test_sown_values_pass_transforms(wrap, shape):
    net = jn.serial(wrap(jn.compose(gate)), name="net")
    sown = collected(net, jnp.arange(8.0).reshape(4, 2), train=True)
    [value] = sown.values()
    assert value.shape == shape and np.isfinite(np.asarray(value, np.float32)).all()
    below = jn.collect(wrap(jn.compose(gate)))  # and if the transform is the whole
    params, state = below.init(KEY, jn.spec((4, 2)))
    (_, sown), _ = below.apply(params, state, jnp.ones((4, 2)))
    assert [value.shape for value in sown.values()] == [shape]


def test_sowing_costs_nothing_unless_somebody_asks():
    net = jn.serial(jn.compose(gate), jn.dense(2))
    bare = jn.serial(jn.compose(lambda m, x: x * jax.nn.sigmoid(m(jn.dense(1), x)), name="gate"),
                     jn.dense(2))  # fmt: skip
    x = jnp.ones((4, 2))
    params, state = net.init(KEY, x)
    texts = [jax.jit(layer.apply).lower(params, state, x).as_text() for layer in (net, bare)]
    assert texts[0] == texts[1]


def objective(m, batch):
    x, y = batch
    outputs, sown = m(jn.collect(jn.serial(jn.compose(gate), jn.dense(1))), x)
    share = sown["gate/share"]
    return (outputs - y)[:, 0] ** 2 + share, {"share": share, "spread": share.var()}


def test_sown_values_in_an_objective_leave_padding_out():
    """Values per example are averaged without padding; of a padded batch no statistic is known."""
    x = np.arange(14, dtype=np.float32).reshape(7, 2) / 7
    data = x, x[:, :1]

    def per_example(m, batch):
        values, metrics = objective(m, batch)
        return values, {"share": metrics["share"]}

    layer = jn.compose(per_example, name="net")
    params, state = layer.init(KEY, data)
    whole = layer.apply(params, state, data)[0]
    found = jn.evaluate(layer, params, state, data, batch_size=4)
    np.testing.assert_allclose(found["loss"], whole[0].mean(), 1e-5)
    np.testing.assert_allclose(found["share"], whole[1]["share"].mean(), 1e-5)
    grads = jax.grad(lambda p: layer.apply(p, state, data)[0][1]["share"].sum())(params)
    assert float(jnp.abs(grads["serial"]["gate"]["dense"]["kernel"]).sum()) > 0
    trainer = jn.trainer(jn.compose(objective, name="net"), optax.sgd(0.1))
    train_state = trainer.init(KEY, data)
    with pytest.raises(ValueError, match="spread is one value per batch, from which the padding"):
        list(jn.fit(trainer, train_state, data, epochs=1, batch_size=4, progress=False))


def test_what_cannot_be_sown():
    x = jnp.ones((5, 4, 2))

    def looped(m, x):
        jax.lax.scan(lambda c, x: (c, m.sow("mean", x.mean())), 0, x)
        return x

    with pytest.raises(
        ValueError, match=r"m.sow\('mean'\) is called inside a function that JAX runs"
    ):
        jn.collect(jn.compose(looped)).apply({}, {}, x)
    with pytest.raises(TypeError, match="m.sow"):
        jn.compose(lambda m, x: m.sow(3, x)).init(KEY, x)
