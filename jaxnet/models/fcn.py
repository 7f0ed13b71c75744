"""Fully convolutional networks: what a classifier knows, for every pixel."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, compose, serial, tap
from jaxnet.initializers import he_normal, zeros
from jaxnet.layers.conv import conv, conv_transpose
from jaxnet.layers.dense import dense
from jaxnet.layers.dropout import dropout
from jaxnet.layers.resize import upsample_bilinear
from jaxnet.ops.window import Padding, per_axis

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
    """FCN-32s, -16s or -8s: a class for every pixel, from any classifier.

    The classifier's trunk is kept. A 1x1 convolution scores the classes on its coarsest map; the
    scores are enlarged to the size of the map before and added to the scores there (a skip), and so
    on to the finest map that is wanted. The last scores are enlarged to the size of the image by
    bilinear interpolation.

    Sizes that the strides do not divide are fine. All maps are taken to begin at the image's first
    pixel, as they do with "SAME" padding, and where a rest that fills no window was left out; what
    a map has too much is cut off at its end, and where one is missing its edge is repeated.
    Convolutions without padding, such as AlexNet's first, shift the map by some pixels, so give
    that net an image with a frame around it.

    Scores start at zero, so all classes are as likely. 134,346,581 parameters with VGG-16, the head
    of `convolutional_head` and 21 classes at stride 32.

    Args:
      backbone: a composed layer, such as a classifier; only what the taps need is run and drawn,
        and its entry in params has its own name and structure, so a trained one fits.
      classes: number of outputs for each pixel, void left out.
      taps: path of a layer in the backbone -> stride of its map, in pixels of the image. The
        default is for VGG; AlexNet has {"pool_1": 8, "pool_2": 16, "pool_5": 32}, ResNet-18
        {"stage_2_block_2": 8, "stage_3_block_2": 16, "stage_4_block_2": 32}, and the ResNet-20
        for small images {"block_3": 1, "block_6": 2, "block_9": 4}.
      stride: of the finest map that is scored, one of those in `taps`; finer ones are not used.
      head: what stands between the coarsest map and its scores, such as `convolutional_head()`.
      learned: whether the enlarging between maps is a transposed convolution that starts as
        bilinear interpolation; the last one stays as it is, as in the paper. At the coarsest stride
        there is none to learn.
      name: of the model. Its layers are the backbone, the head, score_32, score_16, score_8 and
        upsample_32_to_16, upsample_16_to_8, upsample_8, by stride.

    Input:
      images (batch, height, width, channels); the output is (batch, height, width, classes).

    Raises:
      ValueError: where stride is none of the taps', a stride is no multiple of the one before, or,
        in `init` and `apply`, where the size of a map does not belong to its stride.

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
    strides = sorted(taps.values())
    if stride not in strides:
        raise ValueError(
            f"{name}: stride must be that of a tap, {', '.join(map(str, strides))}, got {stride}"
        )
    used = {s: path for path, s in taps.items() if s >= stride}
    steps = sorted(used, reverse=True)  # 32, 16, 8
    for coarse, fine in zip(steps, steps[1:], strict=False):
        if coarse % fine:
            raise ValueError(f"{name}: the strides of taps are multiples, got {coarse} and {fine}")
    trunk = tap(backbone, *(used[s] for s in steps))

    def forward(m, x):
        maps = m(trunk, x)
        maps = maps if len(steps) > 1 else (maps,)
        for step, a in zip(steps, maps, strict=True):
            _check_map(name, used[step], step, a, x)
        deepest = maps[0] if head is None else m(head, maps[0])
        scores = m(_score(classes, steps[0]), deepest)
        for coarse, fine, a in zip(steps, steps[1:], maps[1:], strict=False):
            enlarge = _enlarge(coarse // fine, learned, f"upsample_{coarse}_to_{fine}")
            scores = _fit(m(enlarge, scores), a.shape) + m(_score(classes, fine), a)
        whole = m(upsample_bilinear(stride, name=f"upsample_{stride}"), scores)
        return _fit(whole, x.shape)  # (batch, height, width, classes)

    return compose(forward, name=name)


def convolutional_head(
    features: int = 4096,
    window: int | Sequence[int] = 7,
    *,
    padding: Padding = "SAME",
    rate: float = 0.5,
    name: str = "head",
) -> Layer:
    """The two hidden dense layers of VGG or AlexNet, slid over a map of any size.

    The first becomes a convolution with the window that it saw; the second sees one place of the
    map, and a dense layer does that as it is. `as_convolution` turns the first one's params.

    Args:
      features: of both.
      window: size of the map that the classifier's first dense layer saw: 7 for VGG, 6 for AlexNet.
      padding: "SAME" keeps the size of the map; "VALID" gives what the classifier gives, once for
        each window in the map.
      rate: of dropout behind each.
      name: of the layer. Its layers are dense_6 and dense_7.

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
    )


def as_convolution(params: Params, window: int | Sequence[int]) -> Params:
    """The params of a dense layer behind `flatten`, as those of a convolution.

    The same numbers: the convolution with padding "VALID" gives on a map of the window's size what
    the dense layer gives, and on a larger one what it gives on each window.

    Args:
      params: {"kernel": (height * width * inputs, features)} and maybe more, such as "bias".
      window: (height, width) of the map in front of `flatten`; a number for both. With 1, the
        params of a dense layer that sees one place, such as the last of a classifier, become those
        of a 1x1 convolution.

    Returns:
      {"kernel": (height, width, inputs, features)}, all else as it was.

    Raises:
      ValueError: where the window does not divide the inputs of the kernel.

    Example:
      A trained classifier, made convolutional:

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
            "as_convolution: needs the kernel (inputs, features) of a dense layer, with inputs a "
            f"multiple of {height} x {width}, got {kernel.shape}"
        )
    return {**params, "kernel": kernel.reshape(height, width, -1, kernel.shape[1])}


