"""Fully convolutional networks: segmentation with the trunk of a classifier."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.composition import serial
from jaxnet.core import Layer, Params, compose
from jaxnet.initializers import he_normal, zeros
from jaxnet.layers.conv import conv, conv_transpose
from jaxnet.layers.dense import dense
from jaxnet.layers.dropout import dropout
from jaxnet.layers.resize import upsample_bilinear
from jaxnet.ops.window import Padding, per_axis
from jaxnet.services.checks import at_least, one_of
from jaxnet.transforms import tap

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
    VGG-16, the head of `convolutional_head` and 21 classes at stride 32.

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
      head: A layer between the coarsest map and its scores, such as `convolutional_head()`.
      learned: Whether the upsampling between maps is a transposed convolution initialized as
        bilinear interpolation; the last one is fixed, as in the paper.
      name: Name of the model. Its layers are the backbone, the head, score_32, score_16, score_8
        and upsample_32_to_16, upsample_16_to_8, upsample_8, by stride.

    Input:
      Images (batch, height, width, channels); the output is (batch, height, width, classes).

    Raises:
      ValueError: If `stride` is not in the taps.
      ValueError: If the strides are not multiples of one another.
      ValueError: In `init` and `apply`, if the size of a map does not match its stride.

    Example:
      >>> net = fcn(jn.models.vgg(16), classes=21, stride=32, head=convolutional_head())
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
    strides = sorted(taps.values())
    one_of(name, "stride", stride, strides)
    used = {s: path for path, s in taps.items() if s >= stride}
    steps = sorted(used, reverse=True)  # 32, 16, 8
    for coarse, fine in zip(steps, steps[1:], strict=False):
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
        deepest = maps[0] if head is None else m(head, maps[0])
        scores = m(_score(classes, steps[0]), deepest)
        for coarse, fine, a in zip(steps, steps[1:], maps[1:], strict=False):
            upsample = _upsample(coarse // fine, learned, f"upsample_{coarse}_to_{fine}")
            scores = _fit(m(upsample, scores), a.shape) + m(_score(classes, fine), a)
        whole = m(upsample_bilinear(stride, name=f"upsample_{stride}"), scores)
        return _fit(whole, x.shape)  # (batch, height, width, classes)

    return compose(forward, name=name, kind="fcn")


def convolutional_head(
    features: int = 4096,
    window: int | Sequence[int] = 7,
    *,
    padding: Padding = "SAME",
    rate: float = 0.5,
    name: str = "head",
) -> Layer:
    """Make the two hidden dense layers of VGG or AlexNet, applied to every window of a map.

    The first becomes a convolution with the window of the classifier's map; the second acts on
    single positions, as a dense layer does. `as_convolution` converts the params of the first.

    Args:
      features: Number of outputs of both layers.
      window: Size of the map before the classifier's first dense layer: 7 for VGG, 6 for AlexNet.
      padding: Padding of the first layer. "SAME" keeps the size of the map; "VALID" gives the
        classifier's values, one per window of the map.
      rate: Rate of the dropout after each layer, in [0, 1).
      name: Name of the layer. Its layers are dense_6 and dense_7.

    Example:
      >>> params, _ = convolutional_head(8, 5).init(jax.random.key(0), jn.spec((2, 9, 7, 4)))
      >>> jax.tree.map(jnp.shape, {layer: entry["kernel"] for layer, entry in params.items()})
      {'dense_6': (5, 5, 4, 8), 'dense_7': (8, 8)}
    """
    return serial(
        conv(features, window, padding=padding, kernel_init=he_normal(), name="dense_6"),
        jax.nn.relu,
        dropout(rate),
        dense(features, kernel_init=he_normal(), name="dense_7"),
        jax.nn.relu,
        dropout(rate),
        name=name,
    )._replace(kind="convolutional_head")


def as_convolution(params: Params, window: int | Sequence[int]) -> Params:
    """Convert the params of a dense layer after `flatten` to the params of a convolution.

    Only the shape of the kernel changes. With padding "VALID" the convolution has the values of the
    dense layer on a map of the size of the window, and on each window of a larger map.

    Args:
      params: Params of the dense layer, {"kernel": (height * width * inputs, features)} and other
        entries, such as "bias".
      window: Size (height, width) of the map before `flatten`, or one number for both. With 1, the
        params of a dense layer at a single position, such as the last of a classifier, become the
        params of a 1x1 convolution.

    Returns:
      {"kernel": (height, width, inputs, features)}, with the other entries unchanged.

    Raises:
      ValueError: If the window does not divide the inputs of the kernel.

    Example:
      A trained classifier made convolutional:

      >>> net = jn.models.vgg(16)
      >>> wide = fcn(net, classes=1000, stride=32, head=convolutional_head())
      >>> def convolved(trained):
      ...     trunk = {layer: entry for layer, entry in trained.items() if "conv" in layer}
      ...     head = {"dense_6": as_convolution(trained["dense_6"], 7),
      ...             "dense_7": trained["dense_7"]}
      ...     return {"vgg": trunk, "head": head, "score_32": as_convolution(trained["output"], 1)}
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
      >>> params = jax.eval_shape(convolved, params)
      >>> y, _ = jax.eval_shape(wide.apply, params, {}, jn.spec((2, 300, 280, 3)))
      >>> y.shape
      (2, 300, 280, 1000)
    """
    kernel = params["kernel"]
    height, width = per_axis("as_convolution", "window", window, 2)
    if kernel.ndim != 2 or kernel.shape[0] % (height * width):
        raise ValueError(
            "as_convolution: expected the kernel (inputs, features) of a dense layer, inputs a "
            f"multiple of {height} x {width}, got {kernel.shape}"
        )
    return {**params, "kernel": kernel.reshape(height, width, -1, kernel.shape[1])}


def _score(classes: int, stride: int) -> Layer:
    return conv(classes, 1, kernel_init=zeros, name=f"score_{stride}")


def _upsample(times: int, learned: bool, name: str) -> Layer:
    if not learned:
        return upsample_bilinear(times, name=name)

    def forward(m, x):
        frame = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        layer = conv_transpose(
            x.shape[-1], 2 * times - times % 2, strides=times, use_bias=False,
            kernel_init=_bilinear, name="conv_transpose",
        )  # fmt: skip
        return m(layer, frame)[:, times:-times, times:-times]

    return compose(forward, name=name, kind="learned_upsample")


def _bilinear(key, shape, dtype=jnp.float32):
    """Bilinear kernel of a transposed convolution, for each class separately."""
    sides = []
    for k in shape[:2]:
        times = (k + 1) // 2
        sides.append(1 - abs(np.arange(k) - (k - 1) / 2) / times)
    window = np.multiply.outer(*sides)  # (height, width)
    return jnp.asarray(np.multiply.outer(window, np.eye(*shape[2:])), dtype)


def _fit(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Crop x at the end, or repeat its edge, to the height and width of `shape`."""
    height, width = shape[1:3]
    x = x[:, :height, :width]
    missing = ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0))
    return jnp.pad(x, missing, mode="edge")


def _check_map(name: str, path: str, stride: int, a: jax.Array, x: jax.Array) -> None:
    sizes = zip(a.shape[1:3], x.shape[1:3], strict=True)
    if any(abs(n * stride - size) >= 3 * stride for n, size in sizes):
        about = round(math.sqrt(math.prod(x.shape[1:3]) / math.prod(a.shape[1:3])))
        raise ValueError(
            f"{name}: the map of {path} is {a.shape[1:3]} for an image of {x.shape[1:3]}, a stride "
            f"of about {about}, but taps has {stride}"
        )
