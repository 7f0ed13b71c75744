"""The workloads: nets with their sizes, initial weights common to all programs, and data.

The nets are descriptions that use no library. Weights are nested dicts of NumPy arrays with the
names and layouts of jaxnet (and Flax): dense kernels (inputs, outputs), convolutions (height,
width, inputs, outputs), norms with scale and bias, gates of an LSTM in the order i, f, g, o and of
a GRU r, u, n. Every peer copies them into its own layout.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

CLASSES = 10
Convs = tuple[tuple[int, int, int, int], ...]  # size, inputs, features and strides of each
MOMENTUM = 0.9
WIDTHS = (16, 32, 64)  # of the ResNet's stages
# MobileNet V2's stages: how much wider inside, features, blocks and strides of the first one.
MOBILE = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip
Weights = dict[str, Any]


@dataclass(frozen=True)
class Mlp:
    """Dense layers with relu between them; the last has CLASSES outputs."""

    hidden: tuple[int, ...]

    def names(self) -> list[str]:
        """Return names of the hidden layers; the last layer is "output"."""
        return ["dense" if not i else f"dense_{i}" for i in range(len(self.hidden))]


@dataclass(frozen=True)
class LeNet:
    """LeNet-5 with relu and max pooling, for 28x28 images padded by 2."""


@dataclass(frozen=True)
class ResNet:
    """He et al.'s ResNet for CIFAR with batch norm and 1x1 shortcuts."""

    depth: int = 20

    def blocks(self) -> list[tuple[str, int, int, int]]:
        """Return name, inputs, features and strides of each block."""
        each, inputs, found = (self.depth - 2) // 6, WIDTHS[0], []
        for stage, features in enumerate(WIDTHS):
            for place in range(each):
                strides = 2 if stage and not place else 1
                found.append((f"block_{len(found) + 1}", inputs, features, strides))
                inputs = features
        return found

    @staticmethod
    def convs(inputs: int, features: int, strides: int) -> Convs:
        """Return the convolutions of a block."""
        return (3, inputs, features, strides), (3, features, features, 1)


