"""Parameters and multiply-adds of vision nets by formula, from the tables of their variants."""

import math
from importlib import import_module

from jaxnet.models.parts import divisible

NAMES = {
    "efficientnet": "VARIANTS", "resnet": "STAGES", "densenet": "DEPTHS",
    "convnext": "VARIANTS", "vgg": "STAGES", "vit": "SIZES",
}  # fmt: skip
MODULES = {net: import_module(f"jaxnet.models.{net}") for net in NAMES}
TABLES = {net: getattr(MODULES[net], name) for net, name in NAMES.items()}


class Tally:
    """A map's side and depth as it passes through convolutions, and what they cost in all."""

    def __init__(self, side: int):
        self.side, self.maps, self.params, self.macs = side, 3, 0, 0

    def conv(self, maps, size=1, strides=1, groups=1, extra=2):
        """With `extra` params per map: scale and bias of a norm, or a bias alone."""
        self.side = -(-self.side // strides)
        weights = size**2 * self.maps * maps // groups
        self.params += weights + extra * maps
        self.macs += weights * self.side**2
        self.maps = maps

    def depthwise(self, size, strides=1):
        self.conv(self.maps, size, strides, self.maps)

    def dense(self, features):
        self.side = 1
        self.conv(features, extra=1)

    def norm(self):
        self.params += 2 * self.maps

    def gate(self, inner):
        self.params += 2 * self.maps * inner + inner + self.maps
        self.macs += 2 * self.maps * inner

    def branch(self, maps, *layers, strides=1):
        """Layers next to the main path, from the map of `maps` that it had; back to where it is."""
        here, self.maps, self.side = (self.maps, self.side), maps, self.side * strides
        for layer in layers:
            self.conv(*layer)
        self.maps, self.side = here


def efficientnet(t, variant):
    stages, width, depth, _, stem, last, *_ = TABLES["efficientnet"][variant]
    t.conv(divisible(stem * width), 3, 2)
    for times, size, first, maps, blocks, fused in stages:
        for i in range(math.ceil(blocks * depth)):
            strides, before = 1 if i else first, t.maps
            if times > 1:
                t.conv(times * before, *((size, strides) if fused else ()))
            if not fused:
                t.depthwise(size, strides)
                t.gate(before // 4)
            t.conv(divisible(maps * width), *((size, strides) if fused and times == 1 else ()))
    t.conv(divisible(last * width))


def resnet(t, depth, groups=1, group_width=64):
    bottleneck = depth >= 50
    t.conv(64, 7, 2)
    t.side //= 2
    for stage, blocks in enumerate(TABLES["resnet"][depth]):
        maps = 64 * 2**stage * (4 if bottleneck else 1)
        for i in range(blocks):
            before, strides = t.maps, 2 if stage and not i else 1
            if bottleneck:
                t.conv(groups * group_width * 2**stage)
            t.conv(t.maps if bottleneck else maps, 3, strides, groups)
            t.conv(maps, 1 if bottleneck else 3)
            if before != maps:
                t.branch(before, (maps, 1, strides), strides=strides)


def densenet(t, depth):
    stages, growth, stem = TABLES["densenet"][depth]
    t.conv(stem, 7, 2)
    t.side //= 2
    for stage, blocks in enumerate(stages):
        if stage:
            t.norm()
            t.conv(t.maps // 2, extra=0)
            t.side //= 2
        for _ in range(blocks):
            before = t.maps
            t.norm()
            t.conv(4 * growth)  # its norm comes after it, and before the next
            t.conv(growth, 3, extra=0)
            t.maps += before
    t.norm()


def convnext(t, variant):
    for stage, (maps, blocks) in enumerate(TABLES["convnext"][variant]):
        if stage:
            t.norm()
        t.conv(maps, *((2, 2) if stage else (4, 4)), extra=1 if stage else 3)
        for _ in range(blocks):
            t.conv(maps, 7, 1, maps, 3)
            t.conv(4 * maps, extra=1)
            t.conv(maps)  # a bias, and the scale of the branch
    t.norm()


def vgg(t, depth):
    for stage, blocks in enumerate(TABLES["vgg"][depth]):
        for _ in range(blocks):
            t.conv(min(64 * 2**stage, 512), 3, extra=1)
        t.side //= 2
    t.maps *= t.side**2
    t.dense(4096)
    t.dense(4096)


def vit(t, variant):
    size, _, patch = variant.partition("_")
    blocks, width, _ = TABLES["vit"][size]
    t.conv(width, int(patch), int(patch), extra=1)
    tokens = t.side**2 + 1
    t.params += width + tokens * width + blocks * (12 * width**2 + 13 * width) + 2 * width
    t.macs += blocks * (12 * width**2 * tokens + 2 * tokens**2 * width)
