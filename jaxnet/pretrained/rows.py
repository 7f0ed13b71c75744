"""Rows that the tables of published models share: where PyTorch keeps a layer's arrays."""

from collections.abc import Collection, Mapping

from jaxnet.interop import reshaped, take_part, transposed
from jaxnet.pretrained.config import Rows


def dense_rows(ours: str, theirs: str, use_bias: bool = True) -> Rows:
    """Return the rows of a dense layer.

    Example:
      >>> dense_rows("head", "fc")["head/bias"]
      'fc.bias'
    """
    rows: Rows = {f"{ours}/kernel": (f"{theirs}.weight", transposed)}
    if use_bias:
        rows[f"{ours}/bias"] = f"{theirs}.bias"
    return rows


def norm_rows(ours: str, theirs: str, use_bias: bool = True) -> Rows:
    """Return the rows of a norm.

    Example:
      >>> norm_rows("norm", "ln", use_bias=False)
      {'norm/scale': 'ln.weight'}
    """
    rows: Rows = {f"{ours}/scale": f"{theirs}.weight"}
    if use_bias:
        rows[f"{ours}/bias"] = f"{theirs}.bias"
    return rows


QUERY_KEY_VALUE = ("query", "key", "value")
PARTS = (*QUERY_KEY_VALUE, "out")


def attention_rows(
    ours: str,
    names: Mapping[str, str],
    width: int,
    heads: int,
    biased: Collection[str] = PARTS,
    size: int | None = None,
) -> Rows:
    """Return the rows of attention whose projections are dense layers.

    Args:
      ours: Path of the layer.
      names: Their names of "query", "key", "value" and "out".
      width: Width of input and output.
      heads: Number of heads.
      biased: Projections that have a bias.
      size: Width of a head, by default width / heads.

    Example:
      >>> attention_rows("a", {"out": "o_proj"}, 8, 2)["a/out/bias"]
      'o_proj.bias'
    """
    rows: Rows = {}
    size = width // heads if size is None else size
    split = reshaped(width, heads, size, given=(width, heads * size))
    joined = reshaped(heads, size, width, given=(heads * size, width))
    bias = reshaped(heads, size, given=(heads * size,))
    for kind, theirs in names.items():
        matrix = joined if kind == "out" else split
        rows[f"{ours}/{kind}/kernel"] = (f"{theirs}.weight", transposed, matrix)
        if kind in biased:
            name = f"{theirs}.bias"
            rows[f"{ours}/{kind}/bias"] = name if kind == "out" else (name, bias)
    return rows


def block_rows(
    ours: str, theirs: str, layers: Mapping[str, str], width: int, heads: int, qkv_bias: bool = True
) -> Rows:
    """Return the rows of a transformer block.

    Args:
      ours, theirs: Path and name of the block.
      layers: Their names of "query", "key", "value", "out", the norms and the layers of the MLP.
      width, heads: As in `attention_rows`.
      qkv_bias: Whether queries, keys and values have biases, as all other layers have.

    Example:
      >>> block_rows("b", "h", {"out": "proj", "mlp_norm": "ln"}, 8, 2)["b/mlp_norm/scale"]
      'h.ln.weight'
    """
    names = {part: f"{theirs}.{layers[part]}" for part in PARTS if part in layers}
    biased = PARTS if qkv_bias else ("out",)
    rows = attention_rows(f"{ours}/attention", names, width, heads, biased)
    for name, layer in layers.items():
        if name not in PARTS:
            make = norm_rows if name.endswith("norm") else dense_rows
            rows |= make(f"{ours}/{name}", f"{theirs}.{layer}")
    return rows


def packed_rows(*layers: Rows) -> Rows:
    """Return the rows of layers whose arrays are joined along the outputs, in this order.

    Args:
      layers: Rows of each, all with the names of the joined arrays.

    Example:
      >>> packed_rows(dense_rows("a", "both"), dense_rows("b", "both"))["b/kernel"][0]
      'both.weight'
    """
    rows: Rows = {}
    for i, each in enumerate(layers):
        for path, row in each.items():
            name, *changes = row if isinstance(row, tuple) else (row,)
            rows[path] = (name, take_part(i, len(layers), axis=0), *changes)
    return rows
