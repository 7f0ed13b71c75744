import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.data import on_inputs, random_shift


def test_each_image_is_one_of_the_moves_by_hand():
    x = np.arange(1, 2 * 3 * 4 * 2 + 1, dtype=np.float32).reshape(2, 3, 4, 2)
    x = np.tile(x, (30, 1, 1, 1))  # (60, 3, 4, 2)
    y = np.asarray(random_shift(1)(jax.random.key(0), jnp.asarray(x)))
    seen = set()
    for before, after in zip(x, y, strict=True):
        room = np.pad(before, ((1, 1), (1, 1), (0, 0)))
        moves = {(i, j): room[i : i + 3, j : j + 4] for i in range(3) for j in range(3)}
        fits = [move for move, image in moves.items() if (image == after).all()]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 9  # every move comes up, each image has its own


def test_moves_are_equally_likely():
    x = jnp.zeros((9000, 3, 3, 1)).at[:, 1, 1].set(1.0)
    y = random_shift(1)(jax.random.key(1), x)
    share = np.asarray(y.mean(0)[..., 0])
    # 4 standard errors of a share of 1/9 in 9000 draws
    np.testing.assert_allclose(share, 1 / 9, atol=4 * np.sqrt(1 / 9 * 8 / 9 / 9000))


def test_shape_dtype_jit_and_key():
    x = jnp.arange(5 * 6 * 7, dtype=jnp.uint8).reshape(5, 6, 7, 1)
    shift = random_shift(2)
    y = shift(jax.random.key(0), x)
    assert y.shape == x.shape and y.dtype == x.dtype
    np.testing.assert_array_equal(y, jax.jit(shift)(jax.random.key(0), x))
    assert (y != shift(jax.random.key(1), x)).any()


def test_on_inputs_changes_inputs_and_no_targets():
    x, y = jnp.zeros((50, 3, 3, 1)).at[:, 1, 1].set(1.0), jnp.arange(50)
    moved, labels = on_inputs(random_shift(1))(jax.random.key(0), (x, y))
    np.testing.assert_array_equal(moved, random_shift(1)(jax.random.key(0), x))
    assert (moved != x).any() and (labels == y).all()
    with pytest.raises(TypeError, match="a batch is a pair .*got ArrayImpl; for inputs alone"):
        on_inputs(random_shift(1))(jax.random.key(0), x)


def test_fit_takes_it():
    """The loss sees moved images, the metric sees the targets as they are."""
    import optax

    import jaxnet as jn

    x, y = jnp.zeros((12, 3, 3, 1)).at[:, 1, 1].set(1.0), jnp.arange(12)
    seen = {"sum": lambda outputs, targets: targets.astype(jnp.float32)}
    net, optimizer = jn.models.mlp([1]), optax.sgd(0.1)
    start = jn.init_training(net, optimizer, jax.random.key(0), (x, y))
    objective = jn.supervised(net, lambda o, t: o[:, 0] ** 2, metrics=seen)

    def first(augment):
        step = jn.make_step(objective, optimizer)
        return next(jn.fit(start, step, (x, y), epochs=1, batch_size=4, augment=augment))

    moved, still = first(on_inputs(random_shift(1))), first(None)
    assert moved.train["sum"] == pytest.approx(5.5) == still.train["sum"]
    assert moved.losses[0] != still.losses[0]


def test_messages():
    with pytest.raises(ValueError, match="pixels must be at least 1, got 0"):
        random_shift(0)
    with pytest.raises(
        ValueError, match=r"needs \(batch, height, width, channels\), got \(3, 64\)"
    ):
        random_shift(1)(jax.random.key(0), jnp.zeros((3, 64)))
