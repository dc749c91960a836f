"""Jobs on a cluster of which something is killed again and again, and what they must leave: on Spark's, and on Prism.

File operations below the folder of the inputs take longer than they would, in every process of a job, so that kills hit
the moments between them.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import kills
import pyarrow.parquet as pq
from index_helpers import assert_same, clustered, write_dataset
from prism import PrismCluster
from spark_cluster import Cluster, command_options, same_path

from clipmill.indexes import open_index
from clipmill.indexes.add import add_to_index
from clipmill.indexes.build import IndexOptions, build_index
from clipmill.pipelines.interrupts import descendants

SHARDS = kills.ROWS // kills.ROWS_PER_SHARD
OLD_ROWS, NEW_ROWS, GROUP_ROWS = 1200, 600, 150
_INDEX = IndexOptions(factory="IVF16_HNSW16,SQ8", queries=50, rows_per_shard=GROUP_ROWS)
_PATIENCE_S = 240.0

Moments = Mapping[str, Callable[[], bool]]
"""What is looked for in the output before something is killed, by the name of what the job does then."""

_SLOW_FILES = """
import os, time

HERE = os.path.dirname(os.path.abspath(__file__))

def slow(function):
    def slowed(path, *args, **kwargs):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(HERE + "/out"):
            time.sleep(0.05)
        return function(path, *args, **kwargs)
    return slowed

for name in ("replace", "unlink", "remove", "rmdir"):
    setattr(os, name, slow(getattr(os, name)))
"""


def prepare(folder: Path) -> Path:
    """Write inputs, slow files, two datasets, and the index of both that nothing disturbed."""
    kills.write_inputs(folder)
    (folder / "sitecustomize.py").write_text(_SLOW_FILES)
    vectors = clustered(OLD_ROWS + NEW_ROWS)
    write_dataset(folder / "data", [*vectors[:OLD_ROWS]], parts=4)
    write_dataset(folder / "more", [*vectors[OLD_ROWS:]], parts=2, first=OLD_ROWS)
    build_index([str(folder / "data")], str(folder / "expected"), _INDEX)
    add_to_index([str(folder / "more")], str(folder / "expected"), _INDEX)
    return folder


class KilledJobs:
    """Jobs, and the kills that they went through. Subclasses know a cluster."""

    victims: tuple[str, ...] = ("driver",)

    def __init__(self, folder: Path, draw: random.Random, options: list[str]) -> None:
        """`folder` is from `prepare`; `draw` decides when, and what is killed; `options` are the engine's."""
        self.done: collections.Counter[str] = collections.Counter()
        self._folder = folder
        self._draw = draw
        self._options = options

    def _alive(self, process: subprocess.Popen, victim: str) -> list[int]:
        """Return the processes of a kind."""
        raise NotImplementedError

    def _replace_dead(self) -> None:
        """Start what was killed and does not come back by itself."""
        raise NotImplementedError

    def _orphans(self) -> list[int]:
        """Return processes that may still work for a driver that is gone."""
        raise NotImplementedError

    @property
    def kills(self) -> int:
        """How many there were."""
        return sum(self.done[f"{victim} killed"] for victim in self.victims)

    def embed(self, count: int) -> None:
        """Kill embedding so many times more, and compare every dataset with that of an undisturbed job."""
        until = self.kills + count
        while self.kills < until:
            output = self._folder / f"out-{self.done['embed jobs']}"
            whole: dict[str, bytes] = {}
            while True:
                self._replace_dead()
                process = kills.start(self._folder, output, *self._options)
                code = self._disturb(process, self._moments_of_embedding(output), until)
                there = kills.manifests(output)
                assert whole.items() <= there.items(), "a shard that was whole was done again"
                whole = there
                _check_visible(output)
                if code == 0:
                    break
            kills.check(output)
            self.done["embed jobs"] += 1

    def index(self, count: int) -> None:
        """Kill building and adding so many times more, and compare every index with one that nothing disturbed."""
        until = self.kills + count
        while self.kills < until:
            output = self._folder / f"out-index-{self.done['indexes']}"
            build = ["-o", str(output), "--factory", str(_INDEX.factory)]
            some = min(until, self.kills + self._draw.randint(0, 2))
            self._until_done(output, "index build", "data", build, OLD_ROWS, some)
            self._until_done(output, "index add", "more", ["--add-to", str(output)], OLD_ROWS + NEW_ROWS, until)
            self._clean_up(output)
            assert_same(self._folder / "expected", output)
            self.done["indexes"] += 1

    def _clean_up(self, output: Path) -> None:
        """Let the next command delete what is left by one that was killed after its index was complete."""
        if (output / "_lock.json").exists() or (output / "_staging").exists():
            command = ["index", str(self._folder / "more"), "--add-to", str(output), "--skip-existing"]
            process = kills.start_command(self._folder, *command, *self._options)
            assert process.wait(timeout=_PATIENCE_S) == 0, kills.said(self._folder)

    def _until_done(self, output: Path, phase: str, dataset: str, options: list[str], rows: int, until: int) -> None:
        """Start a command until the index has so many rows; before, it does not open, or has those that it had."""
        before = _rows_of(output)
        shards = _row_groups(self._folder / dataset)
        command = ["index", str(self._folder / dataset), *options, "--queries", "50"]
        command += ["--rows-per-shard", str(GROUP_ROWS), *self._options]
        while (found := _rows_of(output)) != rows:
            assert found == before
            self._replace_dead()
            process = kills.start_command(self._folder, *command)
            self._disturb(process, self._moments_of_index(output, phase, shards), until)

    def _moments_of_embedding(self, output: Path) -> Moments:
        wanted = self._draw.randrange(SHARDS)
        return {
            "embed": lambda: len(kills.manifests(output)) >= wanted,
            "publish": lambda: bool(_unlisted_parts(output)),
            "finish": lambda: len(kills.manifests(output)) == SHARDS,
        }

    def _moments_of_index(self, output: Path, phase: str, shards: int) -> Moments:
        wanted = self._draw.randrange(1, shards)
        return {
            phase: lambda: len(_reports(output)) >= wanted,
            f"{phase}: merge": lambda: len(_reports(output)) == shards,
        }

    def _disturb(self, process: subprocess.Popen, moments: Moments, until: int) -> int:
        """Kill at moments of one run of a command, and return its exit code."""
        self.done["starts"] += 1
        while process.poll() is None and self.kills < until:
            name = self._draw.choice(list(moments))
            is_of_driver = name.endswith(("finish", "merge"))
            victim = self._draw.choice(self.victims + ("driver",) * (5 if is_of_driver else 0))
            end = time.monotonic() + _PATIENCE_S
            while process.poll() is None and not moments[name]() and time.monotonic() < end:
                time.sleep(0.005)
            time.sleep(self._draw.random() * (1.5 if is_of_driver else 0.3))
            if self._kill(process, victim):
                self.done[f"{victim} killed"] += 1
                self.done[f"kills in {name}"] += 1
            if victim == "driver":
                break
            self._replace_dead()
            time.sleep(self._draw.random())
        code = process.wait(timeout=_PATIENCE_S)
        said = kills.said(self._folder)
        assert code in (0, 1, -signal.SIGKILL), said
        errors = [line for line in said.splitlines() if line.startswith("Error: ")]
        # a driver may be killed while it says why it ends
        assert len(errors) == (code == 1) or (code < 0 and len(errors) == 1), said
        assert "Traceback" not in said or "WARN TaskSetManager" in said, said  # Spark's own log shows those of workers
        self._wait_for_orphans()
        return code

    def _kill(self, process: subprocess.Popen, victim: str) -> bool:
        alive = self._alive(process, victim)
        if process.poll() is not None or not alive:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._draw.choice(alive), signal.SIGKILL)
            return True
        return False

    def _wait_for_orphans(self) -> None:
        """Sometimes start the next command while workers of the last one still run, and sometimes after them."""
        end = time.monotonic() + self._draw.choice([0, 20])
        while self._orphans() and time.monotonic() < end:
            time.sleep(0.1)


