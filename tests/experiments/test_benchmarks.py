"""The method of the benchmarks, at tiny sizes; no speed is measured here."""

import dataclasses
import importlib.util
import json
import math
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from experiments.benchmarks import __main__ as benchmark
from experiments.benchmarks import (
    accelerated,
    answering,
    figures,
    fresh,
    gpu,
    issues,
    layers,
    measure,
    report,
)
from experiments.benchmarks import workloads as w
from experiments.benchmarks.measure import Row, bootstrap, disagreement, outputs
from experiments.benchmarks.peers import hand, jax_program
from experiments.benchmarks.peers import ours as own

TINY = {
    "mlp": w.Workload("mlp", w.Mlp((7, 6)), (3, 9)),
    "mlp scan": w.Workload("mlp scan", w.Mlp((7,)), (3, 9), steps=3),
    "lenet": w.Workload("lenet", w.LeNet(), (2, 28, 28, 1)),
    "resnet": w.Workload("resnet", w.ResNet(8), (3, 8, 8, 3)),
    "lstm": w.Workload("lstm", w.Lstm(5), (3, 6, 4)),
    "gru": w.Workload("gru", w.Gru(5), (3, 6, 4)),
    "transformer": w.Workload("transformer", w.Transformer(2, 12), (3, 5, 8)),
    "ensemble": w.Workload("ensemble", w.LeNet(), (2, 28, 28, 1), members=3),
    "deep forward": w.Workload("deep forward", w.Mlp((6,) * 12), (3, 6), train=False),
}
# Each peer on one or two; all pairs take minutes and were run when the peers were written.
PAIRS = [
    ("hand", "deep forward"), ("hand", "mlp scan"), ("linen", "gru"), ("nnx", "mlp"),
    ("equinox", "mlp"), ("haiku", "lstm"), ("keras", "mlp scan"), ("torch", "mlp"),
    ("torch", "lenet"), ("torch", "resnet"), ("torch", "gru"), ("torch", "transformer"),
    ("torch", "ensemble"),
]  # fmt: skip
TOLERANCE = measure.TOLERANCE["cpu"]


@pytest.fixture(scope="module")
def ours():
    """Workload -> our first outputs."""
    memory = {}

    def get(name):
        if name not in memory:
            workload = TINY[name]
            memory[name] = outputs(own.build(workload, w.draw_weights(workload), "jaxnet"))
        return memory[name]

    return get


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the peers
@pytest.mark.parametrize(("name", "workload"), PAIRS)
def test_equal_weights_give_equal_losses(name, workload, ours):
    library = {"hand": "jax", "linen": "flax", "nnx": "flax"}.get(name, name)
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"compares with {name}, which is not installed")
    peer = importlib.import_module(f"experiments.benchmarks.peers.{name}")
    variants = [v for v in peer.variants(TINY[workload]) if "compiled" not in v]
    for variant in variants[: 1 if name in ("linen", "nnx") else None]:
        program = peer.build(TINY[workload], w.draw_weights(TINY[workload]), variant)
        found = outputs(program)
        assert found.shape == ours(workload).shape
        assert disagreement(found, ours(workload), TOLERANCE, program.differs) == ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the peers
@pytest.mark.parametrize("workload", ["lenet", "resnet"])
@pytest.mark.parametrize("name", ["linen", "nnx", "equinox", "haiku", "keras"])
def test_accelerated_programs_have_the_losses_of_the_plain_ones(name, workload, monkeypatch):
    if importlib.util.find_spec("flax" if name in ("linen", "nnx") else name) is None:
        pytest.skip(f"accelerates {name}, which is not installed")
    peer = importlib.import_module(f"experiments.benchmarks.peers.{name}")
    tiny = TINY[workload]
    (variant,) = [one for one in peer.variants(tiny) if one.endswith(measure.ACCELERATED)]
    plain = variant.removesuffix(measure.ACCELERATED)
    assert plain in peer.variants(tiny)
    accelerate, calls = jn.accelerate, []
    monkeypatch.setattr(jn, "accelerate", lambda loss: calls.append(loss) or accelerate(loss))
    expected = outputs(peer.build(tiny, w.draw_weights(tiny), plain), 2)
    assert not calls
    losses = outputs(peer.build(tiny, w.draw_weights(tiny), variant), 2)
    assert calls
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_only_a_cpu_has_accelerated_programs(monkeypatch):
    names = jax_program.with_accelerated("a", "b")
    assert names == ("a", "b", "a, accelerated")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert jax_program.with_accelerated("a", "b") == ("a", "b")


