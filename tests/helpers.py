"""What tests of many rooms share: refusals, random numbers, comparisons, programs.

Layers are run as one program: operations one by one are compiled for each shape of each.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.services.jaxprs import jaxprs_among

KEY = jax.random.key(0)
HANGS = 60  # seconds: what should end at once does so on a busy machine too; what hangs does not


def traced(run: Callable, *args: Any) -> str:
    """The text of a traced program, without the addresses of functions that some JAX writes."""
    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(run)(*args)))


def refused(cases: Iterable[tuple], error: type | tuple[type, ...] = ValueError) -> Callable:
    """Makes a test of each case in which a function raises an error.

    A case has the arguments, the class of the error if it is not `error`, and the words of its
    message as a pattern.
    """
    cases = list(cases)
    names = [re.sub(r"\W+", "-", words).strip("-")[:40] for *_, words in cases]

    def of(call: Callable) -> Callable:
        @pytest.mark.parametrize("case", cases, ids=names)
        def test(case):
            *given, words = case
            kind = error
            if isinstance(given[-1], type) and issubclass(given[-1], Exception):
                kind = given.pop()
            with pytest.raises(kind, match=words):
                call(*given)

        test.__doc__ = call.__doc__
        return test

    return of


def refuses(cases: Iterable[tuple], error: type | tuple[type, ...] = ValueError) -> Callable:
    """Makes a test of each call that raises; cases are those of `refused`, with a call in each."""
    return refused(cases, error)(lambda call: call())


def draw(*shape: int, seed: int = 0, dtype: Any = None) -> np.ndarray:
    """Normal numbers, of which NumPy compiles nothing."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype or float)


def drawn(net: Any, x: Any, scale: float = 0.25) -> Any:
    """Params and state, no entry as `init` gives it: 0 and 1 would hide a mistake."""
    rng = np.random.default_rng(6)
    given = jax.device_get(net.init(jax.random.key(5), x))
    return jax.tree.map(lambda a: jnp.asarray(a + scale * rng.random(a.shape), a.dtype), given)


def close(a: Any, b: Any, rtol: float = 1e-5, atol: float | None = None) -> None:
    """Two trees are equal, up to a relative and an absolute tolerance, by default the same."""
    atol = rtol if atol is None else atol
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), a, b)


def jit_apply(
    layer: jn.Layer, params: Any, state: Any, x: Any, *, key: Any = None, train: bool = False
) -> tuple[Any, Any]:
    """`layer.apply(params, state, x, key=key, train=train)`, compiled once per layer and shape.

    `tests/test_laws.py` shows for each layer that it equals the call outside of `jit`. The results
    are NumPy arrays, outside of transforms: what a test asks of them compiles nothing.
    """
    run = jax.jit(layer.apply, static_argnames="train")
    return jax.tree.map(on_host, run(params, state, x, key=key, train=train))


def shown(figure: Any, count: int | None = None) -> list[np.ndarray]:
    """The arrays of the images in the first `count` axes, or in all."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes[:count]]


def on_host(leaf: Any) -> Any:
    """An array as NumPy's; a tracer or a key as it is."""
    stays = isinstance(leaf, jax.core.Tracer) or jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    return leaf if stays else jax.device_get(leaf)


def jit_init(layer: jn.Layer, key: Any, x: Any) -> tuple[Any, Any]:
    """`layer.init(key, x)` as one program, where more than one layer draws."""
    return jax.jit(lambda key: layer.init(key, x))(key)


def jit_pull(function: Any, x: Any, cotangent: Any) -> tuple[Any, Any]:
    """(function(x), the cotangent pulled back to x), as one program."""

    @jax.jit
    def both(x, cotangent):
        y, pull = jax.vjp(function, x)
        return y, pull(cotangent)[0]

    return jax.tree.map(on_host, both(x, cotangent))


class Loop(NamedTuple):
    """The body of a loop of a compiled program, with all it calls.

    Fields:
      products: Number of matrix products.
      loops: Number of loops inside it.
      text: The lines with the products.
    """

    products: int
    loops: int
    text: str


def loops(program: str) -> list[Loop]:
    """The loops in the text of a compiled program."""
    parts = dict(re.findall(r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", program, re.M | re.S))
    names = r"(?:calls|body|condition|to_apply)=%?([\w.\-]+)"

    def lines(name):
        own = parts.get(name, "").splitlines()
        return own + [line for inner in re.findall(names, "\n".join(own)) for line in lines(inner)]

    found = [lines(name) for name in re.findall(r"body=%?([\w.\-]+)", program)]
    products = [[line for line in body if " dot(" in line] for body in found]
    inner = [sum(" while(" in line for line in body) for body in found]
    rows = zip(products, inner, strict=True)
    return [Loop(len(dots), number, "\n".join(dots)) for dots, number in rows]


def compiled(function: Callable, *args: Any) -> Any:
    """The program of a function for these arguments; no program of another test is used."""
    return jax.jit(lambda *args: function(*args)).lower(*args).compile()


def temporary(function: Callable, *args: Any) -> int:
    """Bytes that the compiled function needs besides its inputs and outputs."""
    return compiled(function, *args).memory_analysis().temp_size_in_bytes


def near(found: Any, wanted: Any, bound: float, least: float = 1.0) -> None:
    """Two trees are equal up to a part of the largest number of each leaf, or of `least`."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        a, b = (np.asarray(leaf, np.float64) for leaf in (a, b))
        most = bound * abs(b[np.isfinite(b)]).max(initial=least)
        np.testing.assert_allclose(a, b, rtol=0, atol=most, strict=True)


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a program, also those of what it calls."""
    for one in jaxpr.eqns:
        yield one
        for inner in jaxprs_among(jax.tree.leaves(list(one.params.values()))):
            yield from equations(inner)


def shapes(tree: Any) -> Any:
    """The shape of each array."""
    return jax.tree.map(jnp.shape, tree)


def beside_memory(x, memory, mask=None):
    """The input of a layer that attends from x to a memory."""
    given = {"x": x, "memory": memory}
    return given if mask is None else given | {"mask": mask}


def output_of(program: str) -> str:
    """What a program prints in a fresh process, which compiles all its programs itself."""
    environment = {**os.environ}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
