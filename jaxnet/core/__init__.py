"""The contract of jaxnet: what a layer is, how layers become models, and what errors say."""

from typing import TYPE_CHECKING

from jaxnet.core.compose import as_layer, compose, stateless, transform
from jaxnet.core.contract import Layer, Params, State, child_key, param_dtype, spec
from jaxnet.core.errors import Misfit, here

__all__ = [
    "Layer", "Misfit", "Params", "State", "as_layer", "child_key", "compose", "here",
    "param_dtype", "spec", "stateless", "transform",
]  # fmt: skip

if not TYPE_CHECKING:  # otherwise a type checker would accept every name

    def __getattr__(name: str):
        if name == "parametrized":  # the first import in the other project's `__init__.py`
            raise ImportError(
                "jaxnet: the files of two projects are mixed. The package `jaxnet` on PyPI is an "
                "unrelated project with the same import name. Run `pip uninstall -y jaxnet "
                "jaxnet-toolkit`, then install jaxnet-toolkit again"
            )
        raise AttributeError(f"module 'jaxnet.core' has no attribute {name!r}")
