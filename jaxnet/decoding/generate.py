"""Generation of tokens by a causal net, one after another or with the help of a smaller net."""

import inspect
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.decoding.filters import changed, check_filters, filter_logits, latest
from jaxnet.decoding.nets import inputs_of, model_of, row_of, with_inputs
from jaxnet.ops.precision import at_least_float32
from jaxnet.services import checks, preemption
from jaxnet.services.checks.keywords import instead
from jaxnet.services.jaxprs import split
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.progress import progress_bar
from jaxnet.services.trees import describe, memo_of, signature
from jaxnet.transforms.stream import start_stream, stream

Prompt = Any  # an array (batch, time), or a list of lists of ids
Stop = int | Sequence[int | Sequence[int]] | None
Draft = tuple[Layer, Params] | tuple[Layer, Params, State]


class Generated(NamedTuple):
    """Tokens that a net wrote after its prompts.

    Fields:
      tokens: Integers (batch, length) without the prompt: the tokens up to and including what
        stopped a row, then zeros.
      lengths: Number of tokens of each row before what stopped it, (batch,); `length` for a row
        that nothing stopped.
      log_probs: Log-probability of each token by the net alone, before all filters,
        (batch, length); zeros after the tokens.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    log_probs: np.ndarray

    def lists(self) -> list[list[int]]:
        """Return the tokens of each row before what stopped it, for a tokenizer.

        Example:
          >>> jn.decoding.Generated(np.array([[5, 7, 2, 0]]), np.array([2]), np.zeros(4)).lists()
          [[5, 7]]
        """
        rows = zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)
        return [row[:length] for row, length in rows]


@on_auto_axes
def generate(
    net: Layer,
    params: Params,
    prompt: Prompt,
    key: jax.Array | None = None,
    *,
    length: int = 200,
    state: State | None = None,
    inputs: tuple = (),
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    logits: Callable | None = None,
    stop: Stop = None,
    draft: Draft | None = None,
    draft_length: int = 4,
    dtype: Any = None,
    progress: bool = True,
) -> Generated:
    """Generate tokens after each prompt with a causal net.

    The net reads the prompts at once and then one token after another by `jn.stream`, so the work
    per token does not include the tokens before it. The first call compiles. Prompts and lengths
    are rounded up to powers of two inside, so other lengths, numbers and stops rarely compile
    again.

    Inside `jit` or `vmap`, prompts are an array, or a list of arrays, and what cannot be checked is
    not: where the logits are NaN, or -inf throughout, the token is -1 and the row ends.

    The draw of a token depends on the key, its row and its position, and not on the other rows. A
    batch of keys gives each row its own, so that a row alone draws what it draws in a batch, up to
    the rounding of the net.

    With `draft`, a smaller net proposes `draft_length` tokens at a time, and the net checks all of
    them at once. The tokens have the same distribution as tokens of the net alone; with
    temperature=0 they are the same tokens. It helps if the draft often agrees with a net that is
    many times larger: the net runs twice per round, once to check the proposals and once to add the
    accepted tokens to its state.

    Args:
      net: Any causal net from tokens (batch, time) to logits (batch, time, vocabulary), or from
        (*inputs, tokens).
      params: Params of the net.
      prompt: Integers (batch, time), or a list of lists of ids of any lengths. Each row has at
        least one token, such as the token that begins a text.
      key: Random key, or one key per row (batch,); not needed with temperature=0.
      length: Number of tokens to generate, at least 1.
      state: State of the net, if it has any, such as the statistics of batch norm.
      inputs: Inputs of the net before the tokens, with the batch axis first, such as (source,
        lengths) of sentences to translate. They are the same at each step, and what the net
        computes from them alone, such as the output of an encoder, is computed once.
      temperature: Number that divides the logits; 0 takes the most probable token.
      top_k, top_p, min_p, repetition_penalty: Filters of the logits, see `filter_logits`. The
        penalty counts the tokens of the prompt too.
      logits: Function `logits(values, ids)` that changes the logits of a row before the filters,
        such as `lambda values, ids: values.at[3].set(-jnp.inf)`. The values are floats
        (vocabulary,). The ids are the generated tokens, the latest at ids[-1], after as many -1 as
        there is room for; `allowed[ids[-1]]` is a row of a grammar, the last row for the first
        token. Define it once, since a new function compiles again.
      stop: Id of the token that ends a text, or a list of such ids and of sequences of ids, such as
        [2, [13, 13]].
      draft: Smaller net over the same vocabulary and inputs, as (net, params) or (net, params,
        state).
      draft_length: Number of tokens that the draft proposes at a time.
      dtype: Dtype of kept keys and values, such as jnp.bfloat16; None is that of the computation.
      progress: Whether to show tokens per second, in a terminal or a notebook.

    Returns:
      The tokens, their number and their log-probabilities by the net alone, before temperature and
      filters; `.lists()` gives lists of ids.

    Raises:
      TypeError: If the prompt does not contain integers.
      TypeError: If `key` is missing, or if `inputs` is not a tuple.
      ValueError: If a prompt is empty or has ids beyond the vocabulary.
      ValueError: If the net is not causal.
      ValueError: If the net has fewer positions than prompt and length need.
      ValueError: If the logits are NaN.

    Example:
      >>> net = jn.serial(
      ...     jn.embedding(11, 8), jn.transformer_block(2, causal=True, rotary=True), jn.dense(11)
      ... )
      >>> params, state = net.init(jax.random.key(0), jn.spec((1, 4), jnp.int32))
      >>> prompt, key = [[1, 5, 2], [7]], jax.random.key(1)
      >>> made = jn.decoding.generate(net, params, prompt, key, length=5, temperature=0.8)
      >>> made.tokens.shape, made.lengths.tolist()
      ((2, 5), [5, 5])

    Reference: drafts: Leviathan, Kalman and Matias 2023, "Fast Inference from Transformers via
    Speculative Decoding".
    """
    options = _Options(
        length=length,
        state=state,
        inputs=inputs,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        logits=logits,
        stop=stop,
        draft=draft,
        draft_length=draft_length,
        dtype=dtype,
    )
    start, advance = _begin("generate", net, params, prompt, key, options)
    run = start
    traced = checks.is_traced(start)
    total = len(start.last) * length
    with progress_bar(total, "generate", progress and not traced, unit="token") as bar:
        pace = length if bar.disable and not preemption.listens() else 16
        for run in _steps(start, advance, length, pace):
            if not bar.disable:
                written = int(np.asarray(run.written).sum())
                bar.update(written - bar.n)
    xp: Any = jnp if traced else np
    tokens = xp.array(run.tokens)[:, :length]
    log_probs = xp.array(run.log_probs)[:, :length]
    ends = xp.array(run.ends)
    lengths = xp.where(ends < 0, length, ends)
    return Generated(_sound("generate", tokens), lengths, log_probs)


def iterate(
    net: Layer, params: Params, prompt: Prompt, key: jax.Array | None = None, **options: Any
) -> Iterator[np.ndarray]:
    """Yield the tokens of `generate` as they are made, for a chat or a notebook.

    They are the tokens that `generate` gives for the same arguments. Both use the same compiled
    programs.

    Args:
      net, params, prompt, key: As in `generate`.
      options: Options of `generate`, without `progress`.

    Returns:
      An iterator of arrays (batch,), one per position, until every row has stopped. A row that has
      stopped gives 0.

    Raises:
      TypeError: As in `generate`.
      ValueError: As in `generate`.

    Example:
      >>> net = jn.serial(jn.embedding(5, 8), jn.gru(8), jn.dense(5))
      >>> params, state = net.init(jax.random.key(0), jn.spec((1, 4), jnp.int32))
      >>> for token in jn.decoding.iterate(net, params, [[3]], length=3, temperature=0):
      ...     print(token.shape)
      (1,)
      (1,)
      (1,)
    """
    for name in options.keys() - set(_Options._fields):
        raise TypeError(f"iterate: unknown option {name}; {instead(name, list(_Options._fields))}")
    all_options = _Options(**options)
    run, advance = _begin("iterate", net, params, prompt, key, all_options)
    if checks.is_traced(run):
        raise TypeError("iterate: is called inside jit; write generate, or a loop with jn.stream")
    return _tokens(_steps(run, advance, all_options.length, 1))


def _tokens(steps: Iterator[Any]) -> Iterator[np.ndarray]:
    """Yield the last token of each row after each step."""
    for t, run in enumerate(steps):
        tokens = np.array(run.tokens)
        yield _sound("iterate", tokens[:, t])


# The options of `generate`, from `length` to `dtype`, as its caller or that of `iterate` gave them.
_PARAMETERS = [*inspect.signature(generate).parameters.values()]
_DEFAULTS = {parameter.name: parameter.default for parameter in _PARAMETERS[4:-1]}
_Options: Any = namedtuple("_Options", _DEFAULTS, defaults=_DEFAULTS.values())


class _Setup(NamedTuple):
    """What a program is compiled for, in addition to the shapes of its arguments.

    Fields:
      nets: The net, and the draft if there is one.
      capacity: Steps of the streams and columns of the results.
      vocabulary: Number of tokens.
      greedy: Whether the most probable token is taken.
      top_k: Option of `filter_logits`.
      logits: Function of the caller on the logits of a row.
      proposals: Number of tokens that the draft proposes.
      dtype: Dtype of kept keys and values.
    """

    nets: tuple[Layer, ...]
    capacity: int
    vocabulary: int
    greedy: bool
    top_k: int | None
    logits: Callable | None
    proposals: int
    dtype: Any

    def streams(self) -> list[Layer]:
        options = {"ragged": True, "dtype": self.dtype}
        return [stream(net, self.capacity, **options) for net in self.nets]


class _Run(NamedTuple):
    """The state of a generation between two tokens.

    Fields:
      states: States of the streams, which have read everything but the last token.
      last: The last token of each row, (batch,).
      written: Number of tokens generated, (batch,).
      tokens, log_probs: Generated tokens and their log-probabilities, (batch, capacity).
      active: Whether each row is continued, (batch,).
      ends: Number of tokens before what stopped a row, -1 if nothing has, (batch,).
      seen: Tokens of the prompt and the result, (batch, vocabulary), for the repetition penalty.
    """

    states: tuple[State, ...]
    last: jax.Array
    written: jax.Array
    tokens: jax.Array
    log_probs: jax.Array
    active: jax.Array
    ends: jax.Array
    seen: jax.Array | None


def _begin(
    who: str, net: Any, params: Any, prompt: Any, key: Any, options: Any
) -> tuple[_Run, Callable[[_Run, int], _Run]]:
    """Return the run after the prompts, and a function that continues it to a number of tokens."""
    checks.all_at_least(who, length=options.length, draft_length=options.draft_length)
    if options.dtype is not None:
        checks.check_dtype(who, options.dtype)
    checks.a_function(who, "logits", options.logits, "(values, ids)", optional=True)
    rows, lengths = _prompts(who, prompt)
    batch, time = rows.shape
    extra = inputs_of(who, options.inputs, batch)
    models = _models(who, extra, net, params, options)
    proposals = options.draft_length * (len(models) - 1)
    needed = time + options.length - 1 + proposals
    capacity, vocabulary = _capacity(who, extra, models, needed)
    checks.check_range(rows, vocabulary, f"{who}: ids of the prompt")
    greedy, top_k, numbers = _filters(who, options, vocabulary)
    stops = _stops(who, options.stop, vocabulary)
    keys = None if greedy else _row_keys(who, key, batch)

    nets, values, states = zip(*models, strict=True)
    setup = _Setup(
        nets=nets,
        capacity=capacity,
        vocabulary=vocabulary,
        greedy=greedy,
        top_k=top_k,
        logits=options.logits,
        proposals=proposals,
        dtype=None if options.dtype is None else jnp.dtype(options.dtype),
    )
    values = jax.tree.map(jnp.asarray, values)
    # Copies, because the loop reuses the memory of its state.
    states = jax.tree.map(jnp.copy, states)
    padded = _padded(rows, min(max(16, _power(time)), capacity))
    penalized = options.repetition_penalty is not None
    read = program_of(_read, setup, static_argnums=5)
    run, precomputed = read(values, extra, states, padded, lengths, penalized)

    fixed = values, extra, precomputed, keys, numbers, stops, np.int32(options.length)
    donated = () if checks.is_traced(run) else 1
    program = program_of(advance_until, setup, donate_argnums=donated)

    def advance(run: _Run, bound: int) -> _Run:
        return program(fixed, run, np.int32(bound))

    return run, advance


def _models(who: str, inputs: tuple, net: Any, params: Any, options: Any) -> list[Any]:
    """Return the net, and the draft if there is one, each with its params and state."""
    models = [model_of(who, "net", inputs, net, params, options.state)]
    draft = options.draft
    if draft is not None:
        if not isinstance(draft, tuple | list) or len(draft) not in (2, 3):
            got = type(draft).__name__
            raise TypeError(
                f"{who}: draft must be (net, params) or (net, params, state), got {got}"
            )
        models.append(model_of(who, "draft", inputs, *draft))
    return models


def _capacity(who: str, inputs: tuple, models: list[Any], needed: int) -> tuple[int, int]:
    """Return how many tokens all nets accept, at least those needed, and their vocabulary."""
    wanted = max(64, _power(needed))
    sizes = []
    for net, params, state in models:
        sizes.append(_fit(who, inputs, net, params, state, wanted, needed))
    capacities, vocabularies = zip(*sizes, strict=True)
    if len(set(vocabularies)) > 1:
        one, other = vocabularies
        raise ValueError(f"{who}: net and draft must have one vocabulary, got {one} and {other}")
    return min(capacities), vocabularies[0]


def _padded(rows: Any, columns: int) -> Any:
    """Return the prompts (batch, time) as int32, padded with zeros to a number of columns."""
    pad = jnp.pad if checks.is_traced(rows) else np.pad
    missing = columns - rows.shape[1]
    padded = pad(rows, ((0, 0), (0, missing)))
    return padded.astype(np.int32)


def _steps(run: _Run, advance: Callable, length: int, pace: int) -> Iterator[_Run]:
    """Yield the run after every `pace` tokens, until every row has stopped."""
    for bound in range(pace, length + pace, pace):
        preemption.leave("generate", "what was written is lost")
        run = advance(run, min(bound, length))
        yield run
        if bound < length:
            ahead = np.asarray(run.written) > bound
            if not (np.any(run.active) or ahead.any()):
                return


def _filters(who: str, options: Any, vocabulary: int) -> tuple[bool, int | None, dict]:
    """Return whether the most probable token is taken, top_k, and the numbers of the filters."""
    temperature = options.temperature
    top_k = options.top_k
    penalty = options.repetition_penalty
    greedy = not checks.is_traced(temperature) and np.ndim(temperature) == 0 and temperature == 0
    if greedy:
        temperature = 1.0
    else:
        checks.within(who, "temperature", temperature, "[0, inf)")
    check_filters(who, temperature, top_k, options.top_p, options.min_p, penalty, vocabulary)
    if greedy:  # filters that only drop less probable tokens change nothing
        top_k = None
        numbers = {}
    else:
        numbers = {"temperature": temperature, "top_p": options.top_p, "min_p": options.min_p}
    numbers["repetition_penalty"] = penalty
    used = {name: number for name, number in numbers.items() if number is not None}
    return greedy, top_k, jax.tree.map(jnp.float32, used)


def _power(n: int) -> int:
    """Return the next power of two."""
    return 1 << (n - 1).bit_length()


def _fit(who, inputs, net: Layer, params: Any, state: Any, capacity: int, needed: int) -> Any:
    """Return how many tokens the net accepts, at most `capacity`, and its vocabulary."""

    def vocabulary(time: int) -> int:
        def run(params, state, x):
            return net.apply(params, state, x)[0]

        logits = jax.eval_shape(run, params, state, row_of(inputs, time))
        shape = getattr(logits, "shape", ())
        floats = jnp.issubdtype(getattr(logits, "dtype", bool), jnp.floating)
        if len(shape) != 3 or shape[:2] != (1, time) or not floats:
            raise TypeError(
                f"{who}: the net must map tokens (batch, time) to logits (batch, time, "
                f"vocabulary), got {describe(logits)} for {describe(row_of(inputs, time))}"
            )
        return shape[2]

    arguments = params, state, row_of(inputs, 1)
    shapes = signature(jax.eval_shape(lambda tree: tree, arguments))
    for time in (capacity, needed):
        try:
            trace = partial(vocabulary, time)
            return time, memo_of(net.apply).of(("vocabulary", shapes, time), trace)
        except ValueError as error:  # the net may have fewer positions
            if time == needed:
                error.add_note(f"in {who}, which needs {needed} positions for prompt and length")
                raise


def _prompts(who: str, prompt: Any) -> tuple[Any, np.ndarray]:
    """Return the prompts padded at the end, (batch, time), and their lengths."""
    if any(isinstance(leaf, str) for leaf in jax.tree.leaves(prompt)):
        raise TypeError(f"{who}: the prompt must hold ids of tokens, got text; encode it first")
    traced = checks.is_traced(prompt)
    check = checks.as_array if traced else checks.on_host
    xp: Any = jnp if traced else np
    rows: Any = prompt
    if isinstance(rows, list | tuple) and all(np.ndim(row) == 1 for row in rows):
        numbered = enumerate(rows)
        rows = [check(who, f"prompt {i}", row, "(time,)", "integers") for i, row in numbered]
        lengths = np.array([len(row) for row in rows], np.int32)
    else:
        rows = check(who, "prompt", rows, "(batch, time)", "integers")
        lengths = np.full(len(rows), rows.shape[1], np.int32)
    if not len(rows):
        raise ValueError(f"{who}: needs at least one prompt, got none")
    if not lengths.all():
        empty = int(np.argmin(lengths))
        raise ValueError(f"{who}: prompt {empty} is empty; begin it with a token of a start")
    if isinstance(rows, list):
        longest = lengths.max()
        rows = xp.stack([xp.pad(row, (0, longest - len(row))) for row in rows])
    return rows, lengths


def _row_keys(who: str, key: Any, batch: int) -> jax.Array:
    """Return a key per row, (batch,)."""
    if key is None:
        raise TypeError(
            f"{who}: needs a key to draw tokens. Pass one, such as jax.random.key(0), or write "
            "temperature=0 for the most probable tokens"
        )
    typed = isinstance(key, jax.Array) and checks.is_key(key)
    if typed and key.ndim:
        if key.shape != (batch,):
            raise ValueError(f"{who}: keys must have shape () or ({batch},), got {key.shape}")
        return key
    checks.check_key(key, who)
    return _fold_rows(key if typed else jax.random.wrap_key_data(key), np.arange(batch))


_fold_rows = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))  # (key, rows) -> keys


def _stops(who: str, stop: Any, vocabulary: int) -> np.ndarray:
    """Return the sequences that stop a row, (n, longest), padded in front with -1 for any token."""
    if stop is None:
        sequences = []
    elif isinstance(stop, list | tuple):
        sequences = list(stop)
    elif isinstance(stop, str) or np.ndim(stop) == 0:
        sequences = [stop]
    else:
        sequences = list(stop)
    if any(isinstance(leaf, str) for leaf in jax.tree.leaves(sequences)):
        raise TypeError(
            f"{who}: stop must hold ids of tokens, got text; encode it first, as in "
            "stop=[vocabulary.encode(text)] for a sequence"
        )
    stops = []
    for one in sequences:
        sequence = one if np.ndim(one) else [one]
        ids = checks.on_host(who, "stop", sequence, "(n,)", "integers", empty=False)
        checks.check_range(ids, vocabulary, f"{who}: ids of stop")
        stops.append(ids)
    longest = max(map(len, stops), default=1)
    rows = np.full((len(stops), longest), -1, np.int32)
    for row, ids in zip(rows, stops, strict=True):
        row[longest - len(ids) :] = ids
    return rows


def _sound(who: str, tokens: Any) -> Any:
    """Return the tokens; raise if they are known and one is missing."""
    if checks.is_traced(tokens):
        return tokens
    lost = np.argwhere(tokens < 0)
    if lost.size:
        row, *at = lost[0]
        after = f" after {at[0]} tokens" if at else ""
        raise ValueError(
            f"{who}: the logits of row {row} are NaN, or -inf throughout,{after}. Look at the "
            "params, and whether the net has enough positions"
        )
    return tokens


def program_of(function: Callable, setup: _Setup, **options: Any) -> Callable:
    """Return a function of the setup compiled for it; the net keeps the program."""

    def compiled():
        return jax.jit(partial(function, setup), **options)

    memo = memo_of(setup.nets[0].apply)
    return memo.of((function, setup, *options.items()), compiled)


def _read(setup: _Setup, params, inputs, states, prompt, lengths, penalized: bool) -> tuple:
    """Return the run after the prompts but their last tokens, whose logits are the first needed.

    The second result is what each net computes from the inputs alone, such as the output of an
    encoder, by its number and that of the tokens that it reads at a time. It is in this program,
    which computes it for the prompts too.
    """
    batch, columns = prompt.shape
    rows = np.arange(batch)
    chunk = with_inputs(inputs, prompt)
    states_after = []
    for one, values, state in zip(setup.streams(), params, states, strict=True):
        empty = start_stream(one, (chunk, lengths), state)
        # The logits are not used, so the program does not contain the layers that only they need.
        _, after = one.apply(values, empty, (chunk, lengths - 1))
        states_after.append(after)
    seen = None
    if penalized:
        inside = np.arange(columns) < lengths[:, None]
        ids = jnp.where(inside, prompt, setup.vocabulary)
        seen = jnp.zeros((batch, setup.vocabulary), bool)
        seen = seen.at[rows[:, None], ids].set(True, mode="drop")
    precomputed = {}
    last = len(params) - 1
    several = setup.proposals + 1
    for n, width in {(0, several), (last, several), (last, 1)}:
        tokens = jnp.repeat(prompt[:, :1], width, 1)
        apply = partial(_apply, setup, n)
        early, _ = split(apply, params[n], inputs, states_after[n], tokens, lengths)
        precomputed[n, width] = early(params[n], inputs)
    run = _Run(
        states=tuple(states_after),
        last=prompt[rows, lengths - 1],
        written=jnp.zeros(batch, jnp.int32),
        tokens=jnp.zeros((batch, setup.capacity), jnp.int32),
        log_probs=jnp.zeros((batch, setup.capacity), jnp.float32),
        active=jnp.ones(batch, bool),
        ends=jnp.full(batch, -1, jnp.int32),
        seen=seen,
    )
    return run, precomputed


def _apply(setup: _Setup, n: int, params, inputs, state, tokens, steps) -> tuple:
    """Return the logits of a net for more tokens, and its state."""
    chunk = with_inputs(inputs, tokens)
    return setup.streams()[n].apply(params, state, (chunk, steps))


class _Job(NamedTuple):
    """What does not change while tokens are generated; keys (batch,), stops as in `_stops`."""

    setup: _Setup
    params: Any
    inputs: Any
    precomputed: Any
    keys: Any
    numbers: Any
    stops: Any
    length: Any

    def apply(self, n, state, tokens, steps):
        """Return the logits of a net for more tokens, and its state."""
        params = self.params[n]
        apply = partial(_apply, self.setup, n)
        _, late = split(apply, params, self.inputs, state, tokens, steps)
        intermediates = self.precomputed[n, tokens.shape[1]]
        return late(intermediates, params, state, tokens, steps)

    def distribution(self, logits, tokens, written, seen):
        """Return logits (batch, vocabulary) to draw from, after `written` of the tokens."""
        if self.setup.logits is not None:
            change = partial(changed, self.setup.logits)
            logits = jax.vmap(change)(logits, tokens, written)
        return filter_logits(logits, top_k=self.setup.top_k, seen=seen, **self.numbers)

    def probabilities(self, filtered):
        if self.setup.greedy:
            return jax.nn.one_hot(filtered.argmax(-1), self.setup.vocabulary)
        return jax.nn.softmax(filtered)

    def keys_at(self, positions, use):
        """Return a key per row for the token at a position, different for each use."""

        def key_at(key, position):
            position_key = jax.random.fold_in(key, position)
            return jax.random.fold_in(position_key, use)

        return jax.vmap(key_at)(self.keys, positions)

    def uniform(self, positions):
        """Return the numbers (batch,) below which the ratio of probabilities is accepted."""
        if self.setup.greedy:
            return jnp.zeros(len(positions))
        return jax.vmap(jax.random.uniform)(self.keys_at(positions, 1))

    def choose(self, filtered, positions, use=0):
        """Return the tokens (batch,) of logits (batch, vocabulary)."""
        if self.setup.greedy:
            return _largest(filtered)
        keys = self.keys_at(positions, use)
        drawn = jax.vmap(jax.random.categorical)(keys, filtered)
        return drawn.astype(jnp.int32)

    def stop_length(self, tokens, count):
        """Return the length of the longest stop that the first `count` tokens end in, or 0."""
        stops = self.stops[None]  # (1, stops, longest)
        recent = jax.vmap(partial(latest, stops.shape[-1]))(tokens, count)
        agrees = (stops == recent[:, None]) | (stops < 0)
        hit = agrees.all(-1)  # (batch, stops)
        lengths = (stops >= 0).sum(-1)
        return jnp.where(hit, lengths, 0).max(-1, initial=0)

    def commit(self, run, token, logits, on):
        """Return the run with one more token in the rows that are on."""
        at = jnp.where(on, run.written, self.setup.capacity)
        count = run.written + on
        tokens = _set(run.tokens, at, token)
        matched = self.stop_length(tokens, count)
        stopped = on & (matched > 0)
        full = count >= self.length
        broken = token < 0
        over = stopped | (on & (full | broken))
        ends = jnp.where(stopped, count - matched, run.ends)
        new = jnp.where(on, token, self.setup.vocabulary)
        return run._replace(
            last=jnp.where(on, token, run.last),
            written=count,
            tokens=tokens,
            log_probs=_set(run.log_probs, at, _log_prob(logits, token)),
            active=run.active & ~over,
            ends=ends.astype(jnp.int32),
            seen=_mark(run.seen, new),
        )


def _largest(logits: jax.Array) -> jax.Array:
    """Return the place of the largest, the first of equals, on CPU ten times as fast as `argmax`.

    Example:
      >>> _largest(jnp.array([[1.0, 3.0, 3.0], [-jnp.inf, -1.0, -2.0]])).tolist()
      [1, 1]
    """
    n = logits.shape[-1]
    places = jnp.arange(n, dtype=jnp.int32)
    top = logits == logits.max(-1, keepdims=True)
    return jnp.where(top, places, n - 1).min(-1)


def advance_until(setup: _Setup, fixed, run: _Run, bound) -> _Run:
    """Generate until every active row has `bound` tokens."""

    def going(run):
        return (run.active & (run.written < bound)).any()

    job = _Job(setup, *fixed)
    step = _several if setup.proposals else _one
    return jax.lax.while_loop(going, partial(step, job), run)


def _one(job: _Job, run: _Run) -> _Run:
    """Add one token per row by the net alone."""
    steps = run.active.astype(jnp.int32)
    logits, state = job.apply(0, run.states[0], run.last[:, None], steps)
    logits = at_least_float32(logits[:, 0])
    filtered = job.distribution(logits, run.tokens, run.written, run.seen)
    sound = _is_sound(filtered)
    token = jnp.where(sound, job.choose(filtered, run.written), -1)
    run = run._replace(states=(state,))
    return job.commit(run, token, logits, run.active)


def _several(job: _Job, run: _Run) -> _Run:
    """Add the draft's tokens that the net accepts, and one token by the net."""
    n = job.setup.proposals
    rows = np.arange(run.last.shape[0])
    steps = run.active.astype(jnp.int32)
    proposed, q, written, seen = _propose(job, run)
    tokens = jnp.concatenate([run.last[:, None], proposed], 1)  # (batch, n + 1)
    logits, _ = job.apply(0, run.states[0], tokens, steps * (n + 1))
    logits = at_least_float32(logits)
    counts = run.written[:, None] + np.arange(n + 1, dtype=np.int32)
    distributions = jax.vmap(job.distribution, in_axes=(1, None, 1, 0), out_axes=1)
    filtered = distributions(logits, written, counts, seen)
    sound = _is_sound(filtered)  # (batch, n + 1)
    p = job.probabilities(filtered)
    q = jnp.where(jnp.isfinite(q), q, 0)  # the proposals of a broken draft are rejected

    accepted = _accepted(job, run, proposed, p, q, sound)
    p = p[rows, accepted]
    q = jnp.pad(q, ((0, 0), (0, 1), (0, 0)))  # no proposal after the last
    q = q[rows, accepted]
    rest = jnp.maximum(p - q, 0)  # the part of p that the proposals did not cover
    some = rest.sum(-1, keepdims=True) > 0
    rest = jnp.where(some, rest, p)
    replacement = job.choose(jnp.log(rest), run.written + accepted, 2)
    replacement = jnp.where(sound[rows, accepted], replacement, -1)

    states = []
    for i, state in enumerate(run.states):
        _, after = job.apply(i, state, tokens, steps * (accepted + 1))
        states.append(after)
    run = run._replace(states=tuple(states))
    for t in range(n + 1):
        token = replacement if t == n else jnp.where(t < accepted, proposed[:, t], replacement)
        on = run.active & (t <= accepted)
        run = job.commit(run, token, logits[:, t], on)
    return run


