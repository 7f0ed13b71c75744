import jax
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.models import cifar_resnet, resnet
from tests.models.sizes import count, shapes


def test_parameters():
    assert count(cifar_resnet(8), (2, 32, 32, 3)) == 464 + 4672 + 14528 + 57728 + 650


@pytest.mark.slow
def test_names_and_stages():
    sizes = shapes(cifar_resnet(20, 7), (2, 32, 32, 3))
    assert sizes["block_3/conv_1"] == (2, 32, 32, 16)
    assert sizes["block_4/shortcut"] == sizes["block_6/conv_2"] == (2, 16, 16, 32)
    assert sizes["block_9/norm_2"] == (2, 8, 8, 64)
    assert sizes["global_avg_pool"] == (2, 64)
    assert sizes["output"] == (2, 7)
    with_shortcut = {path.split("/")[0] for path in sizes if path.endswith("shortcut")}
    assert with_shortcut == {"block_4", "block_7"}


@pytest.mark.slow
def test_kernels_keep_the_variance_and_norms_start_as_identity():
    params, state = cifar_resnet(8).init(jax.random.key(0), jn.spec((2, 32, 32, 3)))
    kernel = params["block_3"]["conv_2"]["kernel"]  # (3, 3, 64, 64)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.03)  # He's
    assert (params["block_3"]["norm_2"]["scale"] == 1).all()
    assert (state["block_3"]["norm_2"]["var"] == 1).all()


@pytest.mark.slow
def test_stages_of_the_large_ones():
    found = shapes(resnet(50, 7), (2, 224, 224, 3))
    sizes = {path: size[1:] for path, size in found.items()}
    assert sizes["conv_0"] == (112, 112, 64) and sizes["max_pool"] == (56, 56, 64)
    assert sizes["stage_1_block_3"] == sizes["stage_1_block_1/shortcut"] == (56, 56, 256)
    assert sizes["stage_2_block_4"] == (28, 28, 512)
    assert sizes["stage_2_block_1/conv_1"] == (56, 56, 128)  # strides come with the 3x3 window
    assert sizes["stage_3_block_6"] == (14, 14, 1024)
    assert sizes["stage_4_block_3"] == (7, 7, 2048)
    assert "stage_2_block_2/shortcut" not in sizes and sizes["output"] == (7,)
