"""HTML for notebooks: well-formed, escaped, without colors."""

import xml.etree.ElementTree as ElementTree

import pytest

from jaxnet.services.markup import html_line, html_table


def test_a_table_is_well_formed_and_escaped():
    text = html_table(["<a>", "b"], [["x & y", "1"]], right=[False, True], notes=["n < 2"])
    root = ElementTree.fromstring(text)
    assert [cell.text for cell in root.iter("th")] == ["<a>", "b"]
    assert [cell.text for cell in root.iter("td")] == ["x & y", "1"]
    assert ["right" in cell.attrib["style"] for cell in root.iter("td")] == [False, True]
    assert root.find("p").text == "n < 2" and root.find("table/caption") is None  # type: ignore


def test_no_color_of_its_own():
    text = html_table(["a"], [["1"]], caption="t", totals=[["2"]], notes=["n"]) + html_line("x")
    assert "color" not in text and "background" not in text


def test_a_row_of_another_length_raises():
    with pytest.raises(ValueError, match="zip"):
        html_table(["a", "b"], [["1"]])


def test_a_line_is_escaped():
    assert ElementTree.fromstring(html_line("Layer('a<b')")).text == "Layer('a<b')"
