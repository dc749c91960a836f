"""What writes the files of a dataset.

- `shard_writer`: one shard: its rows, its failures and its manifest, whole or not at all; `shard_sink`: finished rows
  on their way there, counted
- `base`: what all formats have in common; `part_writers`: a shard's rows as Parquet or JSON lines, and which writer
  belongs to which format
- `clip_retrieval`, `clip_retrieval_part`: clip-retrieval's layout; `lance_part`: Lance
"""
