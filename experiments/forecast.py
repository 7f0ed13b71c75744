"""Forecasts of carbon dioxide in the air: causal convolutions, an LSTM, and the plain ways.

Claim:   both nets learn the seasons and the rise, and neither beats linear autoregression.
Result:  weekly means on Mauna Loa, 1958 to 2001; three years are seen, the 52 weeks after are told.
         Root mean squared error in ppm of 419 forecasts, all told for 1993 to 2001, by weeks ahead
         and over all 52; mean and standard deviation of 5 seeds:
                                weights  1               4               13
           persistence          0        0.517           1.257           3.248
           last year's changes  0        0.673           0.760           0.839
           linear               8,164    0.385           0.481           0.564
           convolutions         4,084    0.436 +- 0.011  0.515 +- 0.020  0.614 +- 0.031
           LSTM                 3,796    0.394 +- 0.004  0.492 +- 0.010  0.622 +- 0.025
                                26              52              all             better years
           persistence          4.307           1.903           3.294           0 of 8
           last year's changes  0.997           1.422           1.030           0 of 8
           linear               0.690           0.921           0.701
           convolutions         0.703 +- 0.053  0.933 +- 0.019  0.709 +- 0.015  3 of 8
           LSTM                 0.706 +- 0.025  0.925 +- 0.018  0.711 +- 0.013  4 of 8
         Over all weeks the nets are alike, and the linear forecast is as good; it is ahead of both
         in the first months (by 0.05 ppm at 13 weeks), and at one week the LSTM is ahead of the
         convolutions. Better years are those with less squared error than the linear forecast:
         with 3 and 4 of 8, eight years do not tell which of the three is best.
Options: chosen on 1985 to 1992, one seed each; there the linear forecast errs by 0.594 ppm (the
         best penalty of five). Convolutions: 0.661 after 25 passes at the rate 0.01, 0.681 after
         60 (0.735 at 0.02); undilated they see 11 weeks and err by 1.784 (25 passes). LSTM: 0.681
         after 25, 0.670 after 60 (0.684 at 0.02). Three years of past are the best of one, one and
         a half, two and three for the linear forecast.
Data:    2,284 weeks, carried by statsmodels; 59 are missing, none of them after 1992, and hold the
         last value known. 1,189 forecasts to train on, all told for weeks before 1985; the scale
         of the inputs is theirs. The set was taken since there is something to foretell: of
         matplotlib's EEG, 800 samples, a linear forecast explains little beyond three samples;
         its stock prices were not tried.
Time:    57 s of CPU.
Machine: 2 CPU cores, jax 0.10.2.
Command: python -m experiments.forecast
"""

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import jaxnet as jn
from experiments.classify import spread
from jaxnet.inspect.table import Table
from jaxnet.viz.figure import COLORS, new_figure

YEAR = 52  # weeks
SHOWN = (1, 4, 13, 26, 52)  # horizons in the table, in weeks
_COLORS = ("0.6", COLORS[4], COLORS[2], COLORS[0], COLORS[1])  # of the five ways, in their order
RIDGES = (0.1, 1, 10, 100, 1000)  # of the linear autoregression; the validation part chooses


@dataclass(frozen=True)
class Config:
    """Compares ways to forecast a series; the record is in the file."""

    past: int = 157
    """weeks that a forecast sees: three years and one week"""
    future: int = 52
    """weeks that it tells"""
    validation_from: int = 1985
    """year in which the validation part begins, to choose by"""
    test_from: int = 1993
    """year in which the test part begins"""
    features: tuple[int, int] = (16, 24)
    """width of the convolutions and of the LSTM"""
    dilations: tuple[int, ...] = (1, 3, 9, 27, 81)
    """of each convolution of three weeks"""
    learning_rates: tuple[float, float] = (1e-2, 1e-2)
    """of Adam at the beginning, for each of the two; they fall to 0 as a cosine"""
    epochs: tuple[int, int] = (25, 60)
    """passes over the windows of each of the two"""
    batch_size: int = 64
    """windows a step"""
    seeds: int = 5
    """runs of each net, which differ in weights and order"""
    validation: bool = False
    """measure on the validation part: for choosing"""
    output: Path = Path("runs/forecast")
    """folder of the pictures"""

    def __post_init__(self):
        if min(self.future, self.batch_size, self.seeds, *self.epochs, *self.features) < 1:
            raise ValueError("future, batch_size, seeds, epochs and features must be at least 1")
        if self.past < YEAR + 1 or self.future > YEAR:
            raise ValueError(
                f"past must be above {YEAR} and future at most {YEAR}: the seasonal forecast "
                f"repeats the last year, got {self.past} and {self.future}"
            )


