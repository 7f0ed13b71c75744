"""Tokens per second of a decoder of 100 M parameters, compared with transformers.

    python -m experiments.benchmarks.generation

Both have the sizes of a Llama and the same weights, and write greedy tokens after the same prompts,
prefill included: `jn.decoding.generate`, which compiles at its first call, and LlamaForCausalLM in
eager PyTorch with a cache of keys and values, both in float32 and in bfloat16, and jaxnet with
integers too. Each runs in a separate process, and they take turns. Tokens that differ are reported:
if logits are nearly equal, rounding decides.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.benchmarks.measure import bootstrap, in_a_line, load

EPSILON = 1e-6
PROGRAMS = (
    "jaxnet", "transformers", "jaxnet bfloat16", "transformers bfloat16", "jaxnet int8",
    "jaxnet int4",
)  # fmt: skip
Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Config:
    """Options of the benchmark of generation."""

    blocks: int = 12
    """number of transformer blocks"""
    width: int = 768
    """features of each token"""
    heads: int = 12
    """attention heads of each block"""
    hidden: int = 2048
    """hidden features of each gated MLP"""
    vocabulary: int = 32_000
    """size of the vocabulary"""
    batches: tuple[int, ...] = (1, 8)
    """batch sizes"""
    prompt: int = 128
    """tokens of each prompt"""
    length: int = 64
    """tokens to generate"""
    rounds: int = 7
    """samples per program"""
    timeout: float = 300.0
    """largest number of seconds for an answer, such as the first call"""

    def __post_init__(self):
        if min(self.blocks, self.width, self.prompt, self.length, self.rounds) < 1:
            raise ValueError("all sizes and rounds must be at least 1")


def draw(config: Config) -> dict[str, np.ndarray]:
    """Return random weights under the names of transformers, as matrices (outputs, inputs)."""
    rng = np.random.default_rng(0)

    def matrix(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[1]))

    d, hidden = config.width, config.hidden
    weights = {"model.embed_tokens": matrix(config.vocabulary, d)}
    for i in range(config.blocks):
        block = f"model.layers.{i}."
        for name in "qkvo":
            weights[f"{block}self_attn.{name}_proj"] = matrix(d, d)
        weights[f"{block}mlp.gate_proj"] = matrix(hidden, d)
        weights[f"{block}mlp.up_proj"] = matrix(hidden, d)
        weights[f"{block}mlp.down_proj"] = matrix(d, hidden)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[block + name] = 1 + rng.standard_normal(d, np.float32) / 10
    weights["model.norm"] = 1 + rng.standard_normal(d, np.float32) / 10
    weights["lm_head"] = matrix(config.vocabulary, d)
    return {f"{name}.weight": value for name, value in weights.items()}


def prompts(config: Config, batch: int) -> np.ndarray:
    """Return random tokens (batch, prompt)."""
    rng = np.random.default_rng(batch)
    return rng.integers(0, config.vocabulary, (batch, config.prompt))


def jaxnet(config: Config, numbers: str) -> tuple[Run, str]:
    """Return a function from prompts to tokens, and the device it runs on."""
    import jax
    import jax.numpy as jnp

    import jaxnet as jn

    def block() -> jn.Layer:
        return jn.transformer_block(
            config.heads, config.hidden, causal=True, rotary=True, gated=True, use_bias=False,
            activation=jax.nn.silu, norm=lambda name: jn.rms_norm(epsilon=EPSILON, name=name),
        )  # fmt: skip

    net = jn.serial(
        jn.embedding(config.vocabulary, config.width),
        *(block() for _ in range(config.blocks)),
        jn.rms_norm(epsilon=EPSILON),
        jn.dense(config.vocabulary, use_bias=False),
    )
    weights, heads = draw(config), config.heads
    size = config.width // heads
    blocks = {}
    for i in range(config.blocks):
        get = lambda name, i=i: weights[f"model.layers.{i}.{name}.weight"]  # noqa: E731
        into = lambda name, get=get: {"kernel": get(name).T.reshape(-1, heads, size)}  # noqa: E731
        blocks[f"transformer_block_{i}" if i else "transformer_block"] = {
            "attention_norm": {"scale": get("input_layernorm")},
            "attention": {
                "query": into("self_attn.q_proj"),
                "key": into("self_attn.k_proj"),
                "value": into("self_attn.v_proj"),
                "out": {"kernel": get("self_attn.o_proj").T.reshape(heads, size, -1)},
            },
            "mlp_norm": {"scale": get("post_attention_layernorm")},
            "mlp_in": {"kernel": get("mlp.gate_proj").T},
            "mlp_gate": {"kernel": get("mlp.up_proj").T},
            "mlp_out": {"kernel": get("mlp.down_proj").T},
        }
    params = jax.device_put(
        blocks
        | {
            "embedding": {"embedding": weights["model.embed_tokens.weight"]},
            "rms_norm": {"scale": weights["model.norm.weight"]},
            "dense": {"kernel": weights["lm_head.weight"].T},
        }
    )

    if numbers.startswith("int"):
        net = jn.quantized(net, int(numbers.removeprefix("int")))
        params = jn.quantize(net, params, jn.spec((1, 8), jnp.int32))
    elif numbers:
        net = jn.cast(net, numbers)
        params = jax.tree.map(lambda a: a.astype(numbers), params)

    def run(prompt: np.ndarray) -> np.ndarray:
        options: dict[str, Any] = {"temperature": 0, "progress": False}
        return jn.decoding.generate(net, params, prompt, length=config.length, **options).tokens

    return run, str(jax.devices()[0].device_kind)


def transformers(config: Config, numbers: str) -> tuple[Run, str]:
    """Return a function from prompts to tokens, and the device it runs on."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it, as JAX by default
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = LlamaConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=config.hidden,
        num_hidden_layers=config.blocks,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.prompt + config.length,
        rms_norm_eps=EPSILON,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    net = LlamaForCausalLM(sizes).eval()
    net.load_state_dict({name: torch.tensor(value) for name, value in draw(config).items()})
    net.to(device, getattr(torch, numbers or "float32"))

    def run(prompt: np.ndarray) -> np.ndarray:
        ids = torch.tensor(prompt, device=device)
        with torch.inference_mode():
            tokens = net.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=config.length,
                do_sample=False,
                use_cache=True,
            )
        return tokens[:, prompt.shape[1] :].cpu().numpy()

    return run, torch.cuda.get_device_name() if device == "cuda" else "cpu"


