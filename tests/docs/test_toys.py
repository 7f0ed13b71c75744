"""The toys of the page "Break it" in headless Chromium: their numbers are those of jaxnet."""

import ast
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from docs import break_it, toy_data, toy_table
from docs.lessons import LESSONS
from experiments import browser_digits as board
from experiments import browser_letters
from jaxnet.training import train_perceptron
from jaxnet.unsupervised import hmm

TOYS = {toy.name: toy for toy in toy_table.TOYS}
LINES, BYTES = 150, 300_000
UNREAD = (
    "KATHARINA:\nThe moon! the sun: it is not moonlight now.\n\n"
    "PETRUCHIO:\nI say it is the moon that shines so bright.\n"
)
# Open a link with a state, as a visitor does, and return what the toy then shows.
OPEN = """(async () => {
  const {section} = toys[NAME], before = section.dataset.answers;
  location.hash = LINK;
  while (section.dataset.answers === before) await new Promise(done => setTimeout(done, 10));
  return {numbers: JSON.parse(section.dataset.numbers),
          said: section.querySelector("output").textContent,
          python: section.querySelector(".python").textContent,
          link: section.querySelector(".invitation").hash};
})()"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return break_it.write_page(tmp_path_factory.mktemp("toys")).parent


@pytest.fixture(scope="module")
def ask(folder):
    """A browser with all toys, without a network."""
    if not any(map(shutil.which, board.BROWSERS)):
        pytest.skip("needs Chromium or Chrome on the PATH")
    with board.opened(folder / "break_it.html", break_it.READY) as ask:
        no_network = dict(offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        ask("Network.emulateNetworkConditions", **no_network)
        yield ask


def played(ask, name, state):
    """What a toy shows in a state, given as in a link."""
    link = f"{name}?{state}"
    call = OPEN.replace("NAME", json.dumps(name)).replace("LINK", json.dumps(link))
    shown = board.evaluate(ask, call)
    assert shown["link"] == f"#{link}"
    assert len(shown["said"]) > 20
    ast.parse(shown["python"])
    return shown["numbers"]


def values(state):
    """A state by name: numbers, and lists for rows of checkboxes."""
    given = dict(part.split("=") for part in state.split("&"))
    rows = {c.name for toy in toy_table.TOYS for c in toy.controls if hasattr(c, "labels")}
    return {k: list(map(int, v)) if k in rows else float(v) for k, v in given.items()}


# What jaxnet computes for the state of each toy. Whole numbers come as floats.


def perceptron(w1, w2, b, y, passes):
    corners = np.float32([[0, 0], [0, 1], [1, 0], [1, 1]])
    start = {"kernel": jnp.array([[w1], [w2]]), "bias": jnp.array([b])}
    params, mistakes = start, []
    while len(mistakes) < passes and mistakes[-1:] != [0]:
        run = train_perceptron(corners, np.array(y), params=params, max_epochs=1)
        params, mistakes = run.params, [*mistakes, *run.mistakes.tolist()]
    outputs, _ = jn.models.perceptron().apply(params, {}, corners)
    weights = [*np.ravel(params["kernel"]), *params["bias"]]
    return {"weights": weights, "mistakes": mistakes, "outputs": np.ravel(outputs)}


def rate(rate, momentum, steps):
    data = toy_data.students()
    hours, passed = jnp.array(data["hours"]), jnp.array(data["passed"])

    def risk(theta):
        z = theta[0] * hours + theta[1]
        return (jnp.logaddexp(0, z) - passed * z).mean() + 0.01 * theta[0] ** 2 / 2

    optimizer, theta = optax.sgd(rate, momentum=momentum), jnp.array([-1.0, 2.0])
    memory, gradient = optimizer.init(theta), jax.jit(jax.grad(risk))
    for _ in range(int(steps)):
        changes, memory = optimizer.update(gradient(theta), memory)
        theta = optax.apply_updates(theta, changes)
    return {"risk": risk(theta), "weight": theta[0], "bias": theta[1]}


def vanish(activation, scale, depth):
    f = (jnp.tanh, jax.nn.sigmoid, jax.nn.relu)[int(activation) - 1]
    inputs, kernels = toy_data.deep()
    layer = jn.dense(32, use_bias=False)
    steps = [
        lambda x, kernel=kernel: f(layer.apply({"kernel": kernel}, {}, x)[0])
        for kernel in kernels[: int(depth)] / np.float32(32) * np.float32(scale / 32**0.5)
    ]
    rows, backwards = [inputs / np.float32(32)], []
    for step in steps:
        value, pull = jax.vjp(step, rows[-1])
        rows.append(value)
        backwards.append(pull)
    gradients = [jnp.ones((16, 32))]
    for pull in reversed(backwards):
        gradients.insert(0, pull(gradients[0])[0])
    found = {"values": rows, "gradients": gradients}
    return {
        name: np.log([np.sqrt((np.asarray(a, np.float64) ** 2).mean()) for a in arrays])
        for name, arrays in found.items()
    }


def neuron(on, number):
    params, (x, labels) = toy_data.nets()["classifier"], toy_data.tested()
    kernel = params["output"]["kernel"].at[np.flatnonzero(np.array(on) == 0)].set(0)
    params = params | {"output": params["output"] | {"kernel": kernel}}
    logits, _ = toy_data.classifier().apply(params, {}, x)
    right = (np.argmax(logits, -1) == labels).sum()
    return {"right": right, "parts": jax.nn.softmax(logits[int(number) - 1])}


def dropout(rate, passes):
    params, (x, labels) = toy_data.nets()["classifier"], toy_data.tested()
    hidden = jax.nn.relu(jn.dense(32).apply(params["dense"], {}, x)[0])
    stays = toy_data.draws(20, 32)[: int(passes), None] < 1 - rate  # as jax.random.bernoulli does
    logits, _ = jn.dense(10).apply(params["output"], {}, hidden * stays / (1 - rate))
    parts = np.asarray(jax.nn.softmax(logits))
    together = (parts.mean(0).argmax(-1) == labels).mean()
    accuracies = (parts.argmax(-1) == labels).mean(-1)
    return {"accuracies": accuracies, "together": together, "parts": parts.mean(0)[0]}


def stride(filter, stride, padding, number):
    level = np.float32([[-1, -1, -1], [2, 2, 2], [-1, -1, -1]])
    kernel = (level, level.T, np.full((3, 3), np.float32(1 / 9)))[int(filter) - 1]
    image = toy_data.mnist()[0][int(number) - 1].reshape(1, 28, 28, 1) / np.float32(255)
    layer = jn.conv(1, 3, strides=int(stride), padding=int(padding), use_bias=False)
    y, _ = layer.apply({"kernel": kernel[:, :, None, None]}, {}, image)
    return {"map": np.ravel(y), "positions": y.shape[1]}


def lenet():
    """The params of the last moment of the home page's LeNet-5."""
    with np.load(board.CANVAS / "lenet5.npz") as run:
        rest = run["weights"][-1].tobytes()
    net = jn.models.lenet5(classes=10)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((1, 28, 28, 1)))
    found = {name: {} for name in board.LAYERS}
    for kind, dtype in (("scale", np.float32), ("bias", np.float32), ("kernel", np.int8)):
        for name in board.LAYERS:
            shape = params[name]["kernel"].shape if kind == "kernel" else params[name]["bias"].shape
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            found[name][kind] = np.frombuffer(rest[:size], dtype).reshape(shape)
            rest = rest[size:]
    return net, {
        name: {"kernel": jnp.array(p["kernel"] * p["scale"]), "bias": jnp.array(p["bias"])}
        for name, p in found.items()
    }


