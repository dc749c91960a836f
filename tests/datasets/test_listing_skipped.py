"""What listing skips in folders is said: hidden names, special files, folders that lead back, inputs named twice."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest
from cli_helpers import run

from clipmill.datasets.inputs.listing import list_inputs
from clipmill.errors import DatasetError


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a.jsonl", "sub/b.jsonl"):
        (tmp_path / "in" / name).write_text('{"text": "x"}\n')
    return tmp_path / "in"


def listed(caplog, *inputs: Path) -> tuple[list[str], list[str]]:
    """Return the names of the files, and the warnings."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "clipmill"):
        found = [Path(file.path).name for file in list_inputs([str(one) for one in inputs])]
    return found, caplog.messages


def test_ordinary_folders_are_listed_without_a_word(folder, caplog) -> None:
    assert listed(caplog, folder) == (["a.jsonl", "b.jsonl"], [])


@pytest.mark.parametrize("name", [".hidden.jsonl", "_table.jsonl", "_noextension", ".git/"])
def test_hidden_names_are_said(folder, caplog, name) -> None:
    if name.endswith("/"):
        (folder / name).mkdir()
    (folder / name / "x.jsonl" if name.endswith("/") else folder / name).write_text("{}")
    found, said = listed(caplog, folder)
    assert found == ["a.jsonl", "b.jsonl"]
    assert len(said) == 1 and str(folder / name) in said[0] and "'.' or '_'" in said[0]


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device", "link to a FIFO"])
def test_special_files_are_skipped_and_said(folder, caplog, monkeypatch, kind) -> None:
    """Reading a FIFO would wait for ever."""
    special = folder / "special.jsonl"
    if kind == "FIFO":
        os.mkfifo(special)
    elif kind == "socket":
        monkeypatch.chdir(folder)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(special.name)
    elif kind == "device":
        special.symlink_to("/dev/zero")
    else:
        os.mkfifo(folder.parent / "fifo")
        special.symlink_to(folder.parent / "fifo")
    for given in (folder, folder / "*.jsonl", folder / "**"):
        found, said = listed(caplog, given)
        assert "special.jsonl" not in found
        assert len(said) == 1 and str(special) in said[0]
    with pytest.raises(DatasetError, match="neither a regular file nor a folder"):
        list(list_inputs([str(special)]))


def test_links_that_lead_back_are_said(folder, caplog) -> None:
    (folder / "loop").symlink_to(folder)
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")  # leads nowhere: listed, so that it becomes a failure
    found, said = listed(caplog, folder)
    assert sorted(found) == ["a.jsonl", "b.jsonl", "self"]
    assert len(said) == 1 and "loop" in said[0] and "up" in said[0]


def test_inputs_named_twice_are_read_once_and_said(folder, caplog) -> None:
    found, said = listed(caplog, folder, folder / "a.jsonl", folder / "*.jsonl")
    assert found == ["a.jsonl", "b.jsonl"]
    assert len(said) == 1 and str(folder / "a.jsonl") in said[0] and "b.jsonl" not in said[0]


def test_names_in_warnings_hold_no_control_characters(folder, caplog) -> None:
    (folder / ".\x1b[31m\n.jsonl").write_text("{}")
    _, said = listed(caplog, folder)
    assert len(said) == 1 and said[0].isprintable() and r"\x1b" in said[0]


@pytest.mark.parametrize(
    "command",
    [
        ["embed", "FIFO", "-o", "out", "--model", "fake::"],
        ["embed", "in", "-o", "FIFO", "--model", "fake::"],
        ["classify", "in", "--labels", "FIFO", "-o", "out", "--model", "fake::"],
        ["summary", "FIFO"],
        ["index", "FIFO", "-o", "index"],
        ["index", "fifos", "-o", "index"],
        ["search", "FIFO", "query"],
        ["report", "FIFO", "-o", "page.html"],
        ["report", "in", "-o", "FIFO"],
    ],
    ids=" ".join,
)
def test_no_command_waits_for_a_fifo(folder, monkeypatch, command) -> None:
    monkeypatch.chdir(folder.parent)
    os.mkfifo("fifo.parquet")
    os.mkdir("fifos")
    os.mkfifo("fifos/part-0.parquet")
    assert run(*("fifo.parquet" if word == "FIFO" else word for word in command)) in (1, 2)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["fifo.parquet", "fifos", "in"]
