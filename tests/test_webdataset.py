"""Tars and folders as img2dataset writes them: each sample comes out once, with its caption and its metadata."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import shlex
import tarfile
import tracemalloc
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from beam_helpers import pipeline
from cli_helpers import run
from tar_files import SPEC, embed, members, picture, picture_vector, rows_of, tar_bytes, write_beside, write_tar

from clipmill.encoders import EncoderSpec
from clipmill.encoders.errors import DatasetError
from clipmill.encoders.storage import (
    plan_shards,
    read_dataset,
    read_documents,
    read_failures,
    read_rows,
    schema_of,
    summarise,
)
from clipmill.encoders.testing import fake_text_vector

pytest_plugins = ["spark_session"]

BOTH = {"columns": {"image": "image", "text": "text"}, "drop": ["image"]}
BLOCK = tarfile.BLOCKSIZE


def documents(path: object, rows: int = 1024, **options: object) -> list:
    shards = plan_shards([str(path)], rows_per_shard=rows)
    return [document for shard in shards for document in read_documents(shard, **options)]


def text_vector(number: int) -> list[float]:
    return fake_text_vector(f"picture {number}", 4).tolist()


def about(number: int) -> dict:
    return {
        "url": f"https://example.com/{number}.png",
        "caption": f"picture {number}",
        "key": f"{number:09d}",
    }


def codes(output: object) -> list[tuple[str, str]]:
    return [(failure.get("id"), failure["code"]) for failure in read_failures(str(output))]


# --- samples that are whole ------------------------------------------------------------------------------------------


def test_a_tar_as_documents_embeds_the_images_and_carries_captions_and_metadata(tmp_path):
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
    assert table.schema.names == ["id", "text", "tags", "image_embedding", "text_embedding"]
    found = table.to_pylist()
    assert [row["image_embedding"] for row in found] == [picture_vector(n) for n in range(3)]
    assert [row["text_embedding"] for row in found] == [text_vector(n) for n in range(3)]
    assert [json.loads(row["tags"]) for row in found] == [about(n) for n in range(3)]


def test_the_image_is_written_again_unless_it_is_dropped(tmp_path):
    write_tar(tmp_path / "00000.tar", members([7]))
    embed(tmp_path / "out", tmp_path / "00000.tar", columns={"image": "image"})
    (row,) = rows_of(tmp_path / "out").values()
    assert row["image"] == picture(7)


def test_captions_alone_are_a_column_too(tmp_path):
    write_tar(tmp_path / "00000.tar", members([1, 2]))
    embed(tmp_path / "out", tmp_path / "00000.tar", columns={"text": "text"})
    assert [list(row) for row in rows_of(tmp_path / "out").values()] == [["id", "text", "tags", "text_embedding"]] * 2


def test_the_key_takes_the_name_that_is_asked_for_and_may_be_a_field_of_the_metadata(tmp_path):
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


def test_a_large_tar_of_this_machine_is_cut_between_samples(tmp_path):
    path = write_tar(tmp_path / "00000.tar", members(range(10)))
    shards = plan_shards([str(path)], rows_per_shard=4)
    assert [(shard.start, shard.stop) for shard in shards] == [(0, 4), (4, 8), (8, None)]
    assert [d.id for shard in shards for d in read_documents(shard)] == [f"{n:09d}" for n in range(10)]
    assert [d.id for d in read_documents(shards[1])] == [f"{n:09d}" for n in range(4, 8)]
    assert [row.place for row in read_rows(shards[2])] == [f"{path}:8", f"{path}:9"]


def test_a_tar_elsewhere_and_a_packed_one_are_read_in_one_piece(tmp_path):
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
    """Long names, other scripts, spaces, folders, small and capital endings, names as `tar c ./folder` makes them."""
    names = ["a/b c/Ä.png", "./d/000.PNG", "日本.jpeg", "x" * 60 + "/" + "y" * 70 + ".webp", "p.q/r.png"]
    if format == tarfile.USTAR_FORMAT:
        names[2] = "nihon.jpeg"
    write_tar(tmp_path / "x.tar", [(name, picture(n)) for n, name in enumerate(names)], format=format)
    keys = ["a/b c/Ä", "d/000", names[2].removesuffix(".jpeg"), "x" * 60 + "/" + "y" * 70, "p.q/r"]
    assert [(d.id, d.blob) for d in documents(tmp_path / "x.tar", rows=2)] == [
        (k, picture(n)) for n, k in enumerate(keys)
    ]


def test_names_that_are_no_utf_8_are_told_apart(tmp_path):
    write_tar(tmp_path / "x.tar", [(b"\xe4.png".decode("utf-8", "surrogateescape"), picture(1))])
    embed(tmp_path / "out", tmp_path / "x.tar")
    assert list(rows_of(tmp_path / "out")) == [r"\udce4"]


def test_folders_links_and_hidden_files_are_passed_over(tmp_path):
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


def test_archives_that_were_joined_are_read_to_the_end(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar_bytes(members([0])) + tar_bytes(members([1])))
    assert [(d.id, d.failures) for d in documents(tmp_path / "x.tar", rows=1)] == [("000000000", ()), ("000000001", ())]


def test_an_empty_tar_has_no_rows_and_an_empty_file_is_none(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes([]))
    assert documents(tmp_path / "a.tar") == []
    (tmp_path / "b.tar").write_bytes(b"")
    (failed,) = documents(tmp_path / "b.tar")
    assert failed.failures[0].code == "malformed"


def test_equal_keys_are_samples_of_their_own(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.png", picture(0)), ("a.txt", b"one"), ("a.png", picture(1)), ("a.txt", b"two")])
    found = [(d.id, d.blob, d.tags) for d in documents(tmp_path / "x.tar", rows=1)]
    assert found == [("a", picture(0), {"caption": "one"}), ("a", picture(1), {"caption": "two"})]


def test_other_files_of_a_sample_are_named_and_not_read(tmp_path):
    write_tar(
        tmp_path / "x.tar", [("a.cls", b"3"), ("a.png", picture(0)), ("a.seg.png", b"mask"), ("b.png", picture(1))]
    )
    found = documents(tmp_path / "x.tar")
    assert [(d.id, d.blob, d.tags) for d in found] == [
        ("a", picture(0), {"left_out": ["cls", "seg.png"]}),
        ("b", picture(1), {}),
    ]


def test_another_caption_in_the_metadata_is_kept(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.png", picture(0)), ("a.json", b'{"caption": "old"}'), ("a.txt", b"new")])
    (found,) = documents(tmp_path / "x.tar")
    assert found.tags == {"caption": "new", "caption_in_metadata": "old"}


# --- samples that are not --------------------------------------------------------------------------------------------


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
        ([("a.png", b""), ("a.json", b'{"a": ')], "a.json: no JSON"),
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


@pytest.mark.parametrize("kind", ["bz2", "xz"])
def test_tars_that_are_packed_otherwise_are_told_so(tmp_path, kind):
    path = tmp_path / f"x.tar.{kind}"
    with tarfile.open(path, f"w:{kind}") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    (failed,) = documents(path)
    assert failed.failures[0].code == "malformed"
    assert "unpack it, or pack it with gzip" in failed.failures[0].message


def test_what_is_no_tar_says_so(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"<html>not found</html>" * 100)
    (failed,) = documents(tmp_path / "x.tar")
    assert failed.failures[0].message == f"{tmp_path / 'x.tar'}: it is no tar archive"


def test_columns_that_samples_lack_are_refused_before_anything_is_read(tmp_path):
    write_tar(tmp_path / "x.tar", members([0]))
    with pytest.raises(DatasetError, match=r"x\.tar has no column 'photo'; .* 'image', 'audio', 'text', 'tags'"):
        embed(tmp_path / "out", tmp_path / "x.tar", columns={"photo": "image"})
    with pytest.raises(DatasetError, match="image='jpg' says nothing of tars"):
        embed(tmp_path / "out", tmp_path / "x.tar", reader={"image": "jpg"})


# --- archives that are cut or broken ---------------------------------------------------------------------------------


def whole_before(data: bytes, cut: int) -> list[str]:
    """Return the keys of the samples whose image ends before a byte, by Python's own reader."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = [m for m in archive if m.name.endswith(".png") and m.offset_data + m.size <= cut]
    return [member.name.removesuffix(".png") for member in found]


