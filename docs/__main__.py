"""Builds the site from the guide, the lessons, the docstrings and the records.

    python -m docs

writes runs/site/html/index.html and stops at the first warning: a link or a name without a target.
"""

import argparse
import ast
import html
import operator
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jaxnet
from docs.docstrings import public_places

ROOT = Path(__file__).parent.parent
OUT = ROOT / "runs" / "site"
TEXTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)
LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(\))")


def build(out: Path = OUT) -> Path:
    """Writes the pages and the site; returns its first page.

    Raises:
      RuntimeError: for a warning of mkdocs, with what it printed.
    """
    pages = out / "pages"
    shutil.rmtree(out, ignore_errors=True)
    copied = copy_texts(pages) | copy_lessons(pages)
    for path in copied:
        mend_links(path, pages)
    write_reference(pages)
    write_gallery(pages)
    config = (ROOT / "docs" / "mkdocs.yml").read_text()
    config = config.replace("../runs/site", str(out)).replace("paths: [..]", f"paths: [{ROOT}]")
    config = config.replace("docs/docstrings.py", str(ROOT / "docs" / "docstrings.py"))
    (out / "mkdocs.yml").write_text(config + f"\nrepo_url: {repository()}\n" + navigation(pages))
    run = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(out / "mkdocs.yml")]
    done = subprocess.run(
        run, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    if done.returncode:
        raise RuntimeError(f"docs: the site has warnings:\n{done.stdout}{done.stderr}")
    for page in (out / "html").rglob("*.html"):
        page.write_text(FORMULA.sub(mathml, page.read_text()))
    return out / "html" / "index.html"


def mathml(match: re.Match) -> str:
    """A formula in the elements of HTML, so that pages need no program for them."""
    from latex2mathml.converter import convert

    display = "inline" if match[2] == "(" else "block"
    return convert(html.unescape(match[3]), display=display)


def repository() -> str:
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]["urls"]["Repository"]


def copy_texts(pages: Path) -> set[Path]:
    """Copies pages and pictures to the places that they have in the repository."""
    paths = [ROOT / name for name in TEXTS]
    for folder in ("guide", "guide/migrating", "colab", "experiments", "experiments/results"):
        paths += (ROOT / folder).glob("*.md")
    pictures = [*(ROOT / "experiments" / "pictures").glob("*.*")]
    for path in paths + pictures:
        target = pages / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(ROOT / "docs" / "site.css", pages)
    return {pages / path.relative_to(ROOT) for path in paths}


def copy_lessons(pages: Path) -> set[Path]:
    """Writes the notebooks as pages, with the outputs that they have."""
    from nbconvert import MarkdownExporter

    copied = set()
    for path in sorted((ROOT / "colab").glob("*.ipynb")):
        text, resources = MarkdownExporter().from_filename(str(path))
        for name, data in resources["outputs"].items():
            (pages / "colab" / f"{path.stem}_{name}").write_bytes(data)
            text = text.replace(f"]({name})", f"]({path.stem}_{name})")
        copied.add(pages / "colab" / f"{path.stem}.md")
        (pages / "colab" / f"{path.stem}.md").write_text(text)
    return copied


def mend_links(path: Path, pages: Path) -> None:
    """Links to files that are no pages lead to the repository."""

    def mended(match: re.Match) -> str:
        target, anchor = match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        if target.endswith(".ipynb"):
            target = f"{target.removesuffix('.ipynb')}.md"
        file = (path.parent / target).resolve()
        if file.is_dir() and (file / "README.md").exists():
            target, file = f"{target.rstrip('/')}/README.md", file / "README.md"
        if not file.exists():
            inside = file.relative_to(pages.resolve())
            target, anchor = f"{repository()}/blob/main/{inside}", ""
        return f"{match[1]}{target}{anchor}{match[4]}"

    path.write_text(LINK.sub(mended, path.read_text()))


