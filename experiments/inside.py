"""Looking inside two networks: LeNet-5 on MNIST, a small color network on CIFAR-10.

Claim: attribution maps identify the pixels that a network uses. With the most important pixels
removed, its accuracy falls faster than with random pixels removed.

White pixels of a digit cannot be removed, so random pixels of ink are the fair comparison there.
On photos the removed pixels are replaced by the mean color. The weights of the regularizers for
the images optimized for a class were chosen by their appearance.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.cifar10 import NAMES
from experiments.common import Output, Short, TrainSize, grid, main, run_epochs, save
from experiments.records import Command, Picture, Record, lower
from jaxnet import Table
from jaxnet.typing import Pair
from jaxnet.viz.style import COLORS, new_figure, styled

RECORDS = (
    Record(
        topic="images",
        title="Integrated gradients and occlusion find the pixels that LeNet-5 uses",
        verdict="Mixed",
        claim=(
            "accuracy falls faster if the pixels that an attribution map ranks first are removed "
            "than if random ones are"
        ),
        sentence=(
            "We removed the pixels that each attribution map ranks first, and measured the "
            "accuracy on 1,000 test digits: the lower, the better the map. All maps beat random "
            "pixels. Integrated gradients always beat random pixels of ink, occlusion up to 20%, "
            "saliency up to 10%, and the class activation map never."
        ),
        columns=("removed first", *lower("5% removed (accuracy, %)", "10% removed", "20% removed")),
        rows=(
            ("by integrated gradients", "30.7", "10.1", "5.2"),
            ("by occlusion", "31.4", "8.3", "13.3"),
            ("by saliency", "81.5", "66.0", "45.1"),
            ("by the class activation map", "94.6", "88.4", "70.9"),
            ("ink, at random", "86.2", "72.4", "27.3"),
            ("at random", "97.9", "97.6", "94.9"),
        ),
        commands=(Command("", 240, "236 s of CPU, both nets"),),
        caveat="Removing pixels without ink changes nothing, so random ink is the fair comparison.",
        seeds=1,
        key="accuracy 30.7% without the top 5% of pixels, 86.2% without random ink",
        baseline="ink, at random",
        note=(
            "LeNet-5 was trained for 2 epochs and classifies 98.56% of the test digits correctly.\n"
            "Removing pixels without ink changes nothing, so random pixels of ink are the fair "
            "comparison.\n"
            "Saliency also marks pixels without ink, and beats random ink up to 10%. The "
            "class activation map has only 5×5 positions.\n"
            "The contributions of integrated gradients add up to the rise of the logit, to within "
            "0.21%.\n"
            "All 10 images optimized for a class are classified as that class, and 5 of them have "
            "a higher logit than any test digit. We chose the regularization of these images by "
            "their appearance."
        ),
        pictures=(
            Picture("inside_attributions.png", "Attribution maps of digits"),
            Picture("inside_deletion.png", "Accuracy against the fraction of pixels removed"),
            Picture("inside_classes.png", "Images optimized for a class"),
            Picture("inside_maps.png", "Feature maps of a digit"),
            Picture("inside_hidden.png", "Images optimized for hidden units"),
            Picture(
                "inside_receptive.png",
                "The receptive fields of four layers of LeNet-5: what a unit in the middle sees",
            ),
        ),
        lesson=7,
    ),
    Record(
        topic="images",
        title="On photos, only integrated gradients beat random pixels",
        verdict="Mixed",
        claim="attribution maps find the pixels that a network uses, on photos too",
        sentence=(
            "From 200 photos, we removed the pixels that each attribution map ranks first, and "
            "measured the accuracy of a small network. Removing 5% of the pixels by integrated "
            "gradients lowers the accuracy from 64.0% to 36.5%. Removing as many random pixels "
            "lowers it to 50.0%. Saliency, occlusion and the class activation map do no better "
            "than random pixels."
        ),
        columns=("removed first", *lower("5% removed (accuracy, %)", "10% removed", "20% removed")),
        rows=(
            ("by integrated gradients", "36.5", "27.0", "20.0"),
            ("by occlusion", "51.5", "43.0", "30.5"),
            ("by saliency", "51.0", "44.0", "33.0"),
            ("by the class activation map", "65.5", "57.0", "45.5"),
            ("at random", "50.0", "40.0", "31.0"),
            ("the middle first", "62.0", "64.5", "54.0"),
        ),
        commands=(Command("", 240, "236 s of CPU, both nets"),),
        caveat=(
            "Random pixels are scattered dots, which disturb a network more than a region of the "
            "same size."
        ),
        seeds=1,
        key="accuracy 36.5% without the top 5% of pixels, 50.0% without random ones",
        baseline="at random",
        note=(
            "The network was trained for 3 epochs and classifies 65.91% of the CIFAR-10 test "
            "photos correctly, and 64.0% of these 200.\n"
            "Removed pixels are replaced by the mean color.\n"
            "Random pixels are scattered dots, which disturb more than a region of the same size "
            "does. The coarse maps, which mark regions, do worse than dots."
        ),
        pictures=(Picture("inside_photos.png", "Attribution maps of photos"),),
        lesson=7,
    ),
)
SHARES = (0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
SHOWN = (0.05, 0.1, 0.2, 0.5)  # in the table
FEATURES = (32, 64, 128)  # maps of the color network
CHUNK = 500  # images without pixels per forward pass


@dataclass(frozen=True)
class Config(TrainSize, Output):
    """Trains two networks and looks inside them."""

    output: Path = Path("runs/inside")
    digit_epochs: int = 2
    """passes over MNIST"""
    photo_epochs: int = 3
    """passes over CIFAR-10"""
    digits_tested: int = 1000
    """number of test digits from which pixels are removed"""
    photos_tested: int = 200
    """number of test photos from which pixels are removed"""
    steps: int = 256
    """number of steps of activation maximization; integrated gradients take an eighth of them"""

    def __post_init__(self):
        super().__post_init__()
        if self.steps < 8:
            raise ValueError(f"steps must be at least 8, got {self.steps}")


class Results(NamedTuple):
    """Results of the experiment.

    Fields:
      accuracies: Accuracy on the test split, by network.
      deletions: Accuracies without the fractions SHARES of the pixels, network -> kind of map ->
        accuracies.
      pictures: Files written.
    """

    accuracies: dict[str, float]
    deletions: dict[str, dict[str, np.ndarray]]
    pictures: list[Path]


def run(config: Config) -> Results:
    """Train both networks, draw their insides, and remove pixels."""
    accuracies, deletions, pictures = {}, {}, []
    for train in (train_digits, train_photos):
        subject = train(config)
        read = jn.predict(subject.net, subject.params, subject.state, subject.test[0]).argmax(-1)
        accuracies[subject.name] = float((read == subject.test[1]).mean())
        print(f"{subject.name}: accuracy {accuracies[subject.name]:.2%} on the test images")
        figures, deletions[subject.name] = look(subject, read, config)
        named = {f"{subject.name}_{name}": figure for name, figure in figures.items()}
        pictures += save(named, config.output, dpi=110)
    return Results(accuracies, deletions, pictures)


class Subject(NamedTuple):
    """A trained network, and the layers of it that are drawn.

    Fields:
      name: Name of the pictures.
      net, params, state: Network with its params and state.
      test: Pair (images, labels).
      classes: Names of the classes.
      first: Path of the first layer's kernel in params.
      maps: Path of the layer whose feature maps are drawn.
      last: Path of the last layer with maps.
      fields: Paths of the layers whose receptive fields are drawn.
      hidden: Path of the layer whose units are maximized, before the activation function.
      gray: Value of a removed pixel, (channels,).
      decay: Decay of activation maximization, for classes and for hidden units.
      patch: Side of the occluding square in pixels; it moves by half of it.
      control: Name and importance of a simple ranking of pixels.
    """

    name: str
    net: jn.Layer
    params: Any
    state: Any
    test: Pair
    classes: tuple[str, ...]
    first: tuple[str, ...]
    maps: str
    last: str
    fields: tuple[str, ...]
    hidden: str
    gray: np.ndarray
    decay: tuple[float, float]
    patch: int
    control: tuple[str, np.ndarray]


def train_digits(config: Config) -> Subject:
    (x, y), test = jn.data.mnist(data_dir=config.data_dir)
    train = x[: config.train_size], y[: config.train_size]
    net = jn.models.lenet5()
    trained = fit(net, train, config.digit_epochs, jn.data.random_shift(2), 2e-3)
    ink = test[0][: config.digits_tested, ..., 0] > 0
    draw = np.random.default_rng(1).uniform(size=ink.shape)
    return Subject(
        "digits",
        net,
        trained.params,
        trained.state,
        test,
        tuple("0123456789"),
        first=("c1",),
        maps="c3",
        last="s4",
        fields=("c1", "s2", "c3", "s4"),
        hidden="c3",
        gray=np.zeros(1, np.float32),
        decay=(0.05, 0.002),
        patch=4,
        control=("ink, at random", ink + draw),
    )


def train_photos(config: Config) -> Subject:
    (x, y), test = jn.data.cifar10(data_dir=config.data_dir)
    train = x[: config.train_size], y[: config.train_size]
    net = color_net()
    trained = fit(net, train, config.photo_epochs, jn.data.random_flip(), 3e-3)
    gray = train[0].mean((0, 1, 2))
    offset = np.arange(32) - 15.5
    middle = -np.hypot(offset[:, None], offset)  # pixels near the middle are the most important
    middle = np.broadcast_to(middle, (min(config.photos_tested, len(test[0])), 32, 32))
    return Subject(
        "photos",
        net,
        trained.params,
        trained.state,
        test,
        NAMES,
        first=("block_1", "conv"),
        maps="block_1",
        last="block_3",
        fields=("block_1", "block_2", "block_3"),
        hidden="block_2/norm",
        gray=gray,
        decay=(0.0, 0.0),
        patch=6,
        control=("the middle first", middle),
    )


def color_net(classes: int = 10) -> jn.Layer:
    """Return three convolutions, a mean over each map, and a dense layer."""

    def block(features, size, i):
        return jn.serial(
            jn.conv(features, size, use_bias=False, kernel_init=jn.initializers.he_normal()),
            jn.batch_norm(name="norm"),
            jax.nn.relu,
            name=f"block_{i}",
        )

    first, second, third = FEATURES
    return jn.serial(
        block(first, 5, 1),
        jn.max_pool(2),
        block(second, 3, 2),
        jn.max_pool(2),
        block(third, 3, 3),
        jn.global_avg_pool(),
        jn.dense(classes, name="output"),
        name="color_net",
    )


def fit(net: jn.Layer, train: Pair, epochs: int, augment: Any, rate: float) -> jn.TrainState:
    """Train by Adam with a rate that decays to 0 as a cosine."""
    loss = optax.softmax_cross_entropy_with_integer_labels
    objective = jn.supervised(net, loss, metrics={"accuracy": jn.metrics.accuracy})
    augmented = jn.augmented(objective, jn.data.on_inputs(augment))
    steps = epochs * -(-len(train[1]) // 128)
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    trainer = jn.trainer(augmented, optimizer)
    return run_epochs(trainer, train, seed=0, epochs=epochs, batch_size=128)[-1].train_state


def look(s: Subject, read: np.ndarray, config: Config) -> tuple[dict[str, Any], dict]:
    """Return the pictures of a network by name, and its accuracies with pixels removed."""
    x, y = s.test
    kernel = s.params
    for name in s.first:
        kernel = kernel[name]
    figures = {"filters": jn.viz.filters(kernel["kernel"])}

    right = [int(i) for c in np.unique(y) for i in np.flatnonzero((read == y) & (y == c))[:1]]
    wrong = [int(i) for i in np.flatnonzero(read != y)[:3]]
    one = [*wrong, *right][-3]
    activations = jax.jit(partial(jn.inspect.activations, s.net))
    found = activations(s.params, s.state, x[one : one + 1])
    maps = np.maximum(found[s.maps][0], 0)
    figures["maps"] = jn.viz.feature_maps(maps, x[one], most_active=15, columns=8)

    figures |= maximized(s, config)
    chosen = [*right[:4], *wrong]
    names = []
    for i in chosen:
        mistaken = f",\npredicted {s.classes[read[i]]}" if read[i] != y[i] else ""
        names.append(s.classes[y[i]] + mistaken)
    kinds = attributions(s, x[chosen], config)
    figures["attributions"] = jn.viz.heatmap(x[chosen], kinds, names, unsigned=["saliency"])
    figures["receptive"] = receptive(s, x[one])
    curves = deletions(s, config)
    figures["deletion"] = draw(curves)
    return figures, curves


def maximized(s: Subject, config: Config) -> dict[str, Any]:
    """Draw inputs that maximize classes and hidden units, and count what the net says of them."""
    at = (s.net, s.params, s.state)
    x, _ = s.test
    options: dict[str, Any] = {"steps": config.steps, "background": float(s.gray.mean())}
    shape, count = x.shape[1:], len(s.classes)
    made = jn.inspect.maximize_activation(
        *at, None, range(count), jax.random.key(0), shape, decay=s.decay[0], **options
    )
    logits = jn.predict(*at, np.asarray(made))
    seen = jn.predict(*at, x).max(0)
    units = np.arange(count)
    print(
        f"{s.name}: of {count} images optimized for a class, {(logits.argmax(-1) == units).sum()} "
        f"are classified as it, {(logits[units, units] > seen).sum()} with a logit above that of "
        "any test image"
    )
    figures = {"classes": jn.viz.images(made, list(s.classes), columns=5)}
    spec = jax.eval_shape(lambda: jn.inspect.activations(*at, x[:1])[s.hidden])
    hidden = range(min(16, spec.shape[-1]))
    made = jn.inspect.maximize_activation(
        *at, s.hidden, hidden, jax.random.key(1), shape, decay=s.decay[1], **options
    )
    return figures | {"hidden": jn.viz.images(made, [str(i) for i in hidden], columns=8)}


def receptive(s: Subject, image: np.ndarray) -> Any:
    """Draw the receptive fields on an image, and print how much of each has an effect."""
    x, _ = s.test
    fields = jn.inspect.receptive_fields(s.net, x[:1])
    effective = {}
    for path in s.fields:
        effective[path] = effective_field(s.net, s.params, s.state, x[:200], path, fields)
    figure = draw_fields(image, fields, effective)
    for path, field in effective.items():
        share, area = inner(field, fields, path)
        print(f"{s.name}/{path}: {share:.0%} of the gradient in the inner {area:.0%} of the field")
    return figure


def deletions(s: Subject, config: Config) -> dict[str, Any]:
    """Return accuracies with the most important pixels removed, by the map that ranks them."""
    x, y = s.test
    name, control = s.control
    x, y = x[: len(control)], y[: len(control)]
    kinds = attributions(s, x, config)
    maps: dict[str, Any] = {kind: importance(kind, m, x.shape[1:3]) for kind, m in kinds.items()}
    rise = difference(s, x)
    total = np.asarray(kinds["integrated gradients"]).sum((1, 2, 3))
    off = np.abs(total - rise).mean() / np.abs(rise).mean()
    print(f"{s.name}: integrated gradients miss the rise of the logit by {off:.2%} of it")
    maps[name] = control
    maps["at random"] = np.random.default_rng(0).uniform(size=x.shape[:3])
    at = (s.net, s.params, s.state, x, y)
    curves = {name: deletion(*at, m, SHARES, s.gray) for name, m in maps.items()}
    print(table(s.name, curves))
    return curves


def attributions(s: Subject, x: np.ndarray, config: Config) -> dict[str, Any]:
    """Return all kinds of maps, for the predicted classes."""
    at = (s.net, s.params, s.state, x)
    return {
        "saliency": jn.inspect.saliency(*at),
        "integrated gradients": integrated(s, x, config),
        "occlusion": jn.inspect.occlusion(
            *at, size=s.patch, strides=s.patch // 2, value=s.gray
        ),
        "class activation map": jn.inspect.class_activation_map(*at, s.last),
    }  # fmt: skip


def integrated(s: Subject, x: np.ndarray, config: Config) -> Any:
    return jn.inspect.integrated_gradients(
        s.net, s.params, s.state, x, baseline=s.gray, steps=config.steps // 8
    )


def difference(s: Subject, x: np.ndarray) -> np.ndarray:
    """Return the difference of the largest logit between images and an empty image."""
    logits = jn.predict(s.net, s.params, s.state, x)
    empty = np.broadcast_to(s.gray, x[:1].shape).astype(np.float32)
    start = jn.predict(s.net, s.params, s.state, empty)[0]
    return logits.max(-1) - start[logits.argmax(-1)]


@partial(jax.jit, static_argnums=(0, 2))
def importance(name: str, values: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Return one number per pixel: a gradient's magnitude, or a sum of maps in logits."""
    if values.ndim == 4:
        values = jnp.abs(values).max(-1) if name == "saliency" else values.sum(-1)
    return jax.image.resize(values, (len(values), *size), "bilinear")


