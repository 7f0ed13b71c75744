"""The contract: names, keys, sharing, errors, and that init is abstract and cheap."""

import zlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.initializers import zeros
from jaxnet.services.trees import flat, memo_of
from tests.helpers import KEY, jit_apply, jit_init, refused, refuses, shapes

# Made once by this code with jax 0.12.0, equal with 0.10.2; they hold the derivation of keys.
GOLDEN_KEY = [3289192318, 3726251065]
GOLDEN_OUTER = [0.6622706651687622, 0.09724930673837662]
GOLDEN_INNER = [0.2610965073108673, -0.23667921125888824]


def notes(error) -> str:
    return "\n".join(getattr(error.value, "__notes__", []))


def scale(value=2.0, name="scale"):
    return jn.stateless(lambda key, x: {"w": jnp.float32(value)}, lambda p, x: p["w"] * x, name)


# Keys


def test_child_key_is_fold_in_of_crc32():
    expected = jax.random.key_data(jax.random.fold_in(KEY, zlib.crc32(b"dense")))
    found = jax.random.key_data(jn.child_key(KEY, "dense"))
    assert found.tolist() == expected.tolist() == GOLDEN_KEY


def test_golden_values_of_a_nested_net():
    net = jn.serial(jn.dense(2), jn.serial(jn.dense(2), name="inner"), name="net")
    params, _ = net.init(KEY, jn.spec((1, 3)))
    np.testing.assert_allclose(params["dense"]["kernel"][0], GOLDEN_OUTER, rtol=1e-5)
    np.testing.assert_allclose(params["inner"]["dense"]["kernel"][0], GOLDEN_INNER, rtol=1e-5)


def test_key_of_a_child_depends_on_names_alone():
    bare = jn.serial(jn.dense(3, name="a"), jn.dense(3, name="b"))
    more = jn.serial(jn.dense(3, name="a"), jn.dense(3, name="new"), jn.dense(3, name="b"))
    x = jn.spec((1, 3))
    assert jnp.array_equal(bare.init(KEY, x)[0]["b"]["kernel"], more.init(KEY, x)[0]["b"]["kernel"])


def test_legacy_uint32_keys_work():
    params, _ = jn.dense(3).init(jax.random.PRNGKey(0), jn.spec((1, 3)))
    assert params["kernel"].shape == (3, 3)


@pytest.mark.parametrize("key", [0, None, jnp.float32(1), "seed", "vmap"], ids=repr)
@pytest.mark.parametrize("net", [jn.dense(2), jn.serial(jn.dense(2))], ids=["leaf", "composed"])
def test_wrong_key_is_answered(net, key):
    words = "vmap" if key == "vmap" else r"expected a single key, such as jax.random.key\(0\)"
    with pytest.raises(TypeError, match=words):
        net.init(jax.random.split(jax.random.key(1)) if key == "vmap" else key, jn.spec((1, 3)))


# Names and sharing


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ([None, None, "c5", None, "c5"], ["dense", "dense_1", "c5", "dense_2", "c5_1"]),
        (["dense_1", None, None], ["dense_1", "dense", "dense_2"]),  # what looks counted stays
    ],
)
def test_names_are_stable_and_counted(given, names):
    net = jn.serial(*[jn.dense(i + 1, name=n or "dense") for i, n in enumerate(given)])
    params, _ = net.init(KEY, jn.spec((1, 3)))
    assert sorted(params, key=lambda name: params[name]["kernel"].shape[1]) == names


def test_same_object_shares_its_params():
    shared = jn.dense(3)
    net = jn.serial(shared, jnp.tanh, shared)
    params, state = net.init(KEY, jn.spec((2, 3)))
    assert list(params) == ["dense"]
    x = jnp.arange(6.0).reshape(2, 3)
    w = params["dense"]["kernel"]
    y, _ = net.apply(params, state, x)
    np.testing.assert_allclose(y, jnp.tanh(x @ w) @ w, rtol=1e-5)


def test_sharing_with_inputs_that_need_other_params_raises():
    shared = jn.dense(4)
    with pytest.raises(ValueError, match=r"dense/kernel: expected \(3, 4\), got \(4, 4\)"):
        jn.serial(shared, shared).init(KEY, jn.spec((2, 3)))


def test_layers_of_equal_settings_do_not_share():
    """Ids of freed layers come back: a scope must hold what it has seen."""

    def forward(m, x):
        for _ in range(20):
            x = m(jn.dense(3), x)
        return x

    params, _ = jn.compose(forward).init(KEY, jn.spec((2, 3)))
    assert len(params) == 20


def test_composed_layer_used_twice_shares():
    block = jn.serial(jn.dense(3), jn.batch_norm(), name="block")
    net = jn.serial(block, block)
    params, state = net.init(KEY, jn.spec((2, 3)))
    assert list(params) == ["block"]
    assert sorted(params["block"]) == ["batch_norm", "dense"]
    x = jnp.arange(6.0).reshape(2, 3)
    _, after = net.apply(params, state, x, train=True)
    y, once = block.apply(params["block"], state["block"], x, train=True)
    _, twice = block.apply(params["block"], once, y, train=True)
    np.testing.assert_allclose(after["block"]["batch_norm"]["mean"], twice["batch_norm"]["mean"])


