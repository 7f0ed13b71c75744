import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.models import lenet5
from jaxnet.services.jax_versions import enable_x64
from tests.models.sizes import shapes


def test_parameters_of_each_layer():
    params, state = lenet5(classes=10).init(jax.random.key(0), jn.spec((2, 32, 32, 1)))
    sizes = {name: sum(a.size for a in entry.values()) for name, entry in params.items()}
    # the paper's counts, but for c3 (1,516 with its partial table) and the output (radial bases)
    assert sizes == {"c1": 156, "c3": 2_416, "c5": 48_120, "f6": 10_164, "output": 850}
    assert sum(sizes.values()) == 61_706
    assert state == {}


def test_28x28_has_the_same_parameters_as_32x32():
    small, large = (lenet5().init(jax.random.key(0), jn.spec((2, n, n, 1)))[0] for n in (28, 32))
    jax.tree.map(np.testing.assert_array_equal, small, large)


def test_stages_are_those_of_the_paper():
    """6@28x28, 6@14x14, 16@10x10, 16@5x5, 120, 84, 10, seen through every layer's input."""
    found, wanted = shapes(lenet5(), (2, 32, 32, 1)), {
        "c1": (28, 28, 6), "s2": (14, 14, 6), "c3": (10, 10, 16), "s4": (5, 5, 16), "c5": (120,),
        "f6": (84,), "output": (10,),
    }  # fmt: skip
    assert {name: found[name][1:] for name in wanted} == wanted


@pytest.mark.slow
def test_equals_torch():
    """Values and gradients of the parameters, in float64."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")  # torch 2.13.0
    nn = torch.nn
    net = nn.Sequential(
        nn.ZeroPad2d(2), nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 7),
    ).double()  # fmt: skip
    with enable_x64(True):
        x = np.random.default_rng(0).normal(size=(3, 28, 28, 1))
        params, _ = lenet5(classes=7).init(jax.random.key(0), jn.spec(x.shape, jnp.float64))
        names = {"c1": 1, "c3": 4, "c5": 8, "f6": 10, "output": 12}
        with torch.no_grad():
            for name, place in names.items():
                kernel = np.array(params[name]["kernel"])
                if name == "c5":  # torch flattens (16, 5, 5), channels first
                    kernel = kernel.reshape(5, 5, 16, 120).transpose(2, 0, 1, 3).reshape(400, 120)
                kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
                net[place].weight.copy_(torch.tensor(np.ascontiguousarray(kernel)))
                net[place].bias.copy_(torch.tensor(np.array(params[name]["bias"])))

        def total(params):
            return (lenet5(classes=7).apply(params, {}, x)[0] ** 2).sum()

        y, _ = jax.jit(lenet5(classes=7).apply)(params, {}, x)
        theirs = net(torch.tensor(x.transpose(0, 3, 1, 2)))
        np.testing.assert_allclose(y, theirs.detach().numpy(), rtol=1e-10, atol=1e-12)
        (theirs**2).sum().backward()
        gradients = jax.jit(jax.grad(total))(params)
        for name, place in {"c1": 1, "c3": 4, "f6": 10}.items():
            theirs = net[place].weight.grad.numpy()
            theirs = theirs.transpose(2, 3, 1, 0) if theirs.ndim == 4 else theirs.T
            np.testing.assert_allclose(gradients[name]["kernel"], theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 32, 28, 1)])
def test_another_size_says_what_to_write(shape):
    with pytest.raises(ValueError, match=r"lenet5: expected images .*jax\.image\.resize"):
        lenet5().init(jax.random.key(0), jn.spec(shape))
