"""Cost of a nightly increment: `clipmill embed --skip-existing` against embedding everything, with the demo model.

    python benchmarks/increments.py --rows 20000 --there 19000

Night 1 embeds the existing rows and is not timed. Then each engine embeds everything again, everything except what
night 1 has by id, and everything except what it has by content. Whole commands, once each, in turn.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import click
from memory import Watched, watch
from workload import captions, write_drawings


@click.command()
@click.option("--rows", default=20_000, show_default=True)
@click.option("--there", default=19_000, show_default=True, help="Those of them that night 1 has.")
@click.option("--engine", "engines", multiple=True, default=("beam", "spark"), show_default=True)
def main(rows: int, there: int, engines: tuple[str, ...]) -> None:
    """Print a table."""
    click.echo("| input | engine | everything | by id | by content | rows written, each | peak RSS, each |")
    click.echo("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        for what, (old, whole) in (
            ("photographs", _photographs(home, rows, there)),
            ("captions", _captions(home, rows, there)),
        ):
            _embed(old, home / "night-1", "beam", "--content-hash")
            for engine in engines:
                skip = ("--skip-existing", str(home / "night-1"))
                ways = ((), skip, (*skip, "--skip-by", "content"))
                found = [_embed(whole, home / "night-2", engine, *options) for options in ways]
                seconds = " | ".join(f"{one.seconds:.1f} s" for one in found)
                written = " · ".join(f"{json.loads(one.printed)['rows']:,}" for one in found)
                peaks = " · ".join(f"{one.peak_bytes / 2**20:,.0f}" for one in found)
                click.echo(f"| {rows:,} {what} | {engine} | {seconds} | {written} | {peaks} MiB |")
            shutil.rmtree(home / "night-1")


def _embed(given: Path, output: Path, engine: str, *options: str) -> Watched:
    command = [sys.executable, "-m", "clipmill", "embed", str(given), "--output", str(output), "--overwrite"]
    command += ["--model", "demo", "--json", "--engine", engine, *options]
    command += ["--master", "local[2]"] if engine == "spark" else []
    return watch(command)


def _photographs(home: Path, rows: int, there: int) -> tuple[Path, Path]:
    """Write drawn pictures, no two files equal; return the folder of those in night 1, and the folder of all."""
    whole = home / "photographs"
    for folder, count, seed in (("old", there, 0), ("new", rows - there, 1)):
        write_drawings(whole / folder, count, seed=seed)
        for number, file in enumerate(sorted((whole / folder).iterdir())):
            with file.open("ab") as end:  # decoders ignore bytes after the end of a JPEG
                end.write(f"{folder} {number}".encode())
    return whole / "old", whole


def _captions(home: Path, rows: int, there: int) -> tuple[Path, Path]:
    lines = [json.dumps({"id": f"c{number}", "text": text}) + "\n" for number, text in enumerate(captions(rows))]
    old, whole = home / "old.jsonl", home / "whole.jsonl"
    old.write_text("".join(lines[:there]), encoding="utf-8")
    whole.write_text("".join(lines), encoding="utf-8")
    return old, whole


if __name__ == "__main__":
    main()
