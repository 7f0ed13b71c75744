"""Pictures: each function takes arrays and returns a matplotlib Figure, and shows nothing itself.

In a notebook a figure shows where it is the last value of a cell; `save` writes it to a file.
"""

from jaxnet.viz.codes import codes as codes
from jaxnet.viz.confusion import confusion as confusion
from jaxnet.viz.curves import curves as curves
from jaxnet.viz.curves import history as history
from jaxnet.viz.decision import decision as decision
from jaxnet.viz.figure import save as save
from jaxnet.viz.filters import filters as filters
from jaxnet.viz.graph import graph as graph
from jaxnet.viz.images import images as images
