"""Several processes, with collectives of gloo on this machine: the same numbers as in one."""

import json
import signal

import numpy as np
import pytest

START = """
import json, os, pytest, re, signal, sys, time, warnings
import jax, jax.numpy as jnp, numpy as np, optax, jaxnet as jn
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec as P

jax.config.update("jax_enable_x64", True)
if count > 1:
    jax.distributed.initialize(f"localhost:{port}", count, index, heartbeat_timeout_seconds=10)
assert len(jax.devices()) == 4 and jax.process_count() == count
mesh = jax.make_mesh((4,), ("data",))
rng = np.random.default_rng(0)
x = rng.normal(size=(64, 16)); y = rng.integers(0, 8, 64)
net = jn.serial(jn.dense(32, name="hidden"), jn.batch_norm(), jax.nn.relu, jn.dense(8, name="top"))
loss = optax.softmax_cross_entropy_with_integer_labels
objective = jn.supervised(net, loss, metrics={"accuracy": jn.metrics.accuracy})

def mine(tree, rows):
    size = rows // count
    return jax.tree.map(lambda a: a[index * size : (index + 1) * size], tree)

def put(tree, rows):
    return jn.distributed.put(mine(tree, rows), mesh, P("data"), local=True)

def raises(words, call, kind=ValueError):
    with pytest.raises(kind, match=re.escape(words)):
        call()

class Loader:
    def __iter__(self):
        for start in range(0, 64, 16):
            yield mine((x[start : start + 16], y[start : start + 16]), 16)

class Slow(Loader):  # without end
    def __iter__(self):
        while True:
            for batch in super().__iter__():
                time.sleep(0.02)
                yield batch

batches = jn.distributed.feed(Loader(), mesh, P("data"))
sharded = jn.distributed.fully_sharded("data", mesh, smallest=100)
trainer = jn.trainer(objective, optax.sgd(0.1, momentum=0.9))
"""

NUMBERS = """
found = {}
data = put((x, y), 64)
for name in names:
    rule = {"replicated": P(), "fully sharded": sharded}[name]
    trainer = jn.trainer(objective, optax.sgd(0.1, momentum=0.9))
    start = jn.distributed.put(trainer.init(jax.random.key(0), (x, y)), mesh, rule)
    found[name] = []
    for epoch in jn.fit(trainer, start, data, epochs=3, batch_size=16, evaluate=data):
        found[name] += [*epoch.losses.tolist(), epoch.evaluation["loss"], epoch.train["accuracy"]]
    last = epoch.train_state.params, epoch.train_state.state
    run = jn.fit(trainer, start, batches, steps=10, every=3, evaluate=batches)
    found[name + ", stream"] = [loss for epoch in run for loss in epoch.losses.tolist()]
    measured = jn.evaluate(objective, *last, data, batch_size=16)
    found[name + ", evaluate"] = list(measured.values())
    found[name + ", predict"] = jn.predict(net, *last, data[0], batch_size=16).tolist()
    now = jax.tree.map(jnp.copy, start)
    for batch in batches:
        now, metrics = trainer.step(now, batch)
    found[name + ", step"] = float(metrics["loss"])
print(json.dumps(found))
"""

ERRORS = """
fit = lambda *args: list(jn.fit(trainer, *args, epochs=1, batch_size=16))
data, local = put((x, y), 64), trainer.init(jax.random.key(0), (x, y))
whole = jn.distributed.put(local, mesh)
alone = "is an array on the devices of this process alone; write jn.distributed.put("
raises("2 processes work together, but train_state/step " + alone, lambda: fit(local, data))
raises("data/0 " + alone + "data, mesh, P('data'), local=True)", lambda: fit(whole, (x, y)))
raises("train_state/step " + alone, lambda: trainer.step(local, (x, y)))
raises("data/0 is a ndarray, which may differ between", lambda: trainer.step(whole, (x, y)))
raises(alone, lambda: jn.evaluate(objective, whole.params, whole.state, (x, y)))
raises(alone, lambda: jn.predict(net, whole.params, whole.state, x))
raises("labels in [0, 8)", lambda: fit(whole, (data[0], data[1] + 1)))
few = np.ones((2, 3))  # one row for each of this process's devices
assert jn.distributed.put(few, mesh, P("data"), local=True).shape == (4, 3)
print("told")
"""

DEATH = """
start = jn.distributed.put(trainer.init(jax.random.key(0), (x, y)), mesh)
slow = jn.distributed.feed(Slow(), mesh, P("data"))
for epoch in jn.fit(trainer, start, slow, steps=10_000, every=5):
    print(epoch.step, time.time(), flush=True)
    if index == 1 and epoch.step == 20:
        os.kill(os.getpid(), signal.SIGKILL)
"""