@pytest.mark.slow
def test_ours_trains(ours):
    losses = ours("lenet")[:, 0]
    assert 0 < losses[-1] < losses[0] < 4


def test_a_wrong_weight_is_seen(ours):
    """The purpose of the comparison: one bias that is not copied."""
    weights = w.draw_weights(TINY["deep forward"])
    weights["dense_7"]["bias"] = 0 * weights["dense_7"]["bias"]
    found = outputs(hand.build(TINY["deep forward"], weights, ""))
    assert "is allowed" in disagreement(found, ours("deep forward"), TOLERANCE)


def test_a_missing_workload_of_a_peer_gives_the_reason():
    haiku = pytest.importorskip("experiments.benchmarks.peers.haiku", exc_type=ImportError)
    with pytest.raises(w.NotOffered, match="another function"):
        haiku.build(TINY["gru"], None, "Haiku")


def test_disagreement_by_hand():
    ours = np.array([[2.0], [1.0], [0.5]])
    assert disagreement(ours, ours, (0.0, 0.0)) == ""
    off = ours + np.array([[0.0], [0.0], [0.01]])  # 2% of the third
    assert disagreement(off, ours, (0.0, 0.03)) == ""
    assert "call 3 gives 0.51 at place 1, ours 0.5; 0.015" not in disagreement(off, ours, (0, 0.03))
    assert disagreement(off, ours, (0.0, 0.01)).startswith("call 3 gives 0.51 at place 1, ours 0.5")
    assert disagreement(off + [[0.0], [9.0], [9.0]], ours, (0.0, 0.0), differs="a bias") == ""
    assert disagreement(off + 1, ours, (0.0, 0.0), differs="a bias") != ""
    assert "call 2 gives nan" in disagreement(ours * [[1], [np.nan], [1]], ours, (0.1, 0.1))
    assert "shape (2, 1), ours (3, 1)" in disagreement(ours[:2], ours, (0.1, 0.1))


def test_bootstrap_of_paired_noise_is_exact():
    """A disturbance of both programs does not change their ratio."""
    ours = np.random.default_rng(0).lognormal(size=30)
    ratio, low, high = bootstrap(list(3 * ours), list(ours))
    assert (ratio, low, high) == pytest.approx((3, 3, 3))
    assert bootstrap([4.0, 4.0], [2.0, 2.0, 9.0, 9.0]) == (2, 2, 2)  # the rounds that both have


@pytest.mark.slow
def test_bootstrap_interval_has_the_width_of_the_median():
    """Independent noise: the median of n normals has the deviation 1.2533 / sqrt(n)."""
    peer = 20 + 0.1 * np.random.default_rng(1).normal(size=400)
    ours = np.full(400, 10.0)
    ratio, low, high = bootstrap(list(peer), list(ours))
    assert low < ratio < high
    assert 1.99 < ratio < 2.01
    expected = 2 * 1.96 * 1.2533 * 0.01 / np.sqrt(400)
    assert 0.5 < (high - low) / expected < 2


def test_samples_are_of_many_calls_and_waited_for():
    seen = []
    program = measure.Program(lambda: seen.append("step") or len(seen), lambda v: seen.append(v))
    assert measure.timed(program, 3) > 0
    assert seen == ["step", 1, "step", "step", "step", 5]  # one untimed, then three and a wait


def test_resnet_has_the_published_size():
    weights = w.draw_weights(next(one for one in w.WORKLOADS if one.name == "ResNet-20"))
    assert sum(a.size for p in w.flatten(weights).values() for a in p.values()) == 272_474


@pytest.mark.long
def test_weights_fit_jaxnet():
    for workload in [*w.WORKLOADS, *w.GPU_WORKLOADS[:-2], *TINY.values()]:  # not the two large ones
        shape = jax.ShapeDtypeStruct(workload.shape, np.float32)
        needed, _ = jax.eval_shape(own.make(workload.net).init, jax.random.key(0), shape)
        given = own.in_layout(workload, w.draw_weights(dataclasses.replace(workload, members=1)))
        assert jax.tree.map(lambda a: a.shape, needed) == jax.tree.map(np.shape, given)


