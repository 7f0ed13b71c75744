import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.data import (
    chain,
    color_jitter,
    cutmix,
    cutout,
    elastic,
    mixup,
    on_inputs,
    on_masks,
    random_flip,
    random_shift,
    warp,
)
from tests.helpers import refused


@pytest.mark.slow
def test_moves_are_equally_likely():
    images = jnp.zeros((9000, 3, 3, 1)).at[:, 1, 1].set(1.0)
    y = random_shift(1)(jax.random.key(1), images)
    share = np.asarray(y.mean(0)[..., 0])
    # 4 standard errors of a share of 1/9 in 9000 draws
    deviation = np.sqrt(1 / 9 * 8 / 9 / 9000)
    np.testing.assert_allclose(share, 1 / 9, atol=4 * deviation)


@pytest.mark.slow
def test_on_masks_moves_masks_along_and_fills_with_void():
    """Half the size: a frame of void around, and class 0 inside stays class 0."""
    x = jnp.linspace(0, 1, 2 * 8 * 12 * 3).reshape(2, 8, 12, 3)
    mask = jnp.arange(2 * 8 * 12).reshape(2, 8, 12) % 11

    def half(key, batch):
        matrix = jnp.eye(2)[None].repeat(2, 0) / 2
        return warp(batch, matrix)

    for dtype in (jnp.int32, jnp.uint8):
        masks = mask.astype(dtype)
        image, moved = on_masks(half, void=11)(jax.random.key(0), (x, masks))
        np.testing.assert_array_equal(image, half(None, x))
        plain = half(None, {"image": x, "mask": mask + 1})["mask"]  # 0 is what came in
        np.testing.assert_array_equal(moved, jnp.where(plain == 0, 11, plain - 1))
        assert moved.dtype == dtype
        assert (moved == 11).sum() > 100
        assert (moved == 0).any()


@pytest.mark.slow
def test_an_augmented_objective():
    """The loss gets shifted images, the metric the targets unchanged."""
    import optax

    import jaxnet as jn

    x = jnp.zeros((12, 3, 3, 1)).at[:, 1, 1].set(1.0)
    y = jnp.arange(12)
    seen = {"sum": lambda outputs, targets: targets.astype(jnp.float32)}

    def square(outputs, targets):
        return outputs[:, 0] ** 2

    plain = jn.supervised(jn.models.mlp([1]), square, metrics=seen)

    def first(objective):
        trainer = jn.trainer(objective, optax.sgd(0.1))
        start = trainer.init(jax.random.key(0), (x, y))
        return next(jn.fit(trainer, start, (x, y), epochs=1, batch_size=4))

    augmented = jn.augmented(plain, on_inputs(random_shift(1)))
    moved, still = first(augmented), first(plain)
    assert moved.train["sum"] == pytest.approx(5.5) == still.train["sum"]
    assert moved.losses[0] != still.losses[0]


def test_color_stays_between_0_and_1_and_gray_has_contrast():
    uniform = np.random.default_rng(0).uniform(0.3, 0.6, (50, 3, 4, 3))
    x = uniform.astype(np.float32)
    gray = jax.eval_shape(color_jitter(contrast=0.5), jax.random.key(0), x[..., :1])
    assert gray.shape == (50, 3, 4, 1)
    strong = jax.jit(color_jitter(brightness=1.0))(jax.random.key(0), x)
    assert strong.min() >= 0
    assert strong.max() <= 1


@pytest.mark.slow
def test_mixup_blends_by_the_beta_distribution():
    batch = jnp.eye(40), jnp.arange(40) % 5
    blended, _ = mixup(1.0, classes=5)(jax.random.key(0), batch)
    own = np.diag(np.asarray(blended))
    assert 0.3 < own.mean() < 0.75  # of Beta(1, 1), uniform
    assert own.std() > 0.15
    weak, _ = mixup(0.05, classes=5)(jax.random.key(0), batch)
    hardly_mixed = np.asarray(weak).max(1) > 0.99
    assert hardly_mixed.mean() > 0.6


