"""Multi30k, task 1: captions of photographs in German and English, with the test split of 2016."""

import gzip
from collections.abc import Iterator
from pathlib import Path

from jaxnet.data.builders.remote import Origin, Remote, builder_class, contents

ORIGIN = Origin(
    what="31,014 captions of photographs, in German and English",
    home="https://github.com/multi30k/dataset",
    terms="non-commercial research and education; the captions describe photographs of Flickr",
    size=1_296_371,
)
RAW = (
    "https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a"
    "/data/task1/raw"
)
PARTS = {"train": "train", "validation": "val", "test": "test_2016_flickr"}  # split -> files
LANGUAGES = ("de", "en")
SHA256 = {
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
}


def builder() -> type:
    """Return the class of builders, with features de and en, texts without spaces at their ends.

    Raises:
      ImportError: If tensorflow-datasets is not installed.

    Example:
      >>> multi30k = builder()  # doctest: +SKIP
      >>> multi30k(data_dir="datasets", file_format="array_record").download_and_prepare()
      ... # doctest: +SKIP

    Reference: Elliott, Frank, Sima'an and Specia 2016, "Multi30K: Multilingual English-German Image
    Descriptions".
    """

    def splits(downloads: Path) -> dict[str, Iterator]:
        def lines(name: str) -> list[str]:
            remote = Remote(f"{RAW}/{name}", SHA256[name])
            data = contents("multi30k", remote, downloads, None)[name]
            return gzip.decompress(data).decode().removesuffix("\n").split("\n")

        by_part = {}
        for part, file in PARTS.items():
            german, english = [lines(f"{file}.{language}.gz") for language in LANGUAGES]
            by_part[part] = examples(german, english)
        return by_part

    def examples(german: list[str], english: list[str]) -> Iterator:
        for i, (de, en) in enumerate(zip(german, english, strict=True)):
            yield i, {"de": de.strip(), "en": en.strip()}

    def features(of):
        return of.Translation(languages=LANGUAGES)

    return builder_class("multi30k", ORIGIN, "Multi30k, task 1:", features, LANGUAGES, splits)
