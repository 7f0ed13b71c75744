"""What the right value of a public function is, found without the function's own code.

`REFERENCES` computes the same numbers in NumPy and float64 from the formulas in the docstrings, for
arguments of its own and for those of a hostile call. `tests/identities.py` is for functions where a
second way to the value would be long, `tests/layer_values.py` for layers.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
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


def cross_entropy(outputs, targets, *, label_smoothing=0.0):
    log_p = log_softmax(outputs)
    return -(1 - label_smoothing) * at_label(log_p, targets) - label_smoothing * log_p.mean(-1)


def weighted(loss, *, class_weights=None, ignore_label=None):
    def pair(outputs, targets):
        counted = np.asarray(targets) != ignore_label
        labels = np.where(counted, targets, 0)
        table = np.ones(np.shape(outputs)) * (1 if class_weights is None else f64(class_weights))
        weights = np.where(counted, at_label(table, labels), 0)
        if class_weights is not None and getattr(loss, "func", None) is jn.losses.cross_entropy:
            smooth = loss.keywords["label_smoothing"]
            log_p = log_softmax(outputs) * table
            values = -(1 - smooth) * at_label(log_p, labels) - smooth * log_p.mean(-1)
        else:  # the loss is given, so its own values are taken
            values = f64(loss(jnp.asarray(outputs), jnp.asarray(labels))) * weights
        totals = np.where(counted, values, 0)
        axes = tuple(range(1, totals.ndim))
        return totals.sum(axes), weights.sum(axes)

    return pair


def focal(outputs, targets, *, gamma=2.0):
    log_p = at_label(log_softmax(outputs), targets)
    return -((1 - np.exp(log_p)) ** gamma) * log_p


def sigmoid_cross_entropy(outputs, targets, *, pos_weight=None):
    y = f64(targets)
    positive = y * log_sigmoid(outputs) * (1.0 if pos_weight is None else f64(pos_weight))
    return -(positive + (1 - y) * log_sigmoid(-f64(outputs)))


def dice(outputs, targets, *, smooth=1.0):
    p = np.exp(log_softmax(outputs))
    true = np.asarray(targets)[..., None] == np.arange(p.shape[-1])
    p = p * true.any(-1, keepdims=True)
    pixels = tuple(range(1, p.ndim - 1))
    total = p.sum(pixels) + true.sum(pixels)
    return (1 - (2 * (p * true).sum(pixels) + smooth) / (total + smooth)).mean(-1)


def masked_mean(values, mask, axis=None):
    mask = np.asarray(mask).astype(bool)
    return np.where(mask, f64(values), 0).sum(axis) / np.maximum(mask.sum(axis), 1)


def masked(loss):
    def masked_loss(outputs, targets):
        labels, mask = targets
        places = np.asarray(mask).astype(bool)
        outputs = np.asarray(outputs).copy()
        labels = np.asarray(labels).copy()
        outputs[~places], labels[~places] = 0, 0
        values = loss(jnp.asarray(outputs), jnp.asarray(labels))
        return masked_mean(values, places, tuple(range(1, values.ndim)))

    return masked_loss


def ignore_label(loss, *, label, class_weights=None):
    pair = weighted(loss, class_weights=class_weights, ignore_label=label)

    def labeled_loss(outputs, targets):
        totals, weights = pair(outputs, targets)
        return totals / np.where(weights > 0, weights, 1)

    return labeled_loss


def kl_sparsity(activations, *, rho):
    a = f64(activations).reshape(-1, np.shape(activations)[-1])
    mean = a.mean(0)
    on = np.log(rho) - log(mean, activations)
    off = np.log(1 - rho) - log(1 - mean, activations)
    return (rho * on + (1 - rho) * off).sum()


def ctc(outputs, targets, *, blank=0):
    logits, (labels, sizes) = outputs, targets
    found = []
    for log_p, label, size in zip(log_softmax(logits), labels, sizes, strict=True):
        paths = itertools.product(range(log_p.shape[-1]), repeat=len(log_p))
        wanted = [int(c) for c in label[: int(size)]]
        fitting = [p for p in paths if collapsed(p, blank) == wanted]
        found.append(-np.log(sum(np.exp(sum(log_p[range(len(p)), p])) for p in fitting)))
    return np.array(found)


def collapsed(path, blank):
    return [int(c) for c, _ in itertools.groupby(path) if c != blank]


def perceptron(outputs, targets):
    z, sign = f64(outputs), np.where(f64(targets) > 0, 1, -1)
    values = np.where(np.where(z > 0, 1, -1) == sign, 0, np.abs(z))
    return np.where(np.isnan(z) | np.isnan(f64(targets)), np.nan, values)


def half_squared_error(outputs, targets):
    return (np.square(f64(outputs) - f64(targets)) / 2).sum(tuple(range(1, np.ndim(outputs))))


def is_kernel(path):
    return path[-1].endswith("kernel")


def l1(strength, *, where=is_kernel):
    return _penalty(strength, where, np.abs)


def l2(strength, *, where=is_kernel):
    return _penalty(strength, where, np.square)


def _penalty(strength, where, size):
    def penalty(params):
        leaves = jax.tree_util.tree_flatten_with_path(params)[0]
        found = [leaf for path, leaf in leaves if where(tuple(k.key for k in path))]
        return strength * sum(size(f64(leaf)).sum() for leaf in found)

    return penalty


# Metrics.


def top_k_accuracy(outputs, targets, *, k):
    best = np.argsort(-f64(outputs), -1, kind="stable")[..., :k]
    return (best == np.asarray(targets)[..., None]).any(-1) & ~np.isnan(f64(outputs)).any(-1)


def binary_accuracy(outputs, targets, *, threshold=0.0):
    known = ~(np.isnan(f64(outputs)) | np.isnan(f64(targets)))
    return ((f64(outputs) > threshold) == (f64(targets) > 0)) & known


def confusion(predictions, labels, classes, *, void=None):
    matrix = np.zeros((classes, classes), int)
    for row, column in zip(np.ravel(labels), np.ravel(predictions), strict=True):
        if 0 <= row < classes and 0 <= column < classes and row != void:
            matrix[int(row), int(column)] += 1
    return matrix


def scores(matrix):
    m = f64(matrix)
    if not (m >= 0).all():
        return [np.full(len(m), np.nan)] * 4 + [np.nan] * 2
    each = np.zeros((4, len(m)))
    for c in range(len(m)):
        hit, true, found = m[c, c], m[c].sum(), m[:, c].sum()
        each[0, c] = hit / found if found else 0
        each[1, c] = hit / true if true else 0
        each[2, c] = 2 * hit / (true + found) if true + found else 0
        each[3, c] = hit / (true + found - hit) if true + found else np.nan
    known = each[3][~np.isnan(each[3])]
    mean = known.mean() if len(known) else np.nan
    return [*each, mean, np.trace(m) / m.sum() if m.sum() else np.nan]


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
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., 2:], b[..., 2:])
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
    rows = zip(logits, lengths, strict=True)
    found = [collapsed(np.asarray(z[:n]).argmax(-1), blank) for z, n in rows]
    labels = [path + [blank] * (steps - len(path)) for path in found]
    return np.array(labels), np.array([len(path) for path in found])


def log_probabilities(logits):
    return np.where(f64(logits) <= -1e20, -np.inf, log_softmax(np.maximum(f64(logits), -1e30)))


def paths_of_states(params, scores, length):
    """Every path of the states of one sequence, and its log-probability with the observations."""
    start, move = (log_probabilities(params[name]) for name in ("start", "transition"))
    for path in itertools.product(range(len(start)), repeat=length):
        steps = sum(scores[t, s] for t, s in enumerate(path))
        yield path, start[path[0]] + sum(move[a, b] for a, b in itertools.pairwise(path)) + steps


def forward(params, scores, lengths=None):
    scores = f64(scores)
    lengths = [scores.shape[1]] * len(scores) if lengths is None else np.asarray(lengths)
    alphas = np.zeros(scores.shape)
    totals = np.zeros(len(scores))
    for i, length in enumerate(lengths):
        for t in range(length):
            ways = list(paths_of_states(params, scores[i], t + 1))
            for s in range(scores.shape[2]):
                alphas[i, t, s] = np.logaddexp.reduce([w for path, w in ways if path[-1] == s])
            totals[i] = np.logaddexp.reduce([w for _, w in ways])
    return alphas, totals


def posteriors(params, scores, lengths=None):
    scores = f64(scores)
    lengths = [scores.shape[1]] * len(scores) if lengths is None else np.asarray(lengths)
    found = np.zeros(scores.shape)
    for i, length in enumerate(lengths):
        ways = list(paths_of_states(params, scores[i], length)) if length else []
        for path, w in ways:
            found[i, range(length), path] += np.exp(w - np.logaddexp.reduce([w for _, w in ways]))
    return found


def viterbi(params, scores, lengths=None):
    scores = f64(scores)
    lengths = [scores.shape[1]] * len(scores) if lengths is None else np.asarray(lengths)
    best = [
        max(paths_of_states(params, s, n), key=lambda way: way[1])
        for s, n in zip(scores, lengths, strict=True)
    ]
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


def sinusoidal(t, features, *, base=10000.0):
    """Pairs of features as complex numbers on the unit circle."""
    angle = f64(t)[..., None] * base ** (-np.arange(0, features, 2) / features)
    z = np.exp(1j * angle)
    return np.stack([z.imag, z.real], -1).reshape(*np.shape(t), features)


def segment_mask(segments):
    count, time = segments.shape
    found = np.zeros((count, time, time), bool)
    for b, i, j in np.ndindex(*found.shape):
        found[b, i, j] = segments[b, i] == segments[b, j] > 0
    return found


def rotary(x, positions=None, *, base=10000.0, size=None, interleaved=False):
    """Pairs of features as complex numbers, turned by their angles."""
    x = f64(x)
    size = x.shape[-1] if size is None else size
    positions = np.arange(x.shape[1]) if positions is None else np.asarray(positions)
    angle = positions[..., None] * base ** (-np.arange(0, size, 2) / size)
    turned, kept = x[..., :size], x[..., size:]
    neighbors = (turned[..., ::2], turned[..., 1::2])
    halves = np.split(turned, 2, -1)
    first, second = neighbors if interleaved else halves
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


def log_mel(waves, *, rate, window=0.025, hop=0.01, bands=40, normalize=True):
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
        out = np.log(np.maximum(power, power.max() * 10**-6))
        spread = np.where(out.std(0) > 1e-6, out.std(0), 1)  # one frame alone is 0
        found.append((out - out.mean(0)) / spread if normalize else out)
    return found


def mfcc(waves, *, rate, bands=40, coefficients=13, deltas=0, normalize=True):
    from scipy.fft import dct

    mel = log_mel(waves, rate=rate, bands=bands, normalize=False)
    found = [dct(a, axis=1, norm="ortho")[:, :coefficients] for a in mel]
    return [(a - a.mean(0)) / a.std(0) if normalize else a for a in found]


def warp(x, matrix, center=None):
    from scipy import ndimage

    middle = (np.array(np.shape(x)[1:3]) - 1) / 2
    found = np.zeros(np.shape(x))
    how = {"order": 1, "mode": "grid-constant"}
    for i, image in enumerate(f64(x)):
        back = np.linalg.inv(f64(matrix)[i])
        offset = middle + (0 if center is None else f64(center)[i]) - back @ middle
        for c in range(image.shape[-1]):
            found[i, ..., c] = ndimage.affine_transform(image[..., c], back, offset, **how)
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


def restart() -> None:
    """Makes the next draws the same in every order of the tests."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


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
COUNTS = jnp.array([[5, 2, 0], [1, 3, 4], [0, 1, 7]])
CHAIN = {"start": jnp.array([0.3, -1.0]), "transition": normal(2, 2)}
SCORES, LENGTHS = normal(3, 4, 2), jnp.array([4, 2, 3])
MACHINE = {"kernel": normal(4, 3), "bias": normal(3), "visible_bias": normal(4)}
BITS = jnp.asarray(RANDOM.integers(0, 2, (5, 4)), jnp.float32)
KERNELS = {"a": {"kernel": normal(3, 2), "bias": normal(2)}, "b": {"in_kernel": normal(2)}}

