"""One step: equal to the update written out, keys that move on, warnings with paths."""

import copy
import gc
import pickle
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import close, jit_apply, traced
from tests.training.conftest import KEY, LOSS, started


def data(n=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, 2, n).astype(np.int32)


def build(net, optimizer=None):
    return started(net, data(), optimizer=optimizer)


def objective_of(net, loss):
    """An objective of net's params from `loss(params, state, batch, train) -> (values, state)`."""

    def apply(params, state, batch, *, key=None, train=False):
        values, state = loss(params, state, batch, train)
        return (values, {}), state

    return jn.Layer(lambda key, batch: net.init(key, batch[0]), apply, "mine")


def through_cloudpickle(value):
    cloudpickle = pytest.importorskip("cloudpickle")
    return cloudpickle.loads(cloudpickle.dumps(value))


@pytest.mark.parametrize("copied", [copy.deepcopy, through_cloudpickle])
def test_a_copy_of_a_used_trainer_trains_alike(copied, tmp_path):
    net = jn.serial(jn.cast(jn.dense(3), jnp.float16), jn.dropout(0.5), jn.dense(2))
    trainer, train_state = build(net, optax.adam(0.1))
    train_state, _ = trainer.step(train_state, data())
    again, checkpoints = copied((trainer, jn.Checkpoints(tmp_path)))
    assert traced(trainer.step, train_state, data()) == traced(again.step, train_state, data())
    assert not again._cache.watcher.traces  # so it does not warn of a second compilation
    assert checkpoints.newest(train_state)[0] is train_state


@pytest.mark.parametrize("name", ["dense", "trainer"])
def test_pickle_does_not_write_local_functions(name):
    net = jn.dense(2)
    trainer, _ = build(net)
    with pytest.raises((AttributeError, pickle.PicklingError), match="local object"):
        pickle.dumps({"it": net if name == "dense" else trainer})


def test_an_objective_in_third_place_does_not_become_the_update():
    trainer, _ = build(jn.dense(2))
    with pytest.raises(TypeError, match="takes 3 positional arguments"):
        jn.Trainer(trainer.init, trainer.step, trainer.objective)  # type: ignore


def test_init_and_training_keys_differ():
    _, train_state = build(jn.dense(2))
    stored = jax.random.key_data(train_state.key)
    for key in (KEY, jn.child_key(KEY, "init")):
        assert not jnp.array_equal(stored, jax.random.key_data(key))


def test_state_moves_on():
    trainer, train_state = build(jn.serial(jn.batch_norm(), jn.dense(2)))
    x, y = data()
    train_state, _ = trainer.step(train_state, (x, y))
    close(train_state.state["batch_norm"]["mean"], 0.1 * x.mean(0), 1e-5, 1e-7)


def test_state_that_never_changes_is_told_with_its_path():
    net = jn.serial(jn.batch_norm(), jn.dense(2))

    def forgetful(params, state, batch, train):
        y, state = jit_apply(net, params, state, batch[0])  # train=train is missing
        return LOSS(y, batch[1]), state

    trainer = jn.trainer(objective_of(net, forgetful), optax.sgd(0.1))
    words = "does not change in training: batch_norm/mean, batch_norm"
    with pytest.warns(UserWarning, match=words):
        trainer.step(trainer.init(KEY, data()), data())


def test_gradient_that_is_not_finite_is_told_with_path_and_step():
    trainer, train_state = build(jn.serial(jn.dense(4), jn.dense(2)))
    train_state, _ = trainer.step(train_state, data())
    x, y = data()
    words = "not finite at step 2: dense/bias, dense/kernel, dense_1/"
    with pytest.warns(UserWarning, match=words):
        for _ in range(3):
            train_state, _ = trainer.step(train_state, (x * np.inf, y))


def test_only_the_bad_leaf_is_named():
    def loss(params, state, batch, train):
        return jnp.sqrt(params["bias"]).sum() + params["kernel"].sum(), state  # d sqrt(0)

    trainer = jn.trainer(objective_of(jn.dense(2), loss), optax.sgd(0.0))
    with pytest.warns(UserWarning, match="not finite at step 1: bias;"):
        trainer.step(trainer.init(KEY, data()), data())


@pytest.mark.slow
def test_compiled_once_and_a_second_time_told_with_the_leaf():
    trainer, train_state = build(jn.dense(2))
    for seed in range(4):
        train_state, _ = trainer.step(train_state, data(seed=seed))
    assert len(trainer._cache.watcher.traces["step"]) == 1
    words = r"batch/0: float32\[6,3\] -> float32\[5,3\]; batch/1: int32"
    with pytest.warns(UserWarning, match=words):
        trainer.step(train_state, data(5))
    assert len(trainer._cache.watcher.traces["step"]) == 2


