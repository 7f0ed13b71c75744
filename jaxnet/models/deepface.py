"""DeepFace: a face is always in the same place, so its later layers do not share weights."""

import jax

from jaxnet.core import Layer, serial
from jaxnet.layers.conv import conv
from jaxnet.layers.dense import dense
from jaxnet.layers.dropout import dropout
from jaxnet.layers.local import locally_connected
from jaxnet.layers.pool import max_pool
from jaxnet.layers.shape import flatten


def deepface(classes: int = 4030, *, name: str = "deepface") -> Layer:
    """DeepFace: two convolutions, three locally connected layers, two dense ones; 118,923,774.

    Maps of 142x142x32 (c1), 71x71x32 (m2), 63x63x16 (c3), 55x55x16 (l4), 25x25x16 (l5), 21x21x16
    (l6), then 4096 (f7) and one output a person. The paper speaks of more than 120 million
    parameters, and of 95% of them in the local and dense layers.

    Args:
      classes: number of people.
      name: of the model. Its layers are c1, m2, c3, l4, l5, l6, f7 and output.

    Input:
      faces (batch, 152, 152, 3), turned to the front and cut out alike. Other sizes from 61x61 on
      work as well, with other numbers of parameters.

    Example:
      >>> net = deepface(classes=4030)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 152, 152, 3)))
      >>> params["l4"]["kernel"].shape[:2]  # of their own for each of 55x55 places
      (55, 55)

    Reference: Taigman, Yang, Ranzato and Wolf 2014, "DeepFace: Closing the Gap to Human-Level
    Performance in Face Verification".
    """
    return serial(
        conv(32, 11, padding="VALID", name="c1"),
        jax.nn.relu,
        max_pool(3, strides=2, padding="SAME", name="m2"),
        conv(16, 9, padding="VALID", name="c3"),
        jax.nn.relu,
        locally_connected(16, 9, name="l4"),
        jax.nn.relu,
        locally_connected(16, 7, strides=2, name="l5"),
        jax.nn.relu,
        locally_connected(16, 5, name="l6"),
        jax.nn.relu,
        flatten(),
        dense(4096, name="f7"),
        jax.nn.relu,
        dropout(0.5),
        dense(classes, name="output"),
        name=name,
    )
