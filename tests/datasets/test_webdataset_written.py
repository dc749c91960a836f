"""The format `webdataset`: tars with vectors beside their samples, read by the webdataset library and by clipmill."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from cli_helpers import run
from tar_files import SPEC, embed, members, picture, picture_vector, write_tar

from clipmill.datasets import read_failures
from clipmill.datasets.formats.shard_writer import ShardWriter
from clipmill.datasets.formats.webdataset_part import key_of
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import SpecError

PAIRS = {"columns": {"image": "image", "text": "text"}}


def tars(directory: Path) -> list[str]:
    return sorted(map(str, directory.glob("part-*.tar")))


def samples(directory: Path) -> list[dict[str, Any]]:
    return list(webdataset.WebDataset(tars(directory), shardshuffle=False).decode())


def names(directory: Path) -> list[str]:
    return [name for path in tars(directory) for name in tarfile.open(path).getnames()]


def test_samples_have_their_files_and_a_vector_of_each_column(tmp_path):
    write_tar(tmp_path / "x.tar", [*members(range(5)), ("bad.png", b"broken"), ("c.txt", b"picture 7")])
    summary = embed(tmp_path / "out", tmp_path / "x.tar", rows=3, format="webdataset", **PAIRS)
    assert (summary.rows, summary.failed_rows, summary.complete) == (6, 1, True)
    *whole, last = samples(tmp_path / "out")
    for number, sample in enumerate(whole):
        assert sample["__key__"] == f"{number:09d}"
        assert sample["image_embedding.npy"].dtype == np.float32
        assert sample["image_embedding.npy"].tolist() == picture_vector(number)
        assert sample["text_embedding.npy"].tolist() == fake_text_vector(f"picture {number}", 4).tolist()
        assert sample["txt"] == f"picture {number}"
        assert sample["json"]["url"] == f"https://example.com/{number}.png"
        assert sample["png"] == picture(number)
    assert {name for name in last if not name.startswith("__")} == {"txt", "text_embedding.npy", "json"}
    assert [failure["row"] for failure in read_failures(str(tmp_path / "out"))] == ["bad"]


def test_the_bytes_of_images_are_those_of_the_input(tmp_path):
    write_tar(tmp_path / "x.tar", members(range(2)))
    embed(tmp_path / "rows", tmp_path / "x.tar", format="webdataset", columns={"image": "image"})
    options = ["--model", SPEC.model, "--format", "webdataset", "--keep-content"]
    assert run("embed", tmp_path / "x.tar", "-o", tmp_path / "documents", *options) == 0
    for out in ("rows", "documents"):
        with tarfile.open(tars(tmp_path / out)[0]) as tar:
            for number in range(2):
                assert tar.extractfile(f"{number:09d}.png").read() == picture(number)


def test_documents_have_one_vector_and_hugging_faces_loader_reads_them(tmp_path):
    write_tar(tmp_path / "x.tar", members(range(3)))
    embed(tmp_path / "out", tmp_path / "x.tar", rows=2, format="webdataset")
    loaded = datasets.load_dataset(
        "webdataset", data_files=tars(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [list(row["npy"]) for row in loaded] == [picture_vector(number) for number in range(3)]
    assert loaded[1]["json"]["caption"] == "picture 1"


def test_clipmill_reads_its_own_samples_with_equal_vectors(tmp_path):
    write_tar(tmp_path / "x.tar", members(range(4)))
    embed(tmp_path / "out", tmp_path / "x.tar", rows=2, format="webdataset", **PAIRS)
    embed(tmp_path / "again", tmp_path / "out", rows=2, format="webdataset", **PAIRS)
    first, second = samples(tmp_path / "out"), samples(tmp_path / "again")
    assert len(first) == len(second) == 4
    for one, other in zip(first, second, strict=True):
        for name in ("image_embedding.npy", "text_embedding.npy"):
            assert np.array_equal(one[name], other[name])
        assert other["json"]["tags"]["archive"] == one["json"]["archive"] == str(tmp_path / "x.tar")
        assert other["json"]["archive"] in tars(tmp_path / "out")


def test_two_runs_write_equal_bytes(tmp_path):
    write_tar(tmp_path / "x.tar", members(range(3)))
    for out in ("one", "two"):
        embed(tmp_path / out, tmp_path / "x.tar", format="webdataset", **PAIRS)
    assert [Path(path).read_bytes() for path in tars(tmp_path / "one")] == [
        Path(path).read_bytes() for path in tars(tmp_path / "two")
    ]


def test_names_are_paths_without_dots_and_of_their_own(tmp_path):
    ids = [
        "a/b",
        "a/b",
        "a/b",
        "a/b~3",
        "/photos/x.y.jpg",
        "https://h/p?q=1",
        "..",
        "é 50%",
        "",
        None,
        "z" * 300,
        ".hidden",
    ]
    table = pa.table({"id": ids, "text": [f"picture {number}" for number in range(len(ids))]})
    pq.write_table(table, tmp_path / "in.parquet")
    embed(tmp_path / "out", tmp_path / "in.parquet", format="webdataset", columns={"text": "text"})
    found = samples(tmp_path / "out")
    assert [one["json"]["id"] for one in found] == ids
    for number, one in enumerate(found):
        assert one["npy"].tolist() == fake_text_vector(f"picture {number}", 4).tolist()
    keys = [one["__key__"] for one in found]
    assert keys[:4] == ["a/b", "a/b~2", "a/b~3", "a/b%7E3"]
    assert keys[4:7] == ["%2Fphotos%2Fx%2Ey%2Ejpg", "https%3A%2F%2Fh%2Fp%3Fq=1", "%2E%2E"]
    assert keys[7:10] == ["é 50%25", "000000008", "000000009"]
    assert len(keys[10]) == 200 and keys[10] != key_of("z" * 301)
    assert not any(name.startswith(("/", ".")) for name in names(tmp_path / "out"))


@pytest.mark.parametrize("drop", [(), ("id",)])
def test_rows_without_a_column_of_ids_are_named_by_number(tmp_path, drop) -> None:
    """Where the input has none, or it is dropped; an id may also be inside of a struct."""
    texts = [f"picture {number}" for number in range(3)]
    table = pa.table({**({"id": list("abc")} if drop else {}), "text": texts, "about": [{"name": t} for t in texts]})
    pq.write_table(table, tmp_path / "in.parquet")
    embed(tmp_path / "out", tmp_path / "in.parquet", format="webdataset", columns={"text": "text"}, drop=drop)
    assert [one["__key__"] for one in samples(tmp_path / "out")] == ["000000000", "000000001", "000000002"]
    options = ["--model", SPEC.model, "--format", "webdataset", "--column", "text=text", "--id-column", "about.name"]
    assert run("embed", tmp_path / "in.parquet", "-o", tmp_path / "named", *options) == 0
    assert [one["__key__"] for one in samples(tmp_path / "named")] == texts


def test_values_that_json_lacks_and_columns_named_like_tags(tmp_path):
    """Bytes that are no picture become a file; nested vectors stay in the JSON; what is in two places stays in both."""
    table = pa.table(
        {
            "id": ["a"],
            "text": ["picture 1"],
            "raw": [b"\x00\x01"],
            "photo": pa.array([picture(1)], pa.large_binary()),
            "tags": ['{"id": "inner", "more": 1}'],
            "pages": [["picture 2", "picture 3"]],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    columns = {"text": "text", "photo": "image", "pages": "text"}
    embed(tmp_path / "out", tmp_path / "in.parquet", format="webdataset", columns=columns)
    (sample,) = samples(tmp_path / "out")
    assert sample["raw.bin"] == b"\x00\x01"
    assert sample["photo_embedding.npy"].tolist() == picture_vector(1)
    assert sample["json"]["pages_embedding"] == [fake_text_vector(f"picture {number}", 4).tolist() for number in (2, 3)]
    assert (sample["json"]["id"], sample["json"]["more"], sample["json"]["tags"]) == ("a", 1, {"id": "inner"})


def test_float16_null_vectors_and_a_shard_without_rows(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.png", b"broken"), ("b.png", picture(1)), ("c.txt", b"picture 3")])
    summary = embed(tmp_path / "out", tmp_path / "x.tar", rows=1, format="webdataset", dtype="float16", **PAIRS)
    assert (summary.shards, len(tars(tmp_path / "out"))) == (3, 2)
    found = samples(tmp_path / "out")
    assert found[0]["image_embedding.npy"].dtype == np.float16
    assert "text_embedding.npy" not in found[0] and "image_embedding.npy" not in found[1]


def test_a_job_is_resumed(tmp_path):
    write_tar(tmp_path / "x.tar", members(range(4)))
    options = ["--model", SPEC.model, "--rows-per-shard", 2, "--format", "webdataset"]
    assert run("embed", tmp_path / "x.tar", "-o", tmp_path / "out", *options) == 0
    gone = Path(tars(tmp_path / "out")[0])
    whole = gone.read_bytes()
    gone.unlink()
    assert run("embed", tmp_path / "x.tar", "-o", tmp_path / "out", *options, "--resume") == 0
    assert gone.read_bytes() == whole


def test_what_reads_parquet_says_what_the_tars_are(tmp_path, capsys):
    write_tar(tmp_path / "x.tar", members(range(2)))
    embed(tmp_path / "out", tmp_path / "x.tar", format="webdataset")
    assert run("index", tmp_path / "out", "-o", tmp_path / "index") == 2
    assert "samples in tars (part-*.tar)" in capsys.readouterr().err
    assert run("embed", tmp_path / "out", "--dry-run", "-o", tmp_path / "x", "--model", SPEC.model) == 0


def test_a_writer_without_a_job_is_refused(tmp_path):
    writer = ShardWriter(str(tmp_path), "0", pa.schema([("id", pa.string())]), format="webdataset")
    with pytest.raises(SpecError, match="is for jobs"), writer:
        pass
