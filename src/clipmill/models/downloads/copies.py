"""Paths of downloads in the cache, the lock on a file, and atomic publishing of complete files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...errors import WeightsError
from ...files.atomic import move_durably
from ...files.cache import VARIABLE, cache_root, locked

WEB = ("http", "https")


def place_of(url: str, cache_dir: str | None = None, filename: str | None = None) -> Path:
    """Return the path of a URL's copy in the cache: the path of the URL, below `downloads`.

    Args:
        url: The URL.
        cache_dir: As in `EncoderSpec`.
        filename: Name of the copy, by default that in the URL.
    """
    parts = urlsplit(url)
    first = parts.hostname or "unknown"
    if parts.scheme not in WEB:
        first = f"{parts.scheme}-{parts.netloc}"
    elif parts.port:
        first = f"{first}-{parts.port}"
    *folders, name = [safe_name(part) for part in unquote(parts.path).split("/") if part] or ["file"]
    if parts.query:
        stem, dot, suffix = name.rpartition(".")
        digest = hashlib.sha256(parts.query.encode()).hexdigest()[:8]
        name = f"{stem}-{digest}{dot}{suffix}" if stem else f"{name}-{digest}"
    return cache_root(cache_dir).joinpath("downloads", safe_name(first), *folders, filename or name)


def safe_name(part: str) -> str:
    """Return an untrusted part of a path in a form that stays inside its folder."""
    return re.sub(r"[^\w.@+=-]", "_", part).lstrip(".") or "_"


def is_offline() -> bool:
    """Return whether downloads are switched off (`HF_HUB_OFFLINE`), for hub files and all others."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def by_hand(target: Path) -> str:
    """Return a hint for messages: how to provide a file on a machine that cannot download."""
    return f"; without a network, put the file at {str(target)!r} (another cache: cache_dir or ${VARIABLE})"


@contextmanager
def only_one(target: Path, name: str | None = None) -> Iterator[None]:
    """Hold the lock on a file, so that one process of this machine at a time makes it; the others wait.

    Args:
        target: The file.
        name: Its name in messages, by default that of the file.

    Raises:
        WeightsError: If the folder is not writable.
    """
    name = name or target.name
    with ExitStack() as held:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(target.with_name(f".{target.name}.lock"), name))
        except OSError as err:
            raise WeightsError(
                f"{name!r} is not in the cache, and {str(target.parent)!r} cannot be written: {err}"
                f" (another cache: cache_dir or ${VARIABLE})"
            ) from err
        yield


def part_of(target: Path) -> Path:
    """Return the path of a file while it is incomplete."""
    return target.with_name(f".{target.name}.part")


def publish(part: Path, target: Path) -> Path:
    """Rename a complete file to its target, durably and atomically."""
    move_durably(part, target)
    part.with_name(part.name + ".json").unlink(missing_ok=True)
    return target
