"""What ffi.h says about XLA's interface is what the header of the installed jaxlib says."""

import re
import shutil
import subprocess
from pathlib import Path

import jax.ffi
import pytest

from jaxnet.ops import native

OURS = native.LIBRARY.with_name("ffi.h")
COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a compiler of C")

COMMON = {"size": "struct_size", "extensions": "extension_start"}
# Of each structure: XLA's name, its fields in order by XLA's names, and how much XLA's has: the
# same, or fields that follow and are not used here. Where XLA renamed, the newest name is first.
STRUCTURES = {
    "FfiExtension": ("InternalExtension Extension_Base", "same", {
        "size": "struct_size", "kind": "type", "next": "next",
    }),
    "FfiVersion": ("Api_Version", "same", COMMON | {
        "major": "major_version", "minor": "minor_version",
    }),
    "FfiMetadata": ("Metadata", "more", {
        "size": "struct_size", "version": "api_version", "traits": "traits",
    }),
    "FfiMetadataQuestion": ("Metadata_Extension", "same", {
        "extension": "extension_base", "metadata": "metadata",
    }),
    "FfiBuffer": ("Buffer", "same", COMMON | {
        "type": "dtype", "data": "data", "rank": "rank", "dims": "dims",
    }),
    "FfiArray": ("Array", "same", {"type": "dtype", "count": "size", "data": "data"}),
    "FfiScalar": ("Scalar", "same", {"type": "dtype", "value": "value"}),
    "FfiBuffers": ("Args", "same", COMMON | {
        "count": "size", "kinds": "types", "buffers": "args",
    }),
    "FfiOptions": ("Attrs", "same", COMMON | {
        "count": "size", "kinds": "types", "names": "names", "values": "attrs",
    }),
    "FfiNewError": ("Error_Create_Args", "same", COMMON | {
        "message": "message", "code": "errc",
    }),
    "FfiDropError": ("Error_Destroy_Args", "same", COMMON | {"error": "error"}),
    "FfiSchedule": ("ThreadPool_Schedule_Args", "same", COMMON | {
        "context": "ctx", "task": "task", "data": "data",
    }),
    "FfiCountThreads": ("ThreadPool_NumThreads_Args", "same", COMMON | {
        "context": "ctx", "threads": "num_threads",
    }),
    "FfiApi": ("Api", "more", COMMON | {
        "version": "api_version", "internal": "internal_api", "new_error": "Error_Create",
        "read_error": "Error_GetDetails Error_GetMessage", "drop_error": "Error_Destroy",
        "between": "Handler_Register", "schedule": "ThreadPool_Schedule",
        "count_threads": "ThreadPool_NumThreads",
    }),
    "FfiCall": ("CallFrame", "more", COMMON | {
        "api": "api", "context": "ctx", "stage": "stage", "operands": "args", "results": "rets",
        "options": "attrs",
    }),
}  # fmt: skip
# Results of a call have the form of operands, with other names.
AGAIN = {"FfiBuffers": ("Rets", "same", STRUCTURES["FfiBuffers"][2] | {"buffers": "rets"})}
NUMBERS = {
    "FFI_MAJOR": "API_MAJOR", "FFI_METADATA": "Extension_Metadata", "FFI_EXECUTE":
    "ExecutionStage_EXECUTE", "FFI_ARRAY": "AttrType_ARRAY", "FFI_SCALAR": "AttrType_SCALAR",
    "FFI_INVALID_ARGUMENT": "Error_Code_INVALID_ARGUMENT",
    "FFI_RESOURCE_EXHAUSTED": "Error_Code_RESOURCE_EXHAUSTED",
    **{f"FFI_{name}": f"DataType_{name}"
       for name in "PRED S4 S8 S32 S64 U8 U32 F16 BF16 F32".split()},
}  # fmt: skip
VERSIONS = {"FFI_OLDEST", "FFI_NEWEST"}  # of which jaxlib has one between


def theirs(words: str) -> str:
    """XLA's name in this version of jaxlib: the first one that its header has."""
    header = header_of_jaxlib().read_text()
    plain = words.islower()  # of a field, such as `struct_size`
    names = words.split() if plain else [f"XLA_FFI_{word}" for word in words.split()]
    return next(name for name in names if re.search(rf"\b{name}\b", header))


def header_of_jaxlib() -> Path:
    return Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"


