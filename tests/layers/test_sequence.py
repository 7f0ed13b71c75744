"""Layers of sequences: the forms, both directions, stacks, and layers for arrays among them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.helpers import jit_apply, refuses


def random(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).normal(size=shape)
    return jnp.asarray(values.astype(np.float32))


def running_sum(m, given):
    """A cell whose values are easy to work out by hand."""
    total, x = given
    total = x if total is None else total + x
    return total, total


SUM = jn.recurrent(jn.compose(running_sum))
LENGTHS = jnp.array([5, 2, 0])
ONES = jnp.ones((3, 5, 1))


# bidirectional


@pytest.mark.slow
def test_both_directions_by_hand():
    """Running sums of 1, 2, ... from the left, and from each sequence's own end."""
    x = jnp.arange(1.0, 6.0)[None, :, None] * ONES
    net = jn.bidirectional(SUM)
    (y, _), _ = jit_apply(net, {}, {}, (x, LENGTHS))
    assert y[0].tolist() == [[1, 15], [3, 14], [6, 12], [10, 9], [15, 5]]
    assert y[1].tolist() == [[1, 3], [3, 2], [0, 0], [0, 0], [0, 0]]
    assert y[2].tolist() == [[0, 0]] * 5
    y, _ = jit_apply(net, {}, {}, x)
    assert y[1].tolist() == [[1, 15], [3, 14], [6, 12], [10, 9], [15, 5]]
    y, _ = jit_apply(jn.bidirectional(SUM, merge=jnp.add), {}, {}, x)
    assert y[1].ravel().tolist() == [16, 17, 18, 19, 20]
    initial = {"forward": jnp.full((3, 1), 100.0), "backward": jnp.full((3, 1), 200.0)}
    out, _ = jit_apply(net, {}, {}, {"x": x, "lengths": LENGTHS, "initial": initial})
    assert out["x"][1, 0].tolist() == [101, 203]
    assert out["final"]["forward"].ravel().tolist() == [115, 103, 100]
    assert out["final"]["backward"].ravel().tolist() == [215, 203, 200]
    out, _ = jit_apply(net, {}, {}, {"x": x})
    assert out["final"]["backward"].ravel().tolist() == [15, 15, 15]


@pytest.mark.slow
def test_directions_have_params_of_their_own():
    params, _ = jn.bidirectional(jn.gru(4)).init(jax.random.key(0), jn.spec((3, 5, 2)))
    assert sorted(params) == ["backward", "forward"]
    assert (params["forward"]["kernel"] != params["backward"]["kernel"]).any()
    unlike = jn.bidirectional(jn.gru(4), jn.lstm(7))
    params, _ = unlike.init(jax.random.key(0), jn.spec((3, 5, 2)))
    y, _ = jit_apply(unlike, params, {}, random(3, 5, 2))
    assert y.shape == (3, 5, 11)
    assert params["backward"]["kernel"].shape == (2, 28)


# stack_rnn


@pytest.mark.slow
def test_stacked_is_serial_with_states():
    layers = jn.gru(4), jn.lstm(3)
    net = jn.layers.stack_rnn(*layers)
    plain = jn.serial(*layers, name="stack_rnn")
    x = random(3, 5, 2)
    params, _ = net.init(jax.random.key(0), x)
    y, _ = jit_apply(net, params, {}, x)
    np.testing.assert_array_equal(jit_apply(plain, params, {}, x)[0], y)
    (masked, _), _ = jit_apply(net, params, {}, (x, LENGTHS))
    a, _ = jit_apply(net, params, {}, {"x": x[:, :3], "lengths": jnp.array([3, 2, 0])})
    rest = {"x": x[:, 3:], "lengths": jnp.array([2, 0, 0]), "initial": a["final"]}
    b, _ = jit_apply(net, params, {}, rest)
    np.testing.assert_allclose(jnp.concatenate([a["x"], b["x"]], 1), masked, 1e-6, 1e-6)
    assert sorted(b) == ["final", "lengths", "x"]
    np.testing.assert_array_equal(b["final"][1]["h"][1], masked[1, 1])


# time_distributed and last_step


def test_time_distributed_keeps_the_form_and_clears_the_padding():
    layer = jn.layers.time_distributed(lambda x: x + 1)
    (y, lengths), _ = jit_apply(layer, {}, {}, (ONES, LENGTHS))
    assert y[:, :, 0].tolist() == [[2] * 5, [2, 2, 0, 0, 0], [0] * 5]
    assert lengths.tolist() == [5, 2, 0]
    y, _ = jit_apply(layer, {}, {}, ONES)
    assert (y == 2).all()
    given = {"x": ONES, "lengths": LENGTHS, "initial": jnp.ones((3, 2))}
    y, _ = jit_apply(layer, {}, {}, given)
    assert sorted(y) == ["initial", "lengths", "x"]
    assert (y["x"][2] == 0).all()
    y, _ = jit_apply(layer, {}, {}, {"x": ONES, "final": jnp.ones((3, 2))})
    assert sorted(y) == ["final", "x"]
    assert jn.layers.time_distributed(jnp.tanh).name == "tanh"


def test_time_distributed_passes_state_key_and_training_on():
    net = jn.layers.time_distributed(jn.serial(jn.batch_norm(momentum=0.5), jn.dropout(0.5)))
    params, state = net.init(jax.random.key(0), (ONES, LENGTHS))
    x = 4 + random(3, 5, 1)
    (y, _), after = jit_apply(net, params, state, (x, LENGTHS), key=jax.random.key(1), train=True)
    np.testing.assert_allclose(after["batch_norm"]["mean"], 0.5 * x.mean((0, 1)), 1e-6)
    assert (y[0] == 0).any()
    assert (y[0] != 0).any()


