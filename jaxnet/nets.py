"""What functions of a whole net ask of it: the net, its params and state, its input."""

from typing import Any

import jax

from jaxnet.core import Layer, Params, State, as_layer
from jaxnet.services.checks import as_dict, check_input
from jaxnet.services.jaxprs import passed_on
from jaxnet.services.trees import PyTree, flat, key_spec, shapes_of


def check_net(who: str, net: Any, params: Any, state: Any, x: Any) -> tuple[Layer, Params, State]:
    """Check the arguments; return the net as a layer, params and state in native bytes.

    Whether params and state fit the net is checked when the net runs.

    Raises:
      TypeError: If the net is not a layer or function.
      TypeError: If params or state are not dicts.
      TypeError: If x does not contain arrays.

    Example:
      >>> check_net("saliency", jn.dense(3), [], {}, jnp.ones((2, 3)))
      Traceback (most recent call last):
      ...
      TypeError: saliency: params must be the dict that init returns, got list; write params, ...
    """
    net = as_layer(net, who, "net")
    params = as_dict(who, "params", params)
    state = as_dict(who, "state", state)
    check_input(who, x)
    return net, params, state


def carried_entries(
    net: Layer, params: Params, state: State, x: PyTree
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the entries of a net's state that change in evaluation, by path.

    Entries that stay as they are, such as the running statistics of batch norm, are left out.

    Args:
      net: Any layer.
      params, state: Params and state of the net.
      x: Shapes of its input; sizes may be variable, which the returned shapes then are too.

    Example:
      >>> net, x = jn.stream(jn.serial(jn.batch_norm(), jn.gru(4))), jn.spec((2, 3, 5))
      >>> params, state = net.init(jax.random.key(0), x)
      >>> carried_entries(net, params, state, x)
      {'gru/h': ShapeDtypeStruct(shape=(2, 4), dtype=float32)}
    """
    if not jax.tree.leaves(state):
        return {}
    _, shapes = jax.eval_shape(net.init, key_spec(), x)

    def state_after(state, params, x):
        _, after = net.apply(params, state, x)
        return after

    after = passed_on(jax.make_jaxpr(state_after)(shapes, *shapes_of((params, x))))
    entries = flat(shapes, None)
    return {path: leaf for i, (path, leaf) in enumerate(entries) if after[i] != i}