def places(data: bytes) -> dict[str, int]:
    """Return where in an archive to cut: in each kind of place of the fourth sample."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        by_name = {member.name: member for member in archive}
    image, text = by_name["000000003.png"], by_name["000000003.txt"]
    end = text.offset_data + text.size
    return {
        "in an extended header": image.offset + 100,
        "in what an extended header says": image.offset + BLOCK + 10,
        "in a header": image.offset_data - 200,
        "between header and data": image.offset_data,
        "in data": image.offset_data + image.size // 2,
        "in padding": image.offset_data + image.size + 1,
        "between files": image.offset_data + image.size + (-image.size % BLOCK),
        "between samples": end + (-end % BLOCK),
        "before the end mark": len(data.rstrip(b"\0")) + (-len(data.rstrip(b"\0")) % BLOCK),
    }


PLACES = list(places(tar_bytes(members(range(6)))))


@pytest.mark.parametrize("rows", [2, 1024])
@pytest.mark.parametrize("place", PLACES)
def test_a_tar_that_is_cut_gives_its_readable_members_and_one_failure(tmp_path, place, rows):
    data = tar_bytes(members(range(6)))
    cut = places(data)[place]
    (tmp_path / "x.tar").write_bytes(data[:cut])
    embed(tmp_path / "out", tmp_path / "x.tar", rows=rows)
    found = rows_of(tmp_path / "out")
    assert list(found) == whole_before(data, cut)
    assert [row["embedding"] for row in found.values()] == [picture_vector(int(name)) for name in found]
    (failure,) = read_failures(str(tmp_path / "out"))
    assert failure["code"] == "malformed"
    assert failure["row"].startswith(f"{tmp_path / 'x.tar'}:")
    assert any(said in failure["message"] for said in ("is cut off in", "is it cut off?", "no file follows"))


def test_a_cut_in_the_end_mark_loses_nothing(tmp_path):
    data = tar_bytes(members([0]))
    end = len(data.rstrip(b"\0"))
    for length in (end + (-end % BLOCK) + 1, end + (-end % BLOCK) + BLOCK, len(data) - 1):
        (tmp_path / "x.tar").write_bytes(data[:length])
        assert [d.failures for d in documents(tmp_path / "x.tar")] == [()]


def test_random_cuts_lose_no_sample_before_them_and_never_end_the_job(tmp_path):
    data = tar_bytes(members(range(8)))
    drawn = random.Random(4)
    end = len(data.rstrip(b"\0"))
    for _ in range(60):
        cut = drawn.randrange(1, end)
        (tmp_path / "x.tar").write_bytes(data[:cut])
        found = documents(tmp_path / "x.tar", rows=drawn.choice([1, 3, 100]))
        assert [d.id for d in found if not d.failures] == whole_before(data, cut), cut
        assert len([d for d in found if d.failures]) == 1, cut


def test_a_packed_tar_that_is_cut_gives_what_is_before(tmp_path):
    drawn = random.Random(5)
    noise = [(f"{n}.png", drawn.randbytes(3000)) for n in range(30)]
    packed = gzip.compress(tar_bytes(noise))
    (tmp_path / "x.tar.gz").write_bytes(packed[: len(packed) // 2])
    found = documents(tmp_path / "x.tar.gz")
    whole = [(d.id, d.blob) for d in found if not d.failures]
    assert whole == [(name.removesuffix(".png"), data) for name, data in noise[: len(whole)]]
    assert 10 < len(whole) < 20
    assert [str(d.failures[0].code) for d in found if d.failures] == ["malformed"]


def test_a_broken_header_ends_the_archive_with_one_failure(tmp_path):
    data = bytearray(tar_bytes(members(range(6)), format=tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as archive:
        broken = archive.getmember("000000003.png").offset
    data[broken + 150] ^= 0xFF  # in the checksum
    (tmp_path / "x.tar").write_bytes(data)
    embed(tmp_path / "out", tmp_path / "x.tar", rows=2)
    assert list(rows_of(tmp_path / "out")) == ["000000000", "000000001", "000000002"]
    (failure,) = read_failures(str(tmp_path / "out"))
    assert failure["code"] == "malformed"
    assert f"the header at byte {broken} is broken" in failure["message"]


def test_random_bytes_in_headers_never_end_the_job_and_lose_nothing_before(tmp_path):
    data = tar_bytes(members(range(6)), format=tarfile.USTAR_FORMAT)
    drawn = random.Random(6)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        headers = [(member.offset, member.name) for member in archive]
    for _ in range(60):
        offset, name = drawn.choice(headers)
        damaged = bytearray(data)
        for _ in range(drawn.randrange(1, 8)):
            damaged[offset + drawn.randrange(BLOCK)] = drawn.randrange(256)
        (tmp_path / "x.tar").write_bytes(damaged)
        found = documents(tmp_path / "x.tar", rows=drawn.choice([2, 100]))
        before = [f"{n:09d}" for n in range(int(name[:9]))]
        assert [d.id for d in found][: len(before)] == before


@pytest.mark.parametrize("content", [b"9999=path=x\n", b"9999 path=x\n", b"-1 path=x\n", b"0 path=x\n", b"x"])
def test_broken_extended_headers_are_one_failure(tmp_path, content):
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(content)
    first = info.tobuf(tarfile.USTAR_FORMAT) + content.ljust(BLOCK, b"\0")
    (tmp_path / "x.tar").write_bytes(first + tar_bytes(members([0])))
    (failed,) = documents(tmp_path / "x.tar")
    assert "the extended header before byte 1024 is broken" in failed.failures[0].message


def test_an_extended_header_of_gigabytes_is_not_read(tmp_path):
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 2**33
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    (failed,) = documents(tmp_path / "x.tar")
    assert f"has {2**33} bytes" in failed.failures[0].message


def test_memory_does_not_grow_with_the_tar(tmp_path):
    """Ten times the samples take no more memory at their most: one sample at a time is held."""

    def most(count: int) -> int:
        path = write_tar(tmp_path / f"{count}.tar", [(f"{n:05d}.png", bytes(50_000)) for n in range(count)])
        (shard,) = plan_shards([str(path)], rows_per_shard=10**6)
        tracemalloc.start()
        assert sum(1 for _ in read_documents(shard)) == count
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    most(5)  # imports
    small = most(40)
    assert most(400) < small * 1.5 < 40 * 50_000


# --- files that stand beside each other ------------------------------------------------------------------------------


@pytest.fixture
def img2dataset_files(tmp_path) -> Path:
    """A folder as img2dataset's `files` format: samples in folders, its own records beside those."""
    root = tmp_path / "in"
    for shard in range(2):
        write_beside(root / f"{shard:05d}", members(range(3 * shard, 3 * shard + 3)))
        (root / f"{shard:05d}.parquet").write_bytes(b"records")
        (root / f"{shard:05d}_stats.json").write_text('{\n "count": 3\n}')
    return root