def _propose(job: _Job, run: _Run) -> tuple:
    """Return the n tokens that the draft proposes, and what they are judged by.

    Returns:
      The tokens (batch, n); the draft's probabilities (batch, n, vocabulary); all tokens written
      then, (batch, capacity); and the tokens seen before each, (n + 1, batch, vocabulary) or None.
    """
    steps = run.active.astype(jnp.int32)

    def propose(loop, t):
        state, token, tokens, seen = loop
        at = run.written + t
        logits, state = job.apply(1, state, token[:, None], steps)
        filtered = job.distribution(at_least_float32(logits[:, 0]), tokens, at, seen)
        token = job.choose(filtered, at)
        tokens = _set(tokens, at, token)
        seen = _mark(seen, token)
        return (state, token, tokens, seen), (token, job.probabilities(filtered), seen)

    first = run.states[1], run.last, run.tokens, run.seen
    times = jnp.arange(job.setup.proposals, dtype=jnp.int32)
    (_, _, written, _), (proposed, q, seen) = jax.lax.scan(propose, first, times)
    if seen is not None:
        assert run.seen is not None
        seen = jnp.concatenate([run.seen[None], seen])
    return proposed.T, q.swapaxes(0, 1), written, seen


def _accepted(job: _Job, run: _Run, proposed, p, q, sound) -> jax.Array:
    """Return how many of the proposed tokens the net accepts, (batch,).

    A token is accepted with probability p / q, that of the net over that of the draft.
    """
    n = proposed.shape[1]
    limits = [job.uniform(run.written + t) for t in range(n)]

    def of_proposed(p):
        picked = jnp.take_along_axis(p[:, :n], proposed[..., None], -1)
        return picked[..., 0]

    by_net = of_proposed(p)
    by_draft = of_proposed(q)
    likely = jnp.stack(limits, 1) * by_draft < by_net
    agrees = likely & (by_draft > 0) & sound[:, :n]
    return jnp.cumprod(agrees.astype(jnp.int32), 1).sum(1)


def _set(array: jax.Array, at: jax.Array, values: Any) -> jax.Array:
    """Return the array (batch, n) with a value per row at a position, or as it is beyond n."""
    rows = np.arange(len(array))
    return array.at[rows, at].set(values, mode="drop")


def _mark(seen: jax.Array | None, token: jax.Array) -> jax.Array | None:
    return None if seen is None else _set(seen, token, True)


def _is_sound(logits: jax.Array) -> jax.Array:
    """Return whether there is a most probable token: NaN is not above -inf."""
    return logits.max(-1) > -jnp.inf


def _log_prob(logits: jax.Array, token: jax.Array) -> jax.Array:
    """Return the log-probability of each token, (batch,)."""
    chosen = jnp.take_along_axis(logits, token[:, None], -1)[:, 0]
    log_prob = chosen - jax.nn.logsumexp(logits, axis=-1)
    return log_prob.astype(jnp.float32)
