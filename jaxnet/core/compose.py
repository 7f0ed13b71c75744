"""Layers from functions: of `m` and `x`, of the layer inside, of params and `x`.

What happens when such a layer runs is in `run.py`.
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxnet.core.contract import Layer, LayerTransform, Params
from jaxnet.core.errors import check_pair
from jaxnet.core.inputs import spread
from jaxnet.core.run import Run, as_layer, make_layer
from jaxnet.services.checks import a_function, check_name
from jaxnet.services.functions import function_name, inputs_of, takes
from jaxnet.services.trees import PyTree


def compose(
    forward: Callable[..., PyTree], *, name: str | None = None, kind: str | None = None
) -> Layer:
    """Make a layer from a function `forward(m, x) -> y` that applies other layers by `m(layer, x)`.

    The function calls `m`, its first argument, to apply layers, and asks it for params and state:

        m(layer, x)                         the output of a child, a layer or a plain function
        m(layer, x, t, label=label)         the same for a child of several inputs
        m.param(name, initializer, shape)   a parameter of this layer
        m.kernel(name, initializer, shape)  a parameter as it is stored, for jn.product and jn.rows
        m.state(name, initializer, shape)   an entry of its state: a running mean, a count of steps
        m.update(name, value)               the next value of that entry
        m.sow(name, value)                  a value for `jn.collect`, such as a balance loss
        m.key(name)                         a random key of this layer
        m.keys(name, n)                     keys for the turns of a loop of JAX, as key=
        m.train                             True in training
        m.scan(body, carry, xs)             a loop whose turns share their params
        m.whole(layer, x)                   a child outside the stream, with its whole input
        m.stream                            how a sequence arrives in `jn.stream`; None as a whole

    `init` runs `forward` on shapes alone and notes its calls: in evaluation and, if it looks at
    `m.train`, in training, too. So `forward` must call the same layers at each run of a mode,
    whatever the values are. Entries of one mode rest in the other.

    The params of a child are stored under the name of its layer. Two layers of one name become
    `dense` and `dense_1`, in the order of their calls, and a layer that is called twice shares its
    params. A parameter and a child must have different names.

    In `m.scan(body, carry, xs)` with `body(m, carry, x) -> (carry, y)` each turn draws its own
    numbers, and the state goes from turn to turn. Inside another function that JAX traces, such as
    that of `jax.vmap` or `jax.grad`, a layer that draws needs a key, `m(layer, x, key=key)`, and a
    layer that changes its state raises, since the value would end with that function.

    A function `forward(m, x, t, label=None)` has several inputs: the parts of a tuple in order, or
    of a dict by name. None is an input that is not there, and an argument with another default is
    an option. A function of one input gets it as it is.

    Args:
      forward: The function. It may make layers or use layers made outside it.
      name: Name of the layer; the name of `forward` by default, if there is no `kind`.
      kind: Name of the function that made the layer; `name` by default.

    Returns:
      A layer. Its `init` and `apply` run `forward`.

    Example:
      >>> def scaled(m, x):
      ...     y = m(jn.dense(5), x)
      ...     if m.train:
      ...         y += 0.1 * jax.random.normal(m.key("noise"), y.shape)
      ...     return y * m.param("scale", jn.initializers.ones, (5,))
      >>> params, state = jn.compose(scaled).init(jax.random.key(0), jn.spec((2, 3)))
      >>> jax.tree.map(jnp.shape, params)
      {'dense': {'bias': (5,), 'kernel': (3, 5)}, 'scale': (5,)}
      >>> y, _ = jn.compose(scaled).apply(params, state, jnp.ones((2, 3)))
      >>> np.asarray(y[0]).round(3)
      array([-0.022,  0.908, -0.985,  0.632,  0.502], dtype=float32)

      A layer with state:

      >>> def centered(m, x):
      ...     mean = m.state("mean", jn.initializers.zeros, x.shape[1:])
      ...     if m.train:
      ...         m.update("mean", 0.9 * mean + 0.1 * x.mean(0))
      ...     return x - mean
      >>> params, state = jn.compose(centered).init(jax.random.key(0), jn.spec((2, 3)))
      >>> y, state = jn.compose(centered).apply(params, state, jnp.ones((2, 3)), train=True)
      >>> state["mean"].round(1).tolist()
      [0.1..., 0.1..., 0.1...]
    """
    if isinstance(forward, Layer) or not callable(forward) or not _takes_m_and_x(forward):
        raise TypeError(
            f"compose: expected a function forward(m, x), got {function_name(forward)}; for a "
            "function of x alone, write jn.serial(function)"
        )
    if kind is None and name is None:
        name = function_name(forward)
    name = check_name(kind or "compose", name)  # a layer's own function is called "forward"
    return make_layer(name, kind or name, *spread(forward))


def _takes_m_and_x(forward: Callable[..., PyTree]) -> bool:
    return takes(forward, 2) or len(inputs_of(forward)) > 1


def transform(
    layer: Layer | Callable[..., Any],
    apply: Callable[..., Any],
    *,
    kind: str,
    init: Callable[..., Any] | None = None,
    name: str | None = None,
) -> Layer:
    """Make a layer around another one, from a function of it.

    `apply` gets the layer inside as a function `run`, in the mode of the call: with its key, in
    training or evaluation, as a whole or in a stream, watched or not. So whatever is done to a net
    reaches the layer inside.

        run(params, state, x)                its output and state
        run(params, state, x, turn=i)        the same in turn i of a loop, with a key of its own
        run(params, state, x, key=key)       the same with a key given, as inside jax.checkpoint
        run(params, state, x, train=False)   the same in evaluation
        run.init(key, x)                     its params and state
        run.key(name)                        a random key that no layer inside has
        run.train                            True in training

    Two calls of `run` without `turn` draw the same random numbers.

    Args:
      layer: The layer inside.
      apply: Function `(run, params, state, x) -> (y, state)`. The returned state has the entries,
        shapes and dtypes of the given one.
      kind: Name of the function that makes the layer.
      init: Function `(run, key, x) -> (params, state)`, if they are not those of the layer; `x`
        holds shapes and dtypes. What `apply` is given is compared with them.
      name: Name of the layer; by default, the name of the layer inside.

    Returns:
      A layer.

    Raises:
      TypeError: If `layer` is not a layer, or `apply` or `init` is not a function.
      ValueError: If `apply` or `init` holds `layer` itself, whose own functions know nothing of
        the call, such as its stream.

    Example:
      >>> def scaled(layer, factor):
      ...     def apply(run, params, state, x):
      ...         y, state = run(params, state, x)
      ...         return factor * y, state
      ...     return jn.transforms.transform(layer, apply, kind="scaled")
      >>> net = jn.serial(scaled(jn.dropout(0.5), 3.0), name="net")
      >>> net.apply({}, {}, jnp.ones((1, 2)))[0].tolist()
      [[3.0, 3.0]]
    """
    forms = {"apply": "run(params, state, x)", "init": "run.init(key, x)"}
    for what, function in (("apply", apply), ("init", init)):
        cells = getattr(function, "__closure__", None) or ()
        if any(cell.cell_contents is layer for cell in cells):
            raise ValueError(
                f"{kind}: {what} uses the layer around which it is made. Call `{forms[what]}` "
                "instead: it is that layer with the key, the mode and the stream of the call"
            )

    def checked_apply(run, params, state, x):
        result = apply(run, {**params}, {**state}, x)  # which it may change
        check_pair(result, "apply must return (y, state)")
        y, after = result
        return run.mode.rounded(y, axes=2), after

    a_function(kind, "apply", apply, "(run, params, state, x)")
    return transformed(
        layer, checked_apply, kind=kind, init=init, name=name, new_entries=init is not None
    )


def transformed(
    layer: Layer | Callable[..., Any],
    apply: Callable[..., Any],
    *,
    kind: str,
    init: Callable[..., Any] | None = None,
    name: str | None = None,
    inputs: tuple[str, ...] | None = None,
    **fields: Any,
) -> Layer:
    """Make a transform; the further fields are those of `LayerTransform`."""
    layer = as_layer(layer, kind, "layer")
    a_function(kind, "init", init, "(run, key, x)", optional=True)
    name = check_name(kind, layer.name if name is None else name)
    init = Run.init if init is None else init
    inputs = layer.inputs if inputs is None else inputs
    return make_layer(name, kind, LayerTransform(layer, apply, init, **fields), inputs)


def with_inner_layer(layer: Layer, inner: Layer) -> Layer:
    """Return the same transform of another layer."""
    return make_layer(layer.name, layer.kind, layer.inside._replace(layer=inner), layer.inputs)


def stateless(
    init: Callable[[jax.Array, Any], Params],
    apply: Callable[[Params, Any], PyTree],
    name: str = "stateless",
) -> Layer:
    """Return a layer from `init(key, x) -> params` and `apply(params, x) -> y`.

    Args:
      init: Function that draws the parameters; `x` holds shapes and dtypes, not data.
      apply: Function that computes the output.
      name: Name of the layer's entry inside a parent.

    Returns:
      A layer with these params and without state.

    Raises:
      ValueError: In `apply`, if params are missing, unknown or of the wrong shape.

    Example:
      >>> def init(key, x):
      ...     return {"scale": jnp.ones(x.shape[-1])}
      >>> layer = stateless(init, lambda params, x: x * params["scale"], name="scale")
      >>> params, state = layer.init(jax.random.key(0), jn.spec((2, 3)))
      >>> params["scale"].shape, state
      ((3,), {})
    """
    a_function(name, "init", init, "(key, x)")
    a_function(name, "apply", apply, "(params, x)")

    def run(params, state, x, *, key=None, train=False):
        return apply(params, x), state

    def init_both(key, x):
        return init(key, x), {}

    return as_layer(Layer(init_both, run, name))
