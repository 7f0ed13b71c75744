"""Weights of torchvision in jaxnet: the same logits for 23 networks.

Claim: `from_torch` and `by_names` take the weights of torchvision's networks without mistakes.

The weights are random, since nothing is downloaded; norms get random statistics, scales and biases,
so that no layer is without effect. Eight networks are those of `jaxnet.models`, the others are
written in `experiments.torchvision_nets`. Inputs have 64×64 pixels, but for networks that need 224.
The difference is the largest one of all logits, divided by the largest logit.

    network                     parameters layers  difference
    alexnet                     61,100,840      8  1.0e-06
    vgg11                      132,863,336     11  4.0e-06
    vgg11_bn                   132,868,840     19  3.1e-06
    vgg16                      138,357,544     16  3.4e-06
    googlenet                    6,624,904    115  6.0e-07
    resnet18                    11,689,512     41  8.8e-07
    resnet50                    25,557,032    107  1.3e-06
    resnet101                   44,549,160    209  1.4e-06
    wide_resnet50_2             68,883,240    107  1.4e-06
    resnext50_32x4d             25,028,904    107  1.3e-06
    mobilenet_v2                 3,504,872    105  6.5e-07
    mobilenet_v3_small           2,542,856     88  1.6e-06
    mobilenet_v3_large           5,483,032    110  1.2e-06
    mnasnet1_0                   4,383,312    105  7.6e-07
    efficientnet_b0              5,288,548    131  1.4e-06
    densenet121                  7,978,856    242  1.2e-06
    squeezenet1_1                1,235,496     26  4.4e-07
    shufflenet_v2_x1_0           2,278,604    113  8.5e-07
    regnet_x_400mf               5,495,976    143  5.4e-07
    regnet_y_400mf               4,344,144    139  7.8e-07
    segmentation.fcn_resnet50   32,957,013    109  2.6e-06
    convnext_tiny               28,589,128    100  1.0e-06
    vit_b_16                    86,567,656    100  1.6e-06
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxnet as jn
from experiments import torchvision_nets as nets
from experiments.common import Record, Seed, main
from jaxnet.interop import by_names, part, shaped, transposed
from jaxnet.interop.torch import from_torch
from jaxnet.services.extras import extra

RECORDS = (
    Record(
        claim="23 networks of torchvision give its logits with its weights (random ones)",
        result="largest difference of the logits 4.0e-06 of the largest logit",
        time="170 s of CPU",
        seconds=420,
        machine="2 CPU cores, jax 0.10.2, PyTorch 2.13.0, torchvision 0.28.0",
    ),
)


def convnext_table() -> dict[str, Any]:
    """Our entries -> torchvision's; a stage is `features.{1, 3, 5, 7}`, before each a reduction."""
    table: dict[str, Any] = {}
    norms = {"stem_norm": "features.0.1", "norm": "classifier.0"}
    kernels = {"stem": "features.0.0", "head": "classifier.2"}
    for stage in range(4):
        ours, theirs = f"stage_{stage}_block_{{i}}", f"features.{2 * stage + 1}.{{i}}"
        table[f"{ours}/layer_scale"] = (f"{theirs}.layer_scale", np.ravel)
        norms[f"{ours}/norm"] = f"{theirs}.block.2"
        for name, place in (("conv", 0), ("wide", 3), ("narrow", 5)):
            kernels[f"{ours}/{name}"] = f"{theirs}.block.{place}"
        if stage:
            norms[f"reduce_norm_{stage}"] = f"features.{2 * stage}.0"
            kernels[f"reduce_{stage}"] = f"features.{2 * stage}.1"
    return table | norm_rows(norms) | kernel_rows(kernels)


