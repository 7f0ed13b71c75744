"""A language model on several devices: what is computed, sent and held, by algebra and as compiled.

Claim: three sharding rules train one GPT to the same losses, and what each device computes, sends
and holds follows from formulas with N parameters, T tokens and n devices.

One step of Adam on 8 simulated devices, GPT of 4 blocks, 128 features, 8 heads, 512 tokens of
vocabulary, batches of 16 × 64 tokens. The rules:

    data            params on every device, the batch split: gradients are summed
    fully sharded   params, gradients and optimizer split too: each block's are gathered when needed
    compiler        the same placement, but the compiler chooses what to gather
    tensor          attention heads and hidden units split over 4 devices, the batch over 2

guide/scaling.md has the formulas, and what they say about 1,000 devices.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

import jaxnet as jn
from experiments.common import Seed, Short, main
from experiments.records import Command, Figures, Record, lower

Rule = Literal["data", "fully sharded", "compiler", "tensor"]
Variant = Literal["plain", "remat", "bfloat16"]

RECORDS = (
    Record(
        topic="cost",
        title=("Formulas predict the FLOPs of sharded training, but not all that it sends"),
        verdict="Mixed",
        claim=(
            "formulas with the numbers of parameters, tokens and devices predict what each device "
            "computes, sends and holds"
        ),
        sentence=(
            "A GPT of 932,608 parameters trains on 8 simulated devices under four sharding rules. "
            "The compiled FLOPs of three rules equal the formulas. If gradients are sharded, the "
            "devices send more than the formulas say: 12.5 MB instead of 9.3 MB."
        ),
        columns=(
            "rule",
            "FLOPs (billions)",
            "sent (MB)",
            *lower("held (MB)", "temporary (MB)", "read and written (MB)"),
        ),
        rows=(
            ("one device", "6.8", "0", "11.2", "28.2", "996.9"),
            ("data", "0.8556", "6.5", "11.2", "7.0", "200.9"),
            ("fully sharded", "0.8556", "12.5", "1.5", "4.3", "166.7"),
            ("fully sharded by the compiler", "1.3", "40.9", "1.5", "12.7", "609.0"),
            ("tensor", "0.8556", "12.6", "3.5", "6.8", "247.8"),
        ),
        commands=(Command("", 95, "104 s of CPU"),),
        caveat=(
            "On CPU, XLA sums sharded gradients for all devices and then cuts them, which an "
            "accelerator need not do."
        ),
        seeds=1,
        key="12.5 MB sent, 9.3 by the formulas",
        baseline="one device",
        note=(
            "[The guide](../../guide/scaling.md#estimate-the-cost-of-a-step) explains the rules "
            "and the formulas.\n"
            "All figures are per step and device, in float32. Each block is recomputed in the "
            "backward pass (`remat`).\n"
            '"Held" counts params, optimizer state and batch. "Temporary" counts gradients, '
            "activations and scratch space, which the formulas leave out.\n"
            "The losses of 4 steps agree with those of one device to 9e-8 (2e-4 in bfloat16).\n"
            "XLA on CPU has no reduce-scatter: it sums fully sharded gradients for all devices and "
            "then cuts them, which sends about 3 MB more.\n"
            "If the compiler chooses what to gather, it computes with parts of the params and sums "
            "activations, which takes 50% more FLOPs.\n"
            "With the tensor rule, the compiler sums the input gradients of queries, keys and "
            "values separately, which sends about 3 MB more.\n"
            "In bfloat16 the formulas predict half of the bytes, but on CPU the devices send as "
            "many as in float32.\n"
            "The decoder that is compiled for TPUs has 4 blocks of 512 features, 1,024 tokens per "
            "chip and `remat`. There, gradients are summed and cut in bfloat16. In both rows the "
            "same 28.9 MB are not in the formula: the gradient of the embedding is summed whole "
            "and in float32, and sums go two steps too far around the chips. In the ring, keys, "
            "values and their gradients go around as the formula says."
        ),
        more=(
            Figures(
                "By the formulas",
                ("rule", "FLOPs (billions)", "sent (MB)", "held (MB)", "temporary (MB)"),
                (
                    ("one device", "6.8", "0", "11.2", "33.1"),
                    ("data", "0.8556", "6.5", "11.2", "7.4"),
                    ("fully sharded", "0.8556", "9.3", "1.4", "4.1"),
                    ("fully sharded by the compiler", "0.8556", "9.3", "1.4", "4.1"),
                    ("tensor", "0.8556", "9.4", "3.5", "7.2"),
                ),
            ),
            Figures(
                "As compiled, without recomputation",
                (
                    "rule",
                    "FLOPs (billions)",
                    "sent (MB)",
                    *lower("held (MB)", "temporary (MB)", "read and written (MB)"),
                ),
                (
                    ("one device", "5.6", "0", "11.2", "99.6", "1,200"),
                    ("data", "0.7046", "6.5", "11.2", "16.4", "219.2"),
                    ("fully sharded", "0.7046", "9.8", "1.5", "16.8", "194.8"),
                    ("fully sharded by the compiler", "1.1", "29.8", "1.5", "42.7", "639.5"),
                    ("tensor", "0.7046", "11.0", "3.5", "19.6", "273.4"),
                ),
            ),
            Figures(
                "By the formulas, without recomputation",
                ("rule", "FLOPs (billions)", "sent (MB)", "held (MB)", "temporary (MB)"),
                (
                    ("one device", "5.6", "0", "11.2", "100.2"),
                    ("data", "0.7046", "6.5", "11.2", "15.8"),
                    ("fully sharded", "0.7046", "6.5", "1.4", "15.7"),
                    ("fully sharded by the compiler", "0.7046", "6.5", "1.4", "15.7"),
                    ("tensor", "0.7046", "7.9", "3.5", "19.5"),
                ),
            ),
            Figures(
                'Compiled for 16 TPUs v5e (`python -m tools.elsewhere v5e:4x4 small "small ring"`)',
                (
                    "rule",
                    "sent (MB)",
                    "by the formula (MB)",
                    *lower("held (MB)", "temporary (MB)"),
                ),
                (
                    ("fully sharded", "154.9", "126.0", "22.5", "45.0"),
                    ("fully sharded, one sequence in a ring", "826.0", "797.1", "22.5", "69.4"),
                ),
            ),
        ),
    ),
)


def size_of(n: float, unit: str = "B") -> str:
    """Return a number of bytes or operations in millions."""
    return f"{n / 1e6:.4g} M{unit}".rstrip()


@dataclass(frozen=True)
class Config(Seed):
    """Compiles one GPT under each rule, trains a few steps, and compares with the algebra."""

    rules: tuple[Rule, ...] = ("data", "fully sharded", "compiler", "tensor")
    """rules that place the model"""
    variants: tuple[Variant, ...] = ("plain", "remat", "bfloat16")
    """variants of the net: unchanged, with remat of each block, with remat and in bfloat16"""
    devices: int = 8
    """number of simulated devices"""
    model: int = 4
    """number of devices along the axis of the tensor rule; the batch is split over the rest"""
    layers: int = 4
    """number of transformer blocks"""
    features: int = 128
    """width"""
    heads: int = 8
    """number of attention heads"""
    vocabulary: int = 512
    """size of the vocabulary"""
    length: int = 64
    """tokens per sequence"""
    batch_size: int = 16
    """sequences per step"""
    steps: int = 4
    """number of steps of Adam whose losses are compared"""


class Row(NamedTuple):
    """A rule and a variant: figures per step and device, as compiled and by algebra.

    Fields:
      rule, variant: Names of the rule and the variant; the rule "one device" is without a mesh.
      flops: Floating point operations of matrix products.
      moved: Bytes that a device sends.
      held: Bytes of params, optimizer state and batch.
      temporary: Bytes of gradients, activations and scratch space.
      bytes: Bytes read and written.
      collectives: Number of arrays, by kind.
      losses: Losses (steps,).
      expected: Values of flops, moved, held and temporary, by algebra.
    """

    rule: str
    variant: str
    flops: int
    moved: int
    held: int
    temporary: int
    bytes: int
    collectives: dict[str, int]
    losses: np.ndarray
    expected: "Algebra"


class Algebra(NamedTuple):
    """Figures per step and device from formulas; the fields are the same as in `Row`."""

    flops: float
    moved: float
    held: float
    temporary: float


def run(config: Config) -> list[Row]:
    """Compile and train each rule and variant; print the figures next to the algebra."""
    start_devices(config.devices)
    rows = []
    for variant in config.variants:
        for rule in ("one device", *config.rules):
            rows.append(measure(config, rule, variant))
            print(line(rows[-1]), flush=True)
    for variant in config.variants:
        alone, *others = (row for row in rows if row.variant == variant)
        for row in others:
            apart = np.max(np.abs(row.losses / alone.losses - 1))
            print(f"{variant}, {row.rule}: losses differ from one device's by {apart:.1e}")
    return rows


def start_devices(count: int) -> None:
    """Simulate devices on the CPU, which is possible until JAX first computes something."""
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        if len(jax.devices()) < count:
            raise RuntimeError(
                f"scaling: JAX has started with {len(jax.devices())} devices; set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={count} before Python starts"
            ) from error


def line(row: Row) -> str:
    """Return a row in words: as compiled (by algebra)."""
    flops, moved, held, temporary = row.expected
    sent = ", ".join(f"{count} {kind}" for kind, count in row.collectives.items())
    return (
        f"{row.variant:8} {row.rule:13} {size_of(row.flops, '')} FLOPs ({size_of(flops, '')}), "
        f"sends {size_of(row.moved)} ({size_of(moved)}), holds {size_of(row.held)} "
        f"({size_of(held)}) + {size_of(row.temporary)} ({size_of(temporary)}), reads and writes "
        f"{size_of(row.bytes)}; {sent or 'nothing is sent'}; last loss {row.losses[-1]:.4f}"
    )


def measure(config: Config, rule: str, variant: str) -> Row:
    """Compile and train one rule and variant."""
    mesh, split, params_rule = placement(config, rule)
    net = gpt(config, variant, mesh if rule == "fully sharded" else None)
    loss = optax.softmax_cross_entropy_with_integer_labels
    trainer = jn.trainer(jn.supervised(net, loss), optax.adam(1e-3))
    tokens = np.random.default_rng(config.seed).integers(
        0, config.vocabulary, (config.batch_size, config.length + 1)
    )
    batch = tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32)
    train_state = trainer.init(jax.random.key(config.seed), batch)

    places = None
    if mesh is not None:
        places = jn.distributed.shardings(train_state, mesh, params_rule)
        train_state = jn.distributed.put(train_state, mesh, params_rule)
        batch = jn.distributed.put(batch, mesh, split)

    def step(train_state, batch):
        train_state, metrics = trainer.step(train_state, batch)
        if places is not None:
            train_state = jax.lax.with_sharding_constraint(train_state, places)
        return train_state, metrics["loss"]

    compiled = jax.jit(step, donate_argnums=0).lower(train_state, batch).compile()
    cost, memory = jn.profile.cost_by_layer(compiled), compiled.memory_analysis()
    assert memory is not None
    sent = jn.profile.collectives(compiled)
    counts: dict[str, int] = {}
    for row in sent.rows:
        counts[row.kind] = counts.get(row.kind, 0) + row.arrays
    losses = []
    for _ in range(config.steps):
        train_state, value = compiled(train_state, batch)
        losses.append(float(value))
    extra = memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    return Row(
        rule,
        variant,
        cost.flops,
        sent.moved,
        memory.argument_size_in_bytes,
        extra,
        cost.bytes,
        counts,
        np.array(losses),
        algebra(config, rule, variant),
    )


def gpt(config: Config, variant: str, mesh: Mesh | None = None) -> jn.Layer:
    """Return a causal language model of equal blocks, which gather their params on a mesh."""

    def whole(layer):
        return layer if mesh is None else jn.distributed.gathered(layer, mesh)

    block = whole(jn.transformer_block(config.heads, causal=True, name="block"))
    net = jn.serial(
        whole(jn.embedding(config.vocabulary, config.features)),
        whole(jn.learned_positions(config.length, name="positions")),
        jn.repeat(block if variant == "plain" else jn.remat(block), config.layers),
        whole(jn.layer_norm(name="norm")),
        whole(jn.dense(config.vocabulary, use_bias=False, name="head")),
        name="gpt",
    )
    return jn.cast(net, jnp.bfloat16) if variant == "bfloat16" else net


TENSOR = {
    "block/attention/out/kernel": P(None, "model"),  # (layers, heads, size, features)
    "block/attention/out/bias": P(),
    "block/attention/*/kernel": P(None, None, "model"),  # (layers, features, heads, size)
    "block/attention/*/bias": P(None, "model"),
    "block/mlp_in/kernel": P(None, None, "model"),  # (layers, features, hidden)
    "block/mlp_in/bias": P(None, "model"),
    "block/mlp_out/kernel": P(None, "model"),  # (layers, hidden, features)
    "head/kernel": P(None, "model"),  # (features, vocabulary)
}


def placement(config: Config, rule: str) -> tuple[Mesh | None, P, Any]:
    """Return the mesh of a rule, and how the batch and the params are split."""
    if rule == "one device":
        return None, P(), P()
    if rule == "tensor":
        sizes = config.devices // config.model, config.model
        mesh = jax.make_mesh(sizes, ("data", "model"), (AxisType.Auto,) * 2)
        return mesh, P("data"), TENSOR
    mesh = jax.make_mesh((config.devices,), ("data",), (AxisType.Auto,))
    whole = rule == "data"
    rules = P() if whole else jn.distributed.fully_sharded("data", mesh, smallest=2**10)
    return mesh, P("data"), rules


def params_of(config: Config) -> dict[str, int]:
    """Return numbers of parameters: of matrices of the blocks, of the head, and of all."""
    d, blocks = config.features, config.layers
    matrices, small = 12 * blocks * d**2, 13 * blocks * d + 2 * d  # biases, norms
    head = d * config.vocabulary
    tables = head + config.length * d
    return {"blocks": matrices, "head": head, "all": matrices + small + head + tables}


def ring(n: int) -> float:
    """Return the fraction of an array that a device sends to gather it; a sum sends twice that."""
    return (n - 1) / n


def algebra(config: Config, rule: str, variant: str) -> Algebra:
    """Return what a device computes, sends and holds per step, from formulas."""
    n = 1 if rule == "one device" else config.devices
    m = config.model if rule == "tensor" else 1
    groups = n // m  # each device has a fraction of the batch
    count, number = params_of(config), 2 if variant == "bfloat16" else 4  # bytes
    d, sequences = config.features, config.batch_size // groups
    tokens = sequences * config.length  # per group

    # A product has 2 FLOPs per parameter and token forward, 4 backward; attention 4 length * d per
    # token forward. With remat all but the last product of a block is computed again.
    attention = 4 * config.layers * config.length * d
    again = 0 if variant == "plain" else 2 * count["blocks"] * 8 / 12 + attention
    flops = tokens * (6 * (count["blocks"] + count["head"]) + 3 * attention + again) / m

    split = count["blocks"] + count["head"]
    sharded = rule in ("fully sharded", "compiler")
    if sharded:  # params are gathered (blocks twice with remat); gradients are summed and cut
        twice = 0 if variant == "plain" else count["blocks"]
        moved = ring(n) * number * (2 * count["all"] + twice)
    else:
        moved = 2 * ring(groups) * number * (split / m + count["all"] - split)
        # Sums of activations: of each block two forward and two backward, with remat one again (not
        # its last, whose result is kept); and one behind the head.
        sums = config.layers * (4 if variant == "plain" else 5) + 1
        moved += 2 * ring(m) * number * tokens * d * sums

    share = count["all"] / n if sharded else split / m + count["all"] - split
    held = 4 * 3 * share + 2 * 4 * tokens  # params and two averages of Adam; two batches of int32

    # What JAX keeps of a block for its backward pass, in numbers per token: 4 d of each norm; d of
    # queries, keys, values and their mean; 6 * 4 d of GELU; two tables of attention weights.
    inner = tokens * (8 * d + (4 * d + 24 * d + 2 * config.heads * config.length) / m)
    kept = config.layers * (inner if variant == "plain" else tokens * d)
    once = 0 if variant == "plain" else inner
    if sharded and variant == "plain":  # what was gathered, too
        kept += count["blocks"]
    logits = 2 * tokens * config.vocabulary / m
    return Algebra(flops, moved, held, 4 * share + number * (kept + once) + 4 * logits)


SHORT = Short(
    {
        "devices": 1,
        "rules": ("data",),
        "variants": ("remat",),
        "layers": 2,
        "features": 8,
        "heads": 2,
        "vocabulary": 7,
        "length": 4,
        "batch_size": 3,
        "steps": 2,
    },
    draws=False,
)


if __name__ == "__main__":
    main(Config, run)
