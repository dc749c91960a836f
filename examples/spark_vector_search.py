"""Embed a folder of images, and find those that fit a text with Spark's own SQL (Spark 4.2 and newer).

python examples/spark_vector_search.py FOLDER "a red circle"
"""

from __future__ import annotations

import os
import sys

from pyspark.sql import SparkSession

from clipmill.udfs import embed_columns


def main(folder: str, text: str) -> None:
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = SparkSession.builder.getOrCreate()
    files = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(folder)
    files = files.where("length < 64000000")  # of files that are left out here, Spark reads nothing
    photos = embed_columns(files, {"content": "image"}, model="demo").drop("content").persist()
    photos.createOrReplaceTempView("photos")
    for row in photos.where("embedding_failures is not null").collect():
        print("failed", os.path.basename(row.path), row.embedding_failures[0].code)

    queries = spark.createDataFrame([(text,)], "query string")
    embed_columns(queries, {"query": "text"}, model="demo").createOrReplaceTempView("queries")
    cosine = "vector_cosine_similarity(query_embedding, content_embedding)"
    hits = spark.sql(f"select path, {cosine} as cosine from queries join photos exact nearest 2 by similarity {cosine}")
    for row in hits.orderBy("cosine", ascending=False).collect():
        print("found", os.path.basename(row.path), round(row.cosine, 3))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
