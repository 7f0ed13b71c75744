import numpy as np

import jaxnet as jn
from jaxnet.interop import by_names
from jaxnet.pretrained.rows import PARTS, attention_rows, packed_rows


def test_joined_arrays_are_those_of_three_layers_in_order():
    net = jn.multi_head_attention(2, name="a")
    x = jn.spec((1, 3, 6))
    joined = np.arange(18 * 6.0, dtype=np.float32).reshape(18, 6)
    given = {"qkv.weight": joined, "qkv.bias": joined[:, 0]}
    given |= {"out.weight": joined[:6], "out.bias": joined[:6, 0]}
    rows = packed_rows(*(attention_rows("", {name: "qkv"}, 6, 2) for name in PARTS[:3]))
    rows |= attention_rows("", {"out": "out"}, 6, 2)
    table = {path.removeprefix("/"): row for path, row in rows.items()}
    params, _ = by_names(net, given, x, table)
    for i, name in enumerate(PARTS[:3]):
        mine = joined[6 * i : 6 * i + 6]
        np.testing.assert_array_equal(params[name]["kernel"].reshape(6, 6), mine.T)
        np.testing.assert_array_equal(params[name]["bias"].ravel(), mine[:, 0])
