"""Writers for the files of a dataset.

- `shard_writer`: writes one shard atomically: its rows, rejected ones, its failures and its manifest; `row_groups`:
  collects rows for a file; `shard_sink`: batches and counts finished rows for it
- `manifest`: the manifest of a shard, checked when it is read
- `base`: names and protocols that all formats share; `part_writers`: selects the writer of a format, and writes Parquet
  and JSON lines
- `clip_retrieval`, `clip_retrieval_part`: clip-retrieval's layout; `lance_part`: Lance; `webdataset_part`: tars of
  samples
"""