class Windows(NamedTuple):
    """What is seen and what comes, as changes from the last week that is seen.

    Fields:
      x: (windows, past, 1), the last of which is 0.
      y: (windows, future).
      last: (windows,), the place of the last week that is seen.
    """

    x: np.ndarray
    y: np.ndarray
    last: np.ndarray


class Results(NamedTuple):
    """What the experiment gives.

    Fields:
      errors: name -> (seeds, future), the root of the mean squared error in ppm at each horizon.
      weights: name -> number of weights.
      pictures: the files that were written.
    """

    errors: dict[str, np.ndarray]
    weights: dict[str, int]
    pictures: list[Path]


def co2() -> tuple[np.ndarray, np.ndarray]:
    """Dates (2284,) and weekly means of carbon dioxide on Mauna Loa in ppm; missing ones are NaN.

    Raises:
      ImportError: where statsmodels is not installed, which carries the file.
    """
    try:
        file = resources.files("statsmodels") / "datasets/co2/co2.csv"
    except ImportError as error:
        raise ImportError(
            "co2: needs statsmodels, which carries the measurements; pip install statsmodels"
        ) from error
    _, *rows = csv.reader(file.read_text().splitlines())
    dates = [f"{day[:4]}-{day[4:6]}-{day[6:]}" for day, _ in rows]
    return np.array(dates, "M8[D]"), np.array([float(ppm or "nan") for _, ppm in rows])


def filled(series: np.ndarray) -> np.ndarray:
    """The last value that was known in place of a missing one: no look ahead."""
    known = np.where(np.isnan(series), 0, np.arange(len(series)))
    return series[np.maximum.accumulate(known)]


def windows(series: np.ndarray, begin: int, end: int, past: int, future: int) -> Windows:
    """All windows whose future lies in [begin, end); their past may lie before."""
    last = np.arange(max(begin, past) - 1, end - future)
    x = series[last[:, None] + np.arange(1 - past, 1)] - series[last][:, None]
    y = series[last[:, None] + np.arange(1, future + 1)] - series[last][:, None]
    return Windows(x[..., None].astype(np.float32), y.astype(np.float32), last)


def persistence(w: Windows) -> np.ndarray:
    """Nothing changes."""
    return np.zeros_like(w.y)


def seasonal(w: Windows) -> np.ndarray:
    """The changes of the year before, once more."""
    future = w.y.shape[1]
    return w.x[:, -YEAR : w.x.shape[1] - YEAR + future, 0] - w.x[:, -YEAR - 1]


def ridge(train: Windows, strength: float) -> Callable[[Windows], np.ndarray]:
    """Linear autoregression, each horizon by itself, by least squares with a penalty."""

    def design(w):  # the last week is 0 in all windows; a 1 stands there instead
        return np.concatenate([w.x[:, :-1, 0], np.ones_like(w.x[:, -1])], 1, dtype=np.float64)

    a = design(train)
    kernel = np.linalg.solve(a.T @ a + strength * np.eye(a.shape[1]), a.T @ train.y)
    return lambda w: design(w) @ kernel


