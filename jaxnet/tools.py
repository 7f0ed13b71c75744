"""What layers and plots of your own need next to JAX: sequences, streams, checks with clear errors.

The checks name the function, the argument and what came. Most return what they have checked.
"""

from jaxnet.layers.embedding import stream_positions as stream_positions
from jaxnet.layers.sequence import read_sequence as read_sequence
from jaxnet.layers.transformer import gated_mlp as gated_mlp
from jaxnet.losses.form import check_form as check_form
from jaxnet.services.checks import as_array as as_array
from jaxnet.services.checks import at_least as at_least
from jaxnet.services.checks import check_options as check_options
from jaxnet.services.checks import on_host as on_host
from jaxnet.services.checks import within as within
from jaxnet.services.extras import extra as extra
