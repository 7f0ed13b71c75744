"""PyTorch: eager and compiled, and for images both memory layouts. SGD is the fused one.

Threads are as many as processors, as in JAX. Several steps in one program are a loop in Python:
PyTorch has no scan for training.
"""

import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from experiments.benchmarks.workloads import (
    CLASSES,
    MOMENTUM,
    WIDTHS,
    Convs,
    Gpt,
    Gru,
    LargeResNet,
    LeNet,
    Lstm,
    Mlp,
    MobileNet,
    Net,
    Program,
    ResNet,
    Transformer,
    UNet,
    Weights,
    Workload,
    batches,
    flatten,
    with_block,
)

LAST = "PyTorch, channels last"
COMPILED = "PyTorch compiled"
COMPILED_LAST = "PyTorch compiled, channels last"


def variants(workload: Workload) -> tuple[str, ...]:
    if len(workload.shape) == 4 and workload.members == 1:
        return ("PyTorch", LAST, COMPILED, COMPILED_LAST)
    return ("PyTorch", COMPILED)


def conv(inputs: int, features: int, size: int, strides: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, features, size, strides, size // 2, groups=groups, bias=False)


def unit(inputs: int, features: int, size: int = 3, strides: int = 1, groups: int = 1) -> nn.Module:
    """Return a convolution and a batch norm."""
    layers = nn.Sequential()
    layers.add_module("conv", conv(inputs, features, size, strides, groups))
    layers.add_module("norm", nn.BatchNorm2d(features))
    return layers


class Block(nn.Module):
    """Convolutions with batch norm, added to the shortcut."""

    def __init__(self, convs: Convs):
        super().__init__()
        for i, (size, inputs, features, strides) in enumerate(convs, 1):
            self.add_module(f"conv_{i}", conv(inputs, features, size, strides))
            self.add_module(f"norm_{i}", nn.BatchNorm2d(features))
        self.depth = len(convs)
        inputs, outputs = convs[0][1], convs[-1][2]
        self.shortcut = self.shortcut_norm = None
        if inputs != outputs:
            self.shortcut = conv(inputs, outputs, 1, math.prod(one[3] for one in convs))
            self.shortcut_norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"norm_{i}")(getattr(self, f"conv_{i}")(y))
            y = F.relu(y) if i < self.depth else y
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x))  # type: ignore[misc]
        return F.relu(x + y)


class Attention(nn.Module):
    """Multi-head attention with one linear map for queries, keys and values."""

    def __init__(self, width: int, heads: int, causal: bool = False):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, t, w = x.shape
        qkv = self.qkv(x).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv.unbind(0), is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(b, t, w))


class TransformerBlock(nn.Module):
    """Pre-norm, with GELU."""

    def __init__(self, width: int, heads: int, mlp: int, causal: bool = False):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, causal)
        self.mlp_in, self.mlp_out = nn.Linear(width, mlp), nn.Linear(mlp, width)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        y = F.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh")
        return x + self.mlp_out(y)


