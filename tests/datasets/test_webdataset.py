"""Tars as img2dataset writes them: each sample is read once, with its caption and its metadata."""

from __future__ import annotations

import gzip
import json
import tarfile

import fsspec
import pytest
from beam_helpers import pipeline
from cli_helpers import run
from storage_helpers import documents
from tar_files import (
    BLOCK,
    BOTH,
    SPEC,
    about,
    codes,
    embed,
    members,
    picture,
    picture_vector,
    rows_of,
    tar_bytes,
    text_vector,
    write_tar,
)

from clipmill.datasets import plan_shards, read_dataset, read_documents, read_failures, read_rows, schema_of
from clipmill.datasets.inputs.samples import PLACE_COLUMNS
from clipmill.encoders import EncoderSpec
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import DatasetError

# --- complete samples -------------------------------------------------------------------------------------------------


def test_a_tar_as_documents_embeds_the_images_and_keeps_captions_and_metadata(tmp_path):
    write_tar(tmp_path / "00000.tar", members(range(5)))
    summary = embed(tmp_path / "out", tmp_path / "00000.tar")
    assert (summary.input_rows, summary.rows, summary.failed) == (5, 5, {})
    found = rows_of(tmp_path / "out")
    assert {name: row["embedding"] for name, row in found.items()} == {f"{n:09d}": picture_vector(n) for n in range(5)}
    assert [json.loads(row["tags"]) for row in found.values()] == [about(n) for n in range(5)]
    assert {row["text"] for row in found.values()} == {None}


def test_a_tar_as_rows_has_a_vector_of_the_image_and_one_of_the_caption(tmp_path):
    write_tar(tmp_path / "00000.tar", members(range(3)))
    embed(tmp_path / "out", tmp_path / "00000.tar", **BOTH)
    table = read_dataset(str(tmp_path / "out"))
    assert table.schema.names == ["id", "text", *PLACE_COLUMNS, "tags", "image_embedding", "text_embedding"]
    found = table.to_pylist()
    assert [row["image_embedding"] for row in found] == [picture_vector(n) for n in range(3)]
    assert [row["text_embedding"] for row in found] == [text_vector(n) for n in range(3)]
    assert [json.loads(row["tags"]) for row in found] == [about(n) for n in range(3)]


def test_the_image_is_written_unless_it_is_dropped(tmp_path):
    write_tar(tmp_path / "00000.tar", members([7]))
    embed(tmp_path / "out", tmp_path / "00000.tar", columns={"image": "image"})
    (row,) = rows_of(tmp_path / "out").values()
    assert row["image"] == picture(7)


def test_captions_alone_can_be_embedded(tmp_path):
    write_tar(tmp_path / "00000.tar", members([1, 2]))
    embed(tmp_path / "out", tmp_path / "00000.tar", columns={"text": "text"})
    names = ["id", "text", *PLACE_COLUMNS, "tags", "text_embedding"]
    assert [list(row) for row in rows_of(tmp_path / "out").values()] == [names] * 2


def test_the_key_may_be_renamed_or_be_a_field_of_the_metadata(tmp_path):
    write_tar(tmp_path / "00000.tar", members([3], uid="u3"))
    given = ["embed", tmp_path / "00000.tar", "--model", "fake::dim=4"]
    assert run(*given, "--output", tmp_path / "a", "--column", "text=text", "--id-column", "key") == 0
    assert read_dataset(str(tmp_path / "a")).column("key").to_pylist() == ["000000003"]
    assert run(*given, "--output", tmp_path / "b", "--id-column", "uid") == 0
    assert read_dataset(str(tmp_path / "b")).column("id").to_pylist() == ["u3"]


def test_a_nested_field_is_a_column(tmp_path):
    write_tar(tmp_path / "00000.tar", members([3]))
    embed(tmp_path / "out", tmp_path / "00000.tar", columns={"tags.caption": "text"})
    (row,) = rows_of(tmp_path / "out").values()
    assert row["tags_caption_embedding"] == text_vector(3)


def test_a_large_local_tar_is_cut_between_samples(tmp_path):
    path = write_tar(tmp_path / "00000.tar", members(range(10)))
    shards = plan_shards([str(path)], rows_per_shard=4)
    assert [(shard.start, shard.stop) for shard in shards] == [(0, 4), (4, 8), (8, None)]
    assert [d.id for shard in shards for d in read_documents(shard)] == [f"{n:09d}" for n in range(10)]
    assert [d.id for d in read_documents(shards[1])] == [f"{n:09d}" for n in range(4, 8)]
    assert [row.place for row in read_rows(shards[2])] == [f"{path}:8", f"{path}:9"]


