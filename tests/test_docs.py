"""The code and commands of the pages in docs/ run as they stand there, and what they say of options is so."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from places import DOCS

from clipmill import EncoderSpec
from clipmill.encoders.spec import RENAMED

MIGRATION = (DOCS / "migration.md").read_text(encoding="utf-8")
RUNTIMES = (DOCS / "runtimes.md").read_text(encoding="utf-8")
DOWNLOADS = (DOCS / "downloads.md").read_text(encoding="utf-8")
RANKING = (DOCS / "ranking.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (`[^|]*) \| ([^|]*) \|", MIGRATION, re.MULTILINE)
OPTIONS = {*EncoderSpec.__dataclass_fields__, "access_paths", "keep_content"}


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("block", _blocks(MIGRATION, "python"))
def test_our_side_of_every_call_is_accepted(block: str, monkeypatch) -> None:
    """Models and options of the examples are known; nothing is loaded for it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names: dict[str, object] = {}
    exec(block, names)
    assert any(type(value).__name__ == "Embed" for value in names.values())


def test_the_table_of_parameters_says_what_errors_say() -> None:
    """An old name that has a new one is an error that says it; the table says the same."""
    seen = set()
    for theirs, ours in ROWS:
        old = [name for name in re.findall(r"`(\w+)`", theirs) if name in RENAMED]
        new = re.match(r"`(\w+)", ours)
        for name in old:
            assert new is not None and RENAMED[name] == new[1], (name, ours)
            seen.add(name)
        if new is not None and not theirs.startswith("`-"):
            assert new[1] in OPTIONS | {"Rank", "tags"} or "clipmill" in ours, ours
    assert len(seen) >= 12


def test_python_of_the_other_pages_runs(tmp_path: Path) -> None:
    """As a program of its own."""
    for block in _blocks(RUNTIMES, "python"):
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[1] == "fp32"


def test_python_of_the_page_on_ranking_runs(tmp_path: Path) -> None:
    """What it says comes first does."""
    alone, documents = (
        subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
        for block in _blocks(RANKING, "python")
    )
    assert alone.stdout.startswith("a red circle "), alone.stderr
    assert re.search(r"something red.*a blue star.*\('', \{\}, \['empty at", documents.stdout), documents.stderr


def test_commands_of_the_other_pages_run(tmp_path: Path) -> None:
    """`clipmill export` writes a directory that `onnx:` reads; `--download` says where a model is."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    commands = [line for page in (RUNTIMES, DOWNLOADS) for block in _blocks(page, "sh") for line in block.splitlines()]
    assert len(commands) == 3
    for command in commands:
        done = subprocess.run(
            shlex.split(command),
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "exported" / "clipmill.json").is_file()
