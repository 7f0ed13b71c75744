import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")

import jaxnet as jn
from experiments import inside


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
