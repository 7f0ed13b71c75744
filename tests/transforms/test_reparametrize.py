"""Weight and spectral norm as transforms of any layer, the second against PyTorch 2.13.0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.helpers import close, draw, jit_apply, refused


def key():
    return jax.random.key(0)


def test_weight_norm_inside_a_net_keeps_the_keys_and_names():
    plain = jn.serial(jn.dense(4), jn.dense(2))
    net = jn.serial(jn.transforms.weight_norm(jn.dense(4)), jn.dense(2))
    a, b = (n.init(key(), jn.spec((3, 5)))[0] for n in (plain, net))
    np.testing.assert_array_equal(a["dense"]["kernel"], b["dense"]["kernel"]["v"])
    np.testing.assert_array_equal(a["dense_1"]["kernel"], b["dense_1"]["kernel"])
    assert jn.transforms.weight_norm(jn.dense(1), name="other").name == "other"


def test_weight_norm_leaves_what_is_named_like_its_parts():
    own = {"g": jnp.ones(2), "v": draw(3, 2)}
    both = jn.parallel(jn.stateless(lambda key, x: own, lambda p, x: x @ p["v"]), jn.dense(2))
    net = jn.transforms.weight_norm(both)
    found, _ = jit_apply(net, *net.init(key(), jn.spec((2, 3))), draw(2, 3))
    np.testing.assert_allclose(found[0], draw(2, 3) @ own["v"], rtol=1e-5)


@pytest.mark.slow
def test_weight_norm_of_a_convolution_has_a_length_per_output(x64):
    v = draw(3, 4, 5)
    g = draw(5, seed=1)
    x = draw(2, 9, 4)
    conv = jn.conv(5, 3, padding="VALID", use_bias=False)
    y, _ = jit_apply(jn.transforms.weight_norm(conv), {"kernel": {"g": g, "v": v}}, {}, x)
    kernel = g * v / np.sqrt(np.square(v).sum((0, 1)))
    np.testing.assert_allclose(y, jit_apply(conv, {"kernel": kernel}, {}, x)[0], rtol=1e-10)


@pytest.mark.parametrize("size", [1e-30, 1e19, 1e25, 1e30])
@pytest.mark.parametrize("make", [jn.transforms.weight_norm, jn.transforms.spectral_norm])
def test_kernels_whose_squares_are_no_floats(make, size):
    """Divided by their length or by their largest value, kernels are the same at any size."""
    plain = jn.dense(3, use_bias=False)
    layer = make(plain)
    x = draw(2, 5)
    _, state = layer.init(key(), x)
    kernel = draw(5, 3)

    def loss(kernel, size):
        kernel = kernel * size
        params = {"kernel": kernel}
        if make is jn.transforms.weight_norm:
            params = {"kernel": {"g": jnp.ones(3), "v": kernel}}
        y, after = layer.apply(params, state, x, train=True)
        return jnp.square(y).sum(), (y, after)

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, found), slope = run(kernel, jnp.float32(size))
    (_, wanted), right = run(kernel, jnp.float32(1))
    close(found, wanted, 1e-4)
    close(slope, right, 1e-4)


def test_weight_norm_of_zero_is_zero_and_finite():
    layer = jn.transforms.weight_norm(jn.dense(3, kernel_init=jn.initializers.zeros))
    params, state = layer.init(key(), jn.spec((2, 5)))

    def loss(p):
        return jit_apply(layer, p, state, jnp.ones((2, 5)))[0].sum()

    grads = jax.jit(jax.grad(loss))(params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.slow
def test_spectral_norm_equals_torch_over_steps_in_which_the_kernel_moves(x64, torch):
    kernel = draw(5, 3)
    c = draw(4, 3, seed=3)
    x = draw(4, 5, seed=2)
    other = torch.nn.Linear(5, 3, bias=False).double()
    other = torch.nn.utils.parametrizations.spectral_norm(other)
    weight = other.parametrizations.weight
    with torch.no_grad():
        weight.original.copy_(torch.tensor(kernel.T))
    layer = jn.transforms.spectral_norm(jn.dense(3, use_bias=False))
    params = {"kernel": jnp.asarray(kernel)}
    u, v = (jnp.array(part.tolist()) for part in (weight[0]._u, weight[0]._v))
    state = {"spectral_norm": {"kernel": {"u": u, "v": v}}}

    @jax.jit
    def loss(params, state):
        y, state = layer.apply(params, state, jnp.asarray(x), train=True)
        return (y * c).sum(), (y, state)

    for _ in range(3):
        grads, (y, state) = jax.jit(jax.grad(loss, has_aux=True))(params, state)
        weight.original.grad = None
        out = other(torch.tensor(x))
        (out * torch.tensor(c)).sum().backward()
        pair = state["spectral_norm"]["kernel"]
        found = y, grads["kernel"], pair["u"], pair["v"]
        wanted = out.detach(), weight.original.grad.T, weight[0]._u, weight[0]._v
        close(found, wanted, 1e-10, 1e-12)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        with torch.no_grad():
            weight.original.sub_(0.1 * weight.original.grad)
    other.eval()
    y, still = jit_apply(layer, params, state, jnp.asarray(x))
    np.testing.assert_allclose(y, other(torch.tensor(x)).detach(), rtol=1e-10, atol=1e-12)
    jax.tree.map(np.testing.assert_array_equal, still, state)


@pytest.mark.slow
def test_spectral_norm_finds_the_largest_singular_value():
    """Against numpy's svd, for every kernel of a net, with a convolution taken as a matrix."""
    inner = jn.serial(jn.conv(4, 3), jn.batch_norm(), jn.flatten(), jn.dense(3))
    layer = jn.transforms.spectral_norm(inner)
    x = jnp.asarray(draw(2, 4, 3, 2), jnp.float32)
    params, state = layer.init(key(), x)
    assert set(state) == {"batch_norm", "spectral_norm"}

    def turn(_, state):
        return jit_apply(layer, params, state, x, train=True)[1]

    state = jax.jit(lambda state: jax.lax.fori_loop(0, 100, turn, state))(state)
    for part in ("conv", "dense"):
        matrix = np.asarray(params[part]["kernel"]).reshape(-1, params[part]["kernel"].shape[-1])
        pair = state["spectral_norm"][part]["kernel"]
        sigma = pair["v"] @ matrix @ pair["u"]
        np.testing.assert_allclose(sigma, np.linalg.norm(matrix, 2), rtol=1e-4)


