"""Exercises answer, and solutions read names that mean what they meant in the lesson."""

import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest

from colab.setup import CHECK
from tests.colab.solutions import blocks, exercise_cells, filled, new_cells, set_twice
from tests.texts.form import ROOT, at, files

LESSONS = files("colab/*.ipynb")
lessons = pytest.mark.parametrize("text", LESSONS, ids=[text.path.stem for text in LESSONS])


def said(code: str, **names) -> str:
    """What a cell prints after the cell with `check`, in a notebook that has NumPy alone."""
    all_names: dict[str, Any] = {"np": np}
    exec(CHECK, all_names)  # our own text
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, all_names | names)
    return out.getvalue().strip()


def lesson(*cells: str, solutions: str):
    """A lesson of these cells, after two of the set-up."""
    code = [{"cell_type": "code", "source": source} for source in ("SIZE = 1", "import os", *cells)]
    end = {"cell_type": "markdown", "source": f"## Solutions\n\n{solutions}"}
    return at("colab/00.ipynb", json.dumps({"cells": [*code, end]}))


@lessons
def test_each_lesson_has_two_lines_to_fill_in(text):
    assert len(exercise_cells(text)) >= 2


@lessons
def test_a_line_to_fill_in_says_so_and_its_solution_is_right(text):
    cells = exercise_cells(text)
    for cell in cells.values():
        assert said(cell).startswith("Write the line that is marked")
    solved = [said(code) for code in new_cells(text) if code.startswith("# Exercise")]
    assert solved == ["Right."] * len(cells)


@lessons
def test_each_frequent_mistake_is_told(text):
    for cell in exercise_cells(text).values():
        calls = []
        said(cell, check=lambda *given, calls=calls: calls.append(given))
        ((_, right, slips),) = calls
        for slip, answer in slips.items():
            told = said("check(answer, right, slips)", answer=answer, right=right, slips=slips)
            assert told == f"Not yet: {slip}"


def test_an_answer_of_another_kind_is_told():
    def told(answer):
        return said("check(answer, [[1, 2]])", answer=answer)

    assert told([[1, 2.0001]]) == "Right."
    assert told([1, 2]) == "Not yet: expected numbers of shape (1, 2), got (2,)."
    assert told([[1, 3]]) == "Not yet: expected 2, got 3."
    assert told([...]) == said("check(..., 1)") != ""


@lessons
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
