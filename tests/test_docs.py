"""The site is built without a warning; all public names, pages and pictures are on it."""

import importlib
import re

import pytest

pytest.importorskip("mkdocs", reason="the site needs the extra jaxnet-toolkit[site]")
docs = importlib.import_module("docs.__main__")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return docs.build(tmp_path_factory.mktemp("site")).parent


@pytest.mark.slow
def test_every_public_name_has_an_entry_with_its_docstring(site):
    pages = {path.stem: path.read_text() for path in (site / "reference").glob("*.html")}
    names = docs.public_places()
    assert len(names) > 200
    for name in names:
        assert f'id="{name}"' in pages[name.rpartition(".")[0]], name
    conv = pages["jaxnet"].split('id="jaxnet.conv"')[1].split('id="jaxnet.conv_transpose"')[0]
    for words in ("Convolution over all spatial axes", "dilation", "<strong>Params</strong>"):
        assert words in conv
    assert 'href="#jaxnet.conv"' in pages["jaxnet"]  # from the text of another entry


@pytest.mark.slow
def test_links_and_pictures_of_all_pages_lead_somewhere(site):
    seen = 0
    for page in site.rglob("*.html"):
        for target in re.findall(r'(?:src|href)="([^"#?]+)[^"]*"', page.read_text()):
            if re.match(r"[a-z]+:", target) or page.name == "404.html":
                continue
            seen += 1
            assert (page.parent / target).exists(), (page, target)
    assert seen > 1000


@pytest.mark.slow
def test_formulas_need_no_program(site):
    lesson = (site / "colab" / "01_perceptron_to_backpropagation.html").read_text()
    assert "<math" in lesson and "arithmatex" not in lesson


@pytest.mark.slow
def test_a_link_to_nowhere_stops_the_build(tmp_path, monkeypatch):
    copy = docs.copy_texts

    def broken(pages):
        copied = copy(pages)
        page = pages / "guide" / "troubleshooting.md"
        page.write_text(page.read_text() + "\n[nowhere](training.md#nowhere)\n")
        return copied

    monkeypatch.setattr(docs, "copy_texts", broken)
    with pytest.raises(RuntimeError, match=r"(?s)docs: the site has warnings.*#nowhere"):
        docs.build(tmp_path)
