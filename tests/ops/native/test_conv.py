"""Convolutions in C against plain loops in float64, and everything around them."""

import ctypes
import importlib
import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxnet as jn
from jaxnet.ops import native
from jaxnet.ops.convolution import convolve
from jaxnet.ops.convolution_lowering import Form, accelerator
from jaxnet.ops.native import conv, instructions
from jaxnet.ops.native.conv import TARGET, convolution, supports
from tests.helpers import compiled, near

pytestmark = pytest.mark.skipif(instructions() is None, reason="needs the kernels in C")

OPERANDS = {"y": "xw", "x": "wy", "w": "xy"}
SLOW = pytest.mark.slow
run = jax.jit(convolution, static_argnames=("wanted", "form"))
plain = jax.jit(accelerator, static_argnames=("wanted", "form"))


def form_of(inputs, window, strides=1, low=0, high=0, dilation=1, input_dilation=1, groups=1):
    axes = len(inputs)
    return Form(
        strides=(strides,) * axes,
        padding=((low, high),) * axes,
        dilation=(dilation,) * axes,
        input_dilation=(input_dilation,) * axes,
        groups=groups,
        inputs=inputs,
        window=window,
    )


def arrays(form, nets, batch, inputs, features, seed=0, dtype="float32"):
    """x, w and y that fit, as a dict."""
    shapes = {
        "x": (nets, batch, *form.inputs, inputs),
        "w": (nets, *form.window, inputs // form.groups, features),
        "y": (nets, batch, *form.outputs, features),
    }
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=s).astype(jnp.dtype(dtype)) for name, s in shapes.items()}


def exact(wanted, form, x, w, y):
    """The wanted array of the other two by a loop over the taps, in float64."""
    x, w, y = (np.asarray(a, np.float64) for a in (x, w, y))
    far = max(map(abs, np.ravel(form.padding))) + 1
    sizes, inside = [], []
    for length, apart in zip(form.inputs, form.input_dilation, strict=True):
        size = (length - 1) * apart + 1
        sizes.append(size + 2 * far)
        inside.append(slice(far, far + size, apart))
    zeros = np.zeros((*x.shape[:2], *sizes, x.shape[-1]))
    if wanted != "x":
        zeros[:, :, *inside] = x
    result = {"x": zeros, "w": np.zeros_like(w), "y": np.zeros_like(y)}[wanted]
    for tap in np.ndindex(form.window):
        seen = _seen(form, tap, far)
        for group in range(form.groups):
            ins = _of_group(group, x.shape[-1], form.groups)
            outs = _of_group(group, y.shape[-1], form.groups)
            here = zeros[:, :, *seen, ins]
            kernel = w[:, *tap, :, outs]
            there = y[..., outs]
            if wanted == "y":
                result[..., outs] += np.einsum("en...i,eio->en...o", here, kernel)
            elif wanted == "x":
                here += np.einsum("en...o,eio->en...i", there, kernel)
            else:
                flat = [a.reshape(len(a), -1, a.shape[-1]) for a in (here, there)]
                result[:, *tap, :, outs] += np.einsum("eni,eno->eio", *flat)
    return zeros[:, :, *inside] if wanted == "x" else result


def _seen(form, tap, far):
    """The entries that a tap sees at all positions, in an input between zeros."""
    seen = []
    axes = zip(tap, form.dilation, form.padding, form.outputs, form.strides, strict=True)
    for entry, apart, (low, _), outputs, stride in axes:
        first = far - low + entry * apart
        seen.append(slice(first, first + (outputs - 1) * stride + 1, stride))
    return seen


def _of_group(group, features, groups):
    size = features // groups
    return slice(group * size, (group + 1) * size)


def check(wanted, form, given):
    a, b = (given[name] for name in OPERANDS[wanted])
    expected = exact(wanted, form, **given)
    found = run(a, b, wanted=wanted, form=form)
    assert found.shape == expected.shape and found.dtype == a.dtype
    rounding = 0 if a.dtype == np.float32 else jnp.finfo(a.dtype).eps / 2  # once, at the end
    most = 1e-5 * max(1, abs(expected).max())
    np.testing.assert_allclose(np.float64(found), expected, rtol=rounding, atol=most)


