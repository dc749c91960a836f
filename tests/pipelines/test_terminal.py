"""No text of data, paths or options is markup or a control sequence for the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rich
from cli_helpers import run, write_pictures

from clipmill.pipelines.console import Terminal, printable
from clipmill.pipelines.summary import summarise_dataset

NASTY = "[/b] [red]x :smile: \x1b[31m\x07 \u202e"
SHOWN = "[/b] [red]x :smile: \\x1b[31m\\x07 \\u202e"


def test_texts_are_shown_as_they_are() -> None:
    assert printable(NASTY) == SHOWN and printable("ü 日本\nx") == "ü 日本\nx"
    terminal = Terminal(record=True, width=200, force_terminal=False)
    terminal.print(NASTY)
    assert SHOWN in terminal.export_text()


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": [NASTY, "b"], NASTY: ["x", "y"], "caption": ["one", ""]}), path)
    return str(path)


@pytest.mark.parametrize(
    "command",
    [
        ["embed", "ROWS", "--column", "caption=text", "--model", "fake::dim=8", "-o", "OUT"],
        ["embed", "ROWS", "--column", "caption=text", "--model", "fake::dim=8", "-o", "OUT", "--dry-run"],
        ["embed", "ROWS", "--column", f"{NASTY}=photo", "--model", "fake::dim=8", "-o", "OUT"],
        ["embed", "NOWHERE", "--model", "fake::dim=8", "-o", "OUT"],
        ["summary", "ROWS"],
        ["summary", "NOWHERE"],
        ["classify", "PICTURES", "--labels", NASTY + ",b", "--model", "fake::dim=8"],
        ["rank", "--query", NASTY, "PICTURES", "--model", "fake::dim=8"],
        ["index", "ROWS", "-o", "OUT"],
        ["search", "NOWHERE", NASTY],
        ["report", "NOWHERE", "-o", "OUT"],
        ["models", NASTY],
        ["export", NASTY, "OUT"],
    ],
    ids=lambda command: " ".join(command[:2]) + str(len(command)),
)
def test_no_command_obeys_them(table: str, tmp_path: Path, capsys, command: list[str]) -> None:
    places = {"ROWS": table, "OUT": tmp_path / f"out {NASTY}", "NOWHERE": tmp_path / f"no {NASTY}"}
    if "PICTURES" in command:
        (tmp_path / f"pictures {NASTY}").parent.mkdir()  # it has a slash
        places["PICTURES"] = write_pictures(tmp_path / f"pictures {NASTY}")
    run(*(places.get(word, word) for word in command))
    said = "".join(capsys.readouterr())
    assert "\x1b" not in said and "\x07" not in said and "Traceback" not in said


def test_a_summary_of_ones_own_console_shows_them_too(table: str, capsys) -> None:
    """`rich.print(summary(…))`, as the docs say."""
    rich.print(summarise_dataset(table))
    assert "[/b] [red]x" in capsys.readouterr().out


def test_json_holds_them_unchanged(table: str, tmp_path: Path, capsys) -> None:
    command = ["embed", table, "--column", "caption=text", "--model", "fake::dim=8", "-o", tmp_path / "out"]
    run(*command, "--json")
    assert isinstance(json.loads(capsys.readouterr().out), dict)
