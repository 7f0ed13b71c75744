"""The pages written from the records, and the command that reruns the experiments."""

import dataclasses
import importlib
import re

import pytest
import tyro

from experiments import __main__ as rows
from experiments import pages
from experiments.benchmarks import figures
from experiments.records import Command, Figures, Picture, Record, higher, lower, unknown

pytest.importorskip("tyro", reason="needs the extra jaxnet-toolkit[experiments]")


def fields(**other):
    """Those of a made-up record with two rows."""
    given = {
        "topic": "images",
        "verdict": "Supported",
        "sentence": "Ours is better: 99.0%.",
        "columns": ("net", *higher("accuracy (%)"), *lower("time (s)")),
        "rows": (("theirs", "98.0 ± 0.1", "1.5"), ("ours", "99.0 ± 0.2", "2")),
        "commands": (Command("--seeds 5", 14.2),),
        "seeds": 5,
        "key": "99.0%",
        "baseline": "theirs",
    }
    return given | other


def record(title, **other):
    return Record(**fields(title=title, **other))


MLP = Command("--model mlp --seeds 5", 900, "3 min per seed")
RECORDS = {
    "a": (
        record("Ours fails", verdict="Not supported", claim="ours is better",
               commands=(Command("--seeds 5", 14.2), MLP)),
        record("Ours wins", commands=(MLP,), note="Chosen on 1 seed.", history="After 3 trials."),
    ),
    "b": (
        record("Ours is measured", topic="speech", verdict="Measured", caveat="It was one laptop.",
               commands=(Command("--seed 0", 7200), Command("--seed 1", 7200)),
               note="One. Two of `a`. Three.", machine="a laptop", repeated="round", lesson=3,
               more=(Figures("Each seed", ("seed", "accuracy (%)"), (("seed 0", "98.9"),)),),
               pictures=(Picture("one.png", "Curves"), Picture("two.png", "Filters"))),
        record("Ours is fast", topic="speech", commands=(Command("", 1),)),
    ),
}  # fmt: skip
MEASURED = """\
## Ours is measured

**Measured.** Ours is better: 99.0%. It was one laptop.

| net | accuracy (%) | time (s) |
| --- | ---: | ---: |
| theirs (baseline) | 98.0 ± 0.1 | **1.5** |
| ours | **99.0 ± 0.2** | 2 |

![Curves](../pictures/one.png)

<details markdown>
<summary>More pictures</summary>

![Filters](../pictures/two.png)

</details>

5 rounds, a laptop, jax 0.12.0.1; `python -m experiments.digits --seed 0` (7200 s); \
`python -m experiments.digits --seed 1` (7200 s); \
[source](../../experiments/digits.py), [lesson 3](../../colab/03_mlp_on_digits.ipynb)."""


@pytest.fixture
def two(monkeypatch):
    """Two made-up experiments in place of the real ones."""
    monkeypatch.setattr(rows, "records", RECORDS.get)
    monkeypatch.setattr(rows, "EXPERIMENTS", ("a", "b"))


def test_a_record_becomes_a_section():
    assert pages.finding("digits", RECORDS["b"][0]) == MEASURED


def test_records_become_pages_with_failed_claims_last(two):
    found = pages.pages(rows.findings())
    assert [path.name for path in found] == ["images.md", "speech.md"]
    text = found[pages.FOLDER / "images.md"]
    assert text.startswith(f"{pages.WRITTEN}\n\n# Digits and images\n")
    assert text.index("## Ours wins") < text.index("## Ours fails")
    assert "**Not supported:** *ours is better.* Ours is better: 99.0%." in text
    assert "**Supported.** Ours is better" in text
    assert "Chosen on 1 seed." not in text
    assert "After 3 trials." not in text


def test_the_best_of_a_row_is_bold_and_long_tables_are_folded():
    columns = ("model", *lower("ours (ms)", "theirs (ms)"), "ratio")
    lines = pages.table(columns, (("A", "1,000", "900", "0.9"), ("B", "5", "", "")), across=True)
    assert lines.splitlines()[2:] == ["| A | 1,000 | **900** | 0.9 |", "| B | 5 | | |"]
    equal = pages.table(("net", *higher("found")), (("A", "0"), ("B", "0")))
    assert equal.splitlines()[2:] == ["| A | 0 |", "| B | 0 |"]
    many = tuple((f"net {i}", "99.0", "1") for i in range(17))
    folded = pages.finding("a", record("Ours", rows=many, baseline=""))
    assert "<summary>17 rows</summary>" in folded


def test_a_page_begins_with_its_pictures(two):
    text = pages.pages(rows.findings())[pages.FOLDER / "speech.md"]
    image = '<img src="../pictures/one.png" height="120" alt="Curves" title="99.0%">'
    small = f'<a href="#ours-is-measured">{image}</a>'
    assert text.index(small) < text.index("## Ours is measured")
    in_index = small.replace("../", "").replace("#", "results/speech.md#")
    assert in_index in pages.index(rows.findings())


def test_the_index_counts_the_findings_of_a_topic(two):
    text = pages.index(rows.findings())
    line = "| [Digits and images](results/images.md) | "
    assert text.count(line) == 1
    assert "| 1 not supported, 1 supported |" in text
    assert "| 1 measured, 1 supported |" in text


