"""The data of the toys: scripts of numbers, since pages on the disk cannot fetch files."""

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn

HERE = Path(__file__).parent
NETS = HERE / "toys" / "nets.npz"
"""Weights in 8 bits, written by `python -m tools.toys`."""
TESTED, TAUGHT = 200, 300
"""Digits that the toys classify, and that one of them trains on."""
STEPS = 40
"""Steps of the diffusion; the lesson has 200 and larger images."""
SAMPLES = 8
NO_LABEL = 10


def classifier() -> jn.Layer:
    """Make the net of three toys: 64 pixels, 32 units, 10 digits."""
    return jn.models.mlp([32, 10])


def denoiser() -> jn.Layer:
    """Make the net that predicts the noise in 64 pixels, given the time and a label."""
    silu = jax.nn.silu
    layers = [jn.dense(width, name=name) for width, name in ((192, "a"), (192, "b"), (64, "c"))]
    return jn.serial(layers[0], silu, layers[1], silu, layers[2])


def schedule() -> tuple[np.ndarray, np.ndarray]:
    """Return beta of each step, and the factor of the image that is left after it, squared."""
    beta = np.linspace(1e-4, 0.02, STEPS) * 1000 / STEPS
    return beta, np.cumprod(1 - beta)


def seen(x: Any, t: Any, label: Any) -> jax.Array:
    """Return what the denoiser reads: pixels, sines of the time, and the label as 11 numbers."""
    angles = jnp.pi * 2.0 ** jnp.arange(8) * t[:, None] / STEPS
    parts = [x, jnp.sin(angles), jnp.cos(angles), jax.nn.one_hot(label, NO_LABEL + 1)]
    return jnp.concatenate(parts, -1)


def nets() -> dict[str, dict[str, Any]]:
    """Return the params of the two nets by name, with kernels of 8 bits as float32."""
    found: dict[str, dict[str, Any]] = {"classifier": {}, "denoiser": {}}
    with np.load(NETS) as file:
        for path in file.files:
            net, layer, *kinds = path.split(".")
            if kinds == ["int8"]:
                kernel = file[path] * file[f"{net}.{layer}.scale"]
                found[net].setdefault(layer, {})["kernel"] = jnp.asarray(kernel)
            elif kinds == ["bias"]:
                found[net].setdefault(layer, {})["bias"] = jnp.asarray(file[path])
    return found


def packed(values: np.ndarray, scale: Any = 1.0) -> dict[str, Any]:
    """Return an array of bytes as `unpacked` of docs/toys/shared.js reads it."""
    scale = np.asarray(scale, np.float64)
    return {
        "bytes": base64.b64encode(np.ascontiguousarray(values).tobytes()).decode(),
        "shape": list(values.shape),
        "scale": scale.tolist(),
        "signed": values.dtype == np.int8,
    }


def net_data(name: str) -> list[dict[str, Any]]:
    """Return the dense layers of a net, from the first to the last."""
    with np.load(NETS) as file:
        layers = sorted({path.split(".")[1] for path in file.files if path.startswith(name)})
        return [
            {
                "kernel": packed(file[f"{name}.{layer}.int8"], file[f"{name}.{layer}.scale"]),
                "bias": file[f"{name}.{layer}.bias"].tolist(),
            }
            for layer in layers
        ]


def tested() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (digits, 64) in [0, 1] and labels of the digits that the toys classify."""
    x, y = jn.data.digits()[1]
    return x[:TESTED].reshape(-1, 64), y[:TESTED]


def taught() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and labels of the digits that the toy of stolen labels trains on."""
    x, y = jn.data.digits()[0]
    return x[:TAUGHT].reshape(-1, 64), y[:TAUGHT]


def mnist() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (20, 784) in 0..255 and labels of the first test digits of MNIST."""
    with np.load(NETS) as file:
        return file["mnist.pixels"], file["mnist.labels"]


def larger() -> dict[str, Any]:
    pixels, labels = mnist()
    return {"pixels": packed(pixels, 1 / 255), "labels": labels.tolist()}


def labeled(digits: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    pixels = np.round(16 * digits[0]).astype(np.uint8)
    return {"pixels": packed(pixels, 1 / 16), "labels": digits[1].tolist()}


def students() -> dict[str, Any]:
    """Return hours and results of the 60 students of lesson 2."""
    rng = np.random.default_rng(0)
    hours = rng.uniform(0, 5, 60)
    passed = (rng.uniform(size=60) < 1 / (1 + np.exp(5 - 2 * hours))).astype(int)
    lowest = 0.37210  # of the risk: 400 steps at a rate of 0.5 and a momentum of 0.9 end there
    return {"hours": hours.tolist(), "passed": passed.tolist(), "lowest": lowest}


def draws(count: int, units: int) -> np.ndarray:
    """Return the uniform numbers that decide what dropout drops, (count, units)."""
    return np.asarray(jax.random.uniform(jax.random.key(0), (count, units)))


def noise() -> np.ndarray:
    """Return the noise of each sample and step in 8 bits; divide by 32 for normal numbers."""
    normal = np.random.default_rng(0).normal(size=(SAMPLES, STEPS + 1, 64))
    return np.round(32 * normal).clip(-127, 127).astype(np.int8)


def diffusion() -> dict[str, Any]:
    beta, kept = schedule()
    return {
        "beta": beta.tolist(),
        "kept": kept.tolist(),
        "noise": packed(noise().reshape(-1, 64), 1 / 32),
        "layers": net_data("denoiser"),
    }


def deep() -> tuple[np.ndarray, np.ndarray]:
    """Return 16 inputs and 20 kernels of 32 by 32 in 8 bits; divide by 32 for normal numbers."""
    normal = np.random.default_rng(1).normal(size=(16 + 20 * 32, 32))
    found = np.round(32 * normal).clip(-127, 127).astype(np.int8)
    return found[:16], found[16:].reshape(20, 32, 32)


def layers() -> dict[str, Any]:
    inputs, kernels = deep()
    return {
        "inputs": packed(inputs, 1 / 32),
        "kernels": [packed(kernel, 1 / 32) for kernel in kernels],
    }


def swaps() -> list[int]:
    """Return the wrong label of each digit of `taught`, another one than its own."""
    labels = taught()[1]
    return ((labels + np.random.default_rng(0).integers(1, 10, len(labels))) % 10).tolist()


DATA: dict[str, Callable[[], Any]] = {
    "students": students,
    "digits": lambda: labeled(tested()) | {"layers": net_data("classifier")},
    "mnist": larger,
    "draws": lambda: draws(20, 32).tolist(),
    "taught": lambda: labeled(taught()) | {"swaps": swaps()},
    "diffusion": diffusion,
    "layers": layers,
}
"""Name of a script -> what it gives to the page."""


def write_data(pages: Path) -> None:
    """Write the scripts of the toys and of their data into `pages`/toys."""
    folder = pages / "toys"
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for path in (HERE / "toys").glob("*"):
        if path.suffix in (".js", ".css"):
            shutil.copy(path, folder)
    for name, make in DATA.items():
        script = f'arrived("{name}", {json.dumps(make())});\n'
        (data / f"{name}.js").write_text(script, encoding="utf-8")
