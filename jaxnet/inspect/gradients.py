"""Numerical gradients, and a check of a layer's gradients against them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxnet.core import Layer, as_layer, child_key
from jaxnet.inspect.activations import floats
from jaxnet.services import checks
from jaxnet.services.jax_versions import enable_x64
from jaxnet.services.table import Table, Tabular
from jaxnet.services.trees import PyTree, describe, flat, is_float, with_floats

STEP = 1e-6  # near the cube root of float64's precision, the best step for central differences


def numerical_gradient(
    f: Callable[[Any], Any],
    x: Any,
    h: float = STEP,
    method: str = "central",
    *,
    dtype: Any = np.float64,
) -> np.ndarray:
    """Return the gradient of f at x by finite differences, one coordinate at a time, in float64.

    The error of the forward difference (f(x + h) - f(x)) / h is about h f''(x) / 2, the error of
    the central difference (f(x + h) - f(x - h)) / 2h about h^2 f'''(x) / 6. For small h rounding
    dominates, with an error of about 1e-16 |f(x)| / h; in float32 it is 6e-8 |f(x)| / h, so h =
    1e-6 leaves hardly a digit.

    Args:
      f: Function that maps an array to a number; it gets x in the given dtype.
      x: Array of any shape.
      h: Step size, above 0.
      method: Kind of the difference, "central" or "forward".
      dtype: Dtype of the computation: float64, or float32 to study its rounding.

    Returns:
      The gradient, in this dtype, with the shape of x.

    Raises:
      TypeError: If `f` is not a function or does not return a number, or `x` is not an array.
      ValueError: If `method` or `dtype` is unknown, `h` is not above 0, or `f` has more than one
        output.

    Example:
      The gradient of a neuron, tanh(w.x), with respect to its weights:

      >>> x = np.array([0.5, -0.2])
      >>> numerical_gradient(lambda w: jnp.tanh(w @ x), [-0.8, 0.3]).round(4).tolist()
      [0.4075, -0.163]
      >>> ((1 - np.tanh(-0.46) ** 2) * x).round(4).tolist()
      [0.4075, -0.163]
    """
    checks.a_function("numerical_gradient", "f", f, "(x)")
    x = checks.on_host("numerical_gradient", "x", x)
    checks.one_of("numerical_gradient", "method", method, ["central", "forward"])
    checks.check_dtype("numerical_gradient", dtype)
    precision = np.dtype(dtype)
    if precision not in (np.float64, np.float32):
        raise ValueError(f"numerical_gradient: dtype must be float64 or float32, got {precision}")
    checks.within("numerical_gradient", "h", h, "(0, inf)")
    with enable_x64(precision == np.float64):
        x, h = np.array(x, precision), precision.type(h)

        def value(at):
            try:
                y = f(at)
            except Exception as error:
                error.add_note(f"numerical_gradient: in f(x), for x {describe(at)}")
                raise
            y = checks.on_host("numerical_gradient", "the output of f", y).astype(precision)
            if y.size != 1:
                raise ValueError(
                    f"numerical_gradient: f must return one number, got {y.shape}. "
                    "Take the mean or the sum of its output"
                )
            return y.reshape(())

        gradient = np.zeros_like(x)
        for place in np.ndindex(x.shape):
            up, down = x.copy(), x.copy()
            up[place] += h
            down[place] -= h
            low, width = (down, 2 * h) if method == "central" else (x, h)
            gradient[place] = (value(up) - value(low)) / width
        return gradient


class Entry(NamedTuple):
    """The check of one array of the parameters or of the input.

    Fields:
      path: Path of the array, such as "params/dense/kernel" or "input".
      size: Size of the array.
      checked: Number of coordinates compared.
      kinks: Number of coordinates skipped because the function has a kink there.
      error: Largest |numeric - automatic| / max(|numeric|, |automatic|, floor); with this floor
        the error of rounding equals the tolerance.
      place: Index of this error in the array.
      numeric, automatic: The two derivatives at this index.
    """

    path: str
    size: int
    checked: int
    kinks: int
    error: float
    place: tuple[int, ...]
    numeric: float
    automatic: float


@dataclass(repr=False)
class GradientCheck(Tabular):
    """A table of entries; prints in a terminal and in a notebook.

    Fields:
      name: Name of the layer.
      entries: List of one `Entry` per array.
      tolerance: Largest relative error allowed.
    """

    name: str
    entries: list[Entry]
    tolerance: float

    def table(self) -> Table:
        size = sum(entry.size for entry in self.entries)
        checked = sum(entry.checked for entry in self.entries)
        kinks = sum(entry.kinks for entry in self.entries)
        worst = max((entry.error for entry in self.entries), default=0.0)
        return Table(
            f"Gradients of {self.name}, numeric against automatic",
            ("entry", "size", "checked", "kinks", "largest error"),
            [(*e[:3], e.kinks or None, f"{e.error:.1e}") for e in self.entries],
            [("total", size, checked, kinks, f"{worst:.1e}")],
            [f"relative errors, allowed {self.tolerance:.0e}"],
        )


def check_gradients(
    layer: Layer,
    x: PyTree,
    *,
    key: jax.Array | None = None,
    train: bool = False,
    samples: int = 20,
    tolerance: float = 1e-5,
) -> GradientCheck:
    """Compare the gradients of a layer with central differences, in float64.

    The layer is initialized and run in float64, even if the program runs in float32. Noise is added
    to its initial parameters, since a scale of 0 or equal biases would hide errors. A coordinate at
    which the two one-sided differences disagree has a kink (ReLU at 0, a tie in max pooling) and no
    gradient; it is skipped and counted. Complex arrays have two entries, `real` and `imag`.

    Args:
      layer: Layer or objective that computes in the dtype of its input. A layer that rounds or
        samples by design has no gradient to compare; check `cast` layers without the cast. For an
        objective, the loss is checked, not the metrics.
      x: Input or batch; for a `jn.spec`, floats are drawn and integers are 0.
      key: Key that draws the parameters and is passed to the layer; `jax.random.key(0)` by default.
      train: Mode of the layer.
      samples: Largest number of coordinates per array, drawn at random.
      tolerance: Largest |numeric - automatic| / max(|numeric|, |automatic|), apart from rounding.

    Returns:
      A `GradientCheck`, which prints.

    Raises:
      TypeError, ValueError: If an argument has the wrong type or is out of range.
      AssertionError: If gradients disagree; the message has the entries and both values.
      TypeError: If the layer does not keep float64.

    Example:
      >>> check_gradients(jn.dense(3), jn.spec((4, 2)))
      Gradients of dense, numeric against automatic
      entry          size  checked  kinks  largest error
      ──────────────────────────────────────────────────
      params/bias       3        3               ...
      params/kernel     6        6               ...
      input             8        8               ...
      ──────────────────────────────────────────────────
      total            17       17      0        ...
      relative errors, allowed 1e-05
    """
    layer = as_layer(layer, "check_gradients", "layer")
    if not all(leaf.size for leaf in jax.tree.leaves(checks.check_input("check_gradients", x))):
        raise ValueError(f"check_gradients: the input must not be empty, got {describe(x)}")
    checks.check_options("check_gradients", train=train)
    checks.at_least("check_gradients", "samples", samples)
    checks.within("check_gradients", "tolerance", tolerance, "(0, inf)")
    key = jax.random.key(0) if key is None else key
    checks.check_key(key, "check_gradients")
    with enable_x64(True):
        random = np.random.default_rng(0)
        x = jax.tree.map(lambda leaf: _wide(leaf, random), x)
        entries = _entries(layer, x, key, train, samples, tolerance, random)
    wrong = _disagreements(entries, tolerance)
    if wrong:
        raise AssertionError(
            f"check_gradients: {layer.name} for an input of {describe(x)}, allowed error "
            f"{tolerance:.0e}:\n" + "\n".join(wrong)
        )
    return GradientCheck(layer.name, entries, tolerance)


def _entries(layer, x, key, train, samples, tolerance, random) -> list[Entry]:
    """Return one row per array of params and input."""
    params, state = layer.init(key, x)
    params = jax.tree.map(lambda a: a + 0.1 * _normal(random, a) if is_float(a) else a, params)
    named, rebuild = _floats(params, x)
    run_key = child_key(key, "check_gradients")

    def outputs(arrays):
        params, x = rebuild(arrays)
        y, _ = layer.apply(params, state, x, key=run_key, train=train)
        if isinstance(y, tuple) and len(y) == 2 and isinstance(y[1], dict):
            y, _ = y  # an objective returns the loss and the metrics
        return floats(jax.tree.map(_parts, y))

    arrays = list(named.values())
    weights = _weights(layer, outputs, arrays, random)
    values, split = ravel_pytree(arrays)

    @jax.jit
    def weighted_sum(values):
        products = zip(weights, outputs(split(values)), strict=True)
        return sum(jnp.sum(weight * a) for weight, a in products)

    @jax.jit
    def moved_sum(values, place, by):  # one program for all coordinates of all arrays
        return weighted_sum(values.at[place].add(by))

    def moved_sums(places, by):
        return np.array([float(moved_sum(values, place, by)) for place in places])

    center = float(weighted_sum(values))
    gradient = np.asarray(jax.jit(jax.grad(weighted_sum))(values))
    entries = []
    first = 0
    for path, value in named.items():
        places = np.sort(random.permutation(value.size)[:samples])
        at = first + places
        heights = (moved_sums(at, -STEP), center, moved_sums(at, STEP))
        entries.append(compare(path, value, places, heights, gradient[at], tolerance))
        first += value.size
    return entries


def _weights(layer, outputs, arrays, random) -> list[np.ndarray]:
    """Return random weights of all outputs; raise unless all numbers are float64."""
    shapes = jax.eval_shape(outputs, arrays)
    narrow = {str(a.dtype) for a in (*shapes, *arrays) if a.dtype != jnp.float64}
    if narrow or not shapes:
        raise TypeError(
            f"check_gradients: {layer.name} must return float64 for float64, got "
            f"{', '.join(sorted(narrow)) or 'no floats'}; check a layer with a cast without it"
        )
    return [random.normal(size=a.shape) for a in shapes]


def _disagreements(entries: list[Entry], tolerance: float) -> list[str]:
    """Return a line for each array with a wrong gradient, then for each without any gradient."""
    wrong = []
    for entry in entries:
        if not entry.error <= tolerance:  # also true for NaN
            place = ", ".join(str(n) for n in entry.place)
            wrong.append(
                f"  {entry.path}[{place}]: numeric {entry.numeric:.6g}, "
                f"automatic {entry.automatic:.6g}, relative error {entry.error:.1e}"
            )
    for entry in entries:
        if entry.kinks and not entry.checked:
            wrong.append(f"  {entry.path}: all {entry.kinks} sampled coordinates are kinks")
    return wrong


def compare(path, value, places, heights, automatic, tolerance) -> Entry:
    """Return one row, from the values of the function below, at and above each index."""
    if not len(places):
        return Entry(path, value.size, 0, 0, 0.0, (), 0.0, 0.0)
    down, center, up = heights
    right = (up - center) / STEP
    left = (center - down) / STEP
    numeric = (up - down) / (2 * STEP)
    noise = 100 * np.finfo(np.float64).eps * max(1.0, abs(center)) / STEP
    steepest = np.maximum(abs(right), abs(left))
    kinks = abs(right - left) > 10 * tolerance * steepest + 2 * noise
    size = np.maximum(abs(numeric), abs(automatic))
    size = np.maximum(size, noise / tolerance)
    error = np.where(kinks, 0.0, abs(numeric - automatic) / size)

    worst = int(np.nan_to_num(error, nan=np.inf).argmax())
    place = tuple(int(n) for n in np.unravel_index(places[worst], value.shape))
    return Entry(
        path,
        value.size,
        checked=len(places) - int(kinks.sum()),
        kinks=int(kinks.sum()),
        error=float(error[worst]),
        place=place,
        numeric=float(numeric[worst]),
        automatic=float(automatic[worst]),
    )


class _Complex(NamedTuple):
    real: jax.Array
    imag: jax.Array


def _parts(leaf: jax.Array) -> Any:
    """Return the two parts of complex numbers, each of which has derivatives."""
    return _Complex(leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else leaf


def _parts_of_float(leaf: Any) -> Any:
    return _parts(jnp.asarray(leaf)) if is_float(leaf) else None


def _as_complex(parts: Any) -> Any:
    return jax.lax.complex(*parts) if isinstance(parts, _Complex) else parts


def _floats(params: PyTree, x: PyTree) -> tuple[dict[str, Any], Callable[[list], tuple]]:
    """Return the arrays that have gradients, by path, and a function that rebuilds the trees."""
    tree = (params, x)
    chosen_params, chosen_x = chosen = jax.tree.map(_parts_of_float, tree)
    named = dict(flat({"params": chosen_params}, None) + flat({"input": chosen_x}, None))
    structure = jax.tree.structure(chosen)

    def rebuild(values):
        parts = structure.unflatten(values)
        floats = jax.tree.map(_as_complex, parts, is_leaf=lambda part: isinstance(part, _Complex))
        return with_floats(tree, floats)

    return named, rebuild


def _wide(leaf: Any, random: np.random.Generator) -> Any:
    """Return the input in float64, drawn at random for a spec."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return _normal(random, leaf)
    if not is_float(leaf):
        return leaf
    return np.asarray(leaf, np.promote_types(leaf.dtype, np.float64))


def _normal(random: np.random.Generator, leaf: Any) -> np.ndarray:
    """Return standard normal numbers of 64 bits a part; zeros for a leaf of integers."""
    if not is_float(leaf):
        return np.zeros(leaf.shape, leaf.dtype)
    real = random.normal(size=leaf.shape)
    if not jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return real
    return real + 1j * random.normal(size=leaf.shape)
