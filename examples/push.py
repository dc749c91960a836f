"""Push the vectors of a dataset into a vector database, and search there.

clipmill embed captions.jsonl --output captions --model demo --id-column id
python examples/push.py captions qdrant:qdrant-folder
"""

from __future__ import annotations

import sys

from qdrant_client import QdrantClient

from clipmill import load_encoder
from clipmill.indexes import push_dataset


def main(dataset: str, url: str) -> None:
    pushed = push_dataset(dataset, url, collection="captions")
    print("pushed", pushed.rows, "there already", pushed.there)

    client = QdrantClient(path=url.partition(":")[2])
    query = load_encoder("demo").embed_texts(["a blue star"])[0]
    for point in client.query_points("captions", query.tolist(), limit=2).points:
        print("found", point.payload["id"], round(point.score, 2))
    client.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
