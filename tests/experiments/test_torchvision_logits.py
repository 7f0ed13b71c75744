import pytest

from experiments import torchvision_logits
from experiments.torchvision_logits import NETWORKS, Config, compare, torchvision


@pytest.fixture(scope="module", autouse=True)
def libraries():
    try:
        torchvision()  # torch 2.13.0, torchvision 0.28.0
    except ImportError:
        pytest.skip("compares with torchvision")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_logits_are_torchvisions(name):
    row = compare(name)
    assert row.difference <= 1e-4 and row.layers >= 8 and row.parameters > 1e6


@pytest.mark.slow
def test_a_changed_weight_is_seen(monkeypatch, capsys):
    taken = torchvision_logits.from_torch

    def wrong(net, weights, x):
        params, state = taken(net, weights, x)
        kernel = params["conv_0"]["kernel"]
        params["conv_0"]["kernel"] = kernel[::-1]  # a window upside down
        return params, state

    monkeypatch.setattr(torchvision_logits, "from_torch", wrong)
    (row,) = torchvision_logits.run(Config(only=("squeezenet1_1",)))
    assert row.difference > 0.01
    assert "squeezenet1_1                1,235,496     26" in capsys.readouterr().out


def test_wrong_options():
    with pytest.raises(ValueError, match="only has lenet; there are alexnet, "):
        Config(only=("lenet",))
