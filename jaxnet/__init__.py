"""jaxnet: neural networks on JAX as pairs of pure functions.

A layer is `(init, apply)`, a model is a layer, and what changes a layer takes a layer and gives a
layer. Start with `jaxnet.core`.
"""

from jaxnet import initializers as initializers
from jaxnet.core import Layer as Layer
from jaxnet.core import checked as checked
from jaxnet.core import child_key as child_key
from jaxnet.core import compose as compose
from jaxnet.core import parallel as parallel
from jaxnet.core import residual as residual
from jaxnet.core import serial as serial
from jaxnet.core import spec as spec
from jaxnet.core import stateless as stateless
from jaxnet.layers import batch_norm as batch_norm
from jaxnet.layers import dense as dense
from jaxnet.layers import dropout as dropout
from jaxnet.layers import flatten as flatten

__version__ = "0.1.0"