def _score(classes: int, stride: int) -> Layer:
    return conv(classes, 1, kernel_init=zeros, name=f"score_{stride}")


def _enlarge(times: int, learned: bool, name: str) -> Layer:
    if not learned:
        return upsample_bilinear(times, name=name)

    def forward(m, x):
        frame = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        layer = conv_transpose(
            x.shape[-1], 2 * times - times % 2, strides=times, use_bias=False,
            kernel_init=_bilinear, name="conv_transpose",
        )  # fmt: skip
        return m(layer, frame)[:, times:-times, times:-times]

    return compose(forward, name=name)


def _bilinear(key, shape, dtype=jnp.float32):
    """Of a transposed convolution: each class by itself, weights falling to both sides."""
    sides = []
    for k in shape[:2]:
        times = (k + 1) // 2
        sides.append(1 - abs(np.arange(k) - (k - 1) / 2) / times)
    window = np.multiply.outer(*sides)  # (height, width)
    return jnp.asarray(np.multiply.outer(window, np.eye(*shape[2:])), dtype)


def _fit(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Cut at the end, or the edge repeated there, to the height and width of this shape."""
    height, width = shape[1:3]
    x = x[:, :height, :width]
    missing = ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0))
    return jnp.pad(x, missing, mode="edge")


def _check_map(name: str, path: str, stride: int, a: jax.Array, x: jax.Array) -> None:
    sizes = zip(a.shape[1:3], x.shape[1:3], strict=True)
    if any(abs(n * stride - size) >= 3 * stride for n, size in sizes):
        about = round(math.sqrt(math.prod(x.shape[1:3]) / math.prod(a.shape[1:3])))
        raise ValueError(
            f"{name}: the map of {path} is {a.shape[1:3]} for an image of {x.shape[1:3]}, which "
            f"is a stride of about {about}; taps say {stride}"
        )
