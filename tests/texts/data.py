"""Rules for data: every reader can have them, and pictures of people have a source and terms.

A dataset is in a catalog (`ORIGINS`, or that of TensorFlow Datasets), in an installed package, or
made on the spot. A text that reads another one if it is prepared also names what to download.
"""

import html
import inspect
import re
from functools import cache

import pytest

import jaxnet as jn
from jaxnet.data.builders import INSTEAD, ORIGINS, base_name
from tests.texts.form import Text, at, files, rule

# The files that a text may read without writing them: none yet.
FILE = (
    r"""["']([^"'\s]+\.(?:csv|tsv|xlsx?|npy|npz|mat|zip|tar|gz|tgz|h5|hdf5|parquet|pkl|pgm))["']"""
)
WRITES = r"\b(?:save\w*|savez\w*|write_\w+|to_csv|to_parquet|open\w*|dump|export)\("
# Loader of pictures with people -> what must stand beside a stored picture of these people, and
# what the loader's docstring says about source and terms.
CREDIT = {"faces": "AT&T Laboratories Cambridge"}
TERMS = {
    "faces": ("Samaria and Harter 1994", CREDIT["faces"]),
    "photos": ("U.S. Navy", "public domain", "CC BY 2.0"),
    "camvid": ("Brostow", "CC BY-NC 4.0"),
}


@cache
def catalog() -> frozenset[str]:
    """The names of the datasets that TensorFlow Datasets downloads and prepares."""
    datasets = pytest.importorskip("tensorflow_datasets")
    return frozenset(datasets.list_builders(with_community_datasets=False))


@cache
def texts() -> list[Text]:
    pages = "README.md guide/**/*.md colab/*.md experiments/**/*.md"
    return files("colab/*.ipynb", "experiments/**/*.py", *pages.split())


def code_of(text: Text) -> str:
    """The code of a lesson, of a Python file, or of the blocks of a page."""
    if text.path.suffix == ".ipynb":
        return "\n".join(text.sources("code"))
    if text.path.suffix == ".py":
        return text.text
    return "\n".join(re.findall(r"```\w*\n(.*?)```", text.text, re.DOTALL))


def loaded(code: str) -> set[str]:
    """The datasets that a program loads by name, from the folder of prepared ones."""
    names = re.findall(r"\btfds\.(?:load|source|builder)(?:\(|, )\s*f?[\"']([^\"'{]+)", code)
    return {base_name(name) for name in names}


def prepared(text: str) -> set[str]:
    """The datasets that a command in a text prepares."""
    found = re.findall(r"python -m jaxnet\.data\.prepare((?: [a-z]\w+)+)", text)
    return {name for names in found for name in names.split()}


@rule(
    texts,
    at("experiments/a.py", 'data = jn.data.tfds.load("att_faces", "train")'),
    at("experiments/a.py", 'load = partial(jn.data.tfds.load, "jester", "train")'),
    at("experiments/a.py", 'jn.data.tfds.source(\n    "orl_faces:2.0.0", "test")'),
    at("guide/a.md", '```py\njn.data.tfds.load("imagenet_of_mine", "train")\n```'),
    at("guide/a.md", "Run `python -m jaxnet.data.prepare mnist orl_faces`."),
    fine=(
        at("experiments/a.py", 'tfds.load("mnist:3.0.1", s)\ntfds.load("accentdb/default", s)'),
        at("experiments/a.py", 'tfds.load("jester", s) or tfds.load("movielens_100k", s)'),
        at("guide/a.md", "`python -m jaxnet.data.prepare mnist olivetti --data-dir x`"),
    ),
)
def datasets_are_in_a_catalog(text):
    """Or another one is named that is, as `movielens_100k` next to `jester`."""
    names = loaded(code_of(text))
    for name in names - ORIGINS.keys():
        if INSTEAD.get(name) not in names and name not in catalog():
            yield name
    yield from prepared(text.text) - ORIGINS.keys()


@rule(
    "jaxnet/**/*.py",
    '"""Run python -m jaxnet.data.prepare jester."""',
    fine=('"""Run python -m jaxnet.data.prepare olivetti, once."""',),
)
def commands_prepare_what_they_can(text):
    return prepared(text.text) - ORIGINS.keys()


@rule(
    texts,
    at("experiments/a.py", "from sklearn.datasets import fetch_olivetti_faces"),
    at("guide/a.md", "```python\nx, y = fetch_openml('mnist_784')\n```"),
    at("guide/a.md", "```python\ntorchvision.datasets.LFWPeople('.', download=True)\n```"),
    fine=(
        at("experiments/a.py", "from sklearn.datasets import load_digits, make_moons"),
        at("guide/a.md", "The same as `fetch_olivetti_faces` of scikit-learn."),
    ),
)
def other_libraries_download_nothing(text):
    """What comes inside a package is there: `load_digits`. What they download is no catalog's."""
    return re.findall(r"\bfetch_\w+|torchvision\.datasets\.\w+", code_of(text))


