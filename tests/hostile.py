"""Calls every public function with one bad argument, and counts whose error answers.

    python -m tests.hostile --count 20000

A good call of each function is the first one of its docstring's example, with its arguments. Each
case replaces one of them by something else, drawn at random. The outcome is a value, an error of
ours, or a foreign one: raised inside another library, or by Python, without a word of ours.
"""

import argparse
import contextlib
import doctest
import inspect
import io
import os
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("MPLBACKEND", "agg")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import jaxnet as jn
from jaxnet.checks import is_traced
from tests.test_api import PARTS, members

OURS = Path(jn.__file__).parent
# Counts stay small: a large one is no error, but a long wait.
WRONG: dict[str, Any] = {
    "None": None, "a word": "abc", "an object": object(), "nan": float("nan"), "-1": -1, "0": 0,
    "2.5": 2.5, "True": True, "an empty list": [], "an empty tuple": (), "an empty dict": {},
    "a list": [1.0, 2.0], "a dict": {"a": np.ones(3, np.float32)}, "a function": lambda: 0,
    "floats": np.ones((2, 3), np.float32), "NaN": np.full((2, 3), np.nan, np.float32),
    "a vector": np.ones(3, np.float32), "four axes": np.ones((2, 3, 4, 5), np.float32),
    "no rows": np.ones((0, 3), np.float32), "integers": np.full((2, 3), 2**40),
    "labels": np.array([0, -1, 99]), "words": np.array([["a", "b"]]), "complex": np.ones(3) * 1j,
    "swapped bytes": np.ones((2, 3), ">f4"), "masked": np.ma.masked_equal([1.0, 2.0], 1),
    "a spec": jn.spec((2, 3)), "a key": jax.random.key(0), "bytes": b"abc", "a path": "/nowhere/a",
}  # fmt: skip
# What runs a program or takes what it is given as a whole is not called with rubbish.
LEFT_OUT = {"fit", "sweep", "jupyter"}


class Call(NamedTuple):
    """A good call of a public function."""

    name: str
    function: Callable
    args: tuple
    kwargs: dict[str, Any]


class Case(NamedTuple):
    """A call, the parameter that is replaced, and by which of `WRONG`."""

    call: Call
    what: str
    wrong: str


class Found(NamedTuple):
    """What became of a case: "value", "ours" or "foreign", and the error."""

    what: str
    error: BaseException | None = None


