"""How a layer runs: what it keeps for the backward pass, its dtype, whether it is trained."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxnet.core import Layer, State, transformed
from jaxnet.core.mode import Mode
from jaxnet.services.checks import a_function, check_dtype
from jaxnet.services.nodes import frozen
from jaxnet.services.paths import check_patterns, first_fits, fits
from jaxnet.services.trees import flat
from jaxnet.transforms.kernels import replaced


def remat(
    layer: Layer,
    *,
    policy: Callable[..., bool] | None = None,
    keep: str | None = None,
    offload: str | None = None,
) -> Layer:
    """Return a layer whose inner values are recomputed in the backward pass instead of kept.

    This saves memory and takes about a third more time; values and gradients are the same.

    Args:
      layer: Any layer.
      policy: Rule for the values to keep nevertheless, from `jax.checkpoint_policies`.
      keep: Pattern of the paths of layers in `layer` whose outputs are kept, such as "*/mlp_in" for
        expensive ones.
      offload: Pattern of the paths of layers whose outputs wait in the memory of the host, if
        `keep` does not fit them. On CPU there is only one memory.

    Returns:
      A layer with the same params, state and outputs.

    Raises:
      ValueError: In `apply`, if `keep` or `offload` fits no layer.

    Example:
      >>> net = jn.serial(*[jn.remat(jn.dense(3)) for _ in range(4)])
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> sorted(params)
      ['dense', 'dense_1', 'dense_2', 'dense_3']

      Of all blocks only the first layer is not computed again:

      >>> block = jn.residual(jn.serial(jn.dense(12, name="mlp_in"), jax.nn.gelu, jn.dense(3)))
      >>> net = jn.remat(jn.repeat(block, 4), keep="*/mlp_in")

    Reference: Chen et al. 2016, "Training deep nets with sublinear memory cost".
    """
    a_function("remat", "policy", policy, "a primitive and its arguments", optional=True)
    patterns = {}
    if keep is not None:
        patterns["keep"] = keep
    if offload is not None:
        patterns["offload"] = offload
    check_patterns("remat", " and ".join(patterns), patterns.values())

    def role(path: str) -> str:
        for what, pattern in patterns.items():
            if fits(pattern, path):
                return what
        return ""

    def rule(primitive, *values, name="", **options):
        what = role(name) if primitive.name == "name" else ""
        if what:
            return _BY_ROLE(primitive, *values, name=what, **options)
        if name:
            options["name"] = name
        return policy is not None and policy(primitive, *values, **options)

    def apply(run, params, state, x):
        paths: list[str] = []

        def named(path, layer, x, y):
            name = "/".join(path)
            paths.append(name)
            if not role(name):
                return y
            return jax.tree.map(lambda leaf: checkpoint_name(leaf, name), y)

        changed: State = {}  # which entries of the state the layer changes

        def inner(params, state, x, key):
            watched = run.watched(named, transforms=True) if patterns else run
            y, after = watched(params, state, x, key=key)
            for name, entry in state.items():
                changed[name] = jax.tree.map(operator.is_not, entry, after[name])
            return (named((), run.layer, x, y) if patterns else y), after

        checkpointed = jax.checkpoint(inner, policy=rule if patterns else policy)
        y, after = checkpointed(params, state, x, run.call_key)
        roles = {role(path) for path in paths}
        for what in patterns.keys() - roles:
            raise ValueError(
                f"remat: no layer needs {what}={patterns[what]!r}; paths: {', '.join(paths[:8])}"
            )

        def pick(is_changed, old, new):
            return new if is_changed else old

        return y, after | jax.tree.map(pick, changed, state, {name: after[name] for name in state})

    return transformed(layer, apply, kind="remat")


_BY_ROLE = jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=["keep"],
    names_which_can_be_offloaded=["offload"],
    offload_src="device",
    offload_dst="pinned_host",
)


def cast(layer: Layer, dtype: Any) -> Layer:
    """Return a layer computed in another float dtype, such as `jnp.bfloat16`.

    The output has the dtype of the input (float32 for integers). Parameters, their gradients and
    the state keep their dtype; a stream keeps keys and values in the dtype of the computation. The
    layers inside convert what they multiply: inputs and kernels, as `m.kernel` returns them.
    `m.param` returns parameters as they are stored, so what a layer of your own does with them is
    computed in float32, and its output is rounded. That keeps the digits of its gradients, which
    are sums over all examples; for a large product, write `jn.product(x, m.kernel(...))`, and for
    the rows of a table `jn.rows(m.kernel(...), ids)`. Round by `.astype(x.dtype)` only what is
    multiplied: the gradient of what is added or gathered would be a sum in 16 bits. A layer of
    another library gets its params as they are, too.
    Long sums are in float32, as in norms, softmax, pooling and products, and losses. What is not
    below `cast`, such as the loss of a net that is cast, stays as it is.

    float16 is what a GPU without bfloat16 units, such as a T4, is fast in. It holds at most 65,504,
    so `jn.trainer` then scales the loss and skips steps that overflow.

    Args:
      layer: Any layer.
      dtype: Float dtype of the computation.

    Returns:
      A layer with the same params and state.

    Raises:
      TypeError: If `layer` is not a layer or `dtype` is not a dtype.
      ValueError: If `dtype` is not a float dtype.

    Example:
      >>> net = jn.cast(jn.dense(4), jnp.bfloat16)
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> y, state = net.apply(params, state, jnp.ones((2, 3)))
      >>> params["kernel"].dtype, y.dtype
      (dtype('float32'), dtype('float32'))

    Reference: Micikevicius et al. 2018, "Mixed precision training".
    """
    check_dtype("cast", dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"cast: dtype must be a float, such as jnp.bfloat16, got {dtype}")
    dtype = jnp.dtype(dtype)

    def init(run, key, x):
        return run.init(key, x, cache_dtype=dtype)

    def apply(run, params, state, x):
        floats = [a.dtype for a in jax.tree.leaves(x) if jnp.issubdtype(a.dtype, jnp.floating)]
        inside = run.changed(dtype=dtype, cache_dtype=dtype)
        y, after = inside(params, state, inside.mode.rounded(x))
        outside = Mode(dtype=jnp.result_type(*floats) if floats else jnp.float32)
        return outside.rounded(y), after

    return transformed(layer, apply, kind="cast", init=init)


def freeze(layer: Layer, where: str | None = None) -> Layer:
    """Return a layer that is not trained: its params get no gradient, and it runs in evaluation.

    Its running statistics stay and its dropout is off; gradients still pass through it to its
    input. With `where` only some of its params are frozen, and the layer runs in the mode of its
    parent. Caution: weight decay and penalties use params directly and so change frozen ones too;
    exclude them by `jn.by_path({"old/*": optax.set_to_zero(), "*": optimizer})`.

    Args:
      layer: Any layer.
      where: Pattern of the paths of the params to freeze, such as "*/bias"; None is all.

    Returns:
      A layer with the same params, state and outputs.

    Raises:
      ValueError: If no param fits `where`.

    Example:
      >>> net = jn.serial(jn.freeze(jn.dense(4)), jn.dense(2, name="head"))
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> loss = lambda params: net.apply(params, state, jnp.ones((2, 3)), train=True)[0].sum()
      >>> grads = jax.grad(loss)(params)
      >>> float(jnp.abs(grads["dense"]["kernel"]).sum()), float(grads["head"]["bias"].sum())
      (0.0, 4.0)
    """
    check_patterns("freeze", "where", [] if where is None else [where])

    def apply(run, params, state, x):
        if where is not None:
            entries = dict(flat(params))
            fitting = zip(entries, first_fits("freeze", [where], entries), strict=True)
            held = {path: frozen(entries[path]) for path, fit in fitting if fit}
            return run(replaced(params, held), state, x)
        y, after = run(frozen(params), state, x, train=False)
        if not (run.train and run.mode.keeps_state):
            return y, after
        unchanged = {id(leaf) for leaf in jax.tree.leaves(state)}

        def still(leaf):
            """Return an unchanged entry as a constant: on purpose, so a trainer must not warn."""
            return jax.lax.stop_gradient(leaf) if id(leaf) in unchanged else leaf

        return y, jax.tree.map(still, after)

    return transformed(layer, apply, kind="freeze", options=Freeze(where))


class Freeze(NamedTuple):
    """The options of `freeze`."""

    where: str | None
