"""The board of the home page in headless Chromium: its logits, its drawings, its size."""

import json
import shutil

import jax
import numpy as np
import pytest

import jaxnet as jn
from experiments import browser_digits as board

NET = jn.models.lenet5(classes=10)


def last_params():
    """The params of the last moment, from the bytes that the page reads."""
    params, state = NET.init(jax.random.key(0), np.zeros((1, 28, 28, 1), np.float32))
    params = jn.quantize(jn.quantized(NET), params, np.zeros((1, 28, 28, 1), np.float32))
    with np.load(board.CANVAS / "lenet5.npz") as run:
        rest = run["weights"][-1].tobytes()
    for part in ("scale", "bias", "int8"):
        for layer in (params[name] for name in board.LAYERS):
            place = layer if part == "bias" else layer["kernel"]
            leaf = np.asarray(place[part])
            place[part] = np.frombuffer(rest[: leaf.nbytes], leaf.dtype).reshape(leaf.shape)
            rest = rest[leaf.nbytes :]
    assert not rest
    return params, state


def test_varied_strokes_stay_on_the_board():
    rng = np.random.default_rng(0)
    for strokes in board.STROKES.values():
        for _ in range(20):
            varied = board.varied(strokes, rng)
            assert [len(points) for points in varied] == [len(points) for points in strokes]
            points, before = np.concatenate(varied), np.concatenate(strokes)
            assert points.min() >= 0.04 and points.max() <= 0.96
            assert 0 < np.abs(points - before).mean() < 0.2


@pytest.mark.long
def test_the_board_computes_what_jaxnet_does(tmp_path):
    """Its logits and contributions of 20 digits, ten drawings, and a page that fits both widths."""
    if not any(map(shutil.which, board.BROWSERS)):
        pytest.skip("needs Chromium or Chrome on the PATH")
    params, state = last_params()
    small = jn.quantized(NET)
    digits, labels = jn.data.mnist()[1]
    digits, labels = digits[:20], labels[:20]
    logits, _ = small.apply(params, state, digits)
    assert (np.argmax(logits, -1) == labels).mean() > 0.9
    why = jn.inspect.integrated_gradients(small, params, state, digits[:3], labels[:3], steps=64)

    page = tmp_path / "index.html"
    board.write_page(page, board.CANVAS / "lenet5.npz")
    weights = json.loads((tmp_path / "home" / "moment23.js").read_text().split(", ")[1][:-3])
    with board.opened(page) as ask:
        ask("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0,
            uploadThroughput=0)  # fmt: skip
        board.evaluate(ask, f"weights = unpack({json.dumps(weights)}); null")
        for i, digit in enumerate(digits):
            image = f"Float32Array.from({json.dumps(digit.ravel().tolist())})"
            found = board.evaluate(ask, f"Array.from(values({image}, weights).at(-1))")
            np.testing.assert_allclose(found, logits[i], rtol=1e-3, atol=1e-3)
            if i < len(why):
                call = f"Array.from(contributions({image}, {labels[i]}, weights, 64))"
                difference = np.abs(board.evaluate(ask, call) - np.ravel(why[i])).max()
                assert difference < 0.05 * np.abs(why[i]).max()
            # MNIST's digits fit 20x20 pixels around their center of mass: ten times as large and
            # elsewhere on the board, they come out as they were.
            large = np.roll(digit[..., 0].repeat(10, 0).repeat(10, 1), (-13, 7), (0, 1))
            call = f"Array.from(preprocess({json.dumps(large.ravel().tolist())}, 280, 280))"
            if i < 3:
                np.testing.assert_allclose(board.evaluate(ask, call), digit.ravel(), atol=1e-5)
        assert board.evaluate(ask, "preprocess(new Float32Array(784), 28, 28)") is None
        read = board.evaluate(ask, f"inTurn({json.dumps([board.STROKES[d] for d in range(10)])})")
        assert (np.array(read) == np.arange(10)).sum() >= 9
        for width in (390, 1440):
            assert board.screenshot(ask, width).std() > 0.1  # not one color
            wide = "document.documentElement.scrollWidth <= innerWidth"
            assert board.evaluate(ask, wide)
