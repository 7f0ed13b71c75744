"""The features of images or texts alone; test_vision.py compares CLIP and SigLIP with others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.pretrained.config import complete
from jaxnet.pretrained.families import FAMILIES
from tests.pretrained.test_loading import VISION
from tests.pretrained.test_vision import IDS, IMAGES


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_products_of_the_features_are_the_logits(name):
    family = FAMILIES[name]
    config = VISION[name][1] | {"model_type": name}
    net = family.net(**family.options(complete("load", config, FAMILIES)))
    params, state = net.init(jax.random.key(0), (IMAGES, IDS))
    params |= {key: jnp.array(0.7) for key in ("scale", "bias") if key in params}
    images, texts = (net.apply(params, state, x)[0] for x in ((IMAGES, None), (None, IDS)))
    np.testing.assert_allclose(jnp.linalg.norm(texts, axis=1), 1, rtol=1e-6)
    logits = images @ texts.T * np.exp(0.7) + params.get("bias", 0.0)
    found, _ = net.apply(params, state, (IMAGES, IDS))
    np.testing.assert_allclose(found, logits, atol=1e-6)
