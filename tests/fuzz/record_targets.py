"""Targets: the readers of records. As many rows come out as are in the file, wherever it is cut into shards."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import pickle
import tarfile
import zlib
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_target import Target, choice_of, scratch_file

from clipmill.datasets.inputs.lines import BrokenFileError, csv_header, csv_records, open_text
from clipmill.datasets.inputs.listing import Kind, listed_again
from clipmill.datasets.inputs.readers import DEFAULT_READER, read_documents
from clipmill.datasets.inputs.rows import read_rows
from clipmill.datasets.inputs.samples import metadata_of, read_samples
from clipmill.datasets.inputs.shards import cut
from clipmill.datasets.inputs.tars import BrokenTarError, TarStream
from clipmill.encoders.document import AccessPaths, Document
from clipmill.failures import RowError
from clipmill.files.json_text import json_text

_BOM, _UTF16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_ROWS = (1, 2, 3, 100)
_EVERYWHERE = AccessPaths.parse("@r,m,c,mm,cc")


def _read_both(name: str, kind: Kind, data: bytes, rows: int) -> list[Document]:
    """Read a file as documents and as rows, whole and in shards; return its documents."""
    path = str(scratch_file(name, data))
    file = listed_again(path)
    whole, pieces = cut(file, kind, 10**9), cut(file, kind, rows)
    found = [document for shard in pieces for document in read_documents(shard)]
    at_once = [document for shard in whole for document in read_documents(shard)]
    if kind != "csv" or _has_header(path):  # without one, each shard is one failure
        assert [_essence(one) for one in found] == [_essence(one) for one in at_once]
    assert len([row for shard in pieces for row in read_rows(shard)]) == len(found)
    for document in found:
        for _, inner in _EVERYWHERE.select(document):
            inner.item()
        json.loads(json_text(document.tags))
        pickle.loads(pickle.dumps(document.copy()))
    return found


def _has_header(path: str) -> bool:
    try:
        with open_text(path) as file:
            csv_header(file, path)
    except BrokenFileError:
        return False
    return True


def _essence(document: Document) -> tuple[object, ...]:
    return (document.id, document.text, document.uri, document.blob, [one.code for one in document.failures])


# --- text files -------------------------------------------------------------------------------------------------------


def _json_seeds() -> list[bytes]:
    lines = [
        {"id": "a", "text": "a red circle", "tags": {"n": [1, None, {"ü": 1.5}]}},
        {"uri": "https://example.com/a.jpg", "matches": [{"text": "x"}, {"id": 3}], "chunks": []},
        {"id": "b", "row": "b", "stage": "read", "code": "empty", "message": "m", "transient": False, "text": "again"},
        {"text": "\ud800", "mime_type": None, "other": True},
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    return [
        bytes([n]) + one for n, one in enumerate((content, _BOM + content + b"\n\n", b"[" * 70, b'{"a":NaN}\r\n{}'))
    ]


def check_json_lines(data: bytes) -> None:
    """Every line that is not blank is a document, or one with a failure."""
    rows, content = choice_of(data, _ROWS)
    found = _read_both("x.jsonl", "jsonl", content, rows)
    if not content.startswith(_UTF16):
        lines = content.removeprefix(_BOM).split(b"\n")
        assert len(found) == sum(bool(line.strip()) for line in lines), content


def check_json_lines_gz(data: bytes) -> None:
    """What is before the damage of a compressed file comes out, and then one failure."""
    found = _read_both("x.jsonl.gz", "jsonl", data, 2)
    try:
        content = gzip.decompress(data)
    except (OSError, EOFError, zlib.error, ValueError):
        if data.startswith(b"\x1f\x8b"):  # else the file is read as it is
            assert found and found[-1].failures
        return
    if not content.startswith(_UTF16):
        assert len(found) == sum(bool(line.strip()) for line in content.removeprefix(_BOM).split(b"\n"))


def _csv_seeds() -> list[bytes]:
    files = (
        b'id,text,url\na,"a ""red"" circle",\nb,"two\nlines",x\n\nc,d,e\n',
        b'text\tid\r\na\tb\r\n"c\nd\te\r\n',
        _BOM + b'text,b\na","\na","\na"\n',
        "text\nschön\n\xff\n".encode("latin-1"),
        b"a,a\n1,2\n",
    )
    return [bytes([n]) + one for n, one in enumerate(files)]


def check_csv(data: bytes) -> None:
    """Every record is a document, or one with a failure; every byte belongs to one record."""
    rows, content = choice_of(data, _ROWS)
    name = "x.tsv" if data[:1] >= b"\x80" else "x.csv"
    found = _read_both(name, "csv", content, rows)
    if content.startswith(_UTF16):
        return
    with open_text(str(scratch_file(name, content))) as file:
        records = list(csv_records(file, "\t" if name.endswith("tsv") else ","))
    starts = [record.offset for record in records]
    assert starts[:1] in ([], [0]) and all(one < other for one, other in itertools.pairwise(starts))
    if _has_header(str(scratch_file(name, content))):
        assert len(found) == sum(bool(record.problem or record.value) for record in records[1:])
    else:
        assert found and all(document.failures for document in found)


# --- archives and Parquet ---------------------------------------------------------------------------------------------


def _tar(files: Iterable[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an archive; with times that have fractions, each file of the newest format has an extended header."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5 if format == tarfile.PAX_FORMAT else 1
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue().rstrip(b"\0") + bytes(2 * tarfile.BLOCKSIZE)


def _tar_seeds() -> list[bytes]:
    samples = [
        (f"{number:03d}.{ending}", data)
        for number in range(2)
        for ending, data in (("json", b'{"url": "u"}'), ("png", b"\x89PNG"), ("txt", b"a caption"))
    ]
    odd = [("a.b/c.left.png", b"x"), ("./d.txt", b"caption"), ("d.json", b'{"a": 1}'), ("d.jpg", b"y"), (".e", b"")]
    archives = [
        _tar(samples),
        _tar(odd, tarfile.GNU_FORMAT),
        _tar([("a" * 150 + ".png", b"z")], tarfile.GNU_FORMAT),
        _tar(samples[:3], tarfile.USTAR_FORMAT) * 2,
    ]
    return [bytes([n]) + archive for n, archive in enumerate(archives)]


def check_tar(data: bytes) -> None:
    """The samples before the damage come out, the same wherever the archive is cut, and then one failure."""
    rows, content = choice_of(data, _ROWS)
    found = _read_both("x.tar", "tar", content, rows)
    names = []
    try:
        with TarStream(io.BytesIO(content)) as stream:
            names = [sample.values["key"] for sample in read_samples(stream, max_file_bytes=10**6)]
    except (BrokenTarError, EOFError, OSError, zlib.error):
        assert found and found[-1].failures
        return
    assert len(found) == len(names)


def check_tar_gz(data: bytes) -> None:
    """A compressed archive never raises, and a damaged one ends in a failure."""
    found = _read_both("x.tar.gz", "tar", data, 2)
    try:
        gzip.decompress(data)
    except (OSError, EOFError, zlib.error, ValueError):
        if data.startswith(b"\x1f\x8b"):
            assert found and found[-1].failures


def _parquet_seeds() -> list[bytes]:
    files = []
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    tables = [
        pa.table({"text": ["a red circle", None, "c"], "id": [1, 2, 3]}),
        pa.table({"image": pa.array([{"bytes": b"x", "path": "a.png"}, None], image), "tags": [["a"], []]}),
        pa.table({"url": pa.array(["u", "u", "v"]).dictionary_encode(), "caption": ["x", "y", "z"]}),
    ]
    for table in tables:
        for compression in ("none", "zstd"):
            out = io.BytesIO()
            pq.write_table(table, out, compression=compression, row_group_size=2, write_page_checksum=True)
            files.append(out.getvalue())
    return files


def check_parquet(data: bytes) -> None:
    """Every row is a document; rows of a damaged row group may share one failure."""
    path = str(scratch_file("x.parquet", data))
    try:
        rows = pq.read_metadata(io.BytesIO(data)).num_rows
    except (pa.ArrowException, OSError, ValueError):
        rows = None
    found = []
    for shard in cut(listed_again(path), "parquet", 2)[:50]:
        for document in read_documents(shard, DEFAULT_READER):
            found.append(document)
            if len(found) > 1000:  # the footer may claim any number of rows
                return
    if rows is None:
        assert found and all(document.failures for document in found)
    elif not any(document.failures for document in found):
        assert len(found) == max(rows, 0)


def _arrow_seeds() -> list[bytes]:
    table = pa.table(
        {
            "id": ["a", "b", "c"],
            "text": pa.array(["x", "y", "x"]).dictionary_encode(),
            "image": [b"1", None, b"33"],
            "list": [[1], [], None],
        }
    )
    files = []
    for compression in (None, "zstd", "lz4"):
        for new in (pa.ipc.new_file, pa.ipc.new_stream):
            out = io.BytesIO()
            with new(out, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
                writer.write_table(table, max_chunksize=2)
            files.append(out.getvalue())
    return files


def check_arrow(data: bytes) -> None:
    """Every row is a document, with the same values wherever the file is cut; the rest may share one failure."""
    path = str(scratch_file("x.arrow", data))
    file = listed_again(path)
    found = []
    for shard in cut(file, "arrow", 2)[:50]:
        for document in read_documents(shard, DEFAULT_READER):
            found.append(document)
            if len(found) > 1000:  # a header may claim any number of rows
                return
    at_once = list(itertools.islice(read_documents(cut(file, "arrow", 10**9)[0], DEFAULT_READER), 1000))
    if not any(document.failures for document in (*found, *at_once)):
        assert [_essence(one) for one in found] == [_essence(one) for one in at_once]


def check_sidecar(data: bytes) -> None:
    """The metadata of a sample: `RowError`, or values that every engine can carry."""
    try:
        found = metadata_of(data, "x.json")
    except RowError:
        return
    json.loads(json_text(found))
    pickle.loads(pickle.dumps(found))


_JSON_WORDS = (b'"text":', b'"uri":', b'"id":', b'"matches":[', b'"chunks":[', b'"tags":', b'"stage":', b'"code":')
_JSON_WORDS = (*_JSON_WORDS, b"\\ud800", b"null", b"true", b"1e999", b"-0", b"NaN", b"[[[[[[[[", b"]]]]]]]]", b"\r\n")


def _gz_seeds() -> Sequence[bytes]:
    return [gzip.compress(seed[1:], mtime=0) for seed in _json_seeds()]


def _tar_gz_seeds() -> Sequence[bytes]:
    return [gzip.compress(seed[1:], mtime=0) for seed in _tar_seeds()]


TARGETS = {
    "json-lines": Target(
        "JSON lines as documents and rows: as many as lines, wherever the file is cut",
        _json_seeds,
        check_json_lines,
        _JSON_WORDS,
    ),
    "json-lines-gz": Target(
        "the same, compressed: what is before the damage, and then one failure",
        _gz_seeds,
        check_json_lines_gz,
    ),
    "csv": Target(
        "CSV and TSV: as many rows as records, and every byte belongs to one record",
        _csv_seeds,
        check_csv,
        (b'"', b'""', b'","', b"\r\n", b"\t", b"text,", b"id"),
    ),
    "tar": Target(
        "tar archives: the same samples wherever the archive is cut, then one failure at the damage",
        _tar_seeds,
        check_tar,
        (b"ustar\x0000", b"ustar  \0", b"././@LongLink", b"PaxHeader", b"12 path=a.b\n", b"13 size=999\n", b".json"),
    ),
    "tar-gz": Target(
        "the same, compressed",
        _tar_gz_seeds,
        check_tar_gz,
    ),
    "arrow": Target(
        "Arrow files and streams: as many documents as rows, wherever they are cut, or a failure for the rest",
        _arrow_seeds,
        check_arrow,
        (b"ARROW1\0\0", b"\xff\xff\xff\xff", b"\xff" * 8, b"\0" * 8),
    ),
    "parquet": Target(
        "Parquet files: as many documents as rows, or a failure for the rest of a damaged row group",
        _parquet_seeds,
        check_parquet,
        (b"PAR1", b"ARROW:schema"),
    ),
    "sidecar": Target(
        "metadata files of samples: an object, or a code",
        lambda: [seed[1:] for seed in _json_seeds()],
        check_sidecar,
        _JSON_WORDS,
    ),
}
