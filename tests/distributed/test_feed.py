"""Batches read ahead: their order, their state, their errors, and an end to the thread."""

import gc
import time

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxnet as jn

MESH = jax.make_mesh((1,), ("data",))


def batches(n=6):
    return [np.full((4, 3), i, np.float32) for i in range(n)]


def test_batches_come_in_order_and_know_their_number():
    fed = jn.distributed.feed(batches(), MESH, P("data"), ahead=3)
    for _ in range(2):
        assert [int(batch[0, 0]) for batch in fed] == [0, 1, 2, 3, 4, 5]
    assert len(fed) == 6
    assert next(iter(fed)).sharding.spec[0] == "data"
    assert not hasattr(jn.distributed.feed(iter(batches()), MESH, P("data")), "__len__")


@pytest.mark.parametrize("kind", ["list", "grain"])
def test_the_state_is_that_of_the_batch_handed_out(kind):
    loader = batches()
    if kind == "grain":
        grain = pytest.importorskip("grain")
        rows = grain.MapDataset.range(24).map(lambda i: np.full(3, i // 4, np.float32)).batch(4)
        loader = rows.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    fed = jn.distributed.feed(loader, MESH, P("data"), ahead=2)
    first = iter(fed)
    for _ in range(2):
        next(first)
    time.sleep(0.1)  # the thread is ahead
    second = iter(fed)
    second.set_state(first.get_state())
    assert second.get_state() == first.get_state()
    assert [int(b[0, 0]) for b in second] == [int(b[0, 0]) for b in first] == [2, 3, 4, 5]
    with pytest.raises(RuntimeError, match="before the first batch"):
        second.set_state(first.get_state())


def test_an_error_of_the_loader_comes_where_its_batch_is_taken():
    def loader():
        yield batches()[0]
        raise OSError("the disk is gone")

    fed = iter(jn.distributed.feed(loader(), MESH, P("data")))
    next(fed)
    for _ in range(2):  # and again, instead of waiting for ever
        with pytest.raises(OSError, match="the disk is gone"):
            next(fed)


@pytest.mark.slow
def test_the_thread_ends_with_its_iterator():
    fed = iter(jn.distributed.feed(batches(1000), MESH, P("data")))
    next(fed)
    finished = fed._shared.finished
    assert finished.empty()
    del fed
    gc.collect()
    finished.get(timeout=10)


@pytest.mark.parametrize(
    ("loader", "ahead", "error", "words"),
    [
        (3, 2, TypeError, "loader must yield batches, got int"),
        ([], 0, ValueError, "feed: ahead must be at least 1, got 0"),
    ],
    ids=["loader", "ahead"],
)
def test_bad_arguments(loader, ahead, error, words):
    with pytest.raises(error, match=words):
        jn.distributed.feed(loader, MESH, P("data"), ahead=ahead)


@pytest.mark.slow
def test_python_ends_while_batches_are_read_ahead(on_devices):
    """grain's iterators end processes, which fails in a Python that is taken down already."""
    program = """
import time
class Loader:
    __iter__ = lambda self: self
    __next__ = lambda self: np.zeros(2)
    def close(self):
        time.sleep(0.3)
        print("closed", flush=True)

batches = iter(jn.distributed.feed(Loader(), jax.make_mesh((1,), ("data",)), P("data")))
next(batches)
"""
    assert on_devices(program, 1) == "closed\n"


@pytest.mark.parametrize("state", [9, "x"])
def test_a_position_beyond_the_loader_is_an_error_of_ours(state):
    fed = iter(jn.distributed.feed(batches(), MESH, P("data")))
    with pytest.raises(ValueError, match=f"feed: the position is {state!r} batches into a pass"):
        fed.set_state(state)
