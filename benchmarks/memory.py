"""Peak memory of whole commands: the process and all its children, sampled."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

_SECONDS_BETWEEN_SAMPLES = 0.05


def peak_rss(command: Sequence[str]) -> tuple[int, float]:
    """Run a command.

    Returns:
        The most bytes that its processes held at the same time, and the seconds it took.
    """
    started = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [process, *process.children(recursive=True)]
            total = 0
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += member.memory_info().rss
            peak = max(peak, total)
        time.sleep(_SECONDS_BETWEEN_SAMPLES)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return peak, time.perf_counter() - started


def embed_command(pictures: Path, output: Path, engine: str) -> list[str]:
    """Return the command of a user who embeds a folder with the demo model."""
    command = [sys.executable, "-m", "clipmill", "embed", str(pictures), "--output", str(output), "--overwrite"]
    return [*command, "--model", "demo", "--engine", engine, "--max-cache-bytes", "0"]  # pictures are there repeatedly
