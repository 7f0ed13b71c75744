"""torchvision without its compiled operators."""

from functools import cache


@cache
def declare() -> object:
    """Declares the operators that torchvision expects where its own library cannot be loaded."""
    import importlib.util

    if not importlib.util.find_spec("torchvision") or not importlib.util.find_spec("torch"):
        return None
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name, inputs in {
        "nms": "Tensor d, Tensor s, float t",
        "qnms": "Tensor d, Tensor s, float t",
        "roi_align": "Tensor x, Tensor r, float s, int h, int w, int n, bool a",
        "roi_pool": "Tensor x, Tensor r, float s, int h, int w",
    }.items():
        out = "(Tensor, Tensor)" if name == "roi_pool" else "Tensor"
        library.define(f"{name}({inputs}) -> {out}")
    return library  # kept, since what it declared goes with it
