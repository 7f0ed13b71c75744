"""Small operations: linear algebra, dtypes of sums, marks inside shard_map, packed integers.

Batched LAPACK calls that may run at once hang on few cores: compiled programs have none.
"""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxnet.ops import linalg
from jaxnet.ops.integers import scaled, scales_of_values, unpacked
from jaxnet.ops.precision import at_least_float32, output_dtype
from jaxnet.ops.varying import varying
from jaxnet.services.jax_versions import varying_axes
from tests.helpers import close, compiled
from tools.stress import PROGRAMS


def unordered(text: str) -> list[tuple[str, str]]:
    """Pairs of batched LAPACK or FFT calls of compiled HLO that do not depend on each other."""
    pairs = []
    for body in text.split("\n\n"):
        needs: dict[str, set[str]] = {}
        batched = []
        for name, rest in re.findall(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*)", body, re.M):
            used = [u for u in re.findall(r"%([\w.-]+)", rest) if u in needs]
            needs[name] = set(used).union(*(needs[u] for u in used))
            sizes = re.findall(r"\w+\[([\d,]*)\]|$", rest)[0].split(",")[:-2]
            if re.search(r'custom_call_target="lapack_| fft\(', rest) and set(sizes) - {"1"}:
                batched.append(name)
        for a, b in itertools.combinations(batched, 2):
            if a not in needs[b] and b not in needs[a]:
                pairs.append((a, b))
    return pairs


@pytest.mark.fast_cases("sparse codes", "basis pursuit")
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_two_batched_calls_at_once(name):
    function, args = PROGRAMS[name]()
    assert unordered(compiled(function, *args).as_text()) == []


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="GPUs have no LAPACK")
def test_two_at_once_are_seen():
    def both(a, b):
        q, r = jnp.linalg.qr(a)
        return q, jax.scipy.linalg.solve_triangular(r, b)

    a, b = jnp.ones((5, 4, 4)), jnp.ones((5, 4, 1))

    def pairs(function, *args):
        return len(unordered(compiled(function, *args).as_text()))

    assert pairs(jax.vmap(both), a, b) == 1
    assert pairs(jnp.linalg.solve, a, b) == 0
    assert pairs(both, a[0], b[0]) == 0


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3, 3)])
def test_qr_is_that_of_numpy(shape):
    a = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = np.linalg.qr(a)
    for run in (linalg.qr, jax.jit(linalg.qr)):
        q, r = run(jnp.asarray(a))
        np.testing.assert_allclose(q, expected.Q, atol=1e-5)
        np.testing.assert_allclose(r, expected.R, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_inverses_of_small_matrices_and_their_gradients(n):
    a = np.random.default_rng(0).normal(size=(7, 3, n, n)) + 2 * np.eye(n)
    a = jnp.asarray(a, jnp.float32)
    inverse = jax.jit(linalg.small_inverse)(a)
    np.testing.assert_allclose(inverse, np.linalg.inv(a), rtol=1e-4, atol=1e-4)

    def slope(inverse):
        return jax.jit(jax.grad(lambda a: jnp.sin(inverse(a)).sum()))(a)

    close(slope(linalg.small_inverse), slope(jnp.linalg.inv), 1e-3)


@pytest.mark.parametrize(("given", "summed", "output"), [
    (jnp.bfloat16, jnp.float32, jnp.bfloat16),
    (jnp.float32, jnp.float32, jnp.float32),
    (jnp.complex64, jnp.complex64, jnp.complex64),
    (jnp.bool_, jnp.float32, jnp.float32),
])  # fmt: skip
def test_dtypes(given, summed, output):
    x = jnp.ones(3, given)
    assert at_least_float32(x).dtype == summed and output_dtype(x) == output


def test_float64_stays(x64):
    assert at_least_float32(jnp.ones(3)).dtype == output_dtype(jnp.ones(3)) == jnp.float64
    assert output_dtype(jnp.ones(3, int)) == jnp.float32


def test_zeros_become_the_start_of_a_loop_over_a_slice():
    def run(x):
        assert not varying_axes(jnp.zeros(()))
        start = varying({"sum": jnp.zeros(())}, x)
        return jax.lax.fori_loop(0, 3, lambda i, a: {"sum": a["sum"] + x.sum()}, start)["sum"][None]

    mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,))
    y = jax.shard_map(run, mesh=mesh, in_specs=P("data"), out_specs=P("data"))(jnp.arange(4.0))
    assert y.tolist() == [18.0]
    zero = jnp.zeros(3)
    assert varying(zero, jnp.ones(2)) is zero  # outside of shard_map


def test_of_several_axes_only_the_missing_are_added():
    def run(x, y):
        along_one = varying(jnp.zeros(()), x)
        assert varying_axes(along_one) == {"rows"}
        along_both = varying(along_one, x, y)
        assert varying_axes(along_both) == {"rows", "columns"}
        return (along_both + x.sum() + y.sum())[None, None]

    mesh = jax.make_mesh((1, 1), ("rows", "columns"), (AxisType.Auto,) * 2)
    specs = {"in_specs": (P("rows"), P("columns")), "out_specs": P("rows", "columns")}
    y = jax.shard_map(run, mesh=mesh, **specs)(jnp.ones(2), jnp.ones(3))
    assert y.tolist() == [[5.0]]


RNG = np.random.default_rng(0)


@pytest.mark.parametrize("length", [6, 7])
def test_two_numbers_of_4_bits_lie_in_a_byte(length):
    numbers = RNG.integers(-8, 8, (3, length))
    low = numbers[:, ::2] & 15
    high = np.zeros_like(low)
    high[:, : length // 2] = numbers[:, 1::2] & 15
    packed = jnp.asarray(low + 16 * high, jnp.uint8)
    np.testing.assert_array_equal(unpacked(packed, length), numbers)
    assert unpacked(jnp.asarray(numbers, jnp.int8), length).tolist() == numbers.tolist()


@pytest.mark.parametrize("length, groups, size", [(7, 1, 7), (7, 7, 1), (7, 2, 4), (6, 3, 2)])
def test_neighbors_share_a_scale(length, groups, size):
    numbers, scale = RNG.normal(size=(2, length, 3)), RNG.uniform(size=(1, groups, 3))
    wanted = np.stack([numbers[:, i] * scale[:, i // size] for i in range(length)], 1)
    np.testing.assert_allclose(scaled(jnp.asarray(numbers), jnp.asarray(scale)), wanted, 1e-6)
    spread = np.broadcast_to(scales_of_values(jnp.asarray(scale), numbers.shape), numbers.shape)
    np.testing.assert_allclose(numbers * spread, wanted, 1e-6)
