"""Gabor functions: how much of a filter is a wave under a bell, as in the visual cortex."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

STEPS = 80  # of Levenberg and Marquardt
NARROWEST = 0.5  # pixels: a narrower bell would fit any lone pixel


class Gabor(NamedTuple):
    """Gabor functions: amplitude · exp(-u²/2σ_u² - v²/2σ_v²) · cos(2π · frequency · u + phase).

    u runs along the wave and v across it, from the centre. Each field is (filters,), or a number
    for one function.

    Fields:
      row, column: of the centre, in pixels from the first.
      orientation: of the direction along which the wave runs, in [0, π); 0 runs along a row (the
        edge stands upright), π/2 down a column.
      frequency: waves a pixel, in (0, 0.5).
      phase: at the centre, in (-π, π]; 0 is even (a bar), ±π/2 odd (an edge).
      sigma_along: of the bell along the wave, in pixels.
      sigma_across: along the edge.
      amplitude: positive.
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
        """The functions as images (height, width, filters); (height, width) for one of numbers.

        Example:
          >>> Gabor(3, 2, 0.0, 0.2, 0.0, 1.5, 2.0, 7.0).draw(8, 6)[3, 2].item()
          7.0
        """
        rows, columns = jnp.mgrid[:height, :width].astype(jnp.result_type(float))
        rows, columns = (
            a.reshape(height, width, *[1] * np.ndim(self.row)) for a in (rows, columns)
        )
        y, x = rows - self.row, columns - self.column
        u = x * jnp.cos(self.orientation) + y * jnp.sin(self.orientation)
        v = -x * jnp.sin(self.orientation) + y * jnp.cos(self.orientation)
        bell = jnp.exp(-((u / self.sigma_along) ** 2) / 2 - (v / self.sigma_across) ** 2 / 2)
        return self.amplitude * bell * jnp.cos(2 * jnp.pi * self.frequency * u + self.phase)


class GaborFit(NamedTuple):
    """What `gabor_fit` gives.

    Fields:
      gabor: the functions; each field (filters,).
      r2: (filters,), the share of each filter's variance over its pixels that its function
        explains: 1 is all of it, 0 no more than a constant.
    """

    gabor: Gabor
    r2: jax.Array


def gabor_fit(filters: Any) -> GaborFit:
    """The Gabor function nearest to each filter by least squares, and how near it is.

    The search starts from the strongest wave of the filter's spectrum and that at right angles to
    it, with bells of several widths at the centre of the filter's energy, and keeps the best of
    the ends (Levenberg and Marquardt). A bell is at least half a pixel wide, its
    centre lies within the filter. Eight numbers fit a part of anything: R² of white noise of 12x12
    pixels is about 0.13.

    Args:
      filters: (height, width, filters), at least 4x4 pixels; a dense kernel as
        `kernel.reshape(height, width, -1)`, a grey convolution's as `kernel[:, :, 0]`.

    Raises:
      ValueError: for another shape, or values that are not finite.

    Example:
      >>> true = Gabor(5.0, 6.0, 0.7, 0.15, 1.0, 2.0, 3.0, 1.0)
      >>> fitted, r2 = gabor_fit(true.draw(12, 11)[:, :, None])
      >>> bool(r2[0] > 0.99), round(float(fitted.orientation[0]), 2)
      (True, 0.7)

    Reference: Daugman 1985, "Uncertainty relation for resolution in space, spatial frequency, and
    orientation"; Jones and Palmer 1987 fit them to cells of the cat's cortex.
    """
    filters = np.asarray(filters, float)
    if filters.ndim != 3 or min(filters.shape[:2]) < 4 or not filters.shape[2]:
        raise ValueError(
            "gabor_fit: needs (height, width, filters), at least 4x4 pixels, got "
            f"{filters.shape}; for one filter write image[:, :, None]"
        )
    if not np.isfinite(filters).all():
        raise ValueError("gabor_fit: the filters must be finite, got a NaN or Inf")
    images = np.moveaxis(filters, -1, 0)  # (filters, height, width)
    scale = np.sqrt(np.square(images).mean((1, 2)))
    images = images / np.where(scale > 0, scale, 1)[:, None, None]
    images = jnp.asarray(images, jnp.result_type(float))
    free, errors = _search(images, jnp.asarray(_starts(np.asarray(images))))
    best = np.asarray(errors).argmin(1)
    gabor = _describe(np.asarray(free)[np.arange(len(best)), best], images.shape[1:])
    gabor = gabor._replace(amplitude=gabor.amplitude * scale)
    total = np.square(filters - filters.mean((0, 1))).sum((0, 1))
    left = np.square(filters - np.asarray(gabor.draw(*filters.shape[:2]))).sum((0, 1))
    r2 = np.where(total > 0, 1 - left / np.where(total > 0, total, 1), 0)
    return GaborFit(Gabor(*map(jnp.asarray, gabor)), jnp.asarray(r2, images.dtype))


# The search runs over eight free numbers: centre, orientation, frequency and widths, squeezed into
# their ranges by sigmoids, and the cosine's and sine's amplitudes.


