"""Conversion of a trained net to ONNX, for runtimes without JAX: servers, browsers, phones.

    to_onnx(net, params, state, x, "digits.onnx")

jax2onnx replaces JAX's functions by its own while it traces, and compiled functions would keep
these after the conversion. So we first trace the net in JAX's own operations (see
`jaxnet.interop.without_kernels`), and jax2onnx converts the result.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.core import Layer
from jaxnet.interop.export import entries_of, open_spec, variable_batch
from jaxnet.interop.lax import OURS, evaluate
from jaxnet.nets import carried_entries, check_net
from jaxnet.rewriting.inference import net_of
from jaxnet.services.checks import at_least, check_input, is_traced
from jaxnet.services.extras import extra
from jaxnet.services.files import file_path, replace_file
from jaxnet.services.trees import PyTree, flat, path_name, with_entries

BATCH = "batch"  # name of an open batch size
TOLERANCE = 1e-4  # largest difference in the comparison, relative to the largest output


def to_onnx(
    net: Layer | Callable[..., Any],
    params: PyTree = None,
    state: PyTree = None,
    x: PyTree = None,
    path: str | os.PathLike | None = None,
    *,
    batch: int | None = None,
) -> Any:
    """Convert a net in evaluation mode to an ONNX model in float32, by default for any batch size.

    The model is checked by `onnx.checker`. If x is data, not a spec, onnxruntime runs the model on
    x as well, and its output is compared with the net's.

    The inputs are named "x", or by their path in x: "x/0" and "x/1" for a pair, "x/lengths" for the
    entry of a dict. The outputs are named "y" in the same way. Variable sizes have their names.

    A net that changes its state in evaluation, such as a stream, also has its entries as inputs,
    such as "state/gru/h", and the next ones as outputs, "next/gru/h". A stream starts from zeros.

    Caution: it needs the extra jaxnet-toolkit[onnx]. The first conversion of a process imports all
    of jax2onnx, which takes seconds, and while it converts, other threads must not use JAX.

    Args:
      net: Any layer, or what `jn.optimize_for_inference` returned. Then only x follows:
        `to_onnx(answer, x)`.
      params, state: Params and state of the net, in float32.
      x: Input, or its `jn.spec`, or a pytree of them, batch axis first. For further variable sizes,
        pass specs with sizes of `jax.export.symbolic_shape("batch, time, 8")`.
      path: Path of the file to write, such as "digits.onnx"; missing folders are created. None
        writes no file.
      batch: Batch size; None allows any size from 1.

    Returns:
      The `onnx.ModelProto`.

    Raises:
      ImportError: If jax2onnx or onnxruntime is not installed.
      TypeError: If `net` is not a layer, if another argument does not consist of arrays, or if
        floats are not float32.
      ValueError: If `params` or `state` do not fit the net, or if 64-bit numbers are enabled.
      ValueError: If jax2onnx cannot convert an operation.
      ValueError: If the outputs of the model and the net differ.
      OSError: If the file cannot be written.

    Example:
      >>> net, x = jn.dense(3), jn.spec((2, 5))
      >>> params, state = net.init(jax.random.key(0), x)
      >>> model = to_onnx(net, params, state, x)  # doctest: +SKIP
      >>> session = onnxruntime.InferenceSession(model.SerializeToString())  # doctest: +SKIP
      >>> (y,) = session.run(None, {"x": np.ones((7, 5), np.float32)})  # doctest: +SKIP
      >>> y.shape  # doctest: +SKIP
      (7, 3)
    """
    net, params, state, x = net_of("to_onnx", net, params, state, x)
    net, params, state = check_net("to_onnx", net, params, state, x)
    data, x = x, check_input("to_onnx", x)
    params = jax.tree_util.tree_map_with_path(_wide, params)
    if jnp.result_type(float) == jnp.float64:
        raise ValueError(
            "to_onnx: jax_enable_x64 must be off, since models are in float32; write "
            "with jax.enable_x64(False): to_onnx(...)"
        )
    at_least("to_onnx", "batch", batch, optional=True)
    path = None if path is None else file_path("to_onnx", path)
    _check_float32({"params": params, "state": state, "x": x})
    for name in ("jax2onnx", "onnx", "onnxruntime"):
        _package(name)
    params, state = jax.tree.map(jnp.asarray, (params, state))
    spec, is_open = open_spec("to_onnx", x, batch)
    with variable_batch("to_onnx", is_open):
        carried = carried_entries(net, params, state, spec)
        leaves, structure = jax.tree.flatten((carried, spec))

        def run(*leaves):
            entries, x = jax.tree.unflatten(structure, leaves)
            y, after = net.apply(params, with_entries(state, entries), x)
            return {path: leaf for path, leaf in flat(after) if path in carried}, y

        traced, (_, result) = jax.make_jaxpr(run, return_shape=True)(*leaves)

    def run_converted(*arguments):
        return _distinct(arguments, evaluate(traced, arguments, CONVERTED))

    converted = jax.make_jaxpr(run_converted)(*leaves)
    inputs = [f"state/{path}" for path in carried] + _names("x", spec)
    outputs = [f"next/{path}" for path in carried] + _names("y", result)
    model, session = _convert(net.name, converted, leaves, inputs, outputs, is_open)
    arrays = jax.tree.leaves(data)
    is_data = not any(isinstance(a, jax.ShapeDtypeStruct) for a in arrays)
    fits = batch is None or {a.shape[0] for a in arrays if a.shape} <= {batch}
    if is_data and fits:
        arrays = [*entries_of("to_onnx", list(carried), state).values(), *arrays]
        arrays = [np.asarray(a, leaf.dtype) for a, leaf in zip(arrays, leaves, strict=True)]
        compare(session, inputs, arrays, jax.tree.leaves(jax.jit(run)(*arrays)))
    if path is not None:
        replace_file("to_onnx", path, model.SerializeToString())
    return model


def _convert(
    name: str,
    program: Any,
    leaves: list[Any],
    inputs: list[str],
    outputs: list[str],
    is_open: bool,
) -> tuple[Any, Any]:
    """Return the model of a program, and onnxruntime's session of it."""
    jax2onnx = _package("jax2onnx")
    names = {"model_name": name, "input_names": inputs, "output_names": outputs}
    try:
        model = jax2onnx.to_onnx(lambda *arrays: evaluate(program, arrays, {}), leaves, **names)
        _package("onnx").checker.check_model(model, full_check=True)
        session = _package("onnxruntime").InferenceSession(model.SerializeToString())
        if is_open:
            _run_two_examples(session, inputs, leaves)
    except Exception as error:
        advice = ". A fixed batch size may help: to_onnx(..., batch=1)" if is_open else ""
        raise ValueError(
            f"to_onnx: jax2onnx {version('jax2onnx')} cannot convert {name}: "
            f"{type(error).__name__}: {error}{advice}"
        ) from error
    return model, session