@pytest.mark.slow
def test_last_step():
    x = jnp.arange(15.0).reshape(3, 5, 1)
    assert jit_apply(jn.last_step(), {}, {}, x)[0].ravel().tolist() == [4, 9, 14]
    assert jit_apply(jn.last_step(), {}, {}, (x, LENGTHS))[0].ravel().tolist() == [4, 6, 0]
    tokens, _ = jit_apply(jn.last_step(), {}, {}, (jnp.arange(15).reshape(3, 5), LENGTHS))
    assert tokens.tolist() == [4, 6, 0]
    assert tokens.dtype == jnp.int32
    net = jn.serial(jn.gru(4), jn.last_step(), jn.dense(2))
    params, _ = net.init(jax.random.key(0), x)
    out, _ = jit_apply(net, params, {}, (x, LENGTHS))
    alone, _ = jit_apply(net, params, {}, x[1:2, :2])
    np.testing.assert_allclose(out[1], alone[0], 1e-6, 1e-6)


def test_an_error_says_where():
    stack = jn.layers.stack_rnn(jn.gru(4), jn.dense(3, name="out"))
    net = jn.serial(jn.bidirectional(stack), name="net")
    with pytest.raises(Exception) as error:
        net.init(jax.random.key(0), {"x": jn.spec((3, 5, 2))})
    assert "in net/bidirectional/forward/out" in "".join(error.value.__notes__)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.uint32])
def test_the_last_step_by_lengths_of_any_integers(dtype):
    x = jnp.arange(2 * 300.0).reshape(2, 300, 1)
    y, _ = jit_apply(jn.last_step(), {}, {}, (x, jnp.array([0, 255], dtype)))  # 0 - 1 would be 255
    assert y.ravel().tolist() == [0.0, 300.0 + 254]


@pytest.mark.parametrize(
    "layer",
    [
        jn.layers.time_distributed(jn.dense(4)),
        jn.recurrent(jn.layers.gru_cell(4)),
    ],
)
def test_lengths_and_params_of_swapped_bytes(layer):
    """As from a file of another machine; read as they are, the lengths would be other numbers."""
    x = np.ones((3, 6, 5), np.float32)
    lengths = np.array([2, 6, 1], np.int32)
    params, state = layer.init(jax.random.key(0), (x, lengths))
    right, _ = jit_apply(layer, params, state, (x, lengths))
    swapped = jax.tree.map(lambda a: np.asarray(a).astype(">f4"), params)
    for given in (
        (params, x, lengths.astype(">i4")),
        (params, x.astype(">f4"), lengths),
        (swapped, x, lengths),
    ):
        y, _ = layer.apply(given[0], state, given[1:])
        np.testing.assert_allclose(y[0], right[0], rtol=1e-5)


@pytest.mark.fast_cases("layer2")
@pytest.mark.parametrize("layer", [jn.lstm(2), jn.bidirectional(jn.gru(2)), jn.last_step()])
def test_a_length_out_of_range_is_told_or_nan(layer):
    x = np.ones((4, 5, 2), np.float32)
    lengths = np.array([5, -1, 6, 0])
    params, state = layer.init(jax.random.key(0), x)
    for call in (layer.apply, partial(jn.predict, layer)):
        with pytest.raises(ValueError, match=r"lengths, in steps of x, must be in \[0, 5\]"):
            call(params, state, (x, lengths))
    y, _ = jit_apply(layer, params, state, (x, lengths))
    y = jax.tree.leaves(y)[0]
    assert np.isnan(y[1:3]).all()
    assert np.isfinite(y[[0, 3]]).all()


def test_lengths_of_eight_bits_reach_beyond_255_steps():
    x = random(2, 300, 1)
    layer = jn.bidirectional(SUM)
    sizes = np.array([200, 9]), np.array([200, 9], np.uint8)
    y, small = (jit_apply(layer, {}, {}, (x, lengths))[0] for lengths in sizes)
    np.testing.assert_array_equal(small[0], y[0])


def init_with_entries(layer, **x):
    return layer.init(jax.random.key(0), x)


WHOLE = jn.spec((3, 5, 2))
CARRY = jn.spec((3, 4))
TWO = jn.layers.stack_rnn(jn.gru(4), jn.gru(4))
BOTH = jn.bidirectional(jn.gru(4))


test_refusals = refuses([
    (lambda: jn.layers.stack_rnn(), "stack_rnn: needs at least one layer"),
    (lambda: init_with_entries(TWO, x=WHOLE, initial=(CARRY,)),
     "'initial' must be a tuple of 2 carries.* got 1 entries"),
    (lambda: init_with_entries(TWO, x=WHOLE, initial=CARRY),
     "'initial' must be a tuple of 2 carries"),
    (lambda: init_with_entries(BOTH, x=WHOLE, initial=CARRY),
     "'initial' must be {'forward': carry, 'backward': carry}"),
    (lambda: init_with_entries(BOTH, x=WHOLE, final=CARRY),
     "a dict needs 'x'.*got the entries .*'final'.*jn.layers.stack_rnn"),
    (lambda: jn.layers.time_distributed(lambda x: x[:, 0]).apply({}, {}, jnp.ones((3, 5, 2))),
     r"keeps the axes \(batch, time\) = \(3, 5\), got \(3, 2\)"),
    (lambda: jn.last_step().apply({}, {}, jnp.ones(3)),
     r"last_step: expected x of shape \(batch, time, ...\), got \(3,\)"),
    (lambda: jn.layers.stack_rnn(jn.gru(3), None), TypeError,
     "stack_rnn: layer 1 must be a layer, .* got NoneType"),
    (lambda: jn.bidirectional(jn.gru(3), 0), TypeError,
     "bidirectional: backward must be a layer, .* got int"),
])  # fmt: skip
