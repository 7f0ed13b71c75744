"""Placement on a mesh of eight simulated devices, in a process of its own."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

import jaxnet as jn

PROGRAM = """
import re, warnings, pytest
from tests.training.conftest import Batches
jax.config.update("jax_enable_x64", True)
assert len(jax.devices()) == 8
rng = np.random.default_rng(0)
x = rng.normal(size=(64, 16)); y = rng.integers(0, 8, 64)
net = jn.serial(jn.dense(64, name="hidden"), jn.batch_norm(), jax.nn.relu, jn.dense(8, name="top"))
loss = optax.softmax_cross_entropy_with_integer_labels

def fresh():
    trainer = jn.trainer(jn.supervised(net, loss), optax.sgd(0.1, momentum=0.9))
    return trainer, trainer.init(jax.random.key(0), (x, y))

def lies(tree):
    return [leaf.sharding for leaf in jax.tree.leaves(tree)]

trainer, train_state = fresh()
alone = list(jn.fit(trainer, train_state, (x, y), epochs=3, batch_size=16, evaluate=(x, y)))
outputs = jn.predict(net, alone[-1].train_state.params, alone[-1].train_state.state, x)
steps, _ = fresh()
state = train_state
for _ in range(3):
    state, metrics = steps.step(state, (x[:16], y[:16]))

kind = jax.sharding.AxisType.KIND
data_mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
both = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
rules = {
    "replicated": (data_mesh, P()),
    "fully sharded": (data_mesh, jn.distributed.fully_sharded("data", data_mesh, smallest=100)),
    "tensor": (both, {"hidden/kernel": P(None, "model"), "top/kernel": P("model")}),
}
for name, (mesh, rule) in rules.items():
    trainer, start = fresh()
    start = jn.distributed.put(start, mesh, rule)
    data = jn.distributed.put((x, y), mesh, P("data"))
    where = lies(start)
    if name == "fully sharded":
        kernel = start.params["hidden"]["kernel"]
        assert kernel.addressable_shards[0].data.size * 8 == kernel.size
        trace = start.opt_state[0].trace["hidden"]["kernel"]
        assert trace.sharding == kernel.sharding and kernel.sharding.spec == P(None, "data")
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    now = start
    with warnings.catch_warnings(action="error"):
        batch = jn.distributed.put((x[:16], y[:16]), mesh, P("data"))
        counts = []
        state_here = jax.tree.map(jnp.copy, start)
        for _ in range(3):
            before = len(compiled)
            state_here, found = trainer.step(state_here, batch)
            counts.append(len(compiled) - before)
            assert lies(state_here) == where, name
        assert counts[1:] == [0, 0], (name, counts)
        np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-12)
        for mine, other in zip(
            jn.fit(trainer, now, data, epochs=3, batch_size=16, evaluate=data), alone, strict=True
        ):
            np.testing.assert_allclose(mine.losses, other.losses, rtol=1e-12)
            tested = mine.evaluation["loss"], other.evaluation["loss"]
            np.testing.assert_allclose(*tested, rtol=1e-12)
            assert lies(mine.train_state) == where, name
        assert lies(start) == where and np.isfinite(start.params["hidden"]["kernel"]).all()
        last = mine.train_state
        got = jn.predict(net, last.params, last.state, data[0])
        np.testing.assert_allclose(got, outputs, rtol=1e-9, atol=1e-12)
        (mine,) = jn.fit(trainer, now, Batches(batch, batch), epochs=1)
        assert lies(mine.train_state) == where, name

# Work per device: the programs of one device and of eight.
from jaxnet.training import memory

