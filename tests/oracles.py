"""What the right value of a public function is, found without the function's own code.

`REFERENCES` computes the same numbers in NumPy and float64 from the formulas in the docstrings, for
arguments of its own and for those of a hostile call. `IDENTITIES` says what must hold between calls
where a second way to the value would be long: the identity map changes nothing, and whitened data
have covariance 1. Each identity takes the function, so a broken copy can be given.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn

Function = Callable[..., Any]


def f64(a: Any) -> np.ndarray:
    return np.asarray(a, np.float64)


# Losses.


def log(p: np.ndarray, like: Any) -> np.ndarray:
    """log p, continued below the dtype's epsilon by its tangent."""
    least = np.finfo(np.float64 if np.asarray(like).dtype == np.float64 else np.float32).eps
    return np.log(np.maximum(p, least)) + np.minimum(p - least, 0) / least


def log_softmax(z: Any) -> np.ndarray:
    top = f64(z).max(-1, keepdims=True)
    return f64(z) - top - np.log(np.exp(f64(z) - top).sum(-1, keepdims=True))


def log_sigmoid(z: Any) -> np.ndarray:
    return -np.logaddexp(0, -f64(z))


def at_label(values: np.ndarray, labels: Any) -> np.ndarray:
    """The entry of each label; NaN for a label that is not a class."""
    labels, classes = np.asarray(labels), values.shape[-1]
    fine = (labels >= 0) & (labels < classes)
    found = np.take_along_axis(values, np.where(fine, labels, 0)[..., None], -1)[..., 0]
    return np.where(fine, found, np.nan)


def binary_cross_entropy(outputs, targets):
    p, y = f64(outputs), f64(targets)
    return -(y * log(p, outputs) + (1 - y) * log(1 - p, outputs))


def categorical_cross_entropy(outputs, targets):
    return -log(at_label(f64(outputs), targets), outputs)


def cross_entropy(*, label_smoothing=0.0, class_weights=None, ignore_index=None):
    def loss(outputs, targets):
        log_p = log_softmax(outputs) * (1.0 if class_weights is None else f64(class_weights))
        return -(1 - label_smoothing) * at_label(log_p, targets) - label_smoothing * log_p.mean(-1)

    if class_weights is None and ignore_index is None:
        return loss
    return weighted(loss, class_weights=class_weights, ignore_index=ignore_index, times=False)


def weighted(loss, *, class_weights=None, ignore_index=None, times=True):
    def pair(outputs, targets):
        counted = np.asarray(targets) != ignore_index
        labels = np.where(counted, targets, 0)
        table = np.ones(np.shape(outputs)[-1]) if class_weights is None else f64(class_weights)
        weights = np.where(counted, table[labels], 0)
        # The loss is given, so its own values are taken.
        values = f64(loss(jnp.asarray(outputs), jnp.asarray(labels)))
        totals = np.where(counted, values * (weights if times else 1), 0)
        axes = tuple(range(1, totals.ndim))
        return totals.sum(axes), weights.sum(axes)

    return pair


def focal_loss(gamma=2.0):
    def loss(outputs, targets):
        log_p = at_label(log_softmax(outputs), targets)
        return -((1 - np.exp(log_p)) ** gamma) * log_p

    return loss


def sigmoid_cross_entropy(*, pos_weight=None):
    def loss(outputs, targets):
        y = f64(targets)
        positive = y * log_sigmoid(outputs) * (1.0 if pos_weight is None else f64(pos_weight))
        return -(positive + (1 - y) * log_sigmoid(-f64(outputs)))

    return loss


def sigmoid_focal_loss(gamma=2.0, alpha=None):
    def loss(outputs, targets):
        z, y = f64(outputs), f64(targets)
        p = np.exp(log_sigmoid(z))
        rest = 1 - (p * y + (1 - p) * (1 - y))
        share = 1.0 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
        return share * rest**gamma * sigmoid_cross_entropy()(z, y)

    return loss


def dice(smooth=1.0):
    def loss(outputs, targets):
        p = np.exp(log_softmax(outputs))
        true = np.asarray(targets)[..., None] == np.arange(p.shape[-1])
        p = p * true.any(-1, keepdims=True)
        pixels = tuple(range(1, p.ndim - 1))
        total = p.sum(pixels) + true.sum(pixels)
        return (1 - (2 * (p * true).sum(pixels) + smooth) / (total + smooth)).mean(-1)

    return loss


def masked_mean(values, mask, axis=None):
    mask = np.asarray(mask).astype(bool)
    total = np.where(mask, f64(values), 0).sum(axis)
    return total / np.maximum(mask.sum(axis), 1)


def masked(loss):
    def masked_loss(outputs, targets):
        labels, mask = targets
        places = np.asarray(mask).astype(bool)
        outputs, labels = np.asarray(outputs).copy(), np.asarray(labels).copy()
        outputs[~places], labels[~places] = 0, 0
        values = loss(jnp.asarray(outputs), jnp.asarray(labels))
        return masked_mean(values, places, tuple(range(1, values.ndim)))

    return masked_loss


def ignore_label(loss, label, *, weights=None):
    def labelled_loss(outputs, targets):
        labelled = np.asarray(targets) != label
        targets = np.where(labelled, targets, 0)
        values = f64(loss(jnp.asarray(outputs), jnp.asarray(targets)))
        each = np.where(labelled, 1.0 if weights is None else f64(weights)[targets], 0)
        axes = tuple(range(1, targets.ndim))
        total = each.sum(axes)
        return np.where(labelled, values * each, 0).sum(axes) / np.where(total > 0, total, 1)

    return labelled_loss


def kl_sparsity(rho):
    def penalty(activations, mask=None):
        a = f64(activations).reshape(-1, np.shape(activations)[-1])
        mean = a.mean(0) if mask is None else a[np.asarray(mask).astype(bool).ravel()].mean(0)
        here, gone = (np.log(rho) - log(mean, 0.0)), np.log(1 - rho) - log(1 - mean, 0.0)
        return (rho * here + (1 - rho) * gone).sum()

    return penalty


def ctc(blank=0):
    def loss(outputs, targets):
        logits, (labels, sizes) = outputs, targets
        found = []
        for log_p, label, size in zip(log_softmax(logits), labels, sizes, strict=True):
            paths = itertools.product(range(log_p.shape[-1]), repeat=len(log_p))
            wanted = [int(c) for c in label[: int(size)]]
            fitting = [p for p in paths if collapsed(p, blank) == wanted]
            found.append(-np.log(sum(np.exp(sum(log_p[range(len(p)), p])) for p in fitting)))
        return np.array(found)

    return loss


def collapsed(path, blank):
    return [int(c) for c, _ in itertools.groupby(path) if c != blank]


def perceptron(outputs, targets):
    z, sign = f64(outputs), np.where(f64(targets) > 0, 1, -1)
    values = np.where(np.where(z > 0, 1, -1) == sign, 0, np.abs(z))
    return np.where(np.isnan(z) | np.isnan(f64(targets)), np.nan, values)


def multiclass_perceptron(outputs, targets):
    return f64(outputs).max(-1) - at_label(f64(outputs), targets)


def half_squared_error(outputs, targets):
    return (np.square(f64(outputs) - f64(targets)) / 2).sum(tuple(range(1, np.ndim(outputs))))


def l1(strength, *, where=jn.penalties.is_kernel):
    return _penalty(strength, where, np.abs)


def l2(strength, *, where=jn.penalties.is_kernel):
    return _penalty(strength, where, np.square)


def _penalty(strength, where, size):
    def penalty(params):
        found = jax.tree_util.tree_flatten_with_path(params)[0]
        return strength * sum(
            size(f64(leaf)).sum() for path, leaf in found if where(tuple(k.key for k in path))
        )

    return penalty


# Metrics.


def top_k_accuracy(k):
    def metric(outputs, targets):
        best = np.argsort(-f64(outputs), -1, kind="stable")[..., :k]
        found = (best == np.asarray(targets)[..., None]).any(-1)
        return found & ~np.isnan(f64(outputs)).any(-1)

    return metric


