"""Compare every model row with its reference in every runtime and precision, and write docs/parity.md.

    python tools/parity.py [--row NAME]... [--missing] [--small] [--output docs/parity.md]

Each row draws random weights and runs in separate processes, one for the reference and one for each runtime and
precision, so that the peak memory is that of the largest process alone. The page is written after each row and keeps
the lines of rows that were not measured again, so that `--missing` goes on where an earlier run stopped.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pickle
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / room) for room in ("support", "contracts")]

WAYS = (
    ("torch", "fp32"),
    ("onnx", "fp32"),
    ("openvino", "fp32"),
    ("torch", "bf16"),
    ("openvino", "bf16"),
    ("onnx", "int8"),
)
MOST_BYTES = 20 * 2**30
"""Memory of a process beyond which it is ended, and its figure left out."""
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->"
NOT_RUN = "Rows that were not run"


class OverMemoryError(Exception):
    """A process needed more than `MOST_BYTES`."""


def all_rows() -> list[Any]:
    """Return every row, in the table's order."""
    from parity_families import FAMILIES
    from parity_modern import MODERN
    from parity_rows import ROWS

    return [*ROWS, *FAMILIES, *MODERN]


def draw(name: str, folder: Path) -> None:
    """Write a row's weights and its reference's vectors into a folder."""
    row = next(row for row in all_rows() if row.name == name)
    (folder / "drawn.pickle").write_bytes(pickle.dumps(row.draw(folder)))


def encode(folder: Path, runtime: str, precision: str) -> None:
    """Embed a row's inputs with one runtime and precision; write the vectors, or why they could not be computed."""
    from parity_rows import inputs

    from clipmill import EncoderSpec, load_encoder
    from clipmill.errors import ClipmillError

    drawn = pickle.loads((folder / "drawn.pickle").read_bytes())
    found: dict[str, Any] = {}
    try:
        exact = {"device": "cpu", "decode": "exact", **drawn.options}
        spec = EncoderSpec(drawn.model, runtime=runtime, precision=precision, **exact)
        encoder = load_encoder(spec)
        for modality in drawn.vectors:
            embed = {"image": encoder.embed_images, "text": encoder.embed_texts}.get(modality)
            embed = embed or encoder.embed_audios
            found[modality] = embed(inputs(modality))
    except ClipmillError as err:
        found = {"refused": str(err)}
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (folder / f"{runtime}-{precision}.pickle").write_bytes(pickle.dumps(found))


def measure(name: str, home: Path) -> dict[str, Any]:
    """Run one row; return its figures by runtime and precision."""
    from parity_rows import VISIBLE
    from weights import relative_error

    row = next(row for row in all_rows() if row.name == name)
    folder = home / "row"
    folder.mkdir()
    result: dict[str, Any] = {"name": name, "reference": row.reference, "ways": {}, "control": None}
    try:
        _child(home, "--draw", name, folder)
    except OverMemoryError:
        return result
    drawn = pickle.loads((folder / "drawn.pickle").read_bytes())
    own: dict[str, Any] = {}
    for runtime, precision in WAYS:
        if runtime not in row.runtimes:
            continue
        started = time.perf_counter()
        try:
            _child(home, "--encode", f"{runtime}/{precision}", folder)
        except OverMemoryError:
            result["ways"][f"{runtime} {precision}"] = {"peak": MOST_BYTES, "over": True}
            continue
        found = pickle.loads((folder / f"{runtime}-{precision}.pickle").read_bytes())
        figures: dict[str, Any] = {"peak": found.pop("peak"), "seconds": time.perf_counter() - started}
        if "refused" in found:
            figures["refused"] = found["refused"]
        elif precision == "fp32":
            own = own or found
            figures["error"] = max(relative_error(found[m], drawn.vectors[m]) for m in found)
        else:
            figures["cosine"] = min(_cosine(found[m], own[m]) for m in found)
        result["ways"][f"{runtime} {precision}"] = figures
        click.echo(f"{name}: {runtime} {precision}: {figures}", err=True)
    misses = {key: relative_error(own[key[0]], vectors) for key, vectors in drawn.controls.items() if own}
    result["control"] = min(misses.values(), default=None) if own else None
    for (modality, mistake), miss in misses.items():
        if miss <= VISIBLE:
            raise click.ClickException(f"{name}: {modality} after the mistake '{mistake}' misses by only {miss:.1e}")
    return result


