"""A model of characters, trained on plays: it predicts each next one, and writes some itself.

Claim:   an LSTM predicts the plays' test part with at most 2.35 bits per character.
Result:  bits per character of the test part (55,770 characters), one seed (0); in brackets those of
         the validation part, which is the easier one, and by which the epoch is chosen:
           LSTM          2.2778  (2.0641, epoch 26 of 40)   349,569 weights
           GRU           2.2978  (2.1122, epoch 26 of 40)   344,329 weights
           RNN           2.4144  (2.2567, epoch 37 of 40)   332,929 weights
           transformer   2.3737  (2.2006, epoch 8 of 8)     810,049 weights
         The options are the first that were tried, the same for all. After the 26th epoch of LSTM
         and GRU only the training part goes on to improve; the transformer was still improving, and
         after eight epochs the LSTM had 2.1317 in validation.
Time:    with large pages, on one busy core, by the clock: LSTM 1132 s, GRU 1109 s, RNN 1587 s,
         transformer 1816 s; of CPU: GRU 669 s, RNN 1024 s.
Machine: 2 CPU cores, jax 0.10.2.
Command: TFDS_DATA_DIR=... python -m experiments.shakespeare --model lstm, gru or rnn
         TFDS_DATA_DIR=... python -m experiments.shakespeare --model transformer --epochs 8
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from jaxnet.data.sequences import Windows, overlapping, windows
from jaxnet.data.text import Vocabulary, characters
from jaxnet.decoding import sample

PyTree = Any
Kind = Literal["rnn", "lstm", "gru", "transformer"]
CELLS: dict[str, Callable[..., jn.Layer]] = {"rnn": jn.rnn, "lstm": jn.lstm, "gru": jn.gru}
MANNERS = (  # temperature, nucleus
    (0.5, None),
    (0.8, None),
    (1.0, None),
    (1.0, 0.9),
)


class Recipe(NamedTuple):
    """The sizes of a model, and how it is trained.

    Fields:
      features: of each layer.
      layers: how many.
      steps: characters in a window, which backpropagation reaches back through.
      epochs: passes over the training part.
      learning_rate: the highest, after the warm-up.
      dropout_rate: share that is dropped before each layer but the first.
    """

    features: int
    layers: int
    steps: int
    epochs: int
    learning_rate: float
    dropout_rate: float


# The recurrent ones have about as many weights.
RECIPES: dict[str, Recipe] = {
    "rnn": Recipe(512, 1, 100, 40, 1e-3, 0.3),
    "lstm": Recipe(256, 1, 100, 40, 4e-3, 0.3),
    "gru": Recipe(296, 1, 100, 40, 2e-3, 0.3),
    "transformer": Recipe(128, 4, 128, 20, 2e-3, 0.1),
}


@dataclass(frozen=True)
class Config:
    """Trains a model of characters on plays and lets it write; the record is in the file."""

    model: Kind = "lstm"
    """what reads the text"""
    features: int | None = None
    """of each layer; this and the next five: None takes what suits the model"""
    layers: int | None = None
    """how many of them"""
    steps: int | None = None
    """characters in a window, which backpropagation reaches back through"""
    epochs: int | None = None
    """passes over the training part"""
    learning_rate: float | None = None
    """the highest, after the warm-up; it falls to 0 as a cosine"""
    dropout_rate: float | None = None
    """share that is dropped before each layer but the first"""
    embedding: int = 64
    """width of a character's vector; the transformer takes that of its layers"""
    heads: int = 4
    """of the transformer's attention"""
    batch_size: int = 32
    """windows a step: streams of text side by side"""
    warmup: int = 200
    """steps in which the learning rate rises"""
    weight_decay: float = 0.0
    """of AdamW"""
    clip: float = 1.0
    """the largest norm of a gradient"""
    characters: int | None = None
    """train on the first so many only"""
    prompt: str = "ROMEO:\n"
    """what the samples go on from"""
    length: int = 400
    """characters of a sample"""
    seed: int = 0
    """draws weights, dropout and samples"""
    data_dir: Path | None = None
    """where the plays lie; by default where TFDS_DATA_DIR says"""
    output: Path = Path("runs/shakespeare")
    """folder of the picture and the trained params"""

    def __post_init__(self):
        if self.model not in RECIPES:
            raise ValueError(f"model is one of {', '.join(RECIPES)}, got {self.model!r}")
        for name in ("batch_size", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.prompt:
            raise ValueError("prompt must have a character at least, which the first one follows")

    def recipe(self) -> Recipe:
        usual = RECIPES[self.model]
        given = {name: getattr(self, name) for name in usual._fields}
        return usual._replace(**{name: v for name, v in given.items() if v is not None})


class Model(NamedTuple):
    """A model of the next character, for whole windows and for one character after another.

    Fields:
      net: {"x": tokens (batch, time), "initial": carry} -> {"x": logits, "final": carry}.
      carry: batch -> the carry of `net` before the first character.
      step: (params, memory, tokens (batch,)) -> (memory, logits (batch, vocabulary)), with the
        params of `net`.
      memory: (batch, room) -> what `step` carries before the first of at most `room` characters.
      context: the most characters that a prediction can rest upon; None where there is no limit.
    """

    net: jn.Layer
    carry: Callable[[int], PyTree]
    step: Callable[[PyTree, PyTree, jax.Array], tuple[PyTree, jax.Array]]
    memory: Callable[[int, int], PyTree]
    context: int | None


class Results(NamedTuple):
    """What a run gives.

    Fields:
      test: bits per character of the test part, with the params that were best in validation.
      history: part -> bits per character after each epoch, of "train" (with dropout) and
        "validation".
      seconds: of training, validation and compilation included.
      samples: what it wrote, one text for each of MANNERS.
      pictures: the files that were written.
    """

    test: float
    history: dict[str, np.ndarray]
    seconds: float
    samples: list[str]
    pictures: list[Path]


def build(config: Config, vocabulary: int) -> Model:
    """The model of the configuration, for so many characters."""
    build_kind = transformer if config.model == "transformer" else recurrent
    return build_kind(config, config.recipe(), vocabulary)


def recurrent(config: Config, recipe: Recipe, vocabulary: int) -> Model:
    """Embedding, recurrent layers, dense layer; the carry is a tuple, one entry a layer."""
    cell = CELLS[config.model]
    drop = jn.time_distributed(jn.dropout(recipe.dropout_rate))
    layers = [cell(recipe.features)] + [
        jn.serial(drop, cell(recipe.features)) for _ in range(recipe.layers - 1)
    ]
    net = jn.serial(
        jn.time_distributed(jn.embedding(vocabulary, config.embedding)),
        jn.stack_rnn(*layers),
        drop,
        jn.time_distributed(jn.dense(vocabulary)),
    )

    def carry(batch: int) -> PyTree:
        zero = jnp.zeros((batch, recipe.features))
        return ({"c": zero, "h": zero} if config.model == "lstm" else zero,) * recipe.layers

    def step(params, memory, tokens):
        out, _ = net.apply(params, {}, {"x": tokens[:, None], "initial": memory})
        return out["final"], out["x"][:, 0]

    return Model(net, carry, step, lambda batch, room: carry(batch), None)


def transformer(config: Config, recipe: Recipe, vocabulary: int) -> Model:
    """Embedding, causal blocks, norm, dense layer; it carries nothing from window to window."""

    def layer(step: bool) -> jn.Layer:
        """Tokens (batch, time) -> logits; or (caches, tokens (batch,)) -> (caches, logits)."""

        def forward(m, given):
            caches, tokens = given if step else ([None] * recipe.layers, given)
            x = m(jn.embedding(vocabulary, recipe.features), tokens)
            x = m(jn.dropout(recipe.dropout_rate), x)
            after = []
            for cache in caches:
                block = jn.transformer_block(
                    config.heads, 4 * recipe.features, causal=True, rotary=True,
                    dropout_rate=recipe.dropout_rate, step=step,
                )  # fmt: skip
                cache, x = m(block, (cache, x)) if step else (None, m(block, x))
                after.append(cache)
            logits = m(jn.dense(vocabulary), m(jn.layer_norm(), x))
            return (tuple(after), logits) if step else logits

        return jn.compose(forward, name="decoder")

    whole, one = layer(step=False), layer(step=True)

    def init(key, given):
        return whole.init(key, given["x"])

    def apply(params, state, given, *, key=None, train=False):
        y, state = whole.apply(params, state, given["x"], key=key, train=train)
        return {"x": y, "final": given["initial"]}, state

    def step(params, memory, tokens):
        return one.apply(params, {}, (memory, tokens))[0]

    def memory(batch: int, room: int) -> PyTree:
        size = recipe.features // config.heads
        cache = jn.attention_cache(batch, room, heads=config.heads, head_size=size)
        return (cache,) * recipe.layers

    return Model(jn.Layer(init, apply, "decoder"), lambda batch: {}, step, memory, recipe.steps)


def bits(model: Model, params: PyTree, tokens: np.ndarray, *, steps: int, streams: int) -> float:
    """Bits per character of a text, each but the first predicted once from those before it.

    Args:
      model: with the params.
      tokens: (length,) of the text.
      steps: of a window. A model without a limit carries its state from window to window; the
        windows of one with a limit overlap by half.
      streams: windows at a time. The former model reads so many parts of the text side by side,
        each from its own beginning: 1 is exact.
    """
    if model.context is None:
        cut = windows(tokens, streams, steps)
    else:
        cut = overlapping(tokens, model.context, model.context // 2)
    more = -len(cut.start) % streams
    cut = [np.pad(a, [(0, more), (0, 0)]).reshape(-1, streams, a.shape[1]) for a in cut[:3]]
    nats = _nats(model, params, model.carry(streams), *cut)
    return float(np.asarray(nats, np.float64).sum() / np.log(2) / (len(tokens) - 1))


@partial(jax.jit, static_argnums=0)
def _nats(model: Model, params, carry, x, y, counts):
    """Sums of each (streams, steps); the arguments are (windows, streams, steps)."""

    def body(carry, now):
        x, y, counts = now
        out, _ = model.net.apply(params, {}, {"x": x, "initial": carry})
        nats = optax.softmax_cross_entropy_with_integer_labels(out["x"], y)
        return out["final"], jnp.where(counts, nats, 0).sum()

    return jax.lax.scan(body, carry, (x, y, counts))[1]


@partial(jax.jit, static_argnames=("model", "length", "temperature", "top_p"))
def go_on(
    model: Model, params: PyTree, prompt: jax.Array, key: jax.Array, *,
    length: int, temperature: float = 1.0, top_p: float | None = None,
) -> jax.Array:  # fmt: skip
    """So many tokens (batch, length) after the prompt (batch, at least 1)."""
    step = partial(model.step, params)
    memory = model.memory(prompt.shape[0], prompt.shape[1] + length)
    memory, _ = jax.lax.scan(lambda m, t: (step(m, t)[0], None), memory, prompt[:, :-1].T)
    return sample(
        step, memory, prompt[:, -1], key, length=length, temperature=temperature, top_p=top_p
    )


def write(
    model: Model, params: PyTree, vocabulary: Vocabulary, prompt: str, key: jax.Array, *,
    length: int, temperature: float = 1.0, top_p: float | None = None,
) -> str:  # fmt: skip
    """The prompt and `length` characters after it.

    A model with a limited context begins anew whenever it is full, with its last half as prompt.
    """
    room = model.context or len(prompt) + length
    text = vocabulary.encode(prompt)
    stop = len(text) + length
    while len(text) < stop:
        seen = text if model.context is None else text[-(room // 2) :]
        some = stop - len(text) if model.context is None else room - len(seen)
        new = go_on(
            model, params, jnp.asarray(seen)[None], jax.random.fold_in(key, len(text)),
            length=some, temperature=temperature, top_p=top_p,
        )  # fmt: skip
        text = np.concatenate([text, np.asarray(new)[0]])
    return vocabulary.decode(text[:stop])


def run(config: Config) -> Results:
    """Trains the model, prints bits per character and samples, and draws the curve."""
    start = time.perf_counter()
    recipe = config.recipe()
    parts = {
        part: jn.data.tfds.load("tiny_shakespeare", part, data_dir=config.data_dir)["text"][0]
        for part in ("train", "validation", "test")
    }
    vocabulary = characters(parts["train"])  # it has all that the other two have
    tokens = {part: vocabulary.encode(text) for part, text in parts.items()}
    tokens["train"] = tokens["train"][: config.characters]

    model = build(config, vocabulary.size)
    cut: Windows = windows(tokens["train"], config.batch_size, recipe.steps)
    data = (cut.x, cut.start), (cut.y, cut.counts)
    steps = recipe.epochs * (len(cut.x) // config.batch_size)
    optimizer = make_optimizer(config, recipe, steps)
    step = jn.make_step(jn.carried(model.net, jn.losses.masked()), optimizer)

    given = {"x": jn.spec(cut.x.shape, jnp.int32), "initial": model.carry(len(cut.x))}
    train_state = jn.init_training(model.net, optimizer, jax.random.key(config.seed), given)
    state = {"net": train_state.state, "carry": model.carry(config.batch_size)}
    train_state = train_state._replace(state=state)
    weights = sum(leaf.size for leaf in jax.tree.leaves(train_state.params))
    sizes = ", ".join(f"{len(ids):,} for {part}" for part, ids in tokens.items())
    print(f"{config.model} of {weights:,} weights, {vocabulary.size} characters; {sizes}")

    history: dict[str, list[float]] = {"train": [], "validation": []}
    best = train_state.params
    for epoch in jn.fit(
        train_state, step, data, epochs=recipe.epochs, batch_size=config.batch_size,
        shuffle=model.context is not None,
    ):  # fmt: skip
        params = epoch.train_state.params
        history["train"].append(epoch.train["loss"] / np.log(2))
        history["validation"].append(
            bits(model, params, tokens["validation"], steps=recipe.steps, streams=config.batch_size)
        )
        if history["validation"][-1] == min(history["validation"]):
            best = params
        if epoch.number % -(-recipe.epochs // 10) == 0:  # ten lines at most
            print(
                f"epoch {epoch.number}: "
                + ", ".join(f"{k} {v[-1]:.4f}" for k, v in history.items())
            )
    seconds = time.perf_counter() - start
    chosen = int(np.argmin(history["validation"])) + 1
    found = bits(model, best, tokens["test"], steps=recipe.steps, streams=1)
    print(
        f"{found:.4f} bits per character of the test part, {min(history['validation']):.4f} of the "
        f"validation part (epoch {chosen}); {seconds:.1f} seconds, compilation included"
    )

    samples = []
    for i, (temperature, top_p) in enumerate(MANNERS):
        key = jn.child_key(jax.random.key(config.seed), f"sample {i}")
        text = write(
            model, best, vocabulary, config.prompt, key,
            length=config.length, temperature=temperature, top_p=top_p,
        )  # fmt: skip
        nucleus = "" if top_p is None else f", nucleus {top_p}"
        print(f"\n--- temperature {temperature}{nucleus}\n{text}")
        samples.append(text)
    arrays = {part: np.array(values) for part, values in history.items()}
    config.output.mkdir(parents=True, exist_ok=True)
    jn.save(
        config.output / f"{config.model}.safetensors", {"params": best},
        config={"model": config.model, **recipe._asdict(), "vocabulary": vocabulary.contents},
    )  # fmt: skip
    picture = jn.viz.save(
        jn.viz.curves({"bits per character": arrays}), config.output / f"{config.model}.png"
    )
    print(f"picture: {picture}")
    return Results(found, arrays, seconds, samples, [picture])


def make_optimizer(config: Config, recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """AdamW on clipped gradients, for a run of so many steps."""
    warmup = min(config.warmup, steps // 10)
    rate = optax.warmup_cosine_decay_schedule(0.0, recipe.learning_rate, warmup, steps)
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(rate, weight_decay=config.weight_decay),
    )


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config))