def _run_two_examples(session: Any, inputs: list[str], leaves: list[Any]) -> None:
    """Run a model of an open batch size, which may be wrong for another than that of a trace."""
    shapes = [[str(size) for size in leaf.shape] for leaf in leaves]
    known = all(size.isdigit() or size == BATCH for shape in shapes for size in shape)
    if not known:  # further variable sizes
        return
    arrays = {}
    for name, shape, leaf in zip(inputs, shapes, leaves, strict=True):
        sizes = [2 if size == BATCH else int(size) for size in shape]
        arrays[name] = np.zeros(sizes, leaf.dtype)
    session.run(None, arrays)


def _package(name: str) -> Any:
    return extra(name, name, "to_onnx", "onnx")


def _wide(path: Any, leaf: Any) -> Any:
    """Return a scale of a quantized kernel in float32, and any other leaf as it is."""
    return leaf.astype(jnp.float32) if path_name(path).endswith("/scale16") else leaf


def pad(x: jax.Array, value: jax.Array, *, padding_config: Any) -> jax.Array:
    """Replace `lax.pad` by concatenation: jax2onnx 0.17 cannot pad an array of a variable size."""
    inner = [(0, 0, between) for _, _, between in padding_config]
    if any(between for _, _, between in padding_config):
        x = lax.pad(x, value, inner)
    for axis, (before, after, _) in enumerate(padding_config):
        first, last = max(-before, 0), x.shape[axis] - max(-after, 0)
        x = lax.slice_in_dim(x, first, last, axis=axis)
        low, high = (_filled(x, axis, max(size, 0), value) for size in (before, after))
        parts = [part for part in (low, x, high) if part is x or part.shape[axis]]
        if len(parts) > 1:
            x = lax.concatenate(parts, axis)
    return x


