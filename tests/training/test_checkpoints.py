"""Checkpoints of runs: kept, found again, refused, and damaged ones passed over."""

import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training.checkpoints import SUMS

pytest.importorskip("orbax.checkpoint")

KEY = jax.random.key(0)


def build(features=5, optimizer=None):
    x = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    data = x, x[:, :1]
    net = jn.serial(jn.dense(features), jn.batch_norm(), jn.dense(1))
    objective = jn.supervised(net, optax.squared_error)
    trainer = jn.trainer(objective, optimizer or optax.adam(0.05))
    return trainer, trainer.init(KEY, data), data


def run(folder, epochs=4, scores=None, **options):
    """A run whose test loss is what we say it is."""
    trainer, train_state, data = build()
    found = []
    with jn.Checkpoints(folder, **options) as kept:
        for i, epoch in enumerate(jn.fit(trainer, train_state, data, epochs=epochs, batch_size=8)):
            if scores is not None:
                epoch = epoch._replace(test={"score": scores[i]})
            assert kept.save(epoch)
            found.append(epoch)
    return train_state, found


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def folders(path):
    return sorted(place.name for place in path.iterdir())


def test_the_newest_comes_back_with_its_place(tmp_path):
    train_state, epochs = run(tmp_path, keep=2)
    assert folders(tmp_path) == ["12", "9"]
    with jn.Checkpoints(tmp_path) as kept:
        found, place = kept.newest(train_state)
        same(found, epochs[-1].train_state)
        assert place == epochs[-1].place and not kept.save(epochs[-1])
        specs = jax.eval_shape(lambda: train_state)
        same(kept.newest(specs)[0], epochs[-1].train_state)


def test_an_empty_folder_gives_what_came(tmp_path):
    train_state = build()[1]
    with jn.Checkpoints(tmp_path / "new") as kept:
        found, place = kept.newest(train_state)
        assert found is train_state and place is None
        with pytest.raises(ValueError, match="name a metric"):
            kept.best(train_state)


@pytest.mark.parametrize(("mode", "best"), [("min", 6), ("max", 3)])
def test_the_best_is_kept_beside_the_newest(tmp_path, mode, best):
    scores = [9.0, 0.5, float("nan"), 4.0]
    train_state, epochs = run(tmp_path, scores=scores, keep=1, best="test/score", mode=mode)
    assert folders(tmp_path) == sorted({str(best), "12"})
    with jn.Checkpoints(tmp_path, best="test/score", mode=mode) as kept:
        found, _ = kept.best(train_state)
    same(found, epochs[best // 3 - 1].train_state)


def test_a_key_in_the_state_and_an_order_in_mid_pass(tmp_path):
    trainer, train_state, data = build()
    train_state = train_state._replace(key=jax.random.key(3, impl="rbg"))
    options = {"steps": 7, "every": 2, "batch_size": 8}
    whole = list(jn.fit(trainer, train_state, data, **options))
    with jn.Checkpoints(tmp_path) as kept:
        kept.save(whole[1])
        found, place = kept.newest(train_state)
        assert place.done == 1 and place.key.dtype == np.uint32
        rest = list(jn.fit(trainer, found, data, place=place, **options))
    mine, other = (
        epochs[-1].train_state._replace(key=jax.random.key_data(epochs[-1].train_state.key))
        for epochs in (rest, whole)
    )
    same(mine, other)


@pytest.mark.parametrize("how", ["changed", "missing", "notes"])
def test_a_damaged_one_is_named_and_passed_over(tmp_path, how):
    train_state, epochs = run(tmp_path)
    files = [f for f in (tmp_path / "12" / "train_state").rglob("*") if f.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    if how == "missing":
        largest.unlink()
    elif how == "changed":
        words = bytearray(largest.read_bytes())
        words[len(words) // 2] ^= 1
        largest.write_bytes(words)
    else:
        (tmp_path / "12" / SUMS).write_text("{")
    with jn.Checkpoints(tmp_path) as kept:
        with pytest.warns(
            UserWarning, match="12 is damaged and passed over.*renamed to 12.damaged"
        ):
            found, place = kept.newest(train_state)
        same(found, epochs[-2].train_state)
        assert place == epochs[-2].place
        assert kept.save(epochs[-1])  # its number is free again
        same(kept.newest(train_state)[0], epochs[-1].train_state)


def test_all_damaged_is_an_error(tmp_path):
    train_state, _ = run(tmp_path, epochs=1)
    shutil.rmtree(tmp_path / "3" / "train_state")
    with jn.Checkpoints(tmp_path) as kept, pytest.warns(UserWarning, match="is missing"):
        with pytest.raises(ValueError, match="all checkpoints in .* were damaged"):
            kept.newest(train_state)


def test_a_half_written_one_is_named(tmp_path):
    train_state, epochs = run(tmp_path, epochs=2)
    shutil.copytree(tmp_path / "6", tmp_path / "9.orbax-checkpoint-tmp")
    with pytest.warns(UserWarning, match="9.orbax-checkpoint-tmp is half written"):
        kept = jn.Checkpoints(tmp_path)
    with kept:
        same(kept.newest(train_state)[0], epochs[-1].train_state)
    assert folders(tmp_path) == ["3", "6"]


def test_one_of_another_model_is_refused_by_paths(tmp_path):
    run(tmp_path, epochs=1)
    other = build(features=7)[1]
    words = r"3 is of another model:\n.*params/dense/bias: needs \(7,\) float32, has \(5,\) float32"
    with jn.Checkpoints(tmp_path) as kept:
        with pytest.raises(ValueError, match=f"(?s){words}"):
            kept.newest(other)
        with pytest.raises(ValueError, match="opt_state/0/count: needs nothing, has"):
            kept.newest(build(optimizer=optax.sgd(0.1))[1])
        with pytest.raises(TypeError, match="like must be a TrainState"):
            kept.newest(other.params)
    assert folders(tmp_path) == ["3"]  # nothing was lost


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1"):
        jn.Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="mode must be 'min' or 'max'"):
        jn.Checkpoints(tmp_path, mode="lowest")
    with pytest.raises(TypeError, match="best must name a metric"):
        jn.Checkpoints(tmp_path, best=3)  # type: ignore[arg-type]
    _, epochs = run(tmp_path, epochs=1)
    with jn.Checkpoints(tmp_path, best="test/loss") as kept:
        with pytest.raises(ValueError, match="'test/loss' is not among the epoch's scalars: epoch"):
            kept.save(epochs[0])
        with pytest.raises(TypeError, match="expected an Epoch, got TrainState"):
            kept.save(epochs[0].train_state)


def test_the_loop_goes_on_while_it_is_written(tmp_path):
    """The arrays are copied before `save` returns: what happens to them later does not matter."""
    train_state, epochs = run(tmp_path / "a", epochs=1)
    with jn.Checkpoints(tmp_path / "b") as kept:
        mine = epochs[0]._replace(train_state=jax.tree.map(jnp.copy, epochs[0].train_state))
        kept.save(mine)
        for leaf in jax.tree.leaves(mine.train_state):
            leaf.delete()
    with jn.Checkpoints(tmp_path / "b") as kept:
        same(kept.newest(train_state)[0], epochs[0].train_state)
    assert threading.active_count() < 100
