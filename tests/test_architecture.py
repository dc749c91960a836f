"""The page on the architecture names files that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from clipmill.failures import Code

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


ROOMS = [folder for folder in FOLDERS if (folder / "__init__.py").is_file() and folder != ROOT / "src" / "clipmill"]


@pytest.mark.parametrize("folder", ROOMS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_rooms_docstring_names_its_files_and_no_others(folder: Path) -> None:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    there = {path.stem for path in folder.iterdir() if path.suffix == ".py" and path.stem != "__init__"}
    there |= {path.parent.name for path in folder.glob("*/__init__.py")}
    lines = [re.match(r"- ((?:`\w+/?`(?:, |; | and )?)+)", line) for line in text.splitlines()]
    items = "".join(match[1] for match in lines if match)
    named = set(re.findall(r"`(\w+)/?`", text))
    assert there <= named, f"{sorted(there - named)} are missing"
    assert set(re.findall(r"`(\w+)/?`", items)) <= there


def test_every_failure_code_is_on_its_page() -> None:
    page = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")
    assert [code for code in Code if f"`{code}`" not in page] == []
