"""What can be said about a dataset of vectors, whatever its size: counts from its manifests, the rest from a sample.

- `parts`: its Parquet files, and batches of some of their rows; `columns`: which columns hold vectors, or scores
- `sample`: vectors of rows drawn at random, and what they were made of
- `histograms`: numbers counted in bins; `likeness`: cosines of pairs, and near-duplicates; `projection`: two dimensions
- `duplicates`: rows that are nearly the same; `pictures`: thumbnails; `vectors`: all of that for one column
- `scores`: of ranked and of classified rows, counted as they are read
- `work`: throughput over time, batch sizes and time spent; `reasons`: failures by reason, with examples
- `integrity`: what a dataset lacks, and whose files its rows name; `indexes`: an index as rows
- `overview`: `overview`, all of it for a dataset or an index
"""
