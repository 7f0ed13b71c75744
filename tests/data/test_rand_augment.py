"""The changes of `rand_augment` against Pillow, which computes them on 256 levels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.data.rand_augment import CHANGES, autocontrast, changed
from tests.helpers import refused

PIXELS = np.random.default_rng(0).normal(120, 45, (27, 36, 3))
IMAGE = np.clip(PIXELS, 0, 255).astype(np.uint8)
SMALL = IMAGE[:9, :12]


def pillow(image, name, strength):
    images = pytest.importorskip("PIL.Image")
    from PIL import ImageEnhance, ImageOps

    image = images.fromarray(image)
    enhance = {
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "brightness": ImageEnhance.Brightness,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhance:
        return enhance[name](image).enhance(1 + 0.9 * strength)
    if name == "solarize":
        return ImageOps.solarize(image, round(255 * (1 - abs(strength))))
    if name == "posterize":
        return ImageOps.posterize(image, 8 - round(4 * abs(strength)))
    return {"autocontrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}[name](image)


@pytest.mark.parametrize("strength", [0.6, -1.0])
def test_colors_are_those_of_pillow(strength):
    moves = ("identity", "rotate", "shear_rows", "shear_columns", "shift_down", "shift_right")
    names = [name for name in CHANGES if name not in moves]
    x = jnp.asarray(np.stack([IMAGE] * len(names)), jnp.float32) / 255
    which = jnp.array([CHANGES.index(name) for name in names])
    strengths = jnp.full(len(names), strength)
    y = np.asarray(jax.jit(changed)(x, which, strengths))
    for name, found in zip(names, y, strict=True):
        wanted = np.asarray(pillow(IMAGE, name, strength), float)
        difference = np.abs(255 * found - wanted)
        limit = 0.01 if name in ("posterize", "solarize") else 2.01  # Pillow rounds in between
        assert difference.max() <= limit, (name, difference.max())
        assert np.abs(wanted - IMAGE).max() >= 3, name


def test_autocontrast_by_hand():
    """The darkest value of each channel becomes 0, the brightest 1; one value alone stays."""
    x = jnp.array([0.25, 0.375, 0.75, 0.5, 0.5, 0.625, 0.4, 0.4, 0.4]).reshape(3, 1, 3)
    y = autocontrast(x.transpose(1, 2, 0)[None])
    wanted = [[0, 0.25, 1], [0, 0, 1], [0.4, 0.4, 0.4]]
    np.testing.assert_allclose(y[0, 0].T, wanted, atol=1e-6)


@pytest.mark.slow
def test_moves_are_those_by_hand():
    x = jnp.asarray(SMALL[None], jnp.float32) / 255
    change = jax.jit(changed)

    def augmented(name, strength):
        which = jnp.array([CHANGES.index(name)])
        (found,) = change(x, which, jnp.array([strength]))
        return np.asarray(found)

    image = np.asarray(x[0])
    down = augmented("shift_down", 0.5)  # 0.45 * 9 / 2 is 2 pixels
    np.testing.assert_allclose(down[2:], image[:-2], atol=1e-6)
    assert (down[:2] == 0).all()
    right = augmented("shift_right", -0.5)  # 3 pixels to the left
    np.testing.assert_allclose(right[:, :-3], image[:, 3:], atol=1e-6)
    np.testing.assert_allclose(augmented("rotate", 0.0), image, atol=1e-6)
    middle_row = augmented("shear_rows", 1.0)[4]
    np.testing.assert_allclose(middle_row, image[4], atol=1e-6)
    sheared = augmented("shear_rows", 1.0)[
        0, 2:-2
    ]  # 4 rows above the middle: by 0.3 * 4 = 1.2 pixels
    wanted = 0.8 * image[0, 3:-1] + 0.2 * image[0, 4:]
    np.testing.assert_allclose(sheared, wanted, atol=1e-3)
    turned = augmented("rotate", 1.0) - augmented("rotate", -1.0)
    assert np.abs(turned).max() > 0.1


@pytest.mark.slow
def test_every_image_has_its_own_changes():
    x = jnp.asarray(np.stack([SMALL] * 64), jnp.float32) / 255
    augment = jax.jit(jn.data.rand_augment(1, 0.5))
    y = np.asarray(augment(jax.random.key(0), x))
    assert y.shape == x.shape
    assert y.dtype == np.float32
    assert 14 <= len({image.tobytes() for image in y}) <= 25
    assert y.min() >= 0
    assert y.max() <= 1
    assert np.isnan(augment(jax.random.key(0), 255 * x)).all()


@refused([
    (lambda x: jn.data.rand_augment()(jax.random.key(0), 255 * x),
     r"rand_augment: images must be in \[0, 1\], got values"),
    (lambda x: jn.data.rand_augment()(jax.random.key(0), x[..., :2]), "1 or 3 channels.*, got"),
    (lambda x: jn.data.rand_augment()(jax.random.key(0), x[:, None]),
     r"expected pictures .*, got \(\d, 1, .*For series and volumes, chain random_flip"),
    (lambda x: jn.data.rand_augment(2, 9), r"strength must be in \[0, 1\], got 9"),
])  # fmt: skip
def test_refusals(call):
    call(jnp.ones((2, 5, 6, 3)))
