"""What the functions that read files do to the process, seen by an audit hook of Python.

`python -m tests.readers FOLDER` prints a JSON dict: what each reader did with each file that it
may not do. A hook cannot be removed, so the tests run this in a process of its own.
"""

import contextlib
import io
import json
import os
import pickle
import shutil
import sys
import sysconfig
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxnet as jn
from jaxnet.interop import export
from jaxnet.training import append_log

MODULE = "module_of_a_stranger"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EndComments\nshowpage\n%%EOF\n"
# These say nothing: how modules are found, what objects are looked at, where a thread begins.
QUIET = (
    "builtins.id", "code.__new__", "ctypes.", "cpython.", "gc.", "glob.", "marshal.",
    "object.", "os.listdir", "os.scandir", "pathlib.", "sys._", "sys.un", "sys.excepthook",
    "sys.set", "_thread.", "threading.", "time.sleep", "tempfile.", "mmap.", "fcntl.flock",
    "array.__new__", "function.__new__", "syslog.", "resource.",
)  # fmt: skip
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib")})
OURS = (str(Path(__file__).parents[1]), os.devnull, "/proc/", "/sys/")


class Audit:
    """Notes what happens while it watches: in all threads, each event once.

    Args:
      folder: Folder of the files that are read; others are noted.
    """

    def __init__(self, folder: Path):
        self.folder, self.seen, self.watching = folder, set(), False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if not self.watching or event.startswith(QUIET):
            return
        try:
            words = self._words(event, args)
        except Exception:
            words = f"{event}: {traceback.format_exc()}"
        if words:
            self.seen.add(words)

    def _words(self, event: str, args: tuple) -> str:
        """Say what happened; "" if it is nothing."""
        if event == "import":
            return f"import {args[0].partition('.')[0]}"
        if event in ("exec", "compile"):
            name = args[0].co_filename if event == "exec" else os.fspath(args[1] or "a text")
            name = name.decode() if isinstance(name, bytes) else name
            return "" if name.startswith(LIBRARIES + ("<frozen",)) else f"{event} {name}"
        if event == "open":
            return self._opened(*args)
        if event in ("os.chmod", "os.chown") and isinstance(args[0], int):  # of an open file
            return ""
        if event.startswith(("os.", "shutil.")) and isinstance(args[0], str | Path):
            return "write inside" if self._inside(args[0]) else f"{event} {args[0]}"
        return event

    def _inside(self, path: Any) -> bool:
        return Path(os.path.abspath(path)).is_relative_to(self.folder)

    def _opened(self, path: Any, mode: str | None, flags: int) -> str:
        if isinstance(path, int) or path is None:
            return ""
        path = os.path.abspath(os.fsdecode(path))
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or set(mode or "") & set("wax+")
        if writes:
            return "write inside" if self._inside(path) else f"write {path}"
        known = self._inside(path) or path.startswith((*LIBRARIES, *OURS))
        return "" if known else f"read {path}"

    @contextlib.contextmanager
    def watch(self) -> Iterator[set[str]]:
        """The set of what happens in the block."""
        self.seen = set()
        self.watching = True
        try:
            yield self.seen
        finally:
            self.watching = False


class _Command:
    """A pickle of it runs a command."""

    def __reduce__(self) -> tuple:
        return os.system, ("true",)


def archive(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(name, data)
    return out.getvalue()


def array_of_objects() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([_Command()], object), allow_pickle=True)
    return out.getvalue()


# What a stranger may put in the place of any file.
CONTENTS = {
    "empty": b"",
    "pickle": pickle.dumps(_Command()),
    "array of objects": array_of_objects(),
    "archive": archive("archive/data.pkl", pickle.dumps(_Command())),
    "program": f"import {MODULE}\n".encode(),
    "script": b"#!/bin/sh\ntrue\n",
    "EPS": EPS,
    "YAML": b"!!python/object/apply:os.system [true]\n",
    "deep JSON": b'{"a":' * 3000,
    "JSON of classes": json.dumps(
        {name: f"{MODULE}.Layer" for name in ("type", "class_name", "module", "auto_map")}
        | {"config": {"py/object": f"{MODULE}.Layer"}, "shared_object_id": 1}
    ).encode(),
}


