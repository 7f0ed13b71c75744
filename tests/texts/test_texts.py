"""The rules for texts hold, and each can fail."""

import pytest

from tests.texts import claims, code, data, lessons, pages, project, switches
from tests.texts.form import RULES

assert claims and code and data and pages and lessons and project and switches


@pytest.mark.parametrize("name", RULES)
def test_rule(name):
    rule = RULES[name]
    texts = rule.texts()
    assert texts
    assert {text: found for text in texts if (found := list(rule.faults(text)))} == {}


@pytest.mark.parametrize("name", RULES)
def test_planted_faults_are_found(name):
    rule = RULES[name]
    assert rule.planted
    for fault in rule.planted:
        assert list(rule.faults(rule.plant(fault))), fault
    for text in rule.fine:
        assert list(rule.faults(rule.plant(text))) == []
