"""Descriptions of runs: what they tell apart, and what they do not."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training import described as module
from jaxnet.training.described import CLOSE, MOST, check_run, describe_run, number_of, other_data

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(20, 5, 3)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, 9, 20))
DATA = X, Y


def described(loss=optax.squared_error, optimizer=None, data=DATA, shuffle=True, wrap=None):
    objective = jn.supervised(jn.dense(2), loss)
    if wrap is not None:
        objective = wrap(objective)
    trainer = jn.trainer(objective, optimizer or optax.adam(0.1))
    return describe_run(trainer, data, shuffle)


def noisy(objective):
    return jn.augmented(objective, lambda key, batch: batch)


def test_the_same_run_passes():
    check_run(described(), described())
    check_run(None, described())
    rounded = X * (1 + 1e-5), Y  # computed on another machine
    check_run(described(), described(data=rounded))
    other_numbers = optax.adam(0.3, b1=0.8)
    check_run(described(), described(optimizer=other_numbers))


@pytest.mark.parametrize(("other", "words"), [
    ({"loss": optax.l2_loss}, "supervised with squared_error and is .* supervised with l2_loss"),
    ({"wrap": noisy}, "resumed with the objective augmented of supervised with squared_error"),
    ({"shuffle": False}, "shuffle=True and is resumed with shuffle=False"),
    ({"data": None, "shuffle": None}, "shuffle=True and is resumed with shuffle=None"),
    ({"data": (X[::-1], Y)}, r"other data .* first examples differ \(0\)"),
    ({"data": (X, Y.at[2].add(1))}, r"first examples differ \(1\)"),
    ({"data": (X, Y.astype(float))}, r"1 \(20,\) int32 .* 1 \(20,\) float32"),
])  # fmt: skip
def test_another_run_raises(other, words):
    with pytest.raises(ValueError, match=words + ".*leave out position=.*_replace"):
        check_run(described(), described(**other))


@pytest.mark.parametrize("other", ["radam", "nadam"])
def test_an_optimizer_with_a_state_of_the_same_form_is_told(other):
    with pytest.warns(UserWarning, match="another optimizer, whose state has the same form"):
        check_run(described(), described(optimizer=getattr(optax, other)(0.1)))


@pytest.mark.parametrize("which", [0, 1], ids=["jax", "optax"])
def test_an_optimizer_of_another_version_is_not_compared(which):
    before = described(optimizer=optax.radam(0.1))
    before["optimizer"][which] = "0.1"
    check_run(before, described())


def test_an_optimizer_of_certain_params_is_not_described():
    labels = {"head": "a", "body": "b"}
    optimizer = optax.multi_transform({"a": optax.sgd(0.1), "b": optax.adam(0.1)}, labels)
    assert described(optimizer=optimizer)["optimizer"] is None


def test_objectives_of_the_user_are_not_run():
    def forward(m, batch):
        raise AssertionError

    trainer = jn.trainer(jn.compose(forward, name="mine"), optax.adam(0.1))
    assert describe_run(trainer, None, None)["objective"] == "mine"


PLAIN = jn.supervised(jn.dense(2), optax.l2_loss)
FROZEN = jn.freeze(PLAIN, "no layer")
PENALIZED = jn.supervised(jn.dense(2), optax.l2_loss, penalty=jn.penalties.l2(0.1))


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (jn.remat(PLAIN), "remat of supervised with l2_loss"),
        (noisy(FROZEN), "augmented of freeze of supervised with l2_loss"),
        (jn.training.truncated_bptt(jn.gru(2), optax.l2_loss), "truncated_bptt"),
        (PENALIZED, "supervised with l2_loss"),
    ],
)
def test_objectives_in_words(objective, words):
    run = describe_run(jn.trainer(objective, optax.sgd(0.1)), None, None)
    assert run["objective"] == words
    assert run["data"] is None


def alternating(*losses, optimizer=None):
    parts = {}
    for name, loss in zip(("critic", "generator"), losses, strict=True):
        objective = jn.supervised(jn.dense(2, name=name), loss)
        parts[name] = jn.trainer(objective, optimizer or optax.adam(0.1))
    return describe_run(jn.alternate(**parts), DATA, True)


def test_trainers_that_alternate_are_described_by_name():
    begun = alternating(optax.squared_error, optax.l2_loss)
    critic, generator = (
        "critic: supervised with squared_error",
        "generator: supervised with l2_loss",
    )
    assert begun["objective"] == f"alternate of ({critic}, {generator})"
    check_run(json.loads(json.dumps(begun)), alternating(optax.squared_error, optax.l2_loss))
    with pytest.raises(ValueError, match="started with the objective alternate of .* resumed with"):
        check_run(begun, alternating(optax.l2_loss, optax.squared_error))
    with pytest.warns(UserWarning, match="another optimizer, whose state has the same form"):
        radam = optax.radam(0.1)
        check_run(begun, alternating(optax.squared_error, optax.l2_loss, optimizer=radam))


def test_steps_of_your_own_that_alternate_are_not_compared():
    trainer = jn.trainer(jn.supervised(jn.dense(2), optax.l2_loss), optax.sgd(0.1))
    own = jn.Trainer(trainer.init, trainer.step)
    found = describe_run(jn.alternate(own=own, inner=trainer), None, None)
    assert found["objective"].startswith("alternate of (own: a step of its own, inner: supervised")
    assert found["optimizer"] is None


def test_numbers_of_examples_by_hand():
    """The sum of i cos(i), of every second entry where there are more than can be read."""
    weights = np.cos(np.arange(MOST))
    assert number_of([[2, 3], [4, 5]]) == pytest.approx([2, 3, 4, 5] @ weights[:4])
    long = RNG.normal(size=MOST - 1)
    assert number_of(long) == pytest.approx(long @ weights[:-1])
    long = RNG.normal(size=MOST + 1)
    half = long[::2]
    assert number_of(long) == pytest.approx(half @ weights[: len(half)])
    assert number_of(np.array([1 + 5j, 2])) == pytest.approx(1 + 2 * np.cos(1))

    rows = module.ROWS
    data = {"x": jnp.arange(3.0 * rows).reshape(-1, 1), "key": jax.random.key(0)[None]}
    found = described(data=data)["data"]
    assert found["x"] == [f"({3 * rows}, 1) float32", list(range(rows))]
    assert found["key"][1] == []


def differ(words, old, new):
    return other_data({"x": [words, old]}, {"x": [words, new]}) is not None


@pytest.mark.parametrize(
    ("by", "told"), [(0.9 * 8 * CLOSE, False), (1.1 * 8 * CLOSE, True)], ids=["near", "far"]
)
def test_data_are_near_by_their_largest_number(by, told):
    assert differ("float", [1.0, 8.0], [1.0 + by, 8.0]) is told
    assert differ("float", [-8.0, 1.0], [-8.0, 1.0 - by]) is told


@pytest.mark.parametrize(("by", "told"), [(0, False), (4 * CLOSE, True)])
def test_integers_are_equal(by, told):
    assert differ("int", [1.0, 8.0], [1.0 + by, 8.0]) is told


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ([np.nan, np.inf, 1], [np.nan, np.inf, 1], False),
        ([np.inf, 1], [1, 1], True),
        ([np.nan], [1], True),
        ([np.inf, 1], [np.inf, 2], True),
        pytest.param([1.0, 2], [1.0], False, id="rows without a number on one side"),
    ],
)
def test_numbers_that_are_not_finite_are_equal_or_not(old, new, told):
    assert differ("float", old, new) is told


@pytest.mark.slow
def test_data_on_several_devices_are_compared_by_shape(on_devices):
    program = """
from tests.training.test_described import described
mesh = jax.make_mesh((2,), ("data",))
data = jn.distributed.put(jnp.ones((4, 3)), mesh, jax.P("data"))
assert described(data=data)["data"][""][1] == []
assert len(described(data=jnp.ones((4, 3)))["data"][""][1]) == 4
"""
    on_devices(program, 2)


def test_sums_of_integers_may_round_as_on_another_cpu():
    row = RNG.integers(0, 256, 3072).astype(np.uint8)
    exact = math.fsum(row * np.cos(np.arange(row.size)))
    said = [{"0": ("(8, 3072) uint8", [number])} for number in (exact, exact * (1 + 1e-12))]
    assert other_data(*said) is None
    row[5] += 1
    said[1]["0"] = ("(8, 3072) uint8", [number_of(row)])
    assert other_data(*said) is not None