def filters(row, column, size, filter, all):
    net, params = lenet()
    r, c, n = int(row), int(column), int(size)
    which = slice(6) if all else int(filter)
    kernel = params["c1"]["kernel"].at[r : r + n, c : c + n, :, which].set(0)
    params = params | {"c1": params["c1"] | {"kernel": kernel}}
    pixels, labels = toy_data.mnist()
    logits, _ = net.apply(params, {}, pixels.reshape(-1, 28, 28, 1) / np.float32(255))
    return {"right": (np.argmax(logits, -1) == labels).sum(), "logits": logits[0]}


def two_coins(stay, back, one, two, tosses):
    move = np.array([[stay, 1 - stay], [1 - back, back]])
    coin = np.array([[1 - one, one], [1 - two, two]])
    params = {"start": jnp.log(np.array([0.6, 0.4])), "transition": jnp.log(move)}
    scores = jnp.log(coin)[:, jnp.array(tosses)].T[None]
    posterior = hmm.posteriors(params, scores)[0, :, 0]
    total, (path, _) = hmm.forward(params, scores)[1][0], hmm.viterbi(params, scores)
    return {"total": total, "posterior": posterior, "path": path[0]}


def gpt():
    """The params of the last moment of the home page's GPT, and its alphabet."""
    with np.load(board.CANVAS / "letters.npz") as run:
        alphabet, rest = str(run["letters"]), run["weights"][-1].tobytes()
        sizes = [line.split() for line in run["layout"].tolist()]
    flat = {}
    for name, size in sizes:
        dtype = np.int8 if name.endswith(".int8") else np.float32
        length = int(size) * np.dtype(dtype).itemsize
        flat[name] = np.frombuffer(rest[:length], dtype)
        rest = rest[length:]
    net = browser_letters.gpt(len(alphabet))
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((1, 64), jnp.int32))

    def leaf(path, like):
        name = ".".join(entry.key for entry in path)
        if name in flat:
            return jnp.array(flat[name]).reshape(like.shape)
        scale = flat[f"{name}.scale"]
        rows = -1 if name.startswith("embedding") else 1
        kernel = flat[f"{name}.int8"]
        shaped = kernel.reshape((len(scale), -1) if rows < 0 else (-1, len(scale)))
        scaled = shaped * (scale[:, None] if rows < 0 else scale)
        return jnp.array(scaled).reshape(like.shape)

    return net, jax.tree.map_with_path(leaf, params), alphabet