def test_records_become_commands(two):
    assert [(str(c), c.seconds) for c in rows.commands()] == [
        ("python -m experiments.a --seeds 5", 14.2),
        ("python -m experiments.a --model mlp --seeds 5", 900),
        ("python -m experiments.b --seed 0", 7200),
        ("python -m experiments.b --seed 1", 7200),
        ("python -m experiments.b", 1),
    ]


def test_pages_are_up_to_date():
    """If this fails: python -m experiments --table."""
    for path, text in pages.pages(rows.findings()).items():
        assert path.read_text() == text, path
    assert set(pages.FOLDER.glob("*.md")) == set(pages.pages(rows.findings()))
    text = rows.README.read_text()
    assert rows.BEGIN in text
    assert rows.END in text
    assert rows.with_index(text) == text
    written = (figures.PAGE, figures.with_findings), (figures.GUIDE, figures.with_table)
    for path, with_written in written:
        text = path.read_text()
        assert figures.BEGIN in text
        assert figures.END in text
        assert with_written(text) == text


def test_every_experiment_is_found():
    files = {path.stem for path in rows.README.parent.glob("*.py")}
    no_experiment = set(
        "__main__ centroids common classify pages precision records torchvision_nets "
        "random_projections tied_autoencoder".split()
    )
    assert set(rows.EXPERIMENTS) == (files - no_experiment) | {"speech"}
    assert set(rows.ORDER) <= set(rows.EXPERIMENTS)


@pytest.mark.parametrize("name", rows.EXPERIMENTS)
def test_records_have_commands_of_their_experiment(name):
    module = importlib.import_module(f"experiments.{name}")
    assert module.__doc__
    assert callable(module.run)
    for field in dataclasses.fields(module.Config):  # the refusals of `experiments.common`
        if field.type is int and field.default > 0:
            with pytest.raises(ValueError, match=f"{field.name} must be .*, got 0"):
                module.Config(**{field.name: 0})
    for record in module.RECORDS:
        for command in record.commands:
            tyro.cli(module.Config, args=command.options.split())
        for picture in record.pictures:
            assert (pages.HERE / "pictures" / picture.file).exists()


def test_pages_are_short_and_titles_different():
    topics = [record.topic for _, record in rows.findings()]
    assert max(map(topics.count, topics)) <= 11
    titles = [record.title for _, record in rows.findings() + figures.findings()]
    assert len(set(titles)) == len(titles)


def test_each_picture_belongs_to_a_finding():
    shown = {p.file for _, r in rows.findings() + figures.findings() for p in r.pictures}
    assert shown == {path.name for path in (pages.HERE / "pictures").iterdir()}


def test_every_command_says_its_time_and_most_are_short_enough_to_rerun():
    found = rows.commands()
    assert all(command.seconds > 0 for command in found)
    assert len(found) > 30
    assert sum(command.seconds <= 600 for command in found) > 20


def test_a_run_keeps_the_output_and_reports_failures(two, tmp_path, capsys):
    assert rows.run(rows.Config(minutes=1, list=True, output=tmp_path)) == []
    assert "1/2  python -m experiments.a --seeds 5  (took 14 s)" in capsys.readouterr().out
    with pytest.raises(SystemExit):  # there is no experiments/a.py
        rows.main(["--only", "a", "--minutes", "1", "--output", str(tmp_path)])
    assert re.search("failed with 1 after", capsys.readouterr().out)
    assert "No module named experiments.a" in (tmp_path / "a_--seeds_5.log").read_text()
    with pytest.raises(ValueError, match="unknown: nothing; experiments: a, b"):
        rows.run(rows.Config(only=("nothing",)))


def test_pages_are_written_between_their_markers(two, tmp_path, monkeypatch):
    path, page, guide = (tmp_path / f"{n}.md" for n in ("README", "performance", "accelerate"))
    path.write_text(f"above\n{rows.BEGIN}outdated\n{rows.END}below\n")
    for each in (page, guide):
        each.write_text(f"above\n{figures.BEGIN}outdated\n{figures.END}below\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "gone.md").write_text("of a topic without findings")
    monkeypatch.setattr(rows, "README", path)
    monkeypatch.setattr(figures, "PAGE", page)
    monkeypatch.setattr(figures, "GUIDE", guide)
    monkeypatch.setattr(pages, "FOLDER", tmp_path / "results")
    rows.run(rows.Config(table=True))
    for text in (path.read_text(), page.read_text(), guide.read_text()):
        assert text.startswith("above\n")
        assert text.endswith("below\n")
        assert "outdated" not in text
    names = sorted(file.name for file in (tmp_path / "results").iterdir())
    assert names == ["images.md", "speech.md"]


RIGHT = fields(
    title="Ours is better than LeNet-5's",
    sentence="The error is 1.5% in 5 seeds.",
    columns=("net", *lower("error (%)"), "largest difference"),
    rows=(("LeNet-5", "2.0 ± 0.1", "6.4e-9"), ("ours", "1.5 (1.4 to 1,000)", "search")),
    key="1.5%, LeNet-5 2.0 ± 0.1%",
    baseline="LeNet-5",
)


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
