"""Programs on several devices, with collectives by hand, give what one device gives."""

import pytest

START = """
from tests.helpers import close

def array(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")

def mesh_of(*names):
    sizes = (2,) * len(names)
    return jax.make_mesh(sizes, names, (jax.sharding.AxisType.Auto,) * len(names))

key, x, y = jax.random.key(0), array(8, 3), array(8, 2, seed=1)
"""

DATA_PARALLEL = """
net = jn.serial(jn.dense(5), jn.batch_norm(axis_name="data"), jnp.tanh, jn.dense(2))
whole = jn.serial(jn.dense(5), jn.batch_norm(), jnp.tanh, jn.dense(2))
params, state = net.init(key, x)

def step(net, mean, params, state, x, y):
    def loss(params):
        found, after = net.apply(params, state, x, train=True)
        return mean(jnp.mean((found - y) ** 2)), after

    (value, after), slopes = jax.value_and_grad(loss, has_aux=True)(params)
    return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes), after

mapped = jax.shard_map(
    lambda *given: step(net, lambda value: jax.lax.pmean(value, "data"), *given),
    mesh=mesh_of("data"), in_specs=(P(), P(), P("data"), P("data")), out_specs=P(),
)
found = jax.jit(mapped)(params, state, x, y)
wanted = step(whole, lambda value: value, params, state, x, y)
close(found, wanted, 1e-4)
"""

TENSOR_PARALLEL = """
net = jn.serial(jn.dense(6), jax.nn.gelu, jn.dense(2))
params, _ = net.init(key, x)

def half(m, x):
    hidden = jax.nn.gelu(m(jn.dense(3, name="dense"), x))
    return jax.lax.psum(m(jn.dense(2, name="dense_1", use_bias=False), hidden), "model")

part = jn.compose(half)
bias = params["dense_1"].pop("bias")
specs = {
    "dense": {"kernel": P(None, "model"), "bias": P("model")},
    "dense_1": {"kernel": P("model")},
}

def loss(params, bias):
    run = jax.shard_map(
        lambda params, x: part.apply(params, {}, x)[0],
        mesh=mesh_of("model"), in_specs=(specs, P()), out_specs=P(),
    )
    return jnp.mean((run(params, x) + bias - y) ** 2)

def by_hand(params, bias):
    hidden = jax.nn.gelu(x @ params["dense"]["kernel"] + params["dense"]["bias"])
    return jnp.mean((hidden @ params["dense_1"]["kernel"] + bias - y) ** 2)

found, wanted = (jax.jit(jax.value_and_grad(f, (0, 1)))(params, bias) for f in (loss, by_hand))
close(found, wanted, 1e-5)
"""

RING = """
# Queries stay, keys and values go around: attention over a sequence that is cut among devices.
attend = jn.dense(9, name="qkv")
sequence = array(2, 8, 3)
params, _ = attend.init(key, sequence)

def ring(params, x):
    q, k, v = jnp.split(attend.apply(params, {}, x)[0], 3, -1)
    count = jax.lax.axis_size("data")
    above = below = 0.0
    for _ in range(count):
        weight = jnp.exp(jnp.einsum("bqf,bkf->bqk", q, k))
        above, below = above + weight @ v, below + weight.sum(-1, keepdims=True)
        pairs = [(i, (i + 1) % count) for i in range(count)]
        k, v = (jax.lax.ppermute(a, "data", pairs) for a in (k, v))
    return above / below

def by_hand(params, x):
    q, k, v = jnp.split(x @ params["kernel"] + params["bias"], 3, -1)
    return jax.nn.softmax(jnp.einsum("bqf,bkf->bqk", q, k)) @ v

cut = P(None, "data")
run = jax.shard_map(ring, mesh=mesh_of("data"), in_specs=(P(), cut), out_specs=cut)

def total(f):
    return lambda params, x: jnp.sum(jnp.sin(f(params, x)))

slopes = [jax.jit(jax.value_and_grad(total(f), (0, 1))) for f in (run, by_hand)]
found, wanted = (f(params, sequence) for f in slopes)
close(found, wanted, 1e-4)
"""

PLACED = """
# `jit` alone: params cut along one axis of the mesh, rows along the other.
net = jn.serial(jn.dense(4), jnp.tanh, jn.dense(2))
params, _ = net.init(key, x)
mesh = mesh_of("data", "model")

def place(leaf):
    return jax.NamedSharding(mesh, P(*(None,) * (leaf.ndim - 1), "model"))

def loss(params, x, y):
    return jnp.mean((net.apply(params, {}, x)[0] - y) ** 2)

def by_hand(params, x, y):
    hidden = jnp.tanh(x @ params["dense"]["kernel"] + params["dense"]["bias"])
    found = hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]
    return jnp.mean((found - y) ** 2)

places = jax.tree.map(place, params)
rows = jax.NamedSharding(mesh, P("data"))
slopes = jax.jit(jax.grad(loss), in_shardings=(places, rows, rows), out_shardings=places)
found = slopes(jax.device_put(params, places), *jax.device_put((x, y), rows))
close(found, jax.grad(by_hand)(params, x, y), 1e-5)
assert found["dense"]["kernel"].sharding.spec == P(None, "model")
"""

POPULATION = """
# A member on each device, with params and masks of its own.
net = jn.serial(jn.dense(50), jn.dropout(0.5))
params, _ = jax.vmap(lambda key: net.init(key, x))(jax.random.split(key, 2))

def member(params, x):
    params = jax.tree.map(lambda a: a[0], params)
    return net.apply(params, {}, x, key=jax.random.key(1), train=True)[0][None]

run = jax.shard_map(member, mesh=mesh_of("data"), in_specs=(P("data"), P()), out_specs=P("data"))
found = np.asarray(jax.jit(run)(params, x))
for i in range(2):
    full = x @ params["dense"]["kernel"][i] + params["dense"]["bias"][i]
    kept = found[i] != 0
    close(found[i][kept], 2 * np.asarray(full)[kept], 1e-5)
    assert 0.4 < kept.mean() < 0.6
assert ((found[0] == 0) != (found[1] == 0)).any()
"""


@pytest.mark.slow
def test_one_step_on_the_rows_of_each_device(on_devices):
    on_devices(START + DATA_PARALLEL, 2)


@pytest.mark.slow
def test_half_of_each_layer_on_each_device(on_devices):
    on_devices(START + TENSOR_PARALLEL, 2)


@pytest.mark.slow
def test_keys_and_values_go_around(on_devices):
    on_devices(START + RING, 2)


@pytest.mark.slow
def test_params_and_rows_have_places(on_devices):
    on_devices(START + PLACED, 4)


@pytest.mark.slow
def test_a_member_on_each_device(on_devices):
    on_devices(START + POPULATION, 2)