def test_a_folder_of_img2dataset_carries_captions_and_metadata(tmp_path, img2dataset_files):
    embed(tmp_path / "out", img2dataset_files, rows=4)
    found = rows_of(tmp_path / "out")
    assert list(found) == [str(img2dataset_files / f"{n // 3:05d}" / f"{n:09d}.png") for n in range(6)]
    assert [json.loads(row["tags"]) for row in found.values()] == [about(n) for n in range(6)]
    assert [row["embedding"] for row in found.values()] == [picture_vector(n) for n in range(6)]


def test_a_folder_has_columns_too(tmp_path, img2dataset_files):
    embed(tmp_path / "out", img2dataset_files, rows=4, columns={"image": "image", "text": "text"})
    found = read_dataset(str(tmp_path / "out"))
    assert found.schema.names == ["id", "text", "tags", "image_embedding", "text_embedding"]
    assert found.column("image_embedding").to_pylist() == [picture_vector(n) for n in range(6)]
    assert found.column("text_embedding").to_pylist() == [text_vector(n) for n in range(6)]


def test_img2datasets_records_beside_tars_and_tables_are_no_input(tmp_path):
    write_tar(tmp_path / "in" / "00000.tar", members([0]))
    (tmp_path / "in" / "00000.parquet").write_bytes(b"records")
    (tmp_path / "in" / "00000_stats.json").write_text("{\n}")
    pq.write_table(pa.table({"jpg": [b""]}), tmp_path / "in" / "00001.parquet")
    (tmp_path / "in" / "00001_stats.json").write_text("{\n}")
    found = [Path(shard.paths[0]).name for shard in plan_shards([str(tmp_path / "in")])]
    assert found == ["00000.tar", "00001.parquet"]
    named = plan_shards([str(tmp_path / "in" / "00000.parquet")])
    assert [Path(shard.paths[0]).name for shard in named] == ["00000.parquet"]