def _filled(x: jax.Array, axis: int, size: int, value: jax.Array) -> jax.Array:
    """Return an array of one value, of the shape of x but for the size of an axis."""
    return lax.broadcast(value, (*x.shape[:axis], size, *x.shape[axis + 1 :]))


def select(which: jax.Array, *cases: jax.Array) -> jax.Array:
    """Replace `lax.select_n`, since onnxruntime cannot select booleans."""
    if cases[0].dtype != jnp.bool_ or which.dtype != jnp.bool_:
        return lax.select_n(which, *cases)
    return (~which & cases[0]) | (which & cases[1])


def _now(*operands: Any) -> AbstractContextManager[Any]:
    """Let what depends on params alone be computed while converting, not by the model.

    In a model of an open batch size, jax2onnx 0.17 gives the sum of x and a bias that the model
    concatenates a wrong size.
    """
    return nullcontext() if is_traced(operands) else jax.ensure_compile_time_eval()


def _concatenate(*parts: jax.Array, dimension: int) -> jax.Array:
    with _now(*parts):
        return lax.concatenate(parts, dimension)


def _broadcast(x: Any, *, shape: Any, broadcast_dimensions: Any, **_: Any) -> jax.Array:
    """Fill vectors now, which are next to params in a concatenation; larger ones take memory."""
    with _now(x) if len(shape) == 1 and isinstance(shape[0], int) else nullcontext():
        return lax.broadcast_in_dim(x, shape, broadcast_dimensions)


CONVERTED = {
    **OURS, "broadcast_in_dim": _broadcast, "concatenate": _concatenate, "pad": pad,
    "select_n": select,
}  # fmt: skip


def _distinct(inputs: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
    """Return the outputs, copied if an array is also an input or an earlier output."""
    seen_ids = {id(a) for a in inputs}
    distinct = []
    for output in outputs:
        distinct.append(jnp.array(output, copy=True) if id(output) in seen_ids else output)
        seen_ids.add(id(output))
    return distinct


def _names(root: str, tree: PyTree) -> list[str]:
    return [f"{root}/{path}" if path else root for path, _ in flat(tree)]


def _check_float32(tree: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype != jnp.float32:
            raise TypeError(
                f"to_onnx: expected floats in float32, got {leaf.dtype} in {path_name(path)}; "
                f"write jax.tree.map(lambda a: a.astype(jnp.float32), ...)"
            )


def compare(session: Any, names: list[str], arrays: list[np.ndarray], expected: list) -> None:
    """Raise unless the model computes what the net does."""
    results = session.run(None, dict(zip(names, arrays, strict=True)))
    outputs = zip(session.get_outputs(), results, map(np.asarray, expected), strict=True)
    for output, ours, theirs in outputs:
        largest = np.abs(theirs).max(initial=1e-30, where=np.isfinite(theirs))
        tolerance = {"rtol": 0, "atol": TOLERANCE * largest, "equal_nan": True}
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, **tolerance):
            raise ValueError(
                f"to_onnx: the converted model and the net differ in {output.name}: {ours.shape} "
                f"by more than {TOLERANCE:g} of the largest output"
            )