REFERENCES = {
    "data.warp": Reference(warp, (normal(4, 4, 5, 2),
        jnp.stack([jnp.eye(2), jnp.array([[0, 1], [-1, 0]]), jnp.eye(2), 2 * jnp.eye(2)]),
        jnp.array([[0, 0], [0.5, 0.5], [0.5, -0.5], [0.5, 0.0]]))),
    "layers.sinusoidal": Reference(sinusoidal, (normal(2, 5), 6), {"base": 100.0}),
    "segment_mask": Reference(segment_mask, (np.array([[1, 1, 2, 0], [1, 2, 2, 3]]),)),
    "rotary": Reference(rotary, (normal(2, 5, 3, 8),), {"size": 6, "base": 100.0}),
    "training.mistake_bound": Reference(mistake_bound,
        (np.array([[-2.0, 1.0], [3.0, 0.5]]), np.array([0, 1]),
         {"kernel": np.array([[1.0], [0.5]]), "bias": np.array([0.2])})),
    "data.log_mel": Reference(log_mel,
        ([RANDOM.normal(size=900), RANDOM.normal(size=700) * np.linspace(1e-5, 1, 700) ** 3],),
        {"rate": 4000, "hop": 0.012, "bands": 9}),
    "data.mfcc": Reference(mfcc, ([RANDOM.normal(size=900)],),
        {"rate": 4000, "bands": 9, "coefficients": 5, "deltas": 0, "normalize": False}),
    "data.pad": Reference(pad, ([[5, 6, 7], [8], [9, 4]],), {"length": 4, "value": -1}),
    "losses.cross_entropy": Reference(cross_entropy, (LOGITS, LABELS), {"label_smoothing": 0.2}),
    "losses.ctc": Reference(ctc,
        (normal(2, 4, 3), (jnp.array([[2, 2], [0, 1]]), jnp.array([2, 1]))), {"blank": 1}),
    "losses.dice": Reference(dice, (LOGITS, LABELS.at[0, 1].set(-1)), {"smooth": 0.5}),
    "losses.focal": Reference(focal, (LOGITS, LABELS), {"gamma": 1.5}),
    "losses.half_squared_error": Reference(half_squared_error, (normal(3, 2, 2), normal(3, 2, 2))),
    "losses.ignore_label": Reference(ignore_label, (jn.losses.focal,),
        {"label": 2, "class_weights": np.array([1.0, 3.0, 2.0])}, (LOGITS, LABELS)),
    "losses.kl_sparsity": Reference(kl_sparsity, (UNIT,), {"rho": 0.2}),
    "losses.masked": Reference(masked, (jn.losses.cross_entropy,), {}, (LOGITS, (LABELS, MASK))),
    "losses.perceptron": Reference(perceptron, (normal(9), labels(9))),
    "losses.sigmoid_cross_entropy": Reference(sigmoid_cross_entropy, (normal(4, 3), UNIT),
        {"pos_weight": np.array([2.0, 1.0, 0.5])}),
    "losses.weighted": Reference(weighted, (partial(jn.losses.cross_entropy, label_smoothing=0.2),),
        {"class_weights": np.array([1.0, 3.0, 2.0]), "ignore_label": 1}, (LOGITS, LABELS)),
    "penalties.l1": Reference(l1, (0.3,), {}, (KERNELS,)),
    "penalties.l2": Reference(l2, (0.3,), {}, (KERNELS,)),
    "metrics.accuracy": Reference(partial(top_k_accuracy, k=1), (LOGITS, LABELS)),
    "metrics.binary_accuracy": Reference(binary_accuracy, (normal(4, 3), labels(4, 3, classes=2)),
        {"threshold": 0.2}),
    "metrics.bits_per_character": Reference(lambda nats: f64(nats) / np.log(2), (normal(3),)),
    "metrics.confusion": Reference(confusion, (labels(20, classes=4), labels(20, classes=5) - 1, 4),
        {"void": 2}),
    "metrics.edit_distance": Reference(edit_distance, ("abcaba", "bacab")),
    "metrics.edit_error_rate": Reference(edit_error_rate, (["abca", "b"], ["bac", "bab"])),
    "metrics.scores": Reference(scores, (COUNTS,)),
    "metrics.top_k_accuracy": Reference(top_k_accuracy, (LOGITS, LABELS), {"k": 2}),
    "detection.area": Reference(area, (boxes(2, 6),)),
    "detection.iou": Reference(iou, (boxes(2, 5), boxes(2, 4))),
    "detection.to_corners": Reference(to_corners, (boxes(3),)),
    "detection.to_middle": Reference(to_middle, (boxes(3),)),
    "decoding.ctc_greedy": Reference(ctc_greedy, (normal(3, 6, 3), jnp.array([6, 3, 0])),
        {"blank": 1}),
    "unsupervised.rbm.free_energy": Reference(free_energy, (MACHINE, BITS)),
    "unsupervised.rbm.log_likelihood": Reference(log_likelihood, (MACHINE, BITS)),
    "unsupervised.rbm.log_partition": Reference(log_partition, (MACHINE,)),
    "unsupervised.hmm.first_state": Reference(first_state, (None, (3,))),
    "unsupervised.hmm.forward": Reference(forward, (CHAIN, SCORES, LENGTHS)),
    "unsupervised.hmm.log_probabilities": Reference(log_probabilities,
        (jnp.array([[0.5, -1, -1e30], [1, 2, 3]]),)),
    "unsupervised.hmm.posteriors": Reference(posteriors, (CHAIN, SCORES, LENGTHS)),
    "unsupervised.hmm.scaled_likelihoods": Reference(scaled_likelihoods,
        (normal(2, 3, 2), jnp.log(jnp.array([0.2, 0.8])))),
    "unsupervised.hmm.viterbi": Reference(viterbi, (CHAIN, SCORES, LENGTHS)),
}  # fmt: skip
