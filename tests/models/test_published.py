"""Sizes and work as published, of every variant as it is traced.

Parameters and billions of multiply-adds are those of torchvision 0.29.1 (`num_params` and `_ops` of
its weights), which agree with the papers.
"""

from collections import Counter
from importlib import import_module
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import Literal

import jaxnet as jn
from jaxnet import models
from tests.helpers import equations, refuses
from tests.models.sizes import count

# Net, variant, side of its images, parameters, billions of multiply-adds.
PUBLISHED = [
    ("efficientnet", "b0", 224, 5_288_548, 0.386), ("efficientnet", "b1", 240, 7_794_184, 0.687),
    ("efficientnet", "b2", 288, 9_109_994, 1.088), ("efficientnet", "b3", 300, 12_233_232, 1.827),
    ("efficientnet", "b4", 380, 19_341_616, 4.394), ("efficientnet", "b5", 456, 30_389_784, 10.266),
    ("efficientnet", "b6", 528, 43_040_704, 19.068),
    ("efficientnet", "b7", 600, 66_347_960, 37.746),
    ("efficientnet", "v2_s", 384, 21_458_488, 8.366),
    ("efficientnet", "v2_m", 480, 54_139_356, 24.582),
    ("efficientnet", "v2_l", 480, 118_515_272, 56.08), ("resnet", 18, 224, 11_689_512, 1.814),
    ("resnet", 34, 224, 21_797_672, 3.664), ("resnet", 50, 224, 25_557_032, 4.089),
    ("resnet", 101, 224, 44_549_160, 7.801), ("resnet", 152, 224, 60_192_808, 11.514),
    ("densenet", 121, 224, 7_978_856, 2.834), ("densenet", 161, 224, 28_681_000, 7.728),
    ("densenet", 169, 224, 14_149_480, 3.36), ("densenet", 201, 224, 20_013_928, 4.291),
    ("convnext", "tiny", 224, 28_589_128, 4.456), ("convnext", "small", 224, 50_223_688, 8.684),
    ("convnext", "base", 224, 88_591_464, 15.355), ("convnext", "large", 224, 197_767_336, 34.361),
    ("vgg", 11, 224, 132_863_336, 7.609), ("vgg", 13, 224, 133_047_848, 11.308),
    ("vgg", 16, 224, 138_357_544, 15.47), ("vgg", 19, 224, 143_667_240, 19.632),
    ("vit", "b_16", 224, 86_567_656, 17.564), ("vit", "b_32", 224, 88_224_232, 4.409),
    ("vit", "l_16", 224, 304_326_632, 61.555), ("vit", "l_32", 224, 306_535_400, 15.378),
    ("vit", "h_14", 224, 632_045_800, 167.295),
]  # fmt: skip
LONG = "b5", "b6", "b7", 161, 169, 201  # variants that take seconds to trace


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "groups", "group_width", "params"), [
    (50, 32, 4, 25_028_904), (101, 64, 4, 83_455_272), (101, 1, 128, 126_886_696),
])  # fmt: skip
def test_parameters_of_grouped_and_wide_ones(depth, groups, group_width, params):
    net = models.resnet(depth, groups=groups, group_width=group_width)
    assert count(net, (2, 224, 224, 3)) == params


test_refusals = refuses([
    (lambda: models.vgg(17), "depth must be 11, 13, 16 or 19, got 17"),
    (lambda: models.densenet(120), "densenet: depth must be 121, 161, 169 or 201, got 120"),
    (lambda: models.vit("b_8"), "variant must be 'b_16', 'b_32', .* got 'b_8'"),
    (lambda: models.convnext("huge"), "convnext: variant must be 'tiny', 'small', 'base' or"),
    (lambda: models.efficientnet("b8"), "efficientnet: variant must be 'b0', .* got 'b8'"),
    (lambda: models.efficientnet(drop_path_rate=1), r"drop_path_rate must be in \[0, 1\), got 1"),
    (lambda: models.convnext(drop_path_rate=1),
     r"convnext: drop_path_rate must be in \[0, 1\), got 1"),
    (lambda: models.mobilenet_v2(width=0), r"mobilenet_v2: width must be in \(0, inf\), got 0"),
    (lambda: models.mobilenet_v3("b"), "mobilenet_v3: variant must be 'small' or 'large'"),
    (lambda: models.resnet(20), "depth must be 18, 34, 50, 101 or 152, got 20"),
    (lambda: models.resnet(18, groups=2), "resnet: groups and group_width are for the bottlenecks"),
    (lambda: models.cifar_resnet(2), r"depth must be 6 n \+ 2.*got 2"),
    (lambda: models.cifar_resnet(21), r"depth must be 6 n \+ 2.*got 21"),
    (lambda: models.googlenet(auxiliary="a"), TypeError, "googlenet: auxiliary must be "),
    (lambda: models.googlenet(normalized="a"), TypeError, "googlenet: normalized must be "),
])  # fmt: skip


