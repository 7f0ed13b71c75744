"""Time of answers of small nets on a CPU, compared with onnxruntime, OpenVINO and PyTorch.

    python -m experiments.benchmarks.small_answers

A policy, and one step of a GRU and of an LSTM whose state goes from call to call, each for one
example: what a game, a robot or a keyword spotter asks for many times a second. Each program gets
its input as a NumPy array and gives one back. They have the same weights and take turns in
processes of their own, as in `experiments.benchmarks.answering`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import jaxnet as jn
from experiments.benchmarks.answering import OURS, Run, compare, compare_all, openvino_request

FEATURES, OUTPUTS = 64, 8
MICROSECONDS = 1e6
RECURRENT: dict[str, Callable[..., jn.Layer]] = {"GRU": jn.gru, "LSTM": jn.lstm}
NETS = ("policy", *RECURRENT)


def example(name: str) -> np.ndarray:
    """Return an input of one example, for a recurrent net (time, batch, features)."""
    shape = (1, FEATURES) if name == "policy" else (1, 1, FEATURES)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def in_torch(name: str) -> Any:
    """Return a module: (x, *state) -> (y, *state), with the same weights in each process."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    if name == "policy":
        wide = [nn.Linear(FEATURES, FEATURES), nn.ReLU()]
        deep = [nn.Linear(FEATURES, FEATURES), nn.ReLU()]
        return nn.Sequential(*wide, *deep, nn.Linear(FEATURES, OUTPUTS)).eval()

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = getattr(nn, name)(FEATURES, FEATURES)
            self.head = nn.Linear(FEATURES, OUTPUTS)

        def forward(self, x, *state):
            y, state = self.cell(x, state if name == "LSTM" else state[0])
            return self.head(y), *(state if name == "LSTM" else [state])

    return Step().eval()


def first_state(name: str) -> list[np.ndarray]:
    """Return the state before the first step: zeros."""
    count = {"policy": 0, "GRU": 1, "LSTM": 2}[name]
    return [np.zeros((1, 1, FEATURES), np.float32) for _ in range(count)]


def in_jaxnet(name: str, *, optimized: bool) -> Run:
    import jax
    import torch

    from jaxnet.interop.torch import from_torch

    twin, x = in_torch(name), example(name)
    inputs = [torch.tensor(array) for array in (x, *first_state(name))]
    with torch.inference_mode():
        outputs = twin(*inputs)
    if name == "policy":
        wide, deep = jn.dense(FEATURES), jn.dense(FEATURES)
        net = jn.serial(wide, jax.nn.relu, deep, jax.nn.relu, jn.dense(OUTPUTS))
    else:
        net, outputs = jn.serial(RECURRENT[name](FEATURES), jn.dense(OUTPUTS)), outputs[0]
    params, state = from_torch(net, twin.state_dict(), x, outputs=outputs)
    if name == "policy":
        answer = jax.jit(lambda x: net.apply(params, state, x)[0])
        if optimized:
            answer = jn.optimize_for_inference(net, params, state)
        return lambda: np.asarray(answer(x))
    net = jn.stream(net)
    _, state = net.init(jax.random.key(0), x)
    step = jax.jit(lambda state, x: net.apply(params, state, x))
    if optimized:
        step = jn.optimize_for_inference(net, params, state)

    def run():
        nonlocal state
        y, state = step(state, x)
        return np.asarray(y)

    return run


def in_pytorch(name: str) -> Run:
    import torch

    net, x = in_torch(name), torch.tensor(example(name))
    state = [torch.tensor(array) for array in first_state(name)]

    def run():
        nonlocal state
        with torch.inference_mode():
            if name == "policy":
                return net(x).numpy()
            y, *state = net(x, *state)
            return y.numpy()

    return run


def onnx_file(name: str, folder: str) -> str:
    """Return the path of a net's ONNX file, which is written for the first program that asks."""
    import torch

    path = Path(folder) / f"{name}.onnx"
    if not path.exists():
        inputs = tuple(torch.tensor(array) for array in (example(name), *first_state(name)))
        torch.onnx.export(in_torch(name), inputs, str(path), dynamo=False, opset_version=17)
    return str(path)


def in_onnxruntime(name: str, folder: str) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file(name, folder))
    names = [one.name for one in session.get_inputs()]
    x, state = example(name), first_state(name)

    def run():
        nonlocal state
        y, *state = session.run(None, dict(zip(names, (x, *state), strict=True)))
        return y

    return run


def in_openvino(name: str, folder: str) -> Run:
    request = openvino_request(onnx_file(name, folder))
    x, state = example(name), first_state(name)

    def run():
        nonlocal state
        results = request.infer([x, *state])
        y, *state = [results[number] for number in range(1 + len(state))]
        return y

    return run


def made(program: str, name: str, folder: str) -> Run:
    """Return a program of `PROGRAMS`."""
    if program.startswith("jaxnet"):
        return in_jaxnet(name, optimized=program == OURS)
    if program == "PyTorch":
        return in_pytorch(name)
    return {"onnxruntime": in_onnxruntime, "OpenVINO": in_openvino}[program](name, folder)


@dataclass(frozen=True)
class Config:
    """Prints the time of an answer by program, and their time / ours with a 95% interval."""

    nets: tuple[str, ...] = NETS
    """names of nets"""
    rounds: int = 15
    """samples per program"""
    seconds: float = 0.2
    """duration of a sample"""


def run(config: Config) -> list[tuple[str, ...]]:
    rows = (compare(name, made, (name,), config, MICROSECONDS) for name in config.nets)
    return compare_all("Answers of small nets, time / ours", ("net", "µs"), rows)


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config, description=__doc__))
