"""Each layer in each function of JAX that traces, in each mode: right, or the line to write.

No two turns and no two devices draw equal numbers.
"""

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn
from jaxnet import spec
from tests.catalogue import LARGE, ONE_PER_KIND, ROWS, Row
from tests.programs import table
from tests.programs.table import MODES, Cell

KEYS_MAY_REPEAT = True  # what is right draws with the same keys


def inner():
    """Layers that draw and change their state."""
    return jn.serial(jn.dense(5), jn.batch_norm(), jn.dropout(0.3), name="inner")


def loop():
    return jn.compose(
        lambda m, x: m.scan(lambda m, c, _: (m(jn.dropout(0.4), c) + 1, None), x, length=2)[0],
        name="loop",
    )


X = spec((4, 5))
# Transforms, loops and several inputs: what the catalogue has no rows for.
TRANSFORMED = [
    Row("inner", inner, X, train="random"),
    Row("loop", loop, X, train="random"),
    Row("repeat", lambda: jn.repeat(inner(), 2), X, train="random"),
    Row("remat", lambda: jn.remat(inner()), X, train="random"),
    Row("remat-repeat", lambda: jn.remat(jn.repeat(inner(), 2)), X, train="random"),
    Row("ensemble", lambda: jn.ensemble(inner(), 2), X, train="random"),
    Row("cast", lambda: jn.cast(inner(), jnp.bfloat16), X, train="random"),
    Row("freeze", lambda: jn.freeze(inner()), X),
    Row("freeze-some", lambda: jn.freeze(inner(), "*/kernel"), X, train="random"),
    Row("freeze-inside", lambda: jn.repeat(jn.freeze(inner()), 2), X),
    Row("lora-kernels", lambda: jn.lora(inner(), 2, where="*/kernel"), X, train="random"),
    Row("mapped-dropout", lambda: jn.transforms.mapped(jn.dropout(0.4)), X, train="random"),
    Row("spectral", lambda: jn.transforms.spectral_norm(inner()), X, train="random"),
]
BY_ID = {row.id: row for row in [*ROWS, *TRANSFORMED]}
COMPILED = ["dense", "dropout", "batch_norm", "gru", "inner", "freeze"]
TRACED = [*COMPILED, "repeat", "remat", "spectral"]


def cell_cases(is_fast):
    """Each row in each mode; slow are those that `is_fast(row, train)` leaves out."""

    def of(row, mode, train):
        marks = () if is_fast(row, train) else pytest.mark.slow
        return pytest.param(row, train, id=f"{row.id}-{mode}", marks=marks)

    return [of(row, mode, train) for row in BY_ID.values() for mode, train in MODES.items()]


def is_traced(row, train):
    """One row of each kind, in training if it differs there, and some of what is around layers."""
    if row.id in LARGE or (train and row.train == "same"):
        return False
    return row in ONE_PER_KIND.values() or row.id in TRACED


@pytest.mark.parametrize(("row", "train"), cell_cases(is_traced))
def test_a_program_runs_or_its_message_says_what_to_write(row, train):
    cell = Cell(row, train)
    for name in table.PROGRAMS:
        cell.written(name)
    cell.traced(table.m_scan)


@pytest.mark.parametrize("row", list(BY_ID.values()), ids=list(BY_ID))
@pytest.mark.fast_cases(*COMPILED)
def test_init_finds_the_entries_in_each_program(row):
    Cell(row, False).check_entries()


@pytest.mark.parametrize(("row", "train"), cell_cases(lambda row, train: row.id in COMPILED))
def test_programs_are_right(row, train):
    Cell(row, train).check_values()


ON_DEVICES = """
from tests.programs.test_table import BY_ID, MODES, Cell

for name in {names}:
    for train in MODES.values():
        print(name, Cell(BY_ID[name], train).check_devices())
"""


@pytest.mark.parametrize("part", [
    pytest.param(["dropout", "inner"], id="two rows"),
    *[pytest.param([*BY_ID][i::6], marks=pytest.mark.long, id=f"part {i}") for i in range(6)],
])  # fmt: skip
def test_programs_are_right_on_two_devices(part, on_devices):
    on_devices(ON_DEVICES.format(names=part), 2)


def test_the_table_sees_equal_numbers():
    """A layer whose numbers do not come from its key runs where it should raise."""
    fixed = jn.compose(
        lambda m, x: x * jax.random.normal(jax.random.key(0), x.shape) if m.train else x,
        name="fixed",
    )
    cell = Cell(Row("fixed", lambda: fixed, X, train="random"), True)
    with pytest.raises(AssertionError, match="fixed in scan runs"):
        cell.written("scan")
