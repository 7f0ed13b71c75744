"""Progress bars, silent in files and tests."""

import sys
from importlib.util import find_spec
from typing import Any

from jaxnet.services.checks import check_options


def progress_bar(total: int | None, title: str, wanted: bool = True, unit: str = "step") -> Any:
    """Return a tqdm bar for a terminal or a notebook, silent elsewhere (a file, a test).

    Args:
      total: Number of steps; None if it is not known.
      title: Text before the bar.
      wanted: Whether to show the bar in a terminal or a notebook.
      unit: Unit of the count.

    Example:
      >>> with progress_bar(3, "counting") as bar:
      ...     for _ in range(3):
      ...         _ = bar.update(1)
    """
    check_options(title, progress=wanted)
    error = sys.stderr  # None in a service or a program without a console
    terminal = error is not None and not error.closed and error.isatty()
    if not wanted or not (in_notebook() or terminal):
        return SilentBar()
    # `tqdm.auto` would warn if a notebook lacks widgets, and changes the filters of warnings.
    if in_notebook() and find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm
    return tqdm(total=total, desc=title, leave=False, unit=unit)


class SilentBar:
    """A bar that shows nothing. A silent bar of tqdm has a finalizer, in which Ctrl-C is lost.

    Example:
      >>> with SilentBar() as bar:
      ...     bar.update(3)
      >>> bar.disable, bar.n
      (True, 3)
    """

    disable = True
    unit_scale = False

    def __init__(self) -> None:
        self.n = 0

    def __enter__(self) -> "SilentBar":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def update(self, n: int = 1) -> None:
        self.n += n


def in_notebook() -> bool:
    """Return whether this runs in a notebook's kernel, rather than with Jupyter merely imported.

    Example:
      >>> in_notebook()
      False
    """
    ipython = sys.modules.get("IPython")
    if ipython is None:
        return False
    return getattr(ipython.get_ipython(), "kernel", None) is not None
