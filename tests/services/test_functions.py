"""What is known of functions before they are called."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.services.functions import activated, codes_of, function_name, takes


def test_the_name_of_a_function_is_that_of_its_definition():
    half = functools.partial(jnp.multiply, 0.5)
    named = {"multiply": half, "lambda": lambda x: x, "tanh": jnp.tanh}
    assert [function_name(f) for f in named.values()] == list(named)
    assert function_name(functools.partial(half)) == "multiply"


@pytest.mark.parametrize(("function", "counts"), [
    (lambda x, y=0: x, [1, 2]), (lambda: 0, [0]), (lambda *x: x, [0, 1, 2, 3]),
    (lambda x, *, y: x, []), (max, [0, 1, 2, 3]),
], ids=["default", "none", "any", "by name", "builtin"])  # fmt: skip
def test_numbers_of_arguments_by_position(function, counts):
    assert [n for n in range(4) if takes(function, n)] == counts


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("function", [
    jax.nn.relu, jax.nn.relu6, jax.nn.hard_tanh, jax.nn.hard_sigmoid,
    functools.partial(jax.nn.leaky_relu, negative_slope=0.3),
], ids=function_name)  # fmt: skip
def test_activations_of_16_bits_are_rounded_once(function, dtype):
    """At kinks, NaN and infinities, too; no copy in float32 is kept for the gradient."""
    x = jnp.asarray([-7, -3, -1, -0.0, 0, 0.3, 3, 6, 7, jnp.nan, jnp.inf, -jnp.inf], dtype)
    y, pull = jax.vjp(functools.partial(activated, function), x)
    wanted, pull_wide = jax.vjp(function, x.astype(jnp.float32))
    (slope,), (wanted_slope,) = pull(jnp.ones_like(y)), pull_wide(jnp.ones_like(wanted))
    assert y.dtype == slope.dtype == dtype
    for found, exact in ((y, wanted), (slope, wanted_slope)):
        rounded = exact.astype(dtype).astype(jnp.float32)
        np.testing.assert_array_equal(found.astype(jnp.float32), rounded)
    kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.dtype == jnp.float32]
    assert all((leaf == leaf.max()).all() for leaf in kept)  # constants alone


NET = """
import optax, jaxnet as jn

def scaled(x):
    return {0} * x

def forward(m, x):
    return scaled(m(jn.dense(3), x))

def loss(outputs, targets):
    return optax.squared_error({0} * outputs, targets)
"""
CELL = """
import sys; sys.path.insert(0, "{0}")
import jax, jaxnet as jn, numpy as np, optax, edited
x = np.ones((4, 3), np.float32); y = 0 * x
net = jn.compose(edited.forward)
trainer = jn.trainer(jn.supervised(net, edited.loss), optax.sgd(0.0))
start = trainer.init(jax.random.key(0), (x, y))
class Loader:
    __iter__ = lambda self: iter([(x, y)])
def numbers():
    copy, now = jax.tree.map(jax.numpy.copy, start), (start.params, start.state)
    yield float((net.apply(*now, x)[0] ** 2).mean() * edited.loss(1.0, 0.0))
    yield float((jn.predict(net, *now, x) ** 2).mean() * edited.loss(1.0, 0.0))
    yield jn.evaluate(trainer.objective, *now, (x, y))["loss"]
    for data in ((x, y), Loader()):
        yield next(jn.fit(trainer, start, data, epochs=1, progress=False)).train["loss"]
    yield float(trainer.step(copy, (x, y))[1]["loss"])
first = [*numbers()]
"""


class Loss:
    """A loss that reaches functions in every way that a class has."""

    __slots__ = ("inner",)

    def __call__(self, outputs, targets):
        return self.called() + self.inner() + self.static() + self.by_class() + self.prop

    def called(self, *, default=lambda: 1):
        return default() + TABLE["act"]() + SPACE.act() + (lambda: OTHER.method())()

    @staticmethod
    def static():
        return 1

    @classmethod
    def by_class(cls):
        return 1

    @property
    def prop(self):
        return 1


def abs_of_one():
    return 1


class Other:
    def method(self):
        return 1


TABLE = {"act": lambda: 1}
SPACE = SimpleNamespace(act=abs_of_one)
OTHER = Other()


def test_a_loss_is_what_its_class_and_its_globals_are():
    found = Loss()
    found.inner = lambda: 1
    names = {function.__qualname__ for function, _ in codes_of([found.__call__, pytest.approx(1)])}
    wanted = {"__call__", "called", "static", "by_class"} | {"prop"}
    assert {f"Loss.{name}" for name in wanted} | {"Other.method"} <= names
    inner = {"test_a_loss_is_what_its_class_and_its_globals_are.<locals>.<lambda>", "abs_of_one"}
    assert inner | {"Loss.<lambda>", "<lambda>"} <= names
    assert not any("approx" in name.lower() for name in names)  # nothing of installed packages


@pytest.mark.long
def test_every_call_computes_what_was_edited_in_a_notebook(tmp_path):
    client = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    file = tmp_path / "edited.py"
    file.write_text(NET.format(1))
    cells = [
        f"%load_ext autoreload\n%autoreload 2\n{CELL.format(tmp_path)}",
        f"import os, pathlib; pathlib.Path({str(file)!r}).write_text({NET.format(3)!r})",
        f"os.utime({str(file)!r}, (0, 4e9))",
        "np.testing.assert_allclose([*numbers()], 81 * np.array(first), rtol=1e-5)",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client.NotebookClient(book, timeout=60).execute()
