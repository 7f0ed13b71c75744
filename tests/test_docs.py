"""The site: no warning, nothing from elsewhere, and every name, page and picture."""

import html
import importlib
import inspect
import json
import operator
import re
import shutil
from pathlib import Path

import pytest

import jaxnet as jn
from experiments import browser_digits as browser
from experiments.__main__ import findings
from experiments.benchmarks import figures as benchmarks

pytest.importorskip("mkdocs", reason="the site needs the extra jaxnet-toolkit[site]")
docs = importlib.import_module("docs.__main__")
docstrings = importlib.import_module("docs.docstrings")
gallery = importlib.import_module("docs.gallery")
lessons = importlib.import_module("docs.lessons")
menu = importlib.import_module("docs.navigation")
reference = importlib.import_module("docs.reference")

TAG = re.compile(r"<(script|link|img|iframe|source|video|audio|object|embed)\b[^>]*>")
LESSONS = [path.stem for path in lessons.LESSONS]
PLACE = "/jaxnet/"  # of the site on its host


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return docs.build(tmp_path_factory.mktemp("site")).parent


@pytest.fixture
def phone(site):
    """A function that opens a page of the site in a browser of 390 pixels."""
    if not any(map(shutil.which, browser.BROWSERS)):
        pytest.skip("needs Chromium or Chrome on the PATH")
    with browser.opened(site / "index.html") as ask:
        size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        ask("Emulation.setDeviceMetricsOverride", **size)

        def opened(page, expression):
            ask("Page.navigate", url=page.as_uri())
            browser.evaluate(ask, COMPLETE)
            return browser.evaluate(ask, expression)

        yield opened


COMPLETE = """new Promise(done => {
  if (document.readyState === "complete") done();
  else addEventListener("load", () => done());
})"""


@pytest.mark.long
def test_no_page_is_wider_than_a_phone(site, phone):
    """What is wider, such as a table or a formula, scrolls in its own box."""
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    assert len(pages) > 90
    widths = {page: phone(page, "document.documentElement.scrollWidth") for page in pages}
    assert {page: width for page, width in widths.items() if width > 390} == {}


@pytest.mark.slow
def test_the_first_screen_says_what_jaxnet_is(site):
    """In one sentence with its installation, above the nets that compute."""
    page = (site / "index.html").read_text().partition("<article")[2]
    above, nets, below = page.partition('id="tabs"')
    assert nets
    assert "jaxnet is a neural-network library for JAX. pip install" in words(above)
    assert "jaxnet is a neural-network library" not in words(below)


@pytest.mark.slow
def test_signatures_of_the_reference_are_divided_into_lines(site):
    for page in (site / "reference").glob("*.html"):
        for block in re.findall(r'doc-signature highlight">(.*?)</pre>', page.read_text(), re.S):
            lines = html.unescape(re.sub(r"<[^>]+>", "", block)).splitlines()
            assert max(map(len, lines)) <= 80, lines


@pytest.mark.slow
def test_outputs_of_the_guide_look_like_those_of_lessons(site):
    page = (site / "guide" / "training.html").read_text()
    assert len(re.findall(r'<div class="output no-copy( wrapped)? highlight"', page)) > 5


