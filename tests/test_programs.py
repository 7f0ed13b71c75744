"""The ten programs of the guide: their numbers of lines. `tests/test_guide.py` runs them."""

import re

from tests.pages import ROOT, count_lines, sections

PAGE = ROOT / "guide" / "programs.md"
COUNT = re.compile(r"^## (.+?)\n(?:(?!^## ).*\n)*?Lines of code: (\d+), before (\d+)", re.MULTILINE)


def test_the_page_counts_the_lines():
    counts = {
        heading: (int(now), int(before)) for heading, now, before in COUNT.findall(PAGE.read_text())
    }
    programs = {heading: found for heading, found in sections(PAGE).items() if heading}
    assert len(programs) == 10 and list(counts) == list(programs)
    for heading, found in programs.items():
        now, before = counts[heading]
        assert now == count_lines(found) < before, heading
