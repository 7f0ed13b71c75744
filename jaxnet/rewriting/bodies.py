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
    found = _computed(program, values)
    return _unflattened_like(results, found)


def _is_permuted(value: Any) -> bool:
    return isinstance(value, Permuted)


def _unflattened_like(tree: PyTree, leaves: Sequence) -> PyTree:
    """Return the leaves in the structure of a tree."""
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _computed(program: Any, given: Sequence[Value]) -> list[Value]:
    """Return the results of a jaxpr, closed or not, from the values of its inputs."""
    jaxpr = getattr(program, "jaxpr", program)
    consts = getattr(program, "consts", ())
    names = [*jaxpr.constvars, *jaxpr.invars]
    known = dict(zip(names, [*consts, *given], strict=True))
    folds = {eqn.outvars[0]: eqn for eqn in jaxpr.eqns if is_fold(eqn)}

    def results(eqn: Any, given: list[Value]) -> list[Value]:
        kernel = plan(eqn)
        if kernel:
            found = mapped_convolution(eqn, folds, known)
            if found:
                return found
        if _divides(eqn, given):
            return [given[0].value]
        given = [merge(value) for value in given]
        if kernel:
            return kernel(given)
        return _by_jax(eqn, given)

    found = compute(jaxpr.eqns, known, jaxpr.outvars, results)
    return [merge(value) for value in found]


def _divides(eqn: Any, given: list[Value]) -> bool:
    """Whether an equation divides what is still to be merged."""
    if eqn.primitive.name != "reshape" or not isinstance(given[0], Merged):
        return False
    return given[0].value.shape == eqn.outvars[0].aval.shape


def _by_jax(eqn: Any, given: list[Value]) -> list[Value]:
    """Return the results of an equation that has no kernel, around programs that may have one."""
    name = eqn.primitive.name
    permuted = any(map(_is_permuted, given))
    if name in _CALLS and (permuted or _has_kernels(eqn)):
        return _CALLS[name](eqn, given)
    if name in _BODIES and _has_kernels(eqn):
        return _BODIES[name](eqn, given)
    if permuted:
        found = carry(eqn, given)
        if found is not None:
            return found
    return bind(eqn, _plain(given))


def _has_kernels(eqn: Any) -> bool:
    """Whether a program inside an equation has an operation for our kernels."""
    params = jax.tree.leaves(list(eqn.params.values()))  # branches are in a tuple
    for body in jaxprs_among(params):
        if any(plan(each) or _has_kernels(each) for each in body.eqns):
            return True
    return False


# Calls, which get values in any order.


def _call(eqn: Any, given: list[Value]) -> list[Value]:
    """Compute a compiled function in place, unless it says how its arrays are sharded."""
    params = eqn.params
    name = "jaxpr" if "jaxpr" in params else "call_jaxpr"
    shardings = [*params.get("in_shardings", ()), *params.get("out_shardings", ())]
    if not any(isinstance(sharding, jax.sharding.Sharding) for sharding in shardings):
        return _computed(params[name], given)

    def inside(arrays):
        return _plain(_computed(params[name], arrays))

    arrays = _plain(given)
    program = jax.make_jaxpr(inside)(arrays)
    return bind(eqn, arrays, params | {name: program})


def _remat(eqn: Any, given: list[Value]) -> list[Value]:
    """Keep what is recomputed, and the policy of what is not."""
    inside = partial(_computed, eqn.params["jaxpr"])
    program, results = jax.make_jaxpr(inside, return_shape=True)(given)
    jaxpr, consts = _opened(program)
    policy = eqn.params["policy"]
    if policy:
        policy = partial(_ask, policy)
    params = eqn.params | {"jaxpr": jaxpr, "policy": policy}
    found = bind(eqn, [*consts, *jax.tree.leaves(given)], params)
    return _unflattened_like(results, found)


def _opened(program: Any) -> tuple[Any, list]:
    """Return a jaxpr that takes the constants of a program as its first inputs, and these."""
    jaxpr = program.jaxpr
    if not program.consts:
        return jaxpr, []

    def inside(consts, arguments):
        names = [*jaxpr.constvars, *jaxpr.invars]
        known = dict(zip(names, [*consts, *arguments], strict=True))
        return compute(jaxpr.eqns, known, jaxpr.outvars)

    consts = list(program.consts)
    return jax.make_jaxpr(inside)(consts, program.in_avals).jaxpr, consts


