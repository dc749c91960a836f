"""A real Spark standalone cluster on this machine: a master, two workers, and a Connect server where one is wanted.

Every process has its own folder and a port that the system chose. All of them end with the process that started them,
also if that one is killed: the executors and Python workers end with theirs.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

from clipmill.pipelines.interrupts import descendants

WORKERS, CORES = 2, 2
_START_S = 300.0
_END_S = 10.0
_ENDING_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL", "--"]
_MASTER = "org.apache.spark.deploy.master.Master"
_WORKER = "org.apache.spark.deploy.worker.Worker"
_CONNECT = "org.apache.spark.sql.connect.service.SparkConnectServer"
_LIGHT_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
SETTINGS = {
    "spark.executor.memory": "512m",
    "spark.executor.cores": str(CORES),
    "spark.executor.extraJavaOptions": _LIGHT_JAVA,
    "spark.driver.memory": "512m",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "2",
    # A lost executor is noticed by its closed connection; these only bound what waits.
    "spark.shuffle.service.enabled": "false",
}
"""Settings of an application that fits into the cluster."""


class Cluster:
    """A running cluster; a context manager that leaves no process behind."""

    def __init__(self, folder: Path) -> None:
        """Set the folder of logs and work, which lives as long as the cluster."""
        self._folder = folder
        self._master: subprocess.Popen | None = None
        self._workers: list[subprocess.Popen] = []
        self._others: list[subprocess.Popen] = []
        self._started = 0
        self.url = ""
        """The master's, `spark://…`."""

    def __enter__(self) -> Self:
        try:
            self._master, log = self._start(_MASTER, "--host", "127.0.0.1", "--port", "0", "--webui-port", "0")
            self.url = _said(self._master, log, r"Starting Spark master at (spark://\S+)")
            begun = [self._start_worker() for _ in range(WORKERS)]
            for process, log in begun:
                _said(process, log, r"(Successfully registered with master)")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self._others, *self._workers, *filter(None, [self._master])):
            stop(process)

    def _start_worker(self) -> tuple[subprocess.Popen, Path]:
        # hosts of their own names: Spark runs no speculative copy of a task on the host of the first
        place = ["--host", f"127.0.0.{2 + self._started % 100}", "--port", "0", "--webui-port", "0"]
        size = ["--cores", str(CORES), "--memory", "600m", "--work-dir", str(self._folder / f"work-{self._started}")]
        process, log = self._start(_WORKER, *place, *size, self.url)
        self._workers.append(process)
        return process, log

    def replace_dead_workers(self) -> None:
        """Start a worker for each that was killed, as the supervisor of a real cluster does, and wait for it."""
        dead = [process for process in self._workers if process.poll() is not None]
        self._workers = [process for process in self._workers if process not in dead]
        for process, log in [self._start_worker() for _ in dead]:
            _said(process, log, r"(Successfully registered with master)")

    def start_connect(self, **conf: str) -> str:
        """Start a Connect server as an application of this cluster, and return its URL, `sc://…`."""
        submit = ["spark-submit", "--master", self.url, "--class", _CONNECT]
        settings = {**SETTINGS, "spark.connect.grpc.binding.port": "0", **conf}
        for name, value in settings.items():
            submit += ["--conf", f"{name}={value}"]
        process, log = self._start(*submit[1:], "spark-internal", program=submit[0])
        self._others.append(process)
        port = _said(process, log, r"Spark Connect server started at: \S*?:(\d+)")
        return f"sc://127.0.0.1:{port}"

    def _start(self, *arguments: str, program: str = "spark-class") -> tuple[subprocess.Popen, Path]:
        self._started += 1
        log = self._folder / f"{self._started}-{arguments[0].rpartition('.')[2]}.log"
        with log.open("w") as said:
            process = subprocess.Popen(
                [*_ENDING_WITH_PARENT, str(_spark_home() / "bin" / program), *arguments],
                cwd=self._folder,
                # a Connect server takes the memory of Spark's daemons for its own, which is too little
                env={**_environment(), **({} if program == "spark-submit" else {"SPARK_DAEMON_MEMORY": "256m"})},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests, which end the cluster in order
            )
        return process, log

    @property
    def workers(self) -> list[int]:
        """The processes of Spark's workers that are alive."""
        return [process.pid for process in self._workers if process.poll() is None]

    @property
    def executors(self) -> list[int]:
        """The JVMs of all executors of all applications."""
        return self._below("CoarseGrainedExecutorBackend")

    @property
    def daemons(self) -> list[int]:
        """The processes that start Python workers, one for each executor that has run Python."""
        python = self._below("pyspark.daemon")
        return [pid for pid in python if _parent(pid) not in python]

    @property
    def python_workers(self) -> list[int]:
        """The Python workers."""
        python = self._below("pyspark.daemon")
        return [pid for pid in python if _parent(pid) in python]

    def _below(self, word: str) -> list[int]:
        pids = {pid for worker in self.workers for pid in descendants(worker)}
        return sorted(pid for pid in pids if word in _command_line(pid))

    def logs(self) -> str:
        """Return the last lines of every log, for the message of a failure."""
        return "\n".join(f"--- {path}\n{path.read_text()[-3000:]}" for path in sorted(self._folder.glob("*.log")))


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Yield a cluster whose logs are in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with Cluster(folder) as cluster:
        yield cluster


def same_path() -> dict[str, str]:
    """Return the settings with which executors find the package where this process does."""
    path = os.pathsep.join(filter(None, sys.path))
    return {"spark.pyspark.python": sys.executable, "spark.executorEnv.PYTHONPATH": path}


def command_options(cluster: Cluster, settings: Mapping[str, str]) -> list[str]:
    """Return the options of `clipmill …` for a job on the cluster."""
    pairs = {**SETTINGS, **settings}.items()
    return ["--engine", "spark", "--master", cluster.url, *(f"--conf={name}={value}" for name, value in pairs)]


def stop(process: subprocess.Popen) -> None:
    """End a process with all of its group, in order if it can."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(is_so: Callable[[], object], what: str, *, seconds: float = _START_S) -> None:
    """Wait until something is the case."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)


def _said(process: subprocess.Popen, log: Path, pattern: str) -> str:
    """Return what a process says in its log once it is ready."""
    found: list[str] = []

    def is_there() -> bool:
        found.extend(re.findall(pattern, log.read_text(errors="replace")))
        return bool(found) or process.poll() is not None

    wait_until(is_there, pattern)
    if not found:
        raise RuntimeError(f"a process of the cluster ended:\n{log.read_text()[-3000:]}")
    return found[0]


def _environment() -> Mapping[str, str]:
    """Return an environment that knows neither the package nor its interpreter: applications bring both."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_", "PYTHON"))}
    return {
        **kept,
        "SPARK_DAEMON_JAVA_OPTS": f"{_LIGHT_JAVA} -Dspark.master.rest.enabled=false",  # which has a port of its own
        "SPARK_LAUNCHER_OPTS": _LIGHT_JAVA,
        "SPARK_SUBMIT_OPTS": _LIGHT_JAVA,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_NO_DAEMONIZE": "1",
    }


def _spark_home() -> Path:
    from pyspark.find_spark_home import _find_spark_home

    return Path(_find_spark_home())


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return 0