def work(train_state, data):
    # Operations of all programs of a prediction, of an evaluation and of a pass.
    spent = {}

    def counted(run, **options):
        program = jax.jit(run, **options)

        def call(*args):
            cost = program.lower(*args).compile().cost_analysis()
            spent[now] = spent.get(now, 0) + cost["flops"]
            return program(*args)

        call.lower = program.lower
        return call

    trainer, _ = fresh()
    params, state = train_state.params, train_state.state
    memory.jit, before = counted, memory.jit
    try:
        now = "predict"
        jn.predict(net, params, state, data[0], batch_size=512)
        now = "evaluate"
        jn.evaluate(trainer.objective, params, state, data, batch_size=512)
        now = "fit"
        list(jn.fit(trainer, train_state, data, epochs=1, batch_size=512, shuffle=False))
    finally:
        memory.jit = before
    return spent

_, train_state = fresh()
x, y = np.tile(x, (16, 1)), np.tile(y, 16)
one = work(train_state, (jnp.asarray(x), jnp.asarray(y)))
mesh, put = data_mesh, jn.distributed.put
eight = work(put(train_state, mesh), put((x, y), mesh, P("data")))
print("flops per device, of one and of eight:", one, eight)
assert len(one) == 3 and all(eight[name] <= one[name] / 6 for name in one), (one, eight)

# A sweep splits batches, where the axes are Auto, and says that it does not otherwise.
arguments = dict(epochs=2, seeds=2, batch_size=16, progress=False)
if "KIND" == "Auto":
    with warnings.catch_warnings(action="error"):
        found = [
            jn.sweep(trainer.objective, lambda: optax.sgd(0.1), rows, evaluate=rows, **arguments)
            for rows in ((x, y), put((x, y), mesh, P("data")))
        ]
    np.testing.assert_allclose(*(each.train["loss"] for each in found), rtol=1e-12)
    np.testing.assert_allclose(*(each.evaluation["loss"] for each in found), rtol=1e-12)

def raises(kind, words, call):
    with pytest.raises(kind, match=re.escape(words)):
        call()

trainer, train_state = fresh()
raises(ValueError, "dimension 1 of top/kernel (64, 12) cannot be divided among the 8 devices along",
       lambda: put({"top": {"kernel": np.ones((64, 12))}}, mesh, {"*/kernel": P(None, "data")}))
raises(ValueError, "dimension 0 of the array (6, 2) cannot be divided among the 8 devices",
       lambda: put(np.ones((6, 2)), mesh, P("data"), local=True))
raises(ValueError, "a batch of 12 cannot be divided among the 8 devices along data",
       lambda: list(jn.fit(trainer, put(train_state, mesh), put((x, y), mesh, P("data")),
                           epochs=1, batch_size=12)))
raises(ValueError, "the data are on a mesh, the train_state on one device",
       lambda: list(jn.fit(trainer, train_state, put((x, y), mesh, P("data")), epochs=1,
                           batch_size=16)))
own = "KIND" == "Auto"
rows = (x.reshape(2, 512, 16), y.reshape(2, 512)) if own else (x, y)
raises(ValueError, "sweep: on a mesh it splits batches, along axes of type Auto, not seeds",
       lambda: jn.sweep(trainer.objective, lambda: optax.sgd(0.1), put(rows, mesh), own_data=own,
                        **arguments))
with warnings.catch_warnings(record=True, action="always") as seen:
    next(iter(jn.fit(trainer, put(train_state, mesh), (x, y), epochs=1, batch_size=16)))
assert any("each of which computes the same" in str(w.message) for w in seen), seen
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_placement_on_eight_devices(on_devices, kind):
    on_devices(PROGRAM.replace("KIND", kind), 8)


