"""Photographs a second by model, for the page about choosing one (docs/models.md).

    python benchmarks/models.py [--rounds 3] [ARCHITECTURE]...

Each architecture of open_clip has random weights, on which speed does not depend, and runs as `auto` chooses on this
machine. Its rounds alternate with those of ViT-B-32, so that the ratio holds on a busy machine too.
"""

from __future__ import annotations

import copy
import statistics
import sys
import tempfile
import time
from pathlib import Path

import click
import open_clip
import torch
from safetensors.torch import save_file
from workload import photographs
from workplace import machine

from clipmill.encoders import Encoder, load_encoder, unload_all
from clipmill.models.towers.open_clip_build import build_module

SUPPORT = Path(__file__).resolve().parent.parent / "tests" / "support"
REFERENCE = "ViT-B-32"
ARCHITECTURES = (
    *("MobileCLIP2-S0", "MobileCLIP2-S2", "ViT-B-32-256", "ViT-B-16-SigLIP2-256", "ViT-L-14", "EVA02-L-14-336"),
    *("ViT-L-16-SigLIP2-256", "PE-Core-L-14-336", "ViT-SO400M-16-SigLIP2-384", "ViT-H-14-378"),
)


def load(architecture: str, folder: Path) -> Encoder:
    """Write random weights, and a tokenizer if the model has one of a repository; load the encoder."""
    config = copy.deepcopy(open_clip.get_model_config(architecture))
    torch.manual_seed(0)
    module = build_module(config)
    path = folder / f"{architecture}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, str(path))
    del module
    if repository := config["text_cfg"].get("hf_tokenizer_name"):
        sys.path.insert(0, str(SUPPORT))
        import tiny_tokenizers
        from hub_cache import put_repository

        put_repository(folder / "cache", repository, tiny_tokenizers.files_of(tiny_tokenizers.gemma()))
    return load_encoder(f"{architecture}::{path}", cache_dir=str(folder / "cache"), max_cache_bytes=0)


def rate(encoder: Encoder, files: list[bytes]) -> float:
    """Return photographs a second, decoding included."""
    started = time.perf_counter()
    encoder.embed_images(files)
    return len(files) / (time.perf_counter() - started)


@click.command()
@click.argument("architectures", nargs=-1)
@click.option("--rounds", default=3, show_default=True)
def main(architectures: tuple[str, ...], rounds: int) -> None:
    """Print a line of a Markdown table for each architecture."""
    files = photographs(96)
    click.echo(f"{machine()}\n")
    click.echo(f"| model | photographs a second | of those of {REFERENCE} | runs in |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        reference = load(REFERENCE, Path(name))
        rate(reference, files)
        for architecture in architectures or ARCHITECTURES:
            with tempfile.TemporaryDirectory() as own:
                encoder = load(architecture, Path(own))
                few = files[:32]
                rate(encoder, few[:8])
                pairs = [(rate(encoder, few), rate(reference, files)) for _ in range(rounds)]
                ratio = statistics.median(one / other for one, other in pairs)
                runs_in = f"{encoder.resolved['runtime']} {encoder.resolved['precision']}"
                speed = statistics.median(one for one, _ in pairs)
                click.echo(f"| `{architecture}` | {speed:.1f} | {ratio:.2f} | {runs_in} |")
    unload_all()


if __name__ == "__main__":
    main()
