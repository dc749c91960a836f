"""The code and commands of the pages in docs/ run as they stand there, and what they say of options is so."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import run_example, run_typed
from contract import png
from pictures import encode, photographs
from places import DOCS

from clipmill import EncoderSpec
from clipmill.models.spec import RENAMED

MIGRATION = (DOCS / "migration.md").read_text(encoding="utf-8")
RUNTIMES = (DOCS / "runtimes.md").read_text(encoding="utf-8")
DOWNLOADS = (DOCS / "downloads.md").read_text(encoding="utf-8")
RANKING = (DOCS / "ranking.md").read_text(encoding="utf-8")
VECTORS = (DOCS / "vectors.md").read_text(encoding="utf-8")
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


def test_python_of_the_other_pages_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for block in _blocks(RUNTIMES, "python"):
        run_example(block)
        assert capsys.readouterr().out.split()[1] == "fp32"


def test_python_of_the_page_on_ranking_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    """What it says comes first does."""
    monkeypatch.chdir(tmp_path)
    alone, documents, pairs, *_of_spark = _blocks(RANKING, "python")
    run_example(alone)
    assert capsys.readouterr().out.startswith("a red circle ")
    run_example(documents)
    assert re.search(r"something red.*a blue star.*\('', \{\}, \['empty at", capsys.readouterr().out)
    run_example(pairs)
    said = sorted(capsys.readouterr().out.splitlines())
    assert said == ["below_min_score a blue square", "kept a picture of a red circle 1.0"]


def test_commands_of_the_other_pages_run(tmp_path: Path, monkeypatch) -> None:
    """`clipmill export` writes a directory that `onnx:` reads; `--download` says where a model is."""
    monkeypatch.chdir(tmp_path)
    commands = [line for page in (RUNTIMES, DOWNLOADS) for block in _blocks(page, "sh") for line in block.splitlines()]
    commands = [command for command in commands if not command.startswith("pip install ")]
    (tmp_path / "photos").mkdir()
    for number, picture in enumerate(photographs().values()):
        (tmp_path / "photos" / f"{number}.png").write_bytes(encode(picture))
    assert len(commands) == 7
    assert [run_typed(command) for command in commands] == [0] * 7
    assert (tmp_path / "exported" / "clipmill.json").is_file()


def test_the_page_on_vectors_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    """Its examples, and its commands on a table and weights of one's own."""
    monkeypatch.chdir(tmp_path)
    fused, head = _blocks(VECTORS, "python")
    run_example(fused)
    assert capsys.readouterr().out == "(96,) (96,)\n"
    run_example(head)
    assert capsys.readouterr().out == "(2, 1)\n"
    (tmp_path / "photos").mkdir()
    for number in range(2):
        (tmp_path / "photos" / f"{number}.png").write_bytes(png(8, 8, (number, 9, 99)))
    table = {"id": ["a"], "caption": ["a red circle"], "photo": [png(8, 8, (255, 0, 0))]}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    np.savez(tmp_path / "head.npz", weight=np.ones(8))
    commands = re.findall(r"^    (clipmill (?:.*\\\n)*.*)$", VECTORS, re.MULTILINE)
    assert len(commands) == 3
    for number, command in enumerate(commands):
        words = command.replace("\\\n", " ").replace("sa_0_4_vit_l_14_linear.pth", "head.npz")
        words = words.replace("MODEL", "fake::dim=300&least_dimensions=64").replace("ViT-L-14::openai", "fake::dim=8")
        model = "" if "--model" in words else " --model fake::dim=8"
        assert run_typed(words.replace("vectors/", f"vectors-{number}/") + model) == 0
    columns = {
        number: pq.read_schema(next((tmp_path / f"vectors-{number}").glob("*.parquet"))).names for number in (1, 2)
    }
    assert {"embedding", "photo_embedding"} < set(columns[1])
    assert {"aesthetic", "image_embedding"} < set(columns[2])
