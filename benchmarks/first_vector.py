"""Time of a new process to its first vectors, including the interpreter, imports, weights and one row.

    python benchmarks/first_vector.py [ARCHITECTURE]

Writes random weights in the published layout (safetensors, float32). Each configuration starts once to fill the cache
(graphs, hashes, what the runtime compiled), then several times. The configurations take turns, and medians are printed.
By then, weights and graphs are in the operating system's memory; a cold disk adds the time to read them.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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

Way = tuple[str, ...]
"""Runtime and precision."""

WAYS: tuple[Way, ...] = (
    ("auto", "auto"),
    ("openvino", "bf16"),
    ("openvino", "fp32"),
    ("onnx", "fp32"),
    ("onnx", "int8"),
    ("torch", "bf16"),
    ("torch", "fp32"),
)
SHORT_WAYS = WAYS[:1]
"""The configurations that the quick benchmark measures."""


class Starts(NamedTuple):
    """Start times of one configuration.

    Attributes:
        ran_in: The runtime and precision that `auto` chose.
        first_s: Seconds of the first start, which fills the cache with what earlier configurations did not.
        seconds: Seconds of each further start.
    """

    ran_in: str
    first_s: float
    seconds: list[float]


def start(model: str, runtime: str, precision: str, environment: Mapping[str, str]) -> tuple[float, str]:
    """Return the seconds of a whole process, and the runtime and precision that it used."""
    started = time.perf_counter()
    command = [sys.executable, "-c", _CHILD, model, runtime, precision]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - started, done.stdout.strip()


def measure_first(model: str, ways: Sequence[Way], rounds: int, environment: Mapping[str, str]) -> dict[Way, Starts]:
    """Start each configuration once, then `rounds` times more, in turns.

    Args:
        model: The model's name.
        ways: Runtimes and precisions.
        rounds: The number of measured starts.
        environment: The environment of the processes, which sets the cache's location.
    """
    found: dict[Way, Starts] = {}
    for number in range(rounds + 1):
        for way in ways:
            seconds, ran_in = start(model, way[0], way[1], environment)
            click.echo(f"start {number}, {' '.join(way)}: {seconds:.1f} s", err=True)
            if number:
                found[way].seconds.append(seconds)
            else:
                found[way] = Starts(ran_in, seconds, [])
    return found


def first_table(found: Mapping[Way, Starts]) -> list[str]:
    """Return the lines of the table."""
    lines = ["| way | ran in | first text and image vector, s (median) | fastest, s |", "|---|---|---|---|"]
    for way, starts in found.items():
        middle, least = statistics.median(starts.seconds), min(starts.seconds)
        lines.append(f"| {' '.join(way)} | {starts.ran_in} | {middle:.2f} | {least:.2f} |")
    return lines


@click.command()
@click.argument("architecture", default="ViT-B-32")
@click.option("--rounds", default=5, show_default=True)
@click.option("--way", "chosen", multiple=True, metavar="RUNTIME:PRECISION", help="Only this way; may be repeated.")
def main(architecture: str, rounds: int, chosen: tuple[str, ...]) -> None:
    """Measure and print."""
    ways: Sequence[Way] = [tuple(way.split(":")) for way in chosen] or WAYS
    with tempfile.TemporaryDirectory() as home:
        model = f"{architecture}::{write_weights(architecture, Path(home) / 'weights.safetensors')}"
        environment = {**os.environ, "CLIPMILL_CACHE": str(Path(home) / "cache")}
        click.echo("\n".join(first_table(measure_first(model, ways, rounds, environment))))


if __name__ == "__main__":
    main()
