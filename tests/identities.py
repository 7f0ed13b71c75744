"""What must hold between calls of a public function, where a second way to its value would be long.

The identity map changes nothing, whitened data have covariance 1, crops are inside.
Each identity takes the function, so that a broken copy can be given, and asserts.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.tied_autoencoder import tied_autoencoder
from tests import oracles
from tests.helpers import jit_apply
from tests.oracles import CHAIN, MACHINE, RANDOM, f64, labels, log_softmax, normal

Function = Callable[..., Any]


def close(a: Any, b: Any, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(f64(a), f64(b), tolerance, tolerance)


def warp_moves_masks_and_boxes_too(warp: Function) -> None:
    """Nothing, a quarter turn, and up and to the right by half and by one pixel."""
    mask = RANDOM.integers(1, 9, (4, 4, 4))
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    matrix = np.stack([np.eye(2), turn, np.eye(2), np.eye(2)])
    shift = np.array([[0, 0], [0, 0], [0.5, -0.5], [1, -1.0]])
    box = np.tile([0.25, 0.25, 0.5, 0.75], (4, 1, 1))
    x = {"image": jnp.asarray(mask[..., None], jnp.float32), "mask": mask, "boxes": box}
    found = jax.jit(warp)(x, matrix, shift)
    moved = np.pad(mask[3], ((0, 1), (1, 0)))[1:, :4]
    wanted = {0: mask[0], 1: np.rot90(mask[1], -1), 3: moved}
    for i, image in wanted.items():
        close(found["mask"][i], image)
        close(found["image"][i, ..., 0], image)
    corners = [[0.25, 0.25, 0.5, 0.75], [0.25, 0.5, 0.75, 0.75], [0.125, 0.375, 0.375, 0.875],
               [0, 0.5, 0.25, 1]]  # fmt: skip
    close(found["boxes"][:, 0], corners)


def maps_of(augment: Function) -> tuple[np.ndarray, np.ndarray]:
    """The linear map and the shift of each of 200 images, told by where its pixels come from.

    Each pixel of the image holds its own place from the center, and a 1 that tells the inside.
    """
    sides = np.arange(13) - 6.0
    place = np.stack([*np.meshgrid(sides, sides, indexing="ij"), np.ones((13, 13))], -1)
    y = jax.jit(augment)(jax.random.key(0), np.repeat(place[None], 200, 0).astype(np.float32))
    found = []
    for image in f64(y):
        inside = image[..., 2] > 1 - 1e-5
        to = np.column_stack([place[inside][:, :2], np.ones(inside.sum())])
        source = image[inside][:, :2]
        solution, *_ = np.linalg.lstsq(to, source, rcond=None)  # (3, 2)
        assert np.abs(to @ solution - source).max() < 5e-3
        found.append(solution.T)
    maps = np.array(found)
    return np.linalg.inv(maps[:, :, :2]), maps[:, :, 2]


def rotations(angles: np.ndarray) -> np.ndarray:
    """The matrix of each angle."""
    c = np.cos(angles)
    s = np.sin(angles)
    return np.moveaxis(np.array([[c, s], [-s, c]]), -1, 0)


def rotations_are_of_both_signs(elastic: Function) -> None:
    matrix, shift = maps_of(elastic(rotation=30))
    angle = np.degrees(np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0]))
    assert -30.1 < angle.min() < -28
    assert 28 < angle.max() < 30.1
    close(matrix, rotations(np.radians(angle)), 2e-3)
    close(shift, 0 * shift, 5e-3)


def shears_move_along_rows(elastic: Function) -> None:
    matrix, shift = maps_of(elastic(shear=20))
    angle = np.degrees(np.arctan(matrix[:, 1, 0]))
    assert -20.1 < angle.min() < -18
    assert 18 < angle.max() < 20.1
    matrix[:, 1, 0] = 0
    close(matrix, np.tile(np.eye(2), (200, 1, 1)), 2e-3)
    close(shift, 0 * shift, 5e-3)


def scales_are_log_uniform(elastic: Function) -> None:
    matrix, shift = maps_of(elastic(scale=(0.5, 2.0)))
    scale = matrix[:, 0, 0]
    close(matrix, scale[:, None, None] * np.eye(2), 2e-2)
    assert 0.5 <= scale.min() < 0.53
    assert 1.85 < scale.max() < 2.02
    assert abs(np.log2(scale).mean()) < 4 / (3 * 200) ** 0.5
    close(shift, 0 * shift, 5e-3)


def crops_are_inside(random_crop: Function) -> None:
    """A part has the size 1 / factor of the image, and its center as much room as that leaves."""
    matrix, center = maps_of(random_crop(0.5))
    size = 1 / matrix[:, 0, 0]
    close(matrix, np.eye(2) / size[:, None, None], 2e-3)
    assert 0.5 - 1e-3 < size.min() < 0.52
    assert 0.98 < size.max() <= 1.001
    share = center / (6 * (1 - size))[:, None]
    certain = size < 0.9
    assert np.abs(share[certain]).max() < 1.02
    assert share[certain].min() < -0.95
    assert share[certain].max() > 0.95
    assert abs(np.corrcoef(share[certain].T)[0, 1]) < 0.3


def flips_turn_half(random_flip: Function) -> None:
    boxes = np.float32([[[0.1, 0.2, 0.5, 0.9], [0, 0, 0, 0]]])
    x = {
        "image": normal(60, 3, 4, 2),
        "mask": labels(60, 3, 4),
        "boxes": np.tile(boxes, (60, 1, 1)),
    }
    x = jax.device_get(x)
    left_to_right = (False, 2, [0.1, 0.1, 0.5, 0.8])
    upside_down = (True, 1, [0.5, 0.2, 0.9, 0.9])
    for vertical, axis, box in (left_to_right, upside_down):
        y = jax.device_get(jax.jit(random_flip(vertical=vertical))(jax.random.key(0), x))
        turned = np.array([(a != b).any() for a, b in zip(y["image"], x["image"], strict=True)])
        assert 15 < turned.sum() < 45
        for name in ("image", "mask"):
            close(y[name][turned], np.flip(x[name], axis)[turned])
            close(y[name][~turned], x[name][~turned])
        close(y["boxes"][turned, 0], np.tile(box, (turned.sum(), 1)))
        close(y["boxes"][~turned], x["boxes"][~turned])
        assert (y["boxes"][:, 1] == 0).all()


def an_affine_map_is_the_product_and_a_shift(elastic: Function) -> None:
    matrix, back = maps_of(elastic(rotation=20, shear=15, scale=(0.8, 1.25), shift=2))
    shift = -(matrix @ back[..., None])[..., 0]
    assert -2.05 < shift.min() < -1.9
    assert 1.9 < shift.max() < 2.05
    # The shear leaves the second column alone.
    scale = np.hypot(matrix[:, 0, 1], matrix[:, 1, 1])
    angle = np.arctan2(matrix[:, 0, 1], matrix[:, 1, 1])
    turn = scale[:, None, None] * rotations(angle)
    shear = np.linalg.inv(turn) @ matrix
    lean = shear[:, 1, 0].copy()
    shear[:, 1, 0] = 0
    close(shear, np.tile(np.eye(2), (200, 1, 1)), 2e-2)
    rotation = np.degrees(angle)
    shearing = np.degrees(np.arctan(lean))
    growth = np.log(scale)
    for found, largest in ((rotation, 20), (shearing, 15), (growth, np.log(1.25))):
        assert -1.02 < found.min() / largest < -0.9
        assert 0.9 < found.max() / largest < 1.02
    rotations_are_of_both_signs(elastic)
    shears_move_along_rows(elastic)
    scales_are_log_uniform(elastic)
    bends_have_their_size(elastic)


def bends_have_their_size(elastic: Function) -> None:
    sides = np.arange(12.0)
    place = np.stack(np.meshgrid(sides, sides, indexing="ij"), -1)[None].repeat(200, 0)
    y = jax.jit(elastic(displacement=0.5, spacing=4))(jax.random.key(0), place.astype(np.float32))
    moves = (f64(y) - place)[:, 3:-3, 3:-3]
    assert 0.3 < moves.std() < 0.5
    assert abs(moves.mean()) < 0.03
    near, far = (np.corrcoef(moves[:, :-n].ravel(), moves[:, n:].ravel())[0, 1] for n in (1, 5))
    assert 0.7 < near < 1
    assert abs(far) < 0.2


def inputs_alone(on_inputs: Function) -> None:
    x, y = normal(4, 3), labels(4)
    seen = on_inputs(lambda key, x: 2 * x)(jax.random.key(0), (x, y))
    close(seen[0], 2 * x)
    assert (seen[1] == y).all()


def void_comes_from_outside(on_masks: Function) -> None:
    small = on_masks(lambda key, x: jn.data.warp(x, jnp.eye(2)[None] / 3), void=11)
    x, mask = normal(1, 3, 4, 2), labels(1, 3, 4)
    y, found = jax.jit(small)(jax.random.key(0), (x, mask))
    assert (np.asarray(found)[0] == 11).sum() > 8
    assert (np.asarray(y)[0, 0] == 0).all()
    inside = np.asarray(found)[0] != 11
    assert inside.any()
    assert set(np.asarray(found)[0][inside]) <= set(np.ravel(mask))


def one_after_the_other(chain: Function) -> None:
    keys = []

    def note(key, x):
        keys.append(jax.random.key_data(key).tolist())
        return x + 1

    y = chain(note, lambda key, x: 2 * x, note)(jax.random.key(0), jnp.ones(2))
    assert y.tolist() == [5, 5]
    assert keys[0] != keys[1]


def shifts_move_whole_images(random_shift: Function) -> None:
    """Each is a part of the padded image, and every shift occurs."""
    x = 1 + np.arange(20.0).reshape(1, 4, 5, 1).repeat(200, 0)
    y = np.asarray(jax.jit(random_shift(1))(jax.random.key(0), x))[..., 0]
    padded = np.pad(x[0, ..., 0], 1)
    parts = [padded[i : i + 4, j : j + 5] for i in range(3) for j in range(3)]
    which = np.array([[(image == part).all() for part in parts] for image in y])
    assert (which.sum(1) == 1).all()
    assert which.any(0).all()


def squares_are_cut_out_around_every_pixel(cutout: Function) -> None:
    y = np.asarray(jax.jit(cutout(3))(jax.random.key(0), jnp.ones((300, 4, 5, 2), bool)))
    assert y.dtype == bool
    assert (y[..., 0] == y[..., 1]).all()
    found = {tuple(map(tuple, np.argwhere(image == 0))) for image in y[..., 0]}
    pixels = list(itertools.product(range(4), range(5)))

    def neighborhood(a, b):
        return tuple((i, j) for i, j in pixels if max(abs(i - a), abs(j - b)) < 2)

    assert found == {neighborhood(*pixel) for pixel in pixels}


def jitter_changes_one_factor(color_jitter: Function) -> None:
    """Brightness scales all, contrast the differences from the mean gray, saturation from gray."""
    x = RANDOM.uniform(0.4, 0.6, (60, 2, 3, 3)).astype(np.float32)
    gray = x @ np.array([0.299, 0.587, 0.114])
    mean = gray.mean((1, 2))[:, None, None, None]
    origin = {"brightness": np.zeros(1), "contrast": mean, "saturation": gray[..., None]}
    for name, still in origin.items():
        y = np.asarray(jax.jit(color_jitter(**{name: 0.5}))(jax.random.key(0), x))
        before = x - still
        after = y - still
        factor = (after * before).sum((1, 2, 3)) / np.square(before).sum((1, 2, 3))
        close(after, factor[:, None, None, None] * before, 1e-3)
        assert 0.5 <= factor.min() < 0.55
        assert 1.45 < factor.max() <= 1.5


def mixtures_are_of_two_examples(mixup: Function) -> None:
    x, y = jnp.eye(6), jnp.array([0, 1, 2, 0, 1, 2])
    mixed, shares = jax.jit(mixup(1.0, 3))(jax.random.key(0), (x, y))
    close(mixed.sum(1), np.ones(6))
    assert (np.asarray(mixed > 0).sum(1) <= 2).all()
    assert np.asarray(mixed > 0).sum() > 8
    close(shares, np.asarray(mixed) @ np.eye(3)[np.asarray(y)])
    assert np.ptp(np.diag(mixed)) > 0.1


def mapped(params: dict, x: np.ndarray) -> np.ndarray:
    """x by the kernel and the bias of a linear layer, in float64."""
    return x @ f64(params["kernel"]) + f64(params["bias"])


def whitened_data_have_covariance_1(fit_whitening: Function) -> None:
    mixing = np.array([[1.0, 0, 0], [2, 3, 0], [4, 5, 6]])
    x = f64(normal(40, 3)) @ mixing + [1, 2, 3]
    for zca in (False, True):
        params = fit_whitening(None, x, zca=zca, epsilon=0.0)
        y = mapped(params, x)
        close(np.cov(y.T), np.eye(3), 1e-3)
        close(y.mean(0), np.zeros(3), 1e-4)
        kernel = f64(params["kernel"])
        assert not zca or np.allclose(kernel, kernel.T, atol=1e-4)
    tiny = fit_whitening(None, 1e-7 * x, epsilon=0.0)
    close(np.cov(mapped(tiny, 1e-7 * x).T), np.eye(3), 1e-2)
    # A direction without variance gives 0; a part of the mean variance damps the others.
    flat = np.stack([x[:, 0], np.ones(40), x[:, 0]], 1)
    y = mapped(fit_whitening(None, flat, epsilon=0.5), flat)
    largest = 2 * x[:, 0].var(ddof=1)
    close(y.var(0, ddof=1), [largest / (largest + 0.5 * largest / 3), 0, 0], 1e-3)


def components_are_eigenvectors(fit_pca: Function) -> None:
    x = f64(normal(40, 3)) * [1, 5, 2] + 7
    params = fit_pca(None, x, 2)
    kernel = f64(params["kernel"])
    close(kernel.T @ kernel, np.eye(2))
    variances = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    y = mapped(params, x)
    close(np.cov(y.T), np.diag(variances[:2]), 1e-3)
    close(y.mean(0), np.zeros(2), 1e-3)
    assert (kernel[np.abs(kernel).argmax(0), [0, 1]] > 0).all()


def all_beams_give_the_loss(ctc_beam_search: Function) -> None:
    """With a beam for each prefix; also for the first two of three steps."""
    logits = np.asarray(normal(2, 3, 3))
    search = jax.jit(partial(ctc_beam_search, beams=20, blank=1))
    found, sizes, scores = jax.device_get(search(logits, jnp.array([3, 2])))
    for i, steps in enumerate((3, 2)):
        possible = np.asarray(scores[i] > -np.inf)
        assert possible.sum() == (9 if steps == 3 else 5)
        assert (np.diff(scores[i][possible]) <= 0).all()
        for row, n, score in zip(found[i], sizes[i], scores[i][possible], strict=False):
            wanted = oracles.ctc(logits[i : i + 1, :steps], (row[None], n[None]), blank=1)
            close(score, -wanted[0])
            assert (row[int(n) :] == 1).all()


def parts_of_an_attribution_sum_to_the_change(integrated_gradients: Function) -> None:
    net = jn.serial(lambda x: x[:, :1] * x[:, 1:2] + x[:, 2:] ** 2)
    x = normal(2, 3)
    found = f64(integrated_gradients(net, {}, {}, x, baseline=0.5, steps=40))
    value = f64(x[:, 0] * x[:, 1] + x[:, 2] ** 2)
    value_of_the_baseline = 0.5 * 0.5 + 0.5**2
    close(found.sum(1), value - value_of_the_baseline, 1e-3)


def slopes_of_a_polynomial(numerical_gradient: Function) -> None:
    x = np.array([0.5, -2.0, 3.0])
    step = 1e-3
    central = 3 * x**2 + step**2
    forward = 3 * x**2 + 3 * x * step + step**2
    for method, exact, error in (("central", central, 1e-9), ("forward", forward, 1e-6)):
        found = numerical_gradient(lambda w: (w**3).sum(), x, step, method)
        np.testing.assert_allclose(found, exact, rtol=1e-7, atol=error)


def batches_hold_every_example_once(batches: Function) -> None:
    x = np.arange(11)
    found = [batch for batch in batches((x, x + 1), 3, seed=4)]
    assert [len(a) for a, _ in found] == [3, 3, 3, 2]
    assert all((b == a + 1).all() for a, b in found)
    order = np.concatenate([a for a, _ in found])
    assert (np.sort(order) == x).all()
    assert (order != x).any()


def parts_hold_every_example_once(split: Function) -> None:
    x = np.arange(10)
    (a, b), (c, d) = split((x, x + 1), 0.3, seed=1)
    assert len(c) == 3
    assert sorted([*a, *c]) == list(x)
    assert (b == a + 1).all()
    assert (d == c + 1).all()


def a_machine_starts_at_the_mean(fit_rbm: Function) -> None:
    x = RANDOM.integers(0, 2, (30, 5)) * np.array([1, 1, 1, 1, 0])
    options = {"epochs": 1, "batch_size": 10, "learning_rate": 1e-9, "full": True}
    params = fit_rbm(jax.random.key(0), x, 3, progress=False, **options)
    mean = np.clip(x.mean(0), 1e-3, 1 - 1e-3)
    close(params["visible_bias"], np.log(mean / (1 - mean)))
    assert 0.003 < f64(params["kernel"]).std() < 0.02
    assert params["kernel"].shape == (5, 3)


def detection_is_decoding_and_suppression(yolo_detect: Function) -> None:
    outputs = jnp.asarray(RANDOM.uniform(0.1, 0.9, (1, 2, 2, 13)), jnp.float32)  # 3 classes
    found, scores = jax.device_get(jax.jit(jn.models.yolo_decode)(outputs))
    boxes, scores = found[0], scores[0]
    got = jax.device_get(jax.jit(partial(yolo_detect, score=0.1, iou=0.3, max_outputs=6))(outputs))
    overlap = oracles.iou(boxes, boxes)
    kept = []
    for c in range(3):
        best: list[int] = []
        for i in np.argsort(-scores[:, c]):
            if scores[i, c] > 0.1 and all(overlap[i, j] <= 0.3 for j in best):
                best.append(int(i))
        kept += [(float(scores[i, c]), c, boxes[i]) for i in best[:6]]
    kept = sorted(kept, key=lambda one: -one[0])[:6]
    real = np.asarray(got.classes[0]) >= 0
    assert got.classes[0][real].tolist() == [c for _, c, _ in kept]
    close(got.scores[0][real], [score for score, _, _ in kept])
    assert (got.scores[0][~real] == -np.inf).all()
    assert not got.boxes[0][~real].any()
    close(got.boxes[0][real], [box for _, _, box in kept])


def decoded_boxes_are_in_their_cells(yolo_decode: Function) -> None:
    outputs = f64(RANDOM.uniform(0.1, 0.6, (1, 2, 3, 13)))
    found, scores = jax.jit(yolo_decode)(jnp.asarray(outputs, jnp.float32))
    for n, (i, j, b) in enumerate(itertools.product(range(2), range(3), range(2))):
        x, y, w, h, sure = outputs[0, i, j, 5 * b : 5 * b + 5]
        middle = np.array([(i + y) / 2, (j + x) / 3])
        size = np.array([h**2, w**2])
        close(found[0, n], np.clip([*(middle - size / 2), *(middle + size / 2)], 0, 1))
        close(scores[0, n], sure * outputs[0, i, j, 10:])


def estimates_are_near_the_sum(ais: Function) -> None:
    options = {"runs": 200, "betas": np.linspace(0, 1, 101), "data": oracles.BITS}
    found = ais(jax.random.key(0), MACHINE, **options)
    error = float(found.log_partition) - oracles.log_partition(MACHINE)
    assert abs(error) < 4 * float(found.standard_error)
    assert 0 < float(found.standard_error) < 0.3


def chains_have_the_distribution(gibbs: Function) -> None:
    """Means of many chains are those of the sum over all states."""
    x, mean = gibbs(jax.random.key(0), MACHINE, jnp.zeros((4000, 4)), 15)
    states = np.array(list(itertools.product([0, 1], repeat=4)))
    wanted = np.exp(oracles.log_likelihood(MACHINE, states)) @ states
    assert set(np.unique(x)) == {0, 1}
    assert np.abs(f64(x).mean(0) - wanted).max() < 4 * 0.5 / 4000**0.5
    assert np.abs(f64(mean).mean(0) - wanted).max() < 4 * 0.5 / 4000**0.5


def one_pass_of_expectation_maximization(baum_welch: Function) -> None:
    """The shares that the posteriors give, with posteriors from every path; symbols and vectors."""
    of_symbols(baum_welch)
    of_vectors(baum_welch)


LENGTHS = [4, 2, 3]
INSIDE = np.arange(4) < np.array(LENGTHS)[:, None]


def of_symbols(baum_welch: Function) -> None:
    x = labels(3, 4)
    logits = normal(2, 3)
    scores = np.moveaxis(log_softmax(logits)[:, x], 0, -1)
    emission = jn.unsupervised.hmm.categorical(3)
    new, states = after_one_pass(baum_welch, emission, {"logits": logits}, x, scores)
    count = states.T @ np.eye(3)[np.asarray(x)[INSIDE]]
    close(np.exp(log_softmax(new["logits"])), count / count.sum(1, keepdims=True), 1e-3)


def of_vectors(baum_welch: Function) -> None:
    """With one Gaussian for each state."""
    x = normal(3, 4, 2)
    mean = normal(2, 1, 2)
    log_variance = normal(2, 1, 2)
    away = np.square(f64(x)[:, :, None] - f64(mean)[:, 0])
    width = f64(log_variance)[:, 0]
    density = -0.5 * (away / np.exp(width) + width + np.log(2 * np.pi)).sum(-1)
    emission = jn.unsupervised.hmm.gaussian_mixture(1)
    params = {"weight": jnp.zeros((2, 1)), "mean": mean, "log_variance": log_variance}
    new, states = after_one_pass(baum_welch, emission, params, x, density)
    seen = f64(x)[INSIDE]
    share = states / states.sum(0)
    middle = share.T @ seen
    spread = (share[..., None] * np.square(seen[:, None] - middle)).sum(0)
    close(new["mean"][:, 0], middle, 1e-3)
    close(np.exp(f64(new["log_variance"]))[:, 0], spread, 1e-3)


def after_one_pass(
    baum_welch: Function, emission: Any, params: dict, x: Any, scores: np.ndarray
) -> tuple[dict, np.ndarray]:
    """The emission's new params, and the posteriors (steps, states); checks those of the chain."""
    options = {"iterations": 1, "progress": False}
    given = CHAIN | {"emission": params}
    found = baum_welch(given, x, emission, jnp.array(LENGTHS), **options)
    totals = oracles.forward(CHAIN, scores, LENGTHS)[1]
    close(found.log_likelihoods[0], totals.sum(), 1e-3)
    posteriors = oracles.posteriors(CHAIN, scores, LENGTHS)
    first = posteriors[:, 0].sum(0)
    moves = np.zeros((2, 2))
    for i, n in enumerate(LENGTHS):
        for path, log_probability in oracles.paths_of_states(CHAIN, scores[i], n):
            for pair in itertools.pairwise(path):
                moves[pair] += np.exp(log_probability - totals[i])
    close(log_softmax(found.params["start"]), np.log(first / first.sum()), 1e-3)
    wanted = np.log(moves / moves.sum(1, keepdims=True))
    close(log_softmax(found.params["transition"]), wanted, 1e-3)
    return found.params["emission"], posteriors[INSIDE]


