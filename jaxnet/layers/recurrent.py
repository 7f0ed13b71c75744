"""Recurrent layers: a state that is carried from step to step.

`rnn`, `lstm` and `gru` run over whole sequences, in the forms of `jaxnet.layers.sequence`.
`rnn_cell`, `lstm_cell` and `gru_cell` make one step with the same params, and `recurrent` makes a
layer of sequences of any cell, also of one's own.

How the three are fast: the products of the inputs are taken for all steps at once before the loop.
The rest of the layer has a rule for its tangents: a linear loop, into which the recurrent kernel's
part enters as one product of all steps, and with slopes that the forward loop has saved. Its
transpose, which JAX derives, is a backward loop without any sum over the kernel, and one product
after it. Being a rule for tangents, it leaves forward mode and higher derivatives whole.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, PyTree, checked, child_key, param_dtype, stateless
from jaxnet.initializers import Initializer, lecun_normal, normal, zeros
from jaxnet.layers.sequence import read


def orthogonal_blocks(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32):
    """Square orthogonal matrices side by side: (n, k * n), one a gate [Saxe et al. 2014]."""
    n, columns = shape
    a = normal(1.0)(key, (max(1, columns // n), n, n), dtype)
    try:
        # In NumPy, since jnp.linalg.qr compiles for every shape.
        q, r = np.linalg.qr(np.asarray(a, np.float64))
        xp = np
    except jax.errors.TracerArrayConversionError:
        q, r = jnp.linalg.qr(a)
        xp = jnp
    q = q * xp.sign(xp.diagonal(r, axis1=1, axis2=2))[:, None]  # else not uniformly distributed
    return jnp.asarray(xp.concatenate(list(q), 1), dtype)  # (n, k * n)


def forget_bias(value: float = 1.0) -> Initializer:
    """A bias of the LSTM that is `value` at the forget gate and 0 elsewhere.

    At 1 a fresh layer keeps its memory over many steps, and gradients reach back through them
    [Gers et al. 2000; Jozefowicz et al. 2015].

    Example:
      >>> forget_bias(1.0)(jax.random.key(0), (8,)).tolist()
      [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """

    def init(key, shape, dtype=jnp.float32):
        gate = np.repeat([0, value, 0, 0], shape[0] // 4)
        return jnp.asarray(gate, jax.dtypes.canonicalize_dtype(dtype))

    return init


# The arithmetic of the three cells. The carry is h, or {"c": c, "h": h}.


class _Cell(NamedTuple):
    """One step, and its derivative.

    Fields:
      gates: columns of the kernels, in units of features.
      memory: whether the carry has a c beside h.
      step: (pre, product, carry) -> (carry, slopes), where pre = x @ kernel + bias and product =
        h @ recurrent_kernel (+ recurrent_bias); the slopes are what the derivative needs.
      inject: (slopes, d_pre, d_product) -> d: the tangents that do not come from the carry, of all
        steps at once.
      push: (slopes, d, d_product, d_carry) -> d_carry: one step of the tangents, linear in all
        three; d_product = d_h @ recurrent_kernel.
    """

    gates: int
    memory: bool
    step: Callable
    inject: Callable
    push: Callable


def _sigmoid_of_tanh(t):
    return 0.5 * t + 0.5  # sigmoid(z) = tanh(z / 2) / 2 + 1 / 2


def _lstm_step(pre, product, carry):
    # One tanh over all gates: half the argument, except for the candidate g.
    half = np.array([0.5, 0.5, 1, 0.5]).reshape(4, 1)
    z = (pre + product).reshape(*pre.shape[:-1], 4, -1)
    t = jnp.tanh(z * half.astype(pre.dtype))  # (batch, 4, features)
    i, f, o = (_sigmoid_of_tanh(t[..., gate, :]) for gate in (0, 1, 3))
    g = t[..., 2, :]
    c = f * carry["c"] + i * g
    squashed = jnp.tanh(c)
    by_gates = [
        g * i * (1 - i),
        carry["c"] * f * (1 - f),
        i * (1 - g * g),
        squashed * o * (1 - o),
    ]
    slopes = jnp.concatenate(by_gates, -1), f, o * (1 - squashed * squashed)
    return {"c": c, "h": o * squashed}, slopes


def _lstm_push(slopes, d, d_product, d_carry):
    by_gates, by_old_c, by_c = slopes
    to_i, to_f, to_g, to_o = jnp.split(by_gates * (d + d_product), 4, -1)
    d_c = by_old_c * d_carry["c"] + to_i + to_f + to_g
    return {"c": d_c, "h": by_c * d_c + to_o}


def _gru_step(pre, product, h):
    pre_r, pre_u, pre_n = jnp.split(pre, 3, -1)
    r, u, n = jnp.split(product, 3, -1)
    inner = n
    r = _sigmoid_of_tanh(jnp.tanh(0.5 * (pre_r + r)))
    u = _sigmoid_of_tanh(jnp.tanh(0.5 * (pre_u + u)))
    n = jnp.tanh(pre_n + r * inner)
    by_n = (1 - u) * (1 - n * n)
    by_gates = [by_n * inner * r * (1 - r), (h - n) * u * (1 - u), by_n]
    return n + u * (h - n), (jnp.concatenate(by_gates, -1), r, u)


def _gru_reset(r, d_product):
    """The recurrent part of the candidate is multiplied by the reset gate."""
    r_and_u, n = jnp.split(d_product, [2 * r.shape[-1]], -1)
    return jnp.concatenate([r_and_u, r * n], -1)


def _gru_push(slopes, d, d_product, d_h):
    by_gates, r, u = slopes
    return sum(jnp.split(by_gates * (d + _gru_reset(r, d_product)), 3, -1), u * d_h)


def _add(slopes, d_pre, d_product):
    return d_pre + d_product


_LSTM = _Cell(4, True, _lstm_step, _add, _lstm_push)
_GRU = _Cell(3, False, _gru_step, lambda s, d_pre, d: d_pre + _gru_reset(s[1], d), _gru_push)


@cache  # one cell for one activation, so that layers alike share their compiled loops
def _rnn(activation: Callable) -> _Cell:
    def step(pre, product, h):
        z = pre + product
        return activation(z), (z,)

    def push(slopes, d, d_product, d_h):
        (z,) = slopes
        return jax.jvp(activation, (z,), (d + d_product,))[1]

    return _Cell(1, False, step, _add, push)


# All steps.


def _hidden(carry):
    return carry["h"] if isinstance(carry, dict) else carry


def _keep(mask, new, old):
    """The new carry where the step counts, else the old one."""
    return new if mask is None else jax.tree.map(lambda n, o: jnp.where(mask, n, o), new, old)


def _product(h, kernel, bias):
    # With two axes XLA transposes the product without copies. [Of the processor time of
    # an LSTM's training step on one core, 100 steps, 256 features, batch 32, this saves about 15%
    # and `turned` below about 10%.]
    flat = h.reshape(-1, h.shape[-1]) @ kernel
    return _plus(flat.reshape(*h.shape[:-1], -1), bias)


def _plus(a, bias):
    return a if bias is None else a + bias


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _unrolled(cell, pre, kernel, biases, carry, mask):
    """All steps of a cell.

    pre (time, batch, gates * features); kernel (features, gates * features); biases of pre and of
    the product with the kernel, as wide or None; mask (time, batch, 1) or None. Gives h of all
    steps (time, batch, features) and the last carry.
    """
    bias, recurrent_bias = biases

    def body(carry, now):
        pre, mask = now
        product = _product(_hidden(carry), kernel, recurrent_bias)
        new, _ = cell.step(_plus(pre, bias), product, carry)
        carry = _keep(mask, new, carry)
        return carry, _hidden(carry)

    final, h = jax.lax.scan(body, carry, (pre, mask))
    return h, final


@_unrolled.defjvp
def _unrolled_tangents(cell, primals, tangents):
    pre, kernel, (bias, recurrent_bias), carry, mask = primals
    d_pre, d_kernel, (d_bias, d_recurrent_bias), d_carry, _ = tangents

    # The slopes of the gates take the place of pre, step by step. Memory is time here, since the
    # system hands out fresh pages at each call. [LSTM, 100 steps, 256 features, batch 32, 2 cores:
    # 62 to 43 MB with the bias added in the loop too, and a training step 46 to 41 ms.]
    def step(loop, now):
        carry, kept = loop
        t, mask = now
        pre = _plus(jax.lax.dynamic_index_in_dim(kept, t, keepdims=False), bias)
        product = _product(_hidden(carry), kernel, recurrent_bias)
        new, (by_gates, *slopes) = cell.step(pre, product, carry)
        kept = jax.lax.dynamic_update_index_in_dim(kept, by_gates, t, 0)
        carry = _keep(mask, new, carry)
        return (carry, kept), (_hidden(carry), slopes)

    (final, by_gates), (h, slopes) = jax.lax.scan(step, (carry, pre), (jnp.arange(len(pre)), mask))
    slopes = [by_gates, *slopes]
    before = jnp.concatenate([_hidden(carry)[None], h[:-1]])  # (time, batch, features)
    d_product = _product(before, d_kernel, d_recurrent_bias)
    d = cell.inject(slopes, _plus(d_pre, d_bias), d_product)
    turned = kernel.T  # so that the loop backward, not this one, multiplies in the plain order

    def push(d_carry, now):
        slopes, d, mask = now
        d_product = jax.lax.dot_general(_hidden(d_carry), turned, (((1,), (1,)), ((), ())))
        d_carry = _keep(mask, cell.push(slopes, d, d_product, d_carry), d_carry)
        return d_carry, _hidden(d_carry)

    d_final, d_h = jax.lax.scan(push, d_carry, (slopes, d, mask))
    return (h, final), (d_h, d_final)


# Compiled by itself, so that calls outside of jit do not compile a loop each time.
_all_steps = jax.jit(_unrolled, static_argnums=0)


# Layers of the three cells.


class _Kind(NamedTuple):
    """A cell with its sizes and initializers: what a layer and a step of it have in common."""

    cell: _Cell
    features: int
    use_bias: bool
    kernel_init: Initializer
    recurrent_init: Initializer
    bias_init: Initializer
    name: str

    def draw(self, key: jax.Array, x: Any) -> Params:
        dtype, wide = param_dtype(x), self.cell.gates * self.features
        shapes = {
            "kernel": (self.kernel_init, (x.shape[-1], wide)),
            "recurrent_kernel": (self.recurrent_init, (self.features, wide)),
        }
        if self.use_bias:
            shapes["bias"] = (self.bias_init, (wide,))
            if self.cell is _GRU:
                shapes["recurrent_bias"] = (self.bias_init, (self.features,))
        return {k: draw(child_key(key, k), shape, dtype) for k, (draw, shape) in shapes.items()}

    def recurrent_bias(self, params: Params) -> jax.Array | None:
        bias = params.get("recurrent_bias")  # of the candidate; the gates need no second bias
        return None if bias is None else jnp.concatenate([jnp.zeros_like(bias)] * 2 + [bias])

    def carry(self, given: PyTree, x: jax.Array, params: Params) -> PyTree:
        """The carry that was given, or zeros, in the dtype of the computation."""
        shape = (x.shape[0], self.features)
        dtype = jnp.result_type(x.dtype, *(leaf.dtype for leaf in params.values()))
        if given is None:
            zero = jnp.zeros(shape, dtype)
            return {"c": zero, "h": zero} if self.cell.memory else zero
        entries = given if isinstance(given, dict) else {"h": given}
        names = {"c", "h"} if self.cell.memory else {"h"}
        form = "a dict of c and h, each" if self.cell.memory else "an array"
        fits = isinstance(given, dict) == self.cell.memory and set(entries) == names
        if not fits or any(getattr(entry, "shape", None) != shape for entry in entries.values()):
            got = jax.tree.map(lambda leaf: getattr(leaf, "shape", type(leaf).__name__), given)
            raise ValueError(
                f"{self.name}: the initial carry must be {form} (batch, features) = {shape}, "
                f"got {got}; leave it out to start from zeros"
            )
        return jax.tree.map(lambda leaf: leaf.astype(dtype), given)

    def layer(self) -> Layer:
        """The layer of sequences."""

        def init(key, given):
            sequence = read(given, self.name)
            return self.draw(key, sequence.x)

        def apply(params, given):
            sequence = read(given, self.name)
            x, mask = sequence.x, sequence.mask()
            if mask is not None:  # not even NaN in the padding reaches anything
                x, mask = jnp.where(mask[..., None], x, 0), mask.T[..., None]
            # The bias is added in the loop, where that costs no array of all steps.
            pre = _product(x.swapaxes(0, 1), params["kernel"], None)  # (time, batch, gates * f)
            carry = self.carry(sequence.initial, x, params)
            h, final = _all_steps(
                self.cell,
                pre.astype(_hidden(carry).dtype),
                params["recurrent_kernel"],
                (params.get("bias"), self.recurrent_bias(params)),
                carry,
                mask,
            )
            return sequence.write(h.swapaxes(0, 1), final)  # (batch, time, features)

        return stateless(init, apply, name=self.name)

    def step(self) -> Layer:
        """The layer of one step."""

        def init(key, given):
            return self.draw(key, _read_step(given, self.name)[1])

        def apply(params, given):
            carry, x = _read_step(given, self.name)
            carry = self.carry(carry, x, params)
            bias = self.recurrent_bias(params)
            product = _product(_hidden(carry), params["recurrent_kernel"], bias)
            pre = _product(x, params["kernel"], params.get("bias"))
            carry, _ = self.cell.step(pre, product, carry)
            return carry, _hidden(carry)

        return stateless(init, apply, name=self.name)


def _read_step(given: PyTree, who: str) -> tuple[PyTree, Any]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ValueError(f"{who}: a cell takes (carry, x), where None is a carry of zeros")
    carry, x = given
    if len(x.shape) != 2:
        raise ValueError(f"{who}: a cell needs x of one step, (batch, features), got {x.shape}")
    return carry, x


def _kind(cell, features, use_bias, kernel_init, recurrent_init, bias_init, name) -> _Kind:
    if features < 1:
        raise ValueError(f"{name}: features must be at least 1, got {features}")
    return _Kind(cell, features, use_bias, kernel_init, recurrent_init, bias_init, name)


def rnn(
    features: int,
    *,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    recurrent_init: Initializer = orthogonal_blocks,
    bias_init: Initializer = zeros,
    name: str = "rnn",
) -> Layer:
    """Simple recurrent layer: h_t = activation(x_t @ kernel + h_{t-1} @ recurrent_kernel + bias).

    Input and output are sequences: x, (x, lengths) or a dict of x, lengths and initial; see
    `jaxnet.layers.sequence`. The carry is h, (batch, features), zeros unless "initial" is given.

    Args:
      features: number of outputs, at least 1.
      activation: a function of an array that keeps its shape.
      use_bias: False leaves the bias out.
      kernel_init: draws the kernel.
      recurrent_init: draws the recurrent kernel; orthogonal by default, so that a fresh layer
        neither shrinks nor blows up what it carries.
      bias_init: draws the bias.
      name: of the layer.

    Params:
      kernel (inputs, features); recurrent_kernel (features, features); bias (features,).

    Raises:
      ValueError: where features is below 1, the input is no (batch, time, features), has no steps,
        lengths do not fit, or the initial carry has a wrong shape.

    Example:
      >>> layer = rnn(4)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> y, _ = layer.apply(params, state, jnp.ones((2, 5, 3)))
      >>> y.shape
      (2, 5, 4)

      With a readout, o_t = sigmoid(h_t @ V + b):

      >>> net = jn.serial(rnn(4, activation=jax.nn.sigmoid), jn.dense(7), jax.nn.sigmoid)
      >>> jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 5, 3)))[0]["dense"]["bias"].shape
      (7,)

    Reference: Elman 1990, "Finding Structure in Time".
    """
    cell = _rnn(activation)
    return _kind(cell, features, use_bias, kernel_init, recurrent_init, bias_init, name).layer()


def rnn_cell(
    features: int,
    *,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    recurrent_init: Initializer = orthogonal_blocks,
    bias_init: Initializer = zeros,
    name: str = "rnn",
) -> Layer:
    """One step of `rnn`: (h, x_t) -> (h, y_t) with y_t = h, and the same params.

    The input's carry may be None, which is zeros.

    Args:
      features, activation, use_bias, kernel_init, recurrent_init, bias_init: as in `rnn`.
      name: of the layer, the same as of `rnn`, so that their params go by one name in a model.

    Raises:
      ValueError: where features is below 1, x is no (batch, inputs), or h does not fit.

    Example:
      >>> params, state = rnn(4).init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> (h, y), _ = rnn_cell(4).apply(params, state, (None, jnp.ones((2, 3))))
      >>> h.shape, y.shape
      ((2, 4), (2, 4))
    """
    cell = _rnn(activation)
    return _kind(cell, features, use_bias, kernel_init, recurrent_init, bias_init, name).step()


def lstm(
    features: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    recurrent_init: Initializer = orthogonal_blocks,
    bias_init: Initializer = forget_bias(1.0),
    name: str = "lstm",
) -> Layer:
    """Long short-term memory: gates decide what the memory c takes in, forgets and shows.

        i, f, g, o = x_t @ kernel + h_{t-1} @ recurrent_kernel + bias, cut into four
        c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
        h_t = sigmoid(o) * tanh(c_t)

    Input and output are sequences: x, (x, lengths) or a dict of x, lengths and initial; see
    `jaxnet.layers.sequence`. The carry is {"c": c, "h": h}, each (batch, features), zeros unless
    "initial" is given. The gates are in PyTorch's order, and the one bias is the sum of its two.

    Args:
      features: number of outputs, at least 1.
      use_bias: False leaves the bias out.
      kernel_init: draws the kernel.
      recurrent_init: draws the recurrent kernel; an orthogonal matrix for each gate by default.
      bias_init: draws the bias; 1 at the forget gate and 0 elsewhere by default. Flax starts from
        `jaxnet.initializers.zeros`.
      name: of the layer.

    Params:
      kernel (inputs, 4 * features); recurrent_kernel (features, 4 * features);
      bias (4 * features,).

    Raises:
      ValueError: where features is below 1, the input is no (batch, time, features), has no steps,
        lengths do not fit, or the initial carry has a wrong form or shape.

    Example:
      >>> layer = lstm(4)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> x, lengths = jnp.ones((2, 5, 3)), jnp.array([5, 3])
      >>> y, _ = layer.apply(params, state, {"x": x, "lengths": lengths})
      >>> y["x"].shape, y["final"]["c"].shape, bool((y["x"][1, 2] == y["final"]["h"][1]).all())
      ((2, 5, 4), (2, 4), True)

    Reference: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; the forget gate is from
    Gers et al. 2000, "Learning to Forget".
    """
    return _kind(_LSTM, features, use_bias, kernel_init, recurrent_init, bias_init, name).layer()


def lstm_cell(
    features: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    recurrent_init: Initializer = orthogonal_blocks,
    bias_init: Initializer = forget_bias(1.0),
    name: str = "lstm",
) -> Layer:
    """One step of `lstm`: ({"c", "h"}, x_t) -> ({"c", "h"}, y_t) with y_t = h, and the same params.

    The input's carry may be None, which is zeros.

    Args:
      features, use_bias, kernel_init, recurrent_init, bias_init: as in `lstm`.
      name: of the layer, the same as of `lstm`, so that their params go by one name in a model.

    Raises:
      ValueError: where features is below 1, x is no (batch, inputs), or the carry does not fit.

    Example:
      Trained on sequences, then run step by step:

      >>> params, state = lstm(4).init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> cell, carry = lstm_cell(4), None
      >>> for _ in range(6):
      ...     (carry, y), _ = cell.apply(params, state, (carry, jnp.ones((2, 3))))
      >>> y.shape, sorted(carry)
      ((2, 4), ['c', 'h'])
    """
    return _kind(_LSTM, features, use_bias, kernel_init, recurrent_init, bias_init, name).step()


def gru(
    features: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    recurrent_init: Initializer = orthogonal_blocks,
    bias_init: Initializer = zeros,
    name: str = "gru",
) -> Layer:
    """Gated recurrent unit: a reset gate r, an update gate u and a candidate n.

        a_r, a_u, a_n = x_t @ kernel + bias, cut into three
        b_r, b_u, b_n = h_{t-1} @ recurrent_kernel, cut into three
        r, u = sigmoid(a_r + b_r), sigmoid(a_u + b_u)
        n = tanh(a_n + r * (b_n + recurrent_bias))
        h_t = (1 - u) * n + u * h_{t-1}

    The reset gate acts after the product, as in PyTorch, cuDNN and Flax; in the paper it acts on
    h_{t-1} before it, which is another function and needs a product more in each step.

    Input and output are sequences: x, (x, lengths) or a dict of x, lengths and initial; see
    `jaxnet.layers.sequence`. The carry is h, (batch, features), zeros unless "initial" is given.
    The gates are in PyTorch's order; its two biases of r and u are summed up in `bias`.

    Args:
      features: number of outputs, at least 1.
      use_bias: False leaves both biases out.
      kernel_init: draws the kernel.
      recurrent_init: draws the recurrent kernel; an orthogonal matrix for each gate by default.
      bias_init: draws the biases.
      name: of the layer.

    Params:
      kernel (inputs, 3 * features); recurrent_kernel (features, 3 * features);
      bias (3 * features,); recurrent_bias (features,).

    Raises:
      ValueError: where features is below 1, the input is no (batch, time, features), has no steps,
        lengths do not fit, or the initial carry has a wrong shape.

    Example:
      >>> layer = gru(4)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> y, _ = layer.apply(params, state, jnp.ones((2, 5, 3)))
      >>> y.shape, params["kernel"].shape
      ((2, 5, 4), (3, 12))

    Reference: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder".
    """
    return _kind(_GRU, features, use_bias, kernel_init, recurrent_init, bias_init, name).layer()


def gru_cell(
    features: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    recurrent_init: Initializer = orthogonal_blocks,
    bias_init: Initializer = zeros,
    name: str = "gru",
) -> Layer:
    """One step of `gru`: (h, x_t) -> (h, y_t) with y_t = h, and the same params.

    The input's carry may be None, which is zeros.

    Args:
      features, use_bias, kernel_init, recurrent_init, bias_init: as in `gru`.
      name: of the layer, the same as of `gru`, so that their params go by one name in a model.

    Raises:
      ValueError: where features is below 1, x is no (batch, inputs), or h does not fit.

    Example:
      >>> params, state = gru(4).init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> (h, y), _ = gru_cell(4).apply(params, state, (None, jnp.ones((2, 3))))
      >>> h.shape, y.shape
      ((2, 4), (2, 4))
    """
    return _kind(_GRU, features, use_bias, kernel_init, recurrent_init, bias_init, name).step()


def recurrent(cell: Layer, *, name: str | None = None) -> Layer:
    """A layer of sequences that runs any cell over time, such as one made by `compose`.

    A cell is a layer `(carry, x_t) -> (carry, y_t)`, where x_t has no time axis and the carry is a
    pytree of arrays with the batch axis first. It must take None for a carry, as what stands before
    the first step; what it gives back for None fixes the carry's shapes, and zeros of these shapes
    are what it gets in its place. `recurrent(lstm_cell(8))` gives the values of `lstm(8)`, which is
    faster in training. A cell's state is threaded through the steps, and each step has a key of
    its own.

    Args:
      cell: a layer as above.
      name: of the layer; by default the name of the cell.

    Params:
      Those of the cell.

    Raises:
      ValueError: for an input that is no sequence, or a carry that does not fit.

    Example:
      A sum that forgets:

      >>> def leaky(m, given):
      ...     total, x = given
      ...     total = x if total is None else 0.5 * total + x
      ...     return total, total
      >>> layer = recurrent(jn.compose(leaky))
      >>> y, _ = layer.apply({}, {}, jnp.ones((2, 3, 1)))
      >>> y[0].ravel().tolist()
      [1.0, 1.5, 1.75]
    """
    name = name or cell.name

    def first(x):
        """The specs of one step."""
        return jax.ShapeDtypeStruct((x.shape[0], *x.shape[2:]), x.dtype)

    def init(key, given):
        return cell.init(key, (None, first(read(given, name, rank=2).x)))

    def apply(params, state, given, *, key=None, train=False):
        sequence = read(given, name, rank=2)
        zero = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            _carry_spec(cell, params, state, first(sequence.x), key, train),
        )
        carry = zero if sequence.initial is None else sequence.initial
        if jax.tree.map(jnp.shape, carry) != jax.tree.map(jnp.shape, zero):
            raise ValueError(
                f"{name}: the initial carry must have the shapes {jax.tree.map(jnp.shape, zero)}, "
                f"got {jax.tree.map(jnp.shape, carry)}; leave it out to start from zeros"
            )
        carry = jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), carry, zero)
        x, mask = sequence.x, sequence.mask()
        if mask is not None:
            x = jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, 0)
            mask = mask.T  # (time, batch)

        def body(loop, now):
            carry, state = loop
            x, mask, t = now
            here = None if key is None else jax.random.fold_in(key, t)
            (new, y), state = cell.apply(params, state, (carry, x), key=here, train=train)
            if mask is not None:
                new = jax.tree.map(
                    lambda n, o: jnp.where(mask.reshape(-1, *[1] * (n.ndim - 1)), n, o), new, carry
                )
            return (new, state), y

        steps = jnp.arange(x.shape[1])
        now = (x.swapaxes(0, 1), mask, steps)
        (final, state), y = jax.lax.scan(body, (carry, state), now)
        return sequence.write(y.swapaxes(0, 1), final), state

    return checked(Layer(init, apply, name))


def initial_carry(cell: Layer, x: Any) -> PyTree:
    """The carry of zeros of a cell, for a loop of one's own.

    Args:
      cell: a layer `(carry, x_t) -> (carry, y_t)`.
      x: input of one step, or its spec, without the time axis.

    Example:
      >>> initial_carry(gru_cell(4), jn.spec((2, 3))).shape
      (2, 4)
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(lambda key: cell.init(key, (None, x)), key)
    carry = _carry_spec(cell, params, state, x, key, True)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carry)


def _carry_spec(cell: Layer, params, state, x, key, train: bool) -> PyTree:
    def run(params, state, x, key):
        return cell.apply(params, state, (None, x), key=key, train=train)[0][0]

    return jax.eval_shape(run, params, state, x, key)
