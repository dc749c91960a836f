"""Where the encoder processes of a user listen, and how one is found or started.

The sockets are in a folder that only its user can enter. Both sides also check the user of the other, so that no other
user is served, or asked. Whoever needs a process first starts it, under a lock:

    connect ─ works ─► use it
       └ refused ─► lock ─► connect ─ works ─► use it (another worker was first)
                              └ refused ─► listen on a new socket, start a process that inherits it ─► connect

The socket accepts connections before its process has started. If the process dies, they are closed: whoever waits then
starts another.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from ...files.cache import cache_root, locked
from ...files.json_text import json_text
from ...files.processes import pid_namespace, started
from ...metrics.env_exporter import FILE_VARIABLE, PORT_VARIABLE
from ..runtimes.onnx import TENSORRT
from ..spec import EncoderSpec
from .memory import create
from .wire import peer_of

_PROTOCOL = 1
"""Incremented with every change of the messages."""

_MAX_PATH = 100
"""Characters of a socket's path; the kernel takes 107."""

_LOG_BYTES = 2000

_children: list[subprocess.Popen[bytes]] = []
"""Processes that this one started: polled, so that none stays a zombie."""


class Unavailable(Exception):
    """This machine cannot have an encoder process."""


class Place:
    """The place of one encoder process: its socket, its log, and its owner."""

    def __init__(self, model: str, spec: EncoderSpec, device: str) -> None:
        """Name the place.

        Args:
            model: Identifies weights and preprocessing.
            spec: Has the cache directory.
            device: `cpu` or `cuda:X`.

        Raises:
            Unavailable: If there can be none.
        """
        # A process serves workers with the same code and packages only, which it imports from where they do.
        parts = [
            _PROTOCOL,
            model,
            device,
            str(cache_root(spec.cache_dir)),
            os.path.realpath(__file__),
            os.path.realpath(sys.prefix),
            *(os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", TENSORRT)),
        ]
        name = hashlib.sha256(json_text(parts).encode()).hexdigest()[:24]
        self._folder = _own_folder()
        self.socket = self._folder / f"{name}.sock"
        self.log = self._folder / f"{name}.log"
        self.owner = self._folder / f"{name}.json"
        if len(str(self.socket)) > _MAX_PATH:
            raise Unavailable(f"the path of its socket is too long: {self.socket}; set TMPDIR to a shorter one")

    def connect(self) -> socket.socket:
        """Return a connection to the process, which is started if none listens.

        Raises:
            Unavailable: If it cannot be started.
        """
        try:
            if connection := connected(self.socket):
                return connection
            with self.lock():
                connection = connected(self.socket)
                if connection is None:
                    self._start()
                    connection = connected(self.socket)
        except OSError as err:
            raise Unavailable(f"it cannot be started: {err}") from err
        if connection is None:
            raise Unavailable(f"it does not listen on {self.socket}")
        return connection

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Return a block that only one process of this user enters at a time."""
        return locked(self._folder / "lock", "the encoder process")

    def last_words(self) -> str:
        """Return the last line of the process's log, for a message."""
        try:
            lines = self.log.read_bytes()[-_LOG_BYTES:].decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def remove(self) -> None:
        """Delete the files of the process, which ends; the caller holds the lock."""
        for path in (self.socket, self.log, self.owner):
            path.unlink(missing_ok=True)

    def _start(self) -> None:
        for child in _children[:]:
            if child.poll() is not None:
                _children.remove(child)
        self.remove()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, self.log.open("wb") as log:
            listener.bind(str(self.socket))
            listener.listen(128)
            descriptor = listener.fileno()
            module = f"{__package__}.server"
            child = subprocess.Popen(
                [sys.executable, "-c", f"from {module} import main; main()", str(descriptor), str(self.socket)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[descriptor],
                start_new_session=True,  # signals for the group of the worker that came first are not for it
                cwd=self._folder,
                env=_environment(),
            )
        _children.append(child)
        owner = {"pid": child.pid, "place": pid_namespace(), "started": started(child.pid), "started_by": os.getpid()}
        self.owner.write_text(json_text(owner), encoding="utf-8")


def connected(path: Path) -> socket.socket | None:
    """Connect to a socket; return None if nobody listens.

    Raises:
        Unavailable: If another user does.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(str(path))
        user = peer_of(connection)[1]
    except (FileNotFoundError, ConnectionError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    if user != os.geteuid():
        connection.close()
        raise Unavailable(f"user {user} listens on {path}")
    return connection


def check_available() -> None:
    """Check what does not depend on the model.

    Raises:
        Unavailable: If this machine cannot have an encoder process.
    """
    if not sys.executable or not all(
        hasattr(module, name)
        for module, name in ((os, "memfd_create"), (socket, "SO_PEERCRED"), (socket, "SOCK_SEQPACKET"))
    ):
        raise Unavailable("this needs Linux")
    try:
        os.close(create(1))
    except OSError as err:
        raise Unavailable(f"there is no shared memory: {err}") from err
    _own_folder()


def _own_folder() -> Path:
    """Return the folder of the sockets, which belongs to this user alone."""
    path = Path(tempfile.gettempdir(), f"clipmill-{os.geteuid()}")
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        status = path.lstat()
    except OSError as err:
        raise Unavailable(f"there is no folder for its socket: {err}") from err
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise Unavailable(f"{path} must be a folder that only its owner, this user, can enter (mode 700)")
    return path


def _environment() -> dict[str, str]:
    """Return the environment with this process's module path, which engines extend, and without its metrics."""
    kept = {name: value for name, value in os.environ.items() if name not in (FILE_VARIABLE, PORT_VARIABLE)}
    return {**kept, "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)}