LOAD = (0.5, 0.25)
ROWS = [
    Row("LeNet", "ours", "jaxnet", "ms", [10.0] * 4, load=LOAD),
    Row("LeNet", "linen", "Linen", "ms", [20.0, 20.0, 21.0, 21.0], load=LOAD),
    Row("LeNet", "haiku", "Haiku", "ms", [12.0] * 4, load=LOAD),
    Row("LeNet", "keras", "keras", "ms", [], "needs keras, which is not installed", LOAD),
    Row("LeNet", "torch", "PyTorch", "ms", [8.0] * 4, load=LOAD),
    Row("LeNet", "torch", "PyTorch compiled", "ms", [9.0, 11.0, 9.0, 11.0], load=LOAD),
]


def test_table():
    lines = [line.split() for line in report.table(ROWS, "title").splitlines()]
    assert lines[0] == ["title"]
    assert lines[3] == ["LeNet", "jaxnet", "10", "ms", "0.5,", "0.2"]
    assert lines[4] == ["Linen", "20.5", "ms", "2.05", "2", "to", "2.1", "won"]
    assert lines[5] == ["Haiku", "12", "ms", "1.2", "1.2", "to", "1.2", "won", "best", "on", "JAX",
                        "≥", "1.3:", "missed"]  # fmt: skip
    assert lines[6] == ["keras", "–", "no", "value"]
    assert lines[7] == ["PyTorch", "8", "ms", "0.8", "0.8", "to", "0.8", "lost", "best", "PyTorch",
                        "≥", "1:", "missed"]  # fmt: skip
    assert lines[8] == "PyTorch compiled 10 ms 1 0.9 to 1.1 even".split()
    assert lines[10] == "LeNet, keras: needs keras, which is not installed".split()


def test_a_row_of_the_page_has_the_fastest_of_each_kind():
    (lines,) = report.groups(ROWS).values()
    label, *times, jax_ratio, torch_ratio, programs = figures.row_of("LeNet, batch 128", lines)
    assert (label, times) == ("LeNet, batch 128", ["10.0", "12.0", "8.00"])
    assert jax_ratio == "1.20 (1.20 to 1.20)"
    assert torch_ratio == "0.80 (0.80 to 0.80)"
    assert programs == "Haiku; PyTorch"
    assert figures.row_of("LeNet", lines[:1]) == ["LeNet", "10.0", "", "", "", "", ""]


NEW = ("LeNet, batch 128", "10.0", "2.05 (2.00 to 2.10)", "", "", "1.20 (1.20 to 1.20)", "",
       "0.80 (0.80 to 0.80)", "0.70 (0.70 to 0.70)")  # fmt: skip
KEPT = Row("LeNet", "torch", "PyTorch, memory reused", "ms", [7.0] * 4, load=LOAD)


def test_a_row_of_all_libraries_has_pytorch_with_memory_kept_apart():
    (lines,) = report.groups([*ROWS, KEPT]).values()
    assert tuple(figures.every_peer("LeNet, batch 128", lines)) == NEW


ACCELERATED = Row("LeNet", "linen", "Linen, accelerated", "ms", [5.0, 4.0, 5.25, 4.2], load=LOAD)


def test_an_accelerated_program_is_compared_with_its_plain_one_alone():
    rows = [*ROWS, ACCELERATED, ACCELERATED._replace(peer="keras", program="Keras, accelerated")]
    (lines,) = report.groups(rows).values()
    assert figures.accelerated("LeNet", lines) == ["LeNet", "4.46 (4.00 to 5.00)", "", "", "", ""]
    (plain,) = report.groups(ROWS).values()
    assert figures.accelerated("LeNet", plain) == ["LeNet", "", "", "", "", ""]
    assert figures.every_peer("LeNet", lines) == figures.every_peer("LeNet", plain)
    assert figures.row_of("LeNet", lines) == figures.row_of("LeNet", plain)
    assert report.judge(lines) == report.judge(plain)
    points = [
        sorted(line.get_xdata()[0] for line in report.plot(several, "").axes[0].lines)
        for several in (rows, ROWS)
    ]
    assert points[0] == points[1]


