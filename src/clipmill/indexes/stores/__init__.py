"""Vector databases: the vectors of a dataset, pushed into a collection of one.

- `push`: `push_dataset`, the loop over a dataset's files; `parts`: which of them were pushed, and the ids of rows
- `target`: the URL of a database, and its credentials, which no message shows
- `collection`: what all databases have in common: the description of a collection, rows, the protocol `Store`
- `postgres` (with pgvector), `qdrant`, `milvus`, `lance` (tables of LanceDB): one database each
"""

from .push import Pushed, push_dataset

__all__ = ["Pushed", "push_dataset"]
