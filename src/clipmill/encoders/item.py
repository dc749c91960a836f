"""`Item`: one value to embed, whatever its source, and the conversion of column values to items."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ..failures import Code, RowError, Stage
from ..media.audio import Waveform

AUDIO_SAMPLES = ("waveform", "array")
AUDIO_RATES = ("sampling_rate", "sample_rate")
AUDIO_FIELDS = frozenset({*AUDIO_SAMPLES, *AUDIO_RATES, "bytes", "path"})
"""Fields of an audio struct. Hugging Face datasets have `array`, `sampling_rate`, `path` and `bytes`."""
SPARK_IMAGE_FIELDS = frozenset({"height", "width", "nChannels", "data"})
"""Fields of Spark's image struct that are read."""
FILE_FIELDS = frozenset({"bytes", "path"})
"""Fields of a struct with a file's content or its path."""


@dataclasses.dataclass(frozen=True, slots=True)
class Uri:
    """A URI from which content is fetched.

    Attributes:
        uri: A path or URI.
        trusted: Whether the job's own reader listed it, so that it may be a local file. Untrusted data cannot set this.
    """

    uri: str
    trusted: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One value to embed.

    Attributes:
        modality: The modality to embed it as. With `auto`, as for documents, the content determines it.
        content: Text, encoded bytes, an array, a Pillow image, a `Waveform` or a `Uri`. A precomputed `Vector` is
            passed through. None is null and gives a null vector.
        media_type: The declared media type, such as `image/png`. With `auto`, `text/…` makes bytes a text, and
            `audio/…` makes bytes audio unless they look like an image. Otherwise it has no effect.
        failure: Set if the value could not be read. The item is passed through as this failure.
    """

    modality: Literal["text", "image", "audio", "auto"]
    content: Any = None
    media_type: str | None = None
    failure: RowError | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the content in memory; 0 for a URI, which is not fetched yet."""
        content = self.content
        if isinstance(content, bytes | bytearray | str):
            return len(content)
        return int(getattr(content, "nbytes", 0))


def item_of_value(modality: Literal["text", "image", "audio"], value: Any) -> Item:
    """Convert a column's value to an item.

    Args:
        modality: The column's modality.
        value: For `text` a string. For `image` and `audio` encoded bytes, a URI as a string or `Uri`, or a struct with
            `bytes` and `path` as in Hugging Face datasets. For `image` also an array, a Pillow image or Spark's image
            struct. For `audio` also a pair (waveform, sample rate), or a struct of both (`waveform` or `array`,
            `sampling_rate` or `sample_rate`). None is null. A `RowError` is a value that could not be read.

    Returns:
        The item. A value of another type becomes an item with the failure `unsupported`.
    """
    if isinstance(value, RowError):
        return Item(modality, failure=value)
    try:
        return Item(modality, _content_of_value(modality, value))
    except RowError as err:
        return Item(modality, failure=err)


def _content_of_value(modality: str, value: Any) -> Any:
    if value is None:
        return None
    if modality == "text":
        if isinstance(value, str):
            return value
        raise RowError(Stage.READ, Code.UNSUPPORTED, f"a text column holds strings, got {type(value).__name__}")
    if isinstance(value, str):
        return Uri(value)
    if isinstance(value, Mapping):
        return _content_of_audio_struct(value) if modality == "audio" else _content_of_struct(value)
    if modality == "audio" and isinstance(value, tuple | list | np.ndarray):
        return _waveform_of(value)
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


def _content_of_struct(struct: Mapping[str, Any]) -> Any:
    if struct.keys() >= SPARK_IMAGE_FIELDS:
        # all fields are null: an outer join without a match
        return None if all(value is None for value in struct.values()) else array_of_spark_image(struct)
    if struct.keys() <= FILE_FIELDS and struct:
        return _content_of_file(struct)
    raise RowError(
        Stage.READ,
        Code.UNSUPPORTED,
        f"an image struct is Spark's (height, width, nChannels, mode, data) or (bytes, path), got {sorted(struct)}",
    )


def _content_of_file(struct: Mapping[str, Any]) -> Any:
    """Return a struct's bytes, or else its path as a URI."""
    data, path = struct.get("bytes"), struct.get("path")
    if data is not None:
        return bytes(data) if isinstance(data, bytearray | memoryview) else data
    if path is not None and not isinstance(path, str):
        raise RowError(Stage.READ, Code.UNSUPPORTED, f"a struct's path is a string, got {type(path).__name__}")
    return None if path is None else Uri(path)


def _content_of_audio_struct(struct: Mapping[str, Any]) -> Any:
    """Return a struct's samples, or else its encoded bytes, or else its path as a URI."""
    if struct and struct.keys() <= AUDIO_FIELDS:
        samples = next((struct[name] for name in AUDIO_SAMPLES if struct.get(name) is not None), None)
        if samples is not None:
            return Waveform(samples, next((struct[name] for name in AUDIO_RATES if struct.get(name) is not None), None))
        return _content_of_file(struct)
    raise RowError(
        Stage.READ,
        Code.UNSUPPORTED,
        f"an audio struct has samples ({' or '.join(AUDIO_SAMPLES)}) with their rate ({' or '.join(AUDIO_RATES)}),"
        f" or bytes or path, got {sorted(map(str, struct))}",
    )


def _waveform_of(value: Any) -> Waveform:
    """Convert a pair of samples and sample rate, or samples without a rate."""
    return Waveform(*value) if is_pair(value) else Waveform(value)


def is_pair(value: Any) -> bool:
    """Return whether a value is a pair of audio samples and sample rate."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    samples, rate = value
    return isinstance(samples, np.ndarray | list | tuple) and (
        rate is None or isinstance(rate, int | float | np.number)
    )


def array_of_spark_image(struct: Mapping[str, Any]) -> np.ndarray:
    """Convert the struct of Spark's `image` source to an RGB array.

    Args:
        struct: Row-major grey, BGR or BGRA bytes (OpenCV types 0, 16 and 24) with their size. Alpha is dropped.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        RowError: `undecodable` for height -1, which Spark writes for invalid files; `unsupported` for other formats.
    """
    if missing := [name for name in ("height", "width", "nChannels", "data") if struct[name] is None]:
        raise RowError(Stage.READ, Code.UNSUPPORTED, f"a Spark image in which {' and '.join(missing)} is null")
    height, width, channels = int(struct["height"]), int(struct["width"]), int(struct["nChannels"])
    if height <= 0 or width <= 0:
        raise RowError(Stage.READ, Code.UNDECODABLE, "Spark's image source could not decode this file (height -1)")
    data = np.frombuffer(struct["data"], np.uint8)
    if channels not in (1, 3, 4) or data.size != height * width * channels:
        raise RowError(
            Stage.READ,
            Code.UNSUPPORTED,
            f"a Spark image of {height} x {width} x {channels} has {data.size} bytes; known are 8-bit grey, BGR, BGRA",
        )
    pixels = data.reshape(height, width, channels)
    return np.repeat(pixels, 3, axis=2) if channels == 1 else np.ascontiguousarray(pixels[:, :, 2::-1])
