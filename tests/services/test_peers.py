"""Processes with other batches, an error or an early exit: all of them end."""

import pytest

from tests.distributed.test_processes import START

UNEVEN = """
last = index == count - 1
class Uneven:
    def __iter__(self):
        for i in range(6 if last and what == "has no further batch" else 5):
            if last and what == "the disk is gone" and i == 3:
                raise OSError(what)
            rows = (8 if last and what == "takes float64(8, 16)" and i == 3 else 16) // count
            yield np.ones((rows, 16)), np.zeros(rows, int)

now = jn.distributed.put(trainer.init(jax.random.key(0), (x, y)), mesh)
fed = jn.distributed.feed(Uneven(), mesh, P("data"))
try:
    for turn in range(3):
        if where == "fit":
            now, = [epoch.train_state for epoch in jn.fit(trainer, now, fed, epochs=1)]
        elif where == "evaluate":
            jn.evaluate(objective, now.params, now.state, fed)
        else:
            for i, batch in enumerate(fed):
                if what == "owes a step" and last and i == 3:
                    sys.exit(3)
                now, _ = trainer.step(now, batch)
        if what == "left" and last:
            raise OSError(what)
except (RuntimeError, OSError, ValueError) as error:
    said = f"{error} {getattr(error, '__notes__', '')}"
    assert (what if what != "owes a step" else "another process ended") in said, said
    raise
"""


@pytest.mark.long
@pytest.mark.parametrize(("where", "what", "count"), [
    ("fit", "has no further batch", 2),
    ("fit", "left", 2),
    ("evaluate", "the disk is gone", 2),
    ("evaluate", "takes float64(8, 16)", 4),
    ("own loop", "the disk is gone", 4),
    ("own loop", "left", 2),
    ("own loop", "owes a step", 4),  # with one device each, in whose programs Python waits
])  # fmt: skip
def test_processes_that_differ_all_raise(where, what, count, on_processes):
    on_processes(f"where, what = {where!r}, {what!r}\n{START}{UNEVEN}", count, expect=1)


BESIDE = """
peers = jn.services.peers
for turn in range(300):  # each program leaves the parts of other devices in flight
    multihost_utils.process_allgather(np.array([turn, 0], np.int32))
    peers.agree("test", mesh, f"turn {turn % 3}")
"""


@pytest.mark.long
def test_words_do_not_meet_the_data_of_another_program(on_processes):
    on_processes(START + BESIDE, 2)