def test_labels_are_of_workloads_and_in_the_figures():
    for section in ("cpu", "accelerate"):
        assert set(figures.LABELS[section]) <= {workload.name for workload in w.WORKLOADS}
    assert set(figures.LABELS["gpu"]) == {workload.name for workload in w.GPU_WORKLOADS}
    cpu, narrow, _, gpu = (record for _, record in figures.findings()[:4])
    assert {row[0] for row in (*cpu.rows, *narrow.rows)} <= set(figures.LABELS["cpu"].values())
    assert {row[0] for row in gpu.rows} == set(figures.LABELS["gpu"].values())


def test_a_run_replaces_its_rows_and_those_of_other_versions(tmp_path):
    path = tmp_path / "figures.json"
    run = tmp_path / "cpu.json"
    shutil.copy(figures.FILE, path)
    contents = json.loads(path.read_text())
    contents["cpu"]["sentence"] = "jaxnet is faster than Haiku."
    contents["cpu"]["key"] = "faster"
    contents["cpu"]["versions"] = "jax 0.12.0.1, Flax 0.12, PyTorch 2.13.0"
    path.write_text(json.dumps(contents))
    before = figures.findings(path)
    about = {"backend": "cpu", "config": {"rounds": "4"}, "arguments": "--workloads LeNet"}
    versions = {"jax": "0.12.0.1", "flax": "0.12", "torch": "2.13.0"}
    report.save([*ROWS, KEPT], about | {"versions": versions}, run)
    figures.take(run, path)
    after = figures.findings(path)
    assert len(after[0][1].rows) == len(before[0][1].rows)
    assert after[1:] == before[1:]
    assert after[0][1].rows == (NEW, *before[0][1].rows[1:])
    assert after[0][1].seeds == 4
    assert after[0][1].commands[0].options == "--workloads LeNet"
    report.save([*ROWS, KEPT], about | {"versions": {"jax": "0.13", "torch": "2.14"}}, run)
    figures.take(run, path)
    ((_, record), *_) = figures.findings(path)
    assert record.rows == (NEW,)
    assert record.versions == "jax 0.13, PyTorch 2.14"


def test_a_run_on_issues_replaces_its_rows(tmp_path):
    path = tmp_path / "figures.json"
    run = tmp_path / "accelerated.json"
    shutil.copy(figures.FILE, path)
    before = {record.title: record.rows for _, record in figures.findings(path)}
    contents = json.loads(path.read_text())
    issue, what = (contents["accelerated issues"]["rows"][0][i] for i in (0, 1))
    contents["accelerated issues"] |= {"sentence": "Ours is faster.", "versions": "jax 0.12.0.1"}
    contents["accelerated issues"]["key"] = "faster"
    path.write_text(json.dumps(contents))
    about = {"backend": "cpu", "section": accelerated.SECTION, "config": {"rounds": "4"}}
    first = issues.CASES[0].issue, what
    rows = [Row(*first, name, "ms", [time] * 4) for name, time in (("plain", 8.0), ("fast", 2.0))]
    rows += [Row("a/b#1", "new", name, "ms", [], "differs") for name in ("plain", "fast")]
    report.save(rows, about | {"versions": {"jax": "0.12.0.1"}}, run)
    figures.take(run, path)
    (after,) = [r for _, r in figures.findings(path) if r.sentence == "Ours is faster."]
    link = "[jax-ml/jax#12868](https://github.com/jax-ml/jax/issues/12868)"
    assert issue == link
    assert after.rows == ((link, what, "8.00", "2.00", "4.00 (4.00 to 4.00)"),
                          *before[after.title][1:])  # fmt: skip


