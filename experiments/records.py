"""The form of a measured result: what was found, its table, and how to measure it again.

The pages in `experiments/results` are written from the records, and the tests compare the numbers
in other texts with them. So each figure has one source, the `RECORDS` of its experiment.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple, get_args

Verdict = Literal["Supported", "Mixed", "Not supported", "Measured"]
Better = Literal["", "higher", "lower"]
TOPICS = {
    "images": "Digits and images",
    "segmentation": "Segmentation and detection",
    "transfer": "Transfer and few labels",
    "speech": "Speech",
    "sequences": "Sequences and language",
    "unsupervised": "Generative and unsupervised learning",
    "classic": "Classic results",
    "agreement": "Agreement with references",
    "cost": "Time, memory and communication",
}
"""Topic -> heading of its page."""
LEADS = {
    "images": "How well small networks classify digits and photos, and which pixels they use",
    "segmentation": "Small networks, trained from scratch, segment streets and detect blood cells",
    "transfer": "What helps if there are few labels, and what 8- or 4-bit weights cost",
    "speech": "How well hidden Markov models, an LSTM and convolutions recognize spoken digits",
    "sequences": "Which networks do best on videos, text, translation and time series",
    "unsupervised": "What generative and unsupervised methods learn from images",
    "classic": "Classic results on perceptrons, optimizers, Boltzmann machines and policies",
    "agreement": "jaxnet's gradients and logits agree with JAX, with theory and with torchvision",
    "cost": "How long training takes, and what sweeps, sharding and loading data cost",
}
"""Topic -> what its page shows, without a full stop."""
CPU = "2 CPU cores"
LARGE_PAGES = "2 CPU cores with large pages"
"""Run with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment."""
H100 = "one NVIDIA H100"

_NUMBER = r"[−-]?\d(?:[\d,]*\d)?(?:\.\d+)?(?:e[−-]?\d+)?"
CELL = re.compile(rf"{_NUMBER}(?: ± {_NUMBER}| \({_NUMBER} to {_NUMBER}\))?")
"""One number, with its standard deviation or its interval if it has one."""
_VERSION = re.compile(
    r"arXiv:[\d.]+|\d+\.\d+\.[\d.]+"
    r"|\b(?:jax|JAX|Flax|PyTorch|Python|transformers) \d[\d.]*\b"
)
_RESULT = re.compile(rf"(?<![\w.]){_NUMBER}(?: ± {_NUMBER})?%?(?![\w.]*\d)")


class Command(NamedTuple):
    """A command that gave figures of a record.

    Fields:
      options: Options after `python -m experiments.NAME`.
      seconds: Duration, by which `python -m experiments` chooses what to rerun.
      time: Measured duration, in words; "" for the seconds by the clock.
    """

    options: str = ""
    seconds: float = 0.0
    time: str = ""


class Column(NamedTuple):
    """The heading of a column, with the unit, and which of its numbers is the best."""

    name: str
    better: Better = ""


def higher(*names: str) -> tuple[Column, ...]:
    """Return columns whose highest number is the best."""
    return tuple(Column(name, "higher") for name in names)


def lower(*names: str) -> tuple[Column, ...]:
    """Return columns whose lowest number is the best."""
    return tuple(Column(name, "lower") for name in names)


class Figures(NamedTuple):
    """Figures with a title, which stay in the record.

    Fields:
      title: Title of the table.
      columns: Columns, as in a record.
      rows: Rows, as in a record.
      across: As in a record.
    """

    title: str
    columns: tuple[str | Column, ...]
    rows: tuple[tuple[str, ...], ...]
    across: bool = False


class Picture(NamedTuple):
    """A picture in `experiments/pictures`, with a caption that says what it shows."""

    file: str
    caption: str


@dataclass(frozen=True)
class Record:
    """A finding: a heading, its verdict, its figures and how they were measured.

    Fields:
      topic: One of `TOPICS`.
      title: The finding, a sentence without a full stop.
      verdict: Whether the figures support the experiment's claim; "Measured" if none was made.
      claim: The claim as a clause without a full stop, printed next to the verdict. A finding whose
        claim was not or only partly supported needs it, since its title says what was found
        instead.
      sentence: What was done and found, in two to four sentences.
      columns: Headings with units; the first is the heading of the labels.
      rows: A label, then one cell per column: a number, `mean ± deviation`, `number (low to high)`,
        or a word without digits; "" if it was not measured.
      commands: The commands that gave the figures.
      seeds: Number of repetitions, for which the cells give mean and standard deviation.
      repeated: What was repeated, if not seeds.
      key: The figure that represents the finding in the gallery, with its unit.
      baseline: Label of the row to compare with.
      across: Whether the best number is the best of its row instead of its column.
      caveat: The circumstance that would change the reader's mind, in one sentence; "" for none.
      note: Everything else that could make the figures wrong or hard to compare. It stays here,
        where who measures again reads it; the pages print only the caveat.
      history: How the options were chosen, with the figures that led to them; not on the pages.
      more: Further tables, which the pages do not print.
      machine: Machine of the measurement.
      versions: Versions of the libraries.
      pictures: Pictures of the finding.
      drawn: Whether its page has the picture instead of the table.
      lesson: Number of the lesson in `colab` that teaches it; 0 for none.

    Raises:
      ValueError: If a field does not have this form.
    """

    topic: str
    title: str
    verdict: Verdict
    sentence: str
    columns: tuple[str | Column, ...]
    rows: tuple[tuple[str, ...], ...]
    commands: tuple[Command, ...]
    seeds: int
    key: str
    claim: str = ""
    repeated: str = "seed"
    baseline: str = ""
    across: bool = False
    caveat: str = ""
    note: str = ""
    history: str = ""
    more: tuple[Figures, ...] = ()
    machine: str = CPU
    versions: str = "jax 0.12.0.1"
    pictures: tuple[Picture, ...] = ()
    drawn: bool = False
    lesson: int = 0

    def __post_init__(self):
        for problem in self._problems():
            raise ValueError(f"{self.title}: {problem}")

    def _problems(self) -> Iterable[str]:
        if self.topic not in TOPICS and self.topic != "performance":
            yield f"topic must be one of {', '.join(TOPICS)}, got {self.topic!r}"
        if self.verdict not in get_args(Verdict):
            yield f"verdict must be one of {', '.join(get_args(Verdict))}, got {self.verdict!r}"
        if not re.fullmatch(r"[A-Z][\w ,'-]+", self.title):  # has the same anchor everywhere
            yield "title must be words, without a full stop"
        for name in ("sentence", "commands", "machine", "versions", "key", "rows"):
            if not getattr(self, name):
                yield f"{name} must not be empty"
        if self.verdict in ("Mixed", "Not supported") and not self.claim:
            yield "claim must not be empty, since the title does not say what was claimed"
        if self.seeds < 1:
            yield f"seeds must be at least 1, got {self.seeds}"
        tables = (Figures("rows", self.columns, self.rows), *self.more)
        for title, columns, rows, _ in tables:
            for row in rows:
                if len(row) != len(columns):
                    yield f"{title}: {row[0]!r} has {len(row)} cells for {len(columns)} columns"
                for cell in row[1:]:
                    if re.search(r"\d", cell) and not CELL.fullmatch(cell):
                        yield f"{title}: {cell!r} is not one number"
                    if self.seeds == 1 and "±" in cell:
                        yield f"{title}: {cell!r} is of one run and has no deviation"
            for text in [cell for row in rows for cell in row] + list(map(str, columns)):
                if "|" in text:
                    yield f"{title}: {text!r} contains |"
        if self.baseline and self.baseline not in [row[0] for row in self.rows]:
            yield f"baseline {self.baseline!r} is not a row"
        if wrong := unknown(
            f"{self.sentence} {self.caveat} {self.key}", [self._cells(), self.note]
        ):
            words = ", ".join(wrong)
            yield f"{words} in the sentence, caveat or key: not in the tables or the note"

    def _cells(self) -> str:
        """Return the text of all cells and their columns."""
        tables = (Figures("", self.columns, self.rows), *self.more)
        cells = [cell for table in tables for row in table.rows for cell in row]
        cells += [str(column) for table in tables for column in table.columns]
        return "\n".join(cells)

    @property
    def text(self) -> str:
        """All text that has figures of the finding, without the history of its options."""
        times = [f"{c.time} {c.seconds}" for c in self.commands]
        return "\n".join((self._cells(), self.note, self.title, self.sentence, *times))


def unknown(text: str, sources: Iterable[str], *, whole: bool = False) -> list[str]:
    """Return the results in a text that no source has.

    Results are numbers with a decimal point or a percent sign, and `mean ± deviation`, which must
    occur in the same form. Fewer digits than the source has are allowed; versions do not count.

    Args:
      text: Prose, or the cells of a table.
      sources: Texts with the figures, such as `Record.text`.
      whole: Whether whole numbers count too.

    Example:
      >>> unknown("90.4 ± 1.8%, from 85.3% to 91.2%", ["90.38 ± 1.80", "85.28 ± 3.77"])
      ['91.2%']
    """
    pool = [_result(match) for source in sources for match in _found(source)]
    pool += [(spread, None) for _, spread in pool if spread is not None]
    wrong = []
    for match in _found(text):
        mean, spread = _result(match)
        if not (whole or re.search(r"[.%e±]", match)):
            continue
        if not any(_rounds_to(a, mean) and _rounds_to(b, spread) for a, b in pool):
            wrong.append(match)
    return wrong


def _found(text: str) -> list[str]:
    return _RESULT.findall(_VERSION.sub(" ", text))


def _result(text: str) -> tuple[Decimal, Decimal | None]:
    """Return the number without its sign, and its spread."""
    mean, _, spread = text.rstrip("%").replace(",", "").partition(" ± ")
    return _decimal(mean), _decimal(spread) if spread else None


def _decimal(text: str) -> Decimal:
    return abs(Decimal(text.replace("−", "-")))


def _rounds_to(known: Decimal | None, given: Decimal | None) -> bool:
    """Return whether a number has the given digits; one that is not given has all."""
    if known is None or given is None:
        return given is None
    return abs(known - given) <= Decimal(5).scaleb(int(given.as_tuple().exponent) - 1)
