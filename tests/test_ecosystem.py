"""docs/ecosystem.md: each row of its table names a test that exists, and its code runs in the order it stands there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from beam_helpers import LOCAL
from places import DOCS, ROOT

PAGE = (DOCS / "ecosystem.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| ([^|]+) \| `(tests/[^|]+)` \|$", PAGE, re.MULTILINE)


def test_the_table_is_read() -> None:
    table = PAGE[: PAGE.index("\n## ")].splitlines()
    lines = [line for line in table if line.startswith("| ") and not line.startswith("| convention")]
    assert len(ROWS) == len(lines) >= 6


@pytest.mark.parametrize("test", sorted({test for _, _, test in ROWS}))
def test_the_test_of_a_row_exists(test: str) -> None:
    path, _, name = test.partition("::")
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    names = {one.name for one in body if isinstance(one, ast.FunctionDef)}
    assert name in names if name else any(one.startswith("test_") for one in names)


def test_links_within_the_page_lead_somewhere() -> None:
    titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\(#([^)]+)\)", PAGE)) <= anchors


def test_python_of_the_beam_sections_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["example", *LOCAL])
    names: dict[str, object] = {"__name__": "__main__"}
    beam_part = PAGE[PAGE.index("## RunInference") : PAGE.index("## Beam YAML")]
    for block in re.findall(r"```python\n(.*?)```", beam_part, re.DOTALL):
        exec(compile(block, "example.py", "exec"), names)
    said = capsys.readouterr().out.splitlines()
    assert sorted(said)[:3] == ["a (96,)", "a 96", "a 96"]
    assert len(said) == 4 and any(line.startswith("b FailedRowError") and "empty" in line for line in said)
