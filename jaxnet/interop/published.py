"""Published models: from a folder, a file or a name to a net with its weights, and back."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxnet.core import Layer, Params, State, as_layer, transformed
from jaxnet.data import Vocabulary
from jaxnet.decoding import iterate
from jaxnet.interop.names import Source, by_names, to_names
from jaxnet.interop.weights import open_weights, write_files
from jaxnet.services.checks import check_list, check_options, check_type
from jaxnet.services.extras import extra
from jaxnet.services.files import file_path

WANTED = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
READ = {"allow_patterns": WANTED, "ignore_patterns": ["*/*"]}  # of a repository, no subfolders


def load(
    source: str | Path,
    *,
    dtype: Any = None,
    put: Callable[[str, jax.Array], jax.Array] | None = None,
    integers: bool = False,
) -> tuple[Layer, Params, State]:
    """Read a published model: the net, its params and its state.

    The model_type of the configuration says which net it is; `jn.models.published` has the
    families, such as Llama, Qwen, Gemma, Phi, OLMo and Granite. Each array is read, cast and placed
    before the next one is read. Nothing that is read is run: the code that the configurations of
    Phi name as `auto_map` is not used. The net's data hold the configuration, so that `save` can
    write it.

    Args:
      source: Folder with config.json and safetensors files, as `transformers` writes it; a file
        that ends in .gguf, of llama.cpp; or the name of a repository of Hugging Face, such as
        "HuggingFaceTB/SmolLM2-135M", whose files `huggingface_hub` downloads or finds in its cache.
      dtype: Dtype of the params, such as jnp.bfloat16; None is float32. It is also the dtype of
        experts that are stored in MXFP4, as those of gpt-oss are.
      put: Function of (path, array) that places an array, as in `by_names`.
      integers: Whether kernels and tables that a .gguf file holds as integers stay so, each 32 or
        16 with a scale in float16 and perhaps their lowest value. Q4_0, Q4_1 and Q8_0 take the
        file's bytes. The scales of Q2_K to Q6_K and IQ4_XS are products in the file, and rounded:
        relative errors are up to 2**-11. A number takes 5 bits of Q3_K and Q4_K, 6 of Q2_K, 8.5 of
        Q5_0, IQ4_NL and IQ4_XS, and 9 of Q5_1, Q5_K and Q6_K. The net is then like `jn.quantized`,
        and `jn.merge(net, params)` makes them floats.

    Returns:
      (net, params, state). A decoder takes token ids (batch, time); an encoder such as BERT or
      ModernBERT takes ids or (ids, mask), see `jaxnet.models.published.encoders`. ViT, DeiT, DINOv2
      and ConvNeXt take images (batch, height, width, 3), whose pixels are normalized as
      preprocessor_config.json says, see `jaxnet.models.published.vision`. CLIP and SigLIP take
      (images, ids), or None for one of them, see `jaxnet.models.published.pairs`. Whisper takes
      (features, ids) of speech, see `jaxnet.models.published.whisper`.

    Raises:
      OSError: If a file is missing or cannot be read.
      ImportError: If a name is given without huggingface_hub, or a .gguf file without gguf.
      ValueError: If the model_type is unknown, an entry of the configuration is unknown or has a
        value that the net cannot compute, or the weights do not fit the configuration.
      ValueError: If `integers` is True and the file holds none.

    Example:
      >>> net, params, state = load("HuggingFaceTB/SmolLM2-135M")  # doctest: +SKIP
      >>> ids = jnp.array([[504, 3575, 282, 4649, 314]])  # "The capital of France is"
      >>> jn.decoding.generate(net, params, ids, length=2, temperature=0)  # doctest: +SKIP
    """
    from jaxnet.models.published import FAMILIES, complete, with_integers

    check_options("load", integers=integers)
    config, stored = _opened(source)
    found = complete("load", config, FAMILIES)
    family = FAMILIES[found.family]
    how = family.stored(found, stored)
    net, table, x = family.net(**how.options), family.rows(found, how), how.x or family.x
    if integers:
        net, table, stored = with_integers(net, x, table, stored)
    params, state = by_names(net, stored, x, table, leave=how.leave, dtype=dtype, put=put)
    return described(net, found.given), params, state


def save(
    folder: str | Path,
    net: Layer,
    params: Params,
    state: State,
    *,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write a model with the names and the configuration of its family, as `transformers` reads it.

    Args:
      folder: Folder, which is made; it gets config.json and model.safetensors. The tokenizer's
        files are the ones that came with the model.
      net: Net of `load`, or another one that computes what `config` says.
      params, state: Its params and state, in the dtype in which they are written.
      config: Configuration, as in config.json; None is that of the net.

    Raises:
      OSError: If a file cannot be written.
      ValueError: If the net has no configuration, or does not fit it.

    Example:
      >>> import tempfile
      >>> config = {"model_type": "gpt2", "vocab_size": 11, "n_embd": 8, "n_layer": 1, "n_head": 2}
      >>> net = jn.models.decoder(**jn.models.decoder_config(config))
      >>> params, state = net.init(jax.random.key(0), jn.spec((1, 1), jnp.int32))
      >>> folder = tempfile.mkdtemp()
      >>> save(folder, net, params, state, config=config)
      >>> again, params, state = load(folder)
      >>> sorted(params)
      ['block_0', 'embedding', 'norm', 'positions']
    """
    from jaxnet.models.published import FAMILIES, complete, with_dtype

    net = as_layer(net, "save", "net")
    if config is None:
        kept = getattr(net.inside, "options", None)
        config = json.loads(kept.config) if isinstance(kept, _Described) else None
        if config is None:
            raise ValueError(
                'save: this net has no configuration; write save(..., config={"model_type": ...}) '
                "with the entries of its config.json"
            )
    found = complete("save", config, FAMILIES)
    family = FAMILIES[found.family]
    how = family.stored(found, None)
    arrays = to_names(net, params, state, how.x or family.x, family.rows(found, how))
    folder = file_path("save", folder)
    written = with_dtype(config, arrays)
    write_files("save", folder / "config.json", written, folder / "model.safetensors", arrays)