def bits(logits, alphabet):
    ids = np.array([alphabet.index(letter) for letter in UNREAD])
    nats = optax.softmax_cross_entropy_with_integer_labels(logits[0], ids[1:])
    return {"bits": nats.mean() / np.log(2), "logits": logits[0, -1]}


def unread(alphabet):
    return np.array([[alphabet.index(letter) for letter in UNREAD[:-1]]])


def heads(on):
    net, params, alphabet = gpt()
    for head in np.flatnonzero(np.array(on) == 0):
        block, j = divmod(int(head), 4)
        out = params[f"block_{block}"]["attention"]["out"]
        out["kernel"] = out["kernel"].at[j].set(0)
    return bits(net.apply(params, {}, unread(alphabet))[0], alphabet)


def mask(back, ahead):
    _, params, alphabet = gpt()
    window = int(back), int(ahead)

    def block(m, x):
        options = {"causal": not ahead, "rotary": True, "name": "attention"}
        attention = jn.multi_head_attention(4, window=window, **options)
        x = x + m(attention, m(jn.layer_norm(name="attention_norm"), x))
        wide = m(jn.dense(4 * 96, name="mlp_in"), m(jn.layer_norm(name="mlp_norm"), x))
        return x + m(jn.dense(96, name="mlp_out"), jax.nn.gelu(wide))

    def forward(m, tokens):
        embedding = jn.embedding(len(alphabet), 96, tied=True, name="embedding")
        x = m(embedding, tokens)
        for i in range(3):
            x = m(jn.compose(block, name=f"block_{i}"), x)
        return m(embedding, m(jn.layer_norm(name="norm"), x))

    logits, _ = jn.compose(forward).apply(params, {}, unread(alphabet))
    return bits(logits, alphabet)


def temperature(temperature, k, draw):
    net, params, alphabet = gpt()
    ids = np.array([[alphabet.index(letter) for letter in "ROMEO:\n"]])
    logits = net.apply(params, {}, ids)[0][0, -1]
    limited = jn.decoding.filter_logits(logits, temperature=temperature, top_k=int(k))
    parts = np.asarray(jax.nn.softmax(limited), np.float64)
    entropy = -(parts[parts > 0] * np.log2(parts[parts > 0])).sum()
    return {"parts": parts, "entropy": entropy}


