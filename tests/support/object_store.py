"""A small S3 on the loopback, in memory, that fails as it is told: for s3fs, in this process and in others.

It keeps objects as S3 does: an upload shows when it is complete, conditions are checked in the same moment, and an
upload in parts can be completed once. Faults are drawn from a seed, one for each request.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import email.utils
import hashlib
import random
import re
import socket
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape

from file_server import Loopback, Quiet

ACCESS = {
    "AWS_ACCESS_KEY_ID": "loopback",
    "AWS_SECRET_ACCESS_KEY": "loopback",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
_CODES = {"throttled": (503, "SlowDown"), "limited": (429, "TooManyRequests"), "broken": (500, "InternalError")}
FAULTS = (*_CODES, "reset", "lost", "cut", "slow")


@dataclasses.dataclass(frozen=True)
class Faults:
    """How often requests fail, as shares of all; a share applies to each kind of `FAULTS`.

    - `throttled`, `limited`, `broken`: the status 503, 429 or 500, and nothing is done
    - `reset`: the line is cut, and nothing is done
    - `lost`: what is asked for is done, and then the line is cut instead of an answer
    - `cut`: the line is cut in the middle of what is read
    - `slow`: the answer comes late, by up to `slow_s` seconds

    Attributes:
        shares: By kind.
        slow_s: See `slow`.
        stale_s: Listings show what there was up to so many seconds ago: neither new objects nor that old ones are gone.
    """

    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    slow_s: float = 0.2
    stale_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Object:
    data: bytes
    etag: str
    modified: float


class Refused(Exception):
    """An answer with an error; `on_request` may raise it, too."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class ObjectStore(Loopback):
    """Buckets of objects. A context manager.

    Attributes:
        faults: What goes wrong from now on.
        counts: Requests that failed, by kind of fault; under `requests`, all.
        clock_s: How far the store's clock is ahead of this machine's, in seconds.
        on_request: Called with method and key before each request is done.
    """

    def __init__(self, *buckets: str, seed: object = 0, faults: Faults | None = None) -> None:
        super().__init__()
        self.handler = _StoreHandler
        self.faults = faults or Faults()
        self.counts: collections.Counter[str] = collections.Counter()
        self.clock_s = 0.0
        self.on_request = lambda method, key: None
        self._draw = random.Random(str(seed))
        self._lock = threading.Lock()
        self._history: dict[str, dict[str, list[tuple[float, _Object | None]]]] = {name: {} for name in buckets}
        self._uploads: dict[str, dict[int, bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which s3fs and boto find this store."""
        return {**ACCESS, "AWS_ENDPOINT_URL": self.address}

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Return what a bucket really holds."""
        with self._lock:
            found = {key: states[-1][1] for key, states in self._history[bucket].items()}
        return {key: one.data for key, one in sorted(found.items()) if one is not None}

    def put(self, bucket: str, key: str, data: bytes) -> _Object:
        with self._lock:
            return self._put(bucket, key, data)

    @contextlib.contextmanager
    def without_faults(self) -> Iterator[None]:
        """Serve all requests of the block well: for checks."""
        faults, self.faults = self.faults, Faults()
        try:
            yield
        finally:
            self.faults = faults

    def draw_fault(self, method: str) -> str | None:
        with self._lock:
            self.counts["requests"] += 1
            point = self._draw.random()
            for kind, share in self.faults.shares.items():
                if point < share:
                    applies = method == "GET" if kind == "cut" else method != "GET" if kind == "lost" else True
                    self.counts[kind] += applies
                    return kind if applies else None
                point -= share
        return None

    def delay_s(self) -> float:
        with self._lock:
            return self._draw.random() * self.faults.slow_s

    # --- what requests do; the lock is held ---------------------------------------------------------------------------

    def states(self, bucket: str) -> dict[str, list[tuple[float, _Object | None]]]:
        if bucket not in self._history:
            raise Refused(404, "NoSuchBucket")
        return self._history[bucket]

    def get(self, bucket: str, key: str) -> _Object:
        states = self.states(bucket).get(key)
        if not states or states[-1][1] is None:
            raise Refused(404, "NoSuchKey")
        return states[-1][1]

    def _put(self, bucket: str, key: str, data: bytes, etag: str | None = None) -> _Object:
        made = _Object(data, etag or f'"{hashlib.md5(data).hexdigest()}"', time.time() + self.clock_s)
        self.states(bucket).setdefault(key, []).append((time.monotonic(), made))
        return made

    def delete(self, bucket: str, key: str) -> None:
        if key in self.states(bucket):
            self.states(bucket)[key].append((time.monotonic(), None))

    def check(self, bucket: str, key: str, headers: Mapping[str, str]) -> None:
        """Refuse a request whose conditions do not hold."""
        states = self.states(bucket).get(key)
        there = states[-1][1] if states else None
        if headers.get("If-None-Match") == "*" and there is not None:
            raise Refused(412, "PreconditionFailed")
        if (wanted := headers.get("If-Match")) is not None:
            if there is None:
                raise Refused(404, "NoSuchKey")
            if wanted.strip('"') != there.etag.strip('"'):
                raise Refused(412, "PreconditionFailed")

    def listed(self, bucket: str, prefix: str) -> list[tuple[str, _Object]]:
        then = time.monotonic() - self._draw.random() * self.faults.stale_s
        found = []
        for key, states in self.states(bucket).items():
            if key.startswith(prefix):
                seen = next((one for since, one in reversed(states) if since <= then), None)
                if seen is not None:
                    found.append((key, seen))
        return sorted(found, key=lambda pair: pair[0])

    # --- uploads in parts ---------------------------------------------------------------------------------------------

    def begin_upload(self) -> str:
        name = uuid.uuid4().hex
        self._uploads[name] = {}
        return name

    def add_part(self, upload: str, number: int, data: bytes) -> str:
        if upload not in self._uploads:
            raise Refused(404, "NoSuchUpload")
        self._uploads[upload][number] = data
        return f'"{hashlib.md5(data).hexdigest()}"'

    def complete(self, bucket: str, key: str, upload: str, numbers: list[int]) -> _Object:
        if upload not in self._uploads:
            raise Refused(404, "NoSuchUpload")
        parts = self._uploads.pop(upload)
        digest = hashlib.md5(b"".join(hashlib.md5(parts[one]).digest() for one in numbers)).hexdigest()
        return self._put(bucket, key, b"".join(parts[one] for one in numbers), f'"{digest}-{len(numbers)}"')

    def abort(self, upload: str) -> None:
        if self._uploads.pop(upload, None) is None:
            raise Refused(404, "NoSuchUpload")


class _StoreHandler(Quiet):
    """Answers the requests of one connection."""

    def _serve(self) -> None:
        store: ObjectStore = self.server.owner
        split = urllib.parse.urlsplit(self.path)
        query = {key: values[0] for key, values in urllib.parse.parse_qs(split.query, keep_blank_values=True).items()}
        bucket, _, key = urllib.parse.unquote(split.path.lstrip("/")).partition("/")
        body = self._body()
        fault = store.draw_fault(self.command)
        if fault in _CODES:
            self._refuse(*_CODES[fault])
            return
        if fault == "reset":
            self._hang_up()
            return
        if fault == "slow":
            store.stopping.wait(store.delay_s())
        try:
            store.on_request(self.command, key)
            with store._lock:
                status, headers, content = self._answer_to(store, bucket, key, query, body)
        except Refused as err:
            status, headers, content = err.status, {}, _error(err.code)
        if fault == "lost":
            self._hang_up()
            return
        self._respond(status, headers, content, cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return body
        data, rest = b"", body
        while match := re.match(rb"([0-9a-f]+)[^\r\n]*\r\n", rest):
            size = int(match[1], 16)
            data += rest[match.end() : match.end() + size]
            rest = rest[match.end() + size + 2 :]
            if not size:
                break
        return data

    def _answer_to(
        self, store: ObjectStore, bucket: str, key: str, query: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        method = self.command
        if not key:
            return self._of_bucket(store, bucket, query, body)
        if method in ("GET", "HEAD"):
            return self._read(store.get(bucket, key))
        if method == "PUT" and "uploadId" in query:
            return 200, {"ETag": store.add_part(query["uploadId"], int(query["partNumber"]), body)}, b""
        if method == "PUT":
            store.check(bucket, key, self.headers)
            if source := self.headers.get("x-amz-copy-source"):
                from_bucket, _, name = urllib.parse.unquote(source).lstrip("/").partition("/")
                made = store._put(bucket, key, store.get(from_bucket, name).data)
                return 200, {}, _xml("CopyObjectResult", f"<ETag>{escape(made.etag)}</ETag>")
            return 200, {"ETag": store._put(bucket, key, body).etag}, b""
        if method == "POST" and "uploads" in query:
            name = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{store.begin_upload()}</UploadId>"
            return 200, {}, _xml("InitiateMultipartUploadResult", name)
        if method == "POST" and "uploadId" in query:
            store.check(bucket, key, self.headers)
            numbers = [int(one) for one in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
            made = store.complete(bucket, key, query["uploadId"], numbers)
            return 200, {}, _xml("CompleteMultipartUploadResult", f"<ETag>{escape(made.etag)}</ETag>")
        if method == "DELETE" and "uploadId" in query:
            store.abort(query["uploadId"])
            return 204, {}, b""
        if method == "DELETE":
            store.check(bucket, key, self.headers)
            store.delete(bucket, key)
            return 204, {}, b""
        raise Refused(501, "NotImplemented")

    def _of_bucket(
        self, store: ObjectStore, bucket: str, query: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if not bucket:
            names = "".join(f"<Bucket><Name>{name}</Name></Bucket>" for name in store._history)
            return 200, {}, _xml("ListAllMyBucketsResult", f"<Buckets>{names}</Buckets>")
        store.states(bucket)
        if self.command == "POST" and "delete" in query:
            keys = [urllib.parse.unquote(_unescape(one)) for one in re.findall(r"<Key>(.*?)</Key>", body.decode())]
            for key in keys:
                store.delete(bucket, key)
            return 200, {}, _xml("DeleteResult", "".join(f"<Deleted><Key>{escape(k)}</Key></Deleted>" for k in keys))
        if self.command == "GET" and "location" in query:
            return 200, {}, _xml("LocationConstraint", "")
        if self.command == "GET":
            return 200, {}, _listing(store, bucket, query)
        if self.command == "HEAD":
            return 200, {}, b""
        raise Refused(501, "NotImplemented")

    def _read(self, found: _Object) -> tuple[int, dict[str, str], bytes]:
        headers = {"ETag": found.etag, "Last-Modified": email.utils.formatdate(found.modified, usegmt=True)}
        data, asked = found.data, self.headers.get("Range")
        if asked and (match := re.fullmatch(r"bytes=(\d*)-(\d*)", asked)):
            first, last = match.groups()
            start = int(first) if first else max(0, len(data) - int(last))
            stop = min(int(last) + 1, len(data)) if first and last else len(data)
            if start >= len(data):
                raise Refused(416, "InvalidRange")
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            return 206, headers, data[start:stop]
        return 200, headers, data

    def _refuse(self, status: int, code: str) -> None:
        self._respond(status, {}, _error(code))

    def _respond(self, status: int, headers: Mapping[str, str], content: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)


def _listing(store: ObjectStore, bucket: str, query: Mapping[str, str]) -> bytes:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    most, after = int(query.get("max-keys", 1000)), query.get("continuation-token", query.get("start-after", ""))
    entries: dict[str, _Object | None] = {}
    for key, found in store.listed(bucket, prefix):
        rest = key[len(prefix) :]
        if delimiter and delimiter in rest:
            entries.setdefault(prefix + rest.partition(delimiter)[0] + delimiter, None)
        else:
            entries[key] = found
    names = [name for name in sorted(entries) if name > after]
    shown, is_cut = names[:most], len(names) > most
    quote = urllib.parse.quote if query.get("encoding-type") == "url" else escape
    parts = [f"<Name>{bucket}</Name><Prefix>{quote(prefix)}</Prefix><KeyCount>{len(shown)}</KeyCount>"]
    parts.append(f"<MaxKeys>{most}</MaxKeys><IsTruncated>{str(is_cut).lower()}</IsTruncated>")
    if "encoding-type" in query:
        parts.append("<EncodingType>url</EncodingType>")
    if is_cut:
        parts.append(f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>")
    for name in shown:
        found = entries[name]
        if found is None:
            parts.append(f"<CommonPrefixes><Prefix>{quote(name)}</Prefix></CommonPrefixes>")
        else:
            when = datetime.datetime.fromtimestamp(found.modified, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            parts.append(f"<Contents><Key>{quote(name)}</Key><LastModified>{when}</LastModified>")
            parts.append(f"<ETag>{escape(found.etag)}</ETag><Size>{len(found.data)}</Size>")
            parts.append("<StorageClass>STANDARD</StorageClass></Contents>")
    return _xml("ListBucketResult", "".join(parts))


def _xml(name: str, inner: str) -> bytes:
    namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<?xml version="1.0" encoding="UTF-8"?><{name} xmlns="{namespace}">{inner}</{name}>'.encode()


def _error(code: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()


def _unescape(text: str) -> str:
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        text = text.replace(entity, character)
    return text
