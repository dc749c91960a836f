"""What passing over rows promises on every engine, as tests that know none: whole jobs, night after night.

A module subclasses `ExistingContract` and gives it the fixture `embed`, which embeds all shards of a job, having looked
up what is passed over:

    class TestBeam(ExistingContract):
        @pytest.fixture
        def embed(self):
            def embed(shards, job) -> None: ...
            return embed
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import job_options
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from storage_helpers import photograph, text_vector

from clipmill.datasets import finish_job, plan_shards, read_dataset, read_failures
from clipmill.datasets.dataset import read_manifests
from clipmill.datasets.summary import DatasetSummary
from clipmill.encoders import EncoderSpec
from clipmill.encoders.testing import read_log
from clipmill.jobs import embed_shard, start_job
from clipmill.jobs.embedded_keys import embedded_keys
from clipmill.jobs.row_keys import keys_wanted
from clipmill.jobs.skip_existing import SkipExisting, finished_shards, is_embedded
from clipmill.jobs.skip_lists import write_skip_list

ODD_KEYS = [
    "ключ",
    "日本 語",
    "a\tb\nc",
    "a/b:c%d",
    "'\"\\",
    " x",
    "x ",
    "x",
    "X",
    "é",
    "e\u0301",
    "\x00z",
    "0",
    "00",
    "🙂",
]
"""No two of them are equal, whatever they look like."""


class Nights:
    """Jobs into one folder, and what came of each; the encoder writes down what it was asked."""

    def __init__(self, folder: Path, embed: Callable[..., None]) -> None:
        self.folder = folder
        self._embed = embed
        self.spec = EncoderSpec(f"fake::dim=4&log={folder / 'log'}", device="cpu", max_cache_bytes=0)

    def run(
        self, output: str, *inputs: object, skip: tuple[str, ...] = (), by: Any = "id", rows: int = 4, **options: Any
    ) -> DatasetSummary:
        """Embed inputs into `output`, passing over what the datasets `skip` have."""
        directory = self.directory(output)
        shards = plan_shards([str(given) for given in inputs], rows_per_shard=rows)
        skip_existing = SkipExisting([self.directory(name) for name in skip], by) if skip else None
        options = {"spec": self.spec, **options}
        spec = options.pop("spec")
        job = job_options.plan(spec, directory, shards, skip_existing=skip_existing, **options)
        job = pickle.loads(pickle.dumps(job))
        start_job(job, shards, inputs=[str(given) for given in inputs])
        self._embed(shards, job)
        return finish_job(directory)

    def directory(self, name: str) -> str:
        return name if "://" in name else str(self.folder / name)

    def keys(self, output: str, key: str = "id") -> list[Any]:
        """Return the keys that were written, sorted; each as often as it was."""
        return sorted(read_dataset(self.directory(output)).column(key).to_pylist(), key=str)

    def failed(self, output: str) -> list[tuple[str, str]]:
        return sorted((one["row"], one["code"]) for one in read_failures(self.directory(output)))

    @property
    def encoded(self) -> int:
        """Rows that the encoder was given in all nights."""
        return read_log(self.folder / "log").rows

    def write_lines(self, name: str, *records: dict[str, Any]) -> Path:
        path = self.folder / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path


def in_out_skipped(found: DatasetSummary) -> tuple[int, int, int]:
    assert found.complete
    return found.input_rows, found.rows, found.skipped


def find_here(shards, job):
    """Do what engines do by a join, in one process."""
    there: dict[bytes, list] = {}
    for part in finished_shards(job.skip_existing):
        for digest, said in embedded_keys(part, job):
            there.setdefault(digest, []).append(said)
    for shard in shards:
        wanted = keys_wanted(shard, job)
        write_skip_list(job, shard.name, [mark for digest, mark in wanted if is_embedded(there.get(digest, ()))])


def embed_here(shards, job):
    if job.skip_existing is not None:
        find_here(shards, job)
    for shard in shards:
        embed_shard(shard, job)


class ExistingContract:
    """See the module."""

    @pytest.fixture
    def embed(self) -> Callable[..., None]:
        raise NotImplementedError

    @pytest.fixture
    def nights(self, tmp_path, embed) -> Nights:
        return Nights(tmp_path, embed)

    def test_documents_that_are_there_are_passed_over_and_those_that_failed_are_tried_again(self, nights):
        """Of ten lines eight have a vector after the first night; one was empty and one was broken."""
        lines = [{"id": f"d{n}", "text": f"text {n}"} for n in range(9)] + [{"id": "d9", "text": 5}]
        lines[3]["text"] = ""
        first = nights.run("one", nights.write_lines("a.jsonl", *lines))
        assert (first.rows, first.failed) == (8, {"empty": 1, "malformed": 1})
        assert nights.encoded == 8
        lines[3]["text"], lines[5]["text"] = "not empty now", "another text under a key that is there"
        lines += [{"id": f"new{n}", "text": f"new text {n}"} for n in range(3)]
        second = nights.run("two", nights.write_lines("a.jsonl", *lines), skip=("one",))
        assert in_out_skipped(second) == (13, 4, 8)
        assert nights.encoded == 8 + 4
        assert nights.keys("two") == ["d3", "new0", "new1", "new2"]
        assert [code for _, code in nights.failed("two")] == ["malformed"]
        vectors = {row["id"]: row["embedding"] for row in read_dataset(nights.directory("two")).to_pylist()}
        assert vectors["d3"] == text_vector("not empty now")

    def test_photographs_are_passed_over_without_being_opened(self, nights):
        """By id the name decides: what is there is broken in the meantime, and nobody looks."""
        photos = nights.folder / "photos"
        photos.mkdir()
        for n in range(5):
            (photos / f"{n}.png").write_bytes(photograph("red", (6, 4 + n)))
        (photos / "bad.png").write_bytes(b"no picture")
        assert nights.run("one", photos, rows=2).rows == 5
        for n in range(5):
            (photos / f"{n}.png").write_bytes(b"broken since")
        (photos / "5.png").write_bytes(photograph("lime"))
        second = nights.run("two", photos, skip=("one",), rows=2)
        assert in_out_skipped(second) == (7, 1, 5)
        assert nights.keys("two") == [str(photos / "5.png")]
        assert nights.failed("two") == [(str(photos / "bad.png"), "undecodable")]

    def test_a_shard_with_nothing_left_to_do_has_its_manifest(self, nights):
        path = nights.write_lines("a.jsonl", *({"id": str(n), "text": f"t{n}"} for n in range(8)))
        nights.run("one", path)
        found = nights.run("two", path, skip=("one",))
        assert in_out_skipped(found) == (8, 0, 8)
        assert (found.shards, found.embedded, nights.encoded, found.rows_per_second) == (2, 0, 8, None)
        assert [
            (m["skipped"], m["input_rows"], m["rows"], m["decode_msec"])
            for m in read_manifests(nights.directory("two"))
        ] == [(4, 4, 0, 0.0)] * 2
        names = sorted(path.name for path in (nights.folder / "two").iterdir())
        assert not any("staging" in name for name in names), names

    def test_rows_of_parquet_with_odd_and_null_and_doubled_keys(self, nights):
        """A null and an empty key name nothing: such rows are never passed over."""
        keys = [*ODD_KEYS, None, "", "twice", "twice"]
        table = pa.table({"key": keys, "caption": [f"caption {n}" for n in range(len(keys))]})
        pq.write_table(table, nights.folder / "a.parquet")
        plan = {"columns": _columns(nights, {"caption": "text"}, key="key")}
        nights.run("one", nights.folder / "a.parquet", **plan)
        more = ["new", "twice", None, "X ", "e"]
        both = pa.concat_tables([table, pa.table({"key": more, "caption": [f"more {n}" for n in range(len(more))]})])
        pq.write_table(both, nights.folder / "a.parquet", row_group_size=5)
        found = nights.run("two", nights.folder / "a.parquet", skip=("one",), **plan)
        assert in_out_skipped(found) == (len(keys) + 5, 6, len(ODD_KEYS) + 3)
        assert nights.keys("two", "key") == sorted([None, None, "", "new", "X ", "e"], key=str)
        assert nights.encoded == len(keys) + 6

    def test_keys_of_numbers_are_those_of_their_digits(self, nights):
        """Night one is a Parquet table of integers, night two JSON lines and CSV of the same."""
        pq.write_table(
            pa.table({"id": pa.array([1, 2, None, -3], pa.int64()), "caption": list("abcd")}),
            nights.folder / "a.parquet",
        )
        nights.run("one", nights.folder / "a.parquet", columns={"caption": "text"})
        lines = nights.write_lines("b.jsonl", *({"id": n, "caption": f"x{n}"} for n in (1, 2, 3, -3, "-3", "02")))
        found = nights.run("two", lines, skip=("one",), columns={"caption": "text"})
        assert (found.skipped, nights.keys("two")) == (4, ["02", "3"])
        (nights.folder / "c.csv").write_text("id,caption\n1,a\n,b\n4,c\n")
        found = nights.run("three", nights.folder / "c.csv", skip=("one", "two"), columns={"caption": "text"})
        assert (found.skipped, nights.keys("three")) == (1, ["4", None])

    def test_lines_without_a_key_are_told_by_their_place(self, nights):
        first = nights.write_lines("a.jsonl", {"caption": "one"}, {"caption": ""}, {"id": None, "caption": "three"})
        nights.run("one", first, columns={"caption": "text"})
        assert nights.keys("one") == [f"{first}:1", f"{first}:3"]
        with first.open("a") as file:
            file.write(json.dumps({"caption": "four"}) + "\n")
        found = nights.run("two", first, columns={"caption": "text"}, skip=("one",))
        assert in_out_skipped(found) == (4, 1, 2)
        assert nights.keys("two") == [f"{first}:4"]

    def test_rows_of_which_something_failed_are_tried_again_and_nulls_are_no_failures(self, nights):
        good, bad = photograph("red"), b"no picture"
        rows = [("whole", "a", good), ("no photo", "b", None), ("bad photo", "c", bad), ("nothing", None, None)]
        columns = {"caption": "text", "photo": "image"}
        _write_photos(nights.folder / "a.parquet", rows)
        first = nights.run("one", nights.folder / "a.parquet", columns=columns)
        assert (first.rows, first.failed) == (4, {"undecodable": 1})  # the bad one has its caption's vector
        found = nights.run("two", nights.folder / "a.parquet", columns=columns, skip=("one",))
        assert (found.skipped, nights.keys("two")) == (2, ["bad photo", "nothing"])
        rows[2] = ("bad photo", "c", good)
        _write_photos(nights.folder / "a.parquet", rows)
        third = nights.run("three", nights.folder / "a.parquet", columns=columns, skip=("one", "two"))
        assert (third.skipped, nights.keys("three")) == (2, ["bad photo", "nothing"])
        fourth = nights.run("four", nights.folder / "a.parquet", columns=columns, skip=("one", "two", "three"))
        assert (fourth.skipped, nights.keys("four")) == (3, ["nothing"])  # whole in one of them is enough

    def test_arrays_and_trees_have_a_vector_if_one_of_theirs_has(self, nights):
        pq.write_table(
            pa.table({"id": list("abc"), "captions": [["x", None], [None], []]}), nights.folder / "a.parquet"
        )
        nights.run("one", nights.folder / "a.parquet", columns={"captions": "text"})
        found = nights.run("two", nights.folder / "a.parquet", columns={"captions": "text"}, skip=("one",))
        assert (found.skipped, nights.keys("two")) == (1, ["b", "c"])
        lines = nights.write_lines(
            "t.jsonl",
            {"id": "whole", "text": "not reached", "matches": [{"text": "m1"}, {"text": "m2"}]},
            {"id": "half", "matches": [{"text": "m1"}, {"text": ""}]},
            {"id": "empty", "matches": []},
        )
        nights.run("tree", lines, access_paths="@m")
        found = nights.run("tree 2", lines, access_paths="@m", skip=("tree",))
        assert (found.skipped, nights.keys("tree 2")) == (1, ["empty", "half"])

    def test_of_an_unfinished_dataset_its_finished_shards_count_and_an_empty_one_has_none(self, nights):
        path = nights.write_lines("a.jsonl", *({"id": str(n), "text": f"t{n}"} for n in range(8)))
        nights.run("one", path)
        shard = sorted((nights.folder / "one" / "_manifest").iterdir())[0]
        shard.unlink()
        (nights.folder / "one" / "_SUCCESS").unlink()
        found = nights.run("two", path, skip=("one",))
        assert (found.skipped, nights.keys("two")) == (4, ["0", "1", "2", "3"])
        (nights.folder / "none.jsonl").write_text("")
        nights.run("empty", nights.folder / "none.jsonl")
        assert in_out_skipped(nights.run("three", path, skip=("empty",))) == (8, 8, 0)
        assert in_out_skipped(nights.run("four", nights.folder / "none.jsonl", skip=("one",))) == (0, 0, 0)

    def test_by_content_what_was_renamed_is_passed_over_and_what_changed_is_not(self, nights):
        photos = nights.folder / "photos"
        photos.mkdir()
        for name, colour in (("a", "red"), ("b", "lime"), ("c", "blue")):
            (photos / f"{name}.png").write_bytes(photograph(colour))
        (photos / "bad.png").write_bytes(b"no picture")
        nights.run("one", photos, content_hash=True)
        written = {row["id"]: row["content_hash"] for row in read_dataset(nights.directory("one")).to_pylist()}
        assert written == {
            str(photos / f"{name}.png"): hashlib.sha256((photos / f"{name}.png").read_bytes()).hexdigest()
            for name in "abc"
        }
        (photos / "a.png").rename(photos / "moved.png")
        (photos / "b.png").write_bytes(photograph("white"))
        (photos / "copy of c.png").write_bytes((photos / "c.png").read_bytes())
        found = nights.run("two", photos, skip=("one",), by="content")
        assert in_out_skipped(found) == (5, 1, 3)
        assert nights.keys("two") == [str(photos / "b.png")]
        assert nights.failed("two") == [(str(photos / "bad.png"), "undecodable")]
        assert nights.encoded == 3 + 1
        assert read_dataset(nights.directory("two")).column("content_hash").to_pylist() == [
            hashlib.sha256((photos / "b.png").read_bytes()).hexdigest()
        ]

    def test_by_content_of_rows_with_several_columns_all_of_them_count(self, nights):
        red, blue = photograph("red"), photograph("blue")
        columns = {"caption": "text", "photo": "image"}
        _write_photos(nights.folder / "a.parquet", [("1", "a", red), ("2", "b", None), ("3", "c", b"bad")])
        nights.run("one", nights.folder / "a.parquet", columns=columns, content_hash=True)
        hashes = dict(
            zip(
                nights.keys("one"),
                read_dataset(nights.directory("one")).sort_by("id").column("content_hash").to_pylist(),
                strict=True,
            )
        )
        assert (hashes["1"] is not None, hashes["3"]) == (True, None)  # what failed in part is tried again
        rows = [
            ("x", "a", red),
            ("y", "a", blue),
            ("z", "b", None),
            ("v", None, red),
            ("w", "c", b"bad"),
            ("u", None, None),
        ]
        _write_photos(nights.folder / "b.parquet", rows)
        found = nights.run("two", nights.folder / "b.parquet", columns=columns, skip=("one",), by="content")
        assert (found.skipped, nights.keys("two")) == (2, ["u", "v", "w", "y"])

    def test_by_content_texts_in_lines_and_uris_are_told_alike(self, nights):
        (nights.folder / "p.png").write_bytes(photograph("red"))
        spec = EncoderSpec(nights.spec.model, device="cpu", allow_local_files=True)
        line = nights.write_lines(
            "a.jsonl", {"id": "t", "text": "a text"}, {"id": "p", "uri": str(nights.folder / "p.png")}
        )
        nights.run("one", line, content_hash=True, spec=spec)
        other = nights.write_lines(
            "b.jsonl",
            {"id": "t2", "text": "a text"},
            {"id": "p2", "uri": (nights.folder / "p.png").as_uri()},
            {"id": "gone", "uri": str(nights.folder / "gone.png")},
            {"id": "t3", "text": "a text "},
            {"id": "t4", "text": ""},
        )
        found = nights.run("two", other, skip=("one",), by="content", spec=spec)
        assert (found.skipped, nights.keys("two")) == (2, ["t3"])
        assert [code for _, code in nights.failed("two")] == ["not_found", "empty"]


def _columns(nights: Nights, columns: dict[str, Any], key: str) -> Any:
    from clipmill.encoders.plans.embed_plan import ColumnPlan

    return ColumnPlan.of(columns, spec=nights.spec, key=key)


def _write_photos(path: Path, rows: list[tuple[str, str | None, bytes | None]]) -> None:
    ids, captions, photos = zip(*rows, strict=True)
    pq.write_table(pa.table({"id": list(ids), "caption": list(captions), "photo": pa.array(photos, pa.binary())}), path)
