"""`observe` sees each call; `collect` returns what is sown."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import KEY, refused, refuses
from tests.transforms.test_copies import X

MAKES = pytest.mark.parametrize(
    "make",
    [
        lambda layer: jn.repeat(layer, 2),
        lambda layer: jn.ensemble(layer, 2),
        jn.remat,
        jn.freeze,
        lambda layer: jn.cast(layer, jnp.bfloat16),
    ],
    ids=["repeat", "ensemble", "remat", "freeze", "cast"],
)


@pytest.mark.fast_cases("remat", "freeze", "cast")
@MAKES
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


def test_observers_nest():
    """The outer one sees what the inner one left, each below its own layer."""
    inner = jn.observe(jn.serial(jnp.sin, name="inner"), lambda path, layer, x, y: y + 1)
    seen = {}

    def note(path, layer, x, y):
        seen["/".join(path)] = float(y[0, 0])
        return y

    jn.observe(jn.serial(inner), note).apply({}, {}, jnp.zeros((1, 1)))
    assert seen == {"inner/sin": 1.0, "inner": 2.0, "": 2.0}


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


@pytest.mark.fast_cases("<lambda>-shape0", "<lambda>-shape3", "remat-shape2")
@pytest.mark.parametrize(
    ("wrap", "shape"),
    [
        (lambda f: jn.repeat(f, 3), (3, 4)),
        (lambda f: jn.ensemble(f, 3), (3, 4)),
        (jn.remat, (4,)),
        (lambda f: jn.cast(f, jnp.bfloat16), (4,)),
        (jn.freeze, (4,)),
        (jn.transforms.weight_norm, (4,)),
        (jn.transforms.spectral_norm, (4,)),
        (lambda f: jn.repeat(jn.remat(jn.serial(f, jn.batch_norm())), 3), (3, 4)),
    ],
)
def test_sown_values_pass_transforms(wrap, shape):
    net = jn.serial(wrap(jn.compose(gate)), name="net")
    sown = collected(net, jnp.arange(8.0).reshape(4, 2), train=True)
    [value] = sown.values()
    assert value.shape == shape
    assert np.isfinite(np.asarray(value, np.float32)).all()
    below, x = jn.collect(wrap(jn.compose(gate))), jnp.ones((4, 2))  # the transform is the whole
    (_, sown), _ = below.apply(*below.init(KEY, x), x)
    assert [value.shape for value in sown.values()] == [shape]


def test_sowing_costs_nothing_unless_somebody_asks():
    bare = jn.compose(lambda m, x: x * jax.nn.sigmoid(m(jn.dense(1), x)), name="gate")
    nets = [jn.serial(each, jn.dense(2)) for each in (jn.compose(gate), bare)]
    x = jnp.ones((4, 2))
    given = nets[0].init(KEY, x)
    texts = [jax.jit(net.apply).lower(*given, x).as_text() for net in nets]
    assert texts[0] == texts[1]


def objective(m, batch):
    x, y = batch
    outputs, sown = m(jn.collect(jn.serial(jn.compose(gate), jn.dense(1))), x)
    share = sown["gate/share"]
    return (outputs - y)[:, 0] ** 2 + share, {"share": share, "spread": share.var()}


@pytest.mark.slow
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
    with pytest.raises(ValueError, match="'spread'\\] is one number per batch"):
        list(jn.fit(trainer, train_state, data, epochs=1, batch_size=4, progress=False))


def test_a_watch_that_does_not_collect_keeps_no_sown_values():
    def gated(m, x):
        m.sow("gate", x[:, 0])
        return m(jn.batch_norm(), x)

    net = jn.serial(jn.compose(gated))
    x = jnp.ones((4, 2))
    params, state = net.init(jax.random.key(0), x)
    _, after = jn.observe(net, lambda path, layer, x, y: y).apply(params, state, x)
    assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.mark.parametrize(
    "make",
    [
        jn.serial,
        lambda layer: jn.lora(layer, 2, where="*kernel"),
        jn.quantized,
        jn.remat,
        lambda layer: jn.repeat(layer, 2),
    ],
    ids=["serial", "lora", "quantized", "remat", "repeat"],
)
def test_what_an_observer_changes_stays_below_other_watches(make):
    net = make(jn.dense(3))
    x = jnp.ones((2, 3))
    params, state = net.init(KEY, x)
    seven = jn.observe(net, lambda path, layer, x, y: jnp.full_like(y, 7))

    def same(path, layer, x, y):
        return y

    assert (seven.apply(params, state, x)[0] == 7).all()
    assert (jn.collect(seven).apply(params, state, x)[0][0] == 7).all()
    for transforms in (False, True):
        watched = jn.observe(seven, same, transforms=transforms)
        assert (watched.apply(params, state, x)[0] == 7).all()


def looped(m, x):
    jax.lax.scan(lambda c, x: (c, m.sow("mean", x.mean())), 0, x)
    return x


@refused(
    [
        (looped, r"m.sow\('mean'\) is called inside a function that JAX traces"),
        (lambda m, x: m.sow(3, x), TypeError, "m.sow"),
    ]
)
def test_what_cannot_be_sown(forward):
    jn.collect(jn.compose(forward)).apply({}, {}, jnp.ones((5, 4, 2)))


@MAKES
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


@pytest.mark.parametrize(
    "look",
    [
        jn.collect,
        lambda net: jn.observe(net, lambda path, layer, x, y: y),
        jn.remat,
    ],
    ids=["collect", "observe", "remat"],
)
@pytest.mark.parametrize("nested", [False, True])
def test_the_state_of_a_pair_is_kept(look, nested):
    def apply(params, state, x, *, key=None, train=False):
        return x, {"count": state["count"] + train}

    counter = jn.Layer(lambda key, x: ({}, {"count": jnp.zeros(())}), apply, "counter")
    net = jn.serial(jn.serial(counter) if nested else counter)
    x = jnp.ones((2, 3))
    _, state = look(net).apply(*net.init(KEY, x), x, train=True)
    assert [float(leaf) for leaf in jax.tree.leaves(state)] == [1.0]


@pytest.mark.parametrize(
    "transform",
    [
        jn.freeze,
        jn.remat,
        lambda f: jn.repeat(f, 2),
        lambda f: jn.ensemble(f, 2),
        lambda f: jn.cast(f, jnp.bfloat16),
        jn.transforms.weight_norm,
        jn.transforms.spectral_norm,
        lambda f: jn.tap(f, "dense"),
        lambda f: jn.observe(f, lambda *a: a[-1]),
    ],
)
def test_what_is_no_layer_is_named(transform):
    with pytest.raises(TypeError, match=r"^\w+: layer must be a layer, such as jn.dense\(3\), got"):
        transform([jn.dense(3)])


test_options_of_another_kind_are_named = refuses(
    [
        (lambda: jn.cast(jn.dense(3), "abc"), "cast: dtype must be one of JAX"),
        (lambda: jn.remat(jn.dense(3), policy=3), "remat: policy must be a function"),
        (
            lambda: jn.observe(jn.dense(3), print, transforms=1),
            "observe: transforms must be True or",
        ),
        (lambda: jn.tap(jn.serial(jn.dense(3)), 3), r"tap: paths must be words .* got \(3,\)"),
    ],
    TypeError,
)
