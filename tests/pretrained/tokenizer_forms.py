"""Folders with tokenizers of every form that published models have, and texts to try them on."""

import json
import random
from pathlib import Path
from typing import Any

CORPUS = [
    "three rivers in Europe, the Rhine and the Danube.",
    "It's what we don't know: 1234 + 56 = 1290!",
    "naïve café, Zürich; ein Hund läuft über die Straße",
    "def f(x):\n    return x ** 2  # a comment",
    "New York is not York . He did n't say why ?", "東京は日本の首都です。 北京在中国。",
]  # fmt: skip
WORDS = "river Europe the and Hund läuft 東京 12 don't x = ( ) . , ! \n".split(" ")
TEXTS = [
    "", " ", "  ", "\n", "\t", "a", "A", " a", "a ", "  two  spaces  ", "line\nline\r\n\nend\n",
    "three rivers in Europe", "It's John 's book , is n't it ?", "naïve café", "e\u0301a\u0308",
    "🌧 rain 👩‍👩‍👧 family 🏳️‍🌈", "東京は日本の首都です",
    "한국어와 Ελληνικά и русский", "العربية עברית", "ﬁ ½ ① Ａ",
    "\u200bzero\u200bwidth\ufeff", "\ufffd", "a\u00a0b\u3000c", "x" * 200, "1234567890 3.14 1e-9",
    "<s>", "</s> after", "before <mask> after", "<think>hm</think>", "New York, New York",
    "[CLS] a [SEP]",
    "<0x41> ▁ Ġ ##ing", "{\"a\": [1, 2]}", "https://a.b/c?d=e&f#g", "snake_case CamelCase", "a\0b",
    "don't I'm we've you're", "Hi <|turn|> there<|turn|>", "ends with a space ",
    "".join(random.Random(0).choice(WORDS) + " " for _ in range(2400))[:10_000],
]  # fmt: skip
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] | trim }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
SETTINGS = {
    "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
    "unk_token": "<unk>", "mask_token": "<mask>", "chat_template": TEMPLATE,
}  # fmt: skip
MODELS = ("bytes", "fallback", "metaspace", "unigram", "wordpiece")
POSTS = ("none", "begin", "both", "pair")


def trained(kind: str) -> dict[str, Any]:
    """Return tokenizer.json of a model, without added tokens and post-processor."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    special = ["<unk>", "<s>", "</s>"]
    if kind == "bytes":
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    elif kind in ("fallback", "metaspace"):
        made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special)
    elif kind == "unigram":
        made = tokenizers.Tokenizer(models.Unigram())
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>")
    else:
        made = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece(cleanup=False)
        trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special)
    made.train_from_iterator(CORPUS * 5, trainer)
    contents = json.loads(made.to_str())
    if kind in ("fallback", "metaspace"):
        _with_bytes(contents, kind)
    return contents


def _with_bytes(contents: dict[str, Any], kind: str) -> None:
    """Give a model tokens for the bytes of letters that it lacks, as Llama 2 and Gemma have."""
    vocabulary = sorted(contents["model"]["vocab"], key=contents["model"]["vocab"].get)
    tokens = [*vocabulary[:3], *(f"<0x{byte:02X}>" for byte in range(256)), *vocabulary[3:]]
    contents["model"]["vocab"] = {token: i for i, token in enumerate(tokens)}
    contents["model"]["byte_fallback"] = True
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    steps = [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    if kind == "fallback":  # Llama 2
        prepend = {"type": "Prepend", "prepend": "▁"}
        contents["pre_tokenizer"] = None
        contents["normalizer"] = {"type": "Sequence", "normalizers": [prepend, space]}
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    else:  # Gemma
        contents["pre_tokenizer"] = None
        contents["normalizer"] = space
    contents["decoder"] = {"type": "Sequence", "decoders": steps}


def with_added(contents: dict[str, Any]) -> dict[str, Any]:
    """Return the contents with added tokens of every kind."""
    import tokenizers
    from tokenizers import AddedToken

    made = tokenizers.Tokenizer.from_str(json.dumps(contents))
    made.add_special_tokens([AddedToken("<mask>", lstrip=True), "<|turn|>"])
    made.add_tokens([
        AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False),
        AddedToken("New York", normalized=True), AddedToken("Hund", single_word=True),
        AddedToken("[SEP]", rstrip=True, normalized=False),
    ])  # fmt: skip
    return json.loads(made.to_str())


def post_processor(kind: str, ids: dict[str, int]) -> Any:
    """Return what adds special tokens to a text."""
    begin, end = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("<s>", "</s>"))
    text, second = ({"Sequence": {"id": id_, "type_id": 0}} for id_ in "AB")
    if kind == "none":
        return None
    if kind == "pair":  # of BERT
        return {"type": "BertProcessing", "sep": ["</s>", ids["</s>"]], "cls": ["<s>", ids["<s>"]]}
    single = [begin, text] + ([end] if kind == "both" else [])
    special = {
        token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in ("<s>", "</s>")
    }
    return {
        "type": "TemplateProcessing", "single": single, "pair": [*single, second],
        "special_tokens": special,
    }  # fmt: skip


def write_form(folder: Path, kind: str, post: str, **settings: Any) -> Path:
    """Write the files of a tokenizer into a folder, which is returned."""
    contents = with_added(trained(kind))
    ids = {token["content"]: token["id"] for token in contents["added_tokens"]}
    contents["post_processor"] = post_processor(post, ids)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(contents))
    all_settings = SETTINGS | {"clean_up_tokenization_spaces": kind in ("wordpiece", "unigram")}
    all_settings |= settings
    (folder / "tokenizer_config.json").write_text(json.dumps(all_settings))
    return folder
