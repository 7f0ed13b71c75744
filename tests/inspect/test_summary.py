"""The table of a network."""

import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxnet as jn
from tests.catalogue import Row, cases


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def net():
    shared = jn.dense(5, name="twice")

    def block(m, x):
        return x + m(jn.batch_norm(), m(shared, m(shared, x)))

    inner = jn.serial(jn.dense(5), jn.dense(5), name="inner")
    return jn.serial(
        jn.dense(5, name="c5"),
        jn.compose(block),
        jax.nn.relu,
        jn.residual(inner),
        jn.parallel(jn.dense(3), jn.dropout(0.1)),
        name="net",
    )


def test_text():
    assert str(jn.summary(net(), jn.spec((4, 7)))) == (
        """\
net for an input of (4, 7) float32
layer           kind        output            parameters  state  FLOPs
──────────────────────────────────────────────────────────────────────
net             serial      ((4, 3), (4, 5))         158     10  1.2 k
  c5            dense       (4, 5)                    40           280
  block         block       (4, 5)                    40     10    400
    twice       dense ×2    (4, 5)                    30           400
    batch_norm  batch_norm  (4, 5)                    10     10
  relu          function    (4, 5)
  residual      residual    (4, 5)                    60           400
    inner       serial      (4, 5)                    60           400
      dense     dense       (4, 5)                    30           200
      dense_1   dense       (4, 5)                    30           200
  parallel      parallel    ((4, 3), (4, 5))          18           120
    dense       dense       (4, 3)                    18           120
    dropout     dropout     (4, 5)
──────────────────────────────────────────────────────────────────────
total                                                158     10  1.2 k
632 B of parameters, 40 B of state, 688 B of activations"""
    )


def test_html_holds_the_same_rows():
    summary = jn.summary(net(), jnp.ones((4, 7)))
    root = ElementTree.fromstring(summary._repr_html_())
    rows = [[cell.text or "" for cell in row] for row in root.iter("tr")]
    assert len(rows) == 1 + len(summary.rows) + 1
    assert rows[2] == ["  c5", "dense", "(4, 5)", "40", "", "280"]
    assert rows[-1] == ["total", "", "", "158", "10", "1.2 k"]


@pytest.mark.fast_cases(
    "adaline", "batch_norm-plain", "conv_transpose", "embedding", "gru-states", "learned_positions",
    "lp_pool", "max_pool-overlap", "parallel", "rbf", "resize-repeated", "stack_rnn",
)  # fmt: skip
@pytest.mark.parametrize("row", cases())
def test_totals_are_those_of_the_trees(row: Row):
    layer = row.make()
    summary = jn.summary(layer, row.x)
    params, state = jax.eval_shape(layer.init, jax.random.key(0), row.x)
    whole = summary.rows[0]
    assert count(summary.params) == whole.params == count(params)
    assert count(summary.state) == whole.state == count(state)
    above = {"/".join(r.path.split("/")[:-1]) for r in summary.rows if r.path}
    if len(summary.rows) > 1:
        leaves = [r for r in summary.rows if r.path and r.path not in above]
        assert sum(r.params for r in leaves) + count_direct_entries(params, above) == count(params)
        assert sum(r.state for r in leaves) + count_direct_entries(state, above) == count(state)
    y, _ = jax.eval_shape(layer.apply, params, state, row.x)
    assert y == summary.rows[0].output


def count_direct_entries(tree, composed):
    """The number of entries that belong to composed layers themselves."""
    total = 0
    for path in composed:
        node = tree
        for name in path.split("/") if path else ():
            node = node.get(name, {})
        total += count([leaf for leaf in node.values() if not isinstance(leaf, dict)])
    return total


def test_paths_index_the_params():
    summary = jn.summary(net(), jn.spec((4, 7)))
    for row in summary.rows:
        tree = summary.params
        for name in row.path.split("/") if row.path else ():
            tree = tree.get(name, {})
        assert count(tree) == row.params


def test_nothing_is_allocated():
    """Kernels of 4 terabytes."""
    wide = jn.dense(10**6)
    summary = jn.summary(jn.serial(wide, jn.dense(10**6)), jn.spec((2, 10**6)))
    assert summary.rows[0].params == 2 * (10**12 + 10**6)
    last = "8.0 TB of parameters, 0 B of state, 16.0 MB of activations"
    assert str(summary).splitlines()[-1] == last


def test_bytes_of_narrow_types():

    def draw(key, x):
        return {"w": jnp.zeros(7, jnp.bfloat16)}

    layer = jn.stateless(draw, lambda params, x: x.astype(jnp.int8), "l")
    last = str(jn.summary(layer, jn.spec((2, 3)))).splitlines()[-1]
    assert last == "14 B of parameters, 0 B of state, 6 B of activations"
    layer = jn.serial(lambda x: x > 1, name="net")
    table = jn.summary(layer, jn.spec((2, 3), jnp.int32)).table()
    assert table.rows[0][2] == "(2, 3) bool"


def test_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    layer = jn.dense(3, name="a_layer_with_a_very_long_name")
    for i in range(8):
        name = f"{'wide' * 4}_{i}"
        layer = jn.serial(layer, lambda x: (x, x, x), lambda x: x[0], name=name)
    lines = str(jn.summary(layer, jn.spec((2, 5)))).splitlines()
    assert max(map(len, lines)) == 80
    assert "…" in "".join(lines)
    assert lines[-2].endswith("18      0     60")