def test_shared_dropout_draws_again_at_each_call():
    drop = jn.dropout(0.5)
    net = jn.compose(lambda m, x: (m(drop, x), m(drop, x)))
    (a, b), _ = net.apply({}, {}, jnp.ones((4, 50)), key=KEY, train=True)
    assert not jnp.array_equal(a, b)


def test_children_without_entries_leave_none():
    net = jn.serial(jnp.tanh, jn.serial(jnp.tanh), jn.dropout(0.1))
    assert net.init(KEY, jn.spec((2, 3))) == ({}, {})


def test_structure_is_data():
    inner = jn.dense(3, name="c5")
    assert (inner.name, inner.kind) == ("c5", "dense")
    assert callable(inner.inside)
    net = jn.serial(inner)
    assert net.kind == "serial"
    assert callable(net.inside)
    around = jn.repeat(inner, 2).inside
    assert around.layer is inner
    assert around.copies == 2


def test_another_init_of_a_layer_is_called():
    """Else its parents would go on with the forward and never call the new init."""
    net = jn.serial(jn.dense(3), name="net")
    ones = jax.tree.map(jnp.ones_like, net.init(KEY, jn.spec((2, 3))))
    loaded = net.replace(init=lambda key, x: ones)
    assert loaded.kind == "serial"
    params, state = jn.serial(loaded).init(KEY, jn.spec((2, 3)))
    assert (params["net"]["dense"]["kernel"] == 1).all()
    doubled = net.replace(apply=lambda *args, **kw: (2 * net.apply(*args, **kw)[0], {}))
    y, _ = jn.serial(doubled).apply({"net": ones[0]}, {}, jnp.ones((2, 3)))
    assert (y == 2 * net.apply(*ones, jnp.ones((2, 3)))[0]).all()


@pytest.mark.slow
def test_caches_are_bounded():
    layer = jn.dense(3)
    for n in range(1, 80):
        layer.init(KEY, jn.spec((n, 2)))
    memo = memo_of(layer.init)
    assert len(memo._entries) == memo.size == 32


# m.param, m.key, m.train


def token(m, x):
    y = m(jn.dense(4), x) + m.param("token", jn.initializers.normal(1.0), (4,))
    if m.train:
        y = y + jax.random.normal(m.key("noise"), y.shape)
    return y


def test_a_parameter_is_drawn_by_its_name():
    params, state = jn.compose(token).init(KEY, jn.spec((2, 3)))
    assert shapes(params) == {"dense": {"bias": (4,), "kernel": (3, 4)}, "token": (4,)}
    drawn = jn.initializers.normal(1.0)(jn.child_key(KEY, "token"), (4,), jnp.float32)
    np.testing.assert_array_equal(params["token"], drawn)
    x = jnp.ones((2, 3))
    dense = params["dense"]
    y, _ = jn.compose(token).apply(params, state, x)
    expected = x @ dense["kernel"] + dense["bias"] + params["token"]
    np.testing.assert_allclose(y, expected, rtol=1e-6)


ones = jn.initializers.ones


@refused([
    (lambda m, x: m.param("dense", ones, (3,)) + m(jn.dense(3), x),
     "the child 'dense' has the name of a parameter"),
    (lambda m, x: m(jn.dense(3), x) + m.param("dense", ones, (3,)),
     "the param 'dense' has the name of a child"),
    (lambda m, x: m.param("w", ones, (3,)) + m.param("w", ones, (4,)).sum(),
     r"w: expected \(3,\), got \(4,\)"),
    (lambda m, x: m.param("a/b", ones, (3,)), TypeError, "a name without '/'"),
    (lambda m, x: m.param("w", (3,), ones), TypeError,
     r"net: m.param\('w'\): the initializer and the shape are swapped, got \(3,\) and"),
    (lambda m, x: m.state("w", (3,), ones), TypeError,
     r"m.state\('w'\): .* swapped.* Write m.state\(name, initializer, shape\)"),
    (lambda m, x: m.param("w", 0.5, (3,)), TypeError,
     "the initializer must be a function .*, got 0.5. For a constant"),
    (lambda m, x: m.param("w", ones, 3), TypeError, r"m.param\('w'\): the shape must be a"),
    (lambda m, x: m.param("w", ones), TypeError, r"m.param\('w'\): the shape must be a"),
    (lambda m, x: m.param("w", jnp.ones(3)), TypeError, "the initializer must be a function"),
    (lambda m, x: None, TypeError, "net: the function returned None; is its return"),
    (lambda m, x: jn.dense(3)(x), TypeError, r"dense: a layer is not a function; .*m\(layer"),
    (lambda m, x: m(jn.dense(3), [x] * 99), TypeError, r"list of 99 leaves, .*; write np.stack"),
    (lambda m, x: m(jn.dense(3), {"x": x}), TypeError, "jn.layers.time_distributed"),
    (lambda m, x: m.param("w", lambda *_: jnp.ones(4), (3,)),
     r"net: the initializer of 'w' must return an array of shape \(3,\), got \(4,\) float32"),
    (lambda m, x: m([jn.dense(3)], x), TypeError, "net: expected a layer or a function, got list"),
    (lambda m, x: m.key(3), TypeError, "expected m.key"),
    (lambda m, x: m.params, AttributeError, r"m has no attribute 'params'; it has m\(layer, x\)"),
])  # fmt: skip
def test_wrong_use_of_m_is_answered(forward):
    jn.compose(forward, name="net").init(KEY, jn.spec((2, 3)))


