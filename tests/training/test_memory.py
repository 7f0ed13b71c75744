"""Memory that is kept: page faults of a fresh process, counted by the system."""

import gc
import platform
import threading
import weakref
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.services.trees import Memo, memo_of
from jaxnet.training import memory
from tests.helpers import output_of

PROGRAM = """
import resource
import jax, jax.numpy as jnp, optax
import jaxnet as jn
CALL
step = jax.jit(lambda x, w: jnp.tanh(x @ w) @ w)
w = jnp.eye(64)
x = jnp.ones((MEGABYTES * 250_000 // 64, 64))
for i in range(26):
    x = step(x, w).block_until_ready()
    if i == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(program: str) -> int:
    """The page faults that a program prints in a fresh process."""
    return int(output_of(program))


@pytest.mark.long
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has this setting")
def test_pages_are_used_again():
    program = PROGRAM.replace("MEGABYTES", "80")
    trains = "jn.trainer(jn.supervised(jn.dense(2), optax.l2_loss), optax.sgd(0.1))"
    by_default, with_trainer = (faults(program.replace("CALL", each)) for each in ("", trains))
    assert 0.9 < with_trainer / by_default < 1.1  # a trainer leaves the process alone
    keeps = "assert jn.reuse_memory()"
    assert 0 <= faults(program.replace("CALL", keeps)) < 0.1 * by_default
    restores = f"{keeps}; assert jn.reuse_memory(False)"
    assert faults(program.replace("CALL", restores)) > 0.9 * by_default


GIVEN_BACK = """
import numpy as np
import jax, jaxnet as jn

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

