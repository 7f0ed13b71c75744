"""How a tokenizer in a file of llama.cpp joins letters to tokens: pairs of bytes, or scores."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

SPACE = "▁"  # which SentencePiece writes for " "
# Letters of a word, after what precedes it; the expressions of published tokenizers.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LETTERS = rf"{SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
MARKS = rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
CASED = f"{BEFORE}{UPPER}*{LOWER}+END|{BEFORE}{UPPER}+{LOWER}*END"
CASED_MARKS = rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
CJK = "[一-龥ࠀ-一가-퟿]+"


class Division(NamedTuple):
    """How texts are divided before pairs of bytes are joined.

    Fields:
      expressions: Each divides what the ones before have left.
      whole: Whether a part that is a token becomes its id, whatever the pairs are.
      begins: Whether a text begins with the first special token unless the file says otherwise.
      composed: Whether a letter and its accent become one letter first.
    """

    expressions: tuple[str, ...]
    whole: bool = False
    begins: bool = False
    composed: bool = False


OF_GPT2 = Division((GPT2,))
OF_STARCODER = Division((r"\p{N}", GPT2))
OF_LLAMA3 = Division((LETTERS + r"|\p{N}{1,3}" + MARKS,), whole=True, begins=True)
OF_QWEN2 = Division((LETTERS + r"|\p{N}" + MARKS,))
# The names of llama.cpp, for architectures that are read here.
DIVISIONS = {
    "gpt-2": OF_GPT2, "phi-2": OF_GPT2, "olmo": OF_GPT2, "mpt": OF_GPT2, "mellum": OF_GPT2,
    "gigachat": OF_GPT2, "a.x-4.0": OF_GPT2, "trillion": OF_GPT2,
    "smollm": OF_STARCODER, "starcoder": OF_STARCODER, "refact": OF_STARCODER,
    "codeshell": OF_STARCODER, "minerva-7b": OF_STARCODER, "command-r": OF_STARCODER,
    "llama-bpe": OF_LLAMA3, "llama3": OF_LLAMA3, "llama-v3": OF_LLAMA3, "falcon3": OF_LLAMA3,
    "pixtral": OF_LLAMA3, "midm-2.0": OF_LLAMA3,
    "smaug-bpe": Division(OF_LLAMA3.expressions), "dbrx": Division(OF_LLAMA3.expressions),
    "qwen2": OF_QWEN2._replace(composed=True), "deepseek-r1-qwen": OF_QWEN2, "kormo": OF_QWEN2,
    "megrez": OF_QWEN2, "f2llmv2": OF_QWEN2, "stablelm2": OF_QWEN2,
    "tekken": Division(
        (CASED.replace("END", "") + r"|\p{N}" + CASED_MARKS,), whole=True, begins=True
    ),
    "gpt-4o": Division((CASED.replace("END", f"{SHORT}?") + r"|\p{N}{1,3}" + CASED_MARKS,)),
    "deepseek-coder": Division((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}")),
    "default": Division((r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
}  # fmt: skip
MOST_PARTS = 10**8  # sum of the squares of the letters of tokens, which the time depends on


def byte_pairs(
    where: str, ids: dict[str, int], merges: Sequence[str], division: Division, tokenizers: Any
) -> Any:
    """Return a tokenizer that joins pairs of bytes, as GPT-2's does.

    Args:
      where: Function and file, for messages.
      ids: Ids by their tokens.
      merges: Pairs of tokens with a space between them, those that are joined first at first.
      division: How texts are divided before.
      tokenizers: The package.

    Raises:
      ValueError: If a pair is not one, or does not make a token.
    """
    pairs = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            raise ValueError(f"{where}: merges must be pairs of its tokens, got {merge!r:.60}")
        pairs.append((left, right))
    model = tokenizers.models.BPE(ids, pairs, ignore_merges=division.whole)
    library = tokenizers.Tokenizer(model)
    if division.composed:
        library.normalizer = tokenizers.normalizers.NFC()
    before = tokenizers.pre_tokenizers
    steps = [before.Split(tokenizers.Regex(each), "isolated") for each in division.expressions]
    steps.append(before.ByteLevel(add_prefix_space=False, use_regex=False))
    library.pre_tokenizer = before.Sequence(steps)
    library.decoder = tokenizers.decoders.ByteLevel()
    return library


def scored(
    where: str,
    ids: dict[str, int],
    scores: Sequence[float],
    unknown: str | None,
    prefix: bool,
    tokenizers: Any,
) -> Any:
    """Return a tokenizer that joins the neighbors that make the token of the highest score.

    Args:
      where: Function and file, for messages.
      ids: Ids by their tokens, in which "▁" stands for a space.
      scores: Score of each id.
      unknown: Token for letters that the tokenizer lacks, of which it has no bytes either.
      prefix: Whether a space is put before each text, and taken from what is decoded.
      tokenizers: The package.

    Raises:
      ValueError: If the tokens are too long.
    """
    if sum(len(token) ** 2 for token in ids) > MOST_PARTS:
        raise ValueError(f"{where}: its tokens are too long")
    pairs = [pair for token in _by_score(ids, scores) for pair in _parts(token, ids)]
    model = tokenizers.models.BPE(ids, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    library = tokenizers.Tokenizer(model)
    before, after = tokenizers.normalizers, tokenizers.decoders
    spaces = before.Replace(" ", SPACE)
    library.normalizer = before.Sequence([before.Prepend(SPACE), spaces]) if prefix else spaces
    steps = [after.Replace(SPACE, " "), after.ByteFallback(), after.Fuse()]
    if prefix:
        steps.append(after.Strip(" ", 1, 0))
    library.decoder = after.Sequence(steps)
    return library


def _by_score(ids: dict[str, int], scores: Sequence[float]) -> list[str]:
    """Return the tokens, those that are made first at first."""
    return sorted(ids, key=lambda token: (-scores[ids[token]], ids[token]))


def _parts(token: str, ids: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of tokens that make a token, the longest left one first."""
    for place in range(len(token) - 1, 0, -1):
        left, right = token[:place], token[place:]
        if left in ids and right in ids:
            yield left, right
