"""Programs inside programs: loops, branches, `remat`, own derivatives, each against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

import jaxnet as jn
from tests.helpers import equations, near

LAST, FIRST = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")


def conv(x, kernel, layout=LAST, **options):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout, **options)


OF_SUMS = 5.0  # about the largest number of which the results are sums


def max_pool(x, axes=(1, 2)):
    sizes = [2 if axis in axes else 1 for axis in range(x.ndim)]
    return lax.reduce_window(x, -np.inf, lax.max, sizes, sizes, "VALID")


@jax.custom_vjp
def doubled(x, kernel):
    """A convolution whose gradient is twice what it should be."""
    return conv(x, kernel)


def doubled_forward(x, kernel):
    y, pull = jax.vjp(conv, x, kernel)
    return y, pull


doubled.defvjp(doubled_forward, lambda pull, dy: tuple(2 * g for g in pull(dy)))


@jax.custom_jvp
def tripled(x, kernel, times):
    """A convolution whose tangent is three times what it should be."""
    return conv(x, kernel) * times


@tripled.defjvp
def tripled_tangent(primals, tangents):
    x, kernel, times = primals
    dx, dkernel, _ = tangents
    push = conv(dx, kernel) + conv(x, dkernel)
    return tripled(x, kernel, times), 3 * push * times


def in_scan(kernel, x):
    def body(x, _):
        x = jnp.tanh(conv(x, kernel))
        return x, x.mean()

    x, means = lax.scan(body, x, None, length=3)
    return x.sum() + means.prod()


def rows_of_scan(kernel, x):
    return lax.scan(lambda total, row: (total + conv(row[None], kernel).sum(), row), 0.0, x)[0]


def in_scan_first(kernel, x):
    """Channels first, so that the order is carried."""
    kernel, x = jnp.transpose(kernel, (3, 2, 0, 1)), jnp.transpose(x, (0, 3, 1, 2))

    def step(x, _):
        return jnp.tanh(conv(x, kernel, FIRST)), x[0, 0, 0]

    x, rows = lax.scan(step, x, None, length=3)
    return x.sum() + rows.sum()


def in_fori(kernel, x):
    return lax.fori_loop(0, 3, lambda _, x: jnp.tanh(conv(x, kernel)), x).sum()


def in_while(kernel, x):
    def more(carried):
        return (carried[0] < 3) & (conv(carried[1], kernel).max() > -1e9)

    def step(carried):
        count, x = carried
        return count + 1, jnp.tanh(conv(x, kernel))

    return lax.while_loop(more, step, (0, x))[1].sum()


def in_cond(kernel, x):
    of = [lambda x: conv(x, kernel), lambda x: x * 2, lambda x: -conv(conv(x, kernel), kernel)]
    return lax.switch(jnp.int32(x.sum() > 0) * 2, of, x).sum()


def in_remat(kernel, x):
    block = jax.checkpoint(lambda x: jnp.tanh(conv(jnp.tanh(conv(x, kernel)), kernel)))
    return block(block(x)).sum()


def in_remat_with_policy(kernel, x):
    policy = jax.checkpoint_policies.dots_saveable
    return jax.checkpoint(lambda x: jnp.tanh(conv(x, kernel)), policy=policy)(x).sum()


def in_remat_with_constant(kernel, x):
    table = np.arange(5.0, dtype=np.float32)
    return jax.checkpoint(lambda x: (conv(x, kernel) * table).sum())(x)


def in_vmap(kernel, x):
    return jax.vmap(lambda x: conv(x[None], kernel)[0].max())(x).sum()


def per_example(kernel, x):
    """Gradients of each example."""

    def loss(kernel, x):
        return jnp.tanh(conv(x[None], kernel)).sum()

    return jnp.sin(jax.vmap(jax.grad(loss), (None, 0))(kernel, x)).sum()


def several_kernels(kernel, x):
    return jax.vmap(conv, (None, 0))(x, jnp.stack([kernel, 2 * kernel])).sum()


def ensemble(kernel, x):
    """Nets with kernels of their own, by `vmap`, which JAX writes as groups of one convolution."""

    def net(scale, x):
        y = max_pool(jax.nn.relu(conv(x, scale * kernel)) + scale)
        first = jnp.transpose(scale * kernel, (3, 2, 0, 1))
        return jnp.tanh(conv(jnp.transpose(y, (0, 3, 1, 2)), first, FIRST)).mean()

    return jax.vmap(net)(jnp.arange(1.0, 4.0), jnp.stack([x, 2 * x, -x])).sum()


def ensemble_in_a_row(kernel, x):
    """A reshape merges other axes of a result whose axes are merged already."""

    def net(scale, x):
        y = conv(x, scale * kernel)
        rows = y.reshape(len(y), -1, y.shape[-1])
        return lax.conv_general_dilated(
            rows, scale * kernel[0], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        ).mean()

    return jax.vmap(net)(jnp.arange(1.0, 4.0), jnp.stack([x, 2 * x, -x])).sum()


def groups_by_hand(kernel, x):
    """Groups whose axes the program merges itself, and reads as they are."""
    x = jnp.stack([x, 2 * x], 3)
    kernels = jnp.concatenate([kernel, -kernel], 3)
    y = conv(x.reshape(*x.shape[:3], -1), kernels, feature_group_count=2)
    return jnp.sin(y).sum() + jnp.cos(y.reshape(*x.shape)).sum()


def in_named_axis(kernel, x):
    def one(x):
        y = conv(x[None], kernel)[0]
        return y - lax.pmean(y, "batch")

    return jnp.sin(jax.vmap(one, axis_name="batch")(x)).sum()


def in_shard_map(kernel, x):
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1], axis_types=AUTO)
    spec = PartitionSpec("data")

    def each(kernel, x):
        return lax.psum(conv(x, kernel).sum(), "data")

    mapped = jax.shard_map(
        each, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=PartitionSpec()
    )
    return mapped(kernel, x)


AUTO = (jax.sharding.AxisType.Auto,)


def relu_at_zero(kernel, x):
    """Half of the inputs of the relu are 0, where JAX's own rule has slope 0."""
    return jax.nn.relu(conv(x * (x > 0), kernel) * 0).sum() + jax.nn.relu(conv(x, kernel)).sum()


