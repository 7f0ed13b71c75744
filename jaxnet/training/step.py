"""One step of training, compiled once."""

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.core import Layer, Params, PyTree, State, abstract, child_key, path_name
from jaxnet.training.objective import Metrics


class TrainState(NamedTuple):
    """Everything that training changes; a pytree, to be saved and resumed whole.

    Fields:
      step: number of updates made, an int32 scalar.
      params: what the optimizer changes.
      state: what `apply` changes, e.g. running statistics.
      opt_state: of the optax optimizer.
      key: the randomness to come; every step moves it on. As key data, uint32, since a typed key
        takes a jitted call off its fast path.
    """

    step: jax.Array
    params: Params
    state: State
    opt_state: PyTree
    key: jax.Array


def init_training(
    net: Layer, optimizer: optax.GradientTransformation, key: jax.Array, data: PyTree
) -> TrainState:
    """Fresh parameters, state and optimizer state.

    Args:
      net: the layer to train.
      optimizer: of optax.
      key: the seed of the run; drawing and training get keys of their own from it.
      data: what the net will be trained on: `(inputs, targets)`, of which the inputs count, or the
        inputs alone; arrays or `jn.spec`s, batch axis first. Only shapes and dtypes are looked at.

    Example:
      >>> data = jnp.ones((50, 3)), jnp.zeros(50, jnp.int32)
      >>> train_state = jn.init_training(jn.dense(2), optax.sgd(0.1), jax.random.key(0), data)
      >>> train_state.params["kernel"].shape
      (3, 2)
    """
    x = data[0] if isinstance(data, tuple | list) else data

    def few(leaf):
        if not getattr(leaf, "shape", ()):
            raise TypeError(
                "init_training: data must be arrays or specs, batch axis first, such as "
                f"(inputs, targets), got {type(leaf).__name__} in it"
            )
        leaf = abstract(leaf, "init_training")
        return jax.ShapeDtypeStruct((2, *leaf.shape[1:]), leaf.dtype)

    params, state = net.init(child_key(key, "init"), jax.tree.map(few, x))

    opt_state = start_optimizer(optimizer, params)
    train_key = child_key(key, "train")
    if jax.random.key_impl(train_key) == jax.random.key_impl(jax.random.key(0)):
        train_key = jax.random.key_data(train_key)  # else its kind would be lost
    return TrainState(jnp.asarray(np.zeros((), np.int32)), params, state, opt_state, train_key)


@partial(jax.jit, static_argnums=0)  # eager zeros would compile for every shape
def start_optimizer(optimizer: optax.GradientTransformation, params: Params) -> PyTree:
    """The state of an optimizer before its first step."""

    def strong(leaf):  # a weak type would become strong in the first step: compiled again
        extended = jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        return leaf if extended else jax.lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree.map(strong, optimizer.init(params))


def next_key(train_state: TrainState) -> tuple[TrainState, jax.Array]:
    """The train_state with a new key, and a key to use up.

    Example:
      >>> net, data = jn.dense(2), jn.spec((5, 3))
      >>> train_state = jn.init_training(net, optax.sgd(0.1), jax.random.key(0), data)
      >>> train_state, key = next_key(train_state)
      >>> key.shape, train_state.key.shape
      ((), (2,))
    """
    data = train_state.key
    if jnp.issubdtype(data.dtype, jax.dtypes.prng_key):  # not of JAX's default kind
        key, here = jax.random.split(data)
        return train_state._replace(key=key), here
    # Keys are counted on, as seeds are, and the key that is handed out is a hash of the count.
    # XLA drops the hash where nobody draws, which it could not do with a split.
    here = jax.random.fold_in(jax.random.wrap_key_data(data), 0)
    return train_state._replace(key=data.at[-1].add(1)), here


def make_step(
    objective: Callable[..., Any], optimizer: optax.GradientTransformation, *, shapes: int = 1
) -> "Step":
    """The function `step(train_state, batch) -> (train_state, metrics)`, jitted.

    It owns the threading: the key, the state and the optimizer's state move on. The
    `train_state` that goes in is donated (its memory is used for the one that comes out), so always
    go on with what came back. Optimizers that search along a line get value, gradient and function,
    as `optax.lbfgs` wants them.

    It warns, with paths, where a leaf's new shape or dtype makes it compile again, where `state`
    does not change in training (an `apply` without `train=train`, mostly), and where a gradient or
    a loss is not finite. The last needs a look at the device: after call 1 at the parameters and
    the loss, and then now and then at the losses, at least every 256 calls, so as to cost nothing.
    `fit` watches every step, and tells after the epoch.

    Args:
      objective: `(params, state, batch, *, key, train) -> (loss, (state, metrics))`.
      optimizer: of optax.
      shapes: number of shapes of batches that are meant, such as `jn.data.bucketed(...).shapes`:
        so many compilations, for another batch each, bring no warning. An augmentation of `fit`
        that changes between its runs counts as well.

    Example:
      >>> net, optimizer = jn.dense(2), optax.adam(0.1)
      >>> batch = jnp.eye(3), jnp.array([0, 1, 0])
      >>> loss = optax.softmax_cross_entropy_with_integer_labels
      >>> step = jn.make_step(jn.supervised(net, loss), optimizer)
      >>> train_state = jn.init_training(net, optimizer, jax.random.key(0), batch)
      >>> for _ in range(20):
      ...     train_state, metrics = step(train_state, batch)
      >>> 0 < float(metrics["loss"]) < 0.2
      True
    """
    return Step(objective, optimizer, shapes)


