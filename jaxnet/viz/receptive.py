"""Receptive fields on an image."""

from collections.abc import Sequence
from typing import Any

from jaxnet.inspect import ReceptiveFields
from jaxnet.services.checks import check_list, check_type, on_host, one_of
from jaxnet.viz.feature_maps import show_image
from jaxnet.viz.style import COLORS, Figure, escaped, new_figure, styled, texts


@styled()
def receptive(image: Any, fields: ReceptiveFields, paths: Sequence[str] | None = None) -> Figure:
    """Draw the receptive field of the middle unit of each layer, as boxes on an image.

    Args:
      image: Image in [0, 1], (height, width, 1 or 3 channels).
      fields: Result of `jn.inspect.receptive_fields(net, image[None])`.
      paths: Paths of the layers to draw; by default, all layers whose field differs from the
        previous layer's field.

    Returns:
      The figure of Matplotlib, which a notebook shows.

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If a path is unknown, or if `image` has another shape.

    Example:
      >>> net = jn.serial(jn.conv(2, 3), jax.nn.relu, jn.max_pool(2), jn.conv(2, 3, name="second"))
      >>> fields = jn.inspect.receptive_fields(net, jn.spec((1, 16, 16, 1)))
      >>> ring = 1.0 * (abs(np.hypot(*np.mgrid[-8:8, -8:8]) - 5) < 1.5)
      >>> figure = receptive(ring[..., None], fields)
    """
    from matplotlib.patches import Rectangle

    image = on_host("receptive", "image", image, dtype="booleans or numbers")
    if image.ndim not in (2, 3) or not image.size:
        raise ValueError(f"receptive: image must be (height, width, channels), got {image.shape}")
    result = "the result of jn.inspect.receptive_fields"
    check_type("receptive", "fields", fields, ReceptiveFields, result)
    if paths is None:
        paths = _distinct(fields)
    paths = check_list("receptive", "paths", paths, "str")
    texts("receptive", "paths", paths)
    for path in paths:
        one_of("receptive", f"a layer with maps of {fields.name}", path, fields.fields)
    side = 2.4  # inches
    high = side * image.shape[0] / image.shape[1]
    figure = new_figure(side + 0.1, high + 0.3 + 0.18 * len(paths))
    axes = figure.subplots()
    show_image("receptive", axes, image, alpha=0.75)
    for i, path in enumerate(paths):  # later boxes are wider and drawn below, to stay visible
        top, left = fields.starts[path]
        rows, columns = fields.fields[path]
        size = f"{rows}×{columns}"
        if path in fields.cut:
            size = f"≥ {size}"
        style = {"ec": COLORS[i % len(COLORS)], "lw": 1.5 + i, "zorder": 3 - i / len(paths)}
        style |= {"fill": False, "clip_on": False, "label": escaped(f"{path}, {size}")}
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), columns, rows, **style))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), fontsize=8, handlelength=1.0)
    return figure


def _distinct(fields: ReceptiveFields) -> list[str]:
    """Return the layers whose field differs from the field of the previous layer."""
    distinct = []
    last = None
    for path, field in fields.fields.items():
        if field != last and max(field) > 1:
            distinct.append(path)
            last = field
    return distinct
