"""The notebooks of examples/ run from top to bottom, and are kept with their results."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from places import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
MOST_BYTES = 300_000


def _results(notebook: nbformat.NotebookNode) -> list[list[nbformat.NotebookNode]]:
    """Return the outputs of each cell, without logs and warnings."""
    return [[one for one in cell.get("outputs", []) if one.get("name") != "stderr"] for cell in notebook.cells]


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
    for number, (before, now) in enumerate(zip(_results(kept), _results(ran), strict=True)):
        kinds = [[one.output_type for one in outputs] for outputs in (before, now)]
        assert kinds[0] == kinds[1], f"cell {number} is kept with other results than it gives: {kinds}"
        if path.stem != "compare_models":  # which prints rates
            assert [one.get("text") for one in before] == [one.get("text") for one in now]
    assert not [one for cell in kept.cells for one in cell.get("outputs", []) if one.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
