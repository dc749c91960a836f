"""The systems that clipmill is compared with: A and B alone, C on Beam, D on Spark, each as its users run it."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import open_clip
import torch
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from PIL import Image
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from turns import Contender

from clipmill.threads import allowed_cpus

BATCH = 32
SERVICE_THREADS = 4


class OpenClip:
    """A: open_clip's own model, transform and tokenizer, torch float32."""

    def __init__(self, architecture: str, weights: Path) -> None:
        """Load a model.

        Args:
            architecture: open_clip's name for it.
            weights: A safetensors file.
        """
        model, _, self.transform = open_clip.create_model_and_transforms(architecture, pretrained=str(weights))
        self.model = model.eval()
        self.tokenizer = open_clip.get_tokenizer(architecture)

    def embed(self, modality: str, values: Sequence[Any]) -> np.ndarray:
        """Return (n, dim) float32 for one batch of encoded images or of texts."""
        with torch.inference_mode():
            if modality == "text":
                return self.model.encode_text(self.tokenizer(list(values))).numpy()
            images = [self.transform(Image.open(io.BytesIO(value))) for value in values]
            return self.model.encode_image(torch.stack(images)).numpy()


@functools.cache
def open_clip_model(architecture: str, weights: Path) -> OpenClip:
    """Return a model that this process loads only once."""
    return OpenClip(architecture, weights)


def batches(values: Sequence[Any]) -> list[Sequence[Any]]:
    """Cut values into batches, the last one shorter."""
    return [values[first : first + BATCH] for first in range(0, len(values), BATCH)]


def plain_loop(model: OpenClip, modality: str, values: Sequence[Any]) -> Contender:
    """A: a loop over batches, as clip-retrieval does on a CPU."""

    def run() -> np.ndarray:
        torch.set_num_threads(allowed_cpus())  # other code in this process may have changed it
        return np.concatenate([model.embed(modality, batch) for batch in batches(values)])

    return Contender("A", len(values), run)


class OnnxService:
    """B: ONNX Runtime float32 behind four threads that preprocess whole batches ahead of it, like clip-as-service."""

    def __init__(self, graphs: Mapping[str, Path], preprocess: Callable[[Image.Image], Any], tokenizer: Any) -> None:
        """Start a session for each graph, with ONNX Runtime's default settings.

        Args:
            graphs: By modality; the inputs are normalised images, and texts as 77 tokens.
            preprocess: Turns a Pillow image into a normalised tensor.
            tokenizer: Turns texts into (n, 77) tokens.
        """
        import onnxruntime

        self._sessions = {
            name: onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            for name, path in graphs.items()
        }
        self._preprocess = preprocess
        self._tokenizer = tokenizer
        self._pool = ThreadPoolExecutor(SERVICE_THREADS)

    def prepare(self, modality: str, values: Sequence[Any]) -> np.ndarray:
        """Return a session's input for one batch."""
        if modality == "text":
            return self._tokenizer(list(values)).numpy()
        return torch.stack([self._preprocess(Image.open(io.BytesIO(value))) for value in values]).numpy()

    def embed(self, modality: str, values: Sequence[Any]) -> np.ndarray:
        """Return (n, dim) float32 for any number of encoded images or texts."""
        session = self._sessions[modality]
        name = session.get_inputs()[0].name
        prepared = self._pool.map(functools.partial(self.prepare, modality), batches(values))
        return np.concatenate([session.run(None, {name: batch})[0] for batch in prepared])


def onnx_service(service: OnnxService, modality: str, values: Sequence[Any]) -> Contender:
    """B, over all values."""
    return Contender("B", len(values), lambda: service.embed(modality, values))


class PlainHandler(ModelHandler[Any, PredictionResult, OpenClip]):
    """C's handler: open_clip, 32 rows per batch."""

    def __init__(self, architecture: str, weights: Path, modality: str) -> None:
        """Store what is needed to load the model."""
        super().__init__(min_batch_size=BATCH, max_batch_size=BATCH)
        self._made_of = architecture, weights
        self._modality = modality

    def load_model(self) -> OpenClip:
        """Return the model, loaded once for all pipelines of this process, because loading is not timed."""
        return open_clip_model(*self._made_of)

    def run_inference(
        self, batch: Sequence[Any], model: OpenClip, inference_args: dict[str, Any] | None = None
    ) -> Iterable[PredictionResult]:
        """Embed one batch."""
        vectors = model.embed(self._modality, batch)
        return [PredictionResult(value, vector) for value, vector in zip(batch, vectors, strict=True)]


def run_inference(handler: PlainHandler, table: Path, rows: int) -> Contender:
    """C: Beam's RunInference on its local runner with rows from Parquet, including the pipeline's construction."""

    def run() -> None:
        torch.set_num_threads(allowed_cpus())
        with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
            values = pipeline | beam.io.ReadFromParquet(str(table)) | beam.Map(lambda row: row["value"])
            _ = values | RunInference(handler) | beam.Map(lambda result: result.inference.shape)

    return Contender("C", rows, run)


def plain_udf(architecture: str, weights: Path, modality: str) -> Callable[[str], Column]:
    """Return D's function of a column: open_clip in `predict_batch_udf`, with Spark's default threads."""

    def load() -> Callable[[np.ndarray], np.ndarray]:
        model = open_clip_model(architecture, weights)
        return lambda values: model.embed(modality, values)

    return predict_batch_udf(load, return_type=T.ArrayType(T.FloatType()), batch_size=BATCH)


def predict_batches(embed: Callable[[str], Column], frame: DataFrame, few: DataFrame, rows: int) -> Contender:
    """D: the column of a DataFrame, on warm workers.

    Args:
        embed: The function from `plain_udf`.
        frame: All rows.
        few: Some of them, in as many partitions, to warm up the workers.
        rows: The number of rows.
    """

    def made(source: DataFrame) -> None:
        source.select("id", embed(F.col("value"))).write.format("noop").mode("overwrite").save()

    return Contender("D", rows, lambda: made(frame), lambda: made(few))
