"""The directory of an index, and its manifest.

    _index.json               the manifest; written last, so that a directory that has it is complete
    index.faiss               the codes, in Faiss's format; not in an exact index
    vectors/<segment>.npy     full vectors of length 1, memory-mapped
    keys/<segment>.parquet    the other columns of the same rows
    _building.json            exists while the index is being built or added to
    _staging/                 files that are not merged yet

Position i of an index is row i of the files of vectors, in the order of the segments, and row i of the files of keys.
The name of a segment has its number and the id of the run that wrote it, so that workers of an earlier run, which may
still be alive, never write to a file of this one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from ..errors import DatasetError
from ..files.folder import TEMPORARY, Folder
from ..files.json_shape import fits, mismatches
from ..files.json_text import json_text, parse_json
from ..files.lock import LOCK

MANIFEST, BUILDING, STAGING = "_index.json", "_building.json", "_staging"
INDEX = "index.faiss"
FORMAT, FORMAT_VERSION = "clipmill index", 1
_PART = re.compile(r"index(-\d+)?\.faiss|vectors/\d+(-\w+)?\.npy|keys/\d+(-\w+)?\.parquet")
OWN = re.compile(
    rf"{MANIFEST}|{BUILDING}|{re.escape(LOCK)}|{STAGING}/.+|index(-\d+)?\.faiss"
    rf"|vectors/\d+(-\w+)?\.npy|keys/\d+(-\w+)?\.parquet|(.+/)?\.[^/]+{re.escape(TEMPORARY)}"
)


@dataclasses.dataclass(frozen=True, slots=True)
class SearchParameters:
    """The effort of a search; higher values have a better recall and take longer.

    Attributes:
        nprobe: Inverted lists that are searched; None in kinds without lists.
        ef_search: `efSearch` of a graph; None in kinds without a graph.
        rerank: Candidates for each hit, which are compared with the query exactly; None in an exact index.
    """

    nprobe: int | None = None
    ef_search: int | None = None
    rerank: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """The recall and the speed of a search with some parameters.

    Attributes:
        search: The parameters.
        recall: Share of the true nearest rows that were found, 0 to 1.
        queries_per_second: With all queries in one call, on the machine that built the index.
    """

    search: SearchParameters
    recall: float
    queries_per_second: float


@dataclasses.dataclass(frozen=True, slots=True)
class Recall:
    """The recall of an index against exact search.

    Attributes:
        k: How many nearest rows are searched for: 10, fewer in a smaller index.
        queries: Number of queries. They are rows of the index; a hit on the row itself does not count. None of them was
            trained on, unless rows were added since.
        target: The recall that was asked for.
        reached: Whether it was reached.
        recall: With the parameters of the manifest.
        queries_per_second: With the parameters of the manifest.
        curve: The same with other parameters, from fast to thorough.
    """

    k: int
    queries: int
    target: float
    reached: bool
    recall: float
    queries_per_second: float
    curve: tuple[Measured, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """Rows that were written together.

    Attributes:
        number: Names its files.
        run: Id of the run that wrote them; part of the names too.
    """

    number: int
    rows: int
    run: str = ""

    @property
    def vectors(self) -> str:
        """Name of the file of vectors, (rows, dim)."""
        return f"vectors/{self._name}.npy"

    @property
    def keys(self) -> str:
        """Name of the file of keys."""
        return f"keys/{self._name}.parquet"

    @property
    def _name(self) -> str:
        return f"{self.number:05d}-{self.run}" if self.run else f"{self.number:05d}"


@dataclasses.dataclass(frozen=True, slots=True)
class Ids:
    """Rows of an index that its column `id` does not identify.

    Attributes:
        repeated: Rows with an id that an earlier row has.
    """

    missing: int
    repeated: int


@dataclasses.dataclass(frozen=True, slots=True)
class IndexManifest:
    """The manifest of an index.

    Attributes:
        clipmill: Version that wrote it.
        created: When it was built, ISO 8601.
        updated: When rows were added last.
        column: The column of vectors in the datasets.
        dim: Values in a vector.
        rows: Vectors in the index.
        dtype: Of the full vectors, `float32` or `float16`.
        kind: `exact`, `hnsw`, `ivf`, `ivfpq`, `custom`; see `IndexPlan`.
        factory: The factory string of Faiss; `Flat` for exact.
        plan: Reasons and estimates, `IndexPlan.as_dict()`.
        provenance: Provenance of the vectors; None if the datasets have none.
        search: The default parameters of a search.
        recall: The measured recall; None where there was nothing to measure.
        nulls: Rows of the datasets without a vector, which are not in the index.
        failed: Vectors that are not in the index, by reason: `zero`, `not_finite`.
        skipped: Rows that were not added because their id was in the index already.
        datasets: The datasets it was built from, in order.
        trained_rows: Rows in the index when it was trained.
        segments: The files of vectors and keys, in order of position.
        index_file: Name of the file of codes, None in an exact index.
        files: Bytes of every file by name; a file of another size is damaged.
        ids: Missing and repeated ids; None where there is no column `id`.
    """

    clipmill: str
    created: str
    updated: str
    column: str
    dim: int
    rows: int
    dtype: str
    kind: str
    factory: str
    plan: dict[str, Any]
    provenance: dict[str, Any] | None
    search: SearchParameters
    recall: Recall | None
    nulls: int
    failed: dict[str, int]
    skipped: int
    datasets: tuple[dict[str, Any], ...]
    trained_rows: int
    segments: tuple[Segment, ...]
    index_file: str | None
    files: dict[str, int]
    ids: Ids | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; `IndexManifest.from_dict` makes the manifest of them again."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> IndexManifest:
        """Return the manifest that `as_dict` was called on."""
        recall = fields["recall"]
        if recall is not None:
            curve = [Measured(**{**one, "search": SearchParameters(**one["search"])}) for one in recall["curve"]]
            recall = Recall(**{**recall, "curve": tuple(curve)})
        return cls(
            **{
                **{field.name: fields[field.name] for field in dataclasses.fields(cls) if field.name in fields},
                "search": SearchParameters(**fields["search"]),
                "recall": recall,
                "datasets": tuple(fields["datasets"]),
                "segments": tuple(Segment(**segment) for segment in fields["segments"]),
                "ids": None if fields.get("ids") is None else Ids(**fields["ids"]),
            }
        )


def write_manifest(folder: Folder, manifest: IndexManifest) -> None:
    """Publish the manifest, over an older one: from then on the directory is this index."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **manifest.as_dict()}
    folder.write(MANIFEST, json_text(content, indent=1).encode())


