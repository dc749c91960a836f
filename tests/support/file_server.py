"""A server on the loopback of one file, which cuts off, stalls, corrupts and lies as it is told."""

from __future__ import annotations

import contextlib
import socket
import threading
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ETAG = '"version-1"'


class Quiet(BaseHTTPRequestHandler):
    """A handler without a log, for clients that hang up, as they are meant to."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the kernel holds a body back for 40 ms after its headers

    def log_message(self, *args: object) -> None: ...

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def answer(self, status: int, **headers: str) -> None:
        """Send a status and headers, `_` in their names for `-`, and no body."""
        self.send_response(status)
        for name, value in {"Content_Length": "0", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


class Loopback:
    """A server in a thread. A context manager."""

    handler: type[BaseHTTPRequestHandler]

    def __init__(self) -> None:
        self.release = threading.Event()
        self.stopping = threading.Event()

    def __enter__(self):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"


class _FileHandler(Quiet):
    def do_GET(self) -> None:
        server: FileServer = self.server.owner
        server.targets.append(self.path)
        server.ranges.append((self.headers["Range"], self.headers["If-Range"]))
        server.headers.append(self.headers)
        step = server.plan.pop(0) if server.plan else "well"
        if step == "hold":
            server.release.wait(60)
        if step.isdecimal():
            self.answer(int(step), Retry_After="0")
            return
        self._send(server, step)

    def _send(self, server: FileServer, step: str) -> None:
        content, start = server.content, 0
        asked = self.headers["Range"]
        if asked and step != "ignore-range" and self.headers["If-Range"] in (None, server.etag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self.answer(416, Content_Range=f"bytes */{len(content)}")
            return
        body = content[start:]
        if step == "corrupt":
            body = bytes(byte ^ 1 for byte in body)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Type", "text/html" if step == "html" else "application/octet-stream")
        if step == "gzip":
            self.send_header("Content-Encoding", "gzip")
        if step.startswith("chunked"):
            self._send_chunks(body, step)
            return
        if step == "no-length":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = body[: len(body) // 2] if step in ("cut", "stall", "drip") else body
        self.wfile.write(half)
        if step == "stall":
            server.stopping.wait(60)
        while step == "drip" and not server.stopping.wait(0.02):
            self.wfile.write(b"x")
        if half != body or step == "no-length":
            self._hang_up()

    def _send_chunks(self, body: bytes, step: str) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        half = len(body) // 2
        for piece in (body[:half],) if step == "chunked-cut" else (body[:half], body[half:], b""):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if step == "chunked-cut":
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)


class FileServer(Loopback):
    """Serves `content` under every path. A context manager.

    `plan` says what happens to the next requests, one entry each; afterwards all are served well:

    - `cut`: half of what was promised, then the line is cut; `stall`: the same, then silence; `drip`: then drops
    - `corrupt`: other bytes of the same length; `ignore-range`: the whole file, whatever was asked for
    - `chunked`: without a length, in chunks; `chunked-cut`: the same, cut; `no-length`: until the line is closed
    - `hold`: begins when `release` is set; `html`: a web page; `gzip`: claims to have packed it
    - a number: that status

    Attributes:
        content: The file.
        etag: What the server calls this version of it; None for nothing.
        ranges: The Range and If-Range headers of every request.
        headers: All headers of every request.
        targets: What was asked for, as it stood in the request line.
        release: Lets a request that is held go on.
    """

    handler = _FileHandler

    def __init__(self, content: bytes, *plan: str) -> None:
        super().__init__()
        self.content = content
        self.plan = list(plan)
        self.etag: str | None = ETAG
        self.ranges: list[tuple[str | None, str | None]] = []
        self.targets: list[str] = []
        self.headers: list[Message] = []

    def url(self, path: str = "/models/weights.pt") -> str:
        return self.address + path