def drops_of_a_linear_score(occlusion: Function) -> None:
    """Covering a patch takes its part of a weighted sum away; overlapping patches are averaged."""
    w, x = f64(normal(4, 6, 2)), f64(normal(2, 4, 6, 2))
    net = jn.serial(lambda x: jnp.stack([(x * w).sum((1, 2, 3)), 0 * x[:, 0, 0, 0]], 1))
    options = {"size": (2, 3), "strides": (2, 2), "value": 0.5}
    found = occlusion(net, {}, {}, jnp.asarray(x, jnp.float32), 0, **options)
    part = ((x - 0.5) * w).sum(-1)
    total, times = np.zeros(part.shape), np.zeros(part.shape)
    for i, j in itertools.product((0, 2), (0, 2, 4)):
        here = np.s_[:, i : i + 2, j : j + 3]
        total[here] += part[here].sum((1, 2))[:, None, None]
        times[here] += 1
    close(found, total / times, 1e-3)


def weights_of_a_linear_net(saliency: Function) -> None:
    params = {"kernel": normal(4, 3), "bias": normal(3)}
    x = normal(2, 4)
    close(saliency(jn.dense(3), params, {}, x, target=[2, 0]), f64(params["kernel"]).T[[2, 0]])


def maps_by_their_weights(class_activation_map: Function) -> None:
    net = jn.serial(jn.conv(4, 1), jn.serial(jn.global_avg_pool(), jn.dense(3), name="head"))
    x = normal(2, 3, 5, 2)
    params, state = net.init(jax.random.key(0), x)
    found = class_activation_map(net, params, state, x, "conv", target=[2, 1])
    maps = f64(x) @ f64(params["conv"]["kernel"])[0, 0]
    weights = f64(params["head"]["dense"]["kernel"])[:, [2, 1]].T / 15
    close(found, np.einsum("nhwc,nc->nhw", maps, weights))


