"""What is counted: one table of names, the totals of a process, and what Prometheus reads of them."""

from __future__ import annotations

import gc
import logging
import os
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scrapes import samples

from clipmill.encoders import Code, load_encoder, metrics, unload_all
from clipmill.encoders.errors import MissingExtraError, SpecError
from clipmill.encoders.exposition import MetricsFile, metrics_text, parse_ports, serve_metrics
from clipmill.encoders.failure import Failure, Stage
from clipmill.encoders.item import Item
from clipmill.encoders.metrics import METRICS, by_engine_names, counts_of, process_counts
from clipmill.encoders.stats import Stats


def full_stats() -> Stats:
    """Numbers that are all different, so that none can stand for another."""
    stats = Stats(rows=2, embedded=3, given=5, cache_hits=7, cache_misses=11, nulls=13, fetch_msec=17.5, decode_msec=19)
    stats.encode_msec, stats.truncated_texts, stats.out_of_memory_retries = 23.25, 29, 31
    stats.failed.update({"empty": 37, "too_large": 41})
    for rows in (1, 3, 3, 32, 5000):
        stats.count_batch(rows)
    return stats


def difference(before: metrics.Counts) -> dict[str, float]:
    """Return what this process has counted since."""
    now = process_counts()
    return by_engine_names({key: number - before.get(key, 0) for key, number in now.items()})


# --- the table -------------------------------------------------------------------------------------------------------


def test_every_field_of_stats_has_a_name_and_no_name_is_there_twice() -> None:
    fields = [metric.stats for metric in METRICS if metric.stats is not None]
    assert sorted(fields) == sorted(Stats.__dataclass_fields__)
    assert len({metric.name for metric in METRICS}) == len({metric.prometheus for metric in METRICS}) == len(METRICS)


def test_numbers_get_the_names_that_engines_show() -> None:
    assert by_engine_names(counts_of(full_stats())) == {
        "rows_in": 2,
        "embedded": 3,
        "nulls": 13,
        "given_vectors": 5,
        "failed_empty": 37,
        "failed_too_large": 41,
        "truncated_texts": 29,
        "cache_hits": 7,
        "cache_misses": 11,
        "batches": 5,
        "fetch_msec": 17.5,
        "decode_msec": 19,
        "encode_msec": 23.25,
        "out_of_memory_retries": 31,
        "batch_rows_count": 5,
        "batch_rows_sum": 5039,
        "batch_rows_min": 1,
        "batch_rows_max": 5000,
    }
    assert by_engine_names(counts_of(Stats())) == {}


def test_failures_that_a_session_counted_are_not_counted_again() -> None:
    known = Failure(Stage.TOKENIZE, Code.EMPTY, "empty text")
    stats = Stats()
    stats.count_new([known.at(column="a"), Failure(Stage.SCORE, Code.OUT_OF_RANGE, "no length")], [None, known])
    assert stats.failed == {"out_of_range": 1}


# --- the text format -------------------------------------------------------------------------------------------------


