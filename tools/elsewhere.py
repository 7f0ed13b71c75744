"""Compile programs for GPUs and TPUs that are not here, and say what they contain.

    python -m tools.elsewhere h100 "MLP 3x64" GPT-2 --peers ours linen
    python -m tools.elsewhere v5e:4x4 1.3B "1.3B ring"
    python -m tools.elsewhere t4 "catalogue 0/6"

XLA's compilers for them run on any CPU. A target is t4, a100, h100, v5e (a chip), or v5e:4x4 (a
slice of a pod). A program is a workload of the benchmark on GPUs, by the beginning of its name; a
decoder of the sizes in DECODERS, fully sharded over the slice, with "ring" on one sequence that is
divided over it too; "attention", "long attention" (its gradient in ways to compare), or a part of
the layers of tests/catalogue.py. The compilers are installed on first use, about 2 GB, into an
environment below ~/.cache.
"""

import argparse
import os
import re
import subprocess
import sys
import time
import venv
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
CACHE = Path.home() / ".cache" / "jaxnet-elsewhere"
DEVICES = ROOT / "tools" / "devices"
GPUS = {"t4": 15.6e9, "a100": 42.3e9, "h100": 85e9}  # bytes of memory, as their drivers tell
V5E = 16e9
PACKAGES = {
    "cuda": ("jax-cuda12-plugin=={jax}", "jax-cuda12-pjrt=={jax}", "nvidia-cuda-nvcc-cu12",
             "nvidia-cudnn-cu12"),
    "tpu": ("libtpu",),
}  # fmt: skip
SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "XLA_FLAGS": "--xla_gpu_autotune_level=0",  # it would run kernels
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
HALF = {"t4": "float16"}  # the dtype of 16 bits that a device multiplies, bfloat16 by default
LARGE = 2**20  # bytes of an array that counts as large
# Depth, width, heads, features of the MLP, vocabulary, tokens per sequence; sequences per chip.
DECODERS = {
    "small": ((4, 512, 8, 2048, 8192, 512), 2),
    "1.3B": ((24, 2048, 16, 5504, 32_000, 2048), 1),
    "7B": ((32, 4096, 32, 11_008, 32_000, 2048), 1),
}


class Target(NamedTuple):
    """A device, or a slice of a pod of them, that programs are compiled for.

    Fields:
      name: Name of the device.
      chips: Rows and columns of devices.
      memory: Bytes of each.
    """

    name: str
    chips: tuple[int, int]
    memory: float

    @property
    def platform(self) -> str:
        return "cuda" if self.name in GPUS else "tpu"

    def devices(self) -> Any:
        """Return the description of the devices."""
        from jax.experimental import topologies

        if self.platform == "cuda":
            text = (DEVICES / f"{self.name}.txtpb").read_text(encoding="utf-8")
            lines = [line for line in text.splitlines() if not line.startswith("#")]
            options = {"target_config": "\n".join(lines), "topology": "1x1x1"}
            return topologies.get_topology_desc("", "cuda", **options)
        rows, columns = max(self.chips, (2, 2))
        return topologies.get_topology_desc(f"v5e:{rows}x{columns}", "tpu")


def target_of(words: str) -> Target:
    """Return a target by its name, such as "h100" or "v5e:4x4"."""
    name, _, shape = words.partition(":")
    if name not in (*GPUS, "v5e") or (shape and not re.fullmatch(r"\d+x\d+", shape)):
        raise SystemExit(f"target: expected {', '.join(GPUS)}, v5e or v5e:4x4, got {words}")
    rows, columns = map(int, shape.split("x")) if shape else (1, 1)
    return Target(name, (rows, columns), GPUS.get(name, V5E))


def folder(platform: str) -> Path:
    """Return the folder of the environment with a compiler, for JAX and Python as they are here."""
    return CACHE / f"{platform}-{version('jax')}-{sys.version_info.major}.{sys.version_info.minor}"


def python(platform: str) -> Path:
    """Return the Python of the environment with a compiler, which is made if it is missing."""
    jax, place = version("jax"), folder(platform)
    found = place / "bin" / "python"
    if not (place / "ready").exists():
        print(f"installing the compiler for {platform} into {place}", file=sys.stderr)
        venv.create(place, with_pip=True, clear=True)
        pip = [found, "-m", "pip", "install", "-q"]
        needs = [f"jax=={jax}", f"jaxlib=={version('jaxlib')}", "flax", "pytest"]
        subprocess.run([*pip, "-e", ROOT, *needs], check=True)
        exact = [package.format(jax=jax) for package in PACKAGES[platform]]
        subprocess.run([*pip, "--no-deps", *exact], check=True)
        (place / "ready").touch()
    return found


