"""The interface of loaded models: `Model`, and `ClipModel` for those of the catalog."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import WeightsError
from ..failures import Code, RowError, Stage
from ..media.audio import open_audio, waveform_for
from ..media.crops import decoded_pixels, image_crop
from ..media.images import sniff_media_type
from ..media.preprocess import normalised_array
from ..messages import setting
from .frontend import Frontend

if TYPE_CHECKING:
    from .spec import EncoderSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """One item, ready to be stacked with others of its group into a micro-batch.

    Attributes:
        payload: The input of `Model.encode`.
        group: Only payloads of one group (and modality) share a call: equal shapes, equal dtypes.
        pixels: Pixels of the image that the model gets. For audio, the values in the model's largest layer, which take
            as much memory.
        length: Tokens of a text, if a call costs as much as its longest text: texts of similar length then share a
            call. 0 if all items of a group cost the same.
        truncated: Whether a text was cut to the context length.
        media_type: The detected media type of the content.
    """

    payload: Any
    group: Hashable = None
    pixels: int = 0
    length: int = 0
    truncated: bool = False
    media_type: str | None = None


class Model(abc.ABC):
    """A loaded model, which prepares single values and embeds batches of prepared values.

    `prepare` is called by several threads at once; `encode` by as many at a time as `streams` says. Custom encoders
    (`custom:module:factory`) are subclasses, or objects with the same attributes and methods; the base `prepare`
    passes values through.

    Attributes:
        dim: Values in a vector.
        modalities: The modalities that can be embedded.
        device: The device it runs on: `cpu`, `cuda:0`, …
        streams: Calls of `encode` that may run at once; 1 for custom encoders that do not say otherwise.
        resolved: What was resolved at load, for the provenance: runtime, precision, device, weights_sha256.
    """

    dim: int
    modalities: frozenset[str]
    device: str = "cpu"
    streams: int = 1
    resolved: dict[str, Any] = {}  # noqa: RUF012 - a default for custom encoders, replaced and never mutated

    def prepare(self, modality: str, content: Any, spec: EncoderSpec) -> Prepared:
        """Prepare one value for `encode`.

        Image files come without comments, texts and profiles: see `clipmill.media.containers`.

        Raises:
            RowError: If this value cannot be embedded.
        """
        return Prepared(content)

    @abc.abstractmethod
    def encode(self, modality: str, payloads: Sequence[Any]) -> np.ndarray:
        """Embed payloads of one modality and group.

        Returns:
            (n, dim) float32, not normalised, in the order of the payloads.

        Raises:
            OutOfMemoryError: If this many do not fit into the device's memory; fewer may.
        """

    def decoded_pixels(self, content: bytes, spec: EncoderSpec) -> int | None:
        """Return how many pixels `prepare` holds while it decodes an image; None if it decodes it in full."""
        return None

    def learnt_scales(self) -> Mapping[frozenset[str], float]:
        """Return the learnt scales of cosines, by pair of modalities; custom encoders have none by default.

        Returns:
            For example `{frozenset({"text", "image"}): 100.0}`; finite and above 0.
        """
        return {}

    def learnt_biases(self) -> Mapping[frozenset[str], float]:
        """Return the learnt biases of logits, by pair of modalities, as SigLIP has one; none by default.

        Returns:
            For example `{frozenset({"text", "image"}): -12.9}`; finite.
        """
        return {}


def checked_scales(
    found: Mapping[frozenset[str], float], modalities: Collection[str], whose: str
) -> dict[frozenset[str], float]:
    """Check learnt scales, and return them as plain floats.

    Args:
        found: From `Model.learnt_scales` or a manifest.
        modalities: The model's modalities.
        whose: The model or manifest, for messages.

    Raises:
        WeightsError: If a pair is not of the model's modalities, or a scale is not a finite number above 0.
    """
    _check_pairs(found, modalities, f"{whose}: learnt_scales")
    for pair, scale in found.items():
        if not _is_finite(scale) or scale <= 0:
            raise WeightsError(
                f"{whose}: the learnt scale of {' and '.join(sorted(pair))} is {scale!r}, not a finite number above 0"
            )
    return {pair: float(scale) for pair, scale in found.items()}


def checked_biases(
    found: Mapping[frozenset[str], float], modalities: Collection[str], whose: str
) -> dict[frozenset[str], float]:
    """Check learnt biases, and return them as plain floats; see `checked_scales`.

    Raises:
        WeightsError: If a pair is not of the model's modalities, or a bias is not a finite number.
    """
    _check_pairs(found, modalities, f"{whose}: learnt_biases")
    for pair, bias in found.items():
        if not _is_finite(bias):
            raise WeightsError(
                f"{whose}: the learnt bias of {' and '.join(sorted(pair))} is {bias!r}, not a finite number"
            )
    return {pair: float(bias) for pair, bias in found.items()}


def _check_pairs(found: Collection[frozenset[str]], modalities: Collection[str], what: str) -> None:
    for pair in found:
        if not isinstance(pair, frozenset) or not 1 <= len(pair) <= 2 or not pair <= frozenset(modalities):
            raise WeightsError(
                f"{what} has {pair!r}; allowed are frozensets of one or two of {', '.join(sorted(modalities))}"
            )


def _is_finite(number: Any) -> bool:
    return isinstance(number, numbers.Real) and not isinstance(number, bool) and math.isfinite(number)


class Runtime(Protocol):
    """Executes the towers of a model.

    The model inputs, by name, and their arrays:

    - `image`: (n, S, S, 3) uint8 crops, which the runtime normalises
    - `normalised_image`: (n, 3, S, S) float32
    - `text`: (n, length) int64 ids and, for masked towers, a mask of the same shape
    - `audio`: (n, channels, samples) float32, or (n, windows, frames, bins) of towers that read spectrograms

    Attributes:
        name: `torch`, `onnx` or `openvino`.
        precision: `fp32`, `bf16`, `fp16` or `int8`.
        device: The device it runs on: `cpu` or `cuda:X`.
        streams: Calls that may run at once, from as many threads, on an equal part of the cores each.
        kept: Folders of what was compiled for it, as large as the graphs. A runtime that was only measured leaves them;
            they may be deleted, since a process that does not find them compiles the graphs itself.
    """

    name: str
    precision: str
    device: str
    streams: int

    @property
    def kept(self) -> Sequence[Path]:
        """See above."""
        ...

    def encode(self, model_input: str, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Run the tower of a model input; return (n, dim) float32.

        Raises:
            OutOfMemoryError: If this many rows do not fit into the device's memory.
        """
        ...