class Reader:
    """A function that reads files.

    Args:
      write: Function that writes its usual files into a folder.
      read: Function of the folder that reads them.
      may: What may happen when it reads.
      why: Reason, if anything may.
      also: Further contents by a name and the path of a file.
    """

    def __init__(self, write, read, may: tuple = (), why: str = "", also: dict | None = None):
        self.write, self.read, self.may, self.why = write, read, may, why
        self.also = also or {}

    def cases(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """Name and folder of the usual files, then of those with one file of a stranger."""
        usual = folder / "usual"
        usual.mkdir(parents=True)
        self.write(usual)
        yield "usual", usual
        cases = {}
        for path in sorted(usual.rglob("*")):
            if path.is_file() and path.suffix != ".lock":
                for name, data in CONTENTS.items():
                    cases[name, path.relative_to(usual)] = data
                cases["half", path.relative_to(usual)] = path.read_bytes()[
                    : path.stat().st_size // 2
                ]
        cases |= self.also
        for i, ((name, path), data) in enumerate(cases.items()):
            place = folder / str(i)
            shutil.copytree(usual, place)
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(data)
            yield f"{name} as {path}", place


NET = jn.serial(jn.dense(3), jax.nn.relu, jn.dense(2))
X = np.ones((4, 5), np.float32)
PARAMS, STATE = NET.init(jax.random.key(0), X)
LLAMA = {
    "model_type": "llama", "vocab_size": 270, "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 8,
}  # fmt: skip


def write_checkpoints(folder: Path) -> None:
    trainer, train_state = started()
    y = np.zeros((4, 2), np.float32)
    with jn.Checkpoints(folder) as checkpoints:
        for epoch in jn.fit(trainer, train_state, (X, y), epochs=1, progress=False):
            checkpoints.save(epoch)


@cache
def started() -> tuple:
    import optax

    trainer = jn.trainer(jn.supervised(NET, jn.losses.half_squared_error), optax.sgd(0.1))
    return trainer, trainer.init(jax.random.key(0), (X, np.zeros((4, 2), np.float32)))


def read_checkpoints(folder: Path) -> Any:
    with jn.Checkpoints(folder) as checkpoints:
        return checkpoints.newest(started()[1])


def write_image(folder: Path) -> None:
    from PIL import Image

    (folder / "class").mkdir(parents=True)
    pages = [Image.fromarray(np.full((4, 5), i, np.uint8)) for i in range(2)]
    pages[0].save(folder / "class/image.png")
    pages[0].save(folder / "class/image.tif", save_all=True, append_images=pages[1:])


def write_vocabulary(folder: Path) -> None:
    jn.data.characters("to be").save(folder / "characters.json")
    jn.data.subwords(["to be or not to be"], 262).save(folder / "subwords.json")


def write_model(folder: Path) -> None:
    import tokenizers

    (folder / "config.json").write_text(json.dumps(LLAMA))
    net = jn.models.decoder(**jn.pretrained.decoder_config(LLAMA))
    ids = np.ones((1, 4), np.int32)
    params, state = net.init(jax.random.key(0), ids)
    jn.pretrained.save(folder, net, params, state, config=LLAMA)
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        ["three rivers"], tokenizers.trainers.BpeTrainer(initial_alphabet=alphabet)
    )
    made.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))


