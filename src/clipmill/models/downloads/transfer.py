"""One file over HTTP: resumed where it was cut off, tried again where it may help, given up where it stalls."""

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
from ...files.retries import RetryPolicy, TransientFetchError, is_transient_status, read_retry_after
from .progress import observer

_log = logging.getLogger("clipmill")

_BLOCK = 2**20

RETRIES = RetryPolicy(attempts=5, pause_s=1.0, max_pause_s=60.0)
STALL_S, MIN_BYTES = 30.0, 1024
"""A server stalls that sends less than this in so many seconds."""

_T = TypeVar("_T")


def retried(attempt: Callable[[], _T], part: Path | None, what: str) -> _T:
    """Call `attempt` until it succeeds, as `RETRIES` says, and return what it returns.

    Args:
        attempt: Raises `TransientFetchError` where another try may help.
        part: The file that grows, if one does.
        what: What is fetched, for messages.

    Raises:
        WeightsError: If no further try is made.
    """

    def log(err: TransientFetchError, pause_s: float) -> None:
        _log.warning("%s: %s; %s bytes are here, going on in %.0f s", what, err, f"{size_of(part):,}", pause_s)

    try:
        return RETRIES.call(attempt, progress=lambda: size_of(part), on_retry=log)
    except TransientFetchError as err:
        raise WeightsError(f"given up after {err.attempts} tries in a row: {err}") from err


def size_of(path: Path | None) -> int:
    """Return a file's size in bytes, 0 where there is none."""
    return path.stat().st_size if path is not None and path.exists() else 0


def receive(url: str, part: Path, name: str, *, is_verified: bool, headers: Mapping[str, str] | None = None) -> None:
    """Bring the content of an http(s) URL into `part`, after what is there from an earlier try.

    Beside it, `<part>.json` keeps what the server called this version of the file: another version is never appended.
    Proxies of the environment are used.

    Args:
        url: What to fetch.
        part: The file that grows; kept where the transfer fails in the middle.
        name: What observers know the file by.
        is_verified: Whether the whole will be compared with a hash. Without one, only a server that says how long the
            file is, and names its version, is taken at its word.
        headers: What the server wants to see besides; `Authorization` never follows a redirect to another server.

    Raises:
        TransientFetchError: If another try may help.
        WeightsError: If none would, or the disk is full.
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
        have, total = _begin(response, have, is_verified=is_verified)
        try:
            if have == 0:
                part.unlink(missing_ok=True)  # before its version is noted: an old beginning must never get a new name
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
        raise TransientFetchError(f"cut off after {size_of(part):,} of {total:,} bytes")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects as urllib does, and keeps credentials from every server but the one they are for."""

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
    """Return the answer; None if the server says that what is here already is all."""
    try:
        # a new one each time: urlopen's own never looks at the environment's proxies again
        opener = urllib.request.build_opener(_Redirects)
        return opener.open(request, timeout=STALL_S)
    except urllib.error.HTTPError as err:
        with err:
            if err.code == 416:
                if err.headers.get("Content-Range") == f"bytes */{have}":
                    return None
                part.unlink(missing_ok=True)
                origin.unlink(missing_ok=True)
                raise TransientFetchError("the server has another file than an earlier try began") from err
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


def _begin(response: Any, have: int, *, is_verified: bool) -> tuple[int, int | None]:
    """Return at which byte the answer begins, and how long the whole file is (None: the answer's chunks say)."""
    headers = response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise WeightsError(f"the server packed the file ({headers['Content-Encoding']}) although asked not to")
    if headers.get_content_type() == "text/html":
        raise WeightsError("the answer is a web page and no file of weights: a login, or a proxy's message")
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if match is None or int(match[1]) != have:
            raise WeightsError(f"asked for bytes from {have} on, got {headers.get('Content-Range')!r}")
        return have, None if match[2] == "*" else int(match[2])
    length = headers.get("Content-Length")
    if length is None and headers.get("Transfer-Encoding", "").lower() != "chunked" and not is_verified:
        raise WeightsError("the server does not say how long the file is, and no hash is known to tell a cut-off one")
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
    """Return what names exactly these bytes: a strong ETag, else the time of the last change."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _version_of(origin: Path, url: str) -> str | None:
    try:
        known = json.loads(origin.read_text())
        return known["version"] if known["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def hash_of(path: Path, kind: str) -> str:
    """Return the hash of a file that may still change, and so is never remembered.

    Args:
        path: The file.
        kind: `sha256`, or `git` for the SHA-1 that git names a file's content by.
    """

    def begin() -> Any:
        if kind != "git":
            return hashlib.new(kind)
        return hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)

    with path.open("rb") as file:
        return hashlib.file_digest(file, begin).hexdigest()
