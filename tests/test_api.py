"""The public names and signatures, as a text to look at when they change.

After a change that is meant: `python -m tests.test_api > tests/public_api.txt`
"""

import inspect
import types
from pathlib import Path

import jaxnet as jn

SNAPSHOT = Path(__file__).with_name("public_api.txt")
PARTS = ["", "layers", "models", "training", "data", "inspect", "viz", "losses", "penalties",
         "metrics", "initializers", "unsupervised", "boxes", "decoding"]  # fmt: skip


def public_api() -> str:
    lines = []
    for part in PARTS:
        module = getattr(jn, part, None) if part else jn
        if module is None:
            continue
        where = f"jaxnet.{part}".rstrip(".")
        for name, value in sorted(vars(module).items()):
            own = getattr(value, "__module__", "jaxnet").startswith("jaxnet")
            if name.startswith("_") or isinstance(value, types.ModuleType) or not own:
                continue
            lines.append(f"{where}.{name}{signature(value)}")
    return "\n".join(lines) + "\n"


def signature(value) -> str:
    if not callable(value):
        return ""
    if isinstance(value, type) and hasattr(value, "_fields"):  # a NamedTuple
        return f"({', '.join(value._fields)})"
    names = []
    for p in inspect.signature(value).parameters.values():
        default = repr(p.default)
        if callable(p.default):  # by name, since how jax prints a function is its own affair
            named = getattr(p.default, "__qualname__", type(p.default).__name__)
            default = named.split(".<locals>")[0]
        names.append(
            f"{p}".split(":")[0].split("=")[0] + ("" if p.default is p.empty else f"={default}")
        )
        if p.kind is p.KEYWORD_ONLY and "*" not in names and not any(n[0] == "*" for n in names):
            names.insert(-1, "*")
    return f"({', '.join(names)})"


def test_public_api_is_as_noted():
    assert public_api() == SNAPSHOT.read_text(), "see the docstring of this file"


def test_everything_public_has_a_docstring():
    for part in PARTS:
        module = getattr(jn, part, None) if part else jn
        for name, value in vars(module or types.ModuleType("none")).items():
            if name.startswith("_") or not callable(value):
                continue
            if getattr(value, "__module__", "").startswith("jaxnet"):
                assert inspect.getdoc(value), f"jaxnet.{part}.{name}"


def test_public_functions_have_an_example():
    for part in ("", "layers", "training", "inspect", "losses", "penalties", "metrics"):
        for name, value in vars(getattr(jn, part) if part else jn).items():
            own = getattr(value, "__module__", "").startswith("jaxnet")
            if inspect.isfunction(value) and own and not name.startswith("_"):
                assert ">>>" in (inspect.getdoc(value) or ""), (
                    f"jaxnet.{part}.{name} has no example"
                )


if __name__ == "__main__":
    print(public_api(), end="")