@pytest.mark.slow  # matplotlib is imported
def test_pictures_of_the_page_are_drawn(tmp_path):
    assert [path.name for path in figures.draw(tmp_path)] == [
        "benchmark_cpu.png", "benchmark_avx2.png", "benchmark_layers.png", "benchmark_gpu.png",
        "benchmark_generation.png",
    ]  # fmt: skip
    (_, cpu), _, _, _, (_, generation_record), *_ = figures.findings()
    (axes,) = figures.plot_ratios(cpu).axes
    points = [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "o"]
    linen, nnx = (float(cell.split()[0]) for cell in cpu.rows[0][2:4])
    assert points[0] == pytest.approx((linen, -0.3))  # all of a library, before those of the next
    assert points[sum(" to " in row[2] for row in cpu.rows)] == pytest.approx((nnx, -0.2))
    assert len(points) == sum(" to " in cell for row in cpu.rows for cell in row)
    assert axes.get_yticklabels()[0].get_text() == "LeNet, batch 128"
    (axes,) = figures.plot_rates(generation_record).axes
    rates = [float(row[i]) for i in (1, 2, 3) for row in generation_record.rows if row[i]]
    assert [patch.get_width() for patch in axes.patches] == rates
    assert len(rates) > 10


def test_every_target_names_a_workload_and_a_program():
    names = {workload.name for workload in w.WORKLOADS}
    for target in report.TARGETS:
        assert target.workload.split(":")[0] in names
        assert set(target.peers) <= set(measure.PEERS)
        if target.program and ":" in target.workload:
            assert target.program in {program for _, program in fresh.PROGRAMS}


def test_import_has_a_target():
    for took, said in ((0.1, "met"), (0.2, "missed")):
        row = Row("import, after jax and optax", "jaxnet", "jaxnet", "s", [took])
        assert f"< 0.15 s: {said}" in report.table([row], "")


def test_picture_has_a_point_for_the_best_of_each_peer():
    axes = report.plot(ROWS, "title").axes[0]
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert sorted(float(p.get_xdata()[0]) for p in points) == pytest.approx([0.8, 1.2, 2.05])
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["LeNet"]


def test_samples_are_saved_and_read(tmp_path):
    report.save(ROWS, {"backend": "cpu"}, tmp_path / "new" / "cpu.json")
    rows, about = report.read(tmp_path / "new" / "cpu.json")
    assert rows == ROWS
    assert about == {"backend": "cpu"}


@pytest.mark.long
def test_a_whole_run(tmp_path):
    """Processes, rounds, files: a workload, us and by hand."""
    pytest.importorskip("matplotlib", reason="draws the picture", exc_type=ImportError)
    few = {"rounds": 2, "seconds": 0.01, "out": tmp_path}
    rows = benchmark.run(benchmark.Config(workloads=("MLP 3x64",), peers=("hand",), **few))
    assert [row.program for row in rows] == ["jaxnet", "by hand"]
    for row in rows:
        assert len(row.samples) == 2
        assert 0 < min(row.samples)
        assert not row.note
        assert math.isfinite(row.load[0])
    assert {path.name for path in tmp_path.iterdir()} == {"cpu.json", "cpu.txt", "cpu.png"}
    again = benchmark.run(benchmark.Config(again=tmp_path / "cpu.json", out=tmp_path / "again"))
    assert again == rows


@pytest.mark.slow
@pytest.mark.parametrize("case", issues.CASES, ids=lambda case: case.name)
def test_programs_of_issues_compute_the_same_accelerated(case):
    rows = accelerated.measure(case, rounds=2, tiny=True)
    assert [row.program for row in rows] == ["plain", "accelerated"]
    for row in rows:
        assert not row.note
        assert len(row.samples) == 2
        assert 0 < min(row.samples)


def test_a_run_on_issues(tmp_path, capsys):
    config = accelerated.Config(rounds=1, only="GAUSSIAN", tiny=True, out=tmp_path)
    rows = accelerated.run(config)
    assert [(row.workload, row.peer) for row in rows] == 2 * [
        ("google-deepmind/dm_pix#46", "Gaussian blur")
    ]
    assert "| google-deepmind/dm_pix#46 | Gaussian blur | " in capsys.readouterr().out
    _, about = report.read(tmp_path / "accelerated.json")
    assert about["section"] in json.loads(figures.FILE.read_text())
    with pytest.raises(ValueError, match="only: no issue or description has 'nothing'"):
        accelerated.Config(only="nothing")


