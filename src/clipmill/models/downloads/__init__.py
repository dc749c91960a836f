"""Files from elsewhere, kept on this machine: weights, configurations and tokenizers.

- `urls`: `fetch_url`, from the web, `gs://`, `s3://` and `az://`, once for each machine
- `copies`: where they are kept, and how they get their names when they are whole
- `transfer`: one file over HTTP: resumed where it was cut off, given up when it stalls
- `objects`: one file out of an object store
- `hub`: files of Hugging Face repositories
- `repository`: one of them, brought into a cache that the hub's library keeps
- `model_files`: the files of a directory or a repository
- `elsewhere`: files that other programs have downloaded already
- `progress`: who wants to hear how far a download is
"""

from .progress import Observer, observed_by
from .urls import fetch_url, local_file

__all__ = ["Observer", "fetch_url", "local_file", "observed_by"]