def test_remote_and_compressed_tars_are_one_shard(tmp_path):
    data = tar_bytes(members(range(6)))
    with fsspec.open("memory://tars/00000.tar", "wb") as file:
        file.write(data)
    (tmp_path / "00000.tar.gz").write_bytes(gzip.compress(data))
    (tmp_path / "00001.tgz").write_bytes(gzip.compress(data))
    (tmp_path / "packed.tar").write_bytes(gzip.compress(data))
    for path in ("memory://tars/00000.tar", *sorted(tmp_path.iterdir())):
        (shard,) = plan_shards([str(path)], rows_per_shard=2)
        assert [d.id for d in read_documents(shard)] == [f"{n:09d}" for n in range(6)]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_of_tar_and_odd_names(tmp_path, format):
    """Long names, other scripts, spaces, folders, lower and upper case extensions, names as of `tar c ./folder`."""
    names = ["a/b c/Ä.png", "./d/000.PNG", "日本.jpeg", "x" * 60 + "/" + "y" * 70 + ".webp", "p.q/r.png"]
    if format == tarfile.USTAR_FORMAT:
        names[2] = "nihon.jpeg"
    write_tar(tmp_path / "x.tar", [(name, picture(n)) for n, name in enumerate(names)], format=format)
    keys = ["a/b c/Ä", "d/000", names[2].removesuffix(".jpeg"), "x" * 60 + "/" + "y" * 70, "p.q/r"]
    assert [(d.id, d.blob) for d in documents(tmp_path / "x.tar", rows=2)] == [
        (k, picture(n)) for n, k in enumerate(keys)
    ]


def test_names_that_are_not_utf_8_stay_distinct(tmp_path):
    write_tar(tmp_path / "x.tar", [(b"\xe4.png".decode("utf-8", "surrogateescape"), picture(1))])
    embed(tmp_path / "out", tmp_path / "x.tar")
    assert list(rows_of(tmp_path / "out")) == [r"\xe4"]