def test_a_layer_alone():
    (row,) = jn.summary(jn.dense(3, name="c"), jn.spec((2, 5))).rows
    assert row == ("", "dense", 1, row.output, 18, 0, 60, 24)


def double(m, x):
    return 2 * x


@pytest.mark.parametrize(("layer", "word"), [
    (jn.dense(120, name="c5"), "dense"),
    (jn.serial(name="lenet"), "serial"),
    (jn.stateless(lambda key, x: {}, lambda params, x: x, "mine"), "mine"),
    (jn.Layer(lambda key, x: ({}, {}), lambda p, s, x, **_: (x, s), "mine", "own"), "own"),
    (jn.compose(double, name="mine"), "mine"),
    (jn.compose(double, name="mine", kind="twice"), "twice"),
    (jn.freeze(jn.dense(120)), "freeze"),
])  # fmt: skip
def test_kind(layer, word):
    """The first row is that of the layer, and shows what made it; plain functions say so."""
    assert jn.summary(layer, jn.spec((2, 5))).rows[0].kind == word
    rows = jn.summary(jn.serial(layer, jax.nn.relu), jn.spec((2, 5))).rows
    assert (rows[1].kind, rows[-1].kind) == (word, "function")


def test_errors_of_the_layer_come_through():
    with pytest.raises(ValueError, match="dense: ") as error:
        jn.summary(jn.serial(jn.dense(3), name="net"), jn.spec((5,)))
    assert error.value.__notes__[0] == "in net/dense, input (5,) float32"
    with pytest.raises(TypeError, match="summary: the input must be an array"):
        jn.summary(jn.dense(2), None)


@pytest.mark.slow
def test_columns_add_up_inside_copies():
    pair = jn.residual(jn.serial(jn.dense(5), jnp.tanh, name="body"), name="pair")
    block = jn.serial(jn.dense(5), jn.repeat(pair, 4), name="block")
    net = jn.serial(jn.ensemble(jn.cast(jn.repeat(block, 3), jnp.float32), 2), name="net")
    summary = jn.summary(net, jn.spec((2, 5)))
    assert {row.path: row.calls for row in summary.rows} == {
        "": 1, "block": 1, "block/dense": 6, "block/pair": 6, "block/pair/body": 24,
        "block/pair/body/dense": 24, "block/pair/body/tanh": 24,
    }  # fmt: skip
    assert {row.params for row in summary.rows if row.kind == "dense"} == {6 * 30, 24 * 30}
    for row in summary.rows:
        inner = [r for r in summary.rows[1:] if r.path.rpartition("/")[0] == row.path]
        if inner:
            assert sum(r.flops for r in inner) == row.flops, row.path
            assert sum(r.params for r in inner) == row.params, row.path
    assert summary.rows[0].flops == 30 * 2 * 2 * 5 * 5
    assert summary.activations == (6 + 24 + 24) * 4 * 2 * 5
    assert "dense ×24" in str(summary)
    assert "ensemble ×" not in str(summary)


def test_an_objective_shows_its_loss_and_metrics():
    net = jn.serial(jn.dense(5, name="c5"), jnp.tanh, jn.dense(3), name="net")
    loss = optax.softmax_cross_entropy_with_integer_labels
    objective = jn.supervised(net, loss, metrics={"accuracy": jn.metrics.accuracy})
    summary = jn.summary(objective, (jn.spec((4, 7)), jn.spec((4,), jnp.int32)))
    assert [(row.path, row.kind, row.params) for row in summary.rows] == [
        ("", "supervised", 58), ("c5", "dense", 40), ("tanh", "function", 0),
        ("dense", "dense", 18), ("loss", loss.__name__, 0), ("accuracy", "accuracy", 0),
    ]  # fmt: skip
    assert summary.rows[-2].output.shape == (4,)
    assert summary.rows[0].flops == 2 * 4 * (7 * 5 + 5 * 3)
    passed_on = jn.augmented(objective, lambda key, batch: batch)
    shown = jn.summary(passed_on, summary.input).rows
    assert shown[1:] == summary.rows[1:]


def test_an_objective_of_your_own():
    def vae(m, images):
        noise = jax.random.normal(m.key("z"), (4, 2))
        z = m(jn.dense(2, name="encoder"), images) + noise
        x = m(jn.dense(7, name="decoder"), z)
        return m(lambda pair: jnp.square(pair[0] - pair[1]).sum(-1), (x, images)), {}

    rows = jn.summary(jn.compose(vae), jn.spec((4, 7))).rows
    assert [row.path for row in rows] == ["", "encoder", "decoder", "lambda"]


@pytest.mark.slow
def test_a_cast_net_with_a_repeat_has_the_operations_of_the_net():
    net = jn.serial(jn.dense(8), jn.repeat(jn.transformer_block(2), 3))
    narrow = jn.summary(jn.cast(net, jnp.bfloat16), jn.spec((2, 4, 5)))
    assert narrow.rows[0].kind == "cast"
    assert narrow.rows[0].flops == jn.summary(net, jn.spec((2, 4, 5))).rows[0].flops
