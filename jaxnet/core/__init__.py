"""The contract of jaxnet: what a layer is, how layers become models, and error messages."""

from jaxnet.core.compose import compose
from jaxnet.core.contract import (
    Layer,
    Memo,
    Params,
    State,
    as_layer,
    child_key,
    function_name,
    key_spec,
    param_dtype,
    spec,
    stateless,
)
from jaxnet.core.messages import Path, PyTree, abstract, describe, path_name

__all__ = [
    "Layer", "Memo", "Params", "Path", "PyTree", "State", "abstract", "as_layer", "child_key",
    "compose", "describe", "function_name", "key_spec", "param_dtype", "path_name",
    "spec", "stateless",
]  # fmt: skip
