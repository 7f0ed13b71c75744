"""Patterns of paths: what fits, which one counts, and what is no pattern."""

import pytest

from jaxnet.services.paths import check_patterns, first_fits, fits


@pytest.mark.parametrize(("pattern", "path", "expected"), [
    ("dense/kernel", "dense/kernel", True),
    ("dense/kernel", "net/dense/kernel", False),
    ("*", "a/b/c", True),
    ("*/kernel", "kernel", True),
    ("*/kernel", "a/my_kernel", False),
    ("*kernel", "a/my_kernel", True),
    ("encoder/*", "my_encoder/a", False),
    ("*/attention/(query|value)/kernel", "block_1/attention/value/kernel", True),
    ("*/attention/(query|value)/kernel", "attention/key/kernel", False),
    ("a.b/*", "axb/c", False),
    ("block_[1]/*", "block_1/c", False),
])  # fmt: skip
def test_fits(pattern, path, expected):
    assert fits(pattern, path) is expected


def test_the_first_pattern_counts_and_each_is_needed():
    paths = ["a/bias", "a/kernel", "b/kernel"]
    assert first_fits("f", ["*/bias", "a/*"], paths) == ["*/bias", "a/*", None]
    words = r"^f: no array needs the pattern 'a/\*', .* earlier .*: a/bias, a/k"
    with pytest.raises(ValueError, match=words):
        first_fits("f", ["*", "a/*"], paths)


@pytest.mark.parametrize("wrong", ["(a", 3, None])
def test_what_is_not_a_pattern(wrong):
    with pytest.raises((TypeError, ValueError), match="^f: where must hold patterns like"):
        check_patterns("f", "where", [wrong])