def binary_accuracy(threshold=0.0):
    def metric(outputs, targets):
        known = ~(np.isnan(f64(outputs)) | np.isnan(f64(targets)))
        return ((f64(outputs) > threshold) == (f64(targets) > 0)) & known

    return metric


def confusion(predictions, labels, classes, *, void=None):
    matrix = np.zeros((classes, classes), int)
    for row, column in zip(np.ravel(labels), np.ravel(predictions), strict=True):
        if 0 <= row < classes and 0 <= column < classes and row != void:
            matrix[int(row), int(column)] += 1
    return matrix


def _each(score):
    """A score per class from its true positives, its row and its column."""

    def scores(matrix):
        m = f64(matrix)
        if not (m >= 0).all():
            return np.full(len(m), np.nan)
        return np.array([score(m[c, c], m[c].sum(), m[:, c].sum()) for c in range(len(m))])

    return scores


intersection_over_union = _each(lambda hit, row, col: hit / (row + col - hit) if row + col else
                                np.nan)  # fmt: skip


def edit_distance(predicted, true):
    """By the recursion itself."""

    def distance(i, j):
        if not i or not j:
            return i + j
        swap = distance(i - 1, j - 1) + (predicted[i - 1] != true[j - 1])
        return min(swap, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(predicted), len(true))


def edit_error_rate(predicted, true):
    return sum(map(edit_distance, predicted, true)) / sum(map(len, true))


# Boxes.


def area(boxes):
    top, left, bottom, right = np.moveaxis(f64(boxes), -1, 0)
    return np.maximum(bottom - top, 0) * np.maximum(right - left, 0)


def iou(a, b):
    a, b = f64(a)[..., :, None, :], f64(b)[..., None, :, :]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    both = area(np.concatenate([low, high], -1))
    either = area(a) + area(b) - both
    return np.where(either > 0, both / np.where(either > 0, either, 1), 0)


def to_corners(boxes):
    y, x, height, width = np.moveaxis(f64(boxes), -1, 0)
    return np.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], -1)


def to_middle(boxes):
    top, left, bottom, right = np.moveaxis(f64(boxes), -1, 0)
    return np.stack([(top + bottom) / 2, (left + right) / 2, bottom - top, right - left], -1)


# Decoding and chains: every path is tried.


def ctc_greedy(logits, lengths=None, *, blank=0):
    batch, steps, _ = np.shape(logits)
    lengths = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    found = [
        collapsed(np.asarray(z[:n]).argmax(-1), blank) for z, n in zip(logits, lengths, strict=True)
    ]
    labels = [path + [blank] * (steps - len(path)) for path in found]
    return np.array(labels), np.array([len(path) for path in found])


def log_probabilities(logits):
    return np.where(f64(logits) > -1e20, log_softmax(np.maximum(f64(logits), -1e30)), -np.inf)


def _paths(params, scores, length):
    """Every path of the states of one sequence, and its log-probability with the observations."""
    start, move = (log_probabilities(params[name]) for name in ("start", "transition"))
    for path in itertools.product(range(len(start)), repeat=length):
        steps = sum(scores[t, s] for t, s in enumerate(path))
        yield path, start[path[0]] + sum(move[a, b] for a, b in itertools.pairwise(path)) + steps


def forward(params, scores, lengths=None):
    scores = f64(scores)
    lengths = [scores.shape[1]] * len(scores) if lengths is None else np.asarray(lengths)
    alphas, totals = np.zeros(scores.shape), np.zeros(len(scores))
    for i, length in enumerate(lengths):
        for t in range(length):
            ways = list(_paths(params, scores[i], t + 1))
            for s in range(scores.shape[2]):
                alphas[i, t, s] = np.logaddexp.reduce([w for path, w in ways if path[-1] == s])
            totals[i] = np.logaddexp.reduce([w for _, w in ways])
    return alphas, totals


def posteriors(params, scores, lengths=None):
    scores = f64(scores)
    lengths = [scores.shape[1]] * len(scores) if lengths is None else np.asarray(lengths)
    found = np.zeros(scores.shape)
    for i, length in enumerate(lengths):
        ways = list(_paths(params, scores[i], length)) if length else []
        for path, w in ways:
            found[i, range(length), path] += np.exp(w - np.logaddexp.reduce([w for _, w in ways]))
    return found


def viterbi(params, scores, lengths=None):
    scores = f64(scores)
    lengths = [scores.shape[1]] * len(scores) if lengths is None else np.asarray(lengths)
    best = [max(_paths(params, s, n), key=lambda way: way[1]) for s, n in
            zip(scores, lengths, strict=True)]  # fmt: skip
    rows = [[*path, *[-1] * (scores.shape[1] - len(path))] for path, _ in best]
    return np.array(rows), np.array([score for _, score in best])


def scaled_likelihoods(logits, log_prior):
    return log_softmax(logits) - f64(log_prior)


def first_state(key, shape, dtype=jnp.float32):
    (states,) = shape
    return np.array([0.0] + [-1e30] * (states - 1))


# Machines with binary units: every state is added up.


def free_energy(params, x, *, visible=None):
    hidden = f64(x) @ f64(params["kernel"]) + f64(params["bias"])
    return -f64(x) @ f64(params["visible_bias"]) - np.logaddexp(0, hidden).sum(-1)


def log_partition(params, *, visible=None):
    inputs = np.shape(params["kernel"])[0]
    states = np.array(list(itertools.product([0, 1], repeat=inputs)))
    return np.logaddexp.reduce(-free_energy(params, states))


def log_likelihood(params, x, *, visible=None):
    return -free_energy(params, x) - log_partition(params)


def soft_threshold(x, threshold, *, positive=False):
    x = f64(x)
    return np.maximum(x - threshold, 0) - (0 if positive else np.maximum(-x - threshold, 0))


def distortion(x, projected):
    pairs = list(itertools.combinations(range(len(x)), 2))
    before, after = (
        np.array([np.square(f64(a)[i] - f64(a)[j]).sum() for i, j in pairs]) for a in (x, projected)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(before == 0, np.where(after == 0, 0, np.inf), after / before - 1)


def rotary(x, positions=None, *, base=10000.0, size=None, interleaved=False):
    """Pairs of features as complex numbers, turned by their angles."""
    x = f64(x)
    size = x.shape[-1] if size is None else size
    positions = np.arange(x.shape[1]) if positions is None else np.asarray(positions)
    angle = positions[..., None] * base ** (-np.arange(0, size, 2) / size)
    turned, kept = x[..., :size], x[..., size:]
    first, second = (
        (turned[..., ::2], turned[..., 1::2]) if interleaved else np.split(turned, 2, -1)
    )
    z = (first + 1j * second) * np.exp(1j * angle)[..., None, :]
    if interleaved:
        turned = np.stack([z.real, z.imag], -1).reshape(turned.shape)
    else:
        turned = np.concatenate([z.real, z.imag], -1)
    return np.concatenate([turned, kept], -1)


def mistake_bound(x, y, params):
    w = np.append(f64(params["kernel"])[:, 0], f64(params["bias"]))
    ones = np.concatenate([f64(x), np.ones((len(x), 1))], 1)
    margin = (np.where(f64(y) > 0, 1, -1) * (ones @ w)).min() / np.linalg.norm(w)
    return (np.linalg.norm(ones, axis=1).max() / margin) ** 2


def pad(sequences, *, length=None, value=0):
    length = max(map(len, sequences)) if length is None else length
    rows = [[*sequence, *[value] * (length - len(sequence))] for sequence in sequences]
    return np.array(rows), np.array([len(sequence) for sequence in sequences])


def log_mel(waves, *, rate, window=0.025, hop=0.01, bands=40, range_db=60.0, normalize=True):
    """Frame by frame, with a Fourier sum of at least twice the window."""
    import librosa

    size, step = round(rate * window), round(rate * hop)
    points = 2 ** math.ceil(math.log2(2 * size))
    triangles = librosa.filters.mel(sr=rate, n_fft=points, n_mels=bands)
    weights = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(size) / size)
    found = []
    for wave in waves:
        frames = [f64(wave)[i : i + size] for i in range(0, len(wave) - size + 1, step)]
        power = np.abs(np.fft.rfft(np.array(frames) * weights, points)) ** 2 @ triangles.T
        out = np.log(np.maximum(power, power.max() * 10 ** (-range_db / 10)))
        found.append((out - out.mean(0)) / out.std(0) if normalize else out)
    return found


