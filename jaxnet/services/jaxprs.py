"""Jaxprs inside jaxprs: bodies of loops, of `jit`, of `remat`."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax

from jaxnet.services.jax_versions import bind
from jaxnet.services.trees import PyTree, is_float


def jaxprs_among(values: Iterable[Any]) -> list[Any]:
    """Return the jaxprs among values, such as the parameters of an equation.

    Example:
      >>> (equation,) = jax.make_jaxpr(jax.jit(jnp.sin))(1.0).jaxpr.eqns
      >>> [str(inner.eqns[0].primitive) for inner in jaxprs_among(equation.params.values())]
      ['sin']
    """
    unwrapped = (getattr(value, "jaxpr", value) for value in values)
    return [value for value in unwrapped if hasattr(value, "eqns")]


def arrays_in(jaxpr: Any) -> Iterator[Any]:
    """Yield shape and dtype of each array that a jaxpr computes, also inside loops and branches.

    Example:
      >>> jaxpr = jax.make_jaxpr(jax.jit(lambda a: jnp.sin(a).sum()))(jnp.ones(3)).jaxpr
      >>> [array.shape for array in arrays_in(jaxpr)]
      [(), (3,), ()]
    """
    for equation in jaxpr.eqns:
        yield from (v.aval for v in equation.outvars if hasattr(v.aval, "dtype"))
        # Branches are in a tuple.
        for inner in jaxprs_among(jax.tree.leaves(list(equation.params.values()))):
            yield from arrays_in(inner)


def arrays_behind(jaxpr: Any, wanted: Sequence[bool]) -> Iterator[Any]:
    """Yield shape and dtype of each array that a jaxpr computes for some of its results.

    Args:
      jaxpr: Jaxpr.
      wanted: Whether each result is one of them.

    Example:
      >>> jaxpr = jax.make_jaxpr(lambda a: (jnp.sin(a), a.astype(jnp.float16)))(1.0).jaxpr
      >>> [str(array.dtype) for array in arrays_behind(jaxpr, [True, False])]
      ['float32']
    """
    results = zip(jaxpr.outvars, wanted, strict=True)
    needed = {atom for atom, yes in results if yes and not is_literal(atom)}
    for eqn in reversed(jaxpr.eqns):
        read = [variable in needed for variable in eqn.outvars]
        if not any(read):
            continue
        needed.update(variables_of(eqn.invars))
        yield from (v.aval for v in eqn.outvars if v in needed and hasattr(v.aval, "dtype"))
        is_loop = eqn.primitive.name in ("scan", "while")  # carries one result to the others
        for inner in jaxprs_among(jax.tree.leaves(list(eqn.params.values()))):
            is_call = len(inner.outvars) == len(read) and not is_loop
            yield from arrays_behind(inner, read if is_call else [True] * len(inner.outvars))


def follow(
    program: Any,
    input_facts: Sequence[Any],
    rule: Callable[[Any, list[Any], list[list[Any]]], Sequence[Any]],
    nothing: Any,
    of_const: Callable[[Any], Any] | None = None,
) -> list[Any]:
    """Return what is known of the results of a program, from what is known of its inputs.

    Args:
      program: Jaxpr, closed or not.
      input_facts: What is known of each input.
      rule: Function (equation, what is known of its inputs, the same of the results of each program
        inside it) -> what is known of its results.
      nothing: What is known of a literal.
      of_const: Function of a constant; by default, nothing is known of it.

    Example:
      >>> program = jax.make_jaxpr(lambda a, b: (jax.jit(jnp.sin)(a), a * b, 1.0))(1.0, 2.0)
      >>> def rule(eqn, known, inside):
      ...     return inside[0] if inside else [" ".join([eqn.primitive.name, *known])]
      >>> follow(program, ["a", "b"], rule, "")
      ['sin a', 'mul a b', '']
    """
    jaxpr = getattr(program, "jaxpr", program)
    facts = dict(zip(jaxpr.invars, input_facts, strict=True))
    if of_const is not None:
        consts = map(of_const, getattr(program, "consts", ()))
        facts |= zip(jaxpr.constvars, consts, strict=False)

    def facts_of(atoms: Sequence[Any]) -> list[Any]:
        return [nothing if is_literal(atom) else facts.get(atom, nothing) for atom in atoms]

    for eqn in jaxpr.eqns:
        values = facts_of(eqn.invars)
        inside = []
        for inner in jax.tree.leaves(list(eqn.params.values())):  # branches are in a tuple
            for body in jaxprs_among([inner]):
                # A branch has no input for the index, the body of a loop none for what its test
                # reads.
                first = len(values) - len(body.invars)
                if first >= 0:
                    inside.append(follow(inner, values[first:], rule, nothing, of_const))
        facts |= zip(eqn.outvars, rule(eqn, values, inside), strict=True)
    return facts_of(jaxpr.outvars)


def is_literal(atom: Any) -> bool:
    """Return whether an input or result of an equation is a literal, which has a value.

    Example:
      >>> (eqn,) = jax.make_jaxpr(lambda a: a + 1.0)(2.0).eqns
      >>> [is_literal(atom) for atom in eqn.invars]
      [False, True]
    """
    return hasattr(atom, "val")


def compute(
    equations: Iterable[Any], environment: dict, wanted: Iterable[Any], rule: Callable = bind
) -> list[Any]:
    """Return the values of variables of a jaxpr, computed by its equations.

    Args:
      equations: Equations of the jaxpr, in order.
      environment: Values of the variables before them; those of their results are added.
      wanted: Variables and literals.
      rule: Function (equation, values of its inputs) -> its results.

    Example:
      >>> jaxpr = jax.make_jaxpr(lambda a: jnp.exp(a) + 1)(0.0).jaxpr
      >>> compute(jaxpr.eqns, {jaxpr.invars[0]: 0.0}, jaxpr.outvars)
      [Array(2., dtype=float32, weak_type=True)]
    """

    def value_of(atom: Any) -> Any:
        return atom.val if is_literal(atom) else environment[atom]

    for eqn in equations:
        values = [value_of(atom) for atom in eqn.invars]
        environment |= zip(eqn.outvars, rule(eqn, values), strict=True)
    return [value_of(atom) for atom in wanted]


def split(function: Callable, params: PyTree, first: PyTree, *rest: PyTree) -> tuple:
    """Divide a function (params, first, *rest) into what `first` decides and what comes after.

    The first part computes what depends on `first` and not on `rest`, such as the output of an
    encoder. What depends on the params alone, such as a kernel in another dtype, is computed by the
    second part, and not kept.

    Args:
      function: The function.
      params, first, *rest: Its arguments, or others of the same shapes.

    Returns:
      early(params, first) -> intermediates, a list of arrays;
      late(intermediates, params, *rest) -> the result.

    Example:
      >>> early, late = split(lambda a, x, y: {"z": a * jnp.exp(x) + y}, 2.0, 0.0, 0.0)
      >>> intermediates = early(2.0, 0.0)
      >>> print(*intermediates, late(intermediates, 2.0, 1.0)["z"])
      2.0 3.0
    """
    if not jax.tree.leaves(first):
        return lambda *_: [], lambda intermediates, params, *rest: function(params, first, *rest)
    program, shapes = jax.make_jaxpr(function, return_shape=True)(params, first, *rest)
    jaxpr = program.jaxpr
    variables = iter(jaxpr.invars)
    of_params = [next(variables) for _ in jax.tree.leaves(params)] + jaxpr.constvars
    of_first = [next(variables) for _ in jax.tree.leaves(first)]
    of_rest = list(variables)
    # When a variable is known: from params alone, with `first`, or with the rest.
    stage = {
        **dict.fromkeys(of_params, 0),
        **dict.fromkeys(of_first, 1),
        **dict.fromkeys(of_rest, 2),
    }
    steps: list[list[Any]] = [[], [], []]
    for eqn in jaxpr.eqns:
        when = max([stage[variable] for variable in variables_of(eqn.invars)], default=0)
        stage |= dict.fromkeys(eqn.outvars, when)
        steps[when].append(eqn)
    of_params_alone, of_early, of_late = steps
    read = itertools.chain(*(eqn.invars for eqn in of_late), jaxpr.outvars)
    border = [variable for variable in dict.fromkeys(variables_of(read)) if stage[variable] == 1]

    def early(params: PyTree, first: PyTree) -> list[jax.Array]:
        leaves = jax.tree.leaves((params, program.consts, first))
        environment = dict(zip([*of_params, *of_first], leaves, strict=True))
        return compute([*of_params_alone, *of_early], environment, border)

    def late(intermediates: list[jax.Array], params: PyTree, *rest: PyTree) -> PyTree:
        leaves = jax.tree.leaves((params, program.consts, rest, intermediates))
        environment = dict(zip([*of_params, *of_rest, *border], leaves, strict=True))
        results = compute([*of_params_alone, *of_late], environment, jaxpr.outvars)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return early, late


def variables_of(atoms: Iterable[Any]) -> list[Any]:
    """Return the variables among the inputs or results of an equation, without its literals.

    Example:
      >>> (eqn,) = jax.make_jaxpr(lambda a: a + 1.0)(2.0).eqns
      >>> len(eqn.invars), len(variables_of(eqn.invars))
      (2, 1)
    """
    return [atom for atom in atoms if not is_literal(atom)]


Marks = frozenset[int]


def _marks(
    program: Any,
    input_marks: Sequence[Marks],
    of_const: Callable | None = None,
    gradient: bool = False,
) -> list[Marks]:
    """Return for each result the marks of the inputs that it depends on, or by `gradient` reach."""
    nothing: Marks = frozenset()

    def rule(eqn: Any, marks: list[Marks], inside: list[list[Marks]]) -> list[Marks]:
        count = len(eqn.outvars)
        result_marks = [nothing.union(*marks)] * count
        bodies = [results for results in inside if len(results) == count]
        if eqn.primitive.name in ("scan", "while"):
            # A loop carries what one result depends on to the others.
            if gradient:
                result_marks = [nothing.union(*itertools.chain(*inside))] * count
        elif bodies:
            result_marks = [nothing.union(*results) for results in zip(*bodies, strict=True)]
        if not gradient:
            return result_marks
        stops = eqn.primitive.name == "stop_gradient"
        reached = [is_float(variable.aval) and not stops for variable in eqn.outvars]
        return [each if on else nothing for each, on in zip(result_marks, reached, strict=True)]

    return follow(program, input_marks, rule, nothing, of_const)


def depends_on(jaxpr: Any, selected: Sequence[bool], *, gradient: bool = False) -> list[bool]:
    """Return for each output of a jaxpr whether it depends on one of the given inputs.

    Every output of an equation counts as depending on all inputs of the equation, except for calls
    of other functions, which are looked into.

    Args:
      jaxpr: Jaxpr.
      selected: Whether each input is one of them.
      gradient: Whether only what has a gradient counts: floats, and no `stop_gradient` between.

    Example:
      >>> jaxpr = jax.make_jaxpr(lambda a, b: (a + 1, a * b, -b))(1.0, 2.0).jaxpr
      >>> depends_on(jaxpr, [True, False])
      [True, True, False]
    """
    marks = [frozenset([0] if yes else []) for yes in selected]
    return list(map(bool, _marks(jaxpr, marks, gradient=gradient)))


# Equations whose results have the values of their inputs.
SAME = {"copy", "copy_p", "optimization_barrier", "sharding_constraint", "stop_gradient"}
# Equations that call a function, whose results are those of its body.
CALLS = {
    "checkpoint", "closed_call", "cond", "core_call", "custom_jvp_call", "custom_vjp_call",
    "custom_vjp_call_jaxpr", "jit", "pjit", "remat", "remat2", "scan", "shard_map",
}  # fmt: skip


def passed_on(program: Any) -> list[int | None]:
    """Return for each result of a program the index of the input that it is; None if it is new.

    Example:
      >>> passed_on(jax.make_jaxpr(lambda a, b: (jax.jit(lambda a: a)(b), a + 0, a))(1.0, 2.0))
      [1, None, 0]
    """
    jaxpr = getattr(program, "jaxpr", program)
    shapes = [variable.aval.shape for variable in jaxpr.invars]

    def rule(eqn: Any, known: list[Any], inside: list[list[Any]]) -> list[Any]:
        if eqn.primitive.name in SAME:
            return known
        new = [None] * len(eqn.outvars)
        bodies = [results for results in inside if len(results) == len(eqn.outvars)]
        if eqn.primitive.name not in CALLS or not bodies:
            return new
        results = []
        for variable, *indices in zip(eqn.outvars, *bodies, strict=True):
            index, is_one = indices[0], len(set(indices)) == 1
            # In a loop, a result that each turn gives is the input only if it has the same turns.
            is_same = is_one and index is not None and variable.aval.shape == shapes[index]
            results.append(index if is_same else None)
        return results

    return follow(program, range(len(shapes)), rule, None)


def weights_in(program: Any) -> list[jax.Array]:
    """Return the float arrays of two axes or more that a program captures and that gradients reach.

    Constants of NumPy are left out, since programs make tables of them.

    Args:
      program: Result of `jax.make_jaxpr`.

    Example:
      >>> a, b = jnp.ones((2, 3)), jnp.ones((3, 4))
      >>> program = jax.make_jaxpr(lambda x: x @ a @ jax.lax.stop_gradient(b))(jnp.ones((5, 2)))
      >>> [array.shape for array in weights_in(program)]
      [(2, 3)]
    """
    captured: dict[int, jax.Array] = {}

    def note(const: Any) -> Marks:
        if not isinstance(const, jax.Array) or not is_float(const):
            return frozenset()
        axes = sum(size > 1 for size in const.shape)
        if axes < 2:
            return frozenset()
        captured[id(const)] = const
        return frozenset([id(const)])

    nothing = [frozenset[int]()] * len(program.jaxpr.invars)
    reached = frozenset().union(*_marks(program, nothing, note, gradient=True))
    return [const for mark, const in captured.items() if mark in reached]
