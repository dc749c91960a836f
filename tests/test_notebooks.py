"""The notebooks of examples/ run from top to bottom, and are kept with their results."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from places import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
MOST_BYTES = 300_000


def _results(notebook: nbformat.NotebookNode) -> list[tuple[str, list[str]]]:
    """Return what each cell printed, in one text however often it was sent, and the kinds of its other outputs."""
    found = []
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        printed = "".join(one.text for one in outputs if one.get("name") == "stdout")
        found.append((printed, [one.output_type for one in outputs if one.output_type != "stream"]))
    return found


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
        assert before[1] == now[1], f"cell {number} is kept with other results than it gives"
        if path.stem == "compare_models":  # which prints rates
            assert bool(before[0]) == bool(now[0])
        else:
            assert before[0] == now[0]
    assert not [one for cell in kept.cells for one in cell.get("outputs", []) if one.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
