"""jaxnet: neural networks on JAX as pairs of pure functions.

Three pairs carry the library: a layer `(init, apply)`, an optimizer `(init, update)` from optax, a
trainer `(init, step)`. A model is a layer, an objective is a layer, and a transform maps a layer to
a layer. Start with `jaxnet.core`.
"""

import importlib as _importlib
import types as _types
import typing as _typing

from jaxnet import initializers as initializers
from jaxnet import layers as layers
from jaxnet import ops as ops
from jaxnet import training as training
from jaxnet import transforms as transforms
from jaxnet import typing as typing
from jaxnet.composition import parallel as parallel
from jaxnet.composition import residual as residual
from jaxnet.composition import serial as serial
from jaxnet.core import Layer as Layer
from jaxnet.core import Misfit as Misfit
from jaxnet.core import Scope as Scope
from jaxnet.core import child_key as child_key
from jaxnet.core import compose as compose
from jaxnet.core import spec as spec
from jaxnet.core import stateless as stateless
from jaxnet.layers.attention import multi_head_attention as multi_head_attention
from jaxnet.layers.attention import segment_mask as segment_mask
from jaxnet.layers.conv import conv as conv
from jaxnet.layers.conv import conv_transpose as conv_transpose
from jaxnet.layers.conv import depthwise_conv as depthwise_conv
from jaxnet.layers.dense import dense as dense
from jaxnet.layers.dropout import dropout as dropout
from jaxnet.layers.embedding import embedding as embedding
from jaxnet.layers.embedding import learned_positions as learned_positions
from jaxnet.layers.embedding import rotary as rotary
from jaxnet.layers.gru import gru as gru
from jaxnet.layers.labeled import Labeled as Labeled
from jaxnet.layers.lstm import lstm as lstm
from jaxnet.layers.moe import moe as moe
from jaxnet.layers.norm import batch_norm as batch_norm
from jaxnet.layers.norm import group_norm as group_norm
from jaxnet.layers.norm import layer_norm as layer_norm
from jaxnet.layers.norm import rms_norm as rms_norm
from jaxnet.layers.pool import avg_pool as avg_pool
from jaxnet.layers.pool import global_avg_pool as global_avg_pool
from jaxnet.layers.pool import max_pool as max_pool
from jaxnet.layers.recurrent import recurrent as recurrent
from jaxnet.layers.resize import resize as resize
from jaxnet.layers.rnn import rnn as rnn
from jaxnet.layers.sequence import bidirectional as bidirectional
from jaxnet.layers.sequence import last_step as last_step
from jaxnet.layers.shape import flatten as flatten
from jaxnet.layers.transformer import transformer_block as transformer_block
from jaxnet.ops.attention import Segments as Segments
from jaxnet.ops.product import product as product
from jaxnet.ops.product import rows as rows
from jaxnet.rewriting.accelerate import accelerate as accelerate
from jaxnet.rewriting.inference import optimize_for_inference as optimize_for_inference
from jaxnet.services.extras import version as _version
from jaxnet.services.table import Table as Table
from jaxnet.training.alternate import alternate as alternate
from jaxnet.training.averages import ema as ema
from jaxnet.training.by_path import by_path as by_path
from jaxnet.training.checkpoint import load as load
from jaxnet.training.checkpoint import save as save
from jaxnet.training.checkpoints import Checkpoints as Checkpoints
from jaxnet.training.epoch import Epoch as Epoch
from jaxnet.training.evaluate import evaluate as evaluate
from jaxnet.training.evaluate import predict as predict
from jaxnet.training.loop import fit as fit
from jaxnet.training.memory import reuse_memory as reuse_memory
from jaxnet.training.objective import augmented as augmented
from jaxnet.training.objective import supervised as supervised
from jaxnet.training.predict_windows import predict_windows as predict_windows
from jaxnet.training.sweep import sweep as sweep
from jaxnet.training.train_state import TrainState as TrainState
from jaxnet.training.trainer import Trainer as Trainer
from jaxnet.training.trainer import trainer as trainer
from jaxnet.transforms.adapt import lora as lora
from jaxnet.transforms.adapt import merge as merge
from jaxnet.transforms.copies import ensemble as ensemble
from jaxnet.transforms.copies import repeat as repeat
from jaxnet.transforms.execution import cast as cast
from jaxnet.transforms.execution import freeze as freeze
from jaxnet.transforms.execution import remat as remat
from jaxnet.transforms.integers import quantize as quantize
from jaxnet.transforms.integers import quantized as quantized
from jaxnet.transforms.kernels import matrix_axes as matrix_axes
from jaxnet.transforms.observing import collect as collect
from jaxnet.transforms.observing import observe as observe
from jaxnet.transforms.stream import start_stream as start_stream
from jaxnet.transforms.stream import stream as stream
from jaxnet.transforms.trunk import tap as tap

