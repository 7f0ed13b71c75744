"""Sizes as published, of networks for images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.models.sizes import count, shapes

models = jn.models

# torchvision 0.28's counts, which are those of the papers' architectures.
PUBLISHED = {
    models.convnext: {
        "tiny": 28_589_128, "small": 50_223_688, "base": 88_591_464, "large": 197_767_336,
    },
    models.densenet: {121: 7_978_856, 161: 28_681_000, 169: 14_149_480, 201: 20_013_928},
    models.efficientnet: {
        "b0": 5_288_548, "b1": 7_794_184, "b2": 9_109_994, "b3": 12_233_232, "b4": 19_341_616,
        "b5": 30_389_784, "b6": 43_040_704, "b7": 66_347_960, "v2_s": 21_458_488,
        "v2_m": 54_139_356, "v2_l": 118_515_272,
    },
    models.mobilenet_v3: {"small": 2_542_856, "large": 5_483_032},
    models.regnet: {
        "x_400mf": 5_495_976, "x_800mf": 7_259_656, "x_1_6gf": 9_190_136, "x_3_2gf": 15_296_552,
        "x_8gf": 39_572_648, "x_16gf": 54_278_536, "x_32gf": 107_811_560, "y_400mf": 4_344_144,
        "y_800mf": 6_432_512, "y_1_6gf": 11_202_430, "y_3_2gf": 19_436_338, "y_8gf": 39_381_472,
        "y_16gf": 83_590_140, "y_32gf": 145_046_770, "y_128gf": 644_812_894,
    },
    models.shufflenet_v2: {
        "x0_5": 1_366_792, "x1_0": 2_278_604, "x1_5": 3_503_624, "x2_0": 7_393_996,
    },
    models.squeezenet: {"1_0": 1_248_424, "1_1": 1_235_496},
    models.vit: {
        "b_16": 86_567_656, "b_32": 88_224_232, "l_16": 304_326_632, "l_32": 306_535_400,
        "h_14": 632_045_800,
    },
}  # fmt: skip
CASES = [(make, variant, n) for make, variants in PUBLISHED.items()
         for variant, n in variants.items()]  # fmt: skip
IDS = [f"{make.__name__}-{variant}" for make, variant, _ in CASES]


@pytest.mark.fast_cases("squeezenet-1_0", "shufflenet_v2-x0_5", "vit-b_32", "regnet-x_800mf")
@pytest.mark.parametrize(("make", "variant", "parameters"), CASES, ids=IDS)
def test_parameters(make, variant, parameters):
    assert count(make(variant), (2, 224, 224, 3)) == parameters
