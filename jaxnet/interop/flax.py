"""Flax and jaxnet in one model: modules as layers, and layers as modules.

`from_linen` and `from_nnx` make a layer from a Flax module, for `trainer`, `repeat`, `compose` and
all other functions that take layers. `to_linen` makes a Linen module from a layer. Both may be
nested in each other. Weights need no conversion, since params have the same names:

    variables = module.init(key, x)                     # in Flax
    state, params = flax.core.pop(variables, "params")  # in jaxnet, for from_linen(module)
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from flax import errors, nnx
from flax import linen as nn
from flax.core import DenyList, unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxnet.core import Layer, as_layer, child_key
from jaxnet.services.checks import a_function, check_name, check_type
from jaxnet.services.trees import PyTree

Call = Callable[[Any, PyTree, bool], PyTree]

# The names of the training mode in Flax modules, and their values in training.
FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


def from_linen(module: nn.Module, *, call: Call | None = None, name: str | None = None) -> Layer:
    """Return a layer from a Flax Linen module.

    The params are the module's "params" collection. The state holds all other collections, each
    under its own name; the module may change them at every call. The training mode is passed under
    the usual names of its argument: train, training, is_training, deterministic,
    use_running_average. For a module with further arguments, pass `call`.

    Args:
      module: Module that is not bound to variables.
      call: Function `(module, x, train) -> y`, for modules with several inputs or other arguments:
        `lambda module, x, train: module(*x, mask=None, deterministic=not train)`.
      name: Name of the layer; the name of the module or of its class by default.

    Params and state:
      As the module's `init` returns them, with the same values for the same key.

    Raises:
      TypeError: If `module` is not a Linen module, or needs further arguments and there is no
        `call`.
      ValueError: If the module draws random numbers without a key.

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
    words = "a Linen module such as nn.Dense(4)"
    check_type("from_linen", "", module, nn.Module, words, "for an NNX module use from_nnx")
    _check("from_linen", call, name)
    if isinstance(module, LayerModule) and call is None:
        layer = module.layer
        return layer if name in (None, layer.name) else layer.replace(name=name)
    name = name or module.name or type(module).__name__
    call = call or _usual_call("from_linen", module)
    module = module.clone(parent=None)

    def evaluated(module, x):
        return call(module, x, False)

    def init(key, x):
        shapes = jax.eval_shape(lambda x: module.init(key, x, method=evaluated), x)
        # Flax before 0.12.9 refuses what is sown if it depends on x.
        sown = [name for name, tree in shapes.items() if _is_sown(tree)]
        # lazy_init passes only shapes to the module and does not run a forward pass.
        variables = module.lazy_init(key, x, method=evaluated, mutable=DenyList(sown))
        variables = unfreeze(nn.meta.unbox(variables))
        params = variables.pop("params", {})
        entries = flatten_dict(variables)
        arrays = {path: entry for path, entry in entries.items() if not isinstance(entry, tuple)}
        return params, unflatten_dict(arrays)

    def apply(params, state, x, *, key=None, train=False):
        def method(module, x):
            return call(module, x, train)

        rngs = {} if key is None else key  # one key for all of Flax's streams
        variables = {"params": params, **state}
        mutable = list(state)
        try:
            y, after = module.apply(variables, x, rngs=rngs, mutable=mutable, method=method)
        except errors.InvalidRngError as error:
            raise ValueError(_needs_key(name)) from error
        # Statistics may have changed to the dtype of x.
        return y, jax.tree.map(lambda new, old: new.astype(old.dtype), unfreeze(after), state)

    linen = as_layer(Layer(init, apply, name, "linen"))
    return linen.replace(inside=linen.inside._replace(options=Linen(module, call)))


def _is_sown(collection: Any) -> bool:
    """Return whether modules have sown all entries of a collection; such an entry is a tuple."""
    entries = list(flatten_dict(collection).values())
    return bool(entries) and all(isinstance(entry, tuple) for entry in entries)


class Linen(NamedTuple):
    """The module and the call inside a layer of kind "linen", where `to_linen` finds them."""

    module: nn.Module
    call: Call


