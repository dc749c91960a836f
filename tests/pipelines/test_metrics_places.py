"""Where a job's file of metrics may go: nothing of the user's is lost by it, nor anything of a job before too early."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import run, write_pictures
from scrapes import samples

from clipmill.datasets.dataset import MANIFESTS, summarise
from clipmill.errors import DatasetError
from clipmill.jobs.job_counts import JobCounts
from clipmill.metrics.counts import by_engine_names

MODEL = "fake::dim=8"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """What a user has: lines, a link to them, pictures, notes; and a link to where the output will be."""
    (tmp_path / "in.jsonl").write_text('{"id": "1", "text": "a"}\n{"id": "2", "text": ""}\n')
    (tmp_path / "link.jsonl").symlink_to("in.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "notes.txt").write_text("nothing that could be made again")
    write_pictures(tmp_path / "photos")
    (tmp_path / "album").symlink_to("photos")
    (tmp_path / "behind").symlink_to("out")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("given", "file", "message"),
    [
        ("in.jsonl", "in.jsonl", "is a file of the input, which would be lost"),
        ("in.jsonl", "link.jsonl", "is a file of the input, which would be lost"),
        ("link.jsonl", "in.jsonl", "is a file of the input, which would be lost"),
        ("empty.jsonl", "empty.jsonl", "is a file of the input, which would be lost"),
        ("photos/0.png", "photos/0.png", "is a file of the input, which would be lost"),
        ("photos", "photos/m.prom", "lies in the input folder photos; the next job would read it"),
        ("photos", "album/m.prom", "lies in the input folder photos; the next job would read it"),
        ("album", "photos/m.prom", "lies in the input folder album; the next job would read it"),
        ("photos/*", "photos/m.prom", "matches the input 'photos/*'; the next job would read it"),
        ("photos/*", "album/m.prom", "matches the input 'photos/*'; the next job would read it"),
        ("album/**", "album/m.prom", "matches the input 'album/**'; the next job would read it"),
        ("in.jsonl", "out/m.prom", "lies in the output"),
        ("in.jsonl", "behind/m.prom", "lies in the output"),
        ("in.jsonl", "photos/../out/m.prom", "lies in the output"),
        ("in.jsonl", "pipe", "is no regular file"),
        ("in.jsonl", "photos", "is no regular file"),
        ("in.jsonl", "/dev/null", "is no regular file"),
        ("in.jsonl", "notes.txt", "is there and holds no metrics of clipmill"),
    ],
)
def test_a_file_that_would_harm_runs_no_job(folder, capsys, given, file, message) -> None:
    before = contents(folder)
    assert run("embed", given, "-o", "out", "--model", MODEL, "--metrics", file) == 2
    assert f"--metrics {file} {message}" in " ".join(capsys.readouterr().err.split())
    assert contents(folder) == before and not (folder / "out").exists()
    assert (folder / "link.jsonl").is_symlink()


def test_beside_the_input_there_is_place_for_metrics(folder) -> None:
    for number, given in enumerate(("photos/*.png", "*.jsonl", "in.jsonl")):
        (folder / "empty.prom").write_text("")
        for file in ("photos/m.prom", "m.prom", "empty.prom"):
            assert run("embed", given, "-o", f"out-{number}-{file[0]}", "--model", MODEL, "--metrics", file) == 0
            assert samples((folder / file).read_text())["clipmill_rows_in_total",] > 0


def test_where_the_command_prints_is_no_place_for_metrics(folder) -> None:
    """`/dev/stdout` is a file where the shell made one of it."""
    command = [sys.executable, "-m", "clipmill", "embed", "in.jsonl", "-o", "out", "--model", MODEL]
    with open("printed", "wb") as printed:
        done = subprocess.run(
            [*command, "--metrics", "/dev/stdout"], stdout=printed, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2 and b"--metrics /dev/stdout is there and" in b" ".join(done.stderr.split())
    assert Path("printed").read_bytes() == b""


def test_a_link_to_a_file_of_metrics_stays_one(folder) -> None:
    (folder / "real").mkdir()
    (folder / "m.prom").symlink_to("real/m.prom")
    for number in range(2):  # made by the first, replaced by the second
        assert run("embed", "in.jsonl", "-o", f"out-{number}", "--model", MODEL, "--metrics", "m.prom") == 0
        assert (folder / "m.prom").is_symlink() and os.listdir("real") == ["m.prom"]
        assert samples((folder / "real" / "m.prom").read_text())["clipmill_rows_in_total",] == 2


def test_a_job_that_is_refused_leaves_the_file_of_the_one_before(folder, capsys) -> None:
    command = ["embed", "in.jsonl", "-o", "out", "--model", MODEL, "--metrics", "m.prom"]
    assert run(*command) == 0
    before, at = (folder / "m.prom").read_bytes(), os.stat("m.prom").st_mtime_ns
    assert samples(before.decode())["clipmill_rows_in_total",] == 2
    assert run(*command) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "not empty" in said and "with --overwrite" in said and "overwrite=True" not in said
    assert ((folder / "m.prom").read_bytes(), os.stat("m.prom").st_mtime_ns) == (before, at)
    assert not list(folder.glob(".*"))
    assert run(*command, "--overwrite") == 0
    assert os.stat("m.prom").st_mtime_ns > at


def test_an_output_whose_name_is_no_text_is_refused_with_its_name(folder, capsys) -> None:
    """Prometheus' labels are UTF-8."""
    assert run("embed", "in.jsonl", "-o", os.fsdecode(b"caf\xe9"), "--model", MODEL, "--metrics", "m.prom") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--metrics m.prom cannot be written: 'utf-8' codec can't encode" in said
    assert not (folder / "m.prom").exists() and not list(folder.glob(".*"))


@pytest.mark.parametrize("damage", [b"{", b"\xff\xfe", b"[]", b"null"])
def test_a_damaged_manifest_is_named_and_nothing_is_counted_twice(folder, damage) -> None:
    assert run("embed", "in.jsonl", "-o", "out", "--model", MODEL, "--rows-per-shard", "1") == 0
    last = max((folder / "out" / MANIFESTS).iterdir())
    whole = last.read_bytes()
    last.write_bytes(damage)
    counts = JobCounts(str(folder / "out"), shards=2)
    counts.start()
    for read in (counts.counts, lambda: counts.counts(now=True), lambda: summarise("out")):
        with pytest.raises(DatasetError, match=rf"{last.name} is damaged: .*; run its shard again"):
            read()
    assert counts._counts == {}  # the shard that is whole waits for the other
    last.write_bytes(whole)
    found = by_engine_names(counts.counts(now=True))
    assert {name: found[name] for name in ("rows_in", "shards", "failed_empty")} == {
        "rows_in": 2,
        "shards": 2,
        "failed_empty": 1,
    }