def fields_by_hand(receptive_fields: Function) -> None:
    net = jn.serial(jn.conv(2, 3), jn.max_pool(2), jn.conv(2, (3, 5), padding="VALID"))
    found = receptive_fields(net, jn.spec((1, 16, 20, 1)))
    assert found.fields == {"conv": (3, 3), "max_pool": (4, 4), "conv_1": (8, 12)}
    assert found.strides == {"conv": (1, 1), "max_pool": (2, 2), "conv_1": (2, 2)}
    assert found.units == {"conv": (16, 20), "max_pool": (8, 10), "conv_1": (6, 6)}
    # The middle of 16 is 8, whose window begins at 7; that of 8 pools 8 and 9.
    assert found.starts == {"conv": (7, 9), "max_pool": (7, 9), "conv_1": (5, 5)}
    assert not found.cut


def a_step_of_least_squares(delta_rule: Function) -> None:
    params = {"kernel": normal(3, 2), "bias": normal(2)}
    x = normal(4, 3)
    t = normal(4, 2)
    slopes, (_, metrics) = delta_rule(params, {}, (x, t))
    error = f64(x) @ f64(params["kernel"]) + f64(params["bias"]) - f64(t)
    close(slopes["kernel"], f64(x).T @ error)
    close(slopes["bias"], error.sum(0))
    close(metrics["loss"], np.square(error).sum() / 2)


