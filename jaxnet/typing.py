"""Types for annotations of your own layers, models and programs."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxnet.core import Params as Params
from jaxnet.core import State as State
from jaxnet.initializers import Initializer as Initializer
from jaxnet.layers.attention import Rotation as Rotation
from jaxnet.layers.sequence import Sequence as Sequence
from jaxnet.ops.window import Padding as Padding
from jaxnet.services.trees import PyTree as PyTree

Pair = tuple[np.ndarray, np.ndarray]  # (inputs, targets) of a data set
Augmentation = Callable[[jax.Array, Any], Any]  # (key, batch) -> batch, or (key, x) -> x
