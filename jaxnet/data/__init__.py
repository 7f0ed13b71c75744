"""Data as NumPy arrays in memory, and where it comes from."""

from jaxnet.data import tfds as tfds
from jaxnet.data.arrays import batches as batches
from jaxnet.data.arrays import check as check
from jaxnet.data.arrays import split as split
from jaxnet.data.augment import on_inputs as on_inputs
from jaxnet.data.augment import random_shift as random_shift
from jaxnet.data.digits import digits as digits
from jaxnet.data.images import cifar10 as cifar10
from jaxnet.data.images import mnist as mnist
