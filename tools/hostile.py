"""Calls every public function with one bad argument, and counts whose error answers.

    python -m tools.hostile --count 20000

A good call of each function is the first one of its docstring's example, with its arguments. If it
returns a function or a layer, that is called too: a function as the example does it, a layer on the
input of its row in `tests/catalogue.py`. `init` and `apply` of each row are called as well. Each
case replaces one argument, or one array inside of one, by something else.

The outcome is an error of ours, a foreign error (raised in another library, or by Python, with a
message that does not say who) or a value. A value is judged:

    same      it is the value of the good call
    right     it is that of `tests/oracles.py` for the bad argument
    alike     examples in reverse order give it in reverse order, and one by one they give its parts
    wrong     an oracle says another value, or the order of the examples matters
    unjudged  nothing is known about it

Good calls are judged too, by what must not change their value: other forms of the same numbers
(`differences`), float64 (`in_float64`) and 16 bits (`in_16_bits`). Losses that reduce, weights that
are made when asked for, and entries of a decoder's configuration have checks of their own.
"""

import argparse
import contextlib
import datetime
import doctest
import inspect
import io
import itertools
import operator
import os
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("MPLBACKEND", "agg")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import jaxnet as jn
import jaxnet.interop.torch
from jaxnet.pretrained.decoders import FAMILIES
from jaxnet.services.checks import is_traced
from jaxnet.services.jax_versions import enable_x64
from tests.catalogue import ROWS, Row, fill
from tests.oracles import REFERENCES
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
    "huge": np.full((2, 3), 1e30, np.float32), "tiny": np.full((2, 3), 1e-30, np.float32),
    "a wild number": np.float32([[1, 2, 3], [4, 1e30, 6]]),
    "no data": np.float32([[1, 2, 3], [-9999, -9999, -9999]]),
    "pixels": np.float32([[0, 17, 255], [3, 4, 200]]), "ids beyond": np.array([[0, 1], [2, 10**6]]),
    "labels with gaps": np.array([0.0, np.nan, 1.0]),
    "strange words": np.array(["", "\u0301", "a" * 999]),
    "times in a zone": np.array([datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)] * 2),
    "volumes": np.ones((2, 3, 4, 5, 1), np.float32), "numbers as names": {0: np.ones(3), 1: 2.0},
    "infinities": np.full((2, 3), np.inf, np.float32), "beyond float32": np.full((2, 3), 1e300),
    "booleans": np.ones((2, 3), bool), "two booleans": np.array([True, False]),
    "a container": jax.tree_util.Partial(lambda x: x, np.ones(3, np.float32)),
    "a spec": jn.spec((2, 3)), "a key": jax.random.key(0), "bytes": b"abc", "a path": "nowhere/a",
}  # fmt: skip
with contextlib.suppress(ImportError):  # not every environment has them
    import flax.nnx
    import pandas

    WRONG["a series"] = pandas.Series([1.0, 2.0, 3.0], index=[2, 0, 1])
    WRONG["a frame"] = pandas.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})
    WRONG["a module"] = flax.nnx.Linear(3, 2, rngs=flax.nnx.Rngs(0))
EXAMPLES: set[str] = set()  # the file names of their code
# The first two are called with data of their own, see `runs`; the last waits for the profiler.
LEFT_OUT = {"fit", "sweep", "time_by_layer"}
# Draw with the keys of a method that is given.
RANDOM = {"unsupervised.pretrain.pretrain_greedy"}
LARGE = {"rnnsearch", "cifar_resnet", "lenet5", "unet"}  # slow to call
PHOTO, WORDS = jn.spec((2, 224, 224, 3)), jn.spec((2, 5), jnp.int32)
LARGE_INPUTS = {
    "models.alexnet": PHOTO, "models.vgg": PHOTO,
    "models.resnet": PHOTO, "models.googlenet": PHOTO, "models.fcn": PHOTO,
    **{f"models.{name}": jn.spec((1, 64, 64, 3)) for name in (
        "convnext", "densenet", "efficientnet", "mobilenet_v2", "mobilenet_v3", "vit")},
    "models.cifar_resnet": jn.spec((2, 32, 32, 3)), "models.lenet5": jn.spec((2, 28, 28, 1)),
    "models.rnnsearch": (WORDS, jn.spec((2,), jnp.int32), WORDS),
}  # fmt: skip
# Next to what a check reads, a program writes these out; no data of a user reach them.
WRITTEN_OUT = {"who", "what", "form", "dtype", "sizes", "minimum", "interval", "meaning", "rank",
               "passing", "optional", "empty"}  # fmt: skip
