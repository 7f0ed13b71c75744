"""Rotations of queries and keys in published decoders, and their scaling to long sequences."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import Layer
from jaxnet import rotary as turn
from jaxnet.core import transformed
from jaxnet.models.decoder import decoder
from jaxnet.pretrained.config import KIND, OTHERWISE, Config, is_positive

FULL, SLIDING = KIND
BY_KIND = "gemma3_text", "olmo3"  # whose entries of rotations are by kind of layer
ROPE_BY_KIND = (
    "rope_theta", "rope_type", "type", "factor", "low_freq_factor", "high_freq_factor",
    "original_max_position_embeddings", "partial_rotary_factor", "attention_factor", "beta_fast",
    "beta_slow", "mscale", "mscale_all_dim", "short_factor", "long_factor",
)  # fmt: skip
ROPE = (*ROPE_BY_KIND, "truncate")
LONGROPE = "longrope"
OLDER_NAMES_OF_LONGROPE = "su", "yarn"  # in configurations of Phi
OLMO_BASE = 5e5  # OLMo 3 has one base, which is not an entry of its configuration


class Rope(NamedTuple):
    """The entries of a rotation.

    Fields:
      config: Configuration that they are from.
      name: Name of the object that holds them, for messages.
      entries: The entries.
    """

    config: Config
    name: str
    entries: dict[str, Any]

    def number(self, entry: str, default: Any = None) -> Any:
        """Return an entry, or a default if it is missing; raise unless it is a positive number."""
        value = self.entries.get(entry)
        if value is None:
            value = default
        if not is_positive(value):
            raise self.config.error(
                f"{entry} in {self.name} must be a positive number, got {value!r:.60}"
            )
        return value


class Sizes(NamedTuple):
    """The sizes of a rotation, before its scaling.

    Fields:
      base, rotated: Options `base` and `size` of `rotary`.
      trained: Longest sequence of the training before the scaling.
      longest: Longest sequence of the model.
    """

    base: float
    rotated: int
    trained: int
    longest: int


def rotation(config: Config, kind: str = FULL) -> Callable:
    """Return the rotation of a kind of layers, for `jn.models.decoder`."""
    rope, trained = _entries(config, kind)
    scaling = _scaling(rope)
    entries = config.entries
    head = entries["head_dim"] or entries["hidden_size"] // entries["num_attention_heads"]
    rotated = _rotated_size(rope, head)
    base = entries.get("rope_local_base_freq" if kind == SLIDING else "rope_theta", OLMO_BASE)
    longest = entries["max_position_embeddings"]
    sizes = Sizes(
        base=float(rope.number("rope_theta", base)),
        rotated=rotated,
        trained=trained or rope.number("original_max_position_embeddings", longest),
        longest=longest,
    )
    options = SCALINGS[scaling](rope, sizes)
    if rotated != head:
        options["size"] = rotated
    function = turn if options.keys() <= {"scaling"} else turned
    return partial(function, base=sizes.base, **{"scaling": None, **options})


def _entries(config: Config, kind: str) -> tuple[Rope, int | None]:
    """Return the entries of a rotation, and the length of the training if the config states it.

    Older files have the entries in `rope_scaling`.
    """
    stored = config.entries["rope_parameters"] or {}
    scaling = config.entries["rope_scaling"] or {}
    if config.family in BY_KIND:
        rope, allowed, trained = _entries_of_kind(config, kind, stored, scaling), ROPE_BY_KIND, None
    else:
        rope = Rope(config, "rope_parameters", stored)
        if scaling:
            rope = Rope(config, "rope_scaling", scaling)
        allowed, trained = ROPE, config.entries["original_max_position_embeddings"]
    for entry in rope.entries:
        if entry not in allowed:
            raise config.error(f"the entry {entry!r:.60} of {rope.name} is unknown; {OTHERWISE}")
    return rope, trained


def _entries_of_kind(config: Config, kind: str, stored: dict, scaling: dict) -> Rope:
    for key in stored:
        if key not in KIND:
            raise config.error(f"rope_parameters may hold {' and '.join(KIND)}, got {key!r:.60}")
    name = f"rope_parameters.{kind}"
    entries = stored.get(kind) or {}
    if not isinstance(entries, dict):
        raise config.error(f"{name} must be an object, got {entries!r:.60}")
    if kind == FULL:  # local layers are not scaled
        entries = entries | scaling
    return Rope(config, name, entries)


def _scaling(rope: Rope) -> str:
    """Return the name of the scaling."""
    name = rope.entries.get("rope_type", rope.entries.get("type", "default"))
    if rope.config.family == "phi3" and name in OLDER_NAMES_OF_LONGROPE:
        return LONGROPE
    if not isinstance(name, str) or name not in SCALINGS:
        *most, last = SCALINGS
        raise rope.config.error(
            f"rope_type must be {', '.join(most)} or {last}, got {name!r:.60}; "
            "give jn.models.decoder a rotary= function of your own"
        )
    return name


def _rotated_size(rope: Rope, head: int) -> int:
    """Return how many features of a head are rotated."""
    config = rope.config
    share = rope.number("partial_rotary_factor", config.entries["partial_rotary_factor"] or 1)
    if share != 1 and config.family != "phi3":
        raise config.error(
            f"partial_rotary_factor must be 1, got {share}; write rotary=partial(jn.rotary, "
            "size=...) for jn.models.decoder"
        )
    size = int(head * share)
    if size not in range(2, head + 1, 2):
        raise config.error(f"partial_rotary_factor must give an even size, got {size} of {head}")
    return size


# One function for each kind of scaling, which returns options of `turned`.


def _default(rope: Rope, sizes: Sizes) -> dict[str, Any]:
    return {}


def _linear(rope: Rope, sizes: Sizes) -> dict[str, Any]:
    return {"scaling": _divided(rope.number("factor"))}


def _dynamic(rope: Rope, sizes: Sizes) -> dict[str, Any]:
    """Let the base grow with the length that the sequence has reached, beyond that of the model."""
    if sizes.rotated < 4:
        raise rope.config.error(f"dynamic rotations need at least 4 features, got {sizes.rotated}")
    return {"growth": rope.number("factor"), "limit": sizes.longest}


def _yarn(rope: Rope, sizes: Sizes) -> dict[str, Any]:
    """Slow down the slow rotations, and multiply the rotated features by a factor.

    Reference: Peng et al. 2023, "YaRN", and the code of transformers.
    """
    factor = rope.number("factor")
    turns = np.array([rope.number("beta_fast", 32), rope.number("beta_slow", 1)])
    waves = sizes.trained / (2 * np.pi * turns)
    low, high = sizes.rotated * np.log(waves) / (2 * math.log(sizes.base))
    if rope.entries.get("truncate", True):
        low, high = np.floor(low), np.ceil(high)
    low, high = max(low, 0), min(high, sizes.rotated - 1)
    ramp = (np.arange(sizes.rotated // 2) - low) / ((high - low) or 0.001)
    slowed = np.clip(ramp, 0, 1)
    return {
        "scaling": _divided(1 / (slowed / factor + 1 - slowed)),
        "factor": rope.number("attention_factor", _yarn_magnitude(rope, factor)),
    }


def _yarn_magnitude(rope: Rope, factor: float) -> float:
    """Return the usual factor of the rotated features."""

    def grown(by: float) -> float:
        return 1 if factor <= 1 else 0.1 * by * math.log(factor) + 1

    if rope.entries.get("mscale") and rope.entries.get("mscale_all_dim"):
        return grown(rope.number("mscale")) / grown(rope.number("mscale_all_dim"))
    return grown(1)


def _longrope(rope: Rope, sizes: Sizes) -> dict[str, Any]:
    """Divide each angle by a factor of its own; sequences beyond the limit have other factors."""
    count = sizes.rotated // 2
    factors: list[Any] = [rope.entries.get(entry) for entry in ("short_factor", "long_factor")]
    for factor_list in factors:
        numbers = isinstance(factor_list, list) and all(is_positive(one) for one in factor_list)
        if not numbers or len(factor_list) != count:
            raise rope.config.error(
                f"short_factor and long_factor in {rope.name} must be lists of {count} positive "
                f"numbers, got {factor_list!r:.60}"
            )
    short, long = factors
    trained = sizes.trained
    ratio = rope.number("factor", sizes.longest / trained)
    grown = max(math.log(ratio), 0) / math.log(max(trained, 2))
    return {
        "scaling": _divided(short),
        "longer": _divided(long),
        "factor": rope.number("attention_factor", math.sqrt(1 + grown)),
        "limit": trained,
    }


def _llama3(rope: Rope, sizes: Sizes) -> dict[str, Any]:
    factor = rope.number("factor")
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if factor < 1 or high <= low:
        raise rope.config.error(
            f"{rope.name} must have a factor of at least 1 and a high_freq_factor above the "
            f"low_freq_factor, got {rope.entries!r:.200}"
        )
    length = int(sizes.trained)
    return {"scaling": partial(llama3_scaling, factor=factor, low=low, high=high, length=length)}


SCALINGS: dict[str, Callable[[Rope, Sizes], dict[str, Any]]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    LONGROPE: _longrope,
}


def _divided(by: Any) -> Callable:
    """Return a scaling that divides the angles by a number or by one for each."""
    return lambda angles: angles / np.asarray(by)


def llama3_scaling(angles, *, factor, low, high, length):
    """Slow down the slow rotations of `rotary`, as Llama 3.1 does for long sequences.

    Args:
      angles: Angles per position, in radians.
      factor: Factor by which rotations are slowed if they turn fewer than `low` times in `length`.
      low, high: Numbers of turns. Between them the factor decreases to 1, which it is from `high`
        on.
      length: Longest sequence of the training before this scaling.

    Reference: Llama Team 2024, "The Llama 3 Herd of Models", and its reference code.
    """
    angles = np.asarray(angles)
    turns = length * angles / (2 * np.pi)
    unscaled = np.clip((turns - low) / (high - low), 0, 1)
    return angles * ((1 - unscaled) / factor + unscaled)


def turned(x, positions, *, factor=1.0, limit=None, longer=None, growth=None, **options):
    """Rotate queries or keys as `rotary`, by the length that their sequence has reached.

    In a stream this is the last position of the chunk, of each row for itself.

    Args:
      x, positions, options: As in `rotary`.
      factor: Factor of the rotated features.
      limit: Length beyond which the rotation is another one.
      longer: Scaling of sequences beyond it.
      growth: By how much the base grows with the length beyond it.
    """
    if limit is None:
        y = turn(x, positions, **options)
    elif growth is not None:
        y = _with_grown_base(x, positions, growth, limit, **options)
    else:
        y = _by_length(x, positions, limit, longer, **options)
    if factor == 1:
        return y
    features = x.shape[-1]
    is_rotated = np.arange(features) < options.get("size", features)
    return y * np.where(is_rotated, factor, 1).astype(x.dtype)


def _by_length(x, positions: Any, limit: int, longer, **options):
    """Rotate with the scaling of the length that was reached."""
    with_longer = options | {"scaling": longer}
    if isinstance(positions, np.ndarray):
        chosen = with_longer if positions.size > limit else options
        return turn(x, positions, **chosen)  # type: ignore[arg-type]
    is_long = positions.max(-1)[..., None, None, None] >= limit
    return jnp.where(is_long, turn(x, positions, **with_longer), turn(x, positions, **options))


def _with_grown_base(x, positions, growth, limit: int, *, base, scaling=None, size=None):
    """Rotate with a base that grows with the length that was reached.

    Reference: bloc97 2023, "Dynamically scaled RoPE", and the code of transformers.
    """
    size = x.shape[-1] if size is None else size
    lengths = jnp.maximum(jnp.asarray(positions).max(-1, keepdims=True) + 1, limit)
    grown = (growth * lengths / limit - (growth - 1)) ** (size / (size - 2))
    pairs = np.arange(0, size, 2) / size
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    frequencies = jnp.exp(-jnp.log(base * grown).astype(dtype)[..., None] * pairs.astype(dtype))
    angles = jnp.asarray(positions, dtype)[..., None] * frequencies
    angles = angles.reshape(-1, *angles.shape[-2:])[:, :, None]  # (batch or 1, time, 1, pairs)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = jnp.split(x[..., :size], 2, -1)
    y = jnp.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., size:]], -1)
    return y.astype(x.dtype)


def scaled_decoder(**options: Any) -> Layer:
    """Return a decoder; in a stream with LongRoPE it computes what it keeps again at the limit.

    Example:
      >>> scaled_decoder(vocabulary=11, depth=1, width=8, heads=2, rotary=jn.rotary).name
      'decoder'
    """
    rotary = options["rotary"]
    rotary_options = getattr(rotary, "keywords", {})
    longer = rotary_options.get("longer")
    if not longer:
        return decoder(**options)
    long: dict[str, Any] = options | {"rotary": partial(rotary, limit=None, scaling=longer)}
    return _computed_again(decoder(**options), decoder(**long), rotary_options["limit"])


FIRST, COUNT = "first_ids", "count"  # entries of the state of a stream


def _computed_again(net: Layer, long: Layer, limit: int) -> Layer:
    """Return a decoder whose kept keys are those of a long sequence, once it is one.

    The first `limit` ids are kept. When a row goes beyond them, the keys and values of these ids
    are computed again, with the rotations of long sequences.

    Args:
      net: Decoder whose rotations depend on the length that was reached.
      long: The same decoder with the rotations of long sequences.
      limit: Length of the longest sequence that is not long.
    """

    def grows(stream):
        return stream is not None and (stream.length is None or stream.length > limit)

    def init(run, key, x):
        params, state = run.init(key, x)
        if not grows(run.mode.stream):
            return params, state
        rows = run.mode.stream.chunk[0]
        first = jnp.zeros((rows, limit), jnp.int32), jnp.zeros(rows, jnp.int32)
        return params, state | dict(zip((FIRST, COUNT), first, strict=True))

    def apply(run, params, state, ids):
        stream = run.mode.stream
        if not grows(stream) or getattr(ids, "ndim", 0) != 2:
            return run(params, state, ids)
        first, count = state[FIRST], state[COUNT]
        kept = {name: entry for name, entry in state.items() if name not in (FIRST, COUNT)}
        time = ids.shape[1]
        steps = jnp.full_like(count, time) if stream.steps is None else stream.steps
        begins = (0 < count) & (count <= limit) & (count + steps > limit)
        read = stream._replace(steps=jnp.where(begins, count, 0), chunk=first.shape)
        run_long = run._replace(layer=long).changed(stream=read)
        kept = _replaced(kept, begins, lambda empty: run_long(params, empty, first)[1])
        y, kept = run(params, kept, ids)
        steps_of_chunk = np.arange(time)
        at = jnp.where(steps_of_chunk < steps[:, None], count[:, None] + steps_of_chunk, limit)
        first = first.at[np.arange(len(ids))[:, None], at].set(ids, mode="drop")
        return y, kept | {FIRST: first, COUNT: (count + steps).astype(count.dtype)}

    return transformed(net, apply, kind=net.kind, init=init, new_entries=True, clear=True)


def _replaced(kept: Any, begins: jax.Array, compute: Callable) -> Any:
    """Return what a stream keeps, computed from nothing in the rows that begin to be long.

    A loop of at most one turn, unlike `jax.lax.cond`, leaves in its place what does not change.
    """

    def turn(loop):
        _, before = loop
        after = compute(jax.tree.map(jnp.zeros_like, before))

        def pick(new, old):
            return jnp.where(begins.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        return False, jax.tree.map(pick, after, before)

    _, kept = jax.lax.while_loop(lambda loop: loop[0], turn, (begins.any(), kept))
    return kept
