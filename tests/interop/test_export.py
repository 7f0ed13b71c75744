"""Programs against the nets that they came from, here and in a process without jaxnet."""

import dataclasses
import os
import pickle
import subprocess
import sys
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxnet as jn
from jaxnet.interop.export import export, load_exported
from tests.catalogue import ROWS, cases, fill
from tests.helpers import close, drawn, jit_apply, refuses

pytest.importorskip("flatbuffers", reason="jax.export writes its files with it")

KEYS_MAY_REPEAT = True  # one key draws the same weights and inputs for both sides
KEY = jax.random.key(5)


def dense(**options):
    """The program of a small net."""
    net, x = jn.dense(3), jn.spec((2, 5))
    return export(net, *net.init(KEY, x), x, **options)


def sized(x, n):
    return jax.tree.map(lambda a: jnp.asarray(np.concatenate([a] * n)[:n]), x)


LENGTHS = (jn.spec((3, 6, 5)), jn.spec((3,), jnp.int32))
NETS = {
    "lenet5": (lambda: jn.models.lenet5(classes=7), jn.spec((2, 28, 28, 1))),
    "cifar_resnet": (lambda: jn.models.cifar_resnet(8, classes=7), jn.spec((2, 8, 6, 3))),
    "lstm": (lambda: jn.serial(jn.lstm(4), jn.last_step(), jn.dense(3)), LENGTHS),
    "transformer_block": (lambda: jn.transformer_block(2, 6, rotary=True),
                          (jn.spec((2, 5, 8)), jn.spec((2,), jnp.int32))),
}  # fmt: skip


def inputs(x, n, key=KEY):
    def leaf(a):
        if jnp.issubdtype(a.dtype, jnp.integer):
            return jnp.arange(1, n + 1, dtype=a.dtype) % 5 + 1
        return jax.random.normal(key, (n, *a.shape[1:]), a.dtype)

    return jax.tree.map(leaf, x)


# Only jax and numpy are imported: None makes any import of jaxnet fail.
ELSEWHERE = """
import sys
sys.modules["jaxnet"] = None
import jax.export, numpy as np

folder = sys.argv[1]
for name in sys.argv[2:]:
    with open(f"{folder}/{name}.stablehlo", "rb") as file:
        program = jax.export.deserialize(bytearray(file.read()))
    for n in (2, 5):
        with np.load(f"{folder}/{name}_{n}.npz") as data:
            x = [data[key] for key in sorted(data) if key[0] == "x"]
            y = program.call(tuple(x) if len(x) > 1 else x[0])
            for i, leaf in enumerate(jax.tree.leaves(y)):
                np.testing.assert_allclose(leaf, data[f"y{i}"], 1e-5, 1e-5)
                print(name, n, i, leaf.shape)
"""


@pytest.mark.long
def test_programs_run_in_a_process_without_jaxnet(tmp_path):
    for name, (make, spec) in NETS.items():
        net = make()
        params, state = drawn(net, spec)
        export(net, params, state, spec).save(tmp_path / f"{name}.stablehlo")
        x = inputs(spec, 5)
        y, _ = jax.jit(net.apply)(params, state, x)
        for n in (2, 5):
            arrays = {f"x{i}": a[:n] for i, a in enumerate(jax.tree.leaves(x))}
            arrays |= {f"y{i}": a[:n] for i, a in enumerate(jax.tree.leaves(y))}
            np.savez(tmp_path / f"{name}_{n}.npz", **arrays)
    done = subprocess.run(  # -I: neither this folder nor PYTHONPATH is searched
        [sys.executable, "-I", "-c", ELSEWHERE, str(tmp_path), *NETS],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 * len(NETS)


@pytest.mark.fast_cases(
    "adaline",
    "conv-signal",
    "global_avg_pool",
    "learned_positions-given",
    "max_pool-dilated",
    "quantized-4",
    "rnn_cell",
)
@pytest.mark.parametrize("row", cases())
def test_every_layer_takes_an_open_batch_size(row):
    """Shapes alone: quick enough for all of the catalogue. Values of some follow."""
    layer = row.make()
    params, state = jax.eval_shape(layer.init, KEY, row.x)
    (batch,) = jax.export.symbolic_shape("batch")
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype), row.x)
    y, _ = jax.eval_shape(layer.apply, params, state, x)
    needed, _ = jax.eval_shape(layer.apply, params, state, row.x)
    for ours, theirs in zip(jax.tree.leaves(y), jax.tree.leaves(needed), strict=True):
        assert ours.shape == (batch, *theirs.shape[1:])


