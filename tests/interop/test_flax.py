import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests import test_laws as test_laws_file
from tests.catalogue import Row
from tests.helpers import close, jit_apply, refuses, shapes

flax = pytest.importorskip("flax", reason="Flax is what is converted from and to")

from flax import linen as nn  # noqa: E402
from flax import nnx  # noqa: E402

from jaxnet.interop.flax import from_linen, from_nnx, to_linen  # noqa: E402

OLD = not hasattr(nnx, "List")  # Flax 0.11, which Colab has


@pytest.fixture(autouse=True)
def nnx_of_flax_0_12(request):
    name = request.node.name
    if OLD and ("nnx" in name or "notes_beside" in name) and "old" not in name:
        pytest.skip("from_nnx needs Flax 0.12")


def test_from_nnx_needs_flax_0_12_not_an_old_one(monkeypatch):
    monkeypatch.delattr(nnx, "List", raising=False)
    with pytest.raises(ImportError, match=r"from_nnx: needs Flax 0\.12, got .*; upgrade flax"):
        from_nnx(lambda rngs: nnx.Linear(2, 3, rngs=rngs))


KEY = jax.random.key(3)
X = jax.random.normal(jax.random.key(5), (7, 6, 4, 3))
Y = jnp.array([0, 1, 2, 3, 4, 0, 1])
loss_of = optax.softmax_cross_entropy_with_integer_labels


def wide():
    """Flax draws float32 unless told; the laws want float64 where that is the default."""
    return jnp.result_type(float)


