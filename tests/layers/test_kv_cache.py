"""Keys and values of a stream; the law of chunks is in test_stream.py."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn

KEY = jax.random.key(0)
attention = partial(jn.multi_head_attention, 4, causal=True)


@pytest.mark.slow
def test_a_full_stream_raises_and_gives_nan_inside_jit():
    x = jnp.ones((2, 6, 8))
    net = attention()
    params, state = net.init(KEY, x)
    stream = jn.stream(net, 4)
    state = jn.start_stream(stream, x, state)
    y, _ = jax.jit(stream.apply)(params, state, x)
    assert np.isfinite(y[:, :4]).all()
    assert np.isnan(y[:, 4:]).all()
    _, state = stream.apply(params, state, x[:, :4])
    with pytest.raises(ValueError, match="multi_head_attention: the stream has 4 steps"):
        stream.apply(params, state, x[:, :1])
    windowed = jn.stream(attention(window=(1, 0)))  # needs no length
    state = jn.start_stream(windowed, x)
    for _ in range(3):
        y, state = windowed.apply(params, state, x)
    assert np.isfinite(y).all()
    assert state["keys"].shape == (2, 4, 1, 2)


@pytest.mark.slow
def test_kept_keys_may_be_narrow():
    x = jax.random.normal(jax.random.key(1), (2, 6, 8))
    net = attention()
    params, state = net.init(KEY, x)
    whole, _ = net.apply(params, state, x)
    stream = jn.stream(net, 6, dtype=jnp.bfloat16)
    first, after = stream.apply(params, jn.start_stream(stream, x), x[:, :2])
    rest, after = stream.apply(params, after, x[:, 2:])
    assert after["keys"].dtype == jnp.bfloat16
    assert rest.dtype == jnp.float32
    np.testing.assert_allclose(jnp.concatenate([first, rest], 1), whole, rtol=0.05, atol=0.05)
