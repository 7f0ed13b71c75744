"""The page "Break it": small nets that compute in it, each with numbers that a reader can ruin."""

import html
from pathlib import Path

from docs.lessons import LESSONS, number
from docs.toy_data import write_data
from docs.toy_table import TOYS, Toy
from experiments import browser_digits

STYLE = '<link rel="stylesheet" href="toys/page.css">'
READY = """(async () => {
  while (document.readyState !== "complete" || typeof toys === "undefined")
    await new Promise(done => setTimeout(done, 20));
})()"""
"""Waits, in a browser, until the scripts of the page have run."""
SCRIPTS = ("home/run.js", "home/net.js", "home/gpt.js", "toys/shared.js")
INTRODUCTION = """# Break it

Each box below computes in your browser, with the same numbers as jaxnet. Move the sliders until
something goes wrong, and read why. **Break it** does so for you. Each box has a link that holds its
state, so you can send what you found.
"""
SOURCES = """The digits of 8×8 pixels are those of scikit-learn (Alpaydin and Kaynak 1998), the
larger ones are from MNIST (LeCun, Cortes and Burges). The text is Shakespeare's.
"""


def write_break_it(pages: Path, repository: str) -> None:
    """Write the page and its scripts, and a link to each toy on the page of its lesson."""
    write_data(pages)
    parts = [INTRODUCTION, STYLE]
    for toy in TOYS:
        parts += [f"## {toy.title} {{ #{toy.name} }}", toy.about, box(toy, repository)]
    text = "\n\n".join([*parts, SOURCES, scripts()])
    (pages / "break_it.md").write_text(f"{text}\n", encoding="utf-8")
    for path in LESSONS:
        toys = [toy for toy in TOYS if toy.lesson == number(path)]
        if toys:
            add_links(pages / "colab" / f"{path.stem}.md", toys)


def write_page(folder: Path) -> Path:
    """Write a page with nothing but the toys, for the tests; return it."""
    write_data(folder)
    browser_digits.write_board(folder)
    parts = [
        f'<h2 id="{toy.name}">{toy.title}</h2>\n<p>{toy.about}</p>\n{box(toy, "a/b")}'
        for toy in TOYS
    ]
    head = "<!doctype html><meta charset=utf-8><meta name=viewport content=width=device-width>"
    style = "<style>:root { color-scheme: light dark; font-family: system-ui }</style>"
    page = folder / "break_it.html"
    text = "\n".join([head, "<title>Break it</title>", style, STYLE, *parts, scripts()])
    page.write_text(text, encoding="utf-8")
    return page


def scripts() -> str:
    paths = [*SCRIPTS, *(f"toys/{toy.name}.js" for toy in TOYS)]
    return "\n".join(f'<script src="{path}"></script>' for path in paths)


def notebook(toy: Toy) -> Path:
    """Return the notebook of a toy's lesson."""
    return next(path for path in LESSONS if number(path) == toy.lesson)


def box(toy: Toy, repository: str) -> str:
    """Return the box of a toy in HTML."""
    owner, name = repository.rstrip("/").split("/")[-2:]
    path = notebook(toy)
    colab = f"https://colab.research.google.com/github/{owner}/{name}/blob/main/colab/{path.name}"
    kinds = {
        "canvas": f'<canvas role="img" aria-label="{toy.title}, drawn"></canvas>',
        "bars": '<div class="bars"></div>',
        "text": '<pre class="text" tabindex="0" aria-label="A text"></pre>',
    }
    lines = [
        f'<section class="toy" id="toy-{toy.name}" aria-label="{toy.title}">',
        '<div class="inputs">',
        *(control.html() for control in toy.controls),
        f'<p><button type="button" data-state="{html.escape(toy.broken)}">Break it</button>',
        '<button type="button">As it was</button></p>',
        "</div>",
        f'<div class="shown">{"".join(kinds[part] for part in toy.parts)}</div>',
        '<output aria-live="polite">The weights are loading.</output>',
        f'<pre class="python" data-python="{html.escape(toy.python)}"></pre>',
        f'<p class="links"><a class="invitation" href="#{toy.name}">{toy.invitation}</a>'
        f' · <a href="colab/{path.stem}.html">lesson {toy.lesson}</a>'
        f' · <a href="{colab}#scrollTo={toy.cell}">open its cell in Colab</a></p>',
        "</section>",
    ]
    return "\n".join(lines)


def add_links(page: Path, toys: list[Toy]) -> None:
    """Add invitations below the buttons of a lesson's page."""
    title, buttons, rest = page.read_text(encoding="utf-8").split("\n\n", 2)
    links = " · ".join(f"[{toy.invitation}](../break_it.md#{toy.name})" for toy in toys)
    text = "\n\n".join([title, buttons, f"**Break it:** {links}", rest])
    page.write_text(text, encoding="utf-8")
