"""Datasets that strangers made: names in their manifests and plans that lead outside, values of other types, links."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import run

from clipmill.datasets import finish_job, read_dataset, read_manifests, summarise
from clipmill.datasets.formats.manifest import parse_manifest
from clipmill.datasets.inputs.planning import read_plan
from clipmill.errors import DatasetError
from clipmill.files.folder import Folder
from clipmill.files.processes import this_process


@pytest.fixture
def output(tmp_path) -> Path:
    """A dataset of three shards that is not finished, beside a file that is none of its own."""
    lines = [json.dumps({"id": str(n), "text": "x" * (n + 1)}) for n in range(6)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "x").write_text("kept")
    (tmp_path / "x.json").write_text("kept")
    assert embed(tmp_path / "out") == 0
    (tmp_path / "out" / "_SUCCESS").unlink()
    yield tmp_path / "out"
    assert (tmp_path / "kept" / "x").read_text() == "kept"
    assert (tmp_path / "x.json").read_text() == "kept"
    assert {path.name for path in tmp_path.iterdir()} <= {"in.jsonl", "kept", "x.json", "out"}


def embed(output: Path, *options: str) -> int:
    given = ["embed", output.parent / "in.jsonl", "-o", output, "--model", "fake::dim=4", "--rows-per-shard", "2"]
    return run(*given, *options)


def manifests(output: Path) -> list[Path]:
    return sorted((output / "_manifest").iterdir())


OUTSIDE = [
    {"name": "99999-0a", "files": [{"name": "../kept/x", "bytes": 4}]},
    {"name": "99999-0a", "files": [{"name": "_staging/../../kept/x", "bytes": 4}]},
    {"name": "x/../../../x", "files": []},
    {"name": "../../x", "files": []},
]


@pytest.mark.parametrize("fields", OUTSIDE, ids=json.dumps)
def test_no_file_outside_is_deleted(output, fields) -> None:
    """By the end of a job, which deletes the files of foreign shards; nor when it is resumed or replaced."""
    foreign = output / "_manifest" / "part-99999-0a.json"
    foreign.write_text(json.dumps({**json.loads(manifests(output)[0].read_text()), **fields}))
    (output / "_manifest" / "part-x").mkdir()
    with pytest.raises(DatasetError, match=r"99999-0a\.json is damaged"):
        finish_job(str(output))
    assert embed(output, "--resume") == 0
    assert not foreign.exists()
    assert len(read_dataset(str(output))) == 6
    foreign.write_text(json.dumps(fields))
    assert embed(output, "--overwrite") == 0


WRONG: list[dict[str, Any]] = [
    *({"files": value} for value in (5, [1], [{}], [{"name": 1, "bytes": 1}], [{"name": "a", "bytes": "1"}])),
    *({"failed": value} for value in (5, {"empty": "1"})),
    *({name: value} for name in ("rows", "input_rows", "loads", "first_row_at") for value in ("1", [1], True)),
    *({"batch_rows": value} for value in ({"x": 1}, {"1": "x"})),
    *({"resolved": 5}, {"shard": []}, {"signature": 5}, {"run": []}, {"process": {}}),
    {"fragments": [{"files": [{"path": "../../x"}]}]},
]


@pytest.mark.parametrize("fields", WRONG, ids=json.dumps)
def test_a_manifest_with_other_values_is_damaged(output, fields) -> None:
    """Its shard is done again; what only reads the dataset says which file is damaged, and where."""
    first = manifests(output)[0]
    first.write_text(json.dumps({**json.loads(first.read_text()), **fields}))
    for look in (summarise, read_manifests, finish_job):
        with pytest.raises(DatasetError, match=rf"{first.name} is damaged.*{next(iter(fields))}"):
            look(str(output))
    assert embed(output, "--resume") == 0
    assert summarise(str(output)).complete


def test_values_that_versions_may_lack_are_no_damage() -> None:
    assert parse_manifest("x", b'{"name": "a", "first_row_at": null, "more": [1]}')["more"] == [1]


@pytest.mark.parametrize("name", ["../../x", "5-../../x", "00001-a/../../..", "x", "1-" + "n" * 300, "", 5, None])
def test_a_plan_with_other_names_is_damaged(output, name) -> None:
    (part,) = (output / "_plan").iterdir()
    lines = [json.loads(line) for line in gzip.decompress(part.read_bytes()).splitlines()]
    lines[1]["name"] = name
    part.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    with pytest.raises(DatasetError, match=r"-00000\.jsonl\.gz is damaged.*name"):
        list(read_plan(Folder.of(output)))
    assert embed(output, "--resume") == 2


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"format": "clipmill dataset", "shards": "x"}', b"\xff"])
def test_a_description_with_nonsense_is_damaged(output, content) -> None:
    (output / "_job.json").write_bytes(content)
    for look in (summarise, finish_job):
        with pytest.raises(DatasetError, match=r"_job\.json is damaged"):
            look(str(output))
    assert embed(output, "--resume") == 2


@pytest.mark.parametrize("name", ["_manifest", "_attempts", "_failures", "_plan", "_staging"])
def test_nothing_is_written_through_a_linked_folder(output, name) -> None:
    if (output / name).exists():
        (output / name).rename(output / "moved")
        for path in (output / "moved").iterdir():
            path.unlink()
        (output / "moved").rmdir()
    (output / name).symlink_to(output.parent / "kept")
    for flag in ("--resume", "--overwrite"):
        assert embed(output, flag) == 2
    assert [path.name for path in (output.parent / "kept").iterdir()] == ["x"]


@pytest.mark.parametrize(
    "mark",
    [
        b"[" * 100_000,
        b"\xff\n\xff\n",
        b"5\n6\n",
        b"{}\n[1]\n",
        b"null",
        json.dumps({**this_process(), "pid": "x"}).encode() + b"\n5\n",
        b'{"fingerprint": []}\n{"a": 1}\n',
    ],
)
def test_marks_with_nonsense_cost_nothing(output, mark) -> None:
    first = manifests(output)[0]
    stem = first.name.removeprefix("part-").removesuffix(".json")
    first.unlink()
    (output / "_attempts").mkdir(exist_ok=True)
    (output / "_attempts" / f"{stem}.0000aaaa.jsonl").write_bytes(mark)
    assert embed(output, "--resume") == 0
    assert len(read_dataset(str(output))) == 6
