"""What passing over rows is made of: keys and hashes of rows, lists of digests, and what is read for them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import types
from pathlib import Path

import fsspec
import job_options
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from existing_contract import Nights, embed_here, find_here, in_out_skipped
from list_kinds import every_list
from storage_helpers import photograph

from clipmill.datasets import finish_job, plan_shards
from clipmill.encoders import EncoderSpec, load_encoder
from clipmill.encoders.content_hash import content_hash, joined_hash
from clipmill.encoders.item import Item
from clipmill.errors import DatasetError
from clipmill.jobs import embed_shard, skip_lists, start_job
from clipmill.jobs.resume import read_previous_run
from clipmill.jobs.row_keys import keys_wanted
from clipmill.jobs.skip_existing import SkipExisting, is_embedded
from clipmill.jobs.skip_lists import SkipList
from clipmill.media.audio import Waveform


@pytest.fixture
def nights(tmp_path):
    return Nights(tmp_path, embed_here)


def test_a_row_is_there_if_some_dataset_has_it_whole():
    assert not is_embedded([])
    assert is_embedded([(0, True)])
    assert not is_embedded([(0, True), (0, False)])
    assert not is_embedded([(0, False), (1, False)])
    assert is_embedded([(0, False), (0, True), (1, True)])


def test_no_row_is_passed_over_in_the_place_of_another_if_the_file_changes_after_it_was_compared(nights):
    """A line that is added in front moves all others: the shard fails as changed."""
    lines = [{"id": f"k{n}", "text": f"t{n}"} for n in range(4)]
    path = nights.write_lines("a.jsonl", *lines)
    nights.run("one", path)
    shards = plan_shards([str(path)])
    skip_existing = SkipExisting([nights.directory("one")])
    job = job_options.plan(nights.spec, nights.directory("two"), shards, skip_existing=skip_existing)
    start_job(job, shards)
    find_here(shards, job)
    nights.write_lines("a.jsonl", {"id": "first", "text": "first"}, *lines)
    embed_shard(shards[0], job)
    found = finish_job(job.directory)
    assert (found.skipped, found.failed, nights.keys("two")) == (0, {"changed": 1}, [])


def test_lists_of_digests_with_zeros_in_them_are_searched_right():
    """Whatever the bytes of a digest are, numpy's strings among them end at zeros."""
    there = [b"a" + bytes(15), bytes(15) + b"a", b"ab" + bytes(14), bytes(16), b"\xff" * 16]
    passed = SkipList(b"".join(there), by="id")
    records = types.SimpleNamespace(key=lambda record: record)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skip_lists, "key_digest", lambda key: key)
        assert all(passed.holds(digest, None, records) for digest in there)
        for other in (b"b" + bytes(15), bytes(14) + b"a\0", b"abc" + bytes(13), b"\xfe" * 16, b"\xff" * 15 + b"\xfe"):
            assert not passed.holds(other, None, records)
        assert not SkipList(b"", by="id").holds(there[0], None, records)


def test_vectors_of_a_dataset_are_not_read_where_none_is_missing(nights, monkeypatch):
    path = nights.write_lines("a.jsonl", *({"id": f"k{n}", "caption": f"t{n}"} for n in range(3)))
    nights.run("one", path, columns={"caption": "text"})
    read = []
    iter_batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, *a, columns, **options: (read.append(columns), iter_batches(self, *a, columns=columns, **options))[
            1
        ],
    )
    assert nights.run("two", path, columns={"caption": "text"}, skip=("one",)).skipped == 3
    assert read == [["id"]]


def test_of_parquet_files_only_the_keys_are_read_to_compare(nights, monkeypatch):
    photos = [photograph("red"), photograph("blue")]
    pq.write_table(pa.table({"id": ["a", "b"], "image": photos, "more": ["x", "y"]}), nights.folder / "a.parquet")
    asked = []
    shards = plan_shards([str(nights.folder / "a.parquet")])
    nights.run("one", nights.folder / "a.parquet")
    skip_existing = SkipExisting([nights.directory("one")])
    job = job_options.plan(nights.spec, nights.directory("two"), shards, skip_existing=skip_existing)
    iter_batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, *a, columns=None, **options: (
            asked.append(columns),
            iter_batches(self, *a, columns=columns, **options),
        )[1],
    )
    assert len(list(keys_wanted(shards[0], job))) == 2
    assert [columns for columns in asked if columns is not None] == [["id"]]  # None: the metadata alone


