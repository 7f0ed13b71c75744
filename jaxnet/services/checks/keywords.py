"""Arguments as other libraries name them: an error that says what to write here."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
_INPUTS = "leave it out: init takes the number of inputs from the data"

# What to write instead of arguments of PyTorch, Keras and Flax, unless a name here is much alike.
_ADVICE = {
    "write features, the number of outputs": "filters hidden_size out_channels out_features units",
    _INPUTS: "embed_dim in_channels in_features input_dim input_shape input_size normalized_shape "
    "num_features",
    "add the function as the next layer, as in jn.serial(jn.dense(8), jax.nn.relu)": "activation",
    "leave it out: features are the last axis, as in (batch, height, width, features)":
        "data_format",
    "write jn.supervised(..., penalty=...), see jn.penalties": "kernel_regularizer",
    "it belongs to the optimizer, as in jn.trainer(objective, optax.adamw(1e-3))":
        "learning_rate lr weight_decay",
    "pass it to apply, as in net.apply(params, state, x, key=key, train=True)": "train training",
    "write jn.losses.weighted(loss, class_weights=...)": "class_weights weight",
    "write use_scale= and use_bias=": "affine elementwise_affine",
    "leave it out: sequences are (batch, time, features)": "batch_first",
    "write use_bias=": "bias center",
    "write jn.bidirectional(jn.lstm(8))": "bidirectional go_backwards",
    "write statements in the loop, for epoch in jn.fit(...): ...": "callbacks",
    "pass the loss to jn.supervised": "criterion",
    "add jn.dropout(0.1) as a layer, or write dropout_rate= if the layer has it": "dropout",
    "write jn.cast(layer, jnp.bfloat16)": "dtype",
    "write features=": "embedding_dim",
    "write epsilon=": "eps",
    "write jn.losses.weighted(loss, ignore_label=...)": "ignore_index",
    "write activation=": "nonlinearity",
    "write vocabulary=": "num_embeddings",
    "write jn.layers.stack_rnn(jn.lstm(8), jn.lstm(8))": "num_layers",
    "write rate=": "p",
    "write window=": "pool_size",
    "use a loss with one value per example": "reduction",
    "leave it out; add jn.last_step() for the last output alone": "return_sequences",
    "leave it out: apply always returns the state": "mutable",
    "pass a key to init and to apply": "rng rngs",
    "write use_running_average=": "track_running_stats",
    "write evaluate=": "validation_data",
    "split the arrays, and pass the second part as evaluate=": "validation_split",
    "write progress=": "verbose",
}  # fmt: skip
_ELSEWHERE = {name: advice for advice, names in _ADVICE.items() for name in names.split()}


def explain_keywords(function: F) -> F:
    """Wrap a function so that its error for an unknown argument says what to write instead.

    Example:
      >>> jn.conv(8, 3, stride=2)
      Traceback (most recent call last):
      ...
      TypeError: conv: unknown argument stride; write strides=
    """
    parameters = inspect.signature(function).parameters
    places = [name for name, one in parameters.items() if one.kind == one.POSITIONAL_OR_KEYWORD]
    who = function.__name__

    @functools.wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        for name in options:
            if name not in parameters:
                raise TypeError(
                    f"{who}: unknown argument {name}; {instead(name, list(parameters))}"
                )
        if len(args) > len(places):
            hint = f"; {_INPUTS.split(': ')[1]}" if "features" in places else ""
            raise TypeError(
                f"{who}: expected {', '.join(places) or 'no argument'} by position, got "
                f"{len(args)}; pass the others by name{hint}"
            )
        return function(*args, **options)

    return checked  # type: ignore[return-value]


def instead(name: str, names: list[str]) -> str:
    """Return what to write for an unknown argument, given the names of the known ones."""
    near = difflib.get_close_matches(name, names, 1, 0.7)
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    return f"write {near[0]}=" if near else f"known: {', '.join(names)}"
