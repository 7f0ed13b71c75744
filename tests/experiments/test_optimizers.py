import pytest

from experiments import optimizers


@pytest.mark.slow
def test_every_optimizer_of_the_record_falls_on_a_parabola():
    import jax.numpy as jnp

    for name, rule in optimizers.RULES.items():
        optimizer = rule.make(learning_rate=0.1)
        w = jnp.ones(3)
        memory = optimizer.init(w)
        for _ in range(5):
            updates, memory = optimizer.update(w, memory, w)  # the gradient of w²/2 is w
            w = w + updates
        assert -1 < w.min() < 0.99, name
