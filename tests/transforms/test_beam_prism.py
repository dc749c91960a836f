"""Transforms and commands on Prism, Beam's portable runner, with workers in the process of the driver and in a pool.

A short version: `make test-prism` runs the contract suites there, `make soak` kills its processes, and lets workers
install what `--setup_file` stages.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from beam_helpers import Keep, kept
from prism import Prism, WorkerPool, built_or_skipped, free_port, wait_for

from clipmill.datasets import read_dataset, read_failures
from clipmill.encoders.testing import fake_text_vector
from clipmill.pipelines.cli import main
from clipmill.transforms import Classify, Embed, Rank, ReadDocuments, Search, WriteEmbeddings

TEXTS = ["one", "", "three", "four"]
GOOD = {text: fake_text_vector(text).tolist() for text in TEXTS if text}


class Caption(NamedTuple):
    id: str
    caption: str


@pytest.fixture(scope="module")
def prism(tmp_path_factory):
    built_or_skipped("prism")
    with Prism(tmp_path_factory.mktemp("prism")) as prism:
        yield prism


def everything(p: beam.Pipeline, folder: Path) -> None:
    """Put each transform into a pipeline, and keep what comes out in folders."""
    lines = [json.dumps({"id": text or "empty", "text": text}) for text in TEXTS]
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    documents = p | ReadDocuments(str(folder / "in.jsonl"))
    _ = documents | "EmbedDocuments" >> Embed("fake::dim=8") | "Documents" >> WriteEmbeddings(folder / "documents")
    dicts = [{"id": text or "empty", "caption": text, "others": ["x", text or "y"]} for text in TEXTS]
    rows = p | "Dicts" >> beam.Create(dicts)
    columns = {"caption": "text"}
    schema = pa.schema([("id", pa.string()), ("caption", pa.string()), ("others", pa.list_(pa.string()))])
    embedded = rows | "EmbedDicts" >> Embed("fake::dim=8", columns=columns)
    _ = embedded | "OfDicts" >> WriteEmbeddings(
        folder / "dicts", schema=schema, embed=Embed("fake::dim=8", columns=columns)
    )
    ranked = rows | Rank("fake::dim=8", query="caption", candidates="others", output="ranked")
    _ = ranked.rows | "KeepRanked" >> Keep(folder / "ranked")
    flat = rows | beam.FlatMap(lambda row: [{"q": "one", "c": c, "g": row["id"]} for c in row["others"] if c])
    flat_ranked = flat | "RankFlat" >> Rank("fake::dim=8", query="q", candidate="c", by="g", top_k=2)
    _ = flat_ranked.rows | "KeepFlat" >> Keep(folder / "flat")
    classified = rows | Classify(["one", "two"], model="fake::dim=8", columns=columns)
    _ = classified.rows | "KeepClassified" >> Keep(folder / "classified")
    found = embedded.rows | Search(str(folder / "corpus"), query="caption_embedding", query_kind="vector", top_k=1)
    _ = found.rows | "KeepFound" >> Keep(folder / "found")
    for name, create in (("beam rows", beam.Row), ("named tuples", Caption)):
        some = p | f"Create {name}" >> beam.Create([create(id=text, caption=text) for text in TEXTS if text])
        _ = some | f"Embed {name}" >> Embed("fake::dim=8", columns=columns) | name >> WriteEmbeddings(folder / name)


def check_everything(folder: Path) -> None:
    for name in ("documents", "dicts", "beam rows", "named tuples"):
        column = "embedding" if name == "documents" else "caption_embedding"
        rows = read_dataset(str(folder / name)).to_pylist()
        assert sorted(row["id"] for row in rows) == sorted(GOOD), name
        assert {row["id"]: row[column] for row in rows} == GOOD, name
    for name in ("documents", "dicts"):
        assert [(one["row"], one["code"]) for one in read_failures(str(folder / name))] == [("empty", "empty")], name
    ranked = {row["id"]: row["ranked"] for row in kept(folder / "ranked")}
    assert {name: [one["position"] for one in found][:1] for name, found in ranked.items()} == {n: [1] for n in GOOD}
    assert sorted(row["rank"] for row in kept(folder / "flat")) == [1] * 4 + [2] * 4
    assert sorted(row["id"] for row in kept(folder / "classified")) == sorted(GOOD)
    assert {row["id"]: row["hits"][0]["id"] for row in kept(folder / "found")} == {name: name for name in GOOD}


def write_corpus(folder: Path) -> None:
    lines = [json.dumps({"id": text, "text": text}) for text in GOOD]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    assert command("embed", folder / "corpus.jsonl", "-o", folder / "corpus", "--model", "fake::dim=8") == 0


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_every_transform_in_the_process_of_the_driver(tmp_path, prism):
    write_corpus(tmp_path)
    with beam.Pipeline(options=PipelineOptions(prism.options())) as p:
        everything(p, tmp_path)
    check_everything(tmp_path)


def test_the_commands_with_a_pool_of_workers(tmp_path, prism):
    """A job, an index and a search, whose workers are processes of their own."""
    lines = [json.dumps({"id": f"text {n}", "text": f"text {n}"}) for n in range(20)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    with WorkerPool(tmp_path) as pool:
        on_prism = prism.options(*pool.options)
        job = ["embed", tmp_path / "in.jsonl", "-o", tmp_path / "out", "--model", "fake::dim=8", "--rows-per-shard", 5]
        assert command(*job, *on_prism) == 0
        index = ["index", tmp_path / "out", "-o", tmp_path / "index", "--engine", "beam", "--rows-per-shard", 5]
        assert command(*index, *on_prism) == 0
    rows = read_dataset(str(tmp_path / "out")).to_pylist()
    assert sorted(row["id"] for row in rows) == sorted(f"text {n}" for n in range(20))
    for row in rows:
        np.testing.assert_array_equal(row["embedding"], fake_text_vector(row["id"]))
    assert command("search", tmp_path / "index", "text 7", "--top-k", 1) == 0


def test_a_process_that_does_not_listen_is_ended():
    process = subprocess.Popen(["sleep", "60"])
    with pytest.raises(AssertionError, match="does not listen"):
        wait_for(free_port(), process, seconds=0.1)
    assert process.poll() is not None