def test_texts_and_json_without_an_image_stay_inputs(tmp_path):
    write_beside(tmp_path / "in", [("a.png", picture(0)), ("b.json", b'{"text": "x"}'), ("c.txt", b"alone")])
    paths = {path for shard in plan_shards([str(tmp_path / "in")]) for path in shard.paths}
    assert {Path(path).name for path in paths} == {"a.png", "b.json", "c.txt"}


def test_a_caption_that_changes_changes_the_shard(tmp_path):
    write_beside(tmp_path / "in", members([0]))
    (before,) = plan_shards([str(tmp_path / "in")])
    (tmp_path / "in" / "000000000.txt").write_text("another one")
    (after,) = plan_shards([str(tmp_path / "in")])
    assert (before.name, before.paths, before.beside) == (after.name, after.paths, after.beside)
    assert before.fingerprint != after.fingerprint
    assert type(before).from_dict(json.loads(json.dumps(before.as_dict()))) == before


def test_metadata_beside_a_file_that_is_broken_or_gone_fails_that_file_alone(tmp_path):
    write_beside(tmp_path / "in", members(range(3)))
    (tmp_path / "in" / "000000001.json").write_text("{")
    shards = plan_shards([str(tmp_path / "in")])
    (tmp_path / "in" / "000000002.txt").unlink()
    found = [document for shard in shards for document in read_documents(shard)]
    assert [[str(failure.code) for failure in document.failures] for document in found] == [
        [],
        ["malformed"],
        ["not_found"],
    ]
    assert [document.uri for document in found] == [document.id for document in found]


