"""Compare every model row with its reference in every runtime and precision, and write docs/parity.md.

    python tools/parity.py [--row NAME]... [--small] [--output docs/parity.md]

Each row draws random weights and runs in separate processes, one for the reference and one for each runtime and
precision, so that the peak memory is that of the largest process alone.
"""

from __future__ import annotations

import json
import os
import pickle
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
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


def all_rows() -> list[Any]:
    """Return every row, in the table's order."""
    from parity_families import FAMILIES
    from parity_rows import ROWS

    return [*ROWS, *FAMILIES]


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
    _child(home, "--draw", name, folder)
    drawn = pickle.loads((folder / "drawn.pickle").read_bytes())
    result: dict[str, Any] = {"name": name, "reference": row.reference, "ways": {}}
    own: dict[str, Any] = {}
    for runtime, precision in WAYS:
        if runtime not in row.runtimes:
            continue
        started = time.perf_counter()
        _child(home, "--encode", f"{runtime}/{precision}", folder)
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
    misses = {key: relative_error(own[key[0]], vectors) for key, vectors in drawn.controls.items()}
    result["control"] = min(misses.values())
    for (modality, mistake), miss in misses.items():
        if miss <= VISIBLE:
            raise click.ClickException(f"{name}: {modality} after the mistake '{mistake}' misses by only {miss:.1e}")
    return result


def _cosine(ours: Any, theirs: Any) -> float:
    import numpy as np

    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(np.min(np.sum(ours * theirs, axis=1) / lengths))


def _child(home: Path, task: str, value: str, folder: Path) -> None:
    environment = {"HF_HUB_OFFLINE": "1", "CLIPMILL_CACHE": str(home / "cache")}
    command = [sys.executable, __file__, task, value, "--folder", str(folder)]
    subprocess.run(command, check=True, env={**os.environ, **environment})


def table(results: list[dict[str, Any]]) -> list[str]:
    """Return the Markdown table, one line per row."""
    ways = [" ".join(way) for way in WAYS]
    head = ["model", "reference", *ways, "nearest control", "peak memory"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for result in results:
        cells = [result["name"], result["reference"]]
        for way in ways:
            figures = result["ways"].get(way, {"refused": ""})
            if "error" in figures:
                cells.append(f"{figures['error']:.0e}")
            elif "cosine" in figures:
                cells.append(f"{figures['cosine']:.5f}")
            else:
                cells.append("–")
        peak = max(figures["peak"] for figures in result["ways"].values())
        cells += [f"{result['control']:.0e}", f"{peak / 2**30:.1f} GiB"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


@click.command()
@click.option("--row", "names", multiple=True, help="Only this row; may be repeated.")
@click.option("--small", is_flag=True, help="Only the rows of `make test`.")
@click.option("--output", type=click.Path(path_type=Path), default=ROOT / "docs" / "parity.md", show_default=True)
@click.option("--draw", "to_draw", hidden=True)
@click.option("--encode", "to_encode", hidden=True)
@click.option("--folder", hidden=True, type=click.Path(path_type=Path))
def main(names: tuple[str, ...], small: bool, output: Path, to_draw: str, to_encode: str, folder: Path) -> None:
    """Measure, print and write."""
    if to_draw:
        draw(to_draw, folder)
        return
    if to_encode:
        encode(folder, *to_encode.split("/"))
        return
    rows = all_rows()
    chosen = [row.name for row in rows if (row.name in names or not names) and (row.small or not small)]
    figures = ROOT / "parity-output"
    figures.mkdir(exist_ok=True)
    for name in chosen:
        with tempfile.TemporaryDirectory() as home:
            result = measure(name, Path(home))
        (figures / f"{re.sub(r'[^A-Za-z0-9-]+', '_', name)}.json").write_text(json.dumps(result, indent=1))
    results = [json.loads(path.read_text()) for path in sorted(figures.glob("*.json"))]
    order = [row.name for row in rows]
    lines = table(sorted(results, key=lambda result: order.index(result["name"])))
    click.echo("\n".join(lines))
    write(output, lines)


def write(output: Path, lines: list[str]) -> None:
    """Put the table between the two markers of the page."""
    text = output.read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- table -->\n")
    _, _, after = rest.partition("<!-- end of table -->")
    from clipmill.models.support_matrix import processor
    from clipmill.threads import allowed_cpus

    machine = f"Machine: {processor()}, {allowed_cpus()} cores, Python {platform.python_version()}."
    measured = {line.split(" | ")[0].removeprefix("| ") for line in lines}
    missing = [row.name for row in all_rows() if row.name not in measured]
    note = f"\n\nRows that were not run: {', '.join(missing)}." if missing else ""
    body = "\n".join([machine, "", *lines]) + note
    output.write_text(f"{before}<!-- table -->\n\n{body}\n\n<!-- end of table -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