def mfcc(waves, *, rate, bands=40, coefficients=13, deltas=0, normalize=True):
    from scipy.fft import dct

    mel = log_mel(waves, rate=rate, bands=bands, normalize=False)
    found = [dct(a, axis=1, norm="ortho")[:, :coefficients] for a in mel]
    return [(a - a.mean(0)) / a.std(0) if normalize else a for a in found]


def warp(x, matrix, centre=None):
    from scipy import ndimage

    middle = (np.array(np.shape(x)[1:3]) - 1) / 2
    found = np.zeros(np.shape(x))
    for i, image in enumerate(f64(x)):
        back = np.linalg.inv(f64(matrix)[i])
        offset = middle + (0 if centre is None else f64(centre)[i]) - back @ middle
        for c in range(image.shape[-1]):
            found[i, ..., c] = ndimage.affine_transform(
                image[..., c], back, offset, order=1, mode="grid-constant"
            )
    return found


class Reference(NamedTuple):
    """A second way to the value of a function.

    compute: has the signature of the public function.
    args, kwargs: of one call.
    then: where the function makes another one, the arguments of that.
    """

    compute: Function
    args: tuple = ()
    kwargs: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    then: tuple | None = None


def called(function: Function, example: Reference) -> Any:
    found = function(*example.args, **example.kwargs)
    return found if example.then is None else found(*example.then)


def compiled(function: Function, example: Reference) -> Any:
    """As `called`, as one program if all the arrays that are given are JAX's."""
    leaves, tree = jax.tree.flatten((example.args, example.then))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]
    if not places or any(isinstance(leaf, np.ndarray) for leaf in leaves):
        return called(function, example)

    @jax.jit
    def run(arrays):
        new = dict(zip(places, arrays, strict=True))
        args, then = jax.tree.unflatten(tree, [new.get(i, a) for i, a in enumerate(leaves)])
        return called(function, example._replace(args=args, then=then))

    return run([leaves[i] for i in places])


RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def labels(*shape: int, classes: int = 3) -> jax.Array:
    return jnp.asarray(RANDOM.integers(0, classes, shape))


def boxes(*shape: int) -> jax.Array:
    low = RANDOM.uniform(0, 5, (*shape, 2))
    return jnp.asarray(np.concatenate([low, low + RANDOM.uniform(-1, 6, low.shape)], -1))


UNIT = jnp.asarray(RANDOM.uniform(size=(4, 3)), jnp.float32)
LOGITS, LABELS = normal(2, 4, 3), labels(2, 4)
MASK = jnp.array([[True, True, False, True], [False, True, False, False]])
PROBABILITIES = jax.nn.softmax(LOGITS)
SQUARED = jn.losses.cross_entropy()
COUNTS = jnp.array([[5, 2, 0], [1, 3, 4], [0, 1, 7]])
CHAIN = {"start": jnp.array([0.3, -1.0]), "transition": normal(2, 2)}
SCORES, LENGTHS = normal(3, 4, 2), jnp.array([4, 2, 3])
MACHINE = {"kernel": normal(4, 3), "bias": normal(3), "visible_bias": normal(4)}
BITS = jnp.asarray(RANDOM.integers(0, 2, (5, 4)), jnp.float32)
KERNELS = {"a": {"kernel": normal(3, 2), "bias": normal(2)}, "b": {"in_kernel": normal(2)}}

REFERENCES = {
    "data.warp": Reference(
        warp,
        (
            normal(4, 4, 5, 2),
            jnp.stack([jnp.eye(2), jnp.array([[0, 1], [-1, 0]]), jnp.eye(2), 2 * jnp.eye(2)]),
            jnp.array([[0, 0], [0.5, 0.5], [0.5, -0.5], [0.5, 0.0]]),
        ),
    ),
    "rotary": Reference(rotary, (normal(2, 5, 3, 8),), {"size": 6, "base": 100.0}),
    "models.mistake_bound": Reference(
        mistake_bound,
        (
            np.array([[-2.0, 1.0], [3.0, 0.5]]),
            np.array([0, 1]),
            {"kernel": np.array([[1.0], [0.5]]), "bias": np.array([0.2])},
        ),
    ),
    "data.log_mel": Reference(
        log_mel,
        ([RANDOM.normal(size=900), RANDOM.normal(size=700) * np.linspace(0.01, 1, 700)],),
        {"rate": 4000, "hop": 0.012, "bands": 9, "range_db": 20.0},
    ),
    "data.mfcc": Reference(
        mfcc,
        ([RANDOM.normal(size=900)],),
        {"rate": 4000, "bands": 9, "coefficients": 5, "deltas": 0, "normalize": False},
    ),
    "data.pad": Reference(pad, ([[5, 6, 7], [8], [9, 4]],), {"length": 4, "value": -1}),
    "losses.binary_cross_entropy": Reference(
        binary_cross_entropy, (UNIT.at[0].set(0), labels(4, 3, classes=2))
    ),
    "losses.categorical_cross_entropy": Reference(
        categorical_cross_entropy, (PROBABILITIES, LABELS)
    ),
    "losses.cross_entropy": Reference(
        cross_entropy,
        (),
        {"label_smoothing": 0.2, "class_weights": np.array([1.0, 0.5, 3]), "ignore_index": 1},
        (LOGITS, LABELS),
    ),
    "losses.ctc": Reference(
        ctc, (1,), {}, (normal(2, 4, 3), (jnp.array([[2, 2], [0, 1]]), jnp.array([2, 1])))
    ),
    "losses.dice": Reference(dice, (0.5,), {}, (LOGITS, LABELS.at[0, 1].set(-1))),
    "losses.focal_loss": Reference(focal_loss, (1.5,), {}, (LOGITS, LABELS)),
    "losses.half_squared_error": Reference(half_squared_error, (normal(3, 2, 2), normal(3, 2, 2))),
    "losses.ignore_label": Reference(
        ignore_label, (SQUARED, 2), {"weights": np.array([1.0, 3.0, 2.0])}, (LOGITS, LABELS)
    ),
    "losses.kl_sparsity": Reference(kl_sparsity, (0.2,), {}, (UNIT, MASK[0])),
    "losses.masked": Reference(masked, (SQUARED,), {}, (LOGITS, (LABELS, MASK))),
    "losses.masked_mean": Reference(masked_mean, (normal(2, 4), MASK, 1)),
    "losses.multiclass_perceptron": Reference(multiclass_perceptron, (LOGITS, LABELS)),
    "losses.perceptron": Reference(perceptron, (normal(9), labels(9))),
    "losses.sigmoid_cross_entropy": Reference(
        sigmoid_cross_entropy, (), {"pos_weight": np.array([2.0, 1.0, 0.5])}, (normal(4, 3), UNIT)
    ),
    "losses.sigmoid_focal_loss": Reference(
        sigmoid_focal_loss, (1.5, 0.3), {}, (normal(4, 3), labels(4, 3, classes=2))
    ),
    "losses.weighted": Reference(
        weighted,
        (SQUARED,),
        {"class_weights": np.array([1.0, 3.0, 2.0]), "ignore_index": 1},
        (LOGITS, LABELS),
    ),
    "penalties.l1": Reference(l1, (0.3,), {}, (KERNELS,)),
    "penalties.l2": Reference(l2, (0.3,), {}, (KERNELS,)),
    "metrics.accuracy": Reference(top_k_accuracy(1), (LOGITS, LABELS)),
    "metrics.binary_accuracy": Reference(
        binary_accuracy, (0.2,), {}, (normal(4, 3), labels(4, 3, classes=2))
    ),
    "metrics.bits_per_character": Reference(lambda nats: f64(nats) / np.log(2), (normal(3),)),
    "metrics.confusion": Reference(
        confusion, (labels(20, classes=5), labels(20, classes=5) - 1, 4), {"void": 2}
    ),
    "metrics.edit_distance": Reference(edit_distance, ("abcaba", "bacab")),
    "metrics.edit_error_rate": Reference(edit_error_rate, (["abca", "b"], ["bac", "bab"])),
    "metrics.f1": Reference(
        _each(lambda hit, row, col: 2 * hit / (row + col) if row + col else 0), (COUNTS,)
    ),
    "metrics.intersection_over_union": Reference(intersection_over_union, (COUNTS,)),
    "metrics.mean_iou": Reference(lambda m: np.nanmean(intersection_over_union(m)), (COUNTS,)),
    "metrics.pixel_accuracy": Reference(lambda m: np.trace(f64(m)) / f64(m).sum(), (COUNTS,)),
    "metrics.precision": Reference(_each(lambda hit, _, col: hit / col if col else 0), (COUNTS,)),
    "metrics.recall": Reference(_each(lambda hit, row, _: hit / row if row else 0), (COUNTS,)),
    "metrics.top_k_accuracy": Reference(top_k_accuracy, (2,), {}, (LOGITS, LABELS)),
    "detection.area": Reference(area, (boxes(2, 6),)),
    "detection.iou": Reference(iou, (boxes(2, 5), boxes(2, 4))),
    "detection.to_corners": Reference(to_corners, (boxes(3),)),
    "detection.to_middle": Reference(to_middle, (boxes(3),)),
    "decoding.ctc_greedy": Reference(
        ctc_greedy, (normal(3, 6, 3), jnp.array([6, 3, 0])), {"blank": 1}
    ),
    "unsupervised.rbm.free_energy": Reference(free_energy, (MACHINE, BITS)),
    "unsupervised.rbm.log_likelihood": Reference(log_likelihood, (MACHINE, BITS)),
    "unsupervised.rbm.log_partition": Reference(log_partition, (MACHINE,)),
    "unsupervised.sparse_coding.soft_threshold": Reference(
        soft_threshold, (normal(4, 3), np.array([0.1, 0.5, 2]))
    ),
    "unsupervised.hmm.first_state": Reference(first_state, (None, (3,))),
    "unsupervised.hmm.forward": Reference(forward, (CHAIN, SCORES, LENGTHS)),
    "unsupervised.hmm.log_probabilities": Reference(
        log_probabilities, (jnp.array([[0.5, -1, -1e30], [1, 2, 3]]),)
    ),
    "unsupervised.hmm.posteriors": Reference(posteriors, (CHAIN, SCORES, LENGTHS)),
    "unsupervised.hmm.scaled_likelihoods": Reference(
        scaled_likelihoods, (normal(2, 3, 2), jnp.log(jnp.array([0.2, 0.8])))
    ),  # fmt: skip
    "unsupervised.hmm.viterbi": Reference(viterbi, (CHAIN, SCORES, LENGTHS)),
    "unsupervised.compressed_sensing.distortion": Reference(
        distortion, (f64(normal(4, 3)), f64(normal(4, 2)))
    ),
    "unsupervised.compressed_sensing.projection_features": Reference(
        lambda points, distortion: math.ceil(
            4 * math.log(points) / (distortion**2 / 2 - distortion**3 / 3)
        ),
        (70, 0.3),
    ),
}