class Net(nn.Module):
    """A convolution, a norm and a dense layer, with dropout where a rate is given."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), param_dtype=wide())(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, param_dtype=wide())(x)
        x = jnp.tanh(x).mean((1, 2))
        x = nn.Dropout(self.rate)(x, deterministic=not train)
        return nn.Dense(5, param_dtype=wide())(x)


class NNXNet(nnx.Module):
    """The same in NNX."""

    def __init__(self, rate=0.0, *, norm=nnx.BatchNorm, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), param_dtype=wide(), rngs=rngs)
        self.norm = norm(4, param_dtype=wide(), rngs=rngs)
        self.rest = nnx.List([nnx.Dropout(rate, rngs=rngs)])
        self.rest.append(nnx.Linear(4, 5, param_dtype=wide(), rngs=rngs))

    def __call__(self, x):
        x = jnp.tanh(self.norm(self.conv(x))).mean((1, 2))
        for layer in self.rest:
            x = layer(x)
        return x


class Around(nn.Module):
    """A Linen module with a layer inside."""

    layer: jn.Layer

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(5, param_dtype=wide())(x)
        return to_linen(self.layer, name="inside")(x, train=train)


def nnx_net(rate=0.0, norm=nnx.BatchNorm):
    return from_nnx(lambda rngs: NNXNet(rate, norm=norm, rngs=rngs))


def mixed():
    """A layer in a module in a layer in a module in a layer."""
    inner = jn.serial(from_linen(nn.Dense(5, param_dtype=wide())), jn.batch_norm())
    return jn.serial(jn.dense(6), from_linen(Around(inner)), jnp.tanh)


# The laws of tests/test_laws.py, on layers that are Flax modules.

IMAGE = jn.spec((2, 6, 4, 3))
ROWS = [
    Row("from_linen", lambda: from_linen(Net()), IMAGE, train="differs"),
    Row("from_linen-dropout", lambda: from_linen(nn.Dropout(0.4)), jn.spec((50, 7)),
        train="random"),
    Row("from_nnx", lambda: nnx_net(norm=nnx.LayerNorm), IMAGE),
    Row("from_nnx-statistics", nnx_net, IMAGE, train="differs"),
    Row("from_nnx-dropout", lambda: from_nnx(lambda rngs: nnx.Dropout(0.4, rngs=rngs)),
        jn.spec((50, 7)), train="random"),
    Row("mixed", mixed, jn.spec((7, 3)), train="differs"),
]  # fmt: skip
LEFT_OUT = ("kind_is_the_function", "16_bits")  # Flax sums in the dtype of the computation
LAWS = {
    name: law
    for name, law in vars(test_laws_file).items()
    if name.startswith("test_")
    and "case" in inspect.signature(law).parameters
    and not any(words in name for words in LEFT_OUT)
}
CHOICES = {"train": [False, True], "dtype": [jnp.float32, jnp.bfloat16], "size": [1e30]}


# Those that run nothing, or little.
QUICK = [
    "test_init_is_traced_for_many_keys", "test_operations_have_the_name_of_the_layer",
    "test_types_inside_shard_map_fit",
]  # fmt: skip


@pytest.mark.fast_cases(*(f"{row.id}-{name}" for row in ROWS for name in QUICK))
@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
@pytest.mark.filterwarnings("ignore:.*captures arrays")  # a law does
def test_laws(row, name, monkeypatch):
    if row.id == "from_nnx-statistics" and ("float64" in name or "dtype" in name):
        pytest.skip("nnx.BatchNorm keeps its statistics in float32 and its outputs with them")
    if row.id == "from_nnx-statistics" and "statistics_of_the_batch" in name:
        pytest.skip("nnx.BatchNorm takes a hundredth of the batch's statistics, not a tenth")
    if row.id.endswith("dropout") and "missing" in name:
        pytest.skip("has no params")
    monkeypatch.setattr(test_laws_file, "KEY", jax.random.key(3))  # fresh: the laws split it
    law, case = LAWS[name], test_laws_file.Case(row)
    extra = [name for name in inspect.signature(law).parameters if name != "case"]
    for value in CHOICES[extra[0]] if extra else [None]:
        law(case, **({extra[0]: value} if extra else {}))


def test_there_are_laws():
    assert len(LAWS) >= 10
    assert "test_gradients_are_right_in_float64" in LAWS


# from_linen


@pytest.mark.slow
def test_from_linen_is_the_module():
    """The same values for the same key, outputs and gradients."""
    module, layer = Net(), from_linen(Net())
    variables = module.init(KEY, X, train=False)
    params, state = layer.init(KEY, jn.spec(X.shape))
    close({"params": params, **state}, variables, 0)
    y, after = jit_apply(layer, params, state, X)
    close(y, jax.jit(partial(module.apply, train=False))(variables, X), 0)  # compiled alike
    close(after, state, 0)

    def theirs(params):
        y, changed = module.apply({"params": params, **state}, X, train=True, mutable="batch_stats")
        return loss_of(y, Y).mean(), changed

    def ours(params):
        y, changed = jit_apply(layer, params, state, X, train=True)
        return loss_of(y, Y).mean(), changed

    close(*(jax.jit(jax.grad(f, has_aux=True))(params) for f in (ours, theirs)), 0)


FLAGS = {"train": 1, "training": 1, "is_training": 1, "deterministic": 0, "use_running_average": 0}


@pytest.mark.parametrize(("flag", "on"), FLAGS.items())
def test_training_mode_by_its_usual_names(flag, on):
    scope: dict = {}
    exec(f"def __call__(self, x, {flag}): return x + 10 * {flag}", scope)
    layer = from_linen(type("Flagged", (nn.Module,), {"__call__": scope["__call__"]})())
    x = jnp.zeros((2, 3))
    assert (jit_apply(layer, {}, {}, x, train=True)[0] == 10 * on).all()
    assert (jit_apply(layer, {}, {}, x)[0] == 10 * (not on)).all()


@pytest.mark.slow
def test_what_was_decided_when_the_module_was_built_stays():
    layer = from_linen(nn.BatchNorm(use_running_average=True))
    x = 3 + X[0, :, :, 0]
    params, state = layer.init(KEY, x)
    y, after = jit_apply(layer, params, state, x, train=True)
    close(y, x, 1e-4)
    close(after, state, 0)


@pytest.mark.slow
def test_call_for_several_inputs():
    module = nn.MultiHeadDotProductAttention(2, dropout_rate=0.5)

    def call(m, x, train):
        return m(*x, deterministic=not train)

    layer = from_linen(module, call=call, name="attention")
    queries, memory = jnp.ones((2, 3, 4)), X[:2, :5, :, 0]
    params, state = layer.init(KEY, (queries, memory))
    y, _ = jax.jit(layer.apply)(params, state, (queries, memory))
    run = jax.jit(partial(module.apply, deterministic=True))
    close(y, run({"params": params}, queries, memory), 1e-5)
    assert layer.name == "attention"


def test_metadata_boxes_are_opened():
    init = nn.with_partitioning(nn.initializers.lecun_normal(), ("a", "b"))
    params, _ = from_linen(nn.Dense(4, kernel_init=init)).init(KEY, jn.spec((2, 3)))
    assert isinstance(params["kernel"], jax.Array)


def test_other_collections_are_state():
    class Counter(nn.Module):
        @nn.compact
        def __call__(self, x):
            count = self.variable("counts", "n", lambda: jnp.zeros((), jnp.int32))
            if not self.is_initializing():
                count.value += 1
            return x * count.value

    layer = from_linen(Counter())
    params, state = layer.init(KEY, jn.spec((2, 3)))
    assert params == {}
    assert shapes(state) == {"counts": {"n": ()}}
    for n in (1, 2):
        y, state = jit_apply(layer, params, state, jnp.ones((2, 3)))
        assert (y == n).all()


# to_linen

ALIKE = [
    pytest.param(lambda: jn.dense(4), lambda: nn.Dense(4), id="dense"),
    pytest.param(lambda: jn.conv(4, 3, strides=2), lambda: nn.Conv(4, (3, 3), 2), id="conv"),
    pytest.param(lambda: jn.batch_norm(),
        lambda: nn.BatchNorm(use_running_average=False, momentum=0.9), id="batch_norm"),
    pytest.param(lambda: jn.layer_norm(epsilon=1e-6), lambda: nn.LayerNorm(), id="layer_norm"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("layer, module", ALIKE)
def test_weights_pass_over_unchanged_both_ways(layer, module):
    """Variables of one go into the other: outputs, statistics and gradients are the same."""
    layer, module = layer(), module()
    theirs = jax.jit(module.init)(KEY, X)
    variables = to_linen(layer).init(jax.random.key(8), X, train=False)
    assert shapes(variables) == shapes(theirs)
    x = 2 + X

    def run(module, **options):
        def total(variables):
            y, changed = module.apply(variables, x, mutable="batch_stats", **options)
            return jnp.sin(y).sum(), (y, changed)

        return jax.jit(jax.grad(total, has_aux=True))

    # Flax's variance is a difference of large numbers: hence the tolerance.
    for weights in (theirs, variables):
        close(run(to_linen(layer), train=True)(weights), run(module)(weights), 3e-4)
    # and as plain layers
    state, params = flax.core.pop(theirs, "params")
    y, _ = jit_apply(layer, params, state.get("batch_stats", {}), x, train=True)
    close(y, module.apply(theirs, x, mutable="batch_stats")[0], 3e-4)


def test_to_linen_in_training_needs_a_mutable_collection():
    """As nn.BatchNorm does: statistics must not be lost in silence. `init` leaves them alone."""
    module = to_linen(jn.batch_norm())
    variables = module.init(KEY, 5 + X, train=True)
    assert (variables["batch_stats"]["mean"] == 0).all()
    with pytest.raises(flax.errors.ModifyScopeVariableError):
        module.apply(variables, X, train=True)
    module.apply(variables, X)


def test_to_linen_has_streams_and_collections_of_its_own():
    layer = jn.serial(jn.batch_norm(), jn.dropout(0.5))
    module = to_linen(layer, collection="running", rng="noise")
    variables = module.init(KEY, X)
    assert set(variables) == {"params", "running"}

    def run(seed):
        rngs = {"noise": jax.random.key(seed)}
        return module.apply(variables, X, train=True, rngs=rngs, mutable="running")[0]

    assert (run(0) == run(0)).all()
    assert (run(0) != run(1)).any()
    with pytest.raises(ValueError, match="needs a key"):
        module.apply(variables, X, train=True, mutable="running")


def test_two_layers_in_one_module():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = to_linen(jn.dense(4))(x)
            return to_linen(jn.dense(4))(x)

    variables = Two().init(KEY, jnp.ones((2, 3)))
    a, b = (variables["params"].pop(f"LayerModule_{i}") for i in range(2))
    assert shapes(a) == {"kernel": (3, 4), "bias": (4,)}
    assert not variables["params"]
    assert b["kernel"].shape == (4, 4)
    assert not np.allclose(a["kernel"], b["kernel"][:3])


@pytest.mark.slow
def test_linen_transforms_take_layers():
    """nn.vmap over a stack of layers, and nn.remat."""
    axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "in_axes": 0}
    many = nn.vmap(type(to_linen(jn.dense(4))), **axes)(jn.dense(4))
    x = jnp.ones((5, 2, 3))
    variables = many.init(KEY, x)
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (5, 3, 4)
    assert not np.allclose(kernel[0], kernel[1])
    close(many.apply(variables, x), jnp.einsum("nbi,nio->nbo", x, kernel), 1e-5)


def test_nnx_takes_layers_through_flaxs_bridge():
    layer = jn.serial(jn.dense(4), jn.batch_norm())
    module = nnx.bridge.ToNNX(to_linen(layer), rngs=nnx.Rngs(0))
    x = jnp.ones((2, 3))
    module.lazy_init(x)
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    y, _ = jit_apply(layer, params, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)), x)
    close(module(x), y, 1e-6)


# Both ways


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_round_trip_from_linen(train):
    """to_linen(from_linen(m)) has m's variables, values and statistics."""
    module, back = Net(), to_linen(from_linen(Net()))
    variables = module.init(KEY, X, train=False)
    assert shapes(back.init(KEY, X)) == shapes(variables)
    ours = back.apply(variables, X, train=train, mutable=["batch_stats"])
    close(ours, module.apply(variables, X, train=train, mutable=["batch_stats"]), 1e-6)


