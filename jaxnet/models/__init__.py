"""Models: each file one published architecture, each function returns a Layer."""

from jaxnet.models.lenet5 import lenet5 as lenet5
from jaxnet.models.mlp import mlp as mlp
from jaxnet.models.resnet import cifar_resnet as cifar_resnet