@pytest.mark.slow
def test_shapes_that_are_meant_are_not_told():
    trainer, train_state = started(jn.dense(2), data(), shapes=3)
    for n in (6, 5, 4, 6, 5):  # warnings are errors here
        train_state, _ = trainer.step(train_state, data(n))
    assert len(trainer._cache.watcher.traces["step"]) == 3
    with pytest.warns(UserWarning, match=r"number 4.*float32\[3,3\].*shapes=n"):
        train_state, _ = trainer.step(train_state, data(3))
    with pytest.raises(ValueError, match="shapes must be at least 1, got 0"):
        jn.trainer(jn.supervised(jn.dense(2), LOSS), optax.sgd(0.1), shapes=0)


def test_a_change_that_is_not_of_the_batch_is_told_even_among_the_shapes_meant():
    trainer, train_state = started(jn.dense(2), data(), shapes=3)
    train_state, _ = trainer.step(train_state, data())
    train_state = train_state._replace(step=train_state.step.astype(jnp.uint8))
    with pytest.warns(UserWarning, match="train_state/step: int32.* -> uint8"):
        trainer.step(train_state, data())


SUPERVISED = jn.supervised(jn.dense(2), LOSS)
IN_STEPS = optax.MultiSteps(optax.sgd(0.1), 2)


@pytest.mark.parametrize(
    ("objective", "optimizer", "words"),
    [
        (LOSS, optax.sgd(0.1), "the objective must be a layer"),
        (SUPERVISED, 0.1, "must be an optax optimizer"),
        (SUPERVISED, optax.sgd, r"did you forget to call it: sgd\(1e-3\)\?"),
        (SUPERVISED, IN_STEPS, r"MultiSteps; write optimizer\.gradient_transformation\(\)"),
    ],
    ids=["a loss", "a rate", "not called", "MultiSteps"],
)
def test_wrong_parts_are_answered(objective, optimizer, words):
    with pytest.raises(TypeError, match=words):
        jn.trainer(objective, optimizer)


def test_values_of_a_wrong_shape_are_answered():
    def loss(params, state, batch, train):
        x, _ = batch
        return x @ params["kernel"], state

    trainer = jn.trainer(objective_of(jn.dense(2), loss), optax.sgd(0.1))
    train_state = trainer.init(KEY, data())
    with pytest.raises(ValueError, match=r"mine: loss must be \(batch,\), .* got \(6, 2\)"):
        trainer.step(train_state, data())


X, LABELS = data()


@pytest.mark.parametrize(
    ("key", "batch", "words"),
    [
        (0, (X, LABELS), r"^trainer.init: expected a single key, such as jax.random.key\(0\), got"),
        (KEY, (X, list(LABELS)), r"got .* int32; for a list, write np.asarray\(list\)"),
        (KEY, ([1, 2], [3]), "one example per row"),
    ],
    ids=["a number", "a list of labels", "lists"],
)
def test_keys_and_batches_of_another_kind_are_answered(key, batch, words):
    trainer, _ = build(jn.dense(2))
    with pytest.raises(TypeError, match=words):
        trainer.init(key, batch)


def test_init_takes_specs_arrays_and_trees():
    net = jn.compose(lambda m, x: m(jn.dense(2), x["a"]))
    for x in (jn.spec((50, 3)), np.ones((50, 3), np.float32)):
        batch = {"a": x}, jn.spec((50,), jnp.int32)
        trainer, train_state = started(net, batch, optimizer=optax.adam(0.1))
        assert train_state.params["dense"]["kernel"].shape == (3, 2)


@pytest.mark.slow
def test_a_loss_that_is_nan_while_its_gradient_is_not():
    def loss(outputs, labels):
        return LOSS(outputs, labels) + jnp.where(labels == 2, jnp.nan, 0)

    x, labels = jnp.ones((4, 2)), jnp.array([0, 1, 2, 1])
    trainer, train_state = started(jn.dense(3), (x, labels), loss)
    with pytest.warns(UserWarning, match="the loss is not finite at step 1, but its grad") as seen:
        list(jn.fit(trainer, train_state, (x, labels), epochs=3, batch_size=4))
    assert len(seen) == 1
    with pytest.warns(UserWarning, match="the loss is not finite at step 1, but its grad"):
        trainer.step(train_state, (x, labels))


