"""The tokenizer of a published model: what turns text, or a chat, into its ids and back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.pretrained.source import place_of
from jaxnet.pretrained.templates import render, template_of
from jaxnet.pretrained.tokenizer_files import Words, read_words
from jaxnet.services.checks import check_options, check_text, on_host

# Our names of special tokens, and their names in a model's files, of which the first is used.
ROLES = {
    "start": ("bos_token", "cls_token"), "end": ("eos_token", "sep_token"), "pad": ("pad_token",),
    "unknown": ("unk_token",),
}  # fmt: skip
LARGEST = 2**31 - 1  # of an id
ANSWER = "Qzjx"  # a reply that no template holds itself
# What `transformers` makes of spaces if the files say clean_up_tokenization_spaces.
CLEANED = {
    " .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't", " 'm": "'m",
    " 's": "'s", " 've": "'ve", " 're": "'re",
}  # fmt: skip
LONGEST_CLEANED = max(map(len, CLEANED))


def tokenizer(
    source: str | Path, *, download: bool = False, revision: str | None = None
) -> "Tokenizer":
    """Return the tokenizer of a published model.

    Args:
      source, download, revision: As in `load`. The weights are not downloaded.

    Returns:
      A `Tokenizer`, which encodes and decodes as the model's own files say.

    Raises:
      ImportError: If tokenizers is not installed.
      OSError: If a file is missing or cannot be read.
      ValueError: If the model has no tokenizer of a known kind.

    Example:
      >>> words = tokenizer("HuggingFaceTB/SmolLM2-135M-Instruct")  # doctest: +SKIP
      >>> words.decode(words.encode("The capital of France"))  # doctest: +SKIP
      'The capital of France'
      >>> words.decode(words.chat("Name a river."))  # doctest: +SKIP
      'system\\nYou are a helpful AI assistant...\\nuser\\nName a river.\\nassistant\\n'
    """
    place = place_of("tokenizer", source, download, revision, weights=False)
    return Tokenizer(read_words("tokenizer", place))


class Tokenizer:
    """What turns text into the ids of a published model and back, made by `tokenizer`.

    Attributes:
      size: Number of ids, which are 0 to size - 1. Some of them may stand for nothing.
      start, end, pad, unknown: Ids of the special tokens; None if the model lacks one. In encoders
        such as BERT, [CLS] and [SEP] start and end a text.
      stop_ids: Ids that end a reply: of generation_config.json and config.json, the end of a text,
        and what the chat template writes after a reply.
    """

    def __init__(self, words: Words):
        self._words = words
        self._library = words.library
        self.size = max(words.library.get_vocab().values(), default=-1) + 1
        self.start, self.end = self._role("start"), self._role("end")
        self.pad, self.unknown = self._role("pad"), self._role("unknown")

    def __repr__(self) -> str:
        return f"Tokenizer({str(self._words.place)!r}, size={self.size})"

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text, int32 (length,), without the tokens that begin or end texts.

        A special token that the text names, such as "<|im_end|>", becomes its id. The ids of two
        texts are joined to those of a row of training data.

        Raises:
          TypeError: If `text` is not a str.
          ValueError: If `text` has half of a surrogate pair.
        """
        return self._ids("encode", "text", text)

    def decode(self, ids: Any) -> str:
        """Return the text of ids (length,), without special tokens.

        Raises:
          TypeError: If `ids` are not integers.
          ValueError: If an id is below 0, or has more than 31 bits.
        """
        ids = on_host("decode", "ids", ids, "(length,)", "integers").astype(np.int64)
        wrong = ids[(ids < 0) | (ids > LARGEST)]
        if wrong.size:
            raise ValueError(f"decode: ids must be in [0, 2**31), got {wrong[0]}")
        return self.text_of(ids.tolist())

    def chat(self, messages: Any, *, reply: bool = True) -> np.ndarray:
        """Return the ids of messages, int32 (length,), as the model's chat template writes them.

        The template is a program in jinja2; it runs in a sandbox that bounds what it may compute.

        Args:
          messages: List of dicts {"role": "user", "content": text}, or a text of the user.
          reply: Whether the ids end where the model's reply begins.

        Raises:
          ImportError: If jinja2 is not installed.
          TypeError: If a message is not a dict with a role.
          ValueError: If the model has no chat template, or the template refuses the messages.
        """
        check_options("chat", reply=reply)
        return self._ids("chat", "the text of the template", self.chat_text(messages, reply))

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a reply."""
        # A [SEP] divides texts too, so it ends no reply unless the files say so.
        ends = self._words.special.get("eos_token"), self._end_of_turn()
        found = {*self._words.stop_ids, *map(self._id, ends)}
        return tuple(sorted(id_ for id_ in found if id_ is not None))

    # What `generate` needs.

    @cached_property
    def beginning(self) -> list[int]:
        """Ids that the model's post-processor writes before a text."""
        with self._errors("generate"):
            coded = self._library.encode("a")
            sequences = coded.sequence_ids
        first = sequences.index(0) if 0 in sequences else 0
        return coded.ids[:first]

    def text_of(self, ids: Sequence[int]) -> str:
        """Return `decode(ids)`."""
        with self._errors("decode"):
            text = self._library.decode(ids, skip_special_tokens=True)
        if self._words.cleans:
            for given, wanted in CLEANED.items():
                text = text.replace(given, wanted)
        return text

    def chat_text(self, messages: Any, reply: bool) -> str:
        """Return what the chat template writes for messages."""
        template = template_of("chat", self._words)
        return render("chat", template, messages, self._words.special, reply)

    def has_special(self, text: str) -> bool:
        """Return whether a text names a special token, which `decode` leaves out."""
        return any(token in text for token in self._special_words)

    def loose(self, ids: Sequence[int]) -> int:
        """Return how many of the last ids are single bytes, whose text depends on the next ids.

        Special tokens among them are left out before the bytes are joined.
        """
        count = 0
        for place, id_ in enumerate(reversed(ids), start=1):
            if id_ in self._byte_ids:
                count = place
            elif id_ not in self._special_ids and self._library.id_to_token(id_) is not None:
                break
        return count

    def settled(self, text: str) -> int:
        """Return how many letters at the beginning of a text stay when it is continued."""
        settled = len(text.rstrip("\ufffd"))
        if self._words.cleans:
            space = text.find(" ", max(0, settled - LONGEST_CLEANED), settled)
            settled = settled if space < 0 else space
        return settled

    @cached_property
    def _special_words(self) -> list[str]:
        added = self._library.get_added_tokens_decoder().values()
        return [token.content for token in added if token.special]

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        added = self._library.get_added_tokens_decoder()
        return frozenset(id_ for id_, token in added.items() if token.special)

    @cached_property
    def _byte_ids(self) -> frozenset[int]:
        found = (self._id(f"<0x{byte:02X}>") for byte in range(256))
        return frozenset(id_ for id_ in found if id_ is not None)

    def _ids(self, who: str, what: str, text: str) -> np.ndarray:
        """Return the ids of a text, without the tokens that begin or end texts."""
        check_text(who, what, text)
        with self._errors(who):
            found = self._library.encode(text, add_special_tokens=False).ids
        return np.array(found, np.int32)

    def _role(self, role: str) -> int | None:
        """Return the id of a special token by our name."""
        named = [self._words.special[name] for name in ROLES[role] if name in self._words.special]
        return self._id(named[0]) if named else None

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self._library.token_to_id(token)

    def _end_of_turn(self) -> str | None:
        """Return the special token that the chat template writes after a reply."""
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ANSWER}]
        with suppress(ValueError):  # no template, or none for these messages
            _, found, rest = self.chat_text(messages, False).rpartition(ANSWER)
            rest = rest.lstrip()
            after = [word for word in self._special_words if rest.startswith(word)]
            return max(after, key=len, default=None) if found else None
        return None

    @contextmanager
    def _errors(self, who: str) -> Iterator[None]:
        """Raise what the library says, in words that name the files."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise ValueError(
                    f"{who}: the tokenizer of {self._words.place} fails: {error!r:.200}"
                ) from None
            raise