CASES = {
    "3x3": (form_of((9, 33), (3, 3), low=1, high=1), 1, 3, 16, 32),
    "odd features": (form_of((5, 8), (3, 3), low=1, high=1), 1, 2, 17, 21),
    "strides": (form_of((9, 16), (3, 3), strides=2, low=0, high=1), 1, 2, 16, 48),
    "few features": (form_of((28, 28), (5, 5), low=2, high=2), 1, 2, 1, 6),
    "far apart": (form_of((8, 9), (2, 3), strides=3, low=3, high=2, dilation=2), 2, 2, 3, 5),
    "cropping": (form_of((8, 9), (2, 3), low=-2, high=-1), 1, 2, 4, 20),
    "groups": (form_of((6, 9), (3, 2), low=1, high=0, groups=3), 1, 2, 12, 18),
    "depthwise": (form_of((6, 9), (3, 3), strides=2, low=1, high=0, groups=21), 1, 2, 21, 21),
    "small groups": (form_of((6, 9), (3, 3), low=1, high=1, groups=8), 2, 2, 32, 32),
    "many outputs of one input": (form_of((3, 4, 7), (2, 2, 3), groups=9), 1, 2, 9, 36),
    "line": (form_of((40,), (4,), strides=2, low=3, high=0), 3, 2, 5, 12),
    "one tap": (form_of((9, 33), (1, 1), strides=2, low=1, high=0), 2, 3, 300, 271),
    "far apart, a tap at once": (form_of((9, 6), (3, 3), strides=2, low=1, high=1), 1, 3, 130, 50),
    "one pixel": (form_of((1, 1), (3, 3), low=1, high=1), 1, 4, 40, 8),
    "zeros between": (form_of((4, 6), (3, 2), low=2, high=1, input_dilation=2), 1, 2, 9, 33),
    "volume": (form_of((3, 5, 7), (3, 2, 3), low=1, high=1), 1, 2, 5, 17),
    "volume depthwise": (form_of((3, 5, 9), (3, 3, 3), low=1, high=1, groups=18), 1, 2, 18, 18),
}  # fmt: skip


@pytest.mark.fast_cases(
    "3x3-y-float32", "3x3-y-bfloat16", "odd features-y-float32", "odd features-y-bfloat16"
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", pytest.param("float16", marks=SLOW)])
@pytest.mark.parametrize("wanted", OPERANDS)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, wanted, dtype):
    form, *sizes = CASES[case]
    check(wanted, form, arrays(form, *sizes, dtype=dtype))


@pytest.mark.slow
@pytest.mark.parametrize("build", ["pages", "addresses", "threads"])
def test_without_jax_beside_guard_pages(build):
    tools = pytest.importorskip("tools.native")
    assert "60 cases of each" in tools.run(build, 60)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "strides", "inputs", "window"), [
    (TARGET, (2, 1), 5, (3, 2)), ("jaxnet_winograd", (1, 1), 9, (3, 3)),
])  # fmt: skip
def test_derivatives_of_all_kinds_agree_with_xla(monkeypatch, target, strides, inputs, window):
    """To second order, under vmap over both operands, in a scan and with remat."""
    monkeypatch.setattr(conv, "OVERHEAD", 0)
    kernel = 3, *window, inputs, 8
    shapes = (3, 2, 7, 8, inputs), kernel, kernel
    x, w, v = (np.float32(np.random.default_rng(3).normal(size=shape)) for shape in shapes)

    def everything(x, w, v):
        one = partial(convolve, strides=strides, padding=((1, 1), (0, 1)))

        def loss(w, x):
            again = jax.checkpoint(lambda w: jnp.sin(one(x, w)))
            return lax.scan(lambda c, _: (c + again(w * c).mean(), None), 0.1, None, length=2)[0]

        def twice(x, w, v):
            return jax.jvp(lambda w: jax.grad(loss, (0, 1))(w, x), (w,), (v,))

        return jax.vmap(twice)(x, w, v)

    found = compiled(everything, x, w, v)
    assert target in found.as_text()
    monkeypatch.setattr(conv, "supports", lambda *args, **options: False)
    expected = compiled(everything, x, w, v)
    assert target not in expected.as_text()

    near(found(x, w, v), expected(x, w, v), 1e-4, 0)


