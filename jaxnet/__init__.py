"""jaxnet: neural networks on JAX as pairs of pure functions.

Three pairs carry the library: a layer `(init, apply)`, an optimizer `(init, update)` from optax, a
trainer `(init, step)`. A model is a layer, an objective is a layer, and a transform maps a layer to
a layer. Start with `jaxnet.core`.
"""

import importlib as _importlib
import typing as _typing

from jaxnet import initializers as initializers
from jaxnet.composition import parallel as parallel
from jaxnet.composition import residual as residual
from jaxnet.composition import serial as serial
from jaxnet.core import Layer as Layer
from jaxnet.core import Misfit as Misfit
from jaxnet.core import child_key as child_key
from jaxnet.core import compose as compose
from jaxnet.core import spec as spec
from jaxnet.core import stateless as stateless
from jaxnet.layers import adaptive_avg_pool as adaptive_avg_pool
from jaxnet.layers import adaptive_max_pool as adaptive_max_pool
from jaxnet.layers import additive_attention as additive_attention
from jaxnet.layers import avg_pool as avg_pool
from jaxnet.layers import batch_norm as batch_norm
from jaxnet.layers import bidirectional as bidirectional
from jaxnet.layers import conv as conv
from jaxnet.layers import conv_transpose as conv_transpose
from jaxnet.layers import dense as dense
from jaxnet.layers import depthwise_conv as depthwise_conv
from jaxnet.layers import drop_path as drop_path
from jaxnet.layers import dropout as dropout
from jaxnet.layers import embedding as embedding
from jaxnet.layers import flatten as flatten
from jaxnet.layers import gaussian_dropout as gaussian_dropout
from jaxnet.layers import gaussian_noise as gaussian_noise
from jaxnet.layers import global_avg_pool as global_avg_pool
from jaxnet.layers import global_max_pool as global_max_pool
from jaxnet.layers import group_norm as group_norm
from jaxnet.layers import gru as gru
from jaxnet.layers import gru_cell as gru_cell
from jaxnet.layers import instance_norm as instance_norm
from jaxnet.layers import l2_pool as l2_pool
from jaxnet.layers import l2_pool_channels as l2_pool_channels
from jaxnet.layers import last_step as last_step
from jaxnet.layers import layer_norm as layer_norm
from jaxnet.layers import learned_positions as learned_positions
from jaxnet.layers import local_response_norm as local_response_norm
from jaxnet.layers import locally_connected as locally_connected
from jaxnet.layers import lp_pool as lp_pool
from jaxnet.layers import lstm as lstm
from jaxnet.layers import lstm_cell as lstm_cell
from jaxnet.layers import max_pool as max_pool
from jaxnet.layers import moe as moe
from jaxnet.layers import multi_head_attention as multi_head_attention
from jaxnet.layers import polynomial as polynomial
from jaxnet.layers import random_fourier as random_fourier
from jaxnet.layers import rbf as rbf
from jaxnet.layers import recurrent as recurrent
from jaxnet.layers import resize as resize
from jaxnet.layers import rms_norm as rms_norm
from jaxnet.layers import rnn as rnn
from jaxnet.layers import rnn_cell as rnn_cell
from jaxnet.layers import sinusoidal_positions as sinusoidal_positions
from jaxnet.layers import spatial_dropout as spatial_dropout
from jaxnet.layers import stack_rnn as stack_rnn
from jaxnet.layers import time_distributed as time_distributed
from jaxnet.layers import transformer_block as transformer_block
from jaxnet.layers import upsample_bilinear as upsample_bilinear
from jaxnet.layers import upsample_nearest as upsample_nearest
from jaxnet.layers.attention import segment_mask as segment_mask
from jaxnet.layers.embedding import llama3_scaling as llama3_scaling
from jaxnet.layers.embedding import rotary as rotary
from jaxnet.layers.embedding import sinusoidal as sinusoidal
from jaxnet.layers.recurrent import initial_carry as initial_carry
from jaxnet.services.memory import reuse_memory as reuse_memory
from jaxnet.training import Checkpoints as Checkpoints
from jaxnet.training import Epoch as Epoch
from jaxnet.training import Position as Position
from jaxnet.training import Sweep as Sweep
from jaxnet.training import Trainer as Trainer
from jaxnet.training import TrainState as TrainState
from jaxnet.training import augmented as augmented
from jaxnet.training import by_path as by_path
from jaxnet.training import ema as ema
from jaxnet.training import evaluate as evaluate
from jaxnet.training import fit as fit
from jaxnet.training import learning_rule as learning_rule
from jaxnet.training import load as load
from jaxnet.training import log as log
from jaxnet.training import predict as predict
from jaxnet.training import save as save
from jaxnet.training import supervised as supervised
from jaxnet.training import sweep as sweep
from jaxnet.training import trainer as trainer
from jaxnet.training import truncated_bptt as truncated_bptt
from jaxnet.transforms import cast as cast
from jaxnet.transforms import collect as collect
from jaxnet.transforms import ensemble as ensemble
from jaxnet.transforms import follow as follow
from jaxnet.transforms import freeze as freeze
from jaxnet.transforms import lora as lora
from jaxnet.transforms import mapped as mapped
from jaxnet.transforms import merge as merge
from jaxnet.transforms import observe as observe
from jaxnet.transforms import pick as pick
from jaxnet.transforms import quantize as quantize
from jaxnet.transforms import quantized as quantized
from jaxnet.transforms import remat as remat
from jaxnet.transforms import repeat as repeat
from jaxnet.transforms import spectral_norm as spectral_norm
from jaxnet.transforms import tap as tap
from jaxnet.transforms import weight_norm as weight_norm
from jaxnet.transforms.stream import batch_axes as batch_axes
from jaxnet.transforms.stream import start_stream as start_stream
from jaxnet.transforms.stream import stream as stream

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
    from jaxnet import profile as profile
    from jaxnet import unsupervised as unsupervised
    from jaxnet import viz as viz
    from jaxnet.inspect import check_gradients as check_gradients
    from jaxnet.inspect import summary as summary

    __version__: str