KEY = jax.random.key(3)
# The parameters whose first axis is the batch, as it is of the result.
BATCHED = {
    "rotary": ("x",),
    "losses.half_squared_error": ("outputs", "targets"),
    "losses.perceptron": ("outputs", "targets"),
    "metrics.accuracy": ("outputs", "targets"),
    "detection.area": ("boxes",),
    "models.yolo_decode": ("outputs",),
    "models.yolo_loss": ("outputs", "targets"),
    "data.warp": ("x", "matrix"),
    "predict": ("x",),
    "decoding.ctc_beam_search": ("logits",),
    "unsupervised.rbm.free_energy": ("x",),
    "unsupervised.rbm.log_likelihood": ("x",),
    "unsupervised.hmm.forward": ("scores", "lengths"),
    "unsupervised.hmm.posteriors": ("scores",),
    "unsupervised.hmm.viterbi": ("scores", "lengths"),
    "unsupervised.hmm.scaled_likelihoods": ("logits",),
    "inspect.saliency": ("x", "target"),
    "inspect.occlusion": ("x",),
    "inspect.integrated_gradients": ("x",),
    "inspect.class_activation_map": ("x",),
}


class Call(NamedTuple):
    """A good call of a public function.

    then: what is done with its result to get numbers.
    reference: computes the value in another way.
    batched: the parameters whose arrays have the batch as their first axis, as the result does.
    """

    name: str
    function: Callable
    args: tuple
    kwargs: dict[str, Any]
    then: Callable[[Any], Any] | None = None
    reference: Callable | None = None
    batched: tuple[str, ...] = ()


class Use(NamedTuple):
    """A call of a function that another one made."""

    args: tuple
    kwargs: dict[str, Any]

    def __call__(self, made: Callable) -> Any:
        return made(*self.args, **self.kwargs)


class Case(NamedTuple):
    """A call, the parameter and the path in it that are replaced, and by which of `WRONG`."""

    call: Call
    what: str
    wrong: str
    path: tuple = ()


class Found(NamedTuple):
    """What became of a case: a judgement of its value, or "ours" or "foreign" and the error."""

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
    by_name = {row.id.split("-")[0].split(" ")[0]: row for row in reversed(ROWS)}
    calls = []
    for full, name, function in found[::every]:
        home = full.partition(".")[0] if "." in full else ""
        if home in ("", "models", "unsupervised") and name in by_name and name not in LARGE:
            calls += of_row(full, by_name[name])
        elif full in LARGE_INPUTS:
            calls += [
                call._replace(then=traced(LARGE_INPUTS[full]))
                for call in recorded(full, name, function)
            ]
        else:
            calls += recorded(full, name, function)
    return calls


def of_row(full: str, row: Row) -> list[Call]:
    """The call that makes the layer of a row of the catalogue, then init and apply of the layer."""
    function, x, keys = operator.attrgetter(full)(jn), fill(row), {"key": KEY}
    keys["train"] = row.train != "random"
    args, kwargs = options_of(full, row)

    def run(layer):
        params, state = made_up(jax.eval_shape(layer.init, KEY, row.x))
        return layer.apply(params, state, x, **keys)[0]

    layer = row.make()
    params, state = made_up(jax.eval_shape(layer.init, KEY, row.x))
    return [
        Call(full, function, args, kwargs, run),
        Call(f"{full}.init", layer.init, (KEY, row.x), {}, reference=partial(init_of_specs, layer)),
        Call(
            f"{full}.apply",
            layer.apply,
            (params, state, x),
            keys,
            lambda result: result[0],
            None,
            ("x",) if row.rows and row.train == "same" else (),
        ),
    ]


def init_of_specs(layer: jn.Layer, key: Any, x: Any) -> Any:
    """Params and state depend on the shapes of x alone."""
    return layer.init(key, jax.tree.map(lambda a: jn.spec(a.shape, a.dtype), x))


