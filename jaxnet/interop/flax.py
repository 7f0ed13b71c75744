"""Flax and jaxnet in one model: modules as layers, and layers as modules.

`from_linen` and `from_nnx` make a layer of a Flax module; `make_step`, `repeat`, `compose` and all
the rest take it like any other. `to_linen` makes a Linen module of a layer. Both may be nested in
each other. Weights pass over unchanged, since params have the same names:

    variables = module.init(key, x)                  # as Flax keeps them
    state, params = flax.core.pop(variables, "params")  # as jaxnet does, for from_linen(module)
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors, nnx
from flax import linen as nn
from flax.core import unfreeze

from jaxnet.core import Layer, PyTree, checked, child_key, written_in

Call = Callable[[Any, PyTree, bool], PyTree]

# How Flax modules call their training mode, and the value that it has in training.
FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


def from_linen(module: nn.Module, *, call: Call | None = None, name: str | None = None) -> Layer:
    """A layer from a Flax Linen module.

    The params are the module's "params" collection. The state has all other collections, each under
    its own name; the module may change them at every call. The module's training mode is found by
    the usual names of its argument: train, training, is_training, deterministic,
    use_running_average; where it takes anything else beside its input, write `call`.

    Args:
      module: not bound to variables.
      call: `(module, x, train) -> y`, for modules that take several inputs or other arguments:
        `lambda module, x, train: module(*x, mask=None, deterministic=not train)`.
      name: of the layer; by default the module's name or that of its class.

    Params and state:
      As the module's `init` gives them, with the same values for the same key.

    Raises:
      TypeError: for what is no Linen module, or one that needs further arguments and has no `call`.
      ValueError: where the module draws random numbers and there is no key.

    Example:
      >>> import flax.linen as nn
      >>> net = jn.serial(from_linen(nn.Dense(4)), jax.nn.relu, from_linen(nn.BatchNorm()))
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> jax.tree.map(jnp.shape, params["Dense"])
      {'bias': (4,), 'kernel': (3, 4)}
      >>> y, state = net.apply(params, state, jnp.ones((2, 3)), train=True)
      >>> state["BatchNorm"]["batch_stats"]["mean"].shape
      (4,)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"from_linen: needs a Linen module such as nn.Dense(4), got {type(module).__name__}; "
            "an NNX module goes through from_nnx"
        )
    if isinstance(module, LayerModule) and call is None:
        return module.layer._replace(name=name or module.layer.name)
    name = name or module.name or type(module).__name__
    run = _FromLinen(module.clone(parent=None), call or _usual_call("from_linen", module), name)
    return checked(Layer(run.init, run, name))


class _FromLinen:
    """The apply of a layer that is a Linen module; `to_linen` finds the module in it."""

    def __init__(self, module: nn.Module, call: Call, name: str):
        self.module, self.call, self.name = module, call, name

    def init(self, key, x):
        # Lazy: the module sees shapes only, and no forward pass is run.
        variables = self.module.lazy_init(key, x, method=lambda m, x: self.call(m, x, False))
        variables = unfreeze(nn.meta.unbox(variables))
        params = variables.pop("params", {})
        return params, {name: entry for name, entry in variables.items() if entry}

    def __call__(self, params, state, x, *, key=None, train=False):
        try:
            y, state = self.module.apply(
                {"params": params, **state},
                x,
                rngs={} if key is None else key,  # one key serves all of Flax's streams
                mutable=list(state),
                method=lambda m, x: self.call(m, x, train),
            )
        except errors.InvalidRngError as error:
            raise ValueError(_needs_key(self.name)) from error
        return y, unfreeze(state)


