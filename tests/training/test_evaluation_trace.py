"""A net is traced once in evaluation, for a batch size that is none of its other sizes."""

import jax
import jax.numpy as jnp

import jaxnet as jn
from jaxnet.training.evaluation_trace import output_shapes, read_from_trace


def shapes(net, x):
    return jax.eval_shape(net.init, jax.random.key(0), x)


def test_each_net_is_traced_and_read_once_for_all_numbers_of_examples():
    net, x = jn.dense(4), jn.spec((2, 3))
    given, programs = shapes(net, x), []

    def read(program, examples):
        programs.append(program)
        return str(examples)

    def read_again(program, examples):
        return str(program is programs[0])

    assert read_from_trace(read, net, *given, x) == "11"
    assert read_from_trace(read, net, *given, jn.spec((9, 3))) == "11" and len(programs) == 1
    assert read_from_trace(read_again, net, *given, x) == "True"
    read_from_trace(read, net, *given, jn.spec((2, 3), jnp.bfloat16))
    assert len(programs) == 2 and programs[0] is not programs[1]


def test_the_batch_size_divides_no_other_size():
    net, x = jn.serial(jn.dense(22), jn.dense(13)), jn.spec((2, 17))
    assert read_from_trace(lambda _, examples: str(examples), net, *shapes(net, x), x) == "19"


def test_what_has_no_examples_has_no_trace():
    net = jn.stateless(lambda key, x: {}, lambda p, x: x, "scalar")
    assert read_from_trace(lambda *_: "read", net, {}, {}, jn.spec(())) == ""


def test_outputs_have_as_many_rows_as_the_inputs():
    net = jn.compose(lambda m, x: {"a": m(jn.dense(4), x), "b": x[:, 0]})
    x = jn.spec((6, 3))
    found = output_shapes(net, *shapes(net, x), x)
    assert {name: leaf.shape for name, leaf in found.items()} == {"a": (6, 4), "b": (6,)}


def test_outputs_whose_axes_are_not_those_of_the_examples_are_not_known():
    x = jn.spec((6, 3))
    for function in (lambda x: x.reshape(-1), lambda x: x.T, lambda x: x.sum(), lambda x: x[:2]):
        net = jn.serial(jn.dense(4), function)
        assert output_shapes(net, *shapes(net, x), x) is None