def made_up(specs: Any) -> Any:
    """Positive params and state, in NumPy, which compiles nothing."""
    rng = np.random.default_rng(0)

    def one(spec):
        if jnp.issubdtype(spec.dtype, jnp.floating):
            return jnp.asarray(rng.uniform(0.2, 1, spec.shape), spec.dtype)
        return jnp.zeros(spec.shape, spec.dtype)

    return jax.tree.map(one, specs)


def traced(x: Any) -> Callable[[Any], Any]:
    """The shapes of params, state and output as a text, for a net that takes seconds to compute."""

    def run(layer):
        made = jax.eval_shape(layer.init, KEY, x)
        given = {"key": KEY, "train": True}
        return str((made, jax.eval_shape(lambda p, s, x: layer.apply(p, s, x, **given), *made, x)))

    return run


def options_of(full: str, row: Row) -> tuple[tuple, dict[str, Any]]:
    """The arguments with which a row calls its public function."""
    home, _, name = full.rpartition(".")
    module = operator.attrgetter(home)(jn) if home else jn
    function, found = getattr(module, name), []

    def record(*args, **kwargs):
        found.append((args, kwargs))
        return function(*args, **kwargs)

    setattr(module, name, record)
    try:
        row.make()
    finally:
        setattr(module, name, function)
    return found[-1] if found else ((), {})  # a row may have the function itself as `make`


def recorded(full: str, name: str, function: Callable) -> list[Call]:
    """The arguments of its first call that is not traced, if its example has one."""
    home = sys.modules[function.__module__]
    EXAMPLES.add(full)
    found: list[Call] = []

    def record(*args, **kwargs):
        if found or any(is_traced(leaf) for leaf in jax.tree.leaves((args, kwargs))):
            return function(*args, **kwargs)
        known = REFERENCES.get(full)
        second = None if known is None else known.compute
        call = Call(full, function, args, kwargs, None, second, BATCHED.get(full, ()))
        found.append(call)
        made = function(*args, **kwargs)
        if not callable(made):
            raise Recorded

        def use(*args, **kwargs):  # what is done with the function that was made
            if any(is_traced(leaf) for leaf in jax.tree.leaves((args, kwargs))):
                return made(*args, **kwargs)
            found[0] = call._replace(then=Use(args, kwargs))
            raise Recorded

        return use

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


def runs() -> list[Call]:
    """Calls of what trains or keeps a training: `fit`, `sweep` and `Checkpoints`."""
    net = jn.dense(1)
    objective = jn.supervised(net, jn.losses.half_squared_error)
    data = np.arange(12, dtype=np.float32).reshape(6, 2), np.ones((6, 1), np.float32)
    trainer = jn.trainer(objective, optax.sgd(0.01))
    train_state = trainer.init(KEY, data)
    options = {"epochs": 1, "batch_size": 3, "progress": False}
    (epoch,) = jn.fit(trainer, train_state, data, **options)

    def kept(checkpoints):
        checkpoints.save(epoch)
        with checkpoints:
            pass
        return len(list(Path().rglob("*.safetensors"))), len(list(Path().rglob("run")))

    return [
        Call(
            "fit",
            jn.fit,
            (trainer, train_state, data),
            options,
            lambda epochs: [e.train_state.params for e in itertools.islice(epochs, 3)],
        ),
        Call(
            "sweep",
            jn.sweep,
            (objective, optax.sgd, data),
            options | {"seeds": 2, "grid": {"learning_rate": [0.1, 0.01]}},
            lambda found: found.train,
        ),
        Call("Checkpoints", jn.Checkpoints, ("kept",), {}, kept),
    ]


def unlike(call: Call) -> str:
    """What a call gives instead of its reference; empty for that value or an error of ours."""
    found, result = run(call)
    if found.what == "ours":
        return ""
    if found.error is not None:
        return f"{call.name}: {type(found.error).__name__}: {found.error}"
    assert call.reference is not None
    other, wanted = run(call._replace(function=call.reference))
    if alike(numbers(result), numbers(wanted)):
        return ""
    return f"{call.name}: {numbers(result)}, right is {other.error or numbers(wanted)}"[:300]


@jax.custom_jvp
def _square(a):
    return a * a


_square.defjvp(lambda primals, tangents: (primals[0] ** 2, 2 * primals[0] * tangents[0]))