def test_one_parameter_used_twice_is_one():
    net = jn.compose(lambda m, x: x * m.param("w", ones, (3,)) + m.param("w", ones, (3,)))
    params, _ = net.init(KEY, jn.spec((2, 3)))
    assert shapes(params) == {"w": (3,)}


def test_keys_of_m_differ_by_name_call_and_from_those_of_children():
    seen = {}

    def forward(m, x):
        seen["a"], seen["b"], seen["again"] = m.key("a"), m.key("b"), m.key("a")

        def note(params, state, x, *, key=None, train=False):
            seen["child"] = key
            return x, state

        return m(jn.Layer(lambda key, x: ({}, {}), note, "a"), x)

    jn.compose(forward).apply({}, {}, jnp.ones((2, 3)), key=KEY)
    assert len({tuple(jax.random.key_data(key).tolist()) for key in seen.values()}) == 4


def test_a_missing_key_shows_the_call():
    net = jn.serial(jn.compose(token), name="net")
    params, state = net.init(KEY, jn.spec((2, 3)))
    words = r"net/token: needs a key in training. Pass one, .* net.apply\(.*key=jax.random"
    with pytest.raises(ValueError, match=words):
        net.apply(params, state, jnp.ones((2, 3)), train=True)


@pytest.mark.fast_cases("freeze")
@pytest.mark.parametrize(
    "transform",
    [
        lambda layer: jn.repeat(layer, 3),
        lambda layer: jn.ensemble(layer, 3),
        jn.remat,
        jn.freeze,
    ],
    ids=["repeat", "ensemble", "remat", "freeze"],
)
def test_param_and_key_work_under_transforms(transform):
    net = jn.serial(transform(jn.compose(token)), name="net")
    x = jnp.ones((2, 4))
    params, state = net.init(KEY, x)
    y, _ = jax.jit(net.apply, static_argnames="train")(params, state, x, key=KEY, train=True)
    assert y.shape[-2:] == (2, 4)
    assert jnp.isfinite(y).all()
    if params["token"]["token"].ndim == 2:  # one per copy, all different
        assert len(np.unique(np.asarray(params["token"]["token"])[:, 0])) == 3
    rows = jn.summary(net, x).rows
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == rows[0].params


# Init


def test_init_runs_no_arithmetic_on_data():
    seen = []

    def forward(m, x):
        seen.append(x)
        return m(jn.dense(2), x)

    jn.compose(forward).init(KEY, jnp.ones((3, 4)))
    with pytest.raises(jax.errors.TracerArrayConversionError):
        np.asarray(seen[0])


def runs_of_nested(depth, wrap):
    """How often the forwards of a net in a net, and so on, run in `init`."""
    runs = []

    def nest(depth):
        def forward(m, x):
            runs.append(depth)
            return m(jn.dense(3), x if depth == 0 else m(wrap(nest(depth - 1)), x))

        return jn.compose(forward, name=f"level_{depth}")

    nest(depth).init(KEY, jn.spec((2, 3)))
    return len(runs)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6])
def test_init_runs_each_forward_once(depth):
    assert runs_of_nested(depth, lambda layer: layer) == depth + 1


def passed_on(layer, **names):
    """What a transform does: its init calls init, its apply calls apply."""
    return jn.transforms.transform(layer, lambda run, *given: run(*given), kind="wrap", **names)


@pytest.mark.slow
def test_init_of_nested_transforms_is_not_exponential():
    counts = [runs_of_nested(depth, passed_on) for depth in range(1, 7)]
    assert (np.diff(counts, 2) <= 2).all(), counts  # at most quadratic


@pytest.mark.slow
def test_init_in_float64(x64):
    net = jn.serial(jn.dense(4), jn.batch_norm(), jn.compose(token))
    params, state = net.init(KEY, jn.spec((2, 3), jnp.float64))
    assert {leaf.dtype for leaf in jax.tree.leaves((params, state))} == {jnp.dtype(jnp.float64)}


@pytest.mark.parametrize("x", [(32, 784), [1.0, 2.0], "image"], ids=repr)
def test_input_that_is_no_array_is_answered(x):
    with pytest.raises(TypeError, match=r"for a shape write jn.spec\(\(32, 784\)\)"):
        jn.serial(jn.dense(2)).init(KEY, x)


# Params and state that do not fit