def write_reference(pages: Path) -> None:
    """One page per module, with its public names in their order."""
    modules: dict[str, list[str]] = {}
    for name in public_places():
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    folder = pages / "reference"
    folder.mkdir(parents=True)
    index = ["# Reference\n", "| module | names |", "|---|---|"]
    for module, names in modules.items():
        parts = [f"# {module}\n"] + [entry(name) for name in names]
        (folder / f"{module}.md").write_text("\n".join(parts))
        links = ", ".join(f"[{name.rpartition('.')[2]}][{name}]" for name in names)
        index.append(f"| [{module}]({module}.md) | {links} |")
    (folder / "index.md").write_text("\n".join(index) + "\n")


def entry(name: str) -> str:
    """A public name in the reference, which griffe finds where it is defined.

    A function such as `jaxnet.conv` would else be taken for the module `jaxnet.layers.conv`.
    """
    value = operator.attrgetter(name.removeprefix("jaxnet."))(jaxnet)
    module = getattr(value, "__module__", None) if callable(value) else None
    place = f"{module}.{value.__qualname__}" if module else name
    place = place if "<" not in place else name
    return (
        f"[](){{ #{name} }}\n\n::: {place}\n    options:\n"
        f"      heading: {name}\n      toc_label: {name.rpartition('.')[2]}\n"
    )


def write_gallery(pages: Path) -> None:
    """The pictures of the experiments, each with the claim of its file."""
    folder = ROOT / "experiments"
    claims = {path.stem: path for path in folder.glob("*.py") if not path.name.startswith("_")}
    claims |= {path.parent.name: path for path in folder.glob("*/__init__.py")}
    lines = ["---", "hide: [toc]", "---", "# Gallery", ""]
    groups: dict[str, list[Path]] = {}
    for picture in sorted((folder / "pictures").glob("*.*")):
        fits = [name for name in claims if picture.stem.startswith(name)]
        groups.setdefault(max(fits, key=len, default=""), []).append(picture)
    for name, pictures in sorted(groups.items(), key=lambda group: (not group[0], group[0])):
        claim = ""
        if name:
            claim = (ast.get_docstring(ast.parse(claims[name].read_text())) or "").split("\n\n")[0]
        lines += [f"## {name or 'More'}", "", " ".join(claim.split()), ""]
        lines += [f"![{p.stem}](pictures/{p.name}){{ loading=lazy }}" for p in pictures] + [""]
    (pages / "experiments" / "gallery.md").write_text("\n".join(lines))


def navigation(pages: Path) -> str:
    """The menu: each page under its first heading."""

    def title(path: Path) -> str:
        heading = re.search(r"^# (.+)$", path.read_text(), re.M)
        return heading[1].replace('"', "'") if heading else path.stem

    def section(name: str, folder: str, first: str, order: list[str] | None = None) -> list[str]:
        rest = [p for p in sorted((pages / folder).glob("*.md")) if p.name != first]
        if order:
            rest.sort(key=lambda p: order.index(p.name) if p.name in order else len(order))
        lines = [f'  - "{name}":', f"    - {folder}/{first}"]
        return lines + [f'    - "{title(path)}": {path.relative_to(pages)}' for path in rest]

    def listed(index: str) -> list[str]:
        return re.findall(r"\(([a-z_]+\.md)\)", (pages / index / "README.md").read_text())

    lines = ["nav:", "  - Home: README.md"]
    lines += section("Guide", "guide", "README.md", listed("guide"))
    migrating = section("Migrating", "guide/migrating", "README.md", listed("guide/migrating"))
    lines += ["  " + line for line in migrating]
    lines += section("Lessons", "colab", "README.md")
    modules = re.findall(
        r"\]\((jaxnet[\w.]*\.md)\)", (pages / "reference" / "index.md").read_text()
    )
    lines += section("Reference", "reference", "index.md", modules)
    lines += section("Results", "experiments", "README.md")
    topics = re.findall(r"\((results/\w+\.md)\)", (pages / "experiments" / "README.md").read_text())
    for path in (pages / "experiments" / topic for topic in topics):
        lines.append(f'    - "{title(path)}": {path.relative_to(pages)}')
    lines += ["  - Changes: CHANGELOG.md",
              "  - Contributing: CONTRIBUTING.md"]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m docs")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the site")
    print(build(parser.parse_args().out.resolve()))