class KilledOnSpark(KilledJobs):
    """Jobs on a standalone cluster."""

    victims = ("executor", "python daemon", "python worker", "spark worker", "driver")

    def __init__(self, cluster: Cluster, folder: Path, draw: random.Random) -> None:
        settings = same_path()
        settings["spark.executorEnv.PYTHONPATH"] = f"{folder}{os.pathsep}{settings['spark.executorEnv.PYTHONPATH']}"
        super().__init__(folder, draw, command_options(cluster, settings))
        self._cluster = cluster

    def _alive(self, process: subprocess.Popen, victim: str) -> list[int]:
        return {
            "executor": lambda: self._cluster.executors,
            "python daemon": lambda: self._cluster.daemons,
            "python worker": lambda: self._cluster.python_workers,
            "spark worker": lambda: self._cluster.workers,
            "driver": lambda: [process.pid, *(pid for pid in descendants(process.pid) if _is_java(pid))],
        }[victim]()

    def _replace_dead(self) -> None:
        self._cluster.replace_dead_workers()

    def _orphans(self) -> list[int]:
        return self._cluster.executors


class KilledOnPrism(KilledJobs):
    """Jobs of Beam on Prism, whose workers a pool starts. Neither tries a bundle again: the command does."""

    victims = ("sdk worker", "pool", "job server", "driver")

    def __init__(self, cluster: PrismCluster, folder: Path, draw: random.Random) -> None:
        # Prism ends some time after its pool, perhaps as the next command starts, which would wait for it 300 s
        super().__init__(folder, draw, ["--engine", "beam", *cluster.options, "--job_server_timeout=30"])
        self._cluster = cluster

    def _alive(self, process: subprocess.Popen, victim: str) -> list[int]:
        workers = sorted(self._cluster.workers)  # also before their pool is killed, which they outlive
        pool, server = self._cluster.pool.pid, self._cluster.prism.pid
        return {"sdk worker": workers, "pool": [pool], "job server": [server], "driver": [process.pid]}[victim]

    def _replace_dead(self) -> None:
        self._cluster.replace_dead()

    def _orphans(self) -> list[int]:
        return sorted(self._cluster.workers)


def _check_visible(output: Path) -> None:
    """Check that every file that a reader sees is whole, and that manifests name files of their sizes."""
    for path in output.glob("part-*.parquet"):
        with contextlib.suppress(FileNotFoundError):  # an orphan replaces it
            pq.read_table(path)
    for content in kills.manifests(output).values():
        for file in json.loads(content)["files"]:
            assert (output / file["name"]).stat().st_size == file["bytes"], file["name"]


def _unlisted_parts(output: Path) -> set[str]:
    """Return shards whose rows are published, and whose manifest is not."""
    parts = {path.name.removesuffix(".parquet") for path in output.glob("part-*.parquet")}
    return parts - {name.removesuffix(".json") for name in kills.manifests(output)}


def _reports(output: Path) -> list[Path]:
    return [path for path in (output / "_staging").glob("*-*.json") if not path.name.startswith(".")]


def _rows_of(output: Path) -> int:
    return open_index(str(output)).manifest.rows if (output / "_index.json").exists() else 0


def _row_groups(dataset: Path) -> int:
    """Return the row groups of a dataset: each is a shard here."""
    return sum(pq.ParquetFile(path).num_row_groups for path in dataset.glob("*.parquet"))


def _is_java(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() == "java"
    return False