def test_a_scrape_says_every_number_and_zeros() -> None:
    found = samples(metrics_text(lambda: counts_of(full_stats()), labels={"dataset": 'a "b"\n'}))
    expected = {
        ("clipmill_rows_in_total",): 2,
        ("clipmill_failed_total", "empty"): 37,
        ("clipmill_failed_total", "too_large"): 41,
        ("clipmill_failed_total", "malformed"): 0,
        ("clipmill_fetch_msec_total",): 17.5,
        ("clipmill_batches_total",): 5,
        ("clipmill_batch_rows_bucket", "1.0"): 1,
        ("clipmill_batch_rows_bucket", "2.0"): 1,
        ("clipmill_batch_rows_bucket", "4.0"): 3,
        ("clipmill_batch_rows_bucket", "32.0"): 4,
        ("clipmill_batch_rows_bucket", "1024.0"): 4,
        ("clipmill_batch_rows_bucket", "+Inf"): 5,
        ("clipmill_batch_rows_count",): 5,
        ("clipmill_batch_rows_sum",): 5039,
        ("clipmill_models_loaded_total",): 0,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert {key[1] for key in found if key[0] == "clipmill_failed_total"} == {str(code) for code in Code}
    assert not [key for key in found if key[0].startswith(("clipmill_shards", "clipmill_rows_written"))]


def test_labels_stand_on_every_number() -> None:
    families = list(
        text_string_to_metric_families(metrics_text(lambda: counts_of(full_stats()), labels={"dataset": "d"}))
    )
    assert all(sample.labels["dataset"] == "d" for family in families for sample in family.samples)


def test_the_file_is_whole_at_every_moment(tmp_path) -> None:
    """Somebody reads it all the time while it is written all the time."""
    numbers = Stats()
    path = tmp_path / "clipmill.prom"
    seen, ended = [], threading.Event()

    def read() -> None:
        while not ended.is_set():
            seen.append(samples(path.read_text())["clipmill_rows_in_total",])

    with MetricsFile(path, source=lambda: counts_of(numbers), every_s=0.001) as file:
        reader = threading.Thread(target=read)
        reader.start()
        for number in range(200):
            numbers.rows = number
            file.write()
        ended.set()
        reader.join()
        numbers.rows = 1000
    assert samples(path.read_text())["clipmill_rows_in_total",] == 1000  # what came last is in it
    assert seen == sorted(seen) and len(set(seen)) > 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_any_more_ends_nothing(tmp_path, caplog) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with caplog.at_level(logging.WARNING, "clipmill"), MetricsFile(folder / "m.prom", source=dict) as file:
        (folder / "m.prom").unlink()
        folder.rmdir()
        file.write()
        file.write()
        folder.mkdir()
    assert [record.message for record in caplog.records if "not up to date" in record.message].__len__() == 1
    assert (folder / "m.prom").read_text().startswith("# HELP clipmill_rows_in_total")


def test_a_directory_that_is_not_there_is_told_at_once(tmp_path) -> None:
    with pytest.raises(OSError, match="nowhere"), MetricsFile(tmp_path / "nowhere" / "m.prom", source=dict):
        raise AssertionError("the block was entered")


def test_served_numbers_are_those_of_the_moment() -> None:
    stats = Stats(rows=1)
    with serve_metrics(0, address="127.0.0.1", source=lambda: counts_of(stats)) as served:
        url = f"http://127.0.0.1:{served.port}/metrics"
        for rows in (1, 5):
            stats.rows = rows
            with urllib.request.urlopen(url) as answer:
                assert samples(answer.read().decode())["clipmill_rows_in_total",] == rows
        with pytest.raises(OSError, match="in use"):
            serve_metrics(served.port, address="127.0.0.1", source=dict)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", served.port))  # given back


def test_without_prometheus_client_the_error_is_the_command_that_installs_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    for call in (metrics_text, lambda: serve_metrics(0), lambda: MetricsFile("m.prom")):
        with pytest.raises(MissingExtraError, match=r"pip install 'clipmill\[metrics\]'"):
            call()


# --- the totals of this process --------------------------------------------------------------------------------------


def test_what_an_encoder_embeds_is_in_the_totals() -> None:
    before = process_counts()
    encoder = load_encoder("fake::dim=8", max_cache_bytes=0)
    encoder.embed("text", ["one", "", None, "two"])
    found = difference(before)
    wanted = {"rows_in": 4, "embedded": 2, "nulls": 1, "failed_empty": 1, "batches": 1, "batch_rows_sum": 2}
    assert {name: found.get(name) for name in wanted} == wanted


def test_a_session_is_counted_while_it_runs_and_once_when_it_is_gone() -> None:
    encoder = load_encoder("fake::dim=8")
    before = process_counts()
    session = encoder.session()
    for number in range(5):
        session.push(number, [Item("text", f"a text that nobody has seen, number {number}")])
    assert difference(before)["rows_in"] == 5
    session.flush()
    assert difference(before)["embedded"] == 5
    del session
    gc.collect()
    for _ in range(2):
        assert (difference(before)["rows_in"], difference(before)["embedded"]) == (5, 5)


def test_sessions_that_are_gone_leave_their_numbers_and_nothing_else() -> None:
    encoder = load_encoder("fake::dim=8")
    before = process_counts()
    for _ in range(300):
        encoder.embed("text", [None])
    assert len(metrics._totals._live) < 10
    assert difference(before)["nulls"] == 300


def test_who_counts_himself_is_not_counted_twice() -> None:
    encoder, stats = load_encoder("fake::dim=8"), Stats()
    before = process_counts()
    encoder.embed("text", ["counted by the caller"], stats)
    assert stats.rows == 1
    assert "rows_in" not in difference(before)
    metrics.record(counts_of(stats.take()))
    assert difference(before)["rows_in"] == 1


def test_loads_are_those_of_the_registry() -> None:
    unload_all()
    before = process_counts()
    load_encoder("fake::dim=8"), load_encoder("fake::dim=8"), load_encoder("fake::dim=9")
    assert difference(before)["models_loaded"] == 2
    assert samples(metrics_text())["clipmill_models_loaded_total",] == metrics.process_counts()["models_loaded", ""]


def test_many_threads_lose_nothing() -> None:
    before = process_counts()

    def work() -> None:
        for _ in range(500):
            metrics.record({("rows_in", ""): 1, ("failed", "empty"): 2})
            load_encoder("fake::dim=8").session().push(None, [Item("text", None)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        process_counts()
    for thread in threads:
        thread.join()
    assert {name: difference(before)[name] for name in ("rows_in", "nulls", "failed_empty")} == {
        "rows_in": 4000,
        "nulls": 2000,
        "failed_empty": 4000,
    }


# --- processes that are told by their environment --------------------------------------------------------------------

PROGRAM = """
import os, sys, urllib.request
from clipmill import load_encoder
load_encoder("fake::dim=8").embed("text", ["one", "", "two"])
port = os.environ.get("CLIPMILL_METRICS_PORT", "").partition("-")[0]
if port:
    for number in range(int(port), int(port) + 3):
        try:
            print(urllib.request.urlopen(f"http://127.0.0.1:{number}/metrics", timeout=2).read().decode())
        except OSError:
            pass
print("pid", os.getpid())
"""


def program(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_a_process_writes_the_file_that_its_environment_names(tmp_path) -> None:
    done = [program({"CLIPMILL_METRICS_FILE": str(tmp_path / "clip-{pid}.prom")}) for _ in range(2)]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr
    pids = {one.stdout.split()[-1] for one in done}
    assert {path.name for path in tmp_path.iterdir()} == {f"clip-{pid}.prom" for pid in pids}
    for pid in pids:
        text = (tmp_path / f"clip-{pid}.prom").read_text()
        found = samples(text)
        assert found["clipmill_rows_in_total",] == 3
        assert found["clipmill_failed_total", "empty"] == 1
        assert found["clipmill_models_loaded_total",] == 1
        assert f'clipmill_rows_in_total{{pid="{pid}"}} 3.0' in text  # told apart in one directory


def test_a_process_serves_on_the_first_port_that_is_free(tmp_path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        first = taken.getsockname()[1]
        done = program({"CLIPMILL_METRICS_PORT": f"{first}-{first + 2}"})
        assert samples(done.stdout.partition("pid ")[0])["clipmill_rows_in_total",] == 3, done.stderr
        alone = program({"CLIPMILL_METRICS_PORT": str(first)})
    assert alone.returncode == 0
    assert f"CLIPMILL_METRICS_PORT={first}: no port of these can be had" in alone.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CLIPMILL_METRICS_PORT": "many"}, "'many' is neither a port (9400) nor a range of ports (9400-9431)"),
        (
            {"CLIPMILL_METRICS_FILE": "/nowhere/{pid}.prom"},
            "CLIPMILL_METRICS_FILE='/nowhere/{pid}.prom' cannot be writ",
        ),
    ],
    ids=["port", "file"],
)
def test_an_environment_that_cannot_be_followed_ends_the_load(environment, message) -> None:
    done = program(environment)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.parametrize(
    "given", ["", "0", "9400-", "-9400", "9401-9400", "70000", "9400-70000", "9400-9401-9402", "a"]
)
def test_ports_that_are_none(given) -> None:
    with pytest.raises(SpecError, match="neither a port"):
        parse_ports(given)


def test_ports() -> None:
    assert list(parse_ports("9400")) == [9400]
    assert list(parse_ports("9400-9402")) == [9400, 9401, 9402]


def test_nothing_is_imported_or_started_without_being_told(monkeypatch) -> None:
    code = (
        "import sys; from clipmill import load_encoder; load_encoder('fake::').embed_texts(['a']);"
        "print('prometheus_client' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLIPMILL_METRICS")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