@pytest.mark.slow
def test_what_is_not_a_number_goes_where_xla_puts_it():
    """Zeros around the input are multiplied too: with NaN and infinity they are not zero."""
    forms = form_of((5, 7), (3, 3), low=1, high=1), form_of((8, 8), (3, 2), strides=3)
    forms += (form_of((8, 8), (1, 1), strides=3, low=1, high=1),)
    kinds = itertools.product(("float32", "bfloat16"), forms, OPERANDS.items())
    for dtype, form, (wanted, names) in kinds:
        for name, value in itertools.product(names, (np.nan, np.inf)):
            given = arrays(form, 1, 2, 3, 4, dtype=dtype)
            given[name].flat[0] = value
            operands = [given[n] for n in names]
            found = np.isfinite(run(*operands, wanted=wanted, form=form))
            expected = np.isfinite(plain(*operands, wanted=wanted, form=form))
            np.testing.assert_array_equal(found, expected, f"{value} in {name} for {wanted}")


def test_tiny_and_huge_numbers():
    form = form_of((5, 7), (3, 3), low=1, high=1)
    given = arrays(form, 1, 2, 3, 4)
    for scale in (1e-42, 1e-30, 1e30):  # 1e-42 has no leading digit in float32
        x, w = given["x"] * np.float32(scale), given["w"]
        found, expected = (f(x, w, wanted="y", form=form) for f in (run, plain))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=scale * 1e-5 + 1e-44)


def test_an_empty_batch():
    form = form_of((5, 7), (3, 3))
    given = arrays(form, 1, 0, 3, 4)
    for wanted, names in OPERANDS.items():
        found = run(*(given[n] for n in names), wanted=wanted, form=form)
        assert not found.size or not found.any()
    assert convolve(given["x"][0], given["w"][0], strides=(1, 1), padding=((0, 0),) * 2).size == 0


@pytest.mark.parametrize("change, message", [
    (dict(x=(1, 2, 1, 6, 7, 4)), "dims"), (dict(w=(1, 3, 3, 3)), "rank == RANK"),
    (dict(y=(1, 3, 1, 4, 5, 4)), "dims"), (dict(dtype=np.int32), "F32"),
    (dict(form=[0, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1]), "form"),
    (dict(form=[3, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1]), "KIND"),
    (dict(form=[0, 1, 1]), "NUMBERS"),
    (dict(form=[0, 1, 1, 1, 1, 1, *[2**31 - 1] * 2, 0, 0, 0, 1, 1, 1]), "no memory"),
])  # fmt: skip
def test_arrays_that_do_not_fit_are_errors(change, message):
    usual = {
        "x": (1, 2, 1, 6, 7, 3),
        "w": (1, 1, 3, 3, 3, 4),
        "y": (1, 2, 1, 4, 5, 4),
        "form": [0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1],
        "dtype": np.float32,
    }
    given = usual | change
    call = jax.ffi.ffi_call(TARGET, jax.ShapeDtypeStruct(given["y"], np.float32))
    x, w = (np.ones(given[n], given["dtype"]) for n in "xw")
    with pytest.raises(Exception, match=f"jaxnet.*: .*{message}"):
        jax.jit(call, static_argnames="form")(x, w, form=_Numbers(given["form"]))


class _Numbers(np.ndarray):
    """An array that can be a static argument."""

    def __new__(cls, numbers):
        return np.array(numbers, np.int64).view(cls)

    def __hash__(self):
        return hash(tuple(self))

    def __eq__(self, other):
        return tuple(self) == tuple(other)


def test_what_the_kernels_leave_to_xla():
    form = form_of((6, 7), (3, 3))
    x, w = jnp.ones((1, 2, 6, 7, 3)), jnp.ones((1, 3, 3, 3, 4))
    assert supports(x, w, wanted="y", form=form)
    one, pixels = form_of((6, 7), (1, 1)), jnp.ones((1, 2, 6, 7, 4))
    assert not supports(x, w[:, :1, :1], wanted="y", form=one)  # a product
    for inputs, batch, there in ((4, 2, True), (3, 2, False), (4, 1, False)):
        given = jnp.ones((1, batch, 6, 7, inputs)), pixels[:, :batch]
        assert supports(*given, wanted="w", form=one) == there
    assert not supports(x.astype(int), w.astype(int), wanted="y", form=form)
    spread = form_of((6, 7), (3, 3), strides=2, input_dilation=2)
    y = jnp.ones((1, 2, *spread.outputs, 4))
    assert supports(x, w, wanted="y", form=spread)
    assert not supports(x, y, wanted="w", form=spread)
    y = jnp.ones((1, 2, 1, 1, 4))
    distant = form_of((6, 7), (3, 3), low=20_000, high=20_000, dilation=20_000)
    assert not supports(w, y, wanted="x", form=distant)
    four = form_of((6, 7, 5, 4), (3,) * 4)
    x, w = jnp.ones((1, 2, 6, 7, 5, 4, 3)), jnp.ones((1, *[3] * 5, 4))
    assert not supports(x, w, wanted="y", form=four)


