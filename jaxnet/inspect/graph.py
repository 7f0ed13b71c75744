"""The computational graph of a function, with the value and the gradient on every edge."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.checks import a_function, as_array
from jaxnet.services.jax_versions import bind
from jaxnet.services.jaxprs import compute
from jaxnet.services.table import Table, Tabular, short
from jaxnet.services.trees import flat, is_float

CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")
SIGNS: dict[str, str] = {
    "add": "+", "add_any": "+", "sub": "−", "mul": "×", "div": "÷", "neg": "×−1", "pow": "^",
    "logistic": "σ", "sqrt": "√", "square": "x²", "abs": "|x|", "dot_general": "@",
    "reduce_sum": "Σ", "reduce_max": "max", "reduce_min": "min", "select_n": "where",
    "convert_element_type": "cast", "broadcast_in_dim": "broadcast",
    "gt": ">", "lt": "<", "ge": "≥", "le": "≤", "eq": "=", "ne": "≠",
}  # fmt: skip
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Labels of an operation of a number and x, and of x and a number.
FORMS = {
    "add": ("+{n}", "+{n}"), "sub": ("{n}−x", "−{n}"), "mul": ("×{n}", "×{n}"),
    "div": ("{n}/x", "÷{n}"), "pow": ("{n}^x", "x^{n}"),
}  # fmt: skip
FORMS |= dict.fromkeys(("gt", "lt", "ge", "le", "eq", "ne"), ("{n} {sign} x", "x {sign} {n}"))


class Node(NamedTuple):
    """A node of the graph.

    Fields:
      label: Name of an input, or the usual sign of an operation: +, ×, max, σ, exp.
      kind: Role of the node. Constants are arrays; a number is part of the operation's label, as in
        ×2.
      value: Result of the node; a tuple for an operation with several results.
      gradient: Gradient of the output with respect to `value`, the sum over all outgoing edges;
        None for a value that is not a float.
    """

    label: str
    kind: Literal["input", "constant", "operation", "output"]
    value: Any
    gradient: Any


class Edge(NamedTuple):
    """One use of a value.

    Fields:
      source, target: Indices in `Graph.nodes`.
      value: Value passed forwards.
      gradient: Gradient passed backwards along this edge; None for a value that is not a float.
    """

    source: int
    target: int
    value: Any
    gradient: Any


@dataclass(repr=False)
class Graph(Tabular):
    """Nodes in the order of the computation, the output last; prints as a table."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def table(self) -> Table:
        """Return the printed table: one row per node, with the nodes that it depends on."""
        rows = []
        for i, node in enumerate(self.nodes):
            sources = ", ".join(str(edge.source) for edge in self.edges if edge.target == i)
            rows.append((str(i), node.label, sources, short(node.value), short(node.gradient)))
        return Table("Graph", ("", "node", "of", "value", "gradient"), rows)


def graph(f: Callable[..., Any], *args: Any) -> Graph:
    """Return the computational graph of f: every operation with its value and gradient.

    The function is traced to single operations, which run one by one: forwards for the values, then
    backwards by the chain rule. A value that is used twice has two edges, and its gradient is the
    sum of their gradients. Functions under `jit` are expanded; functions with a custom derivative,
    such as `jax.nn.relu`, are one node.

    Args:
      f: Function that returns one number. The names of its arguments label the inputs.
      args: Arrays, numbers or pytrees of them. Python integers count as floats.

    Returns:
      A `Graph`; draw it with `jn.viz.graph`.

    Raises:
      TypeError: If `f` is not a function, or `args` are not numbers or arrays.
      ValueError: If `f` does not return exactly one float.

    Example:
      >>> print(graph(lambda x, y, z: (x + y) * z, -2, 5, -4))
      Graph
         node  of    value  gradient
      ──────────────────────────────
      0  x           −2     −4
      1  y           5      −4
      2  z           −4     3
      3  +     0, 1  3      −4
      4  ×     3, 2  −12    1
      5  f     4     −12    1

    Reference: Rumelhart, Hinton and Williams 1986, "Learning representations by back-propagating
    errors".
    """
    a_function("graph", "f", f, f"({', '.join('x' * len(args))})")
    leaves, structure = jax.tree.flatten(args)
    for i, leaf in enumerate(leaves):
        if not isinstance(leaf, int | float | complex):
            leaves[i] = as_array("graph", f"argument {i}", leaf, dtype="booleans or numbers")
    floats = [float(leaf) if type(leaf) is int else leaf for leaf in leaves]
    args = structure.unflatten(floats)
    closed = jax.make_jaxpr(f)(*args)
    shapes: Any = closed.out_avals
    if len(shapes) != 1 or shapes[0].shape != () or not is_float(shapes[0]):
        got = ", ".join(str(s) for s in shapes) or "nothing"
        raise ValueError(
            f"graph: f must return one float, got {got}; return its mean, or one entry"
        )
    tape = _Tape()
    names = _names(f, args)
    wires = []
    for name, leaf in zip(names, floats, strict=True):
        wires.append(tape.add(name, "input", jnp.asarray(leaf)))
    (result,) = tape.run(closed.jaxpr, closed.consts, wires)
    output = tape.wire(result)
    name = getattr(f, "__name__", "f")
    tape.add("f" if name == "<lambda>" else name, "output", output.value, [output])
    return tape.backward()


class _Wire(NamedTuple):
    """A result of a node."""

    node: int
    slot: int
    value: Any


class _Step(NamedTuple):
    """A node of the forward pass: its sources, its values and its vector-Jacobian product."""

    label: str
    kind: Any
    sources: list[_Wire]
    values: tuple[Any, ...]
    pull: Callable[[list], list]  # gradients of the values -> gradients of the sources


