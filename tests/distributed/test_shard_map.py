"""Layers inside `jax.shard_map`, where each device draws its own numbers."""

MASKS = """
mesh = jax.make_mesh((2, 2), ("data", "model"), (jax.sharding.AxisType.Auto,) * 2)
net = jn.serial(jn.dropout(0.5))
key, x = jax.random.key(1), jnp.ones((4, 8))

def masks(spec, **options):
    run = lambda x, key: net.apply({}, {}, x, key=key, train=True)[0]
    mapped = jax.shard_map(run, mesh=mesh, in_specs=(spec, P()), out_specs=spec, **options)
    return np.asarray(jax.jit(mapped)(x, key)) > 0

whole = np.asarray(net.apply({}, {}, x, key=key, train=True)[0]) > 0
assert (masks(P()) == whole).all()  # what does not vary draws as without devices
rows = masks(P("data"))
assert (rows[:2] != rows[2:]).any()
both = masks(P("data", "model"))
parts = [both[i : i + 2, j : j + 4].tobytes() for i in (0, 2) for j in (0, 4)]
assert len(set(parts)) == 4

def own(x, key):
    key = jax.random.fold_in(key, jax.lax.axis_index("data"))
    return net.apply({}, {}, x, key=key, train=True)[0]

mapped = jax.shard_map(own, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
first = net.apply({}, {}, x[:2], key=jax.random.fold_in(key, 0), train=True)[0]
np.testing.assert_array_equal(np.asarray(jax.jit(mapped)(x, key))[:2], first)  # a key of its own
"""


def test_devices_draw_their_own_numbers(on_devices):
    on_devices(MASKS, 4)


LOOP = """
mesh = jax.make_mesh((2,), ("data",), (jax.sharding.AxisType.Auto,))
cell = jn.serial(jn.dense(8), jn.batch_norm(), jn.dropout(0.5))
net = jn.compose(lambda m, x: m.scan(lambda m, c, _: (m(cell, c), c > 0), x, length=3), name="net")
x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8)), "float32")
params, state = net.init(jax.random.key(0), x)

def run(x):
    (y, _), state_ = net.apply(params, state, x, key=jax.random.key(1), train=True)
    return y, jax.tree.map(lambda a: a[None], state_)

y, after = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=P("data"), out_specs=P("data")))(x)
zero = np.asarray(y) == 0
assert (zero[:2] != zero[2:]).any()
"""


def test_a_loop_on_devices(on_devices):
    on_devices(LOOP, 2)
