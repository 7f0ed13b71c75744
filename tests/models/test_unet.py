"""Values of the U-Net by other implementations."""

import jax
import numpy as np
import pytest

import jaxnet as jn
from tests.compiled import jit_apply
from tests.models.sizes import count, shapes


def convolved(x, kernel):
    """A convolution of odd windows with zeros around, in NumPy."""
    size = len(kernel)
    x = np.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    rows, columns = x.shape[1] - size + 1, x.shape[2] - size + 1
    return sum(
        x[:, i : i + rows, j : j + columns] @ kernel[i, j] for i in range(size) for j in range(size)
    )


def test_values_in_numpy():
    net = jn.models.unet(3, features=2, levels=3)
    x = np.random.default_rng(0).normal(size=(2, 8, 4, 3)).astype(np.float32)
    params, state = jax.device_get(net.init(jax.random.key(0), x))
    rng = np.random.default_rng(1)
    random = lambda leaf: rng.uniform(0.5, 1.5, leaf.shape) * np.where(leaf == 0, 1, leaf)  # noqa: E731
    params, state = ({k: jax.tree.map(random, v) for k, v in t.items()} for t in (params, state))

    def level(x, name):
        for unit in ("conv_1", "conv_2"):
            x = convolved(x, params[name][unit]["kernel"])
            norm, kept = params[name][f"{unit}_norm"], state[name][f"{unit}_norm"]
            x = (x - kept["mean"]) / np.sqrt(kept["var"] + 1e-5) * norm["scale"] + norm["bias"]
            x = np.maximum(x, 0)
        return x

    def halved(x):
        return np.stack([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]).max(0)

    def enlarged(x, name):
        kernel = params[name]["kernel"][::-1, ::-1]  # pixel (i, j) of each new 2x2 window
        y = np.einsum("bhwc,ijcf->bhiwjf", x, kernel)
        batch, height, _, width, _, features = y.shape
        return y.reshape(batch, 2 * height, 2 * width, features) + params[name]["bias"]

    one = level(x, "down_1")
    two = level(halved(one), "down_2")
    three = level(halved(two), "down_3")
    y = level(np.concatenate([two, enlarged(three, "enlarge_2")], -1), "up_2")
    y = level(np.concatenate([one, enlarged(y, "enlarge_1")], -1), "up_1")
    wanted = convolved(y, params["output"]["kernel"]) + params["output"]["bias"]
    y, _ = jit_apply(net, *jax.tree.map(np.float32, (params, state)), x)
    assert y.shape == wanted.shape == (2, 8, 4, 3)
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_parameters_by_hand():
    """Of the paper's sizes: 18 convolutions of 3x3, 4 of 2x2, one of 1x1."""
    maps = [64, 128, 256, 512, 1024]
    down = sum(9 * (a * b + b * b) + 4 * b for a, b in zip([3, *maps], maps, strict=False))
    up = sum(9 * (2 * b * b + b * b) + 4 * b + 4 * 2 * b * b + b for b in maps[:-1])
    assert count(jn.models.unet(2), (1, 32, 32, 3)) == down + up + 64 * 2 + 2


def test_stages_and_other_numbers_of_axes():
    found = shapes(jn.models.unet(2, features=4), (1, 48, 32, 3))
    assert found["down_5"] == (1, 3, 2, 64) and found["enlarge_4"] == (1, 6, 4, 32)
    assert found["up_1"] == (1, 48, 32, 4) and found["output"] == (1, 48, 32, 2)
    assert shapes(jn.models.unet(2, 4, 3), (1, 8, 4, 12, 1))["output"] == (1, 8, 4, 12, 2)
    assert shapes(jn.models.unet(2, 4, 3), (1, 8, 1))["output"] == (1, 8, 2)


def test_wrong_sizes():
    with pytest.raises(ValueError, match="unet: classes must be at least 1, got 0"):
        jn.models.unet(0)
    with pytest.raises(ValueError, match="multiples of 16, got .2, 24, 32, 3.. Pad, resize"):
        count(jn.models.unet(2), (2, 24, 32, 3))
