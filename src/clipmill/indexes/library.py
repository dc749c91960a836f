"""Faiss, imported when an index is built or opened."""

from __future__ import annotations

import os
import re
from typing import Any

from ..errors import MissingExtraError, SpecError

_PLACE = re.compile(r"^.* at \S+\.(?:cpp|h):\d+: (?:Error: '.*?' failed: ?)?")


def faiss_library() -> Any:
    """Return the module `faiss`.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import faiss
    except ImportError as err:
        raise MissingExtraError("faiss-cpu", "index", "building and searching an index") from err
    return faiss


def use_threads(cpus: int | None) -> None:
    """Let Faiss compute on so many cores, by default on those that this process may use.

    Spark tells its workers' OpenMP to take one thread, whatever the task was given.
    """
    faiss_library().omp_set_num_threads(cpus or len(os.sched_getaffinity(0)))


def make_index(dim: int, factory: str) -> Any:
    """Return an empty index that compares by squared distance: of vectors of length 1 that orders as the cosine does.

    Raises:
        SpecError: If Faiss does not take the description for vectors of this dimension.
    """
    faiss = faiss_library()
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_L2)
    except RuntimeError as err:
        raise SpecError(
            f"factory={factory!r} makes no index of {dim} values: {reason_of(err)}; give one such as 'Flat' (exact), "
            "'HNSW32,SQ8', 'IVF1024,SQ8' or 'OPQ64,IVF1024,PQ64', or leave it out, and the kind is planned"
        ) from err
    _leave_codes_unordered(index)
    return index


def _leave_codes_unordered(index: Any) -> None:
    """Keep training from renumbering a product quantiser's centroids for comparisons by Hamming distance.

    No search here makes such comparisons, which are polysemous codes, and the renumbering takes longer than all of the
    rest: 13 of 14 s for `PQ8`, whatever the number of rows.
    """
    faiss = faiss_library()
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    coder = faiss.downcast_index(inner.storage) if isinstance(inner, faiss.IndexHNSW) else inner
    if hasattr(coder, "do_polysemous_training"):
        coder.do_polysemous_training = False


def reason_of(error: RuntimeError) -> str:
    """Return what Faiss says of an error, without the place in its source and the condition there."""
    last = str(error).strip().splitlines()[-1]
    return _PLACE.sub("", last).strip() or last


def ivf_of(index: Any) -> Any:
    """Return the inverted file in an index, None in one without."""
    return faiss_library().try_extract_index_ivf(index)


def code_bytes_of(index: Any) -> int:
    """Return the bytes of a vector's code; those of the vector where Faiss does not say."""
    ivf, graph = ivf_of(index), hnsw_of(index)
    if ivf is not None:
        return int(ivf.code_size)
    try:
        return int((index if graph is None else faiss_library().downcast_index(graph.storage)).sa_code_size())
    except RuntimeError:
        return int(index.d) * 4


def hnsw_of(index: Any) -> Any:
    """Return the graph that an index without inverted lists is made of, None in one without."""
    faiss = faiss_library()
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexPreTransform | faiss.IndexIDMap):
        inner = faiss.downcast_index(inner.index)
    return inner if isinstance(inner, faiss.IndexHNSW) else None
