"""Gabor functions, the shape of receptive fields in the visual cortex, fitted to filters."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.checks import check_values, on_host

STEPS = 80  # steps of Levenberg-Marquardt
SPECTRUM = 64  # points along each side of the spectrum, for any size of filters
STARTS = [  # rotation of the wave, fraction of its frequency, width as a fraction of the filter
    (0, 1, 0.12),
    (0, 1, 0.25),
    (0, 0.5, 0.12),
    (0, 0.5, 0.25),
    (np.pi / 2, 1, 0.2),
    (np.pi / 2, 0.5, 0.2),
]
NARROWEST = 0.5  # pixels: a narrower Gaussian would fit any single pixel


class Gabor(NamedTuple):
    """Gabor functions: amplitude · exp(-u²/2σ_u² - v²/2σ_v²) · cos(2π · frequency · u + phase).

    u is the distance from the center along the wave, v across it. Each field is (filters,), or a
    number for a single function.

    Fields:
      row, column: Position of the center, in pixels from the first.
      orientation: Direction of the wave, in [0, π); 0 is along a row (a vertical edge), π/2 along a
        column.
      frequency: Cycles per pixel, in (0, 0.5).
      phase: Phase at the center, in (-π, π]; 0 is even (a bar), ±π/2 odd (an edge).
      sigma_along: Standard deviation along the wave, in pixels.
      sigma_across: Standard deviation along the edge, in pixels.
      amplitude: Amplitude, positive.
    """

    row: Any
    column: Any
    orientation: Any
    frequency: Any
    phase: Any
    sigma_along: Any
    sigma_across: Any
    amplitude: Any

    def draw(self, height: int, width: int) -> jax.Array:
        """Draw the functions, (height, width, filters), or (height, width) for a single one.

        Example:
          >>> Gabor(3, 2, 0.0, 0.2, 0.0, 1.5, 2.0, 7.0).draw(8, 6)[3, 2].item()
          7.0
        """
        return _draw(self, height, width)


@partial(jax.jit, static_argnums=(1, 2))  # one program for each size, not one per operation
def _draw(gabor: Gabor, height: int, width: int) -> jax.Array:
    with_space = [jnp.asarray(value)[None, None] for value in gabor]
    row, column, angle, frequency, phase, along, across, amplitude = with_space
    places = np.mgrid[:height, :width].astype(jnp.result_type(float))
    rows, columns = places.reshape(2, height, width, *[1] * (row.ndim - 2))
    y = rows - row
    x = columns - column
    u = x * jnp.cos(angle) + y * jnp.sin(angle)
    v = -x * jnp.sin(angle) + y * jnp.cos(angle)
    bell = jnp.exp(-((u / along) ** 2) / 2 - (v / across) ** 2 / 2)
    wave = jnp.cos(2 * jnp.pi * frequency * u + phase)
    return amplitude * bell * wave


class GaborFit(NamedTuple):
    """The result of `gabor_fit`.

    Fields:
      gabor: Fitted functions; each field is (filters,).
      r2: Coefficient of determination over the pixels of each filter, (filters,): 1 for a perfect
        fit, 0 for a fit that is not better than a constant.
    """

    gabor: Gabor
    r2: jax.Array


def gabor_fit(filters: Any) -> GaborFit:
    """Fit a Gabor function to each filter by least squares, with its R².

    Levenberg-Marquardt runs from the largest peak of the filter's spectrum and from the orthogonal
    wave, with Gaussians of several widths at the center of the filter's energy, and the best result
    is kept. A standard deviation is at least half a pixel, and the center is within the filter.
    Eight parameters fit part of any filter: R² of white noise of 12x12 pixels is about 0.13. It is
    computed in NumPy, so it has no derivatives.

    Args:
      filters: Filters, (height, width, filters), at least 4x4 pixels; for a dense kernel
        `kernel.reshape(height, width, -1)`, for a grayscale convolution `kernel[:, :, 0]`.

    Returns:
      A `GaborFit`: the parameters of the functions, and R² of each filter, (filters,); 1 is a
      perfect fit.

    Raises:
      TypeError: If `filters` is not of numbers.
      ValueError: If `filters` has the wrong shape, or values that are not finite.

    Example:
      >>> true = Gabor(5.0, 6.0, 0.7, 0.15, 1.0, 2.0, 3.0, 1.0)
      >>> fitted, r2 = gabor_fit(true.draw(12, 11)[:, :, None])
      >>> print(f"R² {r2[0]:.2f}, orientation {fitted.orientation[0]:.2f}")
      R² 1.00, orientation 0.70

    Reference: Daugman 1985, "Uncertainty relation for resolution in space, spatial frequency, and
    orientation"; Jones and Palmer 1987 fit them to cells of the cat's cortex.
    """
    filters = on_host("gabor_fit", "filters", filters)
    if filters.ndim != 3 or min(filters.shape[:2]) < 4 or not filters.shape[2]:
        raise ValueError(
            "gabor_fit: expected (height, width, filters), at least 4x4 pixels, got "
            f"{filters.shape}; for one filter pass image[:, :, None]"
        )
    check_values("gabor_fit", "filters", filters, "(-inf, inf)")
    images = np.moveaxis(filters, -1, 0)  # (filters, height, width)
    scale = np.sqrt(np.square(images).mean((1, 2)))
    images = images / np.where(scale > 0, scale, 1)[:, None, None]
    images = jnp.asarray(images, jnp.result_type(float))
    starts = jnp.asarray(starts_of(np.asarray(images)))
    free, errors = search(images, starts)
    best = np.asarray(errors).argmin(1)
    best_free = np.asarray(free)[np.arange(len(best)), best]
    gabor = describe_free(best_free, images.shape[1:])
    gabor = gabor._replace(amplitude=gabor.amplitude * scale)
    gabor = Gabor(*[jnp.asarray(field) for field in gabor])
    r2 = _r2(filters, np.asarray(gabor.draw(*filters.shape[:2])))
    return GaborFit(gabor, jnp.asarray(r2, images.dtype))


def _r2(filters: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    total = np.square(filters - filters.mean((0, 1))).sum((0, 1))
    left = np.square(filters - fitted).sum((0, 1))
    return np.where(total > 0, 1 - left / np.where(total > 0, total, 1), 0)


# The search runs over eight free parameters: center, orientation, frequency and widths, mapped to
# their ranges by sigmoids, and the amplitudes of cosine and sine.


@partial(jax.jit, static_argnums=1)
def _even(free, shape):
    """Return the even function of amplitude 1."""
    height, width = shape
    squeeze = jax.nn.sigmoid
    room = max(shape) - NARROWEST
    row = (height - 1) * squeeze(free[0])
    column = (width - 1) * squeeze(free[1])
    orientation = free[2]
    frequency = 0.5 * squeeze(free[3])
    along = NARROWEST + room * squeeze(free[4])
    across = NARROWEST + room * squeeze(free[5])
    return Gabor(row, column, orientation, frequency, 0.0, along, across, 1.0)


def _waves(free, shape):
    """Return the even and the odd function, (2, height, width)."""
    even = _even(free, shape)
    odd = even._replace(phase=-jnp.pi / 2)
    return jnp.stack([even.draw(*shape), odd.draw(*shape)])


def residual_of(free, image):
    even, odd = _waves(free, image.shape)
    return (free[6] * even + free[7] * odd - image).ravel()


@jax.jit
def search(images, starts):
    """Return the best free parameters (filters, starts, 8), with their squared errors."""

    def one(image, start):
        # the model is linear in the amplitudes: solve for the best ones of this start
        waves = _waves(start, image.shape).reshape(2, -1)
        gram = waves @ waves.T + 1e-6 * jnp.eye(2)
        free = start.at[6:].set(jnp.linalg.solve(gram, waves @ image.ravel()))

        def body(_, carry):
            free, error, damping = carry
            residual = residual_of(free, image)
            jacobian = jax.jacfwd(residual_of)(free, image)  # (pixels, 8)
            gram = jacobian.T @ jacobian
            ridge = damping * jnp.diag(jnp.diag(gram) + 1e-6)
            move = jnp.linalg.solve(gram + ridge, jacobian.T @ residual)
            trial = free - move
            # The sigmoids are flat outside this range.
            trial = trial.at[:6].set(jnp.clip(trial[:6], -8, 8))
            after = jnp.square(residual_of(trial, image)).sum()
            better = after < error
            free = jnp.where(better, trial, free)
            error = jnp.where(better, after, error)
            damping = damping * jnp.where(better, 0.3, 4.0)
            return free, error, jnp.clip(damping, 1e-7, 1e7)

        error = jnp.square(residual_of(free, image)).sum()
        first = free, error, jnp.asarray(1e-2, free.dtype)
        free, error, _ = jax.lax.fori_loop(0, STEPS, body, first)
        return free, error

    return jax.vmap(jax.vmap(one, (None, 0)))(images, starts)


def starts_of(images: np.ndarray) -> np.ndarray:
    """Return the starts (filters, starts, 8), with amplitudes of 0."""
    count, height, width = images.shape
    energy = np.square(images)
    total = energy.sum((1, 2), keepdims=True)
    energy = energy / np.maximum(total, 1e-12)
    row = (energy.sum(2) * np.arange(height)).sum(1)
    column = (energy.sum(1) * np.arange(width)).sum(1)
    frequency, angle = _peaks(images)

    widest = max(height, width)
    amplitudes = np.zeros(count)
    starts = []
    for rotation, slower, width_fraction in STARTS:
        sigma = np.full(count, max(width_fraction * widest, 0.8))
        free = [
            _unsqueezed(row, 0, height - 1),
            _unsqueezed(column, 0, width - 1),
            angle + rotation,
            _unsqueezed(slower * frequency, 0, 0.5),
            _unsqueezed(sigma, NARROWEST, widest),
            _unsqueezed(sigma, NARROWEST, widest),
            amplitudes,
            amplitudes,
        ]
        starts.append(np.stack(free, axis=1))
    return np.stack(starts, 1).astype(images.dtype)


def _peaks(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the frequency and the direction at the largest peak of each spectrum."""
    sides = (SPECTRUM, SPECTRUM)
    spectrum = np.abs(np.fft.fft2(images - images.mean((1, 2), keepdims=True), sides))
    spectrum[:, SPECTRUM // 2 + 1 :] = 0  # the lower half repeats the upper
    flat = spectrum.reshape(len(images), -1)
    row, column = np.unravel_index(flat.argmax(1), sides)
    frequencies = np.fft.fftfreq(SPECTRUM)
    down = frequencies[row] % 1.0
    along = frequencies[column]
    frequency = np.clip(np.hypot(down, along), 0.03, 0.45)
    return frequency, np.arctan2(down, along)


def _unsqueezed(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the free parameters that a sigmoid maps to these values, away from its ends."""
    fraction = np.clip((value - low) / (high - low), 0.02, 0.98)
    return np.log(fraction / (1 - fraction))


def describe_free(free: np.ndarray, shape: tuple[int, ...]) -> Gabor:
    """Return the functions of free parameters (filters, 8), with the angles in their ranges."""
    wave = Gabor(*map(np.asarray, _even(free.T, shape)))
    even, odd = free.T[6:]
    # a cos + b sin = A cos(wave + phase), with the sine a quarter of a cycle behind
    phase = np.arctan2(-odd, even)
    amplitude = np.hypot(even, odd)
    # A rotation by π mirrors the wave.
    turned = wave.orientation % (2 * np.pi) >= np.pi
    phase = np.where(turned, -phase, phase)
    return wave._replace(orientation=wave.orientation % np.pi, phase=phase, amplitude=amplitude)
