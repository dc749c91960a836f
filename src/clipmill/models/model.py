"""What every loaded model offers to the rest: `Model`, and `ClipModel` for those of the catalog."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import WeightsError
from ..failures import Code, RowError, Stage
from ..media.audio import open_sound, waveform_for
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
        payload: What `Model.encode` gets.
        group: Only payloads of one group (and modality) share a call: equal shapes, equal dtypes.
        pixels: Pixels of the image that the model is given; of a sound the values of the model's largest layer, which
            take memory alike.
        length: Tokens of a text whose call costs what its longest has; 0 where all of a group cost the same. Those of
            about one length share a call.
        truncated: Whether a text was cut to the context length.
        media_type: What the content turned out to be.
    """

    payload: Any
    group: Hashable = None
    pixels: int = 0
    length: int = 0
    truncated: bool = False
    media_type: str | None = None


class Model(abc.ABC):
    """A loaded model: how one value is prepared, and how prepared values become vectors.

    `prepare` is called by several threads at once; `encode` by one at a time. Own encoders (`custom:module:factory`)
    are objects of this class or of the same shape; the base `prepare` passes values through.

    Attributes:
        dim: Values in a vector.
        modalities: What can be embedded.
        device: Where it runs: `cpu`, `cuda:0`, …
        resolved: What was decided at load, for the provenance: runtime, precision, device, weights_sha256.
    """

    dim: int
    modalities: frozenset[str]
    device: str = "cpu"
    resolved: dict[str, Any] = {}  # noqa: RUF012 - a default for own encoders, replaced and never changed

    def prepare(self, modality: str, content: Any, spec: EncoderSpec) -> Prepared:
        """Turn one value into what `encode` stacks.

        Raises:
            RowError: If this value cannot be embedded.
        """
        return Prepared(content)

    @abc.abstractmethod
    def encode(self, modality: str, payloads: Sequence[Any]) -> np.ndarray:
        """Embed payloads of one modality and group.

        Returns:
            (n, dim) float32, not normalised, rows in the order of the payloads.

        Raises:
            OutOfMemoryError: If the device is too small for this many; fewer may fit.
        """

    def decoded_pixels(self, content: bytes, spec: EncoderSpec) -> int | None:
        """Return the pixels that `prepare` holds while it decodes an image; None where it decodes all of them."""
        return None

    def learnt_scales(self) -> Mapping[frozenset[str], float]:
        """Return what the model learnt to multiply cosines by, by pair of modalities; an own encoder has none.

        Returns:
            Such as `{frozenset({"text", "image"}): 100.0}`: finite and above 0.
        """
        return {}


def checked_scales(
    found: Mapping[frozenset[str], float], modalities: Collection[str], whose: str
) -> dict[frozenset[str], float]:
    """Return learnt scales as plain numbers.

    Args:
        found: What `Model.learnt_scales` returned, or a manifest says.
        modalities: Those of the model.
        whose: What it is, for messages.

    Raises:
        WeightsError: If a pair is none of the model's, or a scale no finite number above 0.
    """
    for pair, scale in found.items():
        if not isinstance(pair, frozenset) or not 1 <= len(pair) <= 2 or not pair <= frozenset(modalities):
            raise WeightsError(
                f"{whose}: learnt_scales holds {pair!r}; allowed are frozensets of one or two of"
                f" {', '.join(sorted(modalities))}"
            )
        if isinstance(scale, bool) or not isinstance(scale, numbers.Real) or not 0 < scale < math.inf:
            raise WeightsError(
                f"{whose}: the learnt scale of {' and '.join(sorted(pair))} is {scale!r}, no finite number above 0"
            )
    return {pair: float(scale) for pair, scale in found.items()}


class Runtime(Protocol):
    """What executes the towers of a model.

    The entrances of the towers, by name, and what each is given:

    - `image`: (n, S, S, 3) uint8 crops, normalised inside
    - `normalised_image`: (n, 3, S, S) float32
    - `text`: (n, length) int64 ids, and for masked towers a mask of the same shape
    - `audio`: (n, channels, samples) float32

    Attributes:
        name: `torch`, `onnx` or `openvino`.
        precision: What was taken: `fp32`, `bf16`, `fp16` or `int8`.
        device: Where it runs: `cpu` or `cuda:X`.
    """

    name: str
    precision: str
    device: str

    def encode(self, entrance: str, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Run one tower; return (n, dim) float32.

        Raises:
            OutOfMemoryError: If the device is too small for this many rows.
        """
        ...


class ClipModel(Model):
    """A model of the catalog: towers over one space, a frontend before them, a runtime under them."""

    def __init__(
        self,
        frontend: Frontend,
        runtime: Runtime,
        resolved: Mapping[str, Any],
        scales: Callable[[], Mapping[frozenset[str], float]] = dict,
    ) -> None:
        """Put the parts of a model together.

        Args:
            frontend: How values are prepared.
            runtime: What executes the towers.
            resolved: What was found out at load, for the provenance, beside runtime, precision and device.
            scales: Returns `learnt_scales`; called when they are first asked for, and then no more.
        """
        self.dim = frontend.dim
        self.modalities = frontend.modalities
        self.device = runtime.device
        self.resolved = {
            "runtime": runtime.name,
            "precision": runtime.precision,
            "device": runtime.device,
            **resolved,
        }
        self._frontend = frontend
        self._runtime = runtime
        self._scales = functools.cache(scales)

    def decoded_pixels(self, content: bytes, spec: EncoderSpec) -> int | None:
        """Return the pixels that are held while an image is decoded; see `Model.decoded_pixels`."""
        preprocessing = self._frontend.image
        return None if preprocessing is None else decoded_pixels(content, preprocessing, spec)

    def learnt_scales(self) -> Mapping[frozenset[str], float]:
        """Return the scales that the weights hold; see `Model.learnt_scales`.

        Raises:
            WeightsError: If the weights cannot be read again, or hold one that is no scale.
        """
        return dict(self._scales())

    def prepare(self, modality: str, content: Any, spec: EncoderSpec) -> Prepared:
        """Tokenise a text, decode and crop an image (or check one that its owner preprocessed), resample a sound."""
        return {"text": self._prepare_text, "image": self._prepare_image, "audio": self._prepare_audio}[modality](
            content, spec
        )

    def _prepare_image(self, content: Any, spec: EncoderSpec) -> Prepared:
        assert self._frontend.image is not None
        if not spec.preprocess:
            array = normalised_array(content, self._frontend.image.image_size)
            return Prepared(array, group="normalised_image", pixels=array.size // 3)
        crop = image_crop(content, self._frontend.image, spec)
        media_type = sniff_media_type(content[:16]) if isinstance(content, bytes) else None
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
        sound = open_sound(content, max_seconds=spec.max_audio_seconds)
        waves = waveform_for(sound, self._frontend.audio)
        size = round(waves.size * self._frontend.audio.values_per_sample)
        # sounds of unequal length are never padded into each other: it would change their vectors
        return Prepared(waves, group=waves.shape, pixels=size, media_type=sound.media_type)

    def encode(self, modality: str, payloads: Sequence[np.ndarray]) -> np.ndarray:
        """Embed prepared values of one modality and group; see `Model.encode`."""
        if modality == "text":
            assert self._frontend.text is not None
            return self._runtime.encode("text", self._frontend.text.batch(payloads))
        batch = np.stack(payloads)
        if modality == "audio":
            return self._runtime.encode("audio", (batch,))
        return self._runtime.encode("image" if batch.dtype == np.uint8 else "normalised_image", (batch,))