def test_documents_of_parquet_without_ids_are_named_by_their_place_in_both_nights(nights):
    pq.write_table(pa.table({"text": ["a", "", "c"]}), nights.folder / "a.parquet")
    nights.run("one", nights.folder / "a.parquet")
    pq.write_table(pa.table({"text": ["a", "b", "c", "d"]}), nights.folder / "a.parquet")
    found = nights.run("two", nights.folder / "a.parquet", skip=("one",))
    assert (found.skipped, nights.keys("two")) == (2, [f"{nights.folder}/a.parquet:1", f"{nights.folder}/a.parquet:3"])


def test_file_names_that_are_not_utf_8_are_told_apart(nights):
    photos = nights.folder / "photos"
    photos.mkdir()
    for name in (b"a\xff.png", b"a\xfe.png"):
        (Path(os.fsdecode(os.fsencode(photos) + b"/" + name))).write_bytes(photograph("red"))
    nights.run("one", photos)
    (Path(os.fsdecode(os.fsencode(photos) + b"/a\xfd.png"))).write_bytes(photograph("red"))
    assert in_out_skipped(nights.run("two", photos, skip=("one",))) == (3, 1, 2)


def test_datasets_and_outputs_in_memory_stores(nights):
    captions = nights.write_lines("a.jsonl", *({"id": f"k{n}", "caption": f"caption {n}"} for n in range(3)))
    fs = fsspec.filesystem("memory")
    with contextlib.suppress(FileNotFoundError):
        fs.rm("/skip", recursive=True)
    rows = {"columns": {"caption": "text"}}
    nights.run("memory://skip/one", captions, **rows)
    more = nights.write_lines("b.jsonl", {"id": "k9", "caption": "new"})
    assert nights.run("memory://skip/two", captions, more, skip=("memory://skip/one",), **rows).skipped == 3
    assert not [name for name in fs.find("/skip/two") if "_staging" in name]


def test_a_job_that_goes_on_passes_over_what_it_would_have_and_nothing_of_its_own(nights):
    """Two of three shards are done when the job ends; the third is compared when it goes on."""
    old = nights.write_lines("a.jsonl", *({"id": f"k{n}", "text": f"t{n}"} for n in range(0, 12, 2)))
    nights.run("one", old)
    path = nights.write_lines("b.jsonl", *({"id": f"k{n}", "text": f"t{n}"} for n in range(12)))
    skip_existing = SkipExisting([nights.directory("one")])

    def start(previous):
        planned = previous.plan if previous else ()
        shards = plan_shards([str(path)], rows_per_shard=4, previous=planned)
        job = job_options.plan(nights.spec, nights.directory("two"), shards, skip_existing=skip_existing)
        return job, start_job(job, shards, inputs=[str(path)], previous=previous)

    job, progress = start(None)
    find_here(progress.to_do, job)
    for shard in progress.to_do[:2]:
        embed_shard(shard, job)
    job, progress = start(read_previous_run(job.directory))
    assert len(progress.to_do) == 1
    find_here(progress.to_do, job)
    embed_shard(progress.to_do[0], job)
    assert in_out_skipped(finish_job(job.directory)) == (12, 6, 6)
    assert nights.keys("two") == sorted(f"k{n}" for n in range(1, 12, 2))
    with pytest.raises(DatasetError, match='skip_by was "id" and is not there'):
        shards = plan_shards([str(path)], rows_per_shard=4, previous=read_previous_run(job.directory).plan)
        other = job_options.plan(nights.spec, nights.directory("two"), shards)
        start_job(other, shards, inputs=[str(path)], previous=read_previous_run(job.directory))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a text", hashlib.sha256(b"a text").hexdigest()),
        (b"bytes", hashlib.sha256(b"bytes").hexdigest()),
        ("é", hashlib.sha256("é".encode()).hexdigest()),
        (object(), None),
        (Waveform([object()], 8000), None),
    ],
    ids=["text", "bytes", "not ascii", "object", "no samples"],
)
def test_content_is_told_by_its_sha_256(content, told):
    assert content_hash(content) == told


def test_arrays_of_other_shapes_types_and_rates_are_told_apart():
    zeros = [
        np.zeros((2, 3), np.uint8),
        np.zeros((3, 2), np.uint8),
        np.zeros((2, 3), np.int8),
        np.ones((2, 3), np.uint8),
    ]
    sounds = [Waveform(np.zeros(6, np.float32), 8000), Waveform(np.zeros(6, np.float32), 16000)]
    assert len({content_hash(one) for one in (*zeros, *sounds)}) == 6
    assert content_hash(zeros[0]) == content_hash(np.zeros((2, 6), np.uint8)[:, ::2])


