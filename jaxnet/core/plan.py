"""What init notes about a layer before it draws anything."""

from collections.abc import Iterator
from typing import Any

import jax

from jaxnet.core.contract import Params, State, child_keys

# What init notes about a layer, by name. For a child it is the child's plan. For an entry it is
# whether the entry is state, its initializer, and its shape. For a transform, "" holds what draws
# its entries, and their shapes.
Plan = dict[str, Any]


def copied(plan: Plan) -> Plan:
    return {name: copied(each) if isinstance(each, dict) else each for name, each in plan.items()}


def pruned(plan: Plan) -> Plan:
    """Return the plan without layers that draw nothing, which do not need a key."""
    needed: Plan = {}
    for name, each in plan.items():
        if isinstance(each, dict):
            each = pruned(each)
        elif name == "":
            _, shapes = each
            each = None if shapes == ({}, {}) else each
        if each:
            needed[name] = each
    return needed


def draw_plan(plan: Plan, key: jax.Array) -> tuple[Params, State]:
    """Return the parameters and state of everything in the plan."""
    keys = child_keys(key, list(_paths(plan)))
    return _drawn(plan, iter(keys))


def _paths(plan: Plan, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the names whose keys lead to each key that the plan needs, in its order."""
    for name, each in plan.items():
        if isinstance(each, dict):
            yield from _paths(each, (*above, name))
        else:  # a transform draws with the key of its layer
            yield (*above, name) if name else above


def _drawn(plan: Plan, keys: Iterator[jax.Array]) -> tuple[Params, State]:
    params, state = {}, {}
    for name, each in plan.items():
        if name == "":  # of a transform
            draw, _ = each
            inner_params, inner_state = draw(next(keys))
            params.update(inner_params)
            state.update(inner_state)
        elif isinstance(each, dict):  # of a child
            inner_params, inner_state = _drawn(each, keys)
            if inner_params:
                params[name] = inner_params
            if inner_state:
                state[name] = inner_state
        else:
            is_state, draw, _ = each
            tree = state if is_state else params
            tree[name] = draw(next(keys))
    return params, state
