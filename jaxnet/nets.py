"""Checks for functions of a whole net: the net, its params and state, its input."""

from typing import Any

from jaxnet.core import Layer, Params, State, as_layer
from jaxnet.services.checks import as_dict, check_input


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