def first(kernel, x):
    """Channels first, with what networks have between convolutions."""
    kernel, x = jnp.transpose(kernel, (3, 2, 0, 1)), jnp.transpose(x, (0, 3, 1, 2))
    y = jax.nn.gelu(conv(x, kernel, FIRST))
    variance = y.var((0, 2, 3), keepdims=True)
    y = (y - y.mean((0, 2, 3), keepdims=True)) * lax.rsqrt(variance + 1e-5)
    y = jnp.concatenate([y, x], 1)[:, 1:6]
    y = conv(jnp.pad(y, ((0, 0), (0, 0), (1, 0), (0, 1))), kernel, FIRST)
    y = jax.nn.relu(max_pool(y, (2, 3)))
    groups = y.reshape(len(y), 5, -1, *y.shape[2:])
    y = (groups - groups.mean((2, 3, 4), keepdims=True)).reshape(y.shape)
    y = jnp.where(y > 0, y, jnp.clip(y, -1, 1)[:, ::-1]) + jnp.cumsum(y, 1)
    y = lax.dynamic_slice(y, (0, jnp.argmax(y[0, :, 0, 0]) % 2, 0, 0), (2, 3, 2, 2))
    return jnp.sin(y.reshape(2, -1) @ jnp.ones((12, 3))).sum()


def nested_jit(kernel, x):
    return jax.jit(lambda x: jax.jit(jnp.tanh)(conv(x, kernel)))(x).sum()


NAMED = (
    ensemble, ensemble_in_a_row, first, groups_by_hand, in_cond, in_fori, in_named_axis,
    in_remat, in_remat_with_constant, in_remat_with_policy, in_scan, in_scan_first,
    in_shard_map, in_vmap, in_while, nested_jit, per_example, relu_at_zero, rows_of_scan,
    several_kernels,
)  # fmt: skip
PROGRAMS = {f.__name__: f for f in NAMED}
PROGRAMS |= {
    "custom_vjp": lambda kernel, x: jnp.sin(doubled(x, kernel)).sum(),
    "custom_jvp": lambda kernel, x: jnp.sin(tripled(x, kernel, 2)).sum(),
    "pool": lambda kernel, x: max_pool(conv(x, kernel)).sum(),
}