def claims() -> list[str]:
    """The conditions in C that hold if all that ffi.h declares is as XLA has it."""
    found = [f"{ours} == {theirs(xla)}" for ours, xla in NUMBERS.items()]
    found += ["FFI_OLDEST <= XLA_FFI_API_MINOR", "XLA_FFI_API_MINOR <= FFI_NEWEST"]
    for ours, (xla, extent, fields) in [*STRUCTURES.items(), *AGAIN.items()]:
        xla = theirs(xla)
        for field, name in fields.items():
            name, last = theirs(name), field
            found += [f"offsetof({ours}, {field}) == offsetof({xla}, {name})"]
            if field != "between":
                found += [f"sizeof((({ours} *)0)->{field}) == sizeof((({xla} *)0)->{name})"]
        if extent == "more":
            found += [f"sizeof({ours}) <= sizeof({xla})"]
        else:
            found += [f"sizeof({ours}) == sizeof({xla})"]
            if re.search(rf"TRAITS\({xla},", header_of_jaxlib().read_text()):
                found += [f"FFI_SIZE({ours}, {last}) == {xla}_STRUCT_SIZE"]
    return found


def refused(header: str, folder: Path) -> list[str]:
    """The claims about a header like ffi.h that the compiler finds wrong."""
    (folder / "ffi.h").write_text(header)
    lines = ['#include "ffi.h"', f'#include "{header_of_jaxlib()}"']
    lines += [f'_Static_assert({claim}, "wrong: {claim};");' for claim in claims()]
    (folder / "claims.c").write_text("\n".join(lines))
    command = [COMPILER, "-std=gnu11", "-fsyntax-only", "-w", folder / "claims.c"]
    done = subprocess.run(command, capture_output=True, text=True)
    wrong = re.findall(r"failed.*?wrong: (.*?);", done.stderr)
    assert bool(done.returncode) == bool(wrong), done.stderr
    return wrong


def test_sizes_places_and_numbers_are_those_of_the_installed_jaxlib(tmp_path):
    assert refused(OURS.read_text(), tmp_path) == []


@pytest.mark.parametrize(("right", "wrong", "claim"), [
    pytest.param("const FfiApi *api;\n  FfiContext *context;",
                 "FfiContext *context;\n  const FfiApi *api;", "offsetof(FfiCall, api)",
                 id="two fields exchanged"),
    pytest.param("between[8]", "between[7]", "offsetof(FfiApi, schedule)", id="one pointer less"),
    pytest.param("int64_t rank, *dims", "int32_t rank; int64_t *dims",
                 "sizeof(((FfiBuffer *)0)->rank)", id="half as wide"),
    pytest.param("FFI_S4 = 21", "FFI_S4 = 22", "FFI_S4", id="the number of another type"),
    pytest.param("  FfiError *error;\n", "  FfiError *error;\n  void *more;\n",
                 "sizeof(FfiDropError)", id="a field that XLA does not know"),
    pytest.param("FFI_NEWEST = 5", "FFI_NEWEST = 0", "XLA_FFI_API_MINOR", id="an old version"),
])  # fmt: skip
def test_what_is_wrong_is_found(tmp_path, right, wrong, claim):
    header = OURS.read_text()
    assert right in header
    found = refused(header.replace(right, wrong), tmp_path)
    assert [words for words in found if words.startswith(claim)], found


def test_every_name_of_the_header_is_compared():
    header = re.sub(r"/\*.*?\*/", "", OURS.read_text(), flags=re.S)
    numbers = re.findall(r"\b(FFI_\w+) = \d+", header)
    assert sorted(numbers) == sorted([*NUMBERS, *VERSIONS])
    bodies = re.findall(r"typedef struct \w* ?\{(.*?)\} (\w+);", header, re.S)
    declared = {name: fields(body) for body, name in bodies}
    assert declared == {name: [*fields] for name, (_, _, fields) in STRUCTURES.items()}


def fields(body: str) -> list[str]:
    """The names that the lines of a structure declare."""
    found = []
    for line in filter(None, map(str.strip, body.split(";"))):
        of_function = re.search(r"\(\*(\w+)\)", line)
        if of_function:
            found.append(of_function[1])
            continue
        for part in line.split(","):
            found.append(re.search(r"(\w+)(\[\d+\])?$", part.strip())[1])
    return found