def to_linen(
    layer: Layer, *, collection: str = "batch_stats", rng: str = "dropout", name: str | None = None
) -> "LayerModule":
    """Return a Flax Linen module from a layer, called as `module(x, train=False)`.

    The layer's params are the module's "params" and its state is one further collection, with the
    same names inside. So `jn.dense` has the variables of `nn.Dense`, `jn.batch_norm` has the
    variables of `nn.BatchNorm`, and so on. In NNX: `nnx.bridge.ToNNX(to_linen(layer),
    rngs=nnx.Rngs(0))`.

    `to_linen` and `from_linen` are inverse: the module of a layer from `from_linen` has the
    variables of the original module, and the layer of a module from `to_linen` is the original.

    Args:
      layer: Any layer.
      collection: Name of the state's collection; in training it must be mutable, as for
        `nn.BatchNorm`.
      rng: Name of Flax's random stream for the layer's key.
      name: Name of the module inside a parent; chosen by Flax by default.

    Raises:
      TypeError: If `layer` is not a layer, or a name is not a str.

    Example:
      >>> module = to_linen(jn.serial(jn.dense(4), jn.batch_norm()))
      >>> variables = module.init(jax.random.key(0), jnp.ones((2, 3)))
      >>> jax.tree.map(jnp.shape, variables["params"]["dense"])
      {'bias': (4,), 'kernel': (3, 4)}
      >>> y, changed = module.apply(variables, jnp.ones((2, 3)), train=True, mutable="batch_stats")
      >>> sorted(changed["batch_stats"]["batch_norm"])
      ['mean', 'var']
    """
    hint = "for a function pass jn.serial(function)"
    check_type("to_linen", "", layer, Layer, "a layer such as jn.dense(4)", hint)
    check_type("to_linen", "collection", collection, str, "a str")
    check_type("to_linen", "rng", rng, str, "a str")
    check_type("to_linen", "name", name, str | None, "a str")
    return LayerModule(layer, collection, rng, name=name)


class LayerModule(nn.Module):
    """A layer as a Linen module, see `to_linen`.

    Attributes:
      layer: Layer of jaxnet.
      collection: Name of the collection of the layer's state.
      rng: Name of Flax's random stream for the layer's key.
    """

    layer: Layer
    collection: str = "batch_stats"
    rng: str = "dropout"

    @nn.compact
    def __call__(self, x: PyTree, train: bool = False) -> PyTree:
        """Return the layer's output; its state is stored in the collection."""
        if self.layer.kind == "linen":
            linen = self.layer.inside.options
            module = linen.module.clone(parent=self, name=None)
            # The variables keep the paths of the original module.
            nn.share_scope(self, module)
            return linen.call(module, x, train)
        has_key = self.has_rng(self.rng) or self.has_rng("params")  # Flax falls back to "params"
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
    """Return a layer from a function that builds a Flax NNX module.

    An NNX module holds values from its construction, and a layer draws them by key; so `from_nnx`
    takes `make(rngs) -> module`. For the weights of a trained module, return that module: then
    `init` gives its values, whatever the key is. The params are the module's `nnx.Param`s; the
    state holds all other variables except random streams, which are seeded by the layer's key.
    `train` selects `module.train()` or `module.eval()`, and is passed under the usual names of
    `from_linen`.

    Args:
      make: Function that builds the module, whenever values are drawn.
      call: Function `(module, x, train) -> y`, for modules with several inputs or other arguments.
      name: Name of the layer; the name of the module's class by default.

    Params and state:
      Nested dicts by attribute; entries of a list have the names "0", "1", ...

    Raises:
      TypeError: If `make` is a module or does not return one, or the module needs further arguments
        and there is no `call`.
      ValueError: If the module draws random numbers without a key.
      ImportError: If Flax is older than 0.12.

    Example:
      >>> from flax import nnx
      >>> net = jn.serial(from_nnx(lambda rngs: nnx.Linear(3, 4, rngs=rngs)), jax.nn.relu)
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> jax.tree.map(jnp.shape, params)
      {'Linear': {'bias': (4,), 'kernel': (3, 4)}}

      The weights of a trained module:

      >>> trained = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
      >>> params, _ = from_nnx(lambda rngs: trained).init(jax.random.key(1), jn.spec((2, 3)))
      >>> bool((params["kernel"] == trained.kernel[...]).all())
      True
    """
    if isinstance(make, nnx.Module) or not callable(make):
        raise TypeError(
            "from_nnx: expected a function that builds the module, such as lambda rngs: "
            "nnx.Linear(3, 4, rngs=rngs), or lambda rngs: trained for a module that has its "
            f"weights, got {type(make).__name__}"
        )

    _check("from_nnx", call, name)

    def build(rngs):
        module = make(rngs)
        hint = "for a Linen module use from_linen"
        check_type("from_nnx", "what is built", module, nnx.Module, "an NNX module", hint)
        return module

    abstract = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    if not hasattr(nnx, "List"):
        raise ImportError(f"from_nnx: needs Flax 0.12, got {flax.__version__}; upgrade flax")
    name = name or type(abstract).__name__
    call = call or _usual_call("from_nnx", abstract)
    structure, abstract_params, abstract_streams, abstract_state = _split(abstract)

    def init(key, x):
        _, params, _, state = _split(build(nnx.Rngs(key)))
        return _nested(params), _nested(state)

    def apply(params, state, x, *, key=None, train=False):
        # Without a key no random stream may be used; the streams' counters show whether one was.
        seeds = _seeds(abstract_streams, jax.random.key(0) if key is None else key)
        before = {path: seed.get_value() for path, seed in seeds.items()}
        module = nnx.merge(
            structure,
            nnx.from_flat_state(seeds),
            nnx.from_flat_state(_filled(abstract_params, params)),
            nnx.from_flat_state(_filled(abstract_state, state)),
        )
        if train:
            module.train()
        else:
            module.eval()
        y = call(module, x, train)
        _, _, streams, state = _split(module)
        if key is None:
            drawn = any(streams[path].get_value() is not seed for path, seed in before.items())
            if drawn:
                raise ValueError(_needs_key(name))
        return y, _nested({path: state[path] for path in abstract_state})

    return as_layer(Layer(init, apply, name, kind="nnx"))


