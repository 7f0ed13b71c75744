"""The ten programs of the guide: their numbers of lines. `tests/test_guide.py` runs them."""

import re

from tests.pages import ROOT, count_lines, sections

PAGE = ROOT / "guide" / "programs.md"
ROW = re.compile(r"^\| ([^|]+?) \| (\d+) \|", re.MULTILINE)


def test_the_page_counts_the_lines():
    counts = {heading: int(lines) for heading, lines in ROW.findall(PAGE.read_text())}
    programs = {heading: found for heading, found in sections(PAGE).items() if heading}
    assert len(programs) == 10
    assert counts == {heading: count_lines(found) for heading, found in programs.items()}
