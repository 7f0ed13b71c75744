"""What the tests of experiments share: pictures are drawn by the short runs alone, and small."""

from pathlib import Path

import pytest

import jaxnet as jn


@pytest.fixture(autouse=True)
def quick_pictures(request, monkeypatch):
    """Leaves the files of pictures empty, except in a module that sets `DRAWS = True`.

    Drawing takes longer than much of the training.
    """
    draw = jn.viz.save
    draws = getattr(request.module, "DRAWS", False)

    def save(figure, path, **options):
        if draws:
            return draw(figure, path, **options | {"dpi": 30})
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
        return path

    monkeypatch.setattr(jn.viz, "save", save)
