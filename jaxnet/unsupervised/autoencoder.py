"""Objectives of autoencoders: reconstruction alone, or with noise or sparsity.

Each function maps an autoencoder to an objective for `jn.trainer`. The batch is x itself, without
targets; params and state are the net's. The net is `jn.models.autoencoder(...)`, or any layer whose
output has the shape of its input and that calls `m(jn.models.bottleneck, z)` on its code. The loss
of an example is a sum over its entries, so weights such as β have the same scale as in the papers.
The metric "error" is the mean squared error per entry, which is comparable across methods.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet import Layer, child_key, compose, dense, observe, serial, tools, trainer
from jaxnet.initializers import constant, glorot_uniform
from jaxnet.losses import half_squared_error, kl_sparsity
from jaxnet.models import bottleneck
from jaxnet.services.checks import a_function, check_key, check_type
from jaxnet.services.nodes import materialized
from jaxnet.transforms import as_layer, transform
from jaxnet.typing import Params
from jaxnet.unsupervised.check import check_fit, fill_last_batch, trained

Corruption = Callable[[jax.Array, jax.Array], jax.Array]
Penalty = Callable[[Params], jax.Array]


def with_code(net: Layer) -> Layer:
    """Change the output of an autoencoder to the pair (reconstruction, code).

    Args:
      net: An autoencoder, which calls `m(jn.models.bottleneck, z)` once, on its code.

    Returns:
      A layer from x to the pair (reconstruction, code).

    Raises:
      TypeError: If `net` is not a layer.
      ValueError: At `init` and `apply`, if the net does not have exactly one such call.

    Example:
      >>> net = jn.models.autoencoder(jn.dense(3), jn.dense(7))
      >>> params, state = net.init(jax.random.key(0), jn.spec((5, 7)))
      >>> (y, z), _ = with_code(net).apply(params, state, jnp.ones((5, 7)))
      >>> y.shape, z.shape
      ((5, 7), (5, 3))
    """
    net = as_layer(net, "with_code", "net")

    def forward(m, x):
        codes = []

        def see(path, layer, x, y):
            if path[-1:] == ("bottleneck",):
                codes.append(y)
            return y

        y = m._inline(observe(net, see), x)
        if len(codes) != 1:
            raise ValueError(
                f"with_code: {net.name} must call m(jn.models.bottleneck, z) once, on its code, "
                f"got {len(codes)} calls; jn.models.autoencoder(encoder, decoder) does so"
            )
        return y, codes.pop()  # a plan of init keeps `see`

    return compose(forward, name=net.name, kind="with_code")


def reconstruction(
    net: Layer, loss: Callable = half_squared_error, *, penalty: Penalty | None = None
) -> Layer:
    """Return the objective of the plain autoencoder: Σ_i loss(reconstruction, x)_i of each example.

    Args:
      net: An autoencoder, see `with_code`.
      loss: Function `(reconstruction, x) -> values`, one per example or per entry: the default for
        any x, `jn.losses.sigmoid_cross_entropy` for x in [0, 1] and a net that returns logits.
      penalty: Penalty of the parameters, added to the loss; see `jaxnet.penalties`.

    Returns:
      An objective: a layer from a batch x to an error per example.

    Raises:
      TypeError: If `net`, `loss` or `penalty` has the wrong type.
      TypeError: If the batch is not an array.
      ValueError: If the output or the loss does not have the shape of x.

    Example:
      >>> net = jn.models.autoencoder(jn.dense(3), jn.dense(7))
      >>> params, state = net.init(jax.random.key(0), jn.spec((5, 7)))
      >>> zero = jax.tree.map(jnp.zeros_like, params)
      >>> (values, metrics), _ = reconstruction(net).apply(zero, state, jnp.ones((5, 7)))
      >>> values.tolist(), metrics["error"].tolist()
      ([3.5, 3.5, 3.5, 3.5, 3.5], [1.0, 1.0, 1.0, 1.0, 1.0])
    """
    return _objective(net, "reconstruction", loss, penalty)


def denoising_reconstruction(
    net: Layer, corrupt: Corruption, loss: Callable = half_squared_error
) -> Layer:
    """Reconstruct x from a corrupted x, and so predict each entry from the others.

    The corruption is drawn at each training step. In evaluation nothing is corrupted.

    Args:
      net, loss: As in `reconstruction`.
      corrupt: Function `(key, x) -> x`, such as `masking_noise(0.3)`, or
        `lambda key, x: x + 0.3 * jax.random.normal(key, x.shape)`.

    Returns:
      An objective: a layer from a batch x to an error per example.

    Raises:
      TypeError: As in `reconstruction`.
      TypeError: If `corrupt` is not a function.
      ValueError: If the key is missing in training.

    Example:
      >>> net, x = jn.models.autoencoder(jn.dense(3), jn.dense(7)), np.eye(7, dtype=np.float32)
      >>> objective = denoising_reconstruction(net, masking_noise(0.25))
      >>> trainer = jn.trainer(objective, optax.adam(0.1))
      >>> train_state, metrics = trainer.step(trainer.init(jax.random.key(0), x), x)

    Reference: Vincent et al. 2010, "Stacked Denoising Autoencoders".
    """
    a_function("denoising_reconstruction", "corrupt", corrupt, "(key, x)")
    return _objective(net, "denoising_reconstruction", loss, corrupt=corrupt)


def sparse_reconstruction(
    net: Layer,
    rho: float = 0.05,
    beta: float = 3.0,
    loss: Callable = half_squared_error,
    *,
    penalty: Penalty | None = None,
) -> Layer:
    """Add β Σ_j KL(ρ‖ρ̂_j), where ρ̂_j is the mean of code unit j over the batch.

    The KL is a property of the batch, so the value is a scalar: choose a batch_size that divides
    the number of examples, of at least 100 for a stable mean.

    Args:
      net, loss, penalty: As in `reconstruction`; the code must be in [0, 1], such as the output of
        a sigmoid.
      rho: Target mean activation, in (0, 1).
      beta: Weight of the sparsity, at least 0.

    Returns:
      An objective: a layer from a batch x to a scalar.

    Raises:
      TypeError: As in `reconstruction`.
      ValueError: If `rho` is outside (0, 1).
      ValueError: If `beta` is negative.

    Example:
      >>> net = jn.models.autoencoder(jn.serial(jn.dense(3), jax.nn.sigmoid), jn.dense(7))
      >>> params, state = net.init(jax.random.key(0), jn.spec((5, 7)))
      >>> objective = sparse_reconstruction(net, rho=0.5)
      >>> (_, metrics), _ = objective.apply(params, state, jnp.zeros((5, 7)))
      >>> metrics["activation"].tolist(), float(metrics["kl"])
      ([0.5, 0.5, 0.5, 0.5, 0.5], 0.0)

    Reference: Lee, Ekanadham and Ng 2008, "Sparse deep belief net model for visual area V2"; Ng
    2011, "Sparse autoencoder" (lecture notes).
    """
    tools.within("sparse_reconstruction", "rho", rho, "(0, 1)")
    tools.within("sparse_reconstruction", "beta", beta, "[0, inf)")

    def sparsity(z):
        value = kl_sparsity(z, rho=rho)
        activation = z.mean(_entries(z))
        return beta * value, {"kl": value, "activation": activation}

    return _objective(net, "sparse_reconstruction", loss, penalty, sparsity=sparsity)


def masking_noise(rate: float) -> Corruption:
    """Set each entry to 0 with probability `rate`; the other entries are unchanged.

    Args:
      rate: Fraction of entries dropped, in [0, 1).

    Returns:
      A function `(key, x) -> x`, for `denoising_reconstruction`.

    Raises:
      TypeError: If `rate` is not a number.
      ValueError: If `rate` is outside [0, 1).

    Example:
      >>> x = masking_noise(0.25)(jax.random.key(0), jnp.full((3, 8), 2.0))
      >>> sorted(set(x.ravel().tolist()))
      [0.0, 2.0]
    """
    tools.within("masking_noise", "rate", rate, "[0, 1)", "the fraction to drop")

    def corrupt(key, x):
        check_key(key, "masking_noise")
        x = tools.as_array("masking_noise", "x", x)
        stays = jax.random.bernoulli(key, 1 - rate, x.shape)
        return jnp.where(stays, x, 0)

    return corrupt


def fit_sparse_autoencoder(
    key: jax.Array,
    x: Any,
    features: int,
    *,
    rho: float = 0.05,
    beta: float = 3.0,
    penalty: Penalty | None = None,
    output: Layer | Callable | None = None,
    epochs: int = 30,
    batch_size: int = 256,
    learning_rate: float = 1e-2,
    progress: bool = True,
) -> Params:
    """Fit the encoder of a sparse autoencoder: params of `jn.dense(features)`.

    The net is dense, sigmoid, dense, output, and its objective `sparse_reconstruction`. The biases
    of the units start where their mean activation is about rho.

    Any number of examples is accepted: if batch_size does not divide it, random examples are
    repeated to fill the last batch.

    Args:
      key: Random key of the weights and of the order of the examples.
      x: Examples (n, inputs), centered with a variance near 1, or in [0, 1].
      features: Number of units of the code, at least 1; usually more than inputs.
      rho: Target mean activation, in (0, 1).
      beta: Weight of the sparsity, at least 0.
      penalty: Penalty of the parameters, such as `jn.penalties.l2(1e-3)`.
      output: Activation of the reconstruction: None, or `jax.nn.sigmoid` for x in [0, 1].
      epochs: Number of passes over x.
      batch_size: Number of examples per step, over which the mean activation is taken.
      learning_rate: Learning rate of Adam, with cosine decay to 0.
      progress: Whether to show a progress bar.

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}.

    Raises:
      TypeError: If `x` is not an array of numbers.
      ValueError: If `x` is not (n, inputs) of finite numbers.
      ValueError: If an option is out of range.

    Example:
      >>> x = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
      >>> params = fit_sparse_autoencoder(jax.random.key(0), x, 5, epochs=2)
      >>> z, _ = jn.serial(jn.dense(5), jax.nn.sigmoid).apply({"dense": params}, {}, x)
      >>> z.shape
      (300, 5)

    Reference: Ng 2011, "Sparse autoencoder" (lecture notes).
    """
    x = check_fit(key, x, features, "fit_sparse_autoencoder", epochs=epochs, batch_size=batch_size)
    tools.within("fit_sparse_autoencoder", "rho", rho, "(0, 1)")
    tools.within("fit_sparse_autoencoder", "beta", beta, "[0, inf)")
    tools.within("fit_sparse_autoencoder", "learning_rate", learning_rate, "(0, inf)")
    tools.check_options("fit_sparse_autoencoder", progress=progress)
    x, batch_size = fill_last_batch(child_key(key, "batches"), x, batch_size)
    steps = epochs * (len(x) // batch_size)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    glorot = glorot_uniform()
    start = constant(float(np.log(rho / (1 - rho))))
    encoder = dense(features, kernel_init=glorot, bias_init=start, name="encoder")
    decoder = dense(x.shape[1], kernel_init=glorot, name="decoder")

    layers = [encoder, jax.nn.sigmoid, bottleneck, decoder]
    if output is not None:
        layers.append(as_layer(output, "fit_sparse_autoencoder", "output"))
    net = serial(*layers, name="sparse_autoencoder")
    learner = trainer(sparse_reconstruction(net, rho, beta, penalty=penalty), optimizer)
    train_state = learner.init(key, x)
    params = trained(learner, train_state, x, epochs, batch_size, progress)
    return params["encoder"]


def _objective(
    net: Layer,
    kind: str,
    loss: Callable,
    penalty: Penalty | None = None,
    *,
    corrupt: Corruption | None = None,
    sparsity: Callable | None = None,
) -> Layer:
    """Return the reconstruction loss; with `sparsity(code) -> (value, metrics)`, their mean."""
    net = as_layer(net, kind, "net")
    tools.check_form(kind, "loss", loss)
    a_function(kind, "penalty", penalty, "(params)", optional=True)

    def init(run, key, x):
        return run.init(key, _array(x, kind))

    def apply(run, params, state, x):
        x = _array(x, kind)
        net_input = x
        if corrupt is not None and run.train:
            net_input = corrupt(run.key("corrupt"), x)
        (y, z), after = run(params, state, net_input)
        values = loss(y, x)
        _check_loss(kind, x, y, values)
        values = values.sum(_entries(values))  # (batch,)
        metrics = {"error": optax.squared_error(y, x).mean(_entries(x))}
        if sparsity is not None:
            more, watched = sparsity(z)
            values = values + more
            metrics |= watched
        if penalty is not None:
            values = values + penalty(materialized(params))
        if sparsity is not None:
            values = values.mean()
        return (values, metrics), after

    return transform(with_code(net), apply, kind=kind, init=init, name=kind)


def _entries(a: jax.Array) -> tuple[int, ...]:
    """Return all axes but the batch axis."""
    return tuple(range(1, a.ndim))


def _check_loss(kind: str, x: jax.Array, y: jax.Array, values: Any) -> None:
    got = getattr(values, "shape", type(values).__name__)
    allowed = [x.shape[:n] for n in range(1, x.ndim + 1)]
    if y.shape != x.shape or got not in allowed:
        raise ValueError(
            f"{kind}: expected a reconstruction of shape {x.shape} and a loss per example or "
            f"per entry, got {y.shape} and {got}"
        )


def _array(x: Any, who: str) -> Any:
    kinds = np.ndarray | jax.Array | jax.ShapeDtypeStruct
    hint = "leave the targets out, as in jn.fit(trainer, train_state, x)"
    check_type(who, "the batch", x, kinds, "the array x, its own target", hint)
    return x
