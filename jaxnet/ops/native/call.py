"""Functions that run in C on one CPU, and as JAX computes them everywhere else.

The primitive holds the jaxpr of the function in JAX. Derivatives, `vmap`, other platforms, exported
programs and whatever counts or replaces operations use it, so C serves values alone. A kernel
that takes float32 but not 16 bits gets them as float32, and its results are rounded once.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir, xla

from jaxnet.ops.precision import lifted
from jaxnet.ops.varying import varying
from jaxnet.services.trees import PyTree, among, joined, without


class Kernel(NamedTuple):
    """A replacement of a function in JAX, on the leaves of its arguments and of its result.

    Fields:
      run: Leaves of the arguments -> leaves of the result, in C; None if C does not help.
      supports: Leaves of the arguments -> whether `run` takes them.
      linear: Number of leaves, the last ones, in which the function is linear.
      transpose: Kernel of the transpose: the leaves before, and cotangents of the result ->
        cotangents of the last leaves.
    """

    run: Callable | None = None
    supports: Callable = lambda *leaves: True
    linear: int = 0
    transpose: "Kernel | None" = None


def make_primitive(
    name: str,
    *,
    shapes: Callable,
    batch: Callable,
    run: Callable,
    lower_for_cpu: Callable,
    multiple_results: bool,
) -> Primitive:
    """Return a primitive of JAX, whose operations are compiled; it has no derivatives yet.

    Args:
      name: Name of the primitive.
      shapes: Its rule of shapes and dtypes.
      batch: Its rule of `vmap`.
      run: Function in JAX that computes its results.
      lower_for_cpu: Its rule of lowering for CPUs; other platforms compile `run`.
      multiple_results: Whether its results are a list.

    Example:
      >>> rules = dict(shapes=lambda x: x, batch=None, run=lambda x: x + x, lower_for_cpu=None)
      >>> make_primitive("double", **rules, multiple_results=False)
      double
    """
    primitive = Primitive(name)
    primitive.multiple_results = multiple_results
    primitive.def_impl(partial(xla.apply_primitive, primitive))
    primitive.def_abstract_eval(shapes)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=multiple_results))
    mlir.register_lowering(primitive, lower_for_cpu, platform="cpu")
    return primitive


def native_call(function: Callable, kernel: Kernel, *args: PyTree) -> PyTree:
    """Return function(*args), computed by a kernel in C if possible.

    Args:
      function: Function of pytrees of arrays, in JAX.
      kernel: Kernel that computes the same in C.
      *args: Arguments of the function.

    Example:
      >>> double = Kernel(run=lambda x: [x + x], supports=lambda x: x.ndim == 1)
      >>> native_call(lambda x: 2 * x, double, jnp.ones(2))
      Array([2., 2.], dtype=float32)
    """
    leaves, structure = jax.tree.flatten(args)
    leaves = varying(leaves, leaves)

    def of_leaves(*leaves):
        return function(*jax.tree.unflatten(structure, leaves))

    jaxpr, shapes = jax.make_jaxpr(of_leaves, return_shape=True)(*leaves)
    results = _primitive().bind(*leaves, jaxpr=jaxpr, kernel=kernel)
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


@cache
def _primitive():
    native_call_p = make_primitive(
        "native_call",
        shapes=lambda *leaves, jaxpr, kernel: jaxpr.out_avals,
        batch=_batch,
        run=_run,
        lower_for_cpu=_lower_for_cpu,
        multiple_results=True,
    )
    ad.primitive_jvps[native_call_p] = _jvp
    ad.primitive_transposes[native_call_p] = _transpose
    return native_call_p


def _run(*leaves, jaxpr, kernel):
    return jaxpr_as_fun(jaxpr)(*leaves)


def _jvp(primals, tangents, *, jaxpr, kernel):
    moving = [type(tangent) is not ad.Zero for tangent in tangents]

    def run(*some):
        return jaxpr_as_fun(jaxpr)(*joined(moving, some, without(moving, primals)))

    return jax.jvp(run, among(moving, primals), among(moving, tangents))


def _transpose(cotangents, *leaves, jaxpr, kernel):
    unknown = [ad.is_undefined_primal(leaf) for leaf in leaves]
    defined = without(unknown, leaves)
    cotangents = varying([ad.instantiate_zeros(ct) for ct in cotangents], defined)
    fixed = len(leaves) - kernel.linear
    if kernel.transpose is not None and not any(unknown[:fixed]):
        # The function is linear in all the last leaves together, so a known one must be zero.
        linear = [False] * fixed + [True] * kernel.linear
        pull = partial(_pull, jaxpr, linear, jaxpr.in_avals)
        results = native_call(pull, kernel.transpose, defined[:fixed], cotangents)
        results = [None] * fixed + results
    else:
        results = _pull(jaxpr, unknown, jaxpr.in_avals, defined, cotangents)
        results = joined(unknown, results, [None] * len(defined))
    return [ct if asked else None for ct, asked in zip(results, unknown, strict=True)]


def _pull(jaxpr, unknown, avals, defined, cotangents):
    """Return the cotangents of the unknown leaves."""

    def run(*some):
        return jaxpr_as_fun(jaxpr)(*joined(unknown, some, defined))

    at = among(unknown, avals)
    return list(jax.linear_transpose(run, *at)(list(cotangents)))


def _batch(leaves, dims, *, jaxpr, kernel):
    results = jax.vmap(jaxpr_as_fun(jaxpr), dims)(*leaves)
    return results, [0] * len(results)


def _lower_for_cpu(ctx, *leaves, jaxpr, kernel):
    in_c = kernel.run is not None and on_one_device(ctx.module_context)

    def by_kernel(leaves):
        results = zip(kernel.run(*leaves), jaxpr.out_avals, strict=True)
        return [y.astype(aval.dtype) for y, aval in results]

    def run(*leaves):
        if in_c and kernel.supports(*leaves):
            return by_kernel(leaves)
        in_float32 = list(map(lifted, leaves))
        if in_c and kernel.supports(*in_float32):
            return by_kernel(in_float32)
        return jaxpr_as_fun(jaxpr)(*leaves)

    return mlir.lower_fun(run, multiple_results=True)(ctx, *leaves)


def on_one_device(context: Any) -> bool:
    """Return whether the operands are on one device of this process, or sliced by `shard_map`.

    XLA cannot slice the operands of a call of C: it would gather a sharded batch on each device.
    An exported program must run without jaxnet, too.

    Args:
      context: Context of the module, given to a rule for lowering.

    Example:
      >>> from types import SimpleNamespace as Some
      >>> one = Some(num_devices=1)
      >>> on_one_device(Some(lowering_parameters=Some(for_export=False), axis_context=one))
      True
    """
    if context.lowering_parameters.for_export:
        return False
    where = context.axis_context
    mesh = getattr(where, "mesh", None)  # inside shard_map
    if mesh is None:
        return getattr(where, "num_devices", None) == 1
    return mesh.size == 1 or set(where.manual_axes) == set(mesh.axis_names)
