"""The words of the project: plain English, the field's terms."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path
    for folder in ("jaxnet", "guide", "colab", "experiments")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".md", ".ipynb"} and "runs" not in path.parts
) + [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
OUT_OF_USE = re.compile(
    r"\b(rightly|anew|so many|so much|(?-i:is none)|for ever|mostly|is told|are told|told by name"
    r"|leaned|goes by|of its own|learns by heart|set-up|some seconds|looks well|a bend|bends"
    r"|lines that lie|turned(?! (?:on|off|into)))\b",
    re.IGNORECASE,
)
RENAMED = re.compile(
    r"\b(global_mean_pool|mean_pool|each_step|channel_dropout|l2_pool_features|random_skew"
    r"|random_color|random_distortion|without_void|binary_focal|smoothed_cross_entropy"
    r"|sequence_error_rate|fit_whole_rbm|by_clusters|in_segments|attention_memory|make_step"
    r"|init_training|unchecked)\b"
)


def readable(path: Path) -> str:
    """The text of a file; of a notebook without its pictures."""
    return re.sub(r'"image/png": "[^"]*"', "", path.read_text())


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_words_that_are_out_of_use(path: Path):
    found = [
        f"line {n}: {match.group()}"
        for n, line in enumerate(readable(path).splitlines(), 1)
        for match in OUT_OF_USE.finditer(line)
    ]
    assert not found


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_no_old_name_stays(path: Path):
    if path.name != "CHANGELOG.md":
        assert not RENAMED.findall(readable(path))