def to_linen(
    layer: Layer, *, collection: str = "batch_stats", rng: str = "dropout", name: str | None = None
) -> "LayerModule":
    """A Flax Linen module from a layer; it is called as `module(x, train=False)`.

    The layer's params are the module's "params" and its state is one further collection, with the
    same names inside. So `jn.dense` has the variables of `nn.Dense`, `jn.batch_norm` those of
    `nn.BatchNorm`, and so on. In NNX: `nnx.bridge.ToNNX(to_linen(layer), rngs=nnx.Rngs(0))`.

    The module of a layer from `from_linen` has the variables of the original module, and
    `from_linen` gives the layer of a module from here.

    Args:
      layer: any layer.
      collection: in which the state is kept; in training it must be mutable, as for `nn.BatchNorm`.
      rng: the name of Flax's random stream that the layer's key comes from.
      name: of the module inside a parent; None lets Flax choose.

    Raises:
      TypeError: for what is no layer.

    Example:
      >>> module = to_linen(jn.serial(jn.dense(4), jn.batch_norm()))
      >>> variables = module.init(jax.random.key(0), jnp.ones((2, 3)))
      >>> jax.tree.map(jnp.shape, variables["params"]["dense"])
      {'bias': (4,), 'kernel': (3, 4)}
      >>> y, changed = module.apply(variables, jnp.ones((2, 3)), train=True, mutable="batch_stats")
      >>> sorted(changed["batch_stats"]["batch_norm"])
      ['mean', 'var']
    """
    if not isinstance(layer, Layer):
        raise TypeError(
            f"to_linen: needs a layer such as jn.dense(4), got {type(layer).__name__}; "
            "a function becomes one by jn.serial(function)"
        )
    return LayerModule(layer, collection, rng, name=name)


class LayerModule(nn.Module):
    """What `to_linen` gives.

    Attributes:
      layer: the jaxnet layer.
      collection: in which the layer's state is kept.
      rng: the name of Flax's random stream that the layer's key comes from.
    """

    layer: Layer
    collection: str = "batch_stats"
    rng: str = "dropout"

    @nn.compact
    def __call__(self, x: PyTree, train: bool = False) -> PyTree:
        """The layer's output; its state goes into the collection."""
        inside = written_in(self.layer)
        if isinstance(inside, _FromLinen):
            module = inside.module.clone(parent=self, name=None)
            nn.share_scope(self, module)  # the variables have the paths of the original
            return inside.call(module, x, train)
        has_key = self.has_rng(self.rng) or self.has_rng("params")  # where Flax looks, too
        key = self.make_rng(self.rng) if has_key else None
        if self.is_initializing():
            params, state = self.layer.init(self.make_rng("params"), x)
            for name, entry in params.items():
                self.param(name, lambda _, entry=entry: entry)
            for name, entry in state.items():
                self.variable(self.collection, name, lambda entry=entry: entry)
            return self.layer.apply(params, state, x, key=key, train=train)[0]
        params = unfreeze(dict(self.variables.get("params", {})))
        state = unfreeze(dict(self.variables.get(self.collection, {})))
        y, state = self.layer.apply(params, state, x, key=key, train=train)
        if train or self.is_mutable_collection(self.collection):
            for name, entry in state.items():
                self.put_variable(self.collection, name, entry)
        return y


