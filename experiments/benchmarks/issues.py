"""Programs with convolutions that public issues report as slow in JAX, written anew.

Each function returns what is compiled by `jax.jit` and timed, and its arguments. It computes what
the reporter computed; sizes are smaller, so that XLA's program takes at most some seconds on two
cores. `accelerate` is `jn.accelerate`, or a function that returns its argument: it is called where
a user would write it, around the loss that is differentiated, or around the whole function.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

Transform = Callable[[Callable], Callable]
Program = tuple[Callable, tuple]
"""A function and its arguments."""
CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")


class Case(NamedTuple):
    """A program of an issue.

    Fields:
      issue: Repository and number of the issue.
      what: What it computes, without digits, as in a table's cell.
      make: Function of `accelerate` and of sizes, which returns the program.
      tiny: Sizes for a test.
      options: Other options of the function.
      tolerance: Largest difference of results, relative to the largest entry of each array.
    """

    issue: str
    what: str
    make: Callable[..., Program]
    tiny: dict[str, int]
    options: dict[str, Any] = {}
    tolerance: float = 1e-5

    @property
    def name(self) -> str:
        return f"{self.issue}: {self.what}"

    def program(self, accelerate: Transform, tiny: bool = False) -> Program:
        return self.make(accelerate, **self.options, **(self.tiny if tiny else {}))


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32, scale: float = 1.0) -> jax.Array:
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), dtype)


def kernel(*shape: int, inputs: int, seed: int = 1, dtype: Any = np.float32) -> jax.Array:
    """Return weights whose outputs have variance 1; `inputs` is the number that one sums over."""
    return normal(*shape, seed=seed, dtype=dtype, scale=inputs**-0.5)


# Loops


def in_a_loop(accelerate: Transform, channels: int = 256, length: int = 1024) -> Program:
    """Apply a convolution of width 1 twice in `fori_loop`, channels first."""
    x, w = normal(1, channels, length), kernel(channels, channels, 1, inputs=channels)

    def f(x, w):
        return lax.fori_loop(0, 2, lambda i, x: lax.conv(x, w, (1,), "VALID"), x)

    return accelerate(f), (x, w)


def training_in_a_scan(
    accelerate: Transform, whole: bool = False, depth: int = 20, batch: int = 64, size: int = 32
) -> Program:
    """Train a ResNet of Flax Linen for two steps in `scan`.

    Args:
      accelerate: Transform of the loss.
      whole: Whether to transform the function with the loop instead.
      depth: Depth of the net.
      batch: Number of images.
      size: Height and width of an image.
    """
    from experiments.benchmarks.peers import linen
    from experiments.benchmarks.peers.jax_program import make_update, on_device, with_optimizer
    from experiments.benchmarks.workloads import ResNet, Workload, batches

    workload = Workload("", ResNet(depth), (batch, size, size, 3), steps=2)
    init, loss = linen.parts(workload)
    carry = with_optimizer(workload, *linen.divided(init(jax.random.key(0))))
    update = make_update(workload, loss if whole else accelerate(loss))

    def train(carry, data):
        (params, _, _), losses = lax.scan(update, carry, data)
        return losses, optax.tree.norm(params)  # rounding of single gradients is amplified

    return accelerate(train) if whole else train, (carry, on_device(batches(workload)))


# Transposed convolutions


def transposed_with_a_long_window(
    accelerate: Transform, window: int = 1024, channels: int = 513, frames: int = 64
) -> Program:
    """Transpose a convolution of a long window over time, as the inverse of an STFT does."""
    x = normal(4, channels, frames)
    w = kernel(channels, 1, window, inputs=4 * channels)
    layout = ("NCH", "IOH", "NCH")

    def f(x, w):
        return lax.conv_transpose(x, w, (window // 4,), "VALID", dimension_numbers=layout)

    return accelerate(f), (x, w)


def gradient_of_transposed_3d(accelerate: Transform, size: int = 12, channels: int = 64) -> Program:
    """Differentiate a transposed convolution of volumes by its weights."""
    x, w = normal(1, channels, *3 * [size]), kernel(1, channels, 3, 3, 3, inputs=27 * channels)

    def loss(w, x):
        padding = [(1, 2)] * 3
        y = lax.conv_general_dilated(x, w, (1, 1, 1), padding, lhs_dilation=(2, 2, 2))
        return y.mean()

    return jax.value_and_grad(accelerate(loss)), (w, x)


def transposed_3d_channels_first(accelerate: Transform, size: int = 64) -> Program:
    """Map a transposed convolution of stride 1 over volumes with four channels."""
    x, w = normal(2, 4, *3 * [size]), kernel(4, 4, 3, 3, 3, inputs=108)

    def one(x, w):
        return lax.conv_general_dilated(x[None], w, (1, 1, 1), [(1, 1)] * 3)[0]

    return accelerate(jax.vmap(one, (0, None))), (x, w)


def transposed_3d_by_two(accelerate: Transform, size: int = 16, channels: int = 32) -> Program:
    """Double volumes by a transposed convolution."""
    x = normal(1, *3 * [size], channels)
    w = kernel(3, 3, 3, channels, channels, inputs=27 * channels)
    layout = ("NDHWC", "DHWIO", "NDHWC")

    def f(x, w):
        return lax.conv_transpose(x, w, (2, 2, 2), "SAME", dimension_numbers=layout)

    return accelerate(f), (x, w)


# One filter per channel


def depthwise_1d_layers(
    accelerate: Transform, channels: int = 256, length: int = 1024, layers: int = 3
) -> Program:
    """Differentiate depthwise layers over time, channels first."""
    x, y = normal(2, channels, length), normal(2, channels, length, seed=2)
    params = [kernel(1, channels, 5, inputs=5, seed=i) for i in range(layers)]
    options: Any = {
        "dimension_numbers": ("NCW", "IOW", "NCW"),
        "feature_group_count": channels,
    }

    def loss(params, x, y):
        for w in params:
            x = lax.conv_general_dilated(x, w, (1,), "SAME", **options)
        return jnp.square(x - y).mean()

    return jax.value_and_grad(accelerate(loss)), (params, x, y)


def dilated_depthwise_1d(accelerate: Transform, batch: int = 16, length: int = 1024) -> Program:
    """Differentiate a dilated depthwise convolution over time by its weights."""
    x, w = normal(batch, length, 128), kernel(3, 1, 128, inputs=3)
    options: Any = {
        "rhs_dilation": (16,),
        "dimension_numbers": ("NWC", "WIO", "NWC"),
        "feature_group_count": 128,
    }

    def loss(w, x):
        y = lax.conv_general_dilated(x, w, (1,), "SAME", **options)
        return jnp.square(y).mean()

    return jax.value_and_grad(accelerate(loss)), (w, x)


def depthwise_2d(accelerate: Transform, size: int = 124, channels: int = 256) -> Program:
    """Apply a depthwise layer to a picture."""
    x, w = normal(1, size, size, channels), kernel(3, 3, 1, channels, inputs=9)
    options: Any = {"dimension_numbers": CHANNELS_LAST, "feature_group_count": channels}

    def f(x, w, b):
        return lax.conv_general_dilated(x, w, (1, 1), [(1, 1)] * 2, **options) + b

    return accelerate(f), (x, w, normal(channels, seed=2))


def depthwise_channels_first(
    accelerate: Transform, size: int = 124, channels: int = 512
) -> Program:
    """Map a depthwise layer over a batch of one picture, channels first."""
    x, w = normal(1, channels, size, size), kernel(channels, 1, 3, 3, inputs=9)

    def one(x, w, b):
        padding = [(1, 1)] * 2
        y = lax.conv_general_dilated(x[None], w, (1, 1), padding, feature_group_count=channels)[0]
        return y + b[:, None, None]

    return accelerate(jax.vmap(one, (0, None, None))), (x, w, normal(channels, seed=2))


def gaussian_blur(accelerate: Transform, size: int = 256) -> Program:
    """Blur the rows and the columns of a picture."""
    x, line = normal(3, size, size), jnp.exp(-0.5 * (jnp.arange(-7, 8) / 2.0) ** 2)

    def f(x, line):
        for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
            w = jnp.tile(line.reshape(shape), (3, 1, 1, 1))
            x = lax.conv_general_dilated(x[None], w, (1, 1), "SAME", feature_group_count=3)[0]
        return x

    return accelerate(f), (x, line / line.sum())


def one_filter_for_each_example(
    accelerate: Transform, batch: int = 16, size: int = 64, window: int = 15
) -> Program:
    """Filter each example and channel by a window of its own, with `vmap`."""
    x, w = normal(batch, 3, size, size), kernel(batch, 3, window, window, inputs=window**2)

    def one(x, w):
        w = w[:, None]
        return lax.conv_general_dilated(x[None], w, (1, 1), "SAME", feature_group_count=3)[0]

    return accelerate(jax.vmap(one)), (x, w)


# Large windows


def picture_with_itself(accelerate: Transform, size: int = 96) -> Program:
    """Convolve a picture with itself by `jax.scipy.signal`."""

    def f(x):
        return jax.scipy.signal.convolve(x, x, mode="same")

    return accelerate(f), (normal(size, size),)


def filter_of_frames(accelerate: Transform, frames: int = 8, height: int = 250) -> Program:
    """Filter the frames of a video by a window of 30×30, with `vmap`."""
    video, window = normal(frames, height, height + 100), kernel(30, 30, inputs=900)

    def one(frame, window):
        padded = jnp.pad(frame, ((15, 15), (15, 15)), mode="reflect")
        return jax.scipy.signal.convolve(padded, window, mode="valid")

    return accelerate(jax.vmap(one, (0, None))), (video, window)


def gradient_of_patches(
    accelerate: Transform, size: int = 224, window: int = 16, features: int = 192
) -> Program:
    """Differentiate the patches of a vision transformer by its picture and its weights."""
    x, w = normal(2, size, size, 3), kernel(window, window, 3, features, inputs=3 * window**2)

    def loss(x, w):
        strides = (window, window)
        y = lax.conv_general_dilated(x, w, strides, "VALID", dimension_numbers=CHANNELS_LAST)
        return jnp.square(y).mean()

    return jax.value_and_grad(accelerate(loss), (0, 1)), (x, w)


# Nets


def conv(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=CHANNELS_LAST)


def pool(x: jax.Array, start: float, reduce: Any) -> jax.Array:
    """Reduce windows of 2×2."""
    return lax.reduce_window(x, start, reduce, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def net_with_average_pools(accelerate: Transform, batch: int = 32, features: int = 32) -> Program:
    """Differentiate a net for handwritten digits, of two convolutions and two dense layers."""
    x, labels = normal(batch, 28, 28, 1), jnp.arange(batch) % 10
    params = {
        "c1": kernel(3, 3, 1, features, inputs=9),
        "c2": kernel(3, 3, features, 2 * features, inputs=9 * features),
        "d1": kernel(49 * 2 * features, 256, inputs=98 * features),
        "d2": kernel(256, 10, inputs=256),
    }

    def loss(params, x, labels):
        for name in ("c1", "c2"):
            x = pool(jax.nn.relu(conv(x, params[name])), 0.0, lax.add) / 4
        x = jax.nn.relu(x.reshape(len(x), -1) @ params["d1"])
        scores = jax.nn.log_softmax(x @ params["d2"])
        return -jnp.take_along_axis(scores, labels[:, None], 1).mean()

    return jax.value_and_grad(accelerate(loss)), (params, x, labels)


def vgg16(accelerate: Transform, size: int = 128, width: int = 64) -> Program:
    """Apply the convolutions and pools of VGG-16, and one dense layer."""
    x, params, inputs = normal(1, size, size, 3), [], 3
    stages = ((2, width), (2, 2 * width), (3, 4 * width), (3, 8 * width), (3, 8 * width))
    for count, features in stages:
        params.append([])
        for _ in range(count):
            params[-1].append(kernel(3, 3, inputs, features, inputs=9 * inputs // 2))
            inputs = features
    last = inputs * (size // 32) ** 2
    params.append(kernel(last, 1000, inputs=last))

    def f(params, x):
        for stage in params[:-1]:
            for w in stage:
                x = jax.nn.relu(conv(x, w))
            x = pool(x, -jnp.inf, lax.max)
        return x.reshape(len(x), -1) @ params[-1]

    return accelerate(f), (params, x)


def several_nets(
    accelerate: Transform, by_vmap: bool = True, nets: int = 10, batch: int = 64
) -> Program:
    """Apply several nets to a batch of their own, by `vmap` or by `lax.map`."""
    x = normal(nets, batch, 32, 32, 3)
    w = normal(nets, 1, 3, 3, 64, seed=1, scale=0.3)
    d = normal(nets, 64, 10, seed=2, scale=0.1)

    def one(x, w, d):
        return jax.nn.relu(conv(x, w)) @ d

    def f(x, w, d):
        return jax.vmap(one)(x, w, d) if by_vmap else lax.map(lambda given: one(*given), (x, w, d))

    return accelerate(f), (x, w, d)


def in_16_bits(accelerate: Transform, dtype: Any = jnp.float16, size: int = 128) -> Program:
    """Apply a convolution to a picture in 16 bits."""
    x = normal(1, size, size, 64, dtype=dtype)
    return accelerate(conv), (x, kernel(3, 3, 64, 64, inputs=576, dtype=dtype))


SCAN = {"depth": 8, "batch": 2, "size": 8}
AMPLIFIED = 1e-3
"""Tolerance of two training steps, whose batch norms amplify rounding."""
CASES = (
    Case("jax-ml/jax#12868", "two convolutions in `fori_loop`, channels first", in_a_loop,
         {"channels": 8, "length": 16}),
    Case("jax-ml/jax#12868", "two training steps of a ResNet in `scan`, loss accelerated",
         training_in_a_scan, SCAN, tolerance=AMPLIFIED),
    Case("jax-ml/jax#12868", "two training steps of a ResNet in `scan`, loop accelerated",
         training_in_a_scan, SCAN, {"whole": True}, AMPLIFIED),
    Case("jax-ml/jax#23783", "transposed convolution with a long window",
         transposed_with_a_long_window, {"window": 16, "channels": 9, "frames": 4}),
    Case("jax-ml/jax#31662", "gradient of a transposed convolution of volumes",
         gradient_of_transposed_3d, {"size": 4, "channels": 8}),
    Case("patrick-kidger/equinox#1041", "transposed convolution of volumes under `vmap`",
         transposed_3d_channels_first, {"size": 6}),
    Case("jax-ml/jax#8537", "transposed convolution of volumes, stride two", transposed_3d_by_two,
         {"size": 4, "channels": 8}),
    Case("jax-ml/jax#13800", "gradient of depthwise layers over time", depthwise_1d_layers,
         {"channels": 16, "length": 32, "layers": 2}),
    Case("jax-ml/jax#26266", "gradient of a dilated depthwise convolution", dilated_depthwise_1d,
         {"batch": 2, "length": 64}),
    Case("jax-ml/jax#23713", "depthwise layer of pictures", depthwise_2d,
         {"size": 12, "channels": 16}),
    Case("patrick-kidger/equinox#970", "depthwise layer of pictures, channels first",
         depthwise_channels_first, {"size": 12, "channels": 16}),
    Case("google-deepmind/dm_pix#46", "Gaussian blur", gaussian_blur, {"size": 24}),
    Case("jax-ml/jax#3428", "a filter per example and channel", one_filter_for_each_example,
         {"batch": 3, "size": 12, "window": 5}),
    Case("jax-ml/jax#5227", "a picture convolved with itself", picture_with_itself, {"size": 12}),
    Case("jax-ml/jax#25461", "large filter of the frames of a video", filter_of_frames,
         {"frames": 2, "height": 40}),
    Case("jax-ml/jax#23085", "gradient of patches by the picture and the weights",
         gradient_of_patches, {"size": 16, "window": 4, "features": 8}),
    Case("google/flax#3551", "gradient of a net with average pools", net_with_average_pools,
         {"batch": 2, "features": 4}),
    Case("google-deepmind/dm-haiku#73", "VGG, forward", vgg16, {"size": 32, "width": 4}),
    Case("jax-ml/jax#26568", "ten nets by `vmap`", several_nets, {"nets": 2, "batch": 2}),
    Case("jax-ml/jax#26568", "ten nets by `lax.map`", several_nets, {"nets": 2, "batch": 2},
         {"by_vmap": False}),
    Case("jax-ml/jax#30548", "convolution in IEEE half precision", in_16_bits, {"size": 12},
         tolerance=1e-3),
    Case("jax-ml/jax#30548", "convolution in brain floats", in_16_bits, {"size": 12},
         {"dtype": jnp.bfloat16}, 1e-2),
)  # fmt: skip
