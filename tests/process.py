"""What belongs to the whole process, before and after calls of the library.

`python -m tests.process each FOLDER` prints a JSON dict: what each call changed.
`python -m tests.process threads FOLDER` calls all from six threads at once, each for the first
time, and prints what they changed together. `python -m tests.process good FOLDER 2/4` makes the
second quarter of all good calls of `tools.hostile`, one after the other, and prints their results,
and the programs that were started.
"""

import contextlib
import faulthandler
import gc
import json
import locale
import logging
import os
import random
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "agg")

import jax
import numpy as np
import optax

import jaxnet as jn
from jaxnet.interop import export, to_names
from tests.readers import (
    by_names,
    profiled,
    write_image,
    write_trace,
    write_vocabulary,
    write_weights,
)

THREADS = 6
# Programs that other packages start, and where; SECURITY.md names them.
OF_OTHERS = {"lscpu": "joblib, of scikit-learn, counts the processors in the first `fit_kmeans`"}
STARTED: set[str] = set()  # all programs that the process started
X = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
NET = jn.serial(jn.dense(3), jax.nn.relu, jn.dense(2))
PARAMS, STATE = NET.init(jax.random.key(0), X)
DATA = X, np.zeros(len(X), np.int32)
LOSS = jn.losses.cross_entropy
TABLE = {"kernel": "w", "bias": "b"}
WORDS = jn.serial(jn.embedding(9, 8), jn.gru(8), jn.dense(9))


def note_programs(event: str, args: tuple) -> None:
    """Note the name of a program that is started; a hook of `sys.addaudithook`."""
    if event in ("subprocess.Popen", "os.posix_spawn", "os.exec"):
        named = args[1] if event == "subprocess.Popen" and not args[0] else args[0]
        first = named if isinstance(named, str | bytes | os.PathLike) else named[0]
        STARTED.add(Path(os.fsdecode(first)).name)
    elif event == "os.system":
        STARTED.add(str(args[0]))


def state() -> dict[str, Any]:
    """Return what belongs to the process, in forms that can be compared and printed."""
    kind, numbers, *rest = np.random.get_state()
    return {
        "filters of warnings": [str(each) for each in warnings.filters],
        "functions of warnings": [id(warnings.showwarning), id(warnings.formatwarning)],
        "signals": {str(n): repr(signal.getsignal(n)) for n in signal.valid_signals()},
        "errors of NumPy": [np.geterr(), repr(np.geterrcall())],
        "printing of NumPy": repr(np.get_printoptions()),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "random numbers": hash(random.getstate()),
        "random numbers of NumPy": [kind, numbers.tolist(), *rest],
        "settings of JAX": {name: repr(value) for name, value in jax.config.values.items()},
        "loggers": loggers(),
        "settings of matplotlib": settings_of_matplotlib(),
        "paths": [*sys.path],
        "importers": [repr(each) for each in (*sys.meta_path, *sys.path_hooks)],
        "hooks": [id(sys.excepthook), id(sys.displayhook), id(sys.unraisablehook)],
        "hooks of threads": [id(threading.excepthook), sys.gettrace(), sys.getprofile()],
        "streams": [id(sys.stdin), id(sys.stdout), id(sys.stderr)],
        "limits": [sys.getrecursionlimit(), sys.getswitchinterval(), threading.stack_size()],
        "memory": [gc.isenabled(), gc.get_threshold(), faulthandler.is_enabled()],
        "language": locale.setlocale(locale.LC_ALL),
    }


def loggers() -> dict[str, list]:
    """Return what is set on each logger; new ones are only named."""
    found = {}
    for name, logger in [("root", logging.root), *logging.root.manager.loggerDict.items()]:
        if isinstance(logger, logging.Logger):
            handlers = [repr(handler) for handler in logger.handlers]
            found[name] = [logger.level, handlers, logger.disabled, logger.propagate]
    return found


