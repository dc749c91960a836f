"""The notebooks of examples/ run from top to bottom, and are kept with their results."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from places import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
MOST_BYTES = 300_000


def _printed(notebook: nbformat.NotebookNode) -> list[str]:
    """Return what each cell prints."""
    return ["".join(one.get("text", "") for one in cell.get("outputs", [])) for cell in notebook.cells]


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["compare_models", "search_photographs", "zero_shot_labels"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_has_its_results(path: Path, tmp_path: Path) -> None:
    kept = nbformat.read(path, as_version=4)
    ran = nbformat.read(path, as_version=4)
    for cell in ran.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(ran, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [number for number, cell in enumerate(kept.cells) if cell.cell_type == "code"]
    assert all(kept.cells[number].execution_count is not None for number in code)
    for number in code:
        kinds = [[one.output_type for one in book.cells[number].outputs] for book in (kept, ran)]
        assert kinds[0] == kinds[1], f"cell {number} is kept with other results than it gives: {kinds}"
    if path.stem == "zero_shot_labels":  # nothing in it depends on the machine
        assert _printed(ran) == _printed(kept)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