def conv_net(features: int, dilations: tuple[int, ...], future: int) -> jn.Layer:
    """Causal convolutions of three weeks, ever further apart, and a readout of the last week."""
    layers = [
        layer
        for i, dilation in enumerate(dilations, 1)
        for layer in (
            jn.conv(features, 3, padding="CAUSAL", dilation=dilation, name=f"conv_{i}"),
            jax.nn.relu,
        )
    ]
    return jn.serial(*layers, jn.last_step(), jn.dense(future, name="output"), name="conv")


def lstm_net(features: int, future: int) -> jn.Layer:
    return jn.serial(
        jn.lstm(features), jn.last_step(), jn.dense(future, name="output"), name="lstm"
    )


def rmse(forecast: np.ndarray, w: Windows, axis: int | None = 0) -> np.ndarray:
    return np.sqrt(np.square(forecast - w.y).mean(axis))


def run(config: Config) -> Results:
    """Fits all of them, prints the errors by horizon and draws."""
    start = time.perf_counter()
    dates, ppm = co2()
    series, years = filled(ppm), dates.astype("M8[Y]").astype(int) + 1970
    bounds = [*np.searchsorted(years, (0, config.validation_from, config.test_from)), len(series)]
    train, validation, test = (
        windows(series, begin, end, config.past, config.future)
        for begin, end in zip(bounds, bounds[1:], strict=False)
    )
    missing = np.isnan(ppm)
    print(
        f"{len(series):,} weeks, {missing.sum()} missing, {missing[bounds[2] :].sum()} of them in "
        f"the test part; {len(train.y):,} windows to train on, {len(validation.y)} to choose by, "
        f"{len(test.y)} to test with"
    )
    fits = [ridge(train, strength) for strength in RIDGES]
    best = int(np.argmin([rmse(fit(validation), validation, None) for fit in fits]))
    seen = validation if config.validation else test
    forecasts: dict[str, list[np.ndarray]] = {
        "persistence": [persistence(seen)],
        "last year's changes": [seasonal(seen)],
        "linear": [fits[best](seen)],
    }
    weights = {"persistence": 0, "last year's changes": 0}
    weights["linear"] = config.past * config.future
    nets = (
        ("convolutions", conv_net(config.features[0], config.dilations, config.future)),
        ("LSTM", lstm_net(config.features[1], config.future)),
    )
    for (name, net), rate, epochs in zip(nets, config.learning_rates, config.epochs, strict=True):
        learned, weights[name] = learn(net, train, seen, rate, epochs, config)
        forecasts[name] = learned
        print(f"{name} learned after {time.perf_counter() - start:.0f} s", flush=True)
    errors = {
        name: np.stack([rmse(forecast, seen) for forecast in runs])
        for name, runs in forecasts.items()
    }
    print(f"ridge chosen: {RIDGES[best]:g}")
    print(table(errors, weights, better(forecasts, seen)))
    print(f"{time.process_time():.0f} s of CPU")
    figures = {
        "errors": draw_errors(errors),
        "lines": draw_forecasts(forecasts, seen, dates, series),
    }
    pictures = [jn.viz.save(f, config.output / f"{name}.png") for name, f in figures.items()]
    print("pictures: " + ", ".join(map(str, pictures)))
    return Results(errors, weights, pictures)


