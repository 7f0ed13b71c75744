"""Tokenizers of the forms in files of llama.cpp, those files, and how llama.cpp reads them."""

import heapq
import json
from pathlib import Path
from typing import Any

import pytest

from tests.pretrained.tokenizer_forms import CORPUS, TEXTS, trained

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DIGITS = {"type": "Digits", "individual_digits": True}
# The steps of tokenizer.json of published models before the pairs of bytes, by llama.cpp's names.
STEPS: dict[str, list[Any]] = {
    "gpt-2": ["GPT-2"], "olmo": ["GPT-2"], "smollm": [DIGITS, "GPT-2"],
    "refact": [DIGITS, "GPT-2"], "llama-bpe": [LLAMA3], "dbrx": [LLAMA3], "smaug-bpe": [LLAMA3],
    "qwen2": [LLAMA3.replace("{1,3}", "")], "tekken": [TEKKEN], "gpt-4o": [GPT4O],
    "deepseek-coder": [
        "[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", DIGITS,
    ],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", "GPT-2", r"\p{N}+", "[0-9][0-9][0-9]"],
}  # fmt: skip
WHOLE = {"llama-bpe", "tekken"}  # a part that is a token becomes its id
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
USERS = "<think>", "</think>", "<tool_call>", "New York"
MORE_TEXTS = [
    *TEXTS, "<think>\nhm </think>\n\n<tool_call>{}</tool_call>", "a<think>b", "  \n\n\n   x",
    "THE Rhine's, DON'T", "x" + " " * 40 + "y", "<|turn|>  two<|turn|>\n\n", "</s><s><unk>",
]  # fmt: skip


def step(entry: Any) -> Any:
    if isinstance(entry, dict):
        return entry
    if entry == "GPT-2":
        return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    pattern = {"Regex": entry}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def paired(pre: str) -> Any:
    """Return a tokenizer that joins pairs of bytes, with tokens of all kinds."""
    import tokenizers
    from tokenizers import models, trainers

    made = tokenizers.Tokenizer(models.BPE())
    contents = json.loads(made.to_str())
    last = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    steps = [*map(step, STEPS[pre])]
    if "GPT-2" not in STEPS[pre]:  # which writes bytes itself
        steps.append({**last, "trim_offsets": True})
    contents["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    contents["normalizer"] = {"type": "NFC"} if pre == "qwen2" else None
    contents["decoder"] = {**last, "trim_offsets": True}
    made = tokenizers.Tokenizer.from_str(json.dumps(contents))
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(CORPUS * 5, trainer)
    contents = json.loads(made.to_str())
    contents["model"]["ignore_merges"] = pre in WHOLE
    vocabulary = contents["model"]["vocab"]
    for token in ("Ġqzj", "123"):  # of no pair
        vocabulary.setdefault(token, len(vocabulary))
    made = tokenizers.Tokenizer.from_str(json.dumps(contents))
    made.add_special_tokens(["<s>", "</s>", "<unk>", "<|turn|>"])
    made.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in USERS])
    return made


def entries_of(library: Any) -> dict[str, Any]:
    """Return the entries of a file of llama.cpp for a tokenizer that joins pairs of bytes."""
    ids = library.get_vocab()
    added = {token.content: token for token in library.get_added_tokens_decoder().values()}
    tokens = sorted(ids, key=ids.get)
    types = [
        NORMAL if token not in added else CONTROL if added[token].special else USER
        for token in tokens
    ]
    merges = json.loads(library.to_str())["model"]["merges"]
    return {
        "model": "gpt2", "tokens": [*tokens, "[PAD1]"], "token_type": [*types, UNUSED],
        "merges": [" ".join(pair) for pair in merges], "bos_token_id": ids["<s>"],
        "eos_token_id": ids["</s>"],
    }  # fmt: skip