@dataclass(frozen=True)
class LargeResNet:
    """He et al.'s ResNet for large images, with strides in the 3x3 convolutions."""

    depth: int = 50

    @property
    def width(self) -> int:
        """Features of the last block."""
        return 2048 if self.depth == 50 else 512

    def blocks(self) -> list[tuple[str, int, int, int]]:
        """Return name, inputs, features inside, and strides of each block."""
        inputs, found = 64, []
        for stage, count in enumerate({18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[self.depth]):
            for place in range(count):
                strides = 2 if stage and not place else 1
                found.append((f"stage_{stage + 1}_block_{place + 1}", inputs, 64 << stage, strides))
                inputs = (self.width // 512) * (64 << stage)
        return found

    def convs(self, inputs: int, features: int, strides: int) -> Convs:
        """Return the convolutions of a block."""
        if self.depth == 18:
            return (3, inputs, features, strides), (3, features, features, 1)
        outputs = 4 * features
        return (
            (1, inputs, features, 1),
            (3, features, features, strides),
            (1, features, outputs, 1),
        )


@dataclass(frozen=True)
class MobileNet:
    """Sandler et al.'s MobileNet V2: 1x1, depthwise 3x3 and 1x1 convolutions with batch norm.

    Each unit is a convolution and a batch norm, followed in some units by relu6.
    """

    width: int = 1280

    def units(self) -> list[tuple[str, int, int, int, int, bool]]:
        """Name, size, inputs, features, strides and relu6 of each; depthwise if size is 3."""
        found, inputs = [("unit_0", 3, 3, 32, 2, True)], 32
        for times, features, count, strides in MOBILE:
            for place in range(count):
                name, wide = f"block_{(len(found) + 2) // 3}", times * inputs
                found += [
                    (f"{name}_wide", 1, inputs, wide, 1, True),
                    (f"{name}_depthwise", 3, wide, wide, 1 if place else strides, True),
                    (f"{name}_narrow", 1, wide, features, 1, False),
                ]
                inputs = features
        return [*found, ("unit_1", 1, inputs, self.width, 1, True)]


@dataclass(frozen=True)
class UNet:
    """Ronneberger et al.'s U-Net with batch norm and padding, followed by the mean over its map.

    Each level has two 3x3 convolutions; on the way up the map of the level below is enlarged by
    repetition and joined with the map of this level.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)

    def units(self, inputs: int) -> list[tuple[str, int, int]]:
        """Return name, inputs and features of each 3x3 convolution, level by level."""
        found = []
        for i, width in enumerate(self.widths):
            found += [(f"down_{i}_1", inputs, width), (f"down_{i}_2", width, width)]
            inputs = width
        for i, width in reversed([*enumerate(self.widths[:-1])]):
            found += [(f"up_{i}_1", inputs + width, width), (f"up_{i}_2", width, width)]
            inputs = width
        return found


@dataclass(frozen=True)
class Lstm:
    """An LSTM, and a dense layer on its last output."""

    features: int


@dataclass(frozen=True)
class Gru:
    """A GRU (reset after the product), and a dense layer on its last output."""

    features: int


@dataclass(frozen=True)
class Transformer:
    """A pre-norm transformer block with GELU, the mean over time, and a dense layer."""

    heads: int
    mlp: int


@dataclass(frozen=True)
class Gpt:
    """GPT-2: pre-norm causal blocks, learned positions, logits by the table of the words.

    A batch has token ids (batch, time), and the same number of ids to predict.
    """

    depth: int
    heads: int
    width: int
    vocabulary: int


Net = Mlp | LeNet | ResNet | LargeResNet | MobileNet | UNet | Lstm | Gru | Transformer | Gpt


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    Fields:
      name: Name in the table.
      net: Model.
      shape: Shape of a batch of inputs, batch axis first.
      steps: Number of updates per program; above 1 they run in one `lax.scan` if the peer has one.
      members: Number of nets trained in parallel on the same batch, in one program.
      train: Whether to train; False measures the forward pass alone.
      peers: Peers that are measured; empty means all.
      half: Whether to compute in bfloat16, with parameters and their updates in float32.
      rate: Learning rate of SGD with momentum; the loss is the mean over batch and members.
    """

    name: str
    net: Net
    shape: tuple[int, ...]
    steps: int = 1
    members: int = 1
    train: bool = True
    peers: tuple[str, ...] = ()
    half: bool = False
    rate: float = 0.01

    @property
    def learning_rate(self) -> float:
        return self.rate * self.members


LARGE = ("ours", "linen", "torch")  # the large nets are written for these
WORKLOADS = (
    Workload("dense 20x64 forward", Mlp((64,) * 19), (32, 64), train=False, peers=("ours", "hand")),
    Workload("MLP 3x64", Mlp((64, 64)), (32, 64)),
    Workload("MLP 3x64, 100 steps", Mlp((64, 64)), (32, 64), steps=100),
    Workload("MLP", Mlp((512, 512)), (128, 784)),
    Workload("MLP, 40 steps", Mlp((512, 512)), (128, 784), steps=40),
    Workload("LeNet", LeNet(), (128, 28, 28, 1)),
    Workload("LeNet, 12 steps", LeNet(), (128, 28, 28, 1), steps=12),
    Workload("ResNet-20", ResNet(20), (64, 32, 32, 3)),
    Workload("ResNet-20, 2 steps", ResNet(20), (64, 32, 32, 3), steps=2),
    Workload("ResNet-18, 224x224", LargeResNet(18), (8, 224, 224, 3), peers=LARGE),
    Workload("ResNet-50, 224x224", LargeResNet(), (8, 224, 224, 3), peers=LARGE, rate=1e-5),
    Workload("ResNet-20, bfloat16", ResNet(20), (64, 32, 32, 3), half=True, peers=LARGE),
    Workload("MLP, bfloat16", Mlp((2048, 2048)), (512, 1024), half=True, peers=LARGE),
    Workload("MLP, large", Mlp((2048, 2048)), (512, 1024), peers=LARGE),
    Workload("MobileNet V2, 224x224", MobileNet(), (8, 224, 224, 3), peers=LARGE, rate=1e-4),
    Workload("U-Net, 128x128", UNet(), (8, 128, 128, 3), peers=LARGE),
    Workload("LSTM", Lstm(256), (32, 100, 64)),
    Workload("GRU", Gru(256), (32, 100, 64)),
    Workload("transformer block", Transformer(8, 1024), (8, 128, 256)),
    *(  # one example, whose loss a larger rate brings to 0 in five steps
        Workload(
            f"transformer block, {steps:,} steps",
            Transformer(8, 2048),
            (1, steps, 512),
            peers=LARGE,
            rate=1e-4,
        )
        for steps in (512, 2048, 8192)
    ),
    Workload("64 LeNets", LeNet(), (32, 28, 28, 1), members=64),
)
# For one GPU. Sizes as in published training runs; the small rows show what a launch costs.
GPU_WORKLOADS = (
    Workload("MLP 3x64", Mlp((64, 64)), (32, 64)),
    Workload("MLP", Mlp((4096, 4096)), (4096, 784)),
    Workload("LeNet", LeNet(), (1024, 28, 28, 1)),
    Workload("LSTM", Lstm(1024), (128, 100, 256)),
    Workload("transformer block, bfloat16", Transformer(16, 4096), (16, 512, 1024), half=True),
    Workload("64 LeNets", LeNet(), (32, 28, 28, 1), members=64),
    Workload("ResNet-50, bfloat16", LargeResNet(), (128, 224, 224, 3), half=True, peers=LARGE),
    Workload("GPT-2, 124M, bfloat16", Gpt(12, 12, 768, 50257), (8, 1024), half=True, peers=LARGE),
)


class Program(NamedTuple):
    """A program built by a peer.

    Fields:
      step: Function that runs the workload's updates and returns their losses, of any shape, which
        may not be computed yet; without training, the outputs.
      wait: Function that blocks until a value returned by step, and everything before it, is
        computed.
      differs: Reason, if only first losses can be equal because other parameters are trained.
    """

    step: Callable[[], Any]
    wait: Callable[[Any], Any]
    differs: str = ""


class NotOffered(Exception):
    """A peer has no documented way to run a workload; the message says what is missing."""


class Array(NamedTuple):
    """Shape and dtype of an array."""

    shape: tuple[int, ...]
    dtype: type


def batch_specs(workload: Workload) -> tuple[Array, Array]:
    """Return the specs of the inputs and the labels of one step."""
    if isinstance(workload.net, Gpt):
        return Array(workload.shape, np.int32), Array(workload.shape, np.int32)
    return Array(workload.shape, np.float32), Array(workload.shape[:1], np.int32)


def batches(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (steps, batch, ...) and labels (steps, batch), without axis for one step."""
    rng = np.random.default_rng(1)
    steps, shape = workload.steps, workload.shape
    if isinstance(workload.net, Gpt):
        ids = rng.integers(0, workload.net.vocabulary, (steps, shape[0], shape[1] + 1), np.int32)
        x, y = ids[..., :-1], ids[..., 1:]
    else:
        x = rng.normal(size=(steps, *shape)).astype(np.float32)
        y = rng.integers(0, CLASSES, (steps, shape[0])).astype(np.int32)
    return (x, y) if steps > 1 else (x[0], y[0])


def draw_weights(workload: Workload) -> Weights:
    """Draw initial weights of all programs, with a leading axis if there are several members."""
    draws = Draws(np.random.default_rng(0))
    drawn = [_draw(workload.net, workload.shape, draws) for _ in range(workload.members)]
    return drawn[0] if workload.members == 1 else stack(drawn)


def stack(trees: list[Weights]) -> Weights:
    """Return one tree with the leaves of all trees stacked."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: stack([tree[name] for tree in trees]) for name in first}
    return np.stack(trees)  # type: ignore[return-value]


def with_block(net: Net, weights: Weights, name: str) -> Weights:
    """Return a transformer's weights with its block under a name; other weights unchanged."""
    if not isinstance(net, Transformer):
        return weights
    output = {"output": weights["output"]}
    return {name: {k: v for k, v in weights.items() if k != "output"}} | output


def flatten(tree: Weights, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Weights]:
    """Return path of each layer -> its arrays by name."""
    if not any(isinstance(entry, dict) for entry in tree.values()):
        return {path: tree}
    found: dict[tuple[str, ...], Weights] = {}
    for name, entry in tree.items():
        found |= flatten(entry, (*path, name))
    return found


class Draws:
    """Weights of parts of the nets, drawn one after another."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def normal(self, deviation: float, *size: int) -> np.ndarray:
        return (deviation * self.rng.normal(size=size)).astype(np.float32)

    def bias(self, *size: int) -> np.ndarray:  # not 0, so that a missing bias is noticed
        return self.normal(0.1, *size)

    def dense(self, inputs: int, features: int) -> Weights:
        return {"kernel": self.normal(inputs**-0.5, inputs, features), "bias": self.bias(features)}

    def conv(self, size: int, inputs: int, features: int) -> Weights:
        deviation = math.sqrt(2 / (size * size * inputs))
        return {"kernel": self.normal(deviation, size, size, inputs, features)}

    def norm(self, features: int) -> Weights:
        return {"scale": 1 + self.bias(features), "bias": self.bias(features)}

    def residual(self, convs: Convs) -> Weights:
        tree: Weights = {}
        for i, (size, inputs, features, _) in enumerate(convs, 1):
            tree |= {
                f"conv_{i}": self.conv(size, inputs, features),
                f"norm_{i}": self.norm(features),
            }
        inputs, outputs = convs[0][1], convs[-1][2]
        if inputs != outputs:
            tree |= {"shortcut": self.conv(1, inputs, outputs), "shortcut_norm": self.norm(outputs)}
        return tree

    def recurrent(self, inputs: int, features: int, gates: int) -> Weights:
        return {
            "kernel": self.normal(inputs**-0.5, inputs, gates * features),
            "recurrent_kernel": self.normal(features**-0.5, features, gates * features),
            "bias": self.bias(gates * features),
        }

    def embeddings(self, vocabulary: int, time: int, width: int) -> Weights:
        return {
            "words": {"embedding": self.normal(0.02, vocabulary, width)},
            "positions": {"embedding": self.normal(0.02, time, width)},
            "norm": self.norm(width),
        }

    def block(self, width: int, heads: int, mlp: int) -> Weights:
        size = width // heads

        def project() -> Weights:
            kernel = self.normal(width**-0.5, width, heads, size)
            return {"kernel": kernel, "bias": self.bias(heads, size)}

        out = {"kernel": self.normal(width**-0.5, heads, size, width), "bias": self.bias(width)}
        attention = {name: project() for name in ("query", "key", "value")} | {"out": out}
        return {
            "attention_norm": self.norm(width),
            "attention": attention,
            "mlp_norm": self.norm(width),
            "mlp_in": self.dense(width, mlp),
            "mlp_out": self.dense(mlp, width),
        }


def _draw(net: Net, shape: tuple[int, ...], draw: Draws) -> Weights:
    width = shape[-1]
    match net:
        case Mlp(hidden):
            sizes = (width, *hidden)
            layers = [draw.dense(a, b) for a, b in zip(sizes[:-1], hidden, strict=True)]
            tree = dict(zip(net.names(), layers, strict=True))
            return tree | {"output": draw.dense(sizes[-1], CLASSES)}
        case LeNet():
            return {
                "c1": draw.conv(5, width, 6) | {"bias": draw.bias(6)},
                "c3": draw.conv(5, 6, 16) | {"bias": draw.bias(16)},
                "c5": draw.dense(400, 120),
                "f6": draw.dense(120, 84),
                "output": draw.dense(84, CLASSES),
            }
        case ResNet() | LargeResNet():
            small = isinstance(net, ResNet)
            size, first, last = (3, WIDTHS[0], WIDTHS[-1]) if small else (7, 64, net.width)
            tree = {"conv_0": draw.conv(size, width, first), "norm_0": draw.norm(first)}
            for name, *sizes in net.blocks():
                tree[name] = draw.residual(net.convs(*sizes))
            return tree | {"output": draw.dense(last, CLASSES)}
        case MobileNet():
            tree = {}
            for name, size, inputs, features, _, _ in net.units():
                depthwise = size == 3 and inputs == features
                convolution = draw.conv(size, 1 if depthwise else inputs, features)
                tree[name] = {"conv": convolution, "norm": draw.norm(features)}
            return tree | {"output": draw.dense(net.width, CLASSES)}
        case UNet(widths):
            tree = {}
            for name, inputs, features in net.units(width):
                tree[name] = {"conv": draw.conv(3, inputs, features), "norm": draw.norm(features)}
            return tree | {"output": draw.dense(widths[0], CLASSES)}
        case Lstm(features):
            return {
                "lstm": draw.recurrent(width, features, 4),
                "output": draw.dense(features, CLASSES),
            }
        case Gru(features):
            layer = draw.recurrent(width, features, 3)
            # The recurrent product of NNX has no bias.
            layer["recurrent_bias"] = np.zeros(features, np.float32)
            return {"gru": layer, "output": draw.dense(features, CLASSES)}
        case Transformer(heads, mlp):
            return draw.block(width, heads, mlp) | {"output": draw.dense(width, CLASSES)}
        case Gpt(depth, heads, width, vocabulary):
            blocks = draw.embeddings(vocabulary, shape[1], width)
            for i in range(depth):
                blocks[f"block_{i}"] = draw.block(width, heads, 4 * width)
            return blocks
