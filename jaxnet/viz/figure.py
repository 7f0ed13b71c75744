"""The style, size and layout shared by all figures, and saving."""

import math
from collections.abc import Callable
from functools import partial, wraps
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Arguments = ParamSpec("Arguments")

# Okabe and Ito 2008, "Color universal design": distinguishable with colour blindness.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE = Path(__file__).parent / "jaxnet.mplstyle"


def styled(draw: Callable[Arguments, "Figure"]) -> Callable[Arguments, "Figure"]:
    """A function that draws in the style of jaxnet; the global style does not change.

    Raises:
      ImportError: without matplotlib.

    Example:
      >>> @styled
      ... def empty(width):
      ...     return new_figure(width, 2)
      >>> empty(3).get_figwidth()
      3.0
    """

    @wraps(draw)
    def styled_draw(*args: Arguments.args, **kwargs: Arguments.kwargs) -> "Figure":
        try:
            import matplotlib.figure
        except ImportError as error:
            raise ImportError(
                f"jaxnet.viz: needs matplotlib ({error}); install the extra jaxnet-toolkit[viz]: "
                'in a checkout, pip install -e ".[viz]"'
            ) from error
        with matplotlib.rc_context(fname=STYLE):
            return draw(*args, **kwargs)

    return styled_draw


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches, without a window or global state of pyplot.

    A notebook displays it as the last value of a cell, or by `display(figure)`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(fname=STYLE):  # also where it is called on its own
        figure = Figure(figsize=(width, height))
    # Notebooks use this method, which matplotlib adds only once pyplot is imported.
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: "Figure") -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def save(figure: "Figure", path: str | Path, *, dpi: int = 100) -> Path:
    """Writes a figure to a file; missing folders are created.

    Args:
      figure: from any function of `jaxnet.viz`.
      path: with the suffix .png, .pdf or .svg.
      dpi: dots per inch.

    Returns:
      The path, to print.

    Example:
      >>> import tempfile
      >>> figure = jn.viz.images(np.zeros((3, 8, 8, 1)))
      >>> save(figure, Path(tempfile.mkdtemp()) / "new" / "black.png").name
      'black.png'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    return path


def grid(count: int, columns: int | None) -> tuple[int, int]:
    """The numbers of rows and columns for `count` cells, about square by default."""
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    return math.ceil(count / columns), columns


def frame(axes: Any) -> None:
    """Removes the ticks, for images and other axes without a scale."""
    axes.set_xticks([])
    axes.set_yticks([])