NETS = """
jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
image, words = rng.normal(size=(8, 8, 8, 4)), rng.integers(0, 16, (8, 6))
steps = rng.normal(size=(8, 6, 16))
block = jn.transformer_block(heads=4, causal=True)
nets = {
    "dense": (jn.serial(jn.dense(32), jax.nn.relu, jn.dense(16)), steps[:, 0]),
    "convolution": (jn.serial(jn.conv(16, 3), jn.batch_norm(), jax.nn.relu, jn.max_pool(2),
                              jn.flatten(), jn.dense(16)), image),
    "residual": (jn.serial(jn.conv(16, 1), jn.residual(jn.serial(jn.conv(16, 3), jn.group_norm(4))),
                           jn.global_avg_pool()), image),
    "lstm": (jn.serial(jn.lstm(16), jn.last_step(), jn.dense(16)), steps),
    "gru": (jn.serial(jn.bidirectional(jn.gru(8)), jn.last_step(), jn.dense(16)), steps),
    "transformer": (jn.serial(jn.embedding(16, 16), jn.repeat(block, 2), jn.last_step(),
                              jn.dropout(0.1), jn.dense(16)), words),
}
y = rng.integers(0, 16, 8)
kind = jax.sharding.AxisType.KIND
line = jax.make_mesh((4,), ("data",), (kind,))
grid = jax.make_mesh((2, 2), ("data", "model"), (kind,) * 2)
even = lambda shape: shape and shape[-1] % 2 == 0
tensor = lambda path, shape: P(*[None] * (len(shape) - 1), "model") if even(shape) else P()
rules = {"tensor": (grid, tensor),
         "fully sharded": (line, jn.distributed.fully_sharded("data", line, smallest=1))}
for name, (net, x) in nets.items():
    objective = jn.supervised(net, optax.softmax_cross_entropy_with_integer_labels)
    trainer = jn.trainer(objective, optax.sgd(0.1, momentum=0.9))
    new = lambda key: trainer.init(key, (jn.spec(x.shape, x.dtype), jn.spec(y.shape, y.dtype)))
    losses = {}
    for rule, (mesh, how) in {"one device": (None, None), **rules}.items():
        train_state, batch = new(jax.random.key(0)), (x, y)
        if mesh is not None:
            where = jn.distributed.shardings(jax.eval_shape(new, jax.random.key(0)), mesh, how)
            train_state = jax.jit(new, out_shardings=where)(jax.random.key(0))  # never whole
            batch = jn.distributed.put(batch, mesh, P("data"))
            before = [leaf.sharding for leaf in jax.tree.leaves(train_state)]
            assert before == jax.tree.leaves(where), (name, rule)
        losses[rule] = []
        trainer = jn.trainer(objective, optax.sgd(0.1, momentum=0.9))
        for _ in range(3):
            train_state, metrics = trainer.step(train_state, batch)
            losses[rule].append(float(metrics["loss"]))
        if mesh is not None:
            assert [leaf.sharding for leaf in jax.tree.leaves(train_state)] == before, (name, rule)
            near = 1e-12 if metrics["loss"].dtype == jnp.float64 else 1e-6  # after an embedding
            np.testing.assert_allclose(losses[rule], losses["one device"], near, err_msg=name)
"""


SMALLER = """
from jax.sharding import AxisType as A
x = np.random.default_rng(0).normal(size=(12, 3)); y = x[:, :2]
found, auto, explicit = [], A.Auto, A.Explicit
for kinds in (None, (auto, auto), (explicit, explicit), (explicit, auto), (auto, explicit)):
    trainer = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.sgd(0.1))
    train_state = trainer.init(jax.random.key(0), (x, y))
    sizes = (2, 2) if kinds else (1, 1)
    mesh = jax.make_mesh(sizes, ("data", "model"), kinds or (A.Auto, A.Auto))
    train_state = jn.distributed.put(train_state, mesh)
    loader = jn.distributed.feed([(x[:8], y[:8]), (x[8:], y[8:])], mesh, jax.P("data"))
    (epoch,) = jn.fit(trainer, train_state, loader, epochs=1, evaluate=loader)
    found.append([epoch.train["loss"], epoch.evaluation["loss"]])
np.testing.assert_allclose(found, [found[0]] * 5, rtol=1e-5)
"""


