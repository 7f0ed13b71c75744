"""The guide: its blocks run and print the outputs shown, its links and names exist."""

import importlib.util
import inspect
import os
import re
import sys
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import close
from tests.pages import ROOT, blocks, run, sections, start

GUIDE = ROOT / "guide"
PAGES = sorted(page for page in GUIDE.rglob("*.md") if page != GUIDE / "README.md")
# Pages to be read from top to bottom: the blocks of all sections run in order.
IN_ORDER = set(
    "getting_started key_ideas fine_tuning own_images own_boxes cheat_sheet data_frames".split()
)
# Packages of optional extras; a section that imports a missing one is skipped.
OPTIONAL = (
    "ai_edge_litert", "equinox", "flax", "flatbuffers", "haiku", "keras",
    "onnxruntime", "PIL", "pandas", "sklearn", "tensorflow", "torch", "torchvision", "transformers"
)  # fmt: skip
NEEDS = {  # not imported by the code itself
    "Export to StableHLO": ("flatbuffers",),
    "Serve a model with StableHLO": ("flatbuffers",),
    "Convert to ONNX": ("jax2onnx",),
    "Run a model in onnxruntime": ("jax2onnx",),
    "Stream a keyword spotter in onnxruntime": ("jax2onnx",),
    "Find the sounds that matter": ("librosa",),
}
DATA = {  # prepared datasets
    "Look at prepared data": ("bccd", "camvid", "free_spoken_digits"),
    "Stream a keyword spotter in onnxruntime": ("free_spoken_digits",),
    "Find the words that matter": ("multi30k",),
    "Find the sounds that matter": ("free_spoken_digits",),
}
# The other sections are slow: most compile a net and its training.
FAST = {
    "From a convolution to C", "Share weights", "Print a summary of a model",
    "Choose the initial weights", "Train with an update that is not a gradient",
    "Set a learning-rate schedule", "Find a learning rate", "Clip gradients", "Decay weights",
    "Sample rare classes more often", "Reproduce a run",
    "Predict the efficiency on up to 1,000 devices", "Train in several processes",
    "Load data with grain", "Measure where the time goes",
}  # fmt: skip
LONG = {
    *(heading for heading in sections(GUIDE / "programs.md") if heading),
    "own_images",
    "data_frames",
    "cheat_sheet",
    "A training run is a function",
    "Run a training step inside jit, scan, vmap or grad",
    "Test your own model",
    "A variational autoencoder",
    "A generative adversarial network",
    "A vision transformer",
    "A graph network with forces",
    "Per-example gradients",
    "Write your own objective",
    "Train on long sequences with truncated backpropagation",
    "Augment images",
    "Compare seeds and hyperparameters",
    "Cross-validate",
    "Combine several losses",
    "Find the words that matter",
    "Find the sounds that matter",
    "Find the columns that matter",
    "Forecast a time series",
    "Average weights",
    "Estimate the cost of a step",
    "Serve a model with StableHLO",
    "Stream a keyword spotter in onnxruntime",
    "My loss is NaN",
    "My loss does not fall, or the test result is bad",
    "Out of memory",
    "The same network in Flax Linen",
}


def programs(page):
    """Name of a program on the page -> its blocks: a section's, or those of a page in order."""
    if page.stem in IN_ORDER:
        return {page.stem: blocks(page)}
    return {heading: found for heading, found in sections(page).items() if heading}


def cases():
    for page in PAGES:
        for name, found in programs(page).items():
            slow = pytest.mark.long if name in LONG else pytest.mark.slow
            marks = [] if name in FAST else [slow]
            yield pytest.param(page, name, found, id=f"{page.stem}: {name}", marks=marks)


def lacking(name, found):
    """The packages and the prepared datasets of a section that are not there."""
    code = "\n".join(block.code for block in found)
    named = [name for name in OPTIONAL if re.search(rf"^\s*(import|from) {name}\b", code, re.M)]
    needed = [*named, *NEEDS.get(name, ())]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if wanted := DATA.get(name):
        folder = os.environ.get("TFDS_DATA_DIR", "")
        there = jn.data.tfds.prepared(folder) if os.path.isdir(folder) else ()
        missing += [f"the prepared dataset {name}" for name in wanted if name not in there]
    return missing


