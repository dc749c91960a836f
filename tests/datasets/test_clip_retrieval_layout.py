"""clip-retrieval's layout: row i of every file belongs together, and rows that do not fit are failures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import job_options
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import run
from tar_files import embed, members, picture, picture_vector, write_beside, write_tar

from clipmill.datasets import finish_job, plan_shards, read_failures
from clipmill.datasets.formats.clip_retrieval_part import NpyWriter
from clipmill.encoders import EncoderSpec
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import SpecError
from clipmill.jobs import embed_shard, start_job

SPEC = EncoderSpec("fake::dim=4", device="cpu", normalize=True)
BOTH = {"columns": {"image": "image", "text": "text"}}
LAYOUT = {"spec": SPEC, "format": "clip-retrieval"}


def unit(vector: object) -> np.ndarray:
    values = np.asarray(vector, np.float32)
    return (values / np.linalg.norm(values)).astype(np.float16)


def image_vectors(*numbers: int) -> np.ndarray:
    return np.stack([unit(picture_vector(number)) for number in numbers])


def text_vectors(*numbers: int) -> np.ndarray:
    return np.stack([unit(fake_text_vector(f"picture {number}", 4)) for number in numbers])


def read_layout(directory: Path) -> tuple[dict[str, np.ndarray], list[dict]]:
    """Read as clip-retrieval does: each folder's files in the order of their names."""
    arrays = {}
    for folder in ("img_emb", "text_emb"):
        files = sorted((directory / folder).glob("*.npy"))
        if files:
            assert all(re.fullmatch(rf"{folder}_\d{{5}}-\w+\.npy", file.name) for file in files)
            arrays[folder] = np.concatenate([np.load(file, mmap_mode="r") for file in files])
    metadata = sorted((directory / "metadata").glob("*.parquet"))
    return arrays, [row for file in metadata for row in pq.read_table(file).to_pylist()]


def codes(directory: Path) -> list[tuple]:
    return [(f["row"], f["column"], f["code"]) for f in read_failures(str(directory))]


def test_images_and_captions_of_a_tar_are_aligned_by_row(tmp_path):
    write_tar(tmp_path / "x.tar", members(range(5)))
    summary = embed(tmp_path / "out", tmp_path / "x.tar", rows=2, drop=["image"], **BOTH, **LAYOUT)
    assert (summary.rows, summary.embedded, summary.shards, summary.complete) == (5, 10, 3, True)
    arrays, metadata = read_layout(tmp_path / "out")
    assert {array.dtype for array in arrays.values()} == {np.dtype("float16")}
    np.testing.assert_allclose(arrays["img_emb"], image_vectors(*range(5)), atol=1e-3)
    np.testing.assert_allclose(arrays["text_emb"], text_vectors(*range(5)), atol=1e-3)
    assert [list(row) for row in metadata] == [
        ["image_path", "caption", "url", "id", "archive", "offset", "size", "tags"]
    ] * 5
    assert [(row["image_path"], row["caption"], row["url"]) for row in metadata] == [
        (f"{n:09d}", f"picture {n}", f"https://example.com/{n}.png") for n in range(5)
    ]
    assert json.loads(metadata[3]["tags"])["key"] == "000000003"


def test_bytes_are_never_written(tmp_path):
    write_tar(tmp_path / "x.tar", members([1]))
    embed(tmp_path / "out", tmp_path / "x.tar", **BOTH, **LAYOUT)
    _, (row,) = read_layout(tmp_path / "out")
    assert "image" not in row


def test_a_folder_of_photographs_has_paths(tmp_path):
    folder = write_beside(tmp_path / "in", [*members([1]), ("b.png", picture(2))])
    embed(tmp_path / "out", folder, **LAYOUT)
    arrays, metadata = read_layout(tmp_path / "out")
    assert list(arrays) == ["img_emb"]
    np.testing.assert_allclose(arrays["img_emb"], image_vectors(1, 2), atol=1e-3)
    assert [(row["image_path"], row["caption"], row["url"]) for row in metadata] == [
        (str(folder / "000000001.png"), "picture 1", "https://example.com/1.png"),
        (str(folder / "b.png"), None, None),
    ]


