"""Whisper, which writes down what is said in a recording.

The net takes (features, ids) and returns the logits of the next tokens.
`jaxnet.pretrained.processor` makes the features (batch, frames, bands) of 30 seconds from a file or
a wave: 3000 frames of 80 bands, or of 128 for large-v3. `jn.decoding.generate` takes them as
`inputs`, and a prompt of tokens that names the language and the task:

    net, params, state = jn.pretrained.load("openai/whisper-tiny", download=True)
    words = jn.pretrained.tokenizer("openai/whisper-tiny")
    x = jn.pretrained.processor("openai/whisper-tiny")("speech.wav")
    start = [[50258, 50259, 50359, 50363]]  # begin, English, transcribe, no times
    options = {"stop": 50257, "temperature": 0}
    found = jn.decoding.generate(net, params, start, inputs=(x,), length=200, **options)
    print(words.decode(found.lists()[0]))

`generate` encodes the recording once for all tokens, `jn.decoding.iterate` once for each token. The
tokens that generation_config.json suppresses are suppressed only if `logits=` does it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from jaxnet.interop import transposed
from jaxnet.pretrained.config import ACTIVATIONS, Config, Family, Rows, Stored
from jaxnet.pretrained.rows import PARTS, attention_rows, block_rows, dense_rows, norm_rows
from jaxnet.services.checks import at_least, check_options


def whisper(
    vocabulary: int,
    *,
    bands: int,
    width: int,
    encoder: Mapping[str, int],
    decoder: Mapping[str, int],
    activation: Any,
    dropout_rate: float,
    tied: bool,
) -> jn.Layer:
    """Make an encoder of sound and a decoder of tokens, see the head of this file.

    Args:
      vocabulary: Number of tokens.
      bands: Number of features of a frame.
      width: Width of the blocks.
      encoder, decoder: Their "depth", "heads", "mlp_features" and "positions". The encoder has a
        position for two frames.
      activation, dropout_rate: Options of the blocks.
      tied: Whether the logits use the table of the words.
    """
    norm = partial(jn.layer_norm, epsilon=1e-5)
    gelu = partial(jax.nn.gelu, approximate=False)
    frames = 2 * encoder["positions"]

    def blocks(m, x, memory=None, *, depth, heads, mlp_features, positions, **options):
        for i in range(depth):
            block = jn.transformer_block(
                heads,
                mlp_features,
                use_bias=(*BIASED, "mlp"),
                norm=norm,
                activation=activation,
                dropout_rate=dropout_rate,
                name=f"block_{i}",
                **options,
            )
            x = m(block, x, memory=memory)
        return m(norm(name="norm"), x)

    def listen(m, x):
        x = gelu(m(jn.conv(width, 3, padding=1, name="first"), x))
        x = gelu(m(jn.conv(width, 3, strides=2, padding=1, name="second"), x))
        waves = m.param("positions", jn.initializers.normal(0.02), (encoder["positions"], width))
        x = m(jn.dropout(dropout_rate), x + jax.lax.stop_gradient(waves))
        return blocks(m, x, **encoder)

    def write(m, inputs):
        memory, ids = inputs
        words = jn.embedding(vocabulary, width, tied=tied, name="words")
        x = m(jn.learned_positions(decoder["positions"], name="positions"), m(words, ids))
        x = m(jn.dropout(dropout_rate), x)
        x = blocks(m, x, memory, cross=True, causal=True, **decoder)
        return m(words if tied else jn.dense(vocabulary, use_bias=False, name="head"), x)

    def forward(m, inputs):
        x, ids = inputs
        if x.shape[1:] != (frames, bands):
            raise ValueError(
                f"whisper: expected features of shape (batch, {frames}, {bands}), got {x.shape}. "
                "jaxnet.pretrained.whisper.features makes them"
            )
        memory = m.whole(jn.compose(listen, name="encoder"), x)
        return m(jn.compose(write, name="decoder"), (memory, ids))

    return jn.compose(forward, name="whisper", kind="whisper")


def features(waves: Sequence[Any], bands: int = 80, *, mask: bool = False) -> Any:
    """Return the log-mel features of recordings, cut or padded to 30 seconds.

    `jaxnet.pretrained.processor` makes them from files, and from waves of other rates.

    Args:
      waves: Arrays (samples,) of floats in [-1, 1], with 16,000 samples per second.
      bands: Number of features, 128 for large-v3 and large-v3-turbo.
      mask: Whether to return too which frames begin before the end of their wave.

    Returns:
      Array (waves, 3000, bands) in float32, or with `mask` the pair of it and of booleans
      (waves, 3000).

    Raises:
      ValueError: If a wave has channels, is masked, holds integers, or is not finite.

    Example:
      >>> wave = np.sin(2 * np.pi * 440 / 16_000 * np.arange(16_000))  # one second of 440 Hz
      >>> x = features([wave])
      >>> x.shape, int(x[0, 50].argmax())
      ((1, 3000, 80), 11)
    """
    at_least("features", "bands", bands)
    check_options("features", mask=mask)
    waves = [as_wave("features", wave) for wave in waves]
    triangles = _triangles(bands)
    x = np.stack([_log_mel(wave, triangles) for wave in waves])
    if not mask:
        return x
    starts = HOP * np.arange(SAMPLES // HOP)
    return x, np.stack([starts < len(wave) for wave in waves])


def as_wave(who: str, wave: Any) -> np.ndarray:
    """Return a wave as an array (samples,); raise unless it holds finite floats.

    Example:
      >>> as_wave("features", [0.5, np.nan])
      Traceback (most recent call last):
      ...
      ValueError: features: a wave must be finite, got nan at sample 1
    """
    masked = isinstance(wave, np.ma.MaskedArray)
    wave = np.asarray(wave)
    if wave.ndim != 1 or wave.dtype.kind != "f" or masked:
        kind = "masked " if masked else ""
        advice = "write wave.filled(0)" if masked else "for a single wave pass [wave]"
        raise ValueError(
            f"{who}: expected waves of floats (samples,), got {kind}{wave.dtype} {wave.shape}; "
            f"{advice}"
        )
    lost = np.flatnonzero(~np.isfinite(wave))
    if lost.size:
        raise ValueError(f"{who}: a wave must be finite, got {wave[lost[0]]} at sample {lost[0]:,}")
    return wave


def _triangles(bands: int) -> np.ndarray:
    """Return the weight of each frequency in each band, (frequencies, bands).

    The scale is Slaney's, to 8000 Hz: linear up to 1000 Hz, which is step 15, then logarithmic.
    """
    last = 15 + 27 * np.log(8) / np.log(6.4)
    steps = np.linspace(0, last, bands + 2)
    edges = np.where(steps < 15, steps * 200 / 3, 1000 * 6.4 ** ((steps - 15) / 27))
    frequencies = np.arange(WINDOW // 2 + 1) * (RATE / WINDOW)
    columns = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        height = 2 / (high - low)
        columns.append(np.interp(frequencies, [low, middle, high], [0, height, 0]))
    return np.stack(columns, 1)


def _log_mel(wave: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Return the features of one recording, (frames, bands)."""
    wave = np.pad(wave[:SAMPLES], (0, max(SAMPLES - len(wave), 0)))
    padded = np.pad(wave, WINDOW // 2, "reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
    frames = windows[:-1:HOP] * np.hanning(WINDOW + 1)[:-1]
    power = abs(np.fft.rfft(frames)) ** 2  # (3000, 201)
    loudness = np.log10(np.maximum(power @ triangles, 1e-10))
    loudness = np.maximum(loudness, loudness.max() - 8)
    return ((loudness + 4) / 4).astype(np.float32)


def options(config: Config) -> dict[str, Any]:
    """Return the options of `whisper`."""
    entries = config.entries
    config.head("Whisper", {"": "", "ForConditionalGeneration": ""})
    for name, same in SAME.items():
        wanted = entries[same]
        got = config.raw.get(name, wanted)
        if got != wanted:
            raise config.error(f"{name} must be {wanted}, as {same}, got {got!r:.60}")
    net_options: dict[str, Any] = {ours: entries[name] for ours, name in NAMES.items()}
    for part, at in (("encoder", "source"), ("decoder", "target")):
        net_options[part] = {ours: entries[f"{part}_{name}"] for ours, name in SIZES.items()}
        net_options[part]["positions"] = entries[f"max_{at}_positions"]
        config.check_heads(net_options["width"], net_options[part]["heads"])
    return net_options | {"activation": ACTIVATIONS[entries["activation_function"]]}


def how_stored(config: Config, weights: Mapping[str, Any] | None) -> Stored:
    """Return how the weights are stored: some files have the tied table of the words twice."""
    net_options = options(config)
    frames = 2 * net_options["encoder"]["positions"]
    x = jn.spec((1, frames, net_options["bands"])), jn.spec((1, 1), jnp.int32)
    leave: tuple[str, ...] = ()
    if weights is not None and HEAD in weights:
        net_options["tied"] &= np.array_equal(weights[HEAD], weights[WORDS])
        leave = (HEAD,) if net_options["tied"] else ()
    return Stored(net_options, "", leave, x)


def rows(config: Config, stored: Stored) -> Rows:
    """Return the table of the names of Whisper."""
    options = stored.options
    table: Rows = {
        "encoder/positions": "model.encoder.embed_positions.weight",
        "decoder/positions/embedding": "model.decoder.embed_positions.weight",
        "decoder/words/embedding": WORDS,
        **dense_rows("encoder/first", "model.encoder.conv1"),
        **dense_rows("encoder/second", "model.encoder.conv2"),
    }
    if not options["tied"]:
        table["decoder/head/kernel"] = (HEAD, transposed)
    for part in ("encoder", "decoder"):
        width, heads = options["width"], options[part]["heads"]
        ours, theirs = f"{part}/block_{{i}}", f"model.{part}.layers.{{i}}"
        table |= norm_rows(f"{part}/norm", f"model.{part}.layer_norm")
        table |= block_rows(ours, theirs, MLP, width, heads)
        table |= norm_rows(f"{ours}/attention_norm", f"{theirs}.self_attn_layer_norm")
        table |= _attention_rows(f"{ours}/attention", f"{theirs}.self_attn", width, heads)
        if part == "decoder":
            cross = f"{theirs}.encoder_attn"
            table |= norm_rows(f"{ours}/cross_norm", f"{cross}_layer_norm")
            table |= _attention_rows(f"{ours}/cross_attention", cross, width, heads)
    return table


def _attention_rows(ours: str, theirs: str, width: int, heads: int) -> Rows:
    names = {part: f"{theirs}.{PROJECTIONS[part]}_proj" for part in PARTS}
    return attention_rows(ours, names, width, heads, BIASED)


RATE = 16_000  # samples per second
SAMPLES = 30 * RATE
WINDOW, HOP = 400, 160  # samples of a frame, and from one frame to the next
WORDS, HEAD = "model.decoder.embed_tokens.weight", "proj_out.weight"
MLP = {"mlp_norm": "final_layer_norm", "mlp_in": "fc1", "mlp_out": "fc2"}
PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "out"}
BIASED = ("query", "value", "out")
# Our options -> entries of the configuration, and their ends for the encoder and the decoder.
NAMES = {
    "vocabulary": "vocab_size",
    "bands": "num_mel_bins",
    "width": "d_model",
    "dropout_rate": "dropout",
    "tied": "tie_word_embeddings",
}
SIZES = {"depth": "layers", "heads": "attention_heads", "mlp_features": "ffn_dim"}
# Entries that repeat another one.
SAME = {
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "num_key_value_heads": "encoder_attention_heads",
}
DEFAULTS: dict[str, Any] = {
    "vocab_size": 51_865, "num_mel_bins": 80, "d_model": 384, "dropout": 0.0,
    "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536,
    "decoder_layers": 4, "decoder_attention_heads": 6, "decoder_ffn_dim": 1536,
    "max_source_positions": 1500, "max_target_positions": 448, "activation_function": "gelu",
    "tie_word_embeddings": True,
}  # fmt: skip
ONLY = {"is_encoder_decoder": True}
IGNORED = (
    *SAME, "activation_dropout", "encoder_layerdrop", "decoder_layerdrop", "init_std",
    "scale_embedding", "use_weighted_layer_sum", "classifier_proj_size", "apply_spec_augment",
    "mask_time_prob", "mask_time_length", "mask_time_min_masks", "mask_feature_prob",
    "mask_feature_length", "mask_feature_min_masks", "median_filter_width", "forced_decoder_ids",
)  # fmt: skip
FAMILIES = {"whisper": Family(DEFAULTS, options, whisper, rows, how_stored, ONLY, IGNORED)}
