"""A bad argument gets an error of ours; the same numbers give the same result in every form."""

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxnet as jn
from tests.oracles import REFERENCES
from tools import hostile

KEYS_MAY_REPEAT = True  # each call is made many times

# A fixed seed; one list of cases, so there is nothing smaller to look for after a failure.
FINE = [HealthCheck.too_slow, HealthCheck.large_base_example]
DRAWN = settings(derandomize=True, deadline=None, database=None, suppress_health_check=FINE)


@pytest.fixture(scope="module")
def calls():
    return hostile.good_calls()


def outcomes(everything: list[hostile.Case], count: int) -> dict[str, list[str]]:
    """Of `count` cases: a line about each, by what became of it."""
    lines: dict[str, list[str]] = {}

    @settings(DRAWN, max_examples=count)
    @given(st.sampled_from(everything))
    def call(case):
        found = hostile.outcome(case)
        lines.setdefault(found.what, []).append(hostile.told(case, found))

    call()
    assert sum(map(len, lines.values())) >= count * 0.9
    return lines


def check(lines: dict[str, list[str]]) -> None:
    """No wrong value, and few foreign errors and values that nothing is known about."""
    total = sum(map(len, lines.values()))
    assert "wrong" not in lines, lines["wrong"]
    for what, share in (("foreign", 0.025), ("unjudged", 0.05)):
        found = lines.get(what, [])
        assert len(found) <= share * total, found
    assert len(lines["ours"]) > len(lines.get("same", []))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("every, count", [(28, 150), pytest.param(6, 300, marks=pytest.mark.slow)])
def test_bad_arguments_get_an_error_of_ours_or_a_right_value(every, count):
    """Of one function in `every`: most of the time is compilation of what their examples call."""
    check(outcomes(hostile.cases(hostile.good_calls(every=every)), count))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_bad_arguments_get_an_error_of_ours_or_a_right_value_2_000_times(calls):
    check(outcomes(hostile.cases(calls), 2_000))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_bad_arguments_of_what_trains():
    check(outcomes(hostile.cases(hostile.runs()), 150))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(8))  # all at once take longer than one test may
def test_good_calls_give_the_same_in_float64_on_a_mesh_and_for_every_order_of_the_examples(
    calls, part
):
    calls = calls[part::8]
    wrong = [f"{call.name}: {line}" for call in calls if (line := hostile.in_float64(call))]
    wrong += [f"{call.name}: {line}" for call in calls if (line := hostile.on_a_mesh(call))]
    mixed = [c for c in calls if c.batched and not hostile.consistent(c, hostile.run(c)[1])]
    wrong += [f"{call.name}: depends on the other examples" for call in mixed]
    assert not wrong, wrong


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_the_same_numbers_give_the_same_result_in_every_form(calls):
    """Of every second function; `python -m tools.hostile --forms` calls all."""
    assert not [line for call in calls[::2] for line in hostile.differences(call)]


def test_a_foreign_error_is_seen():
    def bad(x):
        return {}[x]

    call = hostile.Call("bad", bad, (), {"x": 1})
    assert hostile.outcome(hostile.Case(call, "x", "None")).what == "foreign"


def test_another_result_is_seen():
    def bad(x):
        return np.asarray(x).view(np.float32).sum(dtype=float)

    call = hostile.Call("bad", bad, (np.ones(2, np.float32),), {})
    assert any("swapped" in line for line in hostile.differences(call))


def test_a_difference_of_one_array_among_several_is_named():
    def bad(x, y):
        return np.asarray(x) + np.asarray(y).ravel("K")[:2].sum()

    call = hostile.Call("bad", bad, (np.ones(2, np.float32), np.arange(6.0).reshape(3, 2)), {})
    assert list(hostile.differences(call)) == ["bad, array 1 as strided by columns: another result"]


def test_a_note_of_ours_is_not_an_error_of_ours():
    def bad(x):
        try:
            return len(x)
        except TypeError as error:
            error.add_note("in x of dense")
            raise

    call = hostile.Call("bad", bad, ([],), {})
    assert hostile.outcome(hostile.Case(call, "x", "2.5")).what == "foreign"


def test_a_wrong_value_is_seen():
    """Labels that are not classes, read from the end as indices are."""

    def bad(outputs, targets):
        return np.log(np.exp(outputs).sum(-1)) - outputs[np.arange(3), targets % 4]

    name = "losses.cross_entropy"
    outputs = np.full((3, 4), 0.25, np.float32) + 0.1 * np.eye(3, 4)
    targets = np.array([0, 1, 2])
    call = hostile.Call(name, bad, (outputs, targets), {}, None, REFERENCES[name].compute)
    assert hostile.outcome(hostile.Case(call, "targets", "labels")).what == "wrong"
    right = call._replace(function=jn.losses.cross_entropy)
    assert hostile.outcome(hostile.Case(right, "targets", "labels")).what == "ours"


def test_an_example_that_changes_another_is_seen():
    def bad(x, scale):
        return x - scale * x.mean(0)

    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    call = hostile.Call("bad", bad, (x, 0.0), {}, batched=("x",))
    assert hostile.outcome(hostile.Case(call, "scale", "2.5")).what == "wrong"
    assert hostile.outcome(hostile.Case(call, "scale", "0")).what == "same"


def test_arrays_inside_of_arguments_are_replaced():
    call = hostile.Call("bad", lambda pair: pair[1], ((np.ones(2), np.zeros(2)),), {})
    found = [case for case in hostile.cases([call]) if case.path]
    assert len(found) == 2 * len(hostile.WRONG)
    (last,) = [case for case in found if case.path[0].idx == 1 and case.wrong == "2.5"]
    assert hostile.run(hostile.changed(last))[1] == 2.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(8))
def test_good_calls_do_not_need_that_arrays_of_different_ranks_broadcast(calls, part):
    with jax.numpy_rank_promotion("raise"):
        found = {call.name: hostile.run(call)[0].error for call in calls[part::8]}
    assert not {name: error for name, error in found.items() if "rank" in str(error)}
