"""Operations counted by hand, memory of known sizes."""

import importlib
import os
import platform
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxnet as jn
from jaxnet.inspect import flops, memory
from jaxnet.ops.native import instructions
from tests.helpers import jit_apply

spec = jn.spec


def of(layer, x):
    params, state = jax.eval_shape(layer.init, jax.random.key(0), x)

    def run(params, state, x):
        return jit_apply(layer, params, state, x)

    return flops(run, params, state, x)


@pytest.mark.parametrize(("layer", "x", "products"), [
    pytest.param(jn.dense(7), spec((3, 5)), 3 * 5 * 7, id="dense"),
    pytest.param(jn.conv(7, 3, padding="VALID"), spec((2, 5, 8, 4)), 2 * 3 * 6 * 7 * 9 * 4,
     id="valid"),
    pytest.param(jn.conv(7, 3, strides=2), spec((2, 5, 8, 4)), 168 * 9 * 4, id="same"),
    pytest.param(jn.conv(6, 3, groups=2), spec((2, 5, 8, 4)), 480 * 9 * 2, id="groups"),
    pytest.param(jn.batch_norm(), spec((2, 5)), 0, id="nothing"),
])  # fmt: skip
def test_layers_by_hand(layer, x, products):
    assert of(layer, x) == 2 * products


