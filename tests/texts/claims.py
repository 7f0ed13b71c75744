"""Rules for sentences that the catalog of data, the records or the code can make false.

Most of them hold no number with decimals, so the rules on figures in `pages` and on numbers in
`lessons` let them pass. Each rule here asks the source what the sentence says.
"""

import json
import re
from collections.abc import Iterable
from fractions import Fraction
from functools import cache

import jax
import numpy as np

import jaxnet as jn
from experiments.benchmarks import figures
from experiments.records import Record
from jaxnet.data.builders import BUILDERS, ORIGINS
from tests.texts.form import ROOT, Text, at, different, files, rule
from tests.texts.pages import linked

WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty
"""
NUMBERS: tuple[str, ...] = (*WORDS.split(),)
BLOCK_ENDS = r"\n\s*\n|\n(?= *(?:[-*]|\d+\.) )"  # of paragraphs and list items
# Name of a dataset in the catalog -> how a sentence calls it.
CALLED = {
    "bccd": "BCCD",
    "camvid": "CamVid",
    "cifar10": r"CIFAR-10\b",
    "free_spoken_digits": "[Ss]poken [Dd]igits",
    "mnist": "MNIST",
    "movielens_100k": "MovieLens",
    "multi30k": "Multi30k",
    "olivetti": r"Olivetti faces|\bolivetti\b",
    "tiny_shakespeare": r"\b[Pp]lays\b|tiny_shakespeare",
}


def sentences(prose: str) -> list[str]:
    """The sentences of a text without its code and tables, each on one line."""
    prose = re.sub(r"```.*?```|^\|.*?$", "\n\n", prose, flags=re.DOTALL | re.MULTILINE)
    blocks = re.split(BLOCK_ENDS, prose)
    return [s for block in blocks for s in re.split(r"(?<=[.:?!]) ", " ".join(block.split()))]


def prose_of(text: Text) -> str:
    lesson = text.path.suffix == ".ipynb"
    return "\n\n".join(text.sources("markdown")) if lesson else text.text


def number(word: str) -> int:
    return int(word) if word.isdigit() else NUMBERS.index(word.lower())


@rule(
    "guide/data.md colab/README.md README.md guide/**/*.md colab/*.ipynb jaxnet/data/**/*.py",
    "Some, such as BCCD and MNIST, need TensorFlow.",
    "To prepare MNIST, CIFAR-10, BCCD and the plays, TensorFlow Datasets needs TensorFlow, too.",
    "BCCD alone needs TensorFlow.",
    "MNIST and BCCD need no TensorFlow.",
    fine=("BCCD and the plays need TensorFlow. MNIST loads.", "You don't need TensorFlow."),
)
def sentences_name_the_datasets_that_need_tensorflow(text):
    """All of them or none; `BUILDERS` has those that jaxnet prepares itself."""
    yield from CALLED.keys() ^ ORIGINS.keys()
    for sentence in sentences(prose_of(text)):
        said = re.search(r"\bneeds?( no)? TensorFlow\b(?! Datasets)", sentence)
        named = {name for name, called in CALLED.items() if re.search(called, sentence)}
        if said and named:
            wanted = {*BUILDERS} if said[1] else ORIGINS.keys() - BUILDERS
            yield from [f"{sentence} But: {sorted(wanted)}"] if named != wanted else []


@rule(
    "guide/data.md",
    ("first seven datasets", "first five datasets"),
    (r"(\| `mnist` .*) \| \|", r"\1 | TensorFlow |"),
    (r"(\| `cifar10` .*) \| \|", r"\1 | TensorFlow |"),
    (r"(\| `bccd` .*) \| TensorFlow \|", r"\1 | |"),
    (r"(\| `camvid` .*)187 MB", r"\1 188 MB"),
    (r"\| `multi30k` .*\n", ""),
)
def the_table_of_datasets_is_that_of_the_catalog(text):
    """The datasets that jaxnet prepares itself come first."""
    first = re.findall(r"jaxnet prepares the first (\w+) datasets itself", text.text)
    rows = re.findall(r"^\| `(\w+)` \|.*?\| (\d+) MB \|.*\| (\w*) ?\|$", text.text, re.MULTILINE)
    names = [*sorted(BUILDERS), *sorted(ORIGINS.keys() - BUILDERS)]
    wanted = [
        (name, f"{ORIGINS[name].size / 1e6:.0f}", "" if name in BUILDERS else "TensorFlow")
        for name in names
    ]
    return different(([*map(number, first)], [len(BUILDERS)]), (rows, wanted))


@rule(
    "colab/README.md",
    ("lessons 10, 11, 16 and 22", "lessons 10 and 11"),
    ("lessons 10, 11, 16 and 22", "lesson 10"),
)
def the_readme_names_the_lessons_that_need_tensorflow(text):
    """Those whose code names a dataset without a builder."""
    said = re.findall(r"`pip install tensorflow`\) for lessons ([\d, and]+)\.", text.text)
    names = "|".join(ORIGINS.keys() - BUILDERS)
    code = {lesson: "\n".join(lesson.sources("code")) for lesson in files("colab/*.ipynb")}
    needing = [lesson.path.name[:2] for lesson in code if re.search(names, code[lesson])]
    return different(([re.findall(r"\d+", one) for one in said], [needing]))


@rule(
    "colab/README.md",
    (r"which slide, and where slides have slips\.", "which slide."),
)
def the_readme_promises_of_the_topics_what_they_have(text):
    (said,) = re.findall(r"\]\(topics\.md\): ([^.]*)\.", text.text)
    there = (ROOT / "colab" / "topics.md").read_text(encoding="utf-8")
    promised = "where slides have slips" in said
    return [said] if promised != ("## Slips of the slides" in there) else []


@cache
def on_cpu() -> Record:
    return next(record for _, record in figures.findings() if record.title.startswith("On CPU"))


def ratios(column: str) -> dict[str, float]:
    """Each row of the table for CPU -> the other library's time divided by jaxnet's."""
    names = [getattr(head, "name", head) for head in on_cpu().columns]
    place = names.index(column)
    return {row[0]: float(row[place].split()[0]) for row in on_cpu().rows if row[place]}


def models(labels: Iterable[str]) -> set[str]:
    """The models that rows are about, without their sizes."""
    return {re.split(r",| \d|(?<=MLP) ", label)[0] for label in labels}


@rule(
    "guide/compare.md guide/faq.md README.md guide/**/*.md",
    "On CPU it is faster in bfloat16.",
    "Eager PyTorch is slower, but in bfloat16 it is faster.",
    "PyTorch is faster for an MLP and ResNet-20 in bfloat16.",
    fine=("In bfloat16 it is faster for an MLP.", "In bfloat16, it takes less memory."),
)
def sentences_name_the_rows_that_pytorch_wins_in_bfloat16(text):
    """A sentence on another library holds for every row, or it names the rows."""
    rows = {label: ratio for label, ratio in ratios("PyTorch").items() if "bfloat16" in label}
    won = models(label for label, ratio in rows.items() if ratio < 1)
    for sentence in sentences(text.text):
        if "bfloat16" in sentence and "faster" in sentence:
            named = {name for name in models(rows) if re.search(rf"\b{name}\b", sentence)}
            yield from [f"{sentence} But: {sorted(won)}"] if named != won else []


@rule(
    "guide/compare.md guide/faq.md README.md guide/**/*.md",
    "If it keeps freed memory, it is level for MobileNet V2 and a GRU.",
    "If it keeps freed memory, it is level for an LSTM.",
)
def sentences_name_the_rows_where_pytorch_is_level(text):
    """Level is a ratio of 0.95 to 1.05 in float32, with freed memory kept."""
    kept = {k: r for k, r in ratios("PyTorch, memory kept").items() if "bfloat16" not in k}
    level = models(label for label, ratio in kept.items() if 0.95 <= ratio <= 1.05)
    for said in re.findall(r"\blevel for .*", "\n".join(sentences(text.text))):
        named = {name for name in models(kept) if re.search(rf"\b{re.escape(name)}\b", said)}
        yield from [f"{said} But: {sorted(level)}"] if named != level else []


CONVOLUTIONAL = "LeNet", "ResNet", "MobileNet", "U-Net"
RECURRENT = "LSTM", "GRU"


@rule(
    "README.md guide/*.md",
    "On CPU, recurrent networks train at least twice as fast as in Flax Linen.",
    "On CPU, networks train at least twice as fast as in Flax Linen.",
    "Convolutional and recurrent networks: a step takes 1.5 to 3.48 times as long in Linen.",
    fine=("Convolutional networks train at least twice as fast as in Linen.",),
)
def sentences_on_linen_hold_for_each_row_that_they_name(text):
    """A range is that of the rows; "at least twice as fast" holds for each of them."""
    rows = ratios("Linen")
    named = {"onvolutional": CONVOLUTIONAL, "recurrent": RECURRENT, "LSTM": ("LSTM",)}
    for sentence in sentences(text.text):
        if not re.search(r"\b(fast as|long) in (Flax )?Linen", sentence):
            continue
        names = [name for word, group in named.items() if word in sentence for name in group]
        meant = [ratio for row, ratio in rows.items() if not names or row.startswith((*names,))]
        found = [float(number) for number in re.findall(r"\d+\.\d+", sentence)]
        if min(meant) < 2 and "at least twice" in sentence:
            yield f"{sentence} But: {min(meant)}"
        if found and found != [min(meant), max(meant)]:
            yield f"{sentence} But: {min(meant)} to {max(meant)}"


@rule(
    "guide/compare.md guide/faq.md README.md",
    "For a single picture, onnxruntime is faster for MobileNet V2 and ResNet-18.",
    "onnxruntime is faster for MobileNet V2 for a single picture.",
    fine=("For a single picture, onnxruntime is faster for MobileNet V2 and EfficientNet B0.",),
)
def sentences_name_the_nets_that_others_answer_faster_with(text):
    """Those whose ratio is below 0.95 at batch 1, in onnxruntime and in OpenVINO."""
    record = next(r for _, r in figures.findings() if r.title.startswith("A trained net answers"))
    rows = {
        row[0].removesuffix(", batch 1"): row for row in record.rows if "batch 1," in f"{row[0]},"
    }
    won = {net for net, row in rows.items() if all(float(row[i].split()[0]) < 0.95 for i in (3, 4))}
    for sentence in sentences(text.text):
        if "single picture" in sentence and "faster" in sentence:
            named = {net for net in rows if re.search(rf"\b{re.escape(net)}\b", sentence)}
            yield from [f"{sentence} But: {sorted(won)}"] if named != won else []


MODEL = r"\b(?:[A-Z]\w*Net\b(?:[ -]V?\d+)?|U-Net|LSTM|GRU|GPT-2|MLP|VGG-?\d*)"


@rule(
    "guide/compare.md README.md guide/faq.md",
    "- On CPU it is level for VGG16: see [the tables](../experiments/performance.md).",
    "On an H100, ResNet-101 [is faster](../experiments/performance.md).",
    fine=("On an H100, ResNet-50 [is faster](../experiments/performance.md).",),
)
def models_in_a_claim_about_speed_have_a_row(text):
    for block in re.split(BLOCK_ENDS, text.prose):
        if "performance.md" in block:
            labels = "\n".join(row[0] for record in linked(block) for row in record.rows)
            yield from [name for name in re.findall(MODEL, block) if name not in labels]


@rule(
    "experiments/results/*.md experiments/performance.md",
    "## A finding\n\n**Supported.** It has 94%.\n",
    "## A finding\n\n**Measured.** 94.\n\n## Another\n\n**Mixed.** 9; `python -m experiments.a`\n",
    fine=("## A finding\n\n**Mixed.** It has 9.\n\n`python -m experiments.a` (9 s)\n",),
)
def each_finding_has_the_command_that_measured_it(text):
    """As experiments/README.md says in its first lines."""
    for section in re.split(r"^(?=## )", text.text, flags=re.MULTILINE):
        found = re.search(r"^\*\*(Supported|Mixed|Not supported|Measured)", section, re.MULTILINE)
        if found and "`python -m experiments." not in section:
            yield section.partition("\n")[0]


@rule(lambda: files("colab/08_*.ipynb"), Text(ROOT / "colab/99_x.ipynb", '{"cells": []}'))
def lessons_that_measure_have_their_findings(text):
    """Faces and recommenders are in the results, which name the lesson."""
    pages = "\n".join(page.text for page in files("experiments/results/*.md"))
    return [] if f"colab/{text.path.name}" in pages else [text.path.name]


@cache
def bytes_of_4_bits() -> Fraction:
    """The part of a kernel's bytes that its integers of 4 bits take, with their scales."""
    net, x = jn.dense(64, use_bias=False), np.ones((1, 64), np.float32)
    params, _ = net.init(jax.random.key(0), x)
    packed = jn.quantize(jn.quantized(net, 4), params, x)
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (packed, params)]
    return Fraction(*sizes)


