"""What JAX offers around a net: callbacks, export, tracing, sharding, policies, files, loaders."""

from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import close, draw
from tests.programs.common import agree, dense, mlp

KEYS_MAY_REPEAT = True  # both programs draw with one key
KEY = jax.random.key(22)
NET = jn.serial(jn.dense(5), jnp.tanh, jn.dense(2))
X = jnp.asarray(draw(4, 3), jnp.float32)
PARAMS, STATE = NET.init(KEY, X)


def net(params, x):
    return NET.apply(params, STATE, x)[0]


def test_a_function_of_numpy_inside_the_model():
    """It is called back from the compiled program, and its derivative is written by hand."""

    @jax.custom_vjp
    def sinc(x):
        return jax.pure_callback(lambda x: np.sinc(np.asarray(x)), x, x, vmap_method="sequential")

    def slope(x):
        return jax.vmap(jax.vmap(jax.grad(jnp.sinc)))(x)

    sinc.defvjp(lambda x: (sinc(x), x), lambda x, g: (g * slope(x),))
    model = jn.serial(jn.dense(5), sinc, jn.dense(2))
    agree(lambda p: model.apply(p, {}, X)[0], lambda p: mlp(p, X, jnp.sinc), PARAMS)


def test_values_are_reported_from_inside():
    seen = []

    def forward(m, x):
        y = m(NET, x)
        jax.debug.callback(lambda size: seen.append(float(size)), jnp.abs(y).max())
        return y

    model = jn.compose(forward)
    params, state = model.init(KEY, X)
    jax.jit(model.apply)(params, state, X)
    jax.effects_barrier()
    close(seen[-1], jnp.abs(mlp(params["serial"], X)).max(), 1e-6)


def test_a_compiled_net_goes_to_a_file_and_back():
    """Of any batch size, by `jax.export`, without our library on the way back."""
    pytest.importorskip("flatbuffers")
    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(jax.jit(net))(PARAMS, jax.ShapeDtypeStruct((batch, 3), X.dtype))
    again = jax.export.deserialize(exported.serialize())
    for x in (X, X[:2]):
        close(again.call(PARAMS, x), mlp(PARAMS, x), 1e-5)


def test_shapes_are_known_without_computing():
    big = jn.serial(jn.dense(10**6), jax.nn.relu, jn.dense(10**5))
    params, state = jax.eval_shape(big.init, KEY, jn.spec((8, 10**6)))
    y, _ = jax.eval_shape(big.apply, params, state, jn.spec((8, 10**6)))
    assert y.shape == (8, 10**5)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) > 10**12


def test_a_net_is_compiled_ahead_of_time():
    run = jax.jit(net).lower(PARAMS, X).compile()
    close(run(PARAMS, X), mlp(PARAMS, X), 1e-5)
    assert run.cost_analysis()["flops"] > 0


def test_a_net_is_linear_in_a_direction():
    y, push = jax.linearize(lambda x: net(PARAMS, x), X)
    pull = jax.linear_transpose(push, X)
    cotangent = jnp.ones_like(y)
    wanted = jax.grad(lambda x: mlp(PARAMS, x).sum())(X)
    close(pull(cotangent)[0], wanted, 1e-5)
    close(jnp.vdot(push(X), cotangent), jnp.vdot(X, wanted), 1e-5)


def test_a_net_is_an_argument_that_does_not_change():
    """Static by its place, so another net compiles another program."""

    @partial(jax.jit, static_argnums=0)
    def run(layer, params, x):
        return layer.apply(params, {}, x)[0]

    close(run(NET, PARAMS, X), mlp(PARAMS, X), 1e-5)
    squared = jn.serial(jn.dense(5), jnp.square, jn.dense(2))
    close(run(squared, PARAMS, X), mlp(PARAMS, X, jnp.square), 1e-5)


def test_nets_in_closures_made_by_a_function():
    def block(width, activation):
        inner, outer = jn.dense(width), jn.dense(3)
        return jn.compose(lambda m, x: x + m(outer, activation(m(inner, x))), name="block")

    blocks = [block(4, jnp.tanh), block(6, jax.nn.silu)]
    model = jn.serial(*blocks)
    params, state = model.init(KEY, X)

    def by_hand(params):
        x = X + mlp(params["block"], X)
        return x + mlp(params["block_1"], x, jax.nn.silu)

    agree(lambda params: model.apply(params, state, X)[0], by_hand, params)


