"""Laws that every layer of the catalogue keeps. They do not replace values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import layers
from tests.catalogue import ROWS, Row, fill

KEYS_MAY_REPEAT = True  # most laws compare two uses of one key
KEY = jax.random.key(3)
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module", params=ROWS, ids=[row.id for row in ROWS])
def row(request) -> Row:
    """Of module scope, so that pytest runs all laws of a row together, on what it compiled."""
    return request.param


def modes(row: Row) -> list[bool]:
    """Training, and evaluation where it differs."""
    return [True] if row.train == "same" else [False, True]


def close(a, b, tolerance=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance), a, b)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def floats(tree):
    """The leaves that have gradients, as a function of which the rest is closed over."""
    leaves, structure = jax.tree.flatten(tree)
    places = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def rebuild(values):
        whole = list(leaves)
        for i, value in zip(places, values, strict=True):
            whole[i] = value
        return jax.tree.unflatten(structure, whole)

    return [leaves[i] for i in places], rebuild


def test_catalogue_is_complete():
    public = {name for name in vars(layers) if callable(getattr(layers, name))}
    public |= {"stateless", "compose", "serial", "parallel", "residual"}
    missing = public - {row.id.split("-")[0] for row in ROWS}
    assert not missing, f"no row in tests/catalogue.py for {sorted(missing)}"


def test_ids_are_unique():
    ids = [row.id for row in ROWS]
    assert len(ids) == len(set(ids))


def test_init_looks_at_shapes_only(row: Row):
    layer, x = row.make(), fill(row)
    drawn = layer.init(KEY, row.x)
    close(drawn, layer.init(KEY, x), 0)
    numbers, rebuild = floats(x)
    nan = rebuild([jnp.asarray(np.full(a.shape, np.nan), a.dtype) for a in numbers])
    close(drawn, layer.init(KEY, nan), 0)
    assert shapes(jax.eval_shape(layer.init, KEY, x)) == shapes(drawn)


def test_init_is_a_function_of_the_key(row: Row):
    drawn = row.make().init(KEY, row.x)
    close(drawn, row.make().init(KEY, row.x), 0)


def test_init_runs_compiled_and_for_many_keys(row: Row):
    layer, keys = row.make(), jax.random.split(KEY, 2)
    many = jax.device_get(jax.jit(jax.vmap(lambda key: layer.init(key, row.x)))(keys))
    for i in range(2):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], many), layer.init(keys[i], row.x), 1e-6)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_state_keeps_its_structure(row: Row, train: bool):
    layer, x = row.make(), fill(row)
    params, state = layer.init(KEY, x)
    _, after = layer.apply(params, state, x, key=KEY, train=train)
    assert shapes(after) == shapes(state)
    if row.train != "differs" and not train:
        close(after, state, 0)


def test_jit_is_eager(row: Row):
    layer, x = row.make(), fill(row)
    params, state = layer.init(KEY, x)
    for train in modes(row):

        def run(params, state, x, train=train):
            return layer.apply(params, state, x, key=KEY, train=train)

        eager, compiled = run(params, state, x), jax.jit(run)(params, state, x)
        close(eager, compiled)
        assert shapes(eager) == shapes(compiled)


def test_training_differs_only_where_it_should(row: Row):
    layer, x = row.make(), fill(row)
    params, state = layer.init(KEY, x)
    still, _ = layer.apply(params, state, x)
    if row.train == "random":
        with pytest.raises(ValueError, match="key"):
            layer.apply(params, state, x, train=True)
    a, _ = layer.apply(params, state, x, key=KEY, train=True)
    b, _ = layer.apply(params, state, x, key=jax.random.key(4), train=True)

    def same(a, b):
        return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))

    assert same(a, still) == (row.train == "same")
    assert same(a, b) == (row.train != "random")


def test_gradients_are_right_in_float64(row: Row):
    """The slope of a weighted sum of the outputs along a line: by the chain rule, by differences.

    One compiled program gives all of it, where `jax.test_util.check_grads` takes three.
    """
    if not row.smooth:
        pytest.skip("no gradient is claimed")
    with jax.enable_x64(True):
        layer, x = row.make(), fill(row, jnp.float64)
        params, state = layer.init(KEY, x)
        values, rebuild = floats((params, x))
        assert all(leaf.dtype == jnp.float64 for leaf in values), "float64 is not kept"
        rng = np.random.default_rng(5)
        line = [rng.normal(size=leaf.shape) for leaf in values]
        for train in modes(row):

            def weighted(values, train=train):
                params, x = rebuild(values)
                y, _ = layer.apply(params, state, x, key=KEY, train=train)
                y = floats(y)[0]
                assert all(leaf.dtype == jnp.float64 for leaf in y), "float64 is not kept"
                rng = np.random.default_rng(6)
                return sum(jnp.vdot(rng.normal(size=leaf.shape), leaf) for leaf in y)

            def along(step, run=jax.jit(jax.value_and_grad(weighted))):
                value, gradients = run([a + step * b for a, b in zip(values, line, strict=True)])
                return value, sum(map(np.vdot, gradients, line))

            eps = 1e-5
            by_differences = (along(eps)[0] - along(-eps)[0]) / (2 * eps)
            np.testing.assert_allclose(along(0)[1], by_differences, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_dtype_is_kept(row: Row, dtype):
    layer, x = row.make(), fill(row, dtype)
    params, state = layer.init(KEY, x)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    @jax.jit
    def run(params, state, x):
        return layer.apply(params, state, x, key=KEY, train=True)

    y, after = run.lower(params, state, x).out_info  # test_jit_is_eager says that eager is the same
    kept = [leaf.dtype for leaf in jax.tree.leaves(y) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if jax.tree.leaves((params, floats(x)[0])):
        assert set(kept) <= {jnp.dtype(dtype)}
    assert shapes(after) == shapes(state)


def test_examples_do_not_touch_each_other_in_evaluation(row: Row):
    if not row.rows:
        pytest.skip("the examples of a batch are not independent by design")
    layer, x = row.make(), fill(row)
    params, state = layer.init(KEY, x)
    y, _ = layer.apply(params, state, x)
    first = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[:1]), x)
    alone, _ = jax.jit(lambda x: layer.apply(params, state, x))(first)
    close(jax.tree.map(lambda leaf: leaf[:1], jax.device_get(y)), alone)


def test_unknown_params_raise(row: Row):
    layer, x = row.make(), fill(row)
    params, state = layer.init(KEY, x)
    with pytest.raises(ValueError, match="surplus"):
        layer.apply(params | {"surplus": jnp.zeros(2)}, state, x)


def test_missing_params_raise(row: Row):
    layer, x = row.make(), fill(row)
    params, state = layer.init(KEY, x)
    if not params:
        pytest.skip("has no params")
    with pytest.raises(ValueError, match=f"{layer.name}/.*is missing"):
        layer.apply({}, state, x)


def test_public_layers_take_a_name():
    import inspect

    for name in vars(layers):
        if callable(function := getattr(layers, name)):
            assert "name" in inspect.signature(function).parameters, name


def test_the_laws_see_a_broken_layer():
    """A law that cannot fail is none: a layer that breaks several is caught."""
    state = {"n": jnp.zeros(())}
    broken = jn.Layer(
        lambda key, x: ({}, state), lambda p, s, x, *, key=None, train=False: (x, {}), "broken"
    )
    with pytest.raises(AssertionError):
        test_state_keeps_its_structure(Row("broken", lambda: broken, jn.spec((2, 3))), True)
