"""Compiled programs, layer by layer: their time, their cost, and what devices send each other."""

from jaxnet.profile.by_layer import cost_by_layer as cost_by_layer
from jaxnet.profile.by_layer import time_by_layer as time_by_layer
from jaxnet.profile.collectives import collectives as collectives