# Losses that compare each example with its target if outputs and targets have one shape.
REDUCING: dict[str, Callable] = {
    "mean": lambda o, t: jnp.mean((o - t) ** 2),
    "sum": lambda o, t: jnp.sum(jnp.abs(t - o)),
    "norm": lambda o, t: jnp.linalg.norm(o - t),
    "max": lambda o, t: jnp.max(jnp.abs(o - t)),
    "product": lambda o, t: jnp.mean(jnp.maximum(0, 1 - o * t)),
    "where": lambda o, t: jnp.mean(jnp.where(t > 0, jnp.log1p(o), o)),
    "compiled": jax.jit(lambda o, t: jnp.mean((o - t) ** 2)),
    "remat": jax.checkpoint(lambda o, t: jnp.mean((o - t) ** 2)),
    "own derivative": lambda o, t: jnp.mean(_square(o - t)),
    "branches": lambda o, t: jax.lax.cond(
        o.sum() > 0, lambda o, t: jnp.mean((o - t) ** 2), lambda o, t: jnp.mean(o - t), o, t
    ),
    "loop": lambda o, t: jax.lax.fori_loop(0, 3, lambda i, s: s + jnp.mean((o - t) ** 2), 0.0),
    "optax": lambda o, t: jnp.mean(optax.huber_loss(o, t)),
    "logits": lambda o, t: jnp.mean(optax.sigmoid_binary_cross_entropy(o, t)),
    "pair": lambda o, t: (jnp.sum((o - t) ** 2), jnp.float32(o.size)),
    "pair of rows": lambda o, t: (jnp.mean((o - t) ** 2, 1), jnp.ones(len(o))),
    "16 bits": lambda o, t: jnp.mean((o.astype(jnp.bfloat16) - t) ** 2).astype(jnp.float32),
}


def reducing() -> list[Call]:
    """Losses and metrics that reduce, of outputs (n, 1) and targets (n,): an error or their value.

    The reference gets targets (n, 1).
    """
    x = np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2) ** 3
    t = np.array([1, 0, 2, 1, 3], np.float32)
    net = jn.dense(1)
    params = {"kernel": np.array([[0.5], [2.0]], np.float32), "bias": np.ones(1, np.float32)}

    def plain(o, t):
        return jnp.mean(jnp.abs(o), -1)

    def measured(loss, batch, **metrics):
        return jn.evaluate(jn.supervised(net, loss, metrics=metrics), params, {}, batch)

    def trained(loss, batch):
        trainer = jn.trainer(jn.supervised(net, loss), optax.sgd(0.1))
        start = trainer.init(KEY, batch, params)
        options = {"epochs": 1, "batch_size": 5, "progress": False}
        return [list(epoch.losses) for epoch in jn.fit(trainer, start, batch, **options)]

    def sweep(loss, batch):
        objective, options = jn.supervised(net, loss), {"epochs": 1, "batch_size": 5, "seeds": 2}
        return jn.sweep(objective, lambda: optax.sgd(0.1), batch, progress=False, **options).train

    def masked(loss, batch):
        mask = np.ones(np.shape(batch[1]), np.float32)
        return measured(jn.losses.masked(loss), (batch[0], (batch[1], mask)))

    ways = {
        "evaluate": measured,
        "a metric": lambda loss, batch: measured(plain, batch, own=loss),
        "masked": masked,
        "fit": trained,
        "sweep": sweep,
    }
    found = []
    for way, function in ways.items():
        for name in REDUCING if way in ("evaluate", "a metric") else ("mean", "branches"):

            def right(loss, batch, run=function):
                return run(loss, (x, t[:, None]))

            args = REDUCING[name], (x, t)
            found.append(Call(f"{way} of {name}", function, args, {}, None, right))
    return found


