"""Transforms: a transform maps a layer to a layer.

Each keeps the contract, the layer's name and the paths of its entries, so that transforms nest and
weights pass between the transformed and the original layer. The exceptions are `weight_norm` and
`quantized`, which split each kernel into two entries, `lora`, which adds two next to it, and `tap`,
which keeps the entries of the layers that run.
"""

from jaxnet.transforms.adapt import lora as lora
from jaxnet.transforms.adapt import merge as merge
from jaxnet.transforms.copies import ensemble as ensemble
from jaxnet.transforms.copies import mapped as mapped
from jaxnet.transforms.copies import repeat as repeat
from jaxnet.transforms.execution import cast as cast
from jaxnet.transforms.execution import freeze as freeze
from jaxnet.transforms.execution import remat as remat
from jaxnet.transforms.follow import follow as follow
from jaxnet.transforms.integers import quantize as quantize
from jaxnet.transforms.integers import quantized as quantized
from jaxnet.transforms.observing import collect as collect
from jaxnet.transforms.observing import observe as observe
from jaxnet.transforms.reparametrize import spectral_norm as spectral_norm
from jaxnet.transforms.reparametrize import weight_norm as weight_norm
from jaxnet.transforms.trunk import pick as pick
from jaxnet.transforms.trunk import tap as tap
