"""Writes the table of published models into guide/migrating/weights.md, from the families' data.

python -m tools.families
"""

import re
from pathlib import Path

from jaxnet.pretrained import gguf
from jaxnet.pretrained.adapters import GPT2_JOINED, PHI3_JOINED
from jaxnet.pretrained.config import Rows, complete
from jaxnet.pretrained.decoders import FAMILIES as DECODERS
from jaxnet.pretrained.decoders import GPT2_NAMES, LLAMA_NAMES
from jaxnet.pretrained.families import FAMILIES

PAGE = Path(__file__).parent.parent / "guide" / "migrating" / "weights.md"
HEADER = "| `model_type` | models | takes | from GGUF | save | adapters | compared with |"
MODELS = {
    "llama": "Llama 2 and 3, SmolLM, SmolLM2", "mistral": "Mistral", "mixtral": "Mixtral",
    "qwen2": "Qwen 2 and 2.5", "qwen3": "Qwen 3", "qwen3_moe": "Qwen 3 with experts",
    "gemma2": "Gemma 2", "gemma3_text": "Gemma 3 without images", "olmo2": "OLMo 2",
    "olmo3": "OLMo 3", "phi3": "Phi-3, Phi-3.5, Phi-4 mini", "smollm3": "SmolLM3",
    "granite": "Granite 3 without experts", "gpt_oss": "gpt-oss, also in MXFP4", "gpt2": "GPT-2",
    "bert": "BERT, MiniLM", "roberta": "RoBERTa", "xlm-roberta": "XLM-RoBERTa",
    "distilbert": "DistilBERT", "modernbert": "ModernBERT", "t5": "T5, T5 1.1, Flan-T5",
    "mt5": "mT5", "vit": "ViT", "deit": "DeiT", "dinov2": "DINOv2", "convnext": "ConvNeXt",
    "clip": "CLIP", "siglip": "SigLIP", "whisper": "Whisper",
}  # fmt: skip
# What a family takes; all others take texts.
TAKES: dict[str, str] = dict.fromkeys(("vit", "deit", "dinov2", "convnext"), "images")
TAKES |= dict.fromkeys(("clip", "siglip"), "images, texts") | {"whisper": "speech, texts"}
# Families whose replies to chats are those of transformers: tests/pretrained/test_replies.py.
CHATS = (
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "phi3",
    "olmo2", "olmo3", "smollm3", "granite", "gpt_oss",
)  # fmt: skip
# Models whose published weights are compared in tests/pretrained/test_answers.py.
PUBLISHED = {"llama": "SmolLM2", "bert": "MiniLM"}
# How a family is saved; tests/pretrained/test_recorded.py does so with each of these.
SAVED = dict.fromkeys(MODELS, "yes") | {"gpt_oss": "as floats"}
NEEDED = {"qwen3_moe": {"norm_topk_prob": True}}  # entries whose default is not computed


def table() -> str:
    """Return the table in Markdown, a row for each family."""
    lines = [HEADER, "|---" * HEADER.count(" | ") + "|---|"]
    lines += ["| " + " | ".join(cells(family)) + " |" for family in MODELS]
    return "\n".join(lines) + "\n"


def cells(family: str) -> list[str]:
    """Return the cells of a family."""
    takes = "texts, chats" if family in CHATS else TAKES.get(family, "texts")
    published = PUBLISHED.get(family)
    return [
        f"`{family}`",
        MODELS[family],
        takes,
        "yes" if family in gguf.FAMILIES.values() else "no",
        SAVED.get(family, "no"),
        adapters(family),
        f"{published}'s weights" if published else "random weights",
    ]


def adapters(family: str) -> str:
    """Return whether PEFT's names are those of all kernels in a block, of some or of none."""
    if family not in DECODERS:
        return "jaxnet"
    names = GPT2_NAMES | GPT2_JOINED if family == "gpt2" else LLAMA_NAMES
    if family == "phi3":
        names = names | PHI3_JOINED
    rows = rows_of(family)
    sources = {path: row if isinstance(row, str) else row[0] for path, row in rows.items()}
    kernels = [path for path in rows if re.fullmatch(r"block_\{i\}/.*kernel", path)]
    found = 0
    for path in kernels:
        layer = path.removeprefix("block_{i}/").removesuffix("/kernel")
        name = sources[path]
        found += layer in names and isinstance(name, str) and f".{names[layer]}." in name
    return "PEFT" if found == len(kernels) else "PEFT, some layers"


def rows_of(family: str) -> Rows:
    """Return the table of names of a family's default configuration."""
    config = {"model_type": family} | NEEDED.get(family, {})
    checked = complete("families", config, FAMILIES)
    how = FAMILIES[family].stored(checked, None)
    return FAMILIES[family].rows(checked, how)


def with_table(page: str) -> str:
    """Return a page with the table instead of the one that it has."""
    found = re.compile(re.escape(HEADER) + r"\n(?:\|.*\n)+")
    if len(found.findall(page)) != 1:
        raise ValueError(f"{PAGE.name} must have one table that begins with {HEADER}")
    return found.sub(lambda _: table(), page)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
