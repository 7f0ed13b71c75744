"""Small services: nodes, HTML, warnings, versions of JAX, extras, bars, keywords."""

import doctest
import importlib
import importlib.metadata
import inspect
import os
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

import jaxnet as jn
from jaxnet.services.checks.keywords import _ELSEWHERE, explain_keywords
from jaxnet.services.extras import command, extra
from jaxnet.services.jax_versions import as_varying, enable_x64, linear, varying_axes
from jaxnet.services.nodes import is_stored, materialized
from jaxnet.services.progress import in_notebook, progress_bar
from jaxnet.services.table import html_line, html_table
from jaxnet.services.trees import flat
from jaxnet.services.warn import warn
from jaxnet.transforms.adapt import Adapted
from tests.helpers import refuses
from tests.training.conftest import started

NODE = Adapted(jnp.ones((2, 3)), jnp.ones((2, 1)), jnp.ones((1, 3)), 2.0)


def test_a_node_is_one_leaf():
    assert [path for path, _ in flat({"dense": {"kernel": NODE}})] == ["dense/kernel"]
    assert is_stored(NODE)
    assert materialized({"a": NODE})["a"].tolist() == [[3.0] * 3] * 2


def test_a_layer_of_a_user_gets_arrays():
    def user(m, x):
        kernel = m.param("kernel", jn.initializers.ones, (2, 3))
        return x @ kernel + jnp.linalg.norm(kernel)

    y, _ = jn.compose(user).apply({"kernel": NODE}, {}, jnp.ones((1, 2)))
    assert y.shape == (1, 3)


def test_a_table_is_well_formed_and_escaped():
    text = html_table(["<a>", "b"], [["x & y", "1"]], right=[False, True], notes=["n < 2"])
    root = ElementTree.fromstring(text)
    assert [cell.text for cell in root.iter("th")] == ["<a>", "b"]
    assert [cell.text for cell in root.iter("td")] == ["x & y", "1"]
    assert ["right" in cell.attrib["style"] for cell in root.iter("td")] == [False, True]
    assert root.find("p").text == "n < 2"
    assert root.find("table/caption") is None  # type: ignore


def test_no_color_of_its_own():
    text = html_table(["a"], [["1"]], caption="t", totals=[["2"]], notes=["n"]) + html_line("x")
    assert "color" not in text
    assert "background" not in text


def test_a_row_of_another_length_raises():
    with pytest.raises(ValueError, match="zip"):
        html_table(["a", "b"], [["1"]])


def test_a_line_is_escaped():
    assert ElementTree.fromstring(html_line("Layer('a<b')")).text == "Layer('a<b')"


def recompiled():
    """Warned of inside a trace."""
    batch = jn.spec((4, 3)), jn.spec((4, 2))
    trainer, train_state = started(jn.dense(2), batch, optax.squared_error)
    for rows in (4, 5):
        train_state, _ = trainer.step(train_state, (jnp.ones((rows, 3)), jnp.ones((rows, 2))))


def never_iterated():
    data = jnp.ones((4, 3)), jnp.ones((4, 2))
    jn.fit(*started(jn.dense(2), data, optax.squared_error), data, epochs=1)


def directly():
    warn("here")


@pytest.mark.parametrize("wrong", [recompiled, never_iterated, directly])
def test_names_the_line_of_the_user(wrong):
    with warnings.catch_warnings(record=True, action="always") as caught:
        wrong()
    lines = {line for *_, line in wrong.__code__.co_lines() if line}
    assert [(warning.filename, warning.lineno in lines) for warning in caught] == [(__file__, True)]


@pytest.mark.parametrize("on", [True, False])
def test_64_bits_inside_of_the_context_alone(on):
    before = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    with enable_x64(on):
        assert jnp.ones(1).dtype == (jnp.float64 if on else jnp.float32)
    assert jax.config.jax_enable_x64 == before  # type: ignore[attr-defined]


def test_a_mark_of_an_array_that_varies():
    seen = []

    def run(x):
        zero = jnp.zeros(())
        seen.extend(map(varying_axes, (x, zero, as_varying(zero, ("data",)))))
        return x

    mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,))
    jax.shard_map(run, mesh=mesh, in_specs=P("data"), out_specs=P("data"))(jnp.ones(2))
    assert seen == [{"data"}, set(), {"data"}]


def test_the_transpose_of_a_linear_loop():
    """y = 2 (2 (2 c + a) + b) + ..., whose factors are not constants of the loop."""

    def last(carry, xs, factors):
        return jax.lax.scan(lambda c, now: (now[0] * c + now[1], None), carry, (factors, xs))[0]

    @jax.custom_jvp
    def f(carry, xs, factors):
        return last(carry, xs, factors)

    @f.defjvp
    def _(primals, tangents):
        def push(carry, xs):
            return last(carry, xs, primals[2])

        return f(*primals), linear(push, *tangents[:2])

    given = jnp.ones(()), jnp.ones(3), jnp.full(3, 2.0)
    d_carry, d_xs = jax.jit(jax.grad(f, (0, 1)))(*given)
    assert d_carry == 8
    assert d_xs.tolist() == [4, 2, 1]


def test_a_module_that_is_installed():
    assert extra("numpy.linalg", "numpy", "who") is sys.modules["numpy.linalg"]


