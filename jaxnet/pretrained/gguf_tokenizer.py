"""The tokenizer in a file of llama.cpp."""

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from jaxnet.pretrained.gguf_header import read_entries
from jaxnet.pretrained.gguf_pairs import DIVISIONS, SPACE, Division, byte_pairs, scored
from jaxnet.pretrained.words import Words
from jaxnet.services.checks import is_integer
from jaxnet.services.files import readable
from jaxnet.services.warn import warn

# Names of special tokens -> their names in a file of llama.cpp.
ROLES = {
    "bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown",
}  # fmt: skip
ENDS = ("eos", "eot", "eom")  # of a text, of a turn, of a message
# Special tokens that end a text or a turn, whatever else a file says; those of llama.cpp.
ENDING = {
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
    "<|end_of_text|>", "<eos>", "<EOT>", "<｜end▁of▁sentence｜>",
}  # fmt: skip
TAB = "<0x09>"
NONE = (-1, 2**32 - 1)  # which some files have for the id of a token that a model lacks
SCORED, PAIRED = "llama", "gpt2"  # SentencePiece with scores, pairs of bytes
SCORED_IDS = {"bos": 1, "eos": 2, "unknown": 0}  # if a file does not say
# Types of tokens. The text of a special or a user's own token becomes its id wherever it stands.
NORMAL, UNKNOWN, CONTROL, USER, UNUSED = 1, 2, 3, 4, 5
# Special tokens of Phi-3 that leave the spaces after them, as the others do not.
LEAVES_SPACES = {"<unk>", "<s>", "<|endoftext|>"}
MOST = 2**20  # tokens; the largest that are published have 2**18
MOST_LETTERS = 2**28  # of all tokens


class Listed(NamedTuple):
    """The tokens of a file.

    Fields:
      where: Function and file, for messages.
      fields: Entries of the file.
      tokens: The tokens in the order of their ids.
      types: Type of each.
      roles: Ids of the tokens that the file names, by their names.
    """

    where: str
    fields: Mapping[str, Any]
    tokens: list[str]
    types: list[int]
    roles: dict[str, int]

    @property
    def has_scores(self) -> bool:
        """Whether letters are joined by scores."""
        return self.fields["tokenizer.ggml.model"] == SCORED

    @property
    def architecture(self) -> str:
        """Architecture of the model, empty if the file does not say."""
        return str(self.fields.get("general.architecture", ""))

    def ids(self) -> dict[str, int]:
        """Return the ids by their tokens, without those that no text has."""
        used = zip(self.tokens, self.types, strict=True)
        return {token: i for i, (token, type_) in enumerate(used) if token and type_ != UNUSED}

    def flag(self, name: str, otherwise: bool) -> bool:
        """Return an entry that is yes or no.

        Raises:
          ValueError: If it is neither.
        """
        value = self.fields.get(f"tokenizer.ggml.{name}", otherwise)
        if not isinstance(value, bool):
            raise ValueError(f"{self.where}: {name} must be True or False, got {value!r:.60}")
        return value


def read_gguf_words(who: str, place: Path, tokenizers: Any) -> Words:
    """Return the tokenizer of a file, its special tokens and its chat templates.

    Raises:
      OSError: If the file cannot be read.
      ValueError: If its tokenizer is not of a known kind, or its entries contradict each other.
    """
    listed = _listed(f"{who}: {place}", entries(who, place))
    if listed.has_scores:
        library, begins = _scored(listed, tokenizers), True
    else:
        division = _division(listed)
        merges = _texts(listed.where, listed.fields, "tokenizer.ggml.merges")
        library = byte_pairs(listed.where, listed.ids(), merges, division, tokenizers)
        begins = division.begins
    library.add_tokens(_added(listed, tokenizers))
    _add_ends(listed, library, begins, tokenizers)
    roles = {role: listed.roles.get(name) for role, name in ROLES.items()}
    return Words(
        place=place,
        library=library,
        special={role: listed.tokens[id_] for role, id_ in roles.items() if id_ is not None},
        templates=_templates(listed),
        stop_ids=_stop_ids(listed),
        cleans=False,
    )


