"""How long a new process takes to its first vectors, everything counted: the interpreter, imports, weights, one row.

    python benchmarks/first_vector.py [ARCHITECTURE]

Writes random weights in the published layout (safetensors, float32). Each way starts once to fill the cache (graphs,
hashes, what the runtime compiled), then several times; the ways take turns, and medians are printed. Weights and graphs
are in the operating system's memory by then: a cold disk adds the time to read them.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from workload import write_weights

_CHILD = """
import sys
from clipmill import load_encoder
encoder = load_encoder(sys.argv[1], device="cpu", runtime=sys.argv[2], precision=sys.argv[3])
encoder.embed_texts(["a photo of a cat"])
encoder.embed_images([__import__("numpy").zeros((224, 224, 3), "uint8")])
print(encoder.resolved["runtime"], encoder.resolved["precision"])
"""

_WAYS = (
    ("auto", "auto"),
    ("openvino", "bf16"),
    ("openvino", "fp32"),
    ("onnx", "fp32"),
    ("onnx", "int8"),
    ("torch", "bf16"),
    ("torch", "fp32"),
)


def start(model: str, runtime: str, precision: str, environment: dict[str, str]) -> tuple[float, str]:
    """Return the seconds of a whole process, and what it ran in."""
    started = time.perf_counter()
    command = [sys.executable, "-c", _CHILD, model, runtime, precision]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - started, done.stdout.strip()


@click.command()
@click.argument("architecture", default="ViT-B-32")
@click.option("--rounds", default=5, show_default=True)
@click.option("--way", "chosen", multiple=True, metavar="RUNTIME:PRECISION", help="Only this way; may be repeated.")
def main(architecture: str, rounds: int, chosen: tuple[str, ...]) -> None:
    """Measure and print."""
    ways = [tuple(way.split(":")) for way in chosen] or _WAYS
    with tempfile.TemporaryDirectory() as home:
        model = f"{architecture}::{write_weights(architecture, Path(home) / 'weights.safetensors')}"
        environment = {**os.environ, "CLIPMILL_CACHE": str(Path(home) / "cache")}
        taken: dict[tuple[str, ...], list[float]] = {way: [] for way in ways}
        names: dict[tuple[str, ...], str] = {}
        for number in range(rounds + 1):
            for way in ways:
                seconds, names[way] = start(model, way[0], way[1], environment)
                if number:
                    taken[way].append(seconds)
                else:
                    click.echo(f"first start of all, {' '.join(way)}: {seconds:.1f} s", err=True)
    click.echo("| way | ran in | first text and image vector, s (median) | fastest, s |\n|---|---|---|---|")
    for way, seconds in taken.items():
        click.echo(f"| {' '.join(way)} | {names[way]} | {statistics.median(seconds):.2f} | {min(seconds):.2f} |")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