def whole_channels_are_dropped(spatial_dropout: Function) -> None:
    layer, x = spatial_dropout(0.25), jnp.ones((200, 3, 2, 4))
    y = np.asarray(layer.apply({}, {}, x, key=jax.random.key(0), train=True)[0])
    assert (y == y[:, :1, :1]).all()
    assert set(np.unique(y)) == {0, np.float32(4 / 3)}
    assert abs((y == 0).mean() - 0.25) < 4 * (0.25 * 0.75 / 800) ** 0.5


def entries_are_dropped(dropout: Function) -> None:
    layer, x = dropout(0.25), jnp.ones((50, 20))
    y = np.asarray(layer.apply({}, {}, x, key=jax.random.key(0), train=True)[0])
    assert set(np.unique(y)) == {0, np.float32(4 / 3)}
    assert np.ptp((y == 0).mean(1)) > 0.1
    assert abs((y == 0).mean() - 0.25) < 4 * (0.25 * 0.75 / 1000) ** 0.5


def whole_examples_are_dropped(drop_path: Function) -> None:
    layer, x = drop_path(0.25), jnp.ones((600, 2, 3))
    y = np.asarray(layer.apply({}, {}, x, key=jax.random.key(0), train=True)[0])
    assert (y == y[:, :1, :1]).all()
    assert set(np.unique(y)) == {0, np.float32(4 / 3)}
    assert abs((y == 0).mean() - 0.25) < 4 * (0.25 * 0.75 / 600) ** 0.5


