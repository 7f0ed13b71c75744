"""The pictures of the plots: what the examples of `jaxnet.viz` draw."""

import doctest
import inspect
import operator
from pathlib import Path
from typing import Any

from docs.docstrings import public_places

FOLDER = "pictures"  # below the reference


def write_plots(pages: Path) -> dict[str, str]:
    """Runs the examples of the plots, and returns their pictures: public name -> file.

    A picture is that of the last `figure` of an example.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxnet as jn

    folder = pages / "reference" / FOLDER
    folder.mkdir(parents=True)
    made = {}
    for public in public_places():
        if not public.startswith("jaxnet.viz."):
            continue
        function = operator.attrgetter(public.removeprefix("jaxnet."))(jn)
        names: dict[str, Any] = vars(inspect.getmodule(inspect.unwrap(function))) | {
            "jax": jax,
            "jnp": jnp,
            "np": np,
            "jn": jn,
        }
        for example in doctest.DocTestParser().get_examples(inspect.getdoc(function) or ""):
            exec(compile(example.source, public, "exec"), names)  # our own text
        if hasattr(names.get("figure"), "savefig"):
            file = f"{public.rpartition('.')[2]}.png"
            jn.viz.save(names["figure"], folder / file)
            made[public] = f"{FOLDER}/{file}"
    return made
