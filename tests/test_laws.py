"""Laws that every layer of the catalogue keeps. They do not replace values worked out by hand."""

import inspect
import itertools
import math
import re
from functools import cached_property, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet import layers
from jaxnet.layers import norm
from jaxnet.profile.program import layer_of
from jaxnet.services.jax_versions import enable_x64
from tests.catalogue import ONE_PER_KIND, ROWS, Row, cases, fill
from tests.helpers import close, equations, jit_init
from tests.layer_values import VALUES
from tools.mutation import mutated

KEYS_MAY_REPEAT = True  # most laws compare two uses of one key
KEY = jax.random.key(3)


class Case:
    """A row with all that several laws need, computed once: a compilation costs more than a law."""

    def __init__(self, row: Row):
        self.row, self.layer, self.x = row, row.make(), fill(row)
        self.params, self.state = jit_init(self.layer, KEY, row.x)
        self.modes = [True] if row.train == "same" else [False, True]
        self.apply = jax.jit(self.layer.apply, static_argnames="train")

    def run(self, train: bool, key=KEY):
        """(y, state), compiled."""
        return self.apply(self.params, self.state, self.x, key=key, train=train)

    @cached_property
    def outputs(self):
        """(y, state) by mode, compiled."""
        return {train: self.run(train) for train in (False, True)}


