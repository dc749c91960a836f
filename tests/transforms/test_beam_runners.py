"""How `Embed` meets runners: metrics, one load for each process, small pickles, resource hints, Dataflow."""

from __future__ import annotations

import collections
import logging
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PANE_INFO_UNKNOWN
from beam_helpers import Keep, counters, kept, pipeline
from places import SUPPORT

from clipmill.encoders import Document, EncoderSpec, Stats, load_encoder, unload_all
from clipmill.encoders.plans.document_embed_plan import DocumentEmbedPlan
from clipmill.encoders.plans.runner import PlanSession
from clipmill.encoders.testing import FakeModel, fake_text_vector, read_log
from clipmill.threads import Cores
from clipmill.transforms import Embed
from clipmill.transforms import worker as worker_module
from clipmill.transforms.elements import DocumentElements
from clipmill.transforms.embed_fn import EmbedBatchFn, EmbedFn
from clipmill.transforms.meter import BundleMeter
from clipmill.transforms.windowed import Place
from clipmill.transforms.worker import cores_per_process

ENCODE = "Embed(fake::dim=8)/Encode/ParDo(EmbedFn)"


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


def run(p: beam.Pipeline):
    result = p.run()
    result.wait_until_finish()
    return result


def test_metrics_count_rows_batches_and_reasons():
    p = pipeline()
    rows = [{"id": n, "caption": f"caption {n}", "photo": None} for n in range(10)]
    rows += [{"id": 10, "caption": "", "photo": b"no picture"}, {"id": 11, "caption": "word " * 80, "photo": None}]
    columns = {"caption": "text", "photo": "image"}
    _ = p | beam.Create([*rows, "no row"]) | Embed("fake::dim=8", columns=columns, max_batch_rows=4)
    result = run(p)
    found = counters(result)
    times = {name: found.pop(name) for name in ("decode_msec", "encode_msec", "fetch_msec") if name in found}
    assert all(value >= 0 for value in times.values())
    assert found == {
        "rows_in": 13,
        "embedded": 11,
        "nulls": 11,
        "failed_empty": 1,
        "failed_undecodable": 1,
        "failed_unsupported": 1,
        "batches": 3,
        "truncated_texts": 1,
        "cache_misses": 13,
        "models_loaded": 1,
    }
    (sizes,) = result.metrics().query(beam.metrics.MetricsFilter().with_name("batch_rows"))["distributions"]
    assert (sizes.committed.sum, sizes.committed.count, sizes.committed.min, sizes.committed.max) == (11, 3, 3, 4)


def test_milliseconds_of_short_bundles_add_up(monkeypatch):
    """A bundle of one row takes less than a millisecond: what is cut off must not be lost for ever."""
    counted = []
    meter = BundleMeter()
    monkeypatch.setattr(meter, "count", lambda name, number: counted.append((name, number)))
    for _ in range(10):
        meter.report(Stats(fetch_msec=0.25, encode_msec=0.5))
    assert sum(number for name, number in counted if name == "fetch_msec") == 2
    assert sum(number for name, number in counted if name == "encode_msec") == 5


def test_models_load_at_once_and_each_load_is_counted_once(monkeypatch):
    """Neither waits for the other, and their threads' meters report two loads together."""
    together = threading.Barrier(2, timeout=30)

    class Waiting(FakeModel):
        def __init__(self, options):
            super().__init__(options)
            together.wait()

    monkeypatch.setattr("clipmill.models.fake.FakeModel", Waiting)
    counted = collections.Counter()
    monkeypatch.setattr(BundleMeter, "count", lambda self, name, number: counted.update({name: number}))

    def load(dim):
        meter = BundleMeter()
        for _ in range(2):
            meter.load(EncoderSpec(f"fake::dim={dim}"), cpus=None)
            meter.report(Stats())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load, [3, 4, 3, 4]))
    assert counted["models_loaded"] == 2


def test_a_load_that_another_thread_is_quicker_to_count_is_counted(monkeypatch):
    """One has loaded and not counted when another begins, loads and counts."""
    first, second = BundleMeter(), BundleMeter()

    def load(spec, *, cpus):
        encoder = load_encoder(spec, cpus=cpus)
        if spec.model == "fake::dim=3":
            second.load(EncoderSpec("fake::dim=4"), cpus=None)
        return encoder

    monkeypatch.setattr("clipmill.transforms.meter.load_encoder", load)
    load_encoder("fake::dim=5")  # by somebody else
    first.load(EncoderSpec("fake::dim=3"), cpus=None)
    counted = []
    for meter in (first, second):
        monkeypatch.setattr(meter, "count", lambda name, number: counted.append((name, number)))
        meter.report(Stats())
    assert sum(number for name, number in counted if name == "models_loaded") == 2


