import numpy as np
import pytest

from jaxnet.inspect import Gabor, gabor_fit

RANDOM = np.random.default_rng(0)
N = 24
TRUE = Gabor(
    RANDOM.uniform(3, 8, N),
    RANDOM.uniform(3, 9, N),
    RANDOM.uniform(0, np.pi, N),
    RANDOM.uniform(0.1, 0.35, N),
    RANDOM.uniform(-np.pi, np.pi, N),
    RANDOM.uniform(1.2, 2.5, N),
    RANDOM.uniform(1.2, 3, N),
    RANDOM.uniform(0.5, 3, N),
)


def by_hand(gabor, height, width):
    """The formula, pixel by pixel."""
    row, column, angle, frequency, phase, along, across, amplitude = gabor
    image = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            u = (j - column) * np.cos(angle) + (i - row) * np.sin(angle)
            v = -(j - column) * np.sin(angle) + (i - row) * np.cos(angle)
            bell = np.exp(-(u**2) / (2 * along**2) - v**2 / (2 * across**2))
            image[i, j] = amplitude * bell * np.cos(2 * np.pi * frequency * u + phase)
    return image


@pytest.mark.slow
def test_drawn_as_the_formula_says(x64):
    one = Gabor(*(field[0] for field in TRUE))
    np.testing.assert_allclose(one.draw(12, 11), by_hand(one, 12, 11), atol=1e-12)
    np.testing.assert_allclose(TRUE.draw(12, 11)[:, :, 0], one.draw(12, 11), atol=1e-12)


@pytest.mark.slow
def test_an_upright_edge_has_orientation_0():
    edge = Gabor(5.0, 5.0, 0.0, 0.08, np.pi / 2, 2.0, 4.0, 1.0).draw(11, 11)
    assert (edge[5, :5] > 0).all() and (edge[5, 6:] < 0).all()  # changes along the row
    assert (edge[:, 4] > 0).all()  # and keeps its sign down the column


@pytest.fixture(scope="module")
def fits():
    """name -> (filters, their functions, R²), from one call: each new shape compiles anew."""
    clean = np.asarray(TRUE.draw(12, 11))
    noise = RANDOM.normal(size=clean.shape) * clean.std((0, 1))
    pixel = (np.arange(132) == 60).astype(float).reshape(12, 11, 1)  # row 5, column 5
    sets = {
        "clean": clean,
        "noisy": clean + noise,  # as much noise as signal
        "noise": RANDOM.normal(size=(12, 11, 40)),
        "offset": RANDOM.normal(size=(12, 11, 5)) + 0.5,
        "scaled": clean[:, :, :2] * [1e-4, 1e4],
        "zero": 0 * pixel,
        "pixel": pixel,
    }
    fitted, r2 = gabor_fit(np.concatenate(list(sets.values()), axis=-1))
    given, start = {}, 0
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
    turn = (np.asarray(fitted.orientation) - TRUE.orientation + np.pi / 2) % np.pi - np.pi / 2
    np.testing.assert_allclose(turn, 0, atol=1e-3)
    for name in ("row", "column", "frequency", "sigma_along", "sigma_across", "amplitude"):
        np.testing.assert_allclose(getattr(fitted, name), getattr(TRUE, name), atol=1e-3)
    phase = (np.asarray(fitted.phase) - TRUE.phase + np.pi) % (2 * np.pi) - np.pi
    np.testing.assert_allclose(phase, 0, atol=1e-3)


@pytest.mark.long
def test_of_noisy_ones_the_function_is_found(fits):
    """It is half of the variance, and eight numbers fit some of the rest."""
    r2 = fits["noisy"][2]
    assert 0.4 < r2.mean() < 0.65 and r2.max() < 0.85


@pytest.mark.slow
def test_noise_is_no_gabor_function(fits):
    r2 = fits["noise"][2]
    assert 0.08 < r2.mean() < 0.2 and r2.max() < 0.35


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noisy", "offset"])
def test_r2_is_that_of_the_drawn_function(fits, name):
    filters, fitted, r2 = fits[name]
    left = np.square(filters - fitted.draw(12, 11)).sum((0, 1))
    total = np.square(filters - filters.mean((0, 1))).sum((0, 1))
    np.testing.assert_allclose(r2, 1 - left / total, atol=1e-5)


@pytest.mark.slow
def test_scale_does_not_matter_and_zero_fits_nothing(fits):
    assert (fits["scaled"][2] > 0.999).all() and fits["zero"][2] == 0


@pytest.mark.slow
def test_bells_keep_their_least_width(fits):
    """A lone pixel is no wave, but the narrowest bell comes near it."""
    _, fitted, _ = fits["pixel"]
    assert 0.5 <= float(fitted.sigma_along[0]) < 1 and 4.5 < float(fitted.row[0]) < 5.5


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (np.ones((8, 8)), r"expected \(height, width, filters\).*got \(8, 8\)"),
        (np.ones((3, 8, 2)), "at least 4x4 pixels"),
        (np.ones((8, 8, 0)), r"got \(8, 8, 0\)"),
        (np.full((8, 8, 1), np.nan), "must be finite"),
    ],
)
def test_wrong_filters(filters, message):
    with pytest.raises(ValueError, match=message):
        gabor_fit(filters)


@pytest.mark.parametrize("filters", [None, "a", [["a"]], np.ones((5, 5, 1), complex)], ids=str)
def test_filters_of_another_type(filters):
    with pytest.raises(TypeError, match="gabor_fit: filters must "):
        gabor_fit(filters)