BLOCK = jn.serial(jn.dense(4), jn.batch_norm(), name="block")
NET = jn.serial(jn.dense(4), BLOCK, jn.compose(token), name="net")


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(("change", "words"), [
    (lambda p, s: (p | {"extra": {}}, s),
     "net: unused entries: params/extra; layers here: dense, block, token"),
    (lambda p, s: ({"block": p["block"], "linear": p["dense"]}, s),
     "(?s)net/dense/kernel: expected.*entries given here: block, linear"),
    (lambda p, s: (p | {"dense": p["dense"] | {"bias": jnp.ones(1)}}, s),  # would broadcast
     r"net/dense/bias: expected \(4,\), got \(1,\)"),
    (lambda p, s: (p | {"token": p["token"] | {"token": jnp.ones(5)}}, s),
     r"net/token/token: expected \(4,\), got \(5,\)"),
    (lambda p, s: (p | {"token": {"dense": p["token"]["dense"]}}, s),
     r"net/token/token: expected \(4,\), got nothing"),
    (lambda p, s: (p, {}), "(?s)state does not fit .*batch_norm/mean: expected.*nothing"),
    (lambda p, s: (p, {"block": {"batch_norm": {"mean": jnp.ones(4), "var": jnp.ones(5)}}}),
     r"batch_norm/var: expected \(4,\), got \(5,\)"),
    (lambda p, s: ((p, s), {}), "params must be the dict that init returns, got tuple"),
])  # fmt: skip
def test_params_and_state_that_do_not_fit(change, words, jit):
    run = jax.jit(NET.apply) if jit else NET.apply
    with pytest.raises(TypeError if "tuple" in words else ValueError, match=words):
        run(*change(*NET.init(KEY, jn.spec((2, 3)))), jnp.ones((2, 3)))


@pytest.mark.parametrize(
    "after",
    [
        {},
        {"n": jnp.zeros(2)},
        {"n": jnp.zeros((), jnp.int32)},
    ],
    ids=["nothing", "shape", "dtype"],
)
def test_a_layer_that_does_not_keep_its_state_raises(after):

    def init(key, x):
        return {}, {"n": jnp.zeros(())}

    def apply(params, state, x, *, key=None, train=False):
        return (x, after)

    net = jn.serial(jn.Layer(init, apply, "lossy"))
    x = jnp.ones((2, 3))
    words = "lossy: apply must keep the entries, shapes and dtypes of the state; n: expected"
    words += r" \(\) float32, got"
    with pytest.raises(ValueError, match=words):
        net.init(KEY, x)
    with pytest.raises(ValueError, match=words):
        net.apply({}, {"lossy": {"n": jnp.zeros(())}}, x)


def test_apply_that_returns_no_state_is_answered():
    wrong = jn.Layer(lambda key, x: ({}, {}), lambda p, s, x, *, key=None, train=False: x, "wrong")
    with pytest.raises(TypeError, match=r"apply must return \(y, state\)"):
        jn.serial(wrong).init(KEY, jn.spec((2, 3)))


# Errors name the layer


def broken():
    def fail(x):
        raise RuntimeError("boom")

    def forward(m, x):
        return m(fail, x) if x.shape[0] == 2 else x

    inner = jn.serial(jnp.tanh, jn.compose(forward, name="block_3"), name="stage")
    return jn.serial(jn.dense(4), inner, name="resnet")


@pytest.mark.parametrize("how", ["eager", "jit", "grad", "vmap", "scan", "init"])
def test_errors_carry_path_and_input(how):
    net = broken()
    params, state = net.init(KEY, jn.spec((3, 5)))  # the batch of 3 does not fail

    def run(x):
        return net.apply(params, state, x)[0].sum()

    def scan(x):
        return jax.lax.scan(lambda c, x: (c, run(x)), 0, x[None])

    x = jnp.ones((2, 5))
    init = partial(net.init, KEY)

    def vmap(x):
        return jax.vmap(run)(x[None])

    runs = {
        "eager": run,
        "jit": jax.jit(run),
        "grad": jax.grad(run),
        "scan": scan,
        "vmap": vmap,
        "init": init,
    }
    with pytest.raises(RuntimeError, match="boom") as error:
        runs[how](x)
    assert "in resnet/stage/block_3/fail, input (2, 4) float32" in notes(error)
    assert notes(error).count("in resnet") == 1


def test_errors_through_a_transform_carry_the_whole_path():
    net = jn.serial(passed_on(broken(), name="wrapped"), name="model")
    with pytest.raises(RuntimeError) as error:
        net.apply(*net.init(KEY, jn.spec((3, 5))), jnp.ones((2, 5)))
    assert "in model/wrapped/stage/block_3/fail, input (2, 4) float32" in notes(error)


def test_a_transform_of_a_composed_layer_is_not_bypassed():
    """It keeps the init of the layer inside, by which it must not be taken for that layer."""
    inner = jn.serial(jnp.cos)

    def apply(params, state, x, *, key=None, train=False):
        y, state = inner.apply(params, state, x, key=key, train=train)
        return y + 5, state

    replaced = [layer.replace(apply=apply) for layer in (inner, jn.freeze(inner))]
    for layer in (jn.Layer(inner.init, apply, "t", "t"), *replaced):
        y, _ = jn.serial(layer).apply({}, {}, jnp.zeros((2, 3)))
        assert (y == 6).all()


