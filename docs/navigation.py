"""The menu of the site, from the pages that there are."""

import re
from pathlib import Path
from typing import Any

from docs.lessons import groups
from docs.reference import reference

LINK = re.compile(r"\]\(\s*([\w./-]+\.md)")
LOOKED_UP = ("cheat_sheet.md", "faq.md", "glossary.md")  # in the guide: pages of the reference
Menu = list[Any]


def navigation(pages: Path) -> Menu:
    """The menu in the form of mkdocs, with every page once."""
    guide, results = pages / "guide", pages / "experiments"
    first = [guide / "getting_started.md", guide / "key_ideas.md"]
    looked_up, gallery = [*map(guide.joinpath, LOOKED_UP)], results / "gallery.md"
    migrating = [*guide.glob("compare.md"), *guide.glob("migrating/*.md")]
    performance = [*results.glob("performance*.md"), *results.glob("**/performance/*.md")]
    performance += results.glob("benchmarks/*.md")
    lessons = [
        {title: [item(pages / "colab" / f"{path.stem}.md", pages) for path in paths]}
        for title, paths in groups().items()
    ]
    return [
        {"Home": "README.md"},
        *(item(path, pages) for path in first if path.exists()),
        {"Course": ["colab/README.md", "colab/topics.md", *lessons]},
        *({"Break it": path.name} for path in pages.glob("break_it.md")),
        *section("How-to guides", guide, {*first, *looked_up, *migrating}, pages),
        *listed("Compare and migrate", migrating, pages),
        {"Reference": reference_menu() + [item(p, pages) for p in looked_up if p.exists()]},
        *section("Results", results, {gallery, *performance}, pages),
        *listed("Performance", performance, pages),
        {"Gallery": "experiments/gallery.md"},
        {"Contributing": "CONTRIBUTING.md"},
        {"Changelog": "CHANGELOG.md"},
    ]


def section(name: str, folder: Path, without: set[Path], pages: Path) -> Menu:
    return listed(name, [path for path in folder.rglob("*.md") if path not in without], pages)


def listed(name: str, paths: list[Path], pages: Path) -> Menu:
    """A section with its README first, and the others in the order in which it links them."""
    paths = ordered(paths)
    if not paths:
        return []
    if paths[0].name == "README.md":  # the page of the section itself
        return [{name: [relative(paths[0], pages), *(item(path, pages) for path in paths[1:])]}]
    if len(paths) == 1:
        return [{name: relative(paths[0], pages)}]
    return [{name: [item(path, pages) for path in paths]}]


def ordered(paths: list[Path]) -> list[Path]:
    """Pages in the order in which the first README among them links them."""
    paths = sorted(paths, key=lambda path: (path.name != "README.md", path))
    if not paths:
        return []
    linked = [paths[0].parent / link for link in LINK.findall(paths[0].read_text(encoding="utf-8"))]
    order = [path.resolve() for path in (paths[0], *linked)]
    return sorted(paths, key=lambda p: (*order, p.resolve()).index(p.resolve()))


def reference_menu() -> Menu:
    """The index, and the pages by section."""
    menu: Menu = ["reference/index.md"]
    sections: dict[str, Menu] = {}
    for page in reference():
        sections.setdefault(page.section, []).append({page.title: page.path})
    for title, found in sections.items():
        menu += found if len(found) == 1 else [{title: found}]
    return menu


def item(path: Path, pages: Path) -> dict[str, str]:
    """A page under its first heading."""
    heading = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.M)
    title = heading[1].replace("`", "") if heading else path.stem
    return {title: relative(path, pages)}


def relative(path: Path, pages: Path) -> str:
    return path.relative_to(pages).as_posix()
