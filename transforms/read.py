"""`ReadDocuments`: documents from globs of files on any of Beam's file systems."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import PBegin, PCollection

from ..datasets.inputs import ReaderOptions, Shard, read_documents, whole_file
from ..datasets.inputs.file_names import namer
from ..datasets.inputs.globs import Glob, is_glob
from ..datasets.inputs.listing import NO_MATCH, AllBelow, files_of, list_location
from ..datasets.inputs.recognition import recognised_inputs
from ..datasets.inputs.walking import Listed
from ..encoders.document import Document
from ..errors import SpecError, check_flags
from ..files.file_systems import absolute
from . import document_coder as _document_coder  # noqa: F401 - registers the coder of documents
from .templates import with_known_values


class ReadDocuments(beam.PTransform):
    """Reads documents; every match of the patterns is one, or a table of them.

    Tables (Parquet, CSV, TSV, JSON lines, lists of URIs) have a document in each line or row; one that cannot be read
    is a document with `failures`, which `Embed` sends to its failures. So is each sample of a tar: its image or audio.
    Every other file is a document of its own, with its path as id. `Embed` fetches its content on threads, while the
    model works. The ending of a name says what a file is, or else its first bytes (docs/formats.md, "Inputs").

    Folders and patterns mean what they mean on the command line (docs/formats.md, "Patterns"): `photos/**/*.jpg` finds
    photographs at any depth, those at the top too, with the captions and metadata beside them as tags. URLs are listed
    by Beam's file systems, or by fsspec where Beam has none (`hf://`), and opened by fsspec; `gs://` needs the extra
    `gcp`.

    It ends with a shuffle, so that all workers embed, instead of the one that listed the files.

    >>> import apache_beam as beam
    >>> from clipmill.transforms import ReadDocuments
    >>> Path("captions.jsonl").write_text('{"id": "a", "text": "a red circle"}')
    35
    >>> with beam.Pipeline() as p:
    ...     _ = p | ReadDocuments("*.jsonl") | beam.Map(lambda document: print(document.id, document.text))
    a a red circle
    """

    @with_known_values
    def __init__(
        self,
        patterns: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        text: str | None = None,
        uri: str | None = None,
        image: str | None = None,
        audio: str | None = None,
        id: str | None = None,
        tags: Sequence[str] = (),
        allow_empty: bool = False,
        relative_ids: bool = False,
    ) -> None:
        """Set what is read.

        Args:
            patterns: A path, a URL or a glob, or several. Local ones are made absolute. A file that two of them name is
                read once.
            text: Column of texts, of tables (`text` or `caption` without one).
            uri: Column of URIs; `Embed` fetches them if its options allow it.
            image: Column of encoded images (Parquet).
            audio: Column of audio: encoded, or structs of samples and their rate (Parquet).
            id: Column of document ids.
            tags: Columns that documents keep as tags.
            allow_empty: Whether a pattern may match nothing; if not, the job fails there.
            relative_ids: Whether ids of files, and of documents without one, are relative to the pattern that they
                match, so that a folder may move. The caller sees to it that two patterns don't hold files of one name.

        Raises:
            SpecError: If there is no pattern.
            DatasetError: If one is no path but looks like a URL, such as `gs:photos/1.jpg`.
        """
        super().__init__()
        check_flags(allow_empty=allow_empty, relative_ids=relative_ids)
        given = [patterns] if isinstance(patterns, str | os.PathLike) else list(patterns)
        if not given or not all(map(os.fspath, given)):
            raise SpecError(f"ReadDocuments({patterns!r}) names nothing; give a path, a URL or a glob")
        self._patterns = [absolute(os.fspath(pattern)) for pattern in given]
        self._options = ReaderOptions(text, uri, image, audio, id, tuple(tags))
        self._allow_empty = allow_empty
        self._relative_to = self._patterns if relative_ids else []

    def default_label(self) -> str:
        """Name the first pattern, so that a pipeline can use two of these."""
        more = f" and {len(self._patterns) - 1} more" if len(self._patterns) > 1 else ""
        return f"ReadDocuments({self._patterns[0]}{more})".replace("/", "_")  # a slash would make a level of it

    def expand(self, pbegin: PBegin) -> PCollection:
        """List, spread, read, spread again."""
        return (
            pbegin
            | "Patterns" >> beam.Create([self._patterns])
            | "List" >> beam.ParDo(_ListFn(self._allow_empty)).with_output_types(Shard)
            | "SpreadFiles" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(_ReadFn(self._options, self._relative_to)).with_output_types(Document)
            | "SpreadDocuments" >> beam.Reshuffle()
        )


class _ListFn(beam.DoFn):
    """Lists the files of all patterns."""

    def __init__(self, allow_empty: bool) -> None:
        self._allow_empty = allow_empty

    def process(self, patterns: Sequence[str]) -> Iterable[Shard]:
        files = recognised_inputs(patterns, list_input=_list_input, allow_empty=self._allow_empty)
        return (whole_file(one.file, one.kind) for one in files)


class _ReadFn(beam.DoFn):
    """Reads one file."""

    def __init__(self, options: ReaderOptions, relative_to: Sequence[str]) -> None:
        self._options = options
        self._relative_to = relative_to

    def process(self, file: Shard) -> Iterable[Document]:
        return read_documents(file, self._options, name_of=namer(self._relative_to))


def _beam_knows(url: str) -> bool:
    try:
        FileSystems.get_filesystem(url)
    except ValueError:
        return False
    return True


def _list_input(given: str) -> tuple[Iterator[Listed], str]:
    """List a URL by Beam's file systems, whose patterns differ from ours; by ourselves what these do not know."""
    if "://" not in given or not _beam_knows(given):
        return list_location(given)
    if FileSystems.exists(given):
        return iter([Listed(given)]), ""
    matcher = Glob(given) if is_glob(given) else AllBelow(given)
    (found,) = FileSystems.match([f"{matcher.prefix}**"])
    # An object whose name ends in a slash marks a folder.
    there = sorted(Listed(file.path) for file in found.metadata_list if not file.path.endswith("/"))
    return files_of(matcher, there), NO_MATCH if is_glob(given) else ": no such file or folder"