@pytest.mark.slow
def test_cutmix_pastes_a_rectangle_and_mixes_labels_by_its_area():
    n = 60
    numbers = jnp.arange(n, dtype=jnp.float32).reshape(n, 1, 1, 1)
    x = numbers.repeat(8, 1).repeat(12, 2)
    y = jnp.arange(n) % 5
    mixed, targets = jax.jit(cutmix(1.0, classes=5))(jax.random.key(0), (x, y))
    labels = np.eye(5)[np.asarray(y)]
    areas = []
    pictures = np.asarray(mixed)[..., 0]
    for i, (image, target) in enumerate(zip(pictures, targets, strict=True)):
        other = image != i
        areas.append(other.mean())
        if other.any():
            (partner,) = np.unique(image[other])
            rows, columns = np.where(other)
            rectangle = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            assert other.sum() == rectangle
            area = other.mean()
            wanted = (1 - area) * labels[i] + area * labels[int(partner)]
            np.testing.assert_allclose(target, wanted, atol=1e-6)
    assert 0.15 < np.mean(areas) < 0.5
    assert np.std(areas) > 0.1
    small, _ = cutmix(0.01, 5)(jax.random.key(0), (x.astype(jnp.uint8), y))
    assert small.dtype == jnp.uint8


@pytest.mark.parametrize("make", [
    lambda: on_inputs(color_jitter(brightness=0.5)), lambda: mixup(0.2, 3),
], ids=["color_jitter", "mixup"])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_integers_are_not_mixed_or_scaled_to_0(make, dtype):
    batch = np.full((4, 5, 6, 3), 1, dtype), np.arange(4) % 3
    for run in (make(), jax.jit(make())):
        with pytest.raises(TypeError, match=r"inputs must hold floats; write x.astype.*, got "):
            run(jax.random.key(0), batch)


@pytest.mark.slow
@pytest.mark.parametrize("label", [-1, 3])
def test_labels_of_no_class_are_refused_or_nan(label):
    x, labels = jnp.ones((2, 4)), jnp.array([label, 1])
    with pytest.raises(ValueError, match=rf"mixup: labels must be in \[0, 3\), got {label}"):
        mixup(0.2, 3)(jax.random.key(0), (x, labels))
    _, targets = jax.jit(mixup(0.2, 3))(jax.random.key(0), (x, labels))
    assert jnp.isnan(targets).any()
    assert targets.dtype == x.dtype


RAMP = np.linspace(0, 1, 48, dtype=np.float32).reshape(1, 4, 4, 3)


def jitter(x):
    return color_jitter(brightness=0.1)(jax.random.key(0), x)


@pytest.mark.parametrize("foreign", [255 * RAMP, (RAMP - 0.5) * 4], ids=["bytes", "standardized"])
def test_color_of_images_in_other_units(foreign):
    """A ramp from 0 to 255 was clipped to a white image."""
    with pytest.raises(ValueError, match=r"color_jitter: images must be in \[0, 1\].*x / 255"):
        jitter(foreign)
    assert jnp.isnan(jax.jit(jitter)(foreign)).all()


@pytest.mark.slow
def test_color_of_images_a_little_outside():
    bright = 1.2 * RAMP - 0.1
    over = jax.jit(jitter)(bright)
    under = jax.jit(jitter)(0.9 * RAMP)
    np.testing.assert_array_equal(over, jitter(bright))
    assert np.min(over) == 0
    assert np.max(over) == 1
    assert np.ptp(under) > 0.8


@pytest.mark.slow
def test_cutmix_of_narrow_images_weighs_all_pixels():
    """A sum of more than 256 ones in bfloat16 is 256."""
    numbers = jnp.arange(8, dtype=jnp.bfloat16)[:, None, None, None]
    x = jnp.broadcast_to(numbers, (8, 32, 32, 1))
    mixed, targets = cutmix(1.0, 8)(jax.random.key(1), (x, jnp.arange(8)))
    kept = np.asarray(mixed == x).mean((1, 2, 3))
    own_labels = np.diagonal(targets).astype(np.float32)
    np.testing.assert_allclose(own_labels, kept, atol=0.01)


X = jnp.ones((3, 5, 7, 2))


@refused([
    (lambda key: random_shift(0), "pixels must be at least 1, got 0"),
    (lambda key: random_shift(2**30)(key, X), "pixels must be 1 to 7, the largest side"),
    (lambda key: random_shift(1)(key, jnp.zeros((3, 64))),
     r"shape \(batch, height, width, channels\), or .* for volumes, got \(3, 64\)"),
    (lambda key: on_inputs(random_shift(1))(key, X), TypeError,
     "expected a batch .*got ArrayImpl; for inputs alone"),
    (lambda key: on_masks(random_shift(1))(key, {"image": X}), TypeError,
     r"on_masks: expected a batch \(inputs, masks\), got dict"),
    (lambda key: on_masks(lambda key, x: x, void=300)(key, (X, jnp.ones((3, 5, 7), jnp.uint8))),
     "void must be 0 to 255, the range of uint8 masks"),
    (lambda key: color_jitter(saturation=0.5)(key, X), "with 3 channels for saturation"),
    (lambda key: color_jitter(contrast=2), r"contrast must be in \[0, 1\], got 2"),
    (lambda key: cutout(0), "size must be at least 1"),
    (lambda key: mixup(0, 5), r"mixup: alpha must be in \(0, inf\), got 0"),
    (lambda key: cutmix(1.0, 5)(key, X), TypeError, r"cutmix: expected a batch \(inputs, labels\)"),
])  # fmt: skip
def test_refusals(call):
    call(jax.random.key(0))


