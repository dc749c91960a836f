"""The page of parity keeps what was measured, and says what was not."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity_tool", ROOT / "tools" / "parity.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lines_are_kept_and_replaced_one_by_one(tool: ModuleType, tmp_path: Path) -> None:
    """So that a run can go on where another stopped."""
    page = tmp_path / "parity.md"
    page.write_text((ROOT / "docs" / "parity.md").read_text(encoding="utf-8"), encoding="utf-8")
    before = tool.read(page)
    names = [row.name for row in tool.all_rows()]
    assert set(before) <= set(names) and "RN50" in before
    figures = {"peak": 2**31, "error": 1.2e-6}
    result = {"name": "RN50", "reference": "a reference", "ways": {"torch fp32": figures}, "control": 0.5}
    lines = {**before, "RN50": tool.line_of(result)}
    tool.write(page, lines)
    assert tool.read(page) == lines and "| RN50 | a reference | 1e-06 | – |" in page.read_text()
    del lines["RN50"]
    tool.write(page, lines)
    text = page.read_text(encoding="utf-8")
    assert tool.read(page) == lines and re.search(r"\bRN50\b", text.partition(tool.NOT_RUN)[2])
    assert text.startswith("# Parity") and "`auto` never chooses int8" in text
    tool.write(page, dict.fromkeys(names, "| x | y |"))
    assert tool.NOT_RUN not in page.read_text(encoding="utf-8")


def test_what_does_not_fit_into_memory_is_said(tool: ModuleType, tmp_path: Path, monkeypatch) -> None:
    """A process over the limit is ended; the line shows the limit for its figure."""
    ways = {"torch fp32": {"peak": 2**31, "error": 2e-6}, "onnx fp32": {"peak": 20 * 2**30, "over": True}}
    line = tool.line_of({"name": "big", "reference": "r", "ways": ways, "control": 0.1})
    assert "| 2e-06 | > 20 GiB | – |" in line and "| 2.0 GiB |" in line
    nothing = tool.line_of({"name": "big", "reference": "r", "ways": {}, "control": None})
    assert "| – | > 20 GiB |" in nothing
    monkeypatch.setattr(tool, "MOST_BYTES", 2**20)
    with pytest.raises(tool.OverMemoryError):
        tool._child(tmp_path, "--draw", "RN50", tmp_path)