def vit_table() -> dict[str, Any]:
    table: dict[str, Any] = {"class": "class_token", "positions": "encoder.pos_embedding"}
    ours, theirs = "block_{i}", "encoder.layers.encoder_layer_{i}"
    for k, name in enumerate(("query", "key", "value")):
        packed, entry = f"{theirs}.self_attention.in_proj", f"{ours}/attention/{name}"
        rows = part(k, 3, axis=0)
        table[f"{entry}/kernel"] = (f"{packed}_weight", rows, transposed, shaped(768, 12, 64))
        table[f"{entry}/bias"] = (f"{packed}_bias", rows, shaped(12, 64))
    out = f"{theirs}.self_attention.out_proj"
    table[f"{ours}/attention/out/kernel"] = (f"{out}.weight", transposed, shaped(12, 64, 768))
    table[f"{ours}/attention/out/bias"] = f"{out}.bias"
    norms = {"norm": "encoder.ln", f"{ours}/attention_norm": f"{theirs}.ln_1"}
    norms[f"{ours}/mlp_norm"] = f"{theirs}.ln_2"
    kernels = {"patches": "conv_proj", "head": "heads.head"}
    kernels |= {f"{ours}/mlp_in": f"{theirs}.mlp.0", f"{ours}/mlp_out": f"{theirs}.mlp.3"}
    return table | norm_rows(norms) | kernel_rows(kernels)


def norm_rows(modules: dict[str, str]) -> dict[str, Any]:
    return {f"{ours}/{a}": f"{theirs}.{b}" for ours, theirs in modules.items()
            for a, b in (("scale", "weight"), ("bias", "bias"))}  # fmt: skip


def kernel_rows(modules: dict[str, str]) -> dict[str, Any]:
    kernels = {f"{a}/kernel": (f"{b}.weight", transposed) for a, b in modules.items()}
    return kernels | {f"{a}/bias": f"{b}.bias" for a, b in modules.items()}


class Network(NamedTuple):
    """A network in both libraries.

    Fields:
      net: makes ours.
      size: pixels of the input.
      table: for `by_names`; without it `from_torch` matches the layers.
      options: of torchvision's function.
    """

    net: Callable[[], jn.Layer]
    size: int = 64
    table: Callable[[], dict[str, Any]] | None = None
    options: dict[str, Any] = {}


FIFTY = (3, 4, 6, 3)
NETWORKS = {
    "alexnet": Network(jn.models.alexnet_one_column, 224),
    "vgg11": Network(lambda: jn.models.vgg(11), 224),
    "vgg11_bn": Network(lambda: jn.models.vgg(11, normalized=True), 224),
    "vgg16": Network(lambda: jn.models.vgg(16), 224),
    "googlenet": Network(
        lambda: jn.models.googlenet(normalized=True), options={"init_weights": False}
    ),
    "resnet18": Network(lambda: jn.models.resnet(18)),
    "resnet50": Network(lambda: jn.models.resnet(50)),
    "resnet101": Network(lambda: jn.models.resnet(101)),
    "wide_resnet50_2": Network(lambda: nets.bottlenecks(FIFTY, width=128)),
    "resnext50_32x4d": Network(lambda: nets.bottlenecks(FIFTY, width=4, groups=32)),
    "mobilenet_v2": Network(nets.mobilenet_v2),
    "mobilenet_v3_small": Network(lambda: nets.mobilenet_v3(nets.SMALL, 1024)),
    "mobilenet_v3_large": Network(lambda: nets.mobilenet_v3(nets.LARGE, 1280)),
    "mnasnet1_0": Network(nets.mnasnet1_0),
    "efficientnet_b0": Network(nets.efficientnet_b0),
    "densenet121": Network(lambda: nets.densenet((6, 12, 24, 16))),
    "squeezenet1_1": Network(nets.squeezenet1_1),
    "shufflenet_v2_x1_0": Network(nets.shufflenet_v2_x1_0),
    "regnet_x_400mf": Network(
        lambda: nets.regnet((32, 64, 160, 400), (1, 2, 7, 12), group=16, gated=False)
    ),
    "regnet_y_400mf": Network(
        lambda: nets.regnet((48, 104, 208, 440), (1, 3, 6, 6), group=8, gated=True)
    ),
    "segmentation.fcn_resnet50": Network(nets.fcn_resnet50, options={"weights_backbone": None}),
    "convnext_tiny": Network(
        lambda: nets.convnext((96, 192, 384, 768), (3, 3, 9, 3)), table=convnext_table
    ),
    "vit_b_16": Network(nets.vit_b_16, 224, vit_table),
}