def test_a_change_of_images_alone_is_told_what_moves_masks():
    batch = jnp.ones((2, 8, 8, 3)), jnp.ones((2, 8, 8), int)
    with pytest.raises(TypeError, match="got a dict of image, mask.*elastic"):
        on_masks(random_shift(1))(jax.random.key(0), batch)


SPACES = {"series": (9,), "volumes": (5, 6, 7), "films": (3, 4, 3, 5)}


def of_space(space, n=6, channels=2):
    """Numbers above 0, which differ, so that zeros come from outside."""
    size = n * int(np.prod(space)) * channels
    return np.random.default_rng(0).permutation(size).reshape(n, *space, channels) + 1.0


@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_shifts_along_all_axes(space):
    x = of_space(space).astype(np.float32)
    y = np.asarray(jax.jit(random_shift(2))(jax.random.key(1), x))
    padded = np.pad(x, [(0, 0), *[(2, 2)] * len(space), (0, 0)])
    found = []
    for image, moved in zip(padded, y, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(image, moved.shape)
        places = np.argwhere((windows == moved).all(tuple(range(-moved.ndim, 0))))
        assert len(places) == 1
        found.append(places[0, : len(space)] - 2)
    assert np.ptp(found, axis=0).min() > 0  # each axis has its own shifts


@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_cutout_is_a_cube(space):
    x = of_space(space, 20).astype(np.float32)
    y = np.asarray(jax.jit(cutout(2))(jax.random.key(0), x))
    widest = np.zeros(len(space), int)
    for image, cut in zip(x, y, strict=True):
        places = np.argwhere((cut == 0).all(-1))
        sides = np.ptp(places, axis=0) + 1
        assert len(places) == sides.prod()
        np.testing.assert_array_equal(cut[cut != 0], image[cut != 0])
        widest = np.maximum(widest, sides)
    assert (widest == 2).all()


@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_cutmix_of_boxes(space):
    n = 40
    x = np.broadcast_to(np.arange(n).reshape(n, *[1] * len(space), 1), (n, *space, 1))
    x = x.astype(np.float32)
    mixed, targets = jax.jit(cutmix(1.0, n))(jax.random.key(0), (x, np.arange(n)))
    pasted = np.asarray(mixed != x)[..., 0]
    parts = pasted.mean(tuple(range(1, pasted.ndim)))
    np.testing.assert_allclose(np.diagonal(targets), 1 - parts, atol=1e-6)
    assert 0.1 < parts.mean() < 0.55
    for image in pasted[parts > 0]:
        assert image.sum() == (np.ptp(np.argwhere(image), axis=0) + 1).prod()


@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_colors_are_those_of_a_picture_of_all_pixels(space):
    """Brightness and contrast do not ask where a pixel is."""
    x = np.random.default_rng(0).uniform(0.3, 0.6, (4, *space, 3)).astype(np.float32)
    jitter = jax.jit(color_jitter(brightness=0.2, contrast=0.3, saturation=0.4))
    flat = jitter(jax.random.key(2), x.reshape(4, 1, -1, 3))
    np.testing.assert_allclose(jitter(jax.random.key(2), x), flat.reshape(x.shape), atol=1e-6)


@pytest.mark.slow
def test_volumes_move_with_their_masks():
    """Each voxel holds its label, so nothing but the edge of interpolation tells them apart."""
    labels = np.zeros((6, 10, 11, 12), np.uint8)
    labels[:, 3:7, 2:8, 4:9] = 3
    change = chain(
        random_flip(axis=0),
        elastic(rotation=20, shear=5, scale=(0.9, 1.1), shift=1, displacement=0.5),
    )
    augment = jax.jit(on_masks(change, void=255))
    volumes, masks = augment(jax.random.key(0), (labels[..., None].astype(np.float32), labels))
    volumes, masks = np.asarray(volumes)[..., 0], np.asarray(masks)
    assert (masks != labels).any((1, 2, 3)).all()
    assert (masks == 255).any()
    inside = masks != 255
    near = np.abs(volumes - masks)[inside]
    assert near.max() <= 3
    assert near.mean() < 0.15
