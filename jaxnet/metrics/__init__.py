"""Metrics, reported next to the loss.

A metric has the form of a loss, `metric(outputs, targets, *, options)`, and training code averages
its values: one per example, or one per position for sequences and images. So `accuracy` returns
zeros and ones, not their mean. `functools.partial` sets options, and `jn.losses.weighted` leaves
unlabeled positions out. Quantities that are not means over examples, such as precision, are
computed by `scores` from the `confusion` matrix, summed over all batches. `jn.detection` has the
average precision of boxes.
"""

from jaxnet.metrics.classification import accuracy as accuracy
from jaxnet.metrics.classification import binary_accuracy as binary_accuracy
from jaxnet.metrics.classification import top_k_accuracy as top_k_accuracy
from jaxnet.metrics.confusions import confusion as confusion
from jaxnet.metrics.confusions import scores as scores
from jaxnet.metrics.text import bits_per_character as bits_per_character
from jaxnet.metrics.text import edit_distance as edit_distance
from jaxnet.metrics.text import edit_error_rate as edit_error_rate
