"""A net is traced once in evaluation, for a batch size that is none of its other sizes."""

import jax
import jax.numpy as jnp

import jaxnet as jn
from jaxnet.training.evaluation_trace import evaluation_trace


def shapes(net, x):
    return jax.eval_shape(net.init, jax.random.key(0), x)


def test_one_trace_for_all_numbers_of_examples():
    net, x = jn.dense(4), jn.spec((2, 3))
    given = shapes(net, x)
    one = evaluation_trace(net, *given, x)
    assert one is evaluation_trace(net, *given, jn.spec((9, 3)))
    assert one is not evaluation_trace(net, *given, jn.spec((2, 3), jnp.bfloat16))


def test_the_batch_size_divides_no_other_size():
    net, x = jn.serial(jn.dense(22), jn.dense(13)), jn.spec((2, 17))
    assert evaluation_trace(net, *shapes(net, x), x).examples == 19


def test_what_has_no_examples_has_no_trace():
    net = jn.stateless(lambda key, x: {}, lambda p, x: x, "scalar")
    assert evaluation_trace(net, {}, {}, jn.spec(())).program is None
