"""Chat templates of the forms that families of published models have, written for these tests."""

from pathlib import Path

FOLDER = Path(__file__).parent / "templates"
# What ends the turn of a family.
ENDS = {
    "llama_2": "</s>", "llama_3": "<|eot_id|>", "mistral": "</s>", "mixtral": "</s>",
    "qwen_2": "<|im_end|>", "qwen_3": "<|im_end|>", "gemma_2": "<end_of_turn>",
    "gemma_3": "<end_of_turn>", "phi_3": "<|end|>", "olmo_2": "</s>", "olmo_3": "</s>",
    "smollm_3": "<|im_end|>", "granite": "<|end_of_text|>", "gpt-oss": "<|return|>",
}  # fmt: skip
TEMPLATES = {family: (FOLDER / f"{family}.jinja").read_text("utf-8") for family in ENDS}