class ClipModel(Model):
    """A model of the catalog: a frontend that prepares values, and a runtime that executes the towers."""

    def __init__(
        self,
        frontend: Frontend,
        runtime: Runtime,
        resolved: Mapping[str, Any],
        scales: Callable[[], Mapping[frozenset[str], float]] = dict,
        biases: Callable[[], Mapping[frozenset[str], float]] = dict,
    ) -> None:
        """Create a model from its parts.

        Args:
            frontend: How values are prepared.
            runtime: Executes the towers.
            resolved: Values for the provenance besides runtime, precision and device.
            scales: Returns the learnt scales; called once, when they are first needed.
            biases: Returns the learnt biases; called once, too.
        """
        self.dim = frontend.dim
        self.modalities = frontend.modalities
        self.device = runtime.device
        self.streams = runtime.streams
        self.resolved = {
            "runtime": runtime.name,
            "precision": runtime.precision,
            "device": runtime.device,
            **resolved,
        }
        self._frontend = frontend
        self._runtime = runtime
        self._scales = functools.cache(scales)
        self._biases = functools.cache(biases)

    def close(self) -> None:
        """Release what the runtime holds outside of this process."""
        close = getattr(self._runtime, "close", None)
        if close is not None:
            close()

    def decoded_pixels(self, content: bytes, spec: EncoderSpec) -> int | None:
        """Return how many pixels are held while an image is decoded; see `Model.decoded_pixels`."""
        preprocessing = self._frontend.image
        return None if preprocessing is None else decoded_pixels(content, preprocessing, spec)

    def learnt_scales(self) -> Mapping[frozenset[str], float]:
        """Return the scales in the weights; see `Model.learnt_scales`.

        Raises:
            WeightsError: If the weights cannot be read again, or have an invalid scale.
        """
        return dict(self._scales())

    def learnt_biases(self) -> Mapping[frozenset[str], float]:
        """Return the biases in the weights, as `learnt_scales` does."""
        return dict(self._biases())

    def prepare(self, modality: str, content: Any, spec: EncoderSpec) -> Prepared:
        """Tokenise a text, decode and crop an image (or check a preprocessed one), or decode and resample audio."""
        return {"text": self._prepare_text, "image": self._prepare_image, "audio": self._prepare_audio}[modality](
            content, spec
        )

    def _prepare_image(self, content: Any, spec: EncoderSpec) -> Prepared:
        assert self._frontend.image is not None
        if not spec.preprocess:
            array = normalised_array(content, self._frontend.image.image_size)
            return Prepared(array, group="normalised_image", pixels=array.size // 3)
        crop = image_crop(content, self._frontend.image, spec)
        media_type = sniff_media_type(content) if isinstance(content, bytes) else None
        return Prepared(crop, group="image", pixels=crop.shape[0] * crop.shape[1], media_type=media_type)

    def _prepare_text(self, text: str, spec: EncoderSpec) -> Prepared:
        assert self._frontend.text is not None
        tokenizer = self._frontend.text.tokenizer
        try:
            tokens, truncated = tokenizer(text)
        except UnicodeEncodeError as err:
            raise RowError(Stage.TOKENIZE, Code.UNSUPPORTED, f"the text is not valid Unicode: {err}") from err
        if truncated and spec.on_long_text == "fail":
            raise RowError(
                Stage.TOKENIZE,
                Code.TEXT_TOO_LONG,
                f"the text has more than the {len(tokens)} tokens that the model reads ("
                + setting("on_long_text", "truncate")
                + " cuts it)",
            )
        length = 0 if self._frontend.text.fixed_length else len(tokens)
        return Prepared(tokens, group="text", length=length, truncated=truncated, media_type="text/plain")

    def _prepare_audio(self, content: Any, spec: EncoderSpec) -> Prepared:
        assert self._frontend.audio is not None
        audio = open_audio(content, max_seconds=spec.max_audio_seconds)
        waves = waveform_for(audio, self._frontend.audio)
        size = round(waves.size * self._frontend.audio.values_per_sample)
        # clips of unequal length are never padded to share a call: it would change their vectors
        return Prepared(waves, group=waves.shape, pixels=size, media_type=audio.media_type)

    def encode(self, modality: str, payloads: Sequence[np.ndarray]) -> np.ndarray:
        """Embed prepared values of one modality and group; see `Model.encode`."""
        if modality == "text":
            assert self._frontend.text is not None
            return self._runtime.encode("text", self._frontend.text.batch(payloads))
        batch = np.stack(payloads)
        if modality == "audio":
            return self._runtime.encode("audio", (batch,))
        return self._runtime.encode("image" if batch.dtype == np.uint8 else "normalised_image", (batch,))
