"""Experiments with precision, feeding, sweeps, experts and devices: small runs, parts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from experiments import feeding, moe, precision, scaling, state_space, sweep
from experiments.state_space import Config
from jaxnet.data import tfds
from jaxnet.services.jax_versions import enable_x64
from jaxnet.training import loss_scale
from tests.experiments.synthetic import load


def test_slices_are_drawn_again_for_each_pass():
    slices = feeding.Slices((np.arange(10), np.arange(10) * 2), 5, seed=0)
    first, second = (np.concatenate([a for a, _ in slices]) for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(10))
    assert (first != second).any()
    assert all((b == 2 * a).all() for a, b in slices)


def test_an_example_of_tfds_is_scaled():
    image, label = feeding.scaled({"image": np.full((2, 2), 51, np.uint8), "label": 3})
    np.testing.assert_allclose(image, 0.2, rtol=1e-6)
    assert label.dtype == np.int32


@pytest.mark.long
def test_the_three_ways_agree():
    results = sweep.run(sweep.Config(features=8, epochs=1, seeds=2, rates=(1e-3, 1e-2)))
    assert set(results.seconds) == {
        "jn.sweep", "one after another, one trainer for all",
        "one after another, each with its own trainer",
    }  # fmt: skip
    assert results.apart.shape == (2,)
    assert (results.apart < 1e-4).all()
    assert "learning_rate" in results.table


@pytest.mark.long
def test_one_step_is_skipped_where_a_batch_overflows(monkeypatch):
    monkeypatch.setattr(tfds, "load", load)
    monkeypatch.setattr(precision, "PHOTOS", 40)
    # The first gradients of some nets are near 1, and 2**16 times 1 is what float16 cannot hold.
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**12)
    steps = {"digits_steps": 3, "resnet_steps": 3, "decoder_steps": 3}
    for runs in precision.run(precision.Config(seeds=1, batch_size=4, **steps)).values():
        assert [runs[kind][0].skipped for kind in precision.RUNS] == [0, 0, 0, 1]
        assert all(np.isfinite(runs[kind][0].loss) for kind in precision.RUNS)


@pytest.mark.slow
def test_the_mixture_has_the_flops_of_the_small_net_and_the_weights_of_the_wide_one():
    flops, weights = {}, {}
    for name, make in moe.MLPS.items():
        net = moe.decoder(60, make)
        shapes = jax.eval_shape(net.init, jax.random.key(0), jn.spec((8, 64), int))

        def run(params, state, x, net=net):
            return net.apply(params, state, x, train=True)

        flops[name] = jax.jit(run).lower(*shapes, jn.spec((8, 64), int)).cost_analysis()["flops"]
        weights[name] = sum(leaf.size for leaf in jax.tree.leaves(shapes[0]))
    small, mixture, wide = flops.values()
    assert small < mixture < 1.3 * small < 0.5 * wide
    small, mixture, wide = weights.values()
    assert abs(mixture / wide - 1) < 0.01 < 3 < wide / small


SMALL = dict(layers=3, features=32, heads=4, vocabulary=40, length=8, batch_size=16, steps=3)

# Compiled without optimizations, which is a third of the time.
PROGRAM = """
import os
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
import numpy as np
from experiments import scaling

rows = scaling.run(scaling.Config(rules=RULES, variants=VARIANTS, **SMALL))
for variant in VARIANTS:
    alone, *others = (row for row in rows if row.variant == variant)
    assert alone.moved == 0 and not alone.collectives and alone.losses[-1] < alone.losses[0]
    for row in others:
        tolerance = 1e-5 if variant != "bfloat16" else 0.02
        np.testing.assert_allclose(row.losses, alone.losses, rtol=tolerance)
        if row.rule != "compiler":
            assert row.flops == row.expected.flops, row
            assert row.flops * 8 == alone.flops
            assert abs(row.held / row.expected.held - 1) < 0.3, row
        # No reduce-scatter on the CPU, queries, keys and values apart, and float32 for bfloat16.
        more = 2 if variant == "bfloat16" else 1
        assert 0.95 < row.moved / row.expected.moved / more, row
        assert row.rule == "compiler" or row.moved / row.expected.moved / more < 1.7, row
    if variant == "plain" and "data" in RULES:
        data = next(row for row in others if row.rule == "data")
        assert abs(data.moved / data.expected.moved - 1) < 0.01, data