class Module(nn.Module):
    """Any of the nets, with layers by the common names; images are channels first."""

    def __init__(self, net: Net, shape: tuple[int, ...]):
        super().__init__()
        self.net, width = net, shape[-1]
        match net:
            case Mlp(hidden):
                for i, name in enumerate(net.names()):
                    self.add_module(name, nn.Linear((width, *hidden)[i], hidden[i]))
                width = hidden[-1]
            case LeNet():
                self.c1, self.c3 = nn.Conv2d(width, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
                self.c5, self.f6 = nn.Linear(400, 120), nn.Linear(120, 84)
                width = 84
            case ResNet():
                self.conv_0, self.norm_0 = conv(width, WIDTHS[0], 3), nn.BatchNorm2d(WIDTHS[0])
                for name, *sizes in net.blocks():
                    self.add_module(name, Block(net.convs(*sizes)))
                width = WIDTHS[-1]
            case Lstm(width):
                # One bias is enough: the other stays 0.
                self.lstm = nn.LSTM(shape[-1], width, batch_first=True)
                self.lstm.bias_hh_l0.requires_grad_(False).zero_()  # type: ignore[operator]
            case Gru(width):
                self.gru = nn.GRU(shape[-1], width, batch_first=True)
            case Transformer(heads, mlp):
                self.block = TransformerBlock(width, heads, mlp)
            case LargeResNet():
                self.conv_0, self.norm_0 = conv(width, 64, 7, 2), nn.BatchNorm2d(64)
                for name, *sizes in net.blocks():
                    self.add_module(name, Block(net.convs(*sizes)))
                width = net.width
            case MobileNet():
                for name, size, inputs, features, strides, _ in net.units():
                    groups = inputs if size == 3 and inputs == features else 1
                    self.add_module(name, unit(inputs, features, size, strides, groups))
                width = net.width
            case UNet(widths):
                for name, inputs, features in net.units(width):
                    self.add_module(name, unit(inputs, features))
                width = widths[0]
            case Gpt(depth, heads, width, vocabulary):
                self.words = nn.Embedding(vocabulary, width)
                self.positions = nn.Embedding(shape[1], width)
                for i in range(depth):
                    block = TransformerBlock(width, heads, 4 * width, causal=True)
                    self.add_module(f"block_{i}", block)
                self.norm = nn.LayerNorm(width, eps=1e-6)
                return
        self.output = nn.Linear(width, CLASSES)

    def forward(self, x):
        match self.net:
            case Mlp():
                for name in self.net.names():
                    x = F.relu(getattr(self, name)(x))
            case LeNet():
                x = F.max_pool2d(F.relu(self.c1(x)), 2)
                x = F.max_pool2d(F.relu(self.c3(x)), 2)
                x = F.relu(self.f6(F.relu(self.c5(x.flatten(1)))))
            case ResNet():
                x = F.relu(self.norm_0(self.conv_0(x)))
                for name, *_ in self.net.blocks():
                    x = getattr(self, name)(x)
                x = x.mean((2, 3))
            case Lstm():
                x = self.lstm(x)[0][:, -1]
            case Gru():
                x = self.gru(x)[0][:, -1]
            case Transformer():
                x = self.block(x).mean(1)
            case LargeResNet():
                x = F.max_pool2d(F.relu(self.norm_0(self.conv_0(x))), 3, 2, 1)
                for name, *_ in self.net.blocks():
                    x = getattr(self, name)(x)
                x = x.mean((2, 3))
            case MobileNet():
                before = x
                for name, *_, limited in self.net.units():
                    before = x if name.endswith("wide") else before
                    x = getattr(self, name)(x)
                    x = F.relu6(x) if limited else x
                    same = name.endswith("narrow") and x.shape == before.shape
                    x = x + before if same else x
                x = x.mean((2, 3))
            case UNet(widths):
                maps = []
                for i, (name, *_) in enumerate(self.net.units(x.shape[1])):
                    if i and not i % 2:  # another level begins
                        if i < 2 * len(widths):
                            maps.append(x)
                            x = F.max_pool2d(x, 2)
                        else:
                            x = torch.cat([F.interpolate(x, scale_factor=2), maps.pop()], 1)
                    x = F.relu(getattr(self, name)(x))
                x = x.mean((2, 3))
            case Gpt(depth):
                x = self.words(x) + self.positions.weight
                for i in range(depth):
                    x = getattr(self, f"block_{i}")(x)
                return self.norm(x) @ self.words.weight.T
        return self.output(x)


def in_layout(net: Net, weights: Weights) -> dict[str, np.ndarray]:
    """Return the weights by the names of a state_dict."""
    found = {}
    layers = flatten(with_block(net, weights, "block"))
    for path, p in layers.items():
        name = ".".join(path)
        if "embedding" in p:
            found[f"{name}.weight"] = p["embedding"]
        elif "scale" in p:
            found |= {f"{name}.weight": p["scale"], f"{name}.bias": p["bias"]}
        elif "recurrent_kernel" in p:
            second = np.zeros_like(p["bias"])
            if "recurrent_bias" in p:
                second[-len(p["recurrent_bias"]) :] = p["recurrent_bias"]
            found |= {
                f"{name}.weight_ih_l0": p["kernel"].T,
                f"{name}.weight_hh_l0": p["recurrent_kernel"].T,
                f"{name}.bias_ih_l0": p["bias"],
                f"{name}.bias_hh_l0": second,
            }
        elif "attention" not in path:
            kernel = p["kernel"]
            if path == ("c5",):  # maps are flattened channels first here
                kernel = kernel.reshape(5, 5, 16, -1).transpose(2, 0, 1, 3).reshape(400, -1)
            kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
            found[f"{name}.weight"] = kernel
            if "bias" in p:
                found[f"{name}.bias"] = p["bias"]
        elif path[-1] == "out":
            parts = [layers[*path[:-1], one] for one in ("query", "key", "value")]
            width, name = p["kernel"].shape[-1], ".".join(path[:-1])
            kernel = np.concatenate([one["kernel"].reshape(width, -1) for one in parts], -1)
            found[f"{name}.qkv.weight"] = kernel.T
            found[f"{name}.qkv.bias"] = np.concatenate([one["bias"].ravel() for one in parts])
            found[f"{name}.out.weight"] = p["kernel"].reshape(-1, width).T
            found[f"{name}.out.bias"] = p["bias"]
    return found


def build(workload: Workload, weights: Weights | None, variant: str) -> Program:
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it, as JAX by default
    torch.backends.cudnn.benchmark = True
    compiled, last = variant in (COMPILED, COMPILED_LAST), variant in (LAST, COMPILED_LAST)

    def tensor(array):
        return torch.tensor(np.ascontiguousarray(array), device=device)

    model = Module(workload.net, workload.shape).to(device)
    if workload.members > 1:
        return ensemble(workload, model, weights, tensor, compiled)
    if weights is not None:
        state = {name: tensor(value) for name, value in in_layout(workload.net, weights).items()}
        missing, unknown = model.load_state_dict(state, strict=False)
        assert not unknown and all("running" in n or "num_batches" in n for n in missing)
    x, y = (tensor(array) for array in batches(workload))
    if workload.steps == 1:
        x, y = x[None], y[None]
    if len(workload.shape) == 4:
        x = x.movedim(-1, -3).contiguous()
    inputs = list(x)
    if last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = [one.contiguous(memory_format=torch.channels_last) for one in inputs]
    data = list(zip(inputs, y.long(), strict=True))
    parameters = [p for p in model.parameters() if p.requires_grad]
    differs = ""
    if isinstance(workload.net, Gru):
        differs = "two biases are trained where jaxnet has one; only first losses are compared"
    half = torch.autocast(device.type, torch.bfloat16, enabled=workload.half)

    def forward(x):
        with half:
            return model(x)

    return program(workload, forward, parameters, data, compiled, differs)


def program(workload, forward, parameters, data, compiled, differs="") -> Program:
    def objective(x, y):
        logits = forward(x)  # (batch, classes), or (members, batch, classes)
        labels = y.expand(logits.shape[:-1]).reshape(-1)
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), labels)

    cuda = data[0][0].is_cuda
    if compiled:  # CUDA graphs spare the launches of small kernels
        objective = torch.compile(objective, mode="reduce-overhead" if cuda else None)
    sgd = torch.optim.SGD(parameters, workload.learning_rate, momentum=MOMENTUM, fused=True)

    def one(x, y):
        sgd.zero_grad(set_to_none=True)
        loss = objective(x, y)
        loss.backward()
        sgd.step()
        return loss.detach()

    if workload.steps == 1:
        (x, y), *_ = data

        def step():
            return one(x, y)
    else:

        def step():
            losses = [one(x, y).clone() for x, y in data]
            return torch.stack(losses)

    def wait(value):
        return torch.cuda.synchronize() if cuda else value

    return Program(step, wait, differs)


def ensemble(workload, model, weights, tensor, compiled) -> Program:
    """Return an ensemble by `torch.func`: stacked parameters, and the model mapped over them."""
    if weights is not None:
        each = [in_layout(workload.net, one) for one in unstack(weights, workload.members)]
        params = {name: tensor(np.stack([one[name] for one in each])) for name in each[0]}
    else:
        members = [Module(workload.net, workload.shape) for _ in range(workload.members)]
        params, _ = torch.func.stack_module_state(members)  # type: ignore[arg-type]
    params = {name: p.detach().to(tensor(0).device).requires_grad_() for name, p in params.items()}
    mapped = torch.func.vmap(
        lambda p, x: torch.func.functional_call(model, p, (x,)), in_dims=(0, None)
    )
    x, y = (tensor(array) for array in batches(workload))
    data = [(x.movedim(-1, -3).contiguous(), y.long())]
    return program(workload, lambda x: mapped(params, x), list(params.values()), data, compiled)


def unstack(weights: Weights, members: int) -> list[Weights]:
    def take(tree, i):
        return {k: take(v, i) if isinstance(v, dict) else v[i] for k, v in tree.items()}

    return [take(weights, i) for i in range(members)]