if _typing.TYPE_CHECKING:
    from jaxnet import data as data
    from jaxnet import decoding as decoding
    from jaxnet import detection as detection
    from jaxnet import distributed as distributed
    from jaxnet import inspect as inspect
    from jaxnet import interop as interop
    from jaxnet import losses as losses
    from jaxnet import metrics as metrics
    from jaxnet import models as models
    from jaxnet import penalties as penalties
    from jaxnet import pretrained as pretrained
    from jaxnet import profile as profile
    from jaxnet import tools as tools
    from jaxnet import unsupervised as unsupervised
    from jaxnet import viz as viz
    from jaxnet.inspect import summary as summary

    __version__: str

# Loaded with the library, and on first use, so that the import stays quick.
_ROOMS = ("initializers", "layers", "ops", "training", "transforms", "typing")
_LATER = (
    "data", "decoding", "detection", "distributed", "inspect", "interop", "losses", "metrics",
    "models", "penalties", "pretrained", "profile", "tools", "unsupervised", "viz",
)  # fmt: skip

if not _typing.TYPE_CHECKING:  # otherwise a type checker would accept every name

    def __getattr__(name: str) -> _typing.Any:
        if name in _LATER:
            return _importlib.import_module(f"jaxnet.{name}")
        if name == "summary":
            return _importlib.import_module("jaxnet.inspect").summary
        if name == "__version__":
            return _version()
        words = f"module 'jaxnet' has no attribute {name!r}"
        if instead := _instead(name):  # without a name, Python adds no guess of its own
            raise AttributeError(words + instead, name="", obj=None)
        raise AttributeError(words)


def _instead(name: str, room: str = "jaxnet") -> str:
    """What to write instead of a name, such as one of another library; "" if nothing is alike."""
    import difflib

    import jax
    import optax

    if name.startswith("_"):
        return ""
    rooms = [layers, training, transforms]
    if room == "jaxnet":  # elsewhere an import may be running, which asks for a file by its name
        rest = ("data", "losses", "metrics", "models")
        rooms += [_importlib.import_module(f"jaxnet.{r}") for r in rest]
    homes = {n: f"{r.__name__[7:]}.{n}" for r in rooms for n in dir(r)}
    homes |= {n: n for n in __dir__() if room == "jaxnet" or n not in _LATER}
    for other in (jax.nn, optax):
        if name not in homes and callable(getattr(other, name.lower(), None)):
            return f"; write {other.__name__}.{name.lower()}"
    others = {
        "linear": "dense",
        "sequential": "serial",
        "module": "compose",
        "embed": "embedding",
        "meanpool": "avg_pool",
    }
    by_short_name = {n.replace("_", ""): home for n, home in homes.items() if n[0] != "_"}
    short = name.lower().replace("_", "").removesuffix("1d").removesuffix("2d").removesuffix("3d")
    near = (
        [others[short]]
        if short in others
        else difflib.get_close_matches(short, by_short_name, 1, 0.81)
    )
    return f"; did you mean jn.{by_short_name.get(near[0], near[0])}?" if near else ""


def _answer(room: _types.ModuleType) -> None:
    """Let a folder list its public names without its files, and say where another name is."""

    def __getattr__(name: str) -> _typing.Any:
        words = f"module {room.__name__!r} has no attribute {name!r}{_instead(name, room.__name__)}"
        raise AttributeError(words, name="", obj=None)

    def __dir__() -> list[str]:
        return [n for n, it in vars(room).items() if not isinstance(it, _types.ModuleType)]

    room.__getattr__, room.__dir__ = __getattr__, __dir__  # type: ignore[method-assign]


for _room in (layers, ops, training, transforms):
    _answer(_room)


def __dir__() -> list[str]:
    files = {name for name, value in globals().items() if isinstance(value, _types.ModuleType)}
    return sorted({*globals(), *_LATER, "summary", "__version__"} - (files - {*_ROOMS, *_LATER}))
