"""Transforms: a transform maps a layer to a layer.

Each keeps the contract, the layer's name and the paths of its entries, so that transforms nest and
weights pass between the transformed and the original layer. The exceptions are `weight_norm` and
`quantized`, which split each kernel into two entries, `lora`, which adds two next to it, and `tap`,
which keeps the entries of the layers that run.
"""

from jaxnet.core import as_layer as as_layer
from jaxnet.core import transform as transform
from jaxnet.transforms.copies import mapped as mapped
from jaxnet.transforms.moving_average import moving_average as moving_average
from jaxnet.transforms.reparametrize import spectral_norm as spectral_norm
from jaxnet.transforms.reparametrize import weight_norm as weight_norm
from jaxnet.transforms.stream import batch_axes as batch_axes