def go_to_compiler(module: str, platform: str) -> None:
    """Unless the compiler is here, run a module with the same arguments where it is, and exit."""
    if os.environ.get("JAXNET_ELSEWHERE") != platform:
        settings = SETTINGS | {"JAXNET_ELSEWHERE": platform, "PYTHONPATH": str(ROOT)}
        command = [python(platform), "-m", module, *sys.argv[1:]]
        raise SystemExit(subprocess.run(command, env=os.environ | settings, cwd=ROOT).returncode)


class Seen(NamedTuple):
    """What a compiled program contains, per device.

    Fields:
      seconds: Duration of lowering and compilation.
      held: Bytes of arguments.
      temporary: Bytes of temporaries.
      launches: Kernels outside of loops, by kind.
      custom: Calls of libraries, by name.
      wide: Bytes of large float32 arrays that are written outside of fusions.
      sent: Bytes that each device sends, by kind of collective.
      expected: Bytes that it sends by the formula.
    """

    seconds: float
    held: int
    temporary: int
    launches: Counter
    custom: Counter
    wide: int
    sent: dict[str, int]
    expected: float = 0.0


NO_KERNEL = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "copy-done", "async-done", "all-gather-done", "all-reduce-done", "collective-permute-done",
}  # fmt: skip
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(")
SIZES = re.compile(r"\b(f32)\[([\d,]*)\]")


def look(compiled: Any, seconds: float) -> Seen:
    """Return what a compiled program contains."""
    import math

    from jaxnet.profile import collectives

    text = compiled.as_text()
    launches, custom, wide = Counter(), Counter(), 0
    for line in text[text.index("\nENTRY ") :].splitlines()[1:]:
        if (found := INSTRUCTION.match(line)) is None:
            continue
        name, shape, kind = found.groups()
        if kind == "custom-call":
            kind = re.findall(r'custom_call_target="([^"]+)"', line)[0]
            custom[kind] += 1
        elif kind == "fusion":
            words = ("transpose", "copy", "reduce", "gemm", "convert")
            kind = "fusion: " + next((word for word in words if word in name), "loop")
        if kind not in NO_KERNEL:
            launches[kind] += 1
            bytes_ = (
                4 * math.prod(map(int, filter(None, s.split(",")))) for _, s in SIZES.findall(shape)
            )
            wide += sum(n for n in bytes_ if n >= LARGE)
    sent: dict[str, int] = {}
    for row in collectives(compiled).rows:
        sent[row.kind] = sent.get(row.kind, 0) + row.moved
    memory = compiled.memory_analysis()
    held, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    return Seen(seconds, held, temporary, launches, custom, wide, sent)


def compiled(step: Any, specs: Any) -> Seen:
    """Compile a jitted function and look at it."""
    start = time.perf_counter()
    program = step.lower(*specs).compile()
    return look(program, time.perf_counter() - start)


def on(device: Any, specs: Any) -> Any:
    """Return specs placed on a device or divided by shardings."""
    import jax

    where = jax.sharding.SingleDeviceSharding(device)

    def each(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree.map(each, specs)


def for_gpu(target: Target) -> None:
    """Tell attention what is not known here: the GPU that it is compiled for."""
    from jaxnet.ops import attention

    if target.name == "t4":  # too old for cuDNN's attention
        attention.cuda_capability = lambda: 7.5


def workload(name: str, peer: str, target: Target) -> Seen:
    """Compile the training step of a library for a workload of the benchmark on GPUs."""
    from importlib import import_module

    from experiments.benchmarks.workloads import GPU_WORKLOADS

    found = next((each for each in GPU_WORKLOADS if each.name.startswith(name)), None)
    if found is None:
        raise SystemExit(f"program: no workload of the benchmark begins with {name}")
    step, specs = import_module(f"experiments.benchmarks.peers.{peer}").step_and_specs(found)
    return compiled(step, on(target.devices().devices[0], specs))


def decoder(size: str, target: Target, ring: bool = False) -> Seen:
    """Compile the training step of a decoder on one device, or fully sharded over a slice.

    With a ring, one sequence is divided over the slice, instead of a batch.
    """
    import jax
    import jax.numpy as jnp
    import optax
    from jax.experimental import topologies
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    import jaxnet as jn

    (depth, width, heads, mlp, vocabulary, time_), each = DECODERS[size]
    description = target.devices()
    count = target.chips[0] * target.chips[1]
    axis = "time" if ring else "data"
    mesh = topologies.make_mesh(description, (count,), (axis,)) if count > 1 else None

    def whole(layer):
        return layer if mesh is None else jn.distributed.gathered(layer, mesh)

    block = jn.transformer_block(
        heads, mlp, causal=True, norm=jn.rms_norm, gated=True, name="block"
    )
    net = jn.cast(
        jn.serial(
            whole(jn.embedding(vocabulary, width)),
            jn.repeat(jn.remat(whole(block)), depth),
            whole(jn.rms_norm(name="norm")),
            whole(jn.dense(vocabulary, use_bias=False, name="head")),
        ),
        jnp.bfloat16,
    )
    if ring and mesh is not None:
        net = jn.distributed.context_parallel(net, mesh, axis)
    loss = optax.softmax_cross_entropy_with_integer_labels
    trainer = jn.trainer(jn.supervised(net, loss), optax.adamw(1e-4))
    shape = (1, each * count * time_) if ring else (each * count, time_)
    batch = (jax.ShapeDtypeStruct(shape, jnp.int32),) * 2
    train_state = jax.eval_shape(trainer.init, jax.random.key(0), batch)
    if mesh is None:
        specs = on(description.devices[0], (train_state, batch))
    else:
        rules = jn.distributed.fully_sharded(axis, mesh)
        places = jn.distributed.shardings(train_state, mesh, rules)
        spec = P(None, axis) if ring else P(axis)
        split = jax.tree.map(lambda _: NamedSharding(mesh, spec), batch)

        def place(a, s):
            return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s)

        specs = jax.tree.map(place, (train_state, batch), (places, split))
    seen = compiled(jax.jit(trainer.step, donate_argnums=0), specs)
    sizes = {n: sum(a.size for a in jax.tree.leaves(p)) for n, p in train_state.params.items()}
    keys = each * time_ * width if ring else 0  # of a block, as many as values
    return seen._replace(expected=formula(count, sum(sizes.values()), sizes["block"], depth * keys))


def formula(count: int, all_: int, blocks: int, keys: int) -> float:
    """Return the bytes that a device sends per step.

    Params are gathered, those of the blocks once more to recompute them, and gradients are summed
    and cut, all in 16 bits. Around a ring go keys and values, for the forward pass, to recompute it
    and for the backward pass, in 16 bits, and their gradients in 32.

    Args:
      count: Number of devices.
      all_, blocks: Number of all params and of those of the blocks.
      keys: Number of keys of a device's part of the time in all blocks, with all their features.

    Example:
      >>> formula(4, 100, 60, 0)  # three of four parts of 260 numbers of 2 bytes
      390.0
      >>> formula(4, 100, 60, 10) - 390  # 4 rounds of 10 keys and 10 values, 10 bytes for each
      800.0
    """
    return (count - 1) / count * 2 * (2 * all_ + blocks) + count * 2 * keys * (3 * 2 + 4)


def attention(target: Target) -> dict[str, Seen]:
    """Compile the gradient of attention with every kind of mask."""
    import jax
    import jax.numpy as jnp

    import jaxnet as jn

    masks = {
        "lengths": ((4,), "int32"), "padding": ((4, 256), "bool"),
        "segments": ((4, 256), "int32"), "booleans": ((4, 1, 256, 256), "bool"),
    }  # fmt: skip
    options = {"causal": True}, {"causal": True, "window": 9}, {"scale": 0.5}, {"kv_heads": 2}
    found, x, device = (
        {},
        jax.ShapeDtypeStruct((4, 256, 512), jnp.float32),
        target.devices().devices[0],
    )
    for chosen, mask in [*((each, None) for each in ({}, *options)), *(({}, m) for m in masks)]:
        layer = jn.cast(jn.multi_head_attention(8, **chosen), HALF.get(target.name, jnp.bfloat16))
        given = x if mask is None else (x, jax.ShapeDtypeStruct(*masks[mask]))
        params, _ = jax.eval_shape(layer.init, jax.random.key(0), given)

        def loss(params, x, layer=layer):
            return layer.apply(params, {}, x)[0].sum()

        found[f"{chosen} {mask}"] = compiled(jax.jit(jax.grad(loss)), on(device, (params, given)))
    return found


def long_attention(target: Target) -> dict[str, Seen]:
    """Compile the gradient of causal attention: in blocks, with all scores, by JAX's TPU kernel."""
    import jax
    import jax.numpy as jnp

    from jaxnet.ops.blockwise import blockwise_attention, see

    shape, half = (2, 4096, 16, 128), jnp.dtype(HALF.get(target.name, "bfloat16"))
    batch, time, heads, size = shape
    ways = {
        "in blocks": lambda *qkv: blockwise_attention(*qkv, see(time, time, causal=True))[0],
        "all scores": lambda *qkv: jax.nn.dot_product_attention(
            *qkv, is_causal=True, implementation="xla"
        ),
    }
    if target.platform == "tpu":
        from jax.experimental.pallas.ops.tpu import splash_attention as splash

        mask = splash.MultiHeadMask([splash.CausalMask((time, time)) for _ in range(heads)])
        call = splash.make_splash_mha(mask, head_shards=1, q_seq_shards=1)

        def heads_first(x):
            return x.swapaxes(1, 2)

        ways["splash"] = lambda q, *kv: heads_first(
            jax.vmap(call)(*map(heads_first, (q * size**-0.5, *kv)))
        )
    given = on(target.devices().devices[0], [jax.ShapeDtypeStruct(shape, half)] * 3)

    def loss(way):
        return lambda *qkv: way(*qkv).astype(jnp.float32).sum()

    each = {name: jax.jit(jax.grad(loss(way), (0, 1, 2))) for name, way in ways.items()}
    return {name: compiled(gradient, given) for name, gradient in each.items()}


def catalogue(target: Target, part: int, parts: int) -> str:
    """Compile the values and gradients of a part of the layers, and say which of them fail.

    All are one program. If it fails, each half is compiled, until the layer is found.
    """
    import jax
    import jax.numpy as jnp

    import jaxnet as jn
    from tests.catalogue import ROWS

    start, device = time.perf_counter(), target.devices().devices[0]
    rows = ROWS[part::parts]
    layers = {row.id: jn.cast(row.make(), HALF.get(target.name, jnp.bfloat16)) for row in rows}

    def specs_of(row):
        key = jax.eval_shape(lambda: jax.random.key(0))
        return on(device, (*jax.eval_shape(layers[row.id].init, key, row.x), row.x, key))

    def total(params, x, row, state, key):
        y, state = layers[row.id].apply(params, state, x, key=key, train=row.train != "same")
        floats = [a for a in jax.tree.leaves(y) if jnp.issubdtype(a.dtype, jnp.floating)]
        return sum((a.sum(dtype=jnp.float32) for a in floats), jnp.float32(0)), state

    def results(row, params, state, x, key):
        gradient = jax.value_and_grad(total, (0, 1), has_aux=True, allow_int=True)
        found = jax.tree.leaves(gradient(params, x, row, state, key))
        return [a for a in found if a.dtype != jax.dtypes.float0]

    def failing(rows):
        try:

            def run(every):
                return [results(row, *one) for row, one in zip(rows, every, strict=True)]

            jax.jit(run).lower([specs_of(row) for row in rows]).compile()
            return []
        except Exception as error:
            if len(rows) > 1:
                half = len(rows) // 2
                return failing(rows[:half]) + failing(rows[half:])
            return [f"{rows[0].id}: {type(error).__name__}: {str(error).splitlines()[0]:.200}"]

    failed = failing(rows)
    seconds = time.perf_counter() - start
    first = f"catalogue, part {part} of {parts}: {len(rows)} compiled in {seconds:.0f} s"
    return "\n".join([f"{first}, {len(failed)} fail", *failed])


def table(rows: dict[str, Seen], target: Target) -> str:
    """Return the figures of programs as text."""
    from jaxnet.services.table import size_of

    lines = []
    for name, seen in rows.items():
        bytes_ = seen.held + seen.temporary
        fits = "fits" if bytes_ < target.memory else "DOES NOT FIT"
        lines.append(
            f"{name}: {size_of(seen.held)} of arguments, {size_of(seen.temporary)} of temporaries, "
            f"{fits} into {size_of(target.memory)}; {sum(seen.launches.values())} kernels, "
            f"{size_of(seen.wide)} of large float32 arrays; compiled in {seen.seconds:.0f} s"
        )
        kinds = ", ".join(f"{count} {kind}" for kind, count in seen.launches.most_common())
        lines.append(f"    {kinds}")
        if seen.sent:
            sent = ", ".join(f"{kind} {size_of(moved)}" for kind, moved in seen.sent.items())
            whole = f"{size_of(sum(seen.sent.values()))} ({size_of(seen.expected)} by the formula)"
            lines.append(f"    each device sends {whole}: {sent}")
    return "\n".join(lines)


def run(target: Target, programs: list[str], peers: list[str]) -> None:
    """Compile programs here, in the environment with the compiler, and print what they contain."""
    for_gpu(target)
    for program in programs:
        part, _, parts = program.removeprefix("catalogue ").partition("/")
        if parts:
            print(catalogue(target, int(part), int(parts)), flush=True)
            continue
        if program == "attention":
            rows = attention(target)
        elif program == "long attention":
            rows = long_attention(target)
        elif (size := program.removesuffix(" ring")) in DECODERS:
            rows = {program: decoder(size, target, ring=size != program)}
        else:
            rows = {f"{program}, {peer}": workload(program, peer, target) for peer in peers}
        print(table(rows, target), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("target", type=target_of)
    parser.add_argument("programs", nargs="+")
    parser.add_argument("--peers", nargs="+", default=["ours"], choices=["ours", "linen"])
    given = parser.parse_args()
    go_to_compiler("tools.elsewhere", given.target.platform)
    run(given.target, given.programs, given.peers)


if __name__ == "__main__":
    main()