class Step:
    """What `make_step` gives. `fit` and `evaluate` use its parts.

    Attributes:
      update: the same step, not jitted: `(train_state, batch, mask=None)` to
        `(train_state, metrics, finite)`, the last a bool for every leaf of the gradient.
      measure: `(params, state, batch, key, mask=None) -> metrics`, in evaluation mode.
      takes_mask: whether the objective leaves padding out by itself.
      shapes: number of shapes of batches that are meant.
      traces: of each program, the shapes and dtypes that it was compiled for, in order.
    """

    def __init__(
        self,
        objective: Callable[..., Any],
        optimizer: optax.GradientTransformation,
        shapes: int = 1,
    ):
        if not callable(objective):
            raise TypeError(
                "make_step: the objective must be a function, such as jn.supervised(net, loss), "
                f"got {type(objective).__name__}"
            )
        if not isinstance(optimizer, optax.GradientTransformation):
            wrapped = hasattr(optimizer, "gradient_transformation")  # optax.MultiSteps
            raise TypeError(
                "make_step: the optimizer must be one of optax, such as optax.adam(1e-3), "
                f"got {type(optimizer).__name__}"
                + ("; write .gradient_transformation() after it" if wrapped else "")
            )
        if shapes < 1:
            raise ValueError(f"make_step: shapes must be at least 1, got {shapes}")
        self.objective, self.shapes = objective, shapes
        self.optimizer = optax.with_extra_args_support(optimizer)
        self.takes_mask = "mask" in inspect.signature(objective).parameters
        self.traces: dict[str, list[dict[str, str]]] = {}
        self._jitted = jax.jit(self._traced, donate_argnums=0)
        self._unseen: list[jax.Array] = []  # losses
        self._patience = 1
        self._still: set[str] = set()

    def __call__(self, train_state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        try:
            after, metrics = self._jitted(train_state, batch)
        except (RuntimeError, ValueError) as error:
            if "has been deleted" in str(error):
                error.add_note(
                    "a train_state can go into a step once: the step reuses its memory; "
                    "go on with the one that came back: train_state, metrics = step(train_state, …)"
                )
            raise
        self._unseen.append(metrics["loss"])
        if len(self._unseen) >= self._patience:
            self._look(after)
        return after, metrics

    def _look(self, train_state: TrainState) -> None:
        losses, self._unseen = self._unseen, []
        first, self._patience = self._patience == 1, min(2 * self._patience, 256)
        if not first and np.isfinite(losses[-1]):  # a NaN gets into the parameters and stays
            return
        leaves = jax.tree.leaves(train_state.params)
        flags = np.array([np.isfinite(np.asarray(leaf)).all() for leaf in leaves])
        values = np.asarray(losses)
        late = int(np.sum(~np.isfinite(values))) or 1
        first = int(train_state.step) - late + 1
        warn_nonfinite(train_state.params, flags[None], values[-late:], first)

    def _traced(self, train_state: TrainState, batch: PyTree):
        self.note_trace("step", train_state=train_state, batch=batch)
        return self.update(train_state, batch)[:2]  # what is not used is not computed

    def update(self, train_state: TrainState, batch: PyTree, mask: jax.Array | None = None):
        """(train_state, metrics, finite); pure, to be called inside other transforms."""
        self._check_optimizer(train_state)
        train_state, apply_key = next_key(train_state)
        extra = {"mask": mask} if self.takes_mask else {}

        def loss(params):
            value, (state, metrics) = self.objective(
                params, train_state.state, batch, key=apply_key, train=True, **extra
            )
            self._check_outputs(value, metrics)
            self._warn_still(train_state.state, state)
            return value, (state, metrics)

        (value, (state, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(
            train_state.params
        )
        updates, opt_state = self.optimizer.update(
            grads,
            train_state.opt_state,
            train_state.params,
            value=value,
            grad=grads,
            value_fn=lambda params: loss(params)[0],
        )
        params: Any = optax.apply_updates(train_state.params, updates)
        finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads)]
        after = TrainState(train_state.step + 1, params, state, opt_state, train_state.key)
        return after, {"loss": value} | metrics, jnp.stack(finite) if finite else jnp.ones(0, bool)

    def _check_optimizer(self, train_state: TrainState) -> None:
        needed = jax.tree.structure(jax.eval_shape(self.optimizer.init, train_state.params))
        given = jax.tree.structure(train_state.opt_state)
        if given != needed:
            raise ValueError(
                "step: the optimizer's state is not that of this step's optimizer; give "
                f"init_training and make_step the same one\n  needs {needed}\n  got   {given}"
            )

    def measure(
        self, params: Params, state: State, batch: PyTree, key: jax.Array, mask: Any = None
    ) -> Metrics:
        """The loss and the metrics of one batch, in evaluation mode."""
        extra = {"mask": mask} if self.takes_mask else {}
        value, (_, metrics) = self.objective(params, state, batch, key=key, train=False, **extra)
        return {"loss": value} | metrics

    def note_trace(self, program: str, **args: PyTree) -> None:
        """Called while a program is traced: counts, and warns what made it trace again."""
        leaves, _ = jax.tree_util.tree_flatten_with_path(args)
        now = {path_name(path): str(jax.typeof(leaf)) for path, leaf in leaves}
        before = self.traces.setdefault(program, [])
        before.append(now)
        if len(before) < 2:
            return
        last = before[-2]
        changed = [n for n in sorted(last.keys() | now.keys()) if last.get(n) != now.get(n)]
        of_batch = all(name.split("/")[0] in ("batch", "data") for name in changed)
        if of_batch and len(before) <= self.shapes:
            return
        changes = [f"{n}: {last.get(n, 'nothing')} -> {now.get(n, 'nothing')}" for n in changed]
        other = "another batch_size, or an augmentation made anew"
        hint = "; make_step(..., shapes=n) says how many are meant" if of_batch else ""
        warnings.warn(
            f"{program} is compiled again (time {len(before)}), because of "
            + ("; ".join(changes[:8]) or other)
            + hint,
            stacklevel=2,
        )

    def _check_outputs(self, value: Any, metrics: Any) -> None:
        if jnp.shape(value) != ():
            raise ValueError(
                f"make_step: the objective's loss must be a scalar, got shape {jnp.shape(value)}; "
                "take its mean"
            )
        if not isinstance(metrics, dict):
            raise TypeError(
                "make_step: the objective must return (loss, (state, metrics)) with a dict of "
                f"metrics, got {type(metrics).__name__}"
            )

    def _warn_still(self, before: State, after: State) -> None:
        """While tracing, a leaf that comes back as the very same value is never updated."""
        if jax.tree.structure(before) != jax.tree.structure(after):
            raise ValueError(
                "make_step: the objective must return a state of the structure it was given, "
                f"{jax.tree.structure(before)}, got {jax.tree.structure(after)}"
            )
        leaves, _ = jax.tree_util.tree_flatten_with_path(before)
        same = [
            path_name(path)
            for (path, old), new in zip(leaves, jax.tree.leaves(after), strict=True)
            if new is old
        ]
        if new := set(same) - self._still:
            self._still |= new
            warnings.warn(
                f"state does not change in training: {', '.join(sorted(new))}; is the net applied "
                "with train=train, and its new state returned?",
                stacklevel=2,
            )


def warn_nonfinite(params: Params, flags: np.ndarray, losses: np.ndarray, first: int) -> bool:
    """Warns of the first step whose gradient, or else whose loss, has a NaN or Inf.

    `flags` is (steps, leaves of the gradient), `losses` (steps,). True where it warned.
    """
    steep = np.flatnonzero(~flags.all(axis=1))
    high = np.flatnonzero(~np.isfinite(losses))
    if steep.size:
        names = [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
        which = [name for name, fine in zip(names, flags[steep[0]], strict=True) if not fine]
        warnings.warn(
            f"the gradient is not finite at step {first + steep[0]}: {', '.join(which[:8])}"
            + (f" and {len(which) - 8} more" if len(which) > 8 else "")
            + "; a smaller learning rate, a look at the data or jn.inspect may help",
            stacklevel=3,
        )
    elif high.size:  # optax's cross entropy is so where a label is no class
        warnings.warn(
            f"the loss is not finite at step {first + high[0]}, though its gradient is; are the "
            "labels 0 to n - 1 for n outputs? jn.inspect.first_nonfinite may help",
            stacklevel=3,
        )
    return bool(steep.size or high.size)
