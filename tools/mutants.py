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

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
}


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


class Changes(ast.NodeTransformer):
    """Counts the changes that a module offers, and makes one of them.

    It leaves alone what no test should depend on: docstrings, annotations, texts, logging, and numbers above 2, which
    are sizes and times far more often than rules.
    """

    def __init__(self, wanted: int | None = None) -> None:
        self.wanted, self.found = wanted, []
        self.depth = 0

    def offer(self, node: ast.AST, what: str, changed: ast.AST) -> ast.AST:
        self.found.append((node.lineno, what))
        return ast.copy_location(changed, node) if len(self.found) - 1 == self.wanted else node

    def _function(self, node: ast.AST) -> ast.AST:
        self.depth += 1
        node.body = [self.visit(one) for one in node.body]
        node.args.defaults = [self.visit(one) for one in node.args.defaults]
        node.args.kw_defaults = [one and self.visit(one) for one in node.args.kw_defaults]
        self.depth -= 1
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        node.body = self.visit(node.body)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None and self.depth:
            node.value = self.visit(node.value)
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node  # only its message; the condition above decides whether it is reached

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        swapped = SWAPS.get(type(node.ops[0]))
        if len(node.ops) != 1 or swapped is None:
            return node
        return self.offer(
            node,
            f"{type(node.ops[0]).__name__} → {swapped.__name__}",
            ast.Compare(node.left, [swapped()], node.comparators),
        )

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        swapped = SWAPS[type(node.op)]
        return self.offer(node, f"{type(node.op).__name__} → {swapped.__name__}", ast.BoolOp(swapped(), node.values))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return self.offer(node, "not x → x", node.operand) if isinstance(node.op, ast.Not) else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        swapped = SWAPS.get(type(node.op))
        texts = any(
            isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str)
            for side in (node.left, node.right)
        )
        if swapped is None or texts or not self.depth:
            return node
        return self.offer(
            node, f"{type(node.op).__name__} → {swapped.__name__}", ast.BinOp(node.left, swapped(), node.right)
        )

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not self.depth:
            return node
        if isinstance(node.value, bool):
            return self.offer(node, f"{node.value} → {not node.value}", ast.Constant(not node.value))
        if isinstance(node.value, int) and 0 <= node.value <= 2:
            return self.offer(node, f"{node.value} → {node.value + 1}", ast.Constant(node.value + 1))
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        negated = ast.UnaryOp(ast.Not(), node.test)
        return self.offer(node, "if x → if not x", ast.If(ast.copy_location(negated, node), node.body, node.orelse))

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return self.offer(node, "a if x else b → b if x else a", ast.IfExp(node.test, node.orelse, node.body))

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        if node.value is None or (isinstance(node.value, ast.Constant) and node.value.value is None):
            return node
        return self.offer(node, "return x → return None", ast.Return(ast.copy_location(ast.Constant(None), node)))

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if not isinstance(node.value, ast.Call):  # a docstring
            return node
        self.generic_visit(node)
        called = ast.unparse(node.value.func)
        if re.match(r"(_?log|logger|logging|warnings)\b", called) or not self.depth:
            return node
        return self.offer(node, f"{called}(…) left out", ast.Pass())

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if re.match(r"(_?log|logger|logging|warnings)\b", ast.unparse(node.func)):
            return node
        self.generic_visit(node)
        named = [keyword for keyword in node.keywords if keyword.arg is not None]
        if named and self.depth:
            kept = [keyword for keyword in node.keywords if keyword is not named[-1]]
            return self.offer(node, f"{named[-1].arg}=… left out", ast.Call(node.func, node.args, kept))
        return node


def changes_of(path: Path) -> list[tuple[int, str]]:
    """Return the line and description of every change that a file offers."""
    walker = Changes()
    walker.visit(ast.parse(path.read_text(encoding="utf-8")))
    return walker.found


def mutated(path: Path, number: int) -> str:
    """Return a file's text with one change; comments are lost."""
    tree = Changes(number).visit(ast.parse(path.read_text(encoding="utf-8")))
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


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
