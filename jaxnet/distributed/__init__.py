"""Several devices and processes: how arrays are placed on a mesh, and batches are moved to it.

A mesh is JAX's, and so are processes: `jax.make_mesh`, `jax.distributed.initialize`.
"""

from jaxnet.distributed.context_parallel import context_parallel as context_parallel
from jaxnet.distributed.feed import feed as feed
from jaxnet.distributed.gathered import gathered as gathered
from jaxnet.distributed.rules import Rules as Rules
from jaxnet.distributed.rules import fully_sharded as fully_sharded
from jaxnet.distributed.rules import put as put
from jaxnet.distributed.rules import shardings as shardings
from jaxnet.distributed.rules import tensor_parallel as tensor_parallel
