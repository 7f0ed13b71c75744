"""Low-rank adaptation of a trained net, and plain params from the params of an adapted net."""

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.core import (
    Layer,
    Params,
    as_layer,
    child_key,
    transformed,
    transforms_of,
    with_inner_layer,
)
from jaxnet.initializers import lecun_normal, normal
from jaxnet.ops.product import product, rows
from jaxnet.services.checks import as_dict, at_least, within
from jaxnet.services.nodes import Stored, frozen, materialized
from jaxnet.services.paths import check_patterns, fits
from jaxnet.services.trees import describe, flat
from jaxnet.transforms.execution import Freeze
from jaxnet.transforms.integers import Quantization
from jaxnet.transforms.kernels import FACTORS, Axes, axes_of, matching, replaced

A, B = FACTORS


def lora(
    layer: Layer,
    rank: int,
    *,
    where: str = "*/(query|value)/kernel",
    scale: float = 1.0,
    trainable: str | None = None,
) -> Layer:
    """Return a layer that learns a product of two thin matrices on top of each of its kernels.

    The layer computes with kernel + scale * a @ b. Only a and b get gradients: the params of
    `layer` are constants, except those that fit `trainable`. Since b starts at zeros, the new layer
    starts as the same function, bit for bit. Dropout and running statistics follow the mode of the
    parent.

    The params of `layer` keep their paths, so `trainer.init(key, batch, params=trained)` starts
    from a trained net and initializes the rest. Caution: weight decay changes constants too. Give
    the optimizer only the params that train: `jn.by_path({"*_lora_(a|b)": optimizer, "*":
    optax.set_to_zero()})`. Then the optimizer does not keep moments of the constants either.

    If `layer` is made by `jn.quantized`, the constants stay integers, and a and b are floats
    (QLoRA).

    Args:
      layer: Any layer, such as a trained net.
      rank: Number of columns of a and rows of b, at least 1.
      where: Pattern of the paths of the kernels, such as "*/attention/*/kernel" or "*/kernel". The
        default fits queries and values of attention. Tables of embeddings are kernels too.
      scale: Factor of the product; in PEFT it is `lora_alpha / r`.
      trainable: Pattern of the paths of other params that train, such as "head/*".

    Params:
      The layer's params. Next to a kernel (*inputs, *outputs) with the name "kernel" there are
      kernel_lora_a (*inputs, rank) and kernel_lora_b (rank, *outputs). The query of an attention
      has inputs (features,) and outputs (heads, size), for example. Below `jn.repeat` and
      `jn.ensemble` all of them have the leading axis of the copies.

    Returns:
      A layer whose params also have the matrices. `merge` returns the params of the layer without
      them.

    Raises:
      ValueError: In `init`, if no param fits `where` or `trainable`.
      ValueError: In `init`, if a param that fits `where` is not a kernel or is already adapted.

    Example:
      >>> net = jn.serial(jn.dense(8), jax.nn.relu, jn.dense(3, name="head"))
      >>> adapted = jn.lora(net, 2, where="dense/kernel", trainable="head/*")
      >>> params, state = adapted.init(jax.random.key(0), jn.spec((2, 5)))
      >>> jax.tree.map(jnp.shape, params["dense"])
      {'bias': (8,), 'kernel': (5, 8), 'kernel_lora_a': (5, 2), 'kernel_lora_b': (2, 8)}

      Train it from trained params, and get plain params of `net` back:

      >>> trained, _ = net.init(jax.random.key(1), jn.spec((2, 5)))
      >>> batch = jnp.ones((2, 5)), jnp.zeros((2, 3))
      >>> trainer = jn.trainer(jn.supervised(adapted, optax.squared_error), optax.sgd(0.1))
      >>> train_state = trainer.init(jax.random.key(2), batch, params=trained)
      >>> train_state, metrics = trainer.step(train_state, batch)
      >>> jax.tree.map(jnp.shape, jn.merge(adapted, train_state.params))
      {'dense': {'bias': (8,), 'kernel': (5, 8)}, 'head': {'bias': (3,), 'kernel': (8, 3)}}

    Reference: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models"; Dettmers et al.
    2023, "QLoRA".
    """
    layer = as_layer(layer, "lora", "layer")
    at_least("lora", "rank", rank)
    within("lora", "scale", scale, "(-inf, inf)")
    check_patterns("lora", "where", [where])
    check_patterns("lora", "trainable", [] if trainable is None else [trainable])
    return _lora(layer, Lora(rank, where, scale, trainable))


