"""What `make demo` runs: a small gallery, embedded by Beam and by Spark, compared, searched, and shown on a page."""

from __future__ import annotations

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
from ..encoders import load_encoder
from ..errors import ClipmillError
from .console import out
from .doctor import MIN_JAVA, java_version
from .gallery import Hit, write_contact_sheet, write_gallery

SENTENCES = ("a red star", "a blue circle", "a green triangle")
MODEL = "demo"
MAX_RELATIVE_ERROR = 1e-4
"""Between the engines, as promised for float32 between a model's runs."""


def main(directory: str = "demo-output") -> None:
    """Run the demo; everything it writes is under `directory`.

    Raises:
        ClipmillError: If the engines' vectors differ.
    """
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
    _search(vectors["beam"], home / "contact-sheet.png")
    page = home / "report.html"
    _run("report", str(home / "beam"), "--output", str(page))
    out.print(f"\ndone in {time.perf_counter() - started:.0f} s; everything is under {home}/")
    out.print(f"to look at, in a browser: {page}")
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
    """Run the command that a user would."""
    command = ["clipmill", *arguments]
    out.print(f"\n[bold]$ {' '.join(command)}[/bold]")
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


def _search(vectors: dict[str, np.ndarray], sheet: Path) -> None:
    names = list(vectors)
    pictures = np.stack([vectors[name] for name in names])
    pictures = pictures / np.linalg.norm(pictures, axis=1, keepdims=True)
    queries = load_encoder(MODEL, normalize=True).embed_texts(list(SENTENCES))
    found = []
    for sentence, cosines in zip(SENTENCES, queries @ pictures.T, strict=True):
        best = np.argsort(-cosines)[:3]
        found.append((sentence, [Hit(names[n], float(cosines[n])) for n in best]))
    table = Table(title="\nthe three nearest pictures", title_justify="left", box=None, pad_edge=False)
    table.add_column("sentence")
    table.add_column("pictures, with their cosine")
    for sentence, hits in found:
        table.add_row(sentence, ", ".join(f"{Path(hit.path).name} {hit.score:.3f}" for hit in hits))
    out.print(table)
    write_contact_sheet(found, sheet)
    out.print(f"\nas a picture: {sheet}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ClipmillError, OSError, subprocess.CalledProcessError) as err:
        click.echo(f"Error: {err}", err=True)
        sys.exit(1)
