import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.models import cifar_resnet, resnet
from tests.models.sizes import shapes


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("depth", "parameters"),
    [
        pytest.param(8, 78_042, id="464+4672+14528+57728+650"),
        pytest.param(20, 272_474, id="464+3*4672+14528+2*18560+57728+2*73984+650"),
    ],
)
def test_parameters(depth, parameters):
    net = cifar_resnet(depth)
    params, state = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 32, 32, 3)))
    assert count(params) == parameters
    norms = sum(leaf.size for name, leaf in flat(params) if name.endswith("scale"))
    assert count(state) == 2 * norms  # a mean and a variance for each scale


def flat(tree):
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


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
def test_equals_torch(x64):
    """Values, gradients and running means, in float64."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")  # torch 2.13.0
    from experiments.benchmarks.peers.torch import Module, in_layout
    from experiments.benchmarks.workloads import ResNet, Workload, draw_weights

    workload = Workload("", ResNet(8), (3, 9, 8, 3))
    weights = draw_weights(workload)
    theirs = Module(workload.net, workload.shape).double()
    layout = in_layout(workload.net, weights)
    state = {name: torch.tensor(np.array(v, np.float64)) for name, v in layout.items()}
    theirs.load_state_dict(state, strict=False)
    x = np.random.default_rng(0).normal(size=workload.shape)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), weights)
    net = cifar_resnet(8)
    _, state = net.init(jax.random.key(0), jnp.asarray(x))

    def total(params):
        y, after = net.apply(params, state, jnp.asarray(x), train=True)
        return (y**2).sum(), (y, after)

    gradients, (y, after) = jax.jit(jax.grad(total, has_aux=True))(params)
    expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2)))
    (expected**2).sum().backward()
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-10)
    for name in ("conv_1", "shortcut"):
        mine = np.transpose(gradients["block_2"][name]["kernel"], (3, 2, 0, 1))
        grad = getattr(theirs.block_2, name).weight.grad
        np.testing.assert_allclose(mine, grad, rtol=1e-9, atol=1e-10)
    grad = theirs.norm_0.weight.grad
    np.testing.assert_allclose(gradients["norm_0"]["scale"], grad, rtol=1e-9, atol=1e-10)
    mean = theirs.block_3.norm_2.running_mean
    np.testing.assert_allclose(after["block_3"]["norm_2"]["mean"], mean, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_kernels_keep_the_variance_and_norms_start_as_identity():
    params, state = cifar_resnet(8).init(jax.random.key(0), jn.spec((2, 32, 32, 3)))
    kernel = params["block_3"]["conv_2"]["kernel"]  # (3, 3, 64, 64)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.03)  # He's
    assert (params["block_3"]["norm_2"]["scale"] == 1).all()
    assert (state["block_3"]["norm_2"]["var"] == 1).all()


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_depth_is_6_n_plus_2(depth):
    with pytest.raises(ValueError, match=rf"cifar_resnet: depth must be 6 n \+ 2.*got {depth}"):
        cifar_resnet(depth)


# torchvision 0.28's counts, which are those of the paper's architectures.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "parameters"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_parameters_of_the_large_ones(depth, parameters):
    net = resnet(depth)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
    assert count(params) == parameters


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


def test_a_wrong_depth_of_the_large_ones():
    with pytest.raises(ValueError, match="depth must be 18, 34, 50, 101 or 152, got 20"):
        resnet(20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "groups", "group_width", "parameters"),
    [(50, 32, 4, 25_028_904), (101, 32, 8, 88_791_336), (101, 64, 4, 83_455_272),
     (50, 1, 128, 68_883_240), (101, 1, 128, 126_886_696)],
)  # fmt: skip
def test_parameters_of_grouped_and_wide_ones(depth, groups, group_width, parameters):
    net = resnet(depth, groups=groups, group_width=group_width)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
    assert count(params) == parameters


def test_groups_are_for_bottlenecks():
    with pytest.raises(ValueError, match="resnet: groups and group_width are for the bottlenecks"):
        resnet(18, groups=2)
