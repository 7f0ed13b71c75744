"""Arithmetic without parameters: convolution, sliding windows, recurrence, attention."""

from jaxnet.ops.precision import wide as wide
from jaxnet.ops.product import plus as plus
from jaxnet.ops.product import spread as spread
