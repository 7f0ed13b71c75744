"""The table of defaults in the guide: cells of installed libraries are measured in themselves."""

import inspect
import os

import jax
import numpy as np
import pytest

import jaxnet as jn
from tests.pages import ROOT

PAGE = ROOT / "guide" / "migrating" / "defaults.md"

SAME, NONE, WINDOW = "same", "none", "window"
LECUN, CUT, THIRD, GLOROT = "1/√n", "0.88/√n", "1/√(3n)", "√(2/(n+m))"
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 5)).astype(np.float32)
ROWS = np.ones((2, 400), np.float32)
N, M = ROWS.shape[1], 100
DROPPED, KEPT = "dropped", "kept"


def table():
    """Library -> the cells of its column; "" is the column of row names."""
    text = PAGE.read_text().split("\n## Defaults of each library\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {column[0]: list(column[2:]) for column in zip(*cells, strict=True)}


def padding(height):
    return {8: SAME, 6: NONE}[height]


def strides(height):
    return {4: WINDOW, 7: "1"}[height]


def share(outputs):
    """Outputs are for ones at a rate of 0.1; dropped entries are 0."""
    return DROPPED if (np.asarray(outputs) == 0).mean() < 0.5 else KEPT


def deviation(kernel):
    names = {LECUN: 1, CUT: 0.88, THIRD: 3**-0.5, GLOROT: (2 * N / (N + M)) ** 0.5}
    [name] = [
        name for name, value in names.items() if abs(N**0.5 * np.std(kernel) / value - 1) < 0.03
    ]
    return name


def start(bias):
    return "0" if (np.asarray(bias) == 0).all() else "random"


def defaults_of_jaxnet():
    key = jax.random.key(0)

    def run(layer, x, **options):
        params, state = layer.init(key, x)
        return *layer.apply(params, state, x, **options), params

    _, after, _ = run(jn.batch_norm(), IMAGES + 1, train=True)
    old = 1 - after["mean"].mean() / (IMAGES + 1).mean()
    y, _, _ = run(jn.dropout(0.1), ROWS, key=jax.random.key(1), train=True)
    _, _, dense = run(jn.dense(M), ROWS)
    epsilons = [inspect.signature(f).parameters["epsilon"] for f in (jn.batch_norm, jn.layer_norm)]
    return [
        "NHWC",
        padding(run(jn.conv(3, 3), IMAGES)[0].shape[1]),
        strides(run(jn.max_pool(2), IMAGES)[0].shape[1]),
        f"{old:.2g}",
        *(str(epsilon.default) for epsilon in epsilons),
        share(y),
        deviation(dense["kernel"]),
        start(dense["bias"]),
    ]


def defaults_of_pytorch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    x = torch.tensor(np.moveaxis(IMAGES, -1, 1))
    norm = torch.nn.BatchNorm2d(5)
    norm(x + 1)
    dense = torch.nn.Linear(N, M)
    with torch.no_grad():
        return [
            "NCHW",
            padding(torch.nn.Conv2d(5, 3, 3)(x).shape[2]),
            strides(torch.nn.MaxPool2d(2)(x).shape[2]),
            f"{1 - norm.running_mean.mean().item() / (IMAGES + 1).mean():.2g}",
            str(norm.eps),
            str(torch.nn.LayerNorm(5).eps),
            share(torch.nn.Dropout(0.1)(torch.tensor(ROWS))),
            deviation(dense.weight.numpy()),
            start(dense.bias.numpy()),
        ]


def defaults_of_flax():
    nn = pytest.importorskip("flax.linen")
    key = jax.random.key(0)
    norm = nn.BatchNorm(False)
    _, after = norm.init_with_output(key, IMAGES + 1)
    _, after = norm.apply(after, IMAGES + 1, mutable=["batch_stats"])
    old = 1 - after["batch_stats"]["mean"].mean() / (IMAGES + 1).mean()
    dense = nn.Dense(M).init(key, ROWS)["params"]
    return [
        "NHWC",
        padding(nn.Conv(3, (3, 3)).init_with_output(key, IMAGES)[0].shape[1]),
        strides(nn.max_pool(IMAGES, (2, 2)).shape[1]),
        f"{old:.2g}",
        str(norm.epsilon),
        str(nn.LayerNorm().epsilon),
        share(nn.Dropout(0.1).apply({}, ROWS, False, rngs={"dropout": jax.random.key(1)})),
        deviation(dense["kernel"]),
        start(dense["bias"]),
    ]


def defaults_of_stax():
    stax = pytest.importorskip("jax.example_libraries.stax")

    def run(layer, x):
        init, apply = layer
        params = init(jax.random.key(0), x.shape)[1]
        return params, apply(params, x, rng=jax.random.key(1))

    kernel, bias = run(stax.Dense(M), ROWS)[0]
    assert len(run(stax.BatchNorm(), IMAGES)[0]) == 2 and not hasattr(stax, "LayerNorm")
    return [
        "NHWC",
        padding(run(stax.Conv(3, (3, 3)), IMAGES)[1].shape[1]),
        strides(run(stax.MaxPool((2, 2)), IMAGES)[1].shape[1]),
        "no average",
        str(inspect.signature(stax.BatchNorm).parameters["epsilon"].default),
        "no layer",
        share(run(stax.Dropout(0.1), ROWS)[1]),
        deviation(kernel),
        start(bias),
    ]


MEASURED = {
    "jaxnet": defaults_of_jaxnet,
    "PyTorch": defaults_of_pytorch,
    "Flax": defaults_of_flax,
    "stax": defaults_of_stax,
}


@pytest.mark.fast_cases("PyTorch")
@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("library", MEASURED)
def test_defaults_are_those_of_the_libraries(library, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    assert table()[library] == MEASURED[library]()


def test_the_table_names_all_that_is_measured():
    assert set(MEASURED) < set(table())