# Identities. Each takes the public function and asserts.


def close(a: Any, b: Any, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(f64(a), f64(b), tolerance, tolerance)


def warp_moves_masks_and_boxes_too(warp: Function) -> None:
    """Nothing, a quarter turn, and up and to the right by half and by one pixel."""
    mask = RANDOM.integers(1, 9, (4, 4, 4))
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    matrix = np.stack([np.eye(2), turn, np.eye(2), np.eye(2)])
    centre = np.array([[0, 0], [0, 0], [0.5, -0.5], [1, -1.0]])
    box = np.tile([0.25, 0.25, 0.5, 0.75], (4, 1, 1))
    x = {"image": jnp.asarray(mask[..., None], jnp.float32), "mask": mask, "boxes": box}
    found = jax.jit(warp)(x, matrix, centre)
    moved = np.pad(mask[3], ((0, 1), (1, 0)))[1:, :4]
    for i, wanted in ((0, mask[0]), (1, np.rot90(mask[1], -1)), (3, moved)):
        close(found["mask"][i], wanted)
        close(found["image"][i, ..., 0], wanted)
    corners = [[0.25, 0.25, 0.5, 0.75], [0.25, 0.5, 0.75, 0.75], [0.125, 0.375, 0.375, 0.875],
               [0, 0.5, 0.25, 1]]  # fmt: skip
    close(found["boxes"][:, 0], corners)


def maps_of(augment: Function) -> tuple[np.ndarray, np.ndarray]:
    """The linear map and the shift of each of 200 images, told by where its pixels come from.

    Each pixel of the image holds its own place from the centre, and a 1 that tells the inside.
    """
    sides = np.arange(13) - 6.0
    place = np.stack([*np.meshgrid(sides, sides, indexing="ij"), np.ones((13, 13))], -1)
    y = jax.jit(augment)(jax.random.key(0), np.repeat(place[None], 200, 0).astype(np.float32))
    found = []
    for image in f64(y):
        inside = image[..., 2] > 1 - 1e-5
        to = np.column_stack([place[inside][:, :2], np.ones(inside.sum())])
        found.append(np.linalg.lstsq(to, image[inside][:, :2], rcond=None)[0].T)  # (2, 3)
        assert np.abs(to @ found[-1].T - image[inside][:, :2]).max() < 5e-3
    maps = np.array(found)
    return np.linalg.inv(maps[:, :, :2]), maps[:, :, 2]


def rotations_are_of_both_signs(random_rotation: Function) -> None:
    matrix, shift = maps_of(random_rotation(30))
    angle = np.degrees(np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0]))
    assert -30.1 < angle.min() < -28 and 28 < angle.max() < 30.1
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    close(matrix, np.moveaxis(np.array([[c, s], [-s, c]]), -1, 0), 2e-3)
    close(shift, 0 * shift, 5e-3)


def shears_move_along_rows(random_shear: Function) -> None:
    matrix, shift = maps_of(random_shear(20))
    angle = np.degrees(np.arctan(matrix[:, 1, 0]))
    assert -20.1 < angle.min() < -18 and 18 < angle.max() < 20.1
    matrix[:, 1, 0] = 0
    close(matrix, np.tile(np.eye(2), (200, 1, 1)), 2e-3)
    close(shift, 0 * shift, 5e-3)


def scales_are_log_uniform(random_scale: Function) -> None:
    matrix, shift = maps_of(random_scale(0.5, 2.0))
    scale = matrix[:, 0, 0]
    close(matrix, scale[:, None, None] * np.eye(2), 2e-2)
    assert 0.5 <= scale.min() < 0.53 and 1.85 < scale.max() < 2.02
    assert abs(np.log2(scale).mean()) < 4 / (3 * 200) ** 0.5
    close(shift, 0 * shift, 5e-3)


def crops_are_inside(random_crop: Function) -> None:
    """A part has the size 1 / factor of the image, and its centre as much room as that leaves."""
    matrix, centre = maps_of(random_crop(0.5))
    size = 1 / matrix[:, 0, 0]
    close(matrix, np.eye(2) / size[:, None, None], 2e-3)
    assert 0.5 - 1e-3 < size.min() < 0.52 and 0.98 < size.max() <= 1.001
    share = centre / (6 * (1 - size))[:, None]
    certain = size < 0.9
    assert np.abs(share[certain]).max() < 1.02
    assert share[certain].min() < -0.95 and share[certain].max() > 0.95
    assert abs(np.corrcoef(share[certain].T)[0, 1]) < 0.3