# Loaded on first use, so that the import stays quick.
_MODULES = ("data", "decoding", "detection", "distributed", "inspect", "interop", "losses",
            "metrics", "models", "penalties", "profile", "unsupervised", "viz")  # fmt: skip
_INSPECT = ("check_gradients", "summary")

if not _typing.TYPE_CHECKING:  # otherwise a type checker would accept every name

    def __getattr__(name: str) -> _typing.Any:
        if name in _MODULES:
            return _importlib.import_module(f"jaxnet.{name}")
        if name in _INSPECT:
            return getattr(_importlib.import_module("jaxnet.inspect"), name)
        if name == "__version__":
            return _version()
        words = f"module 'jaxnet' has no attribute {name!r}"
        if instead := _instead(name):  # without a name, Python adds no guess of its own
            raise AttributeError(words + instead, name="", obj=None)
        raise AttributeError(words)


def _instead(name: str) -> str:
    """What to write instead of a name, such as one of another library; "" if nothing is alike."""
    import difflib

    import jax

    if name.startswith("_"):
        return ""
    if callable(getattr(jax.nn, name.lower(), None)):
        return f"; write jax.nn.{name.lower()}"
    others = {"linear": "dense", "sequential": "serial", "module": "compose", "embed": "embedding"}
    plain = {n.replace("_", ""): n for n in __dir__() if not n.startswith("_")}
    short = name.lower().replace("_", "").removesuffix("1d").removesuffix("2d").removesuffix("3d")
    near = [others[short]] if short in others else difflib.get_close_matches(short, plain, 1, 0.8)
    return f"; did you mean jn.{plain.get(near[0], near[0])}?" if near else ""


def _version() -> str:
    """The version of the installed distribution; "unknown" for a folder that is not installed."""
    from importlib import metadata

    try:
        return metadata.version("jaxnet-toolkit")
    except metadata.PackageNotFoundError:
        return "unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_INSPECT, "__version__"})
