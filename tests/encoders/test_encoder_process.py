"""One process of the host executes the towers for all workers: the same vectors, failures and counts as in each."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from encoder_process_kills import kill_while_they_work
from encoder_processes import FragileRuntime, own_folder, pids, serving, wait_until

from clipmill.encoders import EncoderSpec, Failure, Stats, Vector, count_loads, load_encoder, unload_all
from clipmill.errors import DeviceError, SpecError, WeightsError
from clipmill.messages import first_option, setting
from clipmill.models.encoder_process import server

OPTIONS = {"device": "cpu", "runtime": "onnx", "precision": "fp32"}
SHARED = EncoderSpec("demo", **OPTIONS, encoder_process="per_host")
TEXTS = [f"a circle, number {number}" for number in range(90)]


@pytest.fixture
def folder(monkeypatch, tmp_path_factory):
    tmp_path_factory.getbasetemp()  # not in the folder below, which is deleted
    unload_all()
    with own_folder(monkeypatch) as path:
        yield path


def test_vectors_and_provenance_are_those_of_a_worker(folder, caplog):
    caplog.set_level(logging.WARNING, logger="clipmill")
    alone = load_encoder("demo", **OPTIONS, encoder_process="off", cpus=1)  # one call at once, as the other
    loads = count_loads()
    shared = load_encoder(SHARED)
    images = [np.random.default_rng(n).integers(0, 256, (40, 50, 3), dtype=np.uint8) for n in range(3)]
    np.testing.assert_array_equal(shared.embed_texts(TEXTS), alone.embed_texts(TEXTS))
    np.testing.assert_array_equal(shared.embed_images(images), alone.embed_images(images))
    assert shared.resolved == alone.resolved
    assert shared.learnt_scales == alone.learnt_scales
    # other specs of the model share the process and the load
    load_encoder(SHARED, normalize=True)
    load_encoder(SHARED, precision="auto")
    assert count_loads() == loads + 1
    assert len(pids(folder)) == 1
    assert caplog.records == []


def test_a_killed_process_loses_and_doubles_no_row(folder, caplog):
    encoder = load_encoder(SHARED, max_batch_rows=8)
    expected = load_encoder("demo", **OPTIONS, max_batch_rows=8, encoder_process="off").embed_texts(TEXTS)
    (first,) = pids(folder)
    os.kill(first, signal.SIGSTOP)  # the call below is lost for certain
    found = []
    thread = threading.Thread(target=lambda: found.append(encoder.embed_texts(TEXTS)))
    thread.start()
    wait_until(lambda: encoder._loaded.calls._value == 0)  # it is held
    os.kill(first, signal.SIGKILL)
    thread.join(30)
    np.testing.assert_array_equal(found[0], expected)
    (second,) = pids(folder)
    assert second != first
    assert [record.levelname for record in caplog.records if "is gone" in record.getMessage()] == ["WARNING"]


def test_failures_name_the_rows_and_the_errors(folder):
    tokens, _ = server_tokens("seven")
    runtime = FragileRuntime(bad=int(tokens[1]))
    with serving(SHARED, runtime):
        first, failed, last = load_encoder(SHARED).embed("text", ["one", "seven", "two"])
    assert isinstance(first, Vector) and isinstance(last, Vector)
    assert isinstance(failed, Failure)
    assert failed.message == "ValueError: a word broke the call"


def test_memory_that_runs_out_there_halves_the_batches_here(folder):
    runtime = FragileRuntime(max_rows=5)
    with serving(SHARED, runtime):
        stats = Stats()
        outcomes = load_encoder(SHARED, max_batch_rows=16).embed("text", TEXTS[:16], stats)
    assert all(isinstance(outcome, Vector) for outcome in outcomes)
    assert [rows for _, rows in runtime.calls] == [16, 8, 4, 4, 4, 4]
    assert stats.out_of_memory_retries == 2


def test_a_killed_worker_leaves_nothing(folder):
    program = (
        "from clipmill.encoders import load_encoder; encoder = load_encoder('demo', device='cpu', runtime='onnx',"
        " precision='fp32', encoder_process='per_host'); encoder.embed_texts(['a']); print('ready', flush=True);"
        " input()"
    )
    with serving(SHARED, FragileRuntime()) as has_ended:
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout.readline() == "ready\n"
            assert not has_ended()
            worker.kill()
        wait_until(has_ended)
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_workers_outlive_the_process_and_it_outlives_them(tmp_path):
    """A short version; `make soak` kills more."""
    done = kill_while_they_work(random.Random(1), tmp_path, kills=4)
    assert min(done["encoder process"], done["worker"]) > 0


def test_a_fork_has_its_own_connection(folder):
    with serving(SHARED, FragileRuntime()):
        encoder = load_encoder(SHARED, max_cache_bytes=0)
        before = encoder.embed_texts(TEXTS[:3])
        child = os.fork()
        if child == 0:  # no assertion may leave this process
            equal = False
            try:
                equal = np.array_equal(encoder.embed_texts(TEXTS[:3]), before)
            finally:
                os._exit(0 if equal else 1)
        here = encoder.embed_texts(TEXTS[:3])
        assert os.waitpid(child, 0)[1] == 0
        np.testing.assert_array_equal(here, before)


def test_a_call_that_kills_runs_in_the_worker(folder, caplog, monkeypatch):
    """There it does what it would do without the process: jobs find out which row it is."""

    def die(self, question):
        raise server.ConnectionLost("died")

    monkeypatch.setattr(server._Conversation, "_encode", die)
    expected = load_encoder("demo", **OPTIONS, encoder_process="off").embed_texts(TEXTS[:3])
    with serving(SHARED, FragileRuntime()):
        encoder = load_encoder(SHARED, normalize=False)
        loads = count_loads()
        np.testing.assert_array_equal(encoder.embed_texts(TEXTS[:3]), expected)
    assert count_loads() == loads + 1
    assert "died 3 times in one call" in caplog.text


def test_other_users_are_refused(folder, caplog, monkeypatch):
    monkeypatch.setattr(server, "peer_of", lambda connection: (1, os.geteuid() + 1))
    with serving(SHARED, FragileRuntime()):
        assert load_encoder(SHARED).embed_texts(TEXTS[:1]).any()
    assert f"refused a connection of user {os.geteuid() + 1}" in caplog.text
    assert "runs in this process" in caplog.text


def test_a_folder_that_others_can_enter_is_not_used(folder, caplog):
    folder.mkdir(mode=0o755)
    assert load_encoder(SHARED).embed_texts(TEXTS[:1]).any()
    assert "only its owner" in caplog.text
    assert list(folder.iterdir()) == []


def test_models_without_towers_stay_in_the_worker(folder, caplog):
    assert load_encoder("fake::dim=8", encoder_process="per_host").embed_texts(["a"]).any()
    assert "runs in this process" in caplog.text


def test_errors_of_loading_are_those_of_a_worker(folder, tmp_path):
    with pytest.raises(WeightsError, match=r"no weights at .* on this machine"):
        load_encoder(f"ViT-B-32::{tmp_path}/missing.safetensors", **OPTIONS, encoder_process="per_host")
    assert pids(folder) == []
    error = DeviceError("no room, with " + setting("precision", "fp32"), hint="take " + setting("precision", "bf16"))
    with serving(SHARED, error), pytest.raises(DeviceError) as caught:
        load_encoder(SHARED)
    assert (caught.value.args, caught.value.option) == (error.args, "precision")
    assert first_option(caught.value.hint) == "precision"


def test_a_process_that_cannot_start_is_reported(folder, caplog, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert load_encoder(SHARED).embed_texts(TEXTS[:1]).any()
    assert "cannot be started" in caplog.text


def test_the_option_is_checked():
    with pytest.raises(SpecError, match="encoder_process='host' must be one of"):
        EncoderSpec("demo", encoder_process="host")


def server_tokens(text):
    from clipmill.models.towers import find_source

    return find_source(SHARED).frontend.text.tokenizer(text)
