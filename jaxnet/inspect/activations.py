"""Outputs of the layers inside a network, and the origin of a NaN."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.nets import check_net
from jaxnet.services.checks import a_function, all_native, is_traced
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.trees import PyTree, describe, flat, floats_of, shapes_of, with_floats
from jaxnet.services.warn import warn
from jaxnet.transforms.observing import observe

Note = Callable[[str, PyTree, PyTree], PyTree]  # (name of a call, x, y) -> y


@on_auto_axes
def activations(
    net: Layer,
    params: Params,
    state: State,
    x: PyTree,
    *,
    key: jax.Array | None = None,
    train: bool = False,
) -> dict[str, PyTree]:
    """Return the output of every layer inside a network, by path, in the order in which calls end.

    The later calls of a shared layer are "dense#2", "dense#3". A network that is a single layer
    has one entry, its own name. Layers inside `repeat`, `ensemble` and other transforms have no
    entry, except inside `lora` and `quantized`.

    A layer that runs inside `jax.lax.scan` or the like has no single output and is omitted, with a
    warning. Under `jax.jit` it cannot be recognized: JAX raises an UnexpectedTracerError if such an
    entry leaves the function.

    Args:
      net: Network, or an objective with a batch as x.
      params, state, x, key, train: Arguments of `net.apply`.

    Returns:
      A dict from paths, such as "block/dense", to outputs.

    Raises:
      TypeError, ValueError: As in `net.apply`.

    Example:
      >>> net = jn.serial(jn.dense(7, name="hidden"), jnp.tanh, jn.dense(3))
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 5)))
      >>> found = activations(net, params, state, jnp.ones((2, 5)))
      >>> [(name, y.shape) for name, y in found.items()]
      [('hidden', (2, 7)), ('tanh', (2, 7)), ('dense', (2, 3))]
    """
    net, params, state = check_net("activations", net, params, state, x)
    outputs: dict[str, PyTree] = {}

    def note(name, x, y):
        outputs[name] = y
        return y

    run(net, params, state, x, key, train, note)
    inner = [name for name, y in outputs.items() if is_traced(y)]
    if inner and not is_traced(outputs[""]):
        names = ", ".join(f"{net.name}/{name}" for name in inner)
        warn(f"activations: omitted, since they run inside jax.lax.scan or the like: {names}")
        outputs = {name: y for name, y in outputs.items() if name not in inner}
    final_output = outputs.pop("")
    return outputs or {net.name: final_output}


class NonFinite(NamedTuple):
    """The first NaN or Inf of a network; prints as a sentence.

    Fields:
      direction: "before" (in the arguments), "forward" or "backward".
      path: Path of the layer, under the network's name, or of an entry, such as
        "params/dense/kernel".
      nans, infs, size: Numbers of NaN, of Inf and of all values.
      what: "entry", "output", "loss" or "gradient".
      arises: State of the values before it, which narrows down the cause.
    """

    direction: str
    path: str
    nans: int
    infs: int
    size: int
    what: str
    arises: str

    def __str__(self) -> str:
        return (
            f"{self.direction}: {self.path}, {self.what}: {self.nans} NaN and {self.infs} Inf "
            f"in {self.size} numbers; {self.arises}"
        )


@on_auto_axes
def first_nonfinite(
    net: Layer,
    params: Params,
    state: State,
    x: PyTree,
    *,
    loss: Callable[[PyTree], jax.Array] | None = None,
    key: jax.Array | None = None,
    train: bool = False,
) -> NonFinite | None:
    """Return the first NaN or Inf in a forward and backward pass, or None if all are finite.

    The order is: params, state and x; the output of each layer, in the order in which the calls
    end; the loss; then the gradients of the loss, from the last layer back to the first. The later
    calls of a shared layer are "dense#2", "dense#3". Layers inside `repeat`, `ensemble`, `remat`
    and `jax.lax.scan` are skipped; to look inside `remat`, pass the net without it.

    Pass the params and state from before the step that made them NaN. With `fit`, stop there:

        for epoch in jn.fit(trainer, train_state, data, epochs=9, every=1):
            if not np.isfinite(epoch.losses[-1] + optax.tree.norm(epoch.train_state.params)):
                break
            train_state = epoch.train_state
        params, state = train_state.params, train_state.state
        print(jn.inspect.first_nonfinite(trainer.objective, params, state, data))

    Args:
      net: Network, or an objective with a batch as x.
      params, state, x, key, train: Arguments of `net.apply`.
      loss: Function that maps the output to a number; the mean of the output by default.

    Returns:
      A `NonFinite` with the place and the counts, which prints as a sentence, or None.

    Raises:
      TypeError: If `loss` is not a function or does not return a number.
      TypeError, ValueError: As in `net.apply`.

    Example:
      >>> net = jn.serial(jax.nn.relu, jnp.log, lambda x: jnp.maximum(x, -9), name="net")
      >>> print(first_nonfinite(net, {}, {}, jnp.array([[0.5, 2.0, -1.0]])))
      forward: net/log, output: 0 NaN and 1 Inf in 3 numbers; its input is finite
      >>> net = jn.serial(jax.nn.relu, jnp.sqrt, name="net")
      >>> print(first_nonfinite(net, {}, {}, jnp.array([[0.5, 2.0, -1.0]])))
      backward: net/relu, gradient: 0 NaN and 1 Inf in 3 numbers; the gradient of the output of
      net/sqrt, its consumer, is finite
    """
    net, params, state = check_net("first_nonfinite", net, params, state, x)
    x = all_native(x, "first_nonfinite")
    params, state = jax.tree.map(jnp.asarray, (params, state))
    a_function("first_nonfinite", "loss", loss, "(output)", optional=True)
    bad = _first({"params": params, "state": state, "x": x})
    if bad is not None:
        hint = "" if bad.path.startswith("x") else "; pass params and state from before the step"
        arises = f"it was passed in{hint}"
        return NonFinite("before", bad.path, bad.nans, bad.infs, bad.size, "entry", arises)

    outputs = _names(net, params, state, x, key, train)
    loss = loss or _mean_of_floats
    passes = _passes(net, params, state, x, loss, key, train, outputs)
    paths = {name: f"{net.name}/{name}" if name else net.name for name in outputs}
    return (
        _first_output(outputs, paths, passes.calls)
        or _loss_itself(net.name, passes.loss)
        or _first_gradient(outputs, paths, passes)
        or _first_leaf_gradient(passes, x)
    )


class _Passes(NamedTuple):
    """What a forward and a backward pass found; a count is (NaN, Inf)."""

    calls: dict[str, tuple]  # name of a call -> counts of its input and of its output
    loss: Any  # count
    of_params: Params
    of_x: PyTree
    of_outputs: dict[str, PyTree]  # gradients
    consumers: dict[str, list[str]]  # name of a call -> calls that take its output


def _mean_of_floats(y: PyTree) -> jax.Array:
    return sum((a.real.mean() for a in floats(y)), jnp.zeros(()))


def _passes(net, params, state, x, loss, key, train, outputs) -> _Passes:
    """Run both passes in one program."""
    consumers: dict[str, list[str]] = {name: [] for name in outputs}

    def forward(params, x_floats, shifts):
        calls = {}
        producers = {}  # references to the leaves keep their ids unique

        def note(name, x, y):
            if name not in outputs:
                return y
            for leaf in jax.tree.leaves(x):
                if id(leaf) in producers:
                    maker, _ = producers[id(leaf)]
                    consumers[maker].append(name)
            # The gradients of the shifts are the gradients of the outputs.
            shifted = jax.tree.map(jnp.add, floats_of(y), shifts[name])
            y = with_floats(y, shifted)
            for leaf in jax.tree.leaves(y):
                producers[id(leaf)] = (name, leaf)
            calls[name] = (count(x), count(y))
            return y

        y, _ = run(net, params, state, with_floats(x, x_floats), key, train, note, transforms=True)
        value = one_float("first_nonfinite", loss(y))
        return value, (calls, count(value))

    shifts = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), floats_of(outputs))
    program = jax.jit(jax.grad(forward, argnums=(0, 1, 2), has_aux=True, allow_int=True))
    gradients, (calls, of_loss) = jax.device_get(program(params, floats_of(x), shifts))
    of_params, of_x, of_outputs = gradients
    return _Passes(calls, of_loss, of_params, of_x, of_outputs, consumers)


def _first_output(outputs, paths, calls) -> NonFinite | None:
    for name, y in outputs.items():
        of_input, of_output = calls[name]
        nans, infs = map(int, of_output)
        if nans or infs:
            arises = "its input is finite"
            if any(of_input):
                arises = "its input is not: it arises between layers, in the enclosing function"
            arises += _range(y)
            return NonFinite("forward", paths[name], nans, infs, _size(y), "output", arises)
    return None


def _loss_itself(name: str, of_loss: Any) -> NonFinite | None:
    nans, infs = map(int, of_loss)
    if nans or infs:
        return NonFinite("forward", name, nans, infs, 1, "loss", "the output is finite")
    return None


def _first_gradient(outputs, paths, passes: _Passes) -> NonFinite | None:
    """Return the last layer whose output has a gradient that is not finite."""
    for name in reversed(outputs):
        nans, infs = map(int, count(passes.of_outputs[name]))
        if not nans and not infs:
            continue
        # If a composed layer and a layer inside it have the same output, name the inner one.
        users = dict.fromkeys(passes.consumers[name])
        inner = [one for one in users if not any(o.startswith(one + "/") for o in users)]
        arises = "the gradients of all later outputs are finite"
        if inner:
            consumer = " and ".join(paths[one] for one in inner)
            arises = f"the gradient of the output of {consumer}, its consumer, is finite"
        y = outputs[name]
        arises += _range(y)
        return NonFinite("backward", paths[name], nans, infs, _size(y), "gradient", arises)
    return None


def _first_leaf_gradient(passes: _Passes, x: PyTree) -> NonFinite | None:
    bad = _first({"params": passes.of_params, "x": with_floats(x, passes.of_x)})
    if bad is None:
        return None
    arises = "the gradients of all outputs are finite"
    return NonFinite("backward", bad.path, bad.nans, bad.infs, bad.size, "gradient", arises)


def _size(y: PyTree) -> int:
    return sum(a.size for a in floats(y))


def _range(y: PyTree) -> str:
    half = any(a.dtype == jnp.float16 for a in floats(y))
    return "; it is in float16, which ends at 65,504" if half else ""


def one_float(who: str, value: Any) -> jax.Array:
    """Return what a loss has returned; raise unless it is one float."""
    if np.shape(value) or not jnp.issubdtype(getattr(value, "dtype", object), jnp.floating):
        raise TypeError(f"{who}: loss must return one float, got {describe(value):.60}")
    return value


class _Bad(NamedTuple):
    path: str
    nans: int
    infs: int
    size: int


def _first(tree: PyTree) -> _Bad | None:
    """Return path and counts of NaN, Inf and all numbers of the first leaf that is not finite."""
    for path, leaf in flat(tree, None):
        nans, infs = map(int, count(leaf))
        if nans or infs:
            return _Bad(path, nans, infs, leaf.size)
    return None


def run(
    net: Layer, params, state, x, key, train, note: Note, *, transforms: bool = False
) -> tuple[PyTree, State]:
    """Run `net.apply` with `note(name, x, y) -> y` at each call, under a unique name."""
    calls: dict[str, int] = {}

    def see(path, layer, x, y):
        name = "/".join(path)
        calls[name] = calls.get(name, 0) + 1
        unique = name if calls[name] == 1 else f"{name}#{calls[name]}"
        return note(unique, x, y)

    return observe(net, see, transforms=transforms).apply(params, state, x, key=key, train=train)


def _names(net: Layer, params, state, x, key, train) -> dict[str, PyTree]:
    """Return the calls of a network outside loops, in order, with the shapes of their outputs."""
    names: dict[str, PyTree] = {}

    def note(name, x, y):
        if not is_traced(y):
            names[name] = shapes_of(y)
        return y

    run(net, params, state, x, key, train, note, transforms=True)
    return names


def floats(tree: PyTree) -> list[Any]:
    """Return the leaves that hold floats."""
    return [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.inexact)]


def count(tree: PyTree) -> Any:
    """Count NaN and Inf in all leaves, (2,)."""
    sums = [jnp.stack([jnp.isnan(a).sum(), jnp.isinf(a).sum()]) for a in floats(tree)]
    return sum(sums, jnp.zeros(2, jnp.int32))