@dataclass(frozen=True)
class Config(Seed):
    """Compares the logits of networks in jaxnet and torchvision, with equal weights."""

    only: tuple[str, ...] = ()
    """names of networks; none for all"""

    def __post_init__(self):
        super().__post_init__()
        if unknown := [name for name in self.only if name not in NETWORKS]:
            raise ValueError(f"only has {', '.join(unknown)}; there are {', '.join(NETWORKS)}")


class Row(NamedTuple):
    """The comparison of one network.

    Fields:
      name: of torchvision's function.
      parameters: their number.
      layers: number of layers with weights.
      difference: the largest one of all logits, divided by the largest logit.
    """

    name: str
    parameters: int
    layers: int
    difference: float


def run(config: Config) -> list[Row]:
    rows = []
    print(f"{'network':26} {'parameters':>11} {'layers':>6}  difference")
    for name in config.only or NETWORKS:
        rows.append(row := compare(name, config.seed))
        print(f"{row.name:26} {row.parameters:11,} {row.layers:6}  {row.difference:.1e}")
    print(f"{len(rows)} networks, the largest difference is {max(r.difference for r in rows):.1e}")
    return rows


def compare(name: str, seed: int = 0) -> Row:
    """Logits of both libraries for the same weights and the same image."""
    network, models = NETWORKS[name], torchvision().models
    torch = extra("torch", "torch", "torchvision_logits", "parity")
    torch.manual_seed(seed)
    build = functools.reduce(getattr, name.split("."), models)
    theirs = lively(build(**network.options).eval(), torch)
    weights = {n: a for n, a in theirs.state_dict().items() if not n.startswith("aux")}
    net = network.net()
    x = np.random.default_rng(seed).normal(size=(1, network.size, network.size, 3))
    x = x.astype(np.float32)
    if network.table is None:
        params, state = from_torch(net, weights, x)
    else:
        params, state = by_names(net, weights, x, network.table())
    y = np.asarray(jax.jit(lambda params, state: net.apply(params, state, x)[0])(params, state))
    with torch.no_grad():
        wanted = theirs(torch.tensor(np.moveaxis(x, -1, 1)))
    wanted = (wanted["out"] if isinstance(wanted, dict) else wanted).numpy()
    wanted = np.moveaxis(wanted, 1, -1)  # of (batch, classes) no change
    if y.shape != wanted.shape:
        raise ValueError(f"{name}: expected logits of shape {wanted.shape}, got {y.shape}")
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return Row(
        name,
        parameters=sum(leaf.size for _, leaf in leaves),
        layers=len({path[:-1] for path, _ in leaves}),
        difference=float(np.abs(y - wanted).max() / np.abs(wanted).max()),
    )


def lively(module: Any, torch: Any) -> Any:
    """The module with statistics, scales and biases that leave no layer without effect."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
        if isinstance(layer, torch.nn.BatchNorm2d | torch.nn.LayerNorm):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias)
    with torch.no_grad():
        for name, array in module.named_parameters():
            if name.endswith(("class_token", "layer_scale")):
                array.normal_()
            if name.endswith(("proj_bias", "out_proj.bias", "head.weight", "head.bias")):
                array.normal_(0, 0.1)  # zeros in fresh vision transformers
    return module


@functools.cache
def torchvision() -> Any:
    """torchvision; where it cannot load its own operators, they are declared without a body."""
    torch = extra("torch", "torch", "torchvision_logits", "parity")
    try:
        return extra("torchvision", "torchvision", "torchvision_logits", "parity")
    except RuntimeError:  # operator torchvision::nms does not exist
        KEPT.append(library := torch.library.Library("torchvision", "FRAGMENT"))
    for name, inputs in {
        "nms": "Tensor d, Tensor s, float t",
        "qnms": "Tensor d, Tensor s, float t",
        "roi_align": "Tensor x, Tensor r, float s, int h, int w, int n, bool a",
        "roi_pool": "Tensor x, Tensor r, float s, int h, int w",
    }.items():
        out = "(Tensor, Tensor)" if name == "roi_pool" else "Tensor"
        library.define(f"{name}({inputs}) -> {out}")
    return extra("torchvision", "torchvision", "torchvision_logits", "parity")


KEPT: list[Any] = []  # libraries, since what they declare goes with them


if __name__ == "__main__":
    main(Config, run)
