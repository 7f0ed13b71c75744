"""Looking at networks: what they are made of, what they cost, and what goes wrong in them."""

from jaxnet.inspect.activations import NonFinite as NonFinite
from jaxnet.inspect.activations import activations as activations
from jaxnet.inspect.activations import first_nonfinite as first_nonfinite
from jaxnet.inspect.cost import Fit as Fit
from jaxnet.inspect.cost import fits as fits
from jaxnet.inspect.cost import flops as flops
from jaxnet.inspect.doctor import Report as Report
from jaxnet.inspect.doctor import doctor as doctor
from jaxnet.inspect.gabor import Gabor as Gabor
from jaxnet.inspect.gabor import GaborFit as GaborFit
from jaxnet.inspect.gabor import gabor_fit as gabor_fit
from jaxnet.inspect.gradients import Entry as Entry
from jaxnet.inspect.gradients import GradientCheck as GradientCheck
from jaxnet.inspect.gradients import check_gradients as check_gradients
from jaxnet.inspect.gradients import numerical_gradient as numerical_gradient
from jaxnet.inspect.graph import Edge as Edge
from jaxnet.inspect.graph import Graph as Graph
from jaxnet.inspect.graph import Node as Node
from jaxnet.inspect.graph import graph as graph
from jaxnet.inspect.receptive import ReceptiveFields as ReceptiveFields
from jaxnet.inspect.receptive import receptive_fields as receptive_fields
from jaxnet.inspect.summary import Row as Row
from jaxnet.inspect.summary import Summary as Summary
from jaxnet.inspect.summary import kind as kind
from jaxnet.inspect.summary import summary as summary
from jaxnet.inspect.table import Table as Table
