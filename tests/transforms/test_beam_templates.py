"""Values of classic templates: used where they are known, refused with the way out where they are not."""

from __future__ import annotations

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.value_provider import NestedValueProvider, RuntimeValueProvider, StaticValueProvider

from clipmill.errors import SpecError
from clipmill.transforms import Classify, Embed, Rank, ReadDocuments, Search, WriteEmbeddings

LATER = RuntimeValueProvider("input", str, "gs://bucket/default")


@pytest.fixture(params=[False, True], ids=["no pipeline", "after a pipeline"], autouse=True)
def runtime_options(request, monkeypatch) -> None:
    """Options that a pipeline of this process has left, by which Beam thinks that it knows the value."""
    monkeypatch.setattr(RuntimeValueProvider, "runtime_options", PipelineOptions() if request.param else None)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: ReadDocuments(LATER), "patterns"),
        (lambda: ReadDocuments(["a.jpg", LATER]), "patterns"),
        (lambda: WriteEmbeddings(LATER), "directory"),
        (lambda: Search(LATER, query="q"), "index"),
        (lambda: Embed(LATER), "model"),
        (lambda: Embed("demo", max_batch_rows=LATER), "max_batch_rows"),
        (lambda: Rank(model=LATER), "model"),
        (lambda: Classify(LATER, model="demo"), "labels"),
        (lambda: Classify(["a", LATER], model="demo"), "labels"),
    ],
    ids=["read", "read several", "write", "search", "embed", "option", "rank", "classify", "classify several"],
)
def test_a_value_that_is_known_only_when_the_job_runs_is_refused(make, option) -> None:
    with pytest.raises(SpecError, match="make a flex template") as refused:
        make()
    assert refused.value.option == option and "RuntimeValueProvider" in str(refused.value)


def test_a_value_that_is_known_is_used(tmp_path) -> None:
    given, label = StaticValueProvider(str, f"{tmp_path}/*.jpg"), ReadDocuments(f"{tmp_path}/*.jpg").default_label()
    assert ReadDocuments(given).default_label() == label
    nested = NestedValueProvider(StaticValueProvider(str, "*.jpg"), f"{tmp_path}/".__add__)
    assert ReadDocuments(nested).default_label() == label
    assert WriteEmbeddings(StaticValueProvider(str, str(tmp_path))).default_label().startswith("WriteEmbeddings")
    assert Embed(StaticValueProvider(str, "demo"), max_batch_rows=StaticValueProvider(int, 7)).spec.max_batch_rows == 7
    assert Classify([StaticValueProvider(str, "a"), "b"], model="demo").labels.labels == ("a", "b")
