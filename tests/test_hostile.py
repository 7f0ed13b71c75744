"""A bad argument gets an error of ours; the same numbers give the same result in every form."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import hostile

KEYS_MAY_REPEAT = True  # each call is made many times

# A fixed seed; one list of cases, so there is nothing smaller to look for after a failure.
DRAWN = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)  # fmt: skip


@pytest.fixture(scope="module")
def calls():
    return hostile.good_calls()


def foreign(calls: list[hostile.Call], count: int) -> list[str]:
    """What other libraries said to bad arguments, of `count` cases."""
    everything = hostile.cases(calls)
    lines: list[str] = []
    seen: Counter[str] = Counter()

    @settings(DRAWN, max_examples=count)
    @given(st.sampled_from(everything))
    def call(case):
        found = hostile.outcome(case)
        seen[found.what] += 1
        if found.what == "foreign":
            lines.append(hostile.told(case, found))

    call()
    assert seen["ours"] > seen["value"] > 0 and seen.total() >= count * 0.9
    return lines


@pytest.mark.filterwarnings("ignore")
def test_bad_arguments_get_an_error_of_ours():
    """Of one function in six: most of the time is compilation of what their examples call."""
    lines = foreign(hostile.good_calls(every=6), 300)
    assert len(lines) < 3, lines


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_bad_arguments_get_an_error_of_ours_2_000_times(calls):
    lines = foreign(calls, 2_000)
    assert len(lines) < 20, lines


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_the_same_numbers_give_the_same_result_in_every_form(calls):
    """Of every second function; `python -m tests.hostile --forms` calls all."""
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
    found = list(hostile.differences(call))
    assert found == ["bad, array 1 as strided by columns: another result"]