def write_processor(folder: Path) -> None:
    size = {"height": 8, "width": 8}
    settings = {"image_processor_type": "ViTImageProcessor", "size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def read_all(*functions: Callable[[], Any]) -> None:
    """Call each function, even if the one before it raises."""
    errors = []
    for function in functions:
        try:
            function()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


def write_adapter(folder: Path) -> None:
    jn.pretrained.save_adapter(folder, *adapted())


@cache
def adapted() -> tuple:
    net = jn.lora(jn.dense(3), 2, where="kernel")
    return net, net.init(jax.random.key(0), X)[0]


def write_dataset(folder: Path) -> None:
    from tests.data.builders.test_records import dataset

    dataset(folder, {})


def record_of(data: bytes) -> bytes:
    """The file of a dataset's records, of which each holds an image with these bytes."""
    from tests.data.builders.test_records import PLACES, dataset

    folder = Path(tempfile.mkdtemp())
    dataset(folder, dict.fromkeys(PLACES, data))
    return (folder / RECORDS).read_bytes()


VERSION = "pictures/1.0.0"
RECORDS = f"{VERSION}/pictures-train.array_record-00000-of-00001"


def features(space: str = "") -> bytes:
    """Features in the old form of TFDS, JSON in a string of JSON, with a class of a stranger."""
    inside = space + json.dumps({"a": {"type": f"{MODULE}.Feature", "content": {}}})
    kind = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    return json.dumps({"pythonClassName": kind, "jsonFeature": {"json": inside}}).encode()


def with_features() -> bytes:
    info = {"name": "pictures", "version": "1.0.0", "fileFormat": "array_record"}
    return json.dumps(info | {"features": json.loads(features(" "))}).encode()


def strange_datasets() -> dict:
    return {
        ("class", Path(VERSION, "features.json")): features(),
        ("class after a space", Path(VERSION, "features.json")): features(" "),
        ("class after lines", Path(VERSION, "features.json")): features("\r\n\t"),
        ("class", Path(VERSION, "dataset_info.json")): with_features(),
        ("EPS in", Path(RECORDS)): record_of(EPS),
    }


def write_program(folder: Path) -> None:
    export.export(NET, PARAMS, STATE, X).save(folder / "net.stablehlo")


@cache
def profiled() -> Any:
    return jax.jit(lambda x: NET.apply(PARAMS, STATE, x)[0]).lower(X).compile()


def write_trace(folder: Path) -> None:
    run = profiled()
    with jax.profiler.trace(folder):
        jax.block_until_ready(run(X))
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.endswith(".xplane.pb"):
            path.unlink()


def write_gguf(folder: Path) -> None:
    from tests.pretrained.test_gguf import written

    written(folder / "model.gguf")


def write_log(folder: Path) -> None:
    append_log(folder / "log.jsonl", {"step": 1, "loss": 0.5})
    append_log(folder / "log.jsonl", {"step": 9, "loss": 0.5})


def write_weights(folder: Path) -> None:
    jn.save(folder / "a.safetensors", {"kernel": np.ones((5, 3), np.float32)})
    index = {"weight_map": {"kernel": "a.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def elsewhere(name: str) -> bytes:
    return json.dumps({"weight_map": {"kernel": name}}).encode()


ATTACK = "{{ cycler.__init__.__globals__.os.system('true') }}"
INDEX = Path("model.safetensors.index.json")


def by_names(folder: Path) -> Any:
    return jn.interop.by_names(jn.dense(3, use_bias=False), folder, X, {"kernel": "kernel"})


def read_net(folder: Path) -> None:
    read_all(
        lambda: jn.load(folder / "net"),
        lambda: jn.load(folder / "net", like=PARAMS),
    )


def read_vocabularies(folder: Path) -> None:
    read_all(
        lambda: jn.data.Vocabulary.load(folder / "characters.json"),
        lambda: jn.data.Vocabulary.load(folder / "subwords.json"),
    )


def readers_of_training() -> dict[str, Reader]:
    return {
        "load": Reader(lambda folder: jn.save(folder / "net", PARAMS, config={"a": 1}), read_net),
        "Checkpoints": Reader(
            write_checkpoints,
            read_checkpoints,
            may=("write inside",),
            why="it takes a lock, and removes what an interrupted save left",
        ),
        "append_log": Reader(
            write_log,
            lambda folder: append_log(folder / "log.jsonl", {"step": 5, "loss": 0.5}),
            may=("write inside",),
            why="it writes the log again, without what comes after the step",
        ),
        "profile.time_by_layer": Reader(
            write_trace, lambda folder: jn.profile.time_by_layer(profiled(), folder)
        ),
    }


def readers_of_data() -> dict[str, Reader]:
    data = jn.data
    return {
        "read_image": Reader(
            write_image, lambda folder: data.read_image(folder / "class/image.png", 2)
        ),
        "read_pages": Reader(
            write_image, lambda folder: data.read_pages(folder / "class/image.tif")
        ),
        "image_folder": Reader(write_image, lambda folder: data.image_folder(folder, 2)),
        "Vocabulary.load": Reader(write_vocabulary, read_vocabularies),
        "tfds.load": Reader(
            write_dataset,
            lambda folder: data.tfds.load("pictures", "train", data_dir=folder),
            also=strange_datasets(),
        ),
        "tfds.source": Reader(
            write_dataset,
            lambda folder: data.tfds.source("pictures", "train", data_dir=folder)[0],
            also=strange_datasets(),
        ),
        "photos and digits": Reader(
            lambda folder: None, lambda folder: read_all(data.photos, data.digits)
        ),
    }


def readers_of_models() -> dict[str, Reader]:
    model = jn.pretrained
    indices = {
        ("outside", INDEX): elsewhere("../0/a.safetensors"),
        ("root", INDEX): elsewhere("/etc/passwd"),
    }
    return {
        "pretrained.load": Reader(write_model, model.load),
        "pretrained.load of a .gguf": Reader(
            write_gguf, lambda folder: model.load(folder / "model.gguf")
        ),
        "pretrained.tokenizer": Reader(write_model, model.tokenizer),
        "pretrained.tokenizer, a chat": Reader(
            write_model,
            lambda folder: model.tokenizer(folder).chat("Hi"),
            may=("compile <template>", "exec <template>"),
            why="a chat template is a program, which runs in jinja2's sandbox",
            also={("attack", Path("chat_template.jinja")): ATTACK.encode()},
        ),
        "pretrained.processor": Reader(write_processor, model.processor),
        "pretrained.load_adapter": Reader(
            write_adapter, lambda folder: model.load_adapter(folder, *adapted())
        ),
        "interop.by_names": Reader(write_weights, by_names, also=indices),
        "interop.export.load_exported": Reader(
            write_program, lambda folder: export.load_exported(folder / "net.stablehlo")
        ),
    }


def plant() -> None:
    """Let the readers of datasets read whatever it is."""
    image = jn.data.tfds
    image.check_metadata = image.decode_only_images = lambda *given: None


def warm_up() -> None:
    """Import what packages import when a file is damaged."""
    import jinja2.debug  # noqa: F401
    from PIL import Image

    Image.init()


def audited(folder: Path, wanted: list[str]) -> dict[str, list[str]]:
    """Return what each reader did that it may not do, by its name and file."""
    modules = folder / "modules"
    modules.mkdir(parents=True)
    (modules / f"{MODULE}.py").write_text("")
    sys.path.insert(0, str(modules))
    warm_up()
    audit = Audit(folder)
    readers = readers_of_training() | readers_of_data() | readers_of_models()
    found = {}
    for name, reader in readers.items():
        if wanted and name not in wanted:
            continue
        for case, place in reader.cases(folder / name):
            if case == "usual":
                reader.read(place)  # packages are imported when they are first used
            with audit.watch() as seen, contextlib.suppress(Exception):
                reader.read(place)
            sys.modules.pop(MODULE, None)
            found[f"{name}, {case}"] = sorted(seen - set(reader.may))
    return found


if __name__ == "__main__":
    place, *names = sys.argv[1:]
    if "planted" in names:
        plant()
        names.remove("planted")
    warnings.simplefilter("ignore")  # of damaged files
    print(json.dumps(audited(Path(place).resolve(), names)))
