"""What is known of functions before they are called."""

import functools

import jax.numpy as jnp
import pytest

from jaxnet.services.functions import function_name, takes


def test_the_name_of_a_function_is_that_of_its_definition():
    half = functools.partial(jnp.multiply, 0.5)
    named = {"multiply": half, "lambda": lambda x: x, "tanh": jnp.tanh}
    assert [function_name(f) for f in named.values()] == list(named)
    assert function_name(functools.partial(half)) == "multiply"


@pytest.mark.parametrize(("function", "counts"), [
    (lambda x, y=0: x, [1, 2]), (lambda: 0, [0]), (lambda *x: x, [0, 1, 2, 3]),
    (lambda x, *, y: x, []), (max, [0, 1, 2, 3]),
], ids=["default", "none", "any", "by name", "builtin"])  # fmt: skip
def test_numbers_of_arguments_by_position(function, counts):
    assert [n for n in range(4) if takes(function, n)] == counts
