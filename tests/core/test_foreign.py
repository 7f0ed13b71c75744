"""What holds weights that nothing would train is refused in a net, whatever it is wrapped in."""

import importlib
import operator
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.core import as_layer
from jaxnet.core.foreign import INSTEAD

pytest.importorskip("flax")
from flax import linen as nn  # noqa: E402
from flax import nnx  # noqa: E402

MODULE = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
KERNEL = np.ones((4, 3), np.float32)
WAYS = {
    "itself": lambda f: f,
    "lambda": lambda f: lambda x: jax.vmap(lambda row: f(row))(x),
    "list": lambda f: lambda x, inner=[f]: inner[0](x),
    "helper": lambda f: lambda x, helper=lambda x: f(x): helper(x),
    "jit": lambda f: jax.jit(lambda x: f(x)),
    "remat": lambda f: jax.checkpoint(lambda x: f(x)),
}


@pytest.mark.parametrize("wrap", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("module, write", [
    (MODULE, "from_nnx"), (MODULE.__call__, "from_nnx"), (nn.Dense(3), "from_linen"),
    (partial(jnp.matmul, b=KERNEL), "stateless"), (jax.tree_util.Partial(jnp.dot, KERNEL), "stat"),
], ids=["nnx", "method", "linen", "partial", "pytree"])  # fmt: skip
def test_what_holds_weights_is_refused(module, write, wrap):
    with pytest.raises(TypeError, match=f"would not be trained. Write .*{write}"):
        as_layer(wrap(module))


@pytest.mark.parametrize("write", INSTEAD.values(), ids=[*INSTEAD])
def test_what_to_write_exists(write):
    for name in re.findall(r"jn\.([\w.]+)", write):
        assert callable(operator.attrgetter(name)(jn)), name
    for module, name in re.findall(r"from (jaxnet[\w.]+) import (\w+)", write):
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("function", [
    jax.nn.relu, partial(jax.nn.leaky_relu, negative_slope=0.1), partial(jnp.subtract, KERNEL[0]),
    lambda x: x @ KERNEL, lambda x: jax.lax.stop_gradient(MODULE(x)),
], ids=["relu", "option", "mean", "projection", "teacher"])  # fmt: skip
def test_constants_are_allowed(function):
    as_layer(function)
