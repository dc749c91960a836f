"""A full or read-only disk under pages and metrics: a clear error, and nothing half-written that looks whole."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from cli_helpers import run
from full_disk import full_after

from clipmill.errors import DatasetError
from clipmill.files.folder import Folder

OPTIONS = ["--model", "fake::dim=8", "--device", "cpu"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and its index."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "in.jsonl").write_text("".join(json.dumps({"id": str(n), "text": f"text {n}"}) + "\n" for n in range(9)))
    assert run("embed", folder / "in.jsonl", "-o", folder / "dataset", *OPTIONS) == 0
    assert run("index", folder / "dataset", "-o", folder / "index") == 0
    return folder


COMMANDS = {
    "report": lambda made, page: ["report", made / "dataset", "-o", page],
    "search": lambda made, page: ["search", made / "index", "text 3", "--html", page],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_on_a_full_disk(name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    for before in (None, "an older page"):
        with full_after(2048):
            assert run(*COMMANDS[name](made, page), *(["--overwrite"] if before else [])) == 1
        said = capsys.readouterr().err
        assert f"cannot write {page}" in said and "raise the limit" in said and "Traceback" not in said
        assert [path.name for path in tmp_path.iterdir()] == ([page.name] if before else [])
        assert before is None or page.read_text() == before
        page.write_text("an older page")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_in_a_read_only_folder_is_refused_before_the_work(
    name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of the user root, who may write everywhere but on a disk that is mounted so."""
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert run(*COMMANDS[name](made, tmp_path / "page.html")) == 2
    shown = capsys.readouterr()
    assert "read-only" in shown.err and not shown.out


def test_the_first_error_of_a_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing a file fails, too, on a disk that is read-only; before, that hid the hint."""

    def refuse(*given: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "unlink"):
            patch.setattr(Path, name, refuse)
        with pytest.raises(DatasetError, match="read-only file system; choose another place"):
            Folder.of(tmp_path).write("page.html", b"x")


def test_metrics_on_a_full_disk(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the job they are refused."""
    file = tmp_path / "clipmill.prom"
    with full_after(500):
        assert run("embed", made / "in.jsonl", "-o", tmp_path / "out", "--metrics", file, *OPTIONS) == 2
    assert "--metrics" in capsys.readouterr().err
    assert not file.exists() and not list(tmp_path.glob(".*"))
