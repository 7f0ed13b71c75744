"""YOLO: object detection in one pass, with one set of predictions per cell of a grid.

The output of the net is (batch, rows, columns, boxes * 5 + classes): for each box of a cell x, y,
the square roots of width and height, and the confidence; then the classes, which the boxes of a
cell share. x and y are the center relative to the cell, width and height are relative to the image,
all in [0, 1]. Targets are a dict of "boxes" (batch, n, 4), top, left, bottom and right relative to
the image, and "classes" (batch, n), -1 for padding, as `jn.data.pad_boxes` makes from lists.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import Layer, batch_norm, compose, conv, tools
from jaxnet.detection import area, iou, non_max_suppression, to_corners, to_middle
from jaxnet.initializers import he_normal
from jaxnet.services.checks import (
    WrongValues,
    all_at_least,
    all_within,
    check_type,
    concrete_values,
)
from jaxnet.services.trees import describe

leaky_relu = partial(jax.nn.leaky_relu, negative_slope=0.1)  # equation 2 of the paper

Targets = dict[str, jax.Array]


class Cells(NamedTuple):
    """The targets of each cell of the grid.

    Fields:
      box: True box with its center in the cell, (batch, rows, columns, 4): top, left, bottom, right
        relative to the image; 0 without a box.
      label: Class of the box, (batch, rows, columns) int32; -1 without a box.
    """

    box: jax.Array
    label: jax.Array


class Detections(NamedTuple):
    """Detections per image, best first, padded to a fixed number.

    Fields:
      boxes: Boxes (batch, max_outputs, 4), top, left, bottom, right relative to the image; 0 for
        padding.
      scores: Probability of the class times the confidence, (batch, max_outputs); -inf for padding.
      classes: Classes (batch, max_outputs) int32; -1 for padding.
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
    """Make a detector on any backbone, whose feature map is the grid.

    The head has 3x3 convolutions with batch norm and leaky ReLU, then a 1x1 convolution that
    predicts the boxes and classes of each cell. All predictions are in [0, 1], so a sigmoid at the
    end trains better than the paper's linear output, and keeps the center of a box in its cell;
    loss and decoding are the same for both.

    Args:
      backbone: A layer with output (batch, rows, columns, features), such as
        `jn.tap(jn.models.resnet(18), "stage_4_block_2")`.
      classes: Number of classes, at least 1.
      boxes: Number of boxes per cell, at least 1.
      hidden: Features of the 3x3 convolutions between backbone and output; () leaves them out.
      output: Last activation; `lambda x: x` is the paper's.
      name: Name of the model. Its layers are the backbone's name, head_1, norm_1, ..., output.

    Returns:
      A layer from images to the outputs of each grid cell, for `yolo_loss` and `yolo_detect`.

    Raises:
      ValueError: If `classes` or `boxes` is below 1.
      ValueError: If the output of the backbone is not a feature map.

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
    all_at_least(name, classes=classes, boxes=boxes)
    check_type(name, "hidden", hidden, tuple | list, "a tuple of features")
    head = []
    options = {"use_bias": False, "kernel_init": he_normal()}  # batch norm has a bias
    for i, features in enumerate(hidden, 1):
        layer = conv(features, 3, name=f"head_{i}", **options)
        head += [layer, batch_norm(name=f"norm_{i}"), leaky_relu]
    last = conv(boxes * 5 + classes, 1, name="output")

    def forward(m, x):
        x = m(backbone, x)
        if getattr(x, "ndim", 0) != 4:
            shape = getattr(x, "shape", f"a {type(x).__name__}")
            raise ValueError(
                f"{name}: the backbone must return a feature map (batch, rows, columns, features), "
                f"got {shape}. Take a layer inside it, as in jn.tap({backbone.name}, 'pool_4')"
            )
        for layer in head:
            x = m(layer, x)
        return m(output, m(last, x))

    return compose(forward, name=name, kind="yolo")


def yolo_assign(targets: Targets, rows: int, columns: int) -> Cells:
    """Assign to each cell of the grid the true box with its center in the cell.

    If several boxes have their center in one cell, it takes the smallest, which overlaps the
    neighboring cells least; of equal boxes it takes the first. The loss ignores the others, as in
    the paper. Boxes with a negative class, or without height or width, are padding.

    Args:
      targets: Dict of "boxes" (batch, n, 4) and "classes" (batch, n).
      rows, columns: Numbers of rows and columns of the grid.

    Returns:
      `Cells` of arrays (batch, rows, columns): the class of each cell, -1 without an object, and
      the box, (batch, rows, columns, 4).

    Raises:
      ValueError: If arrays have the wrong shapes.
      ValueError: If a box is in pixels, or reversed.

    Example:
      Two boxes in the upper left cell of a 2x3 grid, the second smaller, and padding:

      >>> boxes = jnp.array([[[0, 0, 0.4, 0.3], [0.1, 0.1, 0.3, 0.2], [0, 0, 0, 0]]])
      >>> cells = yolo_assign({"boxes": boxes, "classes": jnp.array([[0, 4, -1]])}, 2, 3)
      >>> cells.label.tolist()
      [[[4, -1, -1], [-1, -1, -1]]]
    """
    all_at_least("yolo_assign", rows=rows, columns=columns)
    boxes, classes = _targets("yolo_assign", targets)
    return _assign(boxes, classes, int(rows), int(columns))


def _targets(who: str, targets: Any, count: int | None = None) -> tuple[jax.Array, jax.Array]:
    """Return the boxes and classes, whose values are checked if there are any; `count` classes."""
    if not isinstance(targets, dict) or not {"boxes", "classes"} <= set(targets):
        raise TypeError(
            f'{who}: targets must be a dict with "boxes" (batch, n, 4) and "classes" (batch, n), '
            f"got {describe(targets)}"
        )
    sizes: dict[str, Any] = {}
    boxes = tools.as_array(who, "boxes", targets["boxes"], "(batch, n, 4)", "reals", sizes)
    classes = tools.as_array(who, "classes", targets["classes"], "(batch, n)", "integers", sizes)
    classes = classes.astype(jnp.int32)  # where -1 is no class of 8 bits
    concrete_boxes = concrete_values(boxes)
    concrete_classes = concrete_values(classes)
    if concrete_boxes is not None and concrete_classes is not None:
        if _wrong(concrete_boxes, concrete_classes, count).any():
            _raise_wrong(who, concrete_boxes, concrete_classes, count)
    return boxes, classes


def _raise_wrong(who: str, boxes: np.ndarray, classes: np.ndarray, count: int | None) -> NoReturn:
    """Raise for a class beyond `count`, or for a box that is reversed or in pixels."""
    largest = classes.max()
    if count is not None and largest >= count:
        raise WrongValues(
            f"{who}: classes must be below {count} for outputs of {count} classes, got {largest}. "
            "Count classes from 0, and pass the same boxes= to net and loss"
        )
    real = classes >= 0
    swapped = (boxes[..., 2:] < boxes[..., :2]).any(-1)
    turned = boxes[real & swapped]
    if len(turned):
        raise WrongValues(
            f"{who}: boxes must be top, left, bottom, right, got {turned[0].tolist()}, whose "
            "bottom or right comes first"
        )
    raise WrongValues(
        f"{who}: boxes must be fractions of the image's height and width, got "
        f"{boxes[real].max():g}. Divide pixels by [height, width, height, width], see "
        "jn.data.pad_boxes"
    )


def _wrong(boxes: Any, classes: Any, count: int | None) -> Any:
    """Whether an image has a box in pixels or reversed, or a class beyond `count`; (batch,)."""
    # A box may extend beyond each edge by the size of the image.
    near = (abs(boxes - 0.5) <= 1.5).all(-1)
    upright = (boxes[..., 2:] >= boxes[..., :2]).all(-1)
    fits = True if count is None else classes < count
    wrong = (classes >= 0) & ~(near & upright & fits)
    return wrong.any(-1)


@partial(jax.jit, static_argnums=(2, 3))
def _assign(boxes: jax.Array, classes: jax.Array, rows: int, columns: int) -> Cells:
    real = (classes >= 0) & (area(boxes) > 0)  # (batch, n)
    middle = to_middle(boxes)[..., :2]
    grid = jnp.array([[[rows, columns]]])
    # The right and lower edges of the image belong to the last cells.
    place = jnp.clip((middle * grid).astype(jnp.int32), 0, grid - 1)
    cell = place[..., 0] * columns + place[..., 1]  # (batch, n)
    cells = jnp.arange(rows * columns)[None, None]
    held = real[..., None] & (cell[..., None] == cells)  # (batch, n, cells)
    size = jnp.where(held, area(boxes)[..., None], jnp.inf)
    smallest = size.argmin(1)  # (batch, cells)
    some = held.any(1)
    box = jnp.take_along_axis(boxes, smallest[..., None], 1)
    box = jnp.where(some[..., None], box, 0)
    label = jnp.take_along_axis(classes, smallest, 1)
    label = jnp.where(some, label, -1)
    shape = (boxes.shape[0], rows, columns)
    return Cells(
        box=box.reshape(*shape, 4),
        label=label.reshape(shape).astype(jnp.int32),
    )


def yolo_loss(
    outputs: jax.Array,
    targets: Targets,
    *,
    boxes: int = 2,
    coordinates: float = 5.0,
    no_object: float = 0.5,
) -> jax.Array:
    """Return the paper's loss (equation 3): squared errors of boxes, confidences and classes.

    In a cell with a true box one of its boxes is responsible: the box with the largest overlap
    (IoU) at the time, or without any overlap the nearest in center, height and width as fractions
    of the image, as in the authors' code. Its targets are the true box and, for the confidence, the
    overlap of the two. The target of all other confidences is 0, with less weight. The targets of
    the classes are 1 and 0, in cells with a true box. No gradient passes through the overlap.

    Args:
      outputs: Outputs of the net, (batch, rows, columns, boxes * 5 + classes), see the module.
      targets: Dict of "boxes" (batch, n, 4) and "classes" (batch, n); see `yolo_assign` for several
        boxes in one cell.
      boxes: Number of boxes per cell, as in `yolo`.
      coordinates: Weight of the boxes' errors.
      no_object: Weight of the confidence of boxes that are not responsible.

    Returns:
      (batch,), the sum over the cells. Inside `jit`, where values cannot raise errors, it is NaN
      for an image with a class that the outputs do not have, or with a box in pixels or reversed.

    Raises:
      ValueError: If `outputs` does not match the number of boxes.
      ValueError: If a class is not in the outputs.
      ValueError: If a box is in pixels, or reversed.

    Example:
      >>> outputs = jnp.zeros((2, 6, 8, 13))
      >>> boxes = jnp.array([[[0.1, 0.2, 0.5, 0.6]], [[0, 0, 0, 0]]])
      >>> targets = {"boxes": boxes, "classes": jnp.array([[2], [-1]])}
      >>> yolo_loss(outputs, targets).shape
      (2,)
    """
    all_within("yolo_loss", "[0, inf)", coordinates=coordinates, no_object=no_object)
    places, confidence, probabilities = _parts("yolo_loss", outputs, boxes)
    rows, columns = places.shape[1:3]
    classes = probabilities.shape[-1]
    true, labels = _targets("yolo_loss", targets, classes)
    cells = _assign(true, labels, rows, columns)
    wrong = _wrong(true, labels, classes)
    return _loss(places, confidence, probabilities, cells, wrong, coordinates, no_object)


@jax.jit  # one program: outside of jit, each operation would be compiled separately
def _loss(places, confidence, probabilities, cells, wrong, coordinates, no_object):
    one_hot = partial(jax.nn.one_hot, dtype=places.dtype)
    boxes, classes = places.shape[-2], probabilities.shape[-1]
    occupied = cells.label >= 0  # (batch, rows, columns)

    truth = _to_places(cells.box)[..., None, :]  # (batch, rows, columns, 1, 4)
    predicted = _to_boxes(jax.lax.stop_gradient(places))
    true = cells.box[..., None, :]
    overlap = iou(predicted, true)[..., 0]  # (batch, rows, columns, boxes)
    away = to_middle(predicted) - to_middle(true)
    distance = (away**2).sum(-1)
    some = overlap.max(-1, keepdims=True) > 0
    nearest = jnp.where(some, overlap, -distance)
    chosen = one_hot(nearest.argmax(-1), boxes)
    responsible = chosen * occupied[..., None]  # (batch, rows, columns, boxes)

    of_places = responsible * ((places - truth) ** 2).sum(-1)
    of_object = responsible * (confidence - overlap) ** 2
    of_nothing = (1 - responsible) * confidence**2
    wanted = one_hot(cells.label, classes)
    of_classes = occupied * ((probabilities - wanted) ** 2).sum(-1)
    of_boxes = coordinates * of_places + of_object + no_object * of_nothing
    loss = of_boxes.sum((1, 2, 3)) + of_classes.sum((1, 2))
    return jnp.where(wrong, jnp.nan, loss)


def yolo_decode(outputs: jax.Array, *, boxes: int = 2) -> tuple[jax.Array, jax.Array]:
    """Return all boxes of all cells with their scores per class.

    Args:
      outputs: Outputs of the net, (batch, rows, columns, boxes * 5 + classes).
      boxes: Number of boxes per cell.

    Returns:
      The boxes (batch, rows * columns * boxes, 4): top, left, bottom, right relative to the image,
      clipped to it; and scores (batch, rows * columns * boxes, classes): probability of the class
      times confidence, equation 1 of the paper.

    Example:
      >>> found, scores = yolo_decode(jnp.zeros((2, 6, 8, 13)))
      >>> found.shape, scores.shape
      ((2, 96, 4), (2, 96, 3))
    """
    places, confidence, probabilities = _parts("yolo_decode", outputs, boxes)
    decoded = jnp.clip(_to_boxes(places), 0, 1)  # (batch, rows, columns, boxes, 4)
    scores = confidence[..., None] * probabilities[..., None, :]
    return jax.lax.collapse(decoded, 1, 4), jax.lax.collapse(scores, 1, 4)


def yolo_detect(
    outputs: jax.Array,
    *,
    boxes: int = 2,
    score: float = 0.2,
    iou: float = 0.5,
    max_outputs: int = 100,
) -> Detections:
    """Detect objects by decoding and non-maximum suppression per class.

    All shapes are fixed, so it can be compiled together with the net.

    Args:
      outputs: Outputs of the net, (batch, rows, columns, boxes * 5 + classes).
      boxes: Number of boxes per cell.
      score: Score that boxes must exceed. Use about 0.01 for average precision, which also counts
        weak boxes.
      iou: Largest IoU of two boxes of one class; if two boxes overlap more, only the better box is
        kept.
      max_outputs: Largest number of detections, per class and in all.

    Returns:
      `Detections` of boxes (batch, max_outputs, 4), [top, left, bottom, right] relative to the
      image, scores (batch, max_outputs) and classes (batch, max_outputs), best first. Class -1 is
      padding.

    Example:
      >>> found = jax.jit(yolo_detect)(jnp.full((2, 6, 8, 13), 0.5))
      >>> found.boxes.shape, found.scores.shape, found.classes.shape
      ((2, 100, 4), (2, 100), (2, 100))
    """
    decoded_boxes, scores = yolo_decode(outputs, boxes=boxes)

    def of_image(decoded, scores):  # (n, 4), (n, classes)
        suppress = partial(
            non_max_suppression, decoded, iou=iou, score=score, max_outputs=max_outputs
        )
        index, valid = jax.vmap(suppress)(scores.T)  # (classes, max_outputs)
        candidates = jnp.take_along_axis(scores.T, index, 1)
        candidates = jnp.where(valid, candidates, -jnp.inf)
        best, place = jax.lax.top_k(candidates.ravel(), max_outputs)
        is_detected = best > -jnp.inf
        chosen = decoded[index.ravel()[place]]
        return Detections(
            boxes=jnp.where(is_detected[:, None], chosen, 0),
            scores=best,
            classes=jnp.where(is_detected, place // max_outputs, -1),
        )

    return jax.vmap(of_image)(decoded_boxes, scores)


def _parts(who: str, outputs: Any, boxes: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return x, y and roots (batch, rows, columns, boxes, 4), confidence (..., boxes), classes."""
    tools.at_least(who, "boxes", boxes)
    outputs = tools.as_array(who, "outputs", outputs, "(batch, rows, columns, values)", "floats")
    if outputs.shape[-1] <= boxes * 5:
        raise ValueError(
            f"{who}: expected outputs (batch, rows, columns, {boxes} boxes * 5 + classes), "
            f"got {outputs.shape}"
        )
    each = outputs[..., : boxes * 5]
    each = each.reshape(*outputs.shape[:3], boxes, 5)
    places = each[..., :4]
    confidence = each[..., 4]
    classes = outputs[..., boxes * 5 :]
    return places, confidence, classes


def _to_boxes(places: jax.Array) -> jax.Array:
    """Convert x, y and roots of width, height (batch, rows, columns, n, 4) to corners."""
    rows, columns = places.shape[1:3]
    x, y, width, height = jnp.moveaxis(places, -1, 0)
    row = jnp.arange(rows)[None, :, None, None]
    column = jnp.arange(columns)[None, None, :, None]
    down = (row + y) / rows
    right = (column + x) / columns
    middle = jnp.stack([down, right, height**2, width**2], -1)
    return to_corners(middle)


def _to_places(boxes: jax.Array) -> jax.Array:
    """Convert the corners of the box in each cell (batch, rows, columns, 4) to x, y and roots."""
    rows, columns = boxes.shape[1:3]
    down, right, height, width = jnp.moveaxis(to_middle(boxes), -1, 0)
    y = down * rows - jnp.arange(rows)[None, :, None]
    x = right * columns - jnp.arange(columns)[None, None]
    return jnp.stack([x, y, jnp.sqrt(width), jnp.sqrt(height)], -1)