# --- Parquet as img2dataset writes it --------------------------------------------------------------------------------


def test_parquet_of_img2dataset_with_a_row_that_was_not_downloaded(tmp_path):
    table = {
        "key": ["000000000", "000000001"],
        "jpg": [picture(0), None],
        "txt": ["picture 0", None],
        "caption": ["picture 0", "picture 1"],
        "url": ["u0", "u1"],
        "status": ["success", "failed_to_download"],
        "width": pa.array([5, None], pa.int32()),
    }
    pq.write_table(pa.table(table), tmp_path / "00000.parquet")
    summary = embed(
        tmp_path / "rows", tmp_path / "00000.parquet", columns={"jpg": "image", "txt": "text"}, drop=["jpg"]
    )
    assert (summary.rows, summary.failed, summary.nulls) == (2, {}, 2)
    found = read_dataset(str(tmp_path / "rows")).to_pylist()
    assert [row["jpg_embedding"] for row in found] == [picture_vector(0), None]
    assert [(row["key"], row["url"], row["status"], row["width"]) for row in found] == [
        ("000000000", "u0", "success", 5),
        ("000000001", "u1", "failed_to_download", None),
    ]
    reader = {"image": "jpg", "id": "key"}
    embed(tmp_path / "documents", tmp_path / "00000.parquet", reader=reader, tags=["caption", "url"])
    (row,) = rows_of(tmp_path / "documents").values()
    assert (row["id"], row["embedding"]) == ("000000000", picture_vector(0))
    assert json.loads(row["tags"]) == {"caption": "picture 0", "url": "u0"}
    assert codes(tmp_path / "documents") == [("000000001", "empty")]


# --- engines ---------------------------------------------------------------------------------------------------------


def test_both_engines_read_tars_and_a_cut_one_alike(tmp_path, spark):
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


def test_the_schema_follows_from_what_is_asked_and_not_from_the_samples(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.png", picture(0))])
    assert schema_of(plan_shards([str(tmp_path / "x.tar")])).names == ["key", "text", "tags"]


FORMATS_PAGE = (Path(__file__).parent.parent / "docs" / "formats.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", FORMATS_PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_on_formats_run(tmp_path, monkeypatch, command):
    write_beside(tmp_path / "photos", members(range(2)))
    write_tar(tmp_path / "tars" / "00000.tar", members(range(2)))
    (tmp_path / "tables").mkdir()
    table = {name: [f"{name} {n}" for n in range(2)] for name in ("key", "txt", "caption", "url")}
    pq.write_table(pa.table({**table, "jpg": [picture(0), picture(1)]}), tmp_path / "tables" / "00000.parquet")
    monkeypatch.chdir(tmp_path)
    program, verb, *arguments = shlex.split(command)
    assert (program, verb) == ("clipmill", "embed")
    assert run(verb, *arguments, "--model", "fake::dim=4") == 0
    output = arguments[arguments.index("--output") + 1]
    summary = summarise(output)
    assert (summary.input_rows, summary.rows, summary.failed) == (2, 2, {})
