"""The contract of jaxnet: what a layer is, how layers become models, and what errors say.

How an input and a key travel through a net, for `net = jn.serial(jn.dense(4), jnp.tanh)`:

1. `contract.py`: `net` is a `Layer`, a pair of pure functions `init` and `apply`. `serial` made it
   by `compose` from a function `forward(m, x)`.
2. `run.py`: `net.init(key, x)` runs `forward` on the shapes of x. Each `m(layer, x)` goes
   through a `Scope`, which gives the layer a name that is free in its parent, such as "dense", and
   notes what it asks for. Nothing is computed, and no number is drawn.
3. Then each entry is drawn with a key of its own: `child_key(key, name)`, layer by layer. So an
   entry does not change if a layer of another name is added.
4. `net.apply(params, state, x, key=key, train=True)` calls `run`, and so does each `m(dense, x)`,
   with the params and state below the name, and with the key of the name. A transform gets the
   layer inside as a function `run(params, state, x)`, and never makes another layer.
5. `mode.py`: training, the dtype of `jn.cast`, streams and watches are in the `Mode` of a call,
   which `run` hands on. `jn.tap`, `jn.observe`, `jn.collect` and `jn.summary` are watches, which
   see every call with its path.
6. `errors.py`: an exception leaves with the path of the layer and the shape of its input. Params
   that do not fit raise `Misfit`, which lists what is missing, left over or of another shape.
"""

from typing import TYPE_CHECKING

from jaxnet.core.compose import compose, stateless, transform, transformed, with_inner_layer
from jaxnet.core.contract import Layer, LayerTransform, Params, State, child_key, param_dtype, spec
from jaxnet.core.errors import Misfit, current_path
from jaxnet.core.run import Run, Scope, as_layer, make_layer, transforms_of

__all__ = [
    "Layer", "LayerTransform", "Misfit", "Params", "Run", "Scope", "State", "as_layer", "child_key",
    "compose", "current_path", "make_layer", "param_dtype", "spec", "stateless", "transform",
    "transformed", "transforms_of", "with_inner_layer",
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
