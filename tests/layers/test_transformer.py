"""The transformer block, against PyTorch's and in a stream."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.services.trees import flat
from tests.helpers import beside_memory, draw
from tests.layers.test_attention import alibi, random_params, run


def in_steps(block, params, x, memory=None):
    """The outputs of a decoder block for one place after another."""
    stream = jn.stream(block, x.shape[1])
    outputs = []
    state = jn.start_stream(stream, beside_memory(x, memory))
    apply = jax.jit(stream.apply)
    for t in range(x.shape[1]):
        y, state = apply(params, state, beside_memory(x[:, t : t + 1], memory))
        outputs.append(y)
    return jnp.concatenate(outputs, 1)


@pytest.mark.slow
def test_post_norm_with_a_memory_by_its_parts(x64):
    """With norm_at="sum" each sum is normalized, in a decoder too, and step by step.

    The bias by positions is that of the self-attention alone.
    """
    x = jnp.asarray(draw(2, 5, 6))
    memory = jnp.asarray(draw(2, 4, 3, seed=1))
    options = {"cross": True, "norm_at": "sum"}
    block = jn.transformer_block(2, 9, causal=True, bias=alibi, **options)
    p = random_params(block, beside_memory(x, memory))
    y = run(block, p, beside_memory(x, memory))

    def part(layer, name, given):
        return run(layer, p[name], given)

    norm = jn.layer_norm()
    attention = jn.multi_head_attention(2, causal=True, bias=alibi)
    h = part(norm, "attention_norm", x + part(attention, "attention", x))
    cross = part(jn.multi_head_attention(2), "cross_attention", beside_memory(h, memory))
    h = part(norm, "cross_norm", h + cross)
    hidden = jax.nn.gelu(part(jn.dense(9), "mlp_in", h))
    wanted = part(norm, "mlp_norm", h + part(jn.dense(6), "mlp_out", hidden))
    np.testing.assert_allclose(y, wanted, 1e-10)
    np.testing.assert_allclose(in_steps(block, p, x, memory), y, 1e-9)


@pytest.mark.slow
def test_a_layer_in_place_of_the_mlp(x64):
    x = jnp.asarray(draw(2, 5, 6))
    block = jn.transformer_block(2, mlp=jn.dense(6, name="expert"))
    p = random_params(block, x)
    assert set(p) == {"attention_norm", "attention", "mlp_norm", "expert"}
    y = run(jn.layer_norm(), p["attention_norm"], x)
    h = x + run(jn.multi_head_attention(2), p["attention"], y)
    wanted = h + run(jn.dense(6), p["expert"], run(jn.layer_norm(), p["mlp_norm"], h))
    np.testing.assert_allclose(run(block, p, x), wanted, 1e-10)


def test_biases_by_name():
    def biased(layer):
        params, _ = layer.init(jax.random.key(0), jn.spec((2, 5, 8)))
        return {path for path, _ in flat(params) if path.endswith("bias")}

    assert biased(jn.multi_head_attention(2, use_bias=["query"])) == {"query/bias"}
    some = jn.transformer_block(2, use_bias=("key", "mlp"), norm=jn.rms_norm)
    assert biased(some) == {"attention/key/bias", "mlp_in/bias", "mlp_out/bias"}
    with pytest.raises(ValueError, match="use_bias must be True, False or some of query, key"):
        jn.multi_head_attention(2, use_bias=["mlp"])
    with pytest.raises(TypeError, match="use_bias must be"):
        jn.transformer_block(2, use_bias="query")


@pytest.mark.slow
def test_the_mlp_is_four_times_as_wide_by_default():
    params, _ = jn.transformer_block(heads=2).init(jax.random.key(0), jn.spec((2, 5, 8)))
    assert params["mlp_in"]["kernel"].shape == (8, 32)