@pytest.mark.parametrize("fn", [EmbedFn, EmbedBatchFn])
def test_what_a_failed_bundle_left_in_flight_is_let_go(fn, monkeypatch):
    closed = []
    close = PlanSession.close

    def noted(session):
        closed.append(session)
        close(session)

    monkeypatch.setattr(PlanSession, "close", noted)
    stage = fn(EncoderSpec("fake::dim=8"), DocumentElements(DocumentEmbedPlan(), ""), on_failure="split", cores=Cores())
    stage.setup()
    stage.start_bundle()
    left = stage._session
    assert stage._push(Document(text="waits"), Place(Timestamp(0), GlobalWindow(), PANE_INFO_UNKNOWN)) == []
    stage.start_bundle()
    assert closed == [left]
    stage.teardown()
    assert closed == [left, stage._session]


def test_a_model_is_loaded_once_though_two_transforms_use_it(tmp_path):
    p = pipeline()
    model = f"fake::dim=8&log={tmp_path / 'log'}"
    rows = p | beam.Create([{"id": n, "a": "x", "b": "y"} for n in range(20)])
    first = rows | Embed(model, columns={"a": "text"})
    _ = first.rows | beam.Reshuffle() | Embed(model, columns={"b": "text"}, max_batch_rows=3)
    result = run(p)
    assert list(read_log(tmp_path / "log").loads.values()) == [1]
    assert counters(result, "models_loaded") == 1
    assert counters(result, "embedded") == 40


@pytest.mark.parametrize("mode", ["multi_threading", "multi_processing"])
def test_workers_load_once_for_each_process(tmp_path, mode, monkeypatch):
    """The transforms reach worker processes by pickle, and what comes back is the same as in one process."""
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    p = pipeline(f"--direct_running_mode={mode}", "--direct_num_workers=2")
    texts = [f"text {n}" for n in range(200)]
    documents = p | beam.Create([Document(text=text, id=text) for text in texts]) | beam.Reshuffle()
    embedded = documents | Embed(f"fake::dim=8&log={tmp_path / 'log'}", max_batch_rows=16)
    _ = embedded.rows | Keep(tmp_path / "rows")
    result = run(p)
    found = {document.id: document.embedding for document in kept(tmp_path / "rows")}
    assert {name: vector.tolist() for name, vector in found.items()} == {
        text: fake_text_vector(text).tolist() for text in texts
    }
    log = read_log(tmp_path / "log")
    assert len(log.loads) == {"multi_threading": 1, "multi_processing": 2}[mode]
    assert set(log.loads.values()) == {1}
    assert counters(result, "models_loaded") == len(log.loads)
    assert log.rows == 200


def test_a_pickle_holds_the_spec_and_no_weights():
    transform = Embed("demo", device="cpu", columns={"caption": "text"})
    p = pipeline()
    _ = p | beam.Create([{"caption": "a"}]) | transform
    assert run(p).state == "DONE"  # the demo's weights are in memory now
    pickled = pickle.dumps(transform)
    assert len(pickled) < 10_000
    again = pickle.loads(pickled)
    assert (again.spec, again.plan) == (transform.spec, transform.plan)


def test_resource_hints_reach_the_stage_that_encodes():
    p = pipeline()
    hinted = Embed("fake::dim=8").with_resource_hints(accelerator="type:nvidia-tesla-t4;count:1", min_ram="4GB")
    _ = p | beam.Create([Document(text="a")]) | hinted
    components = p.to_runner_api().components
    (stage,) = (t for t in components.transforms.values() if t.unique_name == ENCODE)
    assert stage.spec.urn == "beam:transform:pardo:v1"
    assert components.environments[stage.environment_id].resource_hints == {
        "beam:resources:accelerator:v1": b"type:nvidia-tesla-t4;count:1",
        "beam:resources:min_ram_bytes:v1": b"4000000000",
    }


def test_fetching_decoding_and_encoding_are_one_stage():
    p = pipeline()
    _ = p | beam.Create([Document(text="a")]) | Embed("fake::dim=8")
    transforms = p.to_runner_api().components.transforms.values()
    inside = [t for t in transforms if t.unique_name.startswith("Embed(fake::dim=8)/")]
    assert [t.unique_name for t in inside if t.spec.urn == "beam:transform:pardo:v1"] == [ENCODE]


