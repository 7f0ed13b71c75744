"""`optimize_for_inference`: a trained net as the fastest function of its input."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any, NoReturn

import jax
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.nets import carried_entries
from jaxnet.rewriting.accelerate import accelerate
from jaxnet.rewriting.batches import at_once, examples_apart
from jaxnet.rewriting.folding import Folded
from jaxnet.rewriting.steps import Steps
from jaxnet.services.checks import a_function, all_native, is_traced
from jaxnet.services.jax_versions import varying_axes
from jaxnet.services.trees import PyTree, shapes_of

MOST_SHAPES = 4  # whose programs are kept, each with weights of its own
MOST_INSIDE = 2**20  # bytes of weights that are part of a program; more are arguments of each call
_LOCK = Lock()  # of the programs of all answers, which threads share


def optimize_for_inference(
    net: Layer | Callable[..., Any], params: Params | None = None, state: State | None = None
) -> "Answer":
    """Return a trained net as a function of its input, with its weights folded and packed.

    Its outputs equal those of `net.apply` in evaluation to within 1e-5 of the largest one. It works
    for every net and function, because it looks at what the program computes, not at the names of
    layers:

    - A norm with known statistics becomes part of the kernel and bias before it, and so does any
      other factor or term for each feature.
    - On a CPU, the kernels in C compute a bias, activation, bounds and residual together with the
      float32 convolution or matrix product before them, and read weights that are packed once.
    - On a CPU, steps of a few hundred or thousand numbers, as those of a policy or of one step of a
      GRU, run together in one call, since XLA takes longer to begin a step than to compute it.
    - Everything else, such as a net in 16 bits, stays as it is.

    The first call for each shape of the input compiles a program. The programs of the last four
    shapes are kept, each with its own weights, of up to five times the size of `params`, which are
    kept too. The function works inside `jit`, `vmap` and `grad`; its derivatives are those of
    `net.apply`. Inside `shard_map` with `check_vma`, it is `net.apply` itself.

    Args:
      net: Any layer; or a function of arrays, which may be a net of Flax, Equinox or Haiku with its
        weights. Then leave out `params` and `state`.
      params, state: Params and state of the net, not inside `jit`.

    Returns:
      A function x -> y; for a stream (`jn.stream`) a function (state, x) -> (y, state).

    Raises:
      TypeError: If `net` is not a layer or a function.
      ValueError: If only one of `params` and `state` is given, or `net` changes its state but is no
        stream. If params do not fit the net, the first call raises the errors of `net.apply`.

    Example:
      >>> net = jn.serial(jn.conv(8, 3), jn.batch_norm(), jax.nn.relu, jn.flatten(), jn.dense(3))
      >>> x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
      >>> params, state = net.init(jax.random.key(0), x)
      >>> answer = jn.optimize_for_inference(net, params, state)
      >>> y, _ = net.apply(params, state, x)
      >>> float(abs(answer(x) - y).max()) < 1e-5
      True
      >>> print(answer)
      optimize_for_inference(serial), compiled for 1 shape
      >>> stream = jn.stream(jn.gru(4))
      >>> params, state = stream.init(jax.random.key(0), jn.spec((1, 1, 3)))
      >>> step = jn.optimize_for_inference(stream, params, state)
      >>> y, state = step(state, jnp.ones((1, 1, 3)))
      >>> y.shape
      (1, 1, 4)
    """
    who = "optimize_for_inference"
    if not isinstance(net, Layer):
        a_function(who, "net", net, "arrays")
        if params is not None or state is not None:
            raise ValueError(
                f"{who}: a function has no params and state, but they were given; "
                "pass a layer, or a function of x alone that has its weights"
            )
        return Answer(net, getattr(net, "__name__", "function"))
    if params is None or state is None:
        missing = "params" if params is None else "state"
        raise ValueError(
            f"{who}: {missing} of {net.name} is missing; "
            f"write {who}(net, params, state), with an empty dict for a net without state"
        )
    if net.kind == "stream":
        return Answer(lambda state, x: net.apply(params, state, x), net.name, ("state", "x"))

    def evaluated(x):
        y, after = net.apply(params, state, x)
        _check_unchanged(net, params, state, after, x)
        return y

    return Answer(evaluated, net.name, ("x",))


def _check_unchanged(net: Layer, params: Params, state: State, after: State, x: PyTree) -> None:
    """Raise if a net changes its state in evaluation."""
    given = {id(leaf) for leaf in jax.tree.leaves(state)}
    if all(id(leaf) in given for leaf in jax.tree.leaves(after)):
        return
    changed = carried_entries(net, params, state, shapes_of(x))
    if changed:
        raise ValueError(
            f"optimize_for_inference: {net.name} changes its state ({', '.join(changed)}) in "
            "evaluation, which would be lost. Pass a function that returns it: "
            "optimize_for_inference(lambda state, x: net.apply(params, state, x))"
        )


def net_of(who: str, net: Any, params: Any, state: Any, x: Any) -> tuple[Any, Any, Any, Any]:
    """Return net, params, state and x of a call, which may be (answer, x) instead.

    Args:
      who: Name of the function that was called.
      net, params, state, x: Its first four arguments, None for missing ones.

    Raises:
      TypeError: If an answer is not followed by x alone.

    Example:
      >>> answer = Answer(jnp.sin, "sin")
      >>> _, params, state, x = net_of("export", answer, jnp.ones(2), None, None)
      >>> params, state, x.shape
      ({}, {}, (2,))
    """
    if not isinstance(net, Answer):
        return net, params, state, x
    if net.takes == ("state", "x"):
        raise TypeError(
            f"{who}: what jn.optimize_for_inference returned for the stream {net.name} has a state "
            f"beside x; write {who}(stream, params, state, x) for the stream itself"
        )
    if params is None or state is not None or x is not None:
        raise TypeError(
            f"{who}: write {who}(answer, x) for what jn.optimize_for_inference returned"
        )
    return net.in_jax, {}, {}, params


class Answer:
    """A function with folded weights, compiled for each shape of its arguments.

    Made by `optimize_for_inference`; prints the name of the net. Threads may share it.

    Args:
      function: Function of pytrees of arrays, which has its weights.
      name: Name of the net.
      takes: Names of its arguments; any number of them by default.

    Example:
      >>> double = Answer(lambda x: 2 * x, "double")
      >>> double(jnp.ones(2)).tolist()
      [2.0, 2.0]
    """

    def __init__(self, function: Callable, name: str, takes: tuple[str, ...] = ()):
        self.function = function
        self.name = name
        self.takes = takes
        self._programs: OrderedDict[Any, Callable] = OrderedDict()
        self._jitted: Callable | None = None  # of a small net

    def __call__(self, *args: PyTree) -> PyTree:
        """Return the function's result."""
        if self._jitted is not None:
            try:
                return self._jitted(*args)  # finds the program of these shapes sooner than Python
            except (TypeError, ValueError):  # such as for an array in another byte order
                pass
        return self._answered(*args)

    def _answered(self, *args: PyTree) -> PyTree:
        if self.takes and len(args) != len(self.takes):
            takes = ", ".join(self.takes)
            raise TypeError(
                f"optimize_for_inference: expected answer({takes}) for {self.name}; number of "
                f"arguments: {len(args)}"
            )
        args = all_native(args, "optimize_for_inference")
        leaves, structure = jax.tree.flatten(args)
        if is_traced(leaves) and any(map(varying_axes, leaves)):
            return accelerate(self.function)(*args)
        program = self._program(args, leaves, structure)
        if self._jitted is not None and not is_traced(leaves):
            return self._jitted(*args)
        return program(*leaves)

    def _program(self, args: tuple, leaves: list[Any], structure: Any) -> Callable:
        """Return the function of the leaves, which is made for the first ones of these shapes."""
        kinds = tuple(map(jax.typeof, leaves))
        key = structure, kinds, jax.config.jax_enable_x64, jax.default_backend()
        with _LOCK:
            if key in self._programs:
                self._programs.move_to_end(key)
                return self._programs[key]
        program, is_small = self._compiled(args)
        with _LOCK:
            self._programs[key] = program
            is_full = len(self._programs) > MOST_SHAPES
            if is_full:
                self._programs.popitem(last=False)
            if is_small and (is_full or self._jitted is None):  # a new one has no programs
                self._jitted = jax.jit(partial(Answer._answered, self))
        return program

    def _compiled(self, args: PyTree) -> tuple[Callable, bool]:
        """Return the function of the leaves of these arguments, and whether it has few weights."""
        specs = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=leaf.weak_type),
            jax.tree.map(jax.typeof, args),
        )
        in_c = jax.default_backend() == "cpu"
        (program, shapes), parts = self._part(specs) if in_c else (self._traced(specs), 1)
        folded = self._folded(program, in_c)
        run_part = _function_of(folded, jax.tree.structure(shapes))

        def run(known, *leaves):
            if parts == 1:
                return run_part(known, *leaves)
            divided = [leaf.reshape(parts, -1, *leaf.shape[1:]) for leaf in leaves]
            results = jax.lax.map(lambda some: run_part(known, *some), divided)
            return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), results)

        run = self._differentiable(run, program, jax.tree.structure(args))
        known = folded.constants, folded.others
        if sum(array.nbytes for array in jax.tree.leaves(known)) > MOST_INSIDE:
            return partial(jax.jit(run), known), False
        return jax.jit(partial(run, jax.tree.map(np.asarray, known))), True

    def _differentiable(self, run: Callable, program: Any, arguments: Any) -> Callable:
        """Return run(known, *leaves) with the derivatives of the function.

        Steps do not know rules of derivatives, such as that of a straight-through estimator.
        """
        if program.effects:  # JAX has no rules of derivatives with effects
            return run
        run = jax.custom_jvp(run)

        def function(_, *leaves):
            return accelerate(self.function)(*jax.tree.unflatten(arguments, leaves))

        run.defjvp(partial(jax.jvp, function))
        return run

    def _part(self, specs: tuple) -> tuple[tuple[Any, PyTree], int]:
        """Return the program of the examples that are computed at once, and how often it runs."""
        whole = self._traced(specs)
        sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(specs)}
        (batch,) = sizes.pop() if len(sizes) == 1 and () not in sizes else (1,)
        if batch < 2:
            return whole, 1
        steps = self._steps(whole)
        count = at_once(steps, batch)
        if count == batch:
            return whole, 1

        def traced(count):
            few = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), specs
            )
            return self._traced(few)

        try:
            more, part = traced(batch + 1), traced(count)
        except Exception:  # noqa: BLE001 - a function of this batch alone may raise anything
            return whole, 1
        if examples_apart(steps, self._steps(more), self._steps(part), (batch, count)):
            return part, batch // count
        return whole, 1

    def in_jax(self, *args: PyTree) -> PyTree:
        """Return the same result by operations of JAX alone, as an exported program has them."""
        program, shapes = self._traced(args)
        folded = self._folded(program, in_c=False)
        run = _function_of(folded, jax.tree.structure(shapes))
        run = self._differentiable(run, program, jax.tree.structure(args))
        constants = jax.lax.stop_gradient(folded.constants)  # so that a layer knows its purpose
        return run((constants, folded.others), *jax.tree.leaves(args))

    def _traced(self, specs: tuple) -> tuple[Any, PyTree]:
        """Return the program for arguments of these shapes, and the shapes of its result."""
        try:
            return jax.make_jaxpr(accelerate(self.function), return_shape=True)(*specs)
        except RuntimeError as error:
            self._refuse_deleted(error)

    def _steps(self, traced: tuple[Any, PyTree]) -> Steps:
        program, _ = traced
        return self._of_known(Steps, program)

    def _folded(self, program: Any, in_c: bool) -> Folded:
        return self._of_known(partial(Folded, in_c=in_c), program)

    def _of_known(self, make: Callable, program: Any) -> Any:
        """Return make(program), which computes with the weights."""
        try:
            with jax.ensure_compile_time_eval():
                return make(program)
        except jax.errors.TracerArrayConversionError:
            raise ValueError(
                f"optimize_for_inference: the weights of {self.name} are traced, since they are an "
                "argument of a function inside jit, grad or vmap. Make the answer outside of it"
            ) from None
        except RuntimeError as error:
            self._refuse_deleted(error)

    def _refuse_deleted(self, error: RuntimeError) -> NoReturn:
        """Raise an error that says what to write if arrays of the weights are gone."""
        if "deleted" not in str(error):
            raise error
        raise ValueError(
            f"optimize_for_inference: weights of {self.name} were deleted, perhaps as they were "
            "donated to a step of training; pass params and state that stay, such as those of the "
            "train_state that the step returned"
        ) from None

    def __copy__(self) -> "Answer":
        return self  # as of other functions

    def __deepcopy__(self, memo: dict) -> "Answer":
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"optimize_for_inference: the answer of {self.name} cannot be pickled, since it is a "
            "function; save params and state by jn.save and make it again where they were loaded, "
            "or write jn.interop.export.export(answer, x).save(path)"
        )

    def __str__(self) -> str:
        count = len(self._programs)
        shapes = "1 shape" if count == 1 else f"{count} shapes"
        return f"optimize_for_inference({self.name}), compiled for {shapes}"


def _function_of(folded: Folded, structure: Any) -> Callable:
    """Return a folded program as a function (its known arrays, *leaves) -> result."""

    def run(known, *leaves):
        constants, others = known
        return jax.tree.unflatten(structure, folded.run(constants, others, leaves))

    return run
