"""A net in JAX's own operations, for tools that know no others: converters, `jax.experimental.jet`.

The net is traced, and its jaxpr evaluated again, operation by operation; operations that such tools
lack are replaced.
"""

from collections.abc import Sequence
from typing import Any

import jax

from jaxnet.checks import a_layer
from jaxnet.core import Layer
from jaxnet.ops.convolution import convolution_p
from jaxnet.ops.convolution_lowering import accelerator

# Calls of a jaxpr, by the name of the parameter that holds it; the rules around it are left out.
_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
    "remat2": "jaxpr",
}


def plain(net: Layer) -> Layer:
    """A layer whose operations are JAX's own: its convolutions are `jax.lax.conv_general_dilated`.

    Calls of compiled functions and functions with their own derivatives are replaced by the
    operations in them, also inside loops. Values, params and state are those of the net, up to
    rounding. So are gradients, except where an operation of JAX has a kink: that of `jax.nn.relu`
    at 0 is 1/2 here, as for `jnp.maximum`.

    Awkward: `remat` has no effect here, and on CPU the gradients of convolutions are slow inside
    loops; train the net itself. `jax.experimental.jet` has no rule for loops (recurrent layers,
    `repeat`), argmax, cumsum and linear algebra.

    Args:
      net: any layer.

    Raises:
      TypeError: for no layer.

    Example:
      >>> net, x = jn.conv(4, 3), jnp.ones((2, 7, 5))
      >>> params, state = net.init(jax.random.key(0), x)
      >>> def primitives(net):
      ...     jaxpr = jax.make_jaxpr(net.apply)(params, state, x)
      ...     return [equation.primitive.name for equation in jaxpr.eqns]
      >>> "convolution" in primitives(net), "convolution" in primitives(jn.interop.plain(net))
      (True, False)
      >>> "conv_general_dilated" in primitives(jn.interop.plain(net))
      True
    """
    net = a_layer("plain", "net", net)

    def apply(params, state, x, *, key=None, train=False):
        def run(params, state, x, key):
            return net.apply(params, state, x, key=key, train=train)

        traced, result = jax.make_jaxpr(run, return_shape=True)(params, state, x, key)
        leaves = _evaluate(traced, jax.tree.leaves((params, state, x, key)))
        return jax.tree.unflatten(jax.tree.structure(result), leaves)

    return Layer(net.init, apply, net.name, "plain", (net, plain))


def _evaluate(closed: Any, arguments: Sequence[Any]) -> list[Any]:
    """The results of a closed jaxpr (or of one without constants), in plain operations."""
    jaxpr = getattr(closed, "jaxpr", closed)
    values = dict(zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        primitive, options = equation.primitive, equation.params
        if primitive is convolution_p:
            results = [accelerator(*operands, **options)]
        elif primitive.name == "optimization_barrier":
            results = operands
        elif primitive.name in _CALLS:
            results = _evaluate(options[_CALLS[primitive.name]], operands)
        else:
            options = primitive.get_bind_params(_plain_bodies(options))
            results = primitive.bind(*operands, **options)
            results = results if primitive.multiple_results else [results]
        values |= zip(equation.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _plain_bodies(options: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a loop or branch with plain jaxprs in the place of theirs."""

    def body(value: Any) -> Any:
        if isinstance(value, tuple) and value and all(map(_is_closed, value)):
            return tuple(map(body, value))
        if not _is_closed(value):
            return value
        return jax.make_jaxpr(lambda *a: _evaluate(value, a))(*value.in_avals)

    return {name: body(value) for name, value in options.items()}


def _is_closed(value: Any) -> bool:
    return hasattr(value, "jaxpr") and hasattr(value, "consts")
