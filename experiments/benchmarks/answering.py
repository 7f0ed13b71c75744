"""Time of answers of trained nets on a CPU, compared with onnxruntime, OpenVINO and PyTorch.

    python -m experiments.benchmarks.answering

Each program runs in a process of its own, and they take turns: onnxruntime's threads go on for a
while after a call, and would hold a core that the next program needs. All have the weights of one
net of torchvision, with random numbers in the norms, so their outputs are compared. jaxnet gets
them by `from_torch`, and onnxruntime and OpenVINO by PyTorch's own export.
"""

import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import jaxnet as jn
from experiments.benchmarks.figures import digits
from experiments.benchmarks.measure import PeerError, bootstrap
from experiments.torchvision_logits import torchvision

NETS: dict[str, Callable[[], jn.Layer]] = {
    "resnet18": lambda: jn.models.resnet(18),
    "resnet50": lambda: jn.models.resnet(50),
    "mobilenet_v2": jn.models.mobilenet_v2,
    "efficientnet_b0": jn.models.efficientnet,
    "convnext_tiny": jn.models.convnext,
    "vit_b_16": jn.models.vit,
}
PROGRAMS = ("jaxnet, optimized", "jaxnet", "onnxruntime", "OpenVINO", "PyTorch")
OURS = PROGRAMS[0]
PIXELS = 224
TOLERANCE = 1e-4  # largest difference between programs, relative to the largest output
REST = 0.06  # seconds, in which the threads of the program before come to rest

Run = Callable[[], np.ndarray]


def pictures(batch: int) -> np.ndarray:
    """Return random pictures (batch, height, width, channels)."""
    return np.random.default_rng(0).standard_normal((batch, PIXELS, PIXELS, 3), np.float32)


def of_torchvision(name: str) -> Any:
    """Return a net of torchvision with random weights, the same in each process."""
    import torch

    torch.manual_seed(0)
    net = getattr(torchvision().models, name)(weights=None).eval()
    for key, value in net.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif key.endswith("running_mean"):
            value.normal_(0.0, 0.1)
        elif value.ndim > 1 and not value.any():  # a head that begins with zeros
            value.normal_(0.0, 0.02)
    return net


def in_jaxnet(name: str, batch: int, folder: str, *, optimized: bool) -> Run:
    import jax
    import jax.numpy as jnp
    import torch

    from jaxnet.interop.torch import from_torch

    net, x, twin = NETS[name](), pictures(batch), of_torchvision(name)
    with torch.inference_mode():
        outputs = twin(torch.tensor(x[:1]).permute(0, 3, 1, 2))
    params, state = from_torch(net, twin.state_dict(), x[:1], outputs=outputs)
    x = jnp.asarray(x)
    answer = jax.jit(lambda x: net.apply(params, state, x)[0])
    if optimized:
        answer = jn.optimize_for_inference(net, params, state)
    return lambda: np.asarray(answer(x))


def in_pytorch(name: str, batch: int, folder: str) -> Run:
    import torch

    net = of_torchvision(name).to(memory_format=torch.channels_last)
    x = torch.tensor(pictures(batch)).permute(0, 3, 1, 2)  # channels last in memory

    def run():
        with torch.inference_mode():
            return net(x).numpy()

    return run


def onnx_file(name: str, batch: int, folder: str) -> str:
    """Return the path of a net's ONNX file, which is written for the first program that asks."""
    import torch

    path = Path(folder) / f"{name}_{batch}.onnx"
    if not path.exists():
        x = torch.tensor(pictures(batch)).permute(0, 3, 1, 2).contiguous()
        torch.onnx.export(of_torchvision(name), (x,), str(path), dynamo=False, opset_version=17)
    return str(path)


def in_onnxruntime(name: str, batch: int, folder: str) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file(name, batch, folder))
    x = np.ascontiguousarray(pictures(batch).transpose(0, 3, 1, 2))
    inputs = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, inputs)[0]


def openvino_request(path: str) -> Any:
    """Return OpenVINO's program of an ONNX file, for one answer at a time in float32."""
    import openvino

    core: Any = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    return core.compile_model(path, "CPU", options).create_infer_request()


def in_openvino(name: str, batch: int, folder: str) -> Run:
    request = openvino_request(onnx_file(name, batch, folder))
    x = np.ascontiguousarray(pictures(batch).transpose(0, 3, 1, 2))
    return lambda: request.infer([x])[0]