def diffusion(digit, noise, guidance):
    nets, (beta, kept) = toy_data.nets(), toy_data.schedule()
    before = np.concatenate([[1.0], kept[:-1]])
    drawn, net = toy_data.noise() / np.float32(32), toy_data.denoiser()
    x = jnp.array(drawn[:, toy_data.STEPS])

    @jax.jit
    def predict(x, t, label):
        rows = (jnp.full(len(x), value) for value in (t, label))
        return net.apply(nets["denoiser"], {}, toy_data.seen(x, *rows))[0]

    for t in reversed(range(toy_data.STEPS)):
        given = predict(x, t, int(digit))
        epsilon = given + guidance * (given - predict(x, t, toy_data.NO_LABEL))
        image = ((x - np.sqrt(1 - kept[t]) * epsilon) / np.sqrt(kept[t])).clip(-1, 1)
        mean = np.sqrt(before[t]) * beta[t] * image + np.sqrt(1 - beta[t]) * (1 - before[t]) * x
        deviation = np.sqrt((1 - before[t]) / (1 - kept[t]) * beta[t])
        x = mean / (1 - kept[t]) + noise * deviation * drawn[:, t]
    x = (x + 1) / 2
    logits, _ = toy_data.classifier().apply(nets["classifier"], {}, x.clip(0, 1))
    confidence, variety = jax.nn.softmax(logits)[:, int(digit)].mean(), jnp.sqrt(x.var(0).mean())
    return {"confidence": confidence, "variety": variety, "pixels": x[0]}


def fewer_bits(bits, outlier, number):
    (x, labels), params = toy_data.tested(), {}
    for name, p in toy_data.nets()["classifier"].items():
        kernel = np.array(p["kernel"], np.float64)
        kernel[0] *= outlier if name == "dense" else 1
        scale = np.abs(kernel).max(0) / (2 ** (int(bits) - 1) - 1)
        params[name] = {"kernel": jnp.array(np.round(kernel / scale) * scale), "bias": p["bias"]}
    logits, _ = toy_data.classifier().apply(params, {}, x)
    accuracy = (np.argmax(logits, -1) == labels).mean()
    return {"accuracy": accuracy, "parts": jax.nn.softmax(logits[int(number) - 1])}


def labels(stolen, swapped):
    (x, y), (x_test, y_test) = toy_data.taught(), toy_data.tested()
    kept, wrong = 300 - int(stolen), np.array(toy_data.swaps())
    y = np.where(np.arange(300) < swapped, wrong, y)[:kept]
    net, loss = jn.dense(10, kernel_init=jn.initializers.zeros), jnp.asarray(x[:kept])
    objective = jn.supervised(net, optax.softmax_cross_entropy_with_integer_labels)
    trainer = jn.trainer(objective, optax.sgd(1.0))
    start = trainer.init(jax.random.key(0), (loss, y))
    *_, last = jn.fit(trainer, start, (loss, y), epochs=50, batch_size=kept, progress=False)
    params = last.train_state.params
    logits, _ = net.apply(params, {}, x_test)
    weights = np.ravel(params["kernel"])[270:290]
    accuracy = (np.argmax(logits, -1) == y_test).mean()
    return {"accuracy": accuracy, "bias": params["bias"], "weights": weights}


