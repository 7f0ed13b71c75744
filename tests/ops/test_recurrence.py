"""The fast loops against a plain loop over the cells, and the form of their training step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops.product import add_bias
from jaxnet.ops.recurrence import GRU, LSTM, hidden, simple_cell, unroll
from jaxnet.services.jax_versions import TRANSPOSES_LOOPS
from tests.helpers import close, equations

CELLS = {"rnn": simple_cell(jnp.tanh), "lstm": LSTM, "gru": GRU}

BATCH, TIME, FEATURES = 3, 6, 4


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape))


def arguments(cell, lengths=None, seed=1):
    """pre, kernel, biases and carry, which have derivatives, and the mask, which has none."""
    columns = cell.gates * FEATURES
    h, c = random(BATCH, FEATURES, seed=seed), random(BATCH, FEATURES, seed=seed + 1)
    pre, kernel = random(TIME, BATCH, columns, seed=seed), random(FEATURES, columns, seed=seed)
    biases = random(columns, seed=seed), 0.5 * random(columns, seed=seed + 1)
    mask = None
    if lengths is not None:
        mask = (jnp.arange(TIME)[:, None] < jnp.array(lengths))[..., None]
    return (pre, 0.5 * kernel, biases, {"c": c, "h": h} if cell.memory else h), mask


def scan_over_cell(cell, pre, kernel, biases, carry, mask):
    """The cell in an ordinary scan, whose derivatives JAX finds by itself."""

    def body(carry, now):
        pre, mask = now
        new, _ = cell.step(pre + biases[0], add_bias(hidden(carry) @ kernel, biases[1]), carry)
        if mask is not None:
            new = jax.tree.map(lambda n, o: jnp.where(mask, n, o), new, carry)
        return new, hidden(new)

    final, h = jax.lax.scan(body, carry, (pre, mask))
    return h, final


# The cells have the values of tests/layer_values.py, and of PyTorch in tests/interop.


def test_equal_activations_share_their_cell():
    """The compiled loop is keyed by the cell."""
    assert simple_cell(jnp.tanh) is simple_cell(jnp.tanh)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, lengths", [("gru", None), ("rnn", (4, 6, 0)), ("lstm", (4, 6, 0)), ("gru", (4, 6, 0))]
)
def test_every_derivative_is_that_of_a_plain_loop(kind, lengths, x64):
    cell = CELLS[kind]
    at, mask = arguments(cell, lengths)
    along = jax.tree.map(lambda leaf: random(*leaf.shape, seed=11), at)

    def derivatives(run):
        def loss(at):
            h, final = run(cell, *at, mask)
            weights = jax.tree.map(lambda leaf: random(*leaf.shape, seed=12), final)
            last = jax.tree.map(lambda a, b: (jnp.sin(a) * b).sum(), final, weights)
            return (jnp.sin(h) * random(*h.shape)).sum() + sum(jax.tree.leaves(last))

        def slope(at):
            products = jax.tree.map(lambda a, b: (a * b).sum(), jax.jit(jax.grad(loss))(at), along)
            return jax.tree.reduce(jnp.add, products)

        @jax.jit
        def run_all(at):
            return {
                "value": loss(at),
                "reverse": jax.grad(loss)(at),
                "forward": jax.jvp(loss, (at,), (along,))[1],
                "forward of reverse": jax.jvp(jax.grad(loss), (at,), (along,))[1],
                "reverse of reverse": jax.grad(slope)(at),
            }

        return run_all(at)

    close(derivatives(unroll), derivatives(scan_over_cell), 1e-10)


@pytest.mark.slow
def test_gradients_under_other_transformations(x64):
    (pre, _, biases, carry), mask = arguments(LSTM, (6, 2, 5))
    kernels = jnp.stack([0.5 * random(FEATURES, 4 * FEATURES, seed=s) for s in (1, 20)])

    def loss(kernel, run=unroll):
        h, _ = run(LSTM, pre, kernel, biases, carry, mask)
        return (jnp.sin(h) * random(*h.shape)).sum()

    slope, by_jax = jax.grad(loss), jax.jit(jax.grad(lambda k: loss(k, scan_over_cell)))
    wanted = jnp.stack([by_jax(kernel) for kernel in kernels])
    close(jnp.stack([jax.jit(slope)(kernel) for kernel in kernels]), wanted, 1e-10)
    close(jax.jit(jax.vmap(slope))(kernels), wanted, 1e-10)
    close(jax.lax.scan(lambda c, k: (c, slope(k)), 0.0, kernels)[1], wanted, 1e-10)
    close(jax.lax.map(jax.grad(jax.checkpoint(loss)), kernels), wanted, 1e-10)


@pytest.mark.parametrize("kind", CELLS)
def test_a_training_step_has_one_product_in_each_loop(kind):
    """No loop contains the inputs' product or a sum over the kernel's gradient."""
    at, mask = arguments(CELLS[kind])

    def inside(jaxpr, name):
        return [one for one in equations(jaxpr) if one.primitive.name == name]

    step = jax.grad(lambda at: unroll(CELLS[kind], *at, mask)[0].sum())
    loops = inside(jax.make_jaxpr(step)(at).jaxpr, "scan")
    dots = [len(inside(loop.params["jaxpr"].jaxpr, "dot_general")) for loop in loops]
    assert [n for n, loop in zip(dots, loops, strict=True) if loop.params["reverse"]] == [1]
    assert sum(dots) == 2 or not TRANSPOSES_LOOPS  # XLA removes the loop that `linear` adds
    made = [v.aval.shape for loop in loops for v in loop.outvars]
    assert at[1].shape not in made, "a loop sums up the kernel's gradient"
