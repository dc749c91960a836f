"""The packages that open object stores, and the extras that install them."""

from __future__ import annotations

DRIVERS = {
    "s3": ("s3fs", "remote"),
    "s3a": ("s3fs", "remote"),
    "gs": ("gcsfs", "gcp"),
    "gcs": ("gcsfs", "gcp"),
    "az": ("adlfs", "remote"),
    "abfs": ("adlfs", "remote"),
    "abfss": ("adlfs", "remote"),
    "hf": ("huggingface_hub", "remote"),  # and without the extra
}
"""By scheme: the package that fsspec needs, and the extra of clipmill that installs it."""

SCHEMES = frozenset(
    {*DRIVERS, "file", "local", "http", "https", "ftp", "sftp", "ssh", "hdfs", "webhdfs", "memory", "r2"}
)
"""Schemes that a name such as `gs:bucket/x` is taken to misspell."""
