"""The parts of the encoder process: messages, shared memory, shared calls, and the choice of `auto`."""

from __future__ import annotations

import fcntl
import os
import pickle
import socket
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from encoder_processes import DIM, FragileRuntime, own_folder, place_of, serving, wait_until

from clipmill.encoders import EncoderSpec
from clipmill.errors import (
    ClipmillError,
    MissingExtraError,
    OutOfMemoryError,
    SpecError,
    UnknownModelError,
    WeightsError,
)
from clipmill.messages import Message, render, setting
from clipmill.models.encoder_process import choice, wire
from clipmill.models.encoder_process.batching import Batcher, Call
from clipmill.models.encoder_process.choice import takes_process
from clipmill.models.encoder_process.memory import MAX_BYTES, Region, create, needed_bytes
from clipmill.models.runtimes import start_runtime
from clipmill.models.runtimes.probes import probes_of
from clipmill.models.runtimes.store import Store
from clipmill.models.support_matrix import Combination
from clipmill.models.towers import find_source
from clipmill.threads import CpuShare, allowed_cpus, cpus_of_host, streams_of_host


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("cuda:0: out of memory"),
        WeightsError("no weights for " + setting("model", "x"), hint="take " + setting("runtime", ...)),
        UnknownModelError("unknown"),
        SpecError("odd \ud800", option="mode"),
        ClipmillError(),
        MissingExtraError("onnxruntime", "onnx", setting("runtime", "onnx")),
        MemoryError(),
        ValueError("bad"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_arrive_as_they_left(error):
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        wire.send(left, {"error": wire.packed_error(error)})
        found = wire.raised(wire.receive(right)[0]["error"])
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert getattr(found, "option", None) == getattr(error, "option", None)
    if isinstance(error, ClipmillError):
        assert render(found.text, lambda one: f"--{one.name}") == render(error.text, lambda one: f"--{one.name}")


def test_errors_of_unknown_types_are_named():
    class Odd(Exception):
        pass

    found = wire.raised(wire.packed_error(Odd("x" * 100_000)))
    assert type(found) is RuntimeError and str(found).startswith("Odd: xxx") and len(str(found)) < 10_000


@pytest.mark.parametrize("character", ["a", "文", "\ud800", "\x00", "😀", setting("runtime", "onnx")], ids=ascii)
@pytest.mark.parametrize("length", [1000, 100_000])
def test_long_errors_arrive(character, length):
    """Cut if need be: without an answer, the worker would take the process for dead."""
    text = Message(*[character] * length)
    error = MissingExtraError(text, text, text)
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        wire.send(left, {"error": wire.packed_error(error)})
        found = wire.raised(wire.receive(right)[0]["error"])
    assert type(found) is MissingExtraError
    assert str(found).startswith(str(text)[:1000])


@pytest.mark.parametrize("content", [b"", b"no JSON", b"[1]", b"{" * 5000, b"x" * 100_000], ids=len)
def test_what_is_no_message_ends_the_connection(content):
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        if content:
            left.send(content)
        else:
            left.close()
        with pytest.raises(wire.ConnectionLost):
            wire.receive(right)


@pytest.mark.parametrize(
    "described", [None, [], {}, {"type": "SpecError", "args": ["?"]}, {"type": "x", "args": []}], ids=str
)
def test_unreadable_errors_end_the_connection(described):
    assert isinstance(wire.raised(described), wire.ConnectionLost)


def test_arrays_in_shared_memory():
    arrays = [np.arange(7, dtype=np.int64), np.ones((2, 3, 5), np.uint8)]
    region = Region(create(needed_bytes(arrays)))
    for array, place in zip(arrays, region.write(arrays), strict=True):
        np.testing.assert_array_equal(region.view(place), array)
    assert region.view({"dtype": "float32", "shape": [0, 5], "offset": 0}).shape == (0, 5)


@pytest.mark.parametrize(
    "place",
    [
        {"dtype": "uint8", "shape": [2**20 + 1], "offset": 0},
        {"dtype": "uint8", "shape": [1], "offset": 2**20},
        {"dtype": "uint8", "shape": [1], "offset": -64},
        {"dtype": "uint8", "shape": [1], "offset": 3},
        {"dtype": "uint8", "shape": [-1], "offset": 0},
        {"dtype": "uint8", "shape": [-1, -1], "offset": 0},
        {"dtype": "int64", "shape": [2**40, 2**40], "offset": 0},
        {"dtype": "uint8", "shape": [1] * 9, "offset": 0},
        {"dtype": "object", "shape": [1], "offset": 0},
        {"dtype": "uint8", "shape": [1.5], "offset": 0},
        {"dtype": "uint8", "shape": 1, "offset": 0},
        {"dtype": "uint8", "shape": [1]},
        [],
    ],
    ids=str,
)
def test_places_outside_of_shared_memory_are_refused(place):
    with pytest.raises(ValueError, match=r"is no place|is not inside"):
        Region(create(1)).view(place)


def test_shared_memory_that_can_shrink_is_refused():
    """Reading it would end the process with SIGBUS."""
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 4096)
    with pytest.raises(wire.ConnectionLost, match="not sealed"):
        Region(descriptor)
    ours = create(1)
    with pytest.raises(PermissionError):
        os.ftruncate(ours, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(ours, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    os.close(ours)
    for size in (-1, MAX_BYTES + 1):
        with pytest.raises(ValueError, match="bytes of shared memory"):
            create(size)


def test_an_odd_client_gets_errors_and_harms_nobody(monkeypatch):
    spec = EncoderSpec("demo", device="cpu", runtime="onnx", precision="fp32", encoder_process="per_host")
    with own_folder(monkeypatch), serving(spec, FragileRuntime()), place_of(spec).connect() as connection:

        def ask(**question):
            wire.send(connection, question)
            return wire.receive(connection)

        place = {"dtype": "int64", "shape": [2, 3], "offset": 0}
        target = {"dtype": "float32", "shape": [2, DIM], "offset": 64}
        encode = {"do": "encode", "input": "text", "arrays": [place], "answer": target}
        load = {"do": "load", "spec": {"model": "demo"}, "device": "cpu", "threads": 1, "streams": 1, "model": "x"}
        assert "error" in ask(**encode)[0]
        for odd in ({"do": "stop"}, {"do": None}, {"spec": {"model": "none"}, "do": "load"}, {"do": "reserve"}):
            assert "error" in ask(**odd)[0]
        assert "error" in ask(**{**load, "spec": {"model": "no-such-model"}})[0]
        assert "error" in ask(**{**load, "threads": 0})[0]
        assert ask(**load)[0]["new"] is True
        assert ask(**load)[0]["new"] is False
        answer, descriptor = ask(do="reserve", bytes=1000)
        assert answer == {}
        region = Region(descriptor)
        assert "error" in ask(do="reserve", bytes=-1)[0]
        assert "error" in ask(**encode)[0]  # the memory is gone with the refused request
        region = Region(ask(do="reserve", bytes=1000)[1])
        for odd in (
            {"arrays": []},
            {"arrays": [place] * 3},
            {"arrays": [{**place, "shape": [2**30]}]},
            {"arrays": [{**place, "shape": [0, 3]}]},
            {"arrays": [{**place, "shape": []}]},
            {"arrays": [place, {**place, "shape": [1, 3]}]},
            {"answer": {**target, "shape": [2, DIM - 1]}},
            {"answer": {**target, "dtype": "int64"}},
            {"answer": {**target, "offset": 2**20 - 64}},
        ):
            assert "error" in ask(**{**encode, **odd})[0], odd
        region.view(place)[...] = [[1, 2, 3], [4, 5, 6]]
        assert ask(**encode)[0] == {}
        assert region.view(target)[:, :4].tolist() == [[1, 2, 3, 0], [4, 5, 6, 0]]


def rows(*ids):
    return [np.array([[one, one] for one in ids], np.int64)]


def test_calls_that_wait_share_one():
    gate = threading.Event()
    runtime = FragileRuntime(bad=5, gate=gate)
    batcher = Batcher(runtime, max_rows=6)
    gone = [False]
    submitted = [Call("text", rows(0))]
    batcher.submit(submitted[0])
    wait_until(lambda: not batcher.waiting)  # the first is being executed
    others = [
        Call("text", rows(1, 2)),
        Call("text", rows(3), lambda: not gone[0]),
        Call("text", [np.full((1, 3), 7)]),
        Call("text", rows(4, 5)),
        Call("text", rows(6, 7)),
        Call("text", rows(8, 9)),
    ]
    for call in others:
        batcher.submit(call)
    gone[0] = True
    gate.set()
    answers = [call.answer.result(20) if not call.answer.cancelled() else None for call in (*others[:1], *others[2:])]
    # 1 2, 4 5 and 6 7 together fail, for the bad 5; then each alone; the row of another length is alone, too
    assert runtime.calls == [("text", n) for n in (1, 6, 2, 2, 2, 1, 2)]
    assert others[1].answer.cancelled()
    assert [one["type"] if isinstance(one, dict) else one[:, 0].tolist() for one in answers] == [
        [1, 2], [7], "ValueError", [6, 7], [8, 9]
    ]  # fmt: skip


def test_an_answered_call_is_let_go():
    """Its inputs are in memory shared with its worker."""
    batcher = Batcher(FragileRuntime())
    call = Call("text", rows(0))
    left = weakref.ref(call)
    batcher.submit(call).result(20)
    del call
    wait_until(lambda: left() is None)


def test_a_shared_call_that_does_not_fit_is_not_tried_again():
    gate = threading.Event()
    runtime = FragileRuntime(max_rows=3, gate=gate)
    batcher = Batcher(runtime, max_rows=100)
    for _ in range(2):
        gate.clear()
        first = batcher.submit(Call("text", rows(0)))
        wait_until(lambda: not batcher.waiting)
        answers = [batcher.submit(Call("text", rows(1, 2))) for _ in range(2)]
        gate.set()
        assert all(isinstance(answer.result(20), np.ndarray) for answer in (first, *answers))
    assert runtime.calls == [("text", n) for n in (1, 4, 2, 2, 1, 2, 2)]


def test_streams_execute_calls_at_once():
    both = threading.Barrier(2)

    class Together(FragileRuntime):
        def encode(self, model_input, inputs):
            both.wait(20)
            return super().encode(model_input, inputs)

    batcher = Batcher(Together(), streams=2)
    answers = [batcher.submit(Call("text", rows(number))) for number in range(2)]
    assert [answer.result(20)[0, 0] for answer in answers] == [0, 1]


@pytest.mark.parametrize("runtime", ["torch", "onnx", "openvino"])
def test_runtimes_execute_calls_at_once(runtime):
    source = find_source(EncoderSpec("demo"))
    started = start_runtime(Store(source, None), Combination(runtime, "fp32"), "cpu", 2, 2)
    inputs = [probes_of(source.frontend, "text", seed=seed) for seed in range(8)]
    expected = [started.encode("text", one) for one in inputs]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda one: started.encode("text", one), inputs * 3))
    for one, other in zip(found, expected * 3, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


GIB = 2**30


@pytest.mark.parametrize(
    ("cpus", "weights", "memory", "expected"),
    [
        (None, GIB, 4 * GIB, False),
        (1, GIB, 4 * GIB, False),
        (CpuShare(1, 1), 4 * GIB, 4 * GIB, False),
        (CpuShare(1, 4), GIB, 8 * GIB, True),
        (CpuShare(1, 4), GIB, 64 * GIB, False),
        (CpuShare(1, 64), GIB, 64 * GIB, True),
        (CpuShare(1, 4), GIB, None, False),
    ],
    ids=str,
)
def test_what_auto_decides(cpus, weights, memory, expected, monkeypatch, tmp_path: Path, caplog):
    caplog.set_level("INFO", logger="clipmill")
    with own_folder(monkeypatch):
        file = tmp_path / "weights"
        with file.open("wb") as opened:
            opened.truncate(weights)
        spec = EncoderSpec("demo")
        source = find_source(spec)
        object.__setattr__(source, "files", (file,))
        monkeypatch.setattr(choice, "memory_bytes", lambda: memory)
        assert takes_process(spec, source, cpus) is expected
    assert len(caplog.records) == 1  # what it took, and why
    assert ("one encoder process" in caplog.text) is expected


def test_the_memory_of_this_host_is_known():
    assert 0 < choice.memory_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_cores_of_workers_and_of_the_host():
    share = pickle.loads(pickle.dumps(CpuShare(2, 3)))
    assert (share, share.processes) == (2, 3)
    assert [cpus_of_host(cpus) for cpus in (None, 1, CpuShare(1, 1), CpuShare(1, 10_000))] == [
        allowed_cpus(), allowed_cpus(), 1, allowed_cpus()
    ]  # fmt: skip
    assert [streams_of_host(cpus) for cpus in (None, 3, CpuShare(1, 1), CpuShare(1, 10_000))] == [
        1, 1, 1, allowed_cpus()
    ]  # fmt: skip
