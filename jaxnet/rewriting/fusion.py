"""What follows a convolution or a product, by what a program computes.

Each variable of a program is described, as far as it is, as

    activation(clip(scale * convolution + shift + added, least, most)),

where scale and shift have a number for each feature. Scale and shift of known weights are part of
them and of a bias; the rest is done while a result is in a register. An activation is known by its
text: the expression that a program has for it, compared with those of `jax.nn`'s functions, traced
in the same way.
"""

import math
from collections import Counter
from collections.abc import Callable, Set
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.ops.convolution_lowering import Form, of_rows
from jaxnet.ops.fused import ACTIVATIONS
from jaxnet.ops.native.gemv import MOST_ROWS
from jaxnet.rewriting.steps import Step, Steps, Variable

POINTWISE = {
    "add", "copy", "div", "erf", "erfc", "exp", "integer_pow", "logistic", "max", "min", "mul",
    "neg", "sqrt", "square", "sub", "tanh",
}  # fmt: skip
SYMMETRIC = {"add", "max", "min", "mul"}
# If the size stays: JAX 0.7 writes y[0] as a slice of all and a squeeze.
UNCHANGED = {"convert_element_type", "copy", "expand_dims", "reshape", "slice", "squeeze"}
DIGITS = 7  # of numbers in texts: those of float32


class Core(NamedTuple):
    """A convolution, or a product as one with a window of one entry, with a known kernel.

    Fields:
      place: Number of its step.
      form, kernel: Description, and kernel (*window, inputs // groups, features).
      x: Input, of the size of (batch, *space, inputs).
      batch: Number of examples.
    """

    place: int
    form: Form
    kernel: np.ndarray
    x: Variable
    batch: int


class Linear(NamedTuple):
    """A core and what follows it; see the module."""

    core: Core
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    added: Variable | None = None
    least: float = -np.inf
    most: float = np.inf
    activation: str = ""

    @property
    def is_open(self) -> bool:
        """Whether sums and products can be part of it."""
        return not self.activation and self.least == -np.inf and self.most == np.inf


class Text(NamedTuple):
    """A function of one variable, and the expression that a program has for it."""

    of: Variable
    text: str


