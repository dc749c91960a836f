"""The work of threads on one item: fetch it, detect its modality and decode it. Bad data never raises."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from ..errors import ClipmillError, ran_out_of_memory
from ..failures import Code, Failure, RowError, Stage
from ..media.audio import Waveform, count_samples, sniff_audio_type
from ..media.containers import without_metadata
from ..media.fetch import fetch
from ..media.fetch_policy import FetchPolicy
from ..media.images import header_size, sniff_media_type
from ..models.model import Prepared
from ..models.spec import EncoderSpec
from .content_hash import content_hash
from .item import Item, Uri
from .loaded import Loaded


class Preparation(NamedTuple):
    """A prepared or failed item, with its size and the time it took."""

    modality: str
    result: Prepared | Failure
    nbytes: int = 0
    fetch_msec: float = 0.0
    decode_msec: float = 0.0
    content_hash: str | None = None


def prepare_item(item: Item, loaded: Loaded, spec: EncoderSpec, *, hashed: bool = False) -> Preparation:
    """Decode one item whose content is in memory: neither null nor failed, and not a URI.

    Errors of the job and not of the item, such as a missing extra, raise a `ClipmillError`.
    """
    started = time.perf_counter()
    modality, content = str(item.modality), item.content
    try:
        if modality == "auto":
            modality, content = detect_modality(content, item.media_type)
        check_content(modality, content, loaded, spec)
        if modality == "image" and isinstance(content, bytes):
            content = without_metadata(content)
        with loaded.pixels.hold(count_pixels(modality, content, loaded, spec), spec.max_batch_pixels):
            result: Prepared | Failure = loaded.model.prepare(modality, content, spec)
    except RowError as err:
        result = err.failure
    except ClipmillError:
        raise
    except Exception as err:  # any error of a decoder or of a custom encoder is a failure of this item
        if ran_out_of_memory(err):
            result = _too_big(Stage.DECODE, err)
        else:
            result = Failure(Stage.PREPROCESS, Code.UNDECODABLE, f"{type(err).__name__}: {err}")
    digest = content_hash(item.content) if hashed and isinstance(result, Prepared) else None
    return Preparation(modality, result, item.nbytes, 0.0, (time.perf_counter() - started) * 1000, digest)


def fetch_and_prepare(
    item: Item,
    loaded: Loaded,
    spec: EncoderSpec,
    policy: FetchPolicy,
    decoders: ThreadPoolExecutor,
    *,
    hashed: bool = False,
) -> Preparation:
    """Fetch one URI, then decode it in a thread of `decoders`.

    The fetching thread waits for the decoding, so that there are never more fetched contents than fetching threads.
    """
    started = time.perf_counter()
    uri: Uri = item.content
    try:
        found = fetch(uri.uri, policy, trusted=uri.trusted)
    except (RowError, MemoryError) as err:
        failure = err.failure if isinstance(err, RowError) else _too_big(Stage.FETCH, err)
        return Preparation(str(item.modality), failure, fetch_msec=(time.perf_counter() - started) * 1000)
    fetch_msec = (time.perf_counter() - started) * 1000
    media_type = item.media_type or _declared_type(found.media_type, uri)
    fetched = Item(item.modality, found.data, media_type)
    prepared = decoders.submit(prepare_item, fetched, loaded, spec, hashed=hashed).result()
    return prepared._replace(fetch_msec=fetch_msec)


def _too_big(stage: Stage, error: Exception) -> Failure:
    said = f" ({error})" if str(error) else ""
    return Failure(stage, Code.OUT_OF_MEMORY, f"the row needs more memory than there is{said}")


def fetch_policy(spec: EncoderSpec) -> FetchPolicy:
    """Return the fetch policy of a spec."""
    return FetchPolicy(
        schemes=spec.uri_schemes,
        buckets=spec.allow_buckets,
        allow_local_files=spec.allow_local_files,
        allow_private_addresses=spec.allow_private_addresses,
        timeout_s=spec.fetch_timeout_s,
        max_bytes=spec.max_fetch_bytes,
        max_redirects=spec.max_redirects,
    )


def _declared_type(media_type: str | None, uri: Uri) -> str | None:
    """Return the media type of a `data:` URI, which its author chose. Those of web servers are ignored."""
    return media_type if uri.uri[:5].lower() == "data:" else None


def detect_modality(content: Any, media_type: str | None) -> tuple[str, Any]:
    """Detect the modality of content: text if declared as `text/…`, audio if its first bytes say so, else an image.

    Content declared as `audio/…` is audio, unless its first bytes are those of an image.

    Returns:
        The modality and the content. Texts are decoded from UTF-8.

    Raises:
        RowError: `undecodable` if a declared text is not UTF-8.
    """
    if isinstance(content, bytes) and (media_type or "").lower().startswith("text/"):
        try:
            return "text", content.decode("utf-8")
        except UnicodeDecodeError as err:
            raise RowError(Stage.DECODE, Code.UNDECODABLE, f"{media_type} that is not UTF-8: {err}") from err
    if isinstance(content, bytes):
        declared = (media_type or "").lower().startswith("audio/") and sniff_media_type(content) is None
        return "audio" if declared or sniff_audio_type(content[:16]) else "image", content
    return "audio" if isinstance(content, Waveform) else "image", content


def check_content(modality: str, content: Any, loaded: Loaded, spec: EncoderSpec) -> None:
    """Check content in the same way for every model.

    Raises:
        RowError: `unsupported` if the model has no tower for it, `empty`, or `too_large` for long texts.
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
    """Return how many pixels decoding will hold in memory; 0 if nothing is decoded or the header is unreadable.

    An audio sample, which takes four bytes, counts as one pixel, which takes three or four.
    """
    if not isinstance(content, bytes):
        return 0
    if modality == "audio":
        return count_samples(content)
    count = getattr(loaded.model, "decoded_pixels", None)  # custom encoders need not be subclasses of Model
    if count is not None and (pixels := count(content, spec)) is not None:
        return int(pixels)
    size = header_size(content)
    return 0 if size is None else size[0] * size[1]
