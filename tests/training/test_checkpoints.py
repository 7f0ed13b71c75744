"""Checkpoints of runs: kept, found again, refused, and damaged ones passed over."""

import contextlib
import errno
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

import jaxnet as jn
from jaxnet.services import saving
from jaxnet.services.saving import read_tensors, write_file
from jaxnet.training import checkpoints, lock, stored
from tests.training.conftest import same, started

FILE = "0.safetensors"


@functools.cache
def build(features=5, optimizer=None):
    x = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    data = x, x[:, :1]
    net = jn.serial(jn.dense(features), jn.batch_norm(), jn.dense(1))
    return *started(net, data, optax.squared_error, optimizer or optax.adam(0.05)), data


@functools.cache
def trained(epochs):
    trainer, train_state, data = build()
    return list(jn.fit(trainer, train_state, data, epochs=epochs, batch_size=8))


def scored(scores):
    """Epochs whose test loss is what we say it is."""
    pairs = zip(trained(len(scores)), scores, strict=True)
    return [epoch._replace(evaluation={"score": score}) for epoch, score in pairs]


def run(folder, epochs=4, scores=None, **options):
    found = trained(epochs) if scores is None else scored(scores)
    with jn.Checkpoints(folder, **options) as kept:
        for epoch in found:
            assert kept.save(epoch)
    return build()[1], found


def folders(path):
    return sorted(place.name for place in path.iterdir() if place.name != ".lock")


def files(path):
    """All that is in a folder, with the time of its last change."""
    return {str(f): f.stat().st_mtime_ns for f in path.rglob("*") if f.name != ".lock"}


def test_the_newest_comes_back_with_its_place(tmp_path):
    train_state, epochs = run(tmp_path, keep=2)
    assert folders(tmp_path) == ["12", "9"]
    with jn.Checkpoints(tmp_path) as kept:
        found, position = kept.newest(train_state)
        same(found, epochs[-1].train_state)
        assert position == epochs[-1].position and not kept.save(epochs[-1])
        same(kept.newest(jax.eval_shape(lambda: train_state))[0], epochs[-1].train_state)


def test_an_empty_folder_gives_what_came(tmp_path):
    train_state = build()[1]
    with jn.Checkpoints(tmp_path / "new") as kept:
        found, position = kept.newest(train_state)
        assert found is train_state and position is None
        with pytest.raises(ValueError, match="name a metric"):
            kept.best(train_state)
    assert not (tmp_path / "new").exists()  # a reader makes no folder


