"""What the tests of commands share: a command run in this process, and pictures that the fake tells apart."""

from __future__ import annotations

import glob
import shlex
from pathlib import Path

import numpy as np
import pytest
from pictures import encode

from clipmill.pipelines.cli import main


def run(*arguments: object) -> int:
    """Run a command line and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def run_typed(command: str) -> int:
    """Run a command as one types it into a shell, `clipmill` first, patterns of file names among it."""
    program, *words = shlex.split(command)
    assert program == "clipmill"
    return run(*(name for word in words for name in (sorted(glob.glob(word)) if "*" in word else [word])))


def run_example(code: str) -> None:
    """Run an example of a page in this process, as the program that one would save it as."""
    exec(compile(code, "example.py", "exec"), {"__name__": "__main__"})


def write_pictures(folder: Path) -> Path:
    """Write three pictures, a broken one, and an empty one."""
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encode(np.full((4, 5 + number, 3), 40 * number, np.uint8)))
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "empty.png").write_bytes(b"")
    return folder


def picture_vector(number: int, dim: int = 8) -> list[float]:
    """Return the fake's vector of one of the three pictures: height, width, red, green, blue."""
    return ([4.0, 5.0 + number, *[40.0 * number] * 3] + [0.0] * dim)[:dim]


def notes_of(said: str) -> list[str]:
    """Return the lines of standard error, without those that say where a job runs and what it makes of its input."""
    return [line for line in said.splitlines() if not line.startswith(("Engine: ", "Input: "))]
