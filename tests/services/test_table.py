"""Tables in a terminal and in a notebook."""

import io
import sys
import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn
from jaxnet.services.table import Number, Table, size_of

TABLE = Table(
    "Sizes <of> layers",
    ("layer", "parameters"),
    [("dense", 1234567), ("<tanh>", None)],
    [("total", 1234567)],
    ["a & b"],
)


def test_text():
    assert str(TABLE).splitlines() == [
        "Sizes <of> layers", "layer   parameters", "──────────────────", "dense    1,234,567",
        "<tanh>", "──────────────────", "total    1,234,567", "a & b",
    ]  # fmt: skip
    assert repr(TABLE) == str(TABLE)


def test_html_is_well_formed_and_escaped():
    root = ElementTree.fromstring(TABLE._repr_html_())
    assert root.find("table/caption").text == "Sizes <of> layers"
    assert [cell.text for cell in root.iter("td")] == ["dense", "1,234,567", "<tanh>", None]
    assert [cell.text for cell in root.iter("th")] == ["layer", "parameters", "total", "1,234,567"]
    assert root.find("p").text == "a & b"


def test_wide_rows_are_cut_to_the_width():
    for width in (30, 80):
        table = Table("t" * 100, ("path", "shape"), [("p" * 50, "s" * 60)], [], ["n " * 60], width)
        assert max(map(len, str(table).splitlines())) == width
        assert str(table).count("…") == 2


def test_numbers_and_short_columns_are_not_cut():
    table = Table("t", ("path", "n"), [("p" * 100, 1234567)], width=40)
    assert str(table).splitlines()[-1] == "p" * 28 + "…  1,234,567"
    interval = Number("2.1720 (2.0020 to 2.3421)")
    head = ("rate", "loss", "test loss", "note")
    row = (1, interval, interval, "w" * 40)
    text = str(Table("t", head, [row], width=60))
    assert text.count(interval) == 2 and "wwwwwww…" in text and "w" * 9 not in text


def test_the_terminal_gives_the_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "33")
    assert max(map(len, str(Table("t", ("path",), [("p" * 100,)])).splitlines())) == 33


def test_wide_letters_line_up():
    text = str(Table("t", ("名前", "n"), [("層", 1), ("a", 2)]))
    assert text.splitlines()[1:] == ["名前  n", "───────", "層    1", "a     2"]


def test_cells():
    rows = [(True, 0.123456), (False, 1e-12)]
    assert str(Table("t", ("a", "b"), rows)).splitlines()[3:] == ["yes  0.123", " no  1e-12"]
    sizes = Table("t", ("a", "b"), [(size_of(7), 1), (size_of(7000), 2)])  # on the right
    assert str(sizes).splitlines()[3:] == ["   7 B  1", "7.0 kB  2"]
    assert str(Table("t", ("a", "b"), [])) == "t\na  b\n────"


@pytest.mark.parametrize(("count", "words"), [
    (7.4, "7 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (2e12, "2.0 TB")
])  # fmt: skip
def test_size_of(count, words):
    assert size_of(count) == words


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", None])
def test_a_terminal_prints_it_in_its_letters(monkeypatch, encoding):
    table = Table("Größe of ↓ “nets”", ("layer", "field"), [("conv", "≥ 3×3"), ("long…", -1.5)])
    plain = str(table)
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding or "utf-8")
    monkeypatch.setattr(sys, "stdout", out if encoding else None)
    words = str(table)
    print(table)
    monkeypatch.undo()
    if encoding in ("utf-8", None):
        assert words == plain
        return
    lines = words.splitlines()
    assert [len(line) for line in lines] == [len(line) for line in plain.splitlines()]
    assert lines[2] == "-" * len(lines[2])
    assert lines[3] == "conv   > 3x3"
    assert lines[0].startswith("Gr")
    assert lines[0].endswith("nets" + lines[0][-1])


def test_every_table_prints_on_ascii(monkeypatch):
    net = jn.serial(jn.conv(2, 3), jnp.tanh, jn.flatten(), jn.dense(1))
    tables = [
        jn.summary(net, jn.spec((2, 8, 6, 1))),
        jn.inspect.receptive_fields(net, jn.spec((1, 8, 6, 1))),
        jn.inspect.graph(lambda x: (x**3 - jnp.sqrt(x) * -2 >= 0) * jax.nn.sigmoid(x), 2.0),
    ]
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    for table in tables:
        print(table)
        assert str(table).isascii()


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"title": None}, TypeError, "title must be str, got NoneType"),
    ({"head": 3}, TypeError, "head must be a tuple of names, got 3"),
    ({"rows": None}, TypeError, "rows must be a list of tuples, got NoneType"),
    ({"rows": [(1, 2)]}, ValueError, "rows must be tuples of 1 cells, one per name in head"),
    ({"totals": [3]}, ValueError, "totals must be tuples of 1 cells"),
    ({"notes": "abc"}, TypeError, "notes must be a list of str, got str"),
    ({"width": 2.5}, TypeError, "width must be an integer, got 2.5"),
], ids=str)  # fmt: skip
def test_cells_of_another_type(change, error, words):
    with pytest.raises(error, match=f"Table: {words}"):
        Table(**{"title": "t", "head": ("a",), "rows": []} | change)
