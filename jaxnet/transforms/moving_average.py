"""A target network: a copy of a net whose params follow the trained ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.core import Layer, transformed
from jaxnet.core.run import SOWN
from jaxnet.services.checks import within
from jaxnet.services.nodes import materialized
from jaxnet.services.trees import PyTree, describe

TARGET = "target"  # name of the entry in the state


def moving_average(layer: Layer, decay: float | Callable[[jax.Array], Any] = 0.99) -> Layer:
    """Return a layer with a target: a copy of its params that follows them slowly.

    The input is a pair (x, given), and the output is (y, target): the layer's output for `x`
    and the copy's output for `given`. The copy gets no gradient. Its params are in the state, so
    that runs save and resume them. Each training step begins with

        target = decay * target + (1 - decay) * params

    and the first one with the params themselves, so that a run may start from any params. The
    target is thus the average over the params after each update. Call the layer once per step; a
    second call would update the target twice. Concatenate the inputs instead.

    The copy keeps its own state, such as statistics of batch norm, and runs in the same mode.

    Args:
      layer: Layer to train, such as an encoder or a net of Q-values.
      decay: Weight of the old target in [0, 1], or a function of the number of training steps
        before, like optax's schedules: `lambda step: jnp.where(step % 1000 == 0, 0.0, 1.0)` copies
        the params every 1,000 steps.

    Params: The layer's params.

    State: The layer's state, and
      target: params, state and step, the number of training steps.

    Returns:
      A layer for pairs of inputs that returns a pair of outputs, of the network and of its
      average.

    Raises:
      ValueError: If `decay` is outside [0, 1], or if the input is not a pair.

    Example:
      Q-learning, with the values of the next observation from the target:

      >>> values = jn.transforms.moving_average(jn.models.mlp([16, 3], name="values"), 0.995)
      >>> def objective(m, batch):
      ...     q, later = m(values, (batch["seen"], batch["next"]))
      ...     q = jnp.take_along_axis(q, batch["action"][:, None], -1)[:, 0]
      ...     return optax.l2_loss(q, batch["reward"] + 0.9 * later.max(-1)), {}
      >>> batch = {"seen": jnp.ones((5, 4)), "next": jnp.ones((5, 4)), "reward": jnp.ones(5),
      ...          "action": jnp.zeros(5, int)}
      >>> trainer = jn.trainer(jn.compose(objective), optax.adam(1e-3))
      >>> train_state = trainer.init(jax.random.key(0), batch)
      >>> train_state, metrics = trainer.step(train_state, batch)
      >>> sorted(train_state.params["values"]), sorted(train_state.state["values"]["target"])
      (['dense', 'output'], ['params', 'state', 'step'])

    Reference: Mnih et al. 2015, "Human-level control through deep reinforcement learning";
    averages: Lillicrap et al. 2015, "Continuous control with deep reinforcement learning", and
    Grill et al. 2020, "Bootstrap Your Own Latent".
    """
    if not callable(decay):
        within("moving_average", "decay", decay, "[0, 1]")

    def init(run, key, pair):
        params, state = run.init(key, _pair(pair)[0])
        if TARGET in state:
            raise ValueError(
                f"moving_average: {run.layer.name} already has an entry {TARGET!r} in its state"
            )
        # Copies, since a step donates the memory of each array.
        target = {
            "params": jax.tree.map(jnp.copy, params),
            "state": jax.tree.map(jnp.copy, state),
            "step": jnp.zeros([], jnp.int32),
        }
        return params, state | {TARGET: target}

    def apply(run, params, state, pair):
        x, target_x = _pair(pair)
        target = state[TARGET]
        inner_state = {name: value for name, value in state.items() if name != TARGET}
        if run.train:
            target = _moved(target, jax.lax.stop_gradient(materialized(params)), decay)
        y, after = run(params, inner_state, x)
        followed, ahead = run(target["params"], target["state"], target_x, turn=1)
        ahead = {name: value for name, value in ahead.items() if not name.startswith(SOWN)}
        followed, target = jax.lax.stop_gradient((followed, target | {"state": ahead}))
        return (y, followed), after | {TARGET: target}

    return transformed(layer, apply, kind="moving_average", init=init, new_entries=True, inputs=())


def _moved(target: Any, params: PyTree, decay: float | Callable[[jax.Array], Any]) -> Any:
    step = target["step"]
    later = decay(step) if callable(decay) else decay
    rate = jnp.where(step == 0, 0.0, later)  # the first target is a copy

    def mix(old, new):
        return (rate * old + (1 - rate) * new).astype(old.dtype)

    moved = jax.tree.map(mix, target["params"], params)
    # Not beyond the last integer: a negative count would start the average anew.
    return target | {"params": moved, "step": optax.safe_increment(step)}


def _pair(pair: PyTree) -> tuple[PyTree, PyTree]:
    if not (isinstance(pair, tuple | list) and len(pair) == 2):
        raise ValueError(
            f"moving_average: expected (x, given), the inputs of the layer and of its target, got "
            f"{describe(pair)}"
        )
    return pair[0], pair[1]
