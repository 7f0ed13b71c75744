import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")

import jaxnet as jn
from experiments import inside


@pytest.mark.slow
def test_both_networks_are_looked_into(few_examples, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inside, "SHARES", (0, 0.05, 0.1, 0.2, 0.5))
    config = inside.Config(
        digit_epochs=1, photo_epochs=1, digits_tested=10, photos_tested=10, steps=8,
        data_dir=few_examples(2000, 80), output=tmp_path,
    )  # fmt: skip
    results = inside.run(config)
    assert 0.3 < results.accuracies["digits"] < 0.97
    assert 0.15 < results.accuracies["photos"] < 0.6
    for curves in results.deletions.values():
        assert len(curves) == 6 and all(a.shape == (5,) for a in curves.values())
    kinds = ("attributions", "classes", "deletion", "filters", "hidden", "maps", "receptive")
    assert {path.stem for path in results.pictures} == {
        f"{name}_{kind}" for name in ("digits", "photos") for kind in kinds
    }
    assert "integrated gradients miss the rise" in capsys.readouterr().out


def test_importance_is_one_number_per_pixel():
    gradient = np.array([-3.0, 2.0]).reshape(1, 1, 1, 2) * np.ones((1, 4, 5, 1))
    np.testing.assert_allclose(inside.importance("saliency", gradient, (4, 5)), 3)
    np.testing.assert_allclose(inside.importance("integrated gradients", gradient, (4, 5)), -1)
    coarse = inside.importance("class activation map", np.ones((1, 2, 3)), (4, 6))
    np.testing.assert_allclose(coarse, np.ones((1, 4, 6)))


def test_the_inner_quarter():
    fields = jn.inspect.receptive_fields(
        jn.serial(jn.conv(1, 8, padding=4)), jn.spec((1, 20, 20, 1))
    )
    field = np.zeros((20, 20))
    (top, left), size = fields.starts["conv"], fields.fields["conv"]
    assert size == (8, 8)
    field[top : top + 8, left : left + 8] = 1
    field[top + 2 : top + 6, left + 2 : left + 6] = 5
    assert inside.inner(field, fields, "conv") == (80 / 128, 16 / 64)


def test_wrong_options():
    with pytest.raises(ValueError, match="steps must be at least 8, got 7"):
        inside.Config(steps=7)
