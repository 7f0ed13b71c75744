"""The style, size and layout shared by all figures, and saving."""

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.services.checks import at_least, check_list, check_type, one_of, within
from jaxnet.services.extras import extra
from jaxnet.services.files import file_path, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = "matplotlib.figure.Figure"  # importing it takes a second

# Okabe and Ito 2008, "Color universal design": distinguishable with color blindness.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Settings of matplotlib belong to the process. If two threads changed them at once, the one that
# ends last would restore what the other has set.
_styling = threading.RLock()


@contextmanager
def styled() -> Iterator[None]:
    """Use the style of jaxnet, as a context or a decorator; afterwards, the style is as before.

    Threads wait for each other here.

    Raises:
      ImportError: If matplotlib is not installed.

    Example:
      >>> @styled()
      ... def empty(width):
      ...     return new_figure(width, 2)
      >>> float(empty(3).get_figwidth())
      3.0
    """
    extra("matplotlib.figure", "matplotlib", "jaxnet.viz", "viz")
    from matplotlib import rc_context

    with _styling, rc_context(fname=Path(__file__).parent / "jaxnet.mplstyle"):
        yield


@styled()
def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, without a window or global state of pyplot.

    A notebook displays it as the last value of a cell, or by `display(figure)`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    # Notebooks use this method, which matplotlib adds only once pyplot is imported.
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def save(
    figure: Figure, path: str | Path, *, dpi: int = 100, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a figure to a file, whole or not at all; missing folders are created.

    Args:
      figure: Figure of any function of `jaxnet.viz`.
      path: Path with the suffix of a format that matplotlib writes, such as .png, .pdf or .svg; "~"
        is the home folder.
      dpi: Dots per inch, in (0, 10000].
      metadata: Texts to store in the file by their key, such as {"Title": "Digits"}. Formats have
        different keys, which matplotlib's `savefig` describes.

    Returns:
      The path, to print.

    Raises:
      TypeError: If `figure` is not a figure.
      ValueError: If the suffix is unknown or `dpi` is out of range.
      OSError: If the file cannot be written.

    Example:
      >>> import tempfile
      >>> figure = jn.viz.images(np.zeros((3, 8, 8, 1)))
      >>> save(figure, Path(tempfile.mkdtemp()) / "new" / "black.png").name
      'black.png'
    """
    if not hasattr(figure, "savefig"):
        raise TypeError(f"viz.save: figure must be a figure of jn.viz, got {type(figure).__name__}")
    within("viz.save", "dpi", dpi, "(0, 10000]")
    path = file_path("viz.save", path)
    check_type("viz.save", "metadata", metadata, dict | None, "a dict of texts")
    kinds = figure.canvas.get_supported_filetypes()
    kind = path.suffix.lower()[1:]
    one_of("viz.save", "the suffix of path", kind, kinds)
    with replacing("viz.save", path) as file:
        figure.savefig(file, dpi=dpi, format=kind, metadata=metadata)
    return path


def texts(who: str, what: str, values: Any, count: int | None = None, per: str = "") -> list[str]:
    """Return a list of str to draw; raise for anything else, or if their number is not `count`.

    Example:
      >>> texts("confusion", "names", ["cat", 3], 2)
      Traceback (most recent call last):
      ...
      TypeError: confusion: names must be str, got int
    """
    words = list(values) if isinstance(values, str) else check_list(who, what, values, "str")
    for word in words:
        check_type(who, what, word, str, "str")
    if count is not None and len(words) != count:
        expected = f"{count} {what}, one per {per}" if per else f"{count} {what}"
        raise ValueError(f"{who}: expected {expected}, got {len(words)}")
    return [escaped(word) for word in words]


def escaped(text: Any) -> Any:
    r"""Return a text that matplotlib draws as it is, since names with a dollar are no formulas.

    Example:
      >>> escaped("$5 to $6")
      '\\$5 to \\$6'
    """
    return text.replace("$", r"\$") if isinstance(text, str) else text


def a_dict(who: str, what: str, mapping: Any, form: str) -> dict[Any, Any]:
    """Return a mapping or a NamedTuple as a dict, with keys to draw; raise for anything else.

    Example:
      >>> a_dict("heatmap", "maps", [1], "name -> maps")
      Traceback (most recent call last):
      ...
      TypeError: heatmap: maps must be a dict of name -> maps, got list
    """
    if hasattr(mapping, "_asdict"):
        mapping = mapping._asdict()
    check_type(who, what, mapping, Mapping, f"a dict of {form}")
    return {escaped(name): value for name, value in mapping.items()}


def grid(who: str, count: int, columns: int | None) -> tuple[int, int]:
    """Return the numbers of rows and columns for `count` cells, about square by default.

    Raises:
      TypeError, ValueError: If `columns` is not an integer of at least 1.
    """
    at_least(who, "columns", columns, optional=True)
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    return math.ceil(count / columns), columns


def cells(figure: Figure, rows: int, columns: int, count: int, **options: Any) -> Any:
    """Return the first `count` axes of a grid, without the spare ones of its last row."""
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for spare in axes[count:]:
        spare.remove()
    return axes[:count]


def canvas(width: float, height: float, left: float = 0.0, low: float = 0.0) -> Any:
    """Return axes without a scale, whose unit is an inch, with a corner at (left, low)."""
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(left, left + width), ylim=(low, low + height))
    axes.axis("off")
    return axes


def signed_scale(figure: Figure, image: Any, axes: Any, aspect: int) -> None:
    """Draw the color scale of images whose values are divided by their largest size."""
    scale = figure.colorbar(image, ax=axes, ticks=[-1, 0, 1], shrink=0.9, aspect=aspect)
    scale.ax.set_yticklabels(["−", "0", "+"])


def table_lines(axes: Any, rows: int, columns: int) -> None:
    """Draw lines between the entries of a matrix, instead of ticks."""
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor")
    axes.tick_params(which="both", length=0)


def frame(axes: Any) -> None:
    """Remove the ticks, for images and other axes without a scale."""
    axes.set(xticks=[], yticks=[])
