"""Change the code in small ways, one at a time, and check whether the tests of that room notice.

    python tools/mutants.py --room media --count 10
    python tools/mutants.py                             # 120 mutants over all rooms: about an hour on two cores
    python tools/mutants.py --show media-17             # what a mutant changes

Mutants are drawn from a seed, the same number for each room. Each is written into a built copy of the package, never
into the sources, and the tests of its room run until the first failure (see `mutant_plugin.py`). A mutant is *killed*
if a test fails or takes more than a minute. It has *survived* if all tests of its room passed, or if its time was up
before any test failed. Results are kept under `build/mutants/`, one line each, and a second run continues where the
first one stopped.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import difflib
import json
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
from mutations import changes_of, mutated

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "mutants"
ROOMS = {
    **{room: f"src/clipmill/{room}" for room in ("files", "metrics", "media", "models", "encoders", "datasets")},
    **{room: f"src/clipmill/{room}" for room in ("jobs", "indexes", "reports")},
    **{room: room for room in ("transforms", "udfs", "pipelines")},
}
"""The folder of each room; its tests are those of tests/<room>/."""
LEFT_OUT = ("__init__.py", "demo.py", "drawings.py", "gallery.py")
"""Modules with nothing but names, and those that draw the pictures of `make demo`."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One small change of one file."""

    name: str
    room: str
    file: str
    line: int
    what: str
    number: int
    """Its index among the changes that the file offers."""


def files_of(room: str) -> list[Path]:
    """Return the modules of a room."""
    return sorted((ROOT / ROOMS[room]).rglob("*.py"))


def draw(room: str, count: int, seed: int) -> list[Mutant]:
    """Return mutants of a room, all different, drawn uniformly from the changes that its files offer."""
    offered = [
        (file, number, line, what)
        for file in files_of(room)
        if file.name not in LEFT_OUT
        for number, (line, what) in enumerate(changes_of(file))
    ]
    chosen = random.Random(f"{room} {seed}").sample(offered, min(count, len(offered)))
    return [
        Mutant(f"{room}-{place}", room, file.relative_to(ROOT).as_posix(), line, what, number)
        for place, (file, number, line, what) in enumerate(chosen)
    ]


def installed_place(file: str) -> str:
    """Return the path of a source file in the installed package."""
    return file.removeprefix("src/") if file.startswith("src/") else f"clipmill/{file}"


class Slot:
    """A built copy of the package that holds one mutant at a time."""

    def __init__(self, number: int) -> None:
        self.folder = BUILD / f"slot-{number}"
        shutil.rmtree(self.folder, ignore_errors=True)
        command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(self.folder / "package")]
        subprocess.run(command, cwd=ROOT, check=True)

    def test(self, mutant: Mutant | None, room: str, limit_s: float) -> tuple[str, str]:
        """Run the tests of a room on a mutant, or on the unchanged code; return the outcome and its reason."""
        target = self.folder / "package" / installed_place(mutant.file) if mutant else None
        before = target.read_text(encoding="utf-8") if target else ""
        if mutant and target:
            target.write_text(mutated(ROOT / mutant.file, mutant.number), encoding="utf-8")
        try:
            return self._run(room, Path(mutant.file).stem if mutant else "", limit_s)
        finally:
            if target:
                target.write_text(before, encoding="utf-8")

    def _run(self, room: str, stem: str, limit_s: float) -> tuple[str, str]:
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        paths = os.pathsep.join([str(self.folder / "package"), str(ROOT / "tools")])
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", "-p", "mutant_plugin"]
        command += [
            "-m",
            "not browser and not connect_only",
            "--tb=line",
            "--no-header",
            f"--mutated={stem}",
            f"tests/{room}",
        ]
        environment = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
        log = self.folder / "log"
        with log.open("w") as out:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(process)
        shutil.rmtree(temporary, ignore_errors=True)
        output = log.read_text(errors="replace")
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        if code is None:
            return "survived", f"no test failed in {limit_s:.0f} s"
        if code == 0:
            return "survived", output.strip().splitlines()[-1]
        return "killed", failed[0] if failed else output.strip()[-300:]


