"""What every loaded model offers to the rest: `Model`, and `ClipModel` for those with an image and a text tower."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .catalog.tables import Preprocessing
from .failure import Code, RowError, Stage
from .media.images import open_image, sniff_media_type
from .media.preprocess import crop_image, normalised_array

if TYPE_CHECKING:
    from .spec import EncoderSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """One item, ready to be stacked with others of its group into a micro-batch.

    Attributes:
        payload: What `Model.encode` gets.
        group: Only payloads of one group (and modality) share a call: equal shapes, equal dtypes.
        pixels: Pixels of the source image.
        truncated: Whether a text was cut to the context length.
        media_type: What the content turned out to be.
    """

    payload: Any
    group: Hashable = None
    pixels: int = 0
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


class Tokenizer(Protocol):
    """Turns a text into token ids of the context length."""

    context_length: int

    def __call__(self, text: str) -> tuple[np.ndarray, bool]:
        """Return (context_length,) int64 ids and whether the text was cut."""
        ...


class Runtime(Protocol):
    """What executes the towers of a CLIP model."""

    device: str
    name: str
    precision: str

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """Embed (n, S, S, 3) uint8 crops or (n, 3, S, S) normalised float32; return (n, dim) float32."""
        ...

    def encode_texts(self, tokens: np.ndarray) -> np.ndarray:
        """Embed (n, context_length) int64 ids; return (n, dim) float32."""
        ...


class ClipModel(Model):
    """A model with an image tower and a text tower over one space."""

    def __init__(
        self,
        *,
        dim: int,
        preprocessing: Preprocessing,
        tokenizer: Tokenizer,
        runtime: Runtime,
        weights_sha256: str | None,
    ) -> None:
        """Put the parts of a model together.

        Args:
            dim: Values in a vector.
            preprocessing: How images are prepared.
            tokenizer: How texts are prepared.
            runtime: What executes the towers.
            weights_sha256: Hash of the weights' file, for the provenance.
        """
        self.dim = dim
        self.modalities = frozenset({"text", "image"})
        self.preprocessing = preprocessing
        self.device = runtime.device
        self.resolved = {
            "runtime": runtime.name,
            "precision": runtime.precision,
            "device": runtime.device,
            "weights_sha256": weights_sha256,
        }
        self._tokenizer = tokenizer
        self._runtime = runtime

    def prepare(self, modality: str, content: Any, spec: EncoderSpec) -> Prepared:
        """Tokenise a text, or decode and crop an image (or check one that its owner preprocessed)."""
        if modality == "text":
            return self._prepare_text(content, spec)
        if not spec.preprocess:
            array = normalised_array(content, self.preprocessing.image_size)
            return Prepared(array, group="normalised", pixels=array.size // 3)
        image = open_image(content, max_pixels=spec.max_image_pixels, apply_exif=spec.apply_exif)
        media_type = sniff_media_type(content[:16]) if isinstance(content, bytes) else None
        crop = crop_image(image, self.preprocessing)
        return Prepared(crop, group="crop", pixels=image.width * image.height, media_type=media_type)

    def _prepare_text(self, text: str, spec: EncoderSpec) -> Prepared:
        try:
            tokens, truncated = self._tokenizer(text)
        except UnicodeEncodeError as err:
            raise RowError(Stage.TOKENIZE, Code.UNSUPPORTED, f"the text is not valid Unicode: {err}") from err
        if truncated and spec.on_long_text == "fail":
            raise RowError(
                Stage.TOKENIZE,
                Code.TEXT_TOO_LONG,
                f"the text has more than the {self._tokenizer.context_length} tokens that the model reads"
                " (on_long_text='truncate' cuts it)",
            )
        return Prepared(tokens, group="tokens", truncated=truncated, media_type="text/plain")

    def encode(self, modality: str, payloads: Sequence[np.ndarray]) -> np.ndarray:
        """Embed crops or token ids; see `Model.encode`."""
        batch = np.stack(payloads)
        return self._runtime.encode_texts(batch) if modality == "text" else self._runtime.encode_images(batch)