@rule(
    lambda: files("colab/22_*.ipynb"),
    ("9/64 of the bytes", "5/32 of the bytes"),
    ("9/64 of the bytes", "few of the bytes"),
    ("scale of 16 bits", "scale of 32 bits"),
)
def the_bytes_of_4_bits_are_those_of_a_kernel(text):
    prose = " ".join(prose_of(text).split())
    said = re.findall(r"4 bits take (\d+)/(\d+) of the bytes", prose)
    scale = re.findall(r"scale of (\d+) bits for every (\d+) weights", prose)
    per_weight = [4 + Fraction(int(bits), int(weights)) for bits, weights in scale]
    return different(
        ([Fraction(int(a), int(b)) for a, b in said], [bytes_of_4_bits()]),
        ([bits / 32 for bits in per_weight], [bytes_of_4_bits()]),
    )


# Lesson -> for each sentence that counts lines, the first and the last of these lines.
LINES = {
    "03": [("images, right = ", "correct = ")],
    "08": [("def features(", "order = ")],
    "09": [("total = 0", "    print(")],
    "12": [("e = np.tanh", "c = a @ h")],
    "16": [("def block(", "    return m(embedding")],
    "23": [("    z = jnp", "    return each")],
}


def lines_from(code: str, first: str, last: str) -> int:
    """The number of lines from one to the next that begins with another, without empty ones."""
    lines = [line for line in code.splitlines() if line.strip()]
    start = next(i for i, line in enumerate(lines) if line.startswith(first))
    return next(i for i, line in enumerate(lines[start:], 1) if line.startswith(last))