def kernel_and_x(features=5):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, features, features)) / 5
    x = rng.normal(size=(2, 6, 6, features))
    return jnp.asarray(kernel, "float32"), jnp.asarray(x, "float32")


@pytest.mark.parametrize("name", PROGRAMS)
def test_values(name):
    f = PROGRAMS[name]
    fast = jn.accelerate(f)
    names = {one.primitive.name for one in equations(jax.make_jaxpr(fast)(*kernel_and_x()).jaxpr)}
    assert not names & {"conv_general_dilated", "reduce_window_max"}
    near(jax.jit(fast)(*kernel_and_x()), jax.jit(f)(*kernel_and_x()), 1e-5, OF_SUMS)


@pytest.mark.fast_cases(
    "in_remat_with_constant", "in_remat_with_policy", "several_kernels", "custom_vjp"
)
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "in_while"])
def test_gradients(name):
    f = PROGRAMS[name]
    expected = jax.jit(jax.grad(f, (0, 1)))(*kernel_and_x())
    inside = jax.jit(jax.grad(jn.accelerate(f), (0, 1)))(*kernel_and_x())
    around = jax.jit(jn.accelerate(jax.grad(f, (0, 1))))(*kernel_and_x())
    near(inside, expected, 1e-5)
    near(around, expected, 1e-5)


def test_inside_loops_and_remat():
    kernel, x = kernel_and_x()
    fast = jn.accelerate(lambda x: conv(x, kernel))

    def loss(x, step):
        return lax.scan(lambda x, _: (jax.checkpoint(step)(x), None), x, None, length=3)[0].sum()

    plain = jax.grad(loss)(x, lambda x: conv(x, kernel))
    near(jax.jit(jax.grad(lambda x: loss(x, fast)))(x), plain, 1e-5)


def test_inside_shard_map():
    kernel, x = kernel_and_x()
    mesh = jax.make_mesh((1,), ("data",), axis_types=AUTO, devices=jax.devices()[:1])
    spec = PartitionSpec("data")

    def mapped(step):
        def gradient(x):
            return jax.grad(lambda x: jnp.sin(step(x)).sum())(x)

        return jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec))

    def step(x):
        return conv(x, kernel)

    near(mapped(jn.accelerate(step))(x), mapped(step)(x), 1e-5)


@pytest.mark.fast_cases("axes2", "axes1")
@pytest.mark.parametrize("axes", [(None, 0), (0, None), (0, 0)])
def test_inside_vmap(axes):
    kernel, x = kernel_and_x()
    of_kernel, of_x = axes
    if of_kernel is not None:
        kernel = jnp.stack([kernel, 2 * kernel])
    if of_x is not None:
        x = jnp.stack([x, 2 * x])
    found = jax.vmap(jn.accelerate(first), axes)(kernel, x)
    near(found, jax.vmap(first, axes)(kernel, x), 1e-5, OF_SUMS)


def test_relu_keeps_its_slope_at_zero():
    kernel = jnp.ones((1, 1, 1, 1))
    loss = jn.accelerate(lambda x: jax.nn.relu(conv(x, kernel)).sum())
    slope = jax.grad(loss)(jnp.zeros((1, 1, 1, 1)))
    assert slope.item() == 0.0


def test_a_function_keeps_its_own_gradient():
    kernel, x = kernel_and_x()
    gradient = jax.grad(jn.accelerate(lambda x: doubled(x, kernel).sum()))(x)
    near(gradient, 2 * jax.grad(lambda x: conv(x, kernel).sum())(x), 1e-5)


def test_remat_keeps_what_its_policy_says():
    """A convolution is a product for the policies of JAX, also as our primitive."""
    kernel, x = kernel_and_x()

    def layers(x):
        x = jnp.sin(conv(x, kernel))
        return jnp.sin(conv(x, kernel))

    def bytes_kept(policy):
        f = jax.checkpoint(layers, policy=policy)
        _, pull = jax.vjp(jn.accelerate(f), x)
        return sum(leaf.nbytes for leaf in jax.tree.leaves(pull))

    nothing = bytes_kept(jax.checkpoint_policies.nothing_saveable)
    assert nothing < bytes_kept(jax.checkpoint_policies.dots_saveable)
