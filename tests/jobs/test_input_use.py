"""What of an input is embedded is known before the job, and images that are not embedded are named."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipmill import EncoderSpec
from clipmill.datasets import ReaderOptions, plan_shards
from clipmill.datasets.inputs.planning import input_files
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.errors import DatasetError
from clipmill.jobs import JobOptions, plan_job
from clipmill.jobs.input_use import TABLES_LOOKED_AT, uses_of

FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NUMBERS = [(name, pa.int32()) for name in ("height", "width", "nChannels", "mode")]
SPARK = pa.struct([("origin", pa.string()), *NUMBERS, ("data", pa.binary())])


def png() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(sink, "PNG")
    return sink.getvalue()


def used(path, **reader):
    return uses_of(input_files([str(path)]), JobOptions(reader=ReaderOptions(**reader)))


IMAGES = {
    "struct": pa.array([None, {"bytes": png(), "path": "1.png"}], FILE),
    "struct_without_bytes": pa.array([{"bytes": None, "path": "a/1.png"}, None], FILE),
    "binary": pa.array([None, png()], pa.large_binary()),
    "view": pa.array([png(), None], pa.binary_view()),
    "list": pa.array([None, [{"bytes": png(), "path": None}]], pa.list_(FILE)),
    "spark": pa.array([{"height": 1, "width": 1, "nChannels": 1, "mode": 0, "data": b"x"}, None], SPARK),
    "names": pa.array(["photos/1.JPG", "photos/2.JPG"]),
    "uris": pa.array(["https://example.com/1.png?size=3", None]),
    "data": pa.array(["data:image/png;base64,AAAA", None]),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_column_beside_texts_is_named(tmp_path, kind):
    far = pa.array([10**9, None], pa.int32()).cast(pa.date32())  # Python cannot hold it
    pq.write_table(pa.table({"text": ["a", "b"], "picture": IMAGES[kind], "far": far}), tmp_path / "x.parquet")
    (use,) = used(tmp_path)
    assert (use.embedded, use.left_out) == ({"text": "text"}, {"picture": "image"})


def test_other_columns_are_not_taken_for_media(tmp_path):
    columns = {"text": ["a.b c"], "word": ["photo"], "raw": [b"no"], "pair": [{"bytes": None, "path": "x"}], "l": [[1]]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    (use,) = used(tmp_path)
    assert use.left_out == {}


def test_the_content_that_comes_second_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("caption,url,key\na ring,https://example.com/x,1\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "a ring", "uri": "https://example.com/x"}) + "\n")
    csv, lines = used(tmp_path)
    assert (csv.embedded, csv.otherwise) == ({"caption": "text"}, {"url": "image or audio"})
    assert (lines.embedded, lines.otherwise) == ({"text": "text"}, {"uri": "image or audio"})
    assert (csv.left_out, lines.left_out) == ({}, {})
    (csv, _) = used(tmp_path, uri="url")
    assert (csv.embedded, csv.otherwise) == ({"url": "image or audio"}, {})


def test_tags_that_were_asked_for_are_not_left_out(tmp_path):
    (tmp_path / "a.csv").write_text("caption,file\na ring,1.png\n")
    assert used(tmp_path)[0].left_out == {"file": "image"}
    assert used(tmp_path, tags=("file",))[0].left_out == {}


def test_columns_of_rows(tmp_path):
    pq.write_table(pa.table({"id": ["1"], "text": ["a"], "photo": [png()], "second": [png()]}), tmp_path / "x.parquet")
    plan = ColumnPlan.of({"photo": "image", "text": "text"})
    (use,) = uses_of(input_files([str(tmp_path)]), JobOptions(plan=plan))
    assert (use.embedded, use.left_out) == ({"photo": "image", "text": "text"}, {"second": "image"})
    (use,) = uses_of(input_files([str(tmp_path)]), JobOptions(plan=plan, drop=["second"]))
    assert use.left_out == {}


def test_tables_are_grouped_by_their_columns(tmp_path):
    for number in range(TABLES_LOOKED_AT + 5):
        name = "caption" if number % 2 else "text"
        (tmp_path / f"{number:03d}.csv").write_text(f"{name}\na\n")
    (first, second) = used(tmp_path)
    assert (first.embedded, second.embedded) == ({"text": "text"}, {"caption": "text"})
    assert first.files + second.files == TABLES_LOOKED_AT + 5


def test_tables_beside_images_and_files_that_hold_nothing(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "0.png").write_bytes(png())
    (tmp_path / "p" / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a red card"}\n')
    (tmp_path / "p" / "README.md").write_text("# data\n")
    (tmp_path / "q.csv").write_text("text\na\n")
    uses = used(tmp_path)
    files, lines, table = sorted(uses[:-1], key=lambda use: ["files", "jsonl", "csv"].index(use.kind))
    assert [path.rsplit("/")[-1] for path in files.paths] == ["0.png"] and not files.problems
    assert [path.rsplit("/")[-1] for path in uses[-1].problems] == ["README.md"]
    assert (lines.beside_images, lines.left_out) == (True, {"file_name": "image"})
    assert not table.beside_images


def test_a_broken_table_tells_nothing(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1" + bytes(30))
    (use,) = used(tmp_path)
    assert (use.embedded, use.left_out) == ({}, {})


def test_lists_are_refused_as_documents(tmp_path):
    pq.write_table(pa.table({"id": ["1"], "images": pa.array([[png()]])}), tmp_path / "x.parquet")
    options = JobOptions(reader=ReaderOptions(image="images"))
    with pytest.raises(DatasetError, match="holds lists"):
        plan_job(EncoderSpec("fake::dim=8"), str(tmp_path / "out"), plan_shards([str(tmp_path)]), options)


def test_names_of_rows_and_the_fields_of_failures_are_no_media_that_are_left_out(tmp_path):
    failed = {"row": "/a/1.png", "stage": "decode", "code": "undecodable", "message": "m", "transient": False}
    (tmp_path / "a.jsonl").write_text(json.dumps({**failed, "id": "/a/1.png", "uri": "/a/1.png"}) + "\n")
    (tmp_path / "b.csv").write_text("key,caption,file\n/a/1.png,a ring,/a/2.png\n")
    lines, table = used(tmp_path)
    assert (lines.embedded, lines.left_out) == ({"uri": "image or audio"}, {})
    assert (table.embedded, table.left_out) == ({"caption": "text"}, {"file": "image"})
    plan = ColumnPlan.of({"caption": "text"}, key="key")
    (table,) = uses_of(input_files([str(tmp_path / "b.csv")]), JobOptions(plan=plan))
    assert table.left_out == {"file": "image"}