class Fusion:
    """Descriptions of the variables of a program whose known variables are computed.

    Args:
      program: The program.
      barriers: Variables that are computed as they are, since something else reads them.

    Attributes:
      linear: Variable -> its description.
    """

    def __init__(self, program: Steps, barriers: Set[Variable] = frozenset()):
        self.barriers = barriers
        self.linear: dict[Variable, Linear] = {}
        self.spread: dict[Variable, np.ndarray] = {}  # broadcast vectors of features, or numbers
        self.readers = Counter(v for step in program.steps for v in step.inputs)
        self.texts: dict[Variable, Text] = texts_of(program)
        for place, step in enumerate(program.steps):
            if len(step.outputs) == 1:
                self._describe(place, step)

    def _describe(self, place: int, step: Step) -> None:
        (output,) = step.outputs
        if output.aval.dtype != jnp.float32:
            return
        if step.name == "broadcast_in_dim" and step.inputs[0].is_known:
            vector = _vector(step.inputs[0].value, step.eqn.params["broadcast_dimensions"], output)
            if vector is not None:
                self.spread[output] = vector
            return
        found = self._activated(output)
        for rule in (self._core, self._same, self._scaled_or_shifted, self._bounded, self._summed):
            found = found or rule(place, step)
        if found:
            self.linear[output] = found

    def _of(self, variable: Variable) -> Linear | None:
        """Return the description of a variable that can be continued."""
        return None if variable in self.barriers else self.linear.get(variable)

    def _core(self, place: int, step: Step) -> Linear | None:
        core = core_of(place, step)
        return Linear(core) if core else None

    def _same(self, place: int, step: Step) -> Linear | None:
        """Return the description of the same numbers in another shape."""
        if step.name not in UNCHANGED and step.name != "broadcast_in_dim":
            return None
        before, after = step.inputs[0].shape, step.outputs[0].shape
        linear = self._of(step.inputs[0])
        is_same = math.prod(before) == math.prod(after) and before[-1:] == after[-1:]
        if not linear or not is_same or (linear.added is not None and before != after):
            return None
        if step.eqn.params.get("dimensions") is not None and step.name == "reshape":
            return None
        return linear

    def _scaled_or_shifted(self, place: int, step: Step) -> Linear | None:
        if step.name not in ("add", "sub", "mul", "div"):
            return None
        first, second = step.inputs
        if self._numbers(first, step.outputs[0]) is not None and step.name in SYMMETRIC:
            first, second = second, first
        linear, numbers = self._of(first), self._numbers(second, step.outputs[0])
        if not linear or not linear.is_open or numbers is None:
            return None
        if first.shape != step.outputs[0].shape:
            return None
        if step.name in ("add", "sub"):
            more = numbers if step.name == "add" else -numbers
            shift = more if linear.shift is None else linear.shift + more
            return linear._replace(shift=shift) if _fits_float32(shift) else None
        if linear.added is not None:
            return None
        with np.errstate(divide="ignore"):
            factor = numbers if step.name == "mul" else 1 / numbers
        if not np.isfinite(factor).all():
            return None
        return linear._replace(
            scale=factor if linear.scale is None else linear.scale * factor,
            shift=None if linear.shift is None else linear.shift * factor,
        )

    def _numbers(self, variable: Variable, like: Variable) -> np.ndarray | None:
        """Return the number for each feature that a known variable has, or its only number."""
        if variable in self.spread:
            return self.spread[variable]
        if not variable.is_known or variable.value is None:
            return None
        rank = len(variable.shape)
        first = len(like.shape) - rank
        return _vector(variable.value, tuple(range(first, first + rank)), like)

    def _bounded(self, place: int, step: Step) -> Linear | None:
        """Return the description of a maximum or minimum with a number."""
        if step.name not in ("max", "min"):
            return None
        for variable, other in (step.inputs, step.inputs[::-1]):
            linear, bound = self._of(variable), self._numbers(other, step.outputs[0])
            if not linear or linear.activation or bound is None or bound.ndim or np.isnan(bound):
                continue
            if step.name == "min":
                most = min(linear.most, float(bound))
                return linear._replace(least=min(linear.least, most), most=most)
            least = max(linear.least, float(bound))
            return linear._replace(least=least, most=max(linear.most, least))
        return None

    def _summed(self, place: int, step: Step) -> Linear | None:
        """Return the description of a sum with another array: of the later of two convolutions."""
        if step.name not in ("add", "add_any"):
            return None
        first, second = step.inputs
        if first is second or first.shape != second.shape:
            return None
        found = []
        for variable, other in ((first, second), (second, first)):
            linear = self._of(variable)
            known = other.is_known or other in self.spread
            if linear and linear.is_open and linear.added is None and not known:
                if self.readers[variable] == 1 and other.aval.dtype == jnp.float32:
                    found.append(linear._replace(added=other))
        return max(found, key=lambda linear: linear.core.place, default=None)

    def _activated(self, output: Variable) -> Linear | None:
        text = self.texts.get(output)
        linear = self._of(text.of) if text else None
        name = activations().get(text.text) if text else None
        if not linear or not linear.is_open or not name:
            return None
        return linear._replace(activation=name)


def _fits_float32(numbers: np.ndarray) -> bool:
    """Whether numbers that are finite stay so in float32."""
    with np.errstate(over="ignore"):
        return np.array_equal(np.isfinite(numbers.astype(np.float32)), np.isfinite(numbers))


def _vector(value: Any, axes: tuple[int, ...], like: Variable) -> np.ndarray | None:
    """Return a known array, broadcast along these axes, as numbers of features or one number."""
    array = np.asarray(value, np.float64)
    if array.size == 1:
        return array.reshape(())
    is_last = bool(axes) and axes[-1] == len(like.shape) - 1
    if is_last and array.size == array.shape[-1] == like.shape[-1]:
        return array.reshape(-1)
    return None


