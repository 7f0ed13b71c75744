"""Every call that computes on data makes the same checks of them, and says the same."""

import re

import jax
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training.batching import Batching
from jaxnet.training.data_adapter import DataAdapter, Variables
from tests.training.conftest import KEY, LOSS, Batches, data

X, Y = data(12)
NET = jn.dense(2)
GOOD = X, Y
PLAIN = jn.supervised(NET, LOSS)
MEANS = jn.supervised(NET, LOSS, metrics={"f1": lambda z, y: (z.argmax(-1) == y).mean()})


def halves(data):
    return Batches(*(jax.tree.map(lambda a, i=i: a[i : i + 6], data) for i in (0, 6)))


def fit(objective, data, **options):
    trainer = jn.trainer(objective, optax.sgd(0.1), shapes=9)
    start = trainer.init(KEY, GOOD)
    return list(jn.fit(trainer, start, data, epochs=1, batch_size=6, **options))


def evaluate(objective, data):
    return jn.evaluate(objective, *objective.init(KEY, GOOD), data, batch_size=6)


def sweep(objective, data, **options):
    return jn.sweep(
        objective, lambda: optax.sgd(0.1), data, epochs=1, seeds=2, batch_size=6, **options
    )


CALLS = {
    "fit": fit,
    "fit from batches": lambda o, d: fit(o, halves(d)),
    "fit: evaluate": lambda o, d: fit(o, GOOD, evaluate=d),
    "fit: evaluate batches": lambda o, d: fit(o, GOOD, evaluate=halves(d)),
    "evaluate": evaluate,
    "evaluate batches": lambda o, d: evaluate(o, halves(d)),
    "sweep": sweep,
    "sweep: evaluate": lambda o, d: sweep(o, GOOD, evaluate=d),
    "folds": lambda o, d: sweep(o, d, folds=3),
}
WRONG = {
    "a target": (PLAIN, (X, np.where(np.arange(12) == 9, -1, Y)), "targets must be .*got -1"),
    "a metric": (MEANS, GOOD, r"metrics\['f1'\] is one number per batch, and the mean over"),
    "rows": (PLAIN, (X, Y[:9]), "all arrays must have the same leading dimension"),
    "a NaN": (PLAIN, (np.where(X == X[3, 1], np.nan, X), Y), r"must be finite|NaN|not finite"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", WRONG)
def test_every_call_asks(call, wrong):
    objective, given, words = WRONG[wrong]
    if wrong == "rows" and call.endswith("batches"):
        given = GOOD[0][:, :], np.stack([Y, Y])  # pairs whose halves have other numbers of rows
    with pytest.raises((ValueError, TypeError)) as found:
        CALLS[call](objective, given)
    assert re.search(words, str(found.value)), str(found.value)


def test_a_stream_is_asked_anew_only_for_new_targets():
    adapter = DataAdapter("fit", PLAIN, stream=True)
    variables = Variables(*PLAIN.init(KEY, GOOD))
    prepared = adapter.prepare(variables, GOOD)
    assert prepared.batching == Batching(12) and not prepared.carried
    adapter.checked(variables, (X[:4], Y[:4]))
    with pytest.raises(ValueError, match="targets must be .*got -1"):
        adapter.checked(variables, (X[:4], np.array([0, 1, -1, 0])))


def test_one_value_per_batch_makes_the_rest_a_part_of_its_own():
    mean = jn.compose(lambda m, batch: (m(NET, batch[0]).mean(), {}))
    for objective, sizes in ((mean, [(10, 5), (2, 2)]), (PLAIN, [(12, 5)])):
        variables = Variables(*objective.init(KEY, GOOD))
        parts = DataAdapter("evaluate", objective, 5).prepare_all(variables, GOOD)
        assert [(len(part.data[1]), part.batching.size) for part in parts] == sizes