@rule(
    "colab/*.ipynb guide/**/*.md",
    at("guide/a.md", '```python\ntable = np.genfromtxt("jester-data-1.csv")\n```'),
    at("guide/a.md", '```python\nfaces = loadmat("faces.mat")["faces"]\n```'),
    fine=(
        at("guide/a.md", '```python\nnp.save("x.npy", x)\ny = np.load("x.npy")\n```'),
        at("guide/a.md", '```sh\nunzip "faces.zip"\n```'),
    ),
)
def files_are_made_before_they_are_read(text):
    """In the code that runs: a page's blocks of Python, a lesson's cells."""
    code = code_of(text)
    if text.path.suffix == ".md":
        code = "\n".join(re.findall(r"```python\n(.*?)```", text.text, re.DOTALL))
    writing = "\n".join(line for line in code.splitlines() if re.search(WRITES, line))
    return set(re.findall(FILE, code)) - set(re.findall(FILE, writing))


@rule(
    "guide/data.md",
    (r"\| `jn\.data\.faces\(\)`", "| `faces`"),
    (r"`jn\.data\.bccd\(\)`", "`bccd`"),
)
def each_loader_is_in_the_table_of_datasets(page):
    """A public function that takes `data_dir=` reads a prepared dataset."""
    loaders = {name: value for name, value in vars(jn.data).items() if inspect.isfunction(value)}
    rows = "\n".join(line for line in page.text.splitlines() if line.startswith("| `"))
    for name, loader in loaders.items():
        if "data_dir" in inspect.signature(loader).parameters:
            yield from [] if f"`jn.data.{name}(" in rows else [name]


def origins() -> list[Text]:
    lines = [f"{name}|{origin.home}|{origin.terms}" for name, origin in ORIGINS.items()]
    return [at("origins", "\n".join(lines))]


@rule(origins, "olivetti|https://a.b|", "olivetti||none stated", "olivetti|http://a.b|mine")
def each_dataset_has_a_source_and_terms(listed):
    for line in listed.text.splitlines():
        _, home, terms = line.split("|")
        if not home.startswith("https://") or not terms:
            yield line


def loaders_of_people() -> list[Text]:
    docs = {name: inspect.getdoc(getattr(jn.data, name)) or "" for name in TERMS}
    return [at(f"jaxnet/data/{name}.py", doc) for name, doc in docs.items()]


@rule(
    loaders_of_people,
    "Load gray faces.",
    at("jaxnet/data/photos.py", "Grace Hopper, in the public domain."),
)
def loaders_of_pictures_with_people_say_source_and_terms(loader):
    words = " ".join(loader.text.split())
    return [said for said in TERMS[loader.path.stem] if said not in words]


def draws_people(text: Text) -> list[str]:
    """The credits of the people whose pictures a lesson, an experiment or a page stores."""
    called = set(re.findall(r"\bjn\.data\.(\w+)\b", code_of(text)))
    called |= {"faces"} if {"olivetti", "orl_faces"} & loaded(code_of(text)) else set()
    return [credit for loader, credit in CREDIT.items() if loader in called]


@rule(
    lambda: [text for text in texts() if draws_people(text)],
    at("experiments/a.py", "train, test = jn.data.faces()"),
    at("guide/a.md", "```python\njn.viz.images(jn.data.faces()[0][0])\n```"),
    at("experiments/a.py", 'tfds.load("orl_faces:2.0.0", "train")'),
    fine=(at("guide/a.md", "Of AT&T Laboratories Cambridge:\n```py\njn.data.faces()\n```"),),
)
def pictures_of_people_have_their_credit(text):
    return [credit for credit in draws_people(text) if credit not in " ".join(text.text.split())]


@cache
def credits() -> dict[str, str]:
    """The names of experiments that draw people -> their credit."""
    found = {text.path.stem: draws_people(text) for text in files("experiments/*.py")}
    return {name: credit for name, credits in found.items() for credit in credits}


@rule(
    "README.md guide/**/*.md experiments/**/*.md colab/*.md",
    at("README.md", "![Test faces](experiments/pictures/faces_search.png)"),
    at("README.md", '<img src="pictures/faces_search.png" height="120" alt="Faces" title="95%">'),
    fine=(at("a.md", "![Faces of AT&T Laboratories Cambridge](pictures/faces_search.png)"),),
)
def captions_of_people_have_their_credit(page):
    """A picture's name begins with that of its experiment."""
    shown = re.findall(r"!\[([^\]]*)\]\(\S*?/?([\w.]+)\)", page.text)
    linked = re.findall(r'<img src="\S*?/?([\w.]+)"[^>]* alt="([^"]*)"', page.text)
    for caption, file in [*shown, *((alt, file) for file, alt in linked)]:
        credit = credits().get(file.partition("_")[0], "")
        yield from [caption] if credit not in html.unescape(caption) else []
