"""Common parts of the peers on JAX: SGD with momentum, the loss, K updates in one program."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks.measure import ACCELERATED
from experiments.benchmarks.workloads import MOMENTUM, Program, Workload, batches


def with_accelerated(main: str, *others: str) -> tuple[str, ...]:
    """Return names of variants; on a CPU also that of the main one with an accelerated loss."""
    on_cpu = jax.default_backend() == "cpu"
    return (main, *others, main + ACCELERATED) if on_cpu else (main, *others)


def chosen(loss: Callable, variant: str) -> Callable:
    """Return the loss, or `jn.accelerate(loss)` if the name of the variant says so."""
    if not variant.endswith(ACCELERATED):
        return loss
    import jaxnet as jn  # processes of plain programs have only their own library

    return jn.accelerate(loss)


def optimizer(workload: Workload) -> optax.GradientTransformation:
    return optax.sgd(workload.learning_rate, momentum=MOMENTUM)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean over batch and members."""
    labels = jnp.broadcast_to(labels, logits.shape[:-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def on_device(tree: Any) -> Any:
    """Return copies on the device, since donated arrays must not share memory with NumPy."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


def make_update(workload: Workload, loss: Callable) -> Callable:
    """Return ((params, state, opt_state), batch) -> (the same, loss), if loss -> (value, state)."""
    sgd = optimizer(workload)

    def update(carry, batch):
        params, state, opt_state = carry
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, state), grads = gradient(params, state, *batch)
        updates, opt_state = sgd.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), state, opt_state), value

    return update


def with_optimizer(workload: Workload, params: Any, state: Any) -> tuple[Any, Any, Any]:
    """Return the carry of `make_update`."""
    return params, state, jax.jit(optimizer(workload).init)(params)


def program(workload: Workload, update: Callable, carry: Any, data: Any = None) -> Program:
    """Return update(carry, batch) -> (carry, loss), jitted, donating, with a scan over steps."""
    if workload.steps > 1:
        step = jax.jit(lambda carry, data: jax.lax.scan(update, carry, data), donate_argnums=0)
    else:
        step = jax.jit(update, donate_argnums=0)
    data = on_device(batches(workload) if data is None else data)
    carry = jax.block_until_ready(carry)

    def run():
        nonlocal carry
        carry, loss = step(carry, data)
        return loss

    return Program(run, jax.block_until_ready)


def product_rate(size: int = 8192, rounds: int = 5) -> float:
    """Return operations per second of a product of bfloat16 matrices, the best of the rounds."""
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)  # zeros run faster
    product = jax.jit(jnp.dot)
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times[1:])