def test_init_starts_from_given_params_and_draws_the_rest():
    net = jn.serial(jn.serial(jn.dense(4), jn.dense(3), name="body"), jn.dense(2, name="head"))

    def unchanged(grads, state, params=None):
        return grads, state

    # The state of this optimizer is the params with which it began.
    keeping = optax.GradientTransformation(lambda params: params, unchanged)
    trainer, drawn = build(net, keeping)
    given = {"body": {"dense": {"kernel": np.full((3, 4), 7, np.float16)}, "dense_1": {}}}
    start = trainer.init(KEY, data(), params=given)
    expected = jax.tree.map(np.array, drawn.params)
    expected["body"]["dense"]["kernel"] = np.full((3, 4), 7, np.float32)
    for params in (start.params, start.opt_state):
        jax.tree.map(np.testing.assert_array_equal, params, expected)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


def test_given_params_survive_a_step():
    trainer, train_state = build(jn.dense(2))
    given = jax.tree.map(jnp.copy, train_state.params)
    for key in (0, 1):
        trainer.step(trainer.init(jax.random.key(key), data(), params=given), data())
    jax.tree.map(np.testing.assert_array_equal, given, train_state.params)


@pytest.mark.parametrize(("given", "error", "words"), [
    ({"body": {"kernel": jnp.ones((3, 4)), "stpe": jnp.ones(2)}}, ValueError,
     r"params/body has unknown entries: stpe\. The net has bias, kernel"),
    ({"tail": {}}, ValueError, r"params has unknown entries: tail\. The net has body, head"),
    ({"body": {"kernel": jnp.ones((4, 3))}}, ValueError,
     r"params/body/kernel must be \(3, 4\) float32, got \(4, 3\) float32\. Leave out"),
    ({"body": {"kernel": jnp.ones((3, 4), int)}}, ValueError,
     r"params/body/kernel must be \(3, 4\) float32, got \(3, 4\) int32"),
    ({"body": jnp.ones(4)}, TypeError, r"params/body must be a dict .* bias, kernel, got \(4,\) "),
    ({"body": {"bias": {"a": 1}}}, TypeError,
     r"params/body/bias must be an array \(4,\) float32, got {'a': int}"),
    ({"body": {"bias": 0.0}}, TypeError, "params/body/bias must be an array .*, got float"),
    ([], TypeError, r"params must be a dict with entries among body, head, got \[\]"),
])  # fmt: skip
def test_given_params_that_do_not_fit(given, error, words):
    trainer, _ = build(jn.serial(jn.dense(4, name="body"), jn.dense(2, name="head")))
    with pytest.raises(error, match=f"trainer.init: {words}"):
        trainer.init(KEY, data(), params=given)


def test_weak_types_do_not_compile_twice():
    net = jn.stateless(lambda key, x: {"w": jnp.full((3, 2), 0.1)}, lambda p, x: x @ p["w"], "weak")
    trainer, train_state = build(net)
    assert not train_state.params["w"].weak_type
    for _ in range(3):  # a second compilation would warn, and warnings are errors
        train_state, _ = trainer.step(train_state, data())
    assert len(trainer._cache.watcher.traces["step"]) == 1


def test_inputs_in_a_tuple():
    def forward(m, pair):
        first, second = pair
        return m(jn.dense(2), first) + m(jn.dense(2), second)

    x, y = data()
    trainer, train_state = started(jn.compose(forward), ((x, x), y))
    train_state, metrics = trainer.step(train_state, ((x, x), y))
    assert sorted(train_state.params) == ["dense", "dense_1"]
    assert metrics["loss"] > 0


@pytest.mark.slow
def test_programs_die_with_their_trainer():
    trainer, train_state = build(jn.dense(2))
    list(jn.fit(trainer, train_state, data(), epochs=1))
    alive = weakref.ref(trainer.update)
    del trainer
    gc.collect()
    assert alive() is None


def test_a_net_is_traced_four_times_until_its_first_step():
    """To draw params, twice in evaluation to look at net and data, and to compile the step."""
    runs = []

    def body(m, x):
        runs.append(x.shape)
        return m(jn.dense(3), x)

    x, y = np.ones((6, 4), np.float32), np.zeros(6, int)
    trainer = jn.trainer(jn.supervised(jn.compose(body), jn.losses.cross_entropy), optax.sgd(0.1))
    train_state = trainer.init(jax.random.key(0), (x, y))
    train_state, _ = trainer.step(train_state, (x, y))
    assert len(runs) == 4
    trainer.step(train_state, (x, y))
    assert len(runs) == 4