def decoder_table(
    config: str | Path | Mapping[str, Any], *, prefix: str | None = None
) -> dict[str, Source]:
    """Return the table of names of a published language model, for `by_names` and `to_names`.

    Args:
      config: Config, as in `jaxnet.models.decoder_config`.
      prefix: Beginning of all names but the head's; None uses the prefix of the package
        transformers, "model." or "transformer.".

    Returns:
      Dict of path -> name, or (name, functions).

    Raises:
      OSError, TypeError, ValueError: As in `jaxnet.models.decoder_config`.

    Example:
      >>> config = {"model_type": "gpt2", "vocab_size": 11, "n_embd": 8, "n_layer": 2, "n_head": 2}
      >>> decoder_table(config)["block_{i}/mlp_in/kernel"]
      'transformer.h.{i}.mlp.c_fc.weight'
    """
    from jaxnet.models.published import complete, decoders

    check_type("decoder_table", "prefix", prefix, str | None, "a str or None")
    found = complete("decoder_table", config, decoders.FAMILIES)
    how = decoders.FAMILIES[found.family].stored(found, None)
    return decoders.rows(found, how if prefix is None else how._replace(prefix=prefix))


def tokenizer(source: str | Path) -> Vocabulary:
    """Return the tokenizer of a published model, as a vocabulary.

    Args:
      source: As in `load`.

    Returns:
      A `jn.data.Vocabulary`: encode, decode, and the ids of the special tokens.

    Raises:
      ImportError: If tokenizers is not installed.
      OSError: If a file is missing or cannot be read.
      ValueError: If the model has no tokenizer of a known kind.

    Example:
      >>> words = tokenizer("HuggingFaceTB/SmolLM2-135M")  # doctest: +SKIP
      >>> words.decode(words.encode("The capital of France"))  # doctest: +SKIP
      'The capital of France'
    """
    from jaxnet.models.published.words import vocabulary

    return vocabulary("tokenizer", _place("tokenizer", source))