def _cosine(ours: Any, theirs: Any) -> float:
    import numpy as np

    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(np.min(np.sum(ours * theirs, axis=1) / lengths))


def _child(home: Path, task: str, value: str, folder: Path) -> None:
    """Run one task in a process of its own; end it once it has more than `MOST_BYTES`.

    Raises:
        OverMemoryError: If it was ended.
    """
    environment = {"HF_HUB_OFFLINE": "1", "CLIPMILL_CACHE": str(home / "cache")}
    command = [sys.executable, __file__, task, value, "--folder", str(folder)]
    with subprocess.Popen(command, env={**os.environ, **environment}) as process:
        while process.poll() is None:
            time.sleep(0.2)
            if _memory_of(process.pid) > MOST_BYTES:
                process.kill()
                process.wait()
                raise OverMemoryError(value)
    if process.returncode:
        raise click.ClickException(f"{task} {value} ended with code {process.returncode}")


def _memory_of(pid: int) -> int:
    """Return the bytes in memory of a process; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize()


def line_of(result: Mapping[str, Any]) -> str:
    """Return a row's line of the Markdown table."""
    cells, over = [result["name"], result["reference"]], f"> {MOST_BYTES / 2**30:.0f} GiB"
    for way in (" ".join(way) for way in WAYS):
        figures = result["ways"].get(way, {})
        if "error" in figures:
            cells.append(f"{figures['error']:.0e}")
        elif "cosine" in figures:
            cells.append(f"{figures['cosine']:.5f}")
        else:
            cells.append(over if "over" in figures else "–")
    peaks = [figures["peak"] for figures in result["ways"].values() if "over" not in figures]
    cells.append("–" if result["control"] is None else f"{result['control']:.0e}")
    cells.append(f"{max(peaks) / 2**30:.1f} GiB" if peaks else over)
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("Pillow", "pyarrow"))
    cells.append(f"{datetime.date.today()}, {versions}, Python {platform.python_version()}, {_processor()}")
    return f"| {' | '.join(cells)} |"


def _processor() -> str:
    from clipmill.models.support_matrix import processor
    from clipmill.threads import allowed_cpus

    return f"{allowed_cpus()} cores of {processor()}"


def read(page: Path) -> dict[str, str]:
    """Return the lines of the page's table by the names of their rows."""
    _, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    lines = [line for line in rest.partition(END)[0].splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines[1:]}


def write(page: Path, lines: Mapping[str, str]) -> None:
    """Put the table between the two markers of the page, in the order of the rows, with the names of those not run."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    names = [row.name for row in all_rows()]
    head = ["model", "reference", *(" ".join(way) for way in WAYS), "nearest control", "peak memory", "measured"]
    body = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(lines[name] for name in names if name in lines)]
    missing = [name for name in names if name not in lines]
    note = f"\n{NOT_RUN}: {', '.join(missing)}.\n" if missing else ""
    table = "\n".join(body)
    page.write_text(f"{before}{BEGIN}\n{table}\n{note}\n{END}{after}", encoding="utf-8")


@click.command()
@click.option("--row", "names", multiple=True, help="Only this row; may be repeated.")
@click.option("--missing", is_flag=True, help="Only rows that the page lacks.")
@click.option("--small", is_flag=True, help="Only the rows of `make test`.")
@click.option("--output", type=click.Path(path_type=Path), default=ROOT / "docs" / "parity.md", show_default=True)
@click.option("--draw", "to_draw", hidden=True)
@click.option("--encode", "to_encode", hidden=True)
@click.option("--folder", hidden=True, type=click.Path(path_type=Path))
def main(
    names: tuple[str, ...], missing: bool, small: bool, output: Path, to_draw: str, to_encode: str, folder: Path
) -> None:
    """Measure, print and write."""
    if to_draw:
        draw(to_draw, folder)
        return
    if to_encode:
        encode(folder, *to_encode.split("/"))
        return
    rows = {row.name: row for row in all_rows()}
    if unknown := sorted(set(names) - rows.keys()):
        raise click.UsageError(f"there is no row {unknown[0]!r}; the rows are {', '.join(rows)}")
    for name, row in rows.items():
        lines = read(output)
        if (names and name not in names) or (small and not row.small) or (missing and name in lines):
            continue
        with tempfile.TemporaryDirectory() as home:
            lines[name] = line_of(measure(name, Path(home)))
        click.echo(lines[name])
        write(output, lines)


if __name__ == "__main__":
    main()
