"""Embed and classify in a Spark ML pipeline, save it, and load it again, as a second job would.

python examples/spark_ml_pipeline.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import SQLTransformer
from pyspark.sql import SparkSession

from clipmill.udfs import ClipClassifier, ClipEmbedder


def main(folder: str) -> None:
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = SparkSession.builder.getOrCreate()
    rows = spark.createDataFrame([("a", " A red circle "), ("b", "a blue star"), ("c", "")], "id string, raw string")
    pipeline = Pipeline(
        stages=[
            SQLTransformer(statement="SELECT id, lower(trim(raw)) AS caption FROM __THIS__"),
            ClipEmbedder("demo", columns={"caption": "text"}),
            ClipClassifier("demo", column="caption", labels=["circle", "star"], top_k=1),
        ]
    )
    pipeline.fit(rows).write().overwrite().save(folder)

    # The folder holds the models' names and options, and no weights.
    for row in PipelineModel.load(folder).transform(rows).orderBy("id").collect():
        if row.embedding_failures:
            print("failed", row.id, row.embedding_failures[0].code, row.embedding_failures[0].message)
        else:
            print("embedded", row.id, len(row.caption_embedding), row.caption_labels[0].label)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(str(Path(folder) / "pipeline"))
