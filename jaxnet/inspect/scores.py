"""A score of a network, as a function of one array in it: its input, or a layer's output."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.inspect.activations import run
from jaxnet.nets import check_net
from jaxnet.ops.precision import at_least_float32
from jaxnet.services.checks import as_array, check_type, on_host
from jaxnet.services.jax_versions import trace_state
from jaxnet.services.trees import PyTree, compiled_for, describe, flat, shapes_of


class Place(NamedTuple):
    """Where a score is read, and where it is attributed to.

    Fields:
      path: Path of the layer whose output holds the score; None is the network.
      at: Path of the layer whose output the score is attributed to; None is the input.
      transforms: Whether the paths are those inside `jn.cast` and other transforms.
    """

    path: str | None = None
    at: str | None = None
    transforms: bool = False


class Chosen(NamedTuple):
    """Checked arguments of an attribution.

    Fields:
      net, params, state, x: Network and its input, with JAX arrays.
      mask: Booleans in the shape of the output, or 1 for the batch: which entries are in the score.
      place: Where the score is read and attributed to.
      output: Shape and dtype of the output with the score.
      array: Shape and dtype of the array that the score is attributed to.
    """

    net: Layer
    params: Params
    state: State
    x: PyTree
    mask: jax.Array
    place: Place
    output: Any
    array: Any

    @property
    def arguments(self) -> tuple[Layer, Params, State, PyTree, jax.Array, Place]:
        """The arguments of a compiled function of a score, of which the last is static."""
        return self.net, self.params, self.state, self.x, self.mask, self.place


def choose(
    who: str,
    net: Layer,
    params: Params,
    state: State,
    x: Any,
    target: Any,
    path: str | None,
    at: str | None,
) -> Chosen:
    """Check the arguments of an attribution.

    Example:
      >>> net = jn.serial(lambda x: x[:, ::2])
      >>> x = jnp.array([[3.0, 4.0, 5.0]])
      >>> choose("who", net, {}, {}, x, None, None, None).mask.tolist()
      [[False, True]]
    """
    net, params, state = check_net(who, net, params, state, x)
    check_type(who, "path", path, str | None, "the name of a layer inside")
    check_type(who, "at", at, str | None, "the name of a layer inside")
    x = input_arrays(who, "x", x)
    place, outputs = _found(who, net, params, state, x, path, at)
    array = _array_of(who, net, params, state, x, place.at, outputs.get(at or ""))
    output = outputs[path or ""]
    where = f"{net.name}/{path}" if path else net.name
    if not hasattr(output, "shape"):
        raise ValueError(
            f"{who}: the output of {where} must be one array, got a {type(output).__name__}; "
            "choose a layer with path=..."
        )
    if isinstance(target, tuple):
        if not all(isinstance(index, slice | int | np.integer) for index in target):
            raise TypeError(
                f"{who}: target must be an index of integers and slices, got {target!r:.60}"
            )
        mask = marked(f"{who}: target {target}", where, output.shape[1:], target)
        mask = jnp.asarray(mask)[None]
    elif len(output.shape) != 2:
        raise ValueError(
            f"{who}: the output of {where} has shape {output.shape}, not (batch, classes); choose "
            "a unit by its index in the output of one example, such as target=(4, 5, 2)"
        )
    elif target is None:
        mask = _best(net, params, state, x, place)
    else:
        mask = _of_classes(who, where, target, *output.shape)
    return Chosen(net, params, state, x, mask, place, output, array)


def input_arrays(who: str, what: str, x: Any) -> PyTree:
    """Return an input with its arrays as JAX arrays; raise if one is empty."""
    leaves, structure = jax.tree.flatten(x)
    is_one = jax.tree_util.treedef_is_leaf(structure)
    names = [what] if is_one else [f"{what}/{name}" for name, _ in flat(x, None)]
    form = "(batch, ...)" if is_one else "(...)"
    arrays = [
        as_array(who, name, leaf, form, "booleans or numbers", empty=False)
        for name, leaf in zip(names, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, arrays)


def _found(
    who: str, net: Layer, params: Params, state: State, x: PyTree, path: str | None, at: str | None
) -> tuple[Place, dict[str, Any]]:
    """Return the place of two paths, and the shapes of all outputs in the order of the calls."""
    wanted = [name for name in (at, path) if name]
    transforms = False
    outputs = _outputs(net, params, state, x, transforms)
    if any(name not in outputs for name in wanted):
        transforms = True  # a path inside `jn.cast` exists only there
        outputs = _outputs(net, params, state, x, transforms)
    for name in wanted:
        if name not in outputs:
            raise ValueError(f"{who}: {_no_layer(net, name, outputs)}")
        if outputs[name] is None:
            raise ValueError(
                f"{who}: {net.name}/{name} runs inside jn.repeat, jax.lax.scan or the like, so it "
                f"has no single output; layers outside: {_listed(outputs)}"
            )
    order = list(outputs)
    if at and path and order.index(at) > order.index(path):
        raise ValueError(
            f"{who}: {net.name}/{path} ends before {net.name}/{at}, so its score does not depend "
            "on it; at= must be a layer that runs before the layer of path="
        )
    return Place(path or None, at or None, transforms), outputs


def _outputs(net, params, state, x, transforms: bool) -> dict[str, Any]:
    """Return the shapes of the outputs of all calls, and None for a call inside a loop."""
    outputs: dict[str, Any] = {}

    def look(params, state, x):
        home = trace_state()

        def note(name, x, y):
            outputs[name] = shapes_of(y) if trace_state() == home else None
            return y

        return run(net, params, state, x, None, False, note, transforms=transforms)[0]

    y = jax.eval_shape(look, params, state, x)
    outputs[""] = y
    return outputs


def _no_layer(net: Layer, path: str, outputs: dict[str, Any]) -> str:
    """Return the words for a path that does not exist."""
    return f"{net.name} has no layer {path!r}; layers inside: {_listed(outputs)}"


def _listed(outputs: dict[str, Any]) -> str:
    there = [name for name, output in outputs.items() if name and output is not None]
    return ", ".join(there) or "none, it is a single layer"


def _array_of(who: str, net: Layer, params, state, x: PyTree, at: str | None, output: Any) -> Any:
    """Return shape and dtype of the array that the score is attributed to."""
    tree = shapes_of(x) if at is None else output
    floats = _floats(tree)
    if len(floats) == 1:
        return jax.tree.leaves(tree)[floats[0]]
    outputs = _outputs(net, params, state, x, True)
    fitting = [name for name, y in outputs.items() if name and len(_floats(y)) == 1]
    layers = ", ".join(fitting) or "none, it is a single layer"
    holds = f"{len(floats)} arrays of floats" if floats else "no array of floats"
    if at is not None:
        raise ValueError(
            f"{who}: the output of {net.name}/{at}, {describe(tree)}, holds {holds}; at= must be a "
            f"layer with one: {layers}"
        )
    if any(leaf.dtype == jnp.uint8 for leaf in jax.tree.leaves(tree)) and not floats:
        raise TypeError(
            f"{who}: x must have a float dtype, got uint8; for images of bytes pass x / 255"
        )
    example = f'at="{fitting[0]}"' if fitting else "at=, the path of a layer,"
    raise TypeError(
        f"{who}: the input, {describe(tree)}, holds {holds}, but the score is attributed to one "
        f"array. Write {example} to attribute it to the output of that layer; layers inside: "
        f"{layers}"
    )


def _floats(tree: PyTree) -> list[int]:
    """Return the numbers of the leaves that hold floats."""
    leaves = jax.tree.leaves(tree)
    return [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def _of_classes(who: str, where: str, target: Any, examples: int, classes: int) -> jax.Array:
    """Return a mask of the output of one class, or of a class for each example."""
    target = on_host(who, "target", target, dtype="booleans or numbers")
    if target.dtype.kind not in "iu" or target.shape not in ((), (examples,)):
        raise ValueError(
            f"{who}: target must be a class, or one for each of {examples} examples, got "
            f"{target.dtype} of shape {target.shape}"
        )
    if target.min() < 0 or target.max() >= classes:
        raise ValueError(
            f"{who}: target must be in 0..{classes - 1}, as {where} has {classes} outputs, got "
            f"{target.min()}..{target.max()}"
        )
    return jnp.asarray(target.reshape(-1, 1) == np.arange(classes))


def marked(what: str, where: str, shape: tuple[int, ...], index: tuple) -> np.ndarray:
    """Return booleans of the shape of one example's output, True at an index of it."""
    chosen = np.zeros(shape, bool)
    try:
        chosen[index] = True
    except IndexError:
        raise ValueError(
            f"{what} is out of range for {where}, whose output for one example has shape {shape}"
        ) from None
    return chosen


