"""What is found among the functions that called; the errors are in tests/core/test_compose.py."""

import runpy
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxnet as jn
from jaxnet.services.frames import inside_jax


def test_the_search_ends_at_code_that_is_named():
    def outer():
        return inside_jax(below={outer.__code__}), inside_jax(below=())

    found = []
    jax.eval_shape(lambda: found.extend(outer()))
    assert found == [False, True] and not inside_jax(below=())


def test_jaxnet_may_lie_beside_jax(monkeypatch):
    """Where pip installs both, the path of one begins like that of the other."""
    module = sys.modules["jaxnet.services.frames"]
    beside = str(Path(jn.__file__).parent).removesuffix("net")
    monkeypatch.setattr(jax, "__file__", f"{beside}/__init__.py")
    monkeypatch.setattr(module, "_JAX", runpy.run_path(module.__file__)["_JAX"])
    net, x = jn.batch_norm(), jnp.ones((4, 3))
    net.apply(*net.init(jax.random.key(0), x), x, train=True)
