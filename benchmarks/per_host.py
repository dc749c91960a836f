"""Memory and rate of several workers on one host: each with its own copy of the weights, and with one for all.

    python benchmarks/per_host.py [RUNTIME …]

Workers are processes as an engine starts them, with random weights in the published layout, and embed photos (JPEG).
Memory is the proportional set size (PSS: pages of several processes count once in all) of the workers and the encoder
process, after both towers have worked. Both ways take turns, so that a busy minute affects both.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from turns import Contender, ratio, take_turns

from clipmill.threads import allowed_cpus

COUNTS = (1, 2, 4)
"""Numbers of workers whose memory is measured."""

_WORKER = """
import json, pickle, sys
from pathlib import Path
from clipmill import load_encoder
from clipmill.threads import CpuShare

def pss(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))

given = json.loads(sys.argv[1])
photos = pickle.loads(Path(given.pop("photos")).read_bytes())
cpus = CpuShare(*given.pop("cpus"))
where = given["encoder_process"]
if where == "none":
    given = {"model": "fake::dim=512"}
    import cykooz_resizer, simplejpeg
encoder = load_encoder(**given, device="cpu", max_cache_bytes=0, cpus=cpus)
runtime = getattr(encoder._loaded.model, "_runtime", None)
encoder.embed_texts(["a photo of a cat"] * 32)
encoder.embed_images(photos)
print(getattr(runtime, "pid", None) or 0, flush=True)
for line in sys.stdin:
    if line == "pss\\n":
        pid = int(sys.stdin.readline())
        print(json.dumps([pss("self"), pss(pid) if pid else 0]), flush=True)
    else:
        encoder.embed_images(photos)
        print("done", flush=True)
"""


class Workers:
    """Processes of one way."""

    def __init__(self, count: int, options: dict) -> None:
        """Start them, and wait until they have embedded once."""
        self.count = count
        options = {**options, "cpus": [max(1, allowed_cpus() // count), count]}
        command = [sys.executable, "-c", _WORKER, json.dumps(options)]
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
        ]
        self._pid = max(int(self._read(process)) for process in self._processes)

    def pss(self) -> tuple[int, int]:
        """Return the memory of the workers, and of the encoder process, in bytes."""
        self._tell(f"pss\n{self._pid}\n")
        found = [json.loads(self._read(process)) for process in self._processes]
        return sum(own for own, _ in found), found[0][1]

    def embed(self) -> None:
        """Embed the photos in all of them at once."""
        self._tell("embed\n")
        for process in self._processes:
            self._read(process)

    def close(self) -> None:
        """End them."""
        for process in self._processes:
            process.stdin.close()
            process.wait()
            process.stdout.close()
        if self._pid:  # it would wait for other workers, and share pages with the next ones
            os.kill(self._pid, signal.SIGKILL)

    def _tell(self, text: str) -> None:
        for process in self._processes:
            process.stdin.write(text)
            process.stdin.flush()

    def _read(self, process: subprocess.Popen[str]) -> str:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with {process.wait()}")
        return line


@click.command()
@click.argument("runtimes", nargs=-1, type=click.Choice(["torch", "onnx", "openvino"]))
@click.option("--architecture", default="ViT-B-32")
@click.option("--rows", default=32, help="Photos of each worker and round.")
@click.option("--rounds", default=7)
@click.option("--workers", default=4, help="Workers whose rate is measured.")
def main(runtimes: tuple[str, ...], architecture: str, rows: int, rounds: int, workers: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as home:
        weights, photos = Path(home) / "weights.safetensors", Path(home) / "photos"
        # in a process of its own: libraries that this one has loaded would count less in the workers
        preparing = multiprocessing.get_context("spawn").Process(
            target=_prepare, args=(architecture, rows, weights, photos)
        )
        preparing.start()
        preparing.join()
        common = {"model": f"{architecture}::{weights}", "precision": "fp32", "cache_dir": home, "photos": str(photos)}
        click.echo(f"{architecture}, weights of {weights.stat().st_size / 1e6:,.0f} MB, {allowed_cpus()} cores\n")
        click.echo("| runtime | workers | own copies, MB | one copy, MB | of it the encoder process | of the bound |")
        click.echo("|---|---|---|---|---|---|")
        bare = {count: _pss(count, {**common, "encoder_process": "none"})[0] for count in COUNTS}
        rates = []
        for runtime in runtimes or ("torch", "onnx", "openvino"):
            rates.append(_measure(runtime, {**common, "runtime": runtime}, bare, rows, rounds, workers))
        without = ", ".join(f"{count}: {nbytes / 1e6:,.0f} MB" for count, nbytes in bare.items())
        click.echo(f"\nThe bound is one worker with its own copy, and all workers without a model ({without}).")
        click.echo(f"\nRate of {workers} workers, median of {rounds} rounds:\n")
        for line in rates:
            click.echo(line)


def _prepare(architecture: str, rows: int, weights: Path, photos: Path) -> None:
    from workload import photographs, write_weights

    write_weights(architecture, weights)
    photos.write_bytes(pickle.dumps(photographs(rows)))


def _measure(runtime: str, options: dict, bare: dict[int, int], rows: int, rounds: int, workers: int) -> str:
    alone = 0
    for count in COUNTS:  # makes and compiles graphs, also for one thread, which takes more memory
        Workers(count, {**options, "encoder_process": "off"}).close()
    for count in COUNTS:
        own = _pss(count, {**options, "encoder_process": "off"})[0]
        alone = alone or own
        shared, process = _pss(count, {**options, "encoder_process": "per_host"})
        numbers = " | ".join(f"{cell / 1e6:,.0f}" for cell in (own, shared + process, process))
        click.echo(f"| {runtime} | {count} | {numbers} | {(shared + process) / (alone + bare[count]):.2f} |")
    groups = {where: Workers(workers, {**options, "encoder_process": where}) for where in ("off", "per_host")}
    contenders = [Contender(where, rows * workers, group.embed) for where, group in groups.items()]
    rates = take_turns(contenders, rounds)
    for group in groups.values():
        group.close()
    medians = {where: statistics.median(values) for where, values in rates.items()}
    return (
        f"{runtime}: own copies {medians['off']:.1f} images/s, one copy {medians['per_host']:.1f}; "
        f"ratio of the rounds {ratio(rates, 'per_host', 'off'):.2f}"
    )


def _pss(count: int, options: dict) -> tuple[int, int]:
    """Return the memory of some workers, and of the encoder process."""
    group = Workers(count, options)
    found = group.pss()
    group.close()
    return found


if __name__ == "__main__":
    main()
