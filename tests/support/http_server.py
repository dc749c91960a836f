"""A real HTTP server on the loopback, which is as good or as bad as the path that is asked for."""

import base64
import gzip
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

# 16×12 pixels.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1xeXBk"
    "eFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2P/wAARCAAMABAD"
    "ASIAAhEBAxEB/8QAFAABAAAAAAAAAAAAAAAAAAAABf/EABoQAAICAwAAAAAAAAAAAAAAAAADBCEFIjH/xAAVAQEBAAAAAAAAAAAAAAAAAAAAAv/E"
    "ABkRAAMAAwAAAAAAAAAAAAAAAAACBAMFIf/aAAwDAQACEQMRAD8ADj43monHxvNRWOhdUJx0LqhlrYjX2tw//9k="
)


class LoopbackServer:
    """Serves files, and answers badly on request. A context manager; it listens from `with` on.

    `server.files[path] = (body, content_type)` adds a file; there is `/photo.jpg`. The paths that misbehave:

    - `/status/<code>`: that status, with `?retry_after=…` if wanted; `/once/<code>`: that status once, then the photo
    - `/slow`: answers when the server stops; `/drip`: a byte now and then; `/drip-headers`: the same before the body
    - `/cut-off`: half of what was declared; `/reset`: the connection is reset; `/cut-off-once`: the first time only
    - `/declares?length=…`: the photo under that Content-Length
    - `/redirect?to=…[&status=…]`, `/loop`, `/hops/<n>`: n redirects, then the photo
    - `/gzip`, `/gzip-cut-off`, `/bomb`: 64 MB of zeros in gzip; `/encoding/<name>`: claims that Content-Encoding
    - `/chunked`, `/chunked-cut-off`, `/endless`: chunks until somebody hangs up
    - `/big?bytes=…`, `/empty`, `/no-content`
    - `/not-http`: an answer that is no HTTP

    Asked for `http://host/path`, as a proxy is, it answers for that path. It refuses to CONNECT with 403.

    Attributes:
        files: From a path, percent-decoded, to its body and Content-Type.
        counts: How often each path was asked for, without its query.
        targets: What was asked for, as it stood in the request line, in order.
        headers: The headers of each request, names in lower case, in order.
    """

    def __init__(self) -> None:
        self.files = {"/photo.jpg": (JPEG, "image/jpeg")}
        self.counts = Counter()
        self.targets = []
        self.headers = []
        self.connections = 0
        self.stopping = threading.Event()

    def __enter__(self):
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.loopback = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        pass  # clients hang up in the middle here, and are meant to


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def setup(self):
        super().setup()
        self.loopback.connections += 1

    @property
    def loopback(self):
        return self.server.loopback

    def do_CONNECT(self):
        self.loopback.targets.append(self.path)
        self._answer(403, b"no tunnels here")

    def do_GET(self):
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        path = unquote(parts.path)
        self.loopback.counts[path] += 1
        self.loopback.targets.append(self.path)
        self.loopback.headers.append({name.lower(): value for name, value in self.headers.items()})
        if path in self.loopback.files:
            body, content_type = self.loopback.files[path]
            self._answer(200, body, content_type)
            return
        first, _, argument = path[1:].partition("/")
        route = getattr(self, "_serve_" + first.replace("-", "_"), None)
        if route is None:
            self._answer(404, b"no such page")
        else:
            route(argument)

    def _answer(self, status, body=b"", content_type="text/plain; charset=utf-8", **headers):
        self.send_response(status)
        headers = {"content_type": content_type, "content_length": len(body)} | headers
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-").title(), str(value))
        self.end_headers()
        self.wfile.write(body)

    def _answer_photo(self, **headers):
        self._answer(200, JPEG, "image/jpeg", **headers)

    def _hang_up(self):
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def _drip(self, piece):
        end = time.monotonic() + 60  # an end of its own, for the test of a client that waits for ever
        while not self.loopback.stopping.wait(0.05) and time.monotonic() < end:
            self.wfile.write(piece)

    def _serve_status(self, code):
        self._answer(int(code), b"sorry", retry_after=self.query.get("retry_after"))

    def _serve_once(self, code):
        if self.loopback.counts[unquote(urlsplit(self.path).path)] == 1:
            self._serve_status(code)
        else:
            self._answer_photo()

    def _serve_slow(self, _):
        self.loopback.stopping.wait(60)
        self._answer_photo()

    def _serve_drip(self, _):
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self._drip(b"x")

    def _serve_drip_headers(self, _):
        self.send_response(200)
        self.flush_headers()
        self._drip(b"X-More: 1\r\n")

    def _serve_cut_off(self, _):
        self.send_response(200)
        self.send_header("Content-Length", str(len(JPEG)))
        self.end_headers()
        self.wfile.write(JPEG[: len(JPEG) // 2])
        self._hang_up()

    def _serve_cut_off_once(self, _):
        if self.loopback.counts["/cut-off-once"] == 1:
            self._serve_cut_off("")
        else:
            self._answer_photo()

    def _serve_reset(self, _):
        self.close_connection = True
        # Lingering for no time at all sends RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _serve_declares(self, _):
        self._answer_photo(content_length=self.query["length"])
        self._hang_up()

    def _serve_redirect(self, _):
        self._answer(int(self.query.get("status", 302)), b"over there", location=self.query["to"])

    def _serve_loop(self, _):
        self._answer(302, location="/loop")

    def _serve_hops(self, left):
        if left == "0":
            self._answer_photo()
        else:
            self._answer(301, location=f"{int(left) - 1}")

    def _serve_gzip(self, _):
        body = gzip.compress(JPEG[:100]) + gzip.compress(JPEG[100:])
        self._answer(200, body, "image/jpeg", content_encoding="gzip")

    def _serve_gzip_cut_off(self, _):
        self._answer(200, gzip.compress(JPEG)[:-20], "image/jpeg", content_encoding="gzip")

    def _serve_bomb(self, _):
        self._answer(200, gzip.compress(bytes(64 * 2**20), 9), "image/bmp", content_encoding="gzip")

    def _serve_encoding(self, name):
        self._answer_photo(content_encoding=name)

    def _chunk(self, data):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _start_chunks(self):
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _serve_chunked(self, _):
        self._start_chunks()
        for start in range(0, len(JPEG), 100):
            self._chunk(JPEG[start : start + 100])
        self._chunk(b"")

    def _serve_chunked_cut_off(self, _):
        self._start_chunks()
        self._chunk(JPEG[:100])
        self._hang_up()

    def _serve_endless(self, _):
        self._start_chunks()
        while not self.loopback.stopping.is_set():
            self._chunk(bytes(65536))

    def _serve_big(self, _):
        self._answer(200, bytes(int(self.query["bytes"])), "application/octet-stream")

    def _serve_empty(self, _):
        self._answer(200)

    def _serve_no_content(self, _):
        self.send_response(204)
        self.end_headers()

    def _serve_not_http(self, _):
        self.close_connection = True
        self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
