"""`WriteEmbeddings`: files that pyarrow reads back, provenance in them, failures beside them, nothing twice."""

from __future__ import annotations

import json
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from apache_beam.transforms.window import FixedWindows, IntervalWindow, TimestampedValue
from beam_helpers import Keep, kept, pipeline

from clipmill.datasets import read_dataset, read_failures, summarise, write_job
from clipmill.datasets.if_exists import prepare_directory
from clipmill.datasets.tables.provenance import read_provenance
from clipmill.encoders import unload_all
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import DatasetError, SpecError
from clipmill.files.folder import Folder
from clipmill.transforms import Document, Embed, ReadDocuments, WriteEmbeddings
from clipmill.transforms.bundles import PublishFn, WriteBundleFn


class Caption(NamedTuple):
    id: int
    caption: str | None
    photo: bytes | None = None


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


def rows_by(directory, key="id"):
    return {row[key]: row for row in read_dataset(str(directory)).to_pylist()}


def write(directory, elements, columns=None, *, embed=None, **options):
    """Embed elements and write what comes out."""
    with pipeline() as p:
        embedded = p | beam.Create(elements) | Embed("fake::dim=8", columns=columns, **embed or {})
        _ = embedded | WriteEmbeddings(directory, **options)


def test_documents_from_files_to_files(tmp_path):
    """The chain of the README; `WriteEmbeddings` takes the pair whole."""
    lines = [{"id": "a", "text": "one", "n": 1}, {"id": "b", "text": ""}, {"id": "c", "text": "three"}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out"
    with pipeline() as p:
        names = p | ReadDocuments(tmp_path / "in.jsonl") | Embed("fake::dim=8") | WriteEmbeddings(out)
        _ = names | Keep(tmp_path / "names")
    rows = rows_by(out)
    assert {name: row["embedding"] for name, row in rows.items()} == {
        "a": fake_text_vector("one").tolist(),
        "c": fake_text_vector("three").tolist(),
    }
    assert json.loads(rows["a"]["tags"]) == {"n": 1}
    assert [(f["row"], f["code"]) for f in read_failures(str(out))] == [("b", "empty")]
    names = kept(tmp_path / "names")
    assert sorted(pq.read_table(name).num_rows for name in names) == [
        0,
        2,
    ]  # rows and failures have shards of their own
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == sorted(
        ["_SUCCESS", "_failures", "_job.json", "_manifest", *(name.rsplit("/", 1)[1] for name in names)]
    )
    summary = summarise(str(out))
    assert (summary.rows, summary.embedded, summary.failed, summary.complete) == (2, 2, {"empty": 1}, True)
    assert (summary.input_rows, summary.failed_rows, summary.shards, summary.processes) == (3, 1, 2, 1)
    assert [resolved["runtime"] for resolved in summary.resolved] == ["fake"]


def test_a_file_may_have_one_row(tmp_path):
    write(tmp_path / "out", [Caption(n, f"caption {n}") for n in range(3)], {"caption": "text"}, rows_per_file=1)
    assert [pq.read_table(file).num_rows for file in (tmp_path / "out").glob("*.parquet")] == [1, 1, 1]


def test_every_file_says_where_its_vectors_come_from(tmp_path):
    rows = [Caption(n, f"caption {n}") for n in range(10)]
    write(tmp_path / "out", rows, {"caption": "text"}, rows_per_file=4)
    files = sorted((tmp_path / "out").glob("*.parquet"))
    assert sorted(pq.read_table(file).num_rows for file in files) == [2, 4, 4]
    for file in files:
        provenance = read_provenance(str(file))["caption_embedding"]
        assert (provenance["model"], provenance["dim"]) == ("fake::dim=8", 8)


def test_rows_are_carried_along_and_dropped_on_request(tmp_path):
    rows = [Caption(1, "one", b"x"), Caption(2, None, b"y")]
    write(tmp_path / "all", rows, {"caption": "text"})
    write(tmp_path / "some", rows, {"caption": "text"}, drop=["photo"])
    assert rows_by(tmp_path / "all") == {
        1: {"id": 1, "caption": "one", "photo": b"x", "caption_embedding": fake_text_vector("one").tolist()},
        2: {"id": 2, "caption": None, "photo": b"y", "caption_embedding": None},
    }
    assert set(rows_by(tmp_path / "some")[1]) == {"id", "caption", "caption_embedding"}
    schema = ds.dataset(tmp_path / "some").schema
    assert schema.field("id").type == pa.int64()
    assert schema.field("caption_embedding").type == pa.list_(pa.float32())


def test_a_row_that_was_embedded_in_part_is_in_both(tmp_path):
    rows = [Caption(1, "one", b"no picture"), Caption(2, "", b"x" * 100 + b"secret")]
    write(tmp_path / "out", rows, {"caption": "text", "photo": "image"}, drop=["photo"])
    (row,) = rows_by(tmp_path / "out").values()
    assert (row["id"], row["caption_embedding"], row["photo_embedding"]) == (1, fake_text_vector("one").tolist(), None)
    failures = sorted((f["row"], f["column"], f["code"]) for f in read_failures(str(tmp_path / "out")))
    assert failures == [("1", "photo", "undecodable"), ("2", "caption", "empty"), ("2", "photo", "undecodable")]
    assert "secret" not in "".join(path.read_text() for path in (tmp_path / "out" / "_failures").iterdir())


def test_array_columns_and_lists_of_numbers(tmp_path):
    rows = [beam.Row(id="a", captions=["x", "yz"])]
    write(tmp_path / "out", rows, {"captions": "text"}, embed={"vectors": "list"})
    (row,) = rows_by(tmp_path / "out").values()
    assert row["captions_embedding"] == [fake_text_vector("x").tolist(), fake_text_vector("yz").tolist()]


def test_dicts_need_a_schema(tmp_path):
    rows = [{"id": 1, "caption": "one"}, {"id": 2, "caption": None}]
    with pytest.raises(SpecError, match="dicts have no schema, and none is guessed from the data"):
        write(tmp_path / "out", rows, {"caption": "text"})
    schema = pa.schema([("id", pa.int32()), ("caption", pa.string())])
    write(tmp_path / "out", rows, {"caption": "text"}, schema=schema)
    assert read_dataset(str(tmp_path / "out")).schema.field("id").type == pa.int32()
    assert {name: row["caption_embedding"] for name, row in rows_by(tmp_path / "out").items()} == {
        1: fake_text_vector("one").tolist(),
        2: None,
    }


def test_a_row_that_does_not_fit_the_schema_is_a_failure(tmp_path):
    """One value of another type costs its row, not the rows around it."""
    elements = [{"id": n, "caption": f"t{n}", "year": "soon" if n == 3 else n} for n in range(6)]
    schema = pa.schema([("id", pa.int64()), ("caption", pa.string()), ("year", pa.int64())])
    write(tmp_path / "out", elements, {"caption": "text"}, schema=schema)
    assert sorted(rows_by(tmp_path / "out")) == [0, 1, 2, 4, 5]
    (failure,) = read_failures(str(tmp_path / "out"))
    assert (failure["id"], failure["code"]) == ("3", "malformed") and "year" in failure["message"]
    found = summarise(str(tmp_path / "out"))
    assert (found.rows, found.embedded, found.failed) == (5, 5, {"malformed": 1})
    assert (found.input_rows, found.failed_rows, found.nulls) == (6, 1, 0)


def test_content_of_documents_is_written_only_where_it_is_kept(tmp_path):
    array = np.full((2, 3, 3), 7, np.uint8)
    write(tmp_path / "without", [Document(tensor=array, id="a")])
    write(tmp_path / "with", [Document(tensor=array, id="a")], embed={"keep_content": True})
    assert not {"blob", "tensor"} & set(rows_by(tmp_path / "without")["a"])
    assert rows_by(tmp_path / "with")["a"]["tensor"]["data"] == array.tobytes()


def test_half_precision(tmp_path):
    write(tmp_path / "out", [Document(text="one", id="a")], dtype="float16")
    assert read_dataset(str(tmp_path / "out")).schema.field("embedding").type == pa.list_(pa.float16())


def test_only_the_rows_may_be_written(tmp_path):
    with pipeline() as p:
        embedded = p | beam.Create([Document(text="one", id="a"), Document(text="", id="b")]) | Embed("fake::dim=8")
        _ = embedded.rows | WriteEmbeddings(tmp_path / "out")
    assert set(rows_by(tmp_path / "out")) == {"a"}
    assert list(read_failures(str(tmp_path / "out"))) == []


def test_behind_other_steps_the_transform_is_asked_for(tmp_path):
    embed = Embed("fake::dim=8")
    p = pipeline()
    rows = (p | beam.Create([Document(text="one", id="a")]) | embed).rows | beam.Filter(lambda document: True)
    with pytest.raises(SpecError, match=r"which model made these vectors or scores\? give the transform"):
        _ = rows | WriteEmbeddings(tmp_path / "out")
    _ = rows | "Write" >> WriteEmbeddings(tmp_path / "out", embed=embed)
    p.run().wait_until_finish()
    assert set(rows_by(tmp_path / "out")) == {"a"}


def test_nothing_in_gives_a_finished_dataset_of_nothing(tmp_path):
    write(tmp_path / "out", [])
    summary = summarise(str(tmp_path / "out"))
    assert (summary.rows, summary.complete) == (0, True)
    assert "embedding" in read_dataset(str(tmp_path / "out")).schema.names
    assert read_provenance(str(tmp_path / "out"))["embedding"]["model"] == "fake::dim=8"


def test_what_is_there_is_refused_when_the_job_runs_and_replaced_on_request(tmp_path):
    write(tmp_path / "out", [Document(text="one", id="a")])
    with pytest.raises(DatasetError, match="is not empty"):
        write(tmp_path / "out", [Document(text="two", id="b")])
    assert set(rows_by(tmp_path / "out")) == {"a"}
    write(tmp_path / "out", [Document(text="two", id="b")], overwrite=True)
    assert set(rows_by(tmp_path / "out")) == {"b"}
    with pytest.raises(DatasetError, match="is not empty"):
        write(tmp_path / "out", [Document(text="three", id="c")], if_exists="replace_unfinished")
    assert set(rows_by(tmp_path / "out")) == {"b"}


@pytest.mark.parametrize("policy", ["replace", "replace_unfinished"])
def test_what_a_job_that_did_not_end_left_is_replaced_on_request(tmp_path, policy):
    write(tmp_path / "out", [Document(text="one", id="a")])
    (tmp_path / "out" / "_SUCCESS").unlink()
    (tmp_path / "out" / "_staging" / "other-run").mkdir(parents=True)
    (tmp_path / "out" / "_staging" / "other-run" / "part-x.parquet").write_bytes(b"half")
    with pytest.raises(DatasetError, match="replace_unfinished"):
        write(tmp_path / "out", [Document(text="two", id="b")])
    write(tmp_path / "out", [Document(text="two", id="b")], if_exists=policy)
    assert set(rows_by(tmp_path / "out")) == {"b"}
    assert not (tmp_path / "out" / "_staging").exists() and not (tmp_path / "out" / "_next").exists()


def test_a_directory_of_somebody_else_is_never_overwritten(tmp_path):
    (tmp_path / "out" / "_staging").mkdir(parents=True)
    (tmp_path / "out" / "_staging" / "thesis.txt").write_text("all my work")
    with pytest.raises(DatasetError, match="is not a clipmill dataset"):
        write(tmp_path / "out", [Document(text="two", id="b")], overwrite=True)
    assert (tmp_path / "out" / "_staging" / "thesis.txt").read_text() == "all my work"


def test_file_systems_of_fsspec(tmp_path):
    """The worker is a thread of this process here, and so sees the same memory."""
    out = f"memory://{tmp_path.name}/vectors"
    with pipeline() as p:
        embedded = p | beam.Create([Document(text="one", id="a"), Document(text="", id="b")]) | Embed("fake::dim=8")
        _ = embedded | WriteEmbeddings(out) | Keep(tmp_path / "names")
    assert set(rows_by(out)) == {"a"}
    assert [failure["row"] for failure in read_failures(out)] == ["b"]
    assert summarise(out).complete
    names = kept(tmp_path / "names")
    assert len(names) == 2 and all(name.startswith(f"{out}/part-") for name in names)
    with pytest.raises(DatasetError, match="is not empty"):
        write(out, [Document(text="two")])
    write(out, [Document(text="two", id="b")], overwrite=True)
    assert set(rows_by(out)) == {"b"}
    assert not [name for name in Folder.of(out).list() if name.startswith("_next")]


def test_windows_have_files_of_their_own(tmp_path):
    with pipeline() as p:
        documents = (
            p
            | beam.Create([("a", 1), ("b", 61), ("c", 2)])
            | beam.MapTuple(lambda text, at: TimestampedValue(Document(text=text, id=text), at)).with_output_types(
                Document
            )
            | beam.WindowInto(FixedWindows(60))
        )
        _ = documents | Embed("fake::dim=8") | WriteEmbeddings(tmp_path / "out")
    found = [sorted(pq.read_table(file)["id"].to_pylist()) for file in (tmp_path / "out").glob("*.parquet")]
    assert sorted(found) == [["a", "c"], ["b"]]
    assert summarise(str(tmp_path / "out")).complete


def test_a_bundle_of_many_windows_has_few_files_open(tmp_path, table):
    """Each window's rows are in files of its own, and a window that comes back gets another."""
    fn, output = WriteBundleFn(table, Embed("fake::dim=8").spec, 100), ("run", str(tmp_path / "out"))
    staging = tmp_path / "out" / "_staging" / "run"
    fn.start_bundle()
    written, most_open = [], 0
    for number in [0, *range(200), 0]:
        document = Document(id=str(number), text="a", embedding=fake_text_vector("a"))
        written += list(fn.process(document, output, IntervalWindow(number, number + 1)) or ())
        most_open = max(most_open, len(list(staging.glob(".part-*"))))
    written += list(fn.finish_bundle())
    assert most_open == 64
    found = [
        (int(name), *value.windows)
        for value in written
        for name in pq.read_table(staging / value.value["files"][0]["name"])["id"].to_pylist()
    ]
    assert sorted(name for name, _ in found) == sorted([0, *range(200), 0])
    assert all(window == IntervalWindow(name, name + 1) for name, window in found)
    assert all(value.timestamp == value.windows[0].max_timestamp() for value in written)


def test_many_windows_in_a_pipeline(tmp_path):
    with pipeline() as p:
        documents = (
            p
            | beam.Create(list(range(150)))
            | beam.Map(lambda n: TimestampedValue(Document(text="a", id=str(n)), n)).with_output_types(Document)
            | beam.WindowInto(FixedWindows(1))
        )
        _ = documents | Embed("fake::dim=8") | WriteEmbeddings(tmp_path / "out")
    assert sorted(map(int, rows_by(tmp_path / "out"))) == list(range(150))
    assert (summarise(str(tmp_path / "out")).shards, summarise(str(tmp_path / "out")).complete) == (150, True)


def run_bundle(fn, elements, output):
    """Run a `DoFn` as a runner does, on one bundle in the global window."""
    from apache_beam.transforms.window import GlobalWindow

    fn.setup()
    fn.start_bundle()
    out = [value for element in elements for value in fn.process(element, output, GlobalWindow()) or ()]
    return [value.value for value in out + list(fn.finish_bundle() or ())]


@pytest.fixture
def table(tmp_path):
    """The table of a `WriteEmbeddings`, its directory made ready."""
    prepare_directory(str(tmp_path / "out"))
    write_job(str(tmp_path / "out"), {"signature": "run"})
    return WriteEmbeddings(tmp_path / "unused")._table(Embed("fake::dim=8"), Document)


def test_a_bundle_that_is_run_twice_is_seen_once(tmp_path, table):
    """Only the names of one run come through the shuffle; what the other wrote stays where no reader looks."""
    spec = Embed("fake::dim=8").spec
    output = ("run", out := str(tmp_path / "out"))
    documents = [Document(text=t, id=t, embedding=fake_text_vector(t)) for t in ("a", "b")]
    lost = run_bundle(WriteBundleFn(table, spec, 100), documents, output)
    (counted,) = run_bundle(WriteBundleFn(table, spec, 100), documents, output)
    assert len(lost) == 1
    assert not list((tmp_path / "out").glob("*.parquet"))
    for _ in range(2):  # publishing may be repeated as well
        assert list(PublishFn().process(counted, output)) == [counted]
    assert sorted(rows_by(tmp_path / "out")) == ["a", "b"]
    assert summarise(out).rows == 2
    assert ds.dataset(tmp_path / "out").count_rows() == 2


def test_publishing_goes_on_where_it_was_interrupted(tmp_path, table):
    out = tmp_path / "out"
    documents = [Document(text="a", id="a", embedding=fake_text_vector("a"))]
    (manifest,) = run_bundle(WriteBundleFn(table, Embed("fake::dim=8").spec, 100), documents, ("run", str(out)))
    name = manifest["files"][0]["name"]
    (out / "_staging" / "run" / name).rename(out / name)
    list(PublishFn().process(manifest, ("run", str(out))))
    assert sorted(rows_by(out)) == ["a"]
    assert summarise(str(out)).shards == 1


def test_files_that_are_in_neither_place_end_the_job(tmp_path, table):
    out = tmp_path / "out"
    documents = [Document(text="a", id="a", embedding=fake_text_vector("a"))]
    (manifest,) = run_bundle(WriteBundleFn(table, Embed("fake::dim=8").spec, 100), documents, ("run", str(out)))
    (out / "_staging" / "run" / manifest["files"][0]["name"]).unlink()
    with pytest.raises(DatasetError, match=manifest["files"][0]["name"]):
        list(PublishFn().process(manifest, ("run", str(out))))


def test_a_bundle_that_fails_leaves_no_open_files(tmp_path, table):
    fn = WriteBundleFn(table, Embed("fake::dim=8").spec, 100)
    fn.setup()
    fn.start_bundle()
    list(fn.process(Document(text="a", id="a", embedding=fake_text_vector("a")), ("run", str(tmp_path / "out"))) or ())
    assert len(list((tmp_path / "out" / "_staging" / "run").iterdir())) == 1
    fn.teardown()
    assert list((tmp_path / "out" / "_staging" / "run").iterdir()) == []


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(SpecError) as refused:
        WriteEmbeddings(tmp_path, rows_per_file=0)
    assert refused.value.option == "rows_per_file"
    rows, columns = [Caption(1, "one")], {"caption": "text"}
    with pytest.raises(SpecError, match="schema and drop are for rows"):
        write(tmp_path / "out", [Document(text="a")], drop=["photo"])
    with pytest.raises(SpecError, match="tags are for documents"):
        write(tmp_path / "out", rows, columns, tags={"n": pa.int64()})
    with pytest.raises(SpecError, match="drop names 'picture', and the columns are 'id', 'caption', 'photo'"):
        write(tmp_path / "out", rows, columns, drop=["picture"])
    anything = [beam.Row(id=1, caption="one", thing=object)]
    with pytest.raises(SpecError, match=r"column 'thing' is .*, which has no type in Arrow; give schema=, or drop it"):
        write(tmp_path / "out", anything, columns)
    assert not (tmp_path / "out").exists()


def test_a_column_that_has_no_type_in_arrow_may_be_dropped(tmp_path):
    write(tmp_path / "out", [beam.Row(id=1, caption="one", thing=object)], {"caption": "text"}, drop=["thing"])
    assert set(rows_by(tmp_path / "out")[1]) == {"id", "caption", "caption_embedding"}