def test_folders_links_and_hidden_files_are_skipped(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        folder = tarfile.TarInfo("photos")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo("photos/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        archive.addfile(link)
    whole = path.read_bytes().rstrip(b"\0")
    rest = tar_bytes([("photos/._a.png", b"mac"), (".DS_Store", b"x"), ("photos/a.png", picture(2))])
    path.write_bytes(whole + b"\0" * (-len(whole) % BLOCK) + rest)
    assert [(d.id, d.blob) for d in documents(path)] == [("photos/a", picture(2))]


def test_concatenated_archives_are_read_to_the_end(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar_bytes(members([0])) + tar_bytes(members([1])))
    assert [(d.id, d.failures) for d in documents(tmp_path / "x.tar", rows=1)] == [("000000000", ()), ("000000001", ())]


def test_an_empty_tar_has_no_rows_and_an_empty_file_is_not_a_tar(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes([]))
    assert documents(tmp_path / "a.tar") == []
    (tmp_path / "b.tar").write_bytes(b"")
    (failed,) = documents(tmp_path / "b.tar")
    assert failed.failures[0].code == "malformed"


def test_equal_keys_are_separate_samples(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.png", picture(0)), ("a.txt", b"one"), ("a.png", picture(1)), ("a.txt", b"two")])
    found = [(d.id, d.blob, without_place(d)) for d in documents(tmp_path / "x.tar", rows=1)]
    assert found == [("a", picture(0), {"caption": "one"}), ("a", picture(1), {"caption": "two"})]


def test_other_files_of_a_sample_are_listed_and_not_read(tmp_path):
    write_tar(
        tmp_path / "x.tar", [("a.cls", b"3"), ("a.png", picture(0)), ("a.seg.png", b"mask"), ("b.png", picture(1))]
    )
    found = documents(tmp_path / "x.tar")
    assert [(d.id, d.blob, without_place(d)) for d in found] == [
        ("a", picture(0), {"left_out": ["cls", "seg.png"]}),
        ("b", picture(1), {}),
    ]


def test_another_caption_in_the_metadata_is_kept(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.png", picture(0)), ("a.json", b'{"caption": "old"}'), ("a.txt", b"new")])
    (found,) = documents(tmp_path / "x.tar")
    assert without_place(found) == {"caption": "new", "caption_in_metadata": "old"}


def without_place(document) -> dict:
    return {name: value for name, value in document.tags.items() if name not in PLACE_COLUMNS}


def place_of(row, whole: bytes) -> bytes:
    return whole[row["offset"] : row["offset"] + row["size"]]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_rows_and_documents_say_where_their_image_or_else_their_audio_is(tmp_path, format):
    """In every shard of an archive, behind names and times of any length, and in concatenated archives."""
    files = [
        *members(range(4)),
        ("x" * 90 + "/s.wav", b"RIFF"),
        ("t.txt", b"t"),
        ("u.png", picture(5)),
        ("u.wav", b"W"),
    ]
    whole = tar_bytes(files, format=format) + tar_bytes([("v.png", picture(6))], format=format)
    (tmp_path / "x.tar").write_bytes(whole)
    found = documents(tmp_path / "x.tar", rows=2)
    assert [place_of(d.tags, whole) for d in found if not d.failures] == [d.blob for d in found if not d.failures]
    assert {d.tags["archive"] for d in found if not d.failures} == {str(tmp_path / "x.tar")}
    embed(tmp_path / "out", tmp_path / "x.tar", rows=2, **BOTH)
    rows = rows_of(tmp_path / "out")
    assert {row["archive"] for row in rows.values()} == {str(tmp_path / "x.tar")}
    assert place_of(rows["x" * 90 + "/s"], whole) == b"RIFF"
    assert place_of(rows["u"], whole) == picture(5) and place_of(rows["v"], whole) == picture(6)
    assert (rows["t"]["offset"], rows["t"]["size"]) == (None, None)


def test_places_that_nobody_can_open_again_are_null(tmp_path):
    """In a compressed archive the offset; of two images of which columns are made, both."""
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(tar_bytes(members([0]))))
    (found,) = documents(tmp_path / "x.tar.gz")
    assert (found.tags.get("offset"), found.tags["size"]) == (None, len(picture(0))) and "offset" not in found.tags
    write_tar(
        tmp_path / "y.tar", [("a.left.png", picture(0)), ("a.right.png", picture(1)), ("b.right.png", picture(2))]
    )
    embed(tmp_path / "out", tmp_path / "y.tar", columns={"left.png": "image", "right.png": "image"})
    rows = rows_of(tmp_path / "out")
    assert (rows["a"]["offset"], rows["a"]["size"]) == (None, None)
    assert place_of(rows["b"], (tmp_path / "y.tar").read_bytes()) == picture(2)


def test_metadata_of_these_names_is_kept_beside_the_place(tmp_path):
    """As a document's tags; a dataset has columns of their own for the place."""
    write_tar(tmp_path / "x.tar", [("a.png", picture(0)), ("a.json", b'{"size": "big", "offset": null}')])
    embed(tmp_path / "out", tmp_path / "x.tar")
    (row,) = rows_of(tmp_path / "out").values()
    assert row["size"] == len(picture(0)) and isinstance(row["offset"], int)
    assert json.loads(row["tags"]) == {"size_in_metadata": "big", "offset_in_metadata": None}


# --- broken samples --------------------------------------------------------------------------------------------------


def test_a_sample_whose_names_have_more_dots_says_how_they_were_cut(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.left.png", picture(0)), ("a.right.png", picture(1)), ("b.png", picture(2))])
    embed(tmp_path / "out", tmp_path / "x.tar")
    assert list(rows_of(tmp_path / "out")) == ["b"]
    (failure,) = read_failures(str(tmp_path / "out"))
    assert "'left.png', 'right.png': a name is cut at its first dot" in failure["message"]


def test_samples_without_image_are_failures_as_documents_and_null_as_rows(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.txt", b"alone"), ("b.png", picture(1))])
    embed(tmp_path / "documents", tmp_path / "x.tar")
    assert list(rows_of(tmp_path / "documents")) == ["b"]
    assert codes(tmp_path / "documents") == [("a", "empty")]
    summary = embed(tmp_path / "rows", tmp_path / "x.tar", **BOTH)
    found = rows_of(tmp_path / "rows")
    assert (found["a"]["image_embedding"], found["a"]["text_embedding"]) == (
        None,
        fake_text_vector("alone", 4).tolist(),
    )
    assert (found["b"]["image_embedding"], found["b"]["text_embedding"]) == (picture_vector(1), None)
    assert (summary.failed, summary.nulls) == ({}, 2)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([("a.png", b""), ("a.json", b"[1]")], "a.json: the file holds a list, not an object"),
        ([("a.png", b""), ("a.json", b'{"a": ')], "a.json: invalid JSON"),
        ([("a.png", b""), ("a.json", b"[" * 100_000)], "a.json: the file is nested more than 64 levels deep"),
        ([("a.png", b""), ("a.txt", b"caf\xe9")], "a.txt is not UTF-8 at byte 3"),
        ([("a.png", b""), ("a.jpg", b"")], "2 images (png, jpg)"),
    ],
    ids=["a list", "cut JSON", "deep JSON", "no UTF-8", "two images"],
)
def test_a_sample_that_cannot_be_read_fails_alone(tmp_path, files, said):
    write_tar(tmp_path / "x.tar", [*members([0]), *files, *members([2])])
    embed(tmp_path / "out", tmp_path / "x.tar", **BOTH)
    assert list(rows_of(tmp_path / "out")) == ["000000000", "000000002"]
    (failure,) = read_failures(str(tmp_path / "out"))
    assert (failure["id"], failure["code"], failure["stage"]) == ("a", "malformed", "read")
    assert failure["row"] == f"{tmp_path / 'x.tar'}:1"
    assert said in failure["message"]


def test_a_file_that_is_too_large_is_not_read_and_fails_alone(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.png", b"\xff" * 3_000_000), ("b.png", picture(1))])
    spec = EncoderSpec("fake::dim=4", device="cpu", max_fetch_bytes=1_000_000)
    embed(tmp_path / "out", tmp_path / "x.tar", spec=spec)
    assert list(rows_of(tmp_path / "out")) == ["b"]
    (failure,) = read_failures(str(tmp_path / "out"))
    assert (failure["id"], failure["code"]) == ("a", "too_large")
    assert "'a.png' has 3000000 bytes, and max_fetch_bytes is 1000000" in failure["message"]


def test_compressions_that_are_not_read_are_named(tmp_path):
    with tarfile.open(tmp_path / "x.tar.xz", "w:xz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DatasetError, match="compressed with xz"):
        documents(tmp_path / "x.tar.xz")
    (failed,) = documents(tmp_path)
    assert failed.failures[0].code == "malformed"
    assert "compressed with xz" in failed.failures[0].message


def test_a_file_that_is_not_a_tar_is_a_failure(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"<html>not found</html>" * 100)
    (failed,) = documents(tmp_path / "x.tar")
    assert failed.failures[0].message == f"{tmp_path / 'x.tar'}: it is not a tar archive"


def test_columns_that_samples_lack_are_refused_before_anything_is_read(tmp_path):
    write_tar(tmp_path / "x.tar", members([0]))
    with pytest.raises(DatasetError, match=r"x\.tar has no column 'photo': .* 'image', 'audio', 'text', 'tags'"):
        embed(tmp_path / "out", tmp_path / "x.tar", columns={"photo": "image"})
    with pytest.raises(DatasetError) as refused:
        embed(tmp_path / "out", tmp_path / "x.tar", reader={"image": "jpg"})
    assert refused.value.option == "image"


# --- engines ---------------------------------------------------------------------------------------------------------


def test_both_engines_read_complete_and_truncated_tars_alike(tmp_path, spark):
    tars = tmp_path / "in"
    write_tar(tars / "00000.tar", members(range(5)))
    data = tar_bytes(members(range(5, 9)))
    (tars / "00001.tar").write_bytes(data[: len(data) // 2])
    options = ["--model", "fake::dim=4", "--rows-per-shard", "2", "--column", "image=image", "--drop", "image"]
    for engine in ("beam", "spark"):
        assert run("embed", tars, "--output", tmp_path / engine, "--engine", engine, *options) == 0
    embed(tmp_path / "here", tars, rows=2, columns={"image": "image"}, drop=["image"])
    expected = rows_of(tmp_path / "here")
    assert len(expected) in (6, 7)
    for engine in ("beam", "spark"):
        assert rows_of(tmp_path / engine) == expected
        assert [code for _, code in codes(tmp_path / engine)] == ["malformed"]


def test_a_beam_pipeline_reads_tars(tmp_path):
    import apache_beam as beam
    from beam_helpers import Keep, kept

    from clipmill.transforms import Embed, ReadDocuments

    write_tar(tmp_path / "00000.tar", members(range(3)))
    with pipeline() as p:
        embedded = p | ReadDocuments(str(tmp_path / "*.tar")) | Embed(SPEC)
        _ = (
            embedded.rows
            | beam.Map(lambda d: (d.id, d.embedding.tolist(), d.tags["caption"]))
            | Keep(tmp_path / "kept")
        )
    expected = [(f"{n:09d}", picture_vector(n), f"picture {n}") for n in range(3)]
    assert sorted(kept(tmp_path / "kept")) == expected


def test_the_schema_depends_on_the_plan_and_not_on_the_samples(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.png", picture(0))])
    assert schema_of(plan_shards([str(tmp_path / "x.tar")])).names == ["key", "text", *PLACE_COLUMNS, "tags"]