@cache
def beginning(page):
    """The names that every section of a page starts from; run once, so that it compiles once."""
    names = {"__name__": "guide"}
    for block in start(page):
        run(block, names)
    return names


@pytest.mark.parametrize(("page", "name", "found"), list(cases()))
def test_section_runs(page, name, found, tmp_path, monkeypatch):
    if missing := lacking(name, found):
        pytest.skip(f"needs {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(os, "environ", os.environ.copy())  # restored after the section
    names = {"__name__": "guide"} if page.stem in IN_ORDER else dict(beginning(page))
    for block in found:
        run(block, names)
    if check := CHECKS.get(name):
        assert check(names) in (None, True)


OF_SECTIONS = [page for page in PAGES if page.stem not in IN_ORDER and len(programs(page)) > 1]


@pytest.mark.slow
@pytest.mark.parametrize("page", OF_SECTIONS, ids=lambda page: page.stem)
def test_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    """In one session, in which later sections find the names of earlier ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    names = dict(beginning(page))
    for name, found in programs(page).items():
        if not lacking(name, found):
            for block in found:
                run(block, names)


def test_mnist_has_the_shapes_shown(few_examples, capsys):
    pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")
    if "mnist" not in jn.data.tfds.prepared(few_examples(7, 5)):
        pytest.skip("mnist is not in TFDS_DATA_DIR")
    text = (GUIDE / "data.md").read_text()
    [(code, shown)] = re.findall(r"```py\n(.*?)```\n\n```text\n(.*?)```", text, re.S)
    exec(code, {"jn": jn})
    assert capsys.readouterr().out == shown.replace("60000", "7").replace("10000", "5")


ON_DEVICES = """
import sys
from pathlib import Path

sys.path.insert(0, ROOT)
from tests.pages import run, sections, start

page = Path(PAGE)
names = {"__name__": "guide"}
for block in [*start(page), *sections(page)[HEADING]]:
    run(block._replace(form="text"), names)
"""


@pytest.mark.slow
@pytest.mark.parametrize("heading", ["Use dropout in shard_map", "Use batch norm across devices"])
def test_programs_of_eight_devices_print_what_the_page_shows(heading, on_devices):
    """Other tests have one device, so the page's outputs are samples there."""
    for package in ("equinox", "flax"):
        pytest.importorskip(package)
    page = GUIDE / "migrating" / "side_by_side.md"
    program = ON_DEVICES
    for name, value in {"ROOT": ROOT, "PAGE": page, "HEADING": heading}.items():
        program = program.replace(name, repr(str(value)))
    on_devices(program, 8)


def first_network_learned(names):
    for measured in (names["epoch"].evaluation, names["result"]):
        assert 0.85 < measured["accuracy"] < 1
    assert 0.85 < (names["logits"].argmax(-1) == names["test"][1]).mean() < 1  # the loaded one


def residual_net_and_segmenter_learned(names):
    epoch = names["epoch"]
    assert epoch.number == 20
    assert 0.85 < epoch.evaluation["accuracy"] <= 1.0
    assert len(names["classes"]) == 3
    found = names["dice"](names["logits"], names["mask"][None])  # of the larger volume
    assert all(0.6 < float(score) <= 1 for score in found.values())


def vae_learned(names):
    epoch, images = names["epoch"], names["test"][0][:8]
    assert 15 < epoch.evaluation["loss"] < 30
    assert epoch.evaluation["kl"] > 1
    assert names["samples"].shape == (16, 64)
    # The closed form of the divergence against a Monte Carlo estimate.
    params, state = epoch.train_state.params, {}
    apply = jax.jit(names["trainer"].objective.apply)
    (_, metrics), _ = apply(params, state, images, key=jax.random.key(0))
    codes, _ = jax.jit(names["encoder"].apply)(params["encoder"], {}, images)
    mean, log_var = np.split(np.asarray(codes), 2, axis=-1)
    noise = np.random.default_rng(1).normal(size=(20_000, *mean.shape))
    log_ratio = ((mean + np.exp(log_var / 2) * noise) ** 2 - noise**2 - log_var).sum(-1) / 2
    np.testing.assert_allclose(metrics["kl"], log_ratio.mean(0), rtol=0.05)


def gan_learned(names):
    fake, real = np.asarray(names["fake"]), names["flat"]
    start = names["generator_trainer"].init(jax.random.key(2), real).params["generator"]
    untrained, _ = jax.jit(names["generator"].apply)(start, {}, names["z"])
    distance = np.abs(fake.mean(0) - real.mean(0)).mean()
    assert distance < 0.4 * np.abs(untrained.mean(0) - real.mean(0)).mean()
    assert 0.4 < fake.std(0).mean() / real.std(0).mean() < 1.6  # no collapse to one image
    assert 0.3 < names["critic_metrics"]["loss"] < 2  # 2 log 2 = 1.386 for a blind critic


def vit_learned(names):
    epoch = names["epoch"]
    assert 0.8 < epoch.evaluation["accuracy"] < 1.0
    start = names["trainer"].init(jax.random.key(0), names["train"])
    assert epoch.train_state.params["token"].shape == (1, 1, 32)
    assert not np.array_equal(start.params["token"], epoch.train_state.params["token"])


def per_example_gradients_are_right(names):
    losses = np.array(names["losses"])
    assert losses[-10:].mean() < 0.4 * losses[:10].mean()
    x, y = names["train"][0][:6], names["train"][1][:6]
    params = names["train_state"].params
    grads = jax.jit(jax.vmap(jax.grad(names["loss"]), (None, 0, 0)))(params, x, y)

    def mean_loss(params):
        return names["cross_entropy"](names["net"].apply(params, {}, x)[0], y).mean()

    means = jax.tree.map(lambda each: each.mean(0), grads)
    close(means, jax.jit(jax.grad(mean_loss))(params), 1e-7, 1e-6)
    private = jax.jit(partial(names["private"], train=True))
    update, _ = private(params, {}, (x, y), key=jax.random.key(0))
    assert 0 < optax.tree.norm(update) < 1 + 0.5 * sum(a.size for a in jax.tree.leaves(params)) / 6


def simclr_learned(names):
    epoch, y = names["epoch"], names["validation"][1]
    assert epoch.train["loss"] < 0.8 * np.log(255)
    views = jax.random.normal(jax.random.key(1), (8, 3))
    wanted = optax.ntxent(views, np.tile(np.arange(4), 2), 0.5)
    np.testing.assert_allclose(names["contrastive"](views).mean(), wanted, rtol=1e-5)
    encoder, images = names["encoder"], names["validation"][0]
    drawn, _ = encoder.init(jax.random.key(0), images)

    def count_neighbors_of_class(params):
        """How many have a nearest neighbor of their class."""
        x = np.asarray(jn.predict(encoder, params, {}, images))
        x = x / np.linalg.norm(x, axis=-1, keepdims=True)
        return np.mean(y[(x @ x.T - 2 * np.eye(len(x))).argmax(-1)] == y)

    assert count_neighbors_of_class(names["params"]) > count_neighbors_of_class(drawn)


def repeats_in_a_stream(names):
    net, params, (text, _) = names["net"], names["params"], names["held"]
    jn.inspect.check_stream(net, params, {}, text[:8])
    return names["epoch"].evaluation["accuracy"] > 0.98


def spotter_hears(names):
    assert 0 < names["errors"] < 0.12
    assert np.median(names["seconds"]) < 0.02  # a block's own time
    return names["difference"] < 1e-4 < 3 < abs(names["whole"]).max()


# Checks of a section's results beyond its printed output.
CHECKS = {
    "Learn features without labels (SimCLR)": simclr_learned,
    "getting_started": first_network_learned,
    "own_images": residual_net_and_segmenter_learned,
    "A variational autoencoder": vae_learned,
    "A generative adversarial network": gan_learned,
    "A vision transformer": vit_learned,
    "Per-example gradients": per_example_gradients_are_right,
    "A language model with a cache": lambda names: names["epoch"].evaluation["loss"] < 2,
    "Features without labels": lambda names: names["learned"] > names["pixels"] + 0.05,
    "Flow matching with guidance": lambda n: (n["predicted"] == n["label"]).mean() > 0.95,
    "A selective state-space model": repeats_in_a_stream,
    "PPO in one program": lambda names: names["success"][0] < 0.3 and names["success"][-1] > 0.9,
    "Classify texts": lambda names: names["epoch"].evaluation["accuracy"] > 0.95,
    "Classify sequences of numbers": lambda names: names["epoch"].evaluation["accuracy"] > 0.9,
    "Forecast a time series": lambda names: names["epoch"].evaluation["loss"] < names["naive"],
    "Stream a keyword spotter in onnxruntime": spotter_hears,
    "fine_tuning": lambda names: close(names["added"], names["merged"], 0),
}


def names_of(page, heading, count):
    """The names after the block that all sections need and the first blocks of a section."""
    names = {}
    page = GUIDE / f"{page}.md"
    for block in [*start(page), *sections(page)[heading][:count]]:
        run(block, names)
    return names


@pytest.mark.slow
def test_the_energy_of_a_graph_has_the_symmetries_that_the_page_names():
    """It ignores translation, rotation, reflection, the order of nodes, and the padding."""
    names = names_of("research", "A graph network with forces", 2)
    net, graph = names["net"], names["molecules"](8, 2)
    params, state = net.init(jax.random.key(0), graph)
    energy, _ = net.apply(params, state, graph)
    assert np.ptp(energy) > 0.1
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    moved = graph | {"positions": np.float32(graph["positions"] @ turn + 5)}
    close(net.apply(params, state, moved)[0], energy, rtol=1e-4)
    order = np.random.default_rng(1).permutation(6)
    inverse = np.argsort(order).astype(np.int32)
    renumbered = {name: graph[name][:, order] for name in ("positions", "real")}
    renumbered |= {"edges": inverse[graph["edges"]], "between": graph["between"]}
    close(net.apply(params, state, renumbered)[0], energy, rtol=1e-4)
    small = graph["real"].sum(-1) == 3  # such a molecule fits into three nodes
    assert small.any()
    inside = (graph["edges"][0] < 3).all(-1)
    cut = {name: graph[name][small, :3] for name in ("positions", "real")}
    cut |= {name: graph[name][small][:, inside] for name in ("edges", "between")}
    close(net.apply(params, state, cut)[0], energy[small], rtol=1e-5)


class Split:
    """The methods of a `datasets.Dataset` that the page on data uses."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows["label"])

    def shuffle(self, seed):
        order = np.random.default_rng(seed).permutation(len(self))
        return Split({name: column[order] for name, column in self.rows.items()})

    def iter(self, size, drop_last_batch):
        assert drop_last_batch
        for i in range(0, len(self) - size + 1, size):
            yield {name: column[i : i + size] for name, column in self.rows.items()}


@pytest.mark.slow
def test_batches_of_a_hugging_face_dataset_train():
    names = names_of("data", "Train on a Hugging Face dataset", 2)
    batches = names["Shuffled"](Split(names["rows"]), 64)
    first, second = list(batches), list(batches)
    assert len(first) == len(batches) == len(names["rows"]["label"]) // 64
    assert first[0]["image"].shape == (64, 8, 8, 1)
    assert (first[0]["label"] != second[0]["label"]).any()
    trainer, train_state = names["trainer"], names["trainer"].init(jax.random.key(0), first[0])
    *_, epoch = jn.fit(trainer, train_state, batches, epochs=3, progress=False)
    assert 0.5 < epoch.train["loss"] < 1.5


def test_in_colab_a_run_is_saved_on_drive(monkeypatch):
    """Google's modules are there only, so this test has its own."""
    mounted = []
    colab = SimpleNamespace(drive=SimpleNamespace(mount=mounted.append))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    code = sections(GUIDE / "checkpoints.md")["Continue after Colab stopped"][0].code
    names = {}
    exec(code.partition("def train_on")[0], names)
    assert names["run_folder"]("a") == Path("/content/drive/MyDrive/runs/a")
    assert mounted == ["/content/drive"]
    monkeypatch.setitem(sys.modules, "google.colab", None)  # elsewhere
    assert names["run_folder"]("a") == Path("runs/a")


def test_the_marked_sections_exist():
    names = [name for page in PAGES for name in programs(page)]
    assert len(names) == len(set(names))
    assert set(names) >= FAST | LONG | set(NEEDS) | set(DATA) | set(CHECKS) | IN_ORDER


@pytest.mark.parametrize(("code", "form", "shown", "equal"), [
    ("print(1)", "text", "2", False),
    ("print(1)\nraise KeyError(2)", "text", "1\nKeyError: 2", True),
    ("print('loss 0.51  |  12 s')", "output", "loss 0.5  |  1.2 s", True),
    ("print('loss 0.51')", "output", "accuracy 0.51", False),
])  # fmt: skip
def test_shown_output_is_compared_but_for_decimals(code, form, shown, equal, tmp_path):
    page = Path(tmp_path, "page.md")
    page.write_text(f"```python\n{code}\n```\n\n```{form}\n{shown}\n```\n")
    with nullcontext() if equal else pytest.raises(AssertionError, match="shows"):
        run(blocks(page)[0], {})


README = (ROOT / "README.md").read_text()
BLOCKS = [block.code for block in blocks(ROOT / "README.md")]


@pytest.mark.long
def test_the_example_learns(capsys):
    names: dict = {}
    exec(BLOCKS[0], names)  # our own text
    epoch = names["epoch"]
    assert epoch.number == 8
    assert 0.95 < epoch.evaluation["accuracy"] < 1.0
    shown = re.findall(r"```\n(epoch.*?)\n```", README, re.S)[0].splitlines()
    printed = capsys.readouterr().out.strip().splitlines()
    assert len(printed) == 8
    assert shown[1] == "..."
    for line, now in zip(shown[::2], printed[::7], strict=True):
        (words, numbers), (words_now, numbers_now) = map(parts, (line, now))
        assert words == words_now
        # Rounding differs between versions of JAX: by 0.01 after eight epochs.
        np.testing.assert_allclose(numbers_now, numbers, rtol=0, atol=0.03, err_msg=now)


def parts(line: str) -> tuple[str, list[float]]:
    """The words of a line, and its numbers without the seconds."""
    line = re.sub(r"\S+(?= s$)", "x", line)
    return re.sub(r"\d+\.\d+", "x", line), [float(n) for n in re.findall(r"\d+\.\d+", line)]


@pytest.mark.long
def test_the_model_runs(capsys):
    names: dict = {}
    exec("import jax\nimport jaxnet as jn\n" + BLOCKS[1], names)
    x = names["jn"].spec((2, 32, 32, 3))
    params, _ = jax.eval_shape(names["net"].init, jax.random.key(0), x)
    assert params["block"]["conv"]["kernel"].shape == (4, 3, 3, 16, 16)
    assert params["block"]["gain"].shape == (4, 16)
    assert "total" in capsys.readouterr().out.lower()


PAGE = ROOT / "guide" / "migrating" / "defaults.md"

SAME, NONE, WINDOW = "same", "none", "window"
LECUN, CUT, THIRD, GLOROT = "1/√n", "0.88/√n", "1/√(3n)", "√(2/(n+m))"
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 5)).astype(np.float32)
ROWS = np.ones((2, 400), np.float32)
N, M = ROWS.shape[1], 100
DROPPED, KEPT = "dropped", "kept"


