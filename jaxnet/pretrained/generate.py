"""Text that a language model writes after a text or a chat, piece by piece."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os.path import commonprefix
from typing import Any, NamedTuple

import jax

from jaxnet.core import Layer, Params
from jaxnet.data import Vocabulary
from jaxnet.decoding import iterate
from jaxnet.pretrained.tokenizer import Tokenizer
from jaxnet.services.checks import check_list, is_integer, on_host

Prompt = Any  # a text, a list of messages, or ids (length,)


def generate(
    net: Layer,
    params: Params,
    tokenizer: Tokenizer | Vocabulary,
    prompt: Prompt,
    key: jax.Array | None = None,
    *,
    stop: Sequence[str | int] = (),
    **options: Any,
) -> Iterator[str]:
    """Yield the text that a language model writes after a prompt, piece by piece.

    The pieces are whole letters, although a token may be half of one; a letter that `length` cuts
    is U+FFFD. Joined, they are what the text of prompt and reply has beyond the text of the prompt.
    The reply ends with the first of the tokenizer's `stop_ids`.

    Args:
      net, params, key: As in `jn.decoding.generate`.
      tokenizer: Tokenizer of the model, see `tokenizer`, or a `jn.data.Vocabulary`.
      prompt: A text, which begins as the model's texts begin; a list of messages, see
        `Tokenizer.chat`; or ids (length,), which are taken as they are.
      stop: Texts and ids that end the reply too. A text ends it in whatever tokens it is written,
        a special token such as "<|eot_id|>" where it is written.
      options: Options of `jn.decoding.iterate`, such as length and temperature.

    Returns:
      An iterator of texts.

    Raises:
      TypeError, ValueError: As in `jn.decoding.iterate`, and as in `Tokenizer.chat` for messages.

    Example:
      >>> words = jn.data.characters("abc. ")
      >>> net = jn.serial(jn.embedding(words.size, 8), jn.gru(8), jn.dense(words.size))
      >>> params, _ = net.init(jax.random.key(0), jn.spec((1, 4), jnp.int32))
      >>> options = {"length": 9, "temperature": 0}
      >>> text = "".join(generate(net, params, words, "a", stop=["."], **options))
      >>> "." in text
      False
    """
    if isinstance(tokenizer, Vocabulary):
        words: Any = _Vocabulary(tokenizer)
    elif isinstance(tokenizer, Tokenizer):
        words = tokenizer
    else:
        raise TypeError(
            "generate: tokenizer must be one of jn.pretrained.tokenizer(source), or a "
            f"jn.data.Vocabulary, got a {type(tokenizer).__name__}"
        )
    ids = _prompt_ids(words, prompt)
    stops = _stops(words, stop)
    tokens = iterate(net, params, [ids], key, **options)
    return pieces(words, ids, stops, (int(token[0]) for token in tokens))


class Stops(NamedTuple):
    """What ends a reply.

    Fields:
      texts: Texts, none of which is yielded, not even in part.
      ids: Sequences of ids.
    """

    texts: tuple[str, ...] = ()
    ids: tuple[tuple[int, ...], ...] = ()


def pieces(words: Any, prompt: list[int], stops: Stops, tokens: Iterable[int]) -> Iterator[str]:
    """Yield what a reply adds to the text of a prompt, up to the first stop.

    Args:
      words: Tokenizer.
      prompt: Ids before the reply.
      stops: What ends the reply.
      tokens: Ids of the reply.

    Example:
      >>> words = _Vocabulary(jn.data.characters("one, two"))
      >>> ids = words.encode("one, two, one").tolist()
      >>> "".join(pieces(words, ids[:2], Stops((", o",)), ids[2:]))
      'e, two'
    """
    before = words.text_of(prompt)
    reply: list[int] = []
    told = 0  # letters that are yielded
    for token in tokens:
        reply.append(token)
        ends = [len(ids) for ids in stops.ids if tuple(reply[-len(ids) :]) == ids]
        if ends:
            del reply[-max(ends) :]
            break
        text = _beyond(before, words.text_of(prompt + reply))
        ends = [text.find(word) for word in stops.texts if word in text]
        if ends:
            yield text[told : min(ends)]
            return
        open_ids = max(words.loose(reply), _begun(stops.ids, reply))
        if open_ids:
            text = _beyond(before, words.text_of(prompt + reply[:-open_ids]))
        ready = words.settled(text)
        ready -= _begun(stops.texts, text[:ready])
        if ready > told:
            yield text[told:ready]
            told = ready
    if rest := _beyond(before, words.text_of(prompt + reply))[told:]:
        yield rest


def _beyond(before: str, text: str) -> str:
    """Return what a text has beyond the one before it."""
    return text[len(commonprefix([before, text])) :]


def _begun(stops: Sequence[Any], found: Any) -> int:
    """Return how many letters or ids at the end of what was found may begin a stop."""
    longest = max(map(len, stops), default=1) - 1
    for count in range(min(longest, len(found)), 0, -1):
        end = type(stops[0])(found[-count:])
        if any(stop[:count] == end for stop in stops):
            return count
    return 0


def _prompt_ids(words: Any, prompt: Any) -> list[int]:
    if isinstance(prompt, str):
        return [*words.beginning, *words.encode(prompt).tolist()]
    if isinstance(prompt, list | tuple) and any(isinstance(m, Mapping) for m in prompt):
        return words.chat(prompt).tolist()
    if isinstance(prompt, list | tuple) and any(isinstance(text, str) for text in prompt):
        raise TypeError(
            "generate: prompt must be a text, a list of messages, or ids, got a list of texts; "
            'write [{"role": "user", "content": text}]'
        )
    return on_host("generate", "prompt", prompt, "(length,)", "integers").tolist()


def _stops(words: Any, stop: Any) -> Stops:
    """Return what ends a reply: the tokenizer's ids, and what the caller adds."""
    given = check_list("generate", "stop", [stop] if isinstance(stop, str) else stop, "texts")
    ids = [(id_,) for id_ in words.stop_ids]
    texts = []
    for each in given:
        if isinstance(each, str) and each:
            coded = tuple(words.encode(each).tolist()) if words.has_special(each) else ()
            ids += [coded] if coded else []
            texts += [] if coded else [each]
        elif is_integer(each) and int(each) >= 0:
            ids.append((int(each),))
        else:
            raise TypeError(f"generate: stop must hold texts and ids, got {each!r:.60}")
    return Stops(tuple(texts), tuple(ids))


class _Vocabulary:
    """A vocabulary, with what `generate` needs of a tokenizer."""

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self.encode = vocabulary.encode
        self.beginning: list[int] = []
        self.stop_ids = [] if vocabulary.end is None else [vocabulary.end]

    def text_of(self, ids: list[int]) -> str:
        """Return the text of ids after the last end, beyond which `decode` does not look."""
        end = self._vocabulary.end
        first = len(ids) - ids[::-1].index(end) if end in ids else 0
        return self._vocabulary.decode(ids[first:])

    def chat(self, messages: Any) -> Any:
        """Raise: a vocabulary has no template."""
        raise TypeError(
            "generate: a list of messages needs the tokenizer of a model with a chat template, got "
            "a Vocabulary; write the prompt as a text"
        )

    def has_special(self, text: str) -> bool:
        """Return whether a text names a special token."""
        return False

    def loose(self, ids: Sequence[int]) -> int:
        """Return how many of the last ids have a text that depends on the next ids."""
        return 0

    def settled(self, text: str) -> int:
        """Return how many letters stay when a text is continued."""
        return len(text.rstrip("\ufffd"))