def words(text: str) -> str:
    """Text without tags, entities, backticks and runs of spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).replace("`", "").split())


@pytest.mark.slow
def test_every_public_name_has_an_entry_with_its_docstring(site):
    pages = {p.stem: p.read_text() for p in (site / "reference").glob("*.html")}
    names = docstrings.public_places() + docstrings.module_places()
    known = (Path(__file__).parent / "public_api.txt").read_text().splitlines()
    assert len(docstrings.public_places()) == len(known)
    assert len(names) > len(known)
    for name in names:
        assert sum(f'id="{name}"' in text for text in pages.values()) == 1, name
    page = pages["dense_and_convolution"]
    conv = page.split('id="jaxnet.conv"')[1].split('id="jaxnet.conv_transpose"')[0]
    for text in ("Convolve over all spatial axes", "dilation", "Arguments:", "Raises:"):
        assert text in conv
    assert "<strong>Parameters created:</strong>" in conv
    assert "Params" not in conv
    assert ">Parameters:<" not in conv
    assert 'href="#jaxnet.conv"' in page  # from the text of another entry
    entry = pages["restricted_boltzmann_machines"].split('id="jaxnet.unsupervised.rbm.fit_rbm"')[1]
    returned = entry.split("Returns:")[1].split("Raises:")[0]
    assert returned.count("<li") == 1
    assert "visible_bias" in returned  # a description of two lines


@pytest.mark.slow
def test_the_index_has_each_name_once_but_those_for_lessons_with_its_first_line(site):
    index = (site / "reference" / "index.html").read_text()
    found = re.findall(r"<tr>\s*<td[^>]*>(.*?)</td>\s*<td[^>]*>(.*?)</td>", index, re.S)
    rows = [tuple(map(words, row)) for row in found]
    pages = [page for page in reference.reference() if page.section == reference.LESSONS]
    left_out = {name.public for page in pages for name in page.names}
    some = {"jaxnet.training.mistake_bound", "jaxnet.unsupervised.hmm.viterbi"}
    assert some < left_out
    assert all(f'href="{Path(page.path).stem}.html"' in index for page in pages)
    names = [name for name in docstrings.public_places() if name not in left_out]
    shown = [name.replace("jn.", "jaxnet.", 1) for name, _ in rows]
    assert sorted(shown) == sorted(names + docstrings.module_places())
    for name, summary in rows:
        assert summary, name
    summaries = dict(zip(shown, [summary for _, summary in rows], strict=True))
    for name in names:
        value = operator.attrgetter(name.removeprefix("jaxnet."))(jn)
        if inspect.isfunction(value) and "<" not in value.__qualname__:
            assert summaries[name] == words(inspect.getdoc(value).split("\n\n")[0]), name


@pytest.mark.slow
def test_public_methods_have_an_entry_below_their_class(site):
    pages = {p.stem: p.read_text() for p in (site / "reference").glob("*.html")}
    entries = [entry for page in reference.reference() for entry in page.names]
    found = [f"{entry.public}.{method}" for entry in entries for method in entry.methods]
    some = {"jaxnet.Checkpoints.newest", "jaxnet.Checkpoints.best", "jaxnet.Epoch.scalars"}
    assert some <= {*found}
    assert not [name for name in found if "._" in name]
    for name in found:
        assert sum(f'id="{name}"' in text for text in pages.values()) == 1, name
    page = pages["checkpoints_and_logs"]
    assert 'href="#jaxnet.Checkpoints.save"' in page  # from the class, whose method it is
    newest = words(page.split('id="jaxnet.Checkpoints.newest"')[1].split("<h3")[1])
    assert "newest(like:TrainState," in newest.replace(" ", "")


@pytest.mark.slow
def test_no_page_shows_markdown(site):
    """Such as backticks in a block of HTML, or a link in a block of code."""
    for page in site.rglob("*.html"):
        article = page.read_text().partition("<article")[2].partition("</article>")[0]
        assert "][jaxnet." not in article, page
        plain = re.sub(r"<(pre|code|math)\b.*?</\1>", "", article, flags=re.S)
        assert "`" not in re.sub(r"<[^>]+>", "", plain), page


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_solutions_of_a_lesson_are_a_list(site, name):
    cells = json.loads((lessons.ROOT / "colab" / f"{name}.ipynb").read_text())["cells"]
    [source] = [text for cell in cells if "<details>" in (text := "".join(cell["source"]))]
    page = (site / "colab" / f"{name}.html").read_text()
    folded = re.findall(r"<details>.*?</details>", page, re.S)[-1]
    assert folded.count("<li>") == len(re.findall(r"^\d+\. ", source, re.M)) > 2
    assert folded.count("<ol") == 1
    assert folded.count("<pre") == source.count("```") / 2


LINK = r'<a class="[^"]*" href="\.\./reference/checkpoints_and_logs.html#jaxnet.Checkpoints"'


@pytest.mark.slow
@pytest.mark.parametrize(("page", "words"), [
    ("guide/checkpoints", rf"{LINK}><code>jn.Checkpoints</code></a>"),  # names are links
    *[("reference/plots", f'src="pictures/{name}.png"')  # of the example of a plot
      for name in ("confusion", "curves", "embedding", "graph", "masks")],
    # Formulas need no program.
    ("colab/01_perceptron_to_backpropagation", "(?s)^(?!.*arithmatex).*<math"),
])  # fmt: skip
def test_a_page_has(site, page, words):
    assert re.search(words, (site / f"{page}.html").read_text())


@pytest.mark.slow
def test_links_and_pictures_of_all_pages_lead_somewhere(site):
    seen = 0
    for page in site.rglob("*.html"):
        for target in re.findall(r'(?:src|href)="([^"#?]+)[^"]*"', page.read_text()):
            if re.match(r"[a-z]+:", target):
                continue
            seen += 1
            if page.name == "404.html":  # shown at any address, so its links begin with the site's
                assert target.startswith(PLACE), target
                assert (site / target.removeprefix(PLACE)).exists(), target
            else:
                assert (page.parent / target).exists(), (page, target)
    assert seen > 1000


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        for tag in TAG.finditer(text):
            assert "//" not in tag[0] or 'rel="canonical"' in tag[0], (page, tag[0])
        assert 'data-md-component="source"' not in text, page  # asks GitHub for the stars
    for page in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", page.read_text()), page


@pytest.mark.slow
def test_search_knows_the_names_of_the_reference(site):
    index = json.loads((site / "search" / "search_index.json").read_text())
    places = {entry["title"]: entry["location"] for entry in index["docs"]}
    assert places["jaxnet.max_pool"] == "reference/pooling.html#jaxnet.layers.pool.max_pool"


@pytest.mark.slow
def test_every_page_has_a_link_to_the_repository(site):
    link = f'<a href="{docs.repository()}" target="_blank" rel="noopener" title="Source code"'
    for page in site.rglob("*.html"):
        assert link in page.read_text(), page


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_lesson_has_its_links_and_a_folded_installation(site, name):
    page = (site / "colab" / f"{name}.html").read_text()
    assert 'class="md-footer__link md-footer__link--prev"' in page
    assert 'class="md-footer__link md-footer__link--next"' in page
    colab = f"https://colab.research.google.com/github/jaxnet/jaxnet/blob/main/colab/{name}.ipynb"
    assert f'href="{colab}"' in page
    assert f'href="notebooks/{name}.ipynb"' in page
    download = site / "colab" / "notebooks" / f"{name}.ipynb"
    assert download.read_bytes() == (lessons.ROOT / "colab" / f"{name}.ipynb").read_bytes()
    assert "Prerequisites" in page
    folded = words("".join(re.findall(r"<details.*?</details>", page, re.S)))
    assert words(page).count("pip could not") == folded.count("pip could not") == 1
    assert folded.count("SIZE") >= 2


@pytest.mark.slow
def test_every_lesson_is_on_the_page_of_lessons_with_its_picture(site):
    page = (site / "colab" / "index.html").read_text()
    figures = re.findall(r"<figure>.*?</figure>", page, re.S)
    assert len(figures) == len(LESSONS)
    picture = r'<a href="\w+\.html"><img alt="[^"]+" loading="lazy" src="\w+\.png"'
    for figure in figures:
        assert re.search(picture, figure)
        assert "Prerequisites:" in words(figure), figure


@pytest.mark.slow
def test_every_finding_with_pictures_is_in_the_gallery(site):
    page = (site / "experiments" / "gallery.html").read_text()
    figures = re.findall(r"<figure>.*?</figure>", page, re.S)
    shown = re.findall(r'<img alt="[^"]+" loading="lazy" src="pictures/([^"]+)"', page)
    records = [r for _, r in (*findings(), *benchmarks.findings()) if r.pictures]
    assert shown[: len(gallery.FIRST)] == [*gallery.FIRST]
    assert "benchmark" in shown[-1]
    assert len(figures) == len(shown) == len(records)
    for record in records:
        assert len({picture.file for picture in record.pictures} & {*shown}) == 1, record.title
    for figure in figures:
        assert len(words(figure.split("<figcaption>")[1].split("<span>")[0])) > 8, figure


def rows_in_two_columns():
    """Public name and first column of each row of a list in a docstring."""
    for public in docstrings.public_places():
        value = operator.attrgetter(public.removeprefix("jaxnet."))(jn)
        text = docstrings.lists(inspect.getdoc(value) or "")
        for term in re.findall(r"^- `([^`\n]+)`: ", text, re.M):
            yield public, term


@pytest.mark.slow
def test_lists_of_docstrings_are_lists(site):
    pages = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    items = {words(item) for item in re.findall(r"<li>(?:<p>)?<code>.*?</code>", pages, re.S)}
    found = list(rows_in_two_columns())
    assert len(found) > 20
    assert {public for public, _ in found} >= {
        "jaxnet.compose",
        "jaxnet.moe",
        "jaxnet.multi_head_attention",
        "jaxnet.interop.by_names",
    }
    for public, term in found:
        assert " ".join(term.split()) in {" ".join(item.split()) for item in items}, (public, term)


@pytest.mark.slow
def test_llms_txt_lists_the_pages(site):
    text = (site / "llms.txt").read_text()
    assert text.startswith("# jaxnet\n\n> jaxnet is ")
    links = re.findall(rf"\]\({PLACE}([^)#]+)\)", text)
    links = links or re.findall(r"jaxnet/([\w/]+\.html)", text)
    assert len(links) > 20
    for link in links:
        assert (site / link).exists(), link


@pytest.mark.slow
def test_a_link_to_nowhere_stops_the_build(tmp_path, monkeypatch):
    copy = docs.copy_texts

    def broken(pages):
        copied = copy(pages)
        page = pages / "CHANGELOG.md"
        page.write_text(page.read_text() + "\n[nowhere](CONTRIBUTING.md#nowhere)\n")
        return copied

    monkeypatch.setattr(docs, "copy_texts", broken)
    with pytest.raises(RuntimeError, match=r"(?s)docs: the site has warnings.*#nowhere"):
        docs.build(tmp_path)


@pytest.mark.parametrize(("module", "section", "page"), [
    ("layers.conv", "Layers", "Dense and convolution"),
    ("layers.new_kind", "Layers", "New kind"),
    ("unsupervised.hmm.markov", "For the lessons", "Hidden Markov models"),
    ("training.checkpoint", "Training", "Checkpoints and logs"),
    ("training.new", "Training", "Objectives and trainers"),
    ("core.compose", "Core", "Core"),
    ("", "Core", "Core"),
    ("brand_new", "Brand new", "Brand new"),
])  # fmt: skip
def test_the_file_of_a_name_decides_its_page(module, section, page):
    assert reference.page_of(module)[0] == (section, page)


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.slow
def test_the_menu_follows_the_pages_that_there_are(tmp_path):
    write(tmp_path, guide__README="[b](b.md) [a](a.md)", guide__a="# A", guide__b="# B `c`")
    write(tmp_path, experiments__README="# Results", experiments__gallery="# Gallery")
    for path in lessons.LESSONS:
        write(tmp_path, **{f"colab__{path.stem}": f"# {path.stem}"})

    def titles():
        entries = menu.navigation(tmp_path)
        return {title: under for entry in entries for title, under in entry.items()}

    how_to = ["guide/README.md", {"B c": "guide/b.md"}, {"A": "guide/a.md"}]
    assert list(titles()) == [
        "Home", "Course", "How-to guides", "Reference", "Results", "Gallery", "Contributing",
        "Changelog"]  # fmt: skip
    assert titles()["How-to guides"] == how_to
    write(tmp_path, guide__getting_started="# Getting started", guide__key_ideas="# Key ideas")
    write(tmp_path, guide__migrating__keras="# Keras", guide__migrating__haiku="# Haiku")
    write(tmp_path, guide__glossary="# Glossary", experiments__performance="# Performance")
    write(tmp_path, guide__compare="# Compare", guide__cheat_sheet="# Sheet", guide__faq="# FAQ")
    write(tmp_path, experiments__results__images="# Images")
    assert list(titles()) == [
        "Home", "Getting started", "Key ideas", "Course", "How-to guides", "Compare and migrate",
        "Reference", "Results", "Performance", "Gallery", "Contributing", "Changelog"]  # fmt: skip
    assert titles()["How-to guides"] == how_to
    haiku, keras = ({n: f"guide/migrating/{n.lower()}.md"} for n in ("Haiku", "Keras"))
    assert titles()["Compare and migrate"] == [{"Compare": "guide/compare.md"}, haiku, keras]
    looked_up = {"Sheet": "cheat_sheet", "FAQ": "faq", "Glossary": "glossary"}
    assert titles()["Reference"][-3:] == [{n: f"guide/{p}.md"} for n, p in looked_up.items()]
    results = ["experiments/README.md", {"Images": "experiments/results/images.md"}]
    assert titles()["Results"] == results
    assert titles()["Performance"] == "experiments/performance.md"


def test_the_code_of_a_folded_cell_is_folded_and_its_output_is_not(tmp_path):
    cell = {
        "source": ["x = 1\n", "print(x)"],
        "outputs": [{"text": ["1\n"]}],
        "metadata": {"cellView": "form", "jupyter": {"source_hidden": True}},
    }
    written = lessons.code(cell, "a", tmp_path)
    assert written == (
        '??? note "Code of this cell"\n\n    ```python\n    x = 1\n    print(x)\n    ```\n\n'
        "```{ .text .output .no-copy .wrapped }\n1\n```"
    )
    assert lessons.code(cell | {"metadata": {}}, "a", tmp_path).startswith("```python\nx = 1")


def test_links_to_lessons_by_number():
    text = "lessons 3, 5 and 12; transfer is in lesson 6, 28 images, lesson 99"
    text = lessons.linked_lessons(text)
    assert re.findall(r"\[(\d+)\]\(\d\d_\w+\.ipynb\)", text) == ["3", "5", "12", "6"]
    assert text.endswith("28 images, lesson 99")


def test_a_picture_of_a_finding_has_its_links(tmp_path):
    folder = tmp_path / "experiments"
    write(
        folder,
        results__images="# Images\n\n## Skips help, a lot\n\n"
        "![The net's\nboxes](../pictures/a.png)\n\n"
        "- [source](../../experiments/camvid.py), [lesson 7](../../colab/07_segmentation.ipynb)\n\n"
        "## Other\n\n![](../pictures/b.png)\n",
    )
    first, second = gallery.found(folder / "results" / "images.md", folder)
    assert first == gallery.Card(
        "a.png",
        "The net's boxes",
        "Skips help, a lot",
        "results/images.md#skips-help-a-lot",
        "../experiments/camvid.py",
        "../colab/07_segmentation.ipynb",
    )
    assert second[2:] == ("Other", "results/images.md#other", "", "")


@pytest.mark.parametrize(("text", "kind"), [
    ("99.11 ± 0.60", "number"),
    ("<b>3.45</b>", "number"),
    ("−3.1e-5 s", "number"),
    ("81.01% after six epochs", "medium"),
    ("a word " * 6, "long"),
])  # fmt: skip
def test_numbers_in_tables_stay_on_one_line(text, kind):
    assert docs.CELL.sub(docs.sized, f"<td>{text}</td>") == f'<td class="{kind}">{text}</td>'
    style = ' style="text-align: right;"'
    done = docs.CELL.sub(docs.sized, f"<td{style}>{text}</td>")
    assert done == f'<td{style} class="{kind}">{text}</td>'
    assert docs.CELL.sub(docs.sized, "<td>a word</td>") == "<td>a word</td>"


def test_the_interval_of_a_number_has_a_class():
    found = docs.CELL.sub(docs.sized, "<td>3.45 (3.27 to 3.53)</td>")
    assert found == '<td class="number">3.45 <span class="interval">(3.27 to 3.53)</span></td>'


def test_blocks_below_code_are_marked_as_outputs():
    page = "```python\n1\n```\n\n```{}\n{}\n```\n"
    for kind in ("text", "output", "sample", ""):
        marked = docs.mark_outputs(page.format(kind, "loss 0.1"))
        assert marked == page.format("{ .text .output .no-copy .wrapped }", "loss 0.1"), kind
    columns = docs.mark_outputs(page.format("text", "a  b"))
    assert columns == page.format("{ .text .output .no-copy }", "a  b")
    for other in (page.format("python", "2"), "A file:\n\n```text\nx\n```\n"):
        assert docs.mark_outputs(other) == other


def test_names_are_linked_once_below_each_heading():
    page = (
        "# Use `jn.fit`\n\n`jn.fit` and `jn.fit(x)`, [`jn.save`](a.md), `jn.data.mnist()`,\n"
        "`jn.nothing`, `x = jn.conv`, `jn.dense(\n3)` and `jn.Checkpoints(a).newest(b)`.\n\n"
        "```python\ny = `jn.fit`\n```\n\n## More\n\n| `jn.fit` |\n"
    )
    assert docs.link_names(page) == (
        "# Use `jn.fit`\n\n[`jn.fit`][jaxnet.fit] and `jn.fit(x)`, [`jn.save`](a.md), "
        "[`jn.data.mnist()`][jaxnet.data.mnist],\n`jn.nothing`, `x = jn.conv`, "
        "[`jn.dense(\n3)`][jaxnet.dense] and "
        "[`jn.Checkpoints(a).newest(b)`][jaxnet.Checkpoints].\n\n"
        "```python\ny = `jn.fit`\n```\n\n## More\n\n| [`jn.fit`][jaxnet.fit] |\n"
    )


def test_names_in_docstrings_are_linked_outside_of_code():
    text = (
        "Use `fit`, `digits`, `(x, *, key) ->\n(y, *rest)` and 2 * 3.\n\n"
        "    code `fit` * 2\n\n    more * code\n\n"
        "After `tfds.load`.\n\nArgs:\n  a: As\n    in `fit`.\n\nExample:\n  >>> `fit`\n"
    )
    assert docstrings.linked(text, others={"digits": None}).splitlines() == [
        "Use [`fit`][jaxnet.fit], `digits`, `(x, *, key) ->", "(y, *rest)` and 2 \\* 3.", "",
        "    code `fit` * 2", "",
        "    more * code", "", "After [`tfds.load`][jaxnet.data.tfds.load].", "", "Args:",
        "  a: As", "    in [`fit`][jaxnet.fit].", "", "Example:", "  >>> `fit`",
    ]  # fmt: skip


def test_examples_of_docstrings_name_the_library():
    text = (
        "Example:\n  >>> batches = [load(name) for name in ('load', \"save\")]\n"
        "  >>> def f(save, load=2):\n  ...     return x.fit(load=load, batches=batches), digits()\n"
        "  load\n  >>> mnist(digits=digits, äö=digits)"
    )
    known = {"batches", "load", "mnist", "digits"}
    assert docstrings.qualified(text, "jaxnet.data.digits", known) == (
        text.replace("digits()", "jn.data.digits()")
        .replace("mnist(", "jn.data.mnist(")
        .replace("=digits", "=jn.data.digits")
    )
    one = "  >>> tree = load(file)"
    places = {"training.checkpoint.save": "jn.load", "data.tfds.x": "jn.data.tfds.load"}
    for path, name in places.items():
        assert docstrings.qualified(one, f"jaxnet.{path}", known) == one.replace("load", name)
    imported = "  >>> export(1)"  # by users
    assert docstrings.qualified(imported, "jaxnet.interop.export.x", {"export"}) == imported


def test_a_colon_in_what_is_returned_is_no_type():
    griffe = importlib.import_module("griffe")
    docstring = griffe.Docstring("F.\n\nReturns:\n  ((x, y), (a, b)): images.\n")
    function = griffe.Function("f", returns="Pair", docstring=docstring)
    griffe.Module("jaxnet").set_member("f", function)
    docstring.value = docstrings.shown(docstring.value, function)
    options = dict.fromkeys(("returns_multiple_items", "returns_named_value", "warnings"), False)
    _, returned = docstring.parse("google", **options)
    assert returned.value[0].description == "((x, y), (a, b)): images."
    assert returned.value[0].annotation == "Pair"


def test_the_address_of_the_site(monkeypatch):
    assert docs.address().endswith(f".github.io{PLACE}")
    monkeypatch.setattr(docs, "repository", lambda: "https://github.com/Some-One/net")
    assert docs.address() == "https://some-one.github.io/net/"


def test_links_in_code_stay_and_those_to_files_lead_to_the_repository(tmp_path):
    write(tmp_path, guide__a="# A")
    here = docs.repository()
    page = tmp_path / "b.md"
    page.write_text(
        f"[a](guide/a.md#x) [a]({here}/blob/main/guide/a.md) [c](jaxnet/c.py) `x[0](y)`\n\n"
        "```python\ndraw[name](key)\n```\n\n[c](jaxnet/c.py)\n"
    )
    docs.mend_links(page, tmp_path)
    assert page.read_text() == (
        f"[a](guide/a.md#x) [a](guide/a.md) [c]({here}/blob/main/jaxnet/c.py) `x[0](y)`\n\n"
        f"```python\ndraw[name](key)\n```\n\n[c]({here}/blob/main/jaxnet/c.py)\n"
    )
