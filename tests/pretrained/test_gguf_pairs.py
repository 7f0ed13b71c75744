"""How tokenizers in files of llama.cpp join letters, against the tokenizers that were written."""

import pytest

import jaxnet as jn
from jaxnet.pretrained.gguf_pairs import DIVISIONS
from tests.compared import load_torchvision
from tests.pretrained.gguf_forms import (
    CONTROL,
    MORE_TEXTS,
    STEPS,
    UNKNOWN,
    USER,
    entries_of,
    paired,
    reference,
    scored_entries,
    write,
)

ARCHITECTURES = {"qwen2": "qwen2", "gpt-4o": "phi3", "dbrx": "phi3"}
# In which transformers differs from the models' own tokenizers: Qwen composes letters first, users'
# tokens may have spaces, the first space of Llama is one more, and Phi-3's tokens take those after.
OTHERWISE = {
    "gpt2": ("New York",), "qwen2": ("New York", "e\u0301"), "gemma3": ("<mask>",),
    "llama": ("<think>", "</s>", "<s>", "<|turn|>", "New York"),
    "phi3": ("<think>", "</s>", "<|turn|>"),
}  # fmt: skip


def theirs_of(path):
    """Return the tokenizer of a file as transformers reads it."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    load_torchvision()
    return transformers.PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name)


@pytest.mark.parametrize("pre", STEPS)
def test_pairs_of_bytes_are_joined_as_in_the_original(pre, tmp_path):
    pytest.importorskip("tokenizers")
    original = paired(pre)
    architecture = ARCHITECTURES.get(pre, "llama")
    ours = jn.pretrained.tokenizer(
        write(tmp_path / "a.gguf", entries_of(original) | {"pre": pre}, architecture)
    )
    for text in MORE_TEXTS:
        ids = original.encode(text, add_special_tokens=False).ids
        assert ours.encode(text).tolist() == ids, text
        assert ours.decode(ids) == original.decode(ids), text
    assert ours.size == original.get_vocab_size()


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_letters_are_joined_by_scores(kind, tmp_path):
    entries = scored_entries(kind)
    ours = jn.pretrained.tokenizer(write(tmp_path / "a.gguf", entries, kind))
    kinds = zip(entries["tokens"], entries["token_type"], strict=True)
    added = [token for token, type_ in kinds if type_ in (UNKNOWN, CONTROL, USER) and token.strip()]
    for text in MORE_TEXTS:
        if kind == "gemma3" and "▁" in text:
            continue  # joined with the spaces around it, as by Gemma's own tokenizer
        ids = ours.encode(text).tolist()
        assert ids == reference(entries, text), text
        if not any(token in text for token in ("▁", *added)):
            assert ours.decode(ids) == text


@pytest.mark.slow
@pytest.mark.parametrize("pre", sorted({"gpt-2", "llama-bpe", "qwen2", "tekken", "gpt-4o", "dbrx"}))
def test_pairs_of_bytes_are_joined_as_by_transformers(pre, tmp_path):
    original = paired(pre)
    architecture = ARCHITECTURES.get(pre, "llama")
    path = write(tmp_path / "a.gguf", entries_of(original) | {"pre": pre}, architecture)
    ours, theirs = jn.pretrained.tokenizer(path), theirs_of(path)
    for text in MORE_TEXTS:
        if not any(word in text for word in OTHERWISE.get(pre, OTHERWISE["gpt2"])):
            ids = theirs(text, add_special_tokens=False)["input_ids"]
            assert ours.encode(text).tolist() == ids, text
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gemma3", "phi3"])
def test_letters_are_joined_as_by_transformers(kind, tmp_path):
    path = write(tmp_path / "a.gguf", scored_entries(kind), kind)
    ours, theirs = jn.pretrained.tokenizer(path), theirs_of(path)
    for text in MORE_TEXTS:
        if any(word in text for word in OTHERWISE[kind]):
            continue
        if kind == "llama" and text.startswith(" "):
            continue
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text).tolist() == ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text


def test_every_name_has_a_division():
    assert STEPS.keys() <= DIVISIONS.keys()
