"""Runs one target under atheris, for tools/fuzz.py: `run_target.py MODULE TARGET [options of libFuzzer] [FOLDER]`."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

MOST_CPU_S = 10.0
"""Seconds on a core for one input, which takes milliseconds; more is a hang."""


def main() -> None:
    """Import clipmill with counters of its branches, and fuzz the target."""
    module, name = sys.argv.pop(1), sys.argv.pop(1)
    with atheris.instrument_imports(include=["clipmill"]):
        target = importlib.import_module(module).TARGETS[name]

    def check(data: bytes) -> None:
        started = time.process_time()
        target.check(data)
        took = time.process_time() - started
        assert took < MOST_CPU_S, f"{took:.1f} s on a core for {len(data)} bytes"

    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
