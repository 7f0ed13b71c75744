"""The reference: pages by subject, and an index with the first line of each docstring.

What only lessons use has pages of its own, to which the index links without its names.

The file that defines a name decides its page, so a new name needs no entry here. A new file of
`layers/`, and of another folder that has no row for the whole folder, makes a page of its own.
"""

import operator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import griffe

import jaxnet
from docs.docstrings import linked, methods, module_places, own_names, public_places
from docs.plots import write_plots

ROOT = Path(__file__).parent.parent
# Section -> page -> the modules below jaxnet whose public names it has, in this order.
SECTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "Core": {
        "Core": ("core", "composition", "typing", ""),
        "Tools for your own layers": ("services", "ops"),
    },
    "Layers": {
        "Dense and convolution": ("layers.dense", "layers.conv", "layers.local"),
        "Pooling": ("layers.pool",),
        "Normalization": ("layers.norm", "layers.response_norm"),
        "Recurrent": (
            "layers.rnn", "layers.lstm", "layers.gru", "layers.recurrent", "layers.sequence"),
        "Attention": (
            "layers.attention", "layers.additive_attention", "layers.transformer", "layers.moe"),
        "Embedding and positions": ("layers.embedding",),
        "Dropout": ("layers.dropout",),
        "Shape": ("layers.shape", "layers.resize"),
        "Feature maps": ("layers.feature_map",),
        "Initializers": ("initializers",),
    },
    "Transforms": {"Transforms": ("transforms",)},
    "Training": {
        "Objectives and trainers": (
            "training.objective", "training.trainer", "training.train_state", "training"),
        "Fit and evaluate": (
            "training.loop", "training.epoch", "training.evaluate", "training.predict_windows",
            "training.sweep"),
        "Checkpoints and logs": (
            "training.checkpoint", "training.checkpoints", "training.log"),
    },
    "Data": {
        "Datasets": ("data",),
        "Batches and sequences": ("data.arrays", "data.sequences", "data.boxes"),
        "Augmentation": ("data.augment", "data.rand_augment", "data.warp"),
        "Text and speech": ("data.text", "data.speech"),
    },
    "Models": {
        "Image classification": ("models",),
        "Segmentation and object detection": ("models.fcn", "models.unet", "models.yolo"),
        "Language and translation": (
            "models.decoder", "models.rnnsearch"),
        "MLPs and autoencoders": ("models.mlp", "models.autoencoder"),
    },
    "Pretrained models": {"Pretrained models": ("pretrained",)},
    "Decoding and boxes": {"Decoding": ("decoding",), "Boxes": ("detection",)},
    "Losses, metrics, penalties": {
        "Losses": ("losses",), "Metrics": ("metrics",), "Penalties": ("penalties",),
    },
    "Unsupervised": {
        "Restricted Boltzmann machines": ("unsupervised.rbm",),
        "Autoencoder objectives": ("unsupervised.autoencoder", "unsupervised.pretrain"),
        "Clustering and whitening": ("unsupervised.kmeans", "unsupervised.whitening"),
        "Sparse coding": ("unsupervised.sparse_coding",),
    },
    "Inspection": {
        "Summaries and checks": ("inspect",),
        "Attribution and features": (
            "inspect.attribution", "inspect.class_map", "inspect.maximize",
            "inspect.receptive"),
        "Profiling": ("profile",),
    },
    "Plots": {"Plots": ("viz",)},
    "Interop": {"Interop": ("interop",)},
    "Distributed": {"Distributed": ("distributed",)},
    "Accelerate": {"Accelerate": ("rewriting",)},
    "For the lessons": {
        "Perceptron rules": ("models.perceptron", "training.perceptron"),
        "Deep belief networks": ("unsupervised.dbn",),
        "Hidden Markov models": ("unsupervised.hmm",),
        "Gabor filters": ("inspect.gabor",),
    },
}  # fmt: skip
LESSONS = "For the lessons"  # a section whose names are not in the index


class Name(NamedTuple):
    """A public name.

    Fields:
      public: As users write it, such as "jaxnet.conv".
      place: Where griffe finds its definition, such as "jaxnet.layers.conv.conv".
      summary: First paragraph of its docstring, with links.
      methods: Public methods of a class.
    """

    public: str
    place: str
    summary: str
    methods: list[str]


class Page(NamedTuple):
    """A page of the reference, with its names in order."""

    section: str
    title: str
    names: list[Name]

    @property
    def path(self) -> str:
        words = self.title.lower().replace(",", "").split()
        return f"reference/{'_'.join(words)}.md"