def dropped(x):
    """A maker whose one argument may be anything."""
    return jn.flatten()


test_what_is_no_layer_is_answered = refuses([
    (lambda: jn.serial(dropped).init(KEY, jn.spec((2, 3))),
     r"got the function `dropped`, not a layer; did you forget to call it: dropped\(\)\?"),
    # Makers that take names only would raise for their number of arguments.
    (lambda: jn.serial(jn.dense(3), jn.flatten).init(KEY, jn.spec((2, 3))),
     "^got the function `flatten`, not a layer; did you forget"),
    (lambda: jn.residual(jn.max_pool).apply({}, {}, jnp.ones((2, 3))),
     "^got the function `max_pool`"),
    (lambda: jn.serial([jn.dense(2)]), "argument 0 must be a layer or a function, got list"),
    (lambda: jn.conv(8, 3, name=None), "conv: name must be a word without '/', got None"),
], TypeError)  # fmt: skip


# State written inside a forward function


def running(m, x):
    mean = m.state("mean", zeros, x.shape[1:])
    count = m.state("count", zeros, (), jnp.int32)
    if m.train:
        m.update("mean", mean + x.mean(0))
        m.update("count", count + 1)
    return x - mean


def test_state_is_declared_read_and_updated():
    net = jn.serial(jn.compose(running), jn.compose(running), name="net")
    params, state = net.init(KEY, jn.spec((2, 3)))
    assert params == {}
    assert set(state) == {"running", "running_1"}
    assert state["running"]["count"].dtype == jnp.int32
    x = jnp.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    y, after = net.apply(params, state, x, train=True)
    np.testing.assert_array_equal(y, x)  # the update is for the next call
    np.testing.assert_array_equal(after["running"]["mean"], [2, 2, 2])
    assert int(after["running_1"]["count"]) == 1
    y, same = net.apply(params, after, x)
    np.testing.assert_array_equal(y, x - 4)
    jax.tree.map(np.testing.assert_array_equal, same, after)
    with pytest.raises(ValueError, match=r"net/running/mean: expected \(3,\), got nothing"):
        net.apply(params, {"running_1": state["running_1"]}, x)


@refused([
    (lambda m, x: m.update("mean", x), r"m.update\('mean'\) needs an entry that m.state has decl"),
    (lambda m, x: (m.state("a", zeros, (3,)), m.update("a", x)), r"must keep the ent.*a: expected"),
    (lambda m, x: (m.param("a", zeros, (3,)), m.update("a", x[0])), "that m.state has declared"),
    (lambda m, x: (m(jn.dense(3, name="a"), x), m.state("a", zeros, ())), "the state 'a' has"),
])  # fmt: skip
def test_wrong_use_of_state_is_answered(forward):
    jn.compose(forward, name="net").init(KEY, jn.spec((2, 3)))


@pytest.mark.parametrize("jit", [False, True])
def test_an_update_in_a_loop_raises(jit):
    """JAX would say that a tracer leaked, or nothing where no one reads the state."""

    def own(m, x):
        total = m.state("total", zeros, x.shape[2:])

        def body(carry, x):
            m.update("total", total + x.sum(0))
            return carry, x

        return jax.lax.scan(body, 0, x)[1] if m.train else x

    def of_a_child(m, x):
        inner = jn.compose(running)
        m(inner, x[0])
        return jax.lax.scan(lambda c, x: (c, m(inner, x)), 0, x)[1] if m.train else x

    words_of_child = r"of_a_child/running: m\(running, x\)"
    for forward, words in (own, "own: m.update"), (of_a_child, words_of_child):
        net = jn.compose(forward)
        x = jnp.ones((5, 2, 3))
        params, state = net.init(KEY, x)
        run = jax.jit(net.apply, static_argnames="train") if jit else net.apply
        run(params, state, x)
        words += ".* inside a function that JAX traces.*m.scan"
        with pytest.raises(ValueError, match=words):
            run(params, state, x, train=True)


def test_a_state_that_does_not_change_may_be_read_in_a_loop():
    """As that of batch norm in evaluation."""
    inner = jn.batch_norm()
    whole = jn.compose(lambda m, x: m(inner, x))
    looped = jn.compose(lambda m, x: jax.lax.scan(lambda c, x: (c, m(inner, x)), 0, x)[1])
    x = jnp.arange(24.0).reshape(4, 2, 3)
    params, state = whole.init(KEY, x)
    state = jax.tree.map(lambda leaf: leaf + 1, state)
    expected, _ = whole.apply(params, state, x)
    y, after = jax.jit(looped.apply)(params, state, x)
    np.testing.assert_allclose(y, expected, 1e-6)
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_updates_inside_transforms_come_back():
    """Each transform hands the state of its inner layer on."""
    x = jnp.ones((2, 3))
    for wrap in (
        lambda f: jn.repeat(f, 2),
        jn.remat,
        lambda f: jn.cast(f, jnp.bfloat16),
        lambda f: jn.ensemble(f, 2),
    ):
        net = wrap(jn.compose(running))
        params, state = net.init(KEY, x)

        def step(state, x, net=net, params=params):
            return net.apply(params, state, x, key=KEY, train=True)[1], 0

        after, _ = jax.lax.scan(step, state, jnp.stack([x, x, x]))
        assert (np.asarray(after["count"]) == 3).all()


