"""A program with folded weights: what is left of its steps, and convolutions with what follows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.ops import fused as fused_ops
from jaxnet.ops.fused import Fused
from jaxnet.ops.native import fused as native
from jaxnet.rewriting import scripts
from jaxnet.rewriting.fusion import Fusion, Linear
from jaxnet.rewriting.scripts import Scripted
from jaxnet.rewriting.steps import Step, Steps, Variable
from jaxnet.services.jax_versions import bind

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = 2.0**-100  # of the largest weight: smaller ones lose digits below 2**-126
LINE = native.LINE


class Call(NamedTuple):
    """A convolution or product of a program, with what follows it."""

    fused: Fused
    x: Variable
    added: Variable | None
    output: Variable


class Folded:
    """A program whose known weights are folded and, for C, packed.

    Args:
      program: Closed jaxpr, whose constants are the weights.
      in_c: Whether weights are packed for the kernels in C.

    Attributes:
      constants: All constants of its calls, in one array.
      others: Further known arrays that it reads.
      calls: Its steps and calls, in order.

    Example:
      >>> kernel = jnp.arange(6.0).reshape(3, 2)
      >>> net = lambda x: jax.nn.relu(2 * (x @ kernel) + 1)
      >>> folded = Folded(jax.make_jaxpr(net)(jnp.ones((5, 3))), in_c=False)
      >>> [type(call).__name__ for call in folded.calls]
      ['Call']
      >>> folded.run(folded.constants, folded.others, [jnp.ones((5, 3))])[0][0].tolist()
      [13.0, 19.0]
    """

    def __init__(self, program: Any, *, in_c: bool):
        self.in_c = in_c
        self.program = Steps(program, scripts.opened) if in_c else Steps(program)
        self.program.compute_known()
        if in_c:
            self.program.steps = scripts.scripted(self.program)
        linear = _chosen(self.program)
        self._pieces: list[Any] = []
        self._size = 0
        self._unpacked: list[tuple[int, np.ndarray, native.Packed]] = []
        self._numbers: dict[Variable, int] = {}
        self._places: dict[Variable, int] = {}
        self.others: list[Any] = []
        self.calls: list[Step | Call] = []
        for step in self.program.steps:
            self._add(step, linear)
        self._note(self.program.results)
        self.constants = self._all_constants()
        self._forget()

    def _add(self, step: Step, linear: dict[Variable, Linear | None]) -> None:
        """Add a step, if something reads it."""
        wanted = [output for output in step.outputs if output in linear]
        if not wanted and not step.eqn.effects:
            return
        form = linear[wanted[0]] if wanted else None
        if isinstance(step.eqn, Scripted):
            self._place_known(step.eqn)
            self.calls.append(step)
        elif form is not None:
            self.calls.append(self._call(wanted[0], form))
        else:
            self._note(step.inputs)
            self.calls.append(step)

    def _place_known(self, found: Scripted) -> None:
        """Place what steps in one call know."""
        for variable in found.known:
            if variable not in self._places:
                self._places[variable] = self._place(np.asarray(variable.value, np.float32).ravel())

    def _note(self, variables: Sequence[Variable]) -> None:
        """Keep the values of known variables."""
        for variable in variables:
            if variable.is_known and variable not in self._numbers:
                self._numbers[variable] = len(self.others)
                self.others.append(variable.value)

    def _call(self, output: Variable, linear: Linear) -> Call:
        kernel, bias = folded_weights(linear)
        core = linear.core
        inputs = kernel.shape[-2] * core.form.groups
        fused = Fused(
            core.form,
            core.batch,
            inputs,
            kernel.shape[-1],
            linear.least,
            linear.most,
            linear.activation,
            kernel=self._place(kernel.ravel()),
            bias=self._place(native.padded_bias(bias)),
        )
        if self.in_c and native.supports(core.form, core.batch, inputs, kernel.shape[-1]):
            how = native.plan(core.form, core.batch, inputs, kernel.shape[-1])
            if how.tile and native.has_far_taps(kernel, how.tile):
                how = native.plan(core.form, core.batch, inputs, kernel.shape[-1], tile=0)
            self._unpacked.append((len(self._pieces), kernel, how))
            packed = self._place(np.empty(how.size, np.float32))
            fused = fused._replace(how=how, packed=packed)
        return Call(fused, core.x, linear.added, output)

    def _place(self, numbers: np.ndarray) -> int:
        """Return where numbers will begin in the constants, on a line of the cache."""
        place = self._size
        self._pieces.append(numbers)
        self._size += -(-len(numbers) // LINE) * LINE
        return place

    def _all_constants(self) -> jax.Array:
        kernels = [kernel for _, kernel, _ in self._unpacked]
        plans = [how for _, _, how in self._unpacked]
        if kernels:
            packed = _pack(plans, kernels)
            for (number, _, _), piece in zip(self._unpacked, packed, strict=True):
                self._pieces[number] = np.asarray(piece)
        constants = _lines_of_floats(self._size + LINE)
        place = 0
        for piece in self._pieces:
            end = place + len(piece)
            constants[place:end] = piece
            place += -(-len(piece) // LINE) * LINE
            constants[end:place] = 0
        constants[place:] = 0
        return jax.device_put(constants, may_alias=True)

    def _forget(self) -> None:
        """Forget the weights before they were folded."""
        self._pieces, self._unpacked = [], []
        self.others = [jnp.asarray(value) for value in self.others]
        for step in (*self.program.early, *self.program.steps):
            known = step.eqn.known if isinstance(step.eqn, Scripted) else ()
            for variable in (*step.inputs, *step.outputs, *known):
                variable.value = None

    def run(self, constants: jax.Array, others: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """Return the results of the program.

        Args:
          constants, others: Those of this object; they are arguments so that a compiled program
            does not contain them.
          inputs: Leaves of the arguments of the program.
        """
        values: dict[Variable, Any] = dict(zip(self.program.inputs, inputs, strict=True))
        values |= {variable: others[number] for variable, number in self._numbers.items()}
        for call in self.calls:
            if isinstance(call, Call):
                values[call.output] = _called(call, constants, values)
                continue
            arrays = [values[variable] for variable in call.inputs]
            if isinstance(call.eqn, Scripted):
                results = scripts.call(call.eqn, self._places, arrays, constants)
            else:
                results = bind(call.eqn, arrays)
            values |= zip(call.outputs, results, strict=True)
        return [values[variable] for variable in self.program.results]


def _called(call: Call, constants: jax.Array, values: dict[Variable, Any]) -> jax.Array:
    fused = call.fused
    shape = (fused.batch, *fused.form.outputs, fused.features)
    x = values[call.x].reshape(fused.batch, *fused.form.inputs, fused.inputs)
    added = None if call.added is None else values[call.added].reshape(shape)
    return fused_ops.apply(fused, x, constants, added).reshape(call.output.shape)


def _lines_of_floats(count: int) -> np.ndarray:
    """Return memory that begins on a line of the cache, which JAX takes without a copy."""
    line = 4 * LINE
    memory = np.empty(count + LINE, np.float32)
    first = -memory.ctypes.data % line // 4
    return memory[first : first + count]


def _pack(plans: Sequence[native.Packed], kernels: Sequence[np.ndarray]) -> list[jax.Array]:
    """Return packed weights, by one compiled program."""

    def pack(kernels):
        pairs = zip(kernels, plans, strict=True)
        return [native.packed(kernel, how) for kernel, how in pairs]

    return jax.jit(pack)([jax.device_put(kernel, may_alias=True) for kernel in kernels])


def folded_weights(linear: Linear) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and bias in float32, with scale and shift, computed in float64.

    Args:
      linear: Description of a variable.
    """
    kernel = linear.core.kernel
    features = kernel.shape[-1]
    if linear.scale is not None:
        kernel = kernel.astype(np.float64) * linear.scale
    shift = np.zeros(()) if linear.shift is None else linear.shift
    with np.errstate(over="ignore"):
        bias = np.broadcast_to(shift, (features,)).astype(np.float32)
        return np.asarray(kernel, np.float32), bias


