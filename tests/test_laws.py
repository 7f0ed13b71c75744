"""Laws that every layer of the catalogue keeps. They do not replace values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxnet as jn
from jaxnet import layers
from tests.catalogue import ROWS, Row, fill

KEYS_MAY_REPEAT = True  # most laws compare two uses of one key
KEY = jax.random.key(3)
each = pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    """The laws take their time compiling tiny programs: without most optimizations a third less."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # other tests may compare with what they compile themselves, bit by bit


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


@each
def test_init_looks_at_shapes_only(row: Row):
    layer, x = row.make(), fill(row)
    drawn = layer.init(KEY, row.x)
    close(drawn, layer.init(KEY, x), 0)
    nan = jax.tree.map(lambda a: a * jnp.nan if jnp.issubdtype(a.dtype, jnp.floating) else a, x)
    close(drawn, layer.init(KEY, nan), 0)
    assert shapes(jax.eval_shape(layer.init, KEY, x)) == shapes(drawn)


@each
def test_init_is_a_function_of_the_key(row: Row):
    drawn = row.make().init(KEY, row.x)
    close(drawn, row.make().init(KEY, row.x), 0)
    close(drawn, jax.jit(lambda key: row.make().init(key, row.x))(KEY), 1e-6)


@each
def test_init_vmaps_over_keys(row: Row):
    layer, keys = row.make(), jax.random.split(KEY, 2)
    many = jax.vmap(lambda key: layer.init(key, row.x))(keys)
    for i in range(2):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], many), layer.init(keys[i], row.x), 1e-6)


@each
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_state_keeps_its_structure(row: Row, train: bool):
    layer, x = row.make(), fill(row)
    params, state = layer.init(KEY, x)
    _, after = layer.apply(params, state, x, key=KEY, train=train)
    assert shapes(after) == shapes(state)
    if row.train != "differs" and not train:
        close(after, state, 0)


@each
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_jit_is_eager(row: Row, train: bool):
    layer, x = row.make(), fill(row)
    params, state = layer.init(KEY, x)

    def run(params, state, x):
        return layer.apply(params, state, x, key=KEY, train=train)

    close(run(params, state, x), jax.jit(run)(params, state, x))


@each
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


@each
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_gradients_are_right_in_float64(row: Row, train: bool):
    if not row.smooth:
        pytest.skip("no gradient is claimed")
    with jax.enable_x64(True):
        layer, x = row.make(), fill(row, jnp.float64)
        params, state = layer.init(KEY, x)
        values, rebuild = floats((params, x))

        @jax.jit
        def run(values):
            params, x = rebuild(values)
            y, _ = layer.apply(params, state, x, key=KEY, train=train)
            return [leaf for leaf in jax.tree.leaves(y) if jnp.issubdtype(leaf.dtype, jnp.floating)]

        assert all(leaf.dtype == jnp.float64 for leaf in run(values)), "float64 is not kept"
        check_grads(run, (values,), order=1, modes=["rev"], atol=1e-6, rtol=1e-5, eps=1e-5)


@each
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_dtype_is_kept(row: Row, dtype):
    layer, x = row.make(), fill(row, dtype)
    params, state = layer.init(KEY, x)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    y, after = layer.apply(params, state, x, key=KEY, train=True)
    kept = [leaf.dtype for leaf in jax.tree.leaves(y) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if jax.tree.leaves((params, floats(x)[0])):
        assert set(kept) <= {jnp.dtype(dtype)}
    assert shapes(after) == shapes(state)


@each
def test_examples_do_not_touch_each_other_in_evaluation(row: Row):
    if not row.rows:
        pytest.skip("the examples of a batch are not independent by design")
    layer, x = row.make(), fill(row)
    params, state = layer.init(KEY, x)
    y, _ = layer.apply(params, state, x)
    first, _ = layer.apply(params, state, jax.tree.map(lambda leaf: leaf[:1], x))
    close(jax.tree.map(lambda leaf: leaf[:1], y), first)


@each
def test_unknown_params_raise(row: Row):
    layer, x = row.make(), fill(row)
    params, state = layer.init(KEY, x)
    with pytest.raises(ValueError, match="surplus"):
        layer.apply(params | {"surplus": jnp.zeros(2)}, state, x)


@each
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
