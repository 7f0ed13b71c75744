"""Print how much memory it takes to train an adapter, as the compilers for a T4 and a CPU say.

    python -m tools.adapter_memory
    python -m tools.adapter_memory --targets cpu --models 135M --forms float32 "4 bits"

The step is that of guide/own_text.md: two rows of 256 tokens, LoRA of rank 8 on all kernels.
The models are SmolLM2 135M, Llama 3.2 1B and Llama 3.2 3B, by their published sizes. Nothing is
downloaded, initialized or run. The compiler for a T4 is that of tools/elsewhere.py. 16 bits are
bfloat16 on CPU and float16 on a T4, which has no bfloat16; a step with fewer bits computes in them.
"""

import argparse
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import optax

import jaxnet as jn
from tools import elsewhere

MODELS: dict[str, dict[str, Any]] = {
    "135M": {"vocabulary": 49_152, "depth": 30, "width": 576, "heads": 9, "kv_heads": 3,
             "mlp_features": 1536},
    "1B": {"vocabulary": 128_256, "depth": 16, "width": 2048, "heads": 32, "kv_heads": 8,
           "mlp_features": 8192},
    "3B": {"vocabulary": 128_256, "depth": 28, "width": 3072, "heads": 24, "kv_heads": 8,
           "mlp_features": 8192},
}  # fmt: skip
FORMS = {"float32": None, "16 bits": None, "8 bits": 8, "4 bits": 4}
TARGETS = {"t4": "T4", "cpu": "CPU"}
MOST = elsewhere.GPUS["t4"]
ROWS, LENGTH, RANK = 2, 256, 8


class Needed(NamedTuple):
    """Memory of a training step.

    Fields:
      arguments: Bytes of the weights, the adapter, the optimizer's state and the batch.
      temporary: Bytes of everything else.
    """

    arguments: int
    temporary: int


def stored(params: Any, half: Any) -> Any:
    """Return the shapes of params whose floats are in 16 bits, except those of the adapter."""

    def each(path, leaf):
        frozen = "_lora_" not in jax.tree_util.keystr(path)
        floats = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(leaf.shape, half if frozen and floats else leaf.dtype)

    return jax.tree_util.tree_map_with_path(each, params)


def step_and_specs(options: dict[str, Any], form: str, half: Any) -> tuple[Any, tuple[Any, Any]]:
    """Return a training step and the shapes of its arguments.

    Args:
      options: Options of `jn.models.decoder`.
      form: What the weights are stored in, a name in `FORMS`.
      half: Dtype of the computation unless the form is float32, and of weights in 16 bits.
    """
    net = jn.models.decoder(**options, tied=True)
    if (bits := FORMS[form]) is not None:
        net = jn.quantized(net, bits)
    adapted = jn.lora(net, RANK, where="*/kernel")
    if form != "float32":
        adapted = jn.cast(adapted, half)

    def answers(m, batch):
        ids, following, counted, segments = batch
        losses = m(adapted, jn.Labeled((ids, jn.Segments(segments)), following))
        return (losses * counted).sum(1) / counted.sum(1), {}

    optimizer = jn.by_path({"*_lora_(a|b)": optax.adam(2e-3), "*": optax.set_to_zero()})
    trainer = jn.trainer(jn.compose(answers), optimizer)
    batch = (jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32),) * 4
    train_state = jax.eval_shape(trainer.init, jax.random.key(0), batch)
    if form != "float32":
        train_state = train_state._replace(params=stored(train_state.params, half))
    return jax.jit(trainer.step, donate_argnums=0), (train_state, batch)


def needed(target: str, options: dict[str, Any], form: str) -> Needed:
    """Compile a step for a target in `TARGETS`, and return the memory that it takes."""
    half = jnp.dtype(elsewhere.HALF.get(target, "bfloat16"))
    backend = "cpu" if target == "cpu" else "gpu"
    with mock.patch.object(jax, "default_backend", lambda: backend):  # kernels are chosen by it
        step, specs = step_and_specs(options, form, half)
        if target != "cpu":
            gpu = elsewhere.target_of(target)
            elsewhere.for_gpu(gpu)
            specs = elsewhere.on(gpu.devices().devices[0], specs)
        memory = step.lower(*specs).compile().memory_analysis()
    return Needed(memory.argument_size_in_bytes, memory.temp_size_in_bytes)


def row(model: str, form: str, found: list[Needed]) -> str:
    """Return a row of the table; what fits into `MOST` is bold.

    Example:
      >>> row("1B", "4 bits", [Needed(10**9, 2 * 10**9), Needed(10**9, 2 * 10**10)])
      '| 1B | 4 bits | 1.0 | **3.0** | 21.0 |'
    """
    totals = [each.arguments + each.temporary for each in found]
    cells = [f"**{total / 1e9:.1f}**" if total < MOST else f"{total / 1e9:.1f}" for total in totals]
    return f"| {model} | {form} | {found[0].arguments / 1e9:.1f} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    given = parser.parse_args()
    if "t4" in given.targets:
        elsewhere.go_to_compiler("tools.adapter_memory", "cuda")
    names = " | ".join(f"{TARGETS[target]}, GB" for target in given.targets)
    print(
        f"| model | weights | stored, GB | {names} |",
        "|---" * (3 + len(given.targets)) + "|",
        sep="\n",
    )
    for model in given.models:
        for form in given.forms:
            found = [needed(target, MODELS[model], form) for target in given.targets]
            print(row(model, form, found), flush=True)


if __name__ == "__main__":
    main()
