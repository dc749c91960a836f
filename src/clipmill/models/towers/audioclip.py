"""AudioCLIP: images, texts and audio in one space (Guzhov et al., "AudioCLIP", ICASSP 2022; weights under MIT)."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...media.audio import require_audio
from ...media.options import AudioFrontend
from ..catalog import ModelRef
from ..downloads import fetch_url, local_file
from ..frontend import Frontend, TextFrontend
from ..source import ModelSource
from ..spec import EncoderSpec
from ..tokenizers.clip_bpe import ClipTokenizer
from .scales import audioclip_scales
from .token_limit import token_limit

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 44_100
CONTEXT_LENGTH = 77
_SCALES = {"reference": 32_768.0, "jina": 1.0}
"""Factors for samples in [-1, 1]: to 16-bit values, as in training, or unchanged, as in Jina's executor."""
_VALUES_PER_SAMPLE = 10.0
"""Values in the first stage, the audio tower's largest: 256 x 86 for every four frames of 561 samples."""
_RELEASE = "https://github.com/AndreyGuzhov/AudioCLIP/releases/download/v0.1/"


@dataclasses.dataclass(frozen=True, slots=True)
class PublishedWeights:
    """A published file of weights.

    Attributes:
        filename: Its name, in the release and on disk.
        sha256: The hash of its bytes.
    """

    filename: str
    sha256: str


PUBLISHED = {
    "full": PublishedWeights(
        "AudioCLIP-Full-Training.pt", "2441d35b353352c8b1bbfb8f7c687f46314c3d2909e940eaf763b8c17f632c44"
    ),
    "partial": PublishedWeights(
        "AudioCLIP-Partial-Training.pt", "1921885b6c3b5de0619f2ef4a9700ecbade758a398b34eb064230c30baef0c75"
    ),
}
"""`full`: all three towers trained on audio; `partial`: only the audio tower, on top of OpenAI's RN50."""


def find_source(spec: EncoderSpec) -> ModelSource:
    """Find the weights of AudioCLIP, downloading published ones that are not cached.

    Args:
        spec: Of family `audioclip`; `mode` decides how the audio tower runs.

    Raises:
        MissingExtraError: If the libraries for audio are not installed.
        SpecError: If the limit of tokens exceeds the text tower's context.
        WeightsError: If the weights are not available.
    """
    require_audio()
    weights = _find_weights(spec.ref, spec.cache_dir)
    context = token_limit(spec, CONTEXT_LENGTH, CONTEXT_LENGTH)
    frontend = Frontend(
        spec.facts.dim,
        image=spec.facts.preprocessing,
        text=TextFrontend(ClipTokenizer(context)),
        audio=AudioFrontend(
            SAMPLE_RATE,
            scale=_SCALES[spec.mode],
            from_16_bits=True,
            values_per_sample=_VALUES_PER_SAMPLE,
            float32_graphs=True,
        ),
    )
    return ModelSource(
        frontend,
        (weights,),
        functools.partial(_build, weights, spec.mode),
        settings={"architecture": "AudioCLIP", "mode": spec.mode},
        resolved={"mode": spec.mode},
        scales=functools.partial(audioclip_scales, (weights,)),
    )


def _find_weights(ref: ModelRef, cache_dir: str | None) -> Path:
    if ref.is_file:
        return local_file(ref.weights, cache_dir)
    published = PUBLISHED[ref.weights]
    return fetch_url(_RELEASE + published.filename, sha256=published.sha256, cache_dir=cache_dir)


def _build(weights: Path, mode: str) -> dict[str, torch.nn.Module]:
    from .audioclip_build import build  # imports torch and open_clip, which finding does not need

    towers: dict[str, Any] = build(weights, mode)
    return towers