@pytest.mark.parametrize("missing", ["numpy", "numpy.linalg"])
def test_a_missing_module(monkeypatch, missing):
    """Also where a part of the package is imported already."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError) as error:
        extra("numpy.linalg", "NumPy", "who", "data,viz")
    cause = f"import of {missing} halted; None in sys.modules"
    assert str(error.value) == f"who: needs NumPy ({cause}). {command('data,viz')}"


@pytest.mark.parametrize(("noted", "words"), [
    (None, '"jaxnet-toolkit[viz] @ git+https://github.com/jaxnet/jaxnet"'),
    ('{"url": "https://a.org/b", "vcs_info": {"vcs": "git", "commit_id": "1f"}}',
     '"jaxnet-toolkit[viz] @ git+https://a.org/b"'),
    ('{"url": "file:///a/b.whl", "archive_info": {}}', '"jaxnet-toolkit[viz] @ file:///a/b.whl"'),
    ('{"url": "file:///a/b", "dir_info": {}}', '"jaxnet-toolkit[viz] @ file:///a/b"'),
    ('{"url": "file:///a%20b", "dir_info": {"editable": true}}', '-e "/a b[viz]"'),
], ids=["unknown", "git", "wheel", "folder", "editable"])  # fmt: skip
def test_extras_come_from_where_jaxnet_came_from(noted, words, monkeypatch):
    """The file direct_url.json, as pip writes it."""
    kind = type(importlib.metadata.distribution("jaxnet-toolkit"))
    known = importlib.metadata.distribution("jaxnet-toolkit").metadata
    monkeypatch.setattr(kind, "metadata", known, raising=False)
    monkeypatch.setattr(kind, "read_text", lambda self, name: noted)
    assert command("viz") == f"Install it with pip install {words}"


def test_a_checkout_that_is_not_installed_says_what_to_install(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ImportError, match=r'needs nowhere .*jaxnet-toolkit\[viz\]"'):
        extra("nowhere", "nowhere", "plot", "viz")


def count(**options):
    with progress_bar(7, "counting", **options) as bar:
        bar.update(7)


def shell(monkeypatch: pytest.MonkeyPatch, found: object):
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: found))


def test_silent_where_nobody_looks(capsys, monkeypatch):
    shell(monkeypatch, None)  # imported by something, but nobody's kernel
    assert not in_notebook()
    count()
    assert capsys.readouterr() == ("", "")


def test_seen_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    count(unit="layer")
    written = capsys.readouterr().err
    assert "counting" in written
    assert "0/7" in written
    assert "layer/s" in written
    count(wanted=False)
    assert capsys.readouterr().err == ""


def test_a_notebook_is_known_by_its_kernel(monkeypatch):
    shell(monkeypatch, SimpleNamespace(kernel=object()))
    assert in_notebook()
    shell(monkeypatch, SimpleNamespace())  # IPython in a terminal
    assert not in_notebook()


def test_silent_without_a_standard_error(monkeypatch):
    """As in a window without a terminal, or a service."""
    monkeypatch.setattr(sys, "stderr", None)
    count()
    closed = open(os.devnull, "w")
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    count()


test_message_says_what_to_write = refuses([
    (lambda: jn.conv(8, 3, stride=2), "conv: unknown argument stride; write strides="),
    (lambda: jn.dense(8, activation="relu"), "dense: .* jn.serial"),
    (lambda: jn.dense(784, 10), "dense: expected features by position, got 2; .* inputs"),
    (lambda: jn.batch_norm(64), "batch_norm: expected no argument by position, got 1; .*name$"),
    (lambda: jn.lstm(8, num_layers=2), "lstm: .* jn.layers.stack_rnn"),
    (lambda: jn.conv(8, 3, stridess=2), "conv: unknown argument stridess; write strides="),
    (lambda: jn.dense(8, zzz=1), "dense: unknown argument zzz; known: features, use_"),
    (lambda: jn.fit(None, None, None, callbacks=[]), "fit: .* for epoch in jn.fit"),
    (lambda: jn.trainer(None, learning_rate=1e-3), "trainer: .* belongs to the optimizer"),
], TypeError)  # fmt: skip


def test_what_is_missing_is_named_by_python():
    with pytest.raises(TypeError, match=r"conv\(\) missing 1 required positional argument"):
        jn.conv(8)


def test_known_arguments_pass():
    assert jn.rnn(8, activation=jnp.tanh).kind == "rnn"  # a hint elsewhere, an argument here
    assert jn.dense(features=2).kind == "dense"


def test_function_looks_like_itself():
    def half(x, *, eps=0.0):
        """Half of x."""
        return x / 2 + eps

    same = explain_keywords(half)
    assert same(4, eps=1) == 3
    assert inspect.signature(same) == inspect.signature(half)
    assert same.__doc__ == half.__doc__


def test_hints_name_arguments_that_exist():
    """`write NAME=` is an argument of one of the functions that give hints."""
    functions = [jn.dense, jn.conv, jn.rnn, jn.batch_norm, jn.embedding, jn.group_norm, jn.max_pool,
                 jn.dropout, jn.multi_head_attention, jn.transformer_block, jn.fit]  # fmt: skip
    known = {name for function in functions for name in inspect.signature(function).parameters}
    for hint in _ELSEWHERE.values():
        for word in hint.replace(" and ", " ").split():
            if word.endswith("="):
                assert word.strip("=,") in known, hint


def test_examples_of_wrapped_functions_run():
    module = importlib.import_module(jn.dense.__module__)
    found = [test.name for test in doctest.DocTestFinder().find(module) if test.examples]
    assert "jaxnet.layers.dense.dense" in found


def test_a_silent_bar_has_no_finalizer():
    """Python forgets a Ctrl-C that comes in `__del__`, and training went on."""
    bar = progress_bar(3, "counting", wanted=False)
    assert bar.disable and not hasattr(type(bar), "__del__")
