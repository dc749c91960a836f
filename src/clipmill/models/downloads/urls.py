"""Files named by a URL, kept on this machine: downloaded once, whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from ...errors import WeightsError
from ...files.drivers import DRIVERS
from ..weight_files import remember_digest, sha256_of
from . import elsewhere
from .copies import WEB, by_hand, is_offline, only_one, part_of, place_of, publish
from .progress import observer
from .transfer import hash_of, receive, retried

_log = logging.getLogger("clipmill")


def fetch_url(
    url: str, *, sha256: str | None = None, cache_dir: str | None = None, filename: str | None = None
) -> Path:
    """Return this machine's copy of a file, downloading it if there is none.

    A copy that other programs keep (`elsewhere`) is used where it is. A download is resumed where an earlier one
    ended, compared with its hash, and gets its name only when it is whole; of several processes one downloads and the
    others wait. Where a copy is found, nothing is written. A file behind an http(s) URL is taken never to change; one
    in an object store is copied again when it has changed there.

    Args:
        url: `http(s)://`, or of a scheme in `clipmill.files.drivers`.
        sha256: The hash of the content in hexadecimal digits, or its first 8 or more; None where it is not known.
        cache_dir: As in `EncoderSpec`.
        filename: What the copy is called, by default as in the URL.

    Raises:
        WeightsError: If the file cannot be had, with the URL and the path to put it at by hand.
        MissingExtraError: If the scheme needs a package that is not installed.
    """
    scheme = urlsplit(url).scheme
    if scheme in DRIVERS:
        from .objects import fetch_object

        return fetch_object(url, cache_dir)
    if scheme not in WEB:
        raise WeightsError(f"{url!r} has none of the schemes {', '.join((*WEB, *DRIVERS))}")
    target = place_of(url, cache_dir, filename)
    found = find_copy([target, *elsewhere.places_of(target.name)], sha256)
    if found is None:
        if is_offline():
            raise WeightsError(f"{url} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it{by_hand(target)}")
        with only_one(target):
            found = find_copy([target], sha256) or _fetch(url, target, sha256)
    observer().finished(target.name, found)
    return found


def local_file(weights: str, cache_dir: str | None = None) -> Path:
    """Return the path that a user's path or URL of weights stands for, fetching the file behind a URL.

    Args:
        weights: An absolute path, or what `fetch_url` takes.
        cache_dir: As in `EncoderSpec`.

    Raises:
        WeightsError: As `fetch_url` does.
    """
    return fetch_url(weights, cache_dir=cache_dir) if "://" in weights else Path(weights)


def find_copy(places: list[Path], sha256: str | None) -> Path | None:
    """Return the first of these files that is there and has the hash, if one is known."""
    for path in places:
        if not path.is_file():
            continue
        if sha256 is None or sha256_of(path).startswith(sha256.lower()):
            return path
        _log.warning("%s is not used: its SHA-256 does not begin with %s", path, sha256)
    return None


def _fetch(url: str, target: Path, sha256: str | None) -> Path:
    try:
        digest = download(url, target, sha256)
    except WeightsError as err:
        raise WeightsError(f"{url} could not be fetched: {err}{by_hand(target)}") from err
    if digest is None:
        raise WeightsError(f"{url} is not the file it should be (SHA-256 {sha256}), or was damaged on its way")
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
    """Bring what is behind an http(s) URL to `target`, going on where an earlier try ended.

    Args:
        url: What to fetch.
        target: Where it is put when it is whole; `only_one` is held.
        expected: The hash of the content in hexadecimal digits, or its beginning; None where it is not known.
        kind: Of the hash: `sha256` or `git`.
        name: What observers know the file by, by default the target's name.
        headers: As `receive` takes them.

    Returns:
        The hash of the content, "" where none was expected; None if it is not the one expected: then there is no file.

    Raises:
        WeightsError: If it cannot be had.
    """
    part = part_of(target)
    for was_begun in (part.exists(), False):
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
        if not was_begun:  # else the beginning may have been that of another file
            break
    return None
