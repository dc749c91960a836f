"""Embed a folder of JSON lines as its files arrive, each row once, also over restarts.

python examples/spark_streaming.py INPUT OUTPUT

Every run embeds the files that are new since the last one, and ends. `trigger(processingTime="1 minute")` instead of
`availableNow` keeps waiting for more.
"""

from __future__ import annotations

import os
import sys

from pyspark.sql import DataFrame, SparkSession

from clipmill.udfs import embed_columns


def main(source: str, output: str) -> None:
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = SparkSession.builder.getOrCreate()
    captions = spark.readStream.schema("id string, caption string").json(source)
    embedded = embed_columns(captions, {"caption": "text"}, model="demo")

    def write(batch: DataFrame, number: int) -> None:
        # Spark runs a batch again under the same number if the job ended before it was committed.
        batch.persist()
        try:
            for name, condition in (("vectors", "is null"), ("failures", "is not null")):
                chosen = batch.where(f"embedding_failures {condition}")
                chosen.write.mode("overwrite").parquet(f"{output}/{name}/batch={number}")
        finally:
            batch.unpersist()

    writer = embedded.writeStream.foreachBatch(write).option("checkpointLocation", f"{output}/_checkpoint")
    writer.trigger(availableNow=True).start().awaitTermination()
    for name in ("vectors", "failures"):
        print(name, spark.read.parquet(f"{output}/{name}").count())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
