"""The public names and signatures, as a text to look at when they change.

After a change that is meant: `python -m tests.test_api > tests/public_api.txt`
"""

import inspect
import operator
import re
import types
from pathlib import Path

import pytest

import jaxnet as jn

SNAPSHOT = Path(__file__).with_name("public_api.txt")
FIELDS = "rbm dbn autoencoder kmeans hmm whitening pretrain sparse_coding".split()
UNSUPERVISED = [f"unsupervised.{name}" for name in FIELDS]
PARTS = [
    "", "layers", "transforms", "training", "ops", "tools", "typing", "models",
    "data", "inspect", "profile", "viz", "losses", "penalties", "metrics",
    "initializers", "detection", "decoding", "distributed", "interop", "pretrained", *UNSUPERVISED,
]  # fmt: skip


def members(part: str) -> dict:
    """The names that a part defines or hands on, at the top those loaded on first use too."""
    module = operator.attrgetter(part)(jn) if part else jn

    source = inspect.getsource(module) if part != "typing" else ""  # types have pages elsewhere
    handed_on = set(re.findall(r"import (\w+) as \1\b", source))

    def is_of_module(name, value) -> bool:
        made_in = getattr(value, "__module__", module.__name__)
        return name in handed_on or f"{made_in}.".startswith(f"{module.__name__}.")

    found = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    found = {name: v for name, v in found.items() if not isinstance(v, types.ModuleType)}
    return {name: value for name, value in found.items() if is_of_module(name, value)}


def public_api() -> str:
    lines = []
    for part in PARTS:
        where = f"jaxnet.{part}".rstrip(".")
        for name, value in sorted(members(part).items()):
            lines.append(f"{where}.{name}{signature(value)}")
    return "\n".join(lines) + "\n"


def signature(value) -> str:
    if not callable(value):
        return ""
    if isinstance(value, type) and hasattr(value, "_fields"):  # a NamedTuple
        return f"({', '.join(value._fields)})"
    names = []
    for p in inspect.signature(value).parameters.values():
        if p.name.startswith("_"):
            continue
        default = repr(p.default).replace("PartitionSpec(", "P(")  # as JAX before 0.8 prints it
        if callable(p.default):  # by name, since how jax prints a function is its own affair
            named = getattr(p.default, "__qualname__", type(p.default).__name__)
            default = named.split(".<locals>")[0]
            cells = getattr(p.default, "__closure__", None) or ()
            made = [cell.cell_contents for cell in cells if p.default.__module__[:6] == "jaxnet"]
            known = [str(it) for it in made if isinstance(it, int | float | str) and it != default]
            default += f"({', '.join(known)})" if known else ""
        name = f"{p}".split(":")[0].split("=")[0]
        names.append(name if p.default is p.empty else f"{name}={default}")
        if p.kind is p.KEYWORD_ONLY and "*" not in names and not any(n[0] == "*" for n in names):
            names.insert(-1, "*")
    return f"({', '.join(names)})"


def test_public_api_is_as_noted():
    assert public_api() == SNAPSHOT.read_text(), "see the docstring of this file"


def test_each_name_has_one_public_spelling():
    places = {}
    for part in PARTS:
        for name, value in members(part).items():
            if callable(value):
                places.setdefault(id(value), []).append(f"{part}.{name}".lstrip("."))
    at_top = {"summary"}  # a verb that the top level takes from inspect
    assert not {tuple(p) for p in places.values() if len(p) > 1 and p[0] not in at_top}


if __name__ == "__main__":
    print(public_api(), end="")


@pytest.mark.parametrize(("name", "instead"), [
    ("Dense", "jn.dense"),
    ("Conv2d", "jn.conv"),
    ("Sequential", "jn.serial"),
    ("GELU", "jax.nn.gelu"),
    ("adam", "optax.adam"),
    ("MNIST", "jn.data.mnist"),
    ("CrossEntropyLoss", "jn.losses.cross_entropy"),
])  # fmt: skip
def test_names_of_other_libraries_are_answered(name, instead):
    with pytest.raises(AttributeError, match=f"no attribute '{name}'; .*{instead}"):
        getattr(jn, name)


def test_a_name_like_no_other_has_no_hint():
    with pytest.raises(AttributeError, match="no attribute 'nn'$"):
        jn.nn  # noqa: B018


def test_dir_lists_a_name_once():
    assert len(dir(jn)) == len(set(dir(jn)))


def test_lazy_modules_complete_and_load():
    lazy = {"viz", "unsupervised", "inspect", "interop", "decoding", "summary"}
    assert lazy <= set(dir(jn))
    assert all(getattr(jn, name) for name in lazy)