@pytest.mark.parametrize(("mode", "best"), [("min", 9), ("max", 6)])
def test_the_best_is_kept_beside_the_newest(tmp_path, mode, best):
    scores = [np.nan, 9.0, 0.5, -np.inf]
    train_state, epochs = run(tmp_path, scores=scores, keep=1, best="evaluation/score", mode=mode)
    assert folders(tmp_path) == sorted({str(best), "12"})
    with jn.Checkpoints(tmp_path, best="evaluation/score", mode=mode) as kept:
        found, _ = kept.best(train_state)
    same(found, epochs[best // 3 - 1].train_state)


@pytest.mark.slow
def test_a_key_in_the_state_and_an_order_in_mid_pass(tmp_path):
    trainer, train_state, data = build.__wrapped__()
    train_state = train_state._replace(key=jax.random.key(3, impl="rbg"))
    options = {"steps": 7, "every": 2, "batch_size": 8}
    whole = list(jn.fit(trainer, train_state, data, **options))
    with jn.Checkpoints(tmp_path) as kept:
        kept.save(whole[1])
        found, position = kept.newest(train_state)
        assert position.done == 1 and position.key.dtype == np.uint32
        rest = list(jn.fit(trainer, found, data, position=position, **options))
    ends = [epochs[-1].train_state for epochs in (rest, whole)]
    same(*(end._replace(key=jax.random.key_data(end.key)) for end in ends))


def flipped(file):
    words = bytearray(file.read_bytes())
    words[len(words) // 2] ^= 1
    file.write_bytes(words)


def sealed(change):
    """A file with other contents, and with the checksum of these."""

    def write(file):
        arrays, metadata = read_tensors("test", file)
        notes, run = json.loads(metadata["jaxnet"]), json.loads(metadata["config"])
        change(arrays, notes, run)
        write_file("test", file, arrays, notes, run)

    return write


KERNEL = "params/dense/kernel"
DAMAGES = {
    "false shape": sealed(lambda a, *_: a.update({KERNEL: np.ones((1, 1), np.float32)})),
    "too large": sealed(lambda a, *_: a.update({KERNEL: np.ones((4, 5), np.float32)})),
    "false dtype": sealed(lambda a, *_: a.update({KERNEL: np.ones((3, 5))})),
    "missing entry": sealed(lambda a, *_: a.pop(KERNEL)),
    "false start": sealed(lambda _, notes, __: notes.update({KERNEL: {"start": [1, 0]}})),
    "another step": sealed(lambda a, *_: a.update(step=np.int32(9))),
    "false position": sealed(lambda *all: all[2]["position"].update(done="x")),
    "negative position": sealed(lambda *all: all[2]["position"].update(done=-1)),
    "false run": sealed(lambda *all: all[2]["position"].update(run={})),
    "false data": sealed(lambda *all: all[2]["position"]["run"].update(data=[1])),
    "false rows": sealed(lambda *all: all[2]["position"]["run"]["data"].update(a=["", ["x"]])),
    "false optimizer": sealed(lambda *all: all[2]["position"]["run"].update(optimizer=1)),
    "a pipe": lambda file: [file.unlink(), os.mkfifo(file)],
    "changed": flipped,
    "missing": lambda file: file.unlink(),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "a folder": lambda file: [file.unlink(), file.mkdir()],
    "of others": lambda file: save_file({"a": np.ones(3)}, file),
    "without its checksum": lambda file: save_file(load_file(file), file, {"config": "{}"}),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_one_is_named_and_passed_over(tmp_path, how):
    train_state, epochs = run(tmp_path)
    DAMAGES[how](tmp_path / "12" / FILE)
    before = files(tmp_path)
    with jn.Checkpoints(tmp_path) as kept:
        with pytest.warns(UserWarning, match="(?s)12 is damaged and sk.*renames it to 12.dam"):
            found, position = kept.newest(train_state)
        same(found, epochs[-2].train_state)
        assert position == epochs[-2].position
        assert files(tmp_path) == before  # a reader changes nothing
        with contextlib.suppress(ValueError):
            jn.Checkpoints(tmp_path, best="train/loss").best(train_state)
        assert kept.save(epochs[-1])  # the number is free again
        same(kept.newest(train_state)[0], epochs[-1].train_state)
    assert folders(tmp_path) == ["12", "12.damaged", "6", "9"]


def test_a_damaged_one_that_is_whole_again_stays(tmp_path):
    train_state, epochs = run(tmp_path, epochs=2)
    shutil.copytree(tmp_path / "6", tmp_path / "whole")
    (tmp_path / "6" / FILE).unlink()
    with jn.Checkpoints(tmp_path) as kept:
        with pytest.warns(UserWarning, match="6 is damaged"):
            kept.newest(train_state)
        shutil.rmtree(tmp_path / "6")
        (tmp_path / "whole").rename(tmp_path / "6")  # by another run
        assert not kept.save(epochs[1])
    assert folders(tmp_path) == ["3", "6"]


def test_all_damaged_is_an_error(tmp_path):
    train_state, _ = run(tmp_path, epochs=1)
    (tmp_path / "3" / FILE).unlink()
    with jn.Checkpoints(tmp_path) as kept, pytest.warns(UserWarning, match="is missing"):
        with pytest.raises(ValueError, match="all checkpoints in .* are damaged"):
            kept.newest(train_state)


def test_the_next_save_removes_what_is_half_written(tmp_path):
    train_state, epochs = run(tmp_path, epochs=2)
    shutil.copytree(tmp_path / "6", tmp_path / "9.half")
    shutil.copytree(tmp_path / "6", tmp_path / "1.removed")
    before = files(tmp_path)
    with jn.Checkpoints(tmp_path) as kept:
        same(kept.newest(train_state)[0], epochs[-1].train_state)
        assert files(tmp_path) == before  # they may be those of a run that goes on
        with pytest.warns(UserWarning, match="9.half is incomplete"):
            kept.save(epochs[-1])
    assert folders(tmp_path) == ["3", "6"]


def test_one_of_another_model_is_refused_by_paths(tmp_path):
    run(tmp_path, epochs=1)
    other = build(features=7)[1]
    words = (
        r"3 is of another model:\n.*params/dense/bias: expected \(7,\) float32, got \(5,\) float32"
    )
    with jn.Checkpoints(tmp_path) as kept:
        with pytest.raises(ValueError, match=f"(?s){words}"):
            kept.newest(other)
        with pytest.raises(ValueError, match="(?s)another optimizer.*count: unknown entry"):
            kept.newest(build(optimizer=optax.sgd(0.1))[1])
        with pytest.raises(TypeError, match="like must be a TrainState"):
            kept.newest(other.params)
    assert folders(tmp_path) == ["3"]  # nothing was lost


def test_bad_arguments(tmp_path):
    for options, error, words in (
        ({"keep": 0}, ValueError, "keep must be at least 1"),
        ({"mode": "lowest"}, ValueError, "mode must be 'min' or 'max'"),
        ({"best": 3}, TypeError, "best must be the name of a metric, got int"),
    ):
        with pytest.raises(error, match=words):
            jn.Checkpoints(tmp_path, **options)
    _, epochs = run(tmp_path, epochs=1)
    with jn.Checkpoints(tmp_path, best="evaluation/loss") as kept:
        words = "'evaluation/loss' is not among the epoch's scalars: epoch"
        with pytest.raises(ValueError, match=words):
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
    same(jn.Checkpoints(tmp_path / "b").newest(train_state)[0], epochs[0].train_state)


@contextlib.contextmanager
def writing(folder, epoch):
    """A run that is in the middle of a save, which ends with the block."""
    go = threading.Event()

    def write(*args, **options):
        go.wait(30)
        write_file(*args, **options)

    with pytest.MonkeyPatch.context() as patch, jn.Checkpoints(folder) as kept:
        patch.setattr(checkpoints, "write_file", write)
        kept.save(epoch)
        yield kept
        go.set()


def test_a_reader_leaves_a_run_that_saves_alone(tmp_path):
    train_state, epochs = run(tmp_path / "old", epochs=2)
    with jn.Checkpoints(tmp_path / "new") as kept:
        kept.save(epochs[0])
    later = epochs[1]._replace(position=epochs[1].position._replace(start=3))
    with writing(tmp_path / "new", later):
        assert (tmp_path / "new" / "6.half").exists()
        with jn.Checkpoints(tmp_path / "new", best="train/loss") as other:
            same(other.newest(train_state)[0], epochs[0].train_state)
            same(other.best(train_state)[0], epochs[0].train_state)
    assert folders(tmp_path / "new") == ["3", "6"]
    same(jn.Checkpoints(tmp_path / "new").newest(train_state)[0], epochs[1].train_state)


@pytest.mark.parametrize("what", ["damage", "read_run", "check_like"])
def test_what_is_removed_while_it_is_read_is_passed_over(tmp_path, monkeypatch, what):
    train_state, epochs = run(tmp_path, epochs=2, keep=2)
    before = getattr(stored, what)

    def slow(place, *args):
        if place.name == "6":
            shutil.rmtree(place)  # by a run that writes
        return None if what == "check_like" else before(place, *args)

    monkeypatch.setattr(stored, what, slow)
    same(jn.Checkpoints(tmp_path).newest(train_state)[0], epochs[0].train_state)


def test_a_second_writer_is_told_who_is_the_first(tmp_path):
    train_state, epochs = run(tmp_path / "a", epochs=2)
    words = rf"is being written by process {os.getpid()} on .*, since \d{{4}}-.*one run at a time"
    with jn.Checkpoints(tmp_path / "b") as first, jn.Checkpoints(tmp_path / "b") as second:
        first.close(), first.save(epochs[0]), first.newest(train_state)
        second.newest(train_state)
        with pytest.raises(BlockingIOError, match=words):
            second.save(epochs[1])
        first.save(epochs[1])
    with jn.Checkpoints(tmp_path / "b") as third:  # the lock has gone
        same(third.newest(train_state)[0], epochs[1].train_state)
        assert not third.save(epochs[1])
    assert folders(tmp_path / "b") == ["3", "6"]


def test_a_checkpoint_is_a_file_of_save(tmp_path):
    train_state, epochs = run(tmp_path, epochs=1)
    found, written = jn.load(tmp_path / "3" / FILE, like=train_state)
    same(found, epochs[0].train_state)
    assert written["jaxnet"] == jn.__version__ and written["processes"] == 1


def test_only_folders_of_steps_are_removed(tmp_path):
    _, epochs = run(tmp_path, epochs=1)
    for name in ("mine.half", "mine.removed", "3.halfway", "007"):
        (tmp_path / name).mkdir()
    (tmp_path / "5").touch()
    with jn.Checkpoints(tmp_path) as kept:
        assert not kept.save(epochs[0])
        assert kept.newest(epochs[0].train_state)[0].step == 3
    assert folders(tmp_path) == ["007", "3", "3.halfway", "5", "mine.half", "mine.removed"]


def test_a_full_disk_is_one_sentence_and_costs_one_checkpoint(tmp_path, monkeypatch):
    train_state, epochs = run(tmp_path / "old", epochs=2)
    folder, words = tmp_path / "new", "step 6 was not saved. Whole checkpoints: 3"
    with jn.Checkpoints(folder) as kept:
        kept.save(epochs[0])
        kept.newest(train_state)
        error = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(checkpoints, "write_file", failing := Mock(side_effect=error))
        kept.save(epochs[1])
        words = f"^Checkpoints: {folder} cannot be written: no space left on device; {words}$"
        with pytest.raises(OSError, match=words) as told:
            kept.newest(train_state)
        assert told.value.errno == errno.ENOSPC and told.value.__cause__ is None
        failing.assert_called_once()
        assert folders(folder) == ["3"]  # no ghost, and room
        monkeypatch.undo()
        assert kept.save(epochs[1])
    same(jn.Checkpoints(folder).newest(train_state)[0], epochs[1].train_state)


@pytest.mark.long
def test_a_last_save_that_fails_is_told_when_python_ends(tmp_path):
    program = f"""
import resource, signal
from tests.training.test_checkpoints import jn, trained
kept = jn.Checkpoints({str(tmp_path / "kept")!r})
(epoch,) = trained(1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
kept.save(epoch)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search("kept cannot be written: file too large; step . was not saved", done.stderr)


FORK = """
import os, threading
from jaxnet.training.checkpoints import _Saving
begun, go = threading.Event(), threading.Event()
saving = _Saving(1, lambda: (begun.set(), go.wait()))
threading.Thread(target=saving.write).start()
begun.wait()
if child := os.fork():
    os.waitpid(child, 0)
    go.set()
saving.write()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows")
def test_a_fork_does_not_wait_for_a_save_of_its_parent():
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], timeout=60, check=True)


def test_another_error_of_a_save_stays_what_it_is(tmp_path, monkeypatch):
    _, epochs = run(tmp_path / "old", epochs=1)
    for error in (RuntimeError("mine"), OSError("mine"), MemoryError()):
        monkeypatch.setattr(checkpoints, "write_file", Mock(side_effect=error))
        words = f"^{error}$"
        with pytest.raises(type(error), match=words), jn.Checkpoints(tmp_path / "new") as kept:
            kept.save(epochs[0])
        assert folders(tmp_path / "new") == []


def test_a_second_run_in_a_used_folder_raises(tmp_path):
    train_state, _ = run(tmp_path, epochs=2)
    trainer, _, data = build()
    start = trainer.init(jax.random.key(7), data)
    words = "has a checkpoint of step 6.* at step {}, does not continue.*name a new folder.*newest"
    before = files(tmp_path)
    for every, looked in ((3, False), (1, False), (7, False), (3, True), (6, True)):
        with jn.Checkpoints(tmp_path) as kept:
            if looked:  # and forgot to take what came back
                kept.newest(train_state)
            epoch = next(jn.fit(trainer, start, data, steps=20, every=every, batch_size=8))
            with pytest.raises(ValueError, match=words.format(every)):
                kept.save(epoch)
    assert files(tmp_path) == before


def test_a_run_that_continues_in_memory_is_saved(tmp_path):
    trainer, train_state, data = build()
    for _ in range(2):
        with jn.Checkpoints(tmp_path) as kept:
            for epoch in jn.fit(trainer, train_state, data, epochs=1, batch_size=8):
                assert kept.save(epoch) and not kept.save(epoch)
            train_state = epoch.train_state
    assert folders(tmp_path) == ["3", "6"]


def test_a_run_that_another_one_overtook_raises(tmp_path):
    trainer, train_state, data = build()
    options = {"steps": 9, "every": 3, "batch_size": 8}
    one, two, three = jn.fit(trainer, train_state, data, **options)
    late = jn.Checkpoints(tmp_path)
    with jn.Checkpoints(tmp_path) as kept:
        kept.save(one)
        late.newest(train_state)
        kept.save(two)
    assert not late.save(two)  # the same bits
    with pytest.raises(ValueError, match="has a checkpoint of step 6, and the epoch .* at step 9"):
        late.save(three)
    late.close()


def test_the_best_of_an_earlier_program_stays(tmp_path):
    """Its value is stored: another program that goes on compares with it."""
    train_state, epochs = build()[1], scored([1.0, 5.0, 3.0, 2.0])
    for part in (epochs[:2], epochs[2:]):
        with jn.Checkpoints(tmp_path / "b", keep=1, best="evaluation/score", mode="max") as kept:
            kept.newest(train_state)
            assert all(kept.save(epoch) for epoch in part)
    assert folders(tmp_path / "b") == ["12", "6"]
    kept = jn.Checkpoints(tmp_path / "b", best="evaluation/score", mode="max")
    same(kept.best(train_state)[0], epochs[1].train_state)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/runs/a"):
        words = "Checkpoints: .*file is a file; name a folder"
        with pytest.raises(NotADirectoryError, match=words):
            jn.Checkpoints(tmp_path / place)


def test_a_read_only_folder_can_be_read(tmp_path, monkeypatch):
    train_state, epochs = run(tmp_path, epochs=1)
    refused = Mock(side_effect=PermissionError(errno.EACCES, "Permission denied"))
    with jn.Checkpoints(tmp_path) as kept:
        same(kept.newest(train_state)[0], epochs[0].train_state)
        monkeypatch.setattr(lock.os, "open", refused)  # root may write anywhere
        words = f"Checkpoints.save: {tmp_path}/.lock cannot be written: Permission denied"
        with pytest.raises(PermissionError, match=words):
            kept.save(epochs[0])
        monkeypatch.setattr(checkpoints.Path, "mkdir", refused)
        words = f"^Checkpoints: {tmp_path}/a cannot be written: permission denied$"
        with pytest.raises(OSError, match=words):
            jn.Checkpoints(tmp_path / "a").save(epochs[0])


CHANGES = {
    "surplus": lambda run: run["position"].update(more=1),
    "field": lambda run: run["position"].pop("size"),
    "leaves": lambda run: run.pop("leaves"),
    "position": lambda run: run.update(position=[1]),
    "number": lambda run: run.update(format=0),
    "kind": lambda run: run.update(processes="x"),
}


@pytest.mark.parametrize("what", [*CHANGES, "list"])
def test_one_of_another_version_is_named(tmp_path, what):
    train_state, _ = run(tmp_path, epochs=1)
    file = tmp_path / "3" / FILE
    arrays, metadata = read_tensors("test", file)
    stored = json.loads(metadata["config"])
    assert stored["jaxnet"] == jn.__version__
    stored["jaxnet"] = "0.0.3"
    if what in CHANGES:
        CHANGES[what](stored)
    notes = json.loads(metadata["jaxnet"])
    write_file("test", file, arrays, notes, stored if what in CHANGES else [])
    version = r" \(0.0.3\)" if what in CHANGES else ""
    words = f"3 was written by another version of jaxnet{version}, and this is {jn.__version__}"
    with pytest.raises(ValueError, match=words):
        jn.Checkpoints(tmp_path).newest(train_state)


def test_a_file_of_another_format_is_no_damage(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(saving, "FORMAT", "jaxnet 9")
        train_state, _ = run(tmp_path, epochs=1)
    with pytest.raises(ValueError, match="was written by version .* in another format than 'jax"):
        jn.Checkpoints(tmp_path).newest(train_state)


@pytest.mark.parametrize("other", ["adamw", "sgd", "masked"])
def test_one_of_another_optimizer_is_named(tmp_path, other):
    """Some differ from adam only by a state that holds no array."""
    run(tmp_path, epochs=1)
    own = optax.masked(optax.adam(0.1), True)
    optimizer = own if other == "masked" else getattr(optax, other)(0.1)
    words = r"3 is of another optimizer: .* needs .*, and it has \(ScaleByAdamState, EmptyState\)"
    with pytest.raises(ValueError, match=re.compile(words, re.S)) as told:
        jn.Checkpoints(tmp_path).newest(build(optimizer=optimizer)[1])
    assert "partial_restore" not in str(told.value)


@pytest.mark.slow
def test_another_run_is_told_when_it_is_resumed(tmp_path):
    """What `newest` cannot see, since it gets a train_state only, `fit` compares."""
    train_state, _ = run(tmp_path, epochs=1)
    found, position = jn.Checkpoints(tmp_path).newest(train_state)
    trainer, _, data = build()
    options = {"epochs": 4, "batch_size": 8}
    with pytest.raises(ValueError, match="started with shuffle=True and is resumed with shuffle=F"):
        jn.fit(trainer, found, data, position=position, shuffle=False, **options)
    trainer = build(optimizer=optax.adam(0.01))[0]  # another rate passes
    assert len(list(jn.fit(trainer, found, data, position=position, **options))) == 3


def test_the_best_by_an_unknown_metric_raises(tmp_path):
    train_state, _ = run(tmp_path, epochs=1, scores=[1.0], best="evaluation/score", mode="max")
    with jn.Checkpoints(tmp_path, best="eval/score", mode="max") as kept:
        with pytest.raises(ValueError, match="'eval/score' is not among .*evaluation/score"):
            kept.best(train_state)


@pytest.mark.parametrize("name", ["evaluation/accuracy", "evaluation/gloss", "loss/seconds"])
def test_the_best_of_what_is_no_loss_needs_its_direction(name, tmp_path):
    with pytest.raises(ValueError, match="Write mode='max', as for an accuracy"):
        jn.Checkpoints(tmp_path, best=name)
    with pytest.raises(ValueError, match=r"mode must be 'min' or 'max', got array\(\[1, 2\]\)"):
        jn.Checkpoints(tmp_path, best="loss", mode=np.array([1, 2]))


@pytest.mark.parametrize("name", ["6.damaged", "6.half", "6.removed"])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_link_with_a_name_of_ours_stops_no_save(name, kind, tmp_path):
    train_state, epochs = run(tmp_path / "kept", epochs=2)
    flipped(tmp_path / "kept" / "6" / FILE)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine").write_text("mine")
    place = tmp_path / "kept" / name
    place.write_text("") if kind == "file" else place.symlink_to(tmp_path / "outside")
    with warnings.catch_warnings(action="ignore"), jn.Checkpoints(tmp_path / "kept") as kept:
        assert kept.newest(train_state)[0].step == 3
        assert kept.save(epochs[1])
    assert (tmp_path / "outside" / "mine").read_text() == "mine"
    assert not place.is_symlink() and not place.is_file()
    assert {"3", "6"} <= set(folders(tmp_path / "kept"))


def test_an_interrupted_close_leaves_the_folder_to_the_next(tmp_path, monkeypatch):
    """The thread comes late, and Ctrl-C ends the write of who waits for it."""
    epochs, started = trained(2), []
    with pytest.raises(KeyboardInterrupt), jn.Checkpoints(tmp_path, keep=1) as kept:
        monkeypatch.setattr(checkpoints, "start_new_thread", lambda *a: started.append(a))
        kept.save(epochs[0])
        monkeypatch.setattr(checkpoints, "write_file", Mock(side_effect=KeyboardInterrupt))
        monkeypatch.setattr(checkpoints, "start_new_thread", lambda run, given: started.append(run))
    monkeypatch.undo()
    with pytest.raises(BlockingIOError):  # what is not written keeps its lock
        lock.Held("next", tmp_path)
    started[-1](False)  # what `close` began
    with jn.Checkpoints(tmp_path) as again:
        again.newest(epochs[0].train_state)
        assert again.save(epochs[1])
    kept.newest(epochs[0].train_state)  # without the lock it removes nothing
    assert folders(tmp_path) == ["3", "6"]
