"""Read size, context and audio settings of a `ClapModel` (LAION's CLAP) from its files, without transformers."""

from __future__ import annotations

import math
from typing import Any, Self

from ...errors import WeightsError
from ...media.audio import MAX_RATE, MIN_RATE
from ...media.mel import PADDINGS, MelSpectrogram
from ...media.options import AudioFrontend
from .file_config import FileConfig

MODEL_TYPE = "clap"
_EXTRACTOR = "ClapFeatureExtractor"
_UNFUSED = "laion/clap-htsat-unfused, laion/larger_clap_general and laion/larger_clap_music_and_speech load"
_VALUES_PER_INPUT = 25.0
"""Values in the first stage's wide layer, the audio tower's largest: 4 x 96 for 16 values of a 256 x 256 image."""


class ClapConfig(FileConfig):
    """A `config.json` of a `ClapModel`."""

    @property
    def dim(self) -> int:
        """Values in a vector."""
        return self.whole(self.values, "projection_dim", 512)

    @property
    def pad_id(self) -> int:
        """The id that pads texts; positions are counted from the next number."""
        return self.padding(1)

    @property
    def context_length(self) -> int:
        """The most tokens of a text."""
        return self.positions(514, skipped=self.pad_id + 1)

    @property
    def mel_bins(self) -> int:
        """Mel bins that the audio tower reads."""
        return self.whole(self.part("audio_config"), "num_mel_bins", 64)

    @property
    def max_frames(self) -> int:
        """The most frames that the audio tower reads: it cuts them into parts, side by side in a square image."""
        side = self.whole(self.part("audio_config"), "spec_size", 256)
        return side * (side // self.mel_bins)

    def checked(self) -> Self:
        """Return the configuration; raise `WeightsError` for a fused model, whose vectors depend on chance."""
        if self.part("audio_config").get("enable_fusion", False):
            raise WeightsError(
                f"{self.where} has enable_fusion=true: such a model reads three cuts of a clip at random places, so its"
                " vectors are not reproducible",
                hint=f"take an unfused one: {_UNFUSED}",
            )
        return self


def read_frontend(place: str, config: ClapConfig, cache_dir: str | None = None) -> AudioFrontend:
    """Read how a place's feature extractor prepares audio.

    Args:
        place: The model's directory or repository.
        config: The configuration whose audio tower must accept the spectrograms.
        cache_dir: Folder for copies of a repository's files.

    Raises:
        WeightsError: If there is no feature extractor, or it has settings that are not supported.
    """
    from ..downloads.model_files import PROCESSOR_FILES, find_processor

    found = find_processor(place, "feature_extractor", cache_dir)
    if found is None:
        raise WeightsError(f"no feature extractor in {place!r}: looked for {' and '.join(PROCESSOR_FILES)}")
    values, path = found
    return _Extractor(values, str(path)).frontend(config)


class _Extractor(FileConfig):
    """The settings of a feature extractor. Absent ones have the default of transformers' class."""

    def frontend(self, config: ClapConfig) -> AudioFrontend:
        self._expect("feature_extractor_type", _EXTRACTOR, _EXTRACTOR)
        self._expect("truncation", "fusion", "rand_trunc")
        self._expect("top_db", None, None)
        self._expect("padding_value", 0, 0)
        rate = self.whole(self.values, "sampling_rate", 48_000)
        if not MIN_RATE <= rate <= MAX_RATE:
            raise self._refusal("sampling_rate", rate, f"{MIN_RATE:,} to {MAX_RATE:,} Hz")
        padding = self.values.get("padding", PADDINGS[0])
        if padding not in PADDINGS:
            raise self._refusal("padding", padding, ", ".join(PADDINGS))
        low, high = self._frequency("frequency_min", 0), self._frequency("frequency_max", 14_000)
        if not low < high <= rate / 2:
            allowed = f"above frequency_min ({low:g}) and at most {rate / 2:g}, half of sampling_rate"
            raise self._refusal("frequency_max", high, allowed)
        given = {
            "window_samples": self.whole(self.values, "max_length_s", 10) * rate,
            "bins": self.whole(self.values, "feature_size", 64),
            "fft": self.whole(self.values, "fft_window_size", 1024),
            "hop": self.whole(self.values, "hop_length", 480),
        }
        try:
            mel = MelSpectrogram(**given, low=low, high=high, padding=padding)
        except ValueError as err:
            names = "max_length_s, feature_size, fft_window_size or hop_length"
            raise WeightsError(f"{self.where!r} has values of {names} that are not supported: {err}") from err
        self._check(mel, config)
        return AudioFrontend(rate, values_per_sample=_VALUES_PER_INPUT, mel=mel)

    def _check(self, mel: MelSpectrogram, config: ClapConfig) -> None:
        if mel.bins != config.mel_bins:
            raise self._refusal("feature_size", mel.bins, f"{config.mel_bins}, the num_mel_bins of config.json")
        if mel.frames > config.max_frames:
            raise self._refusal("hop_length", mel.hop, f"one that makes at most {config.max_frames} frames")

    def _expect(self, name: str, default: Any, allowed: Any) -> None:
        if (value := self.values.get(name, default)) != allowed:
            raise self._refusal(name, value, repr(allowed))

    def _frequency(self, name: str, default: float) -> float:
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise self._refusal(name, value, "a number of at least 0, in Hz")
        return float(value)

    def _refusal(self, name: str, value: Any, allowed: str) -> WeightsError:
        return WeightsError(f"{self.where!r} has {name}={value!r}, which is not supported; allowed: {allowed}")