@pytest.mark.slow
def test_a_program_with_another_result_has_no_times():
    def make(accelerate, factor=1.0):
        one = accelerate(lambda x: x)
        return (one if accelerate is jn.accelerate else lambda x: x * factor), (jnp.ones(2),)

    def row(factor):
        case = issues.Case("a/b#1", "a product", make, {}, {"factor": factor})
        return accelerated.measure(case, 2)[0]

    assert len(row(1 + 1e-6).samples) == 2
    off = row(1.001)
    assert off.samples == []
    assert "results differ by 0.001 of the largest entry" in off.note
    assert "nan" in row(np.nan).note


def test_a_fresh_process_that_hangs_or_fails_is_reported():
    with pytest.raises(measure.PeerError, match="no answer in 0 s"):
        fresh.in_fresh_process(time.sleep, 60, timeout=0.01)
    with pytest.raises(measure.PeerError, match="needs no_such_module, which is not installed"):
        fresh.in_fresh_process(importlib.import_module, "no_such_module", timeout=60)


ONCE = {"rounds": 1, "timeout": 120, "say": lambda line: None}


@pytest.mark.long
def test_first_step_in_a_fresh_process():
    rows = fresh.run_first_steps(TINY["mlp"], programs=fresh.PROGRAMS[:1], **ONCE)
    values = {row.workload: row.samples[0] for row in rows}
    assert list(values)[0] == "mlp: first step, cold"
    assert len(values) == 6
    parts = ("import, cold", "init, cold", "trace, compile, step, cold")
    whole = values["mlp: first step, cold"]
    assert sum(values[f"mlp: {part}"] for part in parts) == pytest.approx(whole)
    assert 50 < values["mlp: peak memory"] < 5000  # MB


@pytest.mark.long
def test_import_times(monkeypatch):
    monkeypatch.setattr(fresh, "IMPORTS", ("jaxnet", "no_such_module"))
    ours, missing = fresh.run_imports(**ONCE)
    assert len(ours.samples) == 1
    assert 0 < ours.samples[0] < 120
    assert not missing.samples
    assert "not installed" in missing.note


@pytest.mark.slow
def test_compile_time():
    net, shape = w.Transformer(2, 6), (2, 3, 4)
    for repeated in (True, False):
        assert 0 < fresh.compile_time(2, repeated, net, shape) < 120


# The two large ones are long.
MARKS = {"MLP": (), "MLP 3x64": ()} | {one.name: pytest.mark.long for one in w.GPU_WORKLOADS[-2:]}


@pytest.mark.parametrize("workload", [
    pytest.param(one, id=one.name, marks=MARKS.get(one.name, pytest.mark.slow))
    for one in w.GPU_WORKLOADS
])  # fmt: skip
def test_programs_are_lowered_for_accelerators(workload):
    """Without the accelerator: whatever has no lowering there would stop here."""
    for platform in ("cuda", "tpu"):
        exported = own.lower(workload, (platform,))
        assert exported.platforms == (platform,)
        assert len(exported.mlir_module_serialized) > 1000


@pytest.mark.slow
def test_weights_are_packed_as_cudnn_wants_them():
    """JAX unpacks them; its plain LSTM on them gives ours."""
    from jax.experimental import rnn

    layer = jn.lstm(4)
    x = np.random.default_rng(0).normal(size=(3, 6, 5)).astype(np.float32)
    params, state = layer.init(jax.random.key(0), x)
    params = {name: np.float32(p) + np.float32(0.1) for name, p in params.items()}
    unpacked = rnn.unpack_lstm_weights(hand.packed(params), 5, 4, 1, False)
    zero = np.zeros((1, 3, 4), np.float32)
    lengths = np.full(3, 6, np.int32)
    sizes = 5, 4, 1, 0.0, False
    theirs = jax.jit(lambda x: rnn.lstm_ref(x, zero, zero, *unpacked, lengths, *sizes)[0])(x)
    ours, _ = jax.jit(layer.apply)(params, state, x)
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_a_whole_run_for_accelerators(tmp_path, monkeypatch):
    """On the CPU here: rows, shares, a peer that fails, files; and no row begins too late."""
    pytest.importorskip("matplotlib", reason="draws the picture", exc_type=ImportError)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    monkeypatch.setattr(jax_program.product_rate, "__defaults__", (64, 1))
    half = dataclasses.replace(TINY["transformer"], half=True)
    tiny = TINY["mlp"], half, dataclasses.replace(TINY["mlp"], name="late")
    config = gpu.Config(
        peers=("hand",), rounds=3, seconds=0.01, timeout=300, tests=False, out=tmp_path
    )
    with pytest.raises(SystemExit, match="needs a gpu, and JAX sees cpu"):
        gpu.run(config, tiny)
    rows = gpu.run(config, tiny[:2], backend="cpu")
    assert [len(row.samples) for row in rows] == [3, 3, 3, 0]
    assert rows[3].note == "written for float32"
    assert (tmp_path / "cpu.json").exists()
    assert (tmp_path / "cpu.txt").exists()
    late = gpu.run(dataclasses.replace(config, limit=1e-9), tiny[2:], backend="cpu")
    assert late[0].note.startswith("not begun")
    assert not late[0].samples


