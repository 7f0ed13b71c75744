"""Sizes as published: figure 2 of the paper."""

import jaxnet as jn
from tests.models.sizes import count, shapes


def test_parameters():
    local = sum(places**2 * (size**2 * 16 + 1) * 16 for places, size in ((55, 9), (25, 7), (21, 5)))
    convs = (11**2 * 3 + 1) * 32 + (9**2 * 32 + 1) * 16
    dense = (21**2 * 16 + 1) * 4096 + 4097 * 4030
    assert count(jn.models.deepface(), (2, 152, 152, 3)) == convs + local + dense == 118_923_774


def test_stages():
    found = shapes(jn.models.deepface(classes=7), (2, 152, 152, 3))
    wanted = {
        "c1": (142, 142, 32), "m2": (71, 71, 32), "c3": (63, 63, 16), "l4": (55, 55, 16),
        "l5": (25, 25, 16), "l6": (21, 21, 16), "f7": (4096,), "output": (7,),
    }  # fmt: skip
    assert {name: found[name][1:] for name in wanted} == wanted