def settings_of_matplotlib() -> dict[str, str]:
    matplotlib = sys.modules.get("matplotlib")
    return {} if matplotlib is None else {k: str(v) for k, v in matplotlib.rcParams.items()}


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Say what differs; what a package set on a logger of its own that is new does not."""
    found = []
    for name, old in before.items():
        new = after[name]
        if isinstance(old, dict):
            names = old if name == "loggers" else old | new
            found += [
                f"{name}: {key} {old.get(key)} -> {new.get(key)}"
                for key in names
                if old.get(key) != new.get(key)
            ]
        elif old != new:
            found.append(f"{name}: {old!s:.300} -> {new!s:.300}")
    return found


def trainer() -> Any:
    return jn.trainer(jn.supervised(NET, LOSS), optax.sgd(0.1))


def fit() -> None:
    run = trainer()
    for _ in jn.fit(run, run.init(jax.random.key(0), DATA), DATA, epochs=1, evaluate=DATA):
        pass


def sweep() -> None:
    objective, grid = jn.supervised(NET, LOSS), {"learning_rate": [0.1, 0.01]}
    jn.sweep(objective, optax.sgd, DATA, epochs=1, seeds=2, grid=grid)


def doctor() -> Any:
    run = trainer()
    return jn.inspect.doctor(run, run.init(jax.random.key(0), DATA), DATA)


def generate() -> Any:
    ids = np.ones((1, 4), np.int32)
    params, _ = WORDS.init(jax.random.key(0), ids)
    return jn.decoding.generate(WORDS, params, ids, jax.random.key(1), length=3)


def saved(folder: Path) -> Any:
    file = folder / f"net-{threading.get_ident()}"
    jn.save(file, PARAMS)
    return jn.load(file)


def checkpoints(folder: Path) -> None:
    run = trainer()
    started = run.init(jax.random.key(0), DATA)
    with jn.Checkpoints(folder / f"checkpoints-{threading.get_ident()}") as kept:
        for epoch in jn.fit(run, started, DATA, epochs=1):
            kept.save(epoch)
        kept.newest(started)


def figures(folder: Path) -> None:
    jn.viz.save(jn.viz.images(np.zeros((3, 8, 8, 1))), folder / f"{threading.get_ident()}.png")
    jn.viz.curves({"loss": {"train": [2.0, 1.0]}})


def speech() -> None:
    wave = np.random.default_rng(0).normal(size=4000)
    jn.data.mfcc([wave, wave[:1500]], rate=8000)
    jn.data.log_mel([wave], rate=8000)


def adapted(folder: Path) -> None:
    net = jn.lora(NET, 2, where="*/kernel")
    params, _ = net.init(jax.random.key(0), X)
    place = folder / f"adapter-{threading.get_ident()}"
    jn.pretrained.save_adapter(place, net, params)
    jn.pretrained.load_adapter(place, net, params)


def memory_kept() -> None:
    jn.reuse_memory()
    jn.reuse_memory(False)


def calls(folder: Path) -> dict[str, Callable[[], Any]]:
    """Return public calls by name; what they read is written before."""
    image, words = folder / "class/image.png", folder / "subwords.json"
    net = NET, PARAMS, STATE
    return {
        "fit": fit,
        "generate": generate,
        "evaluate": lambda: jn.evaluate(jn.supervised(NET, LOSS), PARAMS, STATE, DATA),
        "predict": lambda: jn.predict(*net, X),
        "sweep": sweep,
        "doctor": doctor,
        "summary": lambda: str(jn.summary(NET, X)),
        "save and load": partial(saved, folder),
        "Checkpoints": partial(checkpoints, folder),
        "export": lambda: export.export(*net, X),
        "to_names": lambda: to_names(jn.dense(3), PARAMS["dense"], {}, X, TABLE),
        "by_names of files": partial(by_names, folder / "weights"),
        "save_adapter and load_adapter": partial(adapted, folder),
        "time_by_layer": lambda: jn.profile.time_by_layer(profiled(), folder / "trace"),
        "cost_by_layer": lambda: jn.profile.cost_by_layer(profiled()),
        "read_image": lambda: jn.data.read_image(image, 2),
        "read_pages": lambda: jn.data.read_pages(image),
        "image_folder": lambda: jn.data.image_folder(folder / "images", 2),
        "Vocabulary.load": lambda: jn.data.Vocabulary.load(words),
        "digits": jn.data.digits,
        "tfds.load": lambda: jn.data.tfds.load("pictures", "train", data_dir=folder / "sets"),
        "tfds.source": lambda: jn.data.tfds.source("pictures", "train", data_dir=folder / "sets")[
            0
        ],
        "mfcc": speech,
        "viz": partial(figures, folder),
        "check_gradients": lambda: jn.inspect.check_gradients(NET, X),
        "receptive_fields": lambda: jn.inspect.receptive_fields(jn.conv(2, 3), X[None, ..., None]),
        "saliency": lambda: jn.inspect.saliency(*net, X, 0),
        "machine": jn.inspect.machine,
        "accelerate": lambda: jn.accelerate(lambda x: NET.apply(PARAMS, STATE, x)[0])(X),
    }


def calls_alone() -> dict[str, Callable[[], Any]]:
    """Return calls that only one thread may make at a time.

    scikit-learn changes the filters of warnings for the duration of its k-means, and
    `jn.reuse_memory` changes the process as it says.
    """
    return {
        "fit_kmeans": lambda: jn.unsupervised.kmeans.fit_kmeans(jax.random.key(0), X, 2),
        "reuse_memory": memory_kept,
    }


def prepare(folder: Path) -> None:
    """Write what the calls read, and import what they import of other packages."""
    import librosa.feature  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import sklearn.datasets  # noqa: F401

    from tests.data.builders.test_records import dataset

    write_image(folder)
    (folder / "weights").mkdir()
    write_image(folder / "images")
    write_vocabulary(folder)
    write_trace(folder / "trace")
    write_weights(folder / "weights")
    dataset(folder / "sets", {})
    profiled()


def each(folder: Path) -> dict[str, list[str]]:
    """Call one after the other, and return what each of them changed."""
    found = {}
    for name, call in (calls(folder) | calls_alone()).items():
        before = state()
        call()
        found[name] = changes(before, state())
    return found


def together(folder: Path) -> dict[str, list[str]]:
    """Call each from several threads at once, and return what all of them changed."""
    wrong = {}
    start = threading.Barrier(THREADS)

    def run() -> None:
        for name, call in calls(folder).items():
            start.wait()
            try:
                call()
            except Exception:
                wrong[name] = [traceback.format_exc()]

    before = state()
    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong | {"all": changes(before, state())}


def good(folder: Path, part: int, parts: int) -> dict[str, list[str]]:
    """Make each good call of a part, and return what each of them changed."""
    from tools import hostile

    os.chdir(folder)
    changed = changed_by(hostile.good_calls()[part - 1 :: parts])
    return changed | {"programs": sorted(STARTED - OF_OTHERS.keys())}


def changed_by(made: list) -> dict[str, list[str]]:
    """Make good calls of `tools.hostile`, print their results, and return what each changed."""
    found = {}
    for call in made:
        before = state()
        result: Any = None
        cannot_be_printed = []
        with contextlib.suppress(Exception):  # some examples show an error
            result = call.function(*call.args, **call.kwargs)
            result = call.then(result) if call.then is not None else result
        try:
            print(result, repr(result))
        except UnicodeEncodeError as error:
            cannot_be_printed = [repr(error)]
        found[call.name] = changes(before, state()) + cannot_be_printed
    return found


if __name__ == "__main__":
    way, place, *which = sys.argv[1:]
    folder = Path(place).resolve()
    folder.mkdir(exist_ok=True)
    sys.addaudithook(note_programs)
    prepare(folder)
    if way == "good":
        part, parts = map(int, which[0].split("/"))
        print(json.dumps(good(folder, part, parts)))
    else:
        print(json.dumps({"each": each, "threads": together}[way](folder)))
