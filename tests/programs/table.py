"""A layer inside each function of JAX that traces: what comes out, or which line to write instead.

Each program is a forward function around one layer. It is written first as someone writes it who
knows JAX alone. Where that raises, the message shows a line, and the program is written with it.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from jaxnet.services.trees import PyTree
from tests.catalogue import Row, fill
from tests.helpers import close, jit_init, shapes

KEY = jax.random.key(9)
TURNS = 2


def both(x: PyTree) -> PyTree:
    """The same input for each turn, so that only random numbers and state tell them apart."""
    return jax.tree.map(lambda a: jnp.stack([a] * TURNS), x)


def total(y: PyTree, scale: Any = 1.0) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(y) if not jnp.issubdtype(leaf.dtype, jnp.bool_)]
    return sum((scale * jnp.sin(leaf.astype(jnp.float32)).sum() for leaf in leaves), scale * 0.0)


# Programs: functions of m, the layer, its input, and keys for all turns, or None.


def scan(m, layer, x, keys=None):
    return jax.lax.scan(lambda c, key: (c, m(layer, x, key=key)), 0, keys, length=TURNS)[1]


def vmap(m, layer, x, keys=None):
    axes = 0, None if keys is None else 0
    return jax.vmap(lambda x, key: m(layer, x, key=key), axes)(both(x), keys)


def grad(m, layer, x, key=None):
    return jax.grad(lambda scale: total(m(layer, x, key=key), scale))(1.0)


def checkpoint(m, layer, x, key=None):
    return jax.checkpoint(lambda x: m(layer, x, key=key))(x)


def cond(m, layer, x, key=None):
    def call(x):
        return m(layer, x, key=key)

    return jax.lax.cond(total(x) > -1e9, call, call, x)


def jit(m, layer, x, key=None):
    return jax.jit(lambda x: m(layer, x, key=key))(x)


def m_scan(m, layer, x, keys=None):
    return m.scan(lambda m, c, _: (c, m(layer, x)), 0, length=TURNS)[1]


def shard_map(m, layer, x, key=None):
    mesh = jax.make_mesh((TURNS,), ("data",), (jax.sharding.AxisType.Auto,))
    cut = jax.P("data")

    def call(x):
        y = m(layer, jax.tree.map(lambda a: a[0], x), key=key)
        return jax.tree.map(lambda a: a[None], y)

    return jax.shard_map(call, mesh=mesh, in_specs=cut, out_specs=cut)(both(x))


PROGRAMS = {f.__name__: f for f in (scan, vmap, grad, checkpoint, cond, jit)}
IN_TURNS = {"scan", "vmap", "m_scan", "shard_map"}

# What the message of a layer that changes its state says: a loop of the net, or the call outside.


def outside(m, layer, x):
    return m(layer, x)


REWRITTEN: dict[str, Callable] = {
    "scan": m_scan,
    "vmap": m_scan,
    "grad": lambda m, layer, x: total(m(layer, x)),
    "checkpoint": lambda m, layer, x: m(jn.remat(layer), x),
    "cond": outside,
    "jit": outside,
}


def with_keys(program: Callable) -> Callable:
    """The program as the message of a layer that draws says: with keys from outside."""
    turns = TURNS if program in (scan, vmap) else None  # a device makes its own of one key

    def forward(m, layer, x):
        return program(m, layer, x, m.keys("turns", turns))

    return forward


class Cell:
    """A row of the catalogue in one mode, with what is right for it.

    Fields:
      draws: Whether the layer draws in this mode.
      changes: Whether it changes its state in this mode.
    """

    def __init__(self, row: Row, train: bool):
        self.row, self.train, self.layer = row, train, row.make()
        self.shapes = jax.eval_shape(lambda key: self.layer.init(key, row.x), KEY)
        self.key = KEY if train else None
        self.draws = train and row.train == "random"
        self.changes = train and bool(self.shapes[1]) and row.train != "same"

    @cached_property
    def given(self) -> tuple:
        """Params, state, input and key; drawn only where values are compared."""
        params, state = jit_init(self.layer, KEY, self.row.x)
        return params, state, fill(self.row), self.key

    def net(self, forward: Callable) -> Callable[..., tuple[PyTree, PyTree]]:
        """A function of what is given to the layer, which runs a forward function around it."""
        net = jn.compose(lambda m, given: forward(m, self.layer, given), name="net")

        name = self.layer.name

        def run(params, state, x, key):
            params, state = _under(name, params), _under(name, state)
            y, after = net.apply(params, state, x, key=key, train=self.train)
            return y, after.get(name, {})

        return run

    def traced(self, forward: Callable) -> None:
        jax.eval_shape(self.net(forward), *self.shapes, self.row.x, self.key)

    def written(self, name: str) -> Callable:
        """The program that runs: the first one, or the one that its message says to write."""
        program = PROGRAMS[name]
        try:
            self.traced(program)
        except ValueError as error:
            assert self.draws or self.changes, f"{self.row.id} in {name}: {error}"
            return self._as_said(name, str(error))
        assert not (self.draws or self.changes), f"{self.row.id} in {name} runs"
        return program

    def _as_said(self, name: str, message: str) -> Callable:
        of_keys = f"write m({self.layer.name}, x, key=key), with key = m.keys("
        if self.draws and of_keys in message:
            forward = with_keys(PROGRAMS[name])
            if not self.changes:
                self.traced(forward)
                return forward
            try:
                self.traced(forward)
            except ValueError as error:
                message = str(error)
            else:
                raise AssertionError(f"{self.row.id} in {name}: its state is lost")
        assert "by m.scan(body, carry, xs)" in message, message
        assert "make the call after it" in message, message
        self.traced(REWRITTEN[name])
        return REWRITTEN[name]

    def one(self, params, state, x, key):
        """The plain call of the layer."""
        return self.layer.apply(params, state, x, key=key, train=self.train)

    def wanted(self, name: str, forward: Callable, params, state, x, key) -> tuple[PyTree, PyTree]:
        """The same in a loop of Python, with the keys of the contract."""
        if forward is m_scan or forward is REWRITTEN.get(name):
            return self._by_call(name, forward, params, state, x, key)
        own = key if key is None else jn.child_key(key, "key/turns")
        if name not in IN_TURNS:
            y, _ = self.one(params, state, x, own)
            return (total(y) if name == "grad" else y), state
        keys = [None] * TURNS if own is None else jax.random.split(own, TURNS)
        ys = [self.one(params, state, x, each)[0] for each in keys]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys), state

    def _by_call(self, name, forward, params, state, x, key):
        if forward is not m_scan:
            key = key if key is None else jn.child_key(key, self.layer.name)
            y, state = self.one(params, state, x, key)
            return (total(y) if name == "grad" else y), state
        ys, above = [], key if key is None else jn.child_key(key, "scan/")
        for i in range(TURNS):
            own = None
            if above is not None:
                own = jn.child_key(jax.random.fold_in(above, i), self.layer.name)
            y, state = self.one(params, state, x, own)
            ys.append(y)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys), state

    def check_entries(self) -> None:
        """Init of each program finds the entries of the layer."""
        for program in (*PROGRAMS.values(), m_scan):
            net = jn.compose(lambda m, x, p=program: p(m, self.layer, x), name="net")
            found = jax.eval_shape(net.init, KEY, self.row.x)
            right = [_under(self.layer.name, part) for part in self.shapes]
            assert shapes(list(found)) == shapes(right), program.__name__

    def check_values(self) -> dict[str, str]:
        """All programs of a mode are right, compiled as one; returns how each is written."""
        forwards = {name: self.written(name) for name in PROGRAMS} | {"m_scan": m_scan}

        @jax.jit
        def run(*given):
            found = {name: self.net(forward)(*given) for name, forward in forwards.items()}
            right = {n: self.wanted(n, forward, *given) for n, forward in forwards.items()}
            return found, right

        found, right = jax.device_get(run(*self.given))
        for name in forwards:
            close(found[name], right[name], 1e-4)
        if self.draws:
            for name in IN_TURNS & forwards.keys():
                assert are_other_numbers(found[name][0]), f"{name}: equal numbers in two turns"
        return {
            name: "right" if forward is PROGRAMS.get(name, m_scan) else "line to write"
            for name, forward in forwards.items()
        }

    def check_devices(self) -> str:
        """On two devices: right, and no two draw equal numbers; raises where a state would end."""
        forward, said = shard_map, "right"
        try:
            self.traced(forward)
        except ValueError as error:
            said = "line to write"
            if not self.draws:
                assert self.changes and "make the call after it" in str(error), error
            else:
                assert f"m({self.layer.name}, x, key=key)" in str(error), error
                forward = with_keys(shard_map)
        if not self.changes:
            y, _ = jax.device_get(jax.jit(self.net(forward))(*self.given))
            self._check_apart(y)
        self._check_apart(jax.device_get(jax.jit(self._on_devices())(*self.given)))
        return said

    def _on_devices(self) -> Callable:
        """The whole of `apply` on two devices: each has a batch of its own, here the same."""
        mesh = jax.make_mesh((TURNS,), ("data",), (jax.sharding.AxisType.Auto,))

        def each(params, state, x, key):
            y, _ = self.one(params, state, jax.tree.map(lambda a: a[0], x), key)
            return jax.tree.map(lambda a: a[None], y)

        def run(params, state, x, key):
            whole, cut = jax.P(), jax.P("data")
            specs = {"in_specs": (whole, whole, cut, whole), "out_specs": cut}
            return jax.shard_map(each, mesh=mesh, **specs)(params, state, both(x), key)

        return run

    def _check_apart(self, y: PyTree) -> None:
        if self.draws:
            assert are_other_numbers(y), "equal numbers on two devices"
        else:
            right, _ = self.one(*self.given)
            close(y, jax.tree.map(lambda a: np.stack([a] * TURNS), jax.device_get(right)), 1e-4)


def _under(name: str, entries: dict) -> dict:
    """The entries of a layer in those of its parent."""
    return {name: entries} if entries else {}


def are_other_numbers(y: PyTree) -> bool:
    """Whether an output differs between the turns."""
    return any(np.any(leaf[0] != leaf[1]) for leaf in jax.tree.leaves(y))


MODES = {"evaluation": False, "training": True}