def test_round_trip_from_a_layer():
    layer = jn.dense(4)
    assert from_linen(to_linen(layer)) == layer
    assert from_linen(to_linen(layer), name="head").name == "head"


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_mixed_nests_are_the_sum_of_their_parts(train):
    net, x = mixed(), X[:, 0, 0]
    params, state = net.init(KEY, jn.spec(x.shape))
    around, inside = params["Around"], params["Around"]["inside"]
    dense = {"kernel": (5, 5), "bias": (5,)}
    norm = {"scale": (5,), "bias": (5,)}
    assert shapes(inside) == {"Dense": dense, "batch_norm": norm}
    y, after = jax.jit(lambda x: net.apply(params, state, x, train=train))(x)
    for dense in (params["dense"], around["Dense_0"], inside["Dense"]):
        x = x @ dense["kernel"] + dense["bias"]
    norms = state["Around"]["batch_stats"]["inside"]["batch_norm"]
    x, norms = jit_apply(jn.batch_norm(), inside["batch_norm"], norms, x, train=train)
    close(y, jnp.tanh(x), 1e-5)
    close(after["Around"]["batch_stats"]["inside"]["batch_norm"], norms, 1e-5)


# from_nnx


@pytest.mark.slow
def test_from_nnx_is_the_module():
    """The same values for the same key; outputs, gradients and statistics after three steps."""
    layer, module = nnx_net(), NNXNet(rngs=nnx.Rngs(KEY))
    params, state = layer.init(KEY, jn.spec(X.shape))
    assert shapes(params["rest"]) == {"1": {"kernel": (4, 5), "bias": (5,)}}
    close(params["conv"]["kernel"], module.conv.kernel[...], 0)
    module.eval()
    close(jit_apply(layer, params, state, X)[0], module(X), 1e-6)

    module.train()
    optimizer = optax.sgd(0.1)
    trainer = jn.trainer(jn.supervised(layer, loss_of), optimizer)
    ours = trainer.init(KEY, (X, Y), params=params)
    theirs = nnx.Optimizer(module, optimizer, wrt=nnx.Param)

    @nnx.jit
    def nnx_step(module, theirs):
        theirs.update(module, nnx.grad(lambda m: loss_of(m(X), Y).mean())(module))

    for _ in range(3):
        ours, _ = trainer.step(ours, (X, Y))
        nnx_step(module, theirs)
    close(ours.params["conv"]["kernel"], module.conv.kernel[...], 1e-5)
    close(ours.params["rest"]["1"]["bias"], module.rest[1].bias[...], 1e-5)
    close(ours.state["norm"]["mean"], module.norm.mean[...], 1e-5)
    assert (jnp.abs(ours.state["norm"]["mean"]) > 1e-4).all()


