"""The cost and the time of a compiled program by layer, forward and backward."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from jaxnet.profile.program import Program, bytes_of, flops_of, layer_of, parse
from jaxnet.profile.trace import Event, events
from jaxnet.services.files import explained, file_path, is_folder, readable
from jaxnet.services.table import Number, Table, Tabular, size_of
from jaxnet.services.trees import Path, nested


class LayerCost(NamedTuple):
    """The work of a layer in a compiled program, including the layers inside it.

    Fields:
      path: Names of the layer, "net/block/dense"; "" for work outside all layers.
      forward, backward: Floating point operations of matrix products and convolutions. What `remat`
        computes again counts as backward.
      forward_bytes, backward_bytes: Bytes that all instructions read and write.
    """

    path: str
    forward: int
    backward: int
    forward_bytes: int
    backward_bytes: int


@dataclass(repr=False)
class LayerCosts(Tabular):
    """The cost of a compiled program by layer; prints as a table.

    Fields:
      rows: List of one `LayerCost` per layer, before the rows of the layers inside it.
      flops: Operations of all matrix products and convolutions.
      bytes: Bytes that all instructions read and write.
      once: Value of `flops` with one iteration of each loop, as the compiler counts.
      compiler: Value of `cost_analysis()["flops"]`, NaN if the backend gives none. It includes
        elementwise operations, and one iteration of each loop, but not the convolutions that run in
        C on CPU.
    """

    rows: list[LayerCost]
    flops: int
    bytes: int
    once: int
    compiler: float

    def table(self) -> Table:
        units = ("", "", "B", "B")
        rows = [(_indented(row.path), *map(_size, row[1:], units)) for row in self.rows]
        top = [row[1:] for row in self.rows if "/" not in row.path]
        sums = [sum(column) for column in zip(*top, strict=True)] or [0, 0, 0, 0]
        notes = []
        if not math.isnan(self.compiler):
            without = "no convolution in C, " if self.once > self.compiler else ""
            notes = [
                f"the compiler counts {size_of(self.compiler, '')} FLOPs: elementwise operations "
                f"too, {without}and one iteration of each loop; products alone, so counted: "
                f"{size_of(self.once, '')}"
            ]
        head = ("layer", "FLOPs", "backward", "bytes", "backward")
        return Table("Cost by layer", head, rows, [("total", *map(_size, sums, units))], notes)


def cost_by_layer(compiled: Any) -> LayerCosts:
    """Count operations and bytes of a compiled program by layer, forward and backward.

    Floating point operations are counted. They are read from the program after all optimizations,
    by the paths that layers give to their operations. Convolutions that a library on the GPU
    computes count as 0 operations. A fusion's bytes belong to the layer of its last operation. On a
    mesh, the numbers are for one device. The loss belongs to "loss", the update to "optimizer", and
    operations without a layer, such as a copy, are in a row of their own. The names of a program
    from JAX's cache on disk date from its compilation, unless
    `jax_compilation_cache_include_metadata_in_key` is set.

    Args:
      compiled: Program made by `jax.jit(f).lower(...).compile()`.

    Returns:
      `LayerCosts`, which print; its `rows` hold the figures.

    Raises:
      TypeError: If `compiled` is not a compiled program.

    Example:
      >>> net = jn.dense(5, name="net")
      >>> params, state = net.init(jax.random.key(0), jn.spec((7, 3)))
      >>> run = jax.jit(lambda params, x: net.apply(params, state, x)[0])
      >>> costs = cost_by_layer(run.lower(params, jn.spec((7, 3))).compile())
      >>> [(row.path, row.forward) for row in costs.rows if row.path], 2 * 7 * 3 * 5
      ([('net', 210)], 210)
    """
    program = parse(program_text("cost_by_layer", compiled))
    by_path: dict[Path, list[int]] = {}
    once = 0
    for run in program.runs():
        path, backward = layer_of(program.origin(run.instruction))
        flops = flops_of(run)
        size = bytes_of(run, program)
        once += flops
        if flops or size:
            entry = by_path.setdefault(path, [0, 0, 0, 0])
            entry[0 + backward] += flops * run.times
            entry[2 + backward] += size * run.times
    rows = [LayerCost("/".join(path), *sums) for path, sums in _inclusive(by_path)]
    flops = sum(entry[0] + entry[1] for entry in by_path.values())
    size = sum(entry[2] + entry[3] for entry in by_path.values())
    counted = (compiled.cost_analysis() or {}).get("flops", math.nan)
    return LayerCosts(rows, flops, size, once, float(counted))


class LayerTime(NamedTuple):
    """The time of a layer in a trace, including the layers inside it.

    Fields:
      path: Names of the layer, "net/block/dense"; "" for work outside all layers.
      forward, backward: Milliseconds per run of the program.
    """

    path: str
    forward: float
    backward: float


@dataclass(repr=False)
class LayerTimes(Tabular):
    """The measured time of a compiled program by layer; prints as a table.

    Fields:
      rows: List of one `LayerTime` per layer, each before those inside it.
      runs: Number of runs of the program in the trace; each device is counted separately.
    """

    rows: list[LayerTime]
    runs: int

    def table(self) -> Table:
        rows = []
        for path, forward, backward in self.rows:
            rows.append((_indented(path), _ms(forward), _ms(backward), _ms(forward + backward)))
        top = [row for row in self.rows if "/" not in row.path]
        forward = sum(row.forward for row in top)
        backward = sum(row.backward for row in top)
        title = f"Milliseconds by layer, mean of {self.runs} runs"
        total = ("total", _ms(forward), _ms(backward), _ms(forward + backward))
        return Table(title, ("layer", "forward", "backward", "both"), rows, [total])


def time_by_layer(compiled: Any, trace: str | FilePath) -> LayerTimes:
    """Return measured milliseconds of a compiled program by layer, from a trace of JAX's profiler.

    The time of a layer is the sum of its instructions. Instructions that run at the same time on
    several threads add up to more than the time on the clock.

    Args:
      compiled: Program made by `jax.jit(f).lower(...).compile()`; run this one inside the trace.
      trace: Folder given to `jax.profiler.trace`; its newest trace is read.

    Returns:
      `LayerTimes`, which print. `rows` has one named tuple `(path, forward, backward)` per layer,
      in milliseconds. The row of a layer includes the layers inside it and comes before theirs.

    Raises:
      TypeError: If `compiled` is not a compiled program.
      ValueError: If the folder has no trace, or the trace has no run of the program or a run of
        another program of the same name.

    Example:
      >>> import tempfile
      >>> net = jn.dense(50, name="net")
      >>> params, state = net.init(jax.random.key(0), jn.spec((70, 30)))
      >>> x = jnp.ones((70, 30))
      >>> run = jax.jit(lambda params, x: net.apply(params, state, x)[0]).lower(params, x).compile()
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with jax.profiler.trace(folder):
      ...         y = jax.block_until_ready(run(params, x))
      ...     times = time_by_layer(run, folder)
      >>> print(times.runs, "run of", times.rows[0].path)
      1 run of net
    """
    trace = file_path("time_by_layer", trace, "trace")
    text = program_text("time_by_layer", compiled)
    module = text.removeprefix("HloModule ").partition(",")[0]
    is_folder("time_by_layer", trace)
    with explained("time_by_layer", trace, "read"):
        files = sorted(trace.rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise ValueError(
            f"time_by_layer: no trace in {trace}; write with jax.profiler.trace(folder): around a "
            "few runs that end in jax.block_until_ready"
        )
    program = parse(text)
    durations, runs = _durations(program, module, files[-1])
    if not runs:
        raise ValueError(
            f"time_by_layer: {files[-1].name} holds no run of {module}; run this compiled program "
            "inside the trace, as in compiled(train_state, batch)"
        )
    in_order = {}
    for run in program.runs():
        path, _ = layer_of(program.origin(run.instruction))
        if path in durations:
            in_order[path] = durations[path]
    rows = []
    for path, (forward, backward) in _inclusive(in_order):
        rows.append(LayerTime("/".join(path), forward / runs, backward / runs))
    return LayerTimes(rows, runs)


def _durations(
    program: Program, module: str, file: FilePath
) -> tuple[dict[Path, list[float]], int]:
    """Return milliseconds of each layer, forward and backward, and the number of runs."""
    names = {name for part in program.computations.values() for name in part}
    instructions = {
        run.instruction.name: run.instruction for run in program.runs() if not run.fused
    }
    by_path: dict[Path, list[float]] = {}
    runs = set()
    for stats, duration in _events(file):
        if stats.get("hlo_module") != module or "hlo_op" not in stats:
            continue
        name = str(stats["hlo_op"])
        if name not in names:
            raise ValueError(
                f"time_by_layer: {file.name} holds a run of another program, which also has "
                f"the name {module}, and an operation {name}; trace this one alone, in a new folder"
            )
        if name not in instructions:
            continue
        runs.add((stats.get("run_id"), stats.get("device_ordinal")))
        one = instructions[name]
        # The operations inside have their own events.
        if one.opcode not in ("while", "call", "conditional"):
            path, backward = layer_of(program.origin(one))
            durations = by_path.setdefault(path, [0.0, 0.0])
            durations[backward] += duration / 1e6
    return by_path, len(runs)


def _events(file: FilePath) -> Iterator[Event]:
    try:
        yield from events(readable("time_by_layer", file).read_bytes())
    except ValueError as error:
        raise ValueError(f"time_by_layer: {file}: {error}") from None


def program_text(who: str, compiled: Any) -> str:
    """Return the text of a compiled program; raise for anything else.

    Example:
      >>> program_text("cost_by_layer", jax.jit(jnp.sin).lower(1.0).compile())[:9]
      'HloModule'
    """
    # A program that is only lowered has a text, too.
    text = compiled.as_text() if hasattr(compiled, "cost_analysis") else None
    if text is None or not text.startswith("HloModule"):
        raise TypeError(
            f"{who}: expected a compiled program, such as jax.jit(f).lower(x).compile(), got "
            f"{type(compiled).__name__}"
        )
    return text


def _inclusive(by_path: dict[Path, list]) -> list[tuple[Path, list]]:
    """Return sums over each path and the paths below it. A path precedes the paths below it; () is
    last."""
    sums: dict[Path, list] = {}
    for path, entry in by_path.items():
        for depth in range(1, len(path) + 1):
            above = path[:depth]
            so_far = sums.get(above, [0] * len(entry))
            sums[above] = [a + b for a, b in zip(so_far, entry, strict=True)]
    outside = [((), by_path[()])] if () in by_path else []
    return [(path, sums[path]) for path in nested(sums)] + outside


def _indented(path: str) -> str:
    if not path:
        return "(no layer)"
    return "  " * path.count("/") + path.rpartition("/")[2]


def _size(count: int, unit: str) -> Number | None:
    return size_of(count, unit) if count else None


def _ms(value: float) -> Number | None:
    # A fixed width for values up to 999.999, so that the tables of two runs can be compared line by
    # line.
    return Number(f"{value:7.3f}") if value else None
