import numpy as np
import pytest

from jaxnet.inspect import Gabor, gabor_fit
from jaxnet.inspect.gabor import describe_free, residual_of, search, starts_of
from tests.helpers import refused

RANDOM = np.random.default_rng(0)
RANGES = Gabor(
    row=(3, 8),
    column=(3, 9),
    orientation=(0, np.pi),
    frequency=(0.1, 0.35),
    phase=(-np.pi, np.pi),
    sigma_along=(1.2, 2.5),
    sigma_across=(1.2, 3),
    amplitude=(0.5, 3),
)
TRUE = Gabor(*(RANDOM.uniform(low, high, 24) for low, high in RANGES))


def by_hand(gabor, height, width):
    """The formula."""
    row, column, angle, frequency, phase, along, across, amplitude = gabor
    i, j = np.mgrid[:height, :width]
    down, right = i - row, j - column
    u = right * np.cos(angle) + down * np.sin(angle)
    v = -right * np.sin(angle) + down * np.cos(angle)
    bell = np.exp(-(u**2) / (2 * along**2) - v**2 / (2 * across**2))
    return amplitude * bell * np.cos(2 * np.pi * frequency * u + phase)


def test_drawn_as_the_formula_says_alone_and_among_others():
    one = Gabor(*(field[0] for field in TRUE))
    for drawn in (one.draw(12, 11), TRUE.draw(12, 11)[:, :, 0]):
        np.testing.assert_allclose(drawn, by_hand(one, 12, 11), atol=1e-5)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def test_no_start_is_at_the_end_of_its_range():
    """A center on the first or last pixel starts 2% inside: the sigmoid reaches no end."""
    images = np.zeros((2, 6, 9))
    images[0, 0, 8] = images[1, 5, 0] = 1
    share = sigmoid(starts_of(images)[..., :2])
    np.testing.assert_allclose(share[0], np.tile([0.02, 0.98], (6, 1)))
    np.testing.assert_allclose(share[1], np.tile([0.98, 0.02], (6, 1)))


def test_the_search_starts_at_the_peak_of_the_spectrum():
    """Waves of whole cycles in 64 pixels, down and along a row; and where nothing is."""
    cycles = (6, 8), (0, 20), (20, 24), (4, -16)
    i, j = np.mgrid[:16, :12]
    bell = np.exp(-(((i - 9) / 3) ** 2) / 2 - ((j - 4) / 2.5) ** 2 / 2)
    images = [bell * np.cos(2 * np.pi * (a * i + b * j) / 64) for a, b in cycles]
    images.append(0 * bell)
    images[0] += 0.3  # a mean is no wave
    starts = starts_of(np.array(images))
    assert starts.shape == (5, 6, 8)
    assert (starts[:, :, 6:] == 0).all()
    row, column, angle, frequency, along, across = np.moveaxis(starts[:, :, :6], -1, 0)
    energy = np.square(images[:4])
    share = energy / energy.sum((1, 2), keepdims=True)
    for found, place, side in ((row, i, 15), (column, j, 11)):
        found = side * sigmoid(found)
        middle = (share * place).sum((1, 2))
        np.testing.assert_allclose(found[:4, 0], middle, rtol=1e-6)
        np.testing.assert_allclose(found[4], 0.02 * side, rtol=1e-6)
        np.testing.assert_allclose(found, found[:, :1] * np.ones(6))
    for found in (along, across):  # widths of half a pixel to 16
        found = 0.5 + 15.5 * sigmoid(found)
        np.testing.assert_allclose(found, [[1.92, 4, 1.92, 4, 3.2, 3.2]] * 5, rtol=1e-6)
    # Frequencies are 0.03 to 0.45.
    down, right = np.array([*cycles, (0, 0)]).T / 64
    peak = np.clip(np.hypot(down, right), 0.03, 0.45)
    wave = peak[:, None] * [1, 1, 0.5, 0.5, 1, 0.5]
    np.testing.assert_allclose(0.5 * sigmoid(frequency), wave, atol=1e-6)
    direction = np.arctan2(down, right)
    turned = direction[:, None] + np.pi / 2 * np.array([0, 0, 0, 0, 1, 1])
    np.testing.assert_allclose(angle, turned, atol=1e-6)


@pytest.mark.slow
def test_the_search_returns_the_error_of_what_it_found():
    images = np.float32([TRUE._replace(phase=0.3).draw(12, 11)[:, :, 0]])
    found, errors = search(images, starts_of(images).astype(np.float32))
    again = [np.square(residual_of(free, images[0])).sum() for free in found[0]]
    np.testing.assert_allclose(errors[0], again, rtol=1e-4, atol=1e-6)
    assert errors.min() < 1e-4


