"""Activation maximization: images that maximize the activation of units."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.core import Layer, Params, State
from jaxnet.inspect.scores import marked, output_at
from jaxnet.nets import check_net
from jaxnet.services.checks import all_within, at_least, check_key, check_sizes, check_type, within
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.trees import compiled_for


@on_auto_axes
def maximize_activation(
    net: Layer,
    params: Params,
    state: State,
    path: str | None,
    units: Sequence[int | tuple[int, ...]],
    key: jax.Array,
    shape: tuple[int, int, int],
    *,
    steps: int = 256,
    learning_rate: float = 0.05,
    background: float = 0.5,
    decay: float = 0.0,
    jitter: int = 2,
    blur: float = 0.7,
) -> jax.Array:
    """Return images that maximize the activation of units, by gradient ascent.

    There is one image per unit. All start from a noisy background and are optimized at once by
    Adam, in one compiled loop. Unregularized ascent finds high-frequency noise. To prevent this,
    the image is jittered at each step and blurred, its values are clipped to [0, 1], and a penalty
    pulls them to the background.

    Args:
      net: Network.
      params, state: Params and state of the network.
      path: Path of the layer, as `activations` names it; None is the output of the network, whose
        units are classes. Choose units before their rectifier: a unit at 0 has no gradient.
      units: Units to maximize. In a convolution's output, a unit is the number of a map, whose mean
        over all positions is maximized, or one position (row, column, map). In (batch, features) it
        is the number of a feature.
      key: Key that draws the noise and the jitter.
      shape: Shape of an image, (height, width, channels).
      steps: Number of steps of Adam, at least 1.
      learning_rate: Learning rate of Adam, about the change of a pixel per step.
      background: Initial value, in [0, 1]: 0.5 for photographs, 0 for ink on paper.
      decay: Weight of the penalty, the sum of squared distances from the background.
      jitter: Largest shift in pixels along each axis; the image wraps around.
      blur: Standard deviation in pixels; 0 for none.

    Returns:
      Images in [0, 1], (units, height, width, channels).

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If `path` or `units` do not exist, or an option is out of range.

    Example:
      >>> net = jn.serial(jn.conv(4, 3), jn.global_avg_pool())
      >>> params, state = net.init(jax.random.key(0), jn.spec((1, 8, 6, 3)))
      >>> key = jax.random.key(1)
      >>> maximize_activation(net, params, state, "conv", [0, 3], key, (8, 6, 3)).shape
      (2, 8, 6, 3)

    References: Erhan, Bengio, Courville and Vincent 2009, "Visualizing Higher-Layer Features of a
    Deep Network"; Yosinski et al. 2015, "Understanding Neural Networks Through Deep Visualization"
    (decay, blur); Olah, Mordvintsev and Schubert 2017, "Feature Visualization" (jitter).
    """
    who = "maximize_activation"
    check_sizes(who, "shape", shape, "(height, width, channels)")
    if not isinstance(units, list | tuple | range) or not units:
        raise TypeError(f"{who}: units must be a list of at least one unit, got {units!r:.60}")
    check_type(who, "path", path, str | None, "the name of a layer inside")
    at_least(who, "steps", steps)
    at_least(who, "jitter", jitter, 0)
    within(who, "background", background, "[0, 1]")
    all_within(who, "[0, inf)", learning_rate=learning_rate, decay=decay, blur=blur)
    check_key(key, who)
    shape = (shape[0], shape[1], shape[2])
    images = jax.ShapeDtypeStruct((len(units), *shape), jnp.float32)
    net, params, state = check_net(who, net, params, state, images)
    y = jax.eval_shape(lambda x: output_at(net, params, state, x, path), images)
    where = net.name if path is None else f"{net.name}/{path}"
    weights = jnp.asarray(_weights(where, y.shape, units))
    blurs = tuple(jnp.asarray(blur_matrix(pixels, blur)) for pixels in shape[:2])
    options = jnp.float32(learning_rate), jnp.float32(background), jnp.float32(decay)
    return _ascend(net, params, state, path, weights, key, shape, blurs, options, steps, jitter)


def _weights(where: str, shape: tuple[int, ...], units: Sequence) -> np.ndarray:
    """Return the weight of each output in the maximized sum, one unit per image."""
    who = "maximize_activation"
    weights = np.zeros(shape, np.float32)
    for i, unit in enumerate(units):
        numbers = unit if isinstance(unit, tuple) else (unit,)
        if not all(isinstance(number, int | np.integer) for number in numbers) or not numbers:
            raise TypeError(f"{who}: a unit must be a number or a tuple of them, got {unit!r:.60}")
        index = unit if isinstance(unit, tuple) else (Ellipsis, unit)
        chosen = marked(f"{who}: unit {unit}", where, shape[1:], index)
        weights[i][chosen] = 1
        weights[i] /= weights[i].sum()
    return weights


@compiled_for(static_argnums=(2, 5, 8, 9))
def _ascend(net, params, state, path, weights, key, shape, blurs, options, steps, jitter):
    rate, background, decay = options
    optimizer = optax.adam(rate)

    def image(z):
        return jnp.einsum("hi,nijc,wj->nhwc", blurs[0], z, blurs[1])

    def loss(z, move):
        x = image(z)
        y = output_at(net, params, state, jnp.roll(x, move, (1, 2)), path)
        return decay * jnp.square(x - background).sum() - (weights * y).sum()

    def step(i, carry):
        z, opt_state = carry
        step_key = jax.random.fold_in(move_key, i)
        move = jax.random.randint(step_key, (2,), -jitter, jitter + 1)
        updates, opt_state = optimizer.update(jax.grad(loss)(z, move), opt_state)
        return jnp.clip(z + updates, 0, 1), opt_state

    noise_key, move_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (len(weights), *shape))
    z = jnp.clip(background + 0.1 * noise, 0, 1)
    z, _ = jax.lax.fori_loop(0, steps, step, (z, optimizer.init(z)))
    return image(z)


def blur_matrix(pixels: int, deviation: float) -> np.ndarray:
    """Return the matrix of a Gaussian blur, (pixels, pixels), normalized at the border."""
    if not deviation:
        return np.eye(pixels, dtype=np.float32)
    apart = np.arange(pixels)[:, None] - np.arange(pixels)
    weight = np.exp(-np.square(apart / deviation) / 2)
    weight /= weight.sum(1, keepdims=True)
    return weight.astype(np.float32)
