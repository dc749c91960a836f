"""What needs no Spark session: the device of a task, warnings of the driver, and what the package imports."""

from __future__ import annotations

import subprocess
import sys
import warnings
from types import SimpleNamespace

import pyarrow as pa
import pytest
from pyspark import TaskContext

import clipmill.udfs
from clipmill.encoders import EncoderSpec, count_loads, unload_all
from clipmill.errors import DeviceError
from clipmill.jobs import Job
from clipmill.udfs.driver import warn_without_worker_reuse
from clipmill.udfs.shards import _embed_shard_in_task
from clipmill.udfs.worker import encoder_of_task, spec_of_task

MODEL = "fake::dim=8"


class FakeTask:
    """A `TaskContext` with GPUs and cores."""

    def __init__(self, *addresses, cpus=1):
        self._resources = {"gpu": SimpleNamespace(name="gpu", addresses=list(addresses))} if addresses else {}
        self._cpus = cpus

    def resources(self):
        return self._resources

    def cpus(self):
        return self._cpus

    def getLocalProperty(self, name):
        return None


class FakeSession:
    """A session of which only the settings are asked."""

    def __init__(self, **settings):
        self.conf = SimpleNamespace(get=lambda name, default: settings.get(name.replace(".", "_"), default))


@pytest.fixture(autouse=True)
def no_models():
    unload_all()
    yield
    unload_all()


@pytest.fixture
def machine_of_gpus(monkeypatch):
    """Let the fake's copies count as those of the device that was asked for, as if all of them were here."""
    monkeypatch.setattr("clipmill.encoders.registry._resolve_device", lambda spec: spec.device)


@pytest.mark.parametrize(
    ("device", "task", "resolved"),
    [
        ("auto", FakeTask("3"), "cuda:3"),
        ("cuda", FakeTask("3"), "cuda:3"),
        ("auto", FakeTask("5", "6"), "cuda:5"),
        ("cpu", FakeTask("3"), "cpu"),
        ("cuda:0", FakeTask("3"), "cuda:0"),
        ("auto", FakeTask(), "auto"),
        ("cuda", FakeTask(), "cuda"),
        ("auto", None, "auto"),
    ],
    ids=lambda value: (
        "-".join(value.resources()["gpu"].addresses if value.resources() else ["none"])
        if isinstance(value, FakeTask)
        else str(value)
    ),
)
def test_the_device_is_the_gpu_that_spark_gave_the_task(device, task, resolved):
    spec = EncoderSpec(MODEL, device=device, normalize=True)
    assert spec_of_task(spec, task) == EncoderSpec(MODEL, device=resolved, normalize=True)


