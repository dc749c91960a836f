"""The files of a plan, written by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from clipmill.datasets.directory import PLAN, PLAN_PARTS

PART = f"{PLAN_PARTS}/0a-00000.jsonl.gz"


def write_index(folder: Path, items: int = 1) -> None:
    """Write the index of a plan in one part, whose file is `PART`."""
    (folder / PLAN).write_text(json.dumps({"id": "0a", "starts": [0, items]}))


def write_part(folder: Path, lines: bytes, items: int = 1) -> None:
    """Write a plan of so many shards in one part, which holds these lines."""
    (folder / PLAN_PARTS).mkdir(exist_ok=True)
    (folder / PART).write_bytes(gzip.compress(lines, 1, mtime=0))
    write_index(folder, items)
