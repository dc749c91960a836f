"""Files are read as what they are: by their names, or by their content where a name says nothing."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipmill.datasets import plan_shards, read_documents, read_rows
from clipmill.datasets.inputs import recognition
from clipmill.datasets.inputs.planning import input_files
from clipmill.errors import DatasetError

LINE = b'{"id": "1", "text": "a red circle"}\n'
URIS = b"https://example.com/a.jpg?crop=26,19&amp;w=80\n\ns3://bucket/b c.png\r\n"


def _parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ["1"], "caption": ["a red circle"]}), sink)
    return sink.getvalue()


def _tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        info = tarfile.TarInfo("1.png")
        info.size = len(_png())
        archive.addfile(info, io.BytesIO(_png()))
    return sink.getvalue()


def _png() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(sink, "PNG")
    return sink.getvalue()


def _npy() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.zeros((2, 4)))
    return sink.getvalue()


def _zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


READ = {
    "part-00000": (_parquet(), "parquet"),
    "x.parquet.gzip": (_parquet(), "parquet"),  # Parquet with gzip inside, as pandas users name it
    "blob": (_tar(), "tar"),
    "blob-of-gzip": (gzip.compress(_tar()), "tar"),
    "a.tar.bz2": (bz2.compress(_tar()), "tar"),
    "a.tar.zst": (_zstd(_tar()), "tar"),
    "lines": (LINE, "jsonl"),
    "lines.txt": (b"\xef\xbb\xbf" + LINE, "jsonl"),
    "long-line": (b'{"text": "' + b"a" * 9000 + b'"}', "jsonl"),
    "a.jsonl.zst": (_zstd(LINE), "jsonl"),
    "a.jsonl.bz2": (bz2.compress(LINE), "jsonl"),
    "a.json": (LINE, "jsonl"),
    "a.jsonl.GZ": (gzip.compress(LINE), "jsonl"),
    "lines-in-gzip": (gzip.compress(LINE), "jsonl"),
    "b.csv.bz2": (bz2.compress(b"id,caption\n1,a ring\n"), "csv"),
    "b.tsv.zst": (_zstd(b"id\tcaption\n1\ta ring\n"), "csv"),
    "urls.txt": (URIS, "uris"),
    "urls-in-gzip": (gzip.compress(URIS), "uris"),
    "photo": (_png(), "files"),
    "sound": (b"fLaC" + bytes(40), "files"),
}
UNREADABLE = {
    "page": b"<!DOCTYPE html><html>",
    "a.npy": _npy(),
    "a.parquet-in": _zstd(_parquet()),
    "photo.png.gz": gzip.compress(_png()),
    "README.md": b"# data\n",
    "array.txt": b'[{"text": "a"}]',
    "pretty.txt": b'{\n "text": "a"\n}',
    "mixed.txt": b"http://example.com/a.jpg\nnothing\n",
    "captioned.txt": b"http://example.com/a.jpg a ring\nhttp://example.com/b.jpg a star\n",
    "a.zip": b"PK\x03\x04" + bytes(40),
    "a.tfrecord": b"\x10" + bytes(60),
    "lines.xz": lzma.compress(LINE),
    "a.pdf": b"%PDF-1.7",
}


@pytest.mark.parametrize("name", READ)
def test_files_are_read_as_what_they_are(tmp_path, name):
    content, kind = READ[name]
    (tmp_path / name).write_bytes(content)
    shards = plan_shards([str(tmp_path)])
    assert [shard.kind for shard in shards] == [kind]
    rows = [row for shard in shards for row in read_rows(shard)]
    assert rows and not any(row.failure for row in rows)
    assert plan_shards([str(tmp_path / name)])[0].kind == kind


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_holds_nothing_to_embed_is_wrong_usage_if_it_is_named_and_else_a_failure(tmp_path, name):
    (tmp_path / name).write_bytes(UNREADABLE[name])
    with pytest.raises(DatasetError, match=name):
        plan_shards([str(tmp_path / name)])
    (found,) = input_files([str(tmp_path)])
    assert found.kind == "files" and found.problem
    (shard,) = plan_shards([str(tmp_path)])
    assert len(list(read_documents(shard))) == 1


def test_a_name_that_says_what_a_file_is_decides(tmp_path):
    for name in ("photo.jpg", "sound.wav", "captions.csv", "archive.tar"):
        (tmp_path / name).write_bytes(LINE)
    kinds = {one.file.path.rsplit("/")[-1]: one.kind for one in input_files([str(tmp_path)])}
    assert kinds == {"photo.jpg": "files", "sound.wav": "files", "captions.csv": "csv", "archive.tar": "tar"}


def test_a_file_that_cannot_be_opened_or_is_empty_is_left_to_its_reader(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "broken-link").symlink_to(tmp_path / "nowhere")
    assert [(one.kind, one.problem) for one in input_files([str(tmp_path)])] == [("files", "")] * 2
    assert plan_shards([str(tmp_path / "empty")])[0].kind == "files"


def test_a_list_of_uris_is_cut_and_read_by_lines(tmp_path):
    uris = [f"https://example.com/{number}.jpg" for number in range(300)]
    (tmp_path / "urls").write_bytes("\n".join(uris).encode() + b"\n\xff\n")
    shards = plan_shards([str(tmp_path)], rows_per_shard=100)
    assert len(shards) == 4
    documents = [document for shard in shards for document in read_documents(shard)]
    assert [document.uri for document in documents[:-1]] == uris
    assert documents[9].id == f"{tmp_path}/urls:10"
    assert documents[-1].failures[0].code == "malformed"


def test_few_files_of_an_object_store_are_opened(monkeypatch):
    monkeypatch.setattr(recognition, "_MAX_REMOTE", 2)
    store = fsspec.filesystem("memory")
    for name in ("a", "b", "c", "d.jsonl"):
        store.pipe_file(f"/recognised/{name}", LINE)
    try:
        found = [one.kind for one in input_files(["memory://recognised"])]
    finally:
        store.rm("/recognised", recursive=True)
    assert found == ["jsonl", "jsonl", "files", "jsonl"]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, _zstd])
def test_of_a_truncated_file_the_lines_before_the_cut_are_read(tmp_path, compress):
    draw = np.random.default_rng(3)
    lines = b"".join(json.dumps({"id": str(n), "text": draw.bytes(40).hex()}).encode() + b"\n" for n in range(20_000))
    whole = compress(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (shard,) = plan_shards([str(tmp_path)])
    rows = list(read_rows(shard))
    assert len(rows) > 5000
    assert [row.values["id"] for row in rows[:-1]] == [str(n) for n in range(len(rows) - 1)]
    assert rows[-1].failure is not None


def test_a_broken_first_line_of_lines_is_one_failure(tmp_path):
    for name, content in {"a.jsonl.gz": gzip.compress(b'{"broken\n' + LINE), "b.json": b'{"broken\n' + LINE}.items():
        (tmp_path / name).write_bytes(content)
        rows = [row for shard in plan_shards([str(tmp_path / name)]) for row in read_rows(shard)]
        assert [row.failure is None for row in rows] == [False, True]
