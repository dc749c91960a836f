"""Pushes that are killed at random moments and run again: each row is there once, with its vector."""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import postgres_server
from index_helpers import clustered, write_dataset
from store_targets import LanceDb, Milvus, Postgres, Qdrant

from clipmill.indexes import push_dataset

STORES: dict[str, Callable[[Path, Any], Any]] = {
    "lancedb": lambda folder, _: LanceDb(folder),
    "qdrant": lambda folder, _: Qdrant(folder),
    "postgresql": lambda folder, server: Postgres(server, folder.name),
    "milvus": lambda folder, _: Milvus(folder),
}
_CLIENTS = {"lancedb": "lance", "qdrant": "qdrant_client", "postgresql": "pg8000.native", "milvus": "pymilvus"}
_PARTS, _BATCH_ROWS = 6, 4
_FIRST_S, _LONGER = 0.4, 1.15
_END_S = 120.0


def kill_pushes(
    draw: random.Random,
    folder: Path,
    *,
    kills: int,
    stores: tuple[str, ...] = tuple(STORES),
    rows: int = 360,
    most: int = 40,
    server: postgres_server.Server | None = None,
) -> dict[str, int]:
    """Push into databases in turn, killing each push until one has ended by itself, until so many were killed.

    Every row must then be there once with its vector and its columns, and a further push must write nothing.

    Args:
        draw: Draws the moments.
        folder: For the dataset and the databases.
        kills: How many pushes are killed.
        stores: Kinds of databases.
        rows: Rows of the dataset.
        most: After how many kills a push may end.
        server: PostgreSQL, if it runs already.

    Returns:
        Pushes that were killed, rows that were compared, and collections.
    """
    done: collections.Counter[str] = collections.Counter()
    vectors = list(clustered(rows))
    dataset = str(write_dataset(folder / "photos", vectors, parts=_PARTS))
    processes = multiprocessing.get_context("forkserver")
    preloaded = ["clipmill.indexes.stores.push", *(_CLIENTS[name] for name in stores)]
    processes.set_forkserver_preload(preloaded)  # a kill then hits the work, and not the imports
    with contextlib.ExitStack() as stack:
        if "postgresql" in stores and server is None:
            server = stack.enter_context(postgres_server.running())
        while done["killed"] < kills:
            name = stores[done["collections"] % len(stores)]
            place = folder / f"{name}{done['collections']}"
            place.mkdir()
            store = STORES[name](place, server)
            done["killed"] += _push_until_it_ends(
                draw, processes, dataset, store.url, min(most, kills - done["killed"])
            )
            held = store.held("photos")
            assert len(held) == rows
            for number, vector in enumerate(vectors):
                found, columns = held[f"r{number}"]
                np.testing.assert_array_equal(found, vector)
                assert columns["number"] == number
            again = push_dataset(dataset, store.url)
            assert (again.rows, again.there) == (0, rows)
            done["rows"] += rows
            done["collections"] += 1
            shutil.rmtree(place)
    return done


def _push_until_it_ends(draw: random.Random, processes: Any, dataset: str, url: str, most: int) -> int:
    """Kill at most so many pushes, after times that grow, until one ends by itself; return how many were killed."""
    kills, longest = 0, _FIRST_S
    while True:
        push = processes.Process(target=push_dataset, args=(dataset, url), kwargs={"batch_rows": _BATCH_ROWS})
        push.start()
        push.join(draw.uniform(0, longest) if kills < most else _END_S)
        push.kill()  # has no effect on one that has ended
        push.join()
        if push.exitcode != -signal.SIGKILL:
            assert push.exitcode == 0
            return kills
        assert kills < most, f"no end in {_END_S} s"
        kills, longest = kills + 1, longest * _LONGER
