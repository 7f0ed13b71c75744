"""Builds the site from the guide, the lessons, the docstrings and the results.

    python -m docs

writes runs/site/html/index.html and stops at the first warning: a link or a name without a target.
"""

import argparse
import html
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from docs.break_it import write_break_it
from docs.docstrings import public_names
from docs.gallery import write_gallery
from docs.home import write_home
from docs.lessons import output_kind, write_index, write_lessons
from docs.navigation import navigation
from docs.reference import write_reference

ROOT = Path(__file__).parent.parent
HERE = ROOT / "docs"
OUT = ROOT / "runs" / "site"
TEXTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
LINKED = ("README.md", "guide", "colab")  # pages in which names lead to the reference
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)
CELL = re.compile(r'<td( style="[^"]*")?>(.*?)</td>', re.S)
NUMBER = re.compile(r"[-−]?\d[\d.,%±()e×− -]{,18}(to [\d.,]+%?\))?( ?[A-Za-zµ%]+)?")
CODE = re.compile(r"^( *)(`{3,})[^`\n]*\n.*?^\1\2`*$|(`+).+?\3", re.S | re.M)
LINKED_TEXT = re.compile(r"\[([^]]+)\]\([^)]+\)")
HTML_LINK = re.compile(r'(<a href="[^":]*?)(README)?\.md(?=["#])')  # of a picture with a height
# A block of code, and the block directly below it that shows what it prints.
OUTPUT = re.compile(
    r"^( *)```(?:python|py|sh)\n.*?^\1```\n\n?\1```(?P<kind>text|output|sample|)\n"
    r"(?P<text>.*?)^\1```$",
    re.S | re.M,
)
INTERVAL = re.compile(r" (\([^()<]+ to [^()<]+\))")  # in a cell of a table, after its number
LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(\))")
# What link_names looks at: blocks of code, headings, links, names of jaxnet and other code.
NAMED = re.compile(
    r"^( *)(`{3,})[^`\n]*\n.*?^\1\2`*$|^(?P<heading>#+) [^\n]*$|\[(?:`[^`]*`|[^][`])*\][(\[]"
    r"|(?<!`)`jn\.(?P<name>[A-Za-z_][\w.]*)(?:\([^`]*)?`(?!`)|(`+).+?\5",
    re.S | re.M,
)