class Fresh(Mapping):
    """Weights that are made each time they are asked for, as a file that is read lazily does."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array(self.arrays[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def lazy() -> list[Call]:
    """Functions that read weights, with mappings whose arrays are new, views of one, or read-only.

    The reference gets a dict of copies.
    """
    rng = np.random.default_rng(0)
    many = rng.normal(size=(6, 8, 8)).astype(np.float32)
    many.flags.writeable = False
    names = [f"{i}.weight" for i in range(6)]
    net = jn.serial(*[jn.dense(8, use_bias=False) for _ in names])
    x = jn.spec((2, 8))
    text = jn.models.decoder(11, depth=3, width=8, heads=2, mlp_features=16)
    table = jn.pretrained.decoder_table({
        "model_type": "llama", "vocab_size": 11, "num_hidden_layers": 3, "hidden_size": 8,
        "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16,
    })  # fmt: skip
    ids = jn.spec((1, 4), jnp.int32)
    drawn = jax.device_get(text.init(KEY, ids)[0])
    stored = {
        name: np.asarray(a) for name, a in jn.interop.to_names(text, drawn, {}, ids, table).items()
    }
    first, *others = names
    by_path = {"dense/kernel": first}
    by_path |= {f"dense_{i}/kernel": name for i, name in enumerate(others, 1)}
    readers: dict[str, tuple[Callable, dict[str, np.ndarray]]] = {
        "from_torch": (
            lambda weights: jn.interop.torch.from_torch(net, weights, x)[0],
            dict(zip(names, many, strict=True)),
        ),
        "by_names": (
            lambda weights: jn.interop.by_names(net, weights, x, by_path)[0],
            dict(zip(names, many, strict=True)),
        ),
        "by_names of a decoder": (
            lambda weights: jn.interop.by_names(text, weights, ids, table)[0],
            stored,
        ),
    }
    return [
        Call(
            f"{name} of {form}",
            read,
            (weights,),
            {},
            None,
            lambda weights, read=read: read({n: np.array(a) for n, a in weights.items()}),
        )
        for name, (read, arrays) in readers.items()
        for form, weights in (("arrays made anew", Fresh(arrays)), ("views", arrays))
    ]


class Entry(NamedTuple):
    """A decoder's configuration, and the same with one other entry, which may be accepted."""

    what: str
    usual: dict[str, Any]
    config: dict[str, Any]
    may: bool = True


def configurations() -> Iterator[Entry]:
    """Each entry of each family with another value, and misspelled."""
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4}
    # With these, lengths and windows have an effect.
    needed = {"rope_scaling": scaling, "use_sliding_window": True}
    for family, found in FAMILIES.items():
        defaults, only, aliases = found.defaults, found.only, found.aliases
        base = {n: value for n, value in needed.items() if n in defaults} | {"model_type": family}
        depth = defaults.get("num_hidden_layers", 1)
        for entry, default in (defaults | only | dict.fromkeys(aliases)).items():
            usual = {n: value for n, value in base.items() if "rope_" not in n + entry}
            usual = base if entry == "rope_scaling" or "rope_" not in entry else usual
            value = usual.get(entry, default)
            if isinstance(value, bool):
                others = [not value]
            elif isinstance(value, int | float):
                others = [value * 2]
            else:
                others = [64, "relu", ["full_attention"] * depth, scaling | {"factor": 2.0}]
            for other in others:
                what = f"{family}: {entry}={other!r:.40}"
                yield Entry(what, usual, usual | {entry: other})
            yield Entry(f"{family}: {entry}s", usual, usual | {f"{entry}s": value}, False)


def ignored() -> list[str]:
    """Entries of a decoder's configuration that are accepted and change no option.

    Misspelled entries must raise, and no entry may end in a foreign error.
    """

    def options(config):
        return run(Call("decoder_config", jn.pretrained.decoder_config, (config,), {}, str))

    wrong = []
    for what, usual, config, may in configurations():
        found, text = options(config)
        if found.what == "foreign":
            wrong.append(f"{what}: {type(found.error).__name__}: {found.error}")
        elif found.what == "value" and (not may or text == options(usual)[1]):
            wrong.append(f"{what}: ignored")
    return wrong


def cases(calls: list[Call]) -> list[Case]:
    """Every parameter of every call, and every array inside of one, with every wrong value."""
    found = []
    for call in calls:
        for what, parameter in inspect.signature(call.function).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if call.name.startswith("tools.") and what in WRITTEN_OUT:
                continue
            for path in [(), *paths(bound(call).get(what))]:
                found += [Case(call, what, wrong, path) for wrong in WRONG]
    return found


def bound(call: Call) -> dict[str, Any]:
    return inspect.signature(call.function).bind(*call.args, **call.kwargs).arguments


