"""Embed with Beam's `RunInference`, and keep the rows that cannot be embedded.

python examples/beam_run_inference.py --runner=FnApiRunner
"""

from __future__ import annotations

import io

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from PIL import Image

from clipmill.transforms import ClipModelHandler


def photo(colour: str) -> bytes:
    """Return a JPEG file of one colour, in place of a photograph."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(file, "JPEG")
    return file.getvalue()


def main() -> None:
    rows = [
        {"id": "a", "caption": "a red square", "photo": photo("red")},
        {"id": "b", "caption": "a blue square", "photo": b"\xff\xd8 is no photograph"},
    ]
    handler = ClipModelHandler("demo", columns={"caption": "text", "photo": "image"}, max_batch_size=32)
    with beam.Pipeline(options=PipelineOptions()) as p:
        results, dead = p | beam.Create(rows) | RunInference(handler).with_exception_handling()
        _ = results | "Results" >> beam.Map(
            lambda result: print("embedded", result.example["id"], result.inference["photo_embedding"].shape)
        )
        _ = dead.failed_postprocessing[0] | "Failures" >> beam.MapTuple(
            lambda result, error: print("failed", result.example["id"], *map(str, result.inference.failures))
        )


if __name__ == "__main__":
    main()