"""


@pytest.mark.long
@pytest.mark.parametrize(("rules", "variant"), [
    (("data", "fully sharded"), "plain"), (("compiler", "tensor"), "bfloat16"),
], ids=["plain", "bfloat16"])  # fmt: skip
def test_rules_on_eight_devices(on_devices, rules, variant):
    on_devices(f"RULES, VARIANTS, SMALL = {rules}, {(variant,)}, {SMALL}\n{PROGRAM}", 8)


def test_the_parameters_are_counted():
    config = scaling.Config(**SMALL)
    net = scaling.gpt(config, "remat")
    ids = jn.spec((2, 8), jnp.int32)
    drawn, _ = jax.eval_shape(net.init, jax.random.key(0), ids)
    sizes = {name: sum(a.size for a in jax.tree.leaves(part)) for name, part in drawn.items()}
    count = scaling.params_of(config)
    assert count["all"] == sum(sizes.values())
    assert count["head"] == sizes["head"]
    assert count["blocks"] == 3 * 12 * 32**2


def test_the_algebra_by_hand():
    config = scaling.Config(**SMALL)
    count = scaling.params_of(config)
    alone, data, sharded, tensor = (
        scaling.algebra(config, rule, "plain")
        for rule in ("one device", "data", "fully sharded", "tensor")
    )
    products = 3 * 12 * 32**2 + 32 * 40
    attention = 3 * 2 * 8 * 32 * 2
    assert alone.flops == 16 * 8 * (6 * products + 3 * attention)
    assert alone.moved == 0
    assert alone.held == 12 * count["all"] + 2 * 4 * 16 * 8
    assert data.flops == sharded.flops == tensor.flops == alone.flops / 8
    assert data.moved == sharded.moved == 2 * 7 / 8 * 4 * count["all"]
    assert sharded.held < data.held / 6
    # 13 sums of (8 sequences, 8 tokens, 32) over 4 devices, and the gradients over 2.
    small = count["all"] - products
    assert tensor.moved == 6 / 4 * 4 * 13 * 8 * 8 * 32 + 2 / 2 * 4 * (products / 4 + small)
    again = scaling.algebra(config, "fully sharded", "remat")
    assert again.moved == 7 / 8 * 4 * (2 * count["all"] + count["blocks"])
    assert again.temporary < sharded.temporary


def test_devices_that_came_too_late(monkeypatch):
    jax.devices()
    with pytest.raises(RuntimeError, match="JAX has started with . devices; set XLA_FLAGS="):
        scaling.start_devices(100)


X = np.random.default_rng(0).normal(size=(2, 9, 5))


def layer(selective):
    return state_space.state_space(3, selective=selective)


def softplus(x):
    return np.log1p(np.exp(x))


def loop(params, x):
    """The outputs for one sequence (time, features), step by step in NumPy."""
    a, h, outputs = -np.exp(params["a_log"]), 0.0, []
    for now in x:
        if "dt_in" in params:
            dt = now @ params["dt_in"]["kernel"] @ params["dt"]["kernel"] + params["dt"]["bias"]
            b = now @ params["b"]["kernel"]
            c = now @ params["c"]["kernel"]
        else:
            dt, b, c = params["dt"], params["b"], params["c"]
        dt = softplus(dt)[:, None]
        h = np.exp(dt * a) * h + dt * b * now[:, None]
        outputs.append((h * c).sum(-1) + params["d"] * now)
    return np.stack(outputs)


@pytest.mark.slow
@pytest.mark.parametrize("selective", [True, False])
def test_all_steps_at_once_equal_a_loop_and_slopes_finite_differences(selective):
    with enable_x64(True):
        params, _ = layer(selective).init(jax.random.key(0), X)
        params = jax.tree.map(lambda p: np.random.default_rng(p.size).normal(size=p.shape), params)
        y, _ = layer(selective).apply(params, {}, X)
    np.testing.assert_allclose(y, [loop(params, x) for x in X], rtol=1e-12, atol=1e-13)
    assert jn.inspect.check_gradients(layer(selective), jn.spec((2, 6, 5)))


@pytest.mark.slow
@pytest.mark.parametrize("selective", [True, False])
def test_chunks_equal_the_whole_sequence(selective):
    net = state_space.language_model(10, lambda: state_space.mamba(selective=selective))
    tokens = np.random.default_rng(1).integers(0, 10, (2, 9))
    params, state = net.init(jax.random.key(0), tokens)
    jn.inspect.check_stream(net, params, state, tokens)
    assert state_space.against_stream(net, params, tokens) < 1e-5


@pytest.mark.slow
def test_steps_that_do_not_count_keep_the_state():
    params, state = layer(True).init(jax.random.key(0), X)
    ragged = jn.stream(layer(True), ragged=True)
    even = jn.stream(layer(True))
    steps = jnp.array([4, 9])
    _, kept = ragged.apply(params, jn.start_stream(ragged, (X, steps), state), (X, steps))
    _, first = even.apply(params, jn.start_stream(even, X, state), X[:, :4])
    _, last = even.apply(params, first, X[:, 4:])
    np.testing.assert_allclose(kept["h"], [first["h"][0], last["h"][1]], rtol=1e-4, atol=1e-6)


def test_the_steps_begin_between_a_thousandth_and_a_tenth():
    sizes = softplus(np.asarray(state_space.step_sizes(jax.random.key(0), (1000,))))
    assert 0.9e-3 < sizes.min() < 1.2e-3
    assert 0.09 < sizes.max() < 0.101
    assert 0.008 < np.median(sizes) < 0.0125


def test_the_symbols_to_copy_are_in_order_among_noise():
    task = state_space.copying(Config(length=20, count=5))
    x, y = task.draw(np.random.default_rng(0), 50)
    assert x.shape == (50, 25)
    assert y.shape == (50, 5)
    assert (x[:, 20:] == task.symbols - 1).all()
    np.testing.assert_array_equal([row[row > 0] for row in x[:, :20]], y)
    assert len({tuple(np.flatnonzero(row)) for row in x}) > 40


@pytest.mark.slow
def test_the_nets_have_nearly_equal_numbers_of_weights():
    weights = []
    for mixer in state_space.MIXERS.values():
        net = state_space.language_model(10, mixer)
        params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 8), int))
        weights.append(sum(leaf.size for leaf in jax.tree.leaves(params)))
    assert max(weights) < 1.07 * min(weights)


@pytest.mark.slow
def test_plays_are_cut_into_windows(tfds_data_dir):
    task = state_space.plays(Config(task="plays", data_dir=tfds_data_dir))
    for x, y in (task.test, task.draw(np.random.default_rng(0), 5)):
        assert x.shape[1] == y.shape[1] == task.last == state_space.CONTEXT
        np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
