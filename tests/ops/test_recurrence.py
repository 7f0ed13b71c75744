"""The fast loops against a plain loop over the cells, and the form of their training step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops.product import plus
from jaxnet.ops.recurrence import GRU, LSTM, hidden, simple_cell, unroll
from jaxnet.services.jax_versions import TRANSPOSES_LOOPS

CELLS = {"rnn": simple_cell(jnp.tanh), "lstm": LSTM, "gru": GRU}
each = pytest.mark.parametrize("kind", list(CELLS))
BATCH, TIME, FEATURES = 3, 6, 4


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape))


def close(a, b, tolerance=1e-10):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance), a, b)


def arguments(cell, lengths=None, seed=1):
    """pre, kernel, biases and carry, which have derivatives, and the mask, which has none."""
    columns = cell.gates * FEATURES
    h, c = random(BATCH, FEATURES, seed=seed), random(BATCH, FEATURES, seed=seed + 1)
    inputs = (
        random(TIME, BATCH, columns, seed=seed),
        0.5 * random(FEATURES, columns, seed=seed),
        (random(columns, seed=seed), 0.5 * random(columns, seed=seed + 1)),
        {"c": c, "h": h} if cell.memory else h,
    )
    mask = None
    if lengths is not None:
        mask = (jnp.arange(TIME)[:, None] < jnp.array(lengths))[..., None]
    return inputs, mask


def plain(cell, pre, kernel, biases, carry, mask):
    """The cell in an ordinary scan, whose derivatives JAX finds by itself."""

    def body(carry, now):
        pre, mask = now
        new, _ = cell.step(pre + biases[0], plus(hidden(carry) @ kernel, biases[1]), carry)
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

    close(derivatives(unroll), derivatives(plain))


@pytest.mark.slow
def test_gradients_under_other_transformations(x64):
    (pre, _, biases, carry), mask = arguments(LSTM, (6, 2, 5))
    kernels = jnp.stack([0.5 * random(FEATURES, 4 * FEATURES, seed=s) for s in (1, 20)])

    def loss(kernel, run=unroll):
        h, _ = run(LSTM, pre, kernel, biases, carry, mask)
        return (jnp.sin(h) * random(*h.shape)).sum()

    wanted = jnp.stack([jax.jit(jax.grad(loss))(kernel) for kernel in kernels])
    close(jnp.stack([jax.jit(jax.grad(lambda k: loss(k, plain)))(k) for k in kernels]), wanted)
    close(jax.jit(jax.vmap(jax.grad(loss)))(kernels), wanted)
    close(jax.lax.scan(lambda c, k: (c, jax.grad(loss)(k)), 0.0, kernels)[1], wanted)
    close(jax.lax.map(jax.grad(jax.checkpoint(loss)), kernels), wanted)
    close(jax.jit(jax.grad(loss))(kernels[0]), wanted[0])  # without jit around it


def inner(jaxpr, found):
    """Everything that `found(equation)` yields in a jaxpr, at any depth."""
    for eqn in jaxpr.eqns:
        yield from found(eqn)
        for value in eqn.params.values():
            if hasattr(below := getattr(value, "jaxpr", value), "eqns"):
                yield from inner(below, found)


def named(name):
    return lambda eqn: [eqn] if eqn.primitive.name == name else []


@each
def test_a_training_step_has_one_product_in_each_loop(kind):
    """No loop contains the inputs' product or a sum over the kernel's gradient."""
    at, mask = arguments(CELLS[kind])

    def loss(at):
        return unroll(CELLS[kind], *at, mask)[0].sum()

    loops = list(inner(jax.make_jaxpr(jax.grad(loss))(at).jaxpr, named("scan")))
    dots = [len(list(inner(e.params["jaxpr"].jaxpr, named("dot_general")))) for e in loops]
    assert [n for n, loop in zip(dots, loops, strict=True) if loop.params["reverse"]] == [1]
    assert sum(dots) == 2 or not TRANSPOSES_LOOPS  # XLA removes the loop that `linear` adds
    made = [v.aval.shape for loop in loops for v in loop.outvars]
    assert at[1].shape not in made, "a loop sums up the kernel's gradient"
