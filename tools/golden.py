"""Writes what every row of the catalogue computed, to compare later versions with it.

    python -m tools.golden

The file holds params, state and outputs of each row, as `jn.save` writes them, for
`tests/test_golden.py`. What it has of a row stays: only rows that it lacks are added.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxnet as jn
from tests.catalogue import ROWS, Row, fill

FILE = Path(__file__).parent.parent / "tests" / "golden.safetensors"
KEY = 3


def outputs(row: Row, params: Any, state: Any, x: Any) -> dict[str, Any]:
    """What a row computes in both modes."""
    run = jax.jit(row.make().apply, static_argnames="train")
    found = {}
    for mode, train in (("evaluation", False), ("training", True)):
        y, after = run(params, state, x, key=jax.random.key(KEY), train=train)
        leaves = [leaf for leaf in jax.tree.leaves(y) if not jnp.issubdtype(leaf.dtype, bool)]
        found[mode] = {"y": leaves, "state": after}
    return found


def main() -> None:
    rows, _ = jn.load(FILE)
    for row in ROWS:
        if row.id in rows:
            continue
        x = fill(row)
        params, state = row.make().init(jax.random.key(KEY), x)
        rows[row.id] = {
            "params": params,
            "state": state,
            "outputs": outputs(row, params, state, x),
        }
    jn.save(FILE, rows)


if __name__ == "__main__":
    main()
