"""The experts of gpt-oss, whose kernels are stored as floats or in mxfp4; see decoders.py.

In mxfp4, each byte has two numbers of 4 bits, and each 32 numbers share a power of two.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from jaxnet.pretrained.config import Rows
from jaxnet.pretrained.rows import dense_rows

NUMBERS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by the lowest 3 bits; the fourth is the sign


def mixture(features: int, experts: int, k: int, *, alpha: float, limit: float) -> jn.Layer:
    """Return experts with a clamped SwiGLU, whose gates are every second output of `mlp_in`.

    Args:
      features: Width of an expert's hidden layer.
      experts, k: Options of `jaxnet.moe`.
      alpha: Factor of the gate inside the sigmoid.
      limit: Bound of the gate, and of the size of what it multiplies.
    """

    def expert(m, x):
        both = m(jn.dense(2 * features, name="mlp_in"), x)
        gate = jnp.minimum(both[..., ::2], limit)
        linear = jnp.clip(both[..., 1::2], -limit, limit)
        hidden = gate * jax.nn.sigmoid(alpha * gate) * (linear + 1)
        return m(jn.dense(x.shape[-1], name="mlp_out"), hidden)

    return jn.moe(jn.compose(expert), experts, k, renormalize=True, use_bias=True)


def rows(block: str, packed: bool) -> Rows:
    """Return the rows of the experts and of the sinks of a block.

    Args:
      block: Beginning of its names.
      packed: Whether the kernels of the experts are stored in mxfp4.

    Example:
      >>> rows("layers.{i}", packed=False)["block_{i}/moe/experts/mlp_out/kernel"]
      'layers.{i}.mlp.experts.down_proj'
    """
    table = dense_rows("block_{i}/moe/router", f"{block}.mlp.router")
    table["block_{i}/attention/sinks"] = f"{block}.self_attn.sinks"
    for ours, theirs in (("mlp_in", "gate_up_proj"), ("mlp_out", "down_proj")):
        path = f"block_{{i}}/moe/experts/{ours}"
        name = f"{block}.mlp.experts.{theirs}"
        kernel = (f"{name}_blocks", f"{name}_scales", mxfp4) if packed else name
        table[f"{path}/kernel"] = kernel
        table[f"{path}/bias"] = f"{name}_bias"
    return table


def mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return kernels (experts, inputs, outputs) in bfloat16, which has all their numbers.

    Args:
      blocks: Bytes (experts, outputs, inputs / 32, 16); the lower half of a byte comes first.
      scales: Exponents (experts, outputs, inputs / 32), plus 127.

    Raises:
      ValueError: If they are not bytes, or their shapes do not fit.

    Example:
      >>> blocks = np.full((1, 1, 1, 16), 0x20, np.uint8)
      >>> mxfp4(blocks, np.full((1, 1, 1), 128, np.uint8))[0, :4, 0].tolist()
      [0.0, 2.0, 0.0, 2.0]
    """
    if blocks.dtype != np.uint8 or scales.dtype != np.uint8:
        raise ValueError(f"expected bytes (uint8), got {blocks.dtype} and {scales.dtype}")
    if blocks.ndim != 4 or blocks.shape != (*scales.shape, 16):
        raise ValueError("expected (experts, outputs, inputs / 32, 16) and its first three axes")
    experts, outputs, groups = scales.shape
    pairs = _pairs()[scales[..., None], blocks].view(jnp.bfloat16)
    return pairs.reshape(experts, outputs, 32 * groups).mT


@cache
def _pairs() -> np.ndarray:
    """Return both numbers of each byte for each scale, (256, 256), as 32 bits."""
    numbers = np.array([*NUMBERS, *np.negative(NUMBERS)], np.float32)
    bytes_ = np.arange(256)
    low, high = numbers[bytes_ & 15], numbers[bytes_ >> 4]
    pairs = np.stack([low, high], -1)
    exponents = bytes_[:, None, None] - 127
    with np.errstate(over="ignore"):  # infinite, as in transformers
        scaled = np.ldexp(pairs, exponents)
    return scaled.astype(jnp.bfloat16).view(np.uint32)[..., 0]
