"""Export of a trained net as a StableHLO program, which runs without jaxnet and the net's code.

    program = export(net, params, state, x)
    program.save("digits.stablehlo")
    logits = load_exported("digits.stablehlo")(images)

The file holds the bytes of `jax.export`, followed by a checksum that JAX ignores. So it can be read
with jax and flatbuffers alone:

    import jax.export

    with open("digits.stablehlo", "rb") as file:
        program = jax.export.deserialize(bytearray(file.read()))
    logits = program.call(images)

It contains no pickle and no Python code, but it is a program: run only programs from sources that
you trust. JAX guarantees to read a file for six months. An older JAX may not read a newer one's
file: 0.12.0 reads files of 0.10.2, but not the reverse.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from jaxnet.core import Layer
from jaxnet.nets import carried_entries, check_net
from jaxnet.rewriting.inference import net_of
from jaxnet.services.checks import all_native, at_least, check_input, check_options, one_of
from jaxnet.services.files import file_path, readable, replace_file
from jaxnet.services.trees import PyTree, describe, flat, with_entries

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")  # platforms of jax.export
DIGEST = hashlib.sha256().digest_size  # bytes of the checksum


class Program(NamedTuple):
    """A net in evaluation mode as a program; prints its input and output.

    Call it like a function, inside `jax.jit` as well.

    Fields:
      exported: Object of `jax.export.Exported`. `exported.mlir_module()` is the program as text,
        and `exported.mlir_module_serialized` the portable bytes for other compilers.

    Example:
      >>> net, x = jn.dense(3), jn.spec((2, 5))
      >>> program = export(net, *net.init(jax.random.key(0), x), x, platforms=["cpu"])
      >>> print(program)
      (batch, 5) float32 -> (batch, 3) float32 on cpu
      >>> program(jnp.ones((7, 5))).shape
      (7, 3)
      >>> program(jnp.ones((7, 4)))
      Traceback (most recent call last):
      ...
      ValueError: program: expected (batch, 5) float32, got (7, 4) float32: Shape mismatch ...
    """

    exported: jax.export.Exported

    def __call__(self, *inputs: PyTree) -> PyTree:
        """Return the output for x, or for (weights, x) if the weights are outside.

        A net that changes its state in evaluation, such as a stream, takes the state before x, as
        `jn.start_stream` or the call before gave it, and returns (y, state).

        Raises:
          TypeError: If an argument does not consist of arrays.
          ValueError: If the state lacks an entry.
          ValueError: If the input has the wrong structure, shape or dtype, if the platform differs,
            or if a newer JAX wrote the program.
        """
        try:
            inputs = jax.tree.map(jnp.asarray, all_native(inputs, "program"))
        except (TypeError, ValueError, OverflowError):
            raise TypeError(
                f"program: expected {self._input()}, got {describe(inputs):.60}"
            ) from None
        arguments = list(inputs)
        names = self._carried() if len(arguments) > 1 else []
        if names:
            arguments[-2] = entries_of("program", names, arguments[-2])
        try:
            return self.exported.call(*arguments)
        except ValueError as error:
            got = _words(tuple(arguments), names)
            raise ValueError(f"program: expected {self._input()}, got {got}: {error}") from None
        except jax.errors.JaxRuntimeError as error:
            if "deserialize" not in str(error):
                raise
            raise ValueError(
                f"program: jax {jax.__version__} cannot read a program written by a newer JAX"
            ) from error

    def save(self, path: str | os.PathLike, *, gradients: int = 0) -> Path:
        """Write the program to a file, whole or not at all; see `jn.save`.

        Args:
          path: Path of the file, such as "digits.stablehlo"; missing folders are created, "~" is
            the home folder.
          gradients: Order of derivatives that the loaded program supports; each adds a program
            about twice as large.

        Returns:
          The path, to print.

        Raises:
          ImportError: If the package flatbuffers, the format of `jax.export`, is not installed.
          OSError: If the file cannot be written.
          TypeError, ValueError: If the output has named tuples or other containers that JAX cannot
            serialize; JAX names them.
        """
        at_least("Program.save", "gradients", gradients, 0)
        path = file_path("Program.save", path)
        data = bytes(self.exported.serialize(vjp_order=gradients))
        replace_file("Program.save", path, data + hashlib.sha256(data).digest())
        return path

    def _inputs(self) -> tuple:
        inputs, _ = jax.tree.unflatten(self.exported.in_tree, self.exported.in_avals)
        return inputs

    def _outputs(self) -> PyTree:
        return jax.tree.unflatten(self.exported.out_tree, self.exported.out_avals)

    def _carried(self) -> list[str]:
        """Return the names of the entries of the state that the program takes and returns."""
        *_, state, _ = ({}, *self._inputs())
        outputs = self._outputs()
        takes_state = isinstance(state, dict) and isinstance(outputs, tuple) and len(outputs) == 2
        return list(state) if takes_state and outputs[1] == state else []

    def _input(self) -> str:
        return _words(self._inputs(), self._carried())

    def __str__(self) -> str:
        outputs = describe(self._outputs())
        if self._carried():
            y, _ = self._outputs()
            outputs = f"({describe(y)}, state)"
        return f"{self._input()} -> {outputs} on {', '.join(self.exported.platforms)}"


def export(
    net: Layer | Callable[..., Any],
    params: PyTree = None,
    state: PyTree = None,
    x: PyTree = None,
    *,
    batch: int | None = None,
    platforms: Sequence[str] | None = None,
    weights_inside: bool = True,
) -> Program:
    """Return the net in evaluation mode as a StableHLO program, for any batch size by default.

    With the weights inside, the program is one file. With the weights outside it is small, and its
    first argument is a dict of arrays by path, such as "params/conv/kernel". A safetensors file of
    `jn.save` holds such a dict, so retrained weights run in the same program:

        export(net, params, state, x, weights_inside=False).save("net.stablehlo")
        jn.save("net.safetensors", {"params": params, "state": state})
        load_exported("net.stablehlo")(safetensors.numpy.load_file("net.safetensors"), images)

    The program of a net that changes its state in evaluation, such as a stream, takes the state and
    returns the next one: `y, state = program(state, x)`. Its entries are a dict of arrays by path,
    such as "gru/h". What does not change, such as the statistics of batch norm, is a weight.

    Args:
      net: Any layer, or what `jn.optimize_for_inference` returned. Then only x follows:
        `export(answer, x)`.
      params, state: Params and state of the net; for a stream that of `jn.start_stream`.
      x: Input, or its `jn.spec`, or a pytree of them, batch axis first. For further variable sizes,
        pass specs with sizes of `jax.export.symbolic_shape("batch, time, 8")`.
      batch: Batch size; None allows any size from 1.
      platforms: Platforms of the program, such as ["cpu", "cuda", "tpu"]; the platform of this
        process by default.
      weights_inside: Whether params and state are constants of the program.

    Raises:
      TypeError: If `net` is not a layer, `params`, `state` or `x` are not arrays, or `platforms` is
        not a list of str.
      ValueError: If `params` or `state` do not fit the net, or a platform is unknown.
      TypeError and others: If the net needs a fixed batch size; a note explains it.

    Example:
      >>> net, x = jn.serial(jn.conv(4, 3), jn.flatten(), jn.dense(3)), jn.spec((2, 8, 6, 1))
      >>> params, state = net.init(jax.random.key(0), x)
      >>> export(net, params, state, x)(jnp.ones((7, 8, 6, 1))).shape
      (7, 3)
      >>> outside = export(net, params, state, x, platforms=["cpu", "tpu"], weights_inside=False)
      >>> print(outside)
      (a dict of 4 weights, (batch, 8, 6, 1) float32) -> (batch, 3) float32 on cpu, tpu

      A net that hears its sequence step by step:

      >>> stream, x = jn.stream(jn.gru(4)), jn.spec((2, 1, 5))
      >>> params, _ = stream.init(jax.random.key(0), x)
      >>> program = export(stream, params, jn.start_stream(stream, x), x, platforms=["cpu"])
      >>> print(program)
      (a state of h, (batch, 1, 5) float32) -> ((batch, 1, 4) float32, state) on cpu
      >>> state = jn.start_stream(stream, jn.spec((3, 1, 5)))
      >>> for chunk in jnp.ones((2, 3, 1, 5)):
      ...     y, state = program(state, chunk)
      >>> y.shape, state["h"].shape
      ((3, 1, 4), (3, 4))
    """
    net, params, state, x = net_of("export", net, params, state, x)
    net, params, state = check_net("export", net, params, state, x)
    x = check_input("export", x)
    at_least("export", "batch", batch, optional=True)
    if platforms is not None:
        if isinstance(platforms, str) or not isinstance(platforms, Sequence) or not platforms:
            raise TypeError(
                f'export: platforms must be a list of str, such as ["cpu"], got {platforms!r:.60}'
            )
        for platform in platforms:
            one_of("export", "a platform", platform, PLATFORMS)
    check_options("export", weights_inside=weights_inside)
    spec, is_open = open_spec("export", x, batch)
    with variable_batch("export", is_open):
        carried = carried_entries(net, params, state, spec)
        entries = {f"state/{path}" for path in carried}
        trees = {"params": params, "state": state}
        weights = {path: jnp.asarray(a) for path, a in flat(trees, None) if path not in entries}
        function = _function(net, trees, by_state=bool(carried))
        inputs = (weights, carried, spec)
        if not carried:
            inputs = (weights, spec)
        if weights_inside:
            function, inputs = partial(function, weights), inputs[1:]
        return Program(jax.export.export(jax.jit(function), platforms=platforms)(*inputs))


def _function(net: Layer, trees: dict[str, PyTree], *, by_state: bool) -> Callable:
    """Return the net as a function of (weights, x), or of (weights, state, x), by path."""

    def run(weights, state, x):
        entries = weights | {f"state/{path}": leaf for path, leaf in state.items()}
        given = with_entries(trees, entries)
        y, after = net.apply(given["params"], given["state"], x)
        return y, {path: leaf for path, leaf in flat(after) if path in state}

    def run_alone(weights, x):
        y, _ = run(weights, {}, x)
        return y

    return run if by_state else run_alone


def load_exported(path: str | os.PathLike) -> Program:
    """Read a file of `Program.save`.

    Args:
      path: Path of the file.

    Raises:
      FileNotFoundError, IsADirectoryError: If the file does not exist or is a directory.
      OSError: If the file cannot be read.
      ValueError: If the file is truncated, changed, or in a different format.
      ImportError: If the package flatbuffers is not installed.

    Example:
      >>> import tempfile
      >>> file = f"{tempfile.mkdtemp()}/net.stablehlo"
      >>> net, x = jn.dense(3), jn.spec((2, 5))
      >>> program = export(net, *net.init(jax.random.key(0), x), x)
      >>> print(load_exported(program.save(file)))  # doctest: +SKIP
      (batch, 5) float32 -> (batch, 3) float32 on cpu
    """
    path = readable("load_exported", path)
    content = path.read_bytes()
    data, digest = content[:-DIGEST], content[-DIGEST:]
    if hashlib.sha256(data).digest() != digest:
        raise ValueError(
            f"load_exported: {path} ({len(content)} bytes) is truncated, changed, or not written "
            "by Program.save; for a file of jax.export use jax.export.deserialize"
        )
    return Program(jax.export.deserialize(bytearray(data)))


def entries_of(who: str, names: list[str], state: PyTree) -> dict[str, jax.Array]:
    """Return the entries of these names from a whole state, or from a dict of them by path.

    Raises:
      ValueError: If one is missing.

    Example:
      >>> entries_of("program", ["gru/h"], {"gru": {"h": 3}, "norm": {"mean": 2}})
      {'gru/h': Array(3, dtype=int32, weak_type=True)}
    """
    by_path = dict(flat(state))
    missing = [name for name in names if name not in by_path]
    if missing:
        given = ", ".join(map(str, by_path)) or "nothing"
        raise ValueError(f"{who}: the state needs {', '.join(names)}, got {given}")
    return {name: jnp.asarray(by_path[name]) for name in names}


@contextmanager
def variable_batch(who: str, is_open: bool) -> Iterator[None]:
    """Add a note to errors of tracing with a variable batch size."""
    try:
        yield
    except Exception as error:
        if is_open:
            error.add_note(
                f"in {who} with a variable batch size; a layer that needs the number (len(x) does, "
                f"x.shape[0] does not) needs a fixed one: write {who}(..., batch=32)"
            )
        raise


def open_spec(who: str, x: PyTree, batch: int | None) -> tuple[PyTree, bool]:
    """Return shapes with this batch size, variable for None, and whether any size is variable.

    Args:
      who: Name of the function, for errors.
      x: Input, batch axis first.
      batch: Batch size of at least 1; None keeps variable sizes of x, or else makes the first size
        variable.

    Raises:
      ValueError: If `batch` is a number although x has variable sizes.

    Example:
      >>> open_spec("export", jn.spec((2, 5)), None)
      (ShapeDtypeStruct(shape=(batch, 5), dtype=float32), True)
    """
    sizes = [size for leaf in jax.tree.leaves(x) for size in leaf.shape]
    is_symbolic = any(map(jax.export.is_symbolic_dim, sizes))
    if batch is not None and is_symbolic:
        raise ValueError(f"{who}: batch must be None for an x with symbolic sizes, got {batch}")
    first: Any = batch
    if batch is None:
        (first,) = jax.export.symbolic_shape("batch")

    def leaf(a: Any) -> jax.ShapeDtypeStruct:
        shape = a.shape
        if shape and not is_symbolic:
            shape = (first, *shape[1:])
        return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(a.dtype))

    return jax.tree.map(leaf, x), is_symbolic or batch is None


def _words(inputs: tuple, carried: list[str]) -> str:
    """Return the arguments of a program in words; `carried` names the entries of its state."""
    *first, x = inputs
    words = [describe(x)]
    if carried and first:
        first.pop()
        words.insert(0, f"a state of {', '.join(carried)}")
    if first:
        words.insert(0, f"a dict of {len(first[0])} weights")
    return words[0] if len(words) == 1 else f"({', '.join(words)})"
