"""The worker processes of a pipeline share one encoder process: the same vectors, and one load for all of them."""

from __future__ import annotations

import os

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from beam_helpers import LOCAL, Keep, counters, kept, pipeline
from encoder_processes import own_folder, pids
from places import SUPPORT

from clipmill.encoders import Document, load_encoder
from clipmill.threads import CpuShare
from clipmill.transforms import Embed
from clipmill.transforms.worker import cores_per_process

OPTIONS = {"device": "cpu", "runtime": "onnx", "precision": "fp32"}


def test_processes_load_once_for_all_of_them(tmp_path, monkeypatch):
    paths = [str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    with own_folder(monkeypatch) as folder:
        p = pipeline("--direct_running_mode=multi_processing", "--direct_num_workers=2")
        texts = [f"a circle, number {n}" for n in range(100)]
        documents = p | beam.Create([Document(text=text, id=text) for text in texts]) | beam.Reshuffle()
        embedded = documents | Embed("demo", **OPTIONS, encoder_process="per_host", max_batch_rows=8)
        _ = embedded.rows | Keep(tmp_path / "rows")
        result = p.run()
        result.wait_until_finish()
        assert len(pids(folder)) == 1
        assert counters(result, "models_loaded") == 1
        found = {document.id: document.embedding for document in kept(tmp_path / "rows")}
        expected = load_encoder("demo", **OPTIONS, encoder_process="off").embed_texts(texts)
        np.testing.assert_allclose(np.stack([found[text] for text in texts]), expected, rtol=1e-4, atol=1e-5)


def test_the_number_of_processes_is_told(monkeypatch):
    monkeypatch.setattr("clipmill.threads.allowed_cpus", lambda: 8)
    several = PipelineOptions([*LOCAL, "--direct_running_mode=multi_processing", "--direct_num_workers=4"])
    assert cores_per_process(several).here().processes == 4
    # on Dataflow each may have a container of its own
    assert not isinstance(cores_per_process(PipelineOptions(["--runner=DataflowRunner"])).here(), CpuShare)
