"""Memory that loading a model needs, compared with the size of its weights.

    python benchmarks/load_memory.py [ARCHITECTURE]

Writes random weights in the published layout (safetensors, float32), loads them in a separate process, and prints the
peak memory while loading, above what the process held with everything imported. Memory-mapped pages of the file count,
because they are part of the process's resident set.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import click
from workload import write_weights

_CHILD = """
import resource, sys, threading, time
from pathlib import Path
import open_clip, torch
from clipmill import load_encoder

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

peak, done = resident(), False
def watch():
    global peak
    while not done:
        peak = max(peak, resident())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
before = resident()
watcher.start()
started = time.perf_counter()
encoder = load_encoder(sys.argv[1], device="cpu", runtime="torch", precision="fp32")
loaded = time.perf_counter() - started
loading = peak
encoder.embed_texts(["a photo of a cat"])
encoder.embed_images([__import__("numpy").zeros((224, 224, 3), "uint8")])
done = True
watcher.join()
print(before, loading, peak, loaded)
"""


@click.command()
@click.argument("architecture", default="ViT-L-14")
def main(architecture: str) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as home:
        weights = write_weights(architecture, Path(home) / "weights.safetensors")
        size = weights.stat().st_size
        command = [sys.executable, "-c", _CHILD, f"{architecture}::{weights}"]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    before, loading, embedding, seconds = map(float, printed.split())
    click.echo(f"{architecture}: weights {size / 2**20:,.0f} MiB, loaded in {seconds:.1f} s")
    for name, peak in (("loading", loading), ("loading, then one text and one image", embedding)):
        click.echo(f"  {name}: +{(peak - before) / 2**20:,.0f} MiB = {(peak - before) / size:.2f} x the weights")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