def merge(layer: Layer, params: Params) -> Params:
    """Return the params of the plain net, given the params of an adapted or quantized net.

    The products of `jn.lora` are added to their kernels, and the integers of `jn.quantized` become
    floats. The layer inside gives the same outputs with them, up to rounding.

    Args:
      layer: Layer made by `jn.lora` or `jn.quantized`, or another transform of such a layer, such
        as `jn.repeat(jn.lora(block), 3)`.
      params: Params of this layer.

    Returns:
      Params of the layer inside.

    Raises:
      TypeError: If `layer` is neither adapted nor quantized as a whole.
      ValueError: If `params` do not have a and b of `jn.lora`, or integers of `jn.quantized`.

    Example:
      >>> net = jn.dense(3)
      >>> adapted = jn.lora(net, 2, where="kernel")
      >>> params, state = adapted.init(jax.random.key(0), jn.spec((2, 5)))
      >>> params["kernel_lora_b"] += 1.0
      >>> for layer, tree in ((adapted, params), (net, jn.merge(adapted, params))):
      ...     y, _ = layer.apply(tree, state, jnp.ones((1, 5)))
      ...     print(np.asarray(y).round(3), "by", ", ".join(sorted(tree)))
      [[-0.707  0.219  1.306]] by bias, kernel, kernel_lora_a, kernel_lora_b
      [[-0.707  0.219  1.306]] by bias, kernel
    """
    layer = as_layer(layer, "merge", "layer")
    params = as_dict("merge", "params", params)
    joins = [each.inside.join for each in transforms_of(layer) if each.inside.join]
    if not joins:
        raise TypeError(
            f"merge: layer must be made by jn.lora or jn.quantized, got a {layer.kind}. Adapt the "
            "whole net, and choose its parts by where="
        )
    return reduce(lambda params, join: join(params), joins, params)


class Lora(NamedTuple):
    """The options of `lora`."""

    rank: int
    where: str
    scale: float
    trainable: str | None


def options_of(layer: Layer) -> Lora | None:
    """Return the options of `lora` of a layer; None if it is not adapted."""
    for each in transforms_of(layer):
        if isinstance(each.inside.options, Lora):
            return each.inside.options
    return None


def _lora(layer: Layer, options: Lora) -> Layer:
    """Return the adapted layer, or the layer around an adapted one if it is quantized inside."""
    inside = [each.inside.options for each in transforms_of(layer)]
    if not any(isinstance(each, Quantization) for each in inside):
        return _adapted(layer, options)
    # adapt the layer inside, whose kernels are floats with the same paths
    inner = layer.inside.layer
    if isinstance(layer.inside.options, Freeze):
        # It would freeze the factors, so it moves in: the kernels inside are frozen.
        frozen_inside = with_inner_layer(layer, inner.inside.layer)
        return _lora(with_inner_layer(inner, frozen_inside), options)
    return with_inner_layer(layer, _lora(inner, options))


def _adapted(layer: Layer, options: Lora) -> Layer:
    rank, where, scale, trainable = options

    def init(run, key, x):
        params, state = run.init(key, x)
        kernels = matching("lora", where, params)
        paths = {path for path, _ in flat(params)}
        for path in kernels:
            if path + A in paths:
                raise ValueError(f"lora: {path} is already adapted; merge it first, by jn.merge")
        if trainable is not None:
            matching("lora", trainable, params, what="trainable")
        axes = axes_of(run.layer, kernels, x)
        lora_key = child_key(key, "lora")
        factors = {}
        for path, kernel in kernels.items():
            factors[path] = _draw(child_key(lora_key, path), kernel, axes[path], rank)
        return beside(params, factors), state

    def apply(run, params, state, x):
        return run(_joined(held(params), scale), state, x)

    def learns(path):
        is_factor = path.endswith((A, B))
        return is_factor or (trainable is not None and fits(trainable, path))

    def held(params):
        fixed = {path: leaf for path, leaf in flat(params) if not learns(path)}
        return replaced(params, jax.lax.stop_gradient(fixed))

    def join(params):
        check_factors("merge", params)
        return materialized(_joined(params, scale))

    return transformed(
        layer,
        apply,
        kind="lora",
        init=init,
        new_entries=True,
        clear=True,
        join=join,
        options=options,
    )