@pytest.fixture(autouse=True)
def strict_ranks():
    """No law needs arrays of different ranks to broadcast, which users may forbid."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="module", params=cases(one_per_kind=True))
def case(request) -> Case:
    """Of module scope, so that pytest runs all laws of a row together."""
    with jax.numpy_rank_promotion("raise"):
        return Case(request.param)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def floats(tree):
    """The leaves that have gradients, as a function of which the rest is closed over."""
    leaves, structure = jax.tree.flatten(tree)
    places = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def rebuild(values):
        whole = list(leaves)
        for i, value in zip(places, values, strict=True):
            whole[i] = value
        return jax.tree.unflatten(structure, whole)

    return [leaves[i] for i in places], rebuild


def test_catalogue_is_complete_and_ids_are_unique():
    public = {"stateless", "compose", "serial", "parallel", "residual", *PUBLIC}
    missing = public - {re.split("[- ]", row.id)[0] for row in ROWS}
    assert not missing, f"no row in tests/catalogue.py for {sorted(missing)}"
    ids = [row.id for row in ROWS]
    assert len(ids) == len(set(ids))


def test_kind_is_the_function_that_made_it(case: Case):
    own = {"stateless": "w", "compose": "gate"}  # made by the test itself
    made_by = re.split("[- ]", case.row.id)[0]
    assert case.layer.kind == own.get(made_by, made_by)


@pytest.mark.slow
def test_init_is_a_function_of_key_and_shapes_alone(case: Case):
    drawn = (case.params, case.state)
    init = partial(jit_init, case.layer)
    close(drawn, jit_init(case.row.make(), KEY, case.row.x), 0)
    close(drawn, init(KEY, case.x), 0)
    numbers, rebuild = floats(case.x)
    nan = rebuild([jnp.asarray(np.full(a.shape, np.nan), a.dtype) for a in numbers])
    close(drawn, init(KEY, nan), 0)
    assert shapes(jax.eval_shape(case.layer.init, KEY, case.x)) == shapes(drawn)


def test_init_is_traced_for_many_keys(case: Case):
    keys = jax.random.split(KEY, 2)
    many = jax.eval_shape(jax.vmap(lambda key: case.layer.init(key, case.row.x)), keys)
    two = jax.tree.map(lambda leaf: ((2, *leaf.shape), leaf.dtype), (case.params, case.state))
    assert shapes(many) == two


@pytest.mark.slow
def test_init_runs_compiled_and_for_many_keys(case: Case):
    init, keys = case.layer.init, jax.random.split(KEY, 2)
    many = jax.device_get(jax.jit(jax.vmap(lambda key: init(key, case.row.x)))(keys))
    for i in range(2):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], many), init(keys[i], case.row.x), 1e-6)


def test_nothing_moves_to_the_device_by_itself(case: Case):
    case.run(True)  # what is compiled may hold constants
    x = jax.device_put(case.x)
    with jax.transfer_guard("disallow"):
        case.apply(case.params, case.state, x, key=KEY, train=True)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_state_keeps_its_structure(case: Case, train: bool):
    _, after = case.outputs[train]
    assert shapes(after) == shapes(case.state)
    if case.row.train != "differs" and not train:
        close(after, case.state, 0)


def test_jit_is_eager(case: Case):
    for train in case.modes:
        eager = case.layer.apply(case.params, case.state, case.x, key=KEY, train=train)
        close(eager, case.outputs[train])
        assert shapes(eager) == shapes(case.outputs[train])


def test_a_layer_that_went_through_cloudpickle_computes_the_same(case: Case):
    cloudpickle = pytest.importorskip("cloudpickle")

    def program(layer):
        run = jax.jit(partial(layer.apply, key=KEY, train=True))
        text = run.lower(case.params, case.state, case.x).as_text()
        functions = dict(re.findall(r"func\.func \w+ (@\w+)(.*?\n  }\n)", text, re.S))

        def body(name):  # with what it calls: equal functions may be one or several
            def inner(call):
                return body(call[0]) if call[0] in functions else call[0]

            return re.sub(r"@\w+", inner, functions[name])

        return body("@main")

    again = cloudpickle.loads(cloudpickle.dumps(case.layer))
    assert again is not case.layer
    assert program(again) == program(case.layer)


def test_operations_have_the_name_of_the_layer(case: Case):
    run = case.apply.lower(case.params, case.state, case.x, key=KEY, train=True)
    names = re.findall(r'loc\("(jit\([^"]*/[^"]*)"', run.as_text(debug_info=True))
    assert names
    assert {layer_of(f"{name}/")[0][0] for name in names} == {case.layer.name}


def test_training_differs_only_where_it_should(case: Case):
    if case.row.train == "random":
        with pytest.raises(ValueError, match="key"):
            case.layer.apply(case.params, case.state, case.x, train=True)
    still, a = case.outputs[False][0], case.outputs[True][0]
    b, _ = case.run(True, jax.random.key(4))

    def same(a, b):
        return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))

    assert same(a, still) == (case.row.train == "same")
    if case.row.train == "differs":
        with pytest.raises(AssertionError):  # by more than rounding, which differs by machine
            close(a, still, 1e-6)
    assert same(a, b) == (case.row.train != "random")
    own = any(case.row is row for row in ROWS)  # and not a norm of Flax, of another momentum
    if case.row.train == "differs" and own:
        is_evaluation_with_the_statistics_of_the_batch(case)


def is_evaluation_with_the_statistics_of_the_batch(case: Case):
    """Running averages take a tenth of the batch's statistics, so these can be had from them."""
    y, after = case.outputs[True]

    def of_the_batch(path, old, new):
        return (new - 0.9 * old) / (1 - 0.9) if path[-1].key in ("mean", "var") else new

    state = jax.tree_util.tree_map_with_path(of_the_batch, case.state, after)
    still, _ = case.apply(case.params, state, case.x, key=KEY, train=False)
    close(still, y, 1e-4)


def moved(tree, least=None):
    """The floats of a tree away from where they start, such as biases of 0, at `least` or above."""
    rng = np.random.default_rng(7)
    values, rebuild = floats(tree)
    new = [np.asarray(a) + rng.normal(0, 0.1, a.shape) for a in values]
    new = new if least is None else [np.maximum(a, least) for a in new]
    return rebuild([jnp.asarray(a, b.dtype) for a, b in zip(new, values, strict=True)])


def test_output_is_that_of_numpy(case: Case):
    if case.row.id not in VALUES:
        pytest.skip("is random, or a model with a test of its own")
    params = moved(case.params)
    state = moved(case.state, 0.1) if case.row.train == "differs" else case.state
    wide = jax.tree.map(to_float64, (params, state, case.x))
    for train in case.modes if case.row.train != "random" else [False]:
        y, _ = case.apply(params, state, case.x, key=KEY, train=train)
        right = VALUES[case.row.id](*wide, train)
        assert jax.tree.structure(y) == jax.tree.structure(right)
        close(y, right, 1e-4)


