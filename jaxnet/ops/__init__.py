"""Arithmetic without parameters: convolution, sliding windows, recurrence, attention."""

from jaxnet.ops.precision import at_least_float32 as at_least_float32
from jaxnet.ops.product import add_bias as add_bias
from jaxnet.ops.product import broadcast as broadcast