def scored_entries(kind: str) -> dict[str, Any]:
    """Return the entries of a tokenizer of SentencePiece: of Llama 2, Phi-3 or Gemma."""
    contents = trained("fallback")
    tokens = sorted(contents["model"]["vocab"], key=contents["model"]["vocab"].get)
    tokens = [token for token in tokens if "\n" not in token and "▁▁" not in token]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(tokens) - 259)
    scores = [0.0] * 259 + [-float(i) for i in range(len(tokens) - 259)]
    user = [*USERS]
    if kind == "gemma3":
        user = ["\n", "\n\n", "\n\n\n", "  ", "   ", "    ", *user]
    new = [*user, "<|turn|>"]
    at = 259 if kind == "gemma3" else len(tokens)
    tokens[at:at] = new
    types[at:at] = [USER] * len(user) + [CONTROL]
    scores[at:at] = [-1000.0] * len(new)
    return {
        "model": "llama", "tokens": tokens, "token_type": types, "scores": scores,
        "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0,
        "add_space_prefix": kind != "gemma3",
    }  # fmt: skip


def write(path: Path, entries: dict[str, Any], architecture: str = "llama", **more: Any) -> Path:
    """Write a file of llama.cpp with a tokenizer alone.

    Args:
      path: File.
      entries: Entries that begin with tokenizer.ggml.
      architecture: Of the model.
      more: Entries that begin with tokenizer; "__" stands for a point in their names.
    """
    gguf = pytest.importorskip("gguf")
    file = gguf.GGUFWriter(path, architecture)
    named = {f"ggml.{name}": value for name, value in entries.items()}
    named |= {name.replace("__", "."): value for name, value in more.items()}
    for name, value in named.items():
        add = {bool: file.add_bool, int: file.add_int32, str: file.add_string, list: file.add_array}
        other = file.add_float32
        add.get(type(value), other)(f"tokenizer.{name}", value)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


# How llama.cpp reads a tokenizer of SentencePiece.


def reference(entries: dict[str, Any], text: str) -> list[int]:
    """Return the ids of a text: the tokens of users and special ones first, then by scores."""
    pieces: list[Any] = [text]
    whole = {UNKNOWN, CONTROL, USER}
    listed = enumerate(zip(entries["tokens"], entries["token_type"], strict=True))
    special = [(token, id_) for id_, (token, type_) in listed if type_ in whole]
    for token, id_ in sorted(special, key=lambda pair: -len(pair[0].encode())):
        pieces = [part for piece in pieces for part in _around(piece, token, id_)]
    found: list[int] = []
    after_special = True
    for piece in pieces:
        if isinstance(piece, str):
            prefix = " " if entries["add_space_prefix"] and after_special else ""
            found += _joined(entries, (prefix + piece).replace(" ", "▁"))
        else:
            found.append(piece)
        after_special = not isinstance(piece, str)
    return found


def _around(piece: Any, token: str, id_: int) -> list[Any]:
    if not isinstance(piece, str):
        return [piece]
    parts: list[Any] = []
    for i, part in enumerate(piece.split(token)):
        parts += ([id_] if i else []) + ([part] if part else [])
    return parts


def _joined(entries: dict[str, Any], text: str) -> list[int]:
    """Join the neighbors whose token has the highest score, the leftmost of equals."""
    ids = {token: i for i, token in enumerate(entries["tokens"])}
    letters = list(text)
    following = [*range(1, len(letters)), -1]
    before = list(range(-1, len(letters) - 1))
    queue: list[tuple[float, int, int, str]] = []

    def offer(left: int, right: int) -> None:
        if left >= 0 and right >= 0 and (made := letters[left] + letters[right]) in ids:
            heapq.heappush(queue, (-entries["scores"][ids[made]], left, right, made))

    for i in range(1, len(letters)):
        offer(i - 1, i)
    while queue:
        _, left, right, made = heapq.heappop(queue)
        if not letters[left] or not letters[right] or letters[left] + letters[right] != made:
            continue
        letters[left], letters[right] = made, ""
        following[left] = following[right]
        if following[right] >= 0:
            before[following[right]] = left
        offer(before[left], left)
        offer(left, following[left])
    found = []
    for letter in filter(None, letters):
        in_bytes = [ids[f"<0x{byte:02X}>"] for byte in letter.encode()]
        found += [ids[letter]] if letter in ids else in_bytes
    return found
