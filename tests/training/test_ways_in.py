"""Whatever form the data have, each call that takes data says or computes the same.

Rows count by position: a Series would be indexed by its labels.
"""

import dataclasses

import jax
import numpy as np
import optax
import pytest
import scipy.sparse

import jaxnet as jn
from tests.training.conftest import KEY, LOSS, Batches, data

pd = pytest.importorskip("pandas")

X, Y = data(12)
ORDER = np.random.default_rng(1).permutation(12)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Pair:
    x: object
    y: object


class Tensor:
    """What NumPy reads by `__array__`; its rows are as those of a Series, not by position."""

    def __init__(self, values, error=None):
        self.values = values
        self.error = error
        self.shape = values.shape
        self.dtype = "tensor"

    def __array__(self, dtype=None, copy=None):
        if self.error:
            raise self.error
        return self.values


def frame(x, **columns):
    names = [f"x{i}" for i in range(x.shape[1])]
    return pd.DataFrame(x, columns=names, index=ORDER).assign(**columns)


SAME = {
    "arrays in JAX": (jax.numpy.asarray(X), jax.numpy.asarray(Y)),
    "frame": (frame(X), pd.Series(Y, index=ORDER)),
    "filtered": (frame(X)[lambda f: f.x0 < 99], pd.Series(Y, index=ORDER + 50)),
    "nullable": (frame(X).astype("Float32"), pd.Series(Y).astype("Int32")),
    "tensors": (Tensor(X), Tensor(Y)),
    "in a list": [X, pd.Series(Y, index=ORDER)],
    "dataclass": Pair(frame(X), Y),
}
SHUFFLED = np.array(["a", "b", "c"])[ORDER % 3]
TIMES = pd.Series(pd.date_range("2020", periods=12))
WRONG = [
    (({"x": X, 0: X}, Y), "keys of a dict must be of one type"),
    ((frame(X, city=SHUFFLED), Y), "x2 float32, city (str|object)"),
    ((scipy.sparse.csr_matrix(X), Y), r"got csr_matrix; it is sparse: write x.toarray\(\)"),
    ((Batches((X, Y)), Y), "got Batches.*; for a loader, pass one batch"),
    ((np.ma.masked_array(X, X > 1), Y), "masked one, whose mask would be lost"),
    ((Tensor(X, RuntimeError("requires grad")), Y), "requires grad"),
]  # fmt: skip
NO_NUMBERS = [
    ((X, pd.Series(SHUFFLED)), "labels that are words"),
    ((X, pd.Series(["a", 1] * 6)), "labels that are words, .*; for numbers with gaps"),
    ((X, pd.Series(SHUFFLED).astype("category")), "labels that are words"),
    ((X, TIMES), r"np.timedelta64\(1, 'D'\)"),
    ((X, Y.astype("timedelta64[s]")), r"np.timedelta64\(1, 'D'\)"),
]  # fmt: skip

NET = jn.dense(2)
PLAIN = jn.supervised(NET, LOSS)


def forward(m, batch):
    if isinstance(batch, Pair):
        batch = batch.x, batch.y
    return m._inline(PLAIN, batch)


OBJECTIVE = jn.compose(forward)
TRAINER = jn.trainer(OBJECTIVE, optax.sgd(0.1), shapes=len(SAME))
PARAMS, STATE = NET.init(KEY, X)


def inputs(data):
    return data.x if isinstance(data, Pair) else data[0]


def trained(data):
    start = TRAINER.init(KEY, (X, Y))
    [epoch] = jn.fit(TRAINER, start, data, epochs=1, batch_size=6)
    return epoch.train_state.params


def stepped(data):
    train_state, _ = TRAINER.step(TRAINER.init(KEY, (X, Y)), data)
    return train_state.params


def swept(data, **options):
    found = jn.sweep(OBJECTIVE, lambda: optax.sgd(0.1), data, epochs=1, seeds=2, **options)
    return found.train_state.params


CALLS = {
    "split": lambda data: jn.data.split(data, 0.3),
    "batches": lambda data: list(jn.data.batches(data, 5, seed=0)),
    "init": lambda data: TRAINER.init(KEY, data).params,
    "step": stepped,
    "fit": trained,
    "fit from batches": lambda data: trained(Batches(data)),
    "evaluate": lambda data: jn.evaluate(OBJECTIVE, PARAMS, STATE, data),
    "evaluate batches": lambda data: jn.evaluate(OBJECTIVE, PARAMS, STATE, Batches(data)),
    "predict": lambda data: jn.predict(NET, PARAMS, STATE, inputs(data)),
    "apply": lambda data: NET.apply(PARAMS, STATE, inputs(data)),
    "sweep": swept,
    "folds": lambda data: swept(data, folds=2),
    "doctor": lambda data: jn.inspect.doctor(TRAINER, TRAINER.init(KEY, (X, Y)), data).entries,
}


@pytest.mark.long
@pytest.mark.parametrize("call", CALLS)
def test_the_same_numbers_in_every_form(call):
    expected = jax.tree.leaves(CALLS[call]((X, Y)))
    for form, given in SAME.items():
        for a, b in zip(jax.tree.leaves(CALLS[call](given)), expected, strict=True):
            np.testing.assert_allclose(np.asarray(a, float), b, 1e-5, err_msg=form)


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_what_is_no_array_of_numbers_is_told_what_to_write(call):
    any_labels = call in ("predict", "apply", "split", "batches")
    for given, words in WRONG if any_labels else WRONG + NO_NUMBERS:
        with pytest.raises(TypeError, match=words):
            CALLS[call](given)


def test_rows_of_a_shuffled_frame_stay_together():
    for x, y in [*jn.data.batches(SAME["frame"], 5, seed=0), *jn.data.split(SAME["frame"])]:
        rows = [int(np.flatnonzero((row == X).all(1))[0]) for row in x]
        assert y.tolist() == Y[rows].tolist()