def test_a_program_without_memory_is_recognized():
    assert gpu.out_of_memory("XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying")
    assert gpu.out_of_memory("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")
    assert not gpu.out_of_memory("needs flax, which is not installed")


@pytest.mark.long
@pytest.mark.parametrize("name", ["linen", "torch"])
@pytest.mark.parametrize("workload", [
    w.Workload("gpt", w.Gpt(2, 2, 8, 11), (3, 5)),
    w.Workload("gpt in bfloat16", w.Gpt(2, 2, 8, 11), (3, 5), half=True),
    # A small rate: 50 layers of batch norm on two images amplify rounding.
    w.Workload("large resnet", w.LargeResNet(), (2, 64, 64, 3), rate=1e-6),
    w.Workload("resnet 18", w.LargeResNet(18), (2, 64, 64, 3), rate=1e-4),
    w.Workload("mobile", w.MobileNet(), (2, 64, 64, 3), rate=1e-4),
    w.Workload("unet", w.UNet((4, 6, 8)), (2, 16, 16, 3)),
], ids=lambda one: one.name if isinstance(one, w.Workload) else one)  # fmt: skip
@pytest.mark.filterwarnings("ignore")  # of the peers
def test_large_nets_have_equal_losses(name, workload):
    if importlib.util.find_spec({"linen": "flax"}.get(name, name)) is None:
        pytest.skip(f"compares with {name}, which is not installed")
    other = importlib.import_module(f"experiments.benchmarks.peers.{name}")
    weights = w.draw_weights(workload)
    ours = outputs(own.build(workload, weights, "jaxnet"), 2)
    theirs = outputs(other.build(workload, weights, other.variants(workload)[0]), 2)
    tolerance = measure.TOLERANCE["gpu"] if workload.half else (1e-4, 1e-2)
    assert disagreement(theirs, ours, tolerance) == ""
    assert ours[-1] < ours[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", layers.CASES)
def test_a_layer_and_its_twin_in_pytorch_have_outputs_of_one_shape(name, torch):
    case = layers.CASES[name]
    net = case.jaxnet(jn)
    x = jn.spec(case.shape, layers.data(case).dtype)
    params, state = jax.eval_shape(net.init, jax.random.key(0), x)
    y, _ = jax.eval_shape(net.apply, params, state, x)
    with torch.device("meta"):
        dtype = torch.int32 if case.words else None
        twin = case.torch(torch.nn)
        x = torch.zeros(case.shape, dtype=dtype)
    x = x.movedim(-1, 1) if case.first else x
    theirs = twin(x, x, x) if name.startswith("attention") else twin(x)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    assert (theirs.movedim(1, -1) if case.first else theirs).shape == y.shape


@pytest.mark.slow
@pytest.mark.parametrize("name", answering.NETS)
def test_answers_of_a_net_of_torchvision_are_ours(name, torch, monkeypatch, tmp_path):
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("compares with torchvision, which is not installed")
    monkeypatch.setattr(answering, "PIXELS", 224 if name.startswith("vit") else 64)
    words = name, 2, str(tmp_path)
    ours = answering.made(answering.OURS, *words)()
    assert ours.shape == (2, 1000)
    for program in ("jaxnet", "PyTorch"):
        error = abs(answering.made(program, *words)() - ours).max() / abs(ours).max()
        assert error < answering.TOLERANCE, program