def flips_turn_half(random_flip: Function) -> None:
    x = {"image": normal(60, 3, 4, 2), "mask": labels(60, 3, 4)}
    x["boxes"] = jnp.tile(jnp.array([[[0.1, 0.2, 0.5, 0.9], [0, 0, 0, 0]]]), (60, 1, 1))
    for vertical, axis, box in ((False, 2, [0.1, 0.1, 0.5, 0.8]), (True, 1, [0.5, 0.2, 0.9, 0.9])):
        y = jax.jit(random_flip(vertical=vertical))(jax.random.key(0), x)
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
    assert -2.05 < shift.min() < -1.9 and 1.9 < shift.max() < 2.05
    # The shear leaves the second column alone.
    scale = np.hypot(matrix[:, 0, 1], matrix[:, 1, 1])
    angle = np.arctan2(matrix[:, 0, 1], matrix[:, 1, 1])
    c, s = np.cos(angle), np.sin(angle)
    turn = scale[:, None, None] * np.moveaxis(np.array([[c, s], [-s, c]]), -1, 0)
    shear = np.linalg.inv(turn) @ matrix
    lean = shear[:, 1, 0].copy()
    shear[:, 1, 0] = 0
    close(shear, np.tile(np.eye(2), (200, 1, 1)), 2e-2)
    for found, most in ((np.degrees(angle), 20), (np.degrees(np.arctan(lean)), 15),
                        (np.log(scale), np.log(1.25))):  # fmt: skip
        assert -1.02 < found.min() / most < -0.9 and 0.9 < found.max() / most < 1.02
    bends_have_their_size(elastic)


def bends_have_their_size(elastic: Function) -> None:
    sides = np.arange(12.0)
    place = np.stack(np.meshgrid(sides, sides, indexing="ij"), -1)[None].repeat(200, 0)
    y = jax.jit(elastic(displacement=0.5, spacing=4))(jax.random.key(0), place.astype(np.float32))
    moves = (f64(y) - place)[:, 3:-3, 3:-3]
    assert 0.3 < moves.std() < 0.5 and abs(moves.mean()) < 0.03
    near, far = (np.corrcoef(moves[:, :-n].ravel(), moves[:, n:].ravel())[0, 1] for n in (1, 5))
    assert 0.7 < near < 1 and abs(far) < 0.2


def inputs_alone(on_inputs: Function) -> None:
    x, y = normal(4, 3), labels(4)
    seen = on_inputs(lambda key, x: 2 * x)(jax.random.key(0), (x, y))
    close(seen[0], 2 * x)
    assert (seen[1] == y).all()


def void_comes_from_outside(on_masks: Function) -> None:
    small = on_masks(lambda key, x: jn.data.warp(x, jnp.eye(2)[None] / 3), void=11)
    x, mask = normal(1, 3, 4, 2), labels(1, 3, 4)
    y, found = jax.jit(small)(jax.random.key(0), (x, mask))
    assert (np.asarray(found)[0] == 11).sum() > 8 and (np.asarray(y)[0, 0] == 0).all()
    inside = np.asarray(found)[0] != 11
    assert inside.any() and set(np.asarray(found)[0][inside]) <= set(np.ravel(mask))


def one_after_the_other(chain: Function) -> None:
    keys = []

    def note(key, x):
        keys.append(jax.random.key_data(key).tolist())
        return x + 1

    y = chain(note, lambda key, x: 2 * x, note)(jax.random.key(0), jnp.ones(2))
    assert y.tolist() == [5, 5] and keys[0] != keys[1]


def shifts_move_whole_images(random_shift: Function) -> None:
    """Each is a part of the padded image, and every shift occurs."""
    x = 1 + np.arange(20.0).reshape(1, 4, 5, 1).repeat(200, 0)
    y = np.asarray(jax.jit(random_shift(1))(jax.random.key(0), x))[..., 0]
    padded = np.pad(x[0, ..., 0], 1)
    parts = [padded[i : i + 4, j : j + 5] for i in range(3) for j in range(3)]
    which = np.array([[(image == part).all() for part in parts] for image in y])
    assert (which.sum(1) == 1).all() and which.any(0).all()


def squares_are_cut_out_around_every_pixel(cutout: Function) -> None:
    y = np.asarray(jax.jit(cutout(3))(jax.random.key(0), jnp.ones((300, 4, 5, 2))))
    assert (y[..., 0] == y[..., 1]).all()
    found = {tuple(map(tuple, np.argwhere(image == 0))) for image in y[..., 0]}
    around = {
        tuple((i, j) for i in range(4) for j in range(5) if abs(i - a) < 2 and abs(j - b) < 2)
        for a in range(4)
        for b in range(5)
    }
    assert found == around


def jitter_changes_one_factor(color_jitter: Function) -> None:
    """Brightness scales all, contrast the differences from the mean grey, saturation from grey."""
    x = RANDOM.uniform(0.4, 0.6, (60, 2, 3, 3)).astype(np.float32)
    grey = x @ np.array([0.299, 0.587, 0.114])
    mean = grey.mean((1, 2))[:, None, None, None]
    origin = {"brightness": np.zeros(1), "contrast": mean, "saturation": grey[..., None]}
    for name, still in origin.items():
        y = np.asarray(jax.jit(color_jitter(**{name: 0.5}))(jax.random.key(0), x))
        factor = ((y - still) * (x - still)).sum((1, 2, 3)) / np.square(x - still).sum((1, 2, 3))
        close(y - still, factor[:, None, None, None] * (x - still), 1e-3)
        assert 0.5 <= factor.min() < 0.55 and 1.45 < factor.max() <= 1.5


def mixtures_are_of_two_examples(mixup: Function) -> None:
    x, y = jnp.eye(6), jnp.array([0, 1, 2, 0, 1, 2])
    mixed, shares = jax.jit(mixup(1.0, 3))(jax.random.key(0), (x, y))
    close(mixed.sum(1), np.ones(6))
    assert (np.asarray(mixed > 0).sum(1) <= 2).all() and np.asarray(mixed > 0).sum() > 8
    close(shares, np.asarray(mixed) @ np.eye(3)[np.asarray(y)])
    assert np.ptp(np.diag(mixed)) > 0.1


def windows_hold_every_token_once(windows: Function) -> None:
    tokens = np.arange(100, 123)
    cut = windows(tokens, streams=3, steps=4)
    x, y, counts = (np.asarray(a) for a in (cut.x, cut.y, cut.counts))
    inside = counts.astype(bool)
    assert (y[inside] == x[inside] + 1).all()
    assert len(np.unique(y[inside])) == inside.sum() >= 18


def overlapping_windows_predict_every_token_once(overlapping: Function) -> None:
    cut = overlapping(np.arange(100, 123), steps=6, fresh=2)
    x, y, counts = (np.asarray(a) for a in (cut.x, cut.y, cut.counts))
    inside = counts.astype(bool)
    assert (y[inside] == x[inside] + 1).all()
    assert sorted(y[inside]) == list(range(101, 101 + inside.sum())) and inside.sum() > 18


def whitened_data_have_covariance_1(fit_whitening: Function) -> None:
    x = f64(normal(40, 3)) @ np.array([[1.0, 0, 0], [2, 3, 0], [4, 5, 6]]) + [1, 2, 3]
    for zca in (False, True):
        params = fit_whitening(None, x, zca=zca, epsilon=0.0)
        kernel, bias = f64(params["kernel"]), f64(params["bias"])
        close(np.cov((x @ kernel + bias).T), np.eye(3), 1e-3)
        close((x @ kernel + bias).mean(0), np.zeros(3), 1e-4)
        assert not zca or np.allclose(kernel, kernel.T, atol=1e-4)
    tiny = fit_whitening(None, 1e-7 * x, epsilon=0.0)
    close(np.cov((1e-7 * x @ f64(tiny["kernel"]) + f64(tiny["bias"])).T), np.eye(3), 1e-2)
    # A direction without variance gives 0; a part of the mean variance damps the others.
    flat = np.stack([x[:, 0], np.ones(40), x[:, 0]], 1)
    params = fit_whitening(None, flat, epsilon=0.5)
    y = flat @ f64(params["kernel"]) + f64(params["bias"])
    largest = 2 * x[:, 0].var(ddof=1)
    close(y.var(0, ddof=1), [largest / (largest + 0.5 * largest / 3), 0, 0], 1e-3)