DROP = jn.dropout(0.5)
ROWS = np.ones((3, 4, 8), np.float32)


def keys_of(m):
    return m.keys("rows", 3)


INNER = jn.serial(jn.dense(8), DROP)


def noise(params, state, x, *, key=None, train=False):
    return (x + jax.random.normal(key, x.shape) if train else x), state


NOISE = jn.Layer(lambda key, x: ({}, {}), noise, "noise")
SHARED = {  # functions that JAX traces, of which some are loops
    "vmap": lambda m, x: jax.vmap(lambda r: m(DROP, r))(x),
    "vmap of a net": lambda m, x: jax.vmap(lambda r: m(INNER, r))(x),
    "vmap of remat": lambda m, x: jax.vmap(lambda r: m(jn.remat(DROP), r))(x),
    "vmap of repeat": lambda m, x: jax.vmap(lambda r: m(jn.repeat(INNER, 2), r))(x),
    "vmap in a child": lambda m, x: m(jn.compose(SHARED["vmap"], name="child"), x),
    "compiled vmap": lambda m, x: jax.jit(jax.vmap(lambda r: m(DROP, r)))(x),
    "scan": lambda m, x: jax.lax.scan(lambda c, r: (c, m(DROP, r)), 0, x)[1],
    "map": lambda m, x: jax.lax.map(lambda r: m(DROP, r), x),
    "fori_loop": lambda m, x: jax.lax.fori_loop(0, 3, lambda i, c: m(DROP, c), x),
    "vmap of a pair": lambda m, x: jax.vmap(lambda r: m(NOISE, r))(x),
    "key in vmap": lambda m, x: jax.vmap(lambda r: r + jax.random.normal(m.key("a"), (4, 8)))(x),
    "key in scan": lambda m, x: jax.lax.scan(
        lambda c, r: (c, r + jax.random.normal(m.key("a"), (4, 8))), 0, x
    )[1],
    "jit": lambda m, x: jax.jit(lambda r: m(DROP, r))(x),
    "checkpoint": lambda m, x: jax.checkpoint(lambda r: m(DROP, r))(x),
    "grad": lambda m, x: jax.grad(lambda r: m(DROP, r).sum())(x),
    "jacfwd": lambda m, x: jax.jacfwd(lambda r: m(DROP, r).sum())(x),
    "cond": lambda m, x: jax.lax.cond(True, lambda r: m(DROP, r), lambda r: r, x),
}
OWN = {  # no loop, or a key for each turn
    "mapped": lambda m, x: m(jn.transforms.mapped(INNER, 0), x),
    "repeat": lambda m, x: m(jn.repeat(INNER, 3), x),
    "ensemble": lambda m, x: m(jn.ensemble(INNER, 3), x),
    "time_distributed": lambda m, x: m(jn.layers.time_distributed(DROP), x),
    "a key per row": lambda m, x: jax.vmap(
        lambda r, k: DROP.apply({}, {}, r, key=k, train=True)[0]
    )(x, jax.random.split(m.key("k"), 3)),
    "key= in vmap": lambda m, x: jax.vmap(lambda r, k: m(INNER, r, key=k))(x, keys_of(m)),
    "key= in scan": lambda m, x: jax.lax.scan(
        lambda c, each: (c, m(jn.remat(INNER), each[0], key=each[1])), 0, (x, keys_of(m))
    )[1],
    "key= in grad": lambda m, x: jax.grad(lambda r, k: m(DROP, r, key=k).sum())(x, m.keys("k")),
}


@pytest.mark.parametrize("name", SHARED)
def test_one_key_for_all_turns_of_a_loop_is_an_error(name):
    net = jn.compose(SHARED[name], name="net")
    params, state = net.init(KEY, ROWS)
    words = r"^net.*: draws random numbers inside .*(key=key\)|m.key)"
    with pytest.raises(ValueError, match=words):
        net.apply(params, state, ROWS, key=KEY, train=True)
    if "key" not in name:  # in evaluation nothing is drawn
        net.apply(params, state, ROWS)


@pytest.mark.parametrize("name", OWN)
def test_keys_that_differ_or_are_used_once_are_fine(name):
    net = jn.compose(OWN[name], name="net")
    params, state = jit_init(net, KEY, ROWS)
    y, _ = jit_apply(net, params, state, ROWS, key=KEY, train=True)
    assert not np.array_equal(y[0], y[1])
    if name.startswith("key="):  # in evaluation there is none
        net.apply(params, state, ROWS)


def test_a_key_given_is_that_of_apply():
    net = jn.compose(lambda m, x: m(INNER, x, key=m.key("k")), name="net")
    params, state = net.init(KEY, ROWS)
    y, _ = net.apply(params, state, ROWS, key=KEY, train=True)
    key = jn.child_key(KEY, "key/k")
    same, _ = INNER.apply(params["serial"], {}, ROWS, key=key, train=True)
    np.testing.assert_array_equal(y, same)


