import jax
import pytest

import jaxnet as jn
from experiments import torchvision_logits, torchvision_nets
from experiments.torchvision_logits import NETWORKS, Config, compare, torchvision

# Net, variant, side of its images, parameters, billions of multiply-adds, of torchvision 0.29.1.
PUBLISHED = [
    ("squeezenet", "1_0", 224, 1_248_424, 0.819), ("squeezenet", "1_1", 224, 1_235_496, 0.349),
    ("shufflenet_v2", "x0_5", 224, 1_366_792, 0.04),
    ("shufflenet_v2", "x1_0", 224, 2_278_604, 0.145),
    ("shufflenet_v2", "x1_5", 224, 3_503_624, 0.296),
    ("shufflenet_v2", "x2_0", 224, 7_393_996, 0.583), ("regnet", "x_400mf", 224, 5_495_976, 0.414),
    ("regnet", "x_800mf", 224, 7_259_656, 0.8), ("regnet", "x_1_6gf", 224, 9_190_136, 1.603),
    ("regnet", "x_3_2gf", 224, 15_296_552, 3.177), ("regnet", "x_8gf", 224, 39_572_648, 7.995),
    ("regnet", "x_16gf", 224, 54_278_536, 15.941), ("regnet", "x_32gf", 224, 107_811_560, 31.736),
    ("regnet", "y_400mf", 224, 4_344_144, 0.402), ("regnet", "y_800mf", 224, 6_432_512, 0.834),
    ("regnet", "y_1_6gf", 224, 11_202_430, 1.612), ("regnet", "y_3_2gf", 224, 19_436_338, 3.176),
    ("regnet", "y_8gf", 224, 39_381_472, 8.473), ("regnet", "y_16gf", 224, 83_590_140, 15.912),
    ("regnet", "y_32gf", 224, 145_046_770, 32.28), ("regnet", "y_128gf", 384, 644_812_894, 374.57),
]  # fmt: skip


@pytest.mark.fast_cases("squeezenet-1_1", "shufflenet_v2-x0_5")
@pytest.mark.parametrize(
    ("net", "variant", "side", "params", "billions"),
    [pytest.param(*row, id="-".join(row[:2])) for row in PUBLISHED],
)
def test_sizes_and_work_as_published(net, variant, side, params, billions):
    net = getattr(torchvision_nets, net)(variant)
    x = jn.spec((1, side, side, 3))
    given = jax.eval_shape(net.init, jax.random.key(0), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(given[0])) == params

    def run(given, x):
        return net.apply(*given, x)[0]

    assert round(jn.inspect.flops(run, given, x) / 2e9, 3) == billions


@pytest.fixture(scope="module")
def libraries():
    try:
        torchvision()  # torch 2.13.0, torchvision 0.28.0
    except ImportError:
        pytest.skip("compares with torchvision")


@pytest.mark.slow
@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_logits_are_torchvisions(name):
    row = compare(name)
    assert row.difference <= 1e-4
    assert row.layers >= 8
    assert row.parameters > 1e6


@pytest.mark.slow
@pytest.mark.usefixtures("libraries")
def test_a_changed_weight_is_seen(monkeypatch):
    taken = torchvision_logits.from_torch

    def wrong(*args, **options):
        params, state = taken(*args, **options)
        params["conv_0"]["kernel"] = params["conv_0"]["kernel"][::-1]  # a window upside down
        return params, state

    monkeypatch.setattr(torchvision_logits, "from_torch", wrong)
    (row,) = torchvision_logits.run(Config(only=("squeezenet1_1",)))
    assert row.difference > 0.01