@pytest.mark.slow
def test_optimized_for_inference_it_answers_the_same(case: Case):
    params = moved(case.params)
    state = moved(case.state, 0.1) if case.row.train == "differs" else case.state
    y, _ = jax.jit(case.apply)(params, state, case.x)
    found = jn.optimize_for_inference(case.layer, params, state)(case.x)
    assert jax.tree.structure(y) == jax.tree.structure(found)
    close(found, y, 1e-5)


# What is no float, or hangs on the last digit, at these sizes of the input.
BEYOND = {
    "multi_head_attention": (1e30, "scores are products of two inputs"),
    "lora-attention": (1e30, "scores are products of two inputs"),
    "transformer_block": (1e30, "scores are products of two inputs"),
    "polynomial": (1e15, "its results are products of inputs"),
    "random_fourier": (1e15, "the phase of a cosine has lost its digits"),
    "moe": (1e-15, "experts with equal scores are chosen by the last digit"),
    "hmm": (1e15, "the reference cannot compute probabilities of e^-1e30"),
}


@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e15, 1e30])
def test_output_is_that_of_numpy_for_huge_and_tiny_inputs(case: Case, size: float):
    """A sum of squares of these numbers is no float, so norms and lengths have to scale them."""
    if case.row.id not in VALUES:
        pytest.skip("is random, or a model with a test of its own")
    beyond, _ = BEYOND.get(re.split("[- ]", case.row.id)[0], BEYOND.get(case.row.id, (0, "")))
    if beyond and (size >= beyond > 1 or size <= beyond < 1):
        pytest.skip("is no float, or hangs on the last digit")

    def sized(leaf):
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf * jnp.asarray(size, leaf.dtype) if is_float else leaf

    x = jax.tree.map(sized, case.x)
    params = moved(case.params)
    state = moved(case.state, 0.1) if case.row.train == "differs" else case.state
    wide = jax.tree.map(to_float64, (params, state, x))
    for train in case.modes if case.row.train != "random" else [False]:
        y, _ = case.apply(params, state, x, key=KEY, train=train)
        right = VALUES[case.row.id](*wide, train)
        for one, other in zip(jax.tree.leaves(y), jax.tree.leaves(right), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * np.abs(other).max(initial=0))


def to_float64(leaf):
    """A copy on the host; floats are wide."""
    leaf = np.asarray(leaf)
    return leaf.astype(float) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def test_only_random_rows_and_a_model_are_without_a_value():
    without = {row.id for row in ROWS} - VALUES.keys()
    random = {row.id for row in ROWS if row.train == "random"}
    random -= {"transformer_block-decoder", "rnnsearch"}
    assert without == random | {"cifar_resnet", "unet"}
    assert not VALUES.keys() - {r.id for r in ROWS}


def test_training_output_depends_on_the_input(case: Case):
    """It is not constant: not within one output, and not from one input to another."""
    params = moved(case.params)
    backwards = jax.tree.map(lambda leaf: jnp.asarray(np.flip(leaf)), case.x)
    run = partial(case.apply, params, case.state, key=KEY, train=True)
    y, other = (floats(run(x)[0])[0][0] for x in (case.x, backwards))
    assert np.ptp(y) > 1e-3
    assert np.abs(y - other).max() > 1e-3


