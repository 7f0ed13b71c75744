"""From a folder, a file or a name of a published model to a net with its weights, and back."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxnet.core import Layer, Params, State, as_layer, transformed, transforms_of
from jaxnet.interop.names import by_names, to_names
from jaxnet.interop.weights import write_files
from jaxnet.pretrained.config import complete, with_dtype
from jaxnet.pretrained.copying import files_to_copy
from jaxnet.pretrained.families import FAMILIES
from jaxnet.pretrained.integers import with_integers
from jaxnet.pretrained.source import config_and_weights, place_of
from jaxnet.services.checks import check_options
from jaxnet.services.files import file_path, replace_file
from jaxnet.services.json_text import parse_json
from jaxnet.services.warn import warn


def load(
    source: str | Path,
    *,
    dtype: Any = None,
    put: Callable[[str, jax.Array], jax.Array] | None = None,
    integers: bool = False,
    download: bool = False,
    revision: str | None = None,
) -> tuple[Layer, Params, State]:
    """Read a published model: the net, its params and its state.

    To read params that `jn.save` wrote, call `jn.load`; to read a dataset, `jn.data.tfds.load`.

    The model_type of the configuration says which net it is; `jn.pretrained` has the
    families, such as Llama, Qwen, Gemma, Phi, OLMo and Granite. Each array is read, cast and placed
    before the next one is read. Nothing that is read is run: the code that the configurations of
    Phi name as `auto_map` is not used. The net's data hold the configuration, so that `save` can
    write it.

    Args:
      source: Folder with config.json and safetensors files, as `transformers` writes it; a file
        that ends in .gguf, of llama.cpp; or the name of a repository of Hugging Face, such as
        "HuggingFaceTB/SmolLM2-135M", whose files `huggingface_hub` finds in its cache.
      dtype: Dtype of the params, such as jnp.bfloat16; None is float32. It is also the dtype of
        experts that are stored in MXFP4, as those of gpt-oss are.
      put: Function of (path, array) that places an array, as in `by_names`.
      integers: Whether kernels and tables that a .gguf file holds as integers stay so, each 32 or
        16 with a scale in float16 and perhaps their lowest value. Q4_0, Q4_1 and Q8_0 take the
        file's bytes. The scales of Q2_K to Q6_K and IQ4_XS are products in the file, and rounded:
        relative errors are up to 2**-11. A number takes 5 bits of Q3_K and Q4_K, 6 of Q2_K, 8.5 of
        Q5_0, IQ4_NL and IQ4_XS, and 9 of Q5_1, Q5_K and Q6_K. The net is then like `jn.quantized`,
        and `jn.merge(net, params)` makes them floats.
      download: Whether the files of a name that the cache lacks are downloaded. Nothing is asked of
        a hub otherwise.
      revision: Branch, tag or commit of a name; None is its main branch.

    Returns:
      (net, params, state). A decoder takes token ids (batch, time); an encoder such as BERT or
      ModernBERT takes ids or (ids, mask), see `jaxnet.pretrained.encoders`. ViT, DeiT, DINOv2
      and ConvNeXt take images (batch, height, width, 3), whose pixels are normalized as
      preprocessor_config.json says, see `jaxnet.pretrained.vision`. CLIP and SigLIP take
      (images, ids), or None for one of them, see `jaxnet.pretrained.pairs`. Whisper takes
      (features, ids) of speech, see `jaxnet.pretrained.whisper`.

    Raises:
      OSError: If a file is missing or cannot be read, or the cache lacks a name.
      ImportError: If a name is given without huggingface_hub, or a .gguf file without gguf.
      ValueError: If the model_type is unknown, an entry of the configuration is unknown or has a
        value that the net cannot compute, or the weights do not fit the configuration.
      ValueError: If `integers` is True and the file holds none.

    Example:
      >>> name = "HuggingFaceTB/SmolLM2-135M"
      >>> net, params, state = load(name, download=True)  # doctest: +SKIP
      >>> ids = jnp.array([[504, 3575, 282, 4649, 314]])  # "The capital of France is"
      >>> jn.decoding.generate(net, params, ids, length=2, temperature=0)  # doctest: +SKIP
    """
    check_options("load", integers=integers)
    place, config, stored = config_and_weights("load", source, download, revision)
    checked = complete("load", config, FAMILIES)
    family = FAMILIES[checked.family]
    how = family.stored(checked, stored)
    net = family.net(**how.options)
    table = family.rows(checked, how)
    x = how.x or family.x
    if integers:
        net, table, stored = with_integers(net, x, table, stored)
    params, state = by_names(net, stored, x, table, leave=how.leave, dtype=dtype, put=put)
    return described(net, checked.raw, place), params, state


def save(
    folder: str | Path,
    net: Layer,
    params: Params,
    state: State,
    *,
    config: Mapping[str, Any] | None = None,
    source: str | Path | None = None,
) -> None:
    """Write a model with the names and the configuration of its family, as `transformers` reads it.

    Args:
      folder: Folder, which is made; it gets config.json and model.safetensors, and the files of
        `source`.
      net: Net of `load`, or another one that computes what `config` says.
      params, state: Its params and state, in the dtype in which they are written.
      config: Configuration, as in config.json; None is that of the net.
      source: Folder or file that the model came from, whose tokenizer, chat template, settings of
        generation, and modules of sentence-transformers are copied; None is where `load` read the
        net, and nothing is copied if it was not loaded.

    Raises:
      OSError: If a file cannot be read or written, or `source` is missing.
      ValueError: If the net has no configuration, or does not fit it.

    Example:
      >>> import tempfile
      >>> config = {"model_type": "gpt2", "vocab_size": 11, "n_embd": 8, "n_layer": 1, "n_head": 2}
      >>> net = jn.models.decoder(**jn.pretrained.decoder_config(config))
      >>> params, state = net.init(jax.random.key(0), jn.spec((1, 1), jnp.int32))
      >>> folder = tempfile.mkdtemp()
      >>> save(folder, net, params, state, config=config)
      >>> again, params, state = load(folder)
      >>> sorted(params)
      ['block_0', 'embedding', 'norm', 'positions']
    """
    net = as_layer(net, "save", "net")
    if config is None:
        config = _config_of(net)
    checked = complete("save", config, FAMILIES)
    family = FAMILIES[checked.family]
    how = family.stored(checked, None)
    x = how.x or family.x
    arrays = to_names(net, params, state, x, family.rows(checked, how))
    folder = file_path("save", folder)
    config_file, weights_file = folder / "config.json", folder / "model.safetensors"
    copied = _copied(net) if source is None else files_to_copy("save", place_of("save", source))
    write_files("save", config_file, with_dtype(config, arrays), weights_file, arrays)
    for name, contents in copied.items():
        replace_file("save", folder / name, contents, must_be_regular=True)


def _config_of(net: Layer) -> dict[str, Any]:
    described_as = _description_of(net)
    if described_as is None:
        raise ValueError(
            'save: this net has no configuration; write save(..., config={"model_type": ...}) '
            "with the entries of its config.json"
        )
    return parse_json(described_as.config)


def _copied(net: Layer) -> dict[str, bytes]:
    """Return the small files of where the net was read, by their names."""
    described_as = _description_of(net)
    if described_as is None or not described_as.source:
        return {}
    try:
        return files_to_copy("save", place_of("save", Path(described_as.source)))
    except (OSError, ValueError, ImportError) as error:  # the weights matter more
        warn(
            f"save: the tokenizer is not copied ({error}); write save(..., source=folder) with a "
            "folder that has it"
        )
        return {}


def config_of(net: Layer) -> dict[str, Any] | None:
    """Return the configuration of a net of `load`, also if it was adapted or quantized since then.

    Returns:
      The entries of its config.json; None for another net.

    Example:
      >>> adapted = jn.lora(described(jn.dense(3), {"model_type": "mine"}), 2)
      >>> config_of(adapted)
      {'model_type': 'mine'}
    """
    for each in transforms_of(net):
        if isinstance(each.inside.options, _Described):
            return parse_json(each.inside.options.config)
    return None


class _Described(NamedTuple):
    """What `transformed` keeps of a published model, so that `save` finds it.

    Fields:
      config: Its configuration as JSON, which has a hash.
      source: Folder or file where it was read; "" if it was not.
    """

    config: str
    source: str


def _description_of(net: Layer) -> _Described | None:
    options = getattr(net.inside, "options", None)
    return options if isinstance(options, _Described) else None


def described(net: Layer, config: Mapping[str, Any], source: Path | None = None) -> Layer:
    """Return the same net with its configuration and its place among its data.

    Example:
      >>> described(jn.dense(3), {"model_type": "mine"}).inside.options.config
      '{"model_type": "mine"}'
    """

    def apply(run, params, state, x):
        return run(params, state, x)

    options = _Described(json.dumps(config), "" if source is None else str(source.absolute()))
    return transformed(net, apply, kind="pretrained", clear=True, options=options)
