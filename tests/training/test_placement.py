"""Beside `tests/distributed`, which runs on eight devices: what one device can show."""

from contextlib import nullcontext
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxnet as jn
from jaxnet.services.jax_versions import EXPLICIT_MESHES
from jaxnet.training import placement
from jaxnet.training.placement import constrain, is_named, onto_mesh, placed, shardings_of
from tests.training.conftest import started


def test_a_single_device_needs_nothing():
    tree = {"kernel": jnp.ones((8, 3))}
    mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,))
    on_one = jax.device_put(tree, NamedSharding(mesh, P("data")))
    for each in (tree, on_one):
        assert shardings_of(each) is None
        assert placement.check_batch("fit", each, 3) is None
        assert onto_mesh("fit", each, None) == (each, None)
        assert constrain(each, None) is each
    assert is_named(on_one["kernel"])
    assert not is_named(tree["kernel"])
    assert not is_named(None)


def test_leading_axes_are_not_divided():
    mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,))
    by_rows = NamedSharding(mesh, P("data"))
    shardings = placement.Shardings((by_rows,), jax.tree.structure(0))
    program = jax.make_jaxpr(lambda a: constrain(a, shardings, 2))(jnp.ones((3, 4, 5)))
    [constraint] = program.eqns
    assert constraint.params["sharding"].spec == P(None, None, "data")


def test_an_explicit_mesh_needs_jax_0_8(monkeypatch):
    monkeypatch.setitem(placed.__globals__, "EXPLICIT_MESHES", False)
    mesh = jax.make_mesh((1,), ("data",), (AxisType.Explicit,))
    tree = jax.device_put({"x": jnp.ones(2)}, NamedSharding(mesh, P("data")))
    with pytest.raises(NotImplementedError, match=r"Explicit axes needs JAX 0\.8; write jax\.make"):
        placed(lambda tree: tree, shardings_of(tree), keeps=True)


@pytest.mark.slow
@pytest.mark.skipif(not EXPLICIT_MESHES, reason="JAX 0.7 trains on meshes with Auto axes alone")
@pytest.mark.parametrize("stream", [False, True])
def test_an_explicit_mesh_of_one_device_is_no_trouble(stream):
    """What `jax.make_mesh` gives on a machine with one device."""
    mesh = jax.make_mesh((1,), ("data",))
    x = jnp.arange(24.0).reshape(8, 3)
    rows = x, x[:, :1]
    placed_rows = jn.distributed.put(rows, mesh, P("data"))
    data = placed_rows
    if stream:
        fewer = jn.distributed.put((x[:5], x[:5, :1]), mesh, P("data"))
        data = (batch for batch in [placed_rows, fewer])
    net = jn.serial(jn.dense(4), jn.batch_norm(), jn.dense(1))
    trainer, start = started(net, rows, optax.squared_error)
    options = {"steps": 2, "every": 1, "batch_size": 4, "evaluate": placed_rows}
    first, second = jn.fit(trainer, start, data, **options)
    assert is_named(second.train_state.step)
    placed_x, _ = placed_rows
    jn.predict(net, start.params, start.state, placed_x)
    _, alone = jax.jit(trainer.step)(start, rows)
    _, metrics = trainer.step(start, placed_rows)
    assert jnp.isclose(metrics["loss"], alone["loss"])


@pytest.mark.parametrize(("each", "warns"), [((P("data"),), False), ((P(None), P()), True)])
def test_a_train_state_on_a_mesh_needs_divided_data(each, warns, monkeypatch):
    state = {"kernel": 1.0}
    mesh = SimpleNamespace(size=2, axis_names=("data",))
    on_mesh = SimpleNamespace(mesh=mesh)
    monkeypatch.setitem(onto_mesh.__globals__, "shardings_of", lambda tree: on_mesh)
    batches = SimpleNamespace(mesh=mesh, each=[SimpleNamespace(spec=spec) for spec in each])
    words = "the train_state is on 2 devices, each of which computes the same, since the data are"
    with pytest.warns(UserWarning, match=words) if warns else nullcontext():
        assert onto_mesh("fit", state, batches) == (state, on_mesh)
