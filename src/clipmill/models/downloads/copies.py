"""Where downloads are kept on this machine, who may write there now, and how a file gets its name when it is whole."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...errors import WeightsError
from ...files.cache import VARIABLE, cache_root, locked

WEB = ("http", "https")


def place_of(url: str, cache_dir: str | None = None, filename: str | None = None) -> Path:
    """Return where the copy of a URL is kept: the URL's own path, below `downloads` in the cache.

    Args:
        url: What is fetched.
        cache_dir: As in `EncoderSpec`.
        filename: What the copy is called, by default as in the URL.
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
    """Return a part of a path that stays inside its folder, whatever a stranger put into it."""
    return re.sub(r"[^\w.@+=-]", "_", part).lstrip(".") or "_"


def is_offline() -> bool:
    """Tell whether downloads are switched off (`HF_HUB_OFFLINE`), for hub files and all others."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def by_hand(target: Path) -> str:
    """Return the end of a message: what may be done on a machine that cannot download."""
    return f"; without a network, put the file at {str(target)!r} (another cache: cache_dir or ${VARIABLE})"


@contextmanager
def only_one(target: Path, name: str | None = None) -> Iterator[None]:
    """Let one process of this machine at a time make a file; the others wait here.

    Args:
        target: The file.
        name: What messages call it, by default its own name.

    Raises:
        WeightsError: If the folder cannot be written.
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
    """Return where a file grows until it is whole."""
    return target.with_name(f".{target.name}.part")


def publish(part: Path, target: Path) -> Path:
    """Give a whole file its name, so that it is there for good or not at all."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    part.with_name(part.name + ".json").unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return target
