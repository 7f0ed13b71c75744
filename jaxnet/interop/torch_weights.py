"""The weights of one layer in PyTorch's layout and in jaxnet's: one pair of functions per kind.

A layer's entries are a flat dict, such as {"kernel": ..., "bias": ...} or, in attention,
{"query/kernel": ..., ...}. `to_theirs` gives the entries of PyTorch's module, and `to_ours` is its
reverse. A module must have the shapes and names that `to_theirs` gives.

PyTorch's recurrent layers have two biases, of which only the sum matters. `to_theirs` writes it to
`bias_ih`, and zeros to `bias_hh`; only the candidate of the GRU has both.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Entries = dict[str, np.ndarray]

NORMS = ("batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm")
RECURRENT = ("rnn", "lstm", "gru", "rnn_cell", "lstm_cell", "gru_cell")
# Features are the last axis in both libraries, so the input has the same axes as in PyTorch.
FEATURES_LAST = ("dense", "embedding", "multi_head_attention", *RECURRENT)

# The entry of a layer -> its name in PyTorch, for layers in which each entry is one array.
NAMES = {
    "kernel": "weight", "scale": "weight", "embedding": "weight",
    "bias": "bias", "mean": "running_mean", "var": "running_var",
}  # fmt: skip


class Kind(NamedTuple):
    """The weights of one kind of layers.

    Fields:
      to_theirs: Function of our entries that returns PyTorch's.
      to_ours: Function of PyTorch's entries, and of ours for their shapes, that returns ours.
    """

    to_theirs: Callable[[Entries], Entries]
    to_ours: Callable[[Entries, Entries], Entries]


def _named(to_theirs: Callable, to_ours: Callable) -> Kind:
    """A kind whose entries have counterparts one by one; the functions are for its kernel."""

    def all_to_theirs(ours):
        theirs = {}
        for name, array in ours.items():
            theirs[NAMES[name]] = to_theirs(array) if name == "kernel" else array
        return theirs

    def all_to_ours(theirs, like):
        ours = {}
        for name in like:
            array = theirs[NAMES[name]]
            ours[name] = to_ours(array) if name == "kernel" else array
        return ours

    return Kind(all_to_theirs, all_to_ours)


def _kernel_to_theirs(a: np.ndarray) -> np.ndarray:
    """Return (*window, inputs, features) as (features, inputs, *window)."""
    return np.moveaxis(a, (-1, -2), (0, 1))


def _kernel_to_ours(a: np.ndarray) -> np.ndarray:
    return np.moveaxis(a, (0, 1), (-1, -2))


def _reversed(a: np.ndarray) -> np.ndarray:
    """Return a kernel (*window, inputs, features) with the other direction of its window."""
    window = tuple(range(a.ndim - 2))
    return np.flip(a, window)


def _transposed_to_theirs(a: np.ndarray) -> np.ndarray:
    """Return (*window, inputs, features) as (inputs, features, *window), reversed.

    PyTorch's transposed convolution is the gradient of a convolution.
    """
    return np.moveaxis(_reversed(a), (-2, -1), (0, 1))


def _transposed_to_ours(a: np.ndarray) -> np.ndarray:
    return _reversed(np.moveaxis(a, (0, 1), (-2, -1)))


_KERNEL = _named(_kernel_to_theirs, _kernel_to_ours)
_TRANSPOSED = _named(_transposed_to_theirs, _transposed_to_ours)


def _recurrent_to_theirs(ours: Entries) -> Entries:
    theirs = {"weight_ih": ours["kernel"].T, "weight_hh": ours["recurrent_kernel"].T}
    if "bias" not in ours:
        return theirs
    second = np.zeros_like(ours["bias"])
    if "recurrent_bias" in ours:
        second[-len(ours["recurrent_bias"]) :] = ours["recurrent_bias"]
    return theirs | {"bias_ih": ours["bias"], "bias_hh": second}


def _recurrent_to_ours(theirs: Entries, like: Entries) -> Entries:
    ours = {"kernel": theirs["weight_ih"].T, "recurrent_kernel": theirs["weight_hh"].T}
    if "bias" not in like:
        return ours
    first, second = theirs["bias_ih"], theirs["bias_hh"].copy()
    if "recurrent_bias" in like:  # the bias of the candidate, which the reset gate multiplies
        at = -len(like["recurrent_bias"])
        ours["recurrent_bias"] = second[at:].copy()
        second[at:] = 0
    return ours | {"bias": first + second}


PARTS = ("query", "key", "value")


def _attention_to_theirs(ours: Entries) -> Entries:
    kernels = []
    for part in PARTS:
        kernel = ours[f"{part}/kernel"]
        # (width, heads, size) -> (heads * size, width)
        kernels.append(kernel.reshape(len(kernel), -1).T)
    if kernels[0].shape[1] == kernels[1].shape[1]:
        theirs = {"in_proj_weight": np.concatenate(kernels)}
    else:  # the memory has a different width
        theirs = {f"{part[0]}_proj_weight": a for part, a in zip(PARTS, kernels, strict=True)}
    out = ours["out/kernel"]
    theirs["out_proj.weight"] = out.reshape(-1, out.shape[-1]).T
    if "out/bias" in ours:
        biases = [ours[f"{part}/bias"].ravel() for part in PARTS]
        theirs["in_proj_bias"] = np.concatenate(biases)
        theirs["out_proj.bias"] = ours["out/bias"]
    return theirs


def _attention_to_ours(theirs: Entries, like: Entries) -> Entries:
    if "in_proj_weight" in theirs:
        kernels = np.split(theirs["in_proj_weight"], 3)
    else:
        kernels = [theirs[f"{part[0]}_proj_weight"] for part in PARTS]
    ours = {f"{part}/kernel": a.T for part, a in zip(PARTS, kernels, strict=True)}
    ours["out/kernel"] = theirs["out_proj.weight"].T
    if "out/bias" in like:
        biases = np.split(theirs["in_proj_bias"], 3)
        ours |= {f"{part}/bias": a for part, a in zip(PARTS, biases, strict=True)}
        ours["out/bias"] = theirs["out_proj.bias"]
    return _in_shape(ours, like)


def _in_shape(entries: Entries, like: Entries) -> Entries:
    return {name: a.reshape(like[name].shape) for name, a in entries.items()}


# A parameter outside of a layer, such as a class token; axes of length 1 may differ.
PARAMETER = "parameter"

KINDS = {
    **dict.fromkeys(("dense", "embedding", "conv", "depthwise_conv"), _KERNEL),
    "conv_transpose": _TRANSPOSED,
    **dict.fromkeys(NORMS, _KERNEL),
    **dict.fromkeys(RECURRENT, Kind(_recurrent_to_theirs, _recurrent_to_ours)),
    "multi_head_attention": Kind(_attention_to_theirs, _attention_to_ours),
}
# The conversions of each kind of layers, and of a parameter by itself.
CONVERSIONS = {**KINDS, PARAMETER: Kind(lambda ours: ours, _in_shape)}

# The entries of each kind. A layer with other entries does not have a counterpart.
ENTRIES = {
    **dict.fromkeys(KINDS, set(NAMES)),
    **dict.fromkeys(RECURRENT, {"kernel", "recurrent_kernel", "bias", "recurrent_bias"}),
    "multi_head_attention": {
        f"{part}/{entry}" for part in (*PARTS, "out") for entry in ("kernel", "bias")
    },
}

# The entries of PyTorch's layers. In a module without any of them, each array is a parameter
# outside of a layer.
THEIRS = {
    *NAMES.values(), "weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh",
    "in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias",
    *(f"{part[0]}_proj_weight" for part in PARTS),
}  # fmt: skip
