"""The examples in the docstrings of public names run, and print what they say."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest

import clipmill
from clipmill import transforms

NAMES = {
    clipmill: ("EncoderSpec", "load_encoder"),
    clipmill.encoders: ("AccessPaths", "Document", "Encoder", "score"),
    clipmill.encoders.Encoder: ("embed", "embed_audios", "embed_images", "embed_items", "embed_texts"),
    transforms: ("Classify", "Embed", "Rank", "ReadDocuments", "Search", "WriteEmbeddings"),
}
SPARK = (
    *("classify", "clip_similarity", "embed_columns", "embed_image", "embed_text", "rank", "rank_groups"),
    *("register", "search", "ClipEmbedder", "ClipRanker", "ClipClassifier"),
)
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def run(value: Any, **names: Any) -> None:
    """Run the examples of one docstring, at least one."""
    (found,) = doctest.DocTestFinder(recurse=False).find(value, value.__name__, globs={"Path": Path, **names})
    assert found.examples, f"{value.__name__} has no example"
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    assert runner.run(found).failed == 0


@pytest.mark.parametrize(
    "value",
    [getattr(module, name) for module, names in NAMES.items() for name in names],
    ids=lambda value: value.__name__,
)
def test_an_example(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(value)


@pytest.mark.parametrize("name", SPARK)
def test_an_example_on_spark(name, spark, tmp_path, monkeypatch):
    from clipmill import udfs

    monkeypatch.chdir(tmp_path)
    run(getattr(udfs, name), spark=spark)
