"""Downloads of weights, configurations and tokenizers, cached on this machine.

- `urls`: `fetch_url` downloads from the web, `gs://`, `s3://` and `az://`, once per machine
- `copies`: paths in the cache, locks, and atomic publishing of complete files
- `transfer`: downloads one file over HTTP, with resume and retries
- `objects`: copies one file from an object store
- `hub`: finds or fetches files of Hugging Face repositories
- `repository`: downloads one of them into a cache that the hub's library manages
- `model_files`: finds files of a directory or a repository
- `elsewhere`: finds files that other programs have downloaded
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import lazy_names

if TYPE_CHECKING:
    from .urls import fetch_url, local_file
else:
    __getattr__, __dir__ = lazy_names(__name__, {"urls": ("fetch_url", "local_file")})

__all__ = ["fetch_url", "local_file"]
