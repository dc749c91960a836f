"""`WriteEmbeddings`: building it touches nothing, it runs any number of times, and old datasets stay until the end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import ClassVar

import apache_beam as beam
import fsspec
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from beam_helpers import Keep, kept, pipeline
from fsspec.implementations.memory import MemoryFileSystem

from clipmill.datasets import read_dataset, summarise
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import DatasetError, SpecError
from clipmill.files.folder import Folder
from clipmill.transforms import Document, Embed, WriteEmbeddings
from clipmill.transforms.bundles import FinishFn, PublishFn, WriteBundleFn
from clipmill.transforms.prepare import prepare_output


def build(directory, ids, **options) -> beam.Pipeline:
    """Return a pipeline that embeds documents and writes them; it has not run."""
    p = pipeline()
    documents = [Document(text=name, id=name) for name in ids]
    _ = p | beam.Create(documents) | Embed("fake::dim=8") | WriteEmbeddings(directory, **options)
    return p


def run(p: beam.Pipeline) -> None:
    p.run().wait_until_finish()


def ids_of(directory) -> list[str]:
    return sorted(read_dataset(str(directory))["id"].to_pylist())


def state_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"if_exists": "replace_unfinished"}], ids=str)
def test_building_a_pipeline_changes_nothing(tmp_path, options):
    run(build(tmp_path / "out", "a"))
    before = state_of(tmp_path / "out")
    p = build(tmp_path / "out", "b", **options)
    p.to_runner_api()
    assert state_of(tmp_path / "out") == before
    build(tmp_path / "new", "a", **options)
    assert not (tmp_path / "new").exists()


def test_a_dry_run_of_dataflow_deletes_nothing(tmp_path, monkeypatch):
    """Its runner builds the job and submits nothing."""
    run(build(tmp_path / "out", "a"))
    before = state_of(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    options = ["--runner=DataflowRunner", "--dry_run=True", "--project=nobody", "--region=europe-west1", "--no_auth"]
    options += ["--temp_location=gs://nowhere/tmp", "--sdk_location=container", "--job_name=embed"]
    for directory in (tmp_path / "out", "gs://nowhere/vectors"):
        p = beam.Pipeline(options=PipelineOptions(options))
        embedded = p | beam.Create([Document(text="b", id="b")]) | Embed("fake::dim=8")
        _ = embedded | WriteEmbeddings(directory, overwrite=True)
        assert p.run().job.proto.name == "embed"
    assert state_of(tmp_path / "out") == before


class Counted(MemoryFileSystem):
    """A remote file system that counts what is asked of it."""

    protocol = "counted"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    calls: ClassVar[list[str]] = []

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if callable(found) and not name.startswith("_"):
            Counted.calls.append(name)
        return found


@pytest.fixture
def counted(monkeypatch):
    fsspec.register_implementation("counted", Counted, clobber=True)
    Counted.calls.clear()
    made = []
    init = Counted.__init__

    def count(self, *args, **kwargs):
        made.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(Counted, "__init__", count)
    yield made
    Counted.clear_instance_cache()


@pytest.mark.parametrize("options", [{}, {"overwrite": True}], ids=str)
def test_no_file_system_is_opened_to_build_a_pipeline(counted, options):
    """Neither made, which may look for credentials, nor called."""
    p = build("counted://bucket/vectors", "a", **options)
    p.to_runner_api()
    assert counted == [] and Counted.calls == []


def test_a_file_system_that_is_not_there_is_refused_when_the_pipeline_is_built():
    for url, message in [("nosuch://x/out", "no file system for the scheme"), ("https://x/out", "cannot be listed")]:
        with pytest.raises(DatasetError, match=message):
            WriteEmbeddings(url)


def test_a_pipeline_that_runs_twice_is_refused_the_second_time(tmp_path):
    p = build(tmp_path / "out", "ab")
    run(p)
    before = state_of(tmp_path / "out")
    with pytest.raises(DatasetError, match="is not empty"):
        run(p)
    assert state_of(tmp_path / "out") == before


def test_a_pipeline_that_replaces_may_run_any_number_of_times(tmp_path):
    p = build(tmp_path / "out", "ab", if_exists="replace")
    runs = set()
    for _ in range(3):
        run(p)
        assert ids_of(tmp_path / "out") == ["a", "b"]
        assert summarise(str(tmp_path / "out")).rows == 2
        runs.add(json.loads((tmp_path / "out" / "_job.json").read_text())["signature"])
        assert sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith("part-")) == [
            *("_SUCCESS", "_job.json", "_manifest")
        ]
    assert len(runs) == 3


def fail(document):
    if document.id == "bad":
        raise ValueError("no such luck")
    return document


def test_a_job_that_fails_keeps_the_old_dataset_and_the_next_one_replaces_it(tmp_path):
    out = tmp_path / "out"
    run(build(out, "a"))
    before = state_of(out)
    with pytest.raises(Exception, match="no such luck"), pipeline() as p:
        documents = [Document(text="b", id="b"), Document(text="c", id="bad")]
        checked = p | beam.Create(documents) | beam.Map(fail).with_output_types(Document)
        _ = checked | Embed("fake::dim=8") | WriteEmbeddings(out, overwrite=True)
    after = state_of(out)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("_next/") for name in after.keys() - before.keys())
    assert ids_of(out) == ["a"] and summarise(str(out)).complete
    with pytest.raises(DatasetError, match="is not empty"):
        run(build(out, "b", if_exists="replace_unfinished"))
    run(build(out, "b", overwrite=True))
    assert ids_of(out) == ["b"] and not (out / "_next").exists()


def test_while_a_dataset_is_replaced_the_old_one_is_read(tmp_path):
    out = tmp_path / "out"
    run(build(out, "a"))

    def look(document):
        assert ids_of(out) == ["a"] and summarise(str(out)).complete
        return document

    with pipeline() as p:
        embedded = p | beam.Create([Document(text="b", id="b")]) | Embed("fake::dim=8")
        _ = embedded.rows | beam.Map(look) | WriteEmbeddings(out, embed=Embed("fake::dim=8"), overwrite=True)
    assert ids_of(out) == ["b"]


def test_names_are_given_when_the_dataset_is_whole(tmp_path):
    out = tmp_path / "out"

    def look(name):
        assert (out / "_SUCCESS").exists() and os.path.exists(name)
        return name

    for _ in range(2):
        with pipeline() as p:
            stamped = [TimestampedValue(Document(text=name, id=name), at) for name, at in (("a", 1), ("b", 61))]
            documents = p | beam.Create(stamped) | beam.Map(lambda one: one).with_output_types(Document)
            names = (
                documents
                | beam.WindowInto(FixedWindows(60))
                | Embed("fake::dim=8")
                | WriteEmbeddings(out, overwrite=True)
            )
            _ = names | beam.Map(look) | Keep(tmp_path / "names")
    assert len(kept(tmp_path / "names")) == 4


def test_preparing_may_be_repeated(tmp_path):
    """A bundle that is run again is of the same run."""
    out = str(tmp_path / "out")
    run(build(out, "a"))
    folder = prepare_output(out, "run", {"spec": {}}, "replace")
    assert folder == f"{out}/_next"
    (tmp_path / "out" / "_next" / "part-b.parquet").write_bytes(b"written since")
    before = state_of(tmp_path / "out")
    assert prepare_output(out, "run", {"spec": {}}, "replace") == folder
    assert state_of(tmp_path / "out") == before
    assert prepare_output(out, "another", {"spec": {}}, "replace") == folder
    assert not (tmp_path / "out" / "_next" / "part-b.parquet").exists()
    assert ids_of(out) == ["a"]


def test_a_run_never_finishes_what_another_has_started(tmp_path):
    out = str(tmp_path / "out")
    run(build(out, "a"))
    prepare_output(out, "first", {"spec": {}}, "replace")
    prepare_output(out, "second", {"spec": {}}, "replace")
    schema = read_dataset(out).schema
    with pytest.raises(DatasetError, match="another job"):
        list(FinishFn(out, schema).process(0, ("first", f"{out}/_next")))
    assert ids_of(out) == ["a"]
    for _ in range(2):  # finishing may be repeated
        list(FinishFn(out, schema).process(0, ("second", f"{out}/_next")))
        assert ids_of(out) == [] and summarise(out).complete


def test_rows_of_two_runs_are_never_mixed(tmp_path):
    """What a job has published that was replaced meanwhile, because only its driver had died, leaves the dataset."""
    out = str(tmp_path / "out")
    run(build(out, "a"))
    prepare_output(out, "late", {"spec": {}}, "replace")
    below = Folder.of(Folder.of(out).at("_next"))
    for name in Folder.of(out).list():
        if name.startswith(("part-", "_manifest/")):
            below.make("_manifest")
            below.write(name, Folder.of(out).read(name))
    list(FinishFn(out, read_dataset(out).schema).process(0, ("late", below.url)))
    assert ids_of(out) == [] and summarise(out).complete


def test_a_job_that_was_replaced_ends_at_its_next_file(tmp_path):
    out = str(tmp_path / "out")
    folder = prepare_output(out, "first", {"spec": {}}, "replace")
    prepare_output(out, "second", {"spec": {}}, "replace")
    table = WriteEmbeddings(tmp_path / "unused")._table(Embed("fake::dim=8"), Document)
    write = WriteBundleFn(table, Embed("fake::dim=8").spec, 100)
    write.start_bundle()
    refused = [
        lambda: list(write.process(Document(id="a"), ("first", folder))),
        lambda: list(PublishFn().process({"files": [], "name": "a"}, ("first", folder))),
        lambda: prepare_output(out, "first", {"spec": {}}, "replace"),  # a bundle that is run again
    ]
    for call in refused:
        with pytest.raises(DatasetError, match="another job"):
            call()
    assert state_of(tmp_path / "out").keys() == {"_job.json"}
    stream = WriteBundleFn(table, Embed("fake::dim=8").spec, 100, is_bounded=False)  # which may be drained meanwhile
    stream.start_bundle()
    assert not list(stream.process(Document(id="a", text="a", embedding=fake_text_vector("a")), ("first", folder)))
    stream.teardown()


def test_a_bounded_job_is_not_resumed_and_says_why(tmp_path):
    with pytest.raises(SpecError, match="replace_unfinished") as refused:
        build(tmp_path / "out", "a", if_exists="resume")
    assert "read again" in str(refused.value)


def test_options_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(SpecError, match="contradict"):
        WriteEmbeddings(tmp_path, if_exists="fail", overwrite=True)
    with pytest.raises(SpecError, match="if_exists"):
        WriteEmbeddings(tmp_path, if_exists="append")
    WriteEmbeddings(tmp_path, if_exists="replace", overwrite=True)


def unbounded(p, documents):
    """Return documents as a stream has them, though these come to an end."""
    pcoll = p | beam.Create(documents)
    pcoll.is_bounded = False
    return pcoll


def stream(directory, ids, **options):
    with pipeline() as p:
        documents = unbounded(p, [Document(text=name, id=name) for name in ids])
        _ = documents | Embed("fake::dim=8") | WriteEmbeddings(directory, **options)


def test_a_stream_adds_to_what_it_wrote_before(tmp_path):
    stream(tmp_path / "out", "a", if_exists="resume")
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    with pytest.raises(DatasetError, match="is not empty"):
        stream(tmp_path / "out", "b")
    stream(tmp_path / "out", "b", if_exists="resume")
    assert ids_of(tmp_path / "out") == ["a", "b"]


def test_a_stream_never_adds_to_another_dataset(tmp_path):
    stream(tmp_path / "out", "a")
    with pytest.raises(DatasetError, match="precision"), pipeline() as p:
        documents = unbounded(p, [Document(text="b", id="b")])
        _ = documents | Embed("fake::dim=8", precision="fp32") | WriteEmbeddings(tmp_path / "out", if_exists="resume")
    run(build(tmp_path / "done", "a"))
    with pytest.raises(DatasetError, match="is finished"):
        stream(tmp_path / "done", "b", if_exists="resume")
    assert (ids_of(tmp_path / "out"), ids_of(tmp_path / "done")) == (["a"], ["a"])


@pytest.mark.parametrize("policy", ["replace", "replace_unfinished"])
def test_a_stream_replaces_nothing(tmp_path, policy):
    with pytest.raises(SpecError, match="never is"):
        stream(tmp_path / "out", "a", if_exists=policy)


def test_a_directory_that_only_looks_like_a_url_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="gs://"):
        WriteEmbeddings("gs:bucket/vectors")
