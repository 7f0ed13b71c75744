"""Checks of arguments: errors say who, what was expected, what we got, what to write instead.

All such checks are in this folder. Only public functions call them; internal functions trust their
arguments. Shapes and dtypes are known while tracing too; values are checked if they are known.
"""

from jaxnet.services.checks.arrays import WrongValues as WrongValues
from jaxnet.services.checks.arrays import as_array as as_array
from jaxnet.services.checks.arrays import at_data as at_data
from jaxnet.services.checks.arrays import check_arrays as check_arrays
from jaxnet.services.checks.arrays import check_floats as check_floats
from jaxnet.services.checks.arrays import check_not_traced as check_not_traced
from jaxnet.services.checks.arrays import check_range as check_range
from jaxnet.services.checks.arrays import check_rank as check_rank
from jaxnet.services.checks.arrays import looks_at_data as looks_at_data
from jaxnet.services.checks.arrays import on_host as on_host
from jaxnet.services.checks.calls import as_dict as as_dict
from jaxnet.services.checks.calls import check_call as check_call
from jaxnet.services.checks.calls import check_dict as check_dict
from jaxnet.services.checks.calls import check_key as check_key
from jaxnet.services.checks.calls import explain_memory as explain_memory
from jaxnet.services.checks.calls import explain_spent as explain_spent
from jaxnet.services.checks.calls import initialized as initialized
from jaxnet.services.checks.calls import is_key as is_key
from jaxnet.services.checks.native import abstract as abstract
from jaxnet.services.checks.native import all_native as all_native
from jaxnet.services.checks.native import check_dtype as check_dtype
from jaxnet.services.checks.native import check_input as check_input
from jaxnet.services.checks.native import check_mask as check_mask
from jaxnet.services.checks.native import check_numbers as check_numbers
from jaxnet.services.checks.native import native as native
from jaxnet.services.checks.native import on_device as on_device
from jaxnet.services.checks.native import to_device as to_device
from jaxnet.services.checks.native import to_numpy as to_numpy
from jaxnet.services.checks.numbers import all_at_least as all_at_least
from jaxnet.services.checks.numbers import all_within as all_within
from jaxnet.services.checks.numbers import at_least as at_least
from jaxnet.services.checks.numbers import between as between
from jaxnet.services.checks.numbers import check_values as check_values
from jaxnet.services.checks.numbers import is_integer as is_integer
from jaxnet.services.checks.numbers import within as within
from jaxnet.services.checks.options import a_function as a_function
from jaxnet.services.checks.options import a_pair as a_pair
from jaxnet.services.checks.options import check_list as check_list
from jaxnet.services.checks.options import check_name as check_name
from jaxnet.services.checks.options import check_options as check_options
from jaxnet.services.checks.options import check_shape as check_shape
from jaxnet.services.checks.options import check_sizes as check_sizes
from jaxnet.services.checks.options import check_text as check_text
from jaxnet.services.checks.options import check_tuple as check_tuple
from jaxnet.services.checks.options import check_type as check_type
from jaxnet.services.checks.options import one_of as one_of
from jaxnet.services.checks.rows import LOADER as LOADER
from jaxnet.services.checks.rows import as_rows as as_rows
from jaxnet.services.checks.rows import check_data as check_data
from jaxnet.services.checks.rows import check_finite as check_finite
from jaxnet.services.checks.rows import is_list_of_batches as is_list_of_batches
from jaxnet.services.checks.rows import rows_not_finite as rows_not_finite
from jaxnet.services.checks.spatial import as_spatial as as_spatial
from jaxnet.services.checks.spatial import form_of as form_of
from jaxnet.services.checks.tracing import concrete_values as concrete_values
from jaxnet.services.checks.tracing import is_traced as is_traced
