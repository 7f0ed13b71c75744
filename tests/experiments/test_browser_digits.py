"""The page in headless Chromium: MNIST's own digits come back as they were, drawn ones are read."""

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import jaxnet as jn
from experiments import browser_digits

MODULES = [Path(os.environ.get("NODE_PATH", "node_modules")), Path("node_modules")]


@pytest.fixture(scope="module")
def modules():
    """The folder node_modules of onnxruntime-web; tests without it, or a browser, are skipped."""
    if importlib.util.find_spec("jax2onnx") is None:
        pytest.skip("needs the extra onnx: jax2onnx")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("needs the extra browser: playwright")
    if not any(map(shutil.which, browser_digits.BROWSERS)):
        pytest.skip("needs Chromium or Chrome on the PATH")
    for folder in MODULES:
        if (folder / "onnxruntime-web").exists():
            return folder
    pytest.skip("needs npm install onnxruntime-web, here or in NODE_PATH")


def test_the_files_of_the_page_are_named_where_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="npm install onnxruntime-web"):
        browser_digits.write_page(tmp_path / "page", tmp_path)


def test_varied_strokes_stay_on_the_board():
    rng = np.random.default_rng(0)
    for strokes in browser_digits.STROKES.values():
        for _ in range(20):
            varied = browser_digits.varied(strokes, rng)
            assert [len(points) for points in varied] == [len(points) for points in strokes]
            points, before = np.concatenate(varied), np.concatenate(strokes)
            assert points.min() >= 0.04 and points.max() <= 0.96
            assert 0 < np.abs(points - before).mean() < 0.2


@pytest.mark.slow
def test_the_page_reads_digits(modules, few_examples, tmp_path):
    """The training is short, so not all are read; the record has the long one."""
    data_dir = few_examples(6_000, 500)
    config = browser_digits.Config(
        epochs=2, drawings=1, modules=modules, data_dir=Path(data_dir), output=tmp_path
    )
    results = browser_digits.run(config)
    assert 0.9 < results.accuracy < 1 and abs(results.accuracy - results.accuracy_onnx) < 1e-6
    assert results.read.shape == (10, 1)
    assert (results.read[:, 0] == np.arange(10)).sum() >= 8

    # MNIST's digits fit 20x20 pixels, with the center of mass in the middle: the page, given one
    # that is ten times as large and elsewhere, gives it back.
    _, (images, labels) = jn.data.mnist(data_dir=data_dir)
    images, labels = images[:20, ..., 0], labels[:20]
    with browser_digits.opened(tmp_path / "page") as tab:
        found, read = [], []
        for image in images:
            large = np.roll(image.repeat(10, 0).repeat(10, 1), (-13, 7), (0, 1))
            pixels = tab.evaluate(
                "pixels => Array.from(preprocess(Float32Array.from(pixels), 280, 280))",
                large.ravel().tolist(),
            )
            found.append(np.reshape(pixels, (28, 28)))
            shares = tab.evaluate("image => probabilities(Float32Array.from(image))", pixels)
            assert abs(sum(shares) - 1) < 1e-6
            read.append(int(np.argmax(shares)))
        assert tab.evaluate("preprocess(new Float32Array(784), 28, 28)") is None
    assert np.mean(np.array(read) == labels) > 0.8
    np.testing.assert_allclose(found, images, atol=1e-5)