def output_at(net: Layer, params: Params, state: State, x: PyTree, path: str | None) -> Any:
    """Return the output of a network, or of a layer inside, in evaluation mode.

    Raises:
      ValueError: If `path` does not exist.

    Example:
      >>> net = jn.serial(jn.dense(7, name="hidden"), jnp.tanh, jn.dense(3))
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 5)))
      >>> output_at(net, params, state, jnp.ones((2, 5)), "hidden").shape
      (2, 7)
    """
    output, _ = _replaced(net, params, state, x, Place(path), None)
    return output


def array_at(net: Layer, params: Params, state: State, x: PyTree, place: Place) -> jax.Array:
    """Return the array that a score is attributed to, in float32 or wider."""
    _, array = _replaced(net, params, state, x, place, None)
    return at_least_float32(array)


def score(
    net: Layer, params: Params, state: State, x: PyTree, mask: jax.Array, place: Place, array: Any
) -> jax.Array:
    """Return the score of each example, (batch,), with another array at the place."""
    y, _ = _replaced(net, params, state, x, place, array)
    # Outputs outside the mask may be infinite.
    return jnp.where(mask, at_least_float32(y), 0).sum(range(1, y.ndim))


def _replaced(net, params, state, x, place: Place, array: Any) -> tuple[Any, Any]:
    """Return the output at `place.path` if `array` replaces that at `place.at`, and that array.

    Without an array, the one that is there stays.
    """
    outputs: dict[str, Any] = {}
    there: list[Any] = []

    def replaced(tree: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(tree)
        for i in _floats(tree)[:1]:
            leaves[i] = leaves[i] if array is None else array.astype(leaves[i].dtype)
            there.append(leaves[i])
        return jax.tree.unflatten(structure, leaves)

    def note(name, x, y):
        if name == place.at:
            y = replaced(y)
        outputs[name] = y if name == place.path else None
        return y

    if place.at is None:
        x = replaced(x)
    y, _ = run(net, params, state, x, None, False, note, transforms=place.transforms)
    for path in filter(None, place[:2]):
        if path not in outputs:
            raise ValueError(_no_layer(net, path, dict.fromkeys(outputs, ())))
    return y if place.path is None else outputs[place.path], there[0] if there else None


@compiled_for(static_argnums=3)
def _best(net, params, state, x, place):
    """Return a mask of the largest output of each example, (batch, classes)."""
    y, _ = _replaced(net, params, state, x, place, None)
    return y.argmax(1, keepdims=True) == jnp.arange(y.shape[1])[None]
