"""The number of calls at once is measured once for each model and machine, and kept."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from weights import relative_error

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.files.cache import locked
from clipmill.models.runtimes import choice, openvino, start_runtime, streams
from clipmill.models.runtimes.openvino import OpenVinoRuntime, forget
from clipmill.models.runtimes.probes import probes_of
from clipmill.models.runtimes.store import Store
from clipmill.models.support_matrix import Combination
from clipmill.models.towers import find_source

OPENVINO = Combination("openvino", "fp32")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(find_source(EncoderSpec("demo")), str(tmp_path))


def _measured(monkeypatch: pytest.MonkeyPatch, rates: dict[int, float]) -> list[int]:
    """Let measurements return these rates; return the list of what is measured."""
    asked: list[int] = []

    def rate(runtime, frontend):
        asked.append(runtime.streams)
        return rates[runtime.streams]

    monkeypatch.setattr(streams, "_rate", rate)
    return asked


@pytest.mark.parametrize(("rates", "best"), [({1: 50.0, 4: 80.0}, 4), ({1: 50.0, 4: 51.0}, 1), ({1: 50.0, 4: 40.0}, 1)])
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_the_fastest_is_chosen_and_kept(monkeypatch, caplog, store, tmp_path, rates, best, runtime) -> None:
    caplog.set_level(logging.INFO, "clipmill")
    asked = _measured(monkeypatch, rates)
    way = Combination(runtime, "fp32")
    assert streams.best_streams(store, way, 4) == best
    assert (
        f"with {way}, {best} calls run at once on 4 cores; rows per second by calls at once: 1: 50.0, 4:" in caplog.text
    )
    again = Store(find_source(EncoderSpec("demo")), str(tmp_path))
    assert streams.best_streams(again, way, 4) == best
    assert asked == [1, 4]


def test_other_cores_and_runtimes_are_measured_for_themselves(monkeypatch, store) -> None:
    asked = _measured(monkeypatch, {1: 1.0, 2: 2.0, 3: 3.0})
    assert [streams.best_streams(store, OPENVINO, threads) for threads in (2, 3)] == [2, 3]
    assert streams.best_streams(store, Combination("onnx", "fp32"), 2) == 2
    assert asked == [1, 2, 1, 3, 1, 2]
    assert [streams.best_streams(store, Combination("torch", "fp32"), 4), streams.best_streams(store, OPENVINO, 1)] == [
        1,
        1,
    ]


def test_a_note_that_makes_no_sense_is_measured_again(monkeypatch, store, tmp_path) -> None:
    asked = _measured(monkeypatch, {1: 1.0, 2: 2.0})
    streams.best_streams(store, OPENVINO, 2)
    (note,) = (tmp_path / "graphs" / "notes").glob("streams-*.json")
    for text in ('{"streams": 3}', '{"streams": true}', "[]", "{"):
        note.write_text(text)
        asked.clear()
        assert streams.best_streams(store, OPENVINO, 2) == 2
        assert asked == [1, 2]


@pytest.mark.parametrize("best", [1, 2])
def test_of_what_is_compiled_for_measurements_the_chosen_is_kept(monkeypatch, store, tmp_path, best) -> None:
    """All of a large model would take gigabytes for each number of calls; and nothing is compiled twice."""
    _measured(monkeypatch, {1: 1.0, 2: 2.0 if best == 2 else 0.5})
    start_runtime(store, OPENVINO, "cpu", 2)  # as the check of the precision does
    assert streams.best_streams(store, OPENVINO, 2) == best
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("compiled/*/*")}
    assert len([path for path in kept if path.name == "whole"]) == len([p for p in kept if p.suffix == ".blob"]) == 2
    start_runtime(store, OPENVINO, "cpu", 2, best)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("compiled/*/*")} == kept


def test_what_another_process_loads_is_deleted_afterwards(store, caplog) -> None:
    """Of workers that start together, some wait for the lock to load what the first of them compiled and measured."""
    caplog.set_level(logging.INFO, "clipmill")
    (folder, *_) = kept = start_runtime(store, OPENVINO, "cpu", 2).kept
    with ThreadPoolExecutor(1) as pool:
        with locked(folder.with_suffix(".lock"), "what is loaded"):
            deleting = pool.submit(forget, kept)
            while "waiting for another process" not in caplog.text and not deleting.done():
                time.sleep(0.01)
            assert (folder / "whole").is_file()
        deleting.result()
    assert not any(one.exists() for one in kept)


def test_nothing_is_deleted_where_nothing_can_be_written(monkeypatch, store) -> None:
    kept = start_runtime(store, OPENVINO, "cpu", 2).kept
    monkeypatch.setattr(openvino, "is_writable", lambda folder: False)
    forget(kept)
    assert all((one / "whole").is_file() for one in kept)


def test_of_a_candidate_that_is_refused_nothing_is_kept(monkeypatch, store, tmp_path) -> None:
    monkeypatch.setattr(choice, "_is_good", lambda combination, figures: False)
    choice.measure(store, OPENVINO, "cpu", 2)
    assert not list(tmp_path.rglob("compiled/*/*"))


def test_of_a_candidate_that_cannot_run_nothing_is_kept(monkeypatch, store, tmp_path) -> None:
    def run(runtime, session, values):
        assert list(tmp_path.rglob("compiled/*/whole"))
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(OpenVinoRuntime, "_run", run)
    with pytest.raises(RuntimeError, match="no such instruction"):
        choice.measure(store, OPENVINO, "cpu", 2)
    assert not list(tmp_path.rglob("compiled/*/*"))


def test_a_number_of_calls_that_cannot_run_is_left_out(monkeypatch, caplog, store) -> None:
    def rate(runtime, frontend):
        if runtime.streams == failing:
            raise MemoryError("no room")
        return 1.0

    monkeypatch.setattr(streams, "_rate", rate)
    failing = 3
    assert streams.best_streams(store, OPENVINO, 3) == 1
    assert "3 calls at once cannot run with openvino fp32: no room" in caplog.text
    failing = 1
    with pytest.raises(MemoryError):
        streams.best_streams(store, OPENVINO, 2)


@pytest.mark.parametrize(("threads", "tried"), [(2, [1, 2]), (4, [1, 4]), (8, [1, 2, 8]), (96, [1, 24, 96])])
def test_numbers_that_are_tried(threads: int, tried: list[int]) -> None:
    assert streams.options(threads) == tried


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_real_measurement_and_vectors_of_calls_at_once(store, tmp_path, runtime) -> None:
    way = Combination(runtime, "fp32")
    assert streams.best_streams(store, way, 2) in (1, 2)
    batch = probes_of(store.source.frontend, "image", rows=4)
    one, two = (start_runtime(store, way, "cpu", 2, count).encode("image", batch) for count in (1, 2))
    assert relative_error(two, one) <= 1e-5
    unload_all()
    encoder = load_encoder("demo", runtime=runtime, precision="fp32", cache_dir=str(tmp_path), device="cpu", cpus=2)
    assert encoder._loaded.streams == encoder._loaded.model.streams == streams.best_streams(store, way, 2)
    pictures = [np.full((70, 90, 3), 5 * number, np.uint8) for number in range(40)]
    together = encoder.embed_images(pictures)
    alone = np.concatenate([encoder.embed_images([picture]) for picture in pictures])
    assert relative_error(together, alone) <= 1e-5
    unload_all()


def test_first_calls_of_openvino_do_not_run_at_once(monkeypatch, store) -> None:
    """Two at once may wait for each other for ever; later ones do run at once."""
    runtime = start_runtime(store, OPENVINO, "cpu", 2, 2)
    inputs = {name: probes_of(store.source.frontend, name, rows=1) for name in ("image", "text")}
    at_once, most, infer = [], [], runtime._infer
    both = threading.Barrier(2, timeout=20)

    def watched(session, values):
        at_once.append(session)
        most.append(len(at_once))
        if is_later:
            both.wait()
        else:
            time.sleep(0.05)
        found = infer(session, values)
        at_once.pop()
        return found

    monkeypatch.setattr(runtime, "_infer", watched)
    for is_later in (False, True):
        most.clear()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: runtime.encode(name, inputs[name]), inputs))
        assert max(most) == 1 + is_later