@pytest.mark.long
def test_two_nnx_dropouts_drop_different_units():
    drop = partial(nnx.Dropout, 0.5)
    two = from_nnx(lambda rngs: nnx.Sequential(drop(rngs=rngs), drop(rngs=rngs)))
    y, _ = two.apply(*two.init(KEY, jn.spec((40, 50))), jnp.ones((40, 50)), key=KEY, train=True)
    assert set(np.unique(y)) == {0, 4}
    assert 0.2 < (y != 0).mean() < 0.3
    with pytest.raises(ValueError, match="Sequential: draws random numbers and needs a key"):
        two.apply({}, {}, X, train=True)


def test_from_nnx_arguments():
    class Sum(nnx.Module):
        def __init__(self, rngs):
            self.scale = nnx.Param(jnp.full(3, 2.0))

        def __call__(self, a, b, deterministic):
            return self.scale * a + b * deterministic

    layer = from_nnx(Sum, call=lambda m, x, train: m(*x, deterministic=not train), name="sum")
    x = jnp.ones((2, 3)), 5 * jnp.ones((2, 3))
    params, state = layer.init(KEY, x)
    assert (jit_apply(layer, params, state, x)[0] == 7).all()
    assert (jit_apply(layer, params, state, x, train=True)[0] == 2).all()