@pytest.mark.slow
def test_spectral_norm_bounds_a_fresh_layer():
    layer = jn.transforms.spectral_norm(jn.dense(30, use_bias=False))
    y, _ = layer.apply(*layer.init(key(), jn.spec((20, 20))), jnp.eye(20))
    assert 1 - 1e-5 <= np.linalg.norm(y, 2) < 1.1


@pytest.mark.slow
def test_more_iterations_are_several_steps():
    once, thrice = (jn.transforms.spectral_norm(jn.dense(9), iterations=n) for n in (1, 3))
    x = jnp.ones((2, 8))
    params, state = once.init(key(), x)
    _, still = jit_apply(once, params, state, x)  # they move in training only
    jax.tree.map(np.testing.assert_array_equal, still, state)
    _, far = jit_apply(thrice, params, state, x, train=True)
    for _ in range(3):
        _, state = jit_apply(once, params, state, x, train=True)
    close(state, far, 1e-5, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_spectral_norm_of_zeros_is_zero(train):
    inner = jn.dense(3, use_bias=False, kernel_init=jn.initializers.zeros)
    layer = jn.transforms.spectral_norm(inner)
    params, state = layer.init(key(), jn.spec((5, 4)))
    run = jax.jit(layer.apply, static_argnames="train")

    def total(params):
        y, after = run(params, state, jnp.ones((5, 4)), train=train)
        return y.sum(), (y, after)

    (_, (y, after)), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    assert (y == 0).all()
    assert (gradient["kernel"] == 5).all()  # that of the layer: divided by 1
    # Once the kernel is not zero, its norm is found: the vectors did not become zero.
    params = {"kernel": 7 * jnp.eye(4, 3)}
    for _ in range(30):
        y, after = run(params, after, jnp.eye(4), train=True)
    np.testing.assert_allclose(jnp.linalg.norm(y, 2), 1, rtol=1e-5)


@pytest.mark.slow
def test_each_copy_is_normalized_alone():
    inner = jn.repeat(jn.dense(4, use_bias=False), 3)
    x = draw(2, 4).astype(np.float32)
    net = jn.transforms.spectral_norm(inner)
    params, state = net.init(key(), x)
    for _ in range(40):
        _, state = jit_apply(net, params, state, x, train=True)
    u, v = (state["spectral_norm"]["kernel"][n] for n in "uv")
    assert u.shape == v.shape == (3, 4)
    kernel = params["kernel"]
    sigma = np.einsum("ci,cio,co->c", v, kernel, u)
    np.testing.assert_allclose(sigma, np.linalg.norm(kernel, 2, (1, 2)), rtol=1e-3)
    y, _ = jit_apply(net, params, state, x)
    by_hand = x @ (kernel[0] / sigma[0]) @ (kernel[1] / sigma[1]) @ (kernel[2] / sigma[2])
    np.testing.assert_allclose(y, by_hand, 1e-4, 1e-5)

    net = jn.transforms.weight_norm(inner)
    params, state = net.init(key(), x)
    assert params["kernel"]["g"].shape == (3, 4)
    y, _ = jit_apply(inner, {"kernel": params["kernel"]["v"]}, {}, x)  # it starts as the layer
    np.testing.assert_allclose(jit_apply(net, params, state, x)[0], y, 1e-5, 1e-6)


@pytest.mark.slow
def test_heads_are_outputs_of_one_matrix():
    net = jn.transforms.spectral_norm(jn.multi_head_attention(2, use_bias=False), iterations=50)
    x = draw(2, 3, 8).astype(np.float32)
    params, state = net.init(key(), x)
    _, state = jit_apply(net, params, state, x, train=True)
    kernel = np.reshape(params["query"]["kernel"], (8, 8))
    vectors = state["spectral_norm"]["query"]["kernel"]
    sigma = vectors["v"] @ kernel @ vectors["u"]
    np.testing.assert_allclose(sigma, np.linalg.norm(kernel, 2), rtol=1e-4)


weight_norm, spectral_norm = jn.transforms.weight_norm, jn.transforms.spectral_norm
NORMED = weight_norm(jn.dense(4))


@refused([
    (lambda x: weight_norm(jn.layer_norm()).init(key(), x),
     "layer_norm has no parameter named kernel"),
    (lambda x: spectral_norm(jn.layer_norm()).init(key(), x), "has no parameter named kernel"),
    (lambda x: spectral_norm(jn.dense(3), iterations=0), "iterations must be at least 1"),
    (lambda x: spectral_norm(spectral_norm(jn.dense(3))).init(key(), x),
     "the kernels of dense are already normalized"),
    (lambda x: NORMED.apply({"kernel": {"g": x[0], "v": jnp.ones((5, 4))}, "bias": x[0]}, {}, x),
     r"dense/kernel/g: expected \(4,\), got \(5,\)"),
    # plain params of the layer
    (lambda x: NORMED.apply(jn.dense(4).init(key(), x)[0], {}, x),
     r"dense/kernel/g: expected \(4,\), got nothing"),
])  # fmt: skip
def test_refusals(call):
    call(jnp.ones((2, 5)))
