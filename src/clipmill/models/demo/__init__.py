"""The small CLIP model inside the package.

`open_clip_config.json` and `open_clip_model.safetensors` are the model, as in any model directory of open_clip.
`examples/train_demo.py` trained the weights; `docs/demo.md` has the figures. The other files are the same model as
`clipmill export` writes it, so that it runs without torch: graphs, which read the weights' file too, and CLIP's table
of merges. `tools/make_demo_graphs.py` wrote them.
"""

from __future__ import annotations

import functools
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

from ...files.cache import cache_root
from ..downloads.copies import only_one, part_of, publish

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
"""OpenAI's table of merges, of every CLIP; its licence stands beside it."""


def demo_config() -> dict[str, Any]:
    """Return the configuration of the model."""
    return json.loads((resources.files(__name__) / CONFIG).read_text(encoding="utf-8"))


@functools.cache
def demo_directory(cache_dir: str | None = None) -> Path:
    """Return the directory of the model: inside the package, or in the cache if the package is a zip archive.

    Engines send such archives to their workers (`--py-files` of Spark), and weights are read from files only.

    Raises:
        WeightsError: If the cache cannot be written.
    """
    inside = resources.files(__name__)
    if isinstance(inside, Path):
        return inside
    files = sorted((file for file in inside.iterdir() if not file.name.startswith("__")), key=lambda file: file.name)
    contents = {file.name: file.read_bytes() for file in files}
    digest = hashlib.sha256(b"".join(contents.values())).hexdigest()[:16]
    directory = cache_root(cache_dir) / "demo" / digest
    for name, content in contents.items():
        with only_one(directory / name):
            if not (directory / name).exists():
                part_of(directory / name).write_bytes(content)
                publish(part_of(directory / name), directory / name)
    return directory
