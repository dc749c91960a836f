"""Coverage-guided fuzzing with atheris of everything that reads what others wrote: the targets in tests/fuzz.

    python tools/fuzz.py                          # every target, a minute each
    python tools/fuzz.py tar csv --seconds 600
    python tools/fuzz.py --runs 50000
    python tools/fuzz.py --replay tar build/fuzz/tar/crash-…

Each target runs in a process of its own, which ends at the first error, at an input that takes too long or at too much
memory; that input is kept in `build/fuzz/<target>/`. Make it a test in tests/fuzz/test_found.py. Inputs that reached
new code are kept too, so that a later run begins where this one ended. The table in docs/reliability.md is rewritten
from the last run of each target.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "build" / "fuzz"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- fuzz: begin -->", "<!-- fuzz: end -->"
TIMEOUT_S = 120
"""Seconds for one input, however busy the machine is; `run_target.py` limits the time on a core."""
MEMORY_MIB = 2560
"""Memory of a process, most of it libraries; more is an error."""
MAX_BYTES = 4096
"""Bytes of an input."""
sys.path[:0] = [str(ROOT / "tests" / room) for room in ("fuzz", "support")]


def fuzz(name: str, *, seconds: int, runs: int, seed: int) -> dict[str, Any]:
    """Run a target and return its figures."""
    from targets import TARGETS

    target, folder = TARGETS[name], KEPT / name
    inputs = folder / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (inputs / f"seed-{number}").write_bytes(data)
    words = "".join('"' + "".join(rf"\x{byte:02x}" for byte in word) + '"\n' for word in target.words)
    (folder / "words").write_text(words)
    before = set(_found(folder))
    command = [
        *(sys.executable, str(ROOT / "tests" / "fuzz" / "run_target.py"), target.check.__module__, name),
        *(f"-max_total_time={seconds}", f"-runs={runs}", f"-seed={seed}", f"-max_len={MAX_BYTES}"),
        *(f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MIB}", f"-artifact_prefix={folder}/"),
        *("-print_final_stats=1", *([f"-dict={folder / 'words'}"] if words else []), str(inputs)),
    ]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="clipmill-fuzz-") as scratch, (folder / "log").open("wb") as log:
        environment = {**os.environ, "TMPDIR": scratch}
        code = subprocess.run(command, cwd=scratch, env=environment, stdout=log, stderr=log, check=False).returncode
    said = (folder / "log").read_text(errors="replace")
    figures = {
        "target": name,
        "inputs": _last(r"stat::number_of_executed_units: (\d+)", said) or _last(r"^#(\d+)", said),
        "seconds": round(time.monotonic() - started),
        "coverage": _last(r"cov: (\d+)", said),
        "peak_mib": _last(r"stat::peak_rss_mb: +(\d+)", said),
        "found": sorted(set(_found(folder)) - before) or ([f"exit code {code}"] if code else []),
        "date": datetime.date.today().isoformat(),
    }
    (folder / "figures.json").write_text(json.dumps(figures))
    return figures


def _found(folder: Path) -> list[str]:
    return [path.name for kind in ("crash", "timeout", "oom", "leak") for path in folder.glob(f"{kind}-*")]


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text, re.MULTILINE)
    return int(found[-1]) if found else 0


def table() -> str:
    """Return the table of the last run of each target."""
    from targets import TARGETS

    lines = [
        "| target | what is read, and what holds | inputs | seconds | edges | errors | last |",
        "|---|---|---|---|---|---|---|",
    ]
    total, errors = 0, 0
    for name, target in TARGETS.items():
        path = KEPT / name / "figures.json"
        if not path.exists():
            continue
        one = json.loads(path.read_text())
        total, errors = total + one["inputs"], errors + len(one["found"])
        lines.append(
            f"| `{name}` | {target.what} | {one['inputs']:,} | {one['seconds']:,} | {one['coverage']:,} "
            f"| {len(one['found'])} | {one['date']} |"
        )
    return f"{total:,} inputs in the last run of each target, {errors} errors.\n\n" + "\n".join(lines)


@click.command()
@click.argument("names", nargs=-1, metavar="[TARGET]...")
@click.option("--seconds", default=60, show_default=True, help="Most seconds of each target.")
@click.option("--runs", default=-1, help="Most inputs of each target; -1 is any number.")
@click.option("--seed", default=1, show_default=True)
@click.option("--replay", type=click.Path(exists=True, path_type=Path), help="Read one kept input, and nothing else.")
@click.option("--list", "listed", is_flag=True, help="Print the targets and stop.")
def main(names: tuple[str, ...], seconds: int, runs: int, seed: int, replay: Path | None, listed: bool) -> None:
    """Fuzz the named targets, or all."""
    from targets import TARGETS

    if unknown := [name for name in names if name not in TARGETS]:
        raise click.UsageError(f"no target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    if listed:
        for name, target in TARGETS.items():
            click.echo(f"{name:16s} {target.what}")
        return
    if replay is not None:
        for name in names:
            TARGETS[name].check(replay.read_bytes())
        return
    errors = 0
    for name in names or TARGETS:
        figures = fuzz(name, seconds=seconds, runs=runs, seed=seed)
        errors += len(figures["found"])
        click.echo(
            f"{name}: {figures['inputs']:,} inputs in {figures['seconds']} s, {figures['coverage']:,} edges, "
            f"{figures['peak_mib']} MiB" + "".join(f"\n  {KEPT / name / one}" for one in figures["found"])
        )
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
