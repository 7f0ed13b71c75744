"""The solutions of lessons read names that mean what they meant when the lesson set them."""

import json

import pytest

from tests.colab.solutions import blocks, filled, new_cells, set_twice
from tests.texts.form import ROOT, at, files

LESSONS = files("colab/*.ipynb")


def lesson(*cells: str, solutions: str):
    """A lesson of these cells, after two of the set-up."""
    code = [{"cell_type": "code", "source": source} for source in ("SIZE = 1", "import os", *cells)]
    end = {"cell_type": "markdown", "source": f"## Solutions\n\n{solutions}"}
    return at("colab/00.ipynb", json.dumps({"cells": [*code, end]}))


@pytest.mark.parametrize("text", LESSONS, ids=[text.path.stem for text in LESSONS])
def test_no_later_cell_sets_a_name_that_a_solution_reads(text):
    assert set_twice(text) == []


PRINTS = "1. Yes.\n   ```python\n   print(learn(2, prompt))\n   ```\n"
LEARN = "def learn(n, text):\n    return n * rate * text"


def test_a_name_that_a_later_cell_sets_is_found():
    before = lesson("prompt = [[1]]", f"rate = 1\n{LEARN}", solutions=PRINTS)
    assert set_twice(before) == []
    after = lesson("prompt = [[1]]", f"rate = 1\n{LEARN}", "prompt = 'Yes'", solutions=PRINTS)
    assert set_twice(after) == ["prompt"]
    inside = lesson("prompt = [[1]]", f"rate = 1\n{LEARN}", "rate = 2", solutions=PRINTS)
    assert set_twice(inside) == ["rate"]
    own = lesson("x, prompt = 1, 1", f"x = rate = 2\n{LEARN}", solutions=PRINTS)
    assert set_twice(own) == []


def test_solutions_are_taken_out_of_their_items():
    text = lesson(
        solutions=f"{PRINTS}2. No.\n3. Twice.\n   ```python\n   a = 1\n   b = 2\n   ```\n"
    )
    assert blocks(text) == [("1", "print(learn(2, prompt))\n"), ("3", "a = 1\nb = 2\n")]


def test_marked_lines_are_filled_in():
    cell = "# Exercise 1\ndef double(x):\n    return ...  # your line\n\n\nprint(double(2))"
    solution = "1. So:\n   ```python\n   return 2 * x  # your line\n   ```\n"
    text = lesson(cell, solutions=solution.replace("return", "    return"))
    assert new_cells(text) == [cell.replace("...", "2 * x")]
    with pytest.raises(AssertionError, match="0 marked lines"):
        filled(cell, "return 2 * x")


def test_the_lessons_are_all_there():
    assert len(LESSONS) == len(list((ROOT / "colab").glob("*.ipynb"))) > 0
    assert sum(len(blocks(text)) for text in LESSONS) > len(LESSONS)
