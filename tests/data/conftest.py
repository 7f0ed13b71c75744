"""A site on this machine in the place of the public repositories."""

import gzip
import hashlib
import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class Handler(SimpleHTTPRequestHandler):
    """Serves files; of one whose name starts with "cut" the first half of what it announces."""

    def log_message(self, *args):
        pass

    def copyfile(self, source, outputfile):
        data = source.read()
        outputfile.write(data[: len(data) // 2] if "/cut" in self.path else data)


class Site:
    """A folder, served under an address."""

    def __init__(self, folder: Path, address: str):
        self.folder, self.address = folder, address

    def put(self, name: str, data: bytes) -> str:
        """The sha256 of a new file."""
        (self.folder / name).write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def archive(self, name: str, files: dict[str, bytes]) -> str:
        """A new .tar.gz as GitHub makes them; the sha256 of `sha256sum` for its files."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            for path, data in files.items():
                member = tarfile.TarInfo(f"repository-1a2b3c/{path}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        self.put(name, out.getvalue())
        lines = [f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n" for path in sorted(files)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def multi30k(self, monkeypatch) -> dict[str, list[tuple[str, str]]]:
        """A tiny Multi30k on the site, and its pairs of sentences, spaces removed."""
        from jaxnet.data.builders import multi30k

        pairs = {
            "train": [("Zwei Männer.", "Two men."), ("Ein Hund ", "A dog"), ("Ja", "Yes")],
            "validation": [("Eine Frau\u2028singt", "A woman\u2028sings")],
            "test": [("Straße", "Street"), ("", "Nothing")],
        }
        sums = {}
        for part, file in multi30k.PARTS.items():
            for i, language in enumerate(multi30k.LANGUAGES):
                name = f"{file}.{language}.gz"
                text = "".join(pair[i] + "\n" for pair in pairs[part])
                sums[name] = self.put(name, gzip.compress(text.encode()))
        monkeypatch.setattr(multi30k, "RAW", self.address)
        monkeypatch.setattr(multi30k, "SHA256", sums)
        read = {}
        for part, lines in pairs.items():
            read[part] = [(german.strip(), english.strip()) for german, english in lines]
        return read


@pytest.fixture
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    handler = partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Site(folder, f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        thread.join()
