"""What threads do with one item: fetch it, tell what it is, let the model decode it. Never raise for bad data."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..errors import ClipmillError
from ..failures import Code, Failure, RowError, Stage
from ..media.audio import Waveform, count_samples, sniff_audio_type
from ..media.fetch import fetch
from ..media.fetch_policy import FetchPolicy
from ..media.images import FORMATS, sniff_media_type
from ..models.model import Prepared
from ..models.spec import EncoderSpec
from .content_hash import content_hash
from .item import Item, Uri
from .loaded import Loaded


class Preparation(NamedTuple):
    """What became of one item, and what it took."""

    modality: str
    result: Prepared | Failure
    nbytes: int = 0
    fetch_msec: float = 0.0
    decode_msec: float = 0.0
    content_hash: str | None = None


def prepare_item(item: Item, loaded: Loaded, spec: EncoderSpec, *, hashed: bool = False) -> Preparation:
    """Decode one item whose content is here.

    Args:
        item: Neither null nor failed already, and no URI.
        loaded: The model, and its budget of pixels.
        spec: Limits and options.
        hashed: Whether to say what its content is told by.

    Returns:
        The prepared item, or its failure.

    Raises:
        ClipmillError: For what is wrong with the job and not with the item, such as a missing extra.
    """
    started = time.perf_counter()
    modality, content = str(item.modality), item.content
    try:
        if modality == "auto":
            modality, content = tell_modality(content, item.media_type)
        check_content(modality, content, loaded, spec)
        with loaded.pixels.hold(count_pixels(modality, content, loaded, spec), spec.max_batch_pixels):
            result: Prepared | Failure = loaded.model.prepare(modality, content, spec)
    except RowError as err:
        result = err.failure
    except ClipmillError:
        raise
    except MemoryError as err:
        result = Failure(Stage.DECODE, Code.OUT_OF_MEMORY, f"decoding needs more memory than there is: {err}")
    except Exception as err:  # a decoder's or an own encoder's surprise: this item's failure, with its reason
        result = Failure(Stage.PREPROCESS, Code.UNDECODABLE, f"{type(err).__name__}: {err}")
    told = content_hash(item.content) if hashed and isinstance(result, Prepared) else None
    return Preparation(modality, result, item.nbytes, 0.0, (time.perf_counter() - started) * 1000, told)


def fetch_and_prepare(
    item: Item,
    loaded: Loaded,
    spec: EncoderSpec,
    policy: FetchPolicy,
    decoders: ThreadPoolExecutor,
    *,
    hashed: bool = False,
) -> Preparation:
    """Fetch one URI, then have it decoded by the threads for that.

    The fetching thread waits for them, so that no more contents are in memory than there are such threads.

    Args:
        item: Its content is a `Uri`.
        loaded: See `prepare_item`.
        spec: See `prepare_item`.
        policy: What the URI may be and cost.
        decoders: Threads that decode.
        hashed: See `prepare_item`.
    """
    started = time.perf_counter()
    uri: Uri = item.content
    try:
        found = fetch(uri.uri, policy, trusted=uri.trusted)
    except RowError as err:
        return Preparation(str(item.modality), err.failure, fetch_msec=(time.perf_counter() - started) * 1000)
    fetch_msec = (time.perf_counter() - started) * 1000
    media_type = item.media_type or _text_type(found.media_type, uri)
    fetched = Item(item.modality, found.data, media_type)
    prepared = decoders.submit(prepare_item, fetched, loaded, spec, hashed=hashed).result()
    return prepared._replace(fetch_msec=fetch_msec)


def fetch_policy(spec: EncoderSpec) -> FetchPolicy:
    """Return what a spec allows its URIs."""
    return FetchPolicy(
        schemes=spec.uri_schemes,
        allow_local_files=spec.allow_local_files,
        allow_private_addresses=spec.allow_private_addresses,
        timeout_s=spec.fetch_timeout_s,
        max_bytes=spec.max_fetch_bytes,
        max_redirects=spec.max_redirects,
    )


def _text_type(media_type: str | None, uri: Uri) -> str | None:
    """Believe the media type of a `data:` URI, which its author wrote, and not that of a web server."""
    return media_type if uri.uri[:5].lower() == "data:" else None


def tell_modality(content: Any, media_type: str | None) -> tuple[str, Any]:
    """Tell what content of unknown kind is: text if its owner said `text/…`, a sound if it looks so, else an image.

    What the owner says is a sound is one unless it looks like an image.

    Returns:
        The modality and the content, decoded where it is text.
    """
    if isinstance(content, bytes) and (media_type or "").lower().startswith("text/"):
        try:
            return "text", content.decode("utf-8")
        except UnicodeDecodeError as err:
            raise RowError(Stage.DECODE, Code.UNDECODABLE, f"{media_type} that is not UTF-8: {err}") from err
    if isinstance(content, bytes):
        said = (media_type or "").lower().startswith("audio/") and sniff_media_type(content[:16]) is None
        return "audio" if said or sniff_audio_type(content[:16]) else "image", content
    return "audio" if isinstance(content, Waveform) else "image", content


def check_content(modality: str, content: Any, loaded: Loaded, spec: EncoderSpec) -> None:
    """Refuse what is empty, too long, or has no tower, alike for every model.

    Raises:
        RowError: `unsupported`, `empty` or `too_large`.
    """
    if modality not in loaded.model.modalities:
        has = " and ".join(sorted(loaded.model.modalities))
        kind = sniff_audio_type(content[:16]) if isinstance(content, bytes) and modality == "audio" else None
        given = f"{modality} ({kind})" if kind else modality
        raise RowError(Stage.PREPROCESS, Code.UNSUPPORTED, f"{spec.model} embeds {has}, not {given}")
    if modality == "text":
        if not isinstance(content, str):
            raise RowError(Stage.READ, Code.UNSUPPORTED, f"a text is a string, got {type(content).__name__}")
        if not content.strip():
            raise RowError(Stage.TOKENIZE, Code.EMPTY, "the text is empty")
        if len(content) > spec.max_text_chars:
            raise RowError(
                Stage.TOKENIZE,
                Code.TOO_LARGE,
                f"the text has {len(content):,} characters, at most {spec.max_text_chars:,} (option max_text_chars)",
            )
    elif isinstance(content, bytes | np.ndarray) and len(content) == 0:
        raise RowError(Stage.DECODE, Code.EMPTY, "the content has zero bytes")


def count_pixels(modality: str, content: Any, loaded: Loaded, spec: EncoderSpec) -> int:
    """Return the pixels that decoding will hold in memory; 0 where nothing is decoded or the header can't be read.

    The samples of a sound, four bytes each, count as pixels, which have three or four.
    """
    if not isinstance(content, bytes):
        return 0
    if modality == "audio":
        return count_samples(content)
    told = getattr(loaded.model, "decoded_pixels", None)  # own encoders need not be subclasses of Model
    if told is not None and (pixels := told(content, spec)) is not None:
        return int(pixels)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # the real decoding says what is wrong
        return 0
