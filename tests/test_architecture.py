"""The page on the architecture names files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FOLDERS = [ROOT, ROOT / "src" / "clipmill", *(path for path in (ROOT / "src" / "clipmill").rglob("*") if path.is_dir())]
FOLDERS += [ROOT / "transforms", ROOT / "udfs", ROOT / "pipelines"]
NAMED = sorted(set(re.findall(r"[\w/]+\.(?:py|md)\b|[\w/]+/(?=`)", PAGE)))


def test_the_page_names_files() -> None:
    assert len(NAMED) > 60


@pytest.mark.parametrize("name", NAMED)
def test_a_file_of_the_page_is_there(name: str) -> None:
    assert any((folder / name).exists() for folder in FOLDERS), f"docs/architecture.md names {name}"