def deletion(
    net: jn.Layer, params: Any, state: Any, x: Any, labels: Any, ranks: Any, shares: Any, value: Any
) -> np.ndarray:
    """Return the accuracy without each of the shares of pixels, those of the largest ranks first.

    Of pixels of equal rank, upper left ones are removed first. They get the value, a number or one
    per channel.

    Reference: Samek et al. 2017, "Evaluating the Visualization of What a Deep Neural Network Has
    Learned" (region perturbation); Petsiuk, Das and Saenko 2018, "RISE" (deletion).
    """
    counts = jnp.array([round(share * ranks[0].size) for share in shares])
    right = sum(
        correct(net, params, state, *(a[i : i + CHUNK] for a in (x, labels, ranks)), counts, value)
        for i in range(0, len(x), CHUNK)
    )
    return np.asarray(right) / len(x)


@partial(jax.jit, static_argnums=0)
def correct(net, params, state, x, labels, ranks, counts, value):
    """Return the number of images classified correctly, (counts,)."""
    order = jnp.argsort(-ranks.reshape(len(x), -1), axis=1)
    place = jnp.argsort(order, axis=1).reshape(ranks.shape)  # 0 for the most important pixel

    def left(count):
        rest = jnp.where((place < count)[..., None], jnp.asarray(value, x.dtype), x)
        return (net.apply(params, state, rest)[0].argmax(-1) == labels).sum()

    return jax.lax.map(left, counts)


