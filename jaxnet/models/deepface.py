"""DeepFace: a face is always in the same place, so its later layers do not share weights."""

import jax

from jaxnet import Layer, conv, dense, dropout, flatten, max_pool, serial
from jaxnet.layers import locally_connected


def deepface(classes: int = 4030, *, name: str = "deepface") -> Layer:
    """Make DeepFace; 118,923,774 parameters for 152x152 pixels and 4030 people.

    Maps of 142x142x32 (c1), 71x71x32 (m2), 63x63x16 (c3), then three locally connected layers of
    55x55x16 (l4), 25x25x16 (l5) and 21x21x16 (l6), 4096 units (f7) and one output per person. More
    than 95% of the parameters are in the layers after c3, none of which shares its weights.

    Args:
      classes: Number of people.
      name: Name of the model. Its layers are c1, m2, c3, l4, l5, l6, f7 and output.

    Input:
      Faces (batch, 152, 152, 3), turned to the front and cut out alike. Sizes from 71x71 on work as
      well, with other numbers of parameters.

    Returns:
      A layer of logits (batch, classes). In training it needs a key, for dropout after f7.

    Raises:
      ValueError: If the images are too small for the windows.

    Example:
      >>> net = deepface(classes=4030)
      >>> params, state = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 152, 152, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '118,923,774'
      >>> params["l4"]["kernel"].shape  # a kernel for each of 55x55 places
      (55, 55, 1296, 16)

    Reference: Taigman, Yang, Ranzato and Wolf 2014, "DeepFace: closing the gap to human-level
    performance in face verification".
    """
    return serial(
        conv(32, 11, padding="VALID", name="c1"),  # (batch, 142, 142, 32)
        jax.nn.relu,
        max_pool(3, strides=2, padding="SAME", name="m2"),  # (batch, 71, 71, 32)
        conv(16, 9, padding="VALID", name="c3"),  # (batch, 63, 63, 16)
        jax.nn.relu,
        locally_connected(16, 9, name="l4"),  # (batch, 55, 55, 16)
        jax.nn.relu,
        locally_connected(16, 7, strides=2, name="l5"),  # (batch, 25, 25, 16)
        jax.nn.relu,
        locally_connected(16, 5, name="l6"),  # (batch, 21, 21, 16)
        jax.nn.relu,
        flatten(),  # (batch, 7056)
        dense(4096, name="f7"),
        jax.nn.relu,
        dropout(0.5),
        dense(classes, name="output"),
        name=name,
    ).replace(kind="deepface")