def components_are_eigenvectors(fit_pca: Function) -> None:
    x = f64(normal(40, 3)) * [1, 5, 2] + 7
    params = fit_pca(None, x, 2)
    kernel = f64(params["kernel"])
    close(kernel.T @ kernel, np.eye(2))
    variances = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    close(np.cov((x @ kernel + f64(params["bias"])).T), np.diag(variances[:2]), 1e-3)
    close((x @ kernel + f64(params["bias"])).mean(0), np.zeros(2), 1e-3)
    assert (kernel[np.abs(kernel).argmax(0), [0, 1]] > 0).all()


def codes_are_optimal(solve: Function) -> None:
    """The slope of the squared error is the penalty where a code is not 0, else at most that."""
    dictionary, x = normal(6, 4), normal(3, 4)
    for positive in (False, True):
        z = f64(solve(dictionary, x, 0.3, 600, positive=positive))
        slope = (f64(x) - z @ f64(dictionary)) @ f64(dictionary).T
        close(slope[z != 0], 0.3 * np.sign(z[z != 0]), 2e-3)
        still = slope[z == 0] if positive else np.abs(slope[z == 0])
        assert (still <= 0.3 + 1e-3).all() and (z == 0).any() and (z != 0).any()
        assert not positive or (z >= 0).all()


def few_steps_are_gradient_steps(ista: Function) -> None:
    dictionary, x, start = normal(3, 4), normal(2, 4), normal(2, 3)
    gram = f64(dictionary) @ f64(dictionary).T
    curvature = np.linalg.eigvalsh(gram)[-1]
    moved = f64(start) + (f64(x) @ f64(dictionary).T - f64(start) @ gram) / curvature
    found = ista(dictionary, x, 0.2, 1, codes=start)
    close(found, soft_threshold(moved, 0.2 / curvature), 1e-3)


def measurements_are_kept(basis_pursuit: Function) -> None:
    A, x = normal(12, 20), np.zeros(20)
    x[[3, 11]] = [2.0, -1.0]
    close(basis_pursuit(A, f64(A) @ x), x, 1e-3)


def centroids_are_means(kmeans: Function) -> None:
    x = f64(normal(30, 2))
    found = f64(kmeans(jax.random.key(0), x, 4, tolerance=0.0))
    nearest = np.square(x[:, None] - found).sum(-1).argmin(1)
    close([x[nearest == c].mean(0) for c in range(4)], found)


def nearest_centroids_have_the_largest_output(fit_kmeans: Function) -> None:
    x = f64(normal(30, 3))
    found = [fit_kmeans(jax.random.key(1), x, 4, scale=scale) for scale in (None, 2.0)]
    outputs = [x @ f64(p["kernel"]) + f64(p["bias"]) for p in found]
    centroids = f64(found[0]["kernel"]).T
    distances = np.square(x[:, None] - centroids).sum(-1)
    for y in outputs:
        assert (y.argsort(1) == distances.argsort(1)[:, ::-1]).all()
    close(outputs[0], -(distances - np.square(x).sum(1, keepdims=True)) / 2)
    close([outputs[1].mean(), outputs[1].std()], [0, 2], 1e-3)


def one_beam_is_greedy(beam_search: Function) -> None:
    table = normal(5, 5)

    def model(carry, tokens):
        return carry + 1, table[tokens] * (1 + carry[:, None])

    @jax.jit
    def both():
        given = model, jnp.zeros(3), jnp.array([0, 3, 2])
        found = beam_search(*given, beams=1, length=4, end=1, length_penalty=0.5)
        return found, jn.decoding.greedy(*given, length=4, end=1)

    (found, sizes, scores), (tokens, lengths) = jax.device_get(both())
    assert (found[:, 0] == tokens).all() and (sizes[:, 0] == lengths).all()
    for last, row, n, score in zip((0, 3, 2), tokens, lengths, scores[:, 0], strict=True):
        path = [last, *row[: n + 1]]  # the end too
        steps = enumerate(itertools.pairwise(path))
        total = sum(log_softmax(f64(table[a]) * (1 + t))[b] for t, (a, b) in steps)
        close(score, total / (len(path) - 1) ** 0.5, 1e-3)


def all_beams_give_the_loss(ctc_beam_search: Function) -> None:
    """With a beam for each prefix; also for the first two of three steps."""
    logits = normal(2, 3, 3)
    found, sizes, scores = ctc_beam_search(logits, jnp.array([3, 2]), beams=20, blank=1)
    for i, steps in enumerate((3, 2)):
        possible = np.asarray(scores[i] > -np.inf)
        assert possible.sum() == (9 if steps == 3 else 5)
        assert (np.diff(scores[i][possible]) <= 0).all()
        for row, n, score in zip(found[i], sizes[i], scores[i][possible], strict=False):
            close(score, -ctc(1)(logits[i : i + 1, :steps], (row[None], n[None]))[0])
            assert (row[int(n) :] == 1).all()


def perfect_boxes_have_precision_1(average_precision: Function) -> None:
    truth = {"boxes": np.array([[[0, 0, 2, 3], [5, 5, 8, 9], [1, 1, 4, 4.0]]]),
             "classes": np.array([[0, 1, 0]])}  # fmt: skip
    found = truth | {"scores": np.array([[0.9, 0.8, 0.7]])}
    assert average_precision(found, truth, 3).mean == 1
    found["boxes"] = found["boxes"] + np.array([[[50], [0], [0.0]]])  # the best of class 0 is off
    for points, wanted in ((None, 0.25), (11, 6 / 11 / 2)):
        result = average_precision(found, truth, 2, points=points)
        close(result.each, [wanted, 1])
        close(result.mean, (wanted + 1) / 2)


def greedy_suppression(non_max_suppression: Function) -> None:
    """The loop of the definition."""
    given, scores = f64(boxes(12)), RANDOM.permutation(12) / 12
    overlap = iou(given, given)
    kept: list[int] = []
    for i in np.argsort(-scores):
        if scores[i] > 0.2 and all(overlap[i, j] <= 0.2 for j in kept):
            kept.append(int(i))
    found = non_max_suppression(jnp.asarray(given), jnp.asarray(scores), iou=0.2, score=0.2)
    assert found.indices[found.valid].tolist() == kept
    first = non_max_suppression(jnp.asarray(given), jnp.asarray(scores), iou=0.2, score=0.2, most=2)
    assert first.indices.tolist() == kept[:2]


def parts_of_an_attribution_sum_to_the_change(integrated_gradients: Function) -> None:
    net = jn.serial(lambda x: x[:, :1] * x[:, 1:2] + x[:, 2:] ** 2)
    x = normal(2, 3)
    found = f64(integrated_gradients(net, {}, {}, x, baseline=0.5, steps=40))
    y, start = (f64(z[:, 0] * z[:, 1] + z[:, 2] ** 2) for z in (x, jnp.full((2, 3), 0.5)))
    close(found.sum(1), y - start, 1e-3)


def slopes_of_a_polynomial(numerical_gradient: Function) -> None:
    x = np.array([0.5, -2.0, 3.0])
    for method, step, error in (("central", 1e-3, 1e-6), ("forward", 1e-3, 1e-3)):
        found = numerical_gradient(lambda w: (w**3).sum(), x, step, method)
        third = 1 if method == "central" else 0
        exact = 3 * x**2 + (step**2 if third else 3 * x * step + step**2)
        np.testing.assert_allclose(found, exact, rtol=1e-7, atol=error * 1e-3)


