"""Computes a jaxpr with our kernels, and the jaxprs inside its equations.

An equation that contains programs is rewritten if one of them has an operation for our kernels, or
if a call gets an array in another order. Compiled functions are computed in place. Loops, branches,
`remat` and functions with their own derivatives stay, around rewritten programs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.rewriting.convolutions import is_fold, mapped_convolution
from jaxnet.rewriting.kernels import plan
from jaxnet.rewriting.layout import Merged, Permuted, Value, carry, in_program_order, like, merge
from jaxnet.services.jax_versions import bind, scan_parts, shard_map_like
from jaxnet.services.jaxprs import compute, jaxprs_among
from jaxnet.services.trees import PyTree


def run(function: Callable, *args: PyTree) -> PyTree:
    """Return function(*args), computed by our kernels where they help.

    Args:
      function: Function of pytrees of arrays.
      *args: Its arguments, pytrees of arrays and of `Permuted`.

    Returns:
      The result, a pytree of arrays and of `Permuted`.

    Example:
      >>> run(lambda a: {"b": jnp.cos(a)}, 0.0)
      {'b': Array(1., dtype=float32, weak_type=True)}
    """
    values, structure = jax.tree.flatten(args, is_leaf=_is_permuted)
    arrays = [
        jax.eval_shape(in_program_order, value) if _is_permuted(value) else value
        for value in values
    ]
    arguments = jax.tree.unflatten(structure, arrays)
    program, results = jax.make_jaxpr(function, return_shape=True)(*arguments)
    outputs = _computed(program, values)
    return _unflattened_like(results, outputs)


def _is_permuted(value: Any) -> bool:
    return isinstance(value, Permuted)


def _unflattened_like(tree: PyTree, leaves: Sequence) -> PyTree:
    """Return the leaves in the structure of a tree."""
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _computed(program: Any, inputs: Sequence[Value]) -> list[Value]:
    """Return the results of a jaxpr, closed or not, from the values of its inputs."""
    jaxpr = getattr(program, "jaxpr", program)
    consts = getattr(program, "consts", ())
    names = [*jaxpr.constvars, *jaxpr.invars]
    environment = dict(zip(names, [*consts, *inputs], strict=True))
    folds = {eqn.outvars[0]: eqn for eqn in jaxpr.eqns if is_fold(eqn)}

    def results(eqn: Any, operands: list[Value]) -> list[Value]:
        kernel = plan(eqn)
        if kernel:
            outputs = mapped_convolution(eqn, folds, environment)
            if outputs:
                return outputs
        if _divides(eqn, operands):
            return [operands[0].value]
        operands = [merge(value) for value in operands]
        if kernel:
            return kernel(operands)
        return _by_jax(eqn, operands)

    outputs = compute(jaxpr.eqns, environment, jaxpr.outvars, results)
    return [merge(value) for value in outputs]


def _divides(eqn: Any, operands: list[Value]) -> bool:
    """Whether an equation divides what is still to be merged."""
    if eqn.primitive.name != "reshape" or not isinstance(operands[0], Merged):
        return False
    return operands[0].value.shape == eqn.outvars[0].aval.shape


def _by_jax(eqn: Any, operands: list[Value]) -> list[Value]:
    """Return the results of an equation that has no kernel, around programs that may have one."""
    name = eqn.primitive.name
    permuted = any(map(_is_permuted, operands))
    if name in _CALLS and (permuted or _has_kernels(eqn)):
        return _CALLS[name](eqn, operands)
    if name in _BODIES and _has_kernels(eqn):
        return _BODIES[name](eqn, operands)
    if permuted:
        results = carry(eqn, operands)
        if results is not None:
            return results
    return bind(eqn, _all_in_program_order(operands))


def _has_kernels(eqn: Any) -> bool:
    """Whether a program inside an equation has an operation for our kernels."""
    params = jax.tree.leaves(list(eqn.params.values()))  # branches are in a tuple
    for body in jaxprs_among(params):
        if any(plan(each) or _has_kernels(each) for each in body.eqns):
            return True
    return False


# Calls, which get values in any order.


def _call(eqn: Any, operands: list[Value]) -> list[Value]:
    """Compute a compiled function in place, unless it says how its arrays are sharded."""
    params = eqn.params
    name = "jaxpr" if "jaxpr" in params else "call_jaxpr"
    shardings = [*params.get("in_shardings", ()), *params.get("out_shardings", ())]
    if not any(isinstance(sharding, jax.sharding.Sharding) for sharding in shardings):
        return _computed(params[name], operands)

    def inside(arrays):
        return _all_in_program_order(_computed(params[name], arrays))

    arrays = _all_in_program_order(operands)
    program = jax.make_jaxpr(inside)(arrays)
    return bind(eqn, arrays, params | {name: program})


def _remat(eqn: Any, operands: list[Value]) -> list[Value]:
    """Keep what is recomputed, and the policy of what is not."""
    inside = partial(_computed, eqn.params["jaxpr"])
    program, results = jax.make_jaxpr(inside, return_shape=True)(operands)
    jaxpr, consts = _opened(program)
    policy = eqn.params["policy"]
    if policy:
        policy = partial(_ask, policy)
    params = eqn.params | {"jaxpr": jaxpr, "policy": policy}
    outputs = bind(eqn, [*consts, *jax.tree.leaves(operands)], params)
    return _unflattened_like(results, outputs)


def _opened(program: Any) -> tuple[Any, list]:
    """Return a jaxpr that takes the constants of a program as its first inputs, and these."""
    jaxpr = program.jaxpr
    if not program.consts:
        return jaxpr, []

    def inside(consts, arguments):
        names = [*jaxpr.constvars, *jaxpr.invars]
        environment = dict(zip(names, [*consts, *arguments], strict=True))
        return compute(jaxpr.eqns, environment, jaxpr.outvars)

    consts = list(program.consts)
    return jax.make_jaxpr(inside)(consts, program.in_avals).jaxpr, consts


def _ask(policy: Callable, primitive: Any, *values: Any, **options: Any) -> Any:
    """Ask a policy of `jax.checkpoint` about our convolution as if it were JAX's."""
    if primitive.name == "convolution":
        primitive = lax.conv_general_dilated_p
    return policy(primitive, *values, **options)


