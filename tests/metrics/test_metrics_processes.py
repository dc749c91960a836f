"""Processes that write or serve their totals because their environment says so; forks, which have their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from scrapes import samples

from clipmill.errors import SpecError
from clipmill.metrics import env_exporter
from clipmill.metrics.env_exporter import parse_ports, start_from_environment

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
    assert f"CLIPMILL_METRICS_PORT={first}: none of these ports is free" in alone.stderr


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
    assert list(parse_ports("1")) == [1] and list(parse_ports("65535")) == [65535]


def test_nothing_is_imported_or_started_without_being_told(monkeypatch) -> None:
    code = (
        "import sys; from clipmill import load_encoder; load_encoder('fake::').embed_texts(['a']);"
        "print('prometheus_client' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLIPMILL_METRICS")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize(
    ("file", "port"), [("/nowhere/{pid}.prom", "9400-9401"), ("{folder}/m.prom", "many")], ids=["file", "port"]
)
def test_an_environment_that_cannot_be_followed_starts_nothing(tmp_path, monkeypatch, file, port) -> None:
    """Each load tries again, and none leaves a server or a file behind."""
    served = []
    monkeypatch.setattr(env_exporter, "serve_metrics", served.append)
    environment = {
        "CLIPMILL_METRICS_FILE": file.replace("{folder}", str(tmp_path)),
        "CLIPMILL_METRICS_PORT": port,
    }
    for _ in range(2):
        with pytest.raises(SpecError):
            start_from_environment(environment)
    assert served == [] and list(tmp_path.iterdir()) == []


KILLED = """
import os, sys, time
from clipmill import load_encoder
encoder = load_encoder("fake::dim=8")
from clipmill.encoders import Stats
from clipmill.metrics.counts import counts_of, record
for number in range(40):
    stats = Stats()
    encoder.embed("text", [f"text {number}"], stats)
    record(counts_of(stats))
path, ends = os.environ["CLIPMILL_METRICS_FILE"], time.monotonic() + 60
while "clipmill_rows_in_total 40.0" not in open(path).read() and time.monotonic() < ends:
    time.sleep(0.05)
os._exit(0)
"""


def test_a_process_that_is_killed_has_written_what_it_counted_a_moment_before(tmp_path) -> None:
    file = tmp_path / "m.prom"
    environment = os.environ | {"CLIPMILL_METRICS_FILE": str(file)}
    subprocess.run([sys.executable, "-c", KILLED], env=environment, check=True)
    assert samples(file.read_text())["clipmill_rows_in_total",] == 40


# --- forks -----------------------------------------------------------------------------------------------------------

FORKED = """
import os, signal, sys, threading
from clipmill import load_encoder
from clipmill.metrics import counts as metrics, env_exporter
from clipmill.metrics.counts import by_engine_names, process_counts

encoder = load_encoder("fake::dim=8")
encoder.embed("text", ["one", "two"])
taken = [metrics._totals._lock, env_exporter._starting]
if "udfs" in sys.argv:
    from clipmill.udfs import meter
    taken.append(meter._lock)

def hold():  # as a thread does that is in the middle of counting when its process forks
    for lock in taken:
        lock.acquire()
    held.set()
    threading.Event().wait()

held = threading.Event()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(60)  # a lock that nobody lets go ends this process, and the test
    if "udfs" in sys.argv:
        assert meter._new_loads() == {}
    assert process_counts() == {}, process_counts()
    encoder.embed("text", ["three"])
    load_encoder("fake::dim=9")
    if "udfs" in sys.argv:
        assert meter._new_loads() == {("models_loaded", ""): 1}
    found = by_engine_names(process_counts())
    print({name: found[name] for name in ("rows_in", "embedded", "models_loaded")}, flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
for lock in taken:
    lock.release()
found = by_engine_names(process_counts())
print({name: found[name] for name in ("rows_in", "embedded", "models_loaded")}, flush=True)
os._exit(status != 0)
"""


@pytest.mark.parametrize("parts", ["encoders", "udfs"])
def test_a_fork_counts_what_it_does_itself(tmp_path, parts) -> None:
    """Even where a thread of its parent held a lock, which nobody in the fork would let go; in a file of its own."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED, parts],
        env=os.environ | {"CLIPMILL_METRICS_FILE": str(tmp_path / "{pid}.prom")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "{'rows_in': 1, 'embedded': 1, 'models_loaded': 1}",
        "{'rows_in': 2, 'embedded': 2, 'models_loaded': 1}",
    ]
    assert len(list(tmp_path.glob("*.prom"))) == 2