def test_rows_without_one_of_their_vectors_are_failures_and_shift_nothing(tmp_path):
    """A caption that is missing, an image that is missing, an image that is broken, an empty caption."""
    files = [
        ("a.png", picture(1)),
        ("b.txt", b"picture 9"),
        *members([2]),
        ("d.png", b"broken"),
        ("d.txt", b"picture 8"),
        ("e.png", picture(3)),
        ("e.txt", b" "),
        *members([5]),
    ]
    write_tar(tmp_path / "x.tar", files)
    summary = embed(tmp_path / "out", tmp_path / "x.tar", **BOTH, **LAYOUT)
    arrays, metadata = read_layout(tmp_path / "out")
    assert [row["image_path"] for row in metadata] == ["000000002", "000000005"]
    np.testing.assert_allclose(arrays["img_emb"], image_vectors(2, 5), atol=1e-3)
    np.testing.assert_allclose(arrays["text_emb"], text_vectors(2, 5), atol=1e-3)
    assert codes(tmp_path / "out") == [
        ("a", "text_embedding", "empty"),
        ("b", "image_embedding", "empty"),
        ("d", "image", "undecodable"),
        ("e", "text", "empty"),
    ]
    assert (summary.input_rows, summary.rows, summary.failed_rows) == (6, 2, 4)
    assert (summary.embedded, summary.nulls) == (4, 0)


def test_a_document_that_is_no_image_is_a_failure(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": "t", "text": "a text"}\n')
    summary = embed(tmp_path / "out", tmp_path / "x.jsonl", **LAYOUT)
    assert codes(tmp_path / "out") == [("t", None, "unsupported")]
    assert (summary.rows, summary.embedded, summary.failed_rows) == (0, 0, 1)


def test_a_shard_without_rows_has_no_files(tmp_path):
    """embedding-reader skips empty arrays but not their metadata, so all rows after them would be shifted."""
    write_tar(tmp_path / "x.tar", [("a.png", b"broken"), ("b.png", b"broken"), *members([3])])
    embed(tmp_path / "out", tmp_path / "x.tar", rows=1, **LAYOUT)
    counts = {name: len(list((tmp_path / "out" / name).iterdir())) for name in ("img_emb", "metadata", "_manifest")}
    assert counts == {"img_emb": 1, "metadata": 1, "_manifest": 3}
    _, metadata = read_layout(tmp_path / "out")
    assert [row["image_path"] for row in metadata] == ["000000003"]


def test_tables_keep_their_columns_and_conflicting_names_get_a_prefix(tmp_path):
    table = {
        "key": ["k1", "k2"],
        "photo": [picture(1), picture(2)],
        "txt": ["picture 1", "picture 2"],
        "caption": ["old 1", "old 2"],
        "url": ["u1", None],
        "image_path": [1, 2],
        "width": pa.array([5, 6], pa.int32()),
    }
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    embed(tmp_path / "out", tmp_path / "x.parquet", columns={"photo": "image", "txt": "text"}, **LAYOUT)
    arrays, metadata = read_layout(tmp_path / "out")
    assert metadata == [
        {
            "image_path": None,
            "caption": f"picture {n}",
            "url": url,
            "key": f"k{n}",
            "source_caption": f"old {n}",
            "source_image_path": n,
            "width": 4 + n,
        }
        for n, url in ((1, "u1"), (2, None))
    ]
    np.testing.assert_allclose(arrays["text_emb"], text_vectors(1, 2), atol=1e-3)


def test_paths_of_a_table_are_image_paths_with_the_key_as_fallback(tmp_path):
    folder = write_beside(tmp_path / "in", [("a.png", picture(1))])
    spec = EncoderSpec("fake::dim=4", device="cpu", normalize=True, allow_local_files=True)
    (tmp_path / "x.csv").write_text(f"id,photo\nk,{folder / 'a.png'}\n")
    embed(tmp_path / "out", tmp_path / "x.csv", columns={"photo": "image"}, spec=spec, format="clip-retrieval")
    _, (row,) = read_layout(tmp_path / "out")
    assert row == {"image_path": str(folder / "a.png"), "id": "k", "photo": str(folder / "a.png")}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"spec": EncoderSpec("fake::dim=4")}, "normalize=True"),
        ({"keep_content": True}, "keep_content"),
        ({"access_paths": "@r,m"}, "and no matches"),
        ({"columns": {"text": "text", "tags.caption": "text"}}, "'tags.caption'"),
        ({"columns": {"text": "text"}, "drop": ["text"]}, "'text' out of drop"),
    ],
    ids=["not normalised", "content", "matches", "two texts", "no captions"],
)
def test_jobs_that_do_not_fit_the_layout_are_refused(tmp_path, options, said):
    write_tar(tmp_path / "x.tar", members([0]))
    with pytest.raises(SpecError, match=re.escape(said)):
        embed(tmp_path / "out", tmp_path / "x.tar", **{**LAYOUT, **options})
    assert not (tmp_path / "out").exists()


def test_arrays_of_images_are_refused(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "photos": [[picture(1)]]}), tmp_path / "x.parquet")
    with pytest.raises(SpecError, match="one image and one text per row"):
        embed(tmp_path / "out", tmp_path / "x.parquet", columns={"photos": "image"}, **LAYOUT)