def test_free_parameters_are_described():
    """The wave a cos + b sin, drawn by hand, is the wave of the amplitude and phase."""
    free = RANDOM.normal(size=(4, 8)).astype(np.float32)
    free[:, 2] = [0.3, 7.0, 3.5, -1.0]  # of which the last two are turned by half a turn
    found = describe_free(free, (7, 6))
    assert (found.orientation >= 0).all()
    assert (found.orientation < np.pi).all()
    assert (found.amplitude > 0).all()
    for n, (a, b, angle, f, s, t, even, odd) in enumerate(free.astype(float)):
        given = 6 * sigmoid(a), 5 * sigmoid(b), angle, 0.5 * sigmoid(f)
        widths = 0.5 + 6.5 * sigmoid(s), 0.5 + 6.5 * sigmoid(t)
        wanted = even * by_hand(Gabor(*given, 0, *widths, 1), 7, 6)
        wanted += odd * by_hand(Gabor(*given, -np.pi / 2, *widths, 1), 7, 6)
        one = Gabor(*(field[n] for field in found))
        np.testing.assert_allclose(by_hand(one, 7, 6), wanted, atol=1e-5)


def test_an_upright_edge_has_orientation_0():
    edge = Gabor(5.0, 5.0, 0.0, 0.08, np.pi / 2, 2.0, 4.0, 1.0).draw(11, 11)
    assert (edge[5, :5] > 0).all()
    assert (edge[5, 6:] < 0).all()  # changes along the row
    assert (edge[:, 4] > 0).all()  # and keeps its sign down the column


@pytest.fixture(scope="module")
def fits():
    """name -> (filters, their functions, R²), from one call: each new shape compiles anew."""
    clean = np.asarray(TRUE.draw(12, 11))
    noise = RANDOM.normal(size=clean.shape) * clean.std((0, 1))
    pixel = np.zeros((12, 11, 1))
    pixel[5, 5] = 1
    alone = RANDOM.normal(size=(12, 11, 40))
    sets = {
        "clean": clean,
        "noisy": clean + noise,  # as much noise as signal
        "noise": alone,
        "pixel": pixel,
    }
    fitted, r2 = gabor_fit(np.concatenate(list(sets.values()), axis=-1))
    given = {}
    start = 0
    for name, filters in sets.items():
        part = slice(start, start + filters.shape[-1])
        given[name] = filters, Gabor(*(field[part] for field in fitted)), r2[part]
        start = part.stop
    assert r2.shape == (start,)
    return given


@pytest.mark.long
def test_gabor_functions_come_back(fits):
    """Every number; half a turn with the phase mirrored is the same function."""
    _, fitted, r2 = fits["clean"]
    assert (r2 > 0.99999).all()
    turn = fitted.orientation - TRUE.orientation
    turn = (turn + np.pi / 2) % np.pi - np.pi / 2
    np.testing.assert_allclose(turn, 0, atol=1e-3)
    for name in ("row", "column", "frequency", "sigma_along", "sigma_across", "amplitude"):
        np.testing.assert_allclose(getattr(fitted, name), getattr(TRUE, name), atol=1e-3)
    phase = (fitted.phase - TRUE.phase + np.pi) % (2 * np.pi) - np.pi
    np.testing.assert_allclose(phase, 0, atol=1e-3)


@pytest.mark.long
def test_of_noisy_ones_the_function_is_found(fits):
    """It is half of the variance, and eight numbers fit some of the rest."""
    r2 = fits["noisy"][2]
    assert 0.4 < r2.mean() < 0.65
    assert r2.max() < 0.85


@pytest.mark.slow
def test_noise_is_no_gabor_function(fits):
    r2 = fits["noise"][2]
    assert 0.08 < r2.mean() < 0.2
    assert r2.max() < 0.35


@pytest.mark.slow
def test_bells_keep_their_least_width(fits):
    """A lone pixel is no wave, but the narrowest bell comes near it."""
    _, fitted, _ = fits["pixel"]
    assert 0.5 <= float(fitted.sigma_along[0]) < 1
    assert 4.5 < float(fitted.row[0]) < 5.5


@refused([
    (np.ones((8, 8)), r"expected \(height, width, filters\).*got \(8, 8\)"),
    (np.ones((3, 8, 2)), "at least 4x4 pixels"),
    (np.ones((8, 8, 0)), r"got \(8, 8, 0\)"),
    (np.full((8, 8, 1), np.nan), "must be finite"),
])  # fmt: skip
def test_wrong_filters(filters):
    gabor_fit(filters)
