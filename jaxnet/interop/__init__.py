"""Exchange with other libraries: PyTorch, Keras, Hugging Face, Flax, Haiku, StableHLO, ONNX.

`by_names` takes the weights of any library by a table of names, and `without_kernels` makes a net
that other tools for JAX understand. The modules that need a library are imported by name:
`jaxnet.interop.torch`, `jaxnet.interop.flax`, `jaxnet.interop.export`, `jaxnet.interop.onnx`.
"""

from jaxnet.interop import haiku as haiku
from jaxnet.interop.lax import without_kernels as without_kernels
from jaxnet.interop.names import by_names as by_names
from jaxnet.interop.names import invertible as invertible
from jaxnet.interop.names import reshaped as reshaped
from jaxnet.interop.names import take_part as take_part
from jaxnet.interop.names import to_names as to_names
from jaxnet.interop.names import transposed as transposed
