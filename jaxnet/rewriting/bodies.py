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
from jaxnet.rewriting.layout import Merged, Permuted, Value, carry, like, merge, plain
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
    arrays = [jax.eval_shape(plain, value) if _is_permuted(value) else value for value in values]
    arguments = jax.tree.unflatten(structure, arrays)
    program, results = jax.make_jaxpr(function, return_shape=True)(*arguments)
    return jax.tree.unflatten(jax.tree.structure(results), _computed(program, values))


def _is_permuted(value: Any) -> bool:
    return isinstance(value, Permuted)


def _computed(program: Any, given: Sequence[Value]) -> list[Value]:
    """Return the results of a jaxpr, closed or not, from the values of its inputs."""
    jaxpr = getattr(program, "jaxpr", program)
    names = [*jaxpr.constvars, *jaxpr.invars]
    known = dict(zip(names, [*getattr(program, "consts", ()), *given], strict=True))
    folds = {eqn.outvars[0]: eqn for eqn in jaxpr.eqns if is_fold(eqn)}

    def results(eqn: Any, given: list[Value]) -> list[Value]:
        kernel = plan(eqn)
        if kernel and (found := mapped_convolution(eqn, folds, known)):
            return found
        if _divides(eqn, given):
            return [given[0].value]
        given = [merge(value) for value in given]
        return kernel(given) if kernel else _by_jax(eqn, given)

    return [merge(value) for value in compute(jaxpr.eqns, known, jaxpr.outvars, results)]


def _divides(eqn: Any, given: list[Value]) -> bool:
    """Whether an equation divides what is still to be merged."""
    merged = eqn.primitive.name == "reshape" and isinstance(given[0], Merged)
    return merged and given[0].value.shape == eqn.outvars[0].aval.shape


def _by_jax(eqn: Any, given: list[Value]) -> list[Value]:
    """Return the results of an equation that has no kernel, around programs that may have one."""
    name = eqn.primitive.name
    permuted = any(map(_is_permuted, given))
    if name in _CALLS and (permuted or _has_kernels(eqn)):
        return _CALLS[name](eqn, given)
    if name in _BODIES and _has_kernels(eqn):
        return _BODIES[name](eqn, given)
    found = carry(eqn, given) if permuted else None
    return bind(eqn, [plain(value) for value in given]) if found is None else found


def _has_kernels(eqn: Any) -> bool:
    """Whether a program inside an equation has an operation for our kernels."""
    inside = jaxprs_among(jax.tree.leaves(list(eqn.params.values())))  # branches are in a tuple
    return any(plan(each) or _has_kernels(each) for body in inside for each in body.eqns)


# Calls, which get values in any order.


def _call(eqn: Any, given: list[Value]) -> list[Value]:
    """Compute a compiled function in place, unless it says how its arrays are sharded."""
    params = eqn.params
    name = "jaxpr" if "jaxpr" in params else "call_jaxpr"
    where = [*params.get("in_shardings", ()), *params.get("out_shardings", ())]
    if not any(isinstance(sharding, jax.sharding.Sharding) for sharding in where):
        return _computed(params[name], given)
    arrays = [plain(value) for value in given]
    program = jax.make_jaxpr(lambda arrays: _plain(_computed(params[name], arrays)))(arrays)
    return bind(eqn, arrays, params | {name: program})


def _remat(eqn: Any, given: list[Value]) -> list[Value]:
    """Keep what is recomputed, and the policy of what is not."""
    inside, policy = partial(_computed, eqn.params["jaxpr"]), eqn.params["policy"]
    program, results = jax.make_jaxpr(inside, return_shape=True)(given)
    jaxpr, consts = _opened(program)
    params = eqn.params | {"jaxpr": jaxpr, "policy": policy and partial(_ask, policy)}
    found = bind(eqn, [*consts, *jax.tree.leaves(given)], params)
    return jax.tree.unflatten(jax.tree.structure(results), found)


def _opened(program: Any) -> tuple[Any, list]:
    """Return a jaxpr that takes the constants of a program as its first inputs, and these."""
    if not program.consts:
        return program.jaxpr, []

    def inside(consts, arguments):
        names = [*program.jaxpr.constvars, *program.jaxpr.invars]
        known = dict(zip(names, [*consts, *arguments], strict=True))
        return compute(program.jaxpr.eqns, known, program.jaxpr.outvars)

    consts = list(program.consts)
    return jax.make_jaxpr(inside)(consts, program.in_avals).jaxpr, consts


def _ask(policy: Callable, primitive: Any, *values: Any, **options: Any) -> Any:
    """Ask a policy of `jax.checkpoint` about our convolution as if it were JAX's."""
    ours = primitive.name == "convolution"
    return policy(lax.conv_general_dilated_p if ours else primitive, *values, **options)