def test_gradients_are_right_in_float64(case: Case):
    """The slope of a weighted sum of the outputs along a line: by the chain rule, by differences.

    One compiled program gives all of it, where `jax.test_util.check_grads` takes three.
    """
    if not case.row.smooth:
        pytest.skip("no gradient is claimed")
    with enable_x64(True):
        layer, x = case.row.make(), fill(case.row, jnp.float64)
        params, state = jit_init(layer, KEY, x)
        values, rebuild = floats((params, x))
        assert all(leaf.dtype == jnp.float64 for leaf in values), "float64 is not kept"
        values = jax.device_get(values)
        rng = np.random.default_rng(5)
        line = [rng.normal(size=leaf.shape) for leaf in values]
        for train in case.modes:

            def weighted(values, train=train):
                params, x = rebuild(values)
                y, _ = layer.apply(params, state, x, key=KEY, train=train)
                y = floats(y)[0]
                assert all(leaf.dtype == jnp.float64 for leaf in y), "float64 is not kept"
                rng = np.random.default_rng(6)
                return sum(jnp.vdot(rng.normal(size=leaf.shape), leaf) for leaf in y)

            def along(step, run=jax.jit(jax.value_and_grad(weighted))):
                value, gradients = run([a + step * b for a, b in zip(values, line, strict=True)])
                return value, sum(map(np.vdot, gradients, line))

            eps = 1e-5
            by_differences = (along(eps)[0] - along(-eps)[0]) / (2 * eps)
            np.testing.assert_allclose(along(0)[1], by_differences, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_dtype_is_kept(case: Case, dtype):
    x = fill(case.row, dtype)
    values, rebuild = floats(case.params)  # integers are those of `quantized`
    short = case.row.id == "quantized-4"  # whose scales have 16 bits
    assert all(leaf.dtype == jnp.float32 or short for leaf in values)
    params = rebuild([jn.spec(leaf.shape, dtype) for leaf in values])

    def run(params, state, x):
        return case.layer.apply(params, state, x, key=KEY, train=True)

    y, after = jax.eval_shape(run, params, case.state, x)
    if jax.tree.leaves((params, floats(x)[0])):
        assert {leaf.dtype for leaf in floats(y)[0]} <= {jnp.dtype(dtype)}
    assert shapes(after) == shapes(case.state)


def many(row: Row) -> Row:
    """The row with inputs of 16,384 positions: of 64 x 64 pixels, or of 64 steps, if it can."""
    leaves, tree = jax.tree.flatten(row.x)
    shape = leaves[0].shape
    ids = jnp.issubdtype(leaves[0].dtype, jnp.integer)
    image = len(leaves) == 1 and len(shape) == 4 and shape[:3] == (2, 8, 6)
    steps = 64 if any(leaf.shape[:2] == (3, 6) for leaf in leaves) else None
    inner = steps or math.prod(shape[1:] if ids else shape[1:-1])

    def larger(leaf):
        if image:
            return jn.spec((4, 64, 64, shape[-1]), leaf.dtype)
        longer = (steps,) if steps and leaf.shape[:2] == (3, 6) else leaf.shape[1:2]
        return jn.spec((16_384 // inner, *longer, *leaf.shape[2:]), leaf.dtype)

    high = steps + 1 if steps and row.high == 7 and len(leaves) == 2 else row.high
    return row._replace(x=jax.tree.unflatten(tree, list(map(larger, leaves))), high=high)


def gradient_of(layer, state, train):
    """The gradient of a sum of all outputs, whose weights have one sign per feature."""

    def total(numbers):
        params, x = numbers
        y, _ = layer.apply(params, state, x, key=KEY, train=train)
        parts = []
        for i, leaf in enumerate(floats(y)[0]):
            rng = np.random.default_rng(9 + i)
            features = leaf.shape[-1:] if leaf.ndim > 1 else ()
            signs = rng.choice([-1.0, 1.0], (1,) * (leaf.ndim - len(features)) + features)
            weights = rng.uniform(0.5, 1.5, leaf.shape) * signs / 64  # in the range of float16
            parts.append((leaf.astype(jnp.float32) * weights.astype(np.float32)).sum())
        return sum(parts, jnp.float32(0))

    return jax.grad(total, allow_int=True)


# In 16 bits these have another gradient than in float32, for another reason than a sum.
OTHERWISE = {
    "bfloat16": {"transformer_block-post": "a norm of 4 features divides by numbers near 0",
        "mapped": "XLA on CPU sums the products of a mapped axis in bfloat16",
        "rnnsearch": "gradients of a softmax cancel",
        "lenet5_1998": "slopes of saturated units cancel, six times over"},
    "float16": {},
    "both": {"weight_norm-composed": "batch norm makes gradients 0 before it",
        "transformer_block-both": "a norm of 4 features divides by numbers near 0",
        "moe": "the choice of an expert flips", "moe-lengths": "the choice of an expert flips",
        **dict.fromkeys(["lenet5", "cifar_resnet", "unet", "yolo"], "rectified units switch")},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_in_16_bits_are_those_of_float32(case: Case, dtype: str):
    """With 64 x 64 pixels or 16,384 tokens, where a sum in 16 bits would be off by its half."""
    if why := {**OTHERWISE["both"], **OTHERWISE[dtype]}.get(case.row.id):
        pytest.skip(why)
    row = many(case.row)
    x = fill(row)
    params, state = jax.jit(lambda key: case.layer.init(key, row.x))(KEY)

    def rounded(tree):  # so that both start from the same numbers
        numbers, rebuild = floats(tree)
        return rebuild([leaf.astype(dtype).astype(leaf.dtype) for leaf in numbers])

    numbers = rounded(params), rounded(x)
    layers = case.layer, jn.cast(case.layer, jnp.dtype(dtype))
    run = jax.jit(lambda n: [gradient_of(layer, state, True)(n) for layer in layers])
    wanted, found = (floats(tree)[0] for tree in jax.device_get(run(numbers)))
    largest = max(map(np.linalg.norm, wanted), default=0)
    for a, b in zip(wanted, found, strict=True):  # the gradient of a bias of keys is 0, and noise
        off = np.linalg.norm(np.float64(a) - np.float64(b))
        assert off <= 0.01 * max(np.linalg.norm(a), 1e-3 * largest)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:state does not change in training", "ignore:.*captures arrays")
def test_trains_in_float16_as_in_float32(case: Case):
    """The outputs of other params, in 100 steps: a gradient of 0 or an overflow would show."""
    numbers, rebuild = floats(case.params)
    if not numbers or not case.row.smooth:
        pytest.skip("nothing to train")
    rng = np.random.default_rng(1)
    others = rebuild([leaf + np.float32(rng.normal(0, 0.3, leaf.shape)) for leaf in numbers])
    wanted = floats(jax.jit(case.layer.apply)(others, case.state, case.x)[0])[0]
    size = max(sum(jnp.square(leaf).mean() for leaf in wanted), 1e-6)

    def losses(layer):
        def objective(m, batch):
            found = floats(m._inline(layer, case.x))[0]
            errors = [jnp.square(y - t).mean() for y, t in zip(found, wanted, strict=True)]
            return sum(errors) / size, {}

        trainer = jn.trainer(jn.compose(objective), optax.adam(0.01))

        def step(train_state, _):
            return trainer.step(train_state, jnp.zeros(1))

        end, metrics = jax.lax.scan(step, trainer.init(KEY, jnp.zeros(1)), length=100)
        return metrics["loss"], getattr(end.opt_state, "skipped", 0)

    run = jax.jit(lambda: [losses(layer) for layer in (case.layer, jn.cast(case.layer, "float16"))])
    (exact, _), (half, skipped) = jax.device_get(run())
    assert skipped <= 20
    np.testing.assert_allclose(half[-10:].mean(), exact[-10:].mean(), atol=0.05 * exact[0])


SUMS = {"reduce_sum", "scatter-add", "cumsum", "reduce_window_sum"}


def sums_in_16_bits(jaxpr) -> list[str]:
    """Sums of more than 32 terms whose operand has 16 bits, in a jaxpr and those inside of it."""
    found = []
    for eqn in (eqn for eqn in equations(jaxpr) if eqn.primitive.name in SUMS):
        a, out = eqn.invars[0].aval, eqn.outvars[0].aval
        terms = eqn.invars[2].aval.size if eqn.primitive.name == "scatter-add" else a.size
        if a.dtype.itemsize == 2 and terms > 32 * max(out.size, 1):
            found.append(f"{eqn.primitive.name} of {a.shape} to {out.shape}")
    return found


@pytest.mark.slow
def test_no_long_sum_is_made_in_16_bits(case: Case):
    """Neither in the outputs nor in the gradient, whatever the values; traced alone."""
    if case.row.id == "last_step":
        pytest.skip("its sum has one term that is not 0")
    row = many(case.row)
    layer = jn.cast(case.layer, jnp.bfloat16)
    params, state = jax.eval_shape(layer.init, KEY, row.x)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    for train in case.modes:
        run = gradient_of(layer, state, train)
        assert not sums_in_16_bits(jax.make_jaxpr(run)((params, row.x)).jaxpr)


@pytest.mark.slow
def test_types_inside_shard_map_fit(case: Case):
    """With the batch cut among devices, forward and backward; nothing is compiled."""
    mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,))
    cut = jax.sharding.PartitionSpec("data")
    whole = jax.sharding.PartitionSpec()
    specs = {"in_specs": (whole, whole, cut, whole), "out_specs": cut}
    run = jax.shard_map(lambda *a: _forward_and_backward(case, *a)[0], mesh=mesh, **specs)
    jax.eval_shape(run, case.params, case.state, case.x, KEY)


@pytest.mark.slow
def test_types_on_an_explicit_mesh_fit(case: Case):
    """JAX checks the sharding of each value while it traces; nothing is compiled."""
    explicit = jax.sharding.AxisType.Explicit
    mesh = jax.sharding.AbstractMesh((1,), ("data",), axis_types=(explicit,))

    def on(tree, spec):
        where = jax.NamedSharding(mesh, spec)

        def of(a):
            return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where)

        return jax.tree.map(of, tree)

    arguments = on(case.params, jax.P()), on(case.state, jax.P()), on(case.x, jax.P("data"))
    run = jax.jit(partial(_forward_and_backward, case))
    y, gradient = run.trace(*arguments, on(KEY, jax.P())).out_info
    rows = jax.tree.leaves(case.x)[0].shape[:1]
    for leaf in jax.tree.leaves(y):
        first_axis = ("data",) if leaf.shape[:1] == rows else ()
        assert jax.typeof(leaf).sharding.spec[:1] == first_axis
    assert not any(any(leaf.sharding.spec) for leaf in jax.tree.leaves(gradient))


def _forward_and_backward(case: Case, params, state, x, key):
    def total(params):
        y = case.layer.apply(params, state, x, key=key, train=case.modes[-1])[0]
        return sum((leaf.sum() for leaf in floats(y)[0]), jnp.float32(0)), y

    if not case.row.smooth:
        return total(params)[1], {}
    (_, y), gradient = jax.value_and_grad(total, has_aux=True)(params)
    return y, gradient


def test_examples_do_not_affect_each_other_in_evaluation(case: Case):
    if not case.row.rows:
        pytest.skip("the examples of a batch are not independent by design")
    first = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[:1]), case.x)
    alone, _ = jax.jit(lambda x: case.layer.apply(case.params, case.state, x, key=KEY))(first)
    close(jax.tree.map(lambda leaf: leaf[:1], jax.device_get(case.outputs[False][0])), alone)


