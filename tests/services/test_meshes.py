"""Layers on meshes with Explicit axes; `tests/test_laws.py` traces the types of every layer."""

import pytest

ROWS = """
from tests.catalogue import ROWS, fill

mesh, key = jax.make_mesh((8,), ("data",)), jax.random.key(3)
put = jn.distributed.put

def close(a, b, what):
    for a, b in zip(*map(jax.tree.leaves, jax.device_get((a, b))), strict=True):
        if a.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(a, b, 1e-4, 1e-5 * max(1, np.abs(b).max()), err_msg=what)

for row in ROWS[PART::8]:
    net, x = row.make(), jax.tree.map(lambda a: jnp.concatenate([a] * 8), fill(row))

    def objective(m, x):
        ys = [y for y in jax.tree.leaves(m(net, x)) if jnp.issubdtype(y.dtype, jnp.floating)]
        return sum((jnp.sin(y).mean() for y in ys), jnp.float32(0)), {}

    params, state = net.init(key, x)

    def loss(params, state, x):
        y, state = net.apply(params, state, x, key=key, train=True)
        floats = [leaf for leaf in jax.tree.leaves(y) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum(jnp.sin(leaf).mean() for leaf in floats), (y, state)

    runs = [(jax.value_and_grad(loss, has_aux=True, allow_int=True), (params, state))]
    if jax.tree.leaves(params):
        trainer = jn.trainer(jn.compose(objective, name="objective"), optax.sgd(0.1))
        runs.append((trainer.step, (trainer.init(key, x),)))
    for function, given in runs:
        run = jax.jit(function)
        close(run(*given, x), run(*put(given, mesh), put(x, mesh, jax.P("data"))), row.id)
"""


@pytest.mark.long
@pytest.mark.parametrize("part", range(8))
def test_all_layers_on_eight_devices(on_devices, part):
    on_devices(ROWS.replace("PART", str(part)), 8)


OTHERS = """
from jax.sharding import AxisType

put = jn.distributed.put
net = jn.serial(jn.conv(4, 3), jn.batch_norm(), jax.nn.relu, jn.max_pool(3, strides=2),
                jn.flatten(), jn.dense(3))
x = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype(np.float32)
y = jnp.arange(8) % 3
params, state = net.init(jax.random.key(0), x)
objective = jn.supervised(net, optax.softmax_cross_entropy_with_integer_labels)

def analyses(params, state, x, y):
    given = net, params, state, x
    yield jn.inspect.activations(*given)
    yield jn.inspect.saliency(*given, y)
    yield jn.inspect.occlusion(*given, y, size=3)
    yield jn.inspect.class_activation_map(*given, "conv", y)
    yield jn.inspect.maximize_activation(*given[:3], "conv", [0], jax.random.key(0), (6, 6, 2),
                                         steps=2)
    yield jn.collect(net).apply(*given[1:])[0][0]
    yield net.init(jax.random.key(0), x)
    assert jn.inspect.first_nonfinite(objective, params, state, (x, y)) is None
    trainer = jn.trainer(objective, optax.sgd(0.1))
    assert jn.inspect.doctor(trainer, trainer.init(jax.random.key(0), (x, y)), (x, y))

def compare(mesh):
    there = put((params, state), mesh), put((x, y), mesh, jax.P("data"))
    for one, other in zip(expected, analyses(*there[0], *there[1]), strict=True):
        close = lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5)
        jax.tree.map(close, *jax.device_get((one, other)))

expected = list(analyses(params, state, jnp.asarray(x), y))
mesh = jax.make_mesh((4,), ("data",))
compare(mesh)
with jax.set_mesh(mesh):
    compare(mesh)
    list(analyses(params, state, jnp.asarray(x), y))  # on no mesh
teacher = put((params, state), mesh)
distilled = jn.compose(lambda m, x: m(net, x) - teacher_of(x), name="distilled")
teacher_of = lambda x: net.apply(*teacher, x)[0]
kinds = AxisType.Explicit, AxisType.Auto
given = {n: {"serial": tree} for n, tree in zip(("params", "state"), (params, state))}
grids = (jax.make_mesh((2, 2), ("data", "model"), (a, b)) for a in kinds for b in kinds)
for mesh in (mesh, *grids):
    here = put(x, mesh, jax.P("data"))
    if len(mesh.axis_names) == 1:
        zeros = jax.jit(distilled.apply)(*put((given["params"], given["state"]), mesh), here)[0]
        np.testing.assert_allclose(zeros, 0, atol=1e-5)
    model = "model" if "model" in mesh.axis_names else None
    split = put(params, mesh, {"conv/kernel": jax.P(None, None, None, model)})
    run = jax.jit(jax.vmap(lambda x, params: net.apply(params, state, x[None])[0], (0, None)))
    np.testing.assert_allclose(run(here, split)[:, 0], net.apply(params, state, x)[0], 1e-4, 1e-5)
    part = jax.shard_map(lambda x, params: net.apply(params, state, x)[0], mesh=mesh,
                         in_specs=(jax.P("data"), jax.P()), out_specs=jax.P("data"))
    got = jax.jit(part)(here, put(params, mesh))
    np.testing.assert_allclose(got, net.apply(params, state, x)[0], 1e-4, 1e-5)
    # Params that are on no mesh are copied to all of its devices.
    slope = jax.jit(jax.grad(lambda params, x: jnp.sin(net.apply(params, state, x)[0]).sum()))
    close = lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5)
    jax.tree.map(close, *jax.device_get((slope(params, here), slope(params, x))))
"""


@pytest.mark.long
def test_analyses_and_transforms_on_four_devices(on_devices):
    """`jn.inspect`, `jax.set_mesh`, closures, `vmap`, `shard_map` and mixed meshes."""
    on_devices(OTHERS, 4)
