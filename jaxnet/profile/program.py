"""A compiled program as data: its instructions, their sizes, and the layers that they belong to.

`compiled.as_text()` is read, which JAX documents as text for people. So an instruction that the
parser does not know counts as 0 work, outside all layers.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxnet.ops.native.conv import KINDS, TARGET
from jaxnet.services.trees import Path

BITS = {"pred": 8, "token": 0, "c64": 64, "c128": 128}
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
START = re.compile(r"^  (?:ROOT )?%?([\w.\-]+) = (.*)$")
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
OPERAND = re.compile(r"%([\w.\-]+)")
INSIDE = re.compile(r"\b(?:calls|to_apply|body|branch_computations)=\{?([^=]*?)\}?(?:, \w+=|$)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
VALUE = re.compile(r"^\((\d+)\)")  # of a constant
# Instructions that move no bytes: their arrays belong to other instructions, or they contain
# instructions.
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call",
    "conditional", "after-all", "partition-id", "replica-id", "opt-barrier",
}  # fmt: skip
CALLS = {"while", "call", "conditional", "fusion", "async-start"}
CONTRACTED = re.compile(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)')  # of dot or cuBLAS
SLICES = {"dynamic-slice", "slice", "gather"}
# Numbers of a convolution's window in the order of `_products`, and their defaults.
WINDOW = {"stride": 1, "rhs_dilate": 1, "pad": 0, "lhs_dilate": 1}


class Shape(NamedTuple):
    """An array of a program.

    Fields:
      dtype: Dtype as XLA writes it, such as "f32".
      sizes: Sizes of its dimensions.
    """

    dtype: str
    sizes: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes that it takes."""
        bits = BITS.get(self.dtype)
        if bits is None:
            digits = re.search(r"\d+", self.dtype)
            bits = int(digits[0]) if digits else 0
        return math.prod(self.sizes) * bits // 8


class Instruction(NamedTuple):
    """A line of a program.

    Fields:
      name: Name, unique in the program.
      opcode: Operation, such as "dot" or "fusion".
      shapes: Shapes of its results.
      operands: Names of the instructions whose results it takes.
      attributes: Rest of the line, from the operands on.
      root: Whether its result is the result of its computation.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def op_name(self) -> str:
        """Origin of the instruction, as JAX notes it: "jit(step)/jvp(net)/dense/dot_general"."""
        match = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return match[1] if match else ""

    @property
    def inside(self) -> list[str]:
        """Names of the computations that it runs."""
        if self.opcode not in CALLS:
            return []
        names = []
        for part in INSIDE.findall(self.attributes):
            names += OPERAND.findall(part)
        return names


class Run(NamedTuple):
    """An instruction as it is run.

    Fields:
      instruction: Instruction of a computation.
      operands: Shapes of its operands.
      times: Number of times that it runs; a loop of unknown length counts once.
      fused: Whether it is part of a fusion, so that its arrays stay in registers.
    """

    instruction: Instruction
    operands: tuple[Shape, ...]
    times: int
    fused: bool


class Program(NamedTuple):
    """The computations of a program.

    Fields:
      computations: Dict by name, each a dict of instructions in the order in which they run.
      entry: Name of the first computation.
    """

    computations: dict[str, dict[str, Instruction]]
    entry: str

    def origin(self, one: Instruction) -> str:
        """Return the `op_name` of an instruction; for a fusion without one, its result's."""
        if one.op_name or one.opcode != "fusion":
            return one.op_name
        inside = []
        for name in one.inside:
            inside += self.computations.get(name, {}).values()
        return next((each.op_name for each in reversed(inside) if each.op_name), "")

    def trips(self, loop: Instruction) -> int:
        """Return the number of times that a loop runs; 1 if the program does not say it."""
        match = TRIPS.search(loop.attributes)
        if match:
            return int(match[1])
        # The compiler for TPUs only compares a counter, which begins at 0, with a constant.
        parts = re.findall(r"(?:condition|body)=%?([\w.\-]+)", loop.attributes)
        condition, body = [self.computations[name] for name in parts]
        compared = {one.opcode: one.attributes for one in condition.values()}
        is_below = "direction=LT" in compared.get("compare", "")
        if len(condition) != 4 or "constant" not in compared or not is_below:
            return 1
        end = int(VALUE.findall(compared["constant"])[0])
        counter = int(re.findall(r"index=(\d+)", compared["get-tuple-element"])[0])
        root = next(one for one in body.values() if one.root)
        next_counter = body[root.operands[counter]]
        for name in next_counter.operands:
            step = VALUE.findall(body[name].attributes)
            if step:
                return math.ceil(end / int(step[0]))
        return 1

    def runs(self, name: str = "", times: int = 1, fused: bool = False) -> Iterator[Run]:
        """Yield all instructions that run, including those inside loops and fusions, in order.

        Args:
          name: Name of the computation to begin with, by default the entry.
          times: Number of times that it runs.
          fused: Whether it is inside a fusion.
        """
        instructions = self.computations.get(name or self.entry, {})
        for one in instructions.values():
            operands = []
            for other in one.operands:
                if other in instructions:
                    operands += instructions[other].shapes
            yield Run(one, tuple(operands), times, fused)
            count = times * self.trips(one) if one.opcode == "while" else times
            for other in one.inside:
                yield from self.runs(other, count, fused or one.opcode == "fusion")


