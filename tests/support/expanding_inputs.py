"""Inputs of few bytes that may take gigabytes of memory, and the peak of a process that reads them."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MIB = 2**20
MAX_MIB = 700
"""Most MiB that reading may add to a process: pages of 256 MiB and their values, or a line of 128 MiB and its parts."""
GOOD = b'{"text": "a"}\n'
_READ = """
import sys
from clipmill.datasets.inputs import plan_shards, read_rows
import pyarrow.parquet

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024

before, codes = peak(), []
for shard in plan_shards([sys.argv[1]]):
    for row in read_rows(shard):
        codes.append("read" if row.failure is None else str(row.failure.code))
print(peak() - before, len(codes), *sorted(set(codes)))
"""


def _table(**columns: Any) -> Callable[..., Callable[[Path], None]]:
    def options(**how: Any) -> Callable[[Path], None]:
        return lambda path: pq.write_table(pa.table(columns), path, **{"compression": "zstd", **how})

    return options


def _zeros(path: Path) -> None:
    pq.write_table(pa.table({"text": [np.zeros(100 * MIB, np.float32)]}), path, compression="zstd")


def _gzip(path: Path) -> None:
    with gzip.open(path, "wb") as file:
        file.write(GOOD + b'{"text": "')
        for _ in range(1024):
            file.write(b"0" * MIB)
        file.write(b'"}\n' + GOOD)


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for ending in ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm", "pgm", "pbm"):
            info = tarfile.TarInfo(f"a.{ending}")
            info.size = 60 * MIB
            archive.addfile(info, io.BytesIO(os.urandom(info.size)))
        archive.addfile(tarfile.TarInfo("b.txt"))


def _line(unit: bytes) -> Callable[[Path], None]:
    return lambda path: _write(
        path, GOOD + b'{"text": "b", "more": [' + unit * (60 * MIB // len(unit)) + b"0]}\n" + GOOD
    )


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


TEXT = "x" * (4 * MIB)
EXPANDING: dict[str, Callable[[Path], None]] = {
    "dictionary.parquet": _table(text=[TEXT] * 200)(),
    "pages.parquet": _table(text=[TEXT] * 200)(use_dictionary=False),
    "zeros.parquet": _zeros,
    "prefixes.parquet": _table(text=[f"{TEXT[:MIB]}{number}" for number in range(300)])(
        use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"}
    ),
    "zeros.jsonl.gz": _gzip,
    "arrays.jsonl": _line(b"[],"),
    "objects.jsonl": _line(b'{"a":0},'),
    "numbers.jsonl": _line(b"0.5,"),
    "commas.csv": lambda path: _write(path, b"text,b\na,b\n" + b"ab," * (40 * MIB) + b"\nc,d\n"),
    "lines.csv": lambda path: _write(path, b'text,b\na,b\n"' + b"\n" * (4 * MIB) + b'"\nc,d\n'),
    "sample.tar": _tar,
}


def peaks(folder: Path) -> Iterator[tuple[str, int, int, list[str]]]:
    """Yield name, bytes, MiB that reading added to a process, and codes of the rows, of each input."""
    for name, write in EXPANDING.items():
        path = folder / name
        write(path)
        command = [sys.executable, "-c", _READ, str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peak, _, *codes = done.stdout.split()
        yield name, path.stat().st_size, int(peak), codes
        path.unlink()


def check_peaks(folder: Path) -> dict[str, int]:
    """Read every input in a process of its own, and check its peak."""
    figures = {"inputs": 0, "peak MiB": 0}
    for name, nbytes, peak, _ in peaks(folder):
        assert peak <= MAX_MIB, f"{name}: {nbytes} bytes took {peak} MiB"
        figures["inputs"] += 1
        figures["peak MiB"] = max(figures["peak MiB"], peak)
    return figures


if __name__ == "__main__":
    for found in peaks(Path(sys.argv[1])):
        print(json.dumps(found), flush=True)