@pytest.mark.parametrize(
    "policy", ["dots_saveable", "nothing_saveable", "dots_with_no_batch_dims_saveable"]
)
@pytest.mark.fast_cases("dots_saveable")
def test_a_policy_of_checkpoints(policy):
    """By `jax.checkpoint` around `apply`, and by `jn.remat` inside a model."""
    chosen = getattr(jax.checkpoint_policies, policy)
    model = jn.serial(jn.remat(NET, policy=chosen), jn.dense(2))
    params, state = model.init(KEY, X)

    def ours(params):
        kept = jax.checkpoint(net, policy=chosen)
        return model.apply(params, state, X)[0], kept(params["serial"], X)

    def by_hand(params):
        y = mlp(params["serial"], X)
        return dense(params["dense"], y), y

    agree(ours, by_hand, params)


def test_buffers_are_given_away():
    @partial(jax.jit, donate_argnums=0)
    def step(params, x):
        return jax.tree.map(
            lambda p, g: p - 0.1 * g, params, jax.grad(lambda p: net(p, x).sum())(params)
        )

    wanted = jax.tree.map(
        lambda p, g: p - 0.1 * g, PARAMS, jax.grad(lambda p: mlp(p, X).sum())(PARAMS)
    )
    given = jax.tree.map(jnp.copy, PARAMS)
    close(step(given, X), wanted, 1e-5)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))


def test_many_rows_in_batches_by_map():
    found = jax.jit(lambda: jax.lax.map(lambda x: net(PARAMS, x[None])[0], X, batch_size=3))()
    close(found, mlp(PARAMS, X), 1e-5)


@pytest.mark.slow
def test_a_function_with_its_own_derivative_forwards():
    @jax.custom_jvp
    def log1pexp(x):
        return jnp.logaddexp(x, 0.0)

    @log1pexp.defjvp
    def _(primals, tangents):
        return log1pexp(*primals), jax.nn.sigmoid(primals[0]) * tangents[0]

    model = jn.serial(jn.dense(5), log1pexp, jn.dense(2))
    slopes = jax.jacfwd(lambda p: model.apply(p, {}, 50 * X)[0].sum())(PARAMS)
    wanted = jax.jacrev(lambda p: mlp(p, 50 * X, jax.nn.softplus).sum())(PARAMS)
    close(slopes, wanted, 1e-4)


def test_arrays_and_params_have_places_on_a_mesh():
    """`jit` with `NamedSharding`s, on the devices that there are."""
    mesh = jax.make_mesh((len(jax.devices()),), ("data",), (jax.sharding.AxisType.Auto,))
    rows, whole = (jax.NamedSharding(mesh, spec) for spec in (jax.P("data"), jax.P()))
    run = jax.jit(net, in_shardings=(whole, rows), out_shardings=rows)
    x, params = jax.device_put(X, rows), jax.device_put(PARAMS, whole)
    y = run(params, x)
    close(y, mlp(PARAMS, X), 1e-5)
    assert y.sharding.spec == jax.P("data")


def test_the_text_of_a_program_names_layers():
    text = jax.jit(net).lower(PARAMS, X).as_text(debug_info=True)
    assert "serial/dense" in text and "serial/dense_1" in text


def test_params_go_through_orbax(tmp_path):
    orbax = pytest.importorskip("orbax.checkpoint")
    optimizer = optax.adam(1e-2)
    tree = {"params": PARAMS, "opt_state": optimizer.init(PARAMS), "step": jnp.int32(3)}
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", tree)
        checkpointer.wait_until_finished()
        shapes = jax.tree.map(orbax.utils.to_shape_dtype_struct, tree)
        found = checkpointer.restore(tmp_path / "run", shapes)
    jax.tree.map(np.testing.assert_array_equal, found, tree)
    close(net(found["params"], X), mlp(PARAMS, X), 1e-5)


def test_batches_come_from_a_loader_of_grain():
    grain = pytest.importorskip("grain")
    images = draw(20, 3).astype(np.float32)
    source = [{"image": x, "label": x[:2] ** 2} for x in images]
    batches = grain.MapDataset.source(source).shuffle(seed=3).batch(4)
    optimizer = optax.sgd(0.1)

    def trained(f):
        @jax.jit
        def step(params, batch):
            slopes = jax.grad(lambda p: jnp.mean((f(p, batch["image"]) - batch["label"]) ** 2))
            updates, _ = optimizer.update(slopes(params), optimizer.init(params))
            return optax.apply_updates(params, updates)

        params = PARAMS
        for batch in batches:
            params = step(params, batch)
        return params

    close(trained(net), trained(mlp), 1e-5)


def test_a_net_that_is_ill_is_found_by_debug_nans():
    model = jn.serial(jn.dense(5), jnp.log, jn.dense(2))
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        model.apply(PARAMS, {}, -jnp.ones((4, 3)))[0].block_until_ready()
