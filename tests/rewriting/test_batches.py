"""Which programs compute the examples of a batch by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxnet as jn
from jaxnet.rewriting import batches
from jaxnet.rewriting.batches import examples_apart
from jaxnet.rewriting.steps import Steps
from tests.helpers import near

KERNEL = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)


def apart(function, shape=(6, 3, 4), part=1):
    def program(count):
        return Steps(jax.make_jaxpr(function)(jnp.ones((count, *shape[1:]))))

    batch = shape[0]
    return examples_apart(program(batch), program(batch + 1), program(part), (batch, part))


BY_THEMSELVES = {
    "elementwise": lambda x: jax.nn.gelu(x) * 2 + x,
    "product": lambda x: x @ KERNEL,
    "attention": lambda x: jax.nn.softmax(x @ x.swapaxes(1, 2)) @ x,
    "means": lambda x: x - x.mean((1, 2), keepdims=True),
    "moved": lambda x: jnp.moveaxis(jnp.moveaxis(x, 0, 1) * 2, 1, 0),
    "flat": lambda x: x.reshape(len(x), -1)[:, 2:7],
    "joined": lambda x: jnp.concatenate([x, x + 1], 1),
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 1), (0, 0))),
    "bias": lambda x: x + jnp.arange(4.0),
    "stacked": lambda x: jnp.stack([x, 2 * x], 1),
    "stacked before": lambda x: jnp.moveaxis(jnp.stack([x, 2 * x]), 0, 1),
}
MIXED = {
    "mean of the batch": lambda x: x - x.mean(0),
    "number of examples": lambda x: x / len(x),
    "number in a vector": lambda x: x * jnp.full(4, 1 / x.shape[0]),
    "power": lambda x: x ** x.shape[0],
    "reversed": lambda x: x[::-1],
    "first": lambda x: x - x[:1],
    "sorted": lambda x: jnp.sort(x, 0),
    "stacked before": lambda x: jnp.stack([x, 2 * x]),
    "other axis": lambda x: jnp.moveaxis(x, 0, 1),
    "rows": lambda x: x.reshape(-1, 4),
    "sum of all": lambda x: x + x.sum(),
    "products of examples": lambda x: jnp.einsum("nij,mij->nm", x, x),
    "loop": lambda x: lax.scan(lambda c, row: (c + row, c), jnp.zeros(x.shape[1:]), x)[1],
    "positions": lambda x: x + jnp.arange(len(x))[:, None, None],
    "padded": lambda x: jnp.pad(x, ((1, 0), (0, 0), (0, 0)))[:-1],
    "a number": lambda x: 3.0,
    "without axes of one": lambda x: jnp.squeeze(x * 2),
    "another for one": lambda x: x * 2 if len(x) == 1 else x * 3,
    "another kind for one": lambda x: jnp.sin(x) if len(x) == 1 else jnp.cos(x),
    "another kernel for one": lambda x: x @ (KERNEL * 2 if len(x) == 1 else KERNEL),
    "another bias for one": lambda x: x + np.full((3, 4), len(x) == 1, "float32"),
    "another axis for one": lambda x: (x[:, :, :3]).sum(1 if len(x) == 1 else 2),
    "another order for one": lambda x: jnp.roll(x, 2 if len(x) == 1 else 1, 1),
    "another known number for one": lambda x: x + jnp.exp(jnp.float32(len(x) == 1)),
    "place by number": lambda x: x[:, len(x) % 3],
    "as many as examples": lambda x: jnp.pad(x, ((0, 0), (0, 9), (0, 0)))[:, : len(x)].sum(1),
}


@pytest.mark.parametrize("name", BY_THEMSELVES)
def test_examples_by_themselves(name):
    few = 2 if name == "attention" else 1  # JAX 0.7 multiplies one pair of matrices by other steps
    assert apart(BY_THEMSELVES[name], part=few)


@pytest.mark.parametrize("name", MIXED)
def test_examples_that_meet(name):
    assert not apart(MIXED[name])


def test_nets(monkeypatch):
    net = jn.serial(
        jn.conv(8, 3), jn.batch_norm(), jax.nn.relu, jn.max_pool(2), jn.flatten(), jn.dense(3)
    )
    x = jax.random.normal(jax.random.key(1), (6, 8, 8, 2))
    params, state = net.init(jax.random.key(0), x)
    assert apart(lambda x: net.apply(params, state, x)[0], x.shape)
    assert not apart(lambda x: net.apply(params, state, x, train=True)[0], x.shape)
    monkeypatch.setattr(batches, "last_cache", lambda: 2**14)
    program = Steps(jax.make_jaxpr(lambda x: net.apply(params, state, x)[0])(x))
    assert 1 <= batches.at_once(program, 6) < 6
    answer = jn.optimize_for_inference(net, params, state)
    near(answer(x), net.apply(params, state, x)[0], 1e-5)
    assert "while" in jax.jit(answer).lower(x).as_text()  # the loop over the parts


def test_large_weights_are_read_once(monkeypatch):
    monkeypatch.setattr(batches, "last_cache", lambda: 64)
    program = Steps(jax.make_jaxpr(lambda x: x @ KERNEL)(jnp.ones((6, 4))))
    assert batches.at_once(program, 6) == 6