def test_plain_convolution():
    names = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 2}

    def conv(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", **names)

    assert flops(conv, spec((2, 5, 8, 4)), spec((3, 3, 2, 6))) == 2 * 2 * 3 * 6 * 6 * 9 * 2


def product(x):
    return x @ x


@pytest.mark.parametrize(("function", "count"), [
    (product, 54), (jax.jit(product), 54), (jax.checkpoint(product), 54),
    (lambda x: jax.lax.scan(lambda x, _: (product(x), None), x, None, length=10)[0], 540),
    (lambda x: jax.lax.cond(x[0, 0] > 0, product, lambda x: product(product(x)), x), 108),
    (lambda x: jax.lax.while_loop(lambda x: x[0, 0] > 0, product, x), 54),
    (lambda x: jax.vmap(product)(jnp.stack([x] * 7)), 7 * 54), (lambda x: 2 * x + 1, 0),
], ids=["plain", "jit", "remat", "scan", "cond", "while", "vmap", "none"])  # fmt: skip
def test_loops_branches_and_wrappers(function, count):
    assert flops(function, spec((3, 3))) == count


def test_rows_of_the_summary():
    net = jn.serial(jn.conv(3, 3, name="c"), jn.flatten(), jn.dense(4, name="d"), name="net")
    rows = {row.path: row for row in jn.summary(net, spec((2, 5, 6, 1))).rows}
    assert rows["c"].flops == 2 * 2 * 5 * 6 * 3 * 9
    assert rows["d"].flops == 2 * 2 * 90 * 4
    assert rows["flatten"].flops == 0
    assert rows[""].flops == rows["c"].flops + rows["d"].flops
    assert [rows[name].bytes for name in ("c", "flatten", "d")] == [720, 720, 32]
    assert jn.summary(net, spec((2, 5, 6, 1))).activations == 720 + 720 + 32


@pytest.mark.parametrize(
    "optimizer, copies", [(None, 1), (optax.sgd(0.1), 1), (optax.adam(0.1), 3)]
)
def test_memory_that_is_held(optimizer, copies):
    """Parameters once, and once more for each average that the optimizer keeps."""
    params, batch = 4 * (1000 * 800 + 800), 4 * 32 * 1000
    fit = memory(jn.dense(800), spec((32, 1000)), 15e9, optimizer=optimizer)
    assert copies * params + batch <= fit.held <= copies * params + batch + 1000
    # At least the gradient of the kernel, or the new parameters if they find no room in the old.
    assert fit.needed == fit.held + fit.temporary
    assert fit.temporary < 3 * params


@pytest.mark.slow
def test_activations_grow_with_depth_and_less_with_remat():
    def deep(wrap, depth):
        layers = [
            wrap(jn.serial(jn.dense(64), jnp.tanh, jn.dense(64), jnp.tanh)) for _ in range(depth)
        ]
        return memory(jn.serial(*layers), spec((4096, 64)), 15e9).temporary

    one = 4 * 4096 * 64  # bytes of one output
    few = deep(lambda layer: layer, 2)
    many = deep(lambda layer: layer, 10)
    assert 2 * 8 * one <= many - few <= 4 * 8 * one


def test_the_answer():
    net, x = jn.dense(1000), spec((32, 1000))
    needed = memory(net, x, 15e9).needed
    assert memory(net, x, needed)
    assert not memory(net, x, needed - 1)
    yes = str(memory(net, x, 15e9))
    assert yes.startswith("fits: a training step needs ")
    assert "of 15.0 GB (" in yes
    assert yes.endswith(f"as compiled for {jax.default_backend()}")
    assert str(memory(net, x, 1e6)).startswith("does not fit: a training step needs ")
    assert memory(net, x, 16 * 2**30).memory == 16 * 2**30  # an integer of many bits


def test_nothing_is_allocated():
    """40 GB of parameters: planned, not made."""
    fit = memory(jn.dense(10**5), spec((2, 10**5)), 15e9)
    assert not fit
    assert fit.held > 40e9


def test_a_backend_without_analysis(monkeypatch):
    """Some backends return None."""
    compiled = type(jax.jit(lambda x: x).lower(1.0).compile())
    monkeypatch.setattr(compiled, "memory_analysis", lambda self: None)
    backend = jax.default_backend().upper()
    words = f"memory: memory analysis is not available on the {backend} backend"
    with pytest.raises(NotImplementedError, match=words):
        memory(jn.dense(3), spec((2, 5)), 1e6)


def test_an_objective():
    objective = jn.supervised(jn.serial(jn.dense(50), jn.batch_norm()), optax.squared_error)
    estimate = memory(objective, (spec((8, 30)), spec((8, 50))), 1e6)
    assert estimate
    assert estimate.held >= 4 * (30 * 50 + 5 * 50 + 8 * 80)


@pytest.mark.slow
def test_a_loss_of_your_own_and_state():
    net = jn.serial(jn.dense(4), jn.batch_norm(), jn.dropout(0.5))
    assert memory(net, spec((8, 3)), 1e6, loss=lambda y: jnp.log(y).sum())


@pytest.mark.slow
def test_memory_of_integers():
    """They have no gradient, and the optimizer holds nothing for them."""
    x = jn.spec((2, 64))
    adam = optax.adam(1e-3)
    small = jn.lora(jn.quantized(jn.dense(128), 4), 2, where="kernel")
    params, _ = jax.eval_shape(small.init, jax.random.key(0), x)
    held = x.size * 4
    for leaf in jax.tree.leaves(params):
        size = leaf.size * leaf.dtype.itemsize
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        held += 3 * size if is_float else size  # two means of Adam
    assert held <= memory(small, x, 1e9, optimizer=adam).held < held + 100


def test_gradients_of_a_convolution_are_two_more_and_zeros_do_not_count():
    conv = jn.conv(16, 3)
    x = jn.spec((4, 12, 12, 8))
    params, state = jax.eval_shape(lambda key: conv.init(key, x), jax.random.key(0))

    def total(params, x):
        y, _ = conv.apply(params, state, x)
        return y.sum()

    forward = jn.inspect.flops(total, params, x)
    assert forward == 2 * 4 * 12 * 12 * 16 * 9 * 8
    assert jn.inspect.flops(jax.grad(total, (0, 1)), params, x) == 3 * forward
    summary = jn.summary(jn.conv_transpose(6, 3, strides=2), jn.spec((2, 8, 8, 4)))
    assert summary.rows[0].flops == 2 * 2 * 8 * 8 * 4 * 9 * 6


@pytest.mark.parametrize("change, error, words", [
    ({"memory": -1}, ValueError, r"memory must be in \[0, inf\), got -1"),
    ({"optimizer": optax.adam}, TypeError, "optimizer must be an optax optimizer"),
    ({"loss": 3}, TypeError, "loss must be a function"),
    ({"loss": lambda y: y}, TypeError, "loss must return one float"),
    ({"loss": lambda y: None}, TypeError, "loss must return one float, got None"),
])  # fmt: skip
def test_refusals(change, error, words):
    with pytest.raises(error, match=f"memory: {words}"):
        given = {"memory": 1e9} | change
        memory(jn.dense(3), spec((2, 5)), **given)


VERSIONS = f"jaxnet {jn.__version__}, jax {jax.__version__}, Python {platform.python_version()}"
SIZES = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 13 * 10**9 // 4096}


@pytest.fixture
def cpu(monkeypatch):
    """A machine with seven cores, whose JAX may take any device."""
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.setattr(os, "sysconf", SIZES.get, raising=False)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    before = jax.config.jax_platforms  # type: ignore[attr-defined]
    jax.config.update("jax_platforms", None)
    yield f"{VERSIONS} on cpu (7 cores, 13 GB, convolutions by {instructions() or 'XLA'})"
    jax.config.update("jax_platforms", before)


@pytest.fixture
def fake_machine(monkeypatch):
    """Tells which commands and files a machine has."""
    module = importlib.import_module("jaxnet.inspect.machine")

    def fake_machine(command, file):
        monkeypatch.setattr(module, "which", lambda name: name == command)
        monkeypatch.setattr(module, "glob", lambda name: [file] if name[:8] == file[:8] else [])

    return fake_machine


def test_versions_cores_and_memory(cpu, fake_machine):
    fake_machine("", "")
    assert jn.inspect.machine() == cpu


@pytest.mark.parametrize(("command", "file", "words"), [
    ("nvidia-smi", "", 'GPU: run pip install "jax[cuda12]==VERSION" and restart'),
    ("", "/dev/accel0", 'TPU: run pip install "jax[tpu]==VERSION" and restart'),
    ("", "/dev/vfio/0", 'TPU: run pip install "jax[tpu]==VERSION" and restart'),
])  # fmt: skip
def test_a_device_that_jax_does_not_use(command, file, words, cpu, fake_machine):
    fake_machine(command, file)
    words = words.replace("VERSION", jax.__version__)
    assert jn.inspect.machine() == f"{cpu}; JAX does not use the {words}"
    jax.config.update("jax_platforms", "cpu")  # as it was told
    assert jn.inspect.machine() == cpu


@pytest.mark.parametrize(("kind", "count", "stats", "words"), [
    ("Tesla T4", 3, {"bytes_limit": 11_800_000_000}, "3 of Tesla T4, 12 GB"),
    ("Chip", 1, None, "1 of Chip"),
    ("Chip", 1, {}, "1 of Chip"),
], ids=["memory", "none told", "nothing told"])  # fmt: skip
def test_other_devices_by_kind(kind, count, stats, words, monkeypatch):
    device = SimpleNamespace(device_kind=kind, memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "devices", lambda: [device] * count)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert jn.inspect.machine().endswith(f" on gpu ({words})")
