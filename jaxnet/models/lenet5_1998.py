"""LeNet-5 as published in 1998; `jn.models.lenet5` is its modern form."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import Layer, avg_pool, compose, conv, dense, flatten, serial
from jaxnet.initializers import lecun_normal, ones, zeros
from jaxnet.models.lenet5 import pad_to_32
from jaxnet.ops import add_bias, broadcast
from jaxnet.services.checks import at_least, on_host

# Maps of S2 connected to each map of C3: table I of the paper.
SEEN = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip


def lenet5_1998(
    classes: int = 10, *, codes: jax.Array | np.ndarray | None = None, name: str = "lenet5"
) -> Layer:
    """Make LeNet-5 as published; 60,000 trainable parameters.

    Activations are 1.7159 tanh(2/3 z), after pooling as well; pooling (s2, s4) is a mean with a
    trainable scale and bias per map; each map of c3 is connected to 3, 4 or 6 maps of s2, which
    breaks their symmetry; and an output is the squared distance of the 84 units of f6 from the code
    of its class, a fixed pattern of -1 and +1.

    Args:
      classes: Number of outputs.
      codes: Array (classes, 84) of -1 and +1. The paper draws the characters in 7x12 pixels; the
        default is random patterns from a fixed seed, which differ in about half of their entries.
      name: Name of the model. Its layers are c1, s2, c3, s4, c5 and f6.

    Input:
      Images (batch, 32, 32, 1), or (batch, 28, 28, 1), which are padded with zeros. In the paper
      the background is -0.1 and the ink 1.175, so that the mean is about 0 and the variance 1.

    Returns:
      A layer of minus the squared distances, (batch, classes): the predicted class has the largest,
      and a softmax cross-entropy on them is the paper's discriminative loss.

    Raises:
      ValueError: If the images have the wrong size.
      ValueError: If `codes` is not (classes, 84).

    Example:
      >>> net = lenet5_1998(classes=10)
      >>> params, state = net.init(jax.random.key(0), jn.spec((3, 32, 32, 1)))
      >>> {name: sum(leaf.size for leaf in jax.tree.leaves(p)) for name, p in params.items()}
      {'c1': 156, 's2': 12, 'c3': 1516, 's4': 32, 'c5': 48120, 'f6': 10164}
      >>> y, state = net.apply(params, state, jnp.zeros((3, 32, 32, 1)))
      >>> y.shape
      (3, 10)

    Reference: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document
    recognition", section II.B and appendix A.
    """
    at_least("lenet5_1998", "classes", classes)
    if codes is None:
        codes = np.random.default_rng(1998).choice([-1.0, 1.0], (classes, 84))
    sizes = {"classes": classes}
    codes = on_host("lenet5_1998", "codes", codes, "(classes, 84)", sizes=sizes)
    codes = codes.astype(np.float32)

    def distances(x):
        away = x[:, None] - codes.astype(x.dtype)[None]  # (batch, classes, 84)
        return -jnp.square(away).sum(-1)

    return serial(
        pad_to_32("lenet5_1998"),
        conv(6, 5, padding="VALID", name="c1"),  # (batch, 28, 28, 6)
        _squash,
        _subsampling("s2"),  # (batch, 14, 14, 6)
        _squash,
        _partial_conv("c3"),  # (batch, 10, 10, 16)
        _squash,
        _subsampling("s4"),  # (batch, 5, 5, 16)
        _squash,
        flatten(),  # (batch, 400)
        dense(120, name="c5"),
        _squash,
        dense(84, name="f6"),
        _squash,
        distances,
        name=name,
    ).replace(kind="lenet5_1998")


def _squash(x: jax.Array) -> jax.Array:
    return 1.7159 * jnp.tanh(2 / 3 * x)  # passes through (1, 1) and (-1, -1)


def _subsampling(name: str) -> Layer:
    """Return the mean of 2x2 pixels, times a scale, plus a bias, both per map."""
    pool = avg_pool(2)

    def forward(m, x):
        maps = x.shape[-1:]
        scale = m.param("scale", ones, maps)
        bias = m.param("bias", zeros, maps)
        y = m._inline(pool, x)
        return add_bias(y * broadcast(scale, y.shape), bias)

    return compose(forward, name=name, kind="subsampling")


def _partial_conv(name: str) -> Layer:
    """Convolve with 5x5 kernels for the pairs of maps in SEEN: (5, 5, 60), 3, 4 or 6 per map."""
    features = len(SEEN)
    sources = np.concatenate(SEEN)
    targets = np.repeat(np.arange(features), [len(seen) for seen in SEEN])

    def kernel_init(key, shape, dtype):  # with the fan-in of full connections
        maps = max(map(max, SEEN)) + 1
        kernel = lecun_normal()(key, (5, 5, maps, features), dtype)
        return kernel[..., sources, targets]

    full_conv = conv(features, 5, padding="VALID")

    def forward(m, x):
        connected = m.param("kernel", kernel_init, (5, 5, len(sources)))
        kernel = jnp.zeros((5, 5, x.shape[-1], features), connected.dtype)
        kernel = kernel.at[..., sources, targets].set(connected)
        bias = m.param("bias", zeros, (features,))
        y, _ = full_conv.apply({"kernel": kernel, "bias": bias}, {}, x)
        return y

    return compose(forward, name=name, kind="partial_conv")
