"""`make demo`: embeds a small gallery on Beam and Spark, compares the vectors, searches them and writes pages."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
from rich.table import Table

from ..datasets.dataset import read_failures
from ..datasets.dataset_rows import read_dataset
from ..errors import ClipmillError
from .console import out
from .gallery import write_gallery
from .machine_checks import MIN_JAVA, java_version

SENTENCES = ("a red star", "a blue circle", "a green triangle")
MODEL = "demo"
MAX_RELATIVE_ERROR = 1e-4
"""Largest difference between the engines, as promised for two runs of a model in float32."""


def main(directory: str = "demo-output") -> None:
    """Run the demo, which writes under `directory`; raise `ClipmillError` if the engines' vectors differ."""
    started = time.perf_counter()
    home = Path(directory)
    shutil.rmtree(home, ignore_errors=True)
    gallery = home / "gallery"
    write_gallery(gallery)
    java = java_version()
    engines = ["beam", "spark"] if java is not None and java >= MIN_JAVA else ["beam"]
    vectors = {}
    for engine in engines:
        vectors[engine] = _embed(gallery, home / engine, engine)
    if "spark" in vectors:
        _compare(vectors["beam"], vectors["spark"])
    _print_failures(home / "beam")
    sheet, page = home / "contact-sheet.html", home / "report.html"
    _run("search", str(home / "beam"), *SENTENCES, "--top-k", "3", "--html", str(sheet))
    _run("report", str(home / "beam"), "--output", str(page))
    out.print(f"\ndone in {time.perf_counter() - started:.0f} s; everything is under {home}/")
    out.print(f"to look at, in a browser: {sheet} and {page}")
    if "spark" not in engines:
        out.print(
            f"Spark was left out: it needs Java {MIN_JAVA} or newer (Debian: apt install openjdk-17-jre-headless)"
        )


def _embed(gallery: Path, dataset: Path, engine: str) -> dict[str, np.ndarray]:
    """Embed the gallery, and return the vectors by picture."""
    _run("embed", str(gallery), "--output", str(dataset), "--model", MODEL, "--engine", engine)
    table = read_dataset(str(dataset))
    ids, cells = table.column("id").to_pylist(), table.column("embedding")
    return {name: cell.values.to_numpy() for name, cell in zip(ids, cells, strict=True) if cell.is_valid}


def _run(*arguments: str) -> None:
    """Run a command line."""
    command = ["clipmill", *arguments]
    out.print(f"\n$ {shlex.join(command)}", style="bold")
    subprocess.run([sys.executable, "-m", *command], check=True)


def _compare(beam: dict[str, np.ndarray], spark: dict[str, np.ndarray]) -> None:
    if beam.keys() != spark.keys():
        raise ClipmillError(f"Beam and Spark embedded different pictures: {sorted(beam.keys() ^ spark.keys())[:5]}")
    errors = [np.linalg.norm(beam[name] - spark[name]) / np.linalg.norm(beam[name]) for name in beam]
    if max(errors) > MAX_RELATIVE_ERROR:
        raise ClipmillError(f"Beam's and Spark's vectors differ by {max(errors):.1e}, allowed is {MAX_RELATIVE_ERROR}")
    out.print(f"\nBeam and Spark wrote the same {len(beam)} vectors (largest relative error {max(errors):.0e})")


def _print_failures(dataset: Path) -> None:
    table = Table(title="pictures that failed", title_justify="left", box=None, pad_edge=False)
    for name in ("row", "stage", "code", "message"):
        table.add_column(name)
    for failure in read_failures(str(dataset)):
        table.add_row(Path(failure["row"]).name, failure["stage"], failure["code"], failure["message"])
    out.print(table)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ClipmillError, OSError, subprocess.CalledProcessError) as err:
        click.echo(f"Error: {err}", err=True)
        sys.exit(1)
