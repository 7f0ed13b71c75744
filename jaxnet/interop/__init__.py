"""Exchange with others: plain JAX, ONNX, StableHLO, PyTorch, Flax. Import each module by its name.

Only the transform `jn.interop.plain` is here as well.
"""

from jaxnet.interop.lax import plain as plain
