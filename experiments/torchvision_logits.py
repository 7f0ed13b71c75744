"""Weights of torchvision in jaxnet: the same logits for 28 networks.

Claim: `from_torch` takes the weights of torchvision's networks without mistakes.

The weights are random, since nothing is downloaded. Norms get random statistics, scales and
biases, so that no layer is without effect. The networks are from `jaxnet.models` or
`experiments.torchvision_nets`. Inputs have 64×64 pixels, or 224×224 if a
network needs them. The difference is the largest one of all logits, divided by the largest logit.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxnet as jn
from experiments import torchvision_nets as nets
from experiments.common import Seed, main
from experiments.records import Command, Record
from jaxnet.interop.torch import from_torch
from jaxnet.tools import extra

RECORDS = (
    Record(
        topic="agreement",
        title="With equal weights, 28 networks give torchvision's logits",
        verdict="Supported",
        sentence=(
            "We gave torchvision's networks random weights, so that nothing has to be "
            "downloaded, and converted them by `from_torch`. The logits of jaxnet and torchvision "
            "differ by at most 4.3e-6 of the largest logit."
        ),
        columns=(
            "network",
            "parameters",
            "layers",
            "largest difference of the logits (fraction of the largest logit)",
        ),
        rows=(
            ("`alexnet`", "61,100,840", "8", "1.3e-6"),
            ("`vgg11`", "132,863,336", "11", "4.3e-6"),
            ("`vgg11_bn`", "132,868,840", "19", "3.0e-6"),
            ("`vgg16`", "138,357,544", "16", "3.6e-6"),
            ("`googlenet`", "6,624,904", "115", "8.6e-7"),
            ("`resnet18`", "11,689,512", "41", "7.6e-7"),
            ("`resnet50`", "25,557,032", "107", "2.3e-6"),
            ("`resnet101`", "44,549,160", "209", "1.7e-6"),
            ("`wide_resnet50_2`", "68,883,240", "107", "2.1e-6"),
            ("`resnext50_32x4d`", "25,028,904", "107", "1.4e-6"),
            ("`mobilenet_v2`", "3,504,872", "105", "9.4e-7"),
            ("`mobilenet_v3_small`", "2,542,856", "88", "9.2e-7"),
            ("`mobilenet_v3_large`", "5,483,032", "110", "1.2e-6"),
            ("`mnasnet1_0`", "4,383,312", "105", "7.6e-7"),
            ("`efficientnet_b0`", "5,288,548", "131", "1.5e-6"),
            ("`efficientnet_b5`", "30,389,784", "311", "1.7e-6"),
            ("`efficientnet_v2_s`", "21,458,488", "281", "1.4e-6"),
            ("`densenet121`", "7,978,856", "242", "8.9e-7"),
            ("`densenet161`", "28,681,000", "322", "1.7e-6"),
            ("`squeezenet1_0`", "1,248,424", "26", "2.1e-7"),
            ("`squeezenet1_1`", "1,235,496", "26", "3.6e-7"),
            ("`shufflenet_v2_x1_0`", "2,278,604", "113", "7.6e-7"),
            ("`regnet_x_400mf`", "5,495,976", "143", "5.4e-7"),
            ("`regnet_y_400mf`", "4,344,144", "139", "7.0e-7"),
            ("`segmentation.fcn_resnet50`", "32,957,013", "109", "2.8e-6"),
            ("`convnext_tiny`", "28,589,128", "100", "1.2e-6"),
            ("`vit_b_16`", "86,567,656", "100", "8.2e-7"),
            ("`vit_b_32`", "88,189,672", "100", "9.9e-7"),
        ),
        commands=(Command("", 276, "146 s of CPU"),),
        seeds=1,
        key="differences up to 4.3e-6",
        note=(
            "The weights are random, so that nothing has to be downloaded.\n"
            "Norms have random statistics, scales and biases, so that every layer has an effect.\n"
            "Images have 64×64 pixels, or 224×224 if a network needs more."
        ),
        versions="jax 0.12.0.1, PyTorch 2.13.0, torchvision 0.28.0",
    ),
)


class Network(NamedTuple):
    """A network in both libraries.

    Fields:
      net: Function that makes our net.
      size: Height and width of the input in pixels.
      options: Options of torchvision's function.
    """

    net: Callable[[], jn.Layer]
    size: int = 64
    options: dict[str, Any] = {}


models = jn.models
NETWORKS = {
    "alexnet": Network(nets.alexnet, 224),
    "vgg11": Network(lambda: models.vgg(11), 224),
    "vgg11_bn": Network(lambda: models.vgg(11, normalized=True), 224),
    "vgg16": Network(lambda: models.vgg(16), 224),
    "googlenet": Network(
        lambda: models.googlenet(normalized=True), options={"init_weights": False}
    ),
    "resnet18": Network(lambda: models.resnet(18)),
    "resnet50": Network(lambda: models.resnet(50)),
    "resnet101": Network(lambda: models.resnet(101)),
    "wide_resnet50_2": Network(lambda: models.resnet(50, group_width=128)),
    "resnext50_32x4d": Network(lambda: models.resnet(50, groups=32, group_width=4)),
    "mobilenet_v2": Network(models.mobilenet_v2),
    "mobilenet_v3_small": Network(lambda: models.mobilenet_v3("small")),
    "mobilenet_v3_large": Network(lambda: models.mobilenet_v3("large")),
    "mnasnet1_0": Network(nets.mnasnet1_0),
    "efficientnet_b0": Network(lambda: models.efficientnet("b0")),
    "efficientnet_b5": Network(lambda: models.efficientnet("b5")),
    "efficientnet_v2_s": Network(lambda: models.efficientnet("v2_s")),
    "densenet121": Network(lambda: models.densenet(121)),
    "densenet161": Network(lambda: models.densenet(161)),
    "squeezenet1_0": Network(lambda: nets.squeezenet("1_0"), 224),
    "squeezenet1_1": Network(lambda: nets.squeezenet("1_1")),
    "shufflenet_v2_x1_0": Network(lambda: nets.shufflenet_v2("x1_0")),
    "regnet_x_400mf": Network(lambda: nets.regnet("x_400mf")),
    "regnet_y_400mf": Network(lambda: nets.regnet("y_400mf")),
    "segmentation.fcn_resnet50": Network(nets.fcn_resnet50, options={"weights_backbone": None}),
    "convnext_tiny": Network(lambda: models.convnext("tiny")),
    "vit_b_16": Network(lambda: models.vit("b_16"), 224),
    "vit_b_32": Network(lambda: models.vit("b_32"), 64, {"image_size": 64}),
}


@dataclass(frozen=True)
class Config(Seed):
    """Compares the logits of networks in jaxnet and torchvision, with equal weights."""

    only: tuple[str, ...] = ()
    """names of networks; by default all"""

    def __post_init__(self):
        super().__post_init__()
        if unknown := [name for name in self.only if name not in NETWORKS]:
            raise ValueError(f"only has {', '.join(unknown)}; there are {', '.join(NETWORKS)}")


class Row(NamedTuple):
    """The comparison of one network.

    Fields:
      name: Name of torchvision's function.
      parameters: Number of parameters.
      layers: Number of layers with weights.
      difference: Largest difference of all logits, divided by the largest logit.
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
    """Compare the logits of both libraries for the same weights and the same image."""
    network, library = NETWORKS[name], torchvision().models
    torch = extra("torch", "torch", "torchvision_logits", "parity")
    torch.manual_seed(seed)
    build = functools.reduce(getattr, name.split("."), library)
    theirs = lively(build(**network.options).eval(), torch)
    weights = {n: a for n, a in theirs.state_dict().items() if not n.startswith("aux")}
    net = network.net()
    x = np.random.default_rng(seed).normal(size=(1, network.size, network.size, 3))
    x = x.astype(np.float32)
    with torch.no_grad():
        wanted = theirs(torch.tensor(np.moveaxis(x, -1, 1)))
    wanted = (wanted["out"] if isinstance(wanted, dict) else wanted).numpy()
    wanted = np.moveaxis(wanted, 1, -1)  # of (batch, classes) no change
    params, state = from_torch(net, weights, x, outputs=wanted)
    y = np.asarray(jax.jit(lambda params, state: net.apply(params, state, x)[0])(params, state))
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
    """Return the module with statistics, scales and biases that leave no layer without effect."""
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
    """Import torchvision; if it cannot load its own operators, declare them without a body."""
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
