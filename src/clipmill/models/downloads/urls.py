"""Download files from URLs to this machine, once and atomically."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from ...errors import WeightsError
from ...files.drivers import DRIVERS
from ..progress import observer
from ..weight_files import remember_digest, sha256_of
from . import elsewhere
from .copies import WEB, by_hand, is_offline, only_one, part_of, place_of, publish
from .transfer import hash_of, receive, retried

_log = logging.getLogger("clipmill")


def fetch_url(
    url: str, *, sha256: str | None = None, cache_dir: str | None = None, filename: str | None = None
) -> Path:
    """Return the local copy of a file, downloading it if there is none.

    A copy of another program (`elsewhere`) is used in place. A download continues after an interrupted one, is checked
    against its hash, and is published only when it is complete; of several processes one downloads and the others
    wait. If a copy is found, nothing is written. The file at an http(s) URL is assumed never to change; one in an
    object store is copied again when it changes.

    Args:
        url: `http(s)://`, or with a scheme in `clipmill.files.drivers`.
        sha256: The hash of the content in hexadecimal digits, or its first 8 or more; None if unknown.
        cache_dir: As in `EncoderSpec`.
        filename: Name of the copy, by default that in the URL.

    Raises:
        WeightsError: If the file cannot be fetched; the message has the URL and the path for a manual copy.
        MissingExtraError: If the scheme needs a package that is not installed.
    """
    scheme = urlsplit(url).scheme
    if scheme in DRIVERS:
        from .objects import fetch_object

        return fetch_object(url, cache_dir)
    if scheme not in WEB:
        raise WeightsError(f"{url!r} must have one of the schemes {', '.join((*WEB, *DRIVERS))}")
    target = place_of(url, cache_dir, filename)
    found = find_copy([target, *elsewhere.places_of(target.name)], sha256)
    if found is None:
        if is_offline():
            raise WeightsError(f"{url} is not in the cache, and HF_HUB_OFFLINE is set{by_hand(target)}")
        with only_one(target):
            found = find_copy([target], sha256) or _fetch(url, target, sha256)
    observer().finished(target.name, found)
    return found


def local_file(weights: str, cache_dir: str | None = None) -> Path:
    """Return the local path of weights that a user gave by path or URL; a URL is fetched.

    Args:
        weights: An absolute path, or a URL for `fetch_url`.
        cache_dir: As in `EncoderSpec`.

    Raises:
        WeightsError: See `fetch_url`.
    """
    return fetch_url(weights, cache_dir=cache_dir) if "://" in weights else Path(weights)


def find_copy(places: list[Path], sha256: str | None) -> Path | None:
    """Return the first of these files that exists and has the hash, if one is given."""
    for path in places:
        if not path.is_file():
            continue
        if sha256 is None or sha256_of(path).startswith(sha256.lower()):
            return path
        _log.warning("%s is not used: its SHA-256 does not start with %s", path, sha256)
    return None


def _fetch(url: str, target: Path, sha256: str | None) -> Path:
    try:
        digest = download(url, target, sha256)
    except WeightsError as err:
        raise WeightsError(f"{url} could not be fetched: {err}{by_hand(target)}") from err
    if digest is None:
        raise WeightsError(f"{url} does not have the SHA-256 {sha256}: it is another file, or was damaged in transit")
    if digest:
        remember_digest(target, "sha256", digest)
    return target


def download(
    url: str,
    target: Path,
    expected: str | None = None,
    *,
    kind: str = "sha256",
    name: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> str | None:
    """Download an http(s) URL to `target`, continuing an interrupted download.

    Args:
        url: The URL.
        target: The path of the complete file. The caller holds `only_one` on it.
        expected: The hash of the content in hexadecimal digits, or its first ones; None if unknown.
        kind: The kind of the hash: `sha256` or `git`.
        name: The file's name for observers, by default the target's name.
        headers: As for `receive`.

    Returns:
        The hash of the content, "" if none was expected. None if the hash is wrong; then there is no file.

    Raises:
        WeightsError: If it cannot be downloaded.
    """
    part = part_of(target)
    for is_resumed in (part.exists(), False):
        retried(
            lambda: receive(url, part, name or target.name, is_verified=expected is not None, headers=headers),
            part,
            url,
        )
        digest = hash_of(part, kind) if expected else ""
        if digest.startswith((expected or "").lower()):
            publish(part, target)
            return digest
        part.unlink()
        if not is_resumed:  # otherwise the first part may be from another version of the file
            break
    return None
