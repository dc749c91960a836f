"""What the tests of the Beam transforms share: pipelines on a runner that is named, and what came out of them."""

from __future__ import annotations

import collections
import os
import pickle
import shlex
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

FN_API_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"  # its short name is new in Beam 2.7x
LOCAL = tuple(shlex.split(os.environ.get("CLIPMILL_TEST_BEAM", f"--runner={FN_API_RUNNER}")))
"""Beam's default would first try to download another runner. `make test-prism` names another one."""


def pipeline(*options: str) -> beam.Pipeline:
    """Return a pipeline on the local runner, unless an option names another."""
    return beam.Pipeline(options=PipelineOptions([*LOCAL, *options]))


class Keep(beam.PTransform):
    """Keeps the elements of a PCollection in files, one each, where the test can look at them."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = str(directory)

    def expand(self, pcoll: beam.PCollection) -> beam.PCollection:
        return pcoll | beam.ParDo(_KeepFn(self.directory))


class _KeepFn(beam.DoFn):
    def __init__(self, directory: str) -> None:
        self._directory = directory

    def process(self, element, timestamp=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam):
        import uuid

        folder = Path(self._directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / uuid.uuid4().hex).write_bytes(pickle.dumps((element, float(timestamp), window)))


def kept(directory: Path) -> list[Any]:
    """Return the elements that `Keep(directory)` kept, in no order."""
    return [element for element, _, _ in kept_in_time(directory)]


def kept_in_time(directory: Path) -> list[tuple[Any, float, Any]]:
    """Return (element, timestamp in seconds, window) of what `Keep(directory)` kept, in no order."""
    return [pickle.loads(path.read_bytes()) for path in sorted(directory.iterdir())] if directory.exists() else []


def counters(result: Any, name: str | None = None) -> Any:
    """Return clipmill's counters of a finished pipeline by name, summed over its steps, or one of them."""
    found: collections.Counter[str] = collections.Counter()
    for counter in result.metrics().query()["counters"]:
        if counter.key.metric.namespace == "clipmill":
            found[counter.key.metric.name] += counter.committed
    return dict(found) if name is None else found[name]
