"""Nets of our own in other libraries, each accelerated by one line."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import equations, near

LABELS = np.arange(4) % 3


def images(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def mean_loss(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def linen():
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Conv(8, (3, 3))(x)))
            x = nn.max_pool(x, (2, 2), (2, 2))
            x = nn.gelu(nn.Conv(8, (3, 3), feature_group_count=4)(x)) + x
            return nn.Dense(3)(nn.avg_pool(x, (2, 2), (2, 2)).reshape(len(x), -1))

    net, x = Net(), images(4, 8, 8, 3)
    variables = net.init(jax.random.key(0), x)

    def loss(variables):
        logits, changed = net.apply(variables, x, mutable=["batch_stats"])
        return mean_loss(logits), changed

    return loss, variables


def haiku():
    import haiku as hk

    def forward(x):
        x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(hk.Conv2D(8, 3)(x), is_training=True))
        x = hk.max_pool(x, (2, 2, 1), (2, 2, 1), "VALID")
        x = jax.nn.relu(hk.DepthwiseConv2D(1, 3)(x))
        return hk.Linear(3)(hk.avg_pool(x, (2, 2, 1), (2, 2, 1), "VALID").mean((1, 2)))

    net, x = hk.without_apply_rng(hk.transform_with_state(forward)), images(4, 8, 8, 3)
    params, state = net.init(jax.random.key(0), x)

    def loss(params):
        logits, changed = net.apply(params, state, x)
        return mean_loss(logits), changed

    return loss, params


def equinox():
    """Channels first, mapped over the examples; a module has functions among its leaves."""
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), 3)
    net = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 8, 3, padding=1, key=keys[0]),
            eqx.nn.Lambda(jax.nn.silu),
            eqx.nn.GroupNorm(2, 8),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, key=keys[1]),
            eqx.nn.Lambda(lambda x: x.mean((1, 2))),
            eqx.nn.Linear(6, 3, key=keys[2]),
        ]
    )
    x = images(4, 3, 8, 8)
    params, rest = eqx.partition(net, eqx.is_inexact_array)
    return lambda params: (mean_loss(jax.vmap(eqx.combine(params, rest))(x)), None), params


@pytest.mark.fast_cases("haiku")
@pytest.mark.parametrize("library", [linen, haiku, equinox])
def test_one_line_keeps_losses_and_gradients(library):
    loss, params = library()
    fast = jn.accelerate(loss)
    names = {one.primitive.name for one in equations(jax.make_jaxpr(fast)(params).jaxpr)}
    assert "convolution" in names and "conv_general_dilated" not in names
    expected = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    near(jax.jit(jax.value_and_grad(fast, has_aux=True))(params), expected, 1e-5)
    before = jn.accelerate(jax.value_and_grad(loss, has_aux=True))
    near(jax.jit(before)(params), expected, 1e-5)


def nnx_net():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.out = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            return self.out(self.dropout(nnx.relu(self.norm(self.conv(x)))).mean((1, 2)))

    return Net(nnx.Rngs(0))


def nnx_loss(net, x):
    return mean_loss(net(x))


def nnx_step(net, optimizer, x):
    """A whole step, which changes both objects."""
    from flax import nnx

    loss, grads = nnx.value_and_grad(nnx_loss)(net, x)
    optimizer.update(net, grads)
    return loss


@pytest.mark.fast_cases("True-False", "False-True")
@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_modules_of_nnx_change_in_place(whole, accelerated):
    from flax import nnx

    def trained(transform):
        net = nnx_net()
        optimizer = nnx.Optimizer(net, optax.sgd(0.1), wrt=nnx.Param)
        gradient = nnx.value_and_grad(transform(nnx_loss))

        def by_loss(net, optimizer, x):
            loss, grads = gradient(net, x)
            optimizer.update(net, grads)
            return loss

        step = nnx.jit(transform(nnx_step) if whole else by_loss)
        losses = [step(net, optimizer, images(4, 8, 8, 3)) for _ in range(3)]
        return losses, jax.tree.leaves(nnx.state(net, nnx.Param, nnx.BatchStat))

    near(trained(jn.accelerate if accelerated else lambda f: f), trained(lambda f: f), 1e-5)


def test_objects_that_share_others_stay_one_graph():
    """The optimizer of NNX counts its steps, and two arguments may be the same module."""

    def f(first, second, x):
        first.norm.mean[...] = first.norm.mean[...] + 1
        return second.norm.mean[...].sum() + first.conv(x).sum()

    plain, fast = nnx_net(), nnx_net()
    x = images(4, 8, 8, 3)
    near(jn.accelerate(f)(fast, fast, x), f(plain, plain, x), 1e-5)
    near(fast.norm.mean[...], plain.norm.mean[...], 0)