SOME = {"conv-strided", "locally_connected", "max_pool-overlap", "multi_head_attention",
        "conv-grouped", "conv-video"}  # fmt: skip


@pytest.mark.fast_cases("conv-video")
@pytest.mark.parametrize("row", cases(row for row in ROWS if row.id in SOME))
def test_values_with_an_open_batch_size_for_several_platforms(row):
    layer, x = row.make(), fill(row)
    params, state = layer.init(KEY, row.x)
    program = export(layer, params, state, row.x, platforms=["cpu", "cuda", "tpu"])
    assert str(program).endswith("on cpu, cuda, tpu")
    for n in (1, 5):
        close(program(sized(x, n)), jit_apply(layer, params, state, sized(x, n))[0])


def test_the_program_is_plain_stablehlo():
    net, x = jn.conv(4, 3), jn.spec((2, 8, 6, 3))
    text = export(net, *net.init(KEY, x), x).exported.mlir_module()
    text = text.replace("custom_call @shape_assertion", "")
    assert "stablehlo.convolution" in text
    assert "custom_call" not in text


@pytest.mark.slow
def test_weights_outside_are_exchanged(tmp_path):
    net = jn.serial(jn.conv(4, 3), jn.batch_norm(), jn.global_avg_pool(), jn.dropout(0.5))
    spec = jn.spec((2, 6, 5, 1))
    params, state = drawn(net, spec)
    file = export(net, params, state, spec, weights_inside=False).save(tmp_path / "net.stablehlo")
    program, x = load_exported(file), inputs(spec, 3)
    for factor in (1.0, -2.0):
        params = jax.tree.map(lambda a, f=factor: a * f, params)
        jn.save(tmp_path / "net.safetensors", {"params": params, "state": state})
        weights = load_file(tmp_path / "net.safetensors")
        close(program(weights, x), jit_apply(net, params, state, x)[0])
    words = r"expected \(a dict of 6 weights, \(batch, 6, 5, 1\) float32"
    with pytest.raises(ValueError, match=words):
        program(x)
    with pytest.raises(ValueError, match=r"(?s)Shape mismatch.*params/conv/kernel.*\(3, 3, 1, 4\)"):
        program(weights | {"params/conv/kernel": jnp.zeros((3, 3, 2, 4))}, x)


def test_weights_inside_make_the_file_larger(tmp_path):
    net, x = jn.dense(100), jn.spec((2, 50))
    params, state = net.init(KEY, x)
    for inside, low, high in ((True, 4 * 5000, 5 * 5000), (False, 0, 5000)):
        program = export(net, params, state, x, weights_inside=inside)
        assert low < program.save(tmp_path / "a").stat().st_size < high


@pytest.mark.slow
@pytest.mark.parametrize("outside", [False, True], ids=["x", "weights"])
def test_gradients_by_option(tmp_path, outside):
    net = jn.serial(jn.conv(3, 3), jnp.tanh, jn.global_avg_pool())
    spec = jn.spec((2, 6, 5, 2))
    params, state = drawn(net, spec)
    x, names = inputs(spec, 4), ["bias", "kernel"]
    program = export(net, params, state, spec, weights_inside=not outside)
    once = load_exported(program.save(tmp_path / "once", gradients=1))

    def total(program, params, x):
        weights = {f"params/conv/{name}": params["conv"][name] for name in names}
        return (program(weights, x) if outside else program(x)).sum()

    def ours(params, x):
        return jit_apply(net, params, state, x)[0].sum()

    loaded = partial(total, once)
    found, wanted = (jax.jit(jax.grad(f, 0 if outside else 1)) for f in (loaded, ours))
    close(found(params, x), wanted(params, x))
    never = load_exported(program.save(tmp_path / "never"))
    with pytest.raises(ValueError, match="[Nn]o VJP"):
        jax.grad(partial(total, never), 1)(params, x)