def _ask(policy: Callable, primitive: Any, *values: Any, **options: Any) -> Any:
    """Ask a policy of `jax.checkpoint` about our convolution as if it were JAX's."""
    if primitive.name == "convolution":
        primitive = lax.conv_general_dilated_p
    return policy(primitive, *values, **options)


def _custom_jvp(eqn: Any, given: list[Value]) -> list[Value]:
    """Keep a function's own rule of its tangents, which is rewritten as well."""

    @jax.custom_jvp
    def call(*given: Value) -> list[Value]:
        return _computed(eqn.params["call_jaxpr"], given)

    def push(given, tangents):
        inside, floats = _of_floats(eqn, given)
        _, found = jax.jvp(inside, floats, tangents)
        return found

    @call.defjvp
    def rule(given: Sequence[Value], tangents: Sequence[Value]) -> tuple:
        moving = [tangent for x, tangent in zip(given, tangents, strict=True) if _is_float(x)]
        found = iter(run(push, list(given), moving))
        results = call(*given)
        of_results = [like(next(found), y) if _is_float(y) else _zero(y) for y in results]
        return results, of_results

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
        floats, pull = run(value_and_pull, list(given))
        remaining = iter(floats)
        results = _computed(eqn.params["call_jaxpr"], given)
        return [like(next(remaining), y) if _is_float(y) else y for y in results], pull

    def backward(pull: Any, cotangents: Sequence[Value]) -> tuple:
        floats = [ct for ct in cotangents if ct.dtype != jax.dtypes.float0]
        found = iter(run(lambda pull, floats: pull(floats), pull, floats))
        return tuple(like(next(found), x) if _is_float(x) else None for x in given)

    call.defvjp(forward, backward)
    return call(*given)


def _of_floats(eqn: Any, given: Sequence) -> tuple[Callable, list]:
    """Return an equation as a function from its operands that are floats to such results."""

    def inside(*floats):
        remaining = iter(floats)
        every = [next(remaining) if _is_float(x) else x for x in given]
        return [y for y in bind(eqn, every) if _is_float(y)]

    return inside, [x for x in given if _is_float(x)]


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value.dtype), jnp.inexact)


# Loops and branches. What a loop carries keeps the order in which the body returns it.


def _scan(eqn: Any, given: list[Value]) -> list[Value]:
    inside = eqn.params["jaxpr"]
    consts, state, rows = scan_parts(eqn, given)
    rows = _plain(rows)
    before_rows = len(consts) + len(state)
    row = list(inside.in_avals[before_rows:])

    def step(consts, state, row):
        found = _computed(inside, [*consts, *state, *row])
        return found[: len(state)], found[len(state) :]

    def body(consts, state, row):
        new_state, results = step(consts, state, row)
        return _like(new_state, state) + _plain(results)

    new_state, _ = jax.eval_shape(step, consts, state, row)
    state = _like(state, new_state)
    program, results = jax.make_jaxpr(body, return_shape=True)(consts, state, row)
    operands = jax.tree.leaves((consts, state, rows))
    found = bind(eqn, operands, eqn.params | {"jaxpr": program})
    return _unflattened_like(results, found)


def _while(eqn: Any, given: list[Value]) -> list[Value]:
    params = eqn.params
    first = params["cond_nconsts"]
    last = first + params["body_nconsts"]
    of_test, consts, state = given[:first], given[first:last], given[last:]

    def step(consts, state):
        return _computed(params["body_jaxpr"], [*consts, *state])

    def body(consts, state):
        return _like(step(consts, state), state)

    def test(consts, state):
        return _plain(_computed(params["cond_jaxpr"], [*consts, *state]))

    state = _like(state, jax.eval_shape(step, consts, state))
    programs = {
        "body_jaxpr": jax.make_jaxpr(body)(consts, state),
        "cond_jaxpr": jax.make_jaxpr(test)(of_test, state),
    }
    operands = jax.tree.leaves((of_test, consts, state))
    found = bind(eqn, operands, params | programs)
    return _unflattened_like(state, found)


def _cond(eqn: Any, given: list[Value]) -> list[Value]:
    """Branches return their results in the order of the program, since they must agree."""
    index, *operands = given

    def traced(branch):
        def inside(*given):
            return _plain(_computed(branch, given))

        return jax.make_jaxpr(inside)(*operands)

    branches = tuple(map(traced, eqn.params["branches"]))
    leaves = jax.tree.leaves(operands)
    return bind(eqn, [index, *leaves], eqn.params | {"branches": branches})


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