before = jax.config.values["jax_cpu_enable_async_dispatch"]
jn.reuse_memory()
arrays = [np.ones(10_000_000) for _ in range(5)]
del arrays
kept = held()
jn.reuse_memory(False)
assert jax.config.values["jax_cpu_enable_async_dispatch"] == before
print((kept - held()) // 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has this setting")
def test_what_was_kept_is_given_back():
    assert faults(GIVEN_BACK) > 300  # megabytes of 400


IN_THREADS = """
import threading
import numpy as np
import jaxnet as jn

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

before = held()
jn.reuse_memory()
all_have_one = threading.Barrier(6)

def work():
    arrays = [np.ones(2**20) for _ in range(4)]
    all_have_one.wait()

threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert held() - before > 150 * 2**20
jn.reuse_memory(False)
print((held() - before) // 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has this setting")
def test_the_heaps_of_threads_are_given_back():
    assert faults(IN_THREADS) < 20  # megabytes of 192


def test_a_system_without_further_threads_gives_back_the_rest(monkeypatch):
    started, start = [], threading.Thread.start

    def start_three(thread):
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_three)
    memory._give_back_ends(memory.ctypes.CDLL(None))
    assert len(started) == 3 and not any(thread.is_alive() for thread in started)


RESNET = """
import gc
import jax, numpy as np, optax
import jaxnet as jn
from experiments.benchmarks.measure import peak_memory
from experiments.benchmarks.memory import resident_memory
CALL
x, y = np.ones((64, 32, 32, 3), np.float32), np.zeros(64, int)
before = resident_memory()

def train():
    net = jn.models.resnet(18, classes=10)
    loss = optax.softmax_cross_entropy_with_integer_labels
    trainer = jn.trainer(jn.supervised(net, loss), optax.sgd(0.01, momentum=0.9))
    train_state = trainer.init(jax.random.key(0), (x, y))
    for _ in range(5):
        train_state, metrics = trainer.step(train_state, (x, y))
        jax.block_until_ready(metrics)
    return resident_memory() - before

took = train()
gc.collect()
jn.reuse_memory(False)
print(peak_memory() - before, took, resident_memory() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has this setting")
@pytest.mark.parametrize("call", ["", "jn.reuse_memory()"], ids=["by default", "kept"])
def test_the_peak_of_a_net_and_what_stays_of_it(call):
    peak, took, left = map(float, output_of(RESNET.replace("CALL", call)).split())
    assert peak < 430  # megabytes: 90 of the train_state, and what the compiler needs
    assert left < peak / 3
    assert left < took / 2


IN_TURN = """
import gc
import jax, numpy as np, optax
import jaxnet as jn
from experiments.benchmarks.memory import resident_memory
x, y = np.ones((64, 16, 16, 3), np.float32), np.zeros(64, int)
loss = optax.softmax_cross_entropy_with_integer_labels

def train():
    net = jn.serial(jn.conv(64, 3), jn.batch_norm(), jax.nn.relu, jn.conv(64, 3), jax.nn.relu,
                    jn.flatten(), jn.dense(10))
    trainer = jn.trainer(jn.supervised(net, loss), optax.adam(1e-3))
    train_state = trainer.init(jax.random.key(0), (x, y))
    RUN

found = []
for _ in range(TURNS):
    train()
    gc.collect()
    jn.reuse_memory(False)
    found.append((resident_memory(), len(gc.get_objects())))
print(found[-1][0] / found[2][0], (found[-1][1] - found[2][1]) / (TURNS - 3))
"""
STEPS = """
    step = jax.jit(trainer.step, donate_argnums=0)
    for _ in range(3):
        train_state, metrics = step(train_state, (x, y))
    jax.block_until_ready(metrics)
"""
FIT = """
    for _ in jn.fit(trainer, train_state, (x, y), epochs=2, progress=False):
        pass
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has this setting")
@pytest.mark.parametrize("run", [STEPS, FIT], ids=["steps", "fit"])
def test_nets_in_turn_leave_nothing(run):
    program = IN_TURN.replace("RUN", run.strip()).replace("TURNS", "20")
    memory_ratio, objects_per_net = map(float, output_of(program).split())
    assert memory_ratio < 1.02
    assert objects_per_net < 100  # JAX's bounded caches of what it traced; thousands before


@pytest.mark.parametrize("run", ["step", "fit", "stream"])
def test_a_program_is_compiled_apart_from_its_first_call_once(run, monkeypatch):
    compiled = []
    monkeypatch.setattr(memory, "compile_for", lambda *args: compiled.append(args))
    data = X, np.array([0, 1])
    trainer = jn.trainer(jn.supervised(jn.dense(2), LOSS), optax.sgd(0.1), donate=False)
    start = trainer.init(KEY, data)
    for _ in range(2):
        if run == "step":
            trainer.step(start, data)
        else:
            source = iter([data] * 2) if run == "stream" else data
            assert [*jn.fit(trainer, start, source, steps=2, progress=False)]
    assert len(compiled) == 1


COMPILED_ONCE = """
import jax, jax.numpy as jnp
import jaxnet as jn
from jaxnet.training import memory
CALL
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *rest, **more: compiled.append(event) if "backend_compile" in event else None)
run = memory.jit(lambda x: jnp.sin(x) + 1)
memory.compile_for(run, 1.0)
print(len(compiled))
run(1.0)
print(len(compiled))
"""


@pytest.mark.slow
@pytest.mark.parametrize("call", ["", "jn.reuse_memory()"], ids=["by default", "kept"])
def test_a_call_uses_what_was_compiled_for_it(call):
    assert output_of(COMPILED_ONCE.replace("CALL", call)).split() == ["1", "1"]


@pytest.mark.parametrize(("module", "name", "value"), [
    (memory.sys, "platform", "darwin"), (platform, "libc_ver", lambda: ("", "")),
], ids=["elsewhere", "without glibc"])  # fmt: skip
def test_elsewhere_nothing_happens(module, name, value, monkeypatch):
    monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(memory.ctypes, "CDLL", None)  # would raise
    assert jn.reuse_memory() is False


DEEP = """
import resource
import jax, jax.numpy as jnp, optax
import jaxnet as jn
CALL
net = jn.serial(*[layer for _ in range(8) for layer in (jn.dense(1024), jnp.tanh)])
trainer = jn.trainer(jn.supervised(net, optax.l2_loss), optax.sgd(0.1))
x = jnp.ones((2_000, 1024))
train_state = trainer.init(jax.random.key(0), (x, x))
for i in range(26):
    train_state, metrics = trainer.step(train_state, (x, x))
    jax.block_until_ready(metrics)
    if i == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.long
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has this setting")
def test_a_step_uses_its_pages_again():
    # In all, the step's temporary arrays have 130 MB.
    assert faults(DEEP.replace("CALL", "")) > 50_000
    assert faults(DEEP.replace("CALL", "assert jn.reuse_memory()")) < 10_000


@pytest.fixture
def compiled(monkeypatch):
    """The options with which programs are compiled."""
    found, jit = [], jax.jit

    def watched(run, **options):
        inner = jit(run, **options)

        def call(*args):
            found.append(options.get("compiler_options"))
            return inner(*args)

        call.trace = inner.trace
        return call

    monkeypatch.setattr(memory.jax, "jit", watched)
    monkeypatch.setattr(memory, "_keeps_memory", True)
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield found
    jax.config.update("jax_compilation_cache_dir", folder)


def test_temporary_memory_is_divided(compiled):
    run = memory.jit(lambda x: jnp.sin(x) + 1)
    assert run(0.0) == run(0.0) == 1
    assert compiled == [memory.IN_PIECES] * 2


def test_an_array_that_fits_no_piece_is_not_divided(compiled):
    def body(i, x):
        return jnp.tile(x, memory.PIECE // 4)[: x.shape[0]]

    assert memory.jit(lambda x: jax.lax.fori_loop(0, 2, body, x))(jnp.ones(2)).tolist() == [1, 1]
    assert compiled == [None]


def test_each_shape_of_a_batch_is_looked_at(compiled):
    run = memory.jit(lambda params, x: jnp.tile(x + params, memory.PIECE // 16))
    for size in (1, 8, 1, 8):
        assert run(0.0, jnp.ones(size))[-1] == 1
    assert compiled == [memory.IN_PIECES, None] * 2


def test_a_program_inside_another_takes_no_options(compiled):
    run = memory.jit(jnp.sin)
    run(1.0)
    compiled.clear()
    assert jax.vmap(run)(jnp.zeros(2)).tolist() == [0, 0]
    assert jax.make_jaxpr(run)(0.0).jaxpr.outvars
    assert compiled[-1] is None


def test_an_option_that_is_gone_is_left_out(compiled, monkeypatch):
    gone = {"xla_option_that_is_gone": 1}
    monkeypatch.setattr(memory, "IN_PIECES", gone)
    run = memory.jit(lambda x: x + 1)
    assert run(1.0) == run(1.0) == 2
    assert compiled == [gone, None, None]


def test_other_errors_are_raised(compiled):
    def fails(x):
        raise ValueError("of the net")

    with pytest.raises(ValueError, match="of the net"):
        memory.jit(fails)(1.0)


@pytest.mark.parametrize("kept", [False, True])
def test_programs_without_kept_memory_or_for_a_folder_are_not_divided(
    compiled, monkeypatch, tmp_path, kept
):
    """JAX would warn that it cannot write one with several temporary arrays, and compile again."""
    monkeypatch.setattr(memory, "_keeps_memory", kept)
    if kept:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert memory.jit(jnp.sin)(0.0) == 0
    assert compiled == [None]


KEY = jax.random.key(0)
X = np.ones((2, 4), np.float32)
IMAGES = np.ones((2, 8, 8, 1), np.float32)
LOSS = optax.softmax_cross_entropy_with_integer_labels


def drawn(net, x):
    return (net, *net.init(KEY, x))


def text(run):
    def use():
        net = jn.models.decoder(11, depth=1, width=8, heads=2, mlp_features=8)
        net, params, _ = drawn(net, jn.spec((1, 1), int))
        run(net, params)
        return net

    return use


def trained(run):
    def use():
        objective = jn.supervised(jn.dense(2), LOSS)
        run(objective, (X, np.array([0, 1])))
        return objective

    return use


def images(run):
    def use():
        net = jn.serial(jn.conv(2, 3, name="maps"), jn.global_avg_pool(), jn.dense(2))
        run(*drawn(net, IMAGES))
        return net

    return use


def fit(objective, data):
    trainer = jn.trainer(objective, optax.sgd(0.1))
    start = trainer.init(KEY, data)
    for _ in jn.fit(trainer, start, data, epochs=1, evaluate=data, progress=False):
        pass
    trainer.step(start, data)


def sequence():
    net = jn.serial(jn.rnn(3, activation=lambda z: jnp.sin(z)), jn.dense(2))
    net, params, state = drawn(net, np.ones((2, 5, 3), np.float32))
    net.apply(params, state, np.ones((2, 5, 3), np.float32))
    return net


def pair():
    def apply(p, s, x, *, key=None, train=False):
        return x, s

    layer = jn.Layer(lambda key, x: ({}, {}), apply, "own")
    net = jn.serial(layer, jn.dense(2))
    net, params, state = drawn(net, X)
    net.apply(params, state, X)
    return layer


USES = {
    "apply": images(lambda net, params, state: net.apply(params, state, IMAGES)),
    "jit": images(lambda net, params, state: jax.jit(net.apply)(params, state, IMAGES)),
    "predict": images(lambda net, params, state: jn.predict(net, params, state, IMAGES)),
    "summary": images(lambda net, params, state: str(jn.summary(net, IMAGES))),
    "saliency": images(lambda *net: jn.inspect.saliency(*net, IMAGES)),
    "integrated_gradients": images(lambda *net: jn.inspect.integrated_gradients(*net, IMAGES)),
    "occlusion": images(lambda *net: jn.inspect.occlusion(*net, IMAGES, size=4)),
    "class_activation_map": images(lambda *net: jn.inspect.class_activation_map(
        *net, IMAGES, path="maps")),
    "activations": images(lambda *net: jn.inspect.activations(*net, IMAGES)),
    "generate": text(lambda net, p: jn.decoding.generate(net, p, [[1, 2]], KEY, length=3)),
    "greedy": text(lambda net, params: jn.decoding.generate(
        net, params, [[1, 2]], KEY, length=3, temperature=0.0)),
    "evaluate": trained(lambda objective, data: jn.evaluate(
        objective, *objective.init(KEY, data), data)),
    "fit": trained(fit),
    "sweep": trained(lambda objective, data: jn.sweep(
        objective, lambda: optax.sgd(0.1), data, epochs=1, seeds=2, progress=False)),
    "recurrence": sequence,
    "pair": pair,
}  # fmt: skip


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name == "apply" else pytest.mark.slow)
    for name in USES
])  # fmt: skip
def test_what_was_used_and_dropped_is_gone(name):
    alive = [weakref.ref(USES[name]().apply) for _ in range(2)]
    gc.collect()
    assert not any(one() is not None for one in alive)


@pytest.mark.slow
def test_programs_are_kept_while_the_net_lives():
    net = jn.models.decoder(11, depth=1, width=8, heads=2, mlp_features=8)
    params, _ = net.init(KEY, jn.spec((1, 1), int))
    write = partial(jn.decoding.generate, net, params, [[1, 2]], length=3)
    write(KEY)
    entries = len(memo_of(net.apply)._entries)
    write(jax.random.key(1))
    assert len(memo_of(net.apply)._entries) == entries > 0


def test_threads_share_a_memo():
    memo, failed = Memo(), []

    def hammer(seed):
        rng = np.random.default_rng(seed)
        try:
            for k in rng.integers(0, 100, 5_000):
                assert memo.of(int(k), lambda k=k: int(k)) == k
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=hammer, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert 0 < len(memo._entries) <= memo.size


@pytest.mark.parametrize("layer", [
    jn.compose(lambda m, x: m(jn.lora(jn.dense(2), 1, where="kernel"), x)),
    jn.unsupervised.autoencoder.with_code(jn.models.autoencoder(jn.dense(3), jn.dense(4))),
], ids=["lora", "with_code"])  # fmt: skip
def test_no_value_of_a_trace_stays(layer):
    with jax.checking_leaks():
        layer.init(KEY, X)
