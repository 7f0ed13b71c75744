"""Greedy replies to chats, of families with their forms of tokenizer and template, as published."""

import json
import re
from os.path import commonprefix

import numpy as np
import pytest

import jaxnet as jn
from tests.pages import ROOT
from tests.pretrained.template_forms import ENDS, TEMPLATES
from tests.pretrained.test_loading import SIZES, published
from tests.pretrained.tokenizer_forms import write_form

# Family of templates -> model, and form of its tokenizer.
FAMILIES = {
    "llama_2": ("llama", "fallback", "begin"), "llama_3": ("llama", "bytes", "begin"),
    "mistral": ("mistral", "fallback", "begin"), "mixtral": ("mixtral", "fallback", "begin"),
    "qwen_2": ("qwen2", "bytes", "none"), "qwen_3": ("qwen3", "bytes", "none"),
    "qwen_3 with experts": ("qwen3_moe", "bytes", "none"),
    "gemma_2": ("gemma2", "metaspace", "begin"), "gemma_3": ("gemma3", "metaspace", "begin"),
    "phi_3": ("phi3", "fallback", "begin"), "olmo_2": ("olmo2", "bytes", "none"),
    "olmo_3": ("olmo3", "bytes", "none"), "smollm_3": ("smollm3", "bytes", "none"),
    "granite": ("granite", "bytes", "none"), "gpt-oss": ("gpt_oss", "bytes", "none"),
}  # fmt: skip
QUESTIONS = ["Hi", "three rivers in Europe?", "naïve 🌧 東京", "  spaces \n", "What is 3 + 4?"]
VOCABULARY = 700
STOPS = [*range(5, VOCABULARY, 4)]  # many, so that nets with random weights end some replies


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of transformers
@pytest.mark.parametrize("family", FAMILIES)
def test_a_reply_is_that_of_transformers(family, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    monkeypatch.setitem(SIZES, "vocab_size", VOCABULARY)
    monkeypatch.setitem(SIZES, "max_position_embeddings", 512)
    name, kind, post = FAMILIES[family]
    template = family.partition(" ")[0]
    torch, model = published(name, tmp_path)
    special = {"additional_special_tokens": [ENDS[template], "<|im_start|>", "<|start|>"]}
    write_form(tmp_path, kind, post, chat_template=TEMPLATES[template], **special)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": STOPS}))
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    net, params, _ = jn.pretrained.load(tmp_path)
    words = jn.pretrained.tokenizer(tmp_path)
    assert words.stop_ids == tuple(sorted({*STOPS, 2, words._id(ENDS[template])}))
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        ids = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        options = {"do_sample": False, "eos_token_id": [*words.stop_ids], "pad_token_id": 0}
        with torch.no_grad():
            whole = model.generate(torch.tensor([ids]), max_new_tokens=24, **options)[0].tolist()
        end = len(whole) - (whole[-1] in words.stop_ids)
        before = theirs.decode(ids, skip_special_tokens=True)
        wanted = theirs.decode(whole[:end], skip_special_tokens=True)
        found = jn.pretrained.generate(net, params, words, messages, length=24, temperature=0)
        # A byte of the reply may spoil a letter of the prompt, whose last byte is before it.
        beyond = wanted[len(commonprefix([before, wanted])) :]
        assert "".join(found) == beyond, question


def test_all_families_are_tried():
    assert {family.partition(" ")[0] for family in FAMILIES} == set(ENDS)
    assert len(FAMILIES) == len(ENDS) + 1


CHAT = [
    {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The first."},
    {"role": "user", "content": "More"}, {"role": "assistant", "content": "The second."},
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_guide_trains_on_replies_alone(family, tmp_path):
    """guide/own_text.md divides the ids of a chat into a prompt and a reply with its end."""
    pytest.importorskip("tokenizers", reason="reads the tokenizer")
    pytest.importorskip("jinja2", reason="renders the template")
    _, kind, post = FAMILIES[family]
    template = family.partition(" ")[0]
    special = {"additional_special_tokens": [ENDS[template], "<|im_start|>", "<|start|>"]}
    write_form(tmp_path, kind, post, chat_template=TEMPLATES[template], **special)
    words = jn.pretrained.tokenizer(tmp_path)
    page = (ROOT / "guide" / "own_text.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^def coded\(.*?\n\n\n", page, re.M | re.S)
    names = {"np": np, "tokenizer": words}
    exec(code, names)
    rows = [*names["coded"](CHAT)]
    assert len(rows) == 2
    for count, (ids, counted) in enumerate(rows, start=1):
        before = CHAT[: 2 * count - 1]
        assert ids[~counted].tolist() == words.chat(before).tolist()
        assert words.decode(ids[counted]).strip().endswith(CHAT[2 * count - 1]["content"])
        assert ids[-1] == words._id(ENDS[template])
