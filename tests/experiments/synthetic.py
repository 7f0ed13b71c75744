"""Stand-ins for the real datasets: a `load` in the form of `jaxnet.data.tfds.load`.

They say that an experiment runs, never that its claim is true. Images of a class share a pattern,
sentences are drawn from a small vocabulary, and spoken digits are tones.
"""

import itertools
from typing import Any

import numpy as np

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
WORDS = {
    "de": "ein eine mann frau hund ball rot blau spielt läuft sitzt mit im park".split(),
    "en": "a one man woman dog ball red blue plays runs sits with in park".split(),
}


def load(name: str, split: str, **options: Any) -> dict[str, Any]:
    """A small part of one of the datasets below; `split` may be cut, as in "train[:5]"."""
    part, _, cut = split.partition("[:")
    count = int(cut.rstrip("]")) if cut else None
    rng = np.random.default_rng([ord(letter) for letter in name + part])
    return MAKERS[name.split(":")[0]](rng, part, count)


def _classified(shape: tuple[int, ...], rng, part, count) -> dict[str, Any]:
    n = count or (400 if part == "train" else 100)
    labels = rng.permutation(np.arange(n) % 10)
    patterns = np.random.default_rng(0).integers(0, 200, (10, *shape))
    images = patterns[labels] * rng.random((n, *shape)) + rng.integers(0, 55, (n, *shape))
    return {"image": images.astype(np.uint8), "label": labels}


def _mnist(rng, part, count):
    data = _classified((28, 28, 1), rng, part, count)
    border = np.ones((28, 28, 1), bool)
    border[4:24, 4:24] = False
    data["image"][:, border] = 0  # so that few pixels are not 0, as of digits
    return data


def _camvid(rng, part, count):
    n = count or 8
    masks = rng.integers(0, 12, (n, 6, 8, 1)).repeat(20, 1).repeat(20, 2)
    images = 20 * masks + rng.integers(0, 30, (n, 120, 160, 3))
    return {"image": images.astype(np.uint8), "segmentation_mask": masks.astype(np.uint8)}


def _bccd(rng, part, count):
    n = count or 4
    boxes, classes = [], []
    images = rng.integers(180, 255, (n, 480, 640, 3), dtype=np.uint8)
    for image in images:
        middle = rng.uniform(0.2, 0.8, (5, 2))
        side = rng.uniform(0.05, 0.2, (5, 2))
        boxes.append(np.concatenate([middle - side / 2, middle + side / 2], 1).astype(np.float32))
        classes.append(np.arange(5) % 3)
        for box, kind in zip(boxes[-1], classes[-1], strict=True):
            top, left, bottom, right = (box * (480, 640, 480, 640)).astype(int)
            image[top:bottom, left:right, kind] = 60
    return {"image": images, "objects": {"bbox": boxes, "label": classes}}


def _spoken(rng, part, count):
    """Each digit a chord of its own, each speaker a pitch: 2 (test) or 4 recordings of each."""
    rows = []
    takes = range(2) if part == "test" else range(5, 15, 3)
    for take, digit, (place, speaker) in itertools.product(takes, range(10), enumerate(SPEAKERS)):
        time = np.arange(rng.integers(2000, 3500)) / 8000
        tones = (300 + 150 * digit) * (1 + 0.02 * place) * np.array([1, 1.7])
        wave = np.sin(2 * np.pi * tones[:, None] * time).sum(0) + 0.1 * rng.normal(size=len(time))
        rows.append(((4000 * wave).astype(np.int16), digit, speaker, take))
    waves, digits, speakers, takes = map(list, zip(*rows[:count], strict=True))
    return {"audio": waves, "label": np.array(digits), "speaker": speakers,
            "recording": np.array(takes)}  # fmt: skip


def _sentences(rng, part, count):
    n = count or (60 if part == "train" else 12)
    rows = [rng.integers(0, 14, rng.integers(3, 9)) for _ in range(n)]

    def written(row, words):
        return " ".join(words[i] for i in row).capitalize() + "."

    return {name: [written(row, words) for row in rows] for name, words in WORDS.items()}


def _plays(rng, part, count):
    size = 12_000 if part == "train" else 2_000
    words = rng.choice(WORDS["en"], size // 3)
    lines = [" ".join(words[i : i + 7]).capitalize() for i in range(0, len(words), 7)]
    return {"text": ["ROMEO:\n" + ",\n".join(lines)[:size]]}


def _faces(shape, rng, part, count):
    return _classified(shape, rng, part, 20) | {"picture": np.arange(20)}


def _jokes(rng, part, count):
    full = (rng.normal(0, 3, (30, 1)) + rng.normal(0, 3, 12)).astype(np.float32)
    test = rng.random(full.shape) < 0.5
    return {"ratings": np.where(test, np.nan, full), "held_out": np.where(test, full, np.nan)}


MAKERS: dict[str, Any] = {
    "mnist": _mnist,
    "cifar10": lambda *given: _classified((32, 32, 3), *given),
    "camvid": _camvid,
    "bccd": _bccd,
    "free_spoken_digits": _spoken,
    "multi30k": _sentences,
    "tiny_shakespeare": _plays,
    "orl_faces": lambda *given: _faces((112, 92, 1), *given),
    "olivetti": lambda *given: _faces((64, 64, 1), *given),
    "jester": _jokes,
}
