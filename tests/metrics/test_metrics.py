"""What is counted: one table of names, the totals of a process, and what Prometheus reads of them."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scrapes import samples

from clipmill.encoders import Code, load_encoder, unload_all
from clipmill.encoders.item import Item
from clipmill.errors import MissingExtraError
from clipmill.failures import Failure, Stage
from clipmill.metrics import counts as metrics
from clipmill.metrics import prometheus_text
from clipmill.metrics.counts import METRICS, by_engine_names, counts_of, process_counts
from clipmill.metrics.prometheus_text import MetricsFile, metrics_text, serve_metrics
from clipmill.metrics.stats import Stats


def full_stats() -> Stats:
    """Numbers that are all different, so that none can stand for another."""
    stats = Stats(rows=2, embedded=3, given=5, cache_hits=7, cache_misses=11, nulls=13, fetch_msec=17.5, decode_msec=19)
    stats.encode_msec, stats.truncated_texts, stats.out_of_memory_retries = 23.25, 29, 31
    stats.failed.update({"empty": 37, "too_large": 41})
    for rows in (1, 3, 3, 32, 2048, 2049, 5000):
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
        "batches": 7,
        "fetch_msec": 17.5,
        "decode_msec": 19,
        "encode_msec": 23.25,
        "out_of_memory_retries": 31,
        "batch_rows_count": 7,
        "batch_rows_sum": 9136,
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
        ("clipmill_batches_total",): 7,
        ("clipmill_batch_rows_bucket", "1.0"): 1,
        ("clipmill_batch_rows_bucket", "2.0"): 1,
        ("clipmill_batch_rows_bucket", "4.0"): 3,
        ("clipmill_batch_rows_bucket", "32.0"): 4,
        ("clipmill_batch_rows_bucket", "1024.0"): 4,
        ("clipmill_batch_rows_bucket", "2048.0"): 5,
        ("clipmill_batch_rows_bucket", "4096.0"): 6,
        ("clipmill_batch_rows_bucket", "+Inf"): 7,
        ("clipmill_batch_rows_count",): 7,
        ("clipmill_batch_rows_sum",): 9136,
        ("clipmill_models_loaded_total",): 0,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert {key[1] for key in found if key[0] == "clipmill_failed_total"} == {str(code) for code in Code}
    assert not [key for key in found if key[0].startswith(("clipmill_shards", "clipmill_rows_written"))]


def test_the_text_is_that_of_prometheus() -> None:
    text = metrics_text(lambda: counts_of(full_stats()), labels={"dataset": 'a "b"\n'})
    assert text.startswith(
        "# HELP clipmill_rows_in_total Rows and documents read.\n"
        "# TYPE clipmill_rows_in_total counter\n"
        'clipmill_rows_in_total{dataset="a \\"b\\"\\n"} 2.0\n'
    )


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
        reader = threading.Thread(target=read, daemon=True)
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


def test_who_counts_often_seldom_writes(tmp_path, monkeypatch) -> None:
    """The first time at once; what follows at once is written by the thread, and nobody waits for it."""
    numbers, path, writers = Stats(), tmp_path / "m.prom", []
    rename = os.rename

    def remember(source: str, target: str) -> None:
        writers.append(threading.current_thread().name)
        rename(source, target)

    monkeypatch.setattr(os, "rename", remember)
    monkeypatch.setattr(prometheus_text, "SOON_S", 1.0)
    with MetricsFile(path, source=lambda: counts_of(numbers), every_s=1000) as file:
        writers.clear()
        for number in range(1, 101):
            numbers.rows = number
            file.write_soon()
            if number == 1:
                assert samples(path.read_text())["clipmill_rows_in_total",] == 1
        assert writers.count(threading.current_thread().name) <= 2  # one, unless the machine slept for a second
        ends = time.monotonic() + 60
        while samples(path.read_text())["clipmill_rows_in_total",] < 100 and time.monotonic() < ends:
            time.sleep(0.02)
        assert samples(path.read_text())["clipmill_rows_in_total",] == 100
        assert "clipmill-metrics" in writers


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError], ids=lambda error: error.__name__)
def test_a_write_that_is_broken_off_leaves_nothing(tmp_path, monkeypatch, error) -> None:
    def broken_off(source: str, target: str) -> None:
        assert Path(source).read_text().startswith("# HELP clipmill_") and Path(target) == tmp_path / "m.prom"
        raise error

    monkeypatch.setattr(os, "rename", broken_off)
    with pytest.raises(error), MetricsFile(tmp_path / "m.prom", source=dict):
        raise AssertionError("the block was entered")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_checked_stays_as_it_is(tmp_path) -> None:
    path = tmp_path / "m.prom"
    path.write_text("of an earlier job")
    MetricsFile(path, source=dict).check()
    assert path.read_text() == "of an earlier job" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(UnicodeError):
        MetricsFile(path, source=dict, labels={"dataset": "caf\udce9"}).check()
    with pytest.raises(OSError, match="nowhere"):
        MetricsFile(tmp_path / "nowhere" / "m.prom", source=dict).check()


def test_a_directory_that_is_not_there_is_told_at_once(tmp_path) -> None:
    with pytest.raises(OSError, match="nowhere"), MetricsFile(tmp_path / "nowhere" / "m.prom", source=dict):
        raise AssertionError("the block was entered")


@pytest.mark.parametrize(("given", "address"), [({}, "127.0.0.1"), ({"address": "0.0.0.0"}, "0.0.0.0")])
def test_numbers_are_served_to_this_machine_alone_unless_asked(given, address) -> None:
    with serve_metrics(0, source=dict, **given) as served:
        assert served._server.server_address[0] == address


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