def test_threads_that_compute_at_once_have_the_same_bits():
    x, w = jnp.ones((16, 12, 12, 8)) * 0.1, jnp.linspace(-1, 1, 9 * 8 * 8).reshape(3, 3, 8, 8)

    @jax.jit
    def program(x, w):
        def loss(w):
            return jnp.sin(convolve(x, w, strides=(1, 1), padding=((1, 1), (1, 1)))).sum()

        return jax.grad(loss)(w)

    def bits(_=None):
        return np.asarray(program(x, w)).tobytes()

    expected = bits()
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(bits, range(200))) == {expected}


# In processes of their own.

PROGRAM = """
import hashlib, sys
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from jaxnet.ops.convolution import convolve
from jaxnet.ops.native import instructions
from jaxnet.ops.product import product

@jax.jit
def gradients(*given):
    y = partial(convolve, strides=(1, 1), padding=((1, 1), (1, 1)))
    return jax.grad(lambda x, w, v: jnp.sum(jnp.square(y(y(x, w), v))), (0, 1, 2))(*given)

rng = np.random.default_rng(0)
shapes = [(16, 16, 16, 16), (3, 3, 16, 20), (2, 2, 20, 8)]
given = [np.float32(rng.normal(size=s)) for s in shapes]
half = [jnp.asarray(a, jnp.bfloat16) for a in (*given, *rng.normal(size=(2, 16, 4200)))]
y, pull = jax.vjp(jax.jit(product), half[3], half[4].T)
found = [*gradients(*given), *gradients(*half[:3]), y, *pull(y)]
digest = hashlib.sha256(b"".join(np.asarray(g).tobytes() for g in found)).hexdigest()
text = gradients.lower(*given).compile().as_text()
print(instructions(), *(text.count(name) for name in ("jaxnet_conv", "jaxnet_winograd")), digest)
"""


@pytest.fixture
def in_a_process(monkeypatch):
    """Runs the program with these variables; returns the words that it prints."""

    def run(**variables) -> list[str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PYTHONPATH", str(Path(jn.__file__).parent.parent))
        command = [sys.executable, "-W", "error", "-c", PROGRAM]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    return run


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits(in_a_process):
    found = {tuple(in_a_process(NPROC=threads)) for threads in ("1", "2", "8")}
    assert len(found) == 1 and next(iter(found))[1:3] == ("3", "3")


@pytest.mark.slow
def test_the_variable_turns_instructions_off(in_a_process):
    assert in_a_process(JAXNET_NATIVE="0")[:3] == ["None", "0", "0"]
    if instructions().startswith("AVX-512"):
        assert in_a_process(JAXNET_NATIVE="avx2")[:3] == ["AVX2", "3", "3"]


@pytest.mark.slow
def test_a_second_process_reads_the_program_from_the_cache(in_a_process, tmp_path):
    variables = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    first = in_a_process(**variables)
    written = {path.name for path in tmp_path.iterdir() if "atime" not in path.name}
    assert written and in_a_process(**variables) == first
    assert written == {path.name for path in tmp_path.iterdir() if "atime" not in path.name}


def test_another_value_of_the_variable_is_an_error(monkeypatch):
    monkeypatch.setenv("JAXNET_NATIVE", "sse")
    with pytest.raises(ValueError, match="JAXNET_NATIVE must be one of 1, avx512, avx2, 0, got"):
        instructions.__wrapped__()


@pytest.mark.parametrize(("layer", "shape"), [
    (jn.conv(5, 1), (4, 3, 5, 3)), (jn.lstm(8), (1, 9, 3)), (jn.layer_norm(), (4, 16)),
    (jn.multi_head_attention(2), (2, 4, 8)),
], ids=lambda value: getattr(value, "kind", ""))  # fmt: skip
def test_what_the_library_does_not_support_does_not_load_it(monkeypatch, layer, shape):
    def load():
        raise AssertionError("the library is loaded")

    for name in ("attention", "conv", "gemv", "lstm", "norm"):
        module = importlib.import_module(f"jaxnet.ops.native.{name}")
        monkeypatch.setattr(module, "instructions", load)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jn.spec(shape))
    run = jax.value_and_grad(lambda params, state, x: layer.apply(params, state, x)[0].sum())
    jax.jit(run).lower(*shapes, jn.spec(shape))