def paths(value: Any) -> list[tuple]:
    """Of the arrays inside of a tuple, a list or a dict."""
    if isinstance(value, jn.Layer) or not isinstance(value, tuple | list | dict):
        return []
    leaves = jax.tree_util.tree_leaves_with_path(value)
    return [path for path, leaf in leaves if isinstance(leaf, np.ndarray | jax.Array)]


def changed(case: Case) -> Call:
    """The call with its bad argument."""
    call, wrong = case.call, WRONG[case.wrong]
    known = inspect.signature(call.function).bind(*call.args, **call.kwargs)
    if case.path:
        old = known.arguments[case.what]
        leaves, tree = jax.tree_util.tree_flatten_with_path(old)
        wrong = tree.unflatten([wrong if path == case.path else leaf for path, leaf in leaves])
    known.arguments[case.what] = wrong
    return call._replace(args=known.args, kwargs=known.kwargs)


def outcome(case: Case) -> Found:
    """What a call with one bad argument gives: an error, or a value with a judgement."""
    call = changed(case)
    found, result = run(call)
    if found.what != "value":
        return found
    return Found(judged(case.call, call, result))


def run(call: Call) -> tuple[Found, Any]:
    """What became of a call, and its result."""
    try:
        with quiet():
            result = call.function(*call.args, **call.kwargs)
            if call.then is not None:
                result = call.then(result)
            if inspect.isgenerator(result):
                result = list(itertools.islice(result, 9))
            jax.block_until_ready([a for a in jax.tree.leaves(result) if isinstance(a, jax.Array)])
    except Exception as error:  # every kind counts
        frames = traceback.extract_tb(error.__traceback__)
        line = frames[-1].line or ""
        raised = Path(frames[-1].filename).is_relative_to(OURS) and line.startswith("raise")
        ours = raised or says_who(error) or says_whose(error, frames)
        return Found("ours" if ours else "foreign", error), None
    return Found("value"), result


def says_who(error: BaseException) -> bool:
    """Whether a foreign error begins with a name of ours and a colon, as our messages do.

    A note alone does not count: below it stands what Python said.
    """
    who = str(error).partition(":")[0]
    return bool(who) and who.split("/")[-1].split("[")[0] in names_of_ours()


def says_whose(error: BaseException, frames: list[traceback.FrameSummary]) -> bool:
    """Whether a function of an example or of a row raised, and a note says where it was called."""
    files = [frame.filename for frame in frames]
    after = itertools.takewhile(lambda file: not Path(file).is_relative_to(OURS), files[::-1])
    users = (file.endswith("tests/catalogue.py") or file in EXAMPLES for file in after)
    return any(users) and bool(getattr(error, "__notes__", ()))


@cache
def names_of_ours() -> set[str]:
    """Names of public functions, and of the rows' layers."""
    public = {name for part in PARTS for name in members(part)}
    return public | {row.make().name for row in ROWS if row.id not in LARGE}


def judged(good: Call, call: Call, result: Any) -> str:
    """What is known about the value of a call with a bad argument; see the top of this file."""
    found = numbers(result)
    if good.name not in GOOD:
        GOOD[good.name] = numbers(run(good)[1])
    if alike(found, GOOD[good.name]) and (found or good.name.endswith(".init")):
        return "same"
    if call.reference is not None:
        other, wanted = run(call._replace(function=call.reference))
        if other.what == "value":  # what NumPy refuses has no right value
            return "right" if alike(found, numbers(wanted)) else "wrong"
    axes, before = ([_rank(bound(one).get(name)) for name in call.batched] for one in (call, good))
    if not call.batched or axes < before:  # the first axis may hold the features of one example
        return "unjudged"
    return "alike" if consistent(call, result) else "wrong"


def _rank(value: Any) -> int:
    try:
        return np.ndim(value)
    except ValueError:  # lists of several lengths
        return 0


GOOD: dict[str, list[np.ndarray]] = {}  # the value of a good call


def consistent(call: Call, result: Any) -> bool:
    """Whether the order of the examples does not matter, nor which others are in the batch."""

    def same(rows: slice) -> bool:
        part = run(of_rows(call, rows))[1]
        return alike(numbers(part), numbers(jax.tree.map(lambda a: a[rows], result)))

    return same(slice(None, None, -1)) and same(slice(1))


