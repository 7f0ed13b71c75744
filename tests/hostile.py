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


def good_calls(every: int = 1) -> list[Call]:
    """The first call of each public function in its example; with `every`, of one in that many."""
    found = [
        (f"{part}.{name}".lstrip("."), name, function)
        for part in PARTS
        for name, function in sorted(members(part).items())
        if inspect.isfunction(function) and name not in LEFT_OUT
    ]
    return [call for one in found[::every] for call in recorded(*one)]


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


def forms(array: Any) -> dict[str, Any]:
    """The same numbers as another kind of array, in another dtype, order or place in memory."""
    host = np.asarray(array)
    found = {"NumPy": host} if isinstance(array, jax.Array) else {"JAX": jnp.asarray(host)}
    found["swapped bytes"] = host.astype(host.dtype.newbyteorder())
    found["strided by columns"] = np.repeat(host.T[..., None], 2, -1)[..., 0].T
    if host.dtype == np.float32:
        found["float64"] = host.astype(np.float64)
        if host.size and (host == host.round()).all() and abs(host).max() < 2**20:
            found |= {"int32": host.astype(np.int32), "int64": host.astype(np.int64)}
    if host.dtype.kind == "i":
        other = np.int32 if host.dtype == np.int64 else np.int64
        found[np.dtype(other).name] = host.astype(other)
        if host.size and host.min() >= 0 and host.max() < 256:
            found["uint8"] = host.astype(np.uint8)
    return found


def other_forms(call: Call) -> Iterator[tuple[Call, dict[str, Call]]]:
    """A good call with all of its arrays, also within trees, in other forms, and with each alone.

    Each array takes another form than its neighbour, and each of its forms once or more.
    """
    leaves, tree = jax.tree.flatten((call.args, call.kwargs))
    found = {i: list(forms(leaf).items()) for i, leaf in enumerate(leaves) if _has_forms(leaf)}

    def changed(new: dict[int, Any]) -> Call:
        args, kwargs = jax.tree.unflatten(tree, [new.get(i, a) for i, a in enumerate(leaves)])
        return call._replace(args=args, kwargs=kwargs)

    for turn in range(max(map(len, found.values()), default=0)):
        new = {i: some[(turn + i) % len(some)] for i, some in found.items()}
        alone = {f"array {i} as {what}": changed({i: a}) for i, (what, a) in new.items()}
        yield changed({i: a for i, (_, a) in new.items()}), alone


def _has_forms(leaf: Any) -> bool:
    return (
        isinstance(leaf, np.ndarray | jax.Array)
        and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        and leaf.dtype.kind in "fi"
    )


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
    right, known = numbers(result), set()
    for together, alone in other_forms(call):
        if not (what := difference(together, right)):
            continue
        found = {name: difference(other, right) for name, other in alone.items()}
        wrong = {name: w for name, w in found.items() if w not in ("", REFUSED)}
        if not wrong and what != REFUSED:
            wrong = {f"together {', '.join(alone)}": what}
        yield from (f"{call.name}, {n}: {w}" for n, w in wrong.items() if n not in known)
        known |= wrong.keys()


REFUSED = "an error of ours"


def difference(call: Call, right: list[np.ndarray]) -> str:
    """What a call gives instead of the right numbers; empty where it gives these."""
    found, result = run(call)
    if found.what == "value":
        return "" if alike(numbers(result), right) else "another result"
    return REFUSED if found.what == "ours" else f"{type(found.error).__name__}: {found.error}"


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
    parser.add_argument("--forms", action="store_true", help="the same numbers in every form too")
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
    if options.forms:
        for call in good_calls():
            for line in differences(call):
                print(line)


if __name__ == "__main__":
    main()