def nothing_is_lost_by_saving(save: Function) -> None:
    tree = {"a": normal(3), "b": {"c": jnp.arange(4), "key": jax.random.key(3)}}
    save("kept.safetensors", tree)
    back, _ = jn.load("kept.safetensors", tree)
    close(back["a"], tree["a"], 0)
    assert (back["b"]["c"] == tree["b"]["c"]).all() and back["b"]["key"] == tree["b"]["key"]


def batches_hold_every_example_once(batches: Function) -> None:
    x = np.arange(11)
    found = [batch for batch in batches((x, x + 1), 3, seed=4)]
    assert [len(a) for a, _ in found] == [3, 3, 3, 2] and all((b == a + 1).all() for a, b in found)
    order = np.concatenate([a for a, _ in found])
    assert (np.sort(order) == x).all() and (order != x).any()


def parts_hold_every_example_once(split: Function) -> None:
    x = np.arange(10)
    (a, b), (c, d) = split((x, x + 1), 0.3, seed=1)
    assert len(c) == 3 and sorted([*a, *c]) == list(x)
    assert (b == a + 1).all() and (d == c + 1).all()


def sums_over_many_batches(evaluate: Function) -> None:
    """The last batch, which is padded, counts with its own examples alone."""
    net = jn.dense(1)
    params, x, y = {"kernel": normal(3, 1), "bias": normal(1)}, normal(7, 3), normal(7, 1)
    objective = jn.supervised(net, jn.losses.half_squared_error)
    found = evaluate(objective, params, {}, (x, y), batch_size=3)
    wanted = half_squared_error(f64(x) @ f64(params["kernel"]) + f64(params["bias"]), y).mean()
    close(found["loss"], wanted)


def outputs_in_the_order_of_the_inputs(predict: Function) -> None:
    params, x = {"kernel": normal(3, 2), "bias": normal(2)}, normal(7, 3)
    found = predict(jn.dense(2), params, {}, x, batch_size=3)
    close(found, f64(x) @ f64(params["kernel"]) + f64(params["bias"]))


def operations_of_a_product(flops: Function) -> None:
    assert flops(lambda a, b: a @ b, jn.spec((3, 5)), jn.spec((5, 7))) == 2 * 3 * 5 * 7


def atoms_are_found_again(fit_dictionary: Function) -> None:
    """Each example has one or two of three atoms at right angles."""
    atoms = np.linalg.qr(f64(normal(4, 3)))[0].T
    codes = RANDOM.uniform(1, 2, (60, 3)) * (RANDOM.uniform(size=(60, 3)) < 0.5)
    found = f64(
        fit_dictionary(jax.random.key(0), codes @ atoms, 3, penalty=0.05, batch_size=20, epochs=30,
                       positive=True, progress=False)["dictionary"]
    )  # fmt: skip
    close(np.linalg.norm(found, axis=1), np.ones(3))
    assert np.abs(found @ atoms.T).max(0).min() > 0.98


def a_machine_starts_at_the_mean(fit_rbm: Function) -> None:
    x = RANDOM.integers(0, 2, (30, 5)) * np.array([1, 1, 1, 1, 0])
    options = {"epochs": 1, "batch_size": 10, "learning_rate": 1e-9, "full": True}
    params = fit_rbm(jax.random.key(0), x, 3, progress=False, **options)
    mean = np.clip(x.mean(0), 1e-3, 1 - 1e-3)
    close(params["visible_bias"], np.log(mean / (1 - mean)))
    assert 0.003 < f64(params["kernel"]).std() < 0.02 and params["kernel"].shape == (5, 3)


def detection_is_decoding_and_suppression(yolo_detect: Function) -> None:
    outputs = jnp.asarray(RANDOM.uniform(0.1, 0.9, (1, 2, 2, 13)), jnp.float32)  # 3 classes
    found, scores = jax.device_get(jn.models.yolo_decode(outputs))
    got = yolo_detect(outputs, score=0.1, iou=0.3, most=6)
    kept = []
    for c in range(3):
        best: list[int] = []
        overlap = iou(found[0], found[0])
        for i in np.argsort(-scores[0, :, c]):
            if scores[0, i, c] > 0.1 and all(overlap[i, j] <= 0.3 for j in best):
                best.append(int(i))
        kept += [(float(scores[0, i, c]), c, found[0, i]) for i in best[:6]]
    kept = sorted(kept, key=lambda one: -one[0])[:6]
    real = np.asarray(got.classes[0]) >= 0
    assert got.classes[0][real].tolist() == [c for _, c, _ in kept]
    close(got.scores[0][real], [score for score, _, _ in kept])
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


def objects_belong_to_cells(yolo_assign: Function) -> None:
    box = np.array([[[0.1, 0.3, 0.5, 0.5], [0.6, 0.6, 1, 0.9], [0, 0, 0, 0]]])
    cells = jax.jit(yolo_assign, static_argnums=(1, 2))(
        {"boxes": jnp.asarray(box), "classes": jnp.array([[2, 0, -1]])}, 2, 4
    )
    assert cells.label[0].tolist() == [[-1, 2, -1, -1], [-1, -1, -1, 0]]
    close(cells.box[0, 0, 1], box[0, 0])
    close(cells.box[0, 1, 3], box[0, 1])


def separable_data_are_separated(train_perceptron: Function) -> None:
    x = f64(normal(20, 2))
    x = x[np.abs(x @ [1.0, 2.0] - 0.3) > 0.3]
    y = (x @ [1.0, 2.0] > 0.3).astype(int)
    run = train_perceptron(x, y)
    z = x @ f64(run.params["kernel"])[:, 0] + f64(run.params["bias"])
    assert run.converged and ((z > 0) == y).all()


def memories_in_advance_are_the_same(precompute_kv: Function) -> None:
    layer = jn.multi_head_attention(2, step=False)
    query, memory = normal(2, 3, 6), normal(2, 5, 4)
    params, state = layer.init(jax.random.key(0), (query, memory))
    y, _ = layer.apply(params, state, (query, memory))
    z, _ = layer.apply(params, state, (query, precompute_kv(params, memory)))
    close(y, z, 1e-5)


def same_layer(wrap: Function) -> None:
    """A transform that changes how a layer is computed, not what."""
    layer, x = jn.dense(3), normal(4, 2)
    params, state = layer.init(jax.random.key(0), x)
    wrapped = wrap(layer)
    close(
        wrapped.apply(*wrapped.init(jax.random.key(0), x), x)[0], layer.apply(params, state, x)[0]
    )