class Traced(NamedTuple):
    """What a net computes in training: calls of functions, numbers."""

    functions: dict[str, int]
    numbers: set[float]


FUNCTIONS = {
    "relu": "relu", "relu6": "relu6", "silu": "silu", "hard_silu": "hard_silu", "erfc": "gelu",
    "hard_sigmoid": "hard_sigmoid", "logistic": "sigmoid", "_bernoulli": "dropout",
}  # fmt: skip


def started(net, side):
    """What is needed to trace a training step, its params, and how many these are."""
    x, key = jn.spec((1, side, side, 3)), jax.random.key(0)
    given = jax.eval_shape(net.init, key, x)

    def run(given, x, key):
        return net.apply(*given, x, key=key, train=True)

    return run, (given, x, key), sum(leaf.size for leaf in jax.tree.leaves(given[0]))


SCALE = 1e-20  # below are the powers of two by which norms multiply huge numbers


def traced(run, given):
    steps = list(equations(jax.make_jaxpr(run)(*given).jaxpr))
    names = [step.params.get("name", step.primitive.name) for step in steps]
    inputs = [v.val for step in steps for v in step.invars if isinstance(v, Literal)]
    return Traced(
        dict(Counter(FUNCTIONS[name] for name in names if name in FUNCTIONS)),
        {round(float(v), 7) for v in inputs if jnp.ndim(v) == 0 and float(v) % 1 > SCALE},
    )


# Net, side, parameters, million multiply-adds; functions that it calls; numbers in a training step:
# epsilons, momenta and 1 - momentum, fractions that dropout keeps, an exponent. Parameters and work
# are torchvision's or, of "alexnet", "auxiliary", "cifar" and "unet", by the tables of the papers.
BATCH_NORM, TENSORFLOW = {1e-5, 0.9, 0.1}, {1e-3, 0.99, 0.01}
TRACED = {
    "alexnet": (lambda: models.alexnet(), 227, 60_965_224, 724.407, {"relu": 7, "dropout": 2},
                {1e-4, -0.75, -0.5, 0.5}),
    "auxiliary": (lambda: models.googlenet(auxiliary=True), 224, 13_378_280, 1591.044,
                  {"relu": 57 + 2 * 2, "dropout": 3}, {1e-4, -0.75, -0.5, 0.6, 0.3}),
    "googlenet": (lambda: models.googlenet(normalized=True), 224, 6_624_904, 1498.376,
                  {"relu": 57, "dropout": 1}, {1e-3, 0.9, 0.1, 0.6}),
    "v2": (lambda: models.mobilenet_v2(width=1.4), 224, 6_108_776, 582.196,
           {"relu6": 35, "dropout": 1}, BATCH_NORM | {0.8}),
    "small": (lambda: models.mobilenet_v3("small"), 224, 2_542_856, 56.51,
              {"relu": 5 + 9, "relu6": 28, "hard_silu": 19, "hard_sigmoid": 28, "dropout": 1},
              TENSORFLOW | {0.8}),
    "large": (lambda: models.mobilenet_v3("large"), 224, 5_483_032, 216.59,
              {"relu": 11 + 8, "relu6": 29, "hard_silu": 21, "hard_sigmoid": 29, "dropout": 1},
              TENSORFLOW | {0.8}),
    "cifar": (lambda: models.cifar_resnet(20), 32, 272_474, 40.813, {"relu": 19}, BATCH_NORM),
    "vgg": (lambda: models.vgg(11, normalized=True), 224, 132_868_840, 7609.09,
            {"relu": 10, "dropout": 2}, BATCH_NORM | {0.5}),
    "unet": (lambda: models.unet(2), 64, 31_037_698, 3010.724, {"relu": 18}, BATCH_NORM),
}  # fmt: skip


@pytest.mark.fast_cases("alexnet")
@pytest.mark.parametrize("name", TRACED)
def test_traced(name):
    make, side, params, millions, functions, numbers = TRACED[name]
    run, given, found = started(make(), side)
    assert found == params and round(jn.inspect.flops(run, *given) / 2e6, 3) == millions
    assert traced(run, given) == (functions, numbers)