def entries(who: str, place: Path) -> dict[str, Any]:
    """Return the entries of a file of llama.cpp, which are read once until it changes."""
    return _cached_entries(who, place, readable(who, place).stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _cached_entries(who: str, place: Path, changed: int) -> dict[str, Any]:
    try:
        return read_entries(place)
    except ValueError as error:
        raise ValueError(f"{who}: {place} is not a file of llama.cpp: {error}") from None


# What the entries say.


def _listed(where: str, fields: dict[str, Any]) -> Listed:
    """Return the tokens of a file, whose entries agree with each other."""
    kind = fields.get("tokenizer.ggml.model")
    if kind not in (SCORED, PAIRED):
        raise ValueError(
            f"{where}: the tokenizer must join letters by scores ({SCORED}) or pairs of bytes "
            f"({PAIRED}), got {kind!r:.60}"
        )
    tokens = _texts(where, fields, "tokenizer.ggml.tokens")
    if not 0 < len(tokens) <= MOST or sum(map(len, tokens)) > MOST_LETTERS:
        raise ValueError(f"{where}: it must have 1 to {MOST} tokens, got {len(tokens)}")
    if len({*tokens} - {""}) != len(tokens) - tokens.count(""):
        raise ValueError(f"{where}: its tokens must differ from each other")
    types = _numbers(where, fields, "token_type", len(tokens), [NORMAL] * len(tokens))
    roles = _roles(where, fields, len(tokens))
    for id_ in roles.values():
        if types[id_] in (NORMAL, UNUSED):
            types[id_] = CONTROL
    return Listed(where, fields, tokens, types, roles)


def _texts(where: str, fields: Mapping[str, Any], name: str) -> list[str]:
    value = fields.get(name)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{where}: {name} must be a list of texts, got {value!r:.60}")
    return value


def _numbers(
    where: str, fields: Mapping[str, Any], name: str, count: int, otherwise: list[Any] | None
) -> list[Any]:
    """Return one number for each token."""
    value = fields.get(f"tokenizer.ggml.{name}", otherwise)
    listed = isinstance(value, list) and len(value) == count
    if not listed or not all(type(x) in (int, float) and math.isfinite(x) for x in value):
        what = f"{len(value)} entries" if isinstance(value, list) else repr(value)
        raise ValueError(
            f"{where}: {name} must be {count} finite numbers, one for each token, got {what:.60}"
        )
    return [*value]


def _roles(where: str, fields: Mapping[str, Any], count: int) -> dict[str, int]:
    """Return the ids of the tokens that a file names, by their names."""
    scores = fields["tokenizer.ggml.model"] == SCORED
    usual = {name: id_ for name, id_ in SCORED_IDS.items() if scores and id_ < count}
    found = {}
    for name in dict.fromkeys((*ROLES.values(), *ENDS)):
        id_ = fields.get(f"tokenizer.ggml.{name}_token_id", usual.get(name))
        if id_ is None or id_ in NONE:
            continue
        if not is_integer(id_) or not 0 <= id_ < count:
            raise ValueError(
                f"{where}: {name}_token_id must be an id of its {count} tokens, got {id_!r:.60}"
            )
        found[name] = int(id_)
    return found


def _division(listed: Listed) -> Division:
    """Return how a text is divided before pairs of bytes are joined."""
    name = listed.fields.get("tokenizer.ggml.pre")
    if name is None:
        warn(
            f"{listed.where} does not say how its tokenizer divides texts. It is read as llama.cpp "
            "reads it, which may give other ids than the model was trained with"
        )
        name = "default"
    if name not in DIVISIONS:
        raise ValueError(
            f"{listed.where}: the tokenizer must divide texts as one of {', '.join(DIVISIONS)}, "
            f"got {name!r:.60}"
        )
    return DIVISIONS[name]


def _templates(listed: Listed) -> dict[str, str]:
    """Return the chat templates by their names."""
    entry = "tokenizer.chat_template"
    found = {
        "default" if name == entry else name.removeprefix(f"{entry}."): template
        for name, template in listed.fields.items()
        if name == entry or name.startswith(f"{entry}.")
    }
    for name, template in found.items():
        if not isinstance(template, str):
            raise ValueError(
                f"{listed.where}: the chat template {name!r:.60} must be a text, got "
                f"{template!r:.60}"
            )
    return found


def _stop_ids(listed: Listed) -> frozenset[int]:
    named = {listed.roles[name] for name in ENDS if name in listed.roles}
    pairs = zip(listed.tokens, listed.types, strict=True)
    ending = (i for i, (token, type_) in enumerate(pairs) if token in ENDING and type_ == CONTROL)
    return frozenset(named.union(ending))


# What the tokenizer becomes.


def _scored(listed: Listed, tokenizers: Any) -> Any:
    """Return a tokenizer of SentencePiece.

    Gemma's scores are not in the order in which tokens are joined, which is that of the ids.
    """
    count = len(listed.tokens)
    scores = _numbers(listed.where, listed.fields, "scores", count, None)
    ids = listed.ids()
    if listed.architecture.startswith("gemma"):
        scores = [-float(i) for i in range(count)]
        ids = _ids_of_gemma(ids)
    unknown = listed.roles.get("unknown")
    return scored(
        listed.where,
        ids,
        scores,
        unknown=None if unknown is None else listed.tokens[unknown],
        prefix=listed.flag("add_space_prefix", True),
        tokenizers=tokenizers,
    )


def _ids_of_gemma(ids: dict[str, int]) -> dict[str, int]:
    """Return ids by tokens as Gemma's own tokenizer has them.

    A file writes its tokens of several spaces with spaces, and has no tab but as a byte, of which
    longer tokens are made.
    """
    found = {token: id_ for token, id_ in ids.items() if not _is_blank(token)}
    found |= {SPACE * len(token): id_ for token, id_ in ids.items() if _is_blank(token)}
    if "\t" not in found and TAB in found:
        found["\t"] = found.pop(TAB)
    return found


def _is_blank(token: str) -> bool:
    return not token.strip(" ")


def _added(listed: Listed, tokenizers: Any) -> list[Any]:
    """Return the tokens whose text becomes their id wherever it stands."""
    gemma = listed.has_scores and listed.architecture.startswith("gemma")
    phi3 = listed.has_scores and listed.architecture == "phi3"
    found = []
    for token, type_ in zip(listed.tokens, listed.types, strict=True):
        if not token or type_ not in (UNKNOWN, CONTROL, USER):
            continue
        if gemma and _is_blank(token):
            continue  # joined, as spaces within a text are
        strips = phi3 and token not in LEAVES_SPACES
        found.append(
            tokenizers.AddedToken(token, special=type_ != USER, normalized=False, rstrip=strips)
        )
    return found


def _add_ends(listed: Listed, library: Any, begins: bool, tokenizers: Any) -> None:
    """Add what writes the first and the last token of a text, if the file asks for them."""
    wanted = {"bos": begins and "bos" in listed.roles, "eos": False}
    tokens = {}
    for name, usual in wanted.items():
        if not listed.flag(f"add_{name}_token", usual):
            continue
        if name not in listed.roles:
            raise ValueError(f"{listed.where}: add_{name}_token needs {name}_token_id")
        tokens[name] = listed.tokens[listed.roles[name]]
    if tokens:
        parts = tokens.get("bos"), "$A", tokens.get("eos")
        library.post_processor = tokenizers.processors.TemplateProcessing(
            single=[part for part in parts if part],
            special_tokens=[(token, listed.roles[name]) for name, token in tokens.items()],
        )