def chat(source: str | Path, messages: Any, *, reply: bool = True) -> str:
    """Return messages as the text that a published model expects, by its chat template.

    The template is a program in jinja2; it runs in jinja2's sandbox.

    Args:
      source: As in `load`.
      messages: A text, or a list of dicts {"role": "user", "content": text}.
      reply: Whether the text ends where the model's reply begins.

    Returns:
      The text to encode.

    Raises:
      ImportError: If jinja2 is not installed.
      ValueError: If the model has no chat template, or it refuses the messages.

    Example:
      >>> chat("HuggingFaceTB/SmolLM2-135M-Instruct", "Name three rivers.")  # doctest: +SKIP
    """
    from jaxnet.models.published.words import rendered

    check_options("chat", reply=reply)
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    check_type("chat", "messages", messages, list | tuple, "a text or a list of dicts")
    return rendered("chat", _place("chat", source), messages, reply)


def write(
    net: Layer,
    params: Params,
    words: Vocabulary,
    prompt: str,
    key: jax.Array | None = None,
    *,
    stop: Sequence[str] = (),
    **options: Any,
) -> Iterator[str]:
    """Yield the text that a language model writes after a prompt, piece by piece.

    A piece has whole letters, although a token may be half of one. The end token of the vocabulary
    ends the text.

    Args:
      net, params, key: As in `jn.decoding.generate`.
      words: Vocabulary of the model, see `tokenizer`.
      prompt: Text.
      stop: Texts that end it, in whatever tokens they are written.
      options: Options of `jn.decoding.iterate`, such as length and temperature.

    Returns:
      An iterator of texts.

    Raises:
      TypeError, ValueError: As in `jn.decoding.iterate`.

    Example:
      >>> words = jn.data.characters("abc. ")
      >>> net = jn.serial(jn.embedding(words.size, 8), jn.gru(8), jn.dense(words.size))
      >>> params, _ = net.init(jax.random.key(0), jn.spec((1, 4), jnp.int32))
      >>> text = "".join(write(net, params, words, "a", length=9, temperature=0, stop=["."]))
      >>> "." in text
      False
    """
    from jaxnet.models.published.words import pieces

    stop = check_list("write", "stop", stop, "str")
    for word in stop:
        check_type("write", "stop", word, str, "a list of str")
    ids = words.encode(prompt)
    if words.end is not None:
        options = {"stop": words.end} | options
    tokens = iterate(net, params, [ids], key, **options)
    return pieces(words.decode, stop, (int(token[0]) for token in tokens))


class _Described(NamedTuple):
    """What `transformed` keeps of a published model, so that `save` finds it.

    Fields:
      config: Its configuration as JSON, which has a hash.
    """

    config: str


def described(net: Layer, config: Mapping[str, Any]) -> Layer:
    """Return the same net with its configuration among its data.

    Example:
      >>> described(jn.dense(3), {"model_type": "mine"}).inside.options.config
      '{"model_type": "mine"}'
    """

    def apply(run, params, state, x):
        return run(params, state, x)

    return transformed(net, apply, kind="published", options=_Described(json.dumps(config)))


def _place(who: str, source: Any) -> Path:
    """Return the folder or the file of a model; a name is downloaded, or found in the cache."""
    check_type(who, "source", source, str | Path, "a folder, a .gguf file or a name")
    path = file_path(who, source)
    if not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        hub = extra("huggingface_hub", "huggingface-hub", who, "published")
        return Path(hub.snapshot_download(str(source), **READ))
    return path


def _opened(source: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return the configuration of a model, or its place, and its weights by name."""
    from jaxnet.models.published.gguf import read_gguf

    path = _place("load", source)
    return read_gguf(path) if path.suffix == ".gguf" else (path, open_weights("load", path))
