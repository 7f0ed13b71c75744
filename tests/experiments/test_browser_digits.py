"""The nets of the home page in headless Chromium: logits, drawings, letters, sizes."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from experiments import browser_digits as board
from experiments import browser_letters

NET = jn.models.lenet5(classes=10)


@pytest.fixture
def page(tmp_path):
    if not any(map(shutil.which, board.BROWSERS)):
        pytest.skip("needs Chromium or Chrome on the PATH")
    board.write_page(tmp_path / "index.html", board.CANVAS / "lenet5.npz")
    return tmp_path / "index.html"


def check_widths(ask):
    """The page fits a phone and a wide screen, where it is not of one color."""
    for width in (390, 1440):
        assert board.screenshot(ask, width).std() > 0.1
        # A phone widens its window for a page that is too wide, so `innerWidth` would tell nothing.
        assert board.evaluate(ask, "document.documentElement.scrollWidth") <= width


def last_params(file, small, like, names):
    """The params of the last moment, from the bytes that the page reads in the order of `names`."""
    params, _ = jax.eval_shape(small.init, jax.random.key(0), like)
    leaves, tree = jax.tree.flatten_with_path(params)
    places = [".".join(entry.key for entry in path) for path, _ in leaves]
    with np.load(board.CANVAS / file) as run:
        rest = run["weights"][-1].tobytes()
    found = {}
    for name in names:
        leaf = leaves[places.index(name)][1]
        size = leaf.size * leaf.dtype.itemsize
        found[name] = jnp.array(np.frombuffer(rest[:size], leaf.dtype).reshape(leaf.shape))
        rest = rest[size:]
    assert not rest
    assert len(found) == len(leaves)
    return tree.unflatten([found[name] for name in places])


def test_varied_strokes_stay_on_the_board():
    rng = np.random.default_rng(0)
    for strokes in board.STROKES.values():
        for _ in range(20):
            varied = board.varied(strokes, rng)
            assert [len(points) for points in varied] == [len(points) for points in strokes]
            points = np.concatenate(varied)
            before = np.concatenate(strokes)
            assert points.min() >= 0.04
            assert points.max() <= 0.96
            assert 0 < np.abs(points - before).mean() < 0.2


@pytest.mark.long
def test_the_board_computes_what_jaxnet_does(page, tmp_path, tfds_data_dir):
    """Its logits and contributions of 20 digits, ten drawings, and a page that fits both widths."""
    small = jn.quantized(NET)
    digits, labels = (a[:20] for a in jn.data.mnist()[1])
    kinds = "kernel.scale", "bias", "kernel.int8"
    names = [f"{layer}.{kind}" for kind in kinds for layer in board.LAYERS]
    params = last_params("lenet5.npz", small, digits[:1], names)
    state = {}
    logits, _ = small.apply(params, state, digits)
    assert (np.argmax(logits, -1) == labels).mean() > 0.9
    why = jn.inspect.integrated_gradients(small, params, state, digits[:3], labels[:3], steps=64)

    weights = json.loads((tmp_path / "home" / "moment23.js").read_text().split(", ")[1][:-3])
    with board.opened(page) as ask:
        no_network = dict(offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        ask("Network.emulateNetworkConditions", **no_network)
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
        check_widths(ask)


WRITES = """(async () => {
  const find = id => document.getElementById(id);
  const wait = () => new Promise(done => setTimeout(done, 20));
  find("write-tab").click();
  while (!find("letters").dataset.answers) await wait();
  const before = find("written").textContent;
  find("write").click();
  while (find("written").textContent.length < before.length + 40) await wait();
  find("write").click();
  const memory = {blocks: [], position: 0}, last = LETTERS.steps.length - 1;
  const weights = await load(`letters${last}`, unpackLetters);
  const logits = IDS.map(id => Array.from(read(memory, id, weights)));
  return {before, bars: find("next").children.length, written: find("written").textContent, logits};
})()"""


@pytest.mark.long
def test_the_page_writes_what_jaxnet_does(page):
    """The logits of 200 letters, three times as far as a block looks back, and 40 letters drawn."""
    with np.load(board.CANVAS / "letters.npz") as run:
        alphabet = str(run["letters"])
        names = [line.split()[0] for line in run["layout"]]
    text = ("ROMEO:\nBut, soft! what light through yonder window breaks?\n" * 4)[:200]
    ids = np.array([[alphabet.index(letter) for letter in text]])
    small = jn.quantized(browser_letters.gpt(len(alphabet)))
    logits, _ = small.apply(last_params("letters.npz", small, ids[:, :64], names), {}, ids)
    with board.opened(page) as ask:
        said = board.evaluate(ask, WRITES.replace("IDS", json.dumps(ids[0].tolist())))
        np.testing.assert_allclose(said["logits"], logits[0], rtol=1e-3, atol=1e-3)
        assert said["before"] == "ROMEO:\n"
        assert said["bars"] == 8
        assert said["written"].startswith("ROMEO:\n")
        assert set(said["written"]) <= set(alphabet)
        check_widths(ask)