@pytest.mark.slow
def test_gradients_pass_by_integers(tmp_path):
    make, spec = NETS["lstm"]
    net = make()
    params, state = drawn(net, spec)
    x, lengths = inputs(spec, 4)
    once = load_exported(export(net, params, state, spec).save(tmp_path / "lstm", gradients=1))
    theirs = jax.jit(jax.grad(lambda x: once((x, lengths)).sum()))(x)
    close(theirs, jax.jit(jax.grad(lambda x: net.apply(params, state, (x, lengths))[0].sum()))(x))


def test_images_of_open_sizes():
    net = jn.serial(jn.conv(4, 3), jn.conv(2, 3, padding="VALID", groups=2))
    params, state = net.init(KEY, jn.spec((1, 9, 9, 4)))
    sizes = jax.export.symbolic_shape("batch, h, w", constraints=["h >= 8", "w >= 8"])
    program = export(net, params, state, jn.spec((*sizes, 4)))
    x = jnp.ones((2, 8, 11, 4))
    close(program(x), jit_apply(net, params, state, x)[0])


@pytest.mark.slow
def test_further_open_sizes():
    net = NETS["lstm"][0]()
    params, state = drawn(net, LENGTHS)
    batch, time = jax.export.symbolic_shape("batch, time")
    program = export(net, params, state, (jn.spec((batch, time, 5)), jn.spec((batch,), jnp.int32)))
    x = jax.random.normal(KEY, (4, 9, 5)), jnp.array([9, 1, 5, 7])
    close(program(x), jit_apply(net, params, state, x)[0])


TURNED = partial(jn.rotary, size=2, interleaved=True)


@pytest.mark.fast_cases("partial", "sinusoidal")
@pytest.mark.parametrize("net", [
    jn.multi_head_attention(2, causal=True, rotary=TURNED, window=2),
    jn.transformer_block(2, 12, rotary=True, causal=True, norm=jn.rms_norm, gated=True, kv_heads=1),
    jn.layers.sinusoidal_positions(), jn.learned_positions(9),
], ids=["partial", "block", "sinusoidal", "learned"])  # fmt: skip
def test_positions_of_an_open_time_axis(net):
    params, state = drawn(net, jn.spec((2, 5, 8)))
    sizes = jax.export.symbolic_shape("batch, time", constraints=["time <= 9"])
    program = export(net, params, state, jn.spec((*sizes, 8)))
    for shape in ((3, 4, 8), (2, 9, 8)):
        x = jax.random.normal(KEY, shape)
        close(program(x), jit_apply(net, params, state, x)[0])


def test_a_fixed_batch_size():
    program = dense(batch=4)
    assert str(program).startswith("(4, 5) float32 -> (4, 3) float32 on ")
    with pytest.raises(ValueError, match=r"expected \(4, 5\) float32, got \(2, 5\) float32"):
        program(jnp.ones((2, 5)))


def test_a_layer_that_needs_the_batch_size():
    net = jn.serial(lambda x: x / len(x), name="mean")
    with pytest.raises(TypeError) as caught:
        export(net, {}, {}, jn.spec((2, 5)))
    assert "write export(..., batch=32)" in "".join(caught.value.__notes__)
    close(export(net, {}, {}, jn.spec((2, 5)), batch=4)(jnp.ones((4, 5))), jnp.ones((4, 5)) / 4)


def test_a_program_for_another_platform():
    net, x = jn.conv(3, 3), jn.spec((2, 5, 1))
    other = "tpu" if jax.default_backend() == "cpu" else "cpu"
    with pytest.raises(ValueError, match=f"(?s)expected .*{other}"):
        export(net, *net.init(KEY, x), x, platforms=[other])(jnp.ones((2, 5, 1)))


def test_a_program_that_this_jax_cannot_read():
    """As one of 0.12.0 is for 0.10.2."""
    program = dense()
    unknown = dataclasses.replace(program.exported, mlir_module_serialized=b"of tomorrow")
    words = f"jax {jax.__version__} cannot read a program written by a newer"
    with pytest.raises(ValueError, match=words):
        program._replace(exported=unknown)(jnp.ones((2, 5)))


