"""The cost of a network: floating point operations, and the memory of a training step."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnet.core import Layer, as_layer
from jaxnet.inspect.activations import one_float
from jaxnet.services.checks import a_function, all_native, check_input, check_type, within
from jaxnet.services.jaxprs import jaxprs_among
from jaxnet.services.table import size_of
from jaxnet.services.trees import PyTree, key_spec
from jaxnet.training.trainer import trainer


def flops(function: Callable[..., Any], *args: PyTree) -> int:
    """Count the floating point operations of a function's matrix products and convolutions.

    It counts as the literature does: two per multiply-add, none for sums, activations and
    normalization, independent of the algorithm that XLA chooses. The operations are read from the
    function's jaxpr. A scan counts every iteration, a `while_loop` one, and a `cond` its most
    expensive branch.

    Args:
      function: Function of arrays.
      args: Arrays or shapes; nothing is computed.

    Returns:
      The number of operations.

    Raises:
      TypeError: If `function` is not a function, or `args` are not arrays or shapes.

    Example:
      >>> flops(lambda a, b: a @ b, jn.spec((3, 5)), jn.spec((5, 7)))  # 2 * 3 * 5 * 7
      210
    """
    a_function("flops", "function", function, "arrays")
    for leaf in jax.tree.leaves(args):
        if not isinstance(leaf, int | float | complex):
            check_input("flops", leaf)
    program = jax.make_jaxpr(function)(*all_native(args, "flops"))
    return _operations(program.jaxpr)


def _operations(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        out = _outputs(equation)
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            sizes = equation.invars[0].aval.shape
            total += 2 * out * math.prod(sizes[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * out * math.prod(kernel) // max(1, features)
        elif name == "convolution":  # the primitive of jaxnet
            total += 2 * _products(equation)
        elif name == "cond":
            total += max(_operations(branch.jaxpr) for branch in params["branches"])
        else:
            iterations = params.get("length", 1) if name == "scan" else 1
            inside = sum(_operations(each) for each in jaxprs_among(params.values()))
            total += iterations * inside
    return total


def _outputs(equation: Any) -> int:
    """Return the size of the first output."""
    if not equation.outvars:
        return 0
    shape = getattr(equation.outvars[0].aval, "shape", ())
    return math.prod(shape)


def _products(equation: Any) -> int:
    """Return the multiplications of a convolution or a gradient of it: the same three arrays."""
    wanted = equation.params["wanted"]
    form = equation.params["form"]
    operands = {"y": "xw", "x": "wy", "w": "xy"}[wanted]
    shapes = {
        name: variable.aval.shape for name, variable in zip(operands, equation.invars, strict=False)
    }
    shapes[wanted] = equation.outvars[0].aval.shape
    w = shapes["w"]  # (nets, *window, inputs, features)
    if max(form.input_dilation) > 1:  # products with the zeros between the inputs do not count
        positions = math.prod(w[1:-2])
        return math.prod(shapes["x"]) * positions * w[-1] // form.groups
    return math.prod(shapes["y"]) * math.prod(w[1:-1])


class MemoryEstimate(NamedTuple):
    """The memory of a training step; prints as a sentence, and is true if the step fits.

    Fields:
      memory: Available memory in bytes.
      needed: Peak of one training step, in bytes, `held` + `temporary`.
      held: Bytes of parameters, state, optimizer state and the batch.
      temporary: Bytes of activations kept for the backward pass, gradients and scratch space.
      backend: Backend for which the step was compiled.
    """

    memory: int
    needed: int
    held: int
    temporary: int
    backend: str

    def __bool__(self) -> bool:
        return self.needed <= self.memory

    def __str__(self) -> str:
        return (
            f"{'fits' if self else 'does not fit'}: a training step needs {size_of(self.needed)} "
            f"of {size_of(self.memory)} ({size_of(self.held)} held, {size_of(self.temporary)} "
            f"temporary), as compiled for {self.backend}"
        )

    __repr__ = __str__


def memory(
    net: Layer,
    x: PyTree,
    memory: float,
    *,
    optimizer: Any = None,
    loss: Callable[[PyTree], jax.Array] | None = None,
) -> MemoryEstimate:
    """Estimate the memory of a training step on batches like x, without allocating it.

    The result says whether the step fits. One step (forward, backward, update, with the old
    parameters donated) is compiled for shapes alone, and the compiler's memory analysis is read. It
    holds for the backend that compiles it: on a CPU it only estimates the memory of a GPU, whose
    array layouts and scratch space differ, and whose libraries take a few hundred megabytes more.

    Args:
      net: Network, or an objective with a batch as x.
      x: Input, or its shape.
      memory: Available memory in bytes; 15e9 for a T4.
      optimizer: Optimizer of optax, for the memory of its state; plain gradient descent by default.
      loss: Function that maps the output to a number; the mean square by default.

    Returns:
      A `MemoryEstimate`, which is true if the step fits. It has the bytes by kind and prints as a
      sentence.

    Raises:
      TypeError: If `net` is not a layer, `optimizer` not an optimizer of optax or `loss` not a
        function, or if `loss` does not return one float.
      ValueError: If `memory` is out of range.
      NotImplementedError: If the backend has no memory analysis.

    Example:
      >>> for available in (15e9, 4e6):
      ...     print(memory(jn.dense(1000), jn.spec((32, 1000)), available))
      fits: a training step needs ... MB of 15.0 GB (4.1 MB held, ...
      does not fit: a training step needs ... MB of 4.0 MB (4.1 MB held, ...
    """
    net = as_layer(net, "memory", "net")
    x = check_input("memory", x)
    is_integer = isinstance(memory, int) and not isinstance(memory, bool)
    # A float, since 16 * 2**30 does not fit int32.
    bytes_ = float(memory) if is_integer else memory
    within("memory", "memory", bytes_, "[0, inf)")
    words = "an optax optimizer, such as optax.adam(1e-3)"
    check_type("memory", "optimizer", optimizer, optax.GradientTransformation | None, words)
    loss = _mean_square if loss is None else loss
    a_function("memory", "loss", loss, "(output)")

    def objective(params, state, x, *, key=None, train=False):
        y, after = net.apply(params, state, x, key=key, train=train)
        return (one_float("memory", loss(y)), {}), after

    layer = Layer(net.init, objective, net.name)
    learner = trainer(layer, optimizer or optax.sgd(1.0))
    start = jax.eval_shape(learner.init, key_spec(), x)
    compiled = jax.jit(learner.update, donate_argnums=0).lower(start, x).compile()
    plan = compiled.memory_analysis()
    if plan is None:
        raise NotImplementedError(
            f"memory: memory analysis is not available on the {jax.default_backend().upper()} "
            "backend"
        )
    held = plan.argument_size_in_bytes
    extra = plan.output_size_in_bytes - plan.alias_size_in_bytes + plan.temp_size_in_bytes
    return MemoryEstimate(int(memory), held + extra, held, extra, jax.default_backend())


def _mean_square(y: PyTree) -> jax.Array:
    floats = [a for a in jax.tree.leaves(y) if jnp.issubdtype(a.dtype, jnp.floating)]
    return sum((jnp.square(a).mean() for a in floats), jnp.zeros(()))
