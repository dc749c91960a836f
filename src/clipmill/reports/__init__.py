"""Reports: figures of a dataset or an index of any size, and the pages that show them.

Counts come from a dataset's manifests, the rest from a sample.

- `overview`: `overview`, all of it for a dataset or an index
- `parts`: Parquet files, and batches of some of their rows; `columns`: which columns hold vectors, or scores
- `sample`: vectors of rows drawn at random, and their content
- `histograms`: numbers counted in bins; `projection`: two dimensions
- `similarity`: cosines of pairs, and near-duplicates
- `duplicates`: rows that are nearly the same; `pictures`: thumbnails; `vectors`: all of that for one column
- `scores`: of ranked and of classified rows, counted as they are read; `pair_scores`: of pairs, rejected ones too
- `work`: throughput over time, batch sizes and time spent; `reasons`: failures by reason, with examples
- `integrity`: what a dataset lacks, and whose files its rows name; `indexes`: an index as rows
- `page`: the page of a report; `plots`, `words`, `provenance`: its parts
- `contact_sheet`: the page of a search; `page_file`: templates, and where pages go
"""