class _Tape:
    """The steps computed so far."""

    def __init__(self):
        self.steps: list[_Step] = []

    def add(self, label: str, kind: str, value: Any, sources: list[_Wire] | None = None) -> _Wire:
        """Add a node with one value and the identity as its function."""
        self.steps.append(_Step(label, kind, sources or [], (value,), lambda gradients: gradients))
        return _Wire(len(self.steps) - 1, 0, value)

    def wire(self, x: Any) -> _Wire:
        """Return x itself, or a node for a constant."""
        if isinstance(x, _Wire):
            return x
        return self.add(short(x), "constant", jnp.asarray(x))

    def number(self, x: Any) -> Any:
        """Return a number itself, or a node for an array."""
        if np.ndim(x) == 0:
            return x
        return self.add("constant", "constant", x)

    def run(self, jaxpr: Any, consts: Any, args: list[Any]) -> list[Any]:
        """Run the equations; arguments and results are wires or plain numbers."""
        environment = dict(zip(jaxpr.invars, args, strict=True))
        environment |= zip(jaxpr.constvars, map(self.number, consts), strict=True)
        return compute(jaxpr.eqns, environment, jaxpr.outvars, self._equation)

    def _equation(self, eqn: Any, args: list[Any]) -> list[Any]:
        if eqn.primitive.name in CALLS and "jaxpr" in eqn.params:
            inside = eqn.params["jaxpr"]
            jaxpr = getattr(inside, "jaxpr", inside)
            consts = getattr(inside, "consts", ())
            return self.run(jaxpr, consts, args)
        if _is_identity(eqn):
            return args
        sources = [a for a in args if isinstance(a, _Wire)]
        only_numbers = not sources and all(np.ndim(a) == 0 for a in args)
        if only_numbers and len(eqn.outvars) == 1:
            (result,) = bind(eqn, args)
            return [self.number(result)]
        moving = [i for i, a in enumerate(args) if isinstance(a, _Wire) and is_float(a.value)]

        def function(*moved):
            full = [a.value if isinstance(a, _Wire) else a for a in args]
            for i, value in zip(moving, moved, strict=True):
                full[i] = value
            return tuple(bind(eqn, full))

        values, vjp = jax.vjp(function, *[args[i].value for i in moving])

        def pull(gradients):
            cotangents = []
            for gradient, value in zip(gradients, values, strict=True):
                if gradient is None:
                    gradient = np.zeros(np.shape(value), jax.dtypes.float0)
                cotangents.append(gradient)
            back = dict(zip(moving, vjp(tuple(cotangents)), strict=True))
            return [back.get(i) for i, a in enumerate(args) if isinstance(a, _Wire)]

        self.steps.append(_Step(_label(eqn, args), "operation", sources, values, pull))
        return [_Wire(len(self.steps) - 1, slot, value) for slot, value in enumerate(values)]

    def backward(self) -> Graph:
        """Return the graph, with gradients computed from the last node to the first."""
        gradients = []
        for step in self.steps:
            gradients.append([jnp.zeros_like(v) if is_float(v) else None for v in step.values])
        gradients[-1] = [jnp.ones_like(self.steps[-1].values[0])]
        edges = []
        for i in reversed(range(len(self.steps))):
            step = self.steps[i]
            if not step.sources:
                continue
            pulled = list(zip(step.sources, step.pull(gradients[i]), strict=True))
            for wire, gradient in reversed(pulled):
                edges.append(Edge(wire.node, i, wire.value, gradient))
            for wire, gradient in pulled:  # gradients of several uses add up
                if gradient is not None:
                    gradients[wire.node][wire.slot] += gradient
        nodes = []
        for step, of_values in zip(self.steps, gradients, strict=True):
            nodes.append(Node(step.label, step.kind, _one(step.values), _one(of_values)))
        return Graph(tuple(nodes), tuple(reversed(edges)))


def _is_identity(eqn: Any) -> bool:
    """Return whether this is a cast that keeps the dtype, which JAX uses to mark weak types."""
    copies = eqn.primitive.name in ("convert_element_type", "copy", "copy_p")
    return copies and eqn.invars[0].aval.dtype == eqn.outvars[0].aval.dtype


def _label(eqn: Any, args: list[Any]) -> str:
    """Return the sign of an operation, with a number among its arguments as part of it."""
    name: str = eqn.primitive.name
    if name.startswith("custom_"):
        inside = eqn.params.get("call_jaxpr")
        info = getattr(getattr(inside, "jaxpr", inside), "debug_info", None)
        return getattr(info, "func_name", None) or name
    if name == "integer_pow":
        return "x" + str(eqn.params["y"]).translate(RAISED)
    sign = SIGNS.get(name, name)
    if len(args) != 2 or sum(isinstance(a, _Wire) for a in args) != 1:
        return sign
    place = 1 if isinstance(args[0], _Wire) else 0  # of the number
    any_other = ("{sign}({n}, x)", "{sign}({n}, x)")
    form = FORMS.get(name, any_other)[place]
    return form.format(n=short(args[place]), sign=sign).replace("+−", "−")


def _names(f: Callable, args: tuple) -> list[str]:
    """Return one name per leaf: the argument's name and the path in it."""
    words: list[str] = []
    try:
        for p in inspect.signature(f).parameters.values():
            if p.kind is p.VAR_POSITIONAL:
                rest = len(args) - len(words)
                words += [f"{p.name}{i}" for i in range(rest)]
            else:
                words.append(p.name)
    except (TypeError, ValueError):  # a builtin without a signature
        words = [f"x{i}" for i in range(len(args))]
    names = []
    for word, arg in zip(words, args, strict=False):  # a parameter with a default may have none
        names += [path for path, _ in flat({word: arg}, None)]
    return names


def _one(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else tuple(values)