def of_rows(call: Call, rows: slice) -> Call:
    """The call for some examples of its batch."""
    known = inspect.signature(call.function).bind(*call.args, **call.kwargs)
    for what in call.batched:
        value = known.arguments[what]
        known.arguments[what] = (
            value[rows] if isinstance(value, list) else jax.tree.map(lambda a: a[rows], value)
        )
    return call._replace(args=known.args, kwargs=known.kwargs)


def in_float64(call: Call) -> str:
    """What the call gives in float64 instead of the same value; empty if it is the same.

    Draws differ with the dtype, so a call with a key is not compared.
    """
    used = tuple(call.then) if isinstance(call.then, Use) else ()
    leaves, tree = jax.tree.flatten((call.args, call.kwargs, used))
    found, result = run(call)
    if found.what != "value" or call.name in RANDOM or any(map(_is_key, leaves)):
        return ""
    with enable_x64(True):
        wide = [jnp.asarray(np.asarray(a), float) if _is_float32(a) else a for a in leaves]
        args, kwargs, used = tree.unflatten(wide)
        then = Use(*used) if used else call.then
        other, again = run(call._replace(args=args, kwargs=kwargs, then=then))
        if other.what != "value":
            return f"{type(other.error).__name__}: {other.error}"
        return "" if alike(numbers(again), numbers(result), 1e-3) else "another result"


OFF_MESH = {"unsupervised.hmm.fit_hmm"}  # its example compiles programs without an argument


def on_a_mesh(call: Call) -> str:
    """What the call gives for arrays on a mesh with Explicit axes instead of the same value."""
    used = tuple(call.then) if isinstance(call.then, Use) else ()
    leaves, tree = jax.tree.flatten((call.args, call.kwargs, used))
    found, result = run(call)
    if found.what != "value" or call.name in OFF_MESH:
        return ""
    mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Explicit,))
    place = jax.NamedSharding(mesh, jax.P("data"))
    batch = {id(a) for name in call.batched for a in jax.tree.leaves(bound(call).get(name))}
    whole = jax.NamedSharding(mesh, jax.P())
    moved = []
    for a in leaves:
        if isinstance(a, jax.Array):
            a = jax.device_put(a, place if id(a) in batch else whole)
        moved.append(a)
    args, kwargs, used = tree.unflatten(moved)
    then = Use(*used) if used else call.then
    what = difference(call._replace(args=args, kwargs=kwargs, then=then), numbers(result))
    return what.splitlines()[0] if what else ""


# In 16 bits these have another value, for another reason than lost digits.
OTHER_IN_16_BITS: dict[str, str] = {}


def in_16_bits(call: Call, dtype: Any) -> str:
    """What the call gives in bfloat16 or float16 instead of float32's value; empty if it is near.

    The float32 call gets the rounded numbers. Rows of losses, metrics and penalties are repeated to
    some thousands, since a sum in 16 bits is right for a few. Draws differ with the dtype, so a
    call with a key is not compared.
    """
    used = tuple(call.then) if isinstance(call.then, Use) else ()
    leaves, tree = jax.tree.flatten((call.args, call.kwargs, used))
    narrow = [_cast(a, dtype) for a in leaves]
    if call.name in RANDOM or any(map(_is_key, leaves)) or not any(map(_is_float32, leaves)):
        return ""

    def changed(new: list) -> Call:
        args, kwargs, used = tree.unflatten(new)
        return call._replace(args=args, kwargs=kwargs, then=Use(*used) if used else call.then)

    versions = [changed([_cast(a, np.float32) for a in narrow]), changed(narrow)]
    if call.name.startswith(("losses.", "metrics.", "penalties.")):
        versions = [many_rows(one) for one in versions]
    (wide, wanted), (found, result) = map(run, versions)
    if "value" not in (wide.what, found.what) or found.what == "ours":
        return ""
    if found.error is not None:
        return f"{type(found.error).__name__}: {found.error}"
    pairs = [numbers(result), numbers(wanted)]
    if len(pairs[0]) != len(pairs[1]):
        return "another structure"
    off = [_off(*pair, jnp.finfo(dtype)) for pair in zip(*pairs, strict=True)]
    return f"off by {max(off):.2g} of the largest entry" if any(off) else ""