@pytest.mark.slow
def test_an_empty_batch_gives_an_empty_output(case: Case):
    """Also under gradients and `vmap`; traced alone, where a reshape to -1 would divide by 0."""
    none = jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape[1:]), leaf.dtype), case.x)

    def run(params, x):
        y, _ = case.layer.apply(params, case.state, x, key=KEY)
        return sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(y)), y

    values, rebuild = floats(case.params)
    along = jax.grad(lambda values: run(rebuild(values), none), has_aux=True)
    y = jax.eval_shape(along, values)[1]
    if case.row.rows:
        assert all(leaf.shape[0] == 0 for leaf in jax.tree.leaves(y))
    two = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), (case.params, none))
    jax.eval_shape(jax.vmap(run), *two)


def test_params_that_do_not_fit_raise(case: Case):
    more = case.params | {"surplus": jnp.zeros(2)}
    for params, words in ((more, "surplus"), ({}, f"{case.layer.name}/.*got nothing")):
        if params or case.params:
            with pytest.raises(ValueError, match=words):
                jax.eval_shape(case.layer.apply, params, case.state, case.x)


REQUIRED = {
    "features": 3, "kernel_size": 3, "window": 2, "size": 2, "factor": 2, "degree": 2, "heads": 2,
    "p": 2, "rate": 0.5, "stddev": 0.1, "vocabulary": 7, "max_length": 9, "layer": jn.dense(3),
    "cell": jn.layers.gru_cell(3), "forward": jn.gru(3), "expert": jn.dense(3), "experts": 4,
    "k": 2,
}  # fmt: skip
WRONG = {"an object": object(), "words": "abc", "many": np.ones((2, 3)), "nan": np.float32("nan")}
NO_LAYERS = {"rotary", "segment_mask", "initial_carry", "sinusoidal"}
MAKERS = {
    name: make
    for name, make in inspect.getmembers(jn) + inspect.getmembers(layers)
    if inspect.isfunction(make) and make.__module__.startswith("jaxnet.layers.")
}
PUBLIC = sorted(MAKERS.keys() - NO_LAYERS)