@cache
def reference() -> list[Page]:
    """The pages in the order of `SECTIONS`."""
    package = griffe.load("jaxnet", search_paths=[ROOT])
    found: dict[tuple[str, str], list[tuple[int, Name]]] = {}
    for public in (*public_places(), *module_places()):
        place = definition(public)
        value = package[place.removeprefix("jaxnet.")]
        if value.is_alias:
            value = value.final_target
        text = value.docstring.value if value.docstring else ""
        summary = linked(" ".join(text.split("\n\n")[0].split()), public, own_names(value))
        name = Name(public, place, summary, methods(value) if value.is_class else [])
        where, order = page_of(value.parent.path.removeprefix("jaxnet").removeprefix("."))
        found.setdefault(where, []).append((order, name))
    sections = list(SECTIONS)
    known = [(section, page) for section, pages in SECTIONS.items() for page in pages]
    new = [where for where in found if where not in known]
    ordered = sorted(known + new, key=lambda where: (*sections, where[0]).index(where[0]))
    return [
        Page(*where, [name for _, name in sorted(found[where], key=operator.itemgetter(0))])
        for where in ordered
        if where in found
    ]


def page_of(module: str) -> tuple[tuple[str, str], int]:
    """Section and page of a module below jaxnet, and its rank among the modules of the page."""
    rows = []
    for section, pages in SECTIONS.items():
        for page, prefixes in pages.items():
            for rank, prefix in enumerate(prefixes):
                if module == prefix or (prefix and module.startswith(f"{prefix}.")):
                    rows.append((len(prefix), (section, page), rank))
    if rows:
        return max(rows)[1:]
    folder, _, file = module.rpartition(".")
    sections = [
        section
        for section, pages in SECTIONS.items()
        if folder and any(p.startswith(f"{folder}.") for row in pages.values() for p in row)
    ]
    title = file.replace("_", " ").capitalize()
    return (sections[0] if sections else title, title), 0


def definition(public: str) -> str:
    """The place of a public name for griffe.

    It takes `jaxnet.conv` for the module `jaxnet.layers.conv`, so the place is where the function
    is defined. Values that are not defined by `def` or `class` stay where they are public.
    """
    if public in module_places():
        return public
    value = operator.attrgetter(public.removeprefix("jaxnet."))(jaxnet)
    module = getattr(value, "__module__", None) if callable(value) else None
    place = f"{module}.{value.__qualname__}" if module else public
    return public if "<" in place else place


LEAD = (
    "The public names by subject, after `import jaxnet as jn`. Follow a name to its arguments, "
    "errors and an example. If you look for a task instead of a name, start with the "
    "[guide](../guide/README.md)."
)


def write_reference(pages: Path) -> None:
    """Writes the pages, and the index with one row for each public name but those for lessons."""
    plots = write_plots(pages)
    index, section = ["# Reference", "", LEAD, ""], ""
    for page in reference():
        index += [f"## {page.section}", ""] if page.section != section else []
        section = page.section
        if section == LESSONS:
            index += [f"- [{page.title}]({Path(page.path).name}), which the course uses"]
        else:
            index += [f"### {page.title}", ""] if page.title != section else []
            index += table(page.names)
        (pages / page.path).write_text(
            "\n".join([f"# {page.title}", "", *table(page.names), *entries(page.names, plots)]),
            encoding="utf-8",
        )
    (pages / "reference" / "index.md").write_text("\n".join(index), encoding="utf-8")


def table(names: list[Name]) -> list[str]:
    """Rows of name and first line."""
    rows = [f"| [`{n.public.replace('jaxnet', 'jn', 1)}`][{n.public}] | {cell(n)} |" for n in names]
    head = ['<div class="names" markdown>', "", "| name | description |", "|---|---|"]
    return [*head, *rows, "", "</div>", ""]


def cell(name: Name) -> str:
    return name.summary.replace("|", "\\|")


def entries(names: list[Name], plots: dict[str, str]) -> list[str]:
    """The docstrings of a page, those of methods below their class, and the pictures of plots.

    Two public names of one value share an entry.
    """
    lines = []
    for place in dict.fromkeys(name.place for name in names):
        first, *more = [name for name in names if name.place == place]
        lines += [f"[](){{ #{name.public} }}" for name in more]
        lines += entry(first.public, place, 2)
        if first.public in plots:
            short = first.public.replace("jaxnet", "jn", 1)
            lines += [f"![What the example of {short} draws]({plots[first.public]})", ""]
        lines += [f"Also `{name.public}`." for name in more] + [""] * bool(more)
        for method in first.methods:
            lines += entry(f"{first.public}.{method}", f"{place}.{method}", 3)
    return lines


def entry(public: str, place: str, level: int) -> list[str]:
    """The docstring of a name, under a heading of a level."""
    options = {
        "heading": public, "toc_label": public.rpartition(".")[2], "heading_level": level
    }  # fmt: skip
    lines = [f"      {name}: {value}" for name, value in options.items()]
    return [f"[](){{ #{public} }}", "", f"::: {place}", "    options:", *lines, ""]