def _custom_jvp(eqn: Any, given: list[Value]) -> list[Value]:
    """Keep a function's own rule of its tangents, which is rewritten as well."""

    @jax.custom_jvp
    def call(*given: Value) -> list[Value]:
        return _computed(eqn.params["call_jaxpr"], given)

    @call.defjvp
    def rule(given: Sequence[Value], tangents: Sequence[Value]) -> tuple:
        def push(given, tangents):
            inside, floats = _of_floats(eqn, given)
            return jax.jvp(inside, floats, tangents)[1]

        moving = [tangent for x, tangent in zip(given, tangents, strict=True) if _is_float(x)]
        found, results = iter(run(push, list(given), moving)), call(*given)
        return results, [like(next(found), y) if _is_float(y) else _zero(y) for y in results]

    return call(*given)


def _zero(value: Value) -> Any:
    """The tangent of integers."""
    return jax.tree.map(lambda array: np.zeros(array.shape, jax.dtypes.float0), value)


def _custom_vjp(eqn: Any, given: list[Value]) -> list[Value]:
    """Keep a function's own gradient, which is rewritten as well."""

    def value_and_pull(given):
        inside, floats = _of_floats(eqn, given)
        return jax.vjp(inside, *floats)

    @jax.custom_vjp
    def call(*given: Value) -> list[Value]:
        return _computed(eqn.params["call_jaxpr"], given)

    def forward(*given: Value) -> tuple:
        found, pull = run(value_and_pull, list(given))
        found, results = iter(found), _computed(eqn.params["call_jaxpr"], given)
        return [like(next(found), y) if _is_float(y) else y for y in results], pull

    def backward(pull: Any, cotangents: Sequence[Value]) -> tuple:
        floats = [ct for ct in cotangents if ct.dtype != jax.dtypes.float0]
        found = iter(run(lambda pull, floats: pull(floats), pull, floats))
        return tuple(like(next(found), x) if _is_float(x) else None for x in given)

    call.defvjp(forward, backward)
    return call(*given)


def _of_floats(eqn: Any, given: Sequence) -> tuple[Callable, list]:
    """Return an equation as a function from its operands that are floats to such results."""

    def inside(*floats):
        some = iter(floats)
        found = bind(eqn, [next(some) if _is_float(x) else x for x in given])
        return [y for y in found if _is_float(y)]

    return inside, [x for x in given if _is_float(x)]


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value.dtype), jnp.inexact)


# Loops and branches. What a loop carries keeps the order in which the body returns it.


def _scan(eqn: Any, given: list[Value]) -> list[Value]:
    params, inside = eqn.params, eqn.params["jaxpr"]
    consts, state, rows = scan_parts(eqn, given)
    rows = _plain(rows)
    row = list(inside.in_avals[len(consts) + len(state) :])

    def step(consts, state, row):
        return _computed(inside, [*consts, *state, *row])

    def body(consts, state, row):
        found = step(consts, state, row)
        return _like(found[: len(state)], state) + _plain(found[len(state) :])

    state = _like(state, jax.eval_shape(step, consts, state, row)[: len(state)])
    program, results = jax.make_jaxpr(body, return_shape=True)(consts, state, row)
    found = bind(eqn, jax.tree.leaves((consts, state, rows)), params | {"jaxpr": program})
    return jax.tree.unflatten(jax.tree.structure(results), found)


def _while(eqn: Any, given: list[Value]) -> list[Value]:
    params = eqn.params
    first, last = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    of_test, consts, state = given[:first], given[first:last], given[last:]

    def step(consts, state):
        return _computed(params["body_jaxpr"], [*consts, *state])

    def test(consts, state):
        return _plain(_computed(params["cond_jaxpr"], [*consts, *state]))

    state = _like(state, jax.eval_shape(step, consts, state))
    body = jax.make_jaxpr(lambda consts, state: _like(step(consts, state), state))(consts, state)
    programs = {"body_jaxpr": body, "cond_jaxpr": jax.make_jaxpr(test)(of_test, state)}
    found = bind(eqn, jax.tree.leaves((of_test, consts, state)), params | programs)
    return jax.tree.unflatten(jax.tree.structure(state), found)


def _cond(eqn: Any, given: list[Value]) -> list[Value]:
    """Branches return their results in the order of the program, since they must agree."""
    index, *operands = given

    def traced(branch):
        return jax.make_jaxpr(lambda *given: _plain(_computed(branch, given)))(*operands)

    branches = tuple(map(traced, eqn.params["branches"]))
    return bind(eqn, [index, *jax.tree.leaves(operands)], eqn.params | {"branches": branches})


def _shard_map(eqn: Any, given: list[Value]) -> list[Value]:
    def inside(*slices):
        return tuple(_plain(_computed(eqn.params["jaxpr"], slices)))

    return list(shard_map_like(eqn, inside)(*_plain(given)))


def _plain(values: Sequence[Value]) -> list[jax.Array]:
    return [plain(value) for value in values]


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