STOPPED = """
start = jn.distributed.put(trainer.init(jax.random.key(0), (x, y)), mesh, sharded)
slow = jn.distributed.feed(Slow(), mesh, P("data"))
with jn.Checkpoints(folder) as kept:
    for epoch in jn.fit(trainer, start, slow, steps=10_000, every=200):
        kept.save(epoch)
        print(epoch.step, flush=True)
        if index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
print("never")
"""

SEEN = """
def seen(train_state):
    return [float(jnp.abs(a * jnp.arange(a.size).reshape(a.shape)).max())
            for a in jax.tree.leaves(train_state.params)]
"""

READ = """
said = []
for rule in (P(), sharded):
    start = jn.distributed.put(trainer.init(jax.random.key(1), (x, y)), mesh, rule)
    found, position = jn.Checkpoints(folder).newest(start)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, found, start))
    said.append([int(found.step), *seen(found)])
assert said[0] == said[1]
print(*said[0])
"""

LOCKED = """
import pathlib
from jaxnet.training.lock import Held

data = put((x, y), 64)
start = jn.distributed.put(trainer.init(jax.random.key(0), (x, y)), mesh, sharded)
one, two = jn.fit(trainer, start, data, epochs=2, batch_size=16)
pathlib.Path(folder).mkdir(exist_ok=True)
multihost_utils.sync_global_devices("made")
held = Held("save", pathlib.Path(folder)) if index == 0 else None
multihost_utils.sync_global_devices("held")
with jn.Checkpoints(folder, best="train/loss") as kept:
    raises("is being written by process", lambda: kept.save(one), OSError)
    multihost_utils.sync_global_devices("told")
    if held is not None:
        held.close()
    assert kept.save(one) and not kept.save(one) and kept.save(two)
    assert int(kept.newest(start)[0].step) == int(kept.best(start)[0].step) == 8
    multihost_utils.sync_global_devices("read")  # a cut file ends its readers
    (pathlib.Path(folder) / "8" / "1.safetensors").write_text("[]") if index == 0 else None
    multihost_utils.sync_global_devices("damaged")
    with warnings.catch_warnings(record=True, action="always") as caught:
        found, position = kept.newest(start)
    assert "8 is damaged" in str(caught[-1].message) and int(found.step) == 4
    (two,) = jn.fit(trainer, found, data, epochs=2, batch_size=16, position=position)
    assert kept.save(two)
found = kept.newest(start)[0]
print(int(found.step), *seen(found))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("count", "rules"), [(2, ["fully sharded"]), (4, ["replicated", "fully sharded"])]
)
def test_the_numbers_are_those_of_one_process(on_processes, count, rules):
    def numbers(count):
        program = f"names = {rules}\n{START}{NUMBERS}"
        return [json.loads(line) for line in on_processes(program, count)]

    (one,) = numbers(1)
    for process in numbers(count):
        assert process.keys() == one.keys()
        for name, wanted in one.items():
            np.testing.assert_allclose(process[name], wanted, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.slow
def test_arrays_of_one_process_alone_are_refused(on_processes):
    assert on_processes(START + ERRORS, 2) == ["told"] * 2


@pytest.mark.long
def test_a_peer_that_dies_ends_the_others(on_processes):
    """By an error of the collective, or by the heartbeat; `communicate` gives up after minutes."""
    on_processes(START + DEATH, 2, expect=-signal.SIGKILL)


@pytest.mark.long
def test_all_stop_at_the_same_step_whoever_is_asked(on_processes, tmp_path):
    first, second = on_processes(f"folder = {str(tmp_path)!r}\n{START}{STOPPED}", 2, expect=143)
    assert first == second and 200 < int(first) < 400  # long before the next epoch
    assert str(tmp_path / first) in map(str, tmp_path.iterdir())


@pytest.mark.slow
def test_a_lock_and_a_damaged_checkpoint_are_told_in_all_processes(on_processes, tmp_path):
    program = f"folder = {str(tmp_path / 'kept')!r}\n{START}{SEEN}"
    said, same = on_processes(program + LOCKED, 2)
    assert said == same and said.startswith("8 ")
    names = sorted(place.name for place in (tmp_path / "kept").iterdir())
    assert names == [".lock", "4", "8", "8.damaged"]
    assert on_processes(program + READ, 1) == [said]  # spread in two ways over other devices


OWN_DISKS = """
data = put((x, y), 64)
start = jn.distributed.put(trainer.init(jax.random.key(0), (x, y)), mesh, sharded)
(one,) = jn.fit(trainer, start, data, epochs=1, batch_size=16)
kept = jn.Checkpoints(f"{folder}/{index}")
kept.save(one)
raises("All processes must share the folder", kept.close, OSError)
left = [name for name in os.listdir(f"{folder}/{index}") if name != ".lock"]
print(len(left))
"""


@pytest.mark.slow
def test_processes_with_disks_of_their_own_are_told(on_processes, tmp_path):
    """Each save returned True, and afterwards every checkpoint was damaged."""
    for index in range(2):
        (tmp_path / str(index)).mkdir()
    program = f"folder = {str(tmp_path)!r}\n{START}{SEEN}"
    assert on_processes(program + OWN_DISKS, 2) == ["0", "0"]


SHORT = """
start = jn.distributed.put(trainer.init(jax.random.key(0), (x, y)), mesh)
data = put((x, y), 64)
with jn.Checkpoints(folder) as kept:
    for epoch in jn.fit(trainer, start, data, epochs=10_000, batch_size=32, progress=False):
        kept.save(epoch)
        print(epoch.step, flush=True)
        if index == 1 and epoch.number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