def test_environment_variables_do_not_decide_the_device(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert spec_of_task(EncoderSpec(MODEL), FakeTask("1")).device == "cuda:1"
    assert spec_of_task(EncoderSpec(MODEL), FakeTask()).device == "auto"


def test_an_address_that_is_no_number_is_refused():
    with pytest.raises(DeviceError, match=r"'GPU-1a2b'.*discoveryScript.*device='cuda:0'"):
        spec_of_task(EncoderSpec(MODEL), FakeTask("GPU-1a2b"))


def test_a_worker_loads_once_and_again_only_where_it_is_moved(machine_of_gpus):
    spec, before = EncoderSpec(MODEL), count_loads()
    first = encoder_of_task(spec, FakeTask("0"))
    assert encoder_of_task(spec, FakeTask("0")) is first
    assert count_loads() - before == 1
    moved = encoder_of_task(spec, FakeTask("1"))
    assert moved is not first
    assert count_loads() - before == 2
    encoder_of_task(spec, FakeTask("0"))  # the first copy was let go, so that a worker never holds two
    assert count_loads() - before == 3


@pytest.mark.parametrize(
    ("devices", "task"),
    [
        (("cuda:0", "cuda:1"), FakeTask("0")),
        (("cuda:0", "cuda:1"), FakeTask()),
        (("cpu", "auto"), FakeTask()),
        (("cuda", "cuda:1"), FakeTask()),
    ],
    ids=["named, GPUs of Spark", "named", "cpu and auto", "one named"],
)
def test_devices_of_one_select_stay_side_by_side(machine_of_gpus, devices, task):
    """Its expressions take turns in one worker, batch by batch."""
    before = count_loads()
    for _ in range(3):
        for device in devices:
            encoder_of_task(EncoderSpec(MODEL, device=device), task)
    assert count_loads() - before == 2


@pytest.mark.parametrize(
    ("device", "task", "placed"),
    [
        ("auto", FakeTask("1", cpus=2), ("cuda:1", 2, True)),
        ("cuda:0", FakeTask("1", cpus=2), ("cuda:0", 2, False)),
        ("auto", FakeTask(), ("auto", 1, False)),
        ("auto", None, ("auto", None, False)),
    ],
    ids=["given by Spark", "named", "no GPUs", "no task"],
)
def test_a_shard_lets_go_of_other_gpus_only_where_spark_moved_it(monkeypatch, device, task, placed):
    def embed_shard(shard, job, *, cpus, exclusive):
        return {"shard": shard, "placed": (job.spec.device, cpus, exclusive)}

    monkeypatch.setattr("clipmill.udfs.shards.embed_shard", embed_shard)
    monkeypatch.setattr(TaskContext, "get", lambda: task)
    job = Job(spec=EncoderSpec(MODEL, device=device), directory="out", schema=pa.schema([]))
    assert _embed_shard_in_task("shard", job) == {"shard": "shard", "placed": placed}


def test_outside_of_a_task_the_spec_decides():
    assert encoder_of_task(EncoderSpec(MODEL)).embed_texts(["one"]).shape == (1, 8)


def test_threads_follow_the_tasks_cores():
    encoder = encoder_of_task(EncoderSpec(MODEL), FakeTask(cpus=3))
    assert encoder._loaded.threads == 3


def test_a_driver_without_worker_reuse_warns_at_the_callers_line():
    with pytest.warns(RuntimeWarning, match=r"spark.python.worker.reuse is false: every task will load") as caught:
        warn_without_worker_reuse(FakeSession(spark_python_worker_reuse="False"), depth=0)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("session", [FakeSession(), FakeSession(spark_python_worker_reuse="true"), None])
def test_a_driver_with_worker_reuse_says_nothing(session):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_without_worker_reuse(session)


def test_the_public_names():
    assert clipmill.udfs.__all__ == sorted(clipmill.udfs.__all__)
    assert all(callable(getattr(clipmill.udfs, name)) for name in clipmill.udfs.__all__)


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


def test_neither_beam_nor_torch_nor_pandas_is_imported():
    done = run_python(
        "import sys, clipmill.udfs\n"
        "print(sorted({'apache_beam', 'torch', 'pandas', 'clipmill.transforms'} & {*sys.modules}))"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_without_pyspark_the_error_says_what_to_install():
    done = run_python("import sys; sys.modules['pyspark'] = None; import clipmill.udfs")
    assert "MissingExtraError: clipmill.udfs needs 'pyspark'" in done.stderr
    assert "pip install 'clipmill[spark]'" in done.stderr


@pytest.mark.spark
def test_a_real_session_without_worker_reuse_warns():
    """In a process of its own: the setting is read when Spark starts."""
    done = run_python(
        "from pyspark.sql import SparkSession\n"
        "from clipmill.udfs import embed_columns, embed_text, register, text_udf\n"
        "spark = (SparkSession.builder.master('local[1]').config('spark.ui.enabled', 'false')\n"
        "         .config('spark.python.worker.reuse', 'false').getOrCreate())\n"
        "df = spark.createDataFrame([], 'caption string')\n"
        "embed_columns(df, {'caption': 'text'}, model='fake::dim=8')\n"
        "embed_text('caption', model='fake::dim=8')\n"
        "text_udf(model='fake::dim=8')\n"
        "register(spark, model='fake::dim=8')\n"
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "spark.python.worker.reuse is false" in line]
    assert [line.split(" RuntimeWarning")[0] for line in lines] == [f"<string>:{n}:" for n in (6, 7, 8, 9)], done.stderr
