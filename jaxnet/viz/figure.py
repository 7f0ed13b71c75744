"""What all pictures share: how a figure is made, and how it is saved."""

import math
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color universal design": told apart by colour-blind readers too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches: no window, no global state of pyplot.

    A notebook shows it where it is the last value of a cell, and by `display(figure)`.

    Raises:
      ImportError: where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "jaxnet.viz: needs matplotlib; "
            'install the extra jaxnet-toolkit[viz]: in a checkout, pip install -e ".[viz]"'
        ) from error
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    # Notebooks ask for this; matplotlib itself answers only once pyplot is imported.
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: "Figure") -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def save(figure: "Figure", path: str | Path, *, dpi: int = 100) -> Path:
    """Writes a figure to a file and makes the folders above it.

    Args:
      figure: from any function of `jaxnet.viz`.
      path: ends in .png, .pdf or .svg.
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
    """Rows and columns for so many cells; about square where no columns are given."""
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    return math.ceil(count / columns), columns


def frame(axes: Any) -> None:
    """A thin frame and no ticks, for what has no scale."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("0.8")
