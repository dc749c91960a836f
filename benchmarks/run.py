"""`make bench`: speed as ratios of interleaved rounds, and memory as the job grows.

    python benchmarks/run.py [--quick] [--output DIR]

Prints a Markdown table and writes it, with the raw figures as JSON, to the output directory.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from contenders import ARCHITECTURE, Contender, core, on_beam, on_spark, plain_open_clip, spark_session
from memory import embed_command, peak_rss
from ranking import CANDIDATES, DISTINCT, measure_rank_memory, measure_ranking, ranking_table
from workload import photographs, write_drawings, write_weights

from clipmill.encoders import EncoderSpec
from clipmill.encoders.threads import allowed_cpus
from clipmill.pipelines.doctor import examine


def processor() -> str:
    """Return the processor's name."""
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.processor()


def measure_speed(images: int, rounds: int, home: Path) -> dict[str, list[float]]:
    """Return seconds by contender, one for each round; the contenders take turns."""
    files = photographs(images)
    weights = write_weights(ARCHITECTURE, home / "weights.safetensors")
    options: dict[str, Any] = {"device": "cpu", "runtime": "torch", "precision": "fp32"}
    # without the cache: every round brings the same pictures again
    spec = EncoderSpec(f"{ARCHITECTURE}::{weights}", **options, max_cache_bytes=0)
    seconds: dict[str, list[float]] = {}
    with spark_session() as spark:
        contenders: dict[str, Contender] = {
            "open_clip loop": plain_open_clip(files, weights),
            "core": core(files, spec),
            "Beam": on_beam(files, spec, home),
            "Spark": on_spark(files, spec, spark, home),
        }
        for number in range(rounds + 1):
            for name, run in contenders.items():
                took = run()
                click.echo(f"round {number}: {name} {images / took:.1f} images/s", err=True)
                if number:  # the first round warms up
                    seconds.setdefault(name, []).append(took)
    return seconds


def measure_memory(few: int, many: int, home: Path) -> dict[str, dict[str, float]]:
    """Return peak bytes and seconds of `clipmill embed` by engine and number of images."""
    found: dict[str, dict[str, float]] = {}
    for count in (few, many):
        write_drawings(home / f"drawings-{count}", count)
    for engine in ("beam", "spark"):
        for count in (few, many):
            peak, took = peak_rss(embed_command(home / f"drawings-{count}", home / "vectors", engine))
            click.echo(f"{engine}, {count} images: {peak / 2**20:.0f} MiB, {took:.1f} s", err=True)
            found[f"{engine}, {count:,} images"] = {"peak_bytes": peak, "seconds": took, "images": count}
    return found


def speed_table(seconds: dict[str, list[float]], images: int) -> list[str]:
    """Return the lines of the speed table: medians of rates, and medians of each round's ratio."""
    lines = ["| way | images/s | against the open_clip loop | against the core |", "|---|---|---|---|"]
    for name, times in seconds.items():
        ratios = []
        for base in ("open_clip loop", "core"):
            ratios.append(statistics.median(b / t for b, t in zip(seconds[base], times, strict=True)))
        lines.append(f"| {name} | {images / statistics.median(times):.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    return lines


def memory_table(found: dict[str, dict[str, float]]) -> list[str]:
    """Return the lines of the memory table, with the ratio to the smaller job on the same engine."""
    lines = ["| job | peak RSS | against the small job | whole command |", "|---|---|---|---|"]
    small: dict[str, float] = {}
    for name, figures in found.items():
        base = small.setdefault(name.partition(",")[0], figures["peak_bytes"])
        peak = figures["peak_bytes"]
        lines.append(f"| {name} | {peak / 2**20:,.0f} MiB | {peak / base:.2f} | {figures['seconds']:.1f} s |")
    return lines


def rank(quick: bool, home: Path, raw: dict[str, Any]) -> list[str]:
    """Measure ranking, put the figures into `raw`, and return the tables' lines."""
    lines = []
    sizes = {"queries": 200, "sample": 20, "distinct": 1_000} if quick else {"queries": 1_000, "distinct": DISTINCT}
    raw["rank"] = {}
    for name, weights in {"demo": None, ARCHITECTURE: home / "weights.safetensors"}.items():
        if weights is None:
            found = measure_ranking(name, None, home, **{"sample": 200, **sizes}, rounds=1 if quick else 3)
        elif quick:
            continue
        else:
            write_weights(ARCHITECTURE, weights)
            found = measure_ranking(f"{name}::{weights}", weights, home, **sizes, sample=10, rounds=2)
        raw["rank"][name] = found
        heading = f"{name}, {sizes['queries']:,} pictures with {CANDIDATES} texts each out of {sizes['distinct']:,}:"
        lines += [heading, "", *ranking_table(found), ""]
    raw["rank memory"] = measure_rank_memory(100 if quick else 1_000, home)
    heading = "`clipmill rank` with the demo model, all processes together:"
    return [*lines, heading, "", *memory_table(raw["rank memory"])]


@click.command()
@click.option("--quick", is_flag=True, help="Under 5 minutes: fewer images and rounds.")
@click.option("--only", type=click.Choice(["speed", "memory", "rank"]), help="One part alone.")
@click.option("--output", default="bench-output", show_default=True, help="Where the table and the figures go.")
def main(quick: bool, only: str | None, output: str) -> None:
    """Measure, print, write."""
    images, rounds = (96, 2) if quick else (320, 5)
    few, many = (500, 2_000) if quick else (2_000, 20_000)
    machine = f"{processor()}, {allowed_cpus()} cores allowed, Python {platform.python_version()}"
    lines, raw = [f"Machine: {machine}", ""], {"machine": examine(), "processor": processor()}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        if only in (None, "speed"):
            raw["speed"] = measure_speed(images, rounds, home)
            heading = f"{ARCHITECTURE}, float32, {images} photographs of 480-900 px, median of {rounds} rounds:"
            lines += [heading, "", *speed_table(raw["speed"], images), ""]
        if only in (None, "memory"):
            raw["memory"] = measure_memory(few, many, home)
            heading = "`clipmill embed` with the demo model, all processes together:"
            lines += [heading, "", *memory_table(raw["memory"]), ""]
        if only in (None, "rank"):
            lines += rank(quick, home, raw)
    target = Path(output)
    target.mkdir(parents=True, exist_ok=True)
    (target / "benchmarks.json").write_text(json.dumps(raw, indent=1))
    (target / "benchmarks.md").write_text("\n".join(lines) + "\n")
    click.echo("\n".join(lines))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
