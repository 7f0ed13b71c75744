"""Batched LAPACK calls that may run at once hang on few cores: compiled programs have none."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops import linalg
from tools.stress import PROGRAMS


def unordered(text: str) -> list[tuple[str, str]]:
    """Pairs of batched LAPACK or FFT calls of compiled HLO that do not depend on each other."""
    pairs = []
    for body in re.split(r"\n\n", text):
        needs: dict[str, set[str]] = {}
        batched = []
        for line in body.splitlines():
            found = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = (.*)", line)
            if not found:
                continue
            name, rest = found.groups()
            used = [u for u in re.findall(r"%([\w.-]+)", rest) if u in needs]
            needs[name] = set(used).union(*(needs[u] for u in used))
            target = re.search(r'custom_call_target="(lapack_\w+)"', rest)
            shape = re.search(r"\w+\[([\d,]*)\]", rest)
            if (target or " fft(" in rest) and shape:
                sizes = shape.group(1).split(",")
                if len(sizes) > 2 and any(size != "1" for size in sizes[:-2]):
                    batched.append(name)
        pairs += [
            (a, b) for i, a in enumerate(batched) for b in batched[i + 1 :]
            if a not in needs[b] and b not in needs[a]
        ]  # fmt: skip
    return pairs


def compiled(function, *args) -> str:
    return jax.jit(function).lower(*args).compile().as_text()


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_two_batched_calls_at_once(name):
    function, args = PROGRAMS[name]()
    assert unordered(compiled(function, *args)) == []


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="GPUs have no LAPACK")
def test_two_at_once_are_seen():
    def both(a, b):
        q, r = jnp.linalg.qr(a)
        return q, jax.scipy.linalg.solve_triangular(r, b)

    text = compiled(jax.vmap(both), jnp.ones((5, 4, 4)), jnp.ones((5, 4, 1)))
    assert len(unordered(text)) == 1
    assert unordered(compiled(jnp.linalg.solve, jnp.ones((5, 4, 4)), jnp.ones((5, 4, 1)))) == []
    assert unordered(compiled(both, jnp.ones((4, 4)), jnp.ones((4, 1)))) == []


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3, 3)])
def test_qr_is_that_of_numpy(shape):
    a = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = np.linalg.qr(a)
    for run in (linalg.qr, jax.jit(linalg.qr)):
        q, r = run(jnp.asarray(a))
        np.testing.assert_allclose(q, expected.Q, atol=1e-5)
        np.testing.assert_allclose(r, expected.R, atol=1e-5)


def test_inverses_of_2x2_and_their_gradients():
    a = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3, 2, 2)), jnp.float32)
    np.testing.assert_allclose(linalg.inverse_2x2(a), np.linalg.inv(a), rtol=1e-4)
    ours, numpys = (
        jax.jit(jax.grad(lambda a, f=f: jnp.sin(f(a)).sum()))(a)
        for f in (linalg.inverse_2x2, jnp.linalg.inv)
    )
    np.testing.assert_allclose(ours, numpys, rtol=1e-3, atol=1e-3)