def made(program: str, *words: Any) -> Run:
    if program.startswith("jaxnet"):
        return in_jaxnet(*words, optimized=program == OURS)
    makers = {"onnxruntime": in_onnxruntime, "OpenVINO": in_openvino, "PyTorch": in_pytorch}
    return makers[program](*words)


def serve(pipe: Any, make: Callable[..., Run], *words: Any) -> None:
    """Send the output and the seconds of a call; then for each number, seconds of so many calls."""
    try:
        run = make(*words)
        output = run()
        start = time.perf_counter()
        run()
        pipe.send((output, time.perf_counter() - start))
    except Exception as error:
        pipe.send((None, f"{type(error).__name__}: {error}"[:200]))
        return
    while calls := pipe.recv():
        run()  # wakes threads and fills caches
        start = time.perf_counter()
        for _ in range(calls):
            run()
        pipe.send((time.perf_counter() - start) / calls)


class Served:
    """A program in a process of its own.

    Args:
      make: Function of a module that makes the program.
      *words: Its arguments.
      seconds: Duration of a sample.

    Raises:
      PeerError: If it cannot be made.
    """

    def __init__(self, make: Callable[..., Run], *words: Any, seconds: float):
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        arguments = (there, make, *words)
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        there.close()
        self.output, once = self._next()
        if self.output is None:
            raise PeerError(once)
        self.calls = max(1, int(seconds / once))
        self.samples: list[float] = []

    def _next(self) -> Any:
        try:
            return self.pipe.recv()
        except EOFError:
            raise PeerError("its process died") from None

    def sample(self) -> None:
        self.pipe.send(self.calls)
        self.samples.append(self._next())
        time.sleep(REST)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


@dataclass(frozen=True)
class Config:
    """Prints the time of an answer by program, and their time / ours with a 95% interval."""

    nets: tuple[str, ...] = tuple(NETS)
    """names of nets"""
    batches: tuple[int, ...] = (1, 16)
    """numbers of pictures in a call"""
    rounds: int = 15
    """samples per program"""
    seconds: float = 0.3
    """duration of a sample"""


def compare(
    title: str, make: Callable[..., Run], words: Sequence[Any], config: Any, unit: float = 1e3
) -> tuple[str, ...]:
    """Return a row: its title, the time of ours, and each program's time / ours.

    Args:
      title: What is compared.
      make: Function of a module from a program's name, these words and a folder to the program.
      words: Arguments of `make`.
      config: Has the number of rounds, and the seconds of a sample.
      unit: How many of the unit of ours are a second.
    """
    with tempfile.TemporaryDirectory() as folder:
        served, notes = {}, {}
        for program in PROGRAMS:
            try:
                served[program] = Served(make, program, *words, folder, seconds=config.seconds)
            except PeerError as error:
                if program == OURS:
                    raise
                notes[program] = str(error)
        for _ in range(config.rounds):
            for one in served.values():
                one.sample()
        for one in served.values():
            one.stop()
    ours = served[OURS]
    cells = []
    for program in PROGRAMS[1:]:
        if program in notes:
            cells.append("")
            print(f"{title}, {program}: {notes[program]}")
            continue
        one = served[program]
        difference = abs(one.output - ours.output).max() / abs(ours.output).max()
        if not difference < TOLERANCE:
            print(f"{title}, {program}: its output differs by {difference:.1e}")
        cells.append("{:.2f} ({:.2f} to {:.2f})".format(*bootstrap(one.samples, ours.samples)))
    return title, digits(unit * float(np.median(ours.samples))), *cells


def compare_all(
    title: str, head: tuple[str, str], rows: Iterable[tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """Print rows of `compare` as they come, and then their table.

    Args:
      title: Title of the table.
      head: What the first column names, and the unit of ours.
      rows: The rows.
    """
    found = []
    for row in rows:
        found.append(row)
        print(*row, sep="  ", flush=True)
    named, unit = head
    print(jn.Table(title, (named, f"{OURS} ({unit})", *PROGRAMS[1:]), found))
    return found


def run(config: Config) -> list[tuple[str, ...]]:
    cases = itertools.product(config.nets, config.batches)
    rows = (compare(f"{name}, {batch}", made, (name, batch), config) for name, batch in cases)
    return compare_all("Answers, time / ours", ("net, batch", "ms"), rows)


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config, description=__doc__))