def _unpack(free, shape):
    """Centre (row, column), orientation, frequency, widths, amplitudes."""
    height, width = shape
    widest = max(shape)
    squeeze = jax.nn.sigmoid
    return (
        (height - 1) * squeeze(free[0]),
        (width - 1) * squeeze(free[1]),
        free[2],
        0.5 * squeeze(free[3]),
        NARROWEST + (widest - NARROWEST) * squeeze(free[4]),
        NARROWEST + (widest - NARROWEST) * squeeze(free[5]),
        free[6],
        free[7],
    )


def _waves(free, shape):
    """The even and the odd wave under the bell, (2, height, width)."""
    centre_row, centre_column, angle, frequency, along, across, _, _ = _unpack(free, shape)
    pair = Gabor(centre_row, centre_column, angle, frequency, 0.0, along, across, 1.0)
    return jnp.stack([pair.draw(*shape), pair._replace(phase=-jnp.pi / 2).draw(*shape)])


def _residual(free, image):
    even, odd = _waves(free, image.shape)
    return (free[6] * even + free[7] * odd - image).ravel()


@jax.jit
def _search(images, starts):
    """The best free numbers (filters, starts, 8) and their squared errors (filters, starts)."""

    def one(image, start):
        # the amplitudes enter linearly: the best ones for this start
        waves = _waves(start, image.shape).reshape(2, -1)
        gram = waves @ waves.T + 1e-6 * jnp.eye(2)
        free = start.at[6:].set(jnp.linalg.solve(gram, waves @ image.ravel()))

        def body(_, carry):
            free, error, damping = carry
            residual = _residual(free, image)
            jacobian = jax.jacfwd(_residual)(free, image)  # (pixels, 8)
            gram = jacobian.T @ jacobian
            ridge = damping * jnp.diag(jnp.diag(gram) + 1e-6)
            trial = free - jnp.linalg.solve(gram + ridge, jacobian.T @ residual)
            trial = trial.at[:6].set(jnp.clip(trial[:6], -8, 8))  # sigmoids are flat beyond
            after = jnp.square(_residual(trial, image)).sum()
            better = after < error
            return (
                jnp.where(better, trial, free),
                jnp.where(better, after, error),
                jnp.clip(damping * jnp.where(better, 0.3, 4.0), 1e-7, 1e7),
            )

        first = free, jnp.square(_residual(free, image)).sum(), jnp.asarray(1e-2, free.dtype)
        free, error, _ = jax.lax.fori_loop(0, STEPS, body, first)
        return free, error

    return jax.vmap(lambda image, starts: jax.vmap(lambda start: one(image, start))(starts))(
        images, starts
    )


def _starts(images: np.ndarray) -> np.ndarray:
    """(filters, starts, 8), with amplitudes of 0."""
    count, height, width = images.shape
    energy = np.square(images)
    energy = energy / np.maximum(energy.sum((1, 2), keepdims=True), 1e-12)
    row = (energy.sum(2) * np.arange(height)).sum(1)
    column = (energy.sum(1) * np.arange(width)).sum(1)
    # a spectrum of 64x64 points, whatever the filter's size; its lower half repeats the upper
    spectrum = np.abs(np.fft.fft2(images - images.mean((1, 2), keepdims=True), (64, 64)))
    spectrum[:, 33:] = 0
    down, along = np.unravel_index(spectrum.reshape(count, -1).argmax(1), (64, 64))
    down, along = np.fft.fftfreq(64)[down] % 1.0, np.fft.fftfreq(64)[along]
    frequency = np.clip(np.hypot(down, along), 0.03, 0.45)
    angle = np.arctan2(down, along)

    def free(value, low, high):
        share = np.clip((value - low) / (high - low), 0.02, 0.98)
        return np.log(share / (1 - share))

    starts, widest = [], max(height, width)
    for turn, slower, width_share in [
        (0, 1, 0.12), (0, 1, 0.25), (0, 0.5, 0.12), (0, 0.5, 0.25),
        (np.pi / 2, 1, 0.2), (np.pi / 2, 0.5, 0.2),
    ]:  # fmt: skip
        sigma = free(np.full(count, max(width_share * widest, 0.8)), NARROWEST, widest)
        starts.append(
            np.stack(
                [
                    free(row, 0, height - 1),
                    free(column, 0, width - 1),
                    angle + turn,
                    free(slower * frequency, 0, 0.5),
                    sigma,
                    sigma,
                    np.zeros(count),
                    np.zeros(count),
                ],
                axis=1,
            )
        )
    return np.stack(starts, 1).astype(images.dtype)


def _describe(free: np.ndarray, shape: tuple[int, ...]) -> Gabor:
    """The functions of free numbers (filters, 8), with the angles in their ranges."""
    row, column, angle, frequency, along, across, even, odd = (
        np.asarray(a) for a in _unpack(free.T, shape)
    )
    # a cos + b sin = A cos(wave + phase) with the sine's wave a quarter behind
    phase, amplitude = np.arctan2(-odd, even), np.hypot(even, odd)
    phase = np.where(angle % (2 * np.pi) >= np.pi, -phase, phase)  # half a turn mirrors the wave
    return Gabor(row, column, angle % np.pi, frequency, phase, along, across, amplitude)
