"""The networks: one loader for each family of models.

- `open_clip`, `open_clip_build`: every architecture of open_clip, with weights that are published or from a file or
  repository; `open_clip_names`: what is used of open_clip
- `hugging_face`, `hugging_face_build`: models of transformers, from a directory or a repository
- `cn_clip`, `cn_clip_build`: Chinese-CLIP's RN50, from its authors' file
- `clap`, `clap_build`: `ClapModel`s of transformers, for audio and texts
- `jina_clip_build`: jina-clip-v2, which `hugging_face` finds; `jina_clip_image`, `jina_clip_text`: its towers
- `mclip`, `mclip_build`: M-CLIP's multilingual text towers, with an image tower of open_clip
- `audioclip`, `audioclip_build`: AudioCLIP; `audioclip_audio`: its audio tower; `audioclip_spectrogram`: that tower's
  input
- `weights`: reads weight files and loads them into networks; `torchscript`: reads the tensors of a TorchScript archive
- `scales`: reads the learnt scales and biases of logits; `token_limit`: how many tokens of a text are read
- `exported`: graphs instead of networks, from a directory
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ...errors import SpecError
from ..installed import require_torch
from ..weight_files import description_errors

if TYPE_CHECKING:
    from ..source import ModelSource
    from ..spec import EncoderSpec

_MODULES = {
    "open_clip": "open_clip",
    "hf-hub": "open_clip",
    "demo": "open_clip",
    "hf": "hugging_face",
    "m-clip": "mclip",
    "cn-clip": "cn_clip",
    "audioclip": "audioclip",
    "onnx": "exported",
}
_WITH_GRAPHS = ("demo", "onnx")
"""Families that have graphs, and so run without torch."""


def check_runnable(spec: EncoderSpec) -> None:
    """Check that torch is installed if a spec's model has no graphs, before its files are found or downloaded.

    Raises:
        MissingExtraError: If it is not.
    """
    if spec.ref.family in _MODULES and spec.ref.family not in _WITH_GRAPHS:
        require_torch(f"{spec.model}, which is not a directory of exported graphs (onnx:DIR),")


def find_source(spec: EncoderSpec) -> ModelSource:
    """Find the files and settings of a spec's model, downloading files that are not cached.

    Raises:
        SpecError: If the model is not in the catalog: a custom encoder, or the fake.
        WeightsError: If something is not available.
    """
    if spec.ref.family not in _MODULES:
        raise SpecError(f"{spec.model!r} is not a model of the catalog, so it has no towers that could be exported")
    family = importlib.import_module(f".{_MODULES[spec.ref.family]}", __package__)
    with description_errors(spec.model):
        source: ModelSource = family.find_source(spec)
    return source
