"""What init draws from the plan of a layer, and with which keys."""

import jax
import jax.numpy as jnp

import jaxnet as jn
from jaxnet.core.contract import child_key
from jaxnet.core.plan import draw_plan
from jaxnet.services import threefry

KEYS_MAY_REPEAT = True


def test_each_entry_is_drawn_with_the_key_of_its_path():
    def draw(key):
        return jax.random.key_data(key)

    entry = (False, draw, None)
    plan = {
        "kernel": entry,
        "child": {"bias": entry, "mean": (True, draw, None)},
        "wrapped": {"": (lambda key: ({"inner": draw(key)}, {}), None), "after": entry},
    }
    key = jax.random.key(4)
    params, state = draw_plan(plan, key)
    child, wrapped = child_key(key, "child"), child_key(key, "wrapped")
    expected = {
        "kernel": draw(child_key(key, "kernel")),
        "child": {"bias": draw(child_key(child, "bias"))},
        "wrapped": {"inner": draw(wrapped), "after": draw(child_key(wrapped, "after"))},
    }
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, expected))
    assert (state["child"]["mean"] == draw(child_key(child, "mean"))).all()


def test_init_folds_no_key_on_the_device(monkeypatch):
    net = jn.serial(jn.conv(4, 3), jn.batch_norm(), jn.dense(300))
    x = jnp.ones((1, 8, 8, 3))
    expected = net.init(jax.random.key(2), x)

    def refuse(key, number):
        raise AssertionError("a program for one key")

    monkeypatch.setattr(threefry.jax.random, "fold_in", refuse)
    found = net.init(jax.random.key(2), x)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), found, expected))