def contraction_of_a_sigmoid(contractive_reconstruction: Function) -> None:
    """The Jacobian of sigmoid(x W + b) is diag(s (1 - s)) Wᵀ."""
    net = jn.models.tied_autoencoder(3)
    x = normal(4, 5)
    params, state = net.init(jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    objective, plain = contractive_reconstruction(net, 0.7), jn.unsupervised.autoencoder
    (values, metrics), _ = jax.jit(objective.apply)(params, state, x)
    (errors, _), _ = jax.jit(plain.reconstruction(net).apply)(params, state, x)
    encoder = params["encoder"]
    s = np.exp(log_sigmoid(f64(x) @ f64(encoder["kernel"]) + f64(encoder["bias"])))
    wanted = (np.square(s * (1 - s)) * np.square(f64(encoder["kernel"])).sum(0)).sum(1)
    close(metrics["contraction"], wanted)
    close(values, f64(errors) + 0.7 * wanted)


def width_is_the_distance_of_neighbours(fit_rbf_centres: Function) -> None:
    x = f64(normal(20, 2))
    params = fit_rbf_centres(jax.random.key(0), x, 4, overlap=1.5)
    centres = f64(params["centres"])
    distances = np.linalg.norm(centres[:, None] - centres, axis=-1) + 99 * np.eye(4)
    close(params["width"], 1.5 * distances.min(1).mean())
    one = fit_rbf_centres(jax.random.key(0), x, 1)
    close(one["width"], np.sqrt(np.square(x - x.mean(0)).sum(1).mean()))


def projections_have_the_scale(fit_random_vectors: Function) -> None:
    """Rows of the data less the mean, of one length; with a scale one factor for all outputs."""
    x = f64(normal(20, 3)) + 2
    rows = f64(fit_random_vectors(jax.random.key(0), x, 4, scale=None)["kernel"]).T
    assert all(np.abs(x - row).sum(1).min() < 1e-5 for row in rows)
    params = fit_random_vectors(jax.random.key(0), x, 4, scale=2.0)
    kernel = f64(params["kernel"])
    along = (rows - x.mean(0)) / np.linalg.norm(rows - x.mean(0), axis=1, keepdims=True)
    close(kernel.T / np.linalg.norm(kernel, axis=0)[:, None], along, 1e-3)
    y = x @ kernel + f64(params["bias"])
    close([y.mean(), y.std()], [0, 2], 1e-3)


def estimates_are_near_the_sum(ais: Function) -> None:
    found = ais(jax.random.key(0), MACHINE, runs=200, betas=np.linspace(0, 1, 101), data=BITS)
    error = float(found.log_partition) - log_partition(MACHINE)
    assert abs(error) < 4 * float(found.standard_error) and 0 < float(found.standard_error) < 0.3


def chains_have_the_distribution(gibbs: Function) -> None:
    """Means of many chains are those of the sum over all states."""
    start = jnp.zeros((4000, 4))
    x, mean = gibbs(jax.random.key(0), MACHINE, start, 15)
    states = np.array(list(itertools.product([0, 1], repeat=4)))
    wanted = np.exp(log_likelihood(MACHINE, states)) @ states
    assert set(np.unique(x)) == {0, 1}
    assert np.abs(f64(x).mean(0) - wanted).max() < 4 * 0.5 / 4000**0.5
    assert np.abs(f64(mean).mean(0) - wanted).max() < 4 * 0.5 / 4000**0.5


def one_pass_of_expectation_maximization(baum_welch: Function) -> None:
    """The shares that the posteriors give, with posteriors from every path; symbols and vectors."""
    x, vectors, lengths = labels(3, 4), normal(3, 4, 2), [4, 2, 3]
    symbols, gaussians = jn.unsupervised.hmm.categorical(3), jn.unsupervised.hmm.gaussian_mixture(1)
    logits, mean, log_variance = normal(2, 3), normal(2, 1, 2), normal(2, 1, 2)
    density = np.square(f64(vectors)[:, :, None] - f64(mean)[:, 0]) / np.exp(
        f64(log_variance)[:, 0]
    )
    density = -0.5 * (density + f64(log_variance)[:, 0] + np.log(2 * np.pi)).sum(-1)
    inside = np.arange(4) < np.array(lengths)[:, None]
    for emission, data, params, scores in (
        (symbols, x, {"logits": logits}, np.moveaxis(log_softmax(logits)[:, x], 0, -1)),
        (gaussians, vectors, {"weight": jnp.zeros((2, 1)), "mean": mean,
                              "log_variance": log_variance}, density),
    ):  # fmt: skip
        given = CHAIN | {"emission": params}
        found = baum_welch(given, data, emission, jnp.array(lengths), iterations=1, progress=False)
        totals = forward(CHAIN, scores, lengths)[1]
        close(found.log_likelihoods[0], totals.sum(), 1e-3)
        p = posteriors(CHAIN, scores, lengths)
        first, moves = p[:, 0].sum(0), np.zeros((2, 2))
        for i, n in enumerate(lengths):
            for path, w in _paths(CHAIN, scores[i], n):
                for pair in itertools.pairwise(path):
                    moves[pair] += np.exp(w - totals[i])
        close(log_softmax(found.params["start"]), np.log(first / first.sum()), 1e-3)
        close(
            log_softmax(found.params["transition"]),
            np.log(moves / moves.sum(1, keepdims=True)),
            1e-3,
        )
        new, states = found.params["emission"], p[inside]  # (steps, states)
        if emission is symbols:
            count = states.T @ np.eye(3)[np.asarray(x)[inside]]
            close(np.exp(log_softmax(new["logits"])), count / count.sum(1, keepdims=True), 1e-3)
        else:
            seen, share = f64(vectors)[inside], states / states.sum(0)
            middle = share.T @ seen
            spread = (share[..., None] * np.square(seen[:, None] - middle)).sum(0)
            close(new["mean"][:, 0], middle, 1e-3)
            close(np.exp(f64(new["log_variance"]))[:, 0], spread, 1e-3)


IDENTITIES: dict[str, Function] = {
    "unsupervised.hmm.baum_welch": one_pass_of_expectation_maximization,
    "unsupervised.autoencoder.contractive_reconstruction": contraction_of_a_sigmoid,
    "unsupervised.kmeans.fit_rbf_centres": width_is_the_distance_of_neighbours,
    "unsupervised.kmeans.fit_random_vectors": projections_have_the_scale,
    "unsupervised.rbm.ais": estimates_are_near_the_sum,
    "unsupervised.rbm.gibbs": chains_have_the_distribution,
    "evaluate": sums_over_many_batches,
    "freeze": same_layer,
    "precompute_kv": memories_in_advance_are_the_same,
    "predict": outputs_in_the_order_of_the_inputs,
    "remat": same_layer,
    "save": nothing_is_lost_by_saving,
    "models.yolo_assign": objects_belong_to_cells,
    "models.yolo_decode": decoded_boxes_are_in_their_cells,
    "models.yolo_detect": detection_is_decoding_and_suppression,
    "unsupervised.rbm.fit_rbm": a_machine_starts_at_the_mean,
    "unsupervised.sparse_coding.fit_dictionary": atoms_are_found_again,
    "models.train_perceptron": separable_data_are_separated,
    "data.batches": batches_hold_every_example_once,
    "data.color_jitter": jitter_changes_one_factor,
    "data.cutout": squares_are_cut_out_around_every_pixel,
    "data.chain": one_after_the_other,
    "data.elastic": an_affine_map_is_the_product_and_a_shift,
    "data.on_inputs": inputs_alone,
    "data.on_masks": void_comes_from_outside,
    "data.random_crop": crops_are_inside,
    "data.random_flip": flips_turn_half,
    "data.random_rotation": rotations_are_of_both_signs,
    "data.random_scale": scales_are_log_uniform,
    "data.random_shear": shears_move_along_rows,
    "data.mixup": mixtures_are_of_two_examples,
    "data.overlapping": overlapping_windows_predict_every_token_once,
    "data.random_shift": shifts_move_whole_images,
    "data.split": parts_hold_every_example_once,
    "data.warp": warp_moves_masks_and_boxes_too,
    "data.windows": windows_hold_every_token_once,
    "inspect.flops": operations_of_a_product,
    "inspect.integrated_gradients": parts_of_an_attribution_sum_to_the_change,
    "inspect.numerical_gradient": slopes_of_a_polynomial,
    "detection.average_precision": perfect_boxes_have_precision_1,
    "detection.non_max_suppression": greedy_suppression,
    "decoding.beam_search": one_beam_is_greedy,
    "decoding.ctc_beam_search": all_beams_give_the_loss,
    "unsupervised.sparse_coding.fista": codes_are_optimal,
    "unsupervised.sparse_coding.ista": few_steps_are_gradient_steps,
    "unsupervised.kmeans.fit_kmeans": nearest_centroids_have_the_largest_output,
    "unsupervised.kmeans.kmeans": centroids_are_means,
    "unsupervised.whitening.fit_pca": components_are_eigenvectors,
    "unsupervised.whitening.fit_whitening": whitened_data_have_covariance_1,
    "unsupervised.compressed_sensing.basis_pursuit": measurements_are_kept,
}
