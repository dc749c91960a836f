"""Embed with Beam's `MLTransform`: one pipeline writes the artifacts, a second one reads them.

python examples/beam_ml_transform.py --runner=FnApiRunner
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import apache_beam as beam
from apache_beam.ml.transforms.base import MLTransform
from apache_beam.options.pipeline_options import PipelineOptions

from clipmill.transforms import ClipEmbeddings


def main(artifacts: str) -> None:
    rows = [{"id": "a", "caption": "a red circle"}, {"id": "b", "caption": "a blue star"}]
    embeddings = ClipEmbeddings("demo", columns={"caption": "text"})
    with beam.Pipeline(options=PipelineOptions()) as p:
        write = MLTransform(write_artifact_location=artifacts).with_transform(embeddings)
        _ = p | beam.Create(rows) | write | beam.Map(lambda row: print("first", row["id"], len(row["caption"])))

    # The artifacts name the model and its options, so that queries get vectors of the same space.
    queries = [{"id": "q", "caption": "something red"}, {"id": "r", "caption": ""}]
    with beam.Pipeline(options=PipelineOptions()) as p:
        read = MLTransform(read_artifact_location=artifacts).with_exception_handling()
        embedded, failed = p | beam.Create(queries) | read
        _ = embedded | "Rows" >> beam.Map(lambda row: print("second", row["id"], len(row["caption"])))
        _ = failed | "Failures" >> beam.Map(lambda row: print("failed", row.element["id"], row.msg))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(str(Path(folder) / "artifacts"))