def parse(text: str) -> Program:
    """Return the program in the text of `compiled.as_text()`.

    Example:
      >>> compiled = jax.jit(lambda a, b: a @ b).lower(jnp.ones((3, 5)), jnp.ones((5, 7))).compile()
      >>> work = [flops_of(run) for run in parse(compiled.as_text()).runs()]
      >>> sum(work) == 2 * 3 * 5 * 7
      True
    """
    computations = {}
    entry = ""
    instructions = {}
    for line in text.splitlines():
        header = HEADER.match(line)
        start = START.match(line)
        if header:
            instructions = computations[header[2]] = {}
            if header[1]:
                entry = header[2]
        elif start:
            name = start[1]
            instructions[name] = _instruction(name, start[2], root=line.startswith("  ROOT"))
    return Program(computations, entry)


def _instruction(name: str, text: str, root: bool) -> Instruction:
    """Return the instruction of a line, "f32[3,7]{1,0} dot(%a, %b), lhs_contracting_dims={1}"."""
    kind, rest = first_word(text)
    opcode, _, rest = rest.partition("(")
    arguments, rest = first_word(f"({rest}")
    shapes = []
    for dtype, numbers in ARRAY.findall(kind):
        sizes = [int(n) for n in re.findall(r"\d+", numbers)]
        shapes.append(Shape(dtype, tuple(sizes)))
    return Instruction(
        name,
        opcode.strip(),
        shapes=tuple(shapes),
        operands=tuple(OPERAND.findall(arguments)),
        attributes=arguments + rest,
        root=root,
    )


def first_word(text: str) -> tuple[str, str]:
    """Return the first word, or the contents of its parentheses, and the rest."""
    if not text.startswith("("):
        first, _, rest = text.partition(" ")
        return first, rest
    depth = 0
    for i, letter in enumerate(text):
        if letter == "(":
            depth += 1
        elif letter == ")":
            depth -= 1
        if depth == 0:
            return text[: i + 1], text[i + 1 :].lstrip()
    return text, ""


def flops_of(run: Run) -> int:
    """Count the floating point operations of one run of a matrix product or convolution, else 0.

    A multiply-add counts as two. Multiply-adds of a convolution with its padding, or with the zeros
    of a dilation, do not count.
    """
    one, operands = run.instruction, run.operands
    if one.opcode == "custom-call":
        if f'custom_call_target="{TARGET}"' in one.attributes:
            return _flops_in_c(one, operands)
        if re.search('="jaxnet_(lstm|rnn)', one.attributes):
            return _flops_of_recurrence(one, operands)
        if 'custom_call_target="jaxnet_attention' in one.attributes:
            return _flops_of_attention(one, operands)
    if len(operands) < 2:
        return 0
    # Matrix products on NVIDIA's GPUs.
    is_cublas = one.opcode == "custom-call" and "__cublas$" in one.attributes
    if is_cublas or one.opcode == "dot":
        return _flops_of_product(one, operands[0])
    if one.opcode == "convolution":
        return _flops_of_convolution(one, operands)
    return 0


def _flops_of_recurrence(one: Instruction, operands: tuple[Shape, ...]) -> int:
    """Count for the products with the recurrent kernel."""
    steps, batch, gates = operands[0].sizes
    features = gates // 4 if "_lstm" in one.attributes else gates
    return 2 * steps * batch * gates * features