def test_several_values_are_told_by_all_of_them_whatever_their_order():
    a, b = content_hash("a"), content_hash("b")
    assert joined_hash(["x"], [a]) == a
    assert joined_hash(["x", "y"], [None, None]) is None
    assert joined_hash(["x", "y"], [a, b]) == joined_hash(["y", "x"], [b, a])
    assert (
        len({joined_hash(["x", "y"], [a, b]), joined_hash(["x", "y"], [b, a]), joined_hash(["x", "y"], [a, None])}) == 3
    )


def test_a_cached_vector_without_a_hash_is_made_again_where_one_is_asked_for():
    encoder = load_encoder(EncoderSpec("fake::dim=4&modalities=text", device="cpu"))
    plain = encoder.embed_items([Item("text", "cached")])[0]
    assert plain.content_hash is None
    with encoder.session(hashed=True) as session:
        done = session.push(1, [Item("text", "cached")]) + session.push(2, [Item("text", "cached")]) + session.flush()
    assert [one.outcomes[0].content_hash for one in done] == [content_hash("cached")] * 2
    assert encoder.embed_items([Item("text", "cached")])[0].content_hash == content_hash("cached")


def test_samples_of_tars_are_told_by_their_keys_and_by_their_images(nights):
    def write(name, *samples):
        with tarfile.open(nights.folder / name, "w") as tar:
            for key, data in samples:
                for ending, content in (("png", data), ("txt", f"caption of {key}".encode())):
                    member = tarfile.TarInfo(f"{key}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        return nights.folder / name

    old = write("old.tar", ("a", photograph("red")), ("b", photograph("blue")), ("bad", b"no picture"))
    new = write("new.tar", ("a", photograph("lime")), ("b2", photograph("blue")), ("bad", photograph("white")))
    for kind, options in (("documents", {}), ("rows", {"columns": {"image": "image"}})):
        nights.run(f"{kind} 1", old, content_hash=True, **options)
        assert nights.run(f"{kind} 2", new, skip=(f"{kind} 1",), **options).skipped == 1
        found = nights.run(f"{kind} 3", new, skip=(f"{kind} 1",), by="content", **options)
        assert found.skipped == 1
        ids = [[key.rpartition("/")[2] for key in nights.keys(f"{kind} {n}")] for n in (2, 3)]
        assert ids == [["b2", "bad"], ["a", "bad"]]


def test_files_taken_as_rows_are_told_by_their_paths_and_by_their_bytes(nights):
    photos = nights.folder / "photos"
    photos.mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        (photos / f"{name}.png").write_bytes(photograph(colour))
        (photos / f"{name}.txt").write_text(f"caption {name}")
    rows = {"columns": {"image": "image", "text": "text"}, "content_hash": True}
    nights.run("one", photos, **rows)
    (photos / "b.txt").write_text("another caption")
    (photos / "c.png").write_bytes(photograph("lime"))
    assert (nights.run("two", photos, skip=("one",), **rows).skipped, nights.keys("two")) == (2, [f"{photos}/c.png"])
    found = nights.run("three", photos, skip=("one",), by="content", **rows)
    assert (found.skipped, nights.keys("three")) == (1, [f"{photos}/b.png", f"{photos}/c.png"])


@every_list
def test_vectors_are_found_in_lists_of_every_kind(nights, list_of):
    """An array column has a vector if one of its values has; whoever wrote the other dataset's files."""
    texts = pa.array([["one", "two"], [None, None], [None, "four"]], list_of(pa.string()))
    pq.write_table(pa.table({"id": ["a", "b", "c"], "texts": texts}), nights.folder / "in.parquet")
    nights.run("one", nights.folder / "in.parquet", columns={"texts": "text"})
    (file,) = (nights.folder / "one").glob("*.parquet")
    table = pq.read_table(file)
    place = table.schema.get_field_index("texts_embedding")
    field = table.schema.field(place)
    again = pa.array(table.column(place).to_pylist(), list_of(pa.list_(pa.float32())))
    pq.write_table(table.set_column(place, field.with_type(again.type), again), file)
    assert nights.run("two", nights.folder / "in.parquet", columns={"texts": "text"}, skip=("one",)).skipped == 2