def test_a_transform_without_a_turn_in_a_loop_is_answered():
    def apply(run, params, state, x):
        return jax.vmap(lambda r: run(params, state, r)[0])(x), state

    net = jn.transforms.transform(DROP, apply, kind="rows")
    with pytest.raises(ValueError, match=r"run\(params, state, x\) in dropout write .*turn=i"):
        net.apply({}, {}, ROWS, key=KEY, train=True)


@pytest.mark.parametrize(
    ("name", "words"), [("params", "Params belong to the caller"), ("wohle", "m.whole")]
)
def test_what_m_has(name, words):
    net = jn.compose(lambda m, x: getattr(m, name), name="net")
    with pytest.raises(AttributeError, match=words) as error:
        net.init(KEY, ROWS)
    assert "m.stream" in str(error.value)


CELL = jn.serial(jn.dense(8), jn.batch_norm(), jn.dropout(0.5), name="cell")


def looped(m, x):
    def body(m, carry, bias):
        carry = m(CELL, carry) + bias + m(jn.dense(8, name="inner"), x)
        m.sow("mean", carry.mean())
        return carry, m(jn.dropout(0.5, name="mask"), jnp.ones(50))

    return m.scan(body, x, jnp.arange(3.0))


def unrolled(m, x):
    """The same turns by hand, without what is drawn."""
    inner, ys = jn.dense(8, name="inner"), []
    carry = x
    for bias in range(3):
        carry = m(CELL, carry) + bias + m(inner, x)
        ys.append(jnp.ones(50))
    return carry, jnp.stack(ys)


def test_turns_share_params_and_hand_on_the_state():
    net, same, x = jn.compose(looped), jn.compose(unrolled), jnp.arange(32.0).reshape(4, 8) / 9
    params, state = net.init(KEY, x)
    jax.tree.map(np.testing.assert_array_equal, (params, state), same.init(KEY, x))
    for way in (net, jn.remat(net), jn.serial(net)):
        params, state = way.init(KEY, x)
        pair, _ = way.apply(params, state, x)
        given = params.get("looped", params), state.get("looped", state)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), pair, same.apply(*given, x)[0])


def test_each_turn_draws_its_own_numbers_and_changes_the_state():
    net, x = jn.compose(looped), jnp.sin(jnp.arange(32.0)).reshape(4, 8)
    params, state = net.init(KEY, x)
    for way in (net, jn.remat(net), jn.cast(net, jnp.bfloat16), jn.lora(net, 2, where="*/kernel")):
        params, state = way.init(KEY, x)
        (_, masks), after = jit_apply(way, params, state, x, key=KEY, train=True)
        assert len(np.unique(np.asarray(masks), axis=0)) == 3
        once = way.apply(params, after, x, key=KEY, train=True)[1]  # a second step goes on
        for path, leaf in flat(after):
            assert not np.array_equal(leaf, dict(flat(state))[path]), path
            assert not np.array_equal(leaf, dict(flat(once))[path]), path
    members = jn.ensemble(net, 2)
    (_, masks), _ = members.apply(*members.init(KEY, x), x, key=KEY, train=True)
    assert len(np.unique(np.asarray(masks).reshape(6, 50), axis=0)) == 6
    keys = jax.random.split(KEY, 2)
    params, state = net.init(KEY, x)
    rows = jax.vmap(lambda k: net.apply(params, state, x, key=k, train=True)[0][1])(keys)
    assert len(np.unique(np.asarray(rows).reshape(6, 50), axis=0)) == 6


def test_what_turns_sow_is_stacked():
    net, x = jn.collect(jn.compose(looped)), jnp.ones((4, 8))
    (_, sown), _ = jit_apply(net, *net.init(KEY, x), x, key=KEY, train=True)
    assert jax.tree.map(jnp.shape, sown) == {"mean": (3,)}


def test_gradients_through_turns_are_those_of_a_loop():
    drop = jn.serial(jn.dense(8), jnp.tanh, jn.dropout(0.5), name="cell")
    net = jn.compose(lambda m, x: m.scan(lambda m, c, _: (m(drop, c), None), x, length=3)[0])
    x = jnp.sin(jnp.arange(32.0)).reshape(4, 8)
    params, state = net.init(KEY, x)

    def by_hand(params, x):
        key = jn.child_key(KEY, "scan/")
        for i in range(3):
            turn = jn.child_key(jax.random.fold_in(key, i), "cell")
            x, _ = drop.apply(params["cell"], {}, x, key=turn, train=True)
        return x.sum()

    def loss(params, x):
        return net.apply(params, state, x, key=KEY, train=True)[0].sum()

    found, expected = (jax.grad(f)(params, x) for f in (loss, by_hand))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected)


def test_a_layer_made_in_the_body_is_one_layer():
    """Though JAX traces the body twice, since the first carry has a weak type."""

    def turn(m, c, x):
        return m(jn.dense(1), jnp.ones((4, 8))).sum() * c, 0

    net = jn.compose(lambda m, x: m.scan(turn, 1.0, length=2))
    params, state = net.init(KEY, jnp.ones((4, 8)))
    assert sorted(params) == ["dense"]
    net.apply(params, state, jnp.ones((4, 8)))


