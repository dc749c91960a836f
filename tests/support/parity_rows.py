"""One row for each model: random weights in its published layout, and the vectors that its reference makes of them.

`tests/models/test_parity.py` runs the small rows in every runtime; `tools/parity.py` runs all of them and writes the
table.
Weights are drawn so that a plausible mistake is seen: every row has controls (what the reference gives after such a
mistake), which must miss by far more than the tolerance.
"""

from __future__ import annotations

import dataclasses
import gc
import io
from collections.abc import Callable
from pathlib import Path

import audioclip_reference
import numpy as np
import open_clip
import torch
from open_clip.transform import image_transform
from pictures import encode, photographs
from PIL import Image
from weights import drawn_module, write_safetensors

TOLERANCE = 1e-4
"""Largest relative error of a float32 runtime against the reference."""
VISIBLE = 5e-3
"""Relative error that every control must exceed."""
COSINE = 0.999
"""Smallest cosine of a reduced precision against our own float32."""

TEXTS = ["she smiled, with pain", "a photo of a cat", "ÜBER-straße 日本 🙂", "one word after another " * 40]
SOUNDS = [(audioclip_reference.sound(seed, samples), 44_100) for seed, samples in enumerate((12_001, 9_000, 1_000))]


@dataclasses.dataclass
class Drawn:
    """One model with random weights, on disk, and what its reference gives.

    Attributes:
        model: Name for a spec.
        options: More fields of the spec.
        vectors: (n, dim) float32 by modality, of `inputs(modality)`.
        controls: What the reference gives after a mistake, by modality and the mistake's name.
    """

    model: str
    options: dict[str, str]
    vectors: dict[str, np.ndarray]
    controls: dict[tuple[str, str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: The model.
        reference: What its vectors are compared with.
        draw: Writes weights into a folder and computes the reference's vectors.
        small: Whether `make test` runs it.
        runtimes: Those that can run it.
    """

    name: str
    reference: str
    draw: Callable[[Path], Drawn]
    small: bool = False
    runtimes: tuple[str, ...] = ("torch", "onnx", "openvino")


def inputs(modality: str) -> list:
    """Return what is embedded of a modality."""
    return {"image": images, "text": lambda: TEXTS, "audio": lambda: SOUNDS}[modality]()


def images() -> list[bytes]:
    """Return encoded photographs: JPEG, PNG, and one with an odd crop."""
    pictures = list(photographs().values())
    return [encode(pictures[0], "JPEG", quality=90), encode(pictures[1][:301, :224]), encode(pictures[2][:97, :190])]


def swapped(files: list[bytes]) -> list[bytes]:
    """Return the same pictures with red and blue exchanged."""
    return [encode(np.ascontiguousarray(np.array(Image.open(io.BytesIO(f)).convert("RGB"))[:, :, ::-1])) for f in files]


def open_clip_images(module: torch.nn.Module, files: list[bytes], **transform: object) -> np.ndarray:
    """Return the vectors of encoded images by open_clip itself."""
    size = module.visual.image_size
    prepare = image_transform(size[0] if isinstance(size, tuple) else size, is_train=False, **transform)
    with torch.inference_mode():
        rows = [module.encode_image(prepare(Image.open(io.BytesIO(f)))[None]) for f in files]
    return torch.cat(rows).numpy()


def _open_clip_texts(module: torch.nn.Module, architecture: str) -> np.ndarray:
    tokenizer = open_clip.get_tokenizer(architecture)
    with torch.inference_mode():
        return torch.cat([module.encode_text(tokenizer([text])) for text in TEXTS]).numpy()


def open_clip_row(architecture: str, *, quick_gelu: bool, gain: float = 2.0, small: bool = False) -> Row:
    """Return the row of an architecture of open_clip."""

    def draw(folder: Path) -> Drawn:
        module = drawn_module(architecture, quick_gelu=quick_gelu, gain=gain)
        path = write_safetensors(module, folder / "open_clip_model.safetensors")
        files = images()
        vectors = {"image": open_clip_images(module, files), "text": _open_clip_texts(module, architecture)}
        controls = {
            ("image", "red and blue exchanged"): open_clip_images(module, swapped(files)),
            ("image", "mean and std 0.5"): open_clip_images(module, files, mean=(0.5,) * 3, std=(0.5,) * 3),
        }
        for block in module.transformer.resblocks:
            block.mlp.gelu = torch.nn.GELU() if quick_gelu else open_clip.model.QuickGELU()
        controls["text", "the other activation"] = _open_clip_texts(module, architecture)
        del module
        gc.collect()
        suffix = "-quickgelu" if quick_gelu else ""
        return Drawn(f"{architecture}{suffix}::{path}", {}, vectors, controls)

    return Row(architecture, f"open_clip {open_clip.__version__}", draw, small)


ROWS = [
    open_clip_row("RN50", quick_gelu=True, small=True),
    open_clip_row("RN101", quick_gelu=True),
    open_clip_row("RN50x4", quick_gelu=True),
    open_clip_row("RN50x16", quick_gelu=True),
    open_clip_row("RN50x64", quick_gelu=True),
    open_clip_row("ViT-B-32", quick_gelu=True, small=True),
    open_clip_row("ViT-B-16", quick_gelu=True),
    open_clip_row("ViT-B-16-plus-240", quick_gelu=False),
    open_clip_row("ViT-L-14", quick_gelu=True),
    open_clip_row("ViT-L-14-336", quick_gelu=True),
    open_clip_row("ViT-H-14", quick_gelu=False),
    open_clip_row("ViT-g-14", quick_gelu=False),
]