def _leaves_float32(linear: Linear) -> bool:
    """Whether a folded kernel may have numbers beyond float32, or lose digits below it."""
    if linear.scale is None or not linear.core.kernel.size:
        return False
    by_feature = abs(linear.core.kernel).max(tuple(range(linear.core.kernel.ndim - 1)))
    largest = (by_feature * abs(linear.scale)).max()
    return bool(largest > LARGEST or 0 < largest < SMALLEST)


def _chosen(program: Steps) -> dict[Variable, Linear | None]:
    """Return the variables that are computed, with the description of those that calls compute.

    A core that is needed in two forms is computed once: its earlier form is then a barrier.
    """
    barriers: set[Variable] = set()
    while True:
        linear = Fusion(program, barriers).linear
        chosen = _needed(program, linear)
        places = {output: n for n, step in enumerate(program.steps) for output in step.outputs}
        of_core: dict[int, list[Variable]] = {}
        more = set()
        for variable, form in chosen.items():
            if form is None:
                continue
            of_core.setdefault(form.core.place, []).append(variable)
            if _leaves_float32(form):
                more.add(program.steps[form.core.place].outputs[0])
        for variables in of_core.values():
            if len(variables) > 1:
                more.add(min(variables, key=places.__getitem__))
        if not more - barriers:
            return chosen
        barriers |= more


def _needed(program: Steps, linear: dict[Variable, Linear]) -> dict[Variable, Linear | None]:
    """Return the variables that results need, and how those with a description are computed."""
    made = {output: step for step in program.steps for output in step.outputs}
    needed: dict[Variable, Linear | None] = {}
    waiting = [*program.results]
    for step in program.steps:
        if step.eqn.effects:
            waiting += step.inputs
    while waiting:
        variable = waiting.pop()
        if variable in needed or variable not in made:
            continue
        form = needed[variable] = linear.get(variable)
        if form is None:
            waiting += made[variable].inputs
        else:
            waiting += [form.core.x, *([] if form.added is None else [form.added])]
    return needed
