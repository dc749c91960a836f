"""Inputs for the tests of reports, and what is read of a page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cli_helpers import run

from clipmill.encoders import EncoderSpec
from clipmill.reports.overview import Looked, Overview, overview
from clipmill.reports.vectors import SampleOptions

SPEC = EncoderSpec("fake::dim=8", device="cpu")
EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def clustered(rows: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(7, dim))
    return (centres[rng.integers(0, 7, rows)] + 0.3 * rng.normal(size=(rows, dim))).astype(np.float32)


def write_plain(path: Path, vectors: np.ndarray, **columns: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns, "vector": pa.array(list(vectors))}), path, row_group_size=50)
    return path


def look(location: object, **sample: object) -> Overview:
    return overview(str(location), Looked(SampleOptions(**sample)))


def page_of(tmp_path: Path, location: object, *options: object) -> str:
    output = tmp_path / "report.html"
    assert run("report", location, "--output", output, *options) == 0
    return output.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """Return what a page says, without scripts, styles and tags."""
    body = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))