def _custom_jvp(eqn: Any, operands: list[Value]) -> list[Value]:
    """Keep a function's own rule of its tangents, which is rewritten as well."""

    @jax.custom_jvp
    def call(*operands: Value) -> list[Value]:
        return _computed(eqn.params["call_jaxpr"], operands)

    def push(operands, tangents):
        inside, floats = _of_floats(eqn, operands)
        _, tangents_out = jax.jvp(inside, floats, tangents)
        return tangents_out

    @call.defjvp
    def rule(operands: Sequence[Value], tangents: Sequence[Value]) -> tuple:
        moving = [tangent for x, tangent in zip(operands, tangents, strict=True) if _is_float(x)]
        tangents_out = iter(run(push, list(operands), moving))
        results = call(*operands)
        of_results = [like(next(tangents_out), y) if _is_float(y) else _zero(y) for y in results]
        return results, of_results

    return call(*operands)


def _zero(value: Value) -> Any:
    """The tangent of integers."""
    return jax.tree.map(lambda array: np.zeros(array.shape, jax.dtypes.float0), value)


def _custom_vjp(eqn: Any, operands: list[Value]) -> list[Value]:
    """Keep a function's own gradient, which is rewritten as well."""

    def value_and_pull(operands):
        inside, floats = _of_floats(eqn, operands)
        return jax.vjp(inside, *floats)

    @jax.custom_vjp
    def call(*operands: Value) -> list[Value]:
        return _computed(eqn.params["call_jaxpr"], operands)

    def forward(*operands: Value) -> tuple:
        floats, pull = run(value_and_pull, list(operands))
        remaining = iter(floats)
        results = _computed(eqn.params["call_jaxpr"], operands)
        return [like(next(remaining), y) if _is_float(y) else y for y in results], pull

    def backward(pull: Any, cotangents: Sequence[Value]) -> tuple:
        floats = [ct for ct in cotangents if ct.dtype != jax.dtypes.float0]
        gradients = iter(run(lambda pull, floats: pull(floats), pull, floats))
        return tuple(like(next(gradients), x) if _is_float(x) else None for x in operands)

    call.defvjp(forward, backward)
    return call(*operands)