def core_of(place: int, step: Step) -> Core | None:
    """Return the core that a step is, if C may compute it with packed weights.

    Args:
      place: Number of the step.
      step: The step.
    """
    if step.name == "convolution" and step.eqn.params["wanted"] == "y":
        return _convolution(place, step)
    if step.name == "dot_general":
        return _product(place, step)
    return None


def _finite(kernel: Variable) -> np.ndarray | None:
    """Return a known kernel of finite float32."""
    if not kernel.is_known or kernel.aval.dtype != jnp.float32 or kernel.value is None:
        return None
    value = np.asarray(kernel.value)
    return value if np.isfinite(value).all() else None


def _convolution(place: int, step: Step) -> Core | None:
    x, kernel = step.inputs
    form = step.eqn.params["form"]
    value = _finite(kernel)
    if x.is_known or value is None or len(value) != 1:
        return None
    return Core(place, form, value[0], x, x.shape[1])


def _product(place: int, step: Step) -> Core | None:
    x, kernel = step.inputs
    (summed, of_kernel), (together, _) = step.eqn.params["dimension_numbers"]
    value = _finite(kernel)
    rows = math.prod(x.shape[:-1])
    is_plain = not together and tuple(summed) == (len(x.shape) - 1,)
    if x.is_known or value is None or value.ndim != 2 or not is_plain:
        return None
    if isinstance(rows, int) and rows <= MOST_ROWS:  # a product of its own reads weights faster
        return None
    if x.aval.dtype != jnp.float32:
        return None
    kernel_of_rows = value if tuple(of_kernel) == (0,) else value.T
    return Core(place, of_rows((rows,)), kernel_of_rows[None], x, 1)


# Texts of functions of one variable.


def texts_of(program: Steps) -> dict[Variable, Text]:
    """Return the variables that are such functions of another one, with their texts."""
    texts: dict[Variable, Text] = {}
    numbers: dict[Variable, str] = {}
    for step in program.steps:
        if len(step.outputs) != 1:
            continue
        (output,) = step.outputs
        if step.name == "broadcast_in_dim" and _is_number(step.inputs[0]):
            numbers[output] = _as_text(step.inputs[0])
        elif step.name in POINTWISE:
            text = _text(step, texts, numbers)
            if text:
                texts[output] = text
    return texts


def _is_number(variable: Variable) -> bool:
    return variable.is_known and variable.value is not None and math.prod(variable.shape) == 1


def _as_text(variable: Variable) -> str:
    return f"{float(np.asarray(variable.value).reshape(())):.{DIGITS}g}"


def _text(step: Step, texts: dict[Variable, Text], numbers: dict[Variable, str]) -> Text | None:
    inputs, variables = [], set()
    for variable in step.inputs:
        if variable in numbers or _is_number(variable):
            inputs.append(numbers.get(variable) or _as_text(variable))
            continue
        known = texts.get(variable, Text(variable, "x"))
        variables.add(known.of)
        inputs.append(known.text)
    if len(variables) != 1 or any(variable.is_known for variable in variables):
        return None
    if step.name == "copy":
        return Text(variables.pop(), inputs[0])
    if step.name in SYMMETRIC:
        inputs.sort()
    power = f"^{step.eqn.params['y']}" if step.name == "integer_pow" else ""
    return Text(variables.pop(), f"{step.name}{power}({','.join(inputs)})")


@cache
def activations() -> dict[str, str]:
    """Return the names of activations by their texts.

    Example:
      >>> activations()["mul(logistic(x),x)"]
      'silu'
    """
    functions: dict[str, list[Callable]] = {
        name: [function] for name, function in ACTIVATIONS.items()
    }
    functions["silu"].append(lambda x: jax.nn.sigmoid(x) * x)
    found = {}
    for name, several in functions.items():
        for function in several:
            program = Steps(jax.make_jaxpr(function)(jax.ShapeDtypeStruct((2, 3), jnp.float32)))
            found[texts_of(program)[program.results[0]].text] = name
    return found
