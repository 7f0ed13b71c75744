"""Data as NumPy arrays in memory, and where it comes from."""

from jaxnet.data import tfds as tfds
from jaxnet.data.arrays import batches as batches
from jaxnet.data.arrays import check as check
from jaxnet.data.arrays import split as split
from jaxnet.data.augment import chain as chain
from jaxnet.data.augment import cutout as cutout
from jaxnet.data.augment import mixup as mixup
from jaxnet.data.augment import on_inputs as on_inputs
from jaxnet.data.augment import random_color as random_color
from jaxnet.data.augment import random_shift as random_shift
from jaxnet.data.digits import digits as digits
from jaxnet.data.images import cifar10 as cifar10
from jaxnet.data.images import mnist as mnist
from jaxnet.data.patches import patches as patches
from jaxnet.data.warp import random_crop as random_crop
from jaxnet.data.warp import random_flip as random_flip
from jaxnet.data.warp import random_rotation as random_rotation
from jaxnet.data.warp import random_scale as random_scale
from jaxnet.data.warp import random_skew as random_skew
from jaxnet.data.warp import warp as warp
