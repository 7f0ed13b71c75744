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
from jaxnet.services.trees import PyTree


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

    flat = lambda *leaves: function(*jax.tree.unflatten(structure, leaves))  # noqa: E731
    jaxpr, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
    results = _primitive().bind(*leaves, jaxpr=jaxpr, kernel=kernel)
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


@cache
def _primitive():
    native_call_p = Primitive("native_call")
    native_call_p.multiple_results = True
    native_call_p.def_impl(partial(xla.apply_primitive, native_call_p))
    native_call_p.def_abstract_eval(lambda *leaves, jaxpr, kernel: jaxpr.out_avals)
    ad.primitive_jvps[native_call_p] = _jvp
    ad.primitive_transposes[native_call_p] = _transpose
    batching.primitive_batchers[native_call_p] = _batch
    mlir.register_lowering(native_call_p, mlir.lower_fun(_run, multiple_results=True))
    mlir.register_lowering(native_call_p, _lower_for_cpu, platform="cpu")
    return native_call_p


def _run(*leaves, jaxpr, kernel):
    return jaxpr_as_fun(jaxpr)(*leaves)


def _jvp(primals, tangents, *, jaxpr, kernel):
    moving = [type(t) is not ad.Zero for t in tangents]

    def run(*some):
        some = iter(some)
        every = [next(some) if m else p for m, p in zip(moving, primals, strict=True)]
        return jaxpr_as_fun(jaxpr)(*every)

    def among(leaves):
        return [leaf for leaf, m in zip(leaves, moving, strict=True) if m]

    return jax.jvp(run, among(primals), among(tangents))


def _transpose(cotangents, *leaves, jaxpr, kernel):
    unknown = [ad.is_undefined_primal(leaf) for leaf in leaves]
    known = [leaf for leaf, u in zip(leaves, unknown, strict=True) if not u]
    cotangents = varying([ad.instantiate_zeros(ct) for ct in cotangents], known)
    fixed = len(leaves) - kernel.linear
    if kernel.transpose is not None and not any(unknown[:fixed]):
        # The function is linear in all the last leaves together, so a known one must be zero.
        pull = partial(_pull, jaxpr, [False] * fixed + [True] * kernel.linear, jaxpr.in_avals)
        found = native_call(pull, kernel.transpose, known[:fixed], cotangents)
        found = [None] * fixed + found
    else:
        found = iter(_pull(jaxpr, unknown, jaxpr.in_avals, known, cotangents))
        found = [next(found) if u else None for u in unknown]
    return [ct if u else None for ct, u in zip(found, unknown, strict=True)]


def _pull(jaxpr, unknown, avals, known, cotangents):
    """Return the cotangents of the unknown leaves."""

    def run(*some):
        known_now, some = iter(known), iter(some)
        return jaxpr_as_fun(jaxpr)(*[next(some) if u else next(known_now) for u in unknown])

    at = [aval for aval, u in zip(avals, unknown, strict=True) if u]
    return list(jax.linear_transpose(run, *at)(list(cotangents)))


def _batch(leaves, dims, *, jaxpr, kernel):
    results = jax.vmap(jaxpr_as_fun(jaxpr), dims)(*leaves)
    return results, [0] * len(results)


def _lower_for_cpu(ctx, *leaves, jaxpr, kernel):
    alone = kernel.run is not None and on_one_device(ctx.module_context)

    def run(*leaves):
        for given in (leaves, [*map(lifted, leaves)]):
            if alone and kernel.supports(*given):
                found = zip(kernel.run(*given), jaxpr.out_avals, strict=True)
                return [y.astype(aval.dtype) for y, aval in found]
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
    if mesh is not None:
        return mesh.size == 1 or set(where.manual_axes) == set(mesh.axis_names)
    return getattr(where, "num_devices", None) == 1
