"""Random keys of the calls inside a layer, and what a call gets where several turns share one."""

from dataclasses import dataclass
from typing import Any

import jax

from jaxnet.core.contract import child_key
from jaxnet.core.errors import current_path
from jaxnet.core.mode import Mode
from jaxnet.services.jax_versions import trace_state
from jaxnet.services.meshes import of_device
from jaxnet.services.trees import PyTree

SPLIT = "{} outside of that function, and jax.random.split of it for the turns of a loop"


@jax.tree_util.register_static
@dataclass(frozen=True)
class Withheld:
    """What a layer gets instead of a key where its parent's key may be that of several turns.

    A function that JAX traces, such as the body of a scan, is traced once for all of its turns.

    Fields:
      call: The call that was made there without a key of its own, with its path.
      write: What to write there.
    """

    call: str
    write: str

    def words(self) -> str:
        return (
            f"{current_path()}: draws random numbers inside a function that JAX traces, as for "
            "jax.lax.scan, jax.vmap or jax.grad, and runs once or for several turns, which would "
            f"share one key. Instead of {self.call} write {self.write}"
        )


def key_at(home: Any, key: Any, form: str, write: str) -> Any:
    """Return the key of a call; where it may be that of several turns, what says so."""
    if key is None or isinstance(key, Withheld) or trace_state() == home:
        return key
    return Withheld(form, write)


def folded(key: Any, name: str, count: int) -> Any:
    if key is None or isinstance(key, Withheld):
        return key
    key = child_key(key, name)
    return jax.random.fold_in(key, count) if count else key


def key_of_turn(key: Any, i: jax.Array) -> Any:
    return key if key is None or isinstance(key, Withheld) else jax.random.fold_in(key, i)


def usable(key: Any, mode: Mode, x: PyTree) -> jax.Array:
    """Return the key of a call; raise without one, and where several turns would share it.

    Inside `jax.shard_map` it differs between the devices over which the input varies.
    """
    if key is None:
        when, more = (" in training", ", train=True") if mode.train else ("", "")
        raise ValueError(
            f"{current_path()}: needs a key{when}. Pass one, as in "
            f"net.apply(params, state, x, key=jax.random.key(0){more})"
        )
    if isinstance(key, Withheld):
        raise ValueError(key.words())
    return of_device(key, x)
