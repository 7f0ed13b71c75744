"""Tables and figures."""

from typing import Any

import numpy as np

import jaxnet as jn
from experiments.common import deviation, mean_std
from experiments.speech.nets import BLANK, STRIDE
from experiments.speech.recognizers import CTC, GMM, PLAIN, PRETRAINED, Recognizer
from experiments.speech.utterances import HOP, RATE, Utterances
from jaxnet import Table
from jaxnet.viz.style import COLORS, new_figure


def table(errors: dict[str, np.ndarray], held_out: dict[str, np.ndarray]) -> Table:
    """Return error rates over seeds, and over held-out speakers."""
    rows = [
        (name, *map(mean_std, e.T), *(map(mean_std, held_out[name].T) if name in held_out else ""))
        for name, e in errors.items()
    ]
    width = max(map(len, rows))
    rows = [(*row, *[""] * (width - len(row))) for row in rows]
    head = ("system", "digits", "strings", "digits, held-out speakers", "strings")
    return Table("error rates, ± over seeds or over held-out speakers", head[:width], rows)


def by_speaker(held_out: dict[str, np.ndarray], speakers: list[str]) -> Table:
    """Return error rates of digits and strings per held-out speaker."""
    rows = [
        (name, *(f"{100 * a:.1f}, {100 * b:.1f}" for a, b in e)) for name, e in held_out.items()
    ]
    title = "error rates of digits and strings in %, by held-out speaker"
    return Table(title, ("system", *speakers), rows)


def hard(shown: dict[str, Recognizer], strings: Utterances) -> int:
    """Return the first string that only the LSTM recognizes; else the first string."""
    truth = [d.tolist() for d in strings.digits]

    def correct(name):
        found = shown[name].string(strings.features)
        return np.array([a == b for a, b in zip(found, truth, strict=True)])

    return int(np.argmax(correct(CTC) & ~correct(GMM)))


def draw_errors(errors: dict[str, np.ndarray], held_out: dict[str, np.ndarray]) -> Any:
    """Draw one bar per system and test, with the standard deviation over seeds or speakers."""
    figure = new_figure(9, 3.6)
    axes = figure.subplots()
    systems = [name for name in (GMM, PLAIN, PRETRAINED, CTC) if name in errors]
    tests = ["digits", "strings"]
    if held_out:
        tests += [f"{test},\nheld-out speakers" for test in tests]
    width = 0.8 / len(systems)
    for i, name in enumerate(systems):
        columns = [*errors[name].T, *(held_out[name].T if name in held_out else ())]
        places = np.arange(len(columns)) + (i - (len(systems) - 1) / 2) * width
        means = [100 * column.mean() for column in columns]
        spreads = [100 * np.nan_to_num(deviation(column)) for column in columns]
        axes.bar(places, means, width * 0.92, color=COLORS[i], label=name)
        axes.errorbar(places, means, spreads, fmt="none", ecolor="0.3", capsize=2, linewidth=0.9)
        for x, mean, above in zip(places, means, spreads, strict=True):
            axes.annotate(
                f"{mean:.1f}",
                (x, mean + above),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    axes.set_xticks(range(len(tests)), tests)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("error rate, %")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_alignment(shown: dict[str, Recognizer], string: Utterances, wave: np.ndarray) -> Any:
    """Draw one string: spectrogram, reference, alignments by the chains, and CTC posteriors."""
    (features,), (digits,), (places,) = string.features, string.digits, string.places
    where = [np.flatnonzero(places == i) for i in range(len(digits))]
    rows = {"reference": [(str(d), f[0], f[-1] + 1) for d, f in zip(digits, where, strict=True)]}
    for name in (GMM, PRETRAINED):
        rows[name] = shown[name].align(features)
    (mel,) = jn.data.log_mel([wave], rate=RATE, hop=HOP, normalize=False)
    return jn.viz.spectrogram(
        mel,
        rows,
        posterior=shown[CTC].posterior(features),
        names=["", *map(str, range(10))],
        blank=BLANK,
        stride=STRIDE,
        hop=HOP,
    )