def table():
    """Library -> the cells of its column; "" is the column of row names."""
    text = PAGE.read_text().split("\n## Defaults of each library\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {column[0]: list(column[2:]) for column in zip(*cells, strict=True)}


def share(outputs):
    """Outputs are for ones at a rate of 0.1; dropped entries are 0."""
    return DROPPED if (np.asarray(outputs) == 0).mean() < 0.5 else KEPT


def deviation(kernel):
    names = {LECUN: 1, CUT: 0.88, THIRD: 3**-0.5, GLOROT: (2 * N / (N + M)) ** 0.5}
    [name] = [n for n, value in names.items() if abs(N**0.5 * np.std(kernel) / value - 1) < 0.03]
    return name


# Each returns the layout, outputs of a convolution and of a pool, the part of an average that a
# step keeps, the epsilons of batch norm and layer norm, outputs of dropout, a kernel and a bias.


def defaults_of_jaxnet():
    key = jax.random.key(0)

    def run(layer, x, **options):
        params, state = layer.init(key, x)
        return *layer.apply(params, state, x, **options), params

    _, after, _ = run(jn.batch_norm(), IMAGES + 1, train=True)
    old = 1 - after["mean"].mean() / (IMAGES + 1).mean()
    y, _, _ = run(jn.dropout(0.1), ROWS, key=jax.random.key(1), train=True)
    _, _, dense = run(jn.dense(M), ROWS)
    conv, pool = (run(layer, IMAGES)[0].shape[1] for layer in (jn.conv(3, 3), jn.max_pool(2)))
    norms = [inspect.signature(f).parameters["epsilon"] for f in (jn.batch_norm, jn.layer_norm)]
    epsilons = [epsilon.default for epsilon in norms]
    return "NHWC", conv, pool, f"{old:.2g}", *epsilons, y, dense["kernel"], dense["bias"]


def defaults_of_pytorch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    x = torch.tensor(np.moveaxis(IMAGES, -1, 1))
    norm = torch.nn.BatchNorm2d(5)
    norm(x + 1)
    old = 1 - norm.running_mean.mean().item() / (IMAGES + 1).mean()
    conv, pool = (layer(x).shape[2] for layer in (torch.nn.Conv2d(5, 3, 3), torch.nn.MaxPool2d(2)))
    epsilons = (norm.eps, torch.nn.LayerNorm(5).eps)
    y = torch.nn.Dropout(0.1)(torch.tensor(ROWS))
    kernel, bias = (p.detach().numpy() for p in torch.nn.Linear(N, M).parameters())
    return "NCHW", conv, pool, f"{old:.2g}", *epsilons, y, kernel, bias


def defaults_of_flax():
    nn = pytest.importorskip("flax.linen")
    key = jax.random.key(0)
    norm = nn.BatchNorm(False)
    _, after = norm.init_with_output(key, IMAGES + 1)
    _, after = norm.apply(after, IMAGES + 1, mutable=["batch_stats"])
    old = 1 - after["batch_stats"]["mean"].mean() / (IMAGES + 1).mean()
    dense = nn.Dense(M).init(key, ROWS)["params"]
    conv, _ = nn.Conv(3, (3, 3)).init_with_output(key, IMAGES)
    sizes = (conv, nn.max_pool(IMAGES, (2, 2)))
    epsilons = (norm.epsilon, nn.LayerNorm().epsilon)
    y = nn.Dropout(0.1).apply({}, ROWS, False, rngs={"dropout": jax.random.key(1)})
    heights = [a.shape[1] for a in sizes]
    return "NHWC", *heights, f"{old:.2g}", *epsilons, y, dense["kernel"], dense["bias"]


def defaults_of_stax():
    stax = pytest.importorskip("jax.example_libraries.stax")

    def run(layer, x):
        init, apply = layer
        params = init(jax.random.key(0), x.shape)[1]
        return params, apply(params, x, rng=jax.random.key(1))

    (kernel, bias), _ = run(stax.Dense(M), ROWS)
    assert len(run(stax.BatchNorm(), IMAGES)[0]) == 2
    assert not hasattr(stax, "LayerNorm")
    layers = stax.Conv(3, (3, 3)), stax.MaxPool((2, 2))
    heights = [run(layer, IMAGES)[1].shape[1] for layer in layers]
    epsilon = inspect.signature(stax.BatchNorm).parameters["epsilon"].default
    _, y = run(stax.Dropout(0.1), ROWS)
    return "NHWC", *heights, "no average", epsilon, "no layer", y, kernel, bias


MEASURED = {
    "jaxnet": defaults_of_jaxnet,
    "PyTorch": defaults_of_pytorch,
    "Flax": defaults_of_flax,
    "stax": defaults_of_stax,
}


@pytest.mark.fast_cases("PyTorch")
@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("library", MEASURED)
def test_defaults_are_those_of_the_libraries(library, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    layout, conv, pool, old, *epsilons, y, kernel, bias = MEASURED[library]()
    found = [layout, {8: SAME, 6: NONE}[conv], {4: WINDOW, 7: "1"}[pool], old, *map(str, epsilons)]
    begins = "random" if np.any(bias) else "0"
    assert table()[library] == [*found, share(y), deviation(kernel), begins]


@pytest.mark.slow
def test_the_table_names_all_that_is_measured():
    assert set(MEASURED) < set(table())