def test_dataflow_builds_the_job(tmp_path, monkeypatch):
    """`--dry_run` translates the pipeline as for a submission; it needs neither credentials nor a network."""
    monkeypatch.chdir(tmp_path)
    options = ["--runner=DataflowRunner", "--dry_run=True", "--project=nobody", "--region=europe-west1", "--no_auth"]
    options += ["--temp_location=gs://nowhere/tmp", "--sdk_location=container", "--job_name=embed"]
    p = beam.Pipeline(options=PipelineOptions(options))
    hinted = Embed("ViT-B-32::openai").with_resource_hints(accelerator="type:nvidia-l4;count:1")
    _ = p | beam.Create([Document(text="a")]) | hinted
    result = p.run()
    assert result.job.proto.name == "embed"
    components = p.runner.proto_pipeline.components
    (stage,) = (t for t in components.transforms.values() if t.unique_name.endswith("Encode/ParDo(EmbedFn)"))
    hints = components.environments[stage.environment_id].resource_hints
    assert hints["beam:resources:accelerator:v1"] == b"type:nvidia-l4;count:1"


@pytest.mark.parametrize(
    ("options", "cpus", "expected"),
    [
        (("--runner=FnApiRunner",), 8, 8),
        (("--runner=FnApiRunner", "--direct_running_mode=multi_threading", "--direct_num_workers=4"), 8, 8),
        (("--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"), 8, 4),
        (("--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=4"), 2, 1),
        (("--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=0"), 4, 2),
        (("--runner=DataflowRunner",), 8, 1),
        (("--runner=DataflowRunner", "--experiments=no_use_multiple_sdk_containers"), 8, 8),
        (("--runner=FlinkRunner",), 8, 8),
        (("--runner=FlinkRunner", "--sdk_worker_parallelism=4"), 8, 2),
        (("--runner=PortableRunner", "--sdk_worker_parallelism=16"), 8, 1),
        (("--runner=SparkRunner", "--sdk_worker_parallelism=0"), 8, 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_processes_share_the_cores(monkeypatch, options, cpus, expected):
    """Of the machine of the worker, which a driver does not know."""
    monkeypatch.setattr(worker_module.os, "cpu_count", lambda: 2)
    cores = pickle.loads(pickle.dumps(cores_per_process(PipelineOptions(list(options)))))
    monkeypatch.setattr("clipmill.threads.allowed_cpus", lambda: cpus)
    assert cores.here() == expected


def test_the_core_learns_how_many_cores_it_has(monkeypatch):
    asked = []

    def record(self, spec, *, cpus):
        asked.append(cpus)
        raise RuntimeError("enough")

    monkeypatch.setattr(BundleMeter, "load", record)
    monkeypatch.setattr("clipmill.threads.allowed_cpus", lambda: 6)
    monkeypatch.setattr("clipmill.transforms.encoding.cores_per_process", lambda options, runner: Cores(2))
    p = pipeline()
    _ = p | beam.Create([Document(text="a")]) | Embed("fake::dim=8")
    with pytest.raises(RuntimeError, match="enough"):
        run(p)
    assert set(asked) == {3}


def test_nothing_of_clipmill_is_logged_as_a_warning(caplog):
    with caplog.at_level(logging.WARNING, logger="clipmill"):
        p = pipeline()
        _ = p | beam.Create([Document(text="a"), Document(text="")]) | Embed("fake::dim=8")
        run(p)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("clipmill")] == []


def test_nothing_of_spark_and_no_model_library_is_imported():
    code = (
        "import sys, clipmill.transforms; print(sorted({'pyspark', 'torch', 'open_clip', 'pandas'} & {*sys.modules}))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pyspark" not in shown
    assert "torch" not in shown


def test_without_beam_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['apache_beam'] = None\n"
        "try:\n    import clipmill.transforms\nexcept ImportError as err:\n    print(type(err).__name__, err)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("MissingExtraError clipmill.transforms needs 'apache_beam', which is not installed: ")
    assert "pip install 'clipmill[beam]'" in shown


def test_the_table_of_contents():
    import clipmill.transforms as package

    assert package.__all__ == sorted(package.__all__)
    assert all(getattr(package, name).__name__ == name for name in package.__all__)
