"""The contract of jaxnet: what a layer is, how layers become models, and error messages."""

from typing import TYPE_CHECKING

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

if not TYPE_CHECKING:  # a type checker would take every name for one of jaxnet

    def __getattr__(name: str):
        if name == "parametrized":  # what the `__init__.py` of the other project imports first
            raise ImportError(
                "jaxnet: the files of two projects are mixed. The package `jaxnet` on PyPI is an "
                "unrelated project with the same import name. Run `pip uninstall -y jaxnet "
                "jaxnet-toolkit`, then install jaxnet-toolkit again"
            )
        raise AttributeError(f"module 'jaxnet.core' has no attribute {name!r}")
