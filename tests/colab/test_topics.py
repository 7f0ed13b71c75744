"""Each topic of the lectures is a cell of a lesson, with what it printed or drew."""

from colab.topics import PAGE, lesson, topics, with_table
from tests.colab.test_notebooks import cells_of
from tests.helpers import each

TOPICS = topics()


@each(TOPICS)
def test_topic_is_a_cell_with_an_output(topic):
    assert topic.cells
    for number, code in topic.cells:
        found = [c for c in cells_of(lesson(number), "code") if code in "".join(c["source"])]
        assert len(found) == 1, f"{code!r} is in {len(found)} cells of lesson {number}"
        assert found[0]["outputs"], f"the cell of {code!r} in lesson {number} shows nothing"


def test_no_topic_of_the_lectures_is_missing():
    assert len({topic.topic for topic in TOPICS}) == len(TOPICS) >= 50


def test_the_page_has_all_topics():
    """If this fails: python -m colab.topics."""
    assert with_table(PAGE.read_text(), TOPICS) == PAGE.read_text()
