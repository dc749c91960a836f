"""Prism, the portable runner of Beam's own project, for tests: built with Go, kept, started, and given workers.

    python tests/support/prism.py                        # build it now, as `make prism` does: minutes the first time
    python tests/support/prism.py pytest tests/transforms    # run tests of transforms on it, as `make test-prism` does
    CLIPMILL_TEST_ENVIRONMENT=EXTERNAL python tests/support/prism.py …    # with workers of a pool; or PROCESS

Prism and the program that starts a worker's process (`boot`) are built from the Go module proxy, in Beam's own version,
into a folder that later runs find again: `CLIPMILL_TEST_TOOLS`, or `~/.cache/clipmill-tests`. Where there is no Go, or
the module proxy cannot be reached, tests that need them are skipped, and say why; in CI any other failure is an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clipmill.files.processes import started
from clipmill.pipelines.interrupts import descendants

_PROGRAMS = {"prism": "go/cmd/prism", "container": "python/container"}
"""Programs by their paths in Beam's Go module. The second is called `boot` in Beam's images."""
_TESTS = Path(__file__).resolve().parents[1]
_BUILD_S = 1800
_UNREACHABLE = re.compile(
    r"dial tcp|no such host|proxyconnect|i/o timeout|connection re(fused|set)|50[234] |403 Forbidden"
)


class NoPrismError(Exception):
    """Prism cannot be had here, and why."""


def find_go() -> str:
    """Return the Go command; raise `NoPrismError` without one."""
    if (found := shutil.which("go") or shutil.which("/usr/local/go/bin/go")) is None:
        raise NoPrismError("no Go, which Prism is built with: install it (https://go.dev/doc/install)")
    return found


def build(program: str) -> Path:
    """Return a program of Beam's Go module, built once for this version of Beam.

    Raises:
        NoPrismError: Without Go.
        RuntimeError: If it cannot be built.
    """
    import apache_beam

    root = Path(os.environ.get("CLIPMILL_TEST_TOOLS") or Path.home() / ".cache" / "clipmill-tests")
    folder = root / f"beam-{apache_beam.__version__}"
    if (folder / program).exists():
        return folder / program
    go = find_go()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second waits for the first
        if (folder / program).exists():
            return folder / program
        module = f"github.com/apache/beam/sdks/v2/{_PROGRAMS[program]}@v{apache_beam.__version__}"
        environment = {**os.environ, "GOBIN": str(folder / ".new"), "GOFLAGS": "-buildvcs=false"}
        try:
            ran = subprocess.run(
                [go, "install", "-p", "1", module],
                check=False,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_BUILD_S,
            )
        except subprocess.TimeoutExpired as err:
            raise RuntimeError(f"go install {module} took over {_BUILD_S} s") from err
        if ran.returncode and _UNREACHABLE.search(ran.stderr):
            raise NoPrismError(f"the Go module proxy cannot be reached ({ran.stderr.strip().splitlines()[-1][-300:]})")
        if ran.returncode:
            raise RuntimeError(f"go install {module} failed: {ran.stderr[-2000:]}")
        os.replace(folder / ".new" / program, folder / program)
    return folder / program


def built_or_skipped(program: str) -> Path:
    """Return a program, or skip the test that asks for it, with the reason; in CI, a failed build is an error."""
    import pytest

    try:
        return build(program)
    except (NoPrismError, RuntimeError) as err:
        if os.environ.get("CI") and not isinstance(err, NoPrismError):
            raise
        pytest.skip(f"Prism: {err}")


class Prism:
    """A running Prism; a context manager."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        """Start it.

        Args:
            folder: For its log, and what it keeps.
            port: Where it listens; 0 for one that is free.
        """
        self.port = port or free_port()
        self._log = (folder / "prism.log").open("a")
        command = [str(build("prism")), f"-job_port={self.port}", "-serve_http=false", "-log_level=warn"]
        self.process = subprocess.Popen(
            [*command, "-log_kind=text"], cwd=folder, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        wait_for(self.port, self.process)

    def __enter__(self) -> Prism:
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)
        self._log.close()

    def options(self, *more: str) -> list[str]:
        """Return the options of a pipeline that it runs; without others, in the process that submits it."""
        return [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{self.port}",
            *(more or ["--environment_type=LOOPBACK"]),
        ]


class WorkerPool:
    """A pool that starts a process for each worker; a context manager."""

    def __init__(self, folder: Path, port: int = 0, **environment: str) -> None:
        """Start it; `environment` is added to that of the workers."""
        self.port = port or free_port()
        self.options = ["--environment_type=EXTERNAL", f"--environment_config=localhost:{self.port}"]
        self._log = (folder / "pool.log").open("a")
        module = "apache_beam.runners.worker.worker_pool_main"
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, f"--service_port={self.port}"],
            cwd=folder,
            env=_environment(**environment),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wait_for(self.port, self.process)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)
        self._log.close()


class PrismCluster:
    """Prism and a pool, of which either may be killed and started again; a context manager.

    Workers have the modules of the folder.
    """

    def __init__(self, folder: Path) -> None:
        """Start both."""
        self._folder = folder
        self._path = os.pathsep.join([str(folder), *filter(None, sys.path)])
        self._prism = Prism(folder)
        self._pool = WorkerPool(folder, PYTHONPATH=self._path)
        self._seen: set[tuple[int, int]] = set()
        self.options = self._prism.options(*self._pool.options)

    def __enter__(self) -> PrismCluster:
        return self

    def __exit__(self, *_: object) -> None:
        left = self.workers
        self._pool.__exit__()
        self._prism.__exit__()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def prism(self) -> subprocess.Popen:
        """The process of the job server."""
        return self._prism.process

    @property
    def pool(self) -> subprocess.Popen:
        """The process of the pool."""
        return self._pool.process

    @property
    def workers(self) -> set[int]:
        """The processes of workers, also of a pool that was killed."""
        found = {(pid, began) for pid in descendants(self.pool.pid) if (began := started(pid)) is not None}
        self._seen = {(pid, began) for pid, began in self._seen | found if started(pid) == began}
        return {pid for pid, _ in self._seen}

    def replace_dead(self) -> None:
        """Start again what was killed, where it was before."""
        _ = self.workers
        if self.prism.poll() is not None:
            self._prism.__exit__()
            self._prism = Prism(self._folder, self._prism.port)
        if self.pool.poll() is not None:
            self._pool.__exit__()
            self._pool = WorkerPool(self._folder, self._pool.port, PYTHONPATH=self._path)


def end(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    below = descendants(process.pid)
    process.kill()
    process.wait()
    for pid in below:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def process_options(folder: Path, **environment: str) -> list[str]:
    """Return the options for a process for each worker, which installs what is staged, into the folder.

    Prism quotes the ids of workers, which `boot` hands on to where they are looked up without quotes.
    """
    boot = folder / "boot"
    log, kept = shlex.quote(str(folder / "boot.log")), shlex.quote(str(folder))
    boot.write_text(
        f"""#!/usr/bin/env bash