NET = tied_autoencoder(3)


def reconstructed(x: Any) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Params and state of `NET`, and by NumPy the codes of x and their reconstructions."""
    params, state = NET.init(jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    kernel = f64(params["encoder"]["kernel"])
    z = np.exp(oracles.log_sigmoid(f64(x) @ kernel + f64(params["encoder"]["bias"])))
    return params, state, z, z @ kernel.T + f64(params["decoder"]["bias"])


def squares_and_a_penalty(reconstruction: Function) -> None:
    x = normal(4, 5)
    params, state, _, y = reconstructed(x)
    penalty = jn.penalties.l2(0.1)
    (values, metrics), _ = jit_apply(reconstruction(NET, penalty=penalty), params, state, x)
    close(values, oracles.half_squared_error(y, x) + float(penalty(params)))
    close(metrics["error"], np.square(y - f64(x)).mean(1))


def squares_and_the_divergence(sparse_reconstruction: Function) -> None:
    x = normal(4, 5)
    params, state, z, y = reconstructed(x)
    (value, metrics), _ = jit_apply(sparse_reconstruction(NET, 0.2, 1.5), params, state, x)
    rho = z.mean(0)
    kl = (0.2 * np.log(0.2 / rho) + 0.8 * np.log(0.8 / (1 - rho))).sum()
    close(metrics["kl"], kl)
    close(value, oracles.half_squared_error(y, x).mean() + 1.5 * kl)


def noise_in_and_truth_wanted(denoising_reconstruction: Function) -> None:
    x = normal(4, 5)
    objective = denoising_reconstruction(NET, lambda key, x: x + 1)
    params, state, _, y = reconstructed(x + 1)
    (values, _), _ = jit_apply(objective, params, state, x, key=jax.random.key(0), train=True)
    close(values, oracles.half_squared_error(y, x))
    (values, _), _ = jit_apply(objective, params, state, x)
    close(values, oracles.half_squared_error(reconstructed(x)[3], x))


def hidden_layers_alone(mlp_params: Function) -> None:
    second = {"kernel": normal(3, 2), "bias": normal(2), "visible_bias": normal(3)}
    found = mlp_params({"rbm": MACHINE, "rbm_1": second})
    assert set(found) == {"dense", "dense_1"}
    assert set(found["dense"]) == {"kernel", "bias"}
    close(found["dense_1"]["kernel"], second["kernel"])


DATA = normal(6, 2), normal(6, 1)


def descended(x, y, kernel, bias, rate: float, epochs: int, size: int):
    """Params, and the mean loss of each epoch, by gradient steps of least squares in NumPy."""
    losses = []
    for _ in range(epochs):
        total = 0.0
        for i in range(0, len(x), size):
            error = x[i : i + size] @ kernel + bias - y[i : i + size]
            total += np.square(error).sum() / 2
            kernel = kernel - rate * x[i : i + size].T @ error / len(error)
            bias = bias - rate * error.mean(0)
        losses.append(total / len(x))
    return kernel, bias, losses


def steps_of_gradient_descent(fit: Function) -> None:
    """In two epochs of batches of four, the second of which has two examples."""
    trainer = jn.trainer(jn.supervised(jn.dense(1), jn.losses.half_squared_error), optax.sgd(0.1))
    start = trainer.init(jax.random.key(0), DATA)
    given = (f64(a) for a in (*DATA, start.params["kernel"], start.params["bias"]))
    kernel, bias, losses = descended(*given, 0.1, 2, 4)
    epochs = list(fit(trainer, start, DATA, epochs=2, batch_size=4, shuffle=False, progress=False))
    close([epoch.train["loss"] for epoch in epochs], losses)
    close(epochs[-1].train_state.params["kernel"], kernel)
    close(epochs[-1].train_state.params["bias"], bias)
    assert int(epochs[-1].train_state.step) == 4
    assert [e.number for e in epochs] == [1, 2]


IDENTITIES: dict[str, Function] = {
    "layers.drop_path": whole_examples_are_dropped, "dropout": entries_are_dropped,
    "fit": steps_of_gradient_descent, "layers.spatial_dropout": whole_channels_are_dropped,
    "inspect.class_activation_map": maps_by_their_weights,
    "inspect.occlusion": drops_of_a_linear_score, "inspect.receptive_fields": fields_by_hand,
    "inspect.saliency": weights_of_a_linear_net, "training.delta_rule": a_step_of_least_squares,
    "unsupervised.autoencoder.denoising_reconstruction": noise_in_and_truth_wanted,
    "unsupervised.autoencoder.reconstruction": squares_and_a_penalty,
    "unsupervised.autoencoder.sparse_reconstruction": squares_and_the_divergence,
    "unsupervised.dbn.mlp_params": hidden_layers_alone,
    "unsupervised.hmm.baum_welch": one_pass_of_expectation_maximization,
    "unsupervised.rbm.ais": estimates_are_near_the_sum,
    "unsupervised.rbm.gibbs": chains_have_the_distribution,
    "models.yolo_decode": decoded_boxes_are_in_their_cells,
    "models.yolo_detect": detection_is_decoding_and_suppression,
    "unsupervised.rbm.fit_rbm": a_machine_starts_at_the_mean,
    "data.batches": batches_hold_every_example_once, "data.color_jitter": jitter_changes_one_factor,
    "data.cutout": squares_are_cut_out_around_every_pixel, "data.chain": one_after_the_other,
    "data.elastic": an_affine_map_is_the_product_and_a_shift, "data.on_inputs": inputs_alone,
    "data.on_masks": void_comes_from_outside, "data.random_crop": crops_are_inside,
    "data.random_flip": flips_turn_half, "data.mixup": mixtures_are_of_two_examples,
    "data.random_shift": shifts_move_whole_images, "data.split": parts_hold_every_example_once,
    "data.warp": warp_moves_masks_and_boxes_too,
    "inspect.integrated_gradients": parts_of_an_attribution_sum_to_the_change,
    "inspect.numerical_gradient": slopes_of_a_polynomial,
    "decoding.ctc_beam_search": all_beams_give_the_loss,
    "unsupervised.whitening.fit_pca": components_are_eigenvectors,
    "unsupervised.whitening.fit_whitening": whitened_data_have_covariance_1,
}  # fmt: skip