def test_a_library_that_cannot_be_used_is_one_warning(monkeypatch, tmp_path):
    file = tmp_path / "kernels.so"
    monkeypatch.setattr(native, "LIBRARY", file)
    assert instructions.__wrapped__() is None  # not built
    file.write_text("no library")
    with pytest.warns(UserWarning, match="LSTMs run as slower XLA operations.*jaxnet-toolkit"):
        assert instructions.__wrapped__() is None


@pytest.mark.parametrize(("theirs", "ours"), [(None, 1), (1, 1), (3, 3), (9, 5)])
def test_handlers_ask_for_the_interface_that_jax_has(theirs, ours):
    """JAX refuses a handler of a newer interface than its own, and may refuse one that is old."""

    def words(*values):  # eight bytes each: sizes of structures and pointers, or two integers
        return (ctypes.c_size_t * 10)(*values)

    at, metadata = ctypes.addressof, words()
    api = words(0, 0, 0, 0, (theirs or 0) << 32)  # the major version, 0, comes first
    question = words(0, 1, 0, at(metadata))
    frame = words(0, at(question), at(api) if theirs else 0)
    handler = ctypes.CDLL(str(native.LIBRARY)).jaxnet_conv
    handler.argtypes = [ctypes.c_void_p]
    handler(at(frame))
    assert metadata[3] == ours << 32


TWO_DEVICES = """
from functools import partial
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxnet.ops.convolution import convolve

y = partial(convolve, strides=(1, 1), padding=((1, 1), (1, 1)))
def gradients(x, w):
    return jax.grad(lambda x, w: jnp.sum(y(x, w) ** 2), (0, 1))(x, w)

x, w = jnp.ones((4, 6, 6, 8)), jnp.ones((3, 3, 8, 5))
expected = gradients(x, w)
mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
x = jax.device_put(x, NamedSharding(mesh, P("batch")))
w = jax.device_put(w, NamedSharding(mesh, P()))
inside = jax.shard_map(gradients, mesh=mesh, in_specs=(P("batch"), P()),
                       out_specs=(P("batch"), P()))
for function, calls in ((gradients, 0), (inside, 3)):
    compiled = jax.jit(function).lower(x, w).compile()
    text = compiled.as_text()
    assert text.count('custom_call_target="jaxnet_conv"') == calls, text
    assert "all-gather" not in text
    for a, b in zip(compiled(x, w), expected):
        assert jnp.allclose(a, b, rtol=1e-4)
"""


@pytest.mark.slow
def test_two_devices(on_devices):
    """Slices of `shard_map` go to the kernels; what XLA shards does not, and is not gathered."""
    on_devices(TWO_DEVICES, 2)


def test_an_exported_program_does_not_need_the_kernels():
    def y(x, w):
        return convolve(x, w, strides=(1, 1), padding=((1, 1), (1, 1)))

    x, w = jnp.ones((2, 6, 6, 8)), jnp.ones((3, 3, 8, 5))
    assert TARGET in jax.jit(y).lower(x, w).as_text()
    for platforms in None, ["cpu", "tpu"]:
        exported = jax.export.export(jax.jit(y), platforms=platforms)(x, w)
        assert TARGET not in exported.mlir_module()


@pytest.mark.slow
@pytest.mark.skipif(not native.LIBRARY.exists(), reason="the library was not built")
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_library_that_was_cut_is_one_warning(share, tmp_path, on_devices):
    """An interrupted copy would end the process with SIGBUS when its end is read."""
    words = native.LIBRARY.read_bytes()
    (tmp_path / "kernels.so").write_bytes(words[: int(share * len(words))])
    program = (
        "import pathlib, warnings; from jaxnet.ops import native\n"
        f"native.LIBRARY = pathlib.Path({str(tmp_path / 'kernels.so')!r})\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always'); assert native.instructions() is None\n"
        "assert len(said) == 1 and 'bytes' in str(said[0].message)"
    )
    on_devices(program, 1)
