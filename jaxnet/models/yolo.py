"""YOLO: objects found in one look, every cell of a grid telling what has its middle there.

The output of the net is (batch, rows, columns, boxes * 5 + classes): for each box of a cell x, y,
the square roots of width and height, and the confidence; then the classes, which the boxes of a
cell share. x and y place the middle within the cell, width and height are shares of the image, all
in [0, 1]. Targets are a dict of "boxes" (batch, n, 4), top, left, bottom and right as shares of the
image, and "classes" (batch, n), -1 for padding, as `jaxnet.data.bccd` gives.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.detection.boxes import area, iou, non_max_suppression, to_corners, to_middle
from jaxnet.core import Layer, compose
from jaxnet.initializers import he_normal
from jaxnet.layers.conv import conv
from jaxnet.layers.dense import dense
from jaxnet.layers.dropout import dropout
from jaxnet.layers.norm import batch_norm
from jaxnet.layers.pool import max_pool
from jaxnet.layers.shape import flatten

leaky_relu = partial(jax.nn.leaky_relu, negative_slope=0.1)  # equation 2 of the paper

Targets = dict[str, jax.Array]


class Cells(NamedTuple):
    """What each cell of the grid should say.

    Fields:
      box: (batch, rows, columns, 4), the true box whose middle is in the cell: top, left, bottom,
        right as shares of the image; 0 where there is none.
      label: (batch, rows, columns) int32, its class; -1 where there is none.
    """

    box: jax.Array
    label: jax.Array


class Detections(NamedTuple):
    """What is found in each image, best first, in a fixed number of places.

    Fields:
      boxes: (batch, most, 4), top, left, bottom, right as shares of the image; 0 for padding.
      scores: (batch, most), the probability of the class times the overlap that the box expects
        with the truth; -inf for padding.
      classes: (batch, most) int32; -1 for padding.
    """

    boxes: jax.Array
    scores: jax.Array
    classes: jax.Array


def yolo(
    backbone: Layer,
    classes: int,
    *,
    boxes: int = 2,
    hidden: Sequence[int] = (256,),
    output: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid,
    name: str = "yolo",
) -> Layer:
    """A detector from any backbone: its feature map is the grid.

    Convolutions of 3x3 with batch norm and leaky relu, then one of 1x1 that gives the boxes and
    classes of each cell. All that a cell has to say is in [0, 1], so a sigmoid at the end trains
    better than the paper's linear output, and keeps the middle of a box in its cell; the loss and
    the decoding are the same for both.

    Args:
      backbone: gives a feature map (batch, rows, columns, features), such as
        `jn.tap(jn.models.resnet(18), "stage_4_block_2")`.
      classes: number of classes.
      boxes: that each cell proposes.
      hidden: features of the 3x3 convolutions between backbone and output; () for none.
      output: the last activation; `lambda x: x` is the paper's.
      name: of the model. Its layers are the backbone's name, head_1, norm_1, ..., output.

    Raises:
      ValueError: for no classes or boxes, or a backbone that gives no feature map.

    Example:
      >>> backbone = jn.serial(jn.conv(8, 3, strides=4), jax.nn.relu, name="backbone")
      >>> net = yolo(backbone, classes=3, boxes=2, hidden=(16,))
      >>> params, state = net.init(jax.random.key(0), jn.spec((5, 24, 32, 1)))
      >>> y, _ = net.apply(params, state, jnp.ones((5, 24, 32, 1)))
      >>> y.shape
      (5, 6, 8, 13)

    Reference: Redmon, Divvala, Girshick and Farhadi 2016, "You Only Look Once: Unified, Real-Time
    Object Detection".
    """
    _check_counts(name, classes, boxes)
    head = []
    for i, features in enumerate(hidden, 1):
        no_bias = partial(conv, use_bias=False, kernel_init=he_normal())  # batch norm has one
        head += [no_bias(features, 3, name=f"head_{i}"), batch_norm(name=f"norm_{i}"), leaky_relu]
    last = conv(boxes * 5 + classes, 1, name="output")

    def forward(m, x):
        x = m(backbone, x)
        if getattr(x, "ndim", 0) != 4:
            shape = getattr(x, "shape", f"a {type(x).__name__}")
            raise ValueError(
                f"{name}: the backbone must give a feature map (batch, rows, columns, features), "
                f"got {shape}; take a layer inside of it, as in jn.tap({backbone.name}, 'pool_4')"
            )
        for layer in head:
            x = m(layer, x)
        return m(output, m(last, x))

    return compose(forward, name=name)


# Figure 3 of the paper: (features, kernel size, strides), and None for max pooling.
_PUBLISHED = (
    (64, 7, 2), None,
    (192, 3, 1), None,
    (128, 1, 1), (256, 3, 1), (256, 1, 1), (512, 3, 1), None,
    *((256, 1, 1), (512, 3, 1)) * 4, (512, 1, 1), (1024, 3, 1), None,
    *((512, 1, 1), (1024, 3, 1)) * 2, (1024, 3, 1), (1024, 3, 2), (1024, 3, 1), (1024, 3, 1),
)  # fmt: skip


def yolo_v1(classes: int = 20, *, boxes: int = 2, name: str = "yolo_v1") -> Layer:
    """The published network: 24 convolutions and two dense layers; 271,703,550 parameters.

    448 -> 7 pixels, 7x7x1024 -> 4096 -> 7x7x30. Leaky relu after every layer but the last, which is
    linear, and dropout of 0.5 after the first dense one. Without batch norm, as published, it needs
    pretraining: the paper trains the first 20 convolutions on ImageNet for a week.

    Args:
      classes: number of classes, 20 in PASCAL VOC.
      boxes: that each cell proposes.
      name: of the model. Its layers are conv_1, ..., conv_24, pool_1, ..., pool_4, dense, output.

    Input:
      images (batch, 448, 448, 3) in the paper; the grid has 1/64 of the pixels along each axis.

    Example:
      >>> net, x = yolo_v1(classes=20), jn.spec((2, 448, 448, 3))
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), x)
      >>> y, _ = jax.eval_shape(net.apply, params, {}, x)
      >>> y.shape, f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      ((2, 7, 7, 30), '271,703,550')

    Reference: Redmon, Divvala, Girshick and Farhadi 2016, "You Only Look Once: Unified, Real-Time
    Object Detection", figure 3.
    """
    _check_counts(name, classes, boxes)
    layers: list = []
    convs = pools = 0
    for entry in _PUBLISHED:
        if entry is None:
            pools += 1
            layers.append(max_pool(2, name=f"pool_{pools}"))
            continue
        convs += 1
        features, size, strides = entry
        layers.append(
            conv(features, size, strides=strides, kernel_init=he_normal(), name=f"conv_{convs}")
        )
        layers.append(leaky_relu)
    trunk = [*layers, flatten(), dense(4096, kernel_init=he_normal()), leaky_relu, dropout(0.5)]
    depth = boxes * 5 + classes

    def forward(m, x):
        rows, columns = x.shape[1] // 64, x.shape[2] // 64
        for layer in trunk:
            x = m(layer, x)
        x = m(dense(rows * columns * depth, name="output"), x)
        return x.reshape(x.shape[0], rows, columns, depth)

    return compose(forward, name=name)


def yolo_assign(targets: Targets, rows: int, columns: int) -> Cells:
    """For each cell of the grid the true box whose middle it holds, if there is one.

    Where several have their middle in one cell, it answers for the smallest, which the cells around
    see least of; among equal ones for the first. The others are lost to the loss, as in the paper.
    Boxes with a negative class, or without height or width, are padding.

    Args:
      targets: "boxes" (batch, n, 4) and "classes" (batch, n).
      rows, columns: of the grid.

    Example:
      Two boxes in the upper left cell of a grid of 2x3, the second smaller, and padding:

      >>> boxes = jnp.array([[[0, 0, 0.4, 0.3], [0.1, 0.1, 0.3, 0.2], [0, 0, 0, 0]]])
      >>> cells = yolo_assign({"boxes": boxes, "classes": jnp.array([[0, 4, -1]])}, 2, 3)
      >>> cells.label.tolist()
      [[[4, -1, -1], [-1, -1, -1]]]
    """
    boxes, classes = targets["boxes"], targets["classes"]
    real = (classes >= 0) & (area(boxes) > 0)  # (batch, n)
    middle = to_middle(boxes)[..., :2]
    grid = jnp.array([rows, columns])
    place = jnp.clip((middle * grid).astype(jnp.int32), 0, grid - 1)  # the last edge is inside
    cell = place[..., 0] * columns + place[..., 1]  # (batch, n)
    held = real[..., None] & (cell[..., None] == jnp.arange(rows * columns))  # (batch, n, cells)
    size = jnp.where(held, area(boxes)[..., None], jnp.inf)
    which = size.argmin(1)  # (batch, cells)
    some = held.any(1)
    box = jnp.where(some[..., None], jnp.take_along_axis(boxes, which[..., None], 1), 0)
    label = jnp.where(some, jnp.take_along_axis(classes, which, 1), -1)
    shape = (boxes.shape[0], rows, columns)
    return Cells(box.reshape(*shape, 4), label.reshape(shape).astype(jnp.int32))


def yolo_loss(
    outputs: jax.Array,
    targets: Targets,
    *,
    boxes: int = 2,
    coordinates: float = 5.0,
    no_object: float = 0.5,
) -> jax.Array:
    """The loss of the paper (equation 3): squared errors of places, confidences and classes.

    Of the boxes of a cell that holds a truth, one is responsible: the one that overlaps it most at
    the time; where none overlaps, the nearest in middle and square roots of the sizes, as in the
    authors' code. It learns the place of the truth, and its confidence learns how much the two
    overlap at the time. The confidence of every other box learns 0, with less weight. The classes
    learn 1 and 0 in cells that hold a truth. No gradient goes through the overlap.

    Args:
      outputs: (batch, rows, columns, boxes * 5 + classes), see the module.
      targets: "boxes" (batch, n, 4) and "classes" (batch, n); see `yolo_assign` for several in one
        cell.
      boxes: that each cell proposes.
      coordinates: weight of the places.
      no_object: weight of the confidence of boxes that are not responsible.

    Returns:
      (batch,), the sum over the cells.

    Raises:
      ValueError: where outputs and boxes do not belong together.

    Example:
      >>> outputs = jnp.zeros((2, 6, 8, 13))
      >>> boxes = jnp.array([[[0.1, 0.2, 0.5, 0.6]], [[0, 0, 0, 0]]])
      >>> targets = {"boxes": boxes, "classes": jnp.array([[2], [-1]])}
      >>> yolo_loss(outputs, targets).shape
      (2,)
    """
    places, confidence, probabilities = _parts("yolo_loss", outputs, boxes)
    rows, columns = outputs.shape[1:3]
    cells = yolo_assign(targets, rows, columns)
    there = cells.label >= 0  # (batch, rows, columns)

    truth = _to_places(cells.box)[..., None, :]  # (batch, rows, columns, 1, 4)
    fixed = jax.lax.stop_gradient(places)
    overlap = iou(_to_boxes(fixed), cells.box[..., None, :])[
        ..., 0
    ]  # (batch, rows, columns, boxes)
    distance = ((fixed - truth) ** 2).sum(-1)
    nearest = jnp.where(overlap.max(-1, keepdims=True) > 0, overlap, -distance)
    chosen = jax.nn.one_hot(nearest.argmax(-1), boxes, dtype=outputs.dtype)
    responsible = chosen * there[..., None]  # (batch, rows, columns, boxes)

    of_places = responsible * ((places - truth) ** 2).sum(-1)
    of_object = responsible * (confidence - overlap) ** 2
    of_nothing = (1 - responsible) * confidence**2
    wanted = jax.nn.one_hot(cells.label, probabilities.shape[-1], dtype=outputs.dtype)
    of_classes = there * ((probabilities - wanted) ** 2).sum(-1)
    of_boxes = coordinates * of_places + of_object + no_object * of_nothing
    return of_boxes.sum((1, 2, 3)) + of_classes.sum((1, 2))


def yolo_decode(outputs: jax.Array, *, boxes: int = 2) -> tuple[jax.Array, jax.Array]:
    """All boxes of all cells, and a score for each class.

    Args:
      outputs: (batch, rows, columns, boxes * 5 + classes).
      boxes: that each cell proposes.

    Returns:
      The boxes (batch, rows * columns * boxes, 4): top, left, bottom, right as shares of the image,
      cut at its edge; and scores (batch, rows * columns * boxes, classes): probability of the class
      times confidence, equation 1 of the paper.

    Example:
      >>> found, scores = yolo_decode(jnp.zeros((2, 6, 8, 13)))
      >>> found.shape, scores.shape
      ((2, 96, 4), (2, 96, 3))
    """
    places, confidence, probabilities = _parts("yolo_decode", outputs, boxes)
    found = jnp.clip(_to_boxes(places), 0, 1)  # (batch, rows, columns, boxes, 4)
    scores = confidence[..., None] * probabilities[..., None, :]
    count = outputs.shape[1] * outputs.shape[2] * boxes
    return (
        found.reshape(outputs.shape[0], count, 4),
        scores.reshape(outputs.shape[0], count, probabilities.shape[-1]),
    )


def yolo_detect(
    outputs: jax.Array,
    *,
    boxes: int = 2,
    score: float = 0.2,
    iou: float = 0.5,
    most: int = 100,
) -> Detections:
    """What is in each image: decoding, then non-maximum suppression of each class by itself.

    All shapes are fixed, so it goes into one `jit` with the net, for a stream of images.

    Args:
      outputs: (batch, rows, columns, boxes * 5 + classes).
      boxes: that each cell proposes.
      score: what scores no more is left out. Take 0.01 or so for average precision, which looks at
        the weakest boxes too, and what suits the eye for pictures.
      iou: two boxes of one class that overlap by more are taken for one.
      most: how many are given at most, of each class and in all.

    Example:
      >>> found = jax.jit(yolo_detect)(jnp.full((2, 6, 8, 13), 0.5))
      >>> found.boxes.shape, found.scores.shape, found.classes.shape
      ((2, 100, 4), (2, 100), (2, 100))
    """
    found, scores = yolo_decode(outputs, boxes=boxes)

    def of_image(found, scores):  # (n, 4), (n, classes)
        suppress = partial(non_max_suppression, found, iou=iou, score=score, most=most)
        index, valid = jax.vmap(suppress)(scores.T)  # (classes, most)
        kept = jnp.where(valid, jnp.take_along_axis(scores.T, index, 1), -jnp.inf)
        best, place = jax.lax.top_k(kept.ravel(), most)
        there = best > -jnp.inf
        classes = jnp.where(there, place // most, -1)
        return jnp.where(there[:, None], found[index.ravel()[place]], 0), best, classes

    return Detections(*jax.vmap(of_image)(found, scores))


def _parts(who: str, outputs: jax.Array, boxes: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x, y and roots (batch, rows, columns, boxes, 4), confidence (..., boxes), classes."""
    if outputs.ndim != 4 or outputs.shape[-1] <= boxes * 5:
        raise ValueError(
            f"{who}: needs outputs (batch, rows, columns, {boxes} boxes * 5 + classes), "
            f"got {outputs.shape}"
        )
    each = outputs[..., : boxes * 5].reshape(*outputs.shape[:3], boxes, 5)
    return each[..., :4], each[..., 4], outputs[..., boxes * 5 :]


def _to_boxes(places: jax.Array) -> jax.Array:
    """x, y in the cell and roots of width, height (batch, rows, columns, n, 4) -> corners."""
    rows, columns = places.shape[1:3]
    x, y, width, height = jnp.moveaxis(places, -1, 0)
    down = (jnp.arange(rows)[:, None, None] + y) / rows
    right = (jnp.arange(columns)[:, None] + x) / columns
    return to_corners(jnp.stack([down, right, height**2, width**2], -1))


def _to_places(boxes: jax.Array) -> jax.Array:
    """Corners (batch, rows, columns, 4), of the box in each cell -> x, y and roots."""
    rows, columns = boxes.shape[1:3]
    down, right, height, width = jnp.moveaxis(to_middle(boxes), -1, 0)
    y = down * rows - jnp.arange(rows)[:, None]
    x = right * columns - jnp.arange(columns)
    return jnp.stack([x, y, jnp.sqrt(width), jnp.sqrt(height)], -1)


def _check_counts(name: str, classes: int, boxes: int) -> None:
    if classes < 1 or boxes < 1:
        raise ValueError(f"{name}: classes and boxes must be at least 1, got {classes} and {boxes}")