def _flops_of_attention(one: Instruction, operands: tuple[Shape, ...]) -> int:
    """Count as if each query saw all places."""
    q, k, v = [shape.sizes for shape in operands[:3]]
    if "_attention_one" in one.attributes:
        return 2 * math.prod(q[:2]) * k[2] * (q[2] + v[3])
    per_pair = q[3] + v[3]
    if "_back" in one.attributes:
        per_pair = 3 * q[3] + 2 * v[3]
    return 2 * math.prod(q[:3]) * k[1] * per_pair


def _flops_of_product(one: Instruction, left: Shape) -> int:
    match = CONTRACTED.search(one.attributes)
    axes = re.findall(r"\d+", match[1]) if match else []
    summed = math.prod(left.sizes[int(axis)] for axis in axes)
    return 2 * math.prod(one.shapes[0].sizes) * summed


def _flops_of_convolution(one: Instruction, operands: tuple[Shape, ...]) -> int:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    if not labels:
        return 0
    image = dict(zip(labels[1], operands[0].sizes, strict=False))
    kernel = dict(zip(labels[2], operands[1].sizes, strict=False))
    result = dict(zip(labels[3], one.shapes[0].sizes, strict=False))
    groups = re.search(r"batch_group_count=(\d+)", one.attributes)
    total = 2 * result["b"] * result["f"] * kernel["i"] // int(groups[1] if groups else 1)
    for axis in sorted(set(image) - {"b", "f"}):
        window = [_of_window(one, key, axis, usual) for key, usual in WINDOW.items()]
        total *= _products(image[axis], kernel[axis], result[axis], *window)
    return total


def _flops_in_c(one: Instruction, operands: tuple[Shape, ...]) -> int:
    """Count for a convolution of `jaxnet.ops.native`: arrays (nets, batch, *space, features)."""
    match = re.search(r"form = dense<\[([\d, \-]+)\]>", one.attributes)
    if not match or len(operands) != 2:
        return 0
    kind, _, *numbers = map(int, match[1].split(","))
    arrays = [shape.sizes for shape in operands]
    arrays.insert("xwy".index(KINDS[kind]), one.shapes[0].sizes)
    x, w, y = arrays
    total = 2 * x[0] * x[1] * w[-2] * w[-1]
    for axis in range(3):
        total *= _products(x[2 + axis], w[1 + axis], y[2 + axis], *numbers[axis::3])
    return total


def _of_window(one: Instruction, key: str, axis: str, usual: int) -> int:
    """Return a number of the window along an axis; for "pad=1_2x0_3" the first of each pair."""
    match = re.search(rf"window=\{{[^}}]*\b{key}=([\dx_\-]+)", one.attributes)
    if not match:
        return usual
    numbers = match[1].split("x")[int(axis)]
    return int(numbers.split("_")[0])


def _products(
    size: int, kernel: int, out: int, stride: int, dilation: int, low: int, between: int
) -> int:
    """Count the pairs of output and tap, along an axis, that use an entry of x."""
    first = np.arange(out) * stride - low
    tap = np.arange(kernel) * dilation
    place = first[:, None] + tap
    inside = (place >= 0) & (place <= (size - 1) * between)
    used = inside & (place % between == 0)
    return int(used.sum())


def bytes_of(run: Run, program: Program) -> int:
    """Count the bytes that one run of an instruction reads and writes.

    For a slice, the bytes of the slice count, not of the whole. Instructions inside a fusion count
    with the fusion.
    """
    one = run.instruction
    if run.fused or one.opcode in FREE:
        return 0
    out = sum(shape.bytes for shape in one.shapes)
    if one.opcode in SLICES:
        return 2 * out
    if one.opcode == "dynamic-update-slice":
        return 2 * run.operands[1].bytes
    if one.opcode != "fusion":
        return out + sum(shape.bytes for shape in run.operands)
    return sum(_fused_bytes(program.computations.get(name, {}), out) for name in one.inside)


