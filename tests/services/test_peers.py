"""Processes with other batches, an error or an early exit: all of them end."""

import pytest

from tests.distributed.test_processes import START

UNEVEN = """
last = index == count - 1
class Uneven:
    def __iter__(self):
        for i in range(6 if last and what == "has no batch 6" else 5):
            if last and what == "the disk is gone" and i == 3:
                raise OSError(what)
            rows = (8 if last and what == "takes batch 4" and i == 3 else 16) // count
            yield np.ones((rows, 16)), np.zeros(rows, int)

start = jn.distributed.put(trainer.init(jax.random.key(0), (x, y)), mesh)
try:
    for epoch in jn.fit(trainer, start, jn.distributed.feed(Uneven(), mesh, P("data")), epochs=3):
        if what == "left" and last:
            raise OSError(what)
except (RuntimeError, OSError) as error:
    assert what in str(error), error
    raise
"""


@pytest.mark.long
@pytest.mark.parametrize("what", ["has no batch 6", "the disk is gone", "takes batch 4", "left"])
def test_processes_that_differ_all_raise(what, on_processes):
    on_processes(f"what = {what!r}\n{START}{UNEVEN}", 2, expect=1)
