import jax
import pytest

import jaxnet as jn
from experiments import moe


@pytest.mark.slow
def test_the_mixture_has_the_flops_of_the_small_net_and_the_weights_of_the_wide_one():
    flops, weights = {}, {}
    for name, make in moe.MLPS.items():
        net = moe.decoder(60, make)
        shapes = jax.eval_shape(net.init, jax.random.key(0), jn.spec((8, 64), int))

        def run(params, state, x, net=net):
            return net.apply(params, state, x, train=True)

        lowered = jax.jit(run).lower(*shapes, jn.spec((8, 64), int))
        flops[name] = lowered.cost_analysis()["flops"]
        weights[name] = sum(leaf.size for leaf in jax.tree.leaves(shapes[0]))
    small, mixture, wide = flops.values()
    assert small < mixture < 1.3 * small < 0.5 * wide
    small, mixture, wide = weights.values()
    assert abs(mixture / wide - 1) < 0.01 < 3 < wide / small
