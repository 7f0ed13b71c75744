"""A net that uses only JAX's own operations, for converters, `jax.experimental.jet` and the like.

The net is traced, and its jaxpr evaluated again, operation by operation; operations that such tools
lack are replaced.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxnet.core import Layer, as_layer, transformed
from jaxnet.ops.convolution_lowering import accelerator
from jaxnet.services.jax_versions import bind
from jaxnet.services.jaxprs import compute

# Primitives that call a jaxpr, with the name of the parameter that holds it. Their custom rules are
# dropped.
_CALLS = {
    "jit": "jaxpr",
    "remat2": "jaxpr",
    "native_call": "jaxpr",
    "custom_vmap_call": "call",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}

# Replaces the primitive of `jaxnet.ops.convolution` by JAX's convolution or a transpose of it.
OURS: Mapping[str, Callable] = {"convolution": accelerator}


def without_kernels(net: Layer) -> Layer:
    """Return a layer of JAX's own operations, with `jax.lax.conv_general_dilated` for convolutions.

    Calls of compiled functions and functions with their own derivatives are replaced by the
    operations in them, inside loops as well. Values, params and state equal the net's, up to
    rounding. So do gradients, except of functions with derivatives of their own, and where an
    operation of JAX has a kink: the gradient of `jax.nn.relu` at 0 is 1/2 here, as for
    `jnp.maximum`.

    Caution: `remat` has no effect here, and on CPU the gradients of convolutions are slow inside
    loops; train the net itself. `jax.experimental.jet` has no rule for loops (recurrent layers,
    `repeat`), argmax, cumsum and linear algebra.

    Args:
      net: Any layer.

    Returns:
      A layer with the params, state and outputs of the net.

    Raises:
      TypeError: If `net` is not a layer.

    Example:
      >>> net, x = jn.conv(4, 3), jnp.ones((2, 7, 5))
      >>> params, state = net.init(jax.random.key(0), x)
      >>> for layer in (net, jn.interop.without_kernels(net)):
      ...     jaxpr = jax.make_jaxpr(layer.apply)(params, state, x)
      ...     names = [equation.primitive.name for equation in jaxpr.eqns]
      ...     print(*(name for name in names if name.startswith(("convolution", "conv_"))))
      convolution
      conv_general_dilated
    """
    net = as_layer(net, "without_kernels", "net")

    def apply(run, params, state, x):
        def inner(params, state, x, key):
            return run(params, state, x, key=key)

        arguments = params, state, x, run.call_key
        traced, result = jax.make_jaxpr(inner, return_shape=True)(*arguments)
        leaves = evaluate(traced, jax.tree.leaves(arguments), OURS)
        return jax.tree.unflatten(jax.tree.structure(result), leaves)

    return transformed(net, apply, kind="without_kernels")


def evaluate(closed: Any, arguments: Sequence[Any], instead: Mapping[str, Callable]) -> list[Any]:
    """Return the results of a closed jaxpr, with functions instead of some of its primitives.

    Calls are replaced by the operations in them.

    Args:
      closed: Jaxpr of `jax.make_jaxpr`; a jaxpr without constants is also accepted.
      arguments: One argument per input of the jaxpr.
      instead: Dict with a function for each primitive to replace, by its name. The function takes
        its operands, and its parameters as keywords, and returns one array.

    Example:
      >>> double = jax.make_jaxpr(lambda x: jax.nn.relu(2 * x))(1.0)
      >>> evaluate(double, [3.0], {"mul": lambda a, b, **_: a + b})
      [Array(5., dtype=float32)]
    """
    jaxpr = getattr(closed, "jaxpr", closed)
    variables = [*jaxpr.constvars, *jaxpr.invars]
    values = [*getattr(closed, "consts", ()), *arguments]
    environment = dict(zip(variables, values, strict=True))

    def results(equation: Any, operands: list[Any]) -> list[Any]:
        name, options = equation.primitive.name, equation.params
        if name in instead:
            return [instead[name](*operands, **options)]
        if name == "optimization_barrier":
            return operands
        if name in _CALLS:
            return evaluate(options[_CALLS[name]], operands, instead)
        return bind(equation, operands, _with_bodies(options, instead))

    return compute(jaxpr.eqns, environment, jaxpr.outvars, results)


def _with_bodies(options: dict[str, Any], instead: Mapping[str, Callable]) -> dict[str, Any]:
    """The parameters of a loop or branch, whose jaxprs have their primitives replaced as well."""

    def body(value: Any) -> Any:
        if _is_closed(value):
            return jax.make_jaxpr(lambda *args: evaluate(value, args, instead))(*value.in_avals)
        if type(value) is tuple and any(map(_is_closed, value)):  # branches
            return tuple([body(branch) for branch in value])
        return value

    return {name: body(value) for name, value in options.items()}


def _is_closed(value: Any) -> bool:
    return hasattr(value, "jaxpr") and hasattr(value, "consts")