def named(call, *words):
    """Raises an error of ours that has these words."""
    with pytest.raises((TypeError, ValueError)) as error:
        call()
    first = str(error.value)
    assert error.traceback[-1].path.is_relative_to(Path(jn.__file__).parent), first
    assert all(re.search(word, first) for word in words), (words, first)


def trace_with_option(name, x, option):
    """A public layer with one option, traced in training."""
    make = MAKERS[name]
    own = inspect.signature(make).parameters.items()
    required = {n: REQUIRED[n] for n, p in own if p.default is p.empty and p.kind < 2}
    layers_to_stack = [jn.gru(3)] if name == "stack_rnn" else []
    layer = make(*layers_to_stack, **required | option)
    drawn = jax.eval_shape(lambda: layer.init(KEY, x))
    jax.eval_shape(lambda p, s, x: layer.apply(p, s, x, key=KEY, train=True), *drawn, x)


@pytest.mark.parametrize("name", PUBLIC)
def test_an_option_of_another_kind_is_named(name: str):
    parameters = inspect.signature(MAKERS[name]).parameters
    for (what, p), wrong in itertools.product(parameters.items(), WRONG):
        if p.kind == p.VAR_POSITIONAL or (what == "name" and wrong == "words"):
            continue
        x, own = ONE_PER_KIND[name].x, parameters["name"].default
        who = name if what == "name" or own is None else f"{name}|{own}"
        option = {what: WRONG[wrong]}
        named(lambda x=x, option=option: trace_with_option(name, x, option), rf"^({who})[:/]", what)