def _serve(pipe: Any, name: str, config: Config) -> None:
    """Answer batch sizes with (seconds, tokens), in a separate process."""
    try:
        library, _, numbers = name.partition(" ")
        make = {"jaxnet": jaxnet, "transformers": transformers}[library]
        run, device = make(config, numbers)
        pipe.send((True, device))
        while (batch := pipe.recv()) is not None:
            given = prompts(config, batch)
            start = time.perf_counter()
            tokens = run(given)
            pipe.send((True, (time.perf_counter() - start, tokens)))
    except Exception as error:
        pipe.send((False, in_a_line(error)))


class Writer:
    """A program in a separate process; `note` says why it cannot run."""

    def __init__(self, name: str, config: Config):
        context = multiprocessing.get_context("spawn")
        self.name, self.timeout, self.note = name, config.timeout, ""
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, name, config), daemon=True)
        self.process.start()
        there.close()
        self.device = self._answer()

    def ask(self, batch: int) -> tuple[float, np.ndarray] | None:
        """Return seconds and tokens, or None if it cannot run."""
        if self.note:
            return None
        self.pipe.send(batch)
        return self._answer()

    def _answer(self) -> Any:
        try:
            if not self.pipe.poll(self.timeout):
                self.note = f"no answer in {self.timeout:.0f} s"
                return None
            good, answer = self.pipe.recv()
        except EOFError:
            good, answer = False, "its process died"
        if not good:
            self.note = answer
        return answer if good else None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def run(config: Config) -> dict[int, dict[str, list[float]]]:
    """Measure, print a table, and return tokens per second by batch size and program."""
    # By default JAX would reserve three quarters of a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    writers = [Writer(name, config) for name in PROGRAMS]
    found = {}
    try:
        for batch in config.batches:
            before = load()
            first = {one.name: answer for one in writers if (answer := one.ask(batch))}
            samples: dict[str, list[float]] = {name: [] for name in first}
            for _ in range(config.rounds):
                for one in writers:
                    if one.name in first and (answer := one.ask(batch)):
                        samples[one.name].append(batch * config.length / answer[0])
            found[batch] = samples
            print(f"batch {batch}, load {before:.1f} to {load():.1f}:")
            for name, rates in samples.items():
                if rates:
                    low, middle, high = np.quantile(rates, [0, 0.5, 1])
                    print(f"  {name}: {middle:.1f} tokens/s ({low:.1f} to {high:.1f})", flush=True)
            for name, theirs in samples.items():
                kind = name.removeprefix("transformers")
                ours = samples.get(f"jaxnet{kind}")
                if kind == name or not ours or not theirs:
                    continue
                ratio, low, high = bootstrap(ours, theirs)
                print(f"  jaxnet{kind} / {name}: {ratio:.2f} ({low:.2f} to {high:.2f})")
                mine, other = first[f"jaxnet{kind}"][1], first[name][1]
                print(f"  equal tokens: {(mine == other).sum()} of {mine.size}")
        for one in writers:
            print(f"{one.name}: {one.note or one.device}")
    finally:
        for one in writers:
            one.stop()
    return found


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config, description=__doc__))