def effective_field(
    net: jn.Layer, params: Any, state: Any, x: np.ndarray, path: str, fields: Any
) -> np.ndarray:
    """Return the mean absolute gradient of the middle unit (height, width), at most 1.

    Reference: Luo, Li, Urtasun and Zemel 2016, "Understanding the Effective Receptive Field in Deep
    Convolutional Neural Networks".
    """
    middle = (*(n // 2 for n in fields.units[path]), slice(None))
    gradient = jn.inspect.saliency(net, params, state, x, middle, path=path)
    size = np.abs(gradient).sum(-1).mean(0)
    return size / size.max()


def inner(field: np.ndarray, fields: Any, path: str) -> tuple[float, float]:
    """Return the fractions of gradient and pixels in about the middle half of rows and columns."""
    (top, left), (rows, columns) = fields.starts[path], fields.fields[path]
    i, j = rows // 4, columns // 4
    inside = field[top + i : top + rows - i, left + j : left + columns - j]
    return float(inside.sum() / field.sum()), inside.size / (rows * columns)


@styled()
def draw_fields(image: np.ndarray, fields: Any, effective: dict[str, np.ndarray]) -> Any:
    """Draw receptive fields on an image, and the effective ones beside it; dark is the largest."""
    from matplotlib.patches import Rectangle

    figure = jn.viz.receptive(image, fields, list(effective))
    first: Any = figure.axes[0]
    cells = figure.add_gridspec(1, 1 + len(effective))
    first.set_subplotspec(cells[0])
    figure.set_figwidth(2.4 * (1 + len(effective)) + 0.1)
    for i, (path, values) in enumerate(effective.items()):
        axes, box = figure.add_subplot(cells[i + 1]), first.patches[i]
        axes.imshow(values, cmap="gist_heat_r", vmin=0)
        axes.add_patch(
            Rectangle(
                box.get_xy(),
                box.get_width(),
                box.get_height(),
                fill=False,
                ec=box.get_edgecolor(),
                lw=1.5,
                clip_on=False,
            )
        )
        axes.set(title=path, xticks=[], yticks=[])
    return figure


def table(name: str, curves: dict[str, np.ndarray]) -> Table:
    places = [0, *(SHARES.index(share) for share in SHOWN)]
    head = ("removed first", *(f"{SHARES[i]:.0%}" for i in places))
    rows = [(kind, *(f"{a[i]:.1%}" for i in places)) for kind, a in curves.items()]
    return Table(f"{name}: accuracy by fraction of pixels removed", head, rows)


def draw(curves: dict[str, np.ndarray]) -> Any:
    figure = new_figure(7.6, 3.8)
    axes = figure.subplots()
    for i, (name, values) in enumerate(curves.items()):
        style = "--" if i >= len(curves) - 2 else "-"  # controls
        axes.plot(
            100 * np.array(SHARES),
            100 * values,
            style,
            color=COLORS[i],
            marker="o",
            markersize=4,
            label=name,
        )
    axes.set_xlabel("pixels removed, %")
    axes.set_ylabel("accuracy on the test images, %")
    axes.set_ylim(0, 100)
    grid(axes)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


# As many images are tested as are drawn, so that their programs are the same.
SHORT = Short(
    {
        "digit_epochs": 1,
        "photo_epochs": 1,
        "digits_tested": 5,
        "photos_tested": 5,
        "steps": 8,
        "train_size": 100,
    },
    {"SHARES": (0, 0.05, 0.1, 0.2, 0.5), "FEATURES": (4, 6, 8)},
    long=True,
)


if __name__ == "__main__":
    main(Config, run)
