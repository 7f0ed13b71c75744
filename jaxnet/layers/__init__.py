"""Layers, one kind a file."""

from jaxnet.layers.dense import dense as dense
from jaxnet.layers.dropout import dropout as dropout
from jaxnet.layers.norm import batch_norm as batch_norm
from jaxnet.layers.shape import flatten as flatten
