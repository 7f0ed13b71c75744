"""The reader of traces against JAX's own, and on damaged files."""

import jax
import jax.numpy as jnp
import pytest

from jaxnet.profile.trace import Event, events


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """A file of a trace."""
    folder = tmp_path_factory.mktemp("trace")
    run = jax.jit(lambda x: jnp.sin(x) @ x)
    x = jnp.ones((5, 5))
    jax.block_until_ready(run(x))
    with jax.profiler.trace(folder):
        for _ in range(3):
            jax.block_until_ready(run(x))
    (file,) = folder.rglob("*.xplane.pb")
    return file


@pytest.mark.filterwarnings("ignore:.*builtin type:DeprecationWarning")
def test_events_are_those_of_jax(trace):
    theirs = []
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        for line in plane.lines:
            theirs += [Event(dict(event.stats), event.duration_ns) for event in line.events]
    ours = list(events(trace.read_bytes()))
    assert [event.stats for event in ours] == [event.stats for event in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.duration_ns == pytest.approx(other.duration_ns, abs=1)  # JAX 0.7 rounds down
    assert any("hlo_op" in event.stats for event in ours)


def test_a_file_that_is_cut_is_damaged(trace):
    data = trace.read_bytes()
    with pytest.raises(ValueError, match="the file is damaged, or not a trace"):
        list(events(data[: len(data) // 2]))


@pytest.mark.parametrize("data", [b"\x0f", b"abc", b"\x0a\x05ab", b"\xff" * 9, b"\x08\x01"])
def test_what_is_not_a_trace(data):
    with pytest.raises(ValueError, match="the file is damaged, or not a trace"):
        list(events(data))


def test_values_by_hand():
    """A plane with a name 7 -> "n", and a line with an event of 2,500 ps."""

    def part(number, data):
        return bytes([number << 3 | 2, len(data)]) + data

    name = part(5, b"\x08\x07" + part(2, b"\x08\x07" + part(2, b"n")))
    values = {
        b"\x18\x05": 5,
        b"\x20" + b"\xff" * 9 + b"\x01": -1,
        part(5, b"text"): "text",
        part(6, b"\x00"): b"\x00",
        b"\x38\x07": "n",
        b"\x11" + b"\x00" * 6 + b"\xf8\x3f": 1.5,
    }
    for stat, value in values.items():
        event = b"\x18\xc4\x13" + part(4, b"\x08\x07" + stat)
        line = part(3, part(4, event))
        assert list(events(part(1, name + line))) == [Event({"n": value}, 2.5)]
