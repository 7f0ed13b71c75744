import jax
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.models import cifar_resnet
from tests.models.sizes import count


@pytest.mark.slow
def test_parameters():
    assert count(cifar_resnet(8), (2, 32, 32, 3)) == 464 + 4672 + 14528 + 57728 + 650
    assert count(jn.models.resnet(50), (2, 224, 224, 3)) == 25_557_032


def test_kernels_keep_the_variance_and_norms_start_as_identity():
    params, state = cifar_resnet(8).init(jax.random.key(0), jn.spec((2, 32, 32, 3)))
    kernel = params["block_3"]["conv_2"]["kernel"]  # (3, 3, 64, 64)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.03)  # He's
    assert (params["block_3"]["norm_2"]["scale"] == 1).all()
    assert (state["block_3"]["norm_2"]["var"] == 1).all()
