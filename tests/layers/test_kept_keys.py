"""Keys and values of a stream; the law of chunks is in test_stream.py."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.compiled import jit_apply, jit_init

KEY = jax.random.key(0)
attention = partial(jn.multi_head_attention, 4, causal=True)


@pytest.mark.parametrize("cuts", [(3, 4), (70, 71)], ids=["weights", "blocks"])
def test_chunks_see_what_the_whole_sequence_sees(cuts):
    x = np.random.default_rng(1).normal(size=(2, cuts[0] + cuts[1], 8)).astype(np.float32)
    net = attention(window=(2, 0), rotary=True)
    params, state = jit_init(net, KEY, x)
    stream, parts = jn.stream(net, x.shape[1]), []
    after = jn.start_stream(stream, x, state)
    for chunk in np.split(x, cuts, 1):
        y, after = jit_apply(stream, params, after, chunk)
        parts.append(y)
    whole, _ = jit_apply(net, params, state, x)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_full_stream_raises_and_gives_nan_inside_jit():
    x = jnp.ones((2, 6, 8))
    net = attention()
    params, state = net.init(KEY, x)
    stream = jn.stream(net, 4)
    state = jn.start_stream(stream, x, state)
    y, _ = jax.jit(stream.apply)(params, state, x)
    assert np.isfinite(y[:, :4]).all() and np.isnan(y[:, 4:]).all()
    _, state = stream.apply(params, state, x[:, :4])
    with pytest.raises(ValueError, match="multi_head_attention: the stream has 4 steps"):
        stream.apply(params, state, x[:, :1])
    windowed = jn.stream(attention(window=(1, 0)))  # needs no length
    state = jn.start_stream(windowed, x)
    for _ in range(3):
        y, state = windowed.apply(params, state, x)
    assert np.isfinite(y).all() and state["keys"].shape == (2, 4, 1, 2)


@pytest.mark.slow
def test_kept_keys_may_be_narrow():
    x = jax.random.normal(jax.random.key(1), (2, 6, 8))
    net = attention()
    params, state = net.init(KEY, x)
    whole, _ = net.apply(params, state, x)
    stream = jn.stream(net, 6, dtype=jnp.bfloat16)
    first, after = stream.apply(params, jn.start_stream(stream, x), x[:, :2])
    rest, after = stream.apply(params, after, x[:, 2:])
    assert after["keys"].dtype == jnp.bfloat16 and rest.dtype == jnp.float32
    np.testing.assert_allclose(jnp.concatenate([first, rest], 1), whole, rtol=0.05, atol=0.05)