ON = "1" * 12
# At least three states of each toy, the state that "Break it" sets among them.
PLAYED = {
    "perceptron": (
        perceptron,
        "w1=1&w2=1&b=-1.5&y=0001&passes=0",
        "w1=-2&w2=0.5&b=1&y=0111&passes=9",
    ),
    "rate": (rate, "rate=0.5&momentum=0&steps=40", "rate=0.05&momentum=0.9&steps=60"),
    "vanish": (vanish, "activation=1&scale=1&depth=10", "activation=3&scale=1.4&depth=20"),
    "neuron": (neuron, f"on={'1' * 32}&number=1", f"on={'10' * 16}&number=77"),
    "dropout": (dropout, "rate=0.5&passes=10", "rate=0&passes=1"),
    "stride": (
        stride,
        "filter=1&stride=1&padding=1&number=3",
        "filter=3&stride=9&padding=8&number=20",
    ),
    "filters": (
        filters,
        "row=1&column=1&size=0&filter=0&all=0",
        "row=3&column=2&size=3&filter=4&all=0",
    ),
    "hmm": (
        two_coins,
        "stay=0.7&back=0.9&one=0.2&two=0.7&tosses=001100011101",
        "stay=0.98&back=0.5&one=0.9&two=0.1&tosses=111111000000",
    ),
    "heads": (heads, f"on={ON}", "on=101110111011"),
    "mask": (mask, "back=64&ahead=0", "back=3&ahead=2"),
    "temperature": (temperature, "temperature=0.7&k=65&draw=1", "temperature=0.3&k=4&draw=9"),
    "diffusion": (diffusion, "digit=3&noise=1&guidance=1", "digit=8&noise=0&guidance=0"),
    "bits": (fewer_bits, "bits=8&outlier=1&number=2", "bits=2&outlier=1&number=50"),
    "labels": (labels, "stolen=0&swapped=0", "stolen=250&swapped=20"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", TOYS)
def test_a_toy_computes_what_jaxnet_does(ask, name):
    """To 1e-4, in three states, each opened by its link."""
    reference, *states = PLAYED[name]
    for state in (*states, TOYS[name].broken):
        found, expected = played(ask, name, state), reference(**values(state))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            value = np.asarray(value, np.float64)
            assert np.shape(found[key]) == value.shape
            np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-4, err_msg=key)


@pytest.mark.long
def test_the_lowest_risk_of_the_valley():
    found = rate(rate=0.5, momentum=0.9, steps=400)["risk"]
    np.testing.assert_allclose(found, toy_data.students()["lowest"], atol=5e-5)


@pytest.mark.long
def test_the_page_fits_a_telephone_and_is_played_by_keys(ask):
    for width in (390, 1440):
        assert board.screenshot(ask, width).std() > 0.05
        assert board.evaluate(ask, "document.documentElement.scrollWidth <= innerWidth")
    played(ask, "perceptron", "w1=0.25&w2=1&b=-1.5&y=0001&passes=0")
    board.evaluate(ask, "toys.perceptron.section.querySelector('[name=w1]').focus()")
    key = {"key": "ArrowRight", "code": "ArrowRight", "windowsVirtualKeyCode": 39}
    for kind in ("rawKeyDown", "keyUp"):
        ask("Input.dispatchKeyEvent", type=kind, **key)
    state = "location.hash + ' ' + toys.perceptron.section.querySelector('[name=w1]').value"
    assert board.evaluate(ask, state) == "#perceptron?w1=0.5&w2=1&b=-1.5&y=0001&passes=0 0.5"


@pytest.mark.long
def test_break_it_changes_what_is_said_and_as_it_was_returns(ask):
    for name, toy in TOYS.items():
        _, first, *_ = PLAYED[name]
        played(ask, name, toy.broken)
        said = f"toys.{name}.section.querySelector('output').textContent"
        broken = board.evaluate(ask, said)
        played(ask, name, first)
        assert board.evaluate(ask, said) != broken, name


@pytest.mark.long
def test_a_toy_is_small(folder):
    """At most 150 lines, and 300 kB with its data; those of the GPT share the home page's file."""
    for name in TOYS:
        script = folder / "toys" / f"{name}.js"
        text = script.read_text()
        files = re.findall(r'"((?:toys/data|home)/\w+)"', text)
        data = [folder / f"{file}.js" for file in files if "letters" not in file]
        assert len(text.splitlines()) <= LINES, name
        assert sum(path.stat().st_size for path in (script, *data)) <= BYTES, name
    for script in (folder / "toys").glob("*.js"):
        assert not re.search(
            r"\bfetch\(|https?:|\bimport\b|\beval\(|XMLHttp", script.read_text()
        ), script


def test_each_toy_opens_a_cell_of_its_lesson():
    assert len(TOYS) == len(toy_table.TOYS) >= 12
    assert PLAYED.keys() == TOYS.keys()
    for toy in toy_table.TOYS:
        assert break_it.notebook(toy) in LESSONS
        cells = json.loads(break_it.notebook(toy).read_text(encoding="utf-8"))["cells"]
        assert toy.cell in [cell["id"] for cell in cells], toy.name
        names = {control.name for control in toy.controls}
        assert {part.split("=")[0] for part in toy.broken.split("&")} == names
        assert set(re.findall(r"{(\w+)", toy.python)) == names, toy.name