def _draw(key: jax.Array, kernel: Any, axes: Axes, rank: int) -> tuple[Any, Any]:
    """Return the two factors of a kernel at the start: a drawn, b zeros."""
    copies, inputs, outputs = axes.split(kernel.shape)
    # A table's rows are picked, not summed, so the variance does not depend on the number of rows.
    make = normal(1.0) if axes.table else lecun_normal()

    def draw(key):
        return make(key, (math.prod(inputs), rank), kernel.dtype)

    keys = jax.random.split(key, math.prod(copies))
    a = jax.vmap(draw)(keys).reshape(*copies, *inputs, rank)
    b = jnp.zeros((*copies, rank, *outputs), kernel.dtype)
    return a, b


def beside(params: Params, factors: dict[str, tuple[Any, Any]], above: str = "") -> Params:
    """Return the params with two factors next to each kernel."""
    extended = {}
    for name, entry in params.items():
        path = above + name
        extended[name] = beside(entry, factors, f"{path}/") if isinstance(entry, dict) else entry
        if path in factors:
            extended[name + A], extended[name + B] = factors[path]
    return extended


def check_factors(who: str, params: Params) -> None:
    """Raise unless params have two factors for some kernels, and for no kernel one of them."""
    paths = [path for path, _ in flat(params)]
    a = {path.removesuffix(A) for path in paths if path.endswith(A)}
    b = {path.removesuffix(B) for path in paths if path.endswith(B)}
    if not a or a != b:
        alone = f"; {min(a ^ b)} has one of them" if a ^ b else ""
        raise ValueError(f"{who}: params have no entries ending in {A} and {B}{alone}")


def _joined(params: Params, scale: float) -> Params:
    """Return the params with one node instead of each kernel and its factors."""
    joined = {}
    for name, entry in params.items():
        base = name.removesuffix(A).removesuffix(B)
        is_factor = base != name and base in params
        if isinstance(entry, dict):
            joined[name] = _joined(entry, scale)
        elif name + A in params and name + B in params:
            joined[name] = Adapted(entry, params[name + A], params[name + B], scale)
        elif not is_factor:
            joined[name] = entry
    return joined


@partial(jax.tree_util.register_dataclass, data_fields=["kernel", "a", "b"], meta_fields=["scale"])
@dataclass(frozen=True, eq=False)
class Adapted(Stored):
    """A kernel + scale * a @ b.

    Fields:
      kernel: Array or stored kernel (*copies, *inputs, *outputs).
      a, b: Factors (*copies, *inputs, rank) and (*copies, rank, *outputs).
      scale: A number.
    """

    kernel: Any
    a: Any
    b: Any
    scale: float

    shape = property(lambda self: self.kernel.shape)
    # Not the kernel's alone: below `jn.cast`, a frozen kernel may have fewer bits than its factors.
    dtype = property(lambda self: jnp.result_type(self.kernel.dtype, self.a, self.b))

    def array(self) -> jax.Array:
        kernel = materialized(self.kernel)
        return kernel + self.scale * factors_product(kernel, self.a, self.b)

    def astype(self, dtype: Any) -> "Adapted":
        return replace(
            self, kernel=self.kernel.astype(dtype), a=self.a.astype(dtype), b=self.b.astype(dtype)
        )

    def frozen(self) -> "Adapted":
        return replace(self, kernel=frozen(self.kernel))

    def product(self, x: jax.Array, inputs: int, transposed: bool) -> jax.Array:
        y = product(x, self.kernel, inputs, transposed=transposed)
        first, last = (self.b, self.a) if transposed else (self.a, self.b)
        thin = self.scale * product(x, first, inputs, transposed=transposed)
        return y + product(thin, last, transposed=transposed)

    def rows(self, ids: jax.Array) -> jax.Array:
        thin = self.scale * rows(self.a, ids)
        return rows(self.kernel, ids) + product(thin, self.b)


def factors_product(kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Return a (*copies, *inputs, rank) @ b (*copies, rank, *outputs) in the kernel's shape."""
    with suppress(AttributeError, IndexError, TypeError, ValueError):
        copies = a.ndim + b.ndim - 2 - kernel.ndim
        shape = kernel.shape[:copies]
        rank = a.shape[-1]
        if b.shape[copies] == rank:
            left = a.reshape(*shape, -1, rank)
            right = b.reshape(*shape, rank, -1)
            return (left @ right).reshape(kernel.shape)
    raise ValueError(
        f"lora: factors {describe(a)} and {describe(b)} do not fit a kernel {describe(kernel)}"
    )
