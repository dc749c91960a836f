"""Faiss, imported when an index is built or opened."""

from __future__ import annotations

import re
from typing import Any

from ..errors import DatasetError, SpecError, require
from ..messages import setting
from ..threads import allowed_cpus

_MAX_DEPTH = 8
_PLACE = re.compile(r"^.* at \S+\.(?:cpp|h):\d+: (?:Error: '.*?' failed: ?)?")


def faiss_library() -> Any:
    """Return the module `faiss`; raise `MissingExtraError` if it is not installed."""
    return require("faiss", "index", "building and searching an index", package="faiss-cpu")


def use_threads(cpus: int | None) -> None:
    """Set the number of threads of Faiss, by default the cores that this process may use.

    Spark sets OMP_NUM_THREADS=1 for its Python workers by default, however many cores a task has.
    """
    faiss_library().omp_set_num_threads(cpus or allowed_cpus())


def make_index(dim: int, factory: str) -> Any:
    """Return an empty index that compares squared distances: for vectors of length 1 their order is that of cosines.

    It raises `SpecError` if Faiss rejects the factory string for vectors of this dimension.
    """
    faiss = faiss_library()
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_L2)
    except RuntimeError as err:
        raise SpecError(
            setting("factory", factory) + f" makes no index of {dim} values: {reason_of(err)}",
            hint="give one such as 'Flat' (exact), 'HNSW32,SQ8', 'IVF1024,SQ8' or 'OPQ64,IVF1024,PQ64', or leave it "
            "out to have the kind planned",
        ) from err
    _leave_codes_unordered(index)
    return index


def _leave_codes_unordered(index: Any) -> None:
    """Turn off polysemous training, which renumbers the centroids of a product quantiser for Hamming distances.

    No search here uses polysemous codes, and renumbering takes most of the training: 13 of 14 s for `PQ8`.
    """
    faiss = faiss_library()
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    coder = faiss.downcast_index(inner.storage) if isinstance(inner, faiss.IndexHNSW) else inner
    if hasattr(coder, "do_polysemous_training"):
        coder.do_polysemous_training = False


def reason_of(error: RuntimeError) -> str:
    """Return the message of an error of Faiss, without its source location and the failed condition."""
    last = str(error).strip().splitlines()[-1]
    return _PLACE.sub("", last).strip() or last


def ivf_of(index: Any) -> Any:
    """Return the IVF index inside an index, None where there is none."""
    return faiss_library().try_extract_index_ivf(index)


def refuse_lists_elsewhere(index: Any, path: str) -> None:
    """Raise `DatasetError` if an index file names another file with its inverted lists.

    Faiss would read any file as lists, and write to it when rows are added. clipmill never writes such an index.

    Args:
        index: Opened with `IO_FLAG_MMAP`, with which Faiss does not open the other file yet.
        path: The index file, for the message.
    """
    faiss = faiss_library()
    inner, depth = index, 0
    while inner is not None and depth < _MAX_DEPTH:
        ivf, graph = ivf_of(inner), hnsw_of(inner)
        if ivf is not None:
            lists = faiss.downcast_InvertedLists(ivf.invlists)
            if isinstance(lists, faiss.OnDiskInvertedLists) and lists.filename:
                raise DatasetError(
                    f"{path} has its lists in another file, {lists.filename!r}, which is not opened; build the index"
                    " again"
                )
        inner = ivf.quantizer if ivf is not None else None if graph is None else graph.storage
        depth += 1
    if inner is not None:
        raise DatasetError(f"{path} has over {_MAX_DEPTH} indexes inside each other; build the index again")


def code_bytes_of(index: Any) -> int:
    """Return the size of a vector's code; the size of the vector where Faiss does not know it."""
    ivf, graph = ivf_of(index), hnsw_of(index)
    if ivf is not None:
        return int(ivf.code_size)
    try:
        return int((index if graph is None else faiss_library().downcast_index(graph.storage)).sa_code_size())
    except RuntimeError:
        return int(index.d) * 4


def hnsw_of(index: Any) -> Any:
    """Return the HNSW index inside an index, None where there is none."""
    faiss = faiss_library()
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexPreTransform | faiss.IndexIDMap):
        inner = faiss.downcast_index(inner.index)
    return inner if isinstance(inner, faiss.IndexHNSW) else None
