"""Local and remote files: file systems, atomic writes, locks, Parquet, JSON.

- `file_systems`: local paths and everything that fsspec opens; `folder`: a directory there; `drivers`: the packages
  that open object stores
- `hub`: `hf://` URLs, and errors of the hub's library
- `atomic`: files that are complete or not there
- `lock`: one job at a time in a directory; `processes`: identifying processes and checking whether they are alive
- `retries`: when a failed fetch is retried
- `cache`: the directory for downloads and compiled graphs
- `compression`: files that are compressed as a whole
- `parquet`: Parquet files with checksums; `parquet_pages`: pages are checked before they expand in memory;
  `page_headers`: what their headers say
- `arrow_stream`: Arrow files and streams, whose batches are checked likewise
- `json_text`: values as JSON, and strings that UTF-8 can encode;
  `json_shape`: whether JSON that was read is what was written
- `parted_list`: long lists in parts, of which memory holds a few; `list_parts`: where the parts are
- `local_files`: lists the files below a folder
- `times`: durations and moments in nanoseconds
"""