def test_float32_is_written_if_requested(tmp_path):
    write_tar(tmp_path / "x.tar", members([0]))
    embed(tmp_path / "out", tmp_path / "x.tar", dtype="float32", **LAYOUT)
    assert read_layout(tmp_path / "out")[0]["img_emb"].dtype == np.float32


def test_a_shard_is_written_atomically(tmp_path, monkeypatch):
    """If publishing is interrupted, no manifest lists the files, and the next attempt writes all of them."""
    write_tar(tmp_path / "x.tar", members(range(2)))
    shards = plan_shards([str(tmp_path / "x.tar")])
    job = job_options.plan(SPEC, str(tmp_path / "out"), shards, format="clip-retrieval", **BOTH)
    start_job(job, shards)
    from clipmill.files.folder import Folder

    publish = Folder.publish

    def dies(self, temporary, name):
        if name.startswith("text_emb"):
            raise KeyboardInterrupt
        return publish(self, temporary, name)

    monkeypatch.setattr(Folder, "publish", dies)
    with pytest.raises(KeyboardInterrupt):
        embed_shard(shards[0], job)
    assert not list((tmp_path / "out").glob("_manifest/*"))
    assert not list((tmp_path / "out").glob(".*.tmp"))
    monkeypatch.undo()
    embed_shard(shards[0], job)
    finish_job(job.directory)
    arrays, metadata = read_layout(tmp_path / "out")
    assert [len(array) for array in arrays.values()] == [len(metadata), len(metadata)] == [2, 2]


def test_the_command_writes_overwrites_and_resumes_it_on_both_engines(tmp_path, spark):
    write_tar(tmp_path / "in" / "00000.tar", members(range(5)))
    options = ["--model", "fake::dim=4", "--rows-per-shard", "2", "--column", "image=image", "--column", "text=text"]
    options += ["--normalize", "--format", "clip-retrieval"]
    for engine in ("beam", "spark"):
        assert run("embed", tmp_path / "in", "--output", tmp_path / engine, "--engine", engine, *options) == 0
    assert run("embed", tmp_path / "in", "--output", tmp_path / "beam", "--overwrite", *options) == 0
    (lost,) = (tmp_path / "beam" / "text_emb").glob("*_00001-*")
    lost.unlink()
    write_tar(tmp_path / "in" / "00001.tar", members(range(5, 7)))
    for engine in ("beam", "spark"):
        assert (
            run("embed", tmp_path / "in", "--output", tmp_path / engine, "--engine", "beam", "--resume", *options) == 0
        )
        arrays, metadata = read_layout(tmp_path / engine)
        assert sorted(row["image_path"] for row in metadata) == [f"{n:09d}" for n in range(7)]
        numbers = [int(row["image_path"]) for row in metadata]
        np.testing.assert_allclose(arrays["img_emb"], image_vectors(*numbers), atol=1e-3)
        np.testing.assert_allclose(arrays["text_emb"], text_vectors(*numbers), atol=1e-3)


def test_commands_that_need_vectors_say_where_they_are(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.png").write_bytes(picture(0))
    given = ("--model", "fake::dim=4", "--normalize", "--format", "clip-retrieval")
    assert run("embed", tmp_path / "photos", "-o", tmp_path / "out", *given) == 0
    for command in (("index", tmp_path / "out", "-o", tmp_path / "index"), ("search", tmp_path / "out", "a cat")):
        capsys.readouterr()
        assert run(*command) == 2
        said = capsys.readouterr().err
        assert "is in clip-retrieval's layout, with its vectors in img_emb/*.npy" in said
        assert "'clip-retrieval index' builds an index" in said and "--format parquet" in said
    assert not (tmp_path / "index").exists()
    assert run("summary", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    assert "image_path" in out and "the vectors are in img_emb/*.npy" in err


def test_the_command_names_the_missing_option(tmp_path, capsys):
    write_tar(tmp_path / "00000.tar", members(range(2)))
    code = run(
        "embed",
        tmp_path / "00000.tar",
        "--output",
        tmp_path / "out",
        "--model",
        "fake::dim=4",
        "--format",
        "clip-retrieval",
    )
    assert code == 2
    assert "add --normalize" in capsys.readouterr().err


def test_a_numpy_file_grows_to_any_length_without_moving_its_rows(tmp_path):
    writer = NpyWriter(tmp_path / "x.npy", "<f4", 3)
    rows = np.arange(30_000, dtype=np.float32).reshape(-1, 3)
    for first in range(0, len(rows), 999):
        chunk = rows[first : first + 999]
        writer.write(pa.chunked_array([pa.array(list(chunk), pa.list_(pa.float32()))]))
    writer.close()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), rows)