def _fused_bytes(body: dict[str, Instruction], out: int) -> int:
    """Return the bytes of the parameters and the result of a fusion."""
    total = out
    for one in body.values():
        size = sum(shape.bytes for shape in one.shapes)
        if one.opcode == "dynamic-update-slice" and one.root:  # in place: only the slice is written
            update = body.get(one.operands[1])
            if update:
                total += sum(shape.bytes for shape in update.shapes) - size
        if one.opcode != "parameter":
            continue
        users = [user for user in body.values() if one.name in user.operands]
        kinds = {user.opcode if user.operands[0] == one.name else "" for user in users}
        if kinds and kinds <= SLICES:
            size = sum(shape.bytes for user in users for shape in user.shapes)
        elif kinds == {"dynamic-update-slice"}:
            size = 0
        total += size
    return total


# Words that JAX writes around and between the names of layers.
WORDS = {
    "while", "body", "cond", "closed_call", "eval_jaxpr", "rematted_computation", "core_call",
    "shard_map",
}  # fmt: skip
WORD = re.compile(r"branch_\d+_fun|custom_[jv][vj]p_call(_jaxpr)?|checkpoint|remat2?")
WRAPPED = re.compile(r"^(jvp|transpose|vmap|remat|checkpoint|custom_jvp|custom_vjp)\((.*)\)$")
LOOP = {"body", "closed_call", "eval_jaxpr"}


def layer_of(op_name: str) -> tuple[Path, bool]:
    """Return the path of an instruction's layer, and whether it is part of the backward pass.

    Words that JAX puts between the names are left out: transforms, loops, jitted functions, the
    primitive at the end. An operation outside all layers has the path ().

    Args:
      op_name: Name in the metadata of the instruction.

    Example:
      >>> layer_of("jit(step)/transpose(jvp(net))/block/while/body/closed_call/dense/dot_general")
      (('net', 'block', 'dense'), True)
      >>> layer_of("jit(step)/jvp(net)/gelu/jit(tanh)/mul")
      (('net', 'gelu'), False)
    """
    op_name = _first_name(op_name)
    backward = False
    path: list[str] = []
    loop = 0  # length of the path at the innermost loop
    before = ""
    for part in op_name.split("/")[:-1]:
        if part.startswith(("jit(", "pjit(")):
            if not path and not part.startswith("jit(_"):
                continue
            if "/body/" in op_name:
                # JAX 0.12 repeats the path for each enclosing loop.
                path[loop:] = _once(path[loop:])
            break  # a function that a layer calls
        derived = part.startswith(("jvp(", "transpose("))
        part, transposed = _unwrapped(part)
        backward = backward or transposed
        if derived and path[:1] == [part]:
            path, loop = [], 0  # JAX repeats the whole path
        # JAX 0.12 writes "eval_jaxpr" instead of "closed_call" in loops, and around operations that
        # derivatives move out of loops. Anywhere else, or if repeated, it is the name of a layer.
        elsewhere = before != "body" and "jvp(" not in op_name
        if part == "eval_jaxpr" and (before == "eval_jaxpr" or elsewhere):
            path.append(part)
            before = ""
            continue
        before = part
        if part in LOOP:
            loop = len(path)
        if part == "checkpoint" and backward:
            half = (len(path) - loop) // 2
            if path[loop : loop + half] == path[loop + half :]:  # JAX writes the name twice
                path = path[: loop + half]
        if _is_name(part):
            path.append(part)
    # Other names belong to parameters, or to regions of a reduction.
    is_operation = op_name.startswith(("jit(", "pjit("))
    return tuple(path) if is_operation else (), backward


def _first_name(op_name: str) -> str:
    """Return the first of names that XLA joins: "jit(f)/a/add;jit(f)/b/mul", "jit(f)/(a/add:b)"."""
    first = op_name.partition(";")[0]
    start, parenthesis, joined = first.partition("/(")
    if not parenthesis:
        return first
    return f"{start}/{joined.partition(':')[0]}"


def _unwrapped(part: str) -> tuple[str, bool]:
    """Return a part of a name without transforms, and whether one of them is `transpose`."""
    backward = False
    match = WRAPPED.match(part)
    while match:
        backward = backward or match[1] == "transpose"
        part = match[2]
        match = WRAPPED.match(part)
    return part, backward


def _is_name(part: str) -> bool:
    return bool(part) and part not in WORDS and not WORD.fullmatch(part) and "->" not in part


def _once(path: list[str]) -> list[str]:
    """Return one period of a path that repeats itself."""
    n = len(path)
    for period in range(1, n):
        if n % period == 0 and path[:period] * (n // period) == path:
            return path[:period]
    return path