Variables = dict[tuple, Any]  # path -> nnx.Variable


def _split(module: nnx.Module) -> tuple[Any, Variables, Variables, Variables]:
    """Return structure, params, random streams, and all other variables."""
    structure, *kinds = nnx.split(module, nnx.Param, nnx.RngState, ...)
    params, streams, state = (dict(nnx.to_flat_state(kind)) for kind in kinds)
    return structure, params, streams, state


def _nested(variables: Variables) -> dict:
    """Return nested dicts of arrays with string keys, since mixed keys cannot be sorted."""
    values = {}
    for path, variable in variables.items():
        name = tuple(map(str, path))
        values[name] = variable.get_value()
    return unflatten_dict(values)


def _filled(variables: Variables, tree: dict) -> Variables:
    """Return variables with the values of nested dicts; the reverse of `_nested`."""
    paths = {tuple(map(str, path)): path for path in variables}
    values = flatten_dict(tree, is_leaf=lambda name, _: name in paths)  # a value may be a dict
    return {path: variables[path].replace(values[name]) for name, path in paths.items()}


def _seeds(streams: Variables, key: jax.Array) -> Variables:
    """Return the key of each stream, derived from its path, with each counter at 0."""

    def seed(path: tuple, variable: Any) -> jax.Array:
        shape = variable.get_value().shape
        if not isinstance(variable, nnx.RngKey):
            return jnp.zeros(shape, jnp.uint32)
        stream_key = child_key(key, "/".join(map(str, path)))
        return jax.random.split(stream_key, shape) if shape else stream_key

    return {path: variable.replace(seed(path, variable)) for path, variable in streams.items()}


def _check(who: str, call: Any, name: Any) -> None:
    a_function(who, "call", call, "(module, x, train)", optional=True)
    if name is not None:
        check_name(who, name)


def _usual_call(who: str, module: Any) -> Call:
    """Return a call module(x) that passes the training mode by the names that the module takes."""
    signature = inspect.signature(type(module).__call__)
    others = list(signature.parameters.values())[2:]  # without self and x
    names = {one.name for one in others}
    # An argument that was set at construction must not be passed again.
    flags = {
        name: in_training
        for name, in_training in FLAGS.items()
        if name in names and getattr(module, name, None) is None
    }
    needed = []
    for one in others:
        is_variadic = one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        if not is_variadic and one.default is one.empty and one.name not in flags:
            needed.append(one.name)
    if needed:
        raise TypeError(
            f"{who}: {type(module).__name__} needs {', '.join(needed)} in addition to its input; "
            f"write {who}(..., call=lambda module, x, train: module(x, {needed[0]}=...))"
        )

    def call(module, x, train):
        mode = {name: train == in_training for name, in_training in flags.items()}
        return module(x, **mode)

    return call


def _needs_key(name: str) -> str:
    return (
        f"{name}: draws random numbers and needs a key; write "
        "net.apply(params, state, x, key=jax.random.key(0), train=True)"
    )
