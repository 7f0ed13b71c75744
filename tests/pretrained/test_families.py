"""The table of published models in the guide is that of the families' data."""

import pytest

from jaxnet.pretrained.families import FAMILIES
from tests.pretrained import test_answers, test_replies
from tools import families


def test_the_page_shows_the_table():
    """After a change of a family, run `python -m tools.families`."""
    page = families.PAGE.read_text(encoding="utf-8")
    assert families.with_table(page) == page


def test_the_table_has_every_family_once():
    assert [*families.MODELS] and {*families.MODELS} == {*FAMILIES}
    assert len(families.table().splitlines()) == 2 + len(FAMILIES)


def test_the_table_says_what_the_tests_compare():
    compared = {family for family, _, _ in test_replies.FAMILIES.values()}
    assert {*families.CHATS} == {family.replace("gemma3", "gemma3_text") for family in compared}
    tests = " ".join(vars(test_answers))
    assert all(name.lower() in tests for name in families.PUBLISHED.values())


def test_a_family_that_is_not_saved_is_in_the_table(monkeypatch):
    monkeypatch.setattr(families, "SAVED", {})
    assert families.cells("vit")[4] == "no"


def test_adapters_have_names_of_peft_where_its_layers_are_ours():
    found = {name: families.adapters(name) for name in ("llama", "phi3", "mixtral", "bert")}
    assert found == {
        "llama": "PEFT", "phi3": "PEFT", "mixtral": "PEFT, some layers", "bert": "jaxnet",
    }  # fmt: skip


def test_a_page_without_the_table_is_an_error():
    with pytest.raises(ValueError, match="must have one table"):
        families.with_table("# A page\n")
