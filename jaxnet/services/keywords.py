"""Arguments as other libraries name them: an error that says what to write here."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
_FEATURES = "write features, the number of outputs"
_INPUTS = "leave it out: init takes the number of inputs from the data"
_AFTER = "add the function as the next layer, as in jn.serial(jn.dense(8), jax.nn.relu)"
_LAYOUT = "leave it out: features are the last axis, as in (batch, height, width, features)"
_PENALTY = "write jn.supervised(..., penalty=...), see jn.penalties"
_OPTIMIZER = "it belongs to the optimizer, as in jn.trainer(objective, optax.adamw(1e-3))"
_APPLY = "pass it to apply, as in net.apply(params, state, x, key=key, train=True)"
_WEIGHTED = "write jn.losses.weighted(loss, class_weights=...)"
_AFFINE = "write use_scale= and use_bias="

# Arguments of PyTorch, Keras and Flax, and what to write instead.
_ELSEWHERE = {
    "activation": _AFTER,
    "affine": _AFFINE,
    "batch_first": "leave it out: sequences are (batch, time, features)",
    "bias": "write use_bias=",
    "bias_initializer": "write bias_init=",
    "bidirectional": "write jn.bidirectional(jn.lstm(8))",
    "callbacks": "write statements in the loop, for epoch in jn.fit(...): ...",
    "center": "write use_bias=",
    "class_weights": _WEIGHTED,
    "criterion": "pass the loss to jn.supervised",
    "data_format": _LAYOUT,
    "dilation_rate": "write dilation=",
    "dropout": "add jn.dropout(0.1) as a layer, or write dropout_rate= if the layer has it",
    "dtype": "write jn.cast(layer, jnp.bfloat16)",
    "elementwise_affine": _AFFINE,
    "embed_dim": _INPUTS,
    "embedding_dim": "write features=",
    "eps": "write epsilon=",
    "filters": _FEATURES,
    "go_backwards": "write jn.bidirectional(jn.lstm(8))",
    "hidden_size": _FEATURES,
    "ignore_index": "write jn.losses.weighted(loss, ignore_label=...)",
    "in_channels": _INPUTS,
    "in_features": _INPUTS,
    "input_dim": _INPUTS,
    "input_shape": _INPUTS,
    "input_size": _INPUTS,
    "is_causal": "write causal=",
    "kernel_initializer": "write kernel_init=",
    "kernel_regularizer": _PENALTY,
    "learning_rate": _OPTIMIZER,
    "lr": _OPTIMIZER,
    "nonlinearity": "write activation=",
    "normalized_shape": _INPUTS,
    "num_embeddings": "write vocabulary=",
    "num_features": _INPUTS,
    "num_groups": "write groups=",
    "num_heads": "write heads=",
    "num_layers": "write jn.layers.stack_rnn(jn.lstm(8), jn.lstm(8))",
    "out_channels": _FEATURES,
    "out_features": _FEATURES,
    "p": "write rate=",
    "pool_size": "write window=",
    "reduction": "use a loss with one value per example",
    "return_sequences": "leave it out; add jn.last_step() for the last output alone",
    "rngs": "pass a key to init and to apply",
    "stride": "write strides=",
    "track_running_stats": "write use_running_average=",
    "train": _APPLY,
    "training": _APPLY,
    "units": _FEATURES,
    "validation_data": "write evaluate=",
    "validation_split": "split the arrays, and pass the second part as evaluate=",
    "verbose": "write progress=",
    "weight": _WEIGHTED,
    "weight_decay": _OPTIMIZER,
}


def explain_keywords(function: F) -> F:
    """Wrap a function so that its error for an unknown argument says what to write instead.

    Example:
      >>> jn.conv(8, 3, stride=2)
      Traceback (most recent call last):
      ...
      TypeError: conv: unknown argument stride; write strides=
    """
    known = inspect.signature(function).parameters
    places = [name for name, one in known.items() if one.kind == one.POSITIONAL_OR_KEYWORD]
    who = function.__name__

    @functools.wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        for name in options:
            if name not in known:
                raise TypeError(f"{who}: unknown argument {name}; {instead(name, list(known))}")
        if len(args) > len(places):
            hint = f"; {_INPUTS.split(': ')[1]}" if "features" in places else ""
            raise TypeError(
                f"{who}: expected {', '.join(places) or 'no argument'} by position, got "
                f"{len(args)}; pass the others by name{hint}"
            )
        return function(*args, **options)

    return checked  # type: ignore[return-value]


def instead(name: str, known: list[str]) -> str:
    """Return what to write for an unknown argument, given the names of the known ones."""
    near = difflib.get_close_matches(name, known, 1, 0.75)
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    return f"write {near[0]}=" if near else f"known: {', '.join(known)}"
