"""What the tests of training share: two classes of data, a stream of batches, equal trees."""

import jax
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import KEY, close

LOSS = optax.softmax_cross_entropy_with_integer_labels


def data(n=50, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    return x, (x[:, 0] + 0.5 * rng.normal(size=n) > 0).astype(np.int32)


def started(net, batch, loss=LOSS, optimizer=None, **options):
    """A trainer of a net, and its first train_state."""
    trainer = jn.trainer(jn.supervised(net, loss), optimizer or optax.sgd(0.1), **options)
    return trainer, trainer.init(KEY, batch)


@pytest.fixture
def trainer():
    return jn.trainer(jn.supervised(jn.dense(2), LOSS), optax.sgd(0.1))


@pytest.fixture
def train_state(trainer):
    """The first one, for the data above."""
    return trainer.init(KEY, data())


class Batches:
    """A stream of the same batches in each pass, as the loaders of grain and PyTorch are."""

    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def same(a, b, rtol=0.0, atol=0.0):
    """Two trees are equal, up to rounding by at most this."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    close(a, b, rtol, atol)