@pytest.mark.parametrize("damage", [
    lambda b: b[:-1], lambda b: b"", lambda b: b[:400] + bytes([b[400] ^ 1]) + b[401:],
], ids=["a byte short", "empty", "a bit turned"])  # fmt: skip
def test_broken_files(tmp_path, damage):
    file = dense().save(tmp_path / "new" / "net.stablehlo")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match="net.stablehlo .* is truncated, changed, or not written"):
        load_exported(file)


def test_a_program_is_written_below_home_and_read_without_pickle(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert dense().save("~/net") == tmp_path / "net"
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.delattr(pickle, name)  # it is not used
    assert load_exported("~/net")(jnp.ones((2, 5))).shape == (2, 3)


def tanh(**change):
    given = {"net": jn.serial(jnp.tanh), "params": {}, "state": {}, "x": jn.spec((2, 3))}
    return export(**given | change)


test_refusals = refuses([
    (lambda: dense()(np.ones((3, 4), "f")), r"\(batch, 5\) float32, got \(3, 4\) float32: Shape"),
    (lambda: dense()(np.ones((3, 5), "i")), r"32, got \(3, 5\) int32: Dtype"),
    (lambda: dense()(np.ones(5, "f")), r"\(batch, 5\) float32, got \(5,\) float32"),
    (lambda: dense()(np.ones((0, 5), "f")), r"float32, got \(0, 5\) float32"),
    (lambda: dense()([np.ones((3, 5), "f")]), r"got \[\(3, 5\) float32\].*structure"),
    (lambda: dense()(object()), TypeError, r"program: |the input must "),
    (lambda: dense(batch=0), "batch must be at least 1, .*got 0"),
    (lambda: tanh(net=jn.dense(3)), "dense/kernel: expected"),
    (lambda: tanh(batch=2.5), TypeError, "export: batch must be an integer, got 2.5"),
    (lambda: tanh(batch=2, x=jn.spec((*jax.export.symbolic_shape("b"), 5))),
     "batch must be None for an x with symbolic sizes, got 2"),
    (lambda: tanh(platforms="cpu"), TypeError,
     "export: platforms must be a list of str, such as .*got 'cpu'"),
    (lambda: tanh(platforms=[]), TypeError, "export: platforms must be a list of str"),
    (lambda: tanh(platforms=["gpu"]),
     "export: a platform must be 'cpu', 'cuda', 'rocm' or 'tpu', got"),
    (lambda: load_exported("."), IsADirectoryError, "load_exported: .* is a folder"),
    (lambda: load_exported("none"), FileNotFoundError, "load_exported: there is no file .*none"),
    (lambda: load_exported("/dev/null"), OSError, "null is a device, pipe or socket"),
    (lambda: dense().save("/dev/null"), OSError, "null is a device, pipe or socket"),
    (lambda: load_exported(None), TypeError, "path must be a str or a Path, got NoneType"),
    (lambda: dense().save(None), TypeError, "path must be a str or a Path, got NoneType"),
])  # fmt: skip


def test_inputs_of_another_byte_order():
    assert tanh()(np.zeros((2, 3), ">f4")).tolist() == [[0, 0, 0]] * 2


KERNELS = "*(kernel|embedding)"


@pytest.mark.slow
@pytest.mark.parametrize("make", [
    lambda net: jn.lora(net, 2, where=KERNELS), jn.quantized,
    lambda net: jn.lora(jn.quantized(net, 4), 2, where=KERNELS),
], ids=["lora", "8 bits", "lora of 4 bits"])  # fmt: skip
def test_adapted_and_quantized_nets(make, tmp_path):
    """With the weights inside, and as a small program that takes the integers from a file."""
    net = make(jn.serial(jn.dense(128), jnp.tanh, jn.dense(64)))
    x = jnp.ones((2, 256))
    params, state = net.init(KEY, x)
    whole = export(net, params, state, x).save(tmp_path / "whole")
    program = export(net, params, state, x, weights_inside=False).save(tmp_path / "program")
    jn.save(tmp_path / "weights", {"params": params, "state": state})
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert os.path.getsize(whole) < held + 10_000
    assert os.path.getsize(program) < 10_000
    for batch in (inputs(x, 3), inputs(x, 5)):
        expected, _ = net.apply(params, state, batch)
        close(load_exported(whole)(batch), expected)
        close(load_exported(program)(load_file(tmp_path / "weights"), batch), expected)
