"""Pictures whose axes a convolution takes for others are told from series."""

import warnings

import jax.numpy as jnp
import optax
import pytest

import jaxnet as jn
from tests.training import conftest
from tests.training.conftest import started

LABELS = optax.softmax_cross_entropy_with_integer_labels
MISREAD = {
    "without channels": ((8, 28, 28), "one axis of 28, with 28 channels", lambda x: x[..., None]),
    "digits": ((8, 8, 8), "one axis of 8, with 8 channels", lambda x: x[..., None]),
    "channels first": (
        (8, 3, 28, 28),
        "axes of 3 × 28, with 28 channels",
        lambda x: x.transpose(0, 2, 3, 1),
    ),
    "eight channels first": (
        (8, 8, 28, 28),
        "axes of 8 × 28, with 28 channels",
        lambda x: x.transpose(0, 2, 3, 1),
    ),
}


def of_pictures():
    return jn.serial(jn.conv(4, 3), jnp.tanh, jn.global_avg_pool(), jn.dense(3))


@pytest.mark.parametrize("name", MISREAD)
def test_axes_of_pictures_that_a_convolution_takes_for_others(name):
    shape, words, mend = MISREAD[name]
    x, y = jnp.zeros(shape), jnp.zeros(8, int)
    with pytest.warns(UserWarning, match=words) as caught:
        trainer, train_state = started(of_pictures(), (x, y), LABELS)
    assert {warning.filename for warning in caught} == {conftest.__file__}
    assert words in str(jn.summary(of_pictures(), x))
    assert any(words in each for each in jn.inspect.doctor(trainer, train_state, (x, y)).findings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        started(of_pictures(), (mend(x), y), LABELS)
    assert words not in str(jn.summary(of_pictures(), mend(x)))


@pytest.mark.parametrize(
    ("shape", "net"),
    [
        ((8, 30, 12), of_pictures()),  # a series
        ((8, 28, 28, 1), of_pictures()),
        ((8, 4, 4), of_pictures()),  # a short series
        ((8, 28, 28), jn.serial(jn.gru(4), jn.last_step(), jn.dense(3))),  # rows as a series
        ((8, 28, 28), jn.serial(jn.flatten(), jn.dense(3))),
    ],
    ids=str,
)
def test_other_shapes_say_nothing_of_pictures(shape, net):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        started(net, (jnp.zeros(shape), jnp.zeros(8, int)), LABELS)