def _of_floats(eqn: Any, operands: Sequence) -> tuple[Callable, list]:
    """Return an equation as a function from its operands that are floats to such results."""

    def inside(*floats):
        remaining = iter(floats)
        every = [next(remaining) if _is_float(x) else x for x in operands]
        return [y for y in bind(eqn, every) if _is_float(y)]

    return inside, [x for x in operands if _is_float(x)]


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value.dtype), jnp.inexact)


# Loops and branches. What a loop carries keeps the order in which the body returns it.


def _scan(eqn: Any, values: list[Value]) -> list[Value]:
    inside = eqn.params["jaxpr"]
    consts, state, rows = scan_parts(eqn, values)
    rows = _all_in_program_order(rows)
    before_rows = len(consts) + len(state)
    row = list(inside.in_avals[before_rows:])

    def step(consts, state, row):
        outputs = _computed(inside, [*consts, *state, *row])
        return outputs[: len(state)], outputs[len(state) :]

    def body(consts, state, row):
        new_state, results = step(consts, state, row)
        return _like(new_state, state) + _all_in_program_order(results)

    new_state, _ = jax.eval_shape(step, consts, state, row)
    state = _like(state, new_state)
    program, results = jax.make_jaxpr(body, return_shape=True)(consts, state, row)
    operands = jax.tree.leaves((consts, state, rows))
    outputs = bind(eqn, operands, eqn.params | {"jaxpr": program})
    return _unflattened_like(results, outputs)


def _while(eqn: Any, values: list[Value]) -> list[Value]:
    params = eqn.params
    first = params["cond_nconsts"]
    last = first + params["body_nconsts"]
    of_test, consts, state = values[:first], values[first:last], values[last:]

    def step(consts, state):
        return _computed(params["body_jaxpr"], [*consts, *state])

    def body(consts, state):
        return _like(step(consts, state), state)

    def test(consts, state):
        return _all_in_program_order(_computed(params["cond_jaxpr"], [*consts, *state]))

    state = _like(state, jax.eval_shape(step, consts, state))
    programs = {
        "body_jaxpr": jax.make_jaxpr(body)(consts, state),
        "cond_jaxpr": jax.make_jaxpr(test)(of_test, state),
    }
    operands = jax.tree.leaves((of_test, consts, state))
    outputs = bind(eqn, operands, params | programs)
    return _unflattened_like(state, outputs)


def _cond(eqn: Any, values: list[Value]) -> list[Value]:
    """Branches return their results in the order of the program, since they must agree."""
    index, *operands = values

    def traced(branch):
        def inside(*arguments):
            return _all_in_program_order(_computed(branch, arguments))

        return jax.make_jaxpr(inside)(*operands)

    branches = tuple(map(traced, eqn.params["branches"]))
    leaves = jax.tree.leaves(operands)
    return bind(eqn, [index, *leaves], eqn.params | {"branches": branches})


def _shard_map(eqn: Any, operands: list[Value]) -> list[Value]:
    def inside(*slices):
        return tuple(_all_in_program_order(_computed(eqn.params["jaxpr"], slices)))

    return list(shard_map_like(eqn, inside)(*_all_in_program_order(operands)))


def _all_in_program_order(values: Sequence[Value]) -> list[jax.Array]:
    return [in_program_order(value) for value in values]


def _like(values: Sequence[Value], others: Sequence[Value]) -> list[Value]:
    return [like(value, other) for value, other in zip(values, others, strict=True)]


_CALLS: dict[str, Callable[[Any, list[Value]], list[Value]]] = {
    "closed_call": _call,
    "core_call": _call,
    "custom_jvp_call": _custom_jvp,
    "custom_vjp_call": _custom_vjp,
    "jit": _call,
    "remat2": _remat,
}
_BODIES: dict[str, Callable[[Any, list[Value]], list[Value]]] = {
    "cond": _cond,
    "scan": _scan,
    "shard_map": _shard_map,
    "while": _while,
}
