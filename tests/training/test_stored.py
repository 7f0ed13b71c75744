"""Checkpoints as files: checksums, descriptions, the states of loaders."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training import stored
from jaxnet.training.stored import by_first, kinds_of, position_from_json, run_to_json

STATE = jn.TrainState(jnp.int32(3), {}, {}, optax.adam(0.1).init({}), jnp.zeros(2, jnp.uint32))

RUN = {"objective": "mine", "optimizer": ["1"], "data": {"x": ["(1,)", [1.5]]}, "shuffle": True}


@pytest.mark.parametrize("loader", [None, b"\x00\xff", {"index": np.int64(3), "rest": [1, "a"]}])
def test_a_place_comes_back(loader):
    position = jn.training.Position(1, 2, 0, 8, np.array([1, 2], np.uint32), loader, RUN)
    found = position_from_json(run_to_json(STATE, position, {}))
    np.testing.assert_array_equal(found.key, position.key)
    assert found._replace(key=None) == position._replace(key=None)


def test_a_state_that_json_cannot_hold_is_told():
    with pytest.raises(TypeError, match="must be bytes or JSON, got <object object"):
        run_to_json(STATE, jn.training.Position(1, 2, 0, 8, loader=object()), {})


def test_a_position_of_several_processes_needs_as_many():
    run = run_to_json(STATE, jn.training.Position(1, 2, 0, 8, loader=b"1"), {}) | {"processes": 2}
    run["position"]["loader"] *= 2
    words = "in 2 processes, each at its own position, and there are 1"
    with pytest.raises(ValueError, match=words):
        position_from_json(run)
    run["position"]["loader"] = [None, None]
    assert position_from_json(run).loader is None


def test_a_loader_whose_state_is_nested_too_deeply_is_an_error():
    state = []
    state.append(state)
    with pytest.raises(TypeError, match="the state of the loader must be bytes or JSON"):
        run_to_json(STATE, jn.training.Position(1, 2, 0, 8, loader=state), {})


MASKED = optax.masked(optax.adam(0.1), True)
MULTI = optax.multi_transform({"a": optax.sgd(0.1)}, "a")


@pytest.mark.parametrize(
    ("optimizer", "kinds"),
    [
        (optax.adam(0.1), "(ScaleByAdamState, EmptyState)"),
        (optax.sgd(0.1), "(EmptyState, EmptyState)"),
        (MASKED, "MaskedState((ScaleByAdamState, EmptyState))"),
        (MULTI, "PartitionState(MaskedState((EmptyState, EmptyState)))"),
    ],
    ids=["adam", "sgd", "masked", "multi_transform"],
)
def test_an_optimizer_is_told_by_all_its_states(optimizer, kinds):
    assert kinds_of(optimizer.init({"kernel": jnp.ones(3)})) == kinds


def test_what_the_first_process_found_is_that_of_all(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(stored, "of_all", lambda who, own: ['[[7, 9], null, ""]', own])
    assert by_first(lambda: [1]) == [7, 9]


def test_an_error_of_the_first_process_is_that_of_all():
    def fail():
        raise OSError("mine")

    with pytest.raises(OSError, match="mine"):
        by_first(fail)
