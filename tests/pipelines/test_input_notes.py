"""What a job says of its input, at its start and in a dry run."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import run
from tar_files import picture, write_tar

from clipmill.jobs.input_use import InputUse
from clipmill.pipelines.input_notes import as_dicts, lines_of

MODEL = ("--model", "fake::dim=4")


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (InputUse("files", ["/a/1.png"], {}), ["1 file (1.png): each an image or audio"]),
        (InputUse("uris", ["/u", "/v"], {"uri": "image"}), ["2 lists of URIs (u, v): 'uri' is embedded as image"]),
        (InputUse("jsonl", ["/x"], {}), ["1 file of JSON lines (x): nothing is known of their columns yet"]),
        (
            InputUse("parquet", ["/x.parquet"], {"text": "text"}, {"image": "image"}),
            [
                "1 Parquet file (x.parquet): 'text' is embedded as text",
                "1 Parquet file (x.parquet): not embedded: 'image' (image); --image-column image embeds it instead, "
                "--column image=image --column text=text embeds both",
            ],
        ),
        (
            InputUse("files", (), {}, problems={f"/{n}": "a text" for n in range(5)}),
            [*(f"/{n} will fail: it is a text" for n in range(3)), "2 more files will fail, too"],
        ),
    ],
)
def test_sentences(use: InputUse, said: list[str]) -> None:
    assert lines_of([use], of_rows=False) == said
    assert as_dicts([use])[0]["files"] == use.files + len(use.problems)


def test_the_start_and_a_dry_run_say_the_same(tmp_path, capsys) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "0.png").write_bytes(picture(0))
    (folder / "README.md").write_text("# data\n")
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a red card"}\n')
    write_tar(folder / "a.tar", [("s.png", picture(1))])
    assert run("embed", folder, "-o", tmp_path / "out", "--dry-run", "--json", *MODEL) == 0
    found = json.loads(capsys.readouterr().out)["inputs"]
    assert [(one["kind"], one["files"], one["embedded"]) for one in found] == [
        ("files", 1, {}),
        ("tar", 1, {}),
        ("jsonl", 1, {"text": "text"}),
        ("files", 1, {}),
    ]
    assert run("embed", folder, "-o", tmp_path / "out", "--dry-run", *MODEL) == 0
    planned = capsys.readouterr().out
    assert run("embed", folder, "-o", tmp_path / "out", *MODEL) == 0
    said = [line.removeprefix("Input: ") for line in capsys.readouterr().err.splitlines()]
    assert len(said) == 5 and all(line in " ".join(planned.split()) for line in said)
    assert any("beside images" in line for line in said)


@pytest.mark.parametrize(("more", "named"), [((), True), (("--drop", "raw", "--drop", "nested"), False)])
def test_bytes_that_json_lines_cannot_hold_are_named(more, named, tmp_path, capsys) -> None:
    nested = pa.array([{"bytes": b"b"}], pa.struct([("bytes", pa.binary())]))
    table = pa.table({"id": ["1"], "a": ["x"], "b": ["y"], "raw": [b"abc"], "nested": nested})
    pq.write_table(table, tmp_path / "in.parquet")
    arguments = ("score", tmp_path / "in.parquet", "--a", "a", "--b", "b", *MODEL, *more)
    assert run(*arguments, "--format", "jsonl", "-o", tmp_path / "out") == 0
    said = "JSON lines hold no bytes: of 'raw', 'nested' only a note of their size is written"
    assert (said in " ".join(capsys.readouterr().err.split())) is named
    assert run(*arguments, "-o", tmp_path / "parquet") == 0
    assert "JSON lines" not in capsys.readouterr().err