def from_nnx(
    make: Callable[[nnx.Rngs], nnx.Module], *, call: Call | None = None, name: str | None = None
) -> Layer:
    """A layer from a function that builds a Flax NNX module.

    An NNX module holds its values from birth on, and a layer draws them by key; so what is needed
    is `make(rngs) -> module`. The params are the module's `nnx.Param`s; the state has all other
    variables, but for random streams, which come from the layer's key. `train` becomes
    `module.train()` or `module.eval()`, and the usual arguments of `from_linen`.

    Args:
      make: builds the module; is called whenever values are drawn.
      call: `(module, x, train) -> y`, for modules that take several inputs or other arguments.
      name: of the layer; by default the name of the module's class.

    Params and state:
      Nested dicts by attribute; entries of a list have the names "0", "1", ...

    Raises:
      TypeError: where `make` is a module, or gives something else, or its module needs further
        arguments and there is no `call`.
      ValueError: where the module draws random numbers and there is no key.

    Example:
      >>> from flax import nnx
      >>> net = jn.serial(from_nnx(lambda rngs: nnx.Linear(3, 4, rngs=rngs)), jax.nn.relu)
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> jax.tree.map(jnp.shape, params)
      {'Linear': {'bias': (4,), 'kernel': (3, 4)}}
    """
    if isinstance(make, nnx.Module) or not callable(make):
        raise TypeError(
            "from_nnx: needs a function that builds the module, such as "
            f"lambda rngs: nnx.Linear(3, 4, rngs=rngs), got {type(make).__name__}"
        )

    def build(rngs):
        module = make(rngs)
        if not isinstance(module, nnx.Module):
            raise TypeError(
                f"from_nnx: the function must give an NNX module, got {type(module).__name__}; "
                "a Linen module goes through from_linen"
            )
        return module

    abstract = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    name = name or type(abstract).__name__
    call = call or _usual_call("from_nnx", abstract)
    structure, params_here, streams_here, state_here = _split(abstract)

    def init(key, x):
        _, params, _, state = _split(build(nnx.Rngs(key)))
        return _nested(params), _nested(state)

    def apply(params, state, x, *, key=None, train=False):
        # Without a key no stream may be drawn from, which its counter tells afterwards.
        seeds = _seeds(streams_here, jax.random.key(0) if key is None else key)
        before = {path: _value(seed) for path, seed in seeds.items()}
        module = nnx.merge(
            structure,
            nnx.from_flat_state(seeds),
            nnx.from_flat_state(_filled(params_here, params)),
            nnx.from_flat_state(_filled(state_here, state)),
        )
        module.train() if train else module.eval()
        y = call(module, x, train)
        _, _, streams, state = _split(module)
        if key is None and any(_value(streams[p]) is not before[p] for p in before):
            raise ValueError(_needs_key(name))
        return y, _nested({path: state[path] for path in state_here})

    return checked(Layer(init, apply, name))


Variables = dict[tuple, Any]  # path -> nnx.Variable


def _split(module: nnx.Module) -> tuple[Any, Variables, Variables, Variables]:
    """Structure, params, random streams, and all other variables."""
    structure, *kinds = nnx.split(module, nnx.Param, nnx.RngState, ...)
    params, streams, state = (dict(nnx.to_flat_state(kind)) for kind in kinds)
    return structure, params, streams, state


def _value(variable: Any) -> Any:
    return variable.get_value()


def _nested(variables: Variables) -> dict:
    """Nested dicts of arrays; all keys are strings, as mixed ones cannot be sorted."""
    tree: dict = {}
    for path, variable in variables.items():
        here = tree
        for key in path[:-1]:
            here = here.setdefault(str(key), {})
        here[str(path[-1])] = _value(variable)
    return tree


def _filled(variables: Variables, tree: dict) -> Variables:
    def value(path):
        here = tree
        for key in path:
            here = here[str(key)]
        return here

    return {path: variable.replace(value(path)) for path, variable in variables.items()}


def _seeds(streams: Variables, key: jax.Array) -> Variables:
    """Each stream's key from its path, each counter at 0."""
    seeds = {}
    for path, variable in streams.items():
        shape = _value(variable).shape
        if isinstance(variable, nnx.RngKey):
            seed = child_key(key, "/".join(map(str, path)))
            seeds[path] = variable.replace(jax.random.split(seed, shape) if shape else seed)
        else:
            seeds[path] = variable.replace(jnp.zeros(shape, jnp.uint32))
    return seeds


def _usual_call(who: str, module: Any) -> Call:
    """module(x), with the training mode wherever the module takes it under a usual name."""
    parameters = list(inspect.signature(type(module).__call__).parameters.values())[1:]
    names = {p.name for p in parameters[1:]}
    # What was decided when the module was built is not given again.
    flags = {f: v for f, v in FLAGS.items() if f in names and getattr(module, f, None) is None}
    needed = [
        p.name
        for p in parameters[1:]
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and p.name not in flags
    ]
    if needed:
        raise TypeError(
            f"{who}: {type(module).__name__} needs {', '.join(needed)} beside its input; write "
            f"{who}(..., call=lambda module, x, train: module(x, {needed[0]}=...))"
        )

    def call(module: Any, x: PyTree, train: bool) -> PyTree:
        return module(x, **{flag: train == value for flag, value in flags.items()})

    return call


def _needs_key(name: str) -> str:
    return (
        f"{name}: draws random numbers and needs a key; write "
        "net.apply(params, state, x, key=jax.random.key(0), train=True)"
    )
