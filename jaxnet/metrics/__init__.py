"""Metrics, reported beside the loss.

Training code calls a metric like a loss, `metric(outputs, targets)`, and averages its values: one
per example, or one per position for sequences and images. So `accuracy` returns zeros and ones, not
their mean. Quantities that are no mean over examples (intersection over union, precision) are
computed from the `confusion` matrix, summed over all batches. `jn.losses.ignore_label` leaves
unlabelled positions out of a metric; average precision of boxes is in `jn.detection`.
"""

from jaxnet.metrics.classification import accuracy as accuracy
from jaxnet.metrics.classification import binary_accuracy as binary_accuracy
from jaxnet.metrics.classification import top_k_accuracy as top_k_accuracy
from jaxnet.metrics.confusion_matrix import confusion as confusion
from jaxnet.metrics.confusion_matrix import f1 as f1
from jaxnet.metrics.confusion_matrix import intersection_over_union as intersection_over_union
from jaxnet.metrics.confusion_matrix import mean_iou as mean_iou
from jaxnet.metrics.confusion_matrix import pixel_accuracy as pixel_accuracy
from jaxnet.metrics.confusion_matrix import precision as precision
from jaxnet.metrics.confusion_matrix import recall as recall
from jaxnet.metrics.text import bits_per_character as bits_per_character
from jaxnet.metrics.text import edit_distance as edit_distance
from jaxnet.metrics.text import edit_error_rate as edit_error_rate
