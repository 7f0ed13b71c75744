"""Public files, pinned by their checksums."""

import hashlib
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from jaxnet.services.extras import extra
from jaxnet.services.progress import progress_bar

BLOCK = 2**18  # bytes per read
TIMEOUT = 30  # seconds without a byte


class Origin(NamedTuple):
    """A dataset and the place it comes from.

    Fields:
      what: One line about its contents.
      home: Page of the dataset.
      terms: Terms of its use.
      size: Size of the download, in bytes.
    """

    what: str
    home: str
    terms: str
    size: int


def builder_class(
    dataset: str,
    origin: Origin,
    title: str,
    features: Callable[[Any], Any],
    keys: tuple[str, str],
    splits: Callable[[Path], dict[str, Iterator]],
    version: str = "1.0.0",
    **metadata: Any,
) -> type:
    """Return a class of builders for TensorFlow Datasets.

    Args:
      dataset: Name of the dataset.
      origin: Place it comes from.
      title: Beginning of its description.
      features: Function of the module `tfds.features` that returns a dict of features, or a feature
        that stands for one.
      keys: Names of the features that are inputs and targets.
      splits: Function of the folder of downloads; it returns the examples of each split as pairs
        (key, dict of features).
      version: Version of the dataset, which is that of the catalog if the dataset is in it.
      metadata: Entries of the dataset's metadata.
    """
    tfds = extra("tensorflow_datasets", "tensorflow-datasets", dataset)
    feature_spec = features(tfds.features)
    if isinstance(feature_spec, dict):
        feature_spec = tfds.features.FeaturesDict(feature_spec)

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore
        name = dataset
        VERSION = tfds.core.Version(version)

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{title} {origin.what}. Terms: {origin.terms}.",
                homepage=origin.home,
                license=origin.terms,
                features=feature_spec,
                supervised_keys=keys,
                metadata=tfds.core.MetadataDict(metadata) if metadata else None,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
            return splits(dl_manager.download_dir)

        def _generate_examples(self) -> Iterator:  # `splits` has made them
            raise NotImplementedError

    return Builder


class Remote(NamedTuple):
    """A public file.

    Fields:
      address: Address of a file, or of an archive .tar.gz with one folder at the top.
      sha256: Checksum of the file. The bytes of an archive depend on the program that packs it, so
        this is the checksum of the output of `sha256sum` for its used files, in the order of their
        paths.
      inside: Pattern of the paths of an archive's used files, below the top folder; "" for a file.
    """

    address: str
    sha256: str
    inside: str = ""


def contents(who: str, remote: Remote, folder: str | Path, size: int | None) -> dict[str, bytes]:
    """Download a file, or the used files of an archive, into memory.

    Nothing stays on the disk, even if the program is killed.

    Args:
      who: Name in errors and in the title of the progress bar.
      remote: File to download.
      folder: Folder for a temporary file of the download.
      size: Size of the download in bytes, for the progress bar; None if unknown.

    Returns:
      A dict from paths below the top folder to bytes. For a single file, the path is its name.

    Raises:
      OSError: If the file cannot be downloaded, is incomplete or has a different checksum.

    Example:
      >>> file = Remote("http://localhost:1/words.txt", sha256="0" * 64)
      >>> contents("words", file, ".", 20)
      Traceback (most recent call last):
      ...
      OSError: words: cannot reach http://localhost:1/words.txt: ...
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        _download(who, remote.address, file, size)
        file.seek(0)
        if not remote.inside:
            name = remote.address.rpartition("/")[2]
            files = {name: file.read()}
            sha256 = hashlib.sha256(files[name]).hexdigest()
        else:
            files = _unpacked(who, remote, file)
            lines = [
                f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in files.items()
            ]
            sha256 = hashlib.sha256("".join(lines).encode()).hexdigest()
    if sha256 != remote.sha256:
        raise OSError(
            f"{who}: {remote.address} has the sha256 {sha256}, expected {remote.sha256}. Try "
            "again; if the error persists, the file has changed on the server"
        )
    return files


def _download(who: str, address: str, file: IO[bytes], size: int | None) -> None:
    try:
        with (
            urlopen(address, timeout=TIMEOUT) as answer,
            progress_bar(size, f"downloading {who}", unit="B") as bar,
        ):
            bar.unit_scale = True
            expected = answer.length  # None if the server does not state the length
            done = 0
            while block := answer.read(BLOCK):
                file.write(block)
                done += len(block)
                bar.update(len(block))
    except HTTPError as error:
        error.close()
        raise OSError(f"{who}: {address} answered {error.code} {error.reason}") from error
    except URLError as error:
        raise OSError(f"{who}: cannot reach {address}: {error.reason}") from error
    except (HTTPException, ConnectionError, TimeoutError) as error:
        raise OSError(
            f"{who}: the download of {address} was interrupted: {error!r}; try again"
        ) from error
    if expected not in (None, done):
        raise OSError(
            f"{who}: the download of {address} stopped after {done:,} of {expected:,} bytes; try "
            "again"
        )


def _unpacked(who: str, remote: Remote, file: IO[bytes]) -> dict[str, bytes]:
    """Return the used files of an archive, in the order of their paths, without writing to disk."""
    files = {}
    try:
        with tarfile.open(fileobj=file, mode="r:gz") as archive:
            for member in archive:
                path = member.name.partition("/")[2]
                if member.isfile() and re.fullmatch(remote.inside, path):
                    files[path] = archive.extractfile(member).read()  # pyright: ignore
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise OSError(
            f"{who}: {remote.address} is not a whole archive ({error}); try again"
        ) from error
    return dict(sorted(files.items()))
