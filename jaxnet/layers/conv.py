"""Convolution: every output depends on a window of the input; all windows share one kernel."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, compose
from jaxnet.initializers import Initializer, lecun_normal, zeros
from jaxnet.ops.product import add_bias
from jaxnet.ops.window import Padding, check_window, pad_pairs, spatial_axes
from jaxnet.services.checks import all_at_least, at_least, check_options
from jaxnet.services.checks.keywords import explain_keywords


@explain_keywords
def conv(
    features: int,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    bias_init: Initializer = zeros,
    name: str = "conv",
) -> Layer:
    """Convolve over all spatial axes of (batch, *space, inputs): signals, images, video.

    As usual in deep learning it is a correlation: the kernel is not reversed,
    y[m, n] = sum over k, l of kernel[k, l] x[m + k, n + l].

    An output depends on its window alone: what it does not see, even if it is infinite or NaN,
    changes it by at most 1e-5 of the largest output. In float32, with up to 2,048 inputs of usual
    size, outputs and gradients are within 1e-5 of the largest of float64's; in 16 bits, within one
    rounding of these.

    Args:
      features: Number of outputs (filters), at least 1.
      kernel_size: Size of the window, a number for all spatial axes or one per axis.
      strides: Strides of the window, a number or one per axis.
      padding: Zeros around the input: "SAME" (inputs / strides outputs, rounded up), "VALID"
        (none), "CAUSAL" (one axis of time: no output depends on later inputs), a number for both
        sides of every axis, or per axis a number or a pair (before, after). PyTorch's padding=p is
        a number here.
      dilation: Distance between the taps of the window, a number or one per axis.
      groups: Number of groups into which inputs and features are split; each group of features
        depends on its own group of inputs.
      use_bias: Whether to add a bias; it is not needed just before batch norm.
      kernel_init: Initializer of the kernel; its fan-in is the window times the inputs of a group.
      bias_init: Initializer of the bias, zeros by default.
      name: Name of the layer.

    Params:
      kernel (*window, inputs // groups, features); bias (features,).

    Returns:
      A layer from (batch, *space, channels) to (batch, *space', features).

    Raises:
      ValueError: If the input does not have spatial axes.
      ValueError: If an option has a different number of entries than there are spatial axes.
      ValueError: If `groups` does not divide inputs and features.
      ValueError: If the window is larger than the padded input.

    Example:
      A filter for the left edges of bright areas:

      >>> image = jnp.array([[0.0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 0]])[None, :, :, None]
      >>> layer = conv(1, (1, 2), padding="VALID")
      >>> params = {"kernel": jnp.array([-1.0, 1]).reshape(1, 2, 1, 1), "bias": jnp.zeros(1)}
      >>> y, state = layer.apply(params, {}, image)
      >>> y[0, :, :, 0]
      Array([[ 0.,  1.,  0.],
             [ 0.,  1.,  0.],
             [ 1.,  0., -1.]], dtype=float32)

      Six filters of 5x5 pixels for color images:

      >>> layer = conv(6, 5, strides=2, padding="VALID")
      >>> params, state = layer.init(jax.random.key(0), jn.spec((32, 28, 21, 3)))
      >>> y, state = layer.apply(params, state, jnp.ones((32, 28, 21, 3)))
      >>> params["kernel"].shape, y.shape
      ((5, 5, 3, 6), (32, 12, 9, 6))

    Reference: LeCun et al. 1998, "Gradient-based learning applied to document recognition".
    """
    _check_groups(name, features, groups)
    check_options(name, use_bias=use_bias, kernel_init=kernel_init, bias_init=bias_init)
    sizes = check_window(name, padding, kernel_size=kernel_size, strides=strides, dilation=dilation)

    def forward(m, x):
        size, steps, apart = sizes(x)
        kernel = _kernel(m, x, name, size, features, groups, kernel_init)
        x, pairs = _padded(m, x, name, padding, size, steps, apart)
        options = {"strides": steps, "padding": pairs, "dilation": apart, "groups": groups}
        y = _primitive()(x, kernel, **options, who=name)
        bias = m.param("bias", bias_init, (features,)) if use_bias else None
        return add_bias(y, bias)

    return compose(forward, name=name, kind="conv")


@explain_keywords
def depthwise_conv(
    kernel_size: int | Sequence[int],
    *,
    multiplier: int = 1,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    bias_init: Initializer = zeros,
    name: str = "depthwise_conv",
) -> Layer:
    """Convolve each input feature separately: one group per input.

    Args:
      kernel_size: Size of the window, a number for all spatial axes or one per axis.
      multiplier: Number of outputs per input, at least 1; the outputs of one input are adjacent.
      strides, padding, dilation, use_bias: Options of `conv`.
      kernel_init: Initializer of the kernel; its fan-in is the window.
      bias_init: Initializer of the bias, zeros by default.
      name: Name of the layer.

    Params:
      kernel (*window, 1, inputs * multiplier); bias (inputs * multiplier,).

    Returns:
      A layer that convolves each channel by itself.

    Raises:
      ValueError: As in `conv`.

    Example:
      >>> layer = depthwise_conv(3, multiplier=2)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((2, 9, 8, 5)))
      >>> params["kernel"].shape
      (3, 3, 1, 10)

    Reference: Chollet 2017, "Xception: deep learning with depthwise separable convolutions".
    """
    at_least(name, "multiplier", multiplier)
    window: Any = {"strides": strides, "dilation": dilation}
    options: Any = {"use_bias": use_bias, "kernel_init": kernel_init, "bias_init": bias_init}
    check_options(name, **options)
    check_window(name, padding, kernel_size=kernel_size, **window)
    options |= {**window, "padding": padding, "name": name}

    def forward(m, x):
        spatial_axes(name, x)
        inputs = x.shape[-1]
        inner = conv(inputs * multiplier, kernel_size, groups=inputs, **options)
        return m._inline(inner, x)

    return compose(forward, name=name, kind="depthwise_conv")


@explain_keywords
def conv_transpose(
    features: int,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    bias_init: Initializer = zeros,
    name: str = "conv_transpose",
) -> Layer:
    """Upsample by `strides` with a learned kernel: a transposed convolution.

    Libraries use two conventions, and both are available. As in Flax, the kernel is not reversed,
    and "SAME" gives inputs * strides outputs, "VALID" every output that depends on an input.
    Explicit padding follows PyTorch: it is the padding of the convolution that is transposed, so it
    removes outputs: (inputs - 1) * strides + window - before - after remain. PyTorch's
    output_padding=q is the pair (p, p - q).

    A PyTorch weight (inputs, features, *window) is this kernel moved to (*window, inputs, features)
    and reversed along the window; with groups, group by group.

    Args:
      features: Number of outputs, at least 1.
      kernel_size: Size of the window, a number for all spatial axes or one per axis.
      strides: Number of outputs per input, a number or one per axis.
      padding: Padding: "SAME", "VALID", a number, or per axis a number or a pair; see above.
      dilation: Distance between the taps of the window.
      groups: Number of groups, as in `conv`.
      use_bias: Whether to add a bias.
      kernel_init: Initializer of the kernel.
      bias_init: Initializer of the bias, zeros by default.
      name: Name of the layer.

    Params:
      kernel (*window, inputs // groups, features); bias (features,).

    Returns:
      A layer from (batch, *space, channels) to (batch, *space', features).

    Raises:
      ValueError: As in `conv`.

    Example:
      >>> layer = conv_transpose(6, 4, strides=2)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((3, 8, 7, 5)))
      >>> y, state = layer.apply(params, state, jnp.ones((3, 8, 7, 5)))
      >>> y.shape
      (3, 16, 14, 6)

    Reference: Zeiler et al. 2010, "Deconvolutional networks".
    """
    _check_groups(name, features, groups)
    check_options(name, use_bias=use_bias, kernel_init=kernel_init, bias_init=bias_init)
    sizes = check_window(name, padding, kernel_size=kernel_size, strides=strides, dilation=dilation)

    def forward(m, x):
        size, steps, apart = sizes(x)
        kernel = _kernel(m, x, name, size, features, groups, kernel_init)
        m._not_in_stream("spreads each input over later outputs")
        pairs = _transposed_padding(name, padding, x.shape[1:-1], size, steps, apart)
        options = {"padding": pairs, "dilation": apart, "input_dilation": steps, "groups": groups}
        y = _primitive()(x, kernel, strides=(1,) * len(size), **options, who=name)
        bias = m.param("bias", bias_init, (features,)) if use_bias else None
        return add_bias(y, bias)

    return compose(forward, name=name, kind="conv_transpose")


def _padded(m, x, name, padding, size, steps, apart) -> tuple[jax.Array, Any]:
    """Return x and its padding; in a stream, x follows the last inputs of earlier chunks."""
    if m.stream is None:
        return x, pad_pairs(name, padding, x.shape[1:-1], size, steps, apart)
    before = (size[0] - 1) * apart[0]  # earlier steps that a window has
    space = (before + 1, *x.shape[2:-1])  # with strides of 1, padding is the same for any time
    pairs = pad_pairs(name, padding, space, size, steps, apart)
    if pairs[0] != (before, 0) or steps[0] != 1:
        m._not_in_stream('needs padding="CAUSAL" and strides of 1 along time')
    last = m.state("last", zeros, (x.shape[0], before, *x.shape[2:]), x.dtype)
    x = jnp.concatenate([last.astype(x.dtype), x], 1)  # below `cast` they differ

    def latest(row, step):
        """Return the last inputs of an example before its first step that does not count."""
        return jax.lax.dynamic_slice_in_dim(row, step, before)

    if m.stream.steps is None:
        last_steps = x[:, x.shape[1] - before :]
    else:
        last_steps = jax.vmap(latest)(x, m.stream.steps)
    m.update("last", last_steps.astype(last.dtype))
    return x, ((0, 0), *pairs[1:])


def _check_groups(name: str, features: int, groups: int) -> None:
    all_at_least(name, features=features, groups=groups)
    if features % groups:
        raise ValueError(f"{name}: {groups} groups must divide the {features} features")


def _kernel(m, x, name, size, features, groups, kernel_init) -> Any:
    """Return the kernel (*size, inputs of each group, features)."""
    inputs = x.shape[-1]
    if inputs % groups:
        raise ValueError(f"{name}: {groups} groups must divide the {inputs} inputs of {x.shape}")
    return m.kernel("kernel", kernel_init, (*size, inputs // groups, features), array=True)


def _transposed_padding(name, padding, space, window, strides, dilation):
    """Return the numbers of zeros around the inputs, which are `strides` apart."""
    neighbors = [(k - 1) * d for k, d in zip(window, dilation, strict=True)]  # of an input
    word = padding if isinstance(padding, str) else ""
    both = zip(neighbors, strides, strict=True)
    if word == "VALID":
        return tuple((n, max(n, stride - 1)) for n, stride in both)
    if word == "SAME":
        return tuple(_half_before(n, n + stride - 1) for n, stride in both)
    if word == "CAUSAL":
        raise ValueError(f'{name}: padding "CAUSAL" has no transpose; write "SAME" or numbers')
    pairs = pad_pairs(name, padding, space, window, strides, dilation)
    return tuple((n - a, n - b) for n, (a, b) in zip(neighbors, pairs, strict=True))


def _half_before(neighbors: int, total: int) -> tuple[int, int]:
    """Divide zeros: half of them before, but not more than a window has neighbors."""
    before = min(neighbors, (total + 1) // 2)
    return before, total - before


def _primitive() -> Callable[..., jax.Array]:
    """Return the convolution of `jaxnet.ops`, imported late because that import is slow."""
    from jaxnet.ops.convolution import convolve

    return convolve
