"""A program as a list of steps without calls; what is known before it runs is computed."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet.services.jax_versions import bind
from jaxnet.services.jaxprs import is_literal

# Equations that call one function, and the param that has it. Loops and branches stay whole.
_CALLS = {
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}


class Variable:
    """A value of a program: known before it runs, or not.

    Attributes:
      aval: Shape and dtype.
      is_known: Whether it depends on constants alone.
      value: Its value, if it is a constant or was computed.
    """

    def __init__(self, aval: Any, *, is_known: bool = False, value: Any = None):
        self.aval = aval
        self.is_known = is_known
        self.value = value

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return self.aval.shape


class Step(NamedTuple):
    """An equation of a program, of variables instead of those of a jaxpr."""

    eqn: Any
    inputs: tuple[Variable, ...]
    outputs: tuple[Variable, ...]

    @property
    def name(self) -> str:
        """Name of the primitive."""
        return self.eqn.primitive.name


class Steps:
    """A program without calls.

    Args:
      program: Closed jaxpr.
      opened: Function that returns the program of an equation whose steps are wanted too, or None.

    Attributes:
      inputs, results: Variables.
      steps: Steps that depend on the inputs, and broadcasts of what is known to larger arrays.
      early: Steps that depend on constants alone.

    Example:
      >>> program = jax.make_jaxpr(lambda x: jax.nn.relu(x) + jnp.exp(np.ones(2)))(jnp.ones(2))
      >>> steps = Steps(program)
      >>> [step.name for step in steps.early], [step.name for step in steps.steps]
      (['exp'], ['max', 'add'])
    """

    def __init__(self, program: Any, opened: Callable[[Any], Any] = lambda eqn: None):
        self.opened = opened
        self.steps: list[Step] = []
        self.early: list[Step] = []
        self.inputs = [Variable(v.aval) for v in program.jaxpr.invars]
        self.results = self._inline(program.jaxpr, program.consts, self.inputs)

    def _inline(
        self, jaxpr: Any, consts: Sequence[Any], given: Iterable[Variable]
    ) -> list[Variable]:
        variables = dict(zip(jaxpr.constvars, map(_constant, consts), strict=True))
        variables |= zip(jaxpr.invars, given, strict=True)

        def variable_of(atom: Any) -> Variable:
            return _constant(atom.val, atom.aval) if is_literal(atom) else variables[atom]

        for eqn in jaxpr.eqns:
            inputs = tuple(map(variable_of, eqn.invars))
            results = self._results(eqn, inputs)
            variables |= zip(eqn.outvars, results, strict=True)
        return [variable_of(atom) for atom in jaxpr.outvars]

    def _results(self, eqn: Any, inputs: tuple[Variable, ...]) -> Sequence[Variable]:
        inner = eqn.params.get(_CALLS.get(eqn.primitive.name, "")) or self.opened(eqn)
        if inner is not None:
            body = getattr(inner, "jaxpr", inner)
            return self._inline(body, getattr(inner, "consts", ()), inputs)
        is_known = all(v.is_known for v in inputs) and not eqn.effects and not _grows(eqn)
        outputs = tuple(Variable(v.aval, is_known=is_known) for v in eqn.outvars)
        step = Step(eqn, inputs, outputs)
        if not is_known:
            self.steps.append(step)
        elif _only_reshapes(eqn) and isinstance(inputs[0].value, np.ndarray):
            outputs[0].value = inputs[0].value.reshape(outputs[0].shape)
        else:
            self.early.append(step)
        return outputs

    def compute_known(self) -> None:
        """Compute those known variables that steps or results read, in one compiled program."""
        read = [variable for step in self.steps for variable in step.inputs] + self.results
        wanted = list(dict.fromkeys(v for v in read if v.is_known and v.value is None))
        steps = needed_steps(self.early, wanted)
        if all(map(_is_simple, steps)):
            _compute_simple(steps)
            return
        inputs = dict.fromkeys(variable for step in steps for variable in step.inputs)
        given = [variable for variable in inputs if variable.value is not None]

        def compute(values: Sequence[Any]) -> list[Any]:
            known = dict(zip(given, values, strict=True))
            for step in steps:
                results = bind(step.eqn, [known[variable] for variable in step.inputs])
                known |= zip(step.outputs, results, strict=True)
            return [known[variable] for variable in wanted]

        results = jax.jit(compute)([variable.value for variable in given])
        for variable, result in zip(wanted, results, strict=True):
            variable.value = np.asarray(result) if _is_plain(result.dtype) else result


def needed_steps(steps: Sequence[Step], results: Iterable[Variable]) -> list[Step]:
    """Return the steps that results need, and those with effects, in order.

    Args:
      steps: Steps in order.
      results: Variables.

    Example:
      >>> steps = Steps(jax.make_jaxpr(lambda x: (jnp.sin(x), jnp.cos(x)))(1.0))
      >>> [step.name for step in needed_steps(steps.steps, steps.results[1:])]
      ['cos']
    """
    needed, found = set(results), []
    for step in reversed(steps):
        if step.eqn.effects or needed.intersection(step.outputs):
            found.append(step)
            needed.update(step.inputs)
    return found[::-1]


# Norms and casts are computed by NumPy: compiling them takes as long as the rest of a net.
_SIMPLE = {
    "add": np.add,
    "convert_element_type": lambda x: x,
    "device_put": lambda x: x,
    "div": np.true_divide,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "neg": np.negative,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sqrt": np.sqrt,
    "sub": np.subtract,
}


def _is_simple(step: Step) -> bool:
    """Whether NumPy computes a step as JAX does, up to the last digit."""
    dtypes = {variable.aval.dtype for variable in (*step.inputs, *step.outputs)}
    return step.name in _SIMPLE and dtypes == {np.dtype("float32")}


def _compute_simple(steps: Sequence[Step]) -> None:
    with np.errstate(all="ignore"):
        for step in steps:
            (output,) = step.outputs
            values = [np.asarray(variable.value) for variable in step.inputs]
            output.value = np.asarray(_SIMPLE[step.name](*values), output.aval.dtype)


def _constant(value: Any, aval: Any = None) -> Variable:
    if aval is None:
        aval = jax.typeof(value)
    if not isinstance(value, np.ndarray) and _is_plain(aval.dtype):  # JAX has kinds of literals
        value = np.asarray(value, aval.dtype)
    return Variable(aval, is_known=True, value=value)


def _is_plain(dtype: Any) -> bool:
    """Whether NumPy has a dtype, unlike keys of random numbers."""
    return isinstance(dtype, np.dtype)


def _grows(eqn: Any) -> bool:
    """Whether an equation broadcasts to a larger array than a vector, which is not kept."""
    before, after = eqn.invars[0].aval.shape if eqn.invars else (), eqn.outvars[0].aval.shape
    if eqn.primitive.name != "broadcast_in_dim" or len(after) < 2:
        return False
    is_known = all(isinstance(size, int) for size in after)  # as it may not be in an export
    return not is_known or math.prod(after) > math.prod(before)


def _only_reshapes(eqn: Any) -> bool:
    """Whether an equation has the same numbers as its operand, in the same order."""
    name, params = eqn.primitive.name, eqn.params
    if not eqn.invars or eqn.invars[0].aval.size != eqn.outvars[0].aval.size:
        return False
    if name == "reshape":
        return params.get("dimensions") is None
    if name == "broadcast_in_dim":
        axes = params["broadcast_dimensions"]
        return list(axes) == sorted(axes)
    return name in ("squeeze", "expand_dims")
