"""Models: one published architecture per file, each model a Layer."""

from jaxnet.models.alexnet import alexnet as alexnet
from jaxnet.models.alexnet import alexnet_one_column as alexnet_one_column
from jaxnet.models.autoencoder import autoencoder as autoencoder
from jaxnet.models.autoencoder import code as code
from jaxnet.models.autoencoder import tied_autoencoder as tied_autoencoder
from jaxnet.models.convnext import convnext as convnext
from jaxnet.models.densenet import densenet as densenet
from jaxnet.models.efficientnet import efficientnet as efficientnet
from jaxnet.models.fcn import as_convolution as as_convolution
from jaxnet.models.fcn import convolutional_head as convolutional_head
from jaxnet.models.fcn import fcn as fcn
from jaxnet.models.googlenet import googlenet as googlenet
from jaxnet.models.lenet5 import lenet5 as lenet5
from jaxnet.models.lenet5 import lenet5_1998 as lenet5_1998
from jaxnet.models.mlp import mlp as mlp
from jaxnet.models.mobilenet import mobilenet_v2 as mobilenet_v2
from jaxnet.models.mobilenet import mobilenet_v3 as mobilenet_v3
from jaxnet.models.perceptron import PerceptronRun as PerceptronRun
from jaxnet.models.perceptron import adaline as adaline
from jaxnet.models.perceptron import delta_rule as delta_rule
from jaxnet.models.perceptron import mistake_bound as mistake_bound
from jaxnet.models.perceptron import perceptron as perceptron
from jaxnet.models.perceptron import perceptron_rule as perceptron_rule
from jaxnet.models.perceptron import train_perceptron as train_perceptron
from jaxnet.models.regnet import regnet as regnet
from jaxnet.models.resnet import cifar_resnet as cifar_resnet
from jaxnet.models.resnet import resnet as resnet
from jaxnet.models.rnnsearch import rnnsearch as rnnsearch
from jaxnet.models.rnnsearch import rnnsearch_steps as rnnsearch_steps
from jaxnet.models.shufflenet import shufflenet_v2 as shufflenet_v2
from jaxnet.models.squeezenet import squeezenet as squeezenet
from jaxnet.models.transformer import translation_transformer as translation_transformer
from jaxnet.models.transformer import (
    translation_transformer_steps as translation_transformer_steps,
)
from jaxnet.models.unet import unet as unet
from jaxnet.models.vgg import vgg as vgg
from jaxnet.models.vit import vit as vit
from jaxnet.models.yolo import yolo as yolo
from jaxnet.models.yolo import yolo_assign as yolo_assign
from jaxnet.models.yolo import yolo_decode as yolo_decode
from jaxnet.models.yolo import yolo_detect as yolo_detect
from jaxnet.models.yolo import yolo_loss as yolo_loss
