"""Runs the code of a page as a reader would, block by block, and compares what it prints with what the page shows."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

from cli_helpers import run_typed

_FENCE = re.compile(r"^```(sh|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_REPLACED = ("pip install", "make ", "source ")
"""Lines of a shell that prepare an environment, as the tests' own is."""


class Block(NamedTuple):
    """A block of code, and the output that the page shows below it, if any."""

    language: str
    code: str
    shown: str | None


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page that run. A block of text belongs to the one above it."""
    found: list[Block] = []
    for language, code in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language != "text":
            found.append(Block(language, code, None))
        else:
            assert found and found[-1].shown is None, f"{page.name} shows output of nothing: {code}"
            found[-1] = found[-1]._replace(shown=code)
    return found


def run_page(page: Path, home: Path, replaced: dict[str, str] | None = None) -> None:
    """Run all blocks of a page in a folder, which is the working directory.

    Args:
        page: The page.
        home: The working directory of this process.
        replaced: Parts of the code and what they become, as for addresses of the web.

    Raises:
        AssertionError: If a block fails, or does not print what the page shows.
    """
    for block in blocks_of(page):
        code = block.code
        for old, new in (replaced or {}).items():
            code = code.replace(old, new)
        said = _commands(code, home) if block.language == "sh" else _program(code, home)
        for line in missing(block.shown or "", said):
            raise AssertionError(f"{page.name} shows the line {line!r}, which is not in\n{said}\nof\n{code}")


def missing(shown: str, said: str) -> Iterator[str]:
    """Yield the lines that are shown and were not printed, in this order; a `…` is any text, and blanks are alike."""
    printed = [" ".join(line.split()) for line in said.splitlines()]
    at = 0
    for line in filter(None, (" ".join(line.split()) for line in shown.splitlines())):
        known = ".*".join(re.escape(part.strip()) for part in line.split("…"))
        pattern = re.compile(rf"(?<!\w){known}(?!\w)")
        found = next((number for number in range(at, len(printed)) if pattern.search(printed[number])), None)
        if found is None:
            yield line
        else:
            at = found + 1


def _program(code: str, home: Path) -> str:
    """Run a program in a process of its own if it starts a Spark session, which ends with it; return what it prints."""
    if "SparkSession" in code:
        return _run([sys.executable, "-c", code], home)
    with redirect_stdout(io.StringIO()) as said:
        exec(compile(code, "example.py", "exec"), {"__name__": "__main__"})
    return said.getvalue()


def _commands(code: str, home: Path) -> str:
    """Run the commands of a shell, in this process if all are ours; return what they print."""
    lines = [line for line in code.replace("\\\n", " ").splitlines() if not line.startswith(_REPLACED)]
    if not all(line.startswith("clipmill ") for line in lines):
        return _run(["bash", "-c", "\n".join(lines)], home)
    with redirect_stdout(io.StringIO()) as said:
        for line in lines:
            ended = run_typed(line.partition("  #")[0])
            assert ended == 0, f"{line} ended with {ended}: {said.getvalue()}"
    return said.getvalue()


def _run(command: list[str], home: Path) -> str:
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYSPARK_PYTHON": sys.executable,
        "COLUMNS": "200",
    }
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