@pytest.mark.parametrize(("forward", "words"), [
    (lambda m, x: m.scan(lambda m, c, x: (c, x), x), "needs xs or length="),
    (lambda m, x: m.scan(None, x, length=2), r"a function of \(m, carry, x\)"),
    (lambda m, x: m.scan(lambda m, c, x: c, x, length=2), r"must return \(carry, y\)"),
    (lambda m, x: m.scan(lambda m, c, x: (c, x), x, x, 3), r"one number of turns, got \[3, 4\]"),
    (lambda m, x: m.scan(lambda m, c, x: (c[0], x), x, x), r"a carry like .* \(4, 8\).*\(8,\)"),
])  # fmt: skip
def test_a_wrong_loop_is_answered(forward, words):
    with pytest.raises((TypeError, ValueError), match=words):
        jn.compose(forward, name="net").init(KEY, jnp.ones((4, 8)))


def test_a_loop_in_a_stream_is_answered():
    def turn(m, c, x):
        return c + x, c

    over_time = jn.compose(lambda m, x: m.scan(turn, 0 * x[:, 0], x.swapaxes(0, 1))[0])
    attention = jn.multi_head_attention(2, causal=True)
    deep = jn.compose(lambda m, x: m.scan(lambda m, c, _: (m(attention, c), 0), x, length=2)[0])
    x = jnp.ones((2, 5, 8))
    for net, words in ((over_time, "write jn.recurrent"), (deep, "Write jn.repeat")):
        stream = jn.stream(net, length=5)
        with pytest.raises(ValueError, match=words):
            stream.apply(*stream.init(KEY, x), x)

    def twice(m, c, _):
        return m(jn.dense(8), c), 0

    steps = jn.stream(jn.compose(lambda m, x: m.scan(twice, x, length=2)[0]))
    steps.apply(*steps.init(KEY, x), x)


def with_head(name="head", before=False):
    def forward(m, x):
        y = 0.0
        if m.train and before:
            y = m(jn.dense(3, name=name), x)
        y += m(jn.dense(3), x)
        if m.train and not before:
            y += m(jn.serial(jn.dense(3), jn.batch_norm(), jn.dropout(0.5), name=name), x)
        return y

    return jn.compose(forward, name="net")


@pytest.mark.parametrize("around", [
    lambda net: net, jn.remat, lambda net: jn.repeat(net, 2), lambda n: jn.serial(n, name="net"),
])  # fmt: skip
def test_a_head_for_training_alone(around):
    x = jnp.ones((4, 3))
    net = around(with_head())
    params, state = net.init(KEY, x)
    inner = params.get("net", params)
    assert sorted(inner) == ["dense", "head"]
    y, after = net.apply(params, state, x)
    jax.tree.map(np.testing.assert_array_equal, after, state)
    _, after = jit_apply(net, params, state, x, key=KEY, train=True)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (state, after)), strict=True))
    bare = jax.tree.map(lambda a: a, params)
    bare.get("net", bare).pop("head")
    if around(jn.dense(3)).kind == "dense":
        np.testing.assert_array_equal(net.apply(bare, {}, x)[0], y)  # as after training
    with pytest.raises(jn.Misfit, match="head"):
        net.apply(bare, state, x, key=KEY, train=True)


def test_a_head_without_a_name_is_answered():
    """It would take the name of the layer after it."""
    for before in (True, False):
        with pytest.raises(ValueError, match=r"net: 'dense_1' is in one of .* name='head'\)"):
            with_head("dense", before).init(KEY, jnp.ones((4, 3)))


def test_entries_that_belong_to_no_mode_are_still_answered():
    net, x = with_head(), jnp.ones((4, 3))
    params, state = net.init(KEY, x)
    with pytest.raises(ValueError, match="unused entries: params/other"):
        net.apply(params | {"other": {"w": jnp.ones(1)}}, state, x)


@pytest.mark.parametrize("forward", [
    lambda m, x: m(jn.batch_norm(), m(jn.dense(3), x)) if m.train else m(jn.dense(3), x),
    lambda m, x: m(jn.dense(3), x[0] if m.train else x),
    lambda m, x: m(jn.dense(3 if m.train else 4), x),
])  # fmt: skip
def test_a_forward_that_cannot_train_is_drawn_for_evaluation(forward):
    net, x = jn.compose(forward), jnp.ones(3)[None]
    params, state = net.init(KEY, x)
    assert sorted(params) == ["dense"] and net.apply(params, state, x)[0].shape[0] == 1


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (DROP, "write it with the m that the body of m.scan gets"),
        (jn.batch_norm(), "by another m than the body of m.scan gets"),
    ],
)
def test_the_m_of_the_loop_is_not_that_of_a_turn(layer, words):
    net = jn.compose(lambda m, x: m.scan(lambda _, c, x: (m(layer, c), x), x, length=2)[0])
    x = jnp.ones((4, 8))
    params, state = net.init(KEY, x)
    with pytest.raises(ValueError, match=words):
        net.apply(params, state, x, key=KEY, train=True)
