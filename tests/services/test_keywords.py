"""Arguments as other libraries name them."""

import doctest
import importlib
import inspect

import jax.numpy as jnp
import pytest

import jaxnet as jn
from jaxnet.services.keywords import _ELSEWHERE, explain_keywords
from tests.helpers import refuses

test_message_says_what_to_write = refuses([
    (lambda: jn.conv(8, 3, stride=2), "conv: unknown argument stride; write strides="),
    (lambda: jn.dense(8, activation="relu"), "dense: .* jn.serial"),
    (lambda: jn.dense(784, 10), "dense: expected features by position, got 2; .* inputs"),
    (lambda: jn.batch_norm(64), "batch_norm: expected no argument by position, got 1; .*name$"),
    (lambda: jn.lstm(8, num_layers=2), "lstm: .* jn.layers.stack_rnn"),
    (lambda: jn.conv(8, 3, stridess=2), "conv: unknown argument stridess; write strides="),
    (lambda: jn.dense(8, zzz=1), "dense: unknown argument zzz; known: features, use_"),
    (lambda: jn.fit(None, None, None, callbacks=[]), "fit: .* for epoch in jn.fit"),
    (lambda: jn.trainer(None, learning_rate=1e-3), "trainer: .* belongs to the optimizer"),
], TypeError)  # fmt: skip


def test_what_is_missing_is_named_by_python():
    with pytest.raises(TypeError, match=r"conv\(\) missing 1 required positional argument"):
        jn.conv(8)


def test_known_arguments_pass():
    assert jn.rnn(8, activation=jnp.tanh).kind == "rnn"  # a hint elsewhere, an argument here
    assert jn.dense(features=2).kind == "dense"


def test_function_looks_like_itself():
    def half(x, *, eps=0.0):
        """Half of x."""
        return x / 2 + eps

    same = explain_keywords(half)
    assert same(4, eps=1) == 3
    assert inspect.signature(same) == inspect.signature(half) and same.__doc__ == half.__doc__


def test_hints_name_arguments_that_exist():
    """`write NAME=` is an argument of one of the functions that give hints."""
    functions = [jn.dense, jn.conv, jn.rnn, jn.batch_norm, jn.embedding, jn.group_norm, jn.max_pool,
                 jn.dropout, jn.multi_head_attention, jn.transformer_block, jn.fit]  # fmt: skip
    known = {name for function in functions for name in inspect.signature(function).parameters}
    for hint in _ELSEWHERE.values():
        for word in hint.replace(" and ", " ").split():
            if word.endswith("="):
                assert word.strip("=,") in known, hint


def test_examples_of_wrapped_functions_run():
    module = importlib.import_module(jn.dense.__module__)
    found = [test.name for test in doctest.DocTestFinder().find(module) if test.examples]
    assert "jaxnet.layers.dense.dense" in found
