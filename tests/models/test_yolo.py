"""The loss against the formula of the paper in loops, decoding by hand, sizes as published."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.models import yolo, yolo_assign, yolo_decode, yolo_detect, yolo_loss
from tests.detection.test_boxes import loop_iou
from tests.models.sizes import count, shapes

ROWS, COLUMNS, CLASSES = 3, 4, 5

# Jitted: op by op each of them is compiled for each shape.
loss_of = jax.jit(yolo_loss, static_argnames="boxes")
slope_of = jax.jit(jax.grad(lambda outputs, targets: yolo_loss(outputs, targets).sum()))
assign = jax.jit(yolo_assign, static_argnums=(1, 2))


def scene(seed, boxes=2, n=6):
    """Outputs and targets, each box in a cell of its own, padding among them."""
    rng = np.random.default_rng(seed)
    outputs = rng.uniform(0.05, 0.95, (2, ROWS, COLUMNS, boxes * 5 + CLASSES))
    places = np.stack([rng.permutation(ROWS * COLUMNS)[:n] for _ in range(2)])
    cells = np.stack([places // COLUMNS, places % COLUMNS], -1)
    middle = (cells + rng.uniform(0.1, 0.9, (2, n, 2))) / [ROWS, COLUMNS]
    size = rng.uniform(0.05, 0.6, (2, n, 2))
    found = np.concatenate([middle - size / 2, middle + size / 2], -1)
    classes = rng.integers(0, CLASSES, (2, n))
    found[1, -2:] = 0
    classes[1, -2:] = -1
    return outputs, {"boxes": found, "classes": classes}


def paper_loss(outputs, targets, boxes, coordinates=5.0, no_object=0.5):
    """Equation 3 of the paper for one image, term by term."""
    total = 0.0
    holds = {}
    for box, label in zip(targets["boxes"], targets["classes"], strict=True):
        if label >= 0:
            y = (box[0] + box[2]) / 2 * ROWS
            x = (box[1] + box[3]) / 2 * COLUMNS
            holds[int(y), int(x)] = box, label
    for i in range(ROWS):
        for j in range(COLUMNS):
            cell = outputs[i, j]
            each = [cell[5 * b : 5 * b + 5] for b in range(boxes)]
            p = cell[5 * boxes :]
            if (i, j) not in holds:
                total += no_object * sum(e[4] ** 2 for e in each)
                continue
            box, label = holds[i, j]
            height = box[2] - box[0]
            width = box[3] - box[1]
            x = (box[1] + box[3]) / 2 * COLUMNS - j
            y = (box[0] + box[2]) / 2 * ROWS - i
            overlaps = []
            for px, py, pw, ph, _ in each:
                right = (j + px) / COLUMNS
                down = (i + py) / ROWS
                w = pw**2
                h = ph**2  # the net gives the roots
                corners = [down - h / 2, right - w / 2, down + h / 2, right + w / 2]
                overlaps.append(loop_iou(corners, box))
            best = int(np.argmax(overlaps))
            for b, (px, py, pw, ph, confidence) in enumerate(each):
                if b != best:
                    total += no_object * confidence**2
                    continue
                total += coordinates * ((x - px) ** 2 + (y - py) ** 2)
                total += coordinates * ((width**0.5 - pw) ** 2 + (height**0.5 - ph) ** 2)
                total += (overlaps[best] - confidence) ** 2
            total += sum((float(c == label) - p[c]) ** 2 for c in range(CLASSES))
    return total


@pytest.mark.fast_cases("3-weights2", "2-weights1")
@pytest.mark.parametrize(("boxes", "weights"), [
    (1, {}), (2, {"coordinates": 2.0, "no_object": 0.1}), (3, {}),
])  # fmt: skip
def test_the_loss_is_the_papers(boxes, weights, x64):
    outputs, targets = scene(boxes, boxes)
    given = jnp.asarray(outputs), jax.tree.map(jnp.asarray, targets)
    value = loss_of(*given, boxes=boxes, **weights)

    def of(i):
        return jax.tree.map(lambda a: a[i], targets)

    wanted = [paper_loss(outputs[i], of(i), boxes, **weights) for i in range(2)]
    assert min(wanted) > 1
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, wanted, rtol=1e-10)


@pytest.mark.slow
def test_the_gradient_takes_overlap_and_choice_as_given(x64):
    """By hand: of a single cell that holds a truth, and is right about all but one thing each."""
    truth = {"boxes": jnp.array([[[0.2, 0.3, 0.6, 0.5]]]), "classes": jnp.array([[1]])}
    # middle (0.4, 0.4): x, y in a grid of one cell; roots of width 0.2 and height 0.4
    right = [0.4, 0.4, 0.2**0.5, 0.4**0.5, 1.0]
    other = [0.9, 0.9, 0.1, 0.1, 0.3]
    outputs = jnp.array([*right, *other, 0.0, 1.0]).reshape(1, 1, 1, 12)
    wanted = np.zeros(12)
    wanted[9] = 2 * 0.5 * 0.3  # the confidence of the other box learns 0
    np.testing.assert_allclose(slope_of(outputs, truth).ravel(), wanted, atol=1e-12)
    moved = outputs.at[..., 0].add(0.01)
    wanted[0] = 2 * 5 * 0.01
    overlap = 0.19 / 0.21
    wanted[4] = 2 * (1 - overlap)  # the confidence learns how much they overlap, not the reverse
    np.testing.assert_allclose(slope_of(moved, truth).ravel(), wanted, atol=1e-12)


@pytest.mark.slow
def test_where_no_box_overlaps_the_nearest_is_responsible():
    truth = {"boxes": jnp.array([[[0.2, 0.3, 0.6, 0.5]]]), "classes": jnp.array([[0]])}
    far = [0.9, 0.9, 0.0, 0.0, 0.0]
    near = [0.5, 0.4, 0.0, 0.0, 0.0]  # boxes without area
    right = [0.6, 0.4, 0.0, 0.0, 0.0]
    aside = [1.44, 0.4, 0.2**0.5, 0.4**0.5, 0.0]  # 0.2, 0.21²
    cases = [(far, near, 1, 1), (near, far, 0, 1), (right, aside, 1, 4)]
    for first, second, responsible, columns in cases:
        cell = jnp.array([*first, *second, 1.0])
        outputs = jnp.tile(cell, columns).reshape(1, 1, columns, 11)
        slopes = np.asarray(slope_of(outputs, truth))
        gradient = slopes[0, 0, columns // 3]
        learns = [bool(gradient[5 * b : 5 * b + 4].any()) for b in range(2)]
        assert learns == [responsible == 0, responsible == 1]


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_gradients_are_finite(value):
    outputs, targets = scene(0)
    outputs = jnp.full(outputs.shape, value, jnp.float32)
    targets = jax.tree.map(jnp.asarray, targets)
    targets["boxes"] = targets["boxes"].at[0, 0].set(jnp.array([0.5, 0.5, 0.5, 0.5]))  # no area
    assert np.isfinite(loss_of(outputs, targets)).all()
    assert np.isfinite(slope_of(outputs, targets)).all()


@pytest.mark.parametrize(("name", "change", "words"), [
    ("classes", lambda classes: classes + 1, "classes must be below 5 for .* 5 classes, got 5"),
    ("boxes", lambda boxes: boxes * 32, "boxes must be fractions .*, got [0-9]+.* Divide"),
    ("boxes", lambda boxes: boxes[:, ::-1], "boxes must be top, left, bottom, right, got"),
])  # fmt: skip
def test_targets_that_the_net_cannot_learn_raise_or_are_nan(name, change, words):
    """They would train in silence: a class without an output, pixels taken for fractions."""
    outputs, targets = jax.tree.map(jnp.asarray, scene(0))
    targets["classes"] = targets["classes"].at[0, 0].set(CLASSES - 1)
    changed = targets[name].at[0].set(change(targets[name][0]))
    wrong = targets | {name: changed}
    with pytest.raises(ValueError, match=f"yolo_loss: {words}"):
        yolo_loss(outputs, wrong)
    assert np.isnan(loss_of(outputs, wrong)).tolist() == [True, False]
    assert np.isfinite(slope_of(outputs, wrong)).all()  # the warning of a first step tells apart


def test_boxes_in_pixels_are_not_assigned():
    targets = {"boxes": jnp.array([[[2.0, 3.0, 6.0, 5.0]]]), "classes": jnp.array([[0]])}
    with pytest.raises(ValueError, match="yolo_assign: boxes must be fractions .*, got 6. Divide"):
        yolo_assign(targets, 2, 4)
    padding = targets | {"classes": jnp.array([[-1]])}
    assert (yolo_assign(padding, 2, 4).label == -1).all()  # may hold anything


def test_assignment():
    """A grid of 2x4: two boxes in one cell, one at the last corner, padding of either kind."""
    boxes = [
        [0.0, 0.0, 0.6, 0.4],  # middle (0.3, 0.2): cell 0, 0
        [0.2, 0.1, 0.4, 0.3],  # the same middle, smaller
        [0.9, 0.8, 1.0, 1.0],  # cell 1, 3
        [1.0, 0.4, 1.0, 0.6],  # no height
        [0.6, 0.55, 0.8, 0.7],  # a negative class
        [0.5, 0.5, 0.5, 0.5],  # nothing
    ]
    targets = {"boxes": jnp.array([boxes]), "classes": jnp.array([[3, 2, 1, 0, -1, 0]])}
    cells = assign(targets, 2, 4)
    assert cells.label.tolist() == [[[2, -1, -1, -1], [-1, -1, -1, 1]]]
    np.testing.assert_allclose(cells.box[0, 0, 0], boxes[1])
    np.testing.assert_allclose(cells.box[0, 1, 3], boxes[2])
    assert float(cells.box.sum()) == pytest.approx(sum(boxes[1]) + sum(boxes[2]))
    edge = {"boxes": jnp.array([[[0.5, 0.5, 1.5, 1.5]]]), "classes": jnp.array([[0]])}
    assert assign(edge, 2, 4).label[0, 1, 3] == 0  # its middle is on the edge of the image


@pytest.mark.slow
def test_any_backbone_by_tap():
    x = (2, 224, 224, 3)
    trunk = jn.tap(jn.models.resnet(18), "stage_4_block_2")
    net = yolo(trunk, classes=20, boxes=2, hidden=(1024, 512))
    assert shapes(net, x)[""] == (2, 7, 7, 30)
    by_hand = 512 * 1024 * 9 + 2 * 1024 + 1024 * 512 * 9 + 2 * 512 + 512 * 30 + 30
    assert count(net, x) == count(trunk, x) + by_hand
    trunk = jn.tap(jn.models.vgg(16), "pool_4")
    vgg = yolo(trunk, classes=3, boxes=1, hidden=())
    assert shapes(vgg, (2, 96, 128, 3))[""] == (2, 6, 8, 8)


@pytest.mark.slow
def test_the_last_activation():
    backbone = jn.serial(jn.conv(4, 3, strides=4), name="backbone")
    x = 9 * jax.random.normal(jax.random.key(1), (2, 8, 12, 1))
    net = yolo(backbone, 3, output=jax.nn.sigmoid)
    linear = yolo(backbone, 3, output=lambda x: x)
    params, state = net.init(jax.random.key(0), x)
    y, _ = jax.jit(net.apply)(params, state, x)
    z, _ = jax.jit(linear.apply)(params, state, x)
    np.testing.assert_allclose(y, jax.nn.sigmoid(z), rtol=1e-6)
    assert z.min() < 0


BACKBONE = jn.serial(jn.conv(4, 3), jn.flatten(), name="backbone")


@pytest.mark.parametrize(("call", "words"), [
    (lambda: count(yolo(BACKBONE, 3), (2, 8, 8, 1)),
     r"must return a feature map .*, got \(2, 256\)"),
    (lambda: yolo(BACKBONE, 0), "classes must be at least 1, got 0"),
    (lambda: yolo(BACKBONE, 3, boxes=0), "boxes must be at least 1, got 0"),
    (lambda: yolo_decode(jnp.zeros((2, 4, 4, 13)), boxes=3),
     r"3 boxes \* 5 \+ classes\), got \(2, 4, 4, 13\)"),
])  # fmt: skip
def test_messages(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_defaults_are_those_of_the_paper():
    detect = jax.eval_shape(yolo_detect, jn.spec((2, 7, 7, 30)))
    assert detect.boxes.shape == (2, 100, 4)
    parameters = inspect.signature(yolo_detect).parameters
    defaults = [parameters[name].default for name in ("boxes", "score", "iou")]
    assert defaults == [2, 0.2, 0.5]


def test_boxes_may_reach_out_by_the_size_of_the_image():
    """From -1 to 2: a box in pixels has corners beyond."""
    targets = {"boxes": jnp.array([[[-1.0, -1, 2, 2]]]), "classes": jnp.array([[0]])}
    assert yolo_assign(targets, 2, 4).label.tolist() == [[[-1] * 4, [-1, -1, 0, -1]]]


@pytest.mark.parametrize("corners", [[-1.01, 0, 1, 1], [0, 0, 1, 2.01]], ids=str)
def test_boxes_further_out_raise(corners):
    targets = {"boxes": jnp.array([[corners]]), "classes": jnp.array([[0]])}
    with pytest.raises(ValueError, match="boxes must be fractions"):
        yolo_assign(targets, 2, 4)


def test_known_targets_are_checked_while_outputs_are_traced():
    """As in a gradient over a batch that is closed over, and before `fit` begins."""
    outputs, targets = jax.tree.map(jnp.asarray, scene(0))
    assert jax.eval_shape(lambda outputs: yolo_loss(outputs, targets), outputs).shape == (2,)
    wrong = targets | {"boxes": 32 * targets["boxes"]}
    with pytest.raises(ValueError, match="boxes must be fractions"):
        jax.eval_shape(lambda outputs: yolo_loss(outputs, wrong), outputs)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_classes_of_few_bits(dtype):
    boxes = jnp.array([[[0.1, 0.1, 0.4, 0.3], [0.0, 0.0, 0.0, 0.0]]])
    targets = {"boxes": boxes, "classes": np.array([[2, 0]], dtype)}
    assert yolo_assign(targets, 1, 3).label.tolist() == [[[2, -1, -1]]]
