"""Cross-entropy of a product with a large vocabulary, without all of its logits at once."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.losses.arrays import check_labels
from jaxnet.losses.classification import smoothed
from jaxnet.ops.precision import at_least_float32
from jaxnet.ops.product import add_bias, product
from jaxnet.services.checks import as_array, at_least, within
from jaxnet.services.nodes import Stored


def linear_cross_entropy(
    x: jax.Array,
    kernel: jax.Array | Stored,
    labels: jax.Array,
    *,
    bias: jax.Array | None = None,
    transposed: bool = False,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    chunk: int = 512,
) -> jax.Array:
    """Return the cross-entropy of the logits x @ kernel, computed for some rows at a time.

    For 4,096 tokens and 128,000 words the logits and their gradient take 4 GB. This holds those of
    `chunk` tokens, and computes them again in the backward pass, which adds a third to the time of
    the head. With one chunk the values equal those of `cross_entropy` to the bit.

    Args:
      x: Last hidden values (..., width).
      kernel: Kernel of the head (width, vocabulary): an array, or what `m.kernel` returns.
      labels: Integers (...) in [0, vocabulary).
      bias: Bias of the head (vocabulary,), or None.
      transposed: Whether the kernel is (vocabulary, width), as the table of a tied embedding.
      softcap: Bound c of the logits, as c * tanh(logits / c); None means no bound.
      label_smoothing: As in `cross_entropy`, in [0, 1).
      chunk: Largest number of rows at a time, at least 1.

    Returns:
      (...), in at least float32. Multiply it by weights, or by a mask of tokens that count.

    Raises:
      ValueError: If the shapes do not fit, or if a known label is not in the vocabulary.

    Example:
      >>> def language(m, batch):  # an objective: a layer whose input is a batch
      ...     ids, labels = batch
      ...     words = m.kernel("words", jn.initializers.normal(), (1000, 32))
      ...     x = m(jn.transformer_block(4, causal=True), jn.rows(words, ids))
      ...     return linear_cross_entropy(x, words, labels, transposed=True).mean(-1), {}
      >>> trainer = jn.trainer(jn.compose(language), optax.adam(1e-3))
      >>> ids = jnp.ones((4, 128), int)
      >>> _, metrics = trainer.step(trainer.init(jax.random.key(0), (ids, ids)), (ids, ids))

    Reference: Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models".
    """
    who = "linear_cross_entropy"
    x = as_array(who, "x", x)
    labels = as_array(who, "labels", labels, dtype="integers")
    at_least(who, "chunk", chunk)
    within(who, "label_smoothing", label_smoothing, "[0, 1)")
    within(who, "softcap", softcap, "(0, inf)", optional=True)
    width, vocabulary = kernel.shape[::-1] if transposed else kernel.shape
    if x.shape != (*labels.shape, width):
        raise ValueError(
            f"{who}: expected x (..., {width}) for a kernel {kernel.shape} and labels of the shape "
            f"of x without its last axis, got x {x.shape} and labels {labels.shape}"
        )
    check_labels(who, labels, vocabulary)
    dtype, bias_dtype = kernel.dtype, getattr(bias, "dtype", None)
    # So that the gradients of all chunks are added in float32.
    kernel = kernel.astype(jnp.promote_types(dtype, jnp.float32))
    bias = None if bias is None else at_least_float32(bias)

    @jax.checkpoint
    def values(args: Any) -> jax.Array:
        rows, targets = args
        cast_bias = None if bias is None else bias.astype(bias_dtype)
        logits = product(rows, kernel.astype(dtype), transposed=transposed)
        logits = at_least_float32(add_bias(logits, cast_bias))
        if softcap is not None:
            logits = softcap * jnp.tanh(logits / softcap)
        return smoothed(jax.nn.log_softmax(logits), targets, label_smoothing)

    count = -(-labels.size // chunk)
    if count <= 1:
        return values((x, labels))
    size = -(-labels.size // count)

    def cut(a: jax.Array, *last: int) -> jax.Array:
        # Each chunk has rows from everywhere, so that it stays divided like the batch on a mesh.
        a = a.reshape(-1, *last)
        missing = size * count - a.shape[0]
        padded = jnp.pad(a, [(0, missing)] + [(0, 0)] * len(last))
        return padded.reshape(size, count, *last).swapaxes(0, 1)

    losses = jax.lax.map(values, (cut(x, width), cut(labels)))
    return losses.swapaxes(0, 1).ravel()[: labels.size].reshape(labels.shape)
