"""The networks: one loader for each family of models.

- `open_clip`, `open_clip_build`: every architecture of open_clip, with published weights, a file, or a repository's
- `hugging_face`, `hugging_face_build`: `CLIPModel`s of transformers, from a directory or a repository
- `mclip`, `mclip_build`: M-CLIP's multilingual text towers, beside an image tower of open_clip
- `weights`: how weight files are read and fitted
- `scales`: what cosines are multiplied by
- `exported`: no networks but their graphs, from a directory
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ...errors import SpecError

if TYPE_CHECKING:
    from ..source import ModelSource
    from ..spec import EncoderSpec

_MODULES = {
    "open_clip": "open_clip",
    "hf-hub": "open_clip",
    "demo": "open_clip",
    "hf": "hugging_face",
    "m-clip": "mclip",
    "audioclip": "audioclip",
    "onnx": "exported",
}


def find_source(spec: EncoderSpec) -> ModelSource:
    """Find everything that makes the model of a spec, downloading what is not here yet.

    Raises:
        SpecError: If the model is none of the catalog: an encoder of one's own, or the fake.
        WeightsError: If something cannot be had.
    """
    if spec.ref.family not in _MODULES:
        raise SpecError(
            f"{spec.model!r} brings code of its own and has no towers of the catalog: there is nothing to export"
        )
    family = importlib.import_module(f".{_MODULES[spec.ref.family]}", __package__)
    return family.find_source(spec)
