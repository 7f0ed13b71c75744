"""Sums and exchanges among devices, by hand."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from jaxnet.profile import collectives

KINDS = """
from jax.sharding import NamedSharding

mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
put = lambda shape, *spec: jn.spec(shape).update(sharding=NamedSharding(mesh, P(*spec)))
whole = lambda a, *spec: jax.lax.with_sharding_constraint(a, NamedSharding(mesh, P(*spec)))

def found(f, *args):
    return jn.profile.collectives(jax.jit(f).lower(*args).compile()).rows

# The sum over 4 devices of products of (6, 8), each of which sends 2 * 3 / 4 of it.
a, b = put((6, 16), None, "model"), put((16, 8), "model")
assert found(lambda a, b: whole(a @ b), a, b) == [("all-reduce", 4, 1, 4 * 48, 6 * 48)]
# Over the 2 devices of the other axis.
a, b = put((6, 16), None, "data"), put((16, 8), "data")
assert found(lambda a, b: whole(a @ b), a, b) == [("all-reduce", 2, 1, 4 * 48, 4 * 48)]
# Over all 8.
a, b = put((6, 16), None, ("data", "model")), put((16, 8), ("data", "model"))
assert found(lambda a, b: whole(a @ b), a, b) == [("all-reduce", 8, 1, 4 * 48, 7 * 48)]
# A gather of (8, 3), in a loop five times.
x = put((5, 8, 3), None, "model")
body = lambda c, x: (c + jnp.sin(whole(x)) * c[0], None)
loop = lambda x: jax.lax.scan(body, jnp.ones((8, 3)), x)[0]
rows = found(loop, x)
assert [row[:2] for row in rows] == [("all-gather", 4)] and rows[0].bytes == 5 * 4 * 24, rows
assert rows[0].moved == 5 * 3 * 24, rows
"""


@pytest.mark.slow
def test_kinds_groups_and_loops_on_eight_devices(on_devices):
    on_devices(KINDS, 8)


def test_one_device_sends_nothing():
    found = collectives(jax.jit(jnp.sum).lower(jnp.ones((3, 5))).compile())
    assert found.rows == []
    assert found.moved == 0


def compiled(line, before=""):
    """A program that was compiled elsewhere."""
    head = f"HloModule jit_f, num_partitions=8\n\n{before}\n"
    head += "ENTRY %main (a: f32[4,3]) -> f32[4,3] {\n"
    text = head + "  %a = f32[4,3]{1,0} parameter(0)\n  " + line + "\n}\n"
    return SimpleNamespace(as_text=lambda: text, cost_analysis=dict)


@pytest.mark.parametrize(("line", "row"), [
    ("ROOT %x = f32[4,3] all-reduce(%a), replica_groups={}", ("all-reduce", 8, 1, 48, 84)),
    ("ROOT %x = f32[4,3] all-reduce(%a), replica_groups={{0,1},{2,3}}",
     ("all-reduce", 2, 1, 48, 48)),
    ("ROOT %x = f32[4,3] all-reduce-start(%a), replica_groups=[2,4]<=[8]",
     ("all-reduce", 4, 1, 48, 72)),
    ("ROOT %x = f32[1,3] reduce-scatter(%a), replica_groups=mesh['x'=2,'y'=4] {'y'}",
     ("reduce-scatter", 4, 1, 48, 36)),
    ("ROOT %x = f32[16,3] all-gather(%a), replica_groups=mesh['x'=8] {'x':(2)4}",
     ("all-gather", 4, 1, 192, 144)),
    ("ROOT %x = f32[4,3] all-to-all(%a), replica_groups={{0,1,2,3}}", ("all-to-all", 4, 1, 48, 36)),
    ("ROOT %x = f32[4,3] collective-permute(%a), source_target_pairs={{0,1}}",
     ("collective-permute", 8, 1, 48, 48)),
])  # fmt: skip
def test_lines_by_hand(line, row):
    found = collectives(compiled(line))
    assert found.rows == [row]
    assert str(row[2]) in str(found)


# As libtpu writes it: a counter to 5 by twos, and a gather that begins and ends in two fusions.
FOR_TPU = """
%started (a: f32[4,3]) -> f32[32,3] {
  %a = f32[4,3] parameter(0)
  ROOT %g = f32[32,3] all-gather(%a), channel_id=1, replica_groups={}, dimensions={0}
}

%ended (a: f32[4,3]) -> f32[32,3] {
  %a = f32[4,3] parameter(0)
  ROOT %g.1 = f32[32,3] all-gather(%a), channel_id=1, replica_groups={}, dimensions={0}
}

%until (c: (f32[4,3], u32[])) -> pred[] {
  %end = u32[]{:T(128)} constant(5), metadata={op_name="while"}
  %c = (f32[4,3], u32[]) parameter(0)
  %i = u32[] get-tuple-element(%c), index=1
  ROOT %less = pred[] compare(%i, %end), direction=LT
}

%body (c: (f32[4,3], u32[])) -> (f32[4,3], u32[]) {
  %two = u32[]{:T(128)} constant(2)
  %c = (f32[4,3], u32[]) parameter(0)
  %x = f32[4,3] get-tuple-element(%c), index=0
  %i = u32[] get-tuple-element(%c), index=1
  %next = u32[] add(%i, %two)
  %start = f32[32,3] fusion(%x), kind=kCustom, calls=%started
  %end = f32[32,3] fusion(%x), kind=kCustom, calls=%ended
  ROOT %all = (f32[4,3], u32[]) tuple(%x, %next)
}
"""


@pytest.mark.parametrize(("direction", "times"), [("LT", 3), ("NE", 1)])
def test_loops_and_fusions_of_a_tpu(direction, times):
    """The compiler for TPUs does not write how often a loop runs; an unknown one counts once."""
    before = FOR_TPU.replace("direction=LT", f"direction={direction}")
    line = "ROOT %w = (f32[4,3], u32[]) while(%a), condition=%until, body=%body"
    found = collectives(compiled(line, before)).rows
    assert found == [("all-gather", 8, times, times * 4 * 96, times * 4 * 84)]


def test_what_is_no_program():
    with pytest.raises(TypeError, match="collectives: expected a compiled program"):
        collectives(3)