print("never")
"""

WORKERS = """
class Workers(Loader):  # whose workers the signal ends too, in one of the processes
    def __iter__(self):
        for number in range(3):
            yield from super().__iter__()
        if index == 1:
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated")
        yield from super().__iter__()

start = jn.distributed.put(trainer.init(jax.random.key(0), (x, y)), mesh)
fed = jn.distributed.feed(Workers(), mesh, P("data"))
with jn.Checkpoints(folder) as kept:
    for epoch in jn.fit(trainer, start, fed, steps=10_000, every=500, progress=False):
        kept.save(epoch)
        print(epoch.step, flush=True)
print("never")
"""


@pytest.mark.long
@pytest.mark.parametrize("program", [SHORT, WORKERS], ids=["short passes", "workers"])
def test_a_signal_to_one_process_saves_in_all(program, on_processes, tmp_path):
    first, second = on_processes(f"folder = {str(tmp_path)!r}\n{START}{program}", 2, expect=143)
    assert first == second and int(first) < 30
    assert str(tmp_path / first) in map(str, tmp_path.iterdir())


ALONE = """
start = jn.distributed.put(trainer.init(jax.random.key(0), (x, y)), mesh)
data = put((x, y), 64)
kept = jn.Checkpoints(folder)
try:
    if what == "another seed":
        jn.distributed.put(trainer.init(jax.random.key(index), (x, y)), mesh)
    elif what == "one step more":
        now = start
        for _ in range(5 + index):
            now, metrics = trainer.step(now, data)
        print(float(metrics["loss"]))
        sys.exit()
    for epoch in jn.fit(trainer, start, data, epochs=2, batch_size=16):
        if index == 0:
            kept.save(epoch) if what == "a save" else kept.newest(start)
    kept.close()
except RuntimeError as error:
    print(str(error).replace("\\n", " "))
"""


@pytest.mark.long
@pytest.mark.parametrize(("what", "words"), [
    ("a save", "process 0: Checkpoints saves step 4; process 1: fit goes on after step 4"),
    ("newest", "process 0: Checkpoints reads the newest step; process 1: fit goes on"),
    ("another seed", "process 0: puts arrays of checksum"),
    ("one step more", "process 0: left; process 1: makes a step"),
])  # fmt: skip
def test_what_one_process_does_alone_is_told(what, words, on_processes, tmp_path):
    """Such as a save inside `if jax.process_index() == 0:`, which aborted all of them."""
    program = f"folder, what = {str(tmp_path)!r}, {what!r}\n{START}{ALONE}"
    *_, last = on_processes(program, 2)
    assert "the processes differ, so all stop" in last and words in last, last
    assert "take them out of `if jax.process_index() == 0:`" in last


WAITS = """
jn.distributed.put(trainer.init(jax.random.key(0), (x, y)), mesh)
if index == 0:
    began = time.monotonic()
    raises("has waited for process 1 for 3 seconds", lambda: jn.Checkpoints(folder).newest(
        trainer.init(jax.random.key(0), (x, y))), RuntimeError)
    print(time.monotonic() - began, flush=True)
time.sleep(6)
os._exit(0)  # the first process later, since it leads the others
"""


@pytest.mark.long
def test_a_process_that_says_nothing_is_waited_for_no_longer_than_is_allowed(
    on_processes, tmp_path, monkeypatch
):
    monkeypatch.setenv("JAXNET_WAIT", "3")
    first, _ = on_processes(f"folder = {str(tmp_path)!r}\n{START}{WAITS}", 2)
    assert 3 <= float(first) < 6
