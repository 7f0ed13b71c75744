"""Exchange with other libraries: PyTorch, Keras, Hugging Face, Flax, StableHLO.

`by_names` takes the weights of any library by a table of names. The modules that need a library are
imported by name: `jaxnet.interop.torch`, `jaxnet.interop.flax`, `jaxnet.interop.export`.
"""

from jaxnet.interop.names import by_names as by_names
from jaxnet.interop.names import part as part
from jaxnet.interop.names import shaped as shaped
from jaxnet.interop.names import transposed as transposed
