"""Object detection: overlap and suppression of boxes, average precision."""

from jaxnet.detection.average_precision import average_precision as average_precision
from jaxnet.detection.boxes import area as area
from jaxnet.detection.boxes import iou as iou
from jaxnet.detection.boxes import non_max_suppression as non_max_suppression
from jaxnet.detection.boxes import to_corners as to_corners
from jaxnet.detection.boxes import to_middle as to_middle
