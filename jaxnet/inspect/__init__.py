"""Analysis of networks: structure, cost, gradients, attribution and diagnosis."""

from jaxnet.inspect.activations import activations as activations
from jaxnet.inspect.activations import first_nonfinite as first_nonfinite
from jaxnet.inspect.attribution import integrated_gradients as integrated_gradients
from jaxnet.inspect.attribution import occlusion as occlusion
from jaxnet.inspect.attribution import saliency as saliency
from jaxnet.inspect.class_map import class_activation_map as class_activation_map
from jaxnet.inspect.cost import flops as flops
from jaxnet.inspect.cost import memory as memory
from jaxnet.inspect.doctor import doctor as doctor
from jaxnet.inspect.gabor import Gabor as Gabor
from jaxnet.inspect.gabor import GaborFit as GaborFit
from jaxnet.inspect.gabor import gabor_fit as gabor_fit
from jaxnet.inspect.gradients import check_gradients as check_gradients
from jaxnet.inspect.gradients import numerical_gradient as numerical_gradient
from jaxnet.inspect.graph import Graph as Graph
from jaxnet.inspect.graph import graph as graph
from jaxnet.inspect.machine import machine as machine
from jaxnet.inspect.maximize import maximize_activation as maximize_activation
from jaxnet.inspect.receptive import ReceptiveFields as ReceptiveFields
from jaxnet.inspect.receptive import receptive_fields as receptive_fields
from jaxnet.inspect.streams import check_stream as check_stream
from jaxnet.inspect.summary import summary as summary