def many_rows(call: Call, count: int = 4096) -> Call:
    """The call with its examples repeated; the call itself if its rows are no examples."""
    used = tuple(call.then) if isinstance(call.then, Use) else ()
    arrays = [a for a in jax.tree.leaves((call.args, used)) if np.ndim(a)]
    if not arrays:
        return call
    n = len(arrays[0])

    def repeated(a):
        return jnp.tile(a, (count // n, *[1] * (np.ndim(a) - 1))) if np.shape(a)[:1] == (n,) else a

    args, used = jax.tree.map(repeated, (call.args, used))
    many = call._replace(args=args, then=Use(*used) if used else call.then)
    return many if run(many)[0].what == "value" else call


def _cast(a: Any, dtype: Any) -> Any:
    floats = isinstance(a, np.ndarray | jax.Array) and jnp.issubdtype(a.dtype, jnp.floating)
    return jnp.asarray(a).astype(dtype) if floats and a.dtype.itemsize <= 4 else a


def _off(found: np.ndarray, wanted: np.ndarray, info: Any) -> float:
    """The largest difference of two arrays by the largest entry; 0 within rounding."""
    if found.shape != wanted.shape:
        return np.inf
    if not jnp.issubdtype(wanted.dtype, jnp.floating):
        return 0.0 if (found == wanted).all() else np.inf
    wanted = wanted.astype(found.dtype).astype(np.float64)  # also beyond the range of 16 bits
    found = found.astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(found[~finite], wanted[~finite], equal_nan=True):
        return np.inf
    difference = np.abs(found - wanted)[finite].max(initial=0)
    largest = np.abs(wanted)[finite].max(initial=0)
    off = difference / max(largest, float(info.tiny))
    return 0.0 if off <= 8 * float(info.eps) else off


def _is_float32(a: Any) -> bool:
    return isinstance(a, np.ndarray | jax.Array) and a.dtype == np.float32


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

    Each array takes another form than its neighbor, and each of its forms once or more.
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
    """The arrays, numbers and words of a result."""
    if isinstance(result, jn.Layer):
        return []
    kinds = np.ndarray | np.generic | jax.Array | int | float | str
    found = [a for a in jax.tree.leaves(result) if isinstance(a, kinds)]
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


def alike(a: list[np.ndarray], b: list[np.ndarray], tolerance: float = 1e-4) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape
        and (
            np.allclose(x, y, rtol=tolerance, atol=tolerance / 10, equal_nan=True)
            if x.dtype.kind in "biufc" and y.dtype.kind in "biufc"
            else (x == y).all()
        )
        for x, y in zip(a, b, strict=True)
    )


def told(case: Case, found: Found) -> str:
    """One line about a foreign error, or about a value."""
    place, error = case.what + jax.tree_util.keystr(case.path), found.error
    if error is None:
        return f"{case.call.name}({place}={case.wrong}): {found.what}"
    last = [
        f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(str(OURS))
    ]
    at = f"{Path(last[-1].filename).relative_to(OURS)}:{last[-1].lineno}" if last else "?"
    line = f"{case.call.name}({place}={case.wrong}) at {at}: {type(error).__name__}: {error}"
    return line.replace("\n", " ")[:160]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forms", action="store_true", help="the same numbers in every form too")
    parser.add_argument("--bits", action="store_true", help="good calls in 16 bits too")
    parser.add_argument("--unjudged", action="store_true", help="list the values not judged")
    options = parser.parse_args()
    everything = cases(good_calls())
    drawn = random.Random(options.seed).sample(everything, min(options.count, len(everything)))
    tally: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for case in tqdm(drawn, disable=None):
        found = outcome(case)
        tally[found.what] += 1
        if found.what in ("foreign", "wrong", *["unjudged"] * options.unjudged):
            tqdm.write(told(case, found))
        if found.what == "foreign":
            places[told(case, found).split(" at ")[1].split(": ")[0]] += 1
    print(f"{len({case.call.name for case in everything})} functions, {len(drawn)} cases: {tally}")
    print("foreign:", places.most_common(40))
    if options.forms:
        for call in good_calls():
            for line in differences(call):
                print(line)
    for dtype in (jnp.bfloat16, jnp.float16) if options.bits else ():
        for call in good_calls():
            if line := in_16_bits(call, dtype):
                print(f"{call.name} in {jnp.dtype(dtype).name}: {line}")
    for line in [*filter(None, map(unlike, reducing() + lazy())), *ignored()]:
        print(line)


if __name__ == "__main__":
    main()
