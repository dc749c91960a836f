"""The finished rounds of soaks: those that are kept under `build/soak/`, and their table in docs/reliability.md.

The table is of one seed. A row that stands in it stays until its soak runs again: the rounds behind it may be kept on
another machine. Rounds with another seed have a table of their own, which is only printed.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
import random
import re
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "build" / "soak"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"
_HEAD = ("| soak | what | rounds | seconds | counted | last |", "|---|---|---|---|---|---|")

Figures = Mapping[str, int]
Round = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Soak:
    """One kind of long run.

    Attributes:
        what: Its description in the table.
        rounds: The number of rounds of a complete soak.
        run: Runs one round in its own folder and returns counts. It raises an exception if anything is wrong.
    """

    what: str
    rounds: int
    run: Callable[[random.Random, Path], Figures]


def done_rounds(seed: int) -> list[Round]:
    """Return the kept rounds."""
    path = KEPT / f"{seed}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def do_round(name: str, soak: Soak, number: int, seed: int) -> Round:
    """Run one round, keep its figures, and return them."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"clipmill-{name}-") as folder:
        figures = soak.run(random.Random(f"{seed} {name} {number}"), Path(folder))
    kept = {
        "soak": name,
        "round": number,
        "seconds": round(time.monotonic() - started),
        "date": datetime.date.today().isoformat(),
        "figures": dict(figures),
    }
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / f"{seed}.jsonl").open("a") as file:
        file.write(json.dumps(kept) + "\n")
    return kept


def rewritten(
    page: str, seed: int, soaks: Mapping[str, Soak], again: Collection[str], rounds: Sequence[Round]
) -> str | None:
    """Return the page with the rows of kept rounds in its table; None if the table is of another seed.

    Args:
        page: The page.
        seed: That of the rounds.
        soaks: All soaks, in the order of the table.
        again: Names of those that were run: their rows are replaced. Others are only added.
        rounds: The kept ones.
    """
    before, _, rest = page.partition(BEGIN)
    inside, _, after = rest.partition(END)
    stands = re.findall(r"^Seed (\d+)", inside, re.MULTILINE)
    if stands not in ([], [str(seed)]):
        return None
    there = {found[1]: found[0] for found in re.finditer(r"^\| `([^`]+)` \|.*$", inside, re.MULTILINE)}
    found = rows_of(soaks, rounds)
    rows = {**there, **{name: row for name, row in found.items() if name in again or name not in there}}
    return f"{before}{BEGIN}\n{table(seed, [rows[name] for name in soaks if name in rows])}\n{END}{after}"


def table(seed: int, rows: Sequence[str]) -> str:
    """Return the table of rows."""
    about = f"Seed {seed}; a round ends at the first error, so all these rounds are free of errors."
    return "\n".join([about, "", *_HEAD, *rows])


def rows_of(soaks: Mapping[str, Soak], rounds: Sequence[Round]) -> dict[str, str]:
    """Return the row of each soak. Counts are summed over rounds; of peaks, the largest is shown."""
    rows = {}
    for name, soak in soaks.items():
        mine = [one for one in rounds if one["soak"] == name]
        if not mine:
            continue
        counted: collections.Counter[str] = collections.Counter()
        for one in mine:
            for what, count in one["figures"].items():
                counted[what] = max(counted[what], count) if what.startswith("peak") else counted[what] + count
        counts = ", ".join(f"{count:,} {what}" for what, count in sorted(counted.items()))
        seconds = sum(one["seconds"] for one in mine)
        last = max(one["date"] for one in mine)
        rows[name] = f"| `{name}` | {soak.what} | {len(mine)} of {soak.rounds} | {seconds:,} | {counts} | {last} |"
    return rows
