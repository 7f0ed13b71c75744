"""Numbers in the prose of a lesson come from its outputs or its code, or are listed here."""

import ast
import re
from pathlib import Path

from experiments.__main__ import findings
from experiments.records import unknown as not_in
from tests.colab.test_notebooks import NOTEBOOKS, cells, cells_of, parse
from tests.helpers import each

# Numbers that a lesson does not compute, by lesson.
ELSEWHERE = {
    "02": "7.29 0.3721",  # the seventh rate; the lowest risk, in an exercise
    "03": "1,797",  # size of a dataset
    "05": "90%",  # digits that the nearest neighbor reads
    "06": "1,797 1.175 49 99.05%",  # size of a dataset; the ink and the record of 1998; positions
    "07": "700 92%",  # digits at size tiny; arithmetic of the convolutions
    "08": "13 70",  # a unit and a joke of the pictures
    "09": "200 200 36 701 0.04",  # 5 * 5 * 8; 6 * 6; size of a dataset; a difference
    "10": "364 72 8.5",  # sizes of a dataset; the end of a curve
    "11": "44% 0.25 0.39",  # groups that never occurred; differences
    "13": "26% 20.7% 18.4% 17.7% 3,000 20 2,500",  # published; datasets and their features
    "16": "0.29",  # differences
    "17": "1,438 75% 896 896",  # size of a dataset; of a paper; an exercise
    "18": "90",  # degrees
    "22": "135 0.35 0.71",  # millions; of a picture
    "23": "255",  # candidates
}
# Lesson -> the experiment whose records it cites, and the numbers.
MEASURED = {
    "05": ("greedy", "75.8% 79.9%"),
    "06": ("mnist", "99.08 0.07%"),
    "07": ("finetune", "85.1% 90.7%"),
    "09": ("camvid", "0.42"),
    "10": ("bccd", "0.775"),
    "11": ("shakespeare", "2.30"),
    "12": ("translate", "38.46 26.10"),
    "16": ("shakespeare", "2.30"),
}
CITED = {"16": "11"}  # a lesson that compares its results with those of another one
COUNTING = 12  # integers up to this are words of a sentence, such as "the first 5 layers"
NOT_PROSE = re.compile(
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)|<[^>]*>"  # code, formulas, addresses
    r"|^\s*\d+\. |^#.*?$|[Ll]essons? [\d, ]+(?:and \d+)?|[Ee]xercise \d+|: \[\d+"  # of items
    r"|\*Time:\*[^*]*|\b(?:1[89]|20)\d\d(?!,\d)s?\b|\w*[A-Za-z]-?\d+\S*",  # years; ResNet-20
    re.DOTALL | re.MULTILINE,
)
NUMBER = re.compile(r"(\d+(?:,\d{3})*(?:\.(\d+))?)%?")


def numbers(text: str) -> list[tuple[str, float, int]]:
    """The numbers of a text: as written, their values and their decimals."""
    return [
        (match.group(), float(match[1].replace(",", "")), len(match[2] or ""))
        for match in NUMBER.finditer(text)
    ]


def sources(path: Path) -> set[float]:
    """The numbers that a lesson prints, displays or has in its code."""
    outputs = [output for cell in cells_of(path, "code") for output in cell["outputs"]]
    shown = [output.get("text") or output["data"]["text/plain"] for output in outputs]
    found = {value for text in shown for _, value, _ in numbers("".join(text))}
    for source in cells(path, "code"):
        for node in ast.walk(parse(source)):
            if isinstance(node, ast.Constant) and type(node.value) in (int, float):
                found.add(float(node.value))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {value for _, value, _ in numbers(node.value)}
    return found


def unknown(prose: str, known: set[float]) -> list[str]:
    """The numbers of a text that are none of the known ones, rounded or as a percentage."""
    missing = []
    for word, value, decimals in numbers(NOT_PROSE.sub(" ", prose)):
        percent = word.endswith("%")
        small = not percent and decimals == 0 and value <= COUNTING
        factors = (1, 100) if percent else (1,)
        if not small and not any(round(k * f, decimals) == value for k in known for f in factors):
            missing.append(word)
    return missing


def test_a_number_without_a_source_is_found():
    known = {0.9503, 1.972, 10_000.0}
    prose = "In lesson 14, 3 of 10,000 digits; 95% or 95.0%, and 1.97 bits (Li et al. 2017)."
    assert unknown(prose, known) == []
    assert unknown("94%, 1.98 bits, 3% and 20,000 digits", known) == ["94%", "1.98", "3%", "20,000"]


@each(NOTEBOOKS)
def test_numbers_in_prose(path: Path):
    """Solutions are left out: no cell of the lesson runs them."""
    *prose, _ = cells(path, "markdown")
    known = sources(path)
    for other in NOTEBOOKS:
        if other.name[:2] == CITED.get(path.name[:2]):
            known |= sources(other)
    missing = unknown("\n\n".join(prose), known)
    _, measured = MEASURED.get(path.name[:2], ("", ""))
    listed = f"{ELSEWHERE.get(path.name[:2], '')} {measured}".split()
    assert sorted(missing) == sorted(listed)


@each(MEASURED)
def test_numbers_of_experiments_are_those_of_the_records(lesson):
    name, cited = MEASURED[lesson]
    texts = [record.text for experiment, record in findings() if experiment == name]
    assert texts and not_in(cited, texts) == []