arguments=()
for one in "$@"; do arguments+=("${{one//\\'/}}"); done
exec {shlex.quote(str(build("container")))} "${{arguments[@]}}" --semi_persist_dir={kept} >>{log} 2>&1
"""
    )
    boot.chmod(0o755)
    config = {
        "command": str(boot),
        "env": {"RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT": "1", **_environment(**environment)},
    }
    return ["--environment_type=PROCESS", f"--environment_config={json.dumps(config)}"]


def _environment(**more: str) -> dict[str, str]:
    """Return the environment of workers: the interpreter and the packages of this process."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen, seconds: float = 60) -> None:
    """Wait until a process listens at a port; end it if it does not."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
            return
        time.sleep(0.05)
    end(process)
    raise AssertionError(f"{process.args} does not listen at {port}")


def _run_on_prism(command: list[str]) -> int:
    """Run a command whose pipelines, made by `beam_helpers`, run on Prism.

    Workers are in the command's own process; or with `CLIPMILL_TEST_ENVIRONMENT`, in processes that a pool (`EXTERNAL`)
    or Prism itself (`PROCESS`) starts.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clipmill-prism-")))
        prism = stack.enter_context(Prism(folder))
        where = os.environ.get("CLIPMILL_TEST_ENVIRONMENT", "LOOPBACK")
        path = os.pathsep.join(str(_TESTS / name) for name in ("contracts", "support", "fuzz"))
        match where:
            case "LOOPBACK":
                options = prism.options()
            case "EXTERNAL":
                options = prism.options(*stack.enter_context(WorkerPool(folder, PYTHONPATH=path)).options)
            case "PROCESS":
                options = prism.options(*process_options(folder, PYTHONPATH=path))
            case _:
                sys.exit(f"CLIPMILL_TEST_ENVIRONMENT is {where!r}; it may be LOOPBACK, EXTERNAL or PROCESS")
        return subprocess.run(
            command, check=False, env={**os.environ, "CLIPMILL_TEST_BEAM": shlex.join(options)}
        ).returncode


if __name__ == "__main__":
    try:
        if len(sys.argv) > 1:
            sys.exit(_run_on_prism(sys.argv[1:]))
        for name in _PROGRAMS:
            print(build(name))
    except NoPrismError as err:
        print(f"left out: tests on Prism; {err}", file=sys.stderr)