def learn(
    net: jn.Layer, train: Windows, seen: Windows, rate: float, epochs: int, config: Config
) -> tuple[list[np.ndarray], int]:
    """Forecasts of a net from each seed, and its number of weights."""
    middle, scale, unit = train.x.mean(), train.x.std(), train.y.std()  # of the training part only
    data = (train.x - middle) / scale, train.y / unit
    steps = epochs * -(-len(train.y) // config.batch_size)
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    step = jn.make_step(jn.supervised(net, optax.squared_error), optimizer)
    found, weights = [], 0
    for seed in range(config.seeds):
        train_state = jn.init_training(net, optimizer, jax.random.key(seed), data)
        *_, last = jn.fit(
            train_state, step, data, epochs=epochs, batch_size=config.batch_size, progress=False
        )
        params, state = last.train_state.params, last.train_state.state
        found.append(jn.predict(net, params, state, (seen.x - middle) / scale) * unit)
        weights = sum(leaf.size for leaf in jax.tree.leaves(params))
        print(
            f"{net.name}, seed {seed}: {np.sqrt(last.train['loss']) * unit:.3f} ppm in training, "
            f"{rmse(found[-1], seen, None):.3f} ppm measured",
            flush=True,
        )
    return found, weights


def better(forecasts: dict[str, list[np.ndarray]], seen: Windows) -> dict[str, tuple[int, int]]:
    """name -> parts of about a year in which it errs less than the linear one, and their number.

    The error of a net is the mean of the squares over its seeds.
    """
    parts = max(1, len(seen.y) // YEAR)

    def errors(name):
        squares = np.mean([np.square(f - seen.y).mean(1) for f in forecasts[name]], 0)
        return np.array([part.mean() for part in np.array_split(squares, parts)])

    linear = errors("linear")
    return {name: (int((errors(name) < linear).sum()), parts) for name in forecasts}


def table(
    errors: dict[str, np.ndarray], weights: dict[str, int], wins: dict[str, tuple[int, int]]
) -> Table:
    """Errors at some horizons, at all of them, and where linear autoregression is beaten."""
    shown = [n for n in SHOWN if n <= errors["linear"].shape[1]]
    rows = []
    for name, e in errors.items():
        whole = np.sqrt(np.square(e).mean(1))
        cells = [*(e[:, n - 1] for n in shown), whole]
        rows.append(
            (name, f"{weights[name]:,}", *map(_words, cells), "{} of {}".format(*wins[name]))
        )
    head = ("forecast", "weights", *(f"{n} weeks" for n in shown), "all", "better years")
    return Table("root mean squared error in ppm, by weeks ahead", head, rows, width=140)


def _words(values: np.ndarray) -> str:
    return f"{values.mean():.3f}" + (f" ± {spread(values):.3f}" if len(values) > 1 else "")


def draw_errors(errors: dict[str, np.ndarray]) -> Any:
    """Error by horizon: the mean over the seeds, and a band of one standard deviation."""
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    for (name, e), color in zip(errors.items(), _COLORS, strict=True):
        weeks = np.arange(1, e.shape[1] + 1)
        axes.plot(weeks, e.mean(0), color=color, label=name)
        if len(e) > 1:
            low, high = e.mean(0) - e.std(0, ddof=1), e.mean(0) + e.std(0, ddof=1)
            axes.fill_between(weeks, low, high, color=color, alpha=0.25, linewidth=0)
    axes.set_ylim(0, 1.1 * max(e.max() for name, e in errors.items() if name != "persistence"))
    axes.set_xlabel("weeks ahead")
    axes.set_ylabel("root mean squared error, ppm")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def draw_forecasts(
    forecasts: dict[str, list[np.ndarray]],
    seen: Windows,
    dates: np.ndarray,
    series: np.ndarray,
    count: int = 4,
) -> Any:
    """The truth and what was told from some weeks, by the first seed of each net."""
    figure = new_figure(11, 5.5)
    future = seen.y.shape[1]
    shown = np.linspace(0, len(seen.last) - 1, count).astype(int)
    for axes, i in zip(figure.subplots(2, -(-count // 2)).ravel(), shown, strict=False):
        t = seen.last[i]
        span = slice(t + 1 - YEAR, t + 1 + future)
        axes.plot(dates[span], series[span], color="0.75", linewidth=4, label="measured")
        for (name, runs), color in zip(forecasts.items(), _COLORS, strict=True):
            if name != "persistence":
                axes.plot(
                    dates[t : t + 1 + future], series[t] + np.concatenate([[0], runs[0][i]]),
                    color=color, linewidth=1.3, label=name,
                )  # fmt: skip
        axes.axvline(dates[t], color="0.5", linewidth=0.8)
        axes.set_ylabel("ppm")
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(_months())
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def _months() -> Any:
    from matplotlib.dates import MonthLocator

    return MonthLocator((1, 7))


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config))
