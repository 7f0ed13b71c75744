"""Fully convolutional networks: segmentation with the trunk of a classifier."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import Layer, compose, conv, conv_transpose, resize, tap
from jaxnet.initializers import zeros
from jaxnet.services.checks import at_least, one_of

VGG_TAPS = {"pool_3": 8, "pool_4": 16, "pool_5": 32}


def fcn(
    backbone: Layer,
    classes: int,
    *,
    taps: Mapping[str, int] = VGG_TAPS,
    stride: int = 8,
    head: Layer | Callable | None = None,
    learned: bool = False,
    name: str = "fcn",
) -> Layer:
    """Make FCN-32s, -16s or -8s: class scores for every pixel, from any classifier.

    It keeps the trunk of the classifier. A 1x1 convolution scores the classes on its coarsest map;
    the scores are upsampled to the next finer map and added to the scores there (a skip), and so on
    to the map at `stride`. Bilinear interpolation upsamples the final scores to the size of the
    image.

    The strides need not divide the size of the image. All maps are assumed to start at the first
    pixel of the image, as with "SAME" padding, or if a remainder smaller than a window is dropped.
    A map that is too large is cropped at its end; one that is too small repeats its edge.
    Convolutions without padding, such as AlexNet's first, shift the map by a few pixels: pad the
    images for that net.

    Scores start at zero, so all classes are equally likely. The net has 134,346,581 parameters with
    VGG-16, its two hidden layers as convolutions and 21 classes at stride 32.

    Args:
      backbone: A composed layer, such as a classifier. Only the layers that the taps need have
        params, under the backbone's name and with its structure, so trained params fit.
      classes: Number of classes per pixel, without void.
      taps: Paths of layers in the backbone, each with the stride of its map in pixels of the image.
        The default is for VGG; AlexNet has {"pool_1": 8, "pool_2": 16, "pool_5": 32}, ResNet-18
        {"stage_2_block_2": 8, "stage_3_block_2": 16, "stage_4_block_2": 32}, and the ResNet-20 for
        small images {"block_3": 1, "block_6": 2, "block_9": 4}.
      stride: Stride of the finest map to score, one of the strides in `taps`; finer maps are not
        used.
      head: A layer between the coarsest map and its scores, such as a convolution with
        the window of the classifier's map.
      learned: Whether the upsampling between maps is a transposed convolution initialized as
        bilinear interpolation; the last one is fixed, as in the paper.
      name: Name of the model. Its layers are the backbone, the head, score_32, score_16, score_8
        and upsample_32_to_16, upsample_16_to_8, upsample_8, by stride.

    Input:
      Images (batch, height, width, channels); the output is (batch, height, width, classes).

    Returns:
      A layer from images (batch, height, width, channels) to scores (batch, height, width,
      classes).

    Raises:
      ValueError: If `stride` is not in the taps.
      ValueError: If the strides are not multiples of one another.
      ValueError: In `init` and `apply`, if the size of a map does not match its stride.

    Example:
      >>> head = jn.serial(jn.conv(4096, 7), jax.nn.relu, jn.dense(4096), name="head")
      >>> net = fcn(jn.models.vgg(16), classes=21, stride=32, head=head)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 96, 120, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '134,346,581'
      >>> sorted(params)
      ['head', 'score_32', 'vgg']

    Reference: Long, Shelhamer and Darrell 2015, "Fully Convolutional Networks for Semantic
    Segmentation".
    """
    if not isinstance(taps, dict) or not taps:
        raise TypeError(
            f"{name}: taps must be a dict from paths of layers to strides, such as "
            f"{{'pool_5': 32}}, got {taps!r:.60}"
        )
    for path, each in taps.items():
        at_least(name, f"the stride of {path!r}", each)
    one_of(name, "stride", stride, sorted(taps.values()))
    used = {s: path for path, s in taps.items() if s >= stride}
    steps = sorted(used, reverse=True)  # 32, 16, 8
    for coarse, fine in pairwise(steps):
        if coarse % fine:
            raise ValueError(
                f"{name}: the strides of the taps must be multiples of one another, got {coarse} "
                f"and {fine}"
            )
    trunk = tap(backbone, *(used[s] for s in steps))

    def forward(m, x):
        maps = m(trunk, x)
        maps = maps if len(steps) > 1 else (maps,)
        for step, a in zip(steps, maps, strict=True):
            _check_map(name, used[step], step, a, x)
        deepest, *finer = maps
        if head is not None:
            deepest = m(head, deepest)
        scores = m(_score(classes, steps[0]), deepest)
        for (coarse, fine), a in zip(pairwise(steps), finer, strict=True):
            upsample = _upsample(coarse // fine, learned, f"upsample_{coarse}_to_{fine}")
            upsampled = m(upsample, scores)
            scores = _fit(upsampled, a.shape) + m(_score(classes, fine), a)
        upscaled = m(resize(scale=stride, name=f"upsample_{stride}"), scores)
        return _fit(upscaled, x.shape)  # (batch, height, width, classes)

    return compose(forward, name=name, kind="fcn")


def _score(classes: int, stride: int) -> Layer:
    return conv(classes, 1, kernel_init=zeros, name=f"score_{stride}")


def _upsample(times: int, learned: bool, name: str) -> Layer:
    if not learned:
        return resize(scale=times, name=name)

    def forward(m, x):
        frame = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        options = {"strides": times, "use_bias": False, "kernel_init": _bilinear}
        size = 2 * times - times % 2
        layer = conv_transpose(x.shape[-1], size, name="conv_transpose", **options)
        y = m(layer, frame)
        return y[:, times:-times, times:-times]

    return compose(forward, name=name, kind="learned_upsample")


def _bilinear(key, shape, dtype=jnp.float32):
    """Bilinear kernel of a transposed convolution, for each class separately."""
    height, width, *classes = shape
    window = np.multiply.outer(_triangle(height), _triangle(width))
    kernel = np.multiply.outer(window, np.eye(*classes))
    return jnp.asarray(kernel, dtype)


def _triangle(size: int) -> np.ndarray:
    """Return weights that fall linearly from the middle, (size,)."""
    away = abs(np.arange(size) - (size - 1) / 2)
    return 1 - away / ((size + 1) // 2)


def _fit(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Crop x at the end, or repeat its edge, to the height and width of `shape`."""
    height, width = shape[1:3]
    x = x[:, :height, :width]
    below = height - x.shape[1]
    right = width - x.shape[2]
    return jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")


def _check_map(name: str, path: str, stride: int, a: jax.Array, x: jax.Array) -> None:
    map_size = a.shape[1:3]
    image = x.shape[1:3]
    sizes = zip(map_size, image, strict=True)
    if any(abs(n * stride - size) >= 3 * stride for n, size in sizes):
        about = round(math.sqrt(math.prod(image) / math.prod(map_size)))
        raise ValueError(
            f"{name}: the map of {path} is {map_size} for an image of {image}, a stride of about "
            f"{about}, but taps has {stride}"
        )