def read_manifest(directory: str) -> IndexManifest:
    """Return the manifest of an index; raise `DatasetError` if there is no complete index."""
    return parse_manifest(directory, manifest_bytes(directory))


def manifest_bytes(directory: str) -> bytes:
    """Return the manifest's bytes, which identify this version of the index; raise `DatasetError` if there is none."""
    folder = Folder.of(directory)
    try:
        return folder.read(MANIFEST)
    except FileNotFoundError:
        names = folder.list()
        if not names:
            raise DatasetError(f"{folder.url} is no index of clipmill: there is nothing at that place") from None
        if BUILDING in names:
            raise DatasetError(
                f"{folder.url} holds an index that was not finished: build it again with the same arguments"
            ) from None
        raise DatasetError(
            f"{folder.url} is no index of clipmill: there is no {MANIFEST} in it; 'clipmill index' builds one of a "
            "dataset"
        ) from None


def parse_manifest(directory: str, content: bytes) -> IndexManifest:
    """Parse the bytes of a manifest; raise `DatasetError` if they are damaged, or of another format."""
    where = f"{directory}/{MANIFEST}"
    try:
        fields = parse_json(content)
    except ValueError as err:
        raise DatasetError(f"{where} is damaged: {err}; build the index again") from err
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise DatasetError(f"{where} does not describe an index of clipmill; give the directory of an index")
    if fields.get("format_version") != FORMAT_VERSION:
        raise DatasetError(
            f"{where} has the format {fields.get('format_version')!r}, and this version of clipmill reads "
            f"{FORMAT_VERSION}; build the index again"
        )
    try:
        manifest = IndexManifest.from_dict(fields)
    except (KeyError, TypeError) as err:
        raise DatasetError(f"{where} is damaged: {type(err).__name__}: {err}; build the index again") from err
    if wrong := mismatches(fields, _SHAPE):
        raise DatasetError(
            f"{where} is damaged: clipmill does not write such values of {', '.join(wrong)}; build the index again"
        )
    return manifest


def _is_part(name: str) -> bool:
    """Return whether a name is that of a complete index's file; any other could lead outside of its folder."""
    return _PART.fullmatch(name) is not None


_NUMBERS = {str: int}
_SHAPE = {
    **dict.fromkeys(("clipmill", "created", "updated", "column", "dtype", "kind", "factory"), str),
    **dict.fromkeys(("dim", "rows", "nulls", "skipped", "trained_rows"), int),
    "plan": {"max_memory_bytes": int},
    "provenance": ({}, None),
    "search": {str: (int, None)},
    "recall": (
        {"k": int, "queries": int, "target": float, "reached": bool, "recall": float, "queries_per_second": float},
        None,
    ),
    "failed": _NUMBERS,
    "datasets": [{}],
    "segments": [{"number": int, "rows": int, "run?": lambda run: isinstance(run, str) and re.fullmatch(r"\w*", run)}],
    "index_file": (lambda name: isinstance(name, str) and _is_part(name), None),
    "files": lambda files: fits(files, _NUMBERS) and all(map(_is_part, files)),
    "ids?": ({"missing": int, "repeated": int}, None),
}


def check_files(folder: Folder, manifest: IndexManifest) -> None:
    """Raise `DatasetError` if a file of the manifest is missing or has another size than it lists."""
    there = folder.list()
    parts = {name for segment in manifest.segments for name in (segment.vectors, segment.keys)}
    sizes = {**dict.fromkeys(sorted(parts), 0), **manifest.files}
    for name, size in sizes.items():
        if name not in there:
            raise DatasetError(f"{folder.url}/{name} is missing: the index is not complete; build it again")
        if there[name] != size:
            raise DatasetError(
                f"{folder.url}/{name} is damaged: it has {there[name]:,} bytes and was written with {size:,}; "
                "build the index again"
            )