class Recorded(BaseException):
    """Ends an example: its call is known."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing printed, no warnings, and all files in a folder that goes away."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                yield
        finally:
            os.chdir(before)


def good_calls() -> list[Call]:
    """The first call of each public function in its example."""
    calls = []
    for part in PARTS:
        for name, function in sorted(members(part).items()):
            if inspect.isfunction(function) and name not in LEFT_OUT:
                calls += recorded(f"{part}.{name}".lstrip("."), name, function)
    return calls


def recorded(full: str, name: str, function: Callable) -> list[Call]:
    """The arguments of its first call that is not traced, if its example has one."""
    home = sys.modules[function.__module__]
    found: list[Call] = []

    def record(*args, **kwargs):
        if any(is_traced(leaf) for leaf in jax.tree.leaves((args, kwargs))):
            return function(*args, **kwargs)
        found.append(Call(full, function, args, kwargs))
        raise Recorded

    names = dict(vars(home)) | {"jax": jax, "jnp": jnp, "np": np, "optax": optax, "jn": jn}
    names[name] = record
    public = vars(jn).get(name) is function
    if public:
        setattr(jn, name, record)
    try:
        with quiet(), contextlib.suppress(Recorded):
            for example in doctest.DocTestParser().get_examples(function.__doc__ or ""):
                if doctest.SKIP not in example.options:
                    with contextlib.suppress(Exception):
                        exec(compile(example.source, full, "single"), names)  # our own text
    finally:
        if public:
            setattr(jn, name, function)
    return found


def cases(calls: list[Call]) -> list[Case]:
    """Every parameter of every call with every wrong value."""
    return [
        Case(call, what, wrong)
        for call in calls
        for what, p in inspect.signature(call.function).parameters.items()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        for wrong in WRONG
    ]


def outcome(case: Case) -> Found:
    """What a call with one bad argument gives."""
    call = case.call
    bound = inspect.signature(call.function).bind(*call.args, **call.kwargs)
    bound.arguments[case.what] = WRONG[case.wrong]
    return run(call._replace(args=bound.args, kwargs=bound.kwargs))[0]


def run(call: Call) -> tuple[Found, Any]:
    """What became of a call, and its result."""
    try:
        with quiet():
            result = call.function(*call.args, **call.kwargs)
            jax.block_until_ready([a for a in jax.tree.leaves(result) if isinstance(a, jax.Array)])
    except Exception as error:  # every kind counts
        last = traceback.extract_tb(error.__traceback__)[-1]
        raised = Path(last.filename).is_relative_to(OURS) and (last.line or "").startswith("raise")
        noted = bool(getattr(error, "__notes__", []))
        return Found("ours" if raised or noted else "foreign", error), None
    return Found("value"), result


def forms(array: Any) -> Iterator[tuple[str, Any]]:
    """The same numbers as another kind of array, in another dtype, order or place in memory."""
    host = np.asarray(array)
    yield "NumPy", host
    yield "JAX", jnp.asarray(host)
    yield "swapped bytes", host.astype(host.dtype.newbyteorder())
    yield "by columns", np.array(host, order="F")
    yield "strided", np.repeat(host[..., None], 2, -1)[..., 0]
    if host.dtype == np.float32:
        yield "float64", host.astype(np.float64)
        if host.size and (host == host.round()).all() and abs(host).max() < 2**20:
            yield "int32", host.astype(np.int32)
            yield "int64", host.astype(np.int64)
    if host.dtype.kind == "i":
        yield "int64", host.astype(np.int64)
        if host.size and host.min() >= 0 and host.max() < 256:
            yield "uint8", host.astype(np.uint8)


def other_forms(call: Call) -> Iterator[tuple[str, Call]]:
    """A good call with one of its arrays, also within a tree, in each other form."""
    leaves, tree = jax.tree.flatten((call.args, call.kwargs))
    for i, leaf in enumerate(leaves):
        if not isinstance(leaf, np.ndarray | jax.Array):
            continue
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) or leaf.dtype.kind not in "fi":
            continue
        for what, other in forms(leaf):
            args, kwargs = jax.tree.unflatten(tree, [*leaves[:i], other, *leaves[i + 1 :]])
            yield f"{call.name}, array {i} as {what}", call._replace(args=args, kwargs=kwargs)


def numbers(result: Any) -> list[np.ndarray]:
    """The arrays of a result."""
    found = [a for a in jax.tree.leaves(result) if isinstance(a, np.ndarray | jax.Array | float)]
    return [np.asarray(jax.random.key_data(a)) if _is_key(a) else np.asarray(a) for a in found]


def _is_key(a: Any) -> bool:
    return isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key)


def differences(call: Call) -> Iterator[str]:
    """Where a good call's result changes with the form of its arrays, and foreign errors."""
    found, result = run(call)
    if found.what != "value":  # its file is gone, or its example shows the error
        return
    right = numbers(result)
    for name, other in other_forms(call):
        found, results = run(other)
        if found.what == "foreign":
            yield f"{name}: {type(found.error).__name__}: {found.error}"
        elif found.what == "value" and not alike(numbers(results), right):
            yield f"{name}: another result"


def alike(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape
        and (
            np.allclose(x, y, rtol=1e-4, atol=1e-5, equal_nan=True)
            if x.dtype.kind in "biufc"
            else (x == y).all()
        )
        for x, y in zip(a, b, strict=True)
    )


def told(case: Case, found: Found) -> str:
    """One line about a foreign error."""
    error = found.error
    assert error is not None
    last = [
        f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(str(OURS))
    ]
    at = f"{Path(last[-1].filename).relative_to(OURS)}:{last[-1].lineno}" if last else "?"
    line = f"{case.call.name}({case.what}={case.wrong}) at {at}: {type(error).__name__}: {error}"
    return line.replace("\n", " ")[:160]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    everything = cases(good_calls())
    drawn = random.Random(options.seed).sample(everything, min(options.count, len(everything)))
    tally: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for case in tqdm(drawn, disable=None):
        found = outcome(case)
        tally[found.what] += 1
        if found.what == "foreign":
            line = told(case, found)
            tqdm.write(line)
            places[line.split(" at ")[1].split(": ")[0]] += 1
    print(f"{len({case.call.name for case in everything})} functions, {len(drawn)} cases: {tally}")
    print("foreign:", places.most_common(40))


if __name__ == "__main__":
    main()