def build(out: Path = OUT) -> Path:
    """Writes the pages and the site; returns its first page.

    Raises:
      RuntimeError: If mkdocs prints a warning, with what it printed.
    """
    import yaml

    pages = out / "pages"
    shutil.rmtree(out, ignore_errors=True)
    copied = copy_texts(pages) | write_lessons(pages, repository())
    write_index(pages)
    write_gallery(pages)
    for path in copied | {pages / "experiments" / "gallery.md"}:
        mend_links(path, pages)
        if path.relative_to(pages).parts[0] in LINKED:
            text = mark_outputs(path.read_text(encoding="utf-8"))
            path.write_text(link_names(text), encoding="utf-8")
    write_reference(pages)
    (pages / "llms.txt").write_text(overview(pages), encoding="utf-8")
    write_home(pages, repository())
    write_break_it(pages, repository())
    menu = navigation(pages)
    for path in (path for entry in menu for path in entry.values() if isinstance(path, str)):
        page = pages / path
        page.write_text(
            f"---\nhide: [navigation]\n---\n{page.read_text(encoding='utf-8')}", encoding="utf-8"
        )  # one page, no menu
    config = yaml.safe_load((HERE / "mkdocs.yml").read_text(encoding="utf-8"))
    config |= {"docs_dir": str(pages), "site_dir": str(out / "html"), "nav": menu}
    config["site_url"] = address()
    # In the footer. Where `repo_url` puts a link, a program would ask GitHub for its stars.
    link = {"icon": "fontawesome/brands/github", "link": repository(), "name": "Source code"}
    config["extra"] = {"social": [link]}
    (python,) = (p["mkdocstrings"] for p in config["plugins"] if "mkdocstrings" in p)
    python["handlers"]["python"]["paths"] = [str(ROOT)]
    python["handlers"]["python"]["options"]["extensions"] = [str(HERE / "docstrings.py")]
    (out / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    run = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(out / "mkdocs.yml")]
    done = subprocess.run(
        run, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    if done.returncode:
        raise RuntimeError(f"docs: the site has warnings:\n{done.stdout}{done.stderr}")
    for page in (out / "html").rglob("*.html"):
        page.write_text(
            CELL.sub(sized, FORMULA.sub(mathml, page.read_text(encoding="utf-8"))), encoding="utf-8"
        )
    return out / "html" / "index.html"


def overview(pages: Path) -> str:
    """The file llms.txt: what jaxnet is, and the pages with a line on each, for language models."""
    readme = (pages / "README.md").read_text(encoding="utf-8")
    lead = " ".join(readme.split("\n\n")[1].split())
    lines = ["# jaxnet", "", "> " + LINKED_TEXT.sub(r"\1", lead), ""]
    for part in (pages / "guide" / "README.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, *rest = part.split("\n")
        lines += [f"## {heading}", ""]
        for item in re.split(r"\n(?:- |\d+\. )", "\n" + "\n".join(rest))[1:]:
            link = re.match(r"\[([^]]+)\]\(([^)#\s]+)\.md[^)]*\)", item)
            if link:
                place = os.path.normpath(f"guide/{link[2]}").replace("README", "index")
                about = LINKED_TEXT.sub(r"\1", " ".join(item[link.end() :].split()))
                lines += [f"- [{link[1]}]({address()}{place}.html){about}"]
        lines += [""]
    lines += ["## API", "", f"- [Reference]({address()}reference/index.html): every public name"]
    return "\n".join(lines) + "\n"


def mathml(match: re.Match) -> str:
    """A formula in the elements of HTML, so that pages need no program for them."""
    from latex2mathml.converter import convert

    display = "inline" if match[2] == "(" else "block"
    return convert(html.unescape(match[3]), display=display)


def sized(match: re.Match) -> str:
    """A cell of a table with a class for its width: a number stays on one line.

    The interval after a number has a class too, since a phone shows it below the number.
    """
    text = html.unescape(re.sub(r"<[^>]+>", "", match[2])).strip()
    inside = match[2]
    if NUMBER.fullmatch(text):
        kind = "number"
        inside = INTERVAL.sub(r' <span class="interval">\1</span>', inside)
    elif len(text) > 40:
        kind = "long"
    else:
        kind = "medium" if len(text) > 14 else ""
    return f'<td{match[1] or ""} class="{kind}">{inside}</td>' if kind else match[0]


def repository() -> str:
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]["urls"]["Repository"]


def address() -> str:
    """Where GitHub publishes the site; links of its page 404 begin there."""
    owner, name = repository().rstrip("/").split("/")[-2:]
    return f"https://{owner.lower()}.github.io/{name}/"


def copy_texts(pages: Path) -> set[Path]:
    """Copies pages and pictures to the places that they have in the repository."""
    paths = [ROOT / name for name in TEXTS]
    for folder in ("guide", "colab", "experiments"):
        paths += (ROOT / folder).rglob("*.md")
    pictures = [
        path for part in ("experiments", "guide") for path in (ROOT / part / "pictures").glob("*.*")
    ]
    for path in paths + pictures:
        target = pages / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(HERE / "site.css", pages)
    return {pages / path.relative_to(ROOT) for path in paths}


def mend_links(path: Path, pages: Path) -> None:
    """Keeps links to pages on the site, and leads those to other files to the repository."""
    here = f"{repository()}/blob/main/"

    def mended(match: re.Match) -> str:
        target, anchor = match[2], match[3] or ""
        if target.startswith(here):
            target = os.path.relpath(pages / target.removeprefix(here), path.parent)
        elif "://" in target or target.startswith("mailto:"):
            return match[0]
        if target.endswith(".ipynb") and not (path.parent / target).exists():
            target = f"{target.removesuffix('.ipynb')}.md"
        file = (path.parent / target).resolve()
        if file.is_dir() and (file / "README.md").exists():
            target, file = f"{target.rstrip('/')}/README.md", file / "README.md"
        if not file.exists():
            target, anchor = f"{here}{file.relative_to(pages.resolve())}", ""
        return f"{match[1]}{target}{anchor}{match[4]}"

    text, parts, end = path.read_text(encoding="utf-8"), [], 0
    for block in CODE.finditer(text):
        parts += [LINK.sub(mended, text[end : block.start()]), block[0]]
        end = block.end()
    whole = "".join([*parts, LINK.sub(mended, text[end:])])
    path.write_text(
        HTML_LINK.sub(lambda m: f"{m[1]}{'index' if m[2] else ''}.html", whole), encoding="utf-8"
    )


def mark_outputs(text: str) -> str:
    """Gives the outputs of a page the look that outputs have in lessons."""

    def marked(match: re.Match) -> str:
        start, end = match.start(), match.start("kind")
        return (
            f"{text[start:end]}{output_kind(match['text'])}{text[match.end('kind') : match.end()]}"
        )

    return OUTPUT.sub(marked, text)


def link_names(text: str) -> str:
    """Links the first mention of a name such as `jn.fit` below each heading to the reference."""
    linked: set[str] = set()

    def link(match: re.Match) -> str:
        if match["heading"]:
            linked.clear()
        place = public_names().get(match["name"] or "")
        if place is None or not place.endswith(f".{match['name']}") or place in linked:
            return match[0]
        linked.add(place)
        return f"[{match[0]}][{place}]"

    return NAMED.sub(link, text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m docs")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the site")
    print(build(parser.parse_args().out.resolve()))
