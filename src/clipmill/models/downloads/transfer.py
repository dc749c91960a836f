"""Download one file over HTTP, with resume, retries and detection of stalls."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ...errors import WeightsError
from ...files.json_text import parse_json
from ...files.retries import RetryPolicy, TransientFetchError, is_transient_status, read_retry_after
from ..progress import observer

_log = logging.getLogger("clipmill")

_BLOCK = 2**20

RETRIES = RetryPolicy(attempts=5, pause_s=1.0, max_pause_s=60.0)
STALL_S, MIN_BYTES = 30.0, 1024
"""A transfer with fewer bytes than this in so many seconds has stalled."""

_T = TypeVar("_T")


def retried(attempt: Callable[[], _T], part: Path | None, what: str) -> _T:
    """Call `attempt` until it succeeds, with the policy `RETRIES`, and return its result.

    Args:
        attempt: Raises `TransientFetchError` if a retry may help.
        part: The file that it appends to, if any.
        what: What is fetched, for messages.

    Raises:
        WeightsError: If the last attempt fails.
    """

    def log(err: TransientFetchError, pause_s: float) -> None:
        _log.warning("%s: %s; continuing after %s bytes in %.0f s", what, err, f"{size_of(part):,}", pause_s)

    try:
        return RETRIES.call(attempt, progress=lambda: size_of(part), on_retry=log)
    except TransientFetchError as err:
        raise WeightsError(f"gave up after {err.attempts} attempts in a row: {err}") from err


def size_of(path: Path | None) -> int:
    """Return a file's size in bytes; 0 if there is none."""
    return path.stat().st_size if path is not None and path.exists() else 0


def receive(url: str, part: Path, name: str, *, is_verified: bool, headers: Mapping[str, str] | None = None) -> None:
    """Download the content of an http(s) URL to `part`, after the bytes from an earlier attempt.

    `<part>.json` next to it stores the server's version of the file, so that another version is never appended. Proxies
    from the environment are used.

    Args:
        url: The URL.
        part: The file to append to; it is kept if the transfer fails midway.
        name: The file's name for observers.
        is_verified: Whether the caller checks the hash of the file. Without that, the server must send the length of
            the file, and a download is resumed only if the server has named its version.
        headers: Additional headers; `Authorization` is not sent to another server after a redirect.

    Raises:
        TransientFetchError: If a retry may help.
        WeightsError: If it would not, or the disk is full.
    """
    origin = part.with_name(part.name + ".json")
    have, version = size_of(part), _version_of(origin, url)
    if have and not version and not is_verified:
        have = 0
    known = {"User-Agent": "clipmill", **(headers or {}), "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=known)
    if have:
        request.add_header("Range", f"bytes={have}-")
        if version:
            request.add_header("If-Range", version)
    response = _open(request, part, origin, have)
    if response is None:
        return
    with response:
        have, total = _check_response(response, have, is_verified=is_verified)
        try:
            if have == 0:
                part.unlink(missing_ok=True)  # before the new version is stored: it must not apply to old bytes
                version = _strong_version(response)
                origin.write_text(json.dumps({"url": url, "version": version}))
            with part.open("ab") as file:
                file.truncate(have)
                observer().started(name, have, total)
                _copy(response, file.write, name)
                file.flush()
        except TransientFetchError:
            raise
        except OSError as err:
            raise WeightsError(f"{str(part)!r} cannot be written: {err}") from err
    if total is not None and size_of(part) != total:
        raise TransientFetchError(f"truncated after {size_of(part):,} of {total:,} bytes")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects like urllib, but sends credentials only to the original server."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and _server_of(newurl) != _server_of(req.full_url):
            request.remove_header("Authorization")
        return request


def _server_of(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _open(request: urllib.request.Request, part: Path, origin: Path, have: int) -> Any:
    """Return the response; None if the server reports that `part` is complete."""
    try:
        # a new opener each time: the one of urlopen reads the environment's proxies only once
        opener = urllib.request.build_opener(_Redirects)
        return opener.open(request, timeout=STALL_S)
    except urllib.error.HTTPError as err:
        with err:
            if err.code == 416:
                if err.headers.get("Content-Range") == f"bytes */{have}":
                    return None
                part.unlink(missing_ok=True)
                origin.unlink(missing_ok=True)
                raise TransientFetchError("the file has changed on the server since the earlier attempt") from err
            if is_transient_status(err.code):
                wait_s = read_retry_after(err.headers.get("Retry-After", ""))
                raise TransientFetchError(f"status {err.code}", wait_s) from err
            raise WeightsError(f"the server answered with status {err.code} ({err.reason})") from err
    except urllib.error.URLError as err:
        if isinstance(err.reason, ssl.SSLCertVerificationError):
            raise WeightsError(f"the server's certificate is not trusted: {err.reason}") from err
        raise TransientFetchError(str(err.reason)) from err
    except (OSError, http.client.HTTPException) as err:
        raise TransientFetchError(f"{type(err).__name__}: {err}") from err


def _check_response(response: Any, have: int, *, is_verified: bool) -> tuple[int, int | None]:
    """Return the offset of the response, and the length of the whole file (None if the response is chunked)."""
    headers = response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise WeightsError(f"the server sent the file compressed ({headers['Content-Encoding']}), unrequested")
    if headers.get_content_type() == "text/html":
        raise WeightsError("the response is a web page (of a login or a proxy?) instead of a file")
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if match is None or int(match[1]) != have:
            raise WeightsError(f"requested the bytes from {have}, got {headers.get('Content-Range')!r}")
        return have, None if match[2] == "*" else int(match[2])
    length = headers.get("Content-Length")
    if length is None and headers.get("Transfer-Encoding", "").lower() != "chunked" and not is_verified:
        raise WeightsError("the server sends no length, and there is no hash: a truncated file would go undetected")
    return 0, None if length is None else int(length)


def _copy(response: Any, write: Callable[[bytes], Any], name: str) -> None:
    since, arrived = time.monotonic(), 0
    while True:
        try:
            block = response.read1(_BLOCK)
        except (OSError, http.client.HTTPException) as err:
            raise TransientFetchError(f"{type(err).__name__}: {err}" if str(err) else type(err).__name__) from err
        if not block:
            return
        write(block)
        observer().advanced(name, len(block))
        arrived += len(block)
        if time.monotonic() - since > STALL_S:
            if arrived < MIN_BYTES:
                raise TransientFetchError(f"stalled: {arrived} bytes in {STALL_S:.0f} s")
            since, arrived = time.monotonic(), 0


def _strong_version(response: Any) -> str | None:
    """Return an identifier of exactly these bytes: a strong ETag, else the Last-Modified time."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _version_of(origin: Path, url: str) -> str | None:
    try:
        known = parse_json(origin.read_text())
        return known["version"] if known["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def hash_of(path: Path, kind: str) -> str:
    """Return the hash of a file that may still change, without storing it.

    Args:
        path: The file.
        kind: `sha256`, or `git` for git's SHA-1 of a file's content.
    """

    def make_hash() -> Any:
        if kind != "git":
            return hashlib.new(kind)
        return hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)

    with path.open("rb") as file:
        return hashlib.file_digest(file, make_hash).hexdigest()
