"""The transformer block."""

from collections.abc import Callable, Collection
from typing import Any, Literal

import jax

from jaxnet.core import Layer, as_layer, compose
from jaxnet.layers.attention import PROJECTIONS, Rotation, multi_head_attention, with_bias
from jaxnet.layers.dense import dense
from jaxnet.layers.dropout import dropout
from jaxnet.layers.norm import layer_norm
from jaxnet.services import checks
from jaxnet.services.checks.keywords import explain_keywords
from jaxnet.services.functions import activated


@explain_keywords
def transformer_block(
    heads: int,
    mlp_features: int | None = None,
    *,
    head_size: int | None = None,
    kv_heads: int | None = None,
    causal: bool = False,
    window: int | tuple[int, int] | None = None,
    rotary: bool | Rotation = False,
    bias: Layer | Callable | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: bool = False,
    qk_norm: Callable[..., Layer] | None = None,
    cross: bool = False,
    gated: bool = False,
    mlp: Layer | None = None,
    use_bias: bool | Collection[str] = True,
    dropout_rate: float = 0.0,
    activation: Callable[[jax.Array], jax.Array] = jax.nn.gelu,
    norm: Callable[..., Layer] = layer_norm,
    norm_at: Literal["input", "sum", "output", "both"] = "input",
    residual_scale: float = 1.0,
    name: str = "transformer_block",
) -> Layer:
    """Apply self-attention and an MLP, each to a normalized input and added to it (pre-norm).

    The rest of the input passes through, so that blocks can be chained by `serial`. Normalize the
    output of the last block, unless norm_at="sum".

    Inputs:
      x            Array (batch, time, width).
      mask         Which positions of x it attends to, as in `multi_head_attention`. With
                   causal=True padding at the end needs no mask, since no query attends to it.
      memory       Array (batch, places, width'), with cross=True.
      memory_mask  Which places of the memory it attends to.
    Write x, or (x, mask), or a dict by name: {"x": x, "memory": memory, "memory_mask": lengths};
    inside a model `m(block, x, mask=mask, memory=memory)`. With causal=True a block works in
    `jn.stream`, which takes x in chunks, and a memory whole at each call.

    Args:
      heads: Number of heads, see `multi_head_attention`.
      mlp_features: Width of the MLP's hidden layer; 4 times the width of x by default.
      head_size, kv_heads, causal, window, rotary, bias, scale, softcap, sinks, qk_norm: Options of
        `multi_head_attention`; the second attention has no bias by positions.
      cross: Whether a second attention, to a memory, follows the first: a decoder block.
      gated: Whether the MLP's hidden layer is multiplied by a second projection, as in SwiGLU with
        activation=jax.nn.silu: mlp_out(activation(mlp_in(x)) * mlp_gate(x)). The activated half is
        mlp_in, which Llama calls gate_proj; mlp_gate is its up_proj, and mlp_out its down_proj.
      mlp: Layer instead of the MLP, such as a mixture of experts. It gets x alone, so padding takes
        part in the balance and the capacity of a mixture.
      use_bias: Whether attention and MLP have biases, or the names of the parts with biases, among
        query, key, value, out and mlp.
      dropout_rate: Fraction to drop of the weights of the attention, and of each branch before it
        is added to x.
      activation: Activation of the MLP; GELU in its tanh form by default.
      norm: Function that makes the norms, such as layer_norm or rms_norm.
      norm_at: Place of the norms: "input" of attention and MLP (pre-norm); their "output" before
        it is added, as in OLMo 2; "both", as in Gemma 2, with the norms of the outputs named
        attention_out_norm and mlp_out_norm; or the "sum" (post-norm), as in the original
        transformer and BERT.
      residual_scale: Factor of each branch where it is added to x, as in Granite.
      name: Name of the layer.

    Params:
      attention, cross_attention: params of `multi_head_attention`;
      attention_norm, cross_norm, mlp_norm: params of `norm`;
      mlp_in, mlp_gate, mlp_out: kernel (inputs, features), bias (features,); or the params of `mlp`
      under its name.

    Returns:
      A layer with outputs (batch, time, width), without the mask.

    Raises:
      ValueError: As in `multi_head_attention`.
      ValueError: If `norm_at` is unknown.

    Example:
      >>> net = jn.serial(transformer_block(2, 32), transformer_block(2, 32))
      >>> given = (jnp.ones((3, 5, 8)), jnp.array([5, 2, 4]))  # lengths
      >>> params, state = net.init(jax.random.key(0), given)
      >>> y, _ = net.apply(params, state, given)  # both blocks get the lengths
      >>> y.shape
      (3, 5, 8)

    Reference: post-norm: Vaswani et al. 2017, "Attention Is All You Need"; pre-norm: Xiong et al.
    2020, "On Layer Normalization in the Transformer Architecture"; gates: Shazeer 2020, "GLU
    Variants Improve Transformer".
    """
    shared: dict[str, Any] = {"head_size": head_size, "kv_heads": kv_heads, "qk_norm": qk_norm}
    shared |= {"scale": scale, "softcap": softcap, "sinks": sinks, "dropout_rate": dropout_rate}
    checks.check_name("transformer_block", name)
    checks.check_options(name, cross=cross, gated=gated)
    checks.one_of(name, "norm_at", norm_at, ("input", "sum", "output", "both"))
    biased = with_bias(name, use_bias, (*PROJECTIONS, "mlp"))
    mlp = None if mlp is None else as_layer(mlp, name, "mlp")
    checks.at_least(name, "mlp_features", mlp_features, optional=True)
    checks.a_function(name, "activation", activation, "an array")
    checks.a_function(name, "norm", norm, "name=...")
    checks.within(name, "residual_scale", residual_scale, "(0, inf)")
    shared["use_bias"] = [part for part in PROJECTIONS if part in biased]
    mode: dict[str, Any] = {"causal": causal, "window": window, "rotary": rotary, "bias": bias}
    multi_head_attention(heads, name=name, **mode, **shared)  # an error names the block
    self_attention = multi_head_attention(heads, name="attention", **mode, **shared)
    other = multi_head_attention(heads, name="cross_attention", **shared)

    def transform(m, x):
        if mlp is not None:
            return m(mlp, x)
        use_bias = "mlp" in biased
        return gated_mlp(m, x, mlp_features, gated=gated, activation=activation, use_bias=use_bias)

    def add(m, branch, part, x):
        """Return x plus its branch, with the norms of this part."""
        first = norm(name=f"{part}_norm")
        y = branch(m(first, x) if norm_at in ("input", "both") else x)
        if norm_at == "output":
            y = m(first, y)
        elif norm_at == "both":
            y = m(norm(name=f"{part}_out_norm"), y)
        if dropout_rate:
            y = m(dropout(dropout_rate), y)
        if residual_scale != 1:
            y = y * residual_scale
        y = x + y
        return m(first, y) if norm_at == "sum" else y

    def forward(m, x, mask=None, memory=None, memory_mask=None):
        checks.check_rank(name, x, 2, "(batch, time, width)")
        _check_memory(name, cross, memory, memory_mask)
        x = add(m, lambda x: m(self_attention, x, mask=mask), "attention", x)
        if cross:
            x = add(m, lambda x: m(other, x, mask=memory_mask, memory=memory), "cross", x)
        return add(m, lambda x: transform(m, x), "mlp", x)

    return compose(forward, name=name, kind="transformer_block")