@pytest.mark.fast_cases("convnext-tiny", "resnet-18", "vgg-11", "vit-b_32")
@pytest.mark.parametrize(("net", "variant", "side", "params", "billions"), [
    pytest.param(*row, id=f"{row[0]}-{row[1]}", marks=pytest.mark.long if row[1] in LONG else ())
    for row in PUBLISHED
])  # fmt: skip
def test_whole_nets(net, variant, side, params, billions):
    run, given, found = started(getattr(models, net)(variant), side)
    assert found == params and round(jn.inspect.flops(run, *given) / 2e9, 3) == billions


NAMES = {
    "efficientnet": "VARIANTS", "resnet": "STAGES", "densenet": "DEPTHS",
    "convnext": "VARIANTS", "vit": "SIZES",
}  # fmt: skip
TABLES = {net: getattr(import_module(f"jaxnet.models.{net}"), name) for net, name in NAMES.items()}
efficientnet = import_module("jaxnet.models.efficientnet")
# A short row for the table of a net, and the arguments of its function.
STAGES = ((1, 3, 1, 16, 1, 0), (6, 5, 2, 24, 2, 0), (4, 3, 2, 32, 2, 1), (1, 3, 1, 32, 2, 1))
SHORT = {
    "efficientnet": ("b0", efficientnet.Variant(STAGES, 1.1, 1.3, 0.3, 24, 40, 1e-3, 0.99),
                     {"drop_path_rate": 0.8}),
    "densenet": (121, ((2, 1, 2, 1), 12, 20), {}),
    "convnext": ("tiny", ((8, 1), (16, 2), (24, 1), (32, 1)), {"drop_path_rate": 0.8}),
    "resnet": (18, (2, 1, 1, 1), {}),
    "resnext": (50, (2, 1, 1, 1), {"groups": 2, "group_width": 6}),
    "vit": ("b_32", (2, 24, 3), {"dropout_rate": 0.1}),
}  # fmt: skip
DROPS = {round(1 - 0.8 * i / 11, 7) for i in (1, 3, 4, 6, 7, 8, 9, 10)}  # with a shortcut
EXPECTED = {
    "efficientnet": ({"silu": 21, "sigmoid": 26, "dropout": 8 + 1}, TENSORFLOW | DROPS | {0.7}),
    "densenet": ({"relu": 1 + 6 * 2 + 3 + 1}, BATCH_NORM),
    "convnext": ({"gelu": 5, "dropout": 4}, {0.8, 0.6, 0.4, 0.2, 1e-6, 0.5, round(0.5**0.5, 7)}),
    "resnet": ({"relu": 1 + 5 * 2}, BATCH_NORM),
    "resnext": ({"relu": 1 + 5 * 3}, BATCH_NORM),
    "vit": ({"gelu": 2, "dropout": 1 + 2 * 3},
            {0.9, 1e-6, 0.5, round(0.5**0.5, 7), round(8**-0.5, 7)}),
}  # fmt: skip


@pytest.mark.fast_cases("vit")
@pytest.mark.parametrize("name", SHORT)
def test_short_nets(name, monkeypatch):
    """Functions and numbers of a training step; sizes are those of whole nets."""
    variant, row, options = SHORT[name]
    net = "resnet" if name == "resnext" else name
    monkeypatch.setitem(TABLES[net], "b" if net == "vit" else variant, row)
    side = 96 if net in ("vit", "convnext") else 100  # patches fill the image
    run, given, _ = started(getattr(models, net)(variant, 7, **options), side)
    assert traced(run, given) == EXPECTED[name]


def test_scalings_dropout_and_norms_of_efficientnet():
    """As in torchvision: B5 to B7 have TensorFlow's norms, and V2 its epsilon alone."""
    found = [(v.rate, v.epsilon, v.momentum) for v in efficientnet.VARIANTS.values()]
    scalings = [(v.width, v.depth) for v in efficientnet.VARIANTS.values()]
    assert scalings[:4] == [(1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4)]
    assert scalings[4:8] == [(1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1)]
    assert scalings[8:] == [(1.0, 1.0)] * 3
    rates = [0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5, 0.2, 0.3, 0.4]
    norms = [(1e-5, 0.9)] * 5 + [(1e-3, 0.99)] * 3 + [(1e-3, 0.9)] * 3
    assert found == [(rate, *norm) for rate, norm in zip(rates, norms, strict=True)]
