"""What layers, models and plots of your own need beside JAX: checks with clear errors, bars, files.

The checks name the function, the argument and what came. Most return what they have checked.
"""

from jaxnet.core.contract import param_dtype as param_dtype
from jaxnet.layers.embedding import stream_positions as stream_positions
from jaxnet.layers.sequence import read_sequence as read_sequence
from jaxnet.layers.transformer import gated_mlp as gated_mlp
from jaxnet.losses.form import check_form as check_form
from jaxnet.ops.window import per_axis as per_axis
from jaxnet.services.checks import WrongValues as WrongValues
from jaxnet.services.checks import a_function as a_function
from jaxnet.services.checks import all_at_least as all_at_least
from jaxnet.services.checks import all_native as all_native
from jaxnet.services.checks import all_within as all_within
from jaxnet.services.checks import as_array as as_array
from jaxnet.services.checks import at_least as at_least
from jaxnet.services.checks import between as between
from jaxnet.services.checks import check_data as check_data
from jaxnet.services.checks import check_dict as check_dict
from jaxnet.services.checks import check_dtype as check_dtype
from jaxnet.services.checks import check_finite as check_finite
from jaxnet.services.checks import check_key as check_key
from jaxnet.services.checks import check_list as check_list
from jaxnet.services.checks import check_options as check_options
from jaxnet.services.checks import check_range as check_range
from jaxnet.services.checks import check_rank as check_rank
from jaxnet.services.checks import check_shape as check_shape
from jaxnet.services.checks import check_sizes as check_sizes
from jaxnet.services.checks import check_tuple as check_tuple
from jaxnet.services.checks import check_type as check_type
from jaxnet.services.checks import check_values as check_values
from jaxnet.services.checks import is_traced as is_traced
from jaxnet.services.checks import known as known
from jaxnet.services.checks import needs_key as needs_key
from jaxnet.services.checks import on_host as on_host
from jaxnet.services.checks import one_of as one_of
from jaxnet.services.checks import to_device as to_device
from jaxnet.services.checks import within as within
from jaxnet.services.extras import command as command
from jaxnet.services.extras import extra as extra
from jaxnet.services.files import file_path as file_path
from jaxnet.services.files import readable as readable
from jaxnet.services.files import replacing as replacing
from jaxnet.services.functions import takes as takes
from jaxnet.services.meshes import on_auto_axes as on_auto_axes
from jaxnet.services.nodes import plain as plain
from jaxnet.services.progress import progress_bar as progress_bar
from jaxnet.services.table import short as short
from jaxnet.services.table import size_of as size_of
from jaxnet.services.trees import describe as describe
