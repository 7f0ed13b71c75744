"""ConvNeXt's sizes and its bare model; logits and gradients are compared in test_vision.py."""

import jax
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.pretrained import convnext, load
from jaxnet.pretrained.config import complete
from jaxnet.pretrained.families import FAMILIES
from tests.pretrained.test_loading import outputs, published


def options(**entries):
    return convnext.options(complete("f", {"model_type": "convnext"} | entries, FAMILIES))


@pytest.mark.slow
def test_parameters_of_the_published_model():
    found = options(architectures=["ConvNextForImageClassification"]) | {"labels": 1000}
    net = convnext.convnext(**found)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((1, 64, 64, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 28_589_128  # tiny


@pytest.mark.slow
def test_features_are_those_of_transformers(tmp_path):
    torch, model = published("convnext", tmp_path, "Model")
    net, params, state = load(tmp_path)
    x = np.random.default_rng(0).normal(size=(2, 24, 29, 3)).astype(np.float32)
    wanted = outputs(torch, model, {"pixel_values": x.transpose(0, 3, 1, 2)}).detach()
    found = net.apply(params, state, x)[0]
    np.testing.assert_allclose(found, wanted.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("entries", "words"), [
    ({"depths": [3]}, "must have num_stages = 4"),
    ({"depths": [3, 0, 9, 3]}, "depths must be a list of whole numbers"),
    ({"layer_scale_init_value": 0.0}, "must be a positive number, got 0"),
], ids=["one depth", "depth 0", "scale 0"])  # fmt: skip
def test_what_the_net_cannot_compute_is_named(entries, words):
    with pytest.raises(ValueError, match=words):
        options(**entries)
