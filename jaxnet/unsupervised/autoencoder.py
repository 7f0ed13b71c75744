"""What an autoencoder minimizes: the reconstruction alone, or with noise, contraction, sparsity.

Each function makes an objective `(params, state, x, *, key, train)` for `jn.make_step`; the batch
is x itself, without targets. The net is `jn.models.autoencoder(...)`, a `tied_autoencoder(...)` or
any layer whose output has the shape of its input and that calls `m(code, z)` on its code. The loss
is summed over the entries of an example and averaged over examples, so weights such as β mean what
they mean in the papers. The metric "error" is the mean squared error of an entry, which compares
with any other way of coding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.core import Layer, Params, child_key, observe, serial, unchecked
from jaxnet.initializers import constant, glorot_uniform
from jaxnet.layers.dense import dense
from jaxnet.losses import half_squared_error, kl_sparsity
from jaxnet.training import average, fit, init_training, make_step
from jaxnet.unsupervised.check import check_examples

Corruption = Callable[[jax.Array, jax.Array], jax.Array]
Objective = Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]
Penalty = Callable[[Params], jax.Array]


def with_code(net: Layer) -> Layer:
    """The same autoencoder, whose output is the pair (reconstruction, code).

    Args:
      net: an autoencoder, which hands its code to a function called `code`.

    Raises:
      ValueError: at `apply`, where the net has no such call.

    Example:
      >>> net = jn.models.autoencoder(jn.dense(3), jn.dense(7))
      >>> params, state = net.init(jax.random.key(0), jn.spec((5, 7)))
      >>> (y, z), _ = with_code(net).apply(params, state, jnp.ones((5, 7)))
      >>> y.shape, z.shape
      ((5, 7), (5, 3))
    """

    def apply(params, state, x, *, key=None, train=False):
        codes = []

        def see(path, layer, x, y):
            if path[-1:] == ("code",):
                codes.append(y)
            return y

        y, state = observe(net, see).apply(params, state, x, key=key, train=train)
        if len(codes) != 1:
            raise ValueError(
                f"with_code: {net.name} must call m(jn.models.code, z) once, on its code, got "
                f"{len(codes)} calls; jn.models.autoencoder(encoder, decoder) does"
            )
        return (y, codes[0]), state

    return unchecked(Layer(net.init, apply, net.name))


def reconstruction(
    net: Layer, loss: Callable = half_squared_error, *, penalty: Penalty | None = None
) -> Objective:
    """The mean over examples of Σ_i loss(reconstruction, x)_i: the plain autoencoder.

    Args:
      net: an autoencoder, see `with_code`.
      loss: of (reconstruction, x), one value an entry: the default for any x,
        `jn.losses.binary_cross_entropy` for x in [0, 1] and a net that ends in a sigmoid.
      penalty: of the parameters, added to the loss; see `jaxnet.penalties`.

    Example:
      >>> net = jn.models.autoencoder(jn.dense(3), jn.dense(7))
      >>> params, state = net.init(jax.random.key(0), jn.spec((5, 7)))
      >>> zero = jax.tree.map(jnp.zeros_like, params)
      >>> value, (_, metrics) = reconstruction(net)(zero, state, jnp.ones((5, 7)))
      >>> float(value), float(metrics["error"])
      (3.5, 1.0)
    """
    return _objective(net, loss, penalty)


def denoising_reconstruction(
    net: Layer,
    corrupt: Corruption,
    loss: Callable = half_squared_error,
    *,
    penalty: Penalty | None = None,
) -> Objective:
    """Reconstructs x from a corrupted x: what can be guessed of an entry must be in the others.

    The corruption is drawn anew at each step. In evaluation nothing is corrupted.

    Args:
      net, loss, penalty: as in `reconstruction`.
      corrupt: `(key, x) -> x`, such as `masking_noise(0.3)` or `additive_noise(0.3)`.

    Raises:
      ValueError: in training without a key.

    Example:
      >>> net = jn.models.tied_autoencoder(3)
      >>> step = jn.make_step(denoising_reconstruction(net, masking_noise(0.25)), optax.adam(0.1))
      >>> x = np.eye(7, dtype=np.float32)
      >>> train_state = jn.init_training(net, optax.adam(0.1), jax.random.key(0), x)
      >>> train_state, metrics = step(train_state, x)

    Reference: Vincent et al. 2010, "Stacked Denoising Autoencoders".
    """
    return _objective(net, loss, penalty, corrupt=corrupt)


def contractive_reconstruction(
    net: Layer,
    strength: float,
    loss: Callable = half_squared_error,
    *,
    probes: int | None = None,
    penalty: Penalty | None = None,
) -> Objective:
    """Adds strength · ‖∂code/∂x‖² (Frobenius): a code that a small move of x hardly changes.

    Args:
      net, loss, penalty: as in `reconstruction`.
      strength: of the penalty, at least 0.
      probes: None computes the Jacobian, one pass back an entry of the code. A number estimates
        the norm without bias by so many random directions, one pass forward each, and needs a key
        in evaluation too.

    Raises:
      ValueError: for a negative strength, or less than one probe.

    Example:
      >>> net = jn.models.autoencoder(jn.dense(3), jn.dense(7))
      >>> params, state = net.init(jax.random.key(0), jn.spec((5, 7)))
      >>> _, (_, metrics) = contractive_reconstruction(net, 0.1)(params, state, jnp.ones((5, 7)))
      >>> bool(jnp.allclose(metrics["contraction"], (params["encoder"]["kernel"] ** 2).sum()))
      True

    Reference: Rifai et al. 2011, "Contractive Auto-Encoders".
    """
    if strength < 0:
        raise ValueError(f"contractive_reconstruction: strength must be at least 0, got {strength}")
    if probes is not None and probes < 1:
        raise ValueError(f"contractive_reconstruction: probes must be at least 1, got {probes}")

    def contraction(encode, x, z, key, mask):
        if probes is None:
            norm = _squared_jacobian(encode, x)
        else:
            if key is None:
                raise ValueError("contractive_reconstruction: probes need a key; write key=...")
            norm = _estimated_squared_jacobian(encode, x, child_key(key, "probes"), probes)
        value = average(norm, mask, "contraction")
        return strength * value, {"contraction": value}

    return _objective(net, loss, penalty, extra=contraction)


def sparse_reconstruction(
    net: Layer,
    rho: float = 0.05,
    beta: float = 3.0,
    loss: Callable = half_squared_error,
    *,
    penalty: Penalty | None = None,
) -> Objective:
    """Adds β Σ_j KL(ρ‖ρ̂_j), ρ̂_j the mean of code unit j over the batch: each is active seldom.

    Take batches of some hundred examples, since the means are theirs.

    Args:
      net, loss, penalty: as in `reconstruction`; the code must lie in [0, 1], as a sigmoid's does.
      rho: wanted mean activation, in (0, 1).
      beta: weight of the sparsity, at least 0.

    Raises:
      ValueError: for rho outside of (0, 1), or a negative beta.

    Example:
      >>> net = jn.models.tied_autoencoder(3)
      >>> params, state = net.init(jax.random.key(0), jn.spec((5, 7)))
      >>> _, (_, metrics) = sparse_reconstruction(net, rho=0.5)(params, state, jnp.zeros((5, 7)))
      >>> float(metrics["activation"]), float(metrics["kl"])
      (0.5, 0.0)

    Reference: Lee, Ekanadham and Ng 2008, "Sparse deep belief net model for visual area V2"; Ng
    2011, "Sparse autoencoder" (lecture notes).
    """
    if beta < 0:
        raise ValueError(f"sparse_reconstruction: beta must be at least 0, got {beta}")
    kl = kl_sparsity(rho)

    def sparsity(encode, x, z, key, mask):
        value = kl(z, mask)
        return beta * value, {"kl": value, "activation": average(z, mask, "activation")}

    return _objective(net, loss, penalty, extra=sparsity)


def masking_noise(rate: float) -> Corruption:
    """Sets each entry to 0 with probability `rate`; the others stay as they are.

    Args:
      rate: share that is lost, in [0, 1).

    Raises:
      ValueError: for a rate outside of [0, 1).

    Example:
      >>> x = masking_noise(0.25)(jax.random.key(0), jnp.full((3, 8), 2.0))
      >>> sorted(set(x.ravel().tolist()))
      [0.0, 2.0]
    """
    if not 0 <= rate < 1:
        raise ValueError(f"masking_noise: rate is the share that is lost, in [0, 1), got {rate}")

    def corrupt(key, x):
        return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x, 0)

    return corrupt


def additive_noise(stddev: float) -> Corruption:
    """Adds independent normal noise to each entry.

    Args:
      stddev: in the units of x, at least 0.

    Raises:
      ValueError: for a negative stddev.

    Example:
      >>> x = additive_noise(0.5)(jax.random.key(0), jnp.zeros((500, 30)))
      >>> 0.49 < float(x.std()) < 0.51
      True
    """
    if stddev < 0:
        raise ValueError(f"additive_noise: stddev must be at least 0, got {stddev}")

    def corrupt(key, x):
        return x + stddev * jax.random.normal(key, x.shape, x.dtype)

    return corrupt


def fit_sparse_autoencoder(
    key: jax.Array,
    x: Any,
    features: int,
    *,
    rho: float = 0.05,
    beta: float = 3.0,
    penalty: Penalty | None = None,
    activation: Layer | Callable = jax.nn.sigmoid,
    output: Layer | Callable | None = None,
    epochs: int = 30,
    batch_size: int = 256,
    learning_rate: float = 1e-2,
    optimizer: optax.GradientTransformation | None = None,
    progress: bool = True,
) -> Params:
    """The encoder of a sparse autoencoder trained on x: params of `jn.dense(features)`.

    The net is dense, activation, dense, output, and its objective `sparse_reconstruction`. The
    units' biases start where the mean activation is about rho already, for a sigmoid.

    Args:
      key: draws the weights and the order of the examples.
      x: (n, inputs), about 0 with a variance near 1, or in [0, 1].
      features: units of the code, at least 1; more than inputs is usual.
      rho: wanted mean activation, in (0, 1).
      beta: weight of the sparsity.
      penalty: of the parameters, such as `jn.penalties.weight_decay(1e-3)`.
      activation: of the code, with values in [0, 1].
      output: of the reconstruction: none, or `jax.nn.sigmoid` for x in [0, 1].
      epochs: passes over x.
      batch_size: examples a step; the mean activation is measured on them.
      learning_rate: of Adam, falling to 0 as a cosine.
      optimizer: any other, in its place.
      progress: whether a bar runs.

    Raises:
      ValueError: where x is no (n, inputs) of finite numbers, or features is below 1.

    Example:
      >>> x = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
      >>> params = fit_sparse_autoencoder(jax.random.key(0), x, 5, epochs=2)
      >>> z, _ = jn.serial(jn.dense(5), jax.nn.sigmoid).apply({"dense": params}, {}, x)
      >>> z.shape
      (300, 5)

    Reference: Ng 2011, "Sparse autoencoder" (lecture notes).
    """
    x = check_examples(x, features, "fit_sparse_autoencoder")
    if optimizer is None:
        steps = epochs * -(-len(x) // min(batch_size, len(x)))
        optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    glorot = glorot_uniform()
    start = constant(float(np.log(rho / (1 - rho)))) if 0 < rho < 1 else constant(0.0)
    encoder = dense(features, kernel_init=glorot, bias_init=start, name="encoder")
    decoder = dense(x.shape[1], kernel_init=glorot, name="decoder")

    def code(z):
        return z

    last = () if output is None else (output,)
    net = serial(encoder, activation, code, decoder, *last, name="sparse_autoencoder")
    step = make_step(sparse_reconstruction(net, rho, beta, penalty=penalty), optimizer)
    train_state = init_training(net, optimizer, key, x)
    for epoch in fit(train_state, step, x, epochs=epochs, batch_size=batch_size, progress=progress):
        train_state = epoch.train_state
    return train_state.params["encoder"]


def _objective(
    net: Layer,
    loss: Callable,
    penalty: Penalty | None,
    *,
    corrupt: Corruption | None = None,
    extra: Callable | None = None,
) -> Objective:
    """`extra(encode, x, code, key, mask) -> (value, metrics)` is added to the reconstruction."""
    both = with_code(net)

    def objective(params, state, batch, *, key=None, train=False, mask=None):
        x = batch
        if not hasattr(x, "shape"):
            raise TypeError(
                "an autoencoder's batch is the array x, its own target, got "
                f"{type(x).__name__}; write jn.fit(train_state, step, x, ...)"
            )
        seen = x
        if corrupt is not None and train:
            if key is None:
                raise ValueError("denoising_reconstruction: training needs a key; write key=...")
            seen = corrupt(child_key(key, "corrupt"), x)

        def run(x):
            return both.apply(params, state, x, key=key, train=train)

        (y, z), after = run(seen)
        each = loss(y, x)
        if each.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"the loss must give one value an entry of {x.shape}, got {each.shape}"
            )
        value = average(each.reshape(len(x), -1).sum(1), mask, "loss", y, x)
        metrics = {"error": average(optax.squared_error(y, x), mask, "error", y, x)}
        if extra is not None:
            more, watched = extra(lambda x: run(x)[0][1], x, z, key, mask)
            value, metrics = value + more, metrics | watched
        if penalty is not None:
            value = value + penalty(params)
        return value, (after, metrics)

    return objective


def _squared_jacobian(encode: Callable, x: jax.Array) -> jax.Array:
    """(batch,): ‖∂code/∂x‖² of each example; one pass back an entry of the code."""
    z, back = jax.vjp(encode, x)
    directions = jnp.eye(z[0].size, dtype=z.dtype).reshape(-1, *z.shape[1:])

    def row(direction):  # the gradient of one entry of the code, for all examples at once
        (grad,) = back(jnp.broadcast_to(direction, z.shape))
        return jnp.square(grad).reshape(len(x), -1).sum(1)

    return jax.vmap(row)(directions).sum(0)


def _estimated_squared_jacobian(
    encode: Callable, x: jax.Array, key: jax.Array, probes: int
) -> jax.Array:
    """(batch,): the mean of ‖J v‖² over random signs v, whose expectation is ‖J‖²."""

    def probe(key):
        _, moved = jax.jvp(encode, (x,), (jax.random.rademacher(key, x.shape, x.dtype),))
        return jnp.square(moved).reshape(len(x), -1).sum(1)

    return jax.vmap(probe)(jax.random.split(key, probes)).mean(0)