@pytest.mark.long
def test_a_smaller_last_batch_on_every_kind_of_mesh(on_devices):
    on_devices(SMALLER, 4)


@pytest.mark.long
def test_nets_under_every_rule(on_devices):
    """On Explicit axes, inside which `auto_axes` computes."""
    on_devices(NETS.replace("KIND", "Explicit"), 4)


PARAMS = {"dense": {"kernel": jnp.ones((3, 8)), "bias": jnp.ones(8)}}
MESH = jax.make_mesh((1,), ("d",))


def no_spec(path, shape):
    return "d"


@pytest.mark.parametrize(
    ("rules", "error", "words"),
    [
        ({"*/kernle": P()}, ValueError, "no array needs the pattern '.*/kernle'.*: dense/bias"),
        ({"*": P(), "*/bias": P()}, ValueError, "no array needs the pattern '.*/bias'"),
        (P("batch"), ValueError, "dense/bias: the mesh has the axes d, not 'batch'"),
        (P(None, None, "d"), ValueError, r"dense/bias \(8,\) has fewer dimensions than its rule"),
        (no_spec, TypeError, "rule of dense/bias must be a PartitionSpec"),
        (3, TypeError, "rules must be a PartitionSpec, a dict"),
    ],
    ids=["no such path", "none left", "no such axis", "too long", "no spec", "a number"],
)
def test_wrong_rules(rules, error, words):
    with pytest.raises(error, match=words):
        jn.distributed.shardings(PARAMS, MESH, rules)


NO_MESH = "mesh must be a jax.sharding.Mesh, such as .*got str"


def test_what_is_no_mesh():
    with pytest.raises(TypeError, match=f"shardings: {NO_MESH}"):
        jn.distributed.put(PARAMS, "d")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f"gathered: {NO_MESH}"):
        jn.distributed.gathered(jn.dense(3), "d")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f"context_parallel: {NO_MESH}"):
        jn.distributed.context_parallel(jn.dense(3), "d", "d")  # type: ignore[arg-type]


def test_what_is_no_axis():
    with pytest.raises(ValueError, match="context_parallel: the mesh has the axes d, not 'b'"):
        jn.distributed.context_parallel(jn.dense(3), MESH, "b")


def test_specs_know_where_they_lie():
    spec = jn.distributed.put(jn.spec((8, 3)), MESH, P("d"))
    assert spec.sharding.spec[0] == "d"


def test_one_process_has_the_whole_slice():
    tree = jn.distributed.put({"x": jnp.arange(6.0)}, MESH, P("d"), local=True)
    assert tree["x"].sharding.spec[0] == "d"
    assert tree["x"].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("path", "shape", "spec"), [
    ("embedding/embedding", (12, 8), P("model")),
    ("block_0/attention/query/kernel", (8, 4, 2), P(None, "model")),
    ("attention/key/bias", (4, 2), P("model")),
    ("repeat/cross_attention/out/kernel", (3, 4, 2, 8), P(None, "model")),
    ("block/attention/out/bias", (8,), P()),
    ("repeat/mlp/experts/mlp_gate/kernel", (3, 5, 8, 16), P(None, None, None, "model")),
    ("mlp_out/kernel", (16, 8), P("model")),
    ("mlp_out/bias", (8,), P()),
    ("positions/embedding", (12, 8), P()),
    ("head/kernel", (8, 12), P(None, "model")),
    ("overhead/kernel", (8, 12), P()),
    ("head/kernel/int4", (8, 6), P(None, "model")),
    ("head/kernel/scale", (2, 12), P(None, "model")),
    ("mlp_out/kernel/int8", (16, 8), P("model")),
    ("mlp_out/kernel/scale", (1, 8), P()),
    ("embedding/embedding/scale", (12, 1), P("model")),
])  # fmt: skip
def test_rule_of_tensor_parallelism(path, shape, spec):
    assert jn.distributed.tensor_parallel("model")(path, shape) == spec
