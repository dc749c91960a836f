"""Copy one file from an object store to this machine, once per version of it."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ...errors import MissingExtraError, WeightsError
from ...files.drivers import DRIVERS
from ...files.retries import TransientFetchError
from ..progress import observer
from .copies import by_hand, is_offline, only_one, part_of, place_of, publish
from .transfer import retried, size_of

_log = logging.getLogger("clipmill")

_BLOCK = 8 * 2**20
_VERSION_KEYS = (
    *("size", "etag", "md5hash", "crc32c", "generation", "blob_id", "xet_hash"),
    *("mtime", "lastmodified", "last_modified", "updated"),
)
"""Metadata of an object that changes with its content, names in lower case."""


def fetch_object(url: str, cache_dir: str | None = None) -> Path:
    """Return the local copy of an object, copying it if there is none of its current version.

    If the store cannot be reached, the latest copy is used, with a warning.

    Args:
        url: For example `gs://bucket/weights.safetensors`.
        cache_dir: As in `EncoderSpec`.

    Raises:
        WeightsError: If there is no such object, or it cannot be read.
        MissingExtraError: If its store's driver is not installed, and there is no copy.
    """
    place = place_of(url, cache_dir)
    try:
        system, path, info = _look_up(url)
    except (WeightsError, MissingExtraError) as err:
        copies = sorted(place.parent.glob(f"*/{place.name}"), key=lambda copy: copy.stat().st_mtime_ns)
        if not copies:
            if isinstance(err, MissingExtraError):
                raise
            raise WeightsError(f"{err}{by_hand(place.parent / 'copy' / place.name)}") from err
        _log.warning("%s; the copy at %s is used", err, copies[-1])
        observer().finished(place.name, copies[-1])
        return copies[-1]
    target = place.parent / _version_of(info) / place.name
    if not target.is_file():
        with only_one(target):
            if not target.is_file():
                part = part_of(target)
                try:
                    retried(lambda: _receive(system, path, int(info["size"]), part), part, url)
                except WeightsError as err:
                    raise WeightsError(f"{url} could not be copied: {err}") from err
                publish(part, target)
    observer().finished(target.name, target)
    return target


def _look_up(url: str) -> tuple[Any, str, dict[str, Any]]:
    import fsspec

    package, extra = DRIVERS.get(urlsplit(url).scheme, ("fsspec", "remote"))
    if is_offline():
        raise WeightsError(f"{url} was not requested, since HF_HUB_OFFLINE is set")
    try:
        system, path = fsspec.url_to_fs(url)
        info = system.info(path)
    except ImportError as err:
        raise MissingExtraError(package, extra, f"reading {url!r}") from err
    except FileNotFoundError as err:
        raise WeightsError(f"{url} does not exist") from err
    except Exception as err:  # every store raises its own errors, for example for denied access and invalid names
        raise WeightsError(f"{url} cannot be read: {type(err).__name__}: {err}") from err
    if info.get("type") != "file" or not isinstance(info.get("size"), int):
        raise WeightsError(f"{url} is not a file but a {info.get('type', 'thing without a size')}")
    return system, path, info


def _version_of(info: dict[str, Any]) -> str:
    known = {key.lower(): value for key, value in info.items()}
    values = "\n".join(f"{key}={known[key]}" for key in _VERSION_KEYS if known.get(key) is not None)
    return hashlib.sha256(values.encode()).hexdigest()[:16]


def _receive(system: Any, path: str, size: int, part: Path) -> None:
    """Append the rest of an object to what an earlier attempt received of this version."""
    have = size_of(part) if size_of(part) <= size else 0
    observer().started(path.rpartition("/")[2], have, size)
    with part.open("ab") as file:
        file.truncate(have)
        try:
            with system.open(path, "rb", block_size=_BLOCK, cache_type="readahead") as source:
                source.seek(have)
                while block := source.read(_BLOCK):
                    file.write(block)
                    observer().advanced(path.rpartition("/")[2], len(block))
        except Exception as err:
            raise TransientFetchError(f"{type(err).__name__}: {err}") from err
    if size_of(part) != size:
        raise TransientFetchError(f"truncated after {size_of(part):,} of {size:,} bytes")