@pytest.mark.parametrize("name", PUBLIC)
def test_an_input_of_another_kind_is_named(name: str):
    for x in (None, {}, {"y": jn.spec((2, 3))}, ((), ())):
        named(lambda x=x: trace_with_option(name, x, {}), r"^\w+: ")


def test_there_are_public_layers():
    assert len(PUBLIC) > 40
    assert NO_LAYERS <= MAKERS.keys()


def test_the_laws_see_a_broken_layer():
    """A law that cannot fail is none: a layer that breaks one is caught."""

    def apply(params, state, x, *, key=None, train=False):
        return x - x.mean(0, keepdims=True), state

    broken = jn.Layer(lambda key, x: ({}, {}), apply, "broken")
    case = Case(Row("broken", lambda: broken, jn.spec((2, 3))))
    with pytest.raises(AssertionError):
        test_examples_do_not_affect_each_other_in_evaluation(case)


# A batch norm whose training output is 0: it passes every test of shapes and slopes.
NO_OUTPUT = mutated(norm, "normalized(x_cast, scale", "normalized(x_cast, 0 * scale").batch_norm


@pytest.mark.parametrize("law", [
    test_output_is_that_of_numpy, test_training_output_depends_on_the_input,
    is_evaluation_with_the_statistics_of_the_batch,
])  # fmt: skip
def test_the_laws_see_an_output_of_0_in_training(law):
    def make():
        return NO_OUTPUT(use_scale=False, use_bias=False)

    with pytest.raises(AssertionError):
        law(Case(Row("batch_norm-plain", make, jn.spec((7, 3)), train="differs")))
