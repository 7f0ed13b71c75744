"""Each call that takes data says the same about wrong data, after its own name.

`fit`, `evaluate`, `predict` and `sweep` read data in rows, and check their values. `init`, `step`
and `update` take one batch as it is: its arrays may have other numbers of rows, and NaN may be
meant.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse

import jaxnet as jn
from tests.training.conftest import KEY, LOSS, Batches, data

X, Y = data(12)
NET = jn.dense(2)
RIGHT = X, Y
SIZE = 6


def first(data):
    return jax.tree.map(lambda leaf: leaf[:SIZE], data)


def halves(data):
    return Batches(first(data), jax.tree.map(lambda leaf: leaf[SIZE:], data))


def trainer_of(objective):
    return jn.trainer(objective, optax.sgd(0.1), shapes=9)


def alternating(objective):
    return jn.alternate(one=trainer_of(objective), other=trainer_of(objective))


def on_one_batch(call, trainer_of=trainer_of):
    """A call of a trainer, with a train_state for right data."""

    def run(objective, data):
        trainer = trainer_of(objective)
        return getattr(trainer, call)(trainer.init(KEY, first(RIGHT)), data)

    return run


def fit(objective, data, right=RIGHT, trainer_of=trainer_of, **options):
    trainer = trainer_of(objective)
    start = trainer.init(KEY, first(right))
    return list(jn.fit(trainer, start, data, epochs=1, batch_size=SIZE, progress=False, **options))


def evaluate(objective, data):
    return jn.evaluate(objective, *objective.init(KEY, RIGHT), data, batch_size=SIZE)


def predict(objective, data):
    return jn.predict(NET, *NET.init(KEY, X), data[0], batch_size=SIZE)


def sweep(objective, data, **options):
    options |= {"epochs": 1, "seeds": 2, "batch_size": SIZE, "progress": False}
    return jn.sweep(objective, lambda: optax.sgd(0.1), data, **options)


ONE_BATCH = {
    "init": lambda objective, data: trainer_of(objective).init(KEY, data),
    "step": on_one_batch("step"),
    "update": on_one_batch("update"),
    "init of alternate": lambda objective, data: alternating(objective).init(KEY, data),
    "step of alternate": on_one_batch("step", alternating),
    "update of alternate": on_one_batch("update", alternating),
}
ROWS = {
    "fit": fit,
    "fit, stream": lambda objective, data: fit(objective, halves(data)),
    "fit, evaluate": lambda objective, data: fit(objective, first(RIGHT), evaluate=data),
    "fit, evaluate a stream": lambda objective, data: fit(
        objective, first(RIGHT), evaluate=halves(data)
    ),
    "fit alternate": lambda objective, data: fit(objective, data, trainer_of=alternating),
    "fit alternate, stream": lambda objective, data: fit(
        objective, halves(data), trainer_of=alternating
    ),
    "evaluate": evaluate,
    "evaluate, stream": lambda objective, data: evaluate(objective, halves(data)),
    "predict": predict,
    "sweep": sweep,
    "sweep, evaluate": lambda objective, data: sweep(objective, first(RIGHT), evaluate=data),
    "sweep, folds": lambda objective, data: sweep(objective, data, folds=3),
}


class Wrong(NamedTuple):
    """Wrong data, what calls say, what calls of one batch say, and the calls that cannot know."""

    data: Any
    words: str
    of_one_batch: str | None = None
    passes: tuple[str, ...] = ("predict",)  # which gets no targets
    objective: Any = jn.supervised(NET, LOSS)


ONLY_NUMBERS = (
    "must hold numbers that JAX has, got dtype <U#; for labels that are words, write names, "
    "labels = np.unique(words, return_inverse=True)"
)
ONLY_ARRAYS = (
    "must be an array, got csr_matrix; it is sparse: write x.toarray() or, in JAX, x.todense()"
)
WRONG = {
    "a label": Wrong(
        (X, np.where(np.arange(12) == 3, -1, Y)),
        "targets must be labels in [#, #) for # outputs, got -#. To leave a label out of the loss, "
        "write jn.losses.weighted(loss, ignore_label=-#)",
        passes=("predict", "init"),
    ),
    "labels of floats": Wrong(
        (X, Y + np.float32(0.5)),
        "targets must be integer labels (#,), got (#,) float#. Write targets.astype(int)",
    ),
    "labels in a column": Wrong(
        (X, Y[:, None]),
        "loss softmax_cross_entropy_with_integer_labels cannot compare outputs (#, #) float# with "
        "targets (#, #) int#. Write targets[..., #] if they are labels; for one number each, end "
        "the net with jn.dense(#).",
    ),
    "a metric": Wrong(
        RIGHT,
        "metrics['f#'] is one number per batch, and the mean over batches is another number than "
        "that of all examples. Leave out .mean(), so that there is one value per example, or "
        "return a pair (totals, weights). For precision, recall or F#, take jn.metrics.scores of a "
        "sum of jn.metrics.confusion, or hand the outputs of jn.predict to scikit-learn",
        passes=("predict", "init", "step", "update"),
        objective=jn.supervised(NET, LOSS, metrics={"f1": lambda z, y: (z[:, 0] * y).mean()}),
    ),
    "other rows": Wrong(
        (X, Y[:9]),
        "all arrays must have the same leading dimension, got #: #, #: #",
        "loss softmax_cross_entropy_with_integer_labels cannot compare outputs (#, #) float# with "
        "targets (#,) int#. There are # outputs, but # targets. Inputs and targets need the same "
        "number of examples.",
    ),
    "no rows": Wrong(
        (X[:0], Y[:0]),
        "expected at least one example, got arrays of shape (#, #), (#,)",
        passes=("init",),
    ),
    "a NaN": Wrong(
        (np.where(X == X[3, 1], np.nan, X), Y),
        "# of # examples contain NaN or Inf, the first at index #. Replace what is missing by a "
        "number, np.nan_to_num(x), and add the mask np.isnan(x) as an input; leave out rows "
        "without a target, as in x[np.isfinite(y)], y[np.isfinite(y)]",
        passes=("init", "step", "update"),
    ),
    "other features": Wrong(
        (X[:, :2], Y),
        "params do not fit dense for an input of ((#, #) float#, (#,) int#): dense/kernel: "
        "expected (#, #), got (#, #)",
        passes=("init", "sweep", "sweep, folds"),  # they initialize for these data
    ),
    "words": Wrong((X.astype(str), Y), ONLY_NUMBERS),
    "a sparse matrix": Wrong((scipy.sparse.csr_matrix(X), Y), ONLY_ARRAYS),
}


def after_the_name(error):
    """The words of an error after the names of the call and of the array, with any numbers."""
    text = re.sub(r"\s+", " ", str(error))
    if not text.startswith("params do not fit"):
        text = re.sub(r"^[\w. ]+(: (data|evaluate|a batch|x))?(/0)?: ", "", text)
    text = re.sub(r"^(0|the input|the array) (?=must)", "", text)
    for inputs, pair in INPUTS_AND_PAIRS:  # predict gets inputs alone
        text = re.sub(inputs, pair, text)
    return re.sub(r"\d+", "#", text)


INPUTS_AND_PAIRS = (
    (r"input of \(6, 2\) float32:", "input of ((6, 2) float32, (6,) int32):"),
    (r"shape \(0, 3\)$", "shape (0, 3), (0,)"),
)
CASES = [
    (call, wrong)
    for wrong in WRONG
    for call in ONE_BATCH | ROWS
    if call.removesuffix(" of alternate") not in WRONG[wrong].passes
]


@pytest.mark.parametrize(("call", "wrong"), CASES)
def test_every_call_says_the_same(call, wrong):
    data, words, of_one_batch, _, objective = WRONG[wrong]
    if call in ONE_BATCH:
        words = of_one_batch or words
    with pytest.raises((ValueError, TypeError)) as found:
        (ONE_BATCH | ROWS)[call](objective, data)
    assert after_the_name(found.value) == words


def test_rows_that_continue_rows_are_not_shuffled():
    objective = jn.training.truncated_bptt(jn.lstm(3), LOSS)
    given = (np.ones((12, 5, 2), np.float32), np.zeros(12, bool)), np.zeros((12, 5), int)
    words = (
        "the state has an entry for each row of a batch, such as the carry of truncated_bptt, so "
        "each batch must continue the previous batch. Pass shuffle=False"
    )
    calls = {
        "fit": lambda: fit(objective, given, given),
        "fit alternate": lambda: fit(objective, given, given, trainer_of=alternating),
        "sweep": lambda: sweep(objective, given),
    }
    for call in calls.values():
        with pytest.raises(ValueError) as found:
            call()
        assert after_the_name(found.value) == words


def masked_square(outputs, targets):
    """Per example, over the targets that are known."""
    known = ~jnp.isnan(targets)
    errors = jnp.where(known, outputs - jnp.where(known, targets, 0), 0)
    return jnp.square(errors).sum(-1)


CALLS_WITH_DATA = {
    "fit": lambda data: [
        *jn.fit(
            trainer := jn.trainer(jn.supervised(jn.dense(2), masked_square), optax.sgd(0.1)),
            trainer.init(jax.random.key(0), data),
            data,
            epochs=1,
            progress=False,
        )
    ],
    "sweep": lambda data: jn.sweep(
        jn.supervised(jn.dense(2), masked_square),
        lambda: optax.sgd(0.1),
        data,
        epochs=1,
        seeds=2,
        progress=False,
    ),
}


@pytest.mark.parametrize("library", [np, jnp], ids=["numpy", "jax"])
@pytest.mark.parametrize("call", CALLS_WITH_DATA)
def test_nan_that_the_loss_leaves_out_trains(call, library):
    x, y = np.ones((6, 3), np.float32), np.ones((6, 2), np.float32)
    y[2, 1] = np.nan
    CALLS_WITH_DATA[call]((library.asarray(x), library.asarray(y)))
    x[4, 0] = np.inf
    with pytest.raises(ValueError, match=r"1 of 6 examples contain NaN or Inf, .* index 4"):
        CALLS_WITH_DATA[call]((library.asarray(x), library.asarray(np.nan_to_num(y))))
