"""Files, wherever they are: file systems, publishing whole files, locks, Parquet, JSON.

- `file_systems`: local paths and everything that fsspec opens; `drivers`: which packages open which object stores
- `lock`: one job at a time in a directory; `processes`: which process is which, and whether it lives
- `retries`: when a fetch that failed is tried again
- `cache`: where this machine keeps downloads and graphs
- `parquet`: Parquet files with checksums; `json_text`: values as JSON, and text that UTF-8 can hold
"""
