"""What is said to a forgotten call, a call too many, and options that do not fit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet import losses, metrics
from tests.helpers import KEY, refused, refuses
from tests.losses.common import NET, TAKERS

Z = jnp.ones((4, 3))
Y = jnp.array([0, 1, 2, 0])


def factory(gamma=2.0):
    return lambda outputs, targets: abs(outputs - targets) ** gamma


def factory_of_two(gamma=2.0, alpha=1.0):
    return lambda outputs, targets: alpha * abs(outputs - targets) ** gamma


class Power:
    def __init__(self, gamma=2.0):
        self.gamma = gamma

    def __call__(self, outputs, targets):
        return abs(outputs - targets) ** self.gamma


test_a_wrong_call_is_answered = refuses([
    (lambda: losses.cross_entropy(), r"got no arrays. .* pass jn.losses.cross_entropy$"),
    (lambda: losses.cross_entropy(label_smoothing=0.1),
     r"pass functools.partial\(jn.losses.cross_entropy, label_smoothing=0.1\)$"),
    (lambda: losses.focal(2.0), r"pass functools.partial\(jn.losses.focal, gamma=2.0\)$"),
    (lambda: losses.focal(Z, Y, 1.5),
     r"focal: expected \(outputs, targets, \*, gamma\), got \(\(4, 3\) float32.*gamma=1.5\)$"),
    (lambda: losses.perceptron(Z), r"perceptron: expected \(outputs, targets\), got \(\(4, 3\)"),
    (lambda: metrics.top_k_accuracy(3), r"partial\(jn.metrics.top_k_accuracy, k=3\)$"),
    (lambda: metrics.top_k_accuracy(Z, Y), r"partial\(jn.metrics.top_k_accuracy, k=...\)$"),
    (lambda: losses.focal(Z, Y, gama=1), "focal: unknown option gama; write gamma=$"),
    (lambda: losses.cross_entropy(Z, Y, class_weights=[1.0]), "weighted.loss, class_weights="),
    (lambda: losses.cross_entropy(ignore_index=-1), r"weighted\(loss, ignore_label=...\)"),
    (lambda: losses.weighted(losses.focal, ignore_index=-1), r"weighted\(loss, ignore_label="),
    (lambda: losses.cross_entropy(Y, Z), r"are swapped: got \(4,\) int32 first. Write cross_ent"),
    (lambda: losses.masked(Z, Y), "masked: expected loss by position, got 2"),
], TypeError)  # fmt: skip


@refused([
    (None, "got None$"),
    (optax.squared_error(Z, Z), r"got \(4, 3\) float32. Pass the function itself, such as optax"),
    (NET, r"got a layer. The net comes first: jn.supervised\(net, loss\)"),
    (factory, r"factory takes \(gamma\): too many .* pass what it returns: factory\(...\)"),
    (Power, r"Power takes \(gamma\): too many positional arguments. .* returns: Power\(...\)"),
    (losses.masked, r"masked takes \(loss\): .* pass what it returns: masked\(...\)"),
    (losses.weighted, r"weighted takes \(loss, .* pass what it returns: weighted\(...\)"),
    (losses.ignore_label, r"ignore_label takes \(loss, label, class_weights\)"),
    (partial(optax.squared_error, axis=1), "squared_error takes .* unexpected keyword .*'axis'"),
    (lambda a, b, c: a, r"lambda takes \(a, b, c\): missing a required argument: 'c'"),
    (partial(losses.focal, 2.0), r"partial\(jn.losses.focal, gamma=2.0\)"),
    (partial(losses.cross_entropy, smoothing=0.1), "unknown option smoothing; write label_smooth"),
    (metrics.top_k_accuracy, r"partial\(jn.metrics.top_k_accuracy, k=...\)"),
], TypeError)  # fmt: skip
def test_what_is_no_loss_is_answered_before_data_come(given):
    TAKERS["supervised"](given)


@pytest.mark.parametrize(
    ("given", "message"),
    [(NET, "got a layer"), (factory, "pass what it returns: factory")],
    ids=["layer", "factory"],
)
@pytest.mark.parametrize("taker", TAKERS)
def test_every_taker_asks_for_a_loss(taker, given, message):
    """They share one check, of which each kind is tested with `supervised`."""
    TAKERS[taker](partial(losses.focal, gamma=1.0))
    with pytest.raises(TypeError, match=message):
        TAKERS[taker](given)


@pytest.mark.fast_cases("supervised", "metrics", "masked")
@pytest.mark.parametrize("taker", ["supervised", "metrics", "truncated_bptt", "masked"])
def test_a_factory_of_two_options_is_found_when_used(taker):
    """It can be called with two arrays, and returns a function."""
    run = {
        "supervised": lambda taken: taken.init(KEY, (Z, Z)),
        "metrics": lambda taken: taken.init(KEY, (Z, Z)),
        "truncated_bptt": train_recurrent,
        "masked": lambda taken: taken(Z, (Z, Z > 0)),
    }
    with pytest.raises(
        TypeError, match=r"_two returned a function. Pass that function: .*_of_two\(...\)"
    ):
        run[taker](TAKERS[taker](factory_of_two))


def train_recurrent(objective):
    x = jnp.ones((2, 4, 3))
    start = jnp.ones(2, bool)
    params, state = objective.init(KEY, ((x, start), x))
    objective.apply(params, state, ((x, start), x))


@pytest.mark.parametrize(
    "loss",
    [
        losses.focal,
        partial(losses.focal, gamma=1.0),
        jax.jit(losses.focal),
        Power(),
        np.subtract,
        lambda *pair: pair[0] - pair[1],
        lambda outputs, targets, weight=1: outputs,
        factory(3.0),
        partial(jax.jit(losses.focal), gamma=1.0),
        partial(lambda w, o, t: w * o, 2.0),
    ],
)
def test_losses_of_all_kinds_pass(loss):
    TAKERS["supervised"](loss)


@pytest.mark.slow
def test_arrays_may_be_given_by_name():
    found = losses.focal(outputs=Z, targets=Y, gamma=1.0)
    np.testing.assert_array_equal(found, losses.focal(Z, Y, gamma=1.0))


@pytest.mark.slow
def test_options_may_be_traced():
    """As in a sweep over them."""
    loss = jax.jit(lambda gamma: losses.focal(Z, Y, gamma=gamma))
    np.testing.assert_allclose(loss(1.5), losses.focal(Z, Y, gamma=1.5), rtol=1e-6)


test_an_objective_is_asked_for_where_a_loss_came = refuses(
    [
        (lambda: jn.evaluate(losses.focal, {}, {}, (Z, Y)), r"jn.supervised\(net, loss\)"),
        (
            lambda: jn.sweep(losses.focal, lambda: optax.sgd(0.1), (Z, Y), epochs=1),
            r"jn.supervised\(net, loss\)",
        ),
    ],
    TypeError,
)