def counting(word: str) -> Text:
    code = [{"cell_type": "code", "source": "def block(x):\n    return m(embedding, x)"}]
    prose = [{"cell_type": "markdown", "source": f"A GPT is {word} lines:"}]
    return at("colab/16_.ipynb", json.dumps({"cells": prose + code}))


@rule(
    lambda: files("colab/*.ipynb"),
    counting("fourteen"),
    counting("3"),
    at("colab/17_.ipynb", counting("two").text),
    fine=(counting("two"), counting("2")),
)
def lines_of_code_are_counted(text):
    """A sentence that says how many lines a program has; `LINES` says which ones."""
    prose = re.sub(r"`[^`]*`", "", " ".join(prose_of(text).split()))
    words = "|".join(NUMBERS[2:])
    said = re.findall(rf"\b(?:is|are|in) ({words}|\d+) lines\b", prose)
    code = "\n".join(text.sources("code"))
    ends = LINES.get(text.path.name[:2], [])
    return different(([*map(number, said)], [lines_from(code, *pair) for pair in ends]))


def outputs_of(text: Text) -> str:
    outputs = [output for cell in text.cells("code") for output in cell["outputs"]]
    return "".join("".join(output.get("text", [])) for output in outputs)


@rule(
    lambda: files("colab/18_*.ipynb"),
    (r"0\.0%    96\.\d%", "0.0%    96.9%"),
    (r"classifies 96\.\d% of the upright", "classifies 96.9% of the upright"),
    (r"It classifies 1,925 of the 2,000 upright digits, 96\.25%", "It is the same net"),
    ("1,925 of", "1,930 of"),
)
def a_net_has_one_accuracy(text):
    """The base is measured alone and as a row of the table; a sentence explains two roundings."""
    shown, prose = outputs_of(text), " ".join(prose_of(text).split())
    alone = re.findall(r"the base classifies ([\d.]+)% of the upright test", shown)
    row = re.findall(r"^base as it is .* ([\d.]+)% ± 0\.0%$", shown, re.MULTILINE)
    yield from different((len(alone), 1), (len(row), 1))
    if alone != row:
        counted = re.findall(r"classifies ([\d,]+) of the ([\d,]+) upright digits", prose)
        yield from [] if counted else [(alone, row)]
        for right, of in counted:
            percent = 100 * int(right.replace(",", "")) / int(of.replace(",", ""))
            yield from [n for n in alone + row if abs(float(n) - percent) > 0.0501]
