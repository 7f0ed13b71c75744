"""Small steps of a program that run in one call of C.

Steps of small arrays are gathered as far as nothing else has to run between them. Each has a rule
that writes it as numbers; see `jaxnet.ops.native.script`. A step without a rule stays with XLA.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import mul
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.ops.native import instructions, script
from jaxnet.ops.native.call import Kernel, native_call
from jaxnet.ops.native.script import Script, Unsupported, contiguous
from jaxnet.rewriting.steps import Step, Steps, Variable, needed_steps
from jaxnet.services.jax_versions import bind, scan_parts
from jaxnet.services.jaxprs import compute

MOST_WRITTEN = 2**14  # numbers of an array
MOST_READ = 2**17  # numbers of an array, such as weights
MOST_PRODUCTS = 2**18  # of two numbers, in a matrix product; more are worth another thread
PLAIN = (jnp.float32, jnp.bool_)

Place = Callable[[Variable], int]


class Scripted(NamedTuple):
    """Steps that run in one call; in a step, it has the place of an equation.

    Fields:
      steps: The steps, in order.
      inputs, outputs: Variables that come from other steps, and those that other steps read.
      known: Known variables that they read.
    """

    steps: tuple[Step, ...]
    inputs: tuple[Variable, ...]
    outputs: tuple[Variable, ...]
    known: tuple[Variable, ...]

    @property
    def primitive(self) -> Any:
        """What it has in the place of a primitive."""
        return SimpleNamespace(name="script")

    @property
    def params(self) -> dict[str, Any]:
        """Params of an equation: none."""
        return {}

    @property
    def effects(self) -> tuple[()]:
        """Effects of its steps: none."""
        return ()


# Which steps.


def opened(eqn: Any) -> Any:
    """Return the program of an equation that may be computed step by step, or None.

    That is a call of a kernel for small arrays, or a loop that runs once.

    Args:
      eqn: The equation.

    Example:
      >>> def twice(a, b):
      ...     return a + b, 2 * a
      >>> loop = jax.make_jaxpr(lambda x: jax.lax.scan(twice, 0.0, x))(jnp.ones(1))
      >>> len(opened(loop.eqns[-1]).eqns) > 0
      True
    """
    name, params = eqn.primitive.name, eqn.params
    if not all(map(_is_small, (*eqn.invars, *eqn.outvars))):
        return None
    if name == "native_call":
        program = params["jaxpr"]
    elif name == "scan" and params["length"] == 1:
        program = jax.make_jaxpr(partial(_once, eqn))(*(v.aval for v in eqn.invars))
    else:
        return None
    return program if all(map(_has_rule, Steps(program, opened).steps)) else None


def _is_small(variable: Any) -> bool:
    """Whether a variable outside of a call has few numbers of float32."""
    size, dtype = variable.aval.size, variable.aval.dtype
    return dtype == jnp.float32 and isinstance(size, int) and 0 < size <= MOST_READ


def _once(eqn: Any, *operands: jax.Array) -> list[jax.Array]:
    """Return the results of a loop that runs once."""
    body = eqn.params["jaxpr"]
    consts, state, rows = scan_parts(eqn, operands)
    row = [array.reshape(array.shape[1:]) for array in rows]
    names = [*body.jaxpr.constvars, *body.jaxpr.invars]
    values = dict(zip(names, [*body.consts, *consts, *state, *row], strict=True))
    results = compute(body.jaxpr.eqns, values, body.jaxpr.outvars)
    outputs = zip(results, eqn.outvars, strict=True)
    return [result.reshape(variable.aval.shape) for result, variable in outputs]


def scripted(program: Steps) -> list[Step]:
    """Return the needed steps of a program, with small ones gathered.

    Args:
      program: Program, whose known variables are computed.

    Example:
      >>> kernel = jnp.ones((4, 4))
      >>> program = Steps(jax.make_jaxpr(lambda x: jnp.tanh(x @ kernel))(jnp.ones((1, 4))))
      >>> found = scripted(program)  # doctest: +SKIP
      >>> [step.name for step in found[0].eqn.steps]  # doctest: +SKIP
      ['dot_general', 'tanh']
    """
    steps = needed_steps(program.steps, program.results)
    if instructions() is None:
        return steps
    small = _small_among(steps, program.results)
    by_level: dict[int, list[Step]] = {}
    levels = _levels(steps, small)
    for number, step in enumerate(steps):
        by_level.setdefault(levels[number], []).append(step)
    found: list[Step] = []
    for level in sorted(by_level):
        together = by_level[level]
        pays = level % 2 and any(step.name in ("dot_general", "convolution") for step in together)
        found += [_gathered(together, steps, program.results)] if pays else together
    return found


def _small_among(steps: Sequence[Step], results: Sequence[Variable]) -> set[int]:
    """Return the numbers of small steps; truth values stay among them."""
    small = {number for number, step in enumerate(steps) if _is_computed(step) and _has_rule(step)}
    made = {v: number for number, step in enumerate(steps) for v in step.outputs}
    while True:
        levels = _levels(steps, small)
        out: set[int] = set()
        for variable in results:
            if variable.aval.dtype == jnp.bool_ and variable in made:
                out.add(made[variable])
        for number, step in enumerate(steps):
            for variable in step.inputs:
                if variable.aval.dtype != jnp.bool_ or variable.is_known:
                    continue
                producer = made.get(variable)
                if producer is None or levels[producer] != levels[number]:
                    out |= {number} if producer is None else {number, producer}
        if not out & small:
            return small
        small -= out


def _is_computed(step: Step) -> bool:
    """Whether all that is known of its inputs has a value."""
    return all(not v.is_known or v.value is not None for v in step.inputs)


def _levels(steps: Sequence[Step], small: set[int]) -> list[int]:
    """Return a level for each step, odd for small ones: those of a level can run together."""
    of_variable: dict[Variable, int] = {}
    levels = []
    for number, step in enumerate(steps):
        level = max((of_variable.get(variable, 0) for variable in step.inputs), default=0)
        level += (level % 2 == 1) != (number in small)
        levels.append(level)
        of_variable |= dict.fromkeys(step.outputs, level)
    return levels


def _gathered(together: Sequence[Step], steps: Sequence[Step], results: Sequence[Variable]) -> Step:
    inside = {variable for step in together for variable in step.outputs}
    of_others = set(results)
    own = set(map(id, together))
    for step in steps:
        if id(step) not in own:
            of_others.update(step.inputs)
    read = dict.fromkeys(variable for step in together for variable in step.inputs)
    inputs = tuple(v for v in read if not v.is_known and v not in inside)
    outputs = tuple(v for step in together for v in step.outputs if v in of_others)
    known = tuple(v for v in read if v.is_known)
    return Step(Scripted(tuple(together), inputs, outputs, known), inputs, outputs)


def _has_rule(step: Step) -> bool:
    """Whether C computes a step of small arrays."""
    if step.name not in _RULES or step.eqn.effects:
        return False
    for variables, most in ((step.inputs, MOST_READ), (step.outputs, MOST_WRITTEN)):
        for variable in variables:
            size = variable.aval.size
            if (
                variable.aval.dtype not in PLAIN
                or not isinstance(size, int)
                or not 0 < size <= most
            ):
                return False
    try:
        _written(Script(1), step, lambda variable: 0, lambda variable: 0)
    except Unsupported:
        return False
    return True


# How they run.


def call(
    found: Scripted, places: dict[Variable, int], inputs: Sequence, constants: jax.Array
) -> list[jax.Array]:
    """Return the values of the outputs.

    Args:
      found: The steps.
      places: Where its known variables begin in the constants.
      inputs: Values of its inputs.
      constants: All constants of a program.
    """
    kernel = Kernel(run=partial(_in_c, found, places))
    return native_call(partial(_in_jax, found, places), kernel, list(inputs), constants)


def _in_jax(found: Scripted, places: dict[Variable, int], inputs: Sequence, constants: jax.Array):
    values = dict(zip(found.inputs, inputs, strict=True))
    for variable in found.known:
        first, count = places[variable], math.prod(variable.shape)
        numbers = constants[first : first + count].reshape(variable.shape)
        values[variable] = numbers.astype(variable.aval.dtype)
    for step in found.steps:
        arrays = [values[variable] for variable in step.inputs]
        values |= zip(step.outputs, bind(step.eqn, arrays), strict=True)
    return [values[variable] for variable in found.outputs]


def _in_c(found: Scripted, places: dict[Variable, int], *operands: jax.Array) -> list[jax.Array]:
    text = Script(len(operands))
    last = len(operands) - 1
    where = {variable: text.operand(number) for number, variable in enumerate(found.inputs)}
    where |= {variable: text.operand(last, places[variable]) for variable in found.known}
    results = {variable: text.result(number) for number, variable in enumerate(found.outputs)}

    def to(variable: Variable) -> int:
        return results[variable] if variable in results else text.memory(variable.aval.size)

    for step in found.steps:
        where |= zip(step.outputs, _written(text, step, where.__getitem__, to), strict=True)
    for variable, place in results.items():
        if where[variable] != place:
            text.move((variable.aval.size,), (1,), (1,), where[variable], place)
    return script.run(text, [variable.shape for variable in found.outputs], operands)


# Rules: how a step is written. Each returns the place of its output, or those of several.


def _written(text: Script, step: Step, place: Place, to: Place) -> list[int]:
    """Write a step and return the places of its outputs.

    Args:
      text: What is written to.
      step: The step.
      place: Place of an input.
      to: Place where the output can be written.

    Raises:
      Unsupported: If it has a form that C does not know.
    """
    places = _RULES[step.name](text, step, place, to)
    return [places] if isinstance(places, int) else places


def _same(text: Script, step: Step, place: Place, to: Place) -> int:
    """Write nothing: the numbers are the same, in the same order."""
    x, output = step.inputs[0], step.outputs[0]
    if step.eqn.params.get("dimensions") is not None and step.name == "reshape":
        raise Unsupported
    if x.aval.size != output.aval.size or output.aval.dtype == jnp.bool_ != x.aval.dtype:
        raise Unsupported
    return place(x)


def _mapped(text: Script, step: Step, place: Place, to: Place) -> int:
    (x,), (output,) = step.inputs, step.outputs
    if step.eqn.params.get("accuracy") is not None:
        raise Unsupported
    target = to(output)
    text.map(step.name, output.aval.size, place(x), target)
    return target


def _power(text: Script, step: Step, place: Place, to: Place) -> int:
    """Write a square or a third power."""
    (x,), (output,) = step.inputs, step.outputs
    power = step.eqn.params["y"] if step.name == "integer_pow" else 2
    if power not in (2, 3):
        raise Unsupported
    target, size = to(output), output.aval.size
    operand = place(x), size
    text.combine("mul", size, operand, operand, target)
    if power == 3:
        text.combine("mul", size, (target, size), operand, target)
    return target


def _combined(text: Script, step: Step, place: Place, to: Place) -> int:
    (output,) = step.outputs
    if jnp.bool_ in [variable.aval.dtype for variable in step.inputs]:
        raise Unsupported
    first, second = (_spread(text, variable, output, place) for variable in step.inputs)
    target = to(output)
    name = "add" if step.name == "add_any" else step.name
    text.combine(name, output.aval.size, first, second, target)
    return target


def _spread(text: Script, x: Variable, like: Variable, place: Place) -> tuple[int, int]:
    """Return place and size of an operand: one number, or as many as the result has."""
    if x.aval.size in (1, like.aval.size):
        return place(x), x.aval.size
    if len(x.shape) != len(like.shape):
        raise Unsupported
    apart = [
        step if size > 1 else 0 for size, step in zip(x.shape, contiguous(x.shape), strict=True)
    ]
    target = text.memory(like.aval.size)
    text.move(like.shape, apart, contiguous(like.shape), place(x), target)
    return target, like.aval.size


def _selected(text: Script, step: Step, place: Place, to: Place) -> int:
    (output,) = step.outputs
    is_plain = len(step.inputs) == 3 and step.inputs[0].aval.dtype == jnp.bool_
    if not is_plain or output.aval.dtype == jnp.bool_:
        raise Unsupported
    which, no, yes = map(place, step.inputs)
    if step.inputs[0].aval.size != output.aval.size:  # one truth value for all
        every = text.memory(output.aval.size)
        text.move((output.aval.size,), (0,), (1,), which, every)
        which = every
    target = to(output)
    text.select(output.aval.size, which, no, yes, target)
    return target


def _viewed(text: Script, output: Variable, steps: Sequence[int], start: int, to: Place) -> int:
    """Return the place of numbers that are these steps apart: a copy, unless they are neighbors."""
    needed = contiguous(output.shape)
    if all(size == 1 or a == b for size, a, b in zip(output.shape, steps, needed, strict=True)):
        return start
    target = to(output)
    text.move(output.shape, steps, needed, start, target)
    return target


def _broadcast(text: Script, step: Step, place: Place, to: Place) -> int:
    x, (output,) = step.inputs[0], step.outputs
    steps = [0] * len(output.shape)
    axes = step.eqn.params["broadcast_dimensions"]
    for axis, size, apart in zip(axes, x.shape, contiguous(x.shape), strict=True):
        steps[axis] = apart if size > 1 else 0
    return _viewed(text, output, steps, place(x), to)


def _transposed(text: Script, step: Step, place: Place, to: Place) -> int:
    (x,), (output,) = step.inputs, step.outputs
    apart = contiguous(x.shape)
    steps = [apart[axis] for axis in step.eqn.params["permutation"]]
    return _viewed(text, output, steps, place(x), to)


def _sliced(text: Script, step: Step, place: Place, to: Place) -> int:
    (x,), (output,), params = step.inputs, step.outputs, step.eqn.params
    apart = contiguous(x.shape)
    start = sum(map(mul, params["start_indices"], apart))
    steps = list(map(mul, params["strides"] or (1,) * len(apart), apart))
    return _viewed(text, output, steps, place(x) + start, to)


def _split(text: Script, step: Step, place: Place, to: Place) -> list[int]:
    (x,), params = step.inputs, step.eqn.params
    apart = contiguous(x.shape)
    places, start = [], place(x)
    for output, size in zip(step.outputs, params["sizes"], strict=True):
        places.append(_viewed(text, output, apart, start, to))
        start += int(size) * apart[params["axis"]]
    return places


def _joined(text: Script, step: Step, place: Place, to: Place) -> int:
    """Write arrays behind each other along an axis, a new one if they are stacked."""
    (output,), params = step.outputs, step.eqn.params
    is_new = step.name == "stack"
    axis = params["axis" if is_new else "dimension"]
    target, apart = to(output), contiguous(output.shape)
    before = 0
    for variable in step.inputs:
        shape = variable.shape
        if is_new:
            shape = (*shape[:axis], 1, *shape[axis:])
        start = target + before * apart[axis]
        text.move(shape, contiguous(shape), apart, place(variable), start)
        before += shape[axis]
    return target


def _padded(text: Script, step: Step, place: Place, to: Place) -> int:
    (x, filling), (output,) = step.inputs, step.outputs
    config = step.eqn.params["padding_config"]
    if any(min(low, high) < 0 or between for low, high, between in config):
        raise Unsupported
    target, own = to(output), contiguous(output.shape)
    text.move((output.aval.size,), (0,), (1,), place(filling), target)
    start = sum(low * apart for (low, _, _), apart in zip(config, own, strict=True))
    text.move(x.shape, contiguous(x.shape), own, place(x), target + start)
    return target


def _reduced(text: Script, step: Step, place: Place, to: Place) -> int:
    (x,), axes = step.inputs, step.eqn.params["axes"]
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    count = math.prod(x.shape[axis] for axis in axes)
    start = _in_order(text, x, [*kept, *axes], place)
    target = to(step.outputs[0])
    text.reduce(step.name, x.aval.size // count, count, start, target)
    return target


def _in_order(text: Script, x: Variable, axes: Sequence[int], place: Place) -> int:
    """Return the place of an array whose axes have this order."""
    long = [axis for axis in axes if x.shape[axis] > 1]
    if long == sorted(long):
        return place(x)
    own, shape = contiguous(x.shape), [x.shape[axis] for axis in axes]
    start = text.memory(x.aval.size)
    text.move(shape, [own[axis] for axis in axes], contiguous(shape), place(x), start)
    return start


def _times(text: Script, step: Step, place: Place, to: Place) -> int:
    x, w = step.inputs
    (of_x, of_w), (batch_x, batch_w) = step.eqn.params["dimension_numbers"]
    free_x = [axis for axis in range(len(x.shape)) if axis not in (*of_x, *batch_x)]
    free_w = [axis for axis in range(len(w.shape)) if axis not in (*of_w, *batch_w)]
    batch, rows, inner = (_size(x, axes) for axes in (batch_x, free_x, of_x))
    outputs = _size(w, free_w)
    if step.outputs[0].aval.dtype != jnp.float32 or x.aval.dtype != w.aval.dtype:
        raise Unsupported
    if batch * rows * inner * outputs > MOST_PRODUCTS:
        raise Unsupported
    start_x = _in_order(text, x, [*batch_x, *free_x, *of_x], place)
    turned = [axis for axis in (*batch_w, *free_w, *of_w) if w.shape[axis] > 1]
    is_turned = turned == sorted(turned)
    order = [*batch_w, *free_w, *of_w] if is_turned else [*batch_w, *of_w, *free_w]
    start_w = _in_order(text, w, order, place)
    target = to(step.outputs[0])
    sizes = batch, rows, inner, outputs
    text.times(sizes, start_x, start_w, target, turned=is_turned, batched=batch > 1)
    return target


def _size(variable: Variable, axes: Sequence[int]) -> int:
    return math.prod(variable.shape[axis] for axis in axes)


def _convolution(text: Script, step: Step, place: Place, to: Place) -> int:
    """Write a convolution that has one result for each example: a product with its window."""
    x, kernel = step.inputs
    form, (output,) = step.eqn.params["form"], step.outputs
    no_padding = not any(number for pair in form.padding for number in pair)
    is_one = max(form.outputs) == 1 and form.groups == 1 and max(form.input_dilation) == 1
    if step.eqn.params["wanted"] != "y" or kernel.shape[0] != 1 or not (is_one and no_padding):
        raise Unsupported
    batch, inputs, features = x.shape[1], x.shape[-1], kernel.shape[-1]
    inner = math.prod(form.window) * inputs
    if batch * inner * features > MOST_PRODUCTS:
        raise Unsupported
    apart = contiguous(x.shape)[1:]
    dilation = (1, *form.dilation, 1)
    window = (batch, *form.window, inputs)
    start = place(x)
    if math.prod(window) != x.aval.size:
        start = text.memory(math.prod(window))
        steps = list(map(mul, dilation, apart))
        text.move(window, steps, contiguous(window), place(x), start)
    target = to(output)
    sizes = 1, batch, inner, features
    text.times(sizes, start, place(kernel), target, turned=False, batched=False)
    return target


_SAME = {"convert_element_type", "copy", "expand_dims", "reshape", "squeeze", "stop_gradient"}
_RULES: dict[str, Callable[[Script, Step, Place, Place], int | list[int]]] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(script.MAPS, _mapped),
    **dict.fromkeys((*script.COMBINATIONS, "add_any"), _combined),
    **dict.fromkeys(script.REDUCTIONS, _reduced),
    "broadcast_in_dim": _broadcast,
    "concatenate": _joined,
    "convolution": _convolution,
    "dot_general": _times,
    "integer_pow": _power,
    "pad": _padded,
    "select_n": _selected,
    "slice": _sliced,
    "split": _split,
    "square": _power,
    "stack": _joined,
    "transpose": _transposed,
}
