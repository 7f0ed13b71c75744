"""The decoder of language models: Llama, Qwen, Gemma, Mistral, OLMo, GPT-2 by options."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

import jaxnet as jn
from jaxnet.initializers import lecun_normal
from jaxnet.services.checks import all_at_least, all_within, check_options, one_of
from jaxnet.services.trees import describe
from jaxnet.tools import gated_mlp
from jaxnet.typing import Rotation

NORMS = {"rms": jn.rms_norm, "layer": jn.layer_norm}


def decoder(
    vocabulary: int,
    *,
    depth: int,
    width: int,
    heads: int,
    kv_heads: int | None = None,
    head_size: int | None = None,
    mlp_features: int | None = None,
    activation: Callable[[jax.Array], jax.Array] = jax.nn.silu,
    gated: bool = True,
    mlp: jn.Layer | None = None,
    experts: int | None = None,
    experts_per_token: int = 2,
    norm: Literal["rms", "layer"] = "rms",
    norm_at: Literal["input", "sum", "output", "both"] = "input",
    epsilon: float = 1e-6,
    qk_norm: Literal["none", "head", "all"] = "none",
    use_bias: bool | Collection[str] = False,
    rotary: bool | Rotation = True,
    max_length: int | None = None,
    window: int | tuple[int, int] | None = None,
    windowed: Sequence[bool] = (True,),
    local_rotary: bool | Rotation | None = None,
    bias: jn.Layer | Callable | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: bool = False,
    logit_softcap: float | None = None,
    embedding_scale: float = 1.0,
    residual_scale: float = 1.0,
    logit_scale: float = 1.0,
    tied: bool = False,
    dropout_rate: float = 0.0,
    name: str = "decoder",
) -> jn.Layer:
    """Make a causal language model: an embedding, transformer blocks, a norm, and logits.

    The defaults match Llama. `decoder_config` reads the options of a published model, and
    `jaxnet.pretrained.load` its weights too. `jn.stream` keeps keys and values for chunks, and
    `jn.decoding.generate` writes text.

    Args:
      vocabulary: Number of ids.
      depth: Number of blocks, at least 1.
      width: Width of the embeddings.
      heads, kv_heads, head_size, bias, scale, softcap, sinks: Options of
        `jaxnet.multi_head_attention`.
      mlp_features, activation, gated, mlp, norm_at, use_bias, residual_scale, dropout_rate: Options
        of `jaxnet.transformer_block`.
      experts: Number of MLPs, or of copies of `mlp`, in each block, of which a router chooses
        `experts_per_token` for each token, as in Mixtral; see `jaxnet.moe`. None is one MLP.
      norm: Kind of all norms, "rms" or "layer".
      epsilon: Number added in all norms.
      qk_norm: Whether queries and keys are normalized: "none", each "head" for itself, as in Qwen 3
        and Gemma 3, or "all" heads together, as in OLMo 2.
      rotary: Whether queries and keys are rotated by their positions, or the function that does,
        such as `functools.partial(jn.rotary, base=500_000.0)`.
      max_length: Largest number of positions, each with a learned vector, as in GPT-2; None means
        no learned positions.
      window: Number of positions before its own that each query attends to; None is all.
      windowed: Booleans for the first blocks, True if a block has the window and `local_rotary`;
        repeated for the others.
      local_rotary: The same as `rotary` for these blocks, such as False, as in SmolLM3; None is
        `rotary`.
      logit_softcap: Bound c of the logits, as c * tanh(logits / c); None means no bound.
      embedding_scale: Factor of the embeddings.
      logit_scale: Factor of the logits, before their bound.
      tied: Whether the logits are products with the table of the embeddings.
      name: Name of the model.

    Inputs:
      x     Integers (batch, time), or `jn.Labeled(ids, labels)` to train with a large vocabulary.
      mask  Which positions count, as in `jaxnet.multi_head_attention`. Padding at the end needs no
            mask. With `jn.Segments`, for packed rows, learned positions begin anew in each text.

    Output:
      logits (batch, time, vocabulary); for `jn.Labeled` the cross-entropy of each label, (batch,
      time), by `jaxnet.losses.linear_cross_entropy`, which never holds all logits at once.

    Params:
      embedding; positions, with max_length; block_0, block_1, ...; norm; head (a kernel alone),
      unless tied.

    Returns:
      A layer from integers (batch, time) to logits (batch, time, vocabulary), and from
      `jn.Labeled` to losses (batch, time).

    Raises:
      ValueError: If a size is below 1, or as in `jaxnet.transformer_block`.

    Example:
      >>> net = decoder(11, depth=2, width=8, heads=4, kv_heads=2, mlp_features=16)
      >>> ids = jnp.array([[1, 5, 0, 2]])
      >>> params, state = net.init(jax.random.key(0), ids)
      >>> logits, _ = net.apply(params, state, ids)
      >>> logits.shape, sorted(params)
      ((1, 4, 11), ['block_0', 'block_1', 'embedding', 'head', 'norm'])

      Trained without the logits of all tokens:

      >>> def objective(m, ids, labels):
      ...     return m(net, jn.Labeled(ids, labels)).mean(-1), {}
      >>> trainer = jn.trainer(jn.compose(objective), optax.adam(1e-3))
      >>> train_state = trainer.init(jax.random.key(0), (ids, ids))
      >>> train_state, metrics = trainer.step(train_state, (ids, ids))

      SmolLM2 of 135 million parameters:

      >>> sizes = {"depth": 30, "width": 576, "heads": 9, "kv_heads": 3, "mlp_features": 1536}
      >>> net = decoder(49152, **sizes, tied=True)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), ids)
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '134,515,008'

    Reference: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2);
    Llama Team 2024, "The Llama 3 Herd of Models"; Gemma Team 2024 and 2025, "Gemma 2" and "Gemma
    3"; Qwen Team 2025, "Qwen3"; OLMo Team 2024, "2 OLMo 2 Furious"; Jiang et al. 2024, "Mixtral of
    Experts".
    """
    all_at_least(name, vocabulary=vocabulary, depth=depth, width=width)
    one_of(name, "norm", norm, NORMS)
    one_of(name, "qk_norm", qk_norm, ("none", "head", "all"))
    check_options(name, tied=tied)
    _check_windowed(name, windowed)
    all_within(name, "(0, inf)", optional=True, logit_softcap=logit_softcap)
    all_within(name, "(0, inf)", embedding_scale=embedding_scale, logit_scale=logit_scale)
    normal = partial(NORMS[norm], epsilon=epsilon)
    qk_norms = {"none": None, "head": normal, "all": partial(_across_heads, normal)}
    if experts is not None:  # the weights of one expert alone are 1, too
        expert = mlp or _expert(mlp_features, gated, activation)
        mlp = jn.moe(expert, experts, experts_per_token, renormalize=True)
    shared = {
        "causal": True,
        "norm": normal,
        "norm_at": norm_at,
        "head_size": head_size,
        "kv_heads": kv_heads,
        "qk_norm": qk_norms[qk_norm],
        "bias": bias,
        "scale": scale,
        "softcap": softcap,
        "sinks": sinks,
        "gated": gated,
        "mlp": mlp,
        "activation": activation,
        "use_bias": use_bias,
        "dropout_rate": dropout_rate,
        "residual_scale": residual_scale,
    }

    near = {"window": window, "rotary": rotary if local_rotary is None else local_rotary}
    far = {"window": None, "rotary": rotary}
    blocks = []
    for i in range(depth):
        attention_options = near if windowed[i % len(windowed)] else far
        options: dict[str, Any] = {**shared, **attention_options, "name": f"block_{i}"}
        blocks.append(jn.transformer_block(heads, mlp_features, **options))
    embedding, head = _embedding_and_head(vocabulary, width, tied, logit_softcap)

    def forward(m, x, mask=None):
        ids, mask, labels = _read(name, x, mask)
        x = _scaled(m(embedding, ids), embedding_scale)
        x = _at_positions(m, x, mask, max_length, dropout_rate)
        for layer in blocks:
            x = m(layer, x, mask=mask)
        x = m(normal(name="norm"), x)
        x = _scaled(x, logit_scale)
        if labels is not None:
            return m(head, jn.Labeled(x, labels))
        return _softcapped(m(head, x), logit_softcap)

    return jn.compose(forward, name=name, kind="decoder")


def _read(name: str, x: Any, mask: Any) -> tuple[Any, Any, Any]:
    """Return the ids, their mask and their labels; None is what is not there."""
    x, labels = x if isinstance(x, jn.Labeled) else (x, None)
    if isinstance(x, tuple | list):
        if len(x) != 2 or mask is not None:
            raise ValueError(
                f"{name}: expected ids, (ids, mask), or jn.Labeled of one of these and the labels, "
                f"got {describe(x)}"
            )
        x, mask = x
    return x, mask, labels


def _check_windowed(name: str, windowed: Any) -> None:
    flags = windowed if isinstance(windowed, tuple | list) else ()
    if not flags or not all(isinstance(one, bool) for one in flags):
        raise ValueError(
            f"{name}: windowed must be booleans, such as (True, False), got {windowed!r:.60}"
        )


def _expert(features: int | None, gated: bool, activation: Callable) -> jn.Layer:
    """Return the MLP of an expert."""

    def expert(m, x):
        return gated_mlp(m, x, features, gated=gated, activation=activation, use_bias=False)

    return jn.compose(expert)


def _embedding_and_head(
    vocabulary: int, width: int, tied: bool, softcap: float | None
) -> tuple[jn.Layer, jn.Layer]:
    """Return the layers of vectors and of logits; they are the same layer if tied."""
    embedding = jn.embedding(vocabulary, width, tied=tied, name="embedding")
    if tied:
        both = _with_losses(embedding, width, vocabulary, softcap)
        return both, both
    head = jn.dense(vocabulary, use_bias=False, name="head")
    return embedding, _with_losses(head, width, vocabulary, softcap)


def _scaled(x: jax.Array, scale: float) -> jax.Array:
    return x if scale == 1 else x * jnp.asarray(scale, x.dtype)


def _softcapped(y: jax.Array, bound: float | None) -> jax.Array:
    return y if bound is None else bound * jnp.tanh(y / bound)


def _at_positions(
    m, x: jax.Array, mask: Any, max_length: int | None, dropout_rate: float
) -> jax.Array:
    """Return vectors plus learned positions, if there are any, after dropout."""
    if max_length is not None:
        positioned = x
        if isinstance(mask, jn.Segments):
            positioned = (x, mask.positions())
        x = m(jn.learned_positions(max_length, name="positions"), positioned)
    if dropout_rate:
        x = m(jn.dropout(dropout_rate), x)
    return x


def _across_heads(norm: Callable[..., jn.Layer], *, name: str) -> jn.Layer:
    """Return a norm of all heads together, (batch, time, heads, size)."""

    def forward(m, x):
        together = jax.lax.collapse(x, 2)
        return m._inline(norm(), together).reshape(x.shape)

    return jn.compose(forward, name=name, kind="across_heads")


def _with_losses(layer: jn.Layer, width: int, vocabulary: int, softcap: float | None) -> jn.Layer:
    """Return the layer of logits, which maps `Labeled` vectors to their cross-entropy."""

    def forward(m, x):
        if not isinstance(x, jn.Labeled):
            return m._inline(layer, x)
        x, labels = x
        tied = layer.kind == "embedding"
        if tied:
            kernel = m.kernel("embedding", lecun_normal(), (vocabulary, width))
        else:
            kernel = m.kernel("kernel", lecun_normal(), (width, vocabulary))
        options = {"transposed": tied, "softcap": softcap}
        return jn.losses.linear_cross_entropy(x, kernel, labels, **options)

    return jn.compose(forward, name=layer.name, kind=layer.kind)