def _check_memory(name: str, cross: bool, memory: Any, memory_mask: Any) -> None:
    if cross and memory is None:
        raise ValueError(f'{name}: with cross=True expected a memory, {{"x": x, "memory": memory}}')
    if not cross and (memory is not None or memory_mask is not None):
        raise ValueError(f"{name}: got a memory; write transformer_block(..., cross=True)")


def gated_mlp(
    m: Any,
    x: jax.Array,
    features: int | None,
    *,
    gated: bool,
    activation: Callable[[jax.Array], jax.Array],
    use_bias: bool,
) -> jax.Array:
    """Return the output of the MLP of a block, whose layers are children of the caller.

    Args:
      m: Scope of the layer that has the MLP.
      x: Input (..., width).
      features: Width of the hidden layer; None is 4 times the width of x.
      gated, activation: Options of `transformer_block`.
      use_bias: Whether the dense layers have biases.

    Returns:
      Array (..., width).
    """
    wide = 4 * x.shape[-1] if features is None else features
    hidden = activated(activation, m(dense(wide, use_bias=use_bias, name="mlp_in"), x))
    if gated:
        hidden = hidden * m(dense(wide, use_bias=use_bias, name="mlp_gate"), x)
    return m(dense(x.shape[-1], use_bias=use_bias, name="mlp_out"), hidden)
