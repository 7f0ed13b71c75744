"""The form of a record, and the comparison of prose with it."""

import pytest

from experiments.records import Command, Figures, Record, lower, unknown

RIGHT = {
    "topic": "images",
    "title": "Ours is better than LeNet-5's",
    "verdict": "Supported",
    "sentence": "The error is 1.5% in 5 seeds.",
    "columns": ("net", *lower("error (%)"), "largest difference"),
    "rows": (("LeNet-5", "2.0 ± 0.1", "6.4e-9"), ("ours", "1.5 (1.4 to 1,000)", "search")),
    "commands": (Command("--seeds 5", 1),),
    "seeds": 5,
    "key": "1.5%, LeNet-5 2.0 ± 0.1%",
    "baseline": "LeNet-5",
}


def test_the_history_of_the_options_is_no_source():
    record = Record(**RIGHT, note="Chance is 90.5%.", history="Before it was 7.5%.")
    assert unknown("90.5%, 2.0 ± 0.1% and 7.5%", [record.text]) == ["7.5%"]


def row(*cells):
    return {"rows": (("ours", *cells), ("LeNet-5", "1.5", "2.0 ± 0.1"))}


@pytest.mark.parametrize(("change", "words"), [
    ({"topic": "cats"}, "topic must be one of images, .*, got 'cats'"),
    ({"verdict": "Mixed"}, "claim must not be empty"),
    ({"verdict": "Great"}, "verdict must be one of Supported, .*, got 'Great'"),
    ({"title": "Ours is better."}, "title must be words, without a full stop"),
    ({"sentence": ""}, "sentence must not be empty"),
    ({"sentence": "word " * 101}, "at most 100 words, got 101"),
    ({"commands": ()}, "commands must not be empty"),
    ({"machine": ""}, "machine must not be empty"),
    ({"seeds": 0}, "seeds must be at least 1, got 0"),
    ({"baseline": "theirs"}, "baseline 'theirs' is not a row"),
    (row("1.5"), "'ours' has 2 cells for 3 columns"),
    (row("1.5; 2.0", ""), "'1.5; 2.0' is not one number"),
    (row("1.5%", ""), "'1.5%' is not one number"),
    (row("a|b", ""), r"'a\|b' contains |"),
    ({"seeds": 1}, "'2.0 ± 0.1' is of one run and has no deviation"),
    ({"sentence": "The error is 1.6%."}, "1.6% in the sentence, caveat or key: not in"),
    ({"key": "2.0 ± 0.2%"}, "2.0 ± 0.2% in the sentence, caveat or key: not in"),
    ({"more": (Figures("All", ("net", "error"), (("a", "1 2"),)),)}, "All: '1 2' is not one"),
])  # fmt: skip
def test_records_have_one_form(change, words):
    assert Record(**RIGHT).seeds == 5
    with pytest.raises(ValueError, match=words):
        Record(**RIGHT | change)


@pytest.mark.parametrize(("text", "found"), [
    ("90.38 ± 1.80%, 90.4 ± 1.8, 90.4% and 90%, or 1.8", []),
    ("90.38 ± 1.8 and 1.80", []),
    ("90.3%, 91% and 0.9", ["90.3%", "91%", "0.9"]),
    ("90.4 ± 1.7", ["90.4 ± 1.7"]),
    ("−93.9 and 6.4e-9, between 0.30-0.36", []),
    ("7 seeds, jax 0.10.2, Flax 0.13", []),
])  # fmt: skip
def test_prose_is_compared_with_records(text, found):
    sources = ["90.38 ± 1.80", "5.34", "−93.9 nats", "6.4e-9\n0.30 (0.36 to 1.2)"]
    assert unknown(text, sources) == found


def test_whole_numbers_count_on_demand():
    assert unknown("188 and 189", ["188"]) == []
    assert unknown("188 and 189", ["188"], whole=True) == ["189"]