def _end(process: subprocess.Popen) -> None:
    """End a run with all processes that it started."""
    import psutil

    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    for one in below:
        if one.is_running():
            one.kill()
    if process.poll() is None:
        process.kill()
        process.wait()


def _diff(mutant: Mutant) -> str:
    source = ROOT / mutant.file
    plain = ast.unparse(ast.parse(source.read_text(encoding="utf-8"))) + "\n"
    lines = difflib.unified_diff(plain.splitlines(), mutated(source, mutant.number).splitlines(), lineterm="", n=3)
    return f"{mutant.name}: {mutant.file}:{mutant.line}: {mutant.what}\n" + "\n".join(list(lines)[2:])


def _known(results: Path) -> dict[str, dict[str, object]]:
    if not results.exists():
        return {}
    return {one["name"]: one for one in map(json.loads, results.read_text().splitlines())}


@click.command()
@click.option("--room", "rooms", multiple=True, type=click.Choice(list(ROOMS)), help="One room, or several; else all.")
@click.option("--count", default=10, show_default=True, help="Mutants for each room.")
@click.option("--seed", default=14, show_default=True)
@click.option("--limit", "limit_s", default=150.0, show_default=True, help="Seconds that a mutant may take.")
@click.option("--jobs", default=os.cpu_count(), show_default=True, help="Mutants tested in parallel.")
@click.option("--results", type=click.Path(path_type=Path), default=None, help="Where results are kept.")
@click.option("--show", default=None, help="Print what a mutant changes, and stop.")
@click.option("--again", multiple=True, help="Mutants to test once more.")
def main(
    rooms: tuple[str, ...],
    count: int,
    seed: int,
    limit_s: float,
    jobs: int,
    results: Path | None,
    show: str | None,
    again: tuple[str, ...],
) -> None:
    """Draw mutants, test each, and print the share of killed ones."""
    mutants = [mutant for room in rooms or ROOMS for mutant in draw(room, count, seed)]
    if show:
        click.echo(_diff(next(mutant for mutant in mutants if mutant.name == show)))
        return
    BUILD.mkdir(parents=True, exist_ok=True)
    results = results or BUILD / f"results-{seed}.jsonl"
    known = {name: one for name, one in _known(results).items() if name not in again}
    waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    for mutant in mutants:
        if mutant.name not in known:
            waiting.put(mutant)
    lock = threading.Lock()

    def work(number: int) -> None:
        slot = Slot(number)
        while True:
            try:
                mutant = waiting.get_nowait()
            except queue.Empty:
                return
            start = time.monotonic()
            fate, by = slot.test(mutant, mutant.room, limit_s)
            line = {**dataclasses.asdict(mutant), "fate": fate, "by": by, "seconds": round(time.monotonic() - start)}
            with lock:
                known[mutant.name] = line
                with results.open("a") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                click.echo(
                    f"{fate:9s} {line['seconds']:4d} s  {mutant.name}  {mutant.file}:{mutant.line}  {mutant.what}  {by}"
                )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _report([known[mutant.name] for mutant in mutants if mutant.name in known])


def _report(found: list[dict[str, object]]) -> None:
    by_room = collections.defaultdict(list)
    for one in found:
        by_room[one["room"]].append(one)
    click.echo()
    for room, some in by_room.items():
        killed = sum(one["fate"] == "killed" for one in some)
        click.echo(f"{room:11s} {killed:3d} of {len(some):3d} killed")
    killed = sum(one["fate"] == "killed" for one in found)
    click.echo(f"{'all':11s} {killed:3d} of {len(found):3d} killed: {killed / max(1, len(found)):.1%}")


if __name__ == "__main__":
    main()