def test_what_a_module_notes_beside_is_no_state():
    class Noting(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(3, 4, rngs=rngs)

        def __call__(self, x):
            y = self.dense(x)
            self.seen = nnx.Intermediate(y)
            return y

    layer = from_nnx(Noting)
    params, state = layer.init(KEY, jn.spec((2, 3)))
    assert jit_apply(layer, params, state, jnp.ones((2, 3)), train=True)[1] == state == {}


@pytest.mark.slow
def test_from_nnx_with_tied_weights():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.Linear(3, 3, rngs=rngs)
            self.b = self.a

        def __call__(self, x):
            return self.b(self.a(x))

    layer = from_nnx(Tied)
    params, state = layer.init(KEY, jn.spec((2, 3)))
    assert shapes(params) == {"a": {"kernel": (3, 3), "bias": (3,)}}
    x, kernel = jnp.ones((2, 3)), params["a"]["kernel"]
    close(jit_apply(layer, params, state, x)[0], x @ kernel @ kernel, 1e-5)


def linear(rngs):
    return nnx.Linear(2, 3, rngs=rngs)


test_messages_of_nnx = refuses([
    (lambda: from_linen(jn.dense(4)), TypeError, "from_linen: expected a Linen module.*got Layer"),
    (lambda: from_linen(linear(nnx.Rngs(0))), TypeError, "NNX module use from_nnx"),
    (lambda: from_linen(nn.LSTMCell(3)), TypeError,
     r"LSTMCell needs inputs .*module\(x, inputs=...\)"),
    (lambda: from_nnx(lambda rngs: nnx.LSTMCell(2, 3, rngs=rngs)), TypeError,
     r"from_nnx: LSTMCell needs inputs .*module\(x, inputs=...\)"),
    (lambda: from_nnx(linear(nnx.Rngs(0))), TypeError, "lambda rngs: .*got Linear"),
    (lambda: from_nnx(lambda rngs: nn.Dense(4)), TypeError, "Linen module use from_linen"),
    (lambda: to_linen(jnp.tanh), TypeError, "to_linen: expected a layer such as jn.dense"),
    (lambda: from_linen(nn.Dense(3), call=3), TypeError, "from_linen: call must be a function of"),
    (lambda: from_nnx(linear, name=3), TypeError, "from_nnx: name must be a word without"),
    (lambda: to_linen(jn.dense(3), rng=3), TypeError, "to_linen: rng must be a str, got int"),
    (lambda: from_linen(nn.Dropout(0.5)).apply({}, {}, X, train=True),
     r"Dropout: draws random numbers.*key=jax.random.key\(0\)"),
])  # fmt: skip


def test_from_nnx_with_a_dict_in_a_variable():
    class KeepsADict(nnx.Module):
        def __init__(self):
            self.seen = nnx.BatchStat({"sum": jnp.zeros(3), "count": jnp.zeros(())})

        def __call__(self, x):
            old = self.seen.get_value()
            self.seen.set_value({"sum": old["sum"] + x.sum(0), "count": old["count"] + len(x)})
            return x

    layer = from_nnx(lambda rngs: KeepsADict())
    x = jnp.arange(6.0).reshape(2, 3)
    _, state = layer.apply(*layer.init(KEY, x), x, train=True)
    assert state["seen"]["sum"].tolist() == [3, 5, 7]
    assert int(state["seen"]["count"]) == 2


LAZY = tuple(map(int, flax.__version__.split(".")[:3])) >= (0, 12, 9)


@pytest.mark.skipif(LAZY, reason="lazy_init of newer Flax takes them")
def test_params_that_depend_on_the_input_are_refused():
    class Centered(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x - self.param("mean", lambda key: x.mean(0))

    with pytest.raises(flax.errors.LazyInitError):
        from_linen(Centered()).init(KEY, jnp.ones((2, 4)))


@pytest.mark.parametrize("constant", [False, True])
def test_what_a_linen_module_sows_is_no_state(constant):
    class Balanced(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(3)(x)
            self.sow("losses", "aux", jnp.float32(1) if constant else jnp.square(y).mean())
            return y

    layer, x = from_linen(Balanced()), jnp.ones((2, 4))
    params, state = layer.init(KEY, x)
    y, after = jit_apply(layer, params, state, x)
    assert y.shape == (2, 3)
    assert state == after == {}
